package projections

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// A backup is a tar file (POSIX.1-2001 pax) with three files in this order: manifest.json, table.db and SHA256SUMS, which
// has the checksums of the other two as `sha256sum -c` reads them. A file without its end, as a broken download leaves
// it, lacks the last one.
const (
	backupManifest = "manifest.json"
	backupTable    = "table.db"
	backupSums     = "SHA256SUMS"
	// backupFormat changes when older programs could not read what newer ones write.
	backupFormat = 1
	// backupSmall bounds the manifest and the checksums, in bytes.
	backupSmall = 1 << 20
)

// Manifest says what a backup is a copy of.
type Manifest struct {
	Format int `json:"format"`
	eventstore.TableMeta
	Topics    map[string]string `json:"topics"`    // name → Kafka's topic id, in hexadecimal
	Positions map[string]string `json:"positions"` // topic → the position that the rows stand at
	Rows      int64             `json:"rows"`
	Bytes     int64             `json:"bytes"` // of table.db
	SHA256    string            `json:"sha256"`
	Made      time.Time         `json:"made"`
}

// Backup is a copy of a view's table as of one moment, in a file that no folder names any more. Not for concurrent use.
type Backup struct {
	Manifest
	At       string // the position that readers of these rows are given
	manifest []byte
	file     *os.File
}

// Backup copies the generation that serves, beside its file: the disk needs room for a second one. It takes as long as
// the disk takes; whoever reads the copy may take his time, because the table is not held any more.
func (v *View) Backup(made time.Time) (*Backup, error) {
	for {
		g := v.now()
		if !g.isBuilt() {
			return nil, v.unbuilt()
		}
		b, err := g.backup(string(v.folder), made)
		if errors.Is(err, eventstore.ErrRetired) && v.now() != g {
			continue
		}
		return b, err
	}
}

func (g *generation) backup(dir string, made time.Time) (_ *Backup, err error) {
	f, err := os.CreateTemp(dir, "backup.*.tmp")
	if err != nil {
		return nil, err
	}
	// Without a name it is gone when the process is, however that ends.
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b := &Backup{file: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	sum := sha256.New()
	c, err := g.table.Copy(io.MultiWriter(f, sum))
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", g.table.Path(), err)
	}
	b.Manifest = Manifest{
		Format: backupFormat, TableMeta: g.table.Meta, Topics: map[string]string{}, Positions: map[string]string{},
		Rows: c.Rows, Bytes: c.Bytes, SHA256: hex.EncodeToString(sum.Sum(nil)), Made: made.UTC(),
	}
	if at, ok := c.Positions[g.topic()]; ok {
		b.At = g.scoped(at).String()
	}
	for topic, at := range c.Positions {
		b.Topics[topic], b.Positions[topic] = hex.EncodeToString(at.Topic[:]), at.String()
	}
	b.manifest, err = json.MarshalIndent(b.Manifest, "", "  ")
	return b, err
}

// Close deletes the copy.
func (b *Backup) Close() error { return b.file.Close() }

func (b *Backup) sums() []byte {
	manifest := sha256.Sum256(b.manifest)
	return fmt.Appendf(nil, "%x  %s\n%s  %s\n", manifest, backupManifest, b.SHA256, backupTable)
}

// WriteTo writes the backup.
func (b *Backup) WriteTo(w io.Writer) (int64, error) {
	n := counter{Writer: w}
	t := tar.NewWriter(&n)
	for _, part := range []struct {
		name string
		size int64
		r    io.Reader
	}{
		{backupManifest, int64(len(b.manifest)), bytes.NewReader(b.manifest)},
		{backupTable, b.Bytes, io.NewSectionReader(b.file, 0, b.Bytes)},
		{backupSums, int64(len(b.sums())), bytes.NewReader(b.sums())},
	} {
		if err := t.WriteHeader(&tar.Header{Name: part.name, Size: part.size, Mode: 0o600, ModTime: b.Made}); err != nil {
			return n.written, err
		}
		if _, err := io.Copy(t, part.r); err != nil {
			return n.written, err
		}
	}
	err := t.Close()
	return n.written, err
}

type counter struct {
	io.Writer
	written int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.written += int64(n)
	return n, err
}
