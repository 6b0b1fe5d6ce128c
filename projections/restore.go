package projections

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

func badBackup(format string, args ...any) error {
	return &domain.Error{Class: domain.Corrupt, Rule: "bad-backup", Message: fmt.Sprintf(format, args...)}
}

// CheckBackup reads a backup to its end and says what it holds, or with an error of class Corrupt that it is damaged.
func CheckBackup(r io.Reader) (Manifest, error) {
	return readBackup(r, func(Manifest) (io.WriteCloser, error) { return discard{io.Discard}, nil })
}

type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// readBackup copies the table to what open returns for the manifest, and compares every checksum.
func readBackup(r io.Reader, open func(Manifest) (io.WriteCloser, error)) (m Manifest, err error) {
	t := tar.NewReader(r)
	part := func(name string, most int64) (int64, error) {
		h, err := t.Next()
		switch {
		case err != nil: // io.EOF too
			return 0, badBackup("it has no %s, or is damaged before it: %v", name, err)
		case h.Name != name || h.Typeflag != tar.TypeReg || h.Size > most:
			return 0, badBackup("%s of %d bytes stands where %s belongs", h.Name, h.Size, name)
		}
		return h.Size, nil
	}
	if _, err := part(backupManifest, backupSmall); err != nil {
		return m, err
	}
	manifest, err := io.ReadAll(t)
	if err != nil {
		return m, badBackup("%s can't be read: %v", backupManifest, err)
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return m, badBackup("%s can't be read: %v", backupManifest, err)
	}
	switch {
	case m.Format != backupFormat:
		return m, badBackup("it is of format %d, and this program reads %d", m.Format, backupFormat)
	case !nameRule.MatchString(m.Name) || m.Generation < 1:
		return m, badBackup("%s names no generation of a projection: %q, %d", backupManifest, m.Name, m.Generation)
	}
	size, err := part(backupTable, m.Bytes)
	if err != nil {
		return m, err
	}
	if size != m.Bytes {
		return m, badBackup("%s has %d bytes and should have %d", backupTable, size, m.Bytes)
	}
	w, err := open(m)
	if err != nil {
		return m, err
	}
	sum, from := sha256.New(), &failing{r: t}
	_, err = io.Copy(io.MultiWriter(w, sum), from)
	if err := errors.Join(err, w.Close()); err != nil {
		if from.err != nil {
			return m, badBackup("%s breaks off: %v", backupTable, from.err)
		}
		return m, err
	}
	if _, err := part(backupSums, backupSmall); err != nil {
		return m, err
	}
	sums, err := io.ReadAll(t)
	if err != nil {
		return m, badBackup("%s breaks off: %v", backupSums, err)
	}
	table := hex.EncodeToString(sum.Sum(nil))
	want := fmt.Sprintf("%x  %s\n%s  %s\n", sha256.Sum256(manifest), backupManifest, table, backupTable)
	if table != m.SHA256 || string(sums) != want {
		return m, badBackup("its checksums are not those of its content")
	}
	return m, nil
}

// failing remembers that the source failed, and not the destination.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// Restore puts the generation of a backup into dir, the folder that Config.Dir names, to be served and folded on at the
// next start. No engine may run there. A backup is refused, and nothing changed, when it is damaged, is of no projection
// in ps or of another definition, when dir has a generation of it already, or holds tables of another cluster.
// Whether the cluster still has the topics that it was made from shows at the start.
func Restore(dir string, ps []Projection, r io.Reader) (m Manifest, err error) {
	var f *os.File
	defer func() {
		if f != nil && err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	m, err = readBackup(r, func(m Manifest) (io.WriteCloser, error) {
		if err := mayRestore(dir, ps, m); err != nil {
			return nil, err
		}
		to := filepath.Join(dir, m.Name)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return nil, err
		}
		f, err = os.CreateTemp(to, "restore.*.tmp")
		return synced{f}, err
	})
	if err != nil {
		return m, err
	}
	if err := agrees(f.Name(), m); err != nil {
		return m, err
	}
	to := folder(filepath.Join(dir, m.Name))
	if err := os.Rename(f.Name(), to.file(m.Generation)); err != nil {
		return m, err
	}
	f = nil
	return m, errors.Join(to.point(serving{Serving: m.Generation}), folder(dir).sync())
}

// synced is on the disk when it is closed.
type synced struct{ *os.File }

func (s synced) Close() error { return errors.Join(s.File.Sync(), s.File.Close()) }

func mayRestore(dir string, ps []Projection, m Manifest) error {
	refuse := func(rule, format string, args ...any) error {
		return &domain.Error{Class: domain.Rejected, Rule: rule, Message: fmt.Sprintf(format, args...)}
	}
	at := slices.IndexFunc(ps, func(p Projection) bool { return p.Name() == m.Name })
	if at < 0 {
		return refuse("no-such-projection", "it is of the projection %s, which this program doesn't have", m.Name)
	}
	definition := ""
	if d, ok := ps[at].(Described); ok {
		definition = d.Definition()
	}
	if m.Version != ps[at].Version() || m.Definition != definition {
		return refuse("other-definition", "it is of version %d %s of %s, and this program has version %d %s: it would be built anew all the same",
			m.Version, m.Definition, m.Name, ps[at].Version(), definition)
	}
	have, err := folder(filepath.Join(dir, m.Name)).generations()
	if err != nil {
		return err
	}
	if len(have) > 0 {
		return refuse("already-there", "%s has a table already: move that folder away first", filepath.Join(dir, m.Name))
	}
	return sameCluster(dir, m)
}

// sameCluster refuses a backup of another cluster than that of the tables that are there.
func sameCluster(dir string, m Manifest) error {
	tables, err := filepath.Glob(filepath.Join(dir, "*", "*.db"))
	if err != nil {
		return err
	}
	for _, path := range tables {
		meta, err := eventstore.ReadMeta(path)
		if err != nil || meta.Name == "" {
			continue // the next start says so
		}
		if meta.Cluster != m.Cluster {
			return &domain.Error{Class: domain.Rejected, Rule: "other-cluster",
				Message: fmt.Sprintf("it was made in cluster %s, and the tables in %s are of cluster %s", m.Cluster, dir, meta.Cluster)}
		}
		return nil // all of a folder are of one cluster
	}
	return nil
}

// agrees compares what a manifest says with the table itself.
func agrees(path string, m Manifest) error {
	meta, c, err := eventstore.ReadCopy(path)
	if err != nil {
		return err
	}
	positions := map[string]string{}
	for topic, at := range c.Positions {
		positions[topic] = at.String()
	}
	if meta != m.TableMeta || c.Rows != m.Rows || !maps.Equal(positions, m.Positions) {
		return badBackup("its manifest is of another table")
	}
	return nil
}
