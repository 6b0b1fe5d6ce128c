package eventstore

import (
	"errors"
	"io"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Copied is what a copy of a table holds.
type Copied struct {
	Positions map[string]Position // by topic
	Rows      int64
	Bytes     int64
}

// Copy writes the table's file to w as of one moment: rows, indexes, journal and the positions they stand at. Give it a
// file and not a connection: as long as it reads, pages are not used again, and a table that outgrows its mapping waits.
func (t *Table) Copy(w io.Writer) (c Copied, err error) {
	defer catch(t.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = t.db.View(func(tx *bolt.Tx) error {
		if c.Positions, err = storedPositions(tx.Bucket(bucketMeta)); err != nil {
			return err
		}
		c.Rows = rows(tx)
		c.Bytes, err = tx.WriteTo(w)
		return err
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = ErrRetired
	}
	return c, err
}

// ReadCopy reads what the file at path holds, without Bytes. Nobody may have it open for writing.
func ReadCopy(path string) (meta TableMeta, c Copied, err error) {
	if meta, err = ReadMeta(path); err != nil {
		return meta, c, err
	}
	defer catch(path, &err)
	db, err := openFile(path, &bolt.Options{ReadOnly: true})
	if err != nil {
		return meta, c, err
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketMeta)
		if b == nil {
			return damaged(path, errors.New("it was never written"))
		}
		c.Rows = rows(tx)
		c.Positions, err = storedPositions(b)
		return err
	})
	return meta, c, err
}
