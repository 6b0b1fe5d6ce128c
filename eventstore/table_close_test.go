package eventstore

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// freelistOf reads from the newer one of a bbolt file's two meta pages where the list of free pages stands.
func freelistOf(t *testing.T, path string) (page uint64, kept bool) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newest := uint64(0)
	for _, at := range []int{16, os.Getpagesize() + 16} { // after a page's header
		if id := binary.LittleEndian.Uint64(b[at+48:]); id >= newest {
			newest, page = id, binary.LittleEndian.Uint64(b[at+32:])
		}
	}
	return page, page != ^uint64(0)
}

// TestATableThatWasClosedKnowsItsFreePages: then a start needn't look for them. What is written afterwards and what a kill
// leaves is a whole file all the same.
func TestATableThatWasClosedKnowsItsFreePages(t *testing.T) {
	dir := t.TempDir()
	path, meta := filepath.Join(dir, "t.db"), TableMeta{Name: "x", Version: 1, Generation: 1}
	n := int64(0)
	fill := func(table *Table) {
		t.Helper()
		for range 20 {
			n++
			_, err := table.Update("e", Position{Topic: [16]byte{1}, Next: []int64{n}}, func(tx *Tx) error {
				for i := range 200 {
					if err := tx.Put(fmt.Sprint("row ", (n*77+int64(i))%1000), make([]byte, n*10)); err != nil {
						return err
					}
					if err := tx.Delete(fmt.Sprint("row ", (n*41+int64(i)*5)%1000)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	whole := func(path string) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		db.View(func(tx *bolt.Tx) error {
			for err := range tx.Check() {
				t.Error(err)
			}
			return nil
		})
	}
	for round := range 3 {
		table, err := OpenTable(path, meta)
		if err != nil {
			t.Fatal(err)
		}
		fill(table)
		if _, kept := freelistOf(t, path); kept {
			t.Error("free pages are written with every batch")
		}
		b, err := os.ReadFile(path) // as a kill would leave it
		if err != nil {
			t.Fatal(err)
		}
		killed := filepath.Join(dir, fmt.Sprint("killed-", round))
		if err := os.WriteFile(killed, b, 0o600); err != nil {
			t.Fatal(err)
		}
		whole(killed)
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
		if err := table.Close(); err != nil {
			t.Errorf("closed again: %v", err)
		}
		if _, kept := freelistOf(t, path); !kept {
			t.Error("a table that was closed doesn't know its free pages")
		}
		for _, more := range []string{path, killed} {
			copied := more + ".checked"
			b, err := os.ReadFile(more)
			if err == nil {
				err = os.WriteFile(copied, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			whole(copied)
		}
	}
}
