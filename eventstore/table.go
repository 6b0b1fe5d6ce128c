package eventstore

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// TableMeta says what a table is a fold of.
type TableMeta struct {
	Name       string `json:"name"`
	Version    int    `json:"version"`
	Generation int    `json:"generation"`
	Cluster    string `json:"cluster"`
}

// Table is one fold of the log in one bbolt file: rows, indexes, change journal and the positions they stand at, which
// only ever change together, in one transaction. Safe for concurrent use.
type Table struct {
	Meta TableMeta

	db      *bolt.DB
	journal journal

	mu        sync.Mutex
	positions map[string]Position // by topic
	ahead     map[string]advance  // by topic: positions that the file doesn't hold yet, because no row changed
	written   time.Time           // when the file was last written
	moved     chan struct{}       // closed whenever a position moves
}

// advance is a position reached without a change since transaction tx.
type advance struct {
	at Position
	tx int
}

// advanceFor is how long the file's position may lag behind while nothing changes. Writing it costs two syncs; not
// writing it costs that those records are looked at again after a crash.
const advanceFor = time.Second

var (
	bucketMeta    = []byte("meta")
	bucketRows    = []byte("rows")
	bucketIndex   = []byte("index")
	bucketChanges = []byte("changes")
	keyMeta       = []byte("table")
	keyPosition   = "position/"
)

// OpenTable opens the table in the file at path, or creates it as meta describes. meta must match what stands in an
// existing file.
func OpenTable(path string, meta TableMeta) (*Table, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: time.Second,
		// The freelist is rebuilt at open; writing it at every commit costs megabytes on large files.
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: 64 << 20, // a remap waits for all readers
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	t := &Table{Meta: meta, db: db, journal: journal{limit: journalKeys}, positions: map[string]Position{}, ahead: map[string]advance{}, moved: make(chan struct{})}
	if err := t.load(); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return t, nil
}

// ReadMeta reads what the file at path is a fold of.
func ReadMeta(path string) (TableMeta, error) {
	var meta TableMeta
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, ReadOnly: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return meta, fmt.Errorf("%s is in use by another process", path)
	}
	if err != nil {
		return meta, fmt.Errorf("open %s: %w", path, err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketMeta)
		if b == nil {
			return nil // created, and the process died before the first commit
		}
		return json.Unmarshal(b.Get(keyMeta), &meta)
	})
	return meta, err
}

func (t *Table) load() error {
	return t.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketRows, bucketIndex, bucketChanges} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if b := meta.Get(keyMeta); b != nil {
			var have TableMeta
			if err := json.Unmarshal(b, &have); err != nil {
				return err
			}
			if have != t.Meta {
				return &domain.Error{Class: domain.Conflict, Rule: "reset", Message: fmt.Sprintf("it holds %+v, not %+v", have, t.Meta)}
			}
		} else {
			b, err := json.Marshal(t.Meta)
			if err != nil {
				return err
			}
			if err := meta.Put(keyMeta, b); err != nil {
				return err
			}
		}
		c := meta.Cursor()
		for k, v := c.Seek([]byte(keyPosition)); k != nil && string(k[:min(len(k), len(keyPosition))]) == keyPosition; k, v = c.Next() {
			p, err := ParsePosition(string(v))
			if err != nil {
				return err
			}
			t.positions[string(k[len(keyPosition):])] = p
		}
		return t.journal.load(tx)
	})
}

// Close waits for running transactions and releases the file.
func (t *Table) Close() error { return t.db.Close() }

// Size is the file's size in bytes.
func (t *Table) Size() int64 {
	var n int64
	_ = t.db.View(func(tx *bolt.Tx) error { n = tx.Size(); return nil })
	return n
}

// Position is how far into topic the table's rows are; ok is false before the first Update.
func (t *Table) Position(topic string) (p Position, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok = t.positions[topic]
	return p, ok
}

// Wait returns once the table has reached at least p in the given topic, or with ctx's error.
func (t *Table) Wait(ctx context.Context, topic string, p Position) error {
	return t.wait(ctx, topic, func(have Position) bool { return have.Covers(p) })
}

// WaitPartition is Wait for one partition alone.
func (t *Table) WaitPartition(ctx context.Context, topic string, partition int32, next int64) error {
	return t.wait(ctx, topic, func(have Position) bool { return have.Next[partition] >= next })
}

