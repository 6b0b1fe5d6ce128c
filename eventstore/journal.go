package eventstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/penstock-io/penstock/domain"
	bolt "go.etcd.io/bbolt"
)

// journalKeys bounds the change journal, in touched keys over all batches.
const journalKeys = 200_000

// journal remembers which keys each batch touched, so that a reader who was away gets the current row of every key
// touched since: nodes that applied the partitions in another order converge. It belongs to the goroutine that updates
// the table.
type journal struct {
	first, next uint64 // numbers of the oldest batch and of the one to write
	keys        int
}

var keyJournal = []byte("journal")

// journalMeta is stored beside the positions.
type journalMeta struct {
	First, Next uint64
	Keys        int
	// Start is the position before the oldest batch: a cursor below it can't be served.
	Start string
}

// journalEntry is one batch.
type journalEntry struct {
	After string // position after the batch
	Keys  []touched
}

type touched struct {
	P int32
	O int64
	K string
}

func (j *journal) load(tx *bolt.Tx) error {
	m, err := readJournal(tx)
	j.first, j.next, j.keys = m.First, m.Next, m.Keys
	return err
}

func readJournal(tx *bolt.Tx) (m journalMeta, err error) {
	if b := tx.Bucket(bucketMeta).Get(keyJournal); b != nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// add appends the changes of a batch that ends at next, and drops the oldest batches beyond the bound.
func (j *journal) add(tx *bolt.Tx, next Position, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	e := journalEntry{After: next.String()}
	seen := make(map[string]int, len(changes))
	for _, c := range changes {
		if i, ok := seen[c.Key]; ok {
			// A batch holds many partitions: a key is "touched since" if its last touch in any of them is.
			if e.Keys[i].P == c.Partition {
				e.Keys[i].O = c.Offset
				continue
			}
		}
		seen[c.Key] = len(e.Keys)
		e.Keys = append(e.Keys, touched{c.Partition, c.Offset, c.Key})
	}
	m, err := readJournal(tx)
	if err != nil {
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	bucket := tx.Bucket(bucketChanges)
	bucket.FillPercent = 0.9 // keys only grow
	if err := bucket.Put(be64(j.next), b); err != nil {
		return err
	}
	j.next++
	j.keys += len(e.Keys)
	for j.keys > journalKeys && j.first < j.next-1 {
		var old journalEntry
		if err := json.Unmarshal(bucket.Get(be64(j.first)), &old); err != nil {
			return fmt.Errorf("journal batch %d: %w", j.first, err)
		}
		if err := bucket.Delete(be64(j.first)); err != nil {
			return err
		}
		m.Start = old.After
		j.keys -= len(old.Keys)
		j.first++
	}
	m.First, m.Next, m.Keys = j.first, j.next, j.keys
	if b, err = json.Marshal(m); err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(keyJournal, b)
}

// ChangedSince returns the current row of every key touched since position since, with the position that these rows
// stand at, all as of one moment. A deleted key has a nil Row. since must be a position in the table's topic; one that
// the journal no longer reaches back to is ErrExpired.
func (t *Table) ChangedSince(topic string, since Position) (changes []Change, at Position, err error) {
	err = t.View(func(tx *Tx) error {
		if at, err = tx.Position(topic); err != nil {
			return err
		}
		if err := at.SameLog(since); err != nil {
			return err
		}
		m, err := readJournal(tx.tx)
		if err != nil {
			return err
		}
		if m.Start != "" {
			start, err := ParsePosition(m.Start)
			if err != nil {
				return err
			}
			if !since.Covers(start) {
				return ErrExpired
			}
		}
		seen := map[string]bool{}
		c := tx.tx.Bucket(bucketChanges).Cursor()
		for k, v := c.Last(); k != nil; k, v = c.Prev() {
			var e journalEntry
			if err := json.Unmarshal(v, &e); err != nil {
				return &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("journal batch %d", binary.BigEndian.Uint64(k)), Err: err}
			}
			after, err := ParsePosition(e.After)
			if err != nil {
				return err
			}
			if since.Covers(after) {
				break // and so it does every older batch
			}
			for _, t := range e.Keys {
				if t.O < since.Next[t.P] || seen[t.K] {
					continue
				}
				seen[t.K] = true
				ch := Change{Partition: t.P, Offset: t.O, Key: t.K}
				if row := tx.Get(t.K); row != nil {
					ch.Row = append([]byte{}, row...)
				}
				changes = append(changes, ch)
			}
		}
		return nil
	})
	return changes, at, err
}
