package eventstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	// Definition identifies what Version doesn't: the text of a declared projection, the indexes.
	Definition string `json:"definition,omitempty"`
}

// Table is one fold of the log in one bbolt file: rows, indexes, change journal and the positions they stand at, which
// only ever change together, in one transaction. Safe for concurrent use.
type Table struct {
	Meta TableMeta

	db      *bolt.DB
	path    string
	journal journal
	indexes []rowIndex
	bulk    atomic.Bool

	mu        sync.Mutex
	positions map[string]Position // by topic
	ahead     map[string]advance  // by topic: positions that the file doesn't hold yet, because no row changed
	written   time.Time           // when the file was last written
	moved     chan struct{}       // closed whenever a position moves
	closed    bool
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
	keyRows       = []byte("rows") // how many there are
	keyPosition   = "position/"
)

// OpenTable opens the table in the file at path, or creates it as meta describes. meta must match what stands in an
// existing file. A file that can't be a table any more is ErrDamaged; it is left as it is.
func OpenTable(path string, meta TableMeta) (*Table, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	t := &Table{Meta: meta, path: path, journal: journal{limit: journalKeys}, positions: map[string]Position{}, ahead: map[string]advance{}, moved: make(chan struct{})}
	var err error
	t.db, err = openFile(path, &bolt.Options{
		Timeout: time.Second,
		// The freelist is rebuilt at open; writing it at every commit costs megabytes on large files.
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		// Addresses, not memory. A remap waits for all readers of the file, and while the kernel unmaps what was read of it,
		// every page fault of the process waits.
		InitialMmapSize: 4 << 30,
	})
	if err != nil {
		return nil, err
	}
	if err := t.load(); err != nil {
		t.db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return t, nil
}

// openFile opens a bbolt file, and tells damage from the rest: bbolt panics on pages that make no sense.
func openFile(path string, options *bolt.Options) (db *bolt.DB, err error) {
	defer catch(path, &err)
	size := int64(-1)
	if f, err := os.Stat(path); err == nil {
		size = f.Size()
	}
	db, err = bolt.Open(path, 0o600, options)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, &domain.Error{Class: domain.Unavailable, Message: path + " is in use by another process"}
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, damaged(path, err)
	case err != nil && strings.Contains(err.Error(), "file size too small"): // bbolt has no error value for it
		return nil, damaged(path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// A file that lost its end would be read beyond it.
	err = db.View(func(tx *bolt.Tx) error {
		if size > 0 && size < tx.Size() {
			return damaged(path, fmt.Errorf("it has %d bytes and should have %d", size, tx.Size()))
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("%s: %w: %w", filepath.Base(path), ErrDamaged, err)
}

// PanicError makes an error of a recovered panic. One that comes out of bbolt, or a fault of the mapped memory under it, is
// ErrDamaged: that is how bbolt meets a page that makes no sense, and how a disk's error shows. Call it from the
// deferred function that recovered.
func PanicError(path string, p any) error {
	pc := make([]uintptr, 64)
	frames := runtime.CallersFrames(pc[:runtime.Callers(2, pc)])
	panicking := false
	for {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			panicking = true
		case panicking && strings.HasPrefix(f.Function, "go.etcd.io/bbolt"):
			return damaged(path, fmt.Errorf("%v", p))
		case panicking && !strings.HasPrefix(f.Function, "runtime."):
			return fmt.Errorf("panic in %s: %v", f.Function, p)
		}
		if !more {
			return fmt.Errorf("panic: %v", p)
		}
	}
}

// catch turns a panic of bbolt into an error, and lets others pass. To be deferred.
func catch(path string, err *error) {
	if p := recover(); p != nil {
		if e := PanicError(path, p); errors.Is(e, ErrDamaged) {
			*err = e
			return
		}
		panic(p)
	}
}

// ReadMeta reads what the file at path is a fold of.
func ReadMeta(path string) (meta TableMeta, err error) {
	defer catch(path, &err)
	if f, err := os.Stat(path); err == nil && f.Size() == 0 {
		return meta, nil // created, and the process died before it wrote anything
	}
	db, err := openFile(path, &bolt.Options{Timeout: time.Second, ReadOnly: true})
	if err != nil {
		return meta, err
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

func (t *Table) load() (err error) {
	defer catch(t.path, &err)
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
		if meta.Get(keyRows) == nil { // a file from before rows were counted
			if err := meta.Put(keyRows, be64(uint64(tx.Bucket(bucketRows).Stats().KeyN))); err != nil {
				return err
			}
		}
		var err error
		if t.positions, err = storedPositions(meta); err != nil {
			return err
		}
		return t.journal.load(tx)
	})
}

// storedPositions are the positions that a file's rows stand at, by topic.
func storedPositions(meta *bolt.Bucket) (map[string]Position, error) {
	positions := map[string]Position{}
	c := meta.Cursor()
	for k, v := c.Seek([]byte(keyPosition)); k != nil && string(k[:min(len(k), len(keyPosition))]) == keyPosition; k, v = c.Next() {
		p, err := ParsePosition(string(v))
		if err != nil {
			return nil, err
		}
		positions[string(k[len(keyPosition):])] = p
	}
	return positions, nil
}

// Close waits for running transactions and releases the file. Whoever waits for a position gets ErrRetired.
func (t *Table) Close() error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.moved)
	}
	t.mu.Unlock()
	t.keepFreelist()
	return t.db.Close()
}

// keepFreelist writes which pages are free, for once: then the next start needn't look at every page of the file for
// them. Where that fails, as when the table is closed already, it has to.
func (t *Table) keepFreelist() {
	defer func() { _ = recover() }() // a damaged file is found when it is opened
	_ = t.db.Update(func(*bolt.Tx) error {
		t.db.NoFreelistSync = false // Update has the writers' lock
		return nil
	})
}

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

// Topics are the topics that the rows are a fold of, in order.
func (t *Table) Topics() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.positions))
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
		moved, closed := t.moved, t.closed
		t.mu.Unlock()
		if ok && enough(p) {
			return nil
		}
		if closed {
			return ErrRetired
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
func (t *Table) Update(topic string, next Position, apply func(*Tx) error) (changes []Change, err error) {
	defer catch(t.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var tx *Tx
	err = t.db.Update(func(btx *bolt.Tx) error {
		tx = t.tx(btx)
		if err := apply(tx); err != nil {
			return err
		}
		if err := tx.flush(); err != nil {
			return err
		}
		if !tx.dirty && t.advance(topic, next, btx.ID()-1) {
			return errUnchanged
		}
		if !t.bulk.Load() {
			if err := t.journal.add(btx, next, tx.changes); err != nil {
				return err
			}
		}
		return errors.Join(addRows(btx, tx.count), t.putPositions(btx.Bucket(bucketMeta), topic, next))
	})
	if errors.Is(err, errUnchanged) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Join(err, t.failed(topic, next))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.ahead)
	t.written = time.Now()
	t.move(topic, next)
	return tx.changes, nil
}

// failed looks at the file after an Update that failed. Usually nothing of it is there. When the very last sync fails, all
// of it is, as far as readers see, and nobody knows what is on the disk: a further try would apply the batch twice, and
// a further sync may succeed without having written anything (https://wiki.postgresql.org/wiki/Fsync_Errors).
func (t *Table) failed(topic string, next Position) error {
	have, known := t.Position(topic)
	return t.db.View(func(tx *bolt.Tx) error {
		stored, err := storedPositions(tx.Bucket(bucketMeta))
		if err != nil {
			return err
		}
		if stored[topic].Covers(next) && !(known && have.Covers(next)) {
			return damaged(t.path, errors.New("a commit failed at its last step, and is seen all the same"))
		}
		// A rolled-back transaction leaves the journal's bookkeeping behind: take it from the file again.
		return t.journal.load(tx)
	})
}

func addRows(tx *bolt.Tx, n int64) error {
	if n == 0 {
		return nil
	}
	return tx.Bucket(bucketMeta).Put(keyRows, be64(uint64(rows(tx)+n)))
}

func rows(tx *bolt.Tx) int64 {
	if b := tx.Bucket(bucketMeta).Get(keyRows); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// Rows is how many rows there are.
func (t *Table) Rows() (n int64, err error) {
	err = t.View(func(tx *Tx) error { n = rows(tx.tx); return nil })
	return n, err
}

// Changed is how many bytes of pages all transactions have changed so far.
func (t *Table) Changed() int64 {
	stats := t.db.Stats()
	return stats.TxStats.GetPageAlloc()
}

// Path is where the file is.
func (t *Table) Path() string { return t.path }

// PutNote keeps a short text of the owner beside the rows. It is synced.
func (t *Table) PutNote(name string, b []byte) (err error) {
	defer catch(t.path, &err)
	return t.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put([]byte("note/"+name), b) })
}

