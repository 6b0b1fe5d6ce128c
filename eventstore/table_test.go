package eventstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func open(t *testing.T, path string, meta TableMeta) *Table {
	t.Helper()
	table, err := OpenTable(path, meta)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func TestRowsAndPositionChangeTogetherOrNotAtAll(t *testing.T) {
	path, meta := filepath.Join(t.TempDir(), "t.db"), TableMeta{Name: "x", Version: 1, Generation: 1}
	table := open(t, path, meta)
	p := Position{Topic: [16]byte{1}, Next: []int64{3, 0}}
	changes, err := table.Update("e", p, func(tx *Tx) error {
		tx.At(0, 2)
		return errors.Join(tx.Put("a", []byte("1")), tx.Put("b", []byte("2")), tx.Delete("nothing"), tx.Delete("b"))
	})
	if err != nil || len(changes) != 3 || changes[2].Row != nil || changes[2].Index != 2 {
		t.Fatal(changes, err)
	}
	boom := errors.New("boom")
	q := p.Clone()
	q.Next[1] = 9
	if _, err := table.Update("e", q, func(tx *Tx) error { return errors.Join(tx.Put("c", []byte("3")), boom) }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if have, ok := table.Position("e"); !ok || have.String() != p.String() {
		t.Errorf("position %v after a failed batch", have)
	}
	table.Close()
	table = open(t, path, meta)
	if have, ok := table.Position("e"); !ok || have.String() != p.String() {
		t.Errorf("position %v after reopening", have)
	}
	err = table.View(func(tx *Tx) error {
		if tx.Get("a") == nil || tx.Get("b") != nil || tx.Get("c") != nil {
			t.Errorf("rows: a %q, b %q, c %q", tx.Get("a"), tx.Get("b"), tx.Get("c"))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	table.Close()
	meta.Version = 2
	if _, err := OpenTable(path, meta); err == nil {
		t.Error("a file of another version was opened")
	}
	if have, err := ReadMeta(path); err != nil || have.Version != 1 {
		t.Error(have, err)
	}
}

func TestATableInUseIsRefusedInBoundedTime(t *testing.T) {
	path, meta := filepath.Join(t.TempDir(), "t.db"), TableMeta{Name: "x", Version: 1, Generation: 1}
	open(t, path, meta)
	if _, err := OpenTable(path, meta); err == nil {
		t.Error("opened twice")
	}
}

// TestChangedSinceGivesTheCurrentRowOfEveryTouchedKey compares with a naive model, over random batches and cursors.
func TestChangedSinceGivesTheCurrentRowOfEveryTouchedKey(t *testing.T) {
	r := seed(t)
	table := open(t, filepath.Join(t.TempDir(), "t.db"), TableMeta{Name: "x", Version: 1, Generation: 1})
	type touch struct {
		p   int32
		off int64
		key string
	}
	var touches []touch
	rows := map[string]string{}
	at := Position{Topic: [16]byte{1}, Next: []int64{0, 0, 0}}
	cursors := []Position{at.Clone()}
	if _, err := table.Update("e", at, func(*Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		next := at.Clone()
		_, err := table.Update("e", next, func(tx *Tx) error {
			for range r.IntN(6) {
				p := int32(r.IntN(3))
				off := next.Next[p]
				next.Next[p]++
				key := fmt.Sprint("k", r.IntN(12))
				touches = append(touches, touch{p, off, key})
				tx.At(p, off)
				if r.IntN(4) == 0 {
					if tx.Get(key) == nil {
						touches = touches[:len(touches)-1] // deleting nothing changes nothing
					}
					delete(rows, key)
					if err := tx.Delete(key); err != nil {
						return err
					}
					continue
				}
				rows[key] = fmt.Sprint(p, off)
				if err := tx.Put(key, []byte(rows[key])); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		at = next
		cursors = append(cursors, at.Clone())
	}
	for range 300 {
		// A cursor of this node, or of another that applied the partitions in another order.
		since := cursors[r.IntN(len(cursors))].Clone()
		other := cursors[r.IntN(len(cursors))]
		since.Next[r.IntN(3)] = other.Next[0]
		for p := range since.Next {
			since.Next[p] = min(since.Next[p], at.Next[p])
		}
		want := map[string]bool{}
		for _, c := range touches {
			if c.off >= since.Next[c.p] {
				want[c.key] = true
			}
		}
		changes, _, err := table.ChangedSince("e", since)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			row, ok := rows[c.Key]
			if !want[c.Key] || ok != (c.Row != nil) || ok && row != string(c.Row) {
				t.Fatalf("since %v: %s = %q, want %q (touched %v)", since.Next, c.Key, c.Row, row, want[c.Key])
			}
			delete(want, c.Key)
		}
		if len(want) > 0 {
			t.Fatalf("since %v: missing %v", since.Next, want)
		}
	}
}

func TestABatchWithoutAChangeIsNotWrittenButCounts(t *testing.T) {
	path, meta := filepath.Join(t.TempDir(), "t.db"), TableMeta{Name: "x", Version: 1, Generation: 1}
	table := open(t, path, meta)
	nothing := func(*Tx) error { return nil }
	put := func(tx *Tx) error { return tx.Put("a", []byte("1")) }
	at := func(n int64) Position { return Position{Topic: [16]byte{1}, Next: []int64{n}} }
	update := func(topic string, n int64, f func(*Tx) error) {
		t.Helper()
		if _, err := table.Update(topic, at(n), f); err != nil {
			t.Fatal(err)
		}
	}
	inFile := func(topic string) (n int64) {
		t.Helper()
		if err := table.View(func(tx *Tx) error {
			p, err := tx.Position(topic)
			if err == nil {
				n = p.Next[0]
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	update("e", 1, put)
	update("o", 1, put)
	before := table.Size()
	for n := int64(2); n < 50; n++ {
		update("e", n, nothing)
	}
	if p, _ := table.Position("e"); p.Next[0] != 49 || inFile("e") != 49 {
		t.Errorf("position %v, read with rows %d, want 49", p.Next, inFile("e"))
	}
	if table.Size() != before {
		t.Error("the file has grown")
	}
	update("o", 2, put) // another topic's change writes both
	table.Close()
	table = open(t, path, meta)
	if p, _ := table.Position("e"); p.Next[0] != 49 {
		t.Errorf("after reopening: %v, want 49", p.Next)
	}
	table.mu.Lock()
	table.written = time.Now()
	table.mu.Unlock()
	update("e", 50, nothing)
	table.Close()
	table = open(t, path, meta)
	if p, _ := table.Position("e"); p.Next[0] != 49 {
		t.Errorf("after a crash: %v; what was not written is looked at again", p.Next)
	}
	update("e", 50, nothing) // nothing was written for long
	table.Close()
	table = open(t, path, meta)
	if p, _ := table.Position("e"); p.Next[0] != 50 {
		t.Errorf("%v, want 50", p.Next)
	}
}

func TestTheJournalIsBoundedAndSaysWhenItNoLongerReachesBack(t *testing.T) {
	path, meta := filepath.Join(t.TempDir(), "t.db"), TableMeta{Name: "x", Version: 1, Generation: 1}
	table := open(t, path, meta)
	table.journal.limit = 10
	var at []Position
	for n := range int64(30) {
		next := Position{Topic: [16]byte{1}, Next: []int64{n + 1}}
		at = append(at, next)
		if _, err := table.Update("e", next, func(tx *Tx) error {
			tx.At(0, n)
			return tx.Put(fmt.Sprint("k", n), []byte("1"))
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, _, err := table.ChangedSince("e", at[5]); !errors.Is(err, ErrExpired) {
			t.Errorf("long ago: %v", err)
		}
		if changes, _, err := table.ChangedSince("e", at[24]); err != nil || len(changes) != 5 {
			t.Errorf("a moment ago: %d changes, %v", len(changes), err)
		}
		table.Close()
		table = open(t, path, meta)
	}
}