func (t *Table) wait(ctx context.Context, topic string, enough func(Position) bool) error {
	for {
		t.mu.Lock()
		p, ok := t.positions[topic]
		moved := t.moved
		t.mu.Unlock()
		if ok && enough(p) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Update folds a batch of topic's records: apply is called once and fills tx, calling tx.At before each record. Rows,
// indexes, journal and the position next are committed together, or none of them. It returns the row changes in order.
//
// A batch that changes nothing moves the position in memory, and in the file with the next change or a second later.
func (t *Table) Update(topic string, next Position, apply func(*Tx) error) ([]Change, error) {
	var tx *Tx
	err := t.db.Update(func(btx *bolt.Tx) error {
		tx = t.tx(btx)
		if err := apply(tx); err != nil {
			return err
		}
		if !tx.dirty && t.advance(topic, next, btx.ID()-1) {
			return errUnchanged
		}
		if err := t.journal.add(btx, next, tx.changes); err != nil {
			return err
		}
		return t.putPositions(btx.Bucket(bucketMeta), topic, next)
	})
	if errors.Is(err, errUnchanged) {
		return nil, nil
	}
	if err != nil {
		// A rolled-back transaction leaves the journal's bookkeeping behind: take it from the file again.
		return nil, errors.Join(err, t.db.View(t.journal.load))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.ahead)
	t.written = time.Now()
	t.move(topic, next)
	return tx.changes, nil
}

var errUnchanged = errors.New("nothing to commit")

// advance moves a position in memory, and reports false when it is time to write it.
func (t *Table) advance(topic string, next Position, tx int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.positions[topic]; !known || time.Since(t.written) > advanceFor {
		return false
	}
	t.ahead[topic] = advance{next.Clone(), tx}
	t.move(topic, next)
	return true
}

func (t *Table) move(topic string, next Position) {
	t.positions[topic] = next.Clone()
	close(t.moved)
	t.moved = make(chan struct{})
}

// putPositions writes next, and what other topics have reached without a change.
func (t *Table) putPositions(meta *bolt.Bucket, topic string, next Position) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, a := range t.ahead {
		if other != topic {
			if err := meta.Put([]byte(keyPosition+other), []byte(a.at.String())); err != nil {
				return err
			}
		}
	}
	return meta.Put([]byte(keyPosition+topic), []byte(next.String()))
}

// View reads the table as of one moment. Keep it short: never across a network write, because a long read keeps the
// file from reusing its pages.
func (t *Table) View(read func(*Tx) error) error {
	return t.db.View(func(btx *bolt.Tx) error { return read(t.tx(btx)) })
}

func (t *Table) tx(btx *bolt.Tx) *Tx {
	return &Tx{table: t, tx: btx, rows: btx.Bucket(bucketRows), index: btx.Bucket(bucketIndex)}
}

// Change is one row that was put or deleted. (Partition, Offset, Index) is its identity, the same on every node.
type Change struct {
	Partition int32
	Offset    int64
	Index     int
	Key       string
	Row       []byte // nil: deleted
}

// Tx is one transaction on a table. Byte slices it returns are valid only until the transaction ends.
type Tx struct {
	table   *Table
	dirty   bool
	tx      *bolt.Tx
	rows    *bolt.Bucket
	index   *bolt.Bucket
	at      Change
	changes []Change
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
func (tx *Tx) Get(key string) []byte { return tx.rows.Get([]byte(key)) }

// Put writes the row of key. The table keeps row: don't change it afterwards.
func (tx *Tx) Put(key string, row []byte) error {
	if row == nil {
		return fmt.Errorf("row %q is nil", key)
	}
	if err := tx.rows.Put([]byte(key), row); err != nil {
		return fmt.Errorf("put row %q: %w", key, err)
	}
	tx.changed(key, row)
	return nil
}

// Delete removes the row of key, if there is one.
func (tx *Tx) Delete(key string) error {
	if tx.Get(key) == nil {
		return nil
	}
	if err := tx.rows.Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete row %q: %w", key, err)
	}
	tx.changed(key, nil)
	return nil
}

func (tx *Tx) changed(key string, row []byte) {
	tx.dirty = true
	c := tx.at
	c.Key, c.Row = key, row
	tx.at.Index++
	tx.changes = append(tx.changes, c)
}

// Scan calls f for each row from key on, in key order, until f returns false.
func (tx *Tx) Scan(from string, f func(key, row []byte) bool) {
	c := tx.rows.Cursor()
	for k, v := c.Seek([]byte(from)); k != nil; k, v = c.Next() {
		if !f(k, v) {
			return
		}
	}
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

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