// Note returns what PutNote has kept, or nil.
func (t *Table) Note(name string) (b []byte, err error) {
	err = t.View(func(tx *Tx) error {
		b = bytes.Clone(tx.tx.Bucket(bucketMeta).Get([]byte("note/" + name)))
		return nil
	})
	return b, err
}

// Keep has the table keep an index of its rows by itself: keys gives what a row is to be found under (RowIndexEntry).
// Call it for each index of the definition, before the first Update.
func (t *Table) Keep(index string, keys func(key string, row []byte) ([][]byte, error)) {
	t.indexes = append(t.indexes, rowIndex{index, keys})
}

// Bulk begins to build: batches are written without waiting for the disk, and without a journal. A process that dies
// leaves a good file behind; a machine that dies may not. Built ends it.
func (t *Table) Bulk() {
	t.bulk.Store(true)
	t.db.NoSync = true
}

// Built ends what Bulk began: everything is on the disk when it returns. The journal begins here.
func (t *Table) Built(topic string) (err error) {
	defer catch(t.path, &err)
	t.db.NoSync = false
	if err := t.db.Sync(); err != nil {
		return err
	}
	p, ok := t.Position(topic)
	err = t.db.Update(func(tx *bolt.Tx) error {
		if !ok {
			return nil
		}
		return t.journal.begin(tx, p)
	})
	t.bulk.Store(false)
	return err
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
	if !t.closed {
		close(t.moved)
		t.moved = make(chan struct{})
	}
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
func (t *Table) View(read func(*Tx) error) (err error) {
	defer catch(t.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = t.db.View(func(btx *bolt.Tx) error { return read(t.tx(btx)) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrRetired
	}
	return err
}

func (t *Table) tx(btx *bolt.Tx) *Tx {
	return &Tx{table: t, tx: btx, rows: btx.Bucket(bucketRows), index: btx.Bucket(bucketIndex)}
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
