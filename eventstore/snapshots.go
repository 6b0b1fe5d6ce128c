package eventstore

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Snapshots keeps states of long streams, so that loading one doesn't fold all of its events. It is a cache: every
// snapshot can be made again from the log, none is trusted beyond the version that its stream has, and a file that
// can't be read is begun anew. Safe for concurrent use.
type Snapshots struct {
	db     *bolt.DB
	bucket []byte // of this log: a snapshot of another one must never be found
}

// Snapshot is a state of a stream as of one of its versions.
type Snapshot struct {
	Stream  string
	Version uint64 // of the stream
	Codec   int    // version of the state's encoding
	State   []byte
}

// OpenSnapshots opens the file at path, or begins it.
func OpenSnapshots(l *Log, path string) (*Snapshots, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	options := &bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}
	db, err := bolt.Open(path, 0o600, options)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by another process", path)
	}
	if err != nil {
		l.cfg.Logger.Warn("the snapshots can't be read and are begun anew", "file", path, "error", err)
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		if db, err = bolt.Open(path, 0o600, options); err != nil {
			return nil, err
		}
	}
	id := l.ids[l.Topics.Events]
	return &Snapshots{db: db, bucket: []byte(hex.EncodeToString(id[:]))}, nil
}

// Close releases the file.
func (s *Snapshots) Close() error { return s.db.Close() }

// Get returns the snapshot of a stream in the given encoding, if there is one of a version up to atMost.
func (s *Snapshots) Get(stream string, codec int, atMost uint64) (snap Snapshot, ok bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(s.bucket)
		if b == nil {
			return nil
		}
		v := b.Get([]byte(stream))
		if len(v) < 12 {
			return nil
		}
		snap = Snapshot{Stream: stream, Codec: int(binary.BigEndian.Uint32(v)), Version: binary.BigEndian.Uint64(v[4:])}
		if ok = snap.Codec == codec && snap.Version <= atMost; ok {
			snap.State = append([]byte{}, v[12:]...)
		}
		return nil
	})
	return snap, ok, err
}

// Put keeps snapshots in place of the older ones of their streams.
func (s *Snapshots) Put(snaps []Snapshot) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(s.bucket)
		if err != nil {
			return err
		}
		for _, snap := range snaps {
			v := binary.BigEndian.AppendUint32(nil, uint32(snap.Codec))
			v = binary.BigEndian.AppendUint64(v, snap.Version)
			if err := b.Put([]byte(snap.Stream), append(v, snap.State...)); err != nil {
				return fmt.Errorf("put the snapshot of %s: %w", snap.Stream, err)
			}
		}
		return nil
	})
}
