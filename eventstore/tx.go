package eventstore

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/penstock-io/penstock/domain"
	bolt "go.etcd.io/bbolt"
)

// Change is one row that was put or deleted. (Partition, Offset, Index) is its identity, the same on every node.
type Change struct {
	Partition int32
	Offset    int64
	Index     int
	Key       string
	Row       []byte // nil: deleted
}

// Tx is one transaction on a table. Byte slices it returns are valid only until the transaction ends.
//
// Rows that it puts stay in memory until the end or the next Scan, and then go into the file in the order of their
// keys: a batch often touches the same rows again and again, and a tree is written fastest in order.
type Tx struct {
	table   *Table
	dirty   bool
	tx      *bolt.Tx
	rows    *bolt.Bucket
	index   *bolt.Bucket
	put     map[string][]byte // rows not in the file yet; nil for a deleted one
	at      Change
	changes []Change
	count   int64 // by how much the number of rows has changed
	memory  bool  // there is no file: what was put is all there is
}

// At names the record whose changes follow. The engine calls it before each Apply.
func (tx *Tx) At(partition int32, offset int64) {
	tx.at = Change{Partition: partition, Offset: offset}
}

// Offset is the offset of the record being applied.
func (tx *Tx) Offset() int64 { return tx.at.Offset }

// Partition is the partition of the record being applied.
func (tx *Tx) Partition() int32 { return tx.at.Partition }

// Get returns the row of key, or nil.
func (tx *Tx) Get(key string) []byte {
	if row, ok := tx.put[key]; ok {
		return row
	}
	if tx.memory {
		return nil
	}
	return tx.rows.Get([]byte(key))
}

// Put writes the row of key. The table keeps row: don't change it afterwards.
func (tx *Tx) Put(key string, row []byte) error {
	switch {
	case row == nil:
		return fmt.Errorf("row %q is nil", key)
	case key == "" || len(key) > bolt.MaxKeySize:
		return fmt.Errorf("a row's key has 1 to %d bytes, not %d", bolt.MaxKeySize, len(key))
	case !tx.memory && !tx.tx.Writable():
		return errors.New("the transaction only reads")
	}
	tx.change(key, row)
	return nil
}

// Delete removes the row of key, if there is one.
func (tx *Tx) Delete(key string) error {
	if tx.Get(key) == nil {
		return nil
	}
	if !tx.memory && !tx.tx.Writable() {
		return errors.New("the transaction only reads")
	}
	tx.change(key, nil)
	return nil
}

func (tx *Tx) change(key string, row []byte) {
	tx.dirty = true
	if tx.put == nil {
		tx.put = map[string][]byte{}
	}
	tx.put[key] = row
	if tx.table.bulk.Load() { // nobody follows a table that is being built
		return
	}
	c := tx.at
	c.Key, c.Row = key, row
	tx.at.Index++
	tx.changes = append(tx.changes, c)
}

// flush writes the rows put so far, with their entries in the indexes of rows.
func (tx *Tx) flush() error {
	for i, key := range slices.Sorted(maps.Keys(tx.put)) {
		if i%64 == 63 {
			runtime.Gosched() // readers shall not wait for the whole of a large batch
		}
		k, row := []byte(key), tx.put[key]
		old := tx.rows.Get(k)
		for _, x := range tx.table.indexes {
			if err := x.move(tx, k, old, row); err != nil {
				return fmt.Errorf("index %s, row %q: %w", x.name, key, err)
			}
		}
		var err error
		switch {
		case row != nil:
			err = tx.rows.Put(k, row)
		case old != nil:
			err = tx.rows.Delete(k)
		}
		if err != nil {
			return fmt.Errorf("write row %q: %w", key, err)
		}
		if old == nil && row != nil {
			tx.count++
		} else if old != nil && row == nil {
			tx.count--
		}
	}
	clear(tx.put)
	return nil
}

// Scan calls f for each row from key on, in key order, until f returns false.
func (tx *Tx) Scan(from string, f func(key, row []byte) bool) error {
	if tx.memory {
		for _, key := range slices.Sorted(maps.Keys(tx.put)) {
			if row := tx.put[key]; key >= from && row != nil && !f([]byte(key), row) {
				break
			}
		}
		return nil
	}
	if err := tx.flush(); err != nil {
		return err
	}
	c := tx.rows.Cursor()
	for k, v := c.Seek([]byte(from)); k != nil; k, v = c.Next() {
		if !f(k, v) {
			break
		}
	}
	return nil
}

// Position is how far into topic the rows of this transaction are.
func (tx *Tx) Position(topic string) (Position, error) {
	if p, ok := tx.table.aheadOf(topic, tx.tx.ID()); ok {
		return p, nil
	}
	v := tx.tx.Bucket(bucketMeta).Get([]byte(keyPosition + topic))
	if v == nil {
		return Position{}, &domain.Error{Class: domain.Unavailable, Message: "the table has not applied anything yet"}
	}
	return ParsePosition(string(v))
}

// aheadOf returns the position that topic has reached without a change since transaction tx: rows read there are as of
// that position too.
func (t *Table) aheadOf(topic string, tx int) (Position, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, ok := t.ahead[topic]
	return a.at.Clone(), ok && a.tx == tx
}

// Index is a sorted set of keys beside the rows, which changes in the same transaction but isn't shown to readers.
type Index struct {
	tx *Tx
	b  *bolt.Bucket
}

// Index returns the index called name. On a table that never had it, a read-only transaction gets an empty one.
func (tx *Tx) Index(name string) (Index, error) {
	if tx.memory {
		return Index{}, errMemory
	}
	b := tx.index.Bucket([]byte(name))
	if b != nil || !tx.tx.Writable() {
		return Index{tx, b}, nil
	}
	b, err := tx.index.CreateBucket([]byte(name))
	return Index{tx, b}, err
}

// Get returns the value of key, or nil.
func (i Index) Get(key []byte) []byte {
	if i.b == nil {
		return nil
	}
	return i.b.Get(key)
}

// Put sets the value of key.
func (i Index) Put(key, value []byte) error {
	i.tx.dirty = true
	return i.b.Put(key, value)
}

// Append sets the value of a key that comes after the keys near it: pages are filled, not left half empty for more.
func (i Index) Append(key, value []byte) error {
	i.b.FillPercent = 0.95
	return i.Put(key, value)
}

// Delete removes key.
func (i Index) Delete(key []byte) error {
	i.tx.dirty = true
	return i.b.Delete(key)
}

// Scan calls f for each key from from on, in order, until f returns false.
func (i Index) Scan(from []byte, f func(key, value []byte) bool) {
	if i.b == nil {
		return
	}
	c := i.b.Cursor()
	for k, v := c.Seek(from); k != nil; k, v = c.Next() {
		if !f(k, v) {
			return
		}
	}
}

// ScanBack calls f for each key before from, newest first, until f returns false. A nil from starts at the end.
func (i Index) ScanBack(from []byte, f func(key, value []byte) bool) {
	if i.b == nil {
		return
	}
	c := i.b.Cursor()
	var k, v []byte
	if from == nil {
		k, v = c.Last()
	} else if k, _ = c.Seek(from); k == nil {
		k, v = c.Last()
	} else {
		k, v = c.Prev()
	}
	for ; k != nil; k, v = c.Prev() {
		if !f(k, v) {
			return
		}
	}
}

// rowIndex is an index that the table keeps by itself: for each row the keys that it is to be found under.
type rowIndex struct {
	name string
	keys func(key string, row []byte) ([][]byte, error)
}

// move changes what a row is found under. An entry is the index key, a zero byte and the row's key, so that rows with
// the same index key stand in the order of their own.
func (x rowIndex) move(tx *Tx, key, old, row []byte) error {
	index, err := tx.Index(x.name)
	if err != nil {
		return err
	}
	entries := func(row []byte) (map[string]bool, error) {
		if row == nil {
			return nil, nil
		}
		keys, err := x.keys(string(key), row)
		m := make(map[string]bool, len(keys))
		for _, k := range keys {
			m[string(RowIndexEntry(k, key))] = true
		}
		return m, err
	}
	before, err := entries(old)
	if err != nil {
		return err
	}
	after, err := entries(row)
	if err != nil {
		return err
	}
	for _, e := range slices.Sorted(maps.Keys(before)) {
		if !after[e] {
			if err := index.Delete([]byte(e)); err != nil {
				return err
			}
		}
	}
	for _, e := range slices.Sorted(maps.Keys(after)) {
		if !before[e] {
			if err := index.Put([]byte(e), key); err != nil {
				return err
			}
		}
	}
	return nil
}

// RowIndexEntry is the key of an index's entry for a row: the value is the row's key. No index key may hold a zero byte
// before its end, or entries of one would stand among those of another.
func RowIndexEntry(indexKey, rowKey []byte) []byte {
	return append(append(append(make([]byte, 0, len(indexKey)+1+len(rowKey)), indexKey...), 0), rowKey...)
}
