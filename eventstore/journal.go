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
	limit       int // of keys
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
	after string // text of the position after the batch
	keys  []touched
}

type touched struct {
	partition int32
	offset    int64
	key       string
}

// encode writes texts with their length before them, and numbers as varints.
func (e journalEntry) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(e.after)))
	b = append(b, e.after...)
	b = binary.AppendUvarint(b, uint64(len(e.keys)))
	for _, k := range e.keys {
		b = binary.AppendUvarint(b, uint64(k.partition))
		b = binary.AppendUvarint(b, uint64(k.offset))
		b = binary.AppendUvarint(b, uint64(len(k.key)))
		b = append(b, k.key...)
	}
	return b
}

func decodeJournal(b []byte) (e journalEntry, err error) {
	ok := true
	number := func() uint64 {
		n, w := binary.Uvarint(b)
		ok = ok && w > 0
		b = b[max(w, 0):]
		return n
	}
	text := func() string {
		n := number()
		if ok = ok && n <= uint64(len(b)); !ok {
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	e.after = text()
	n := number()
	if n > uint64(len(b)) { // each key takes at least three bytes
		ok = false
	}
	for i := uint64(0); i < n && ok; i++ {
		e.keys = append(e.keys, touched{int32(number()), int64(number()), text()})
	}
	if !ok || len(b) != 0 {
		return e, &domain.Error{Class: domain.Corrupt, Message: "a batch of the change journal can't be read"}
	}
	return e, nil
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
	e := journalEntry{after: next.String()}
	seen := make(map[string]int, len(changes))
	for _, c := range changes {
		if i, ok := seen[c.Key]; ok {
			// A batch holds many partitions: a key is "touched since" if its last touch in any of them is.
			if e.keys[i].partition == c.Partition {
				e.keys[i].offset = c.Offset
				continue
			}
		}
		seen[c.Key] = len(e.keys)
		e.keys = append(e.keys, touched{c.Partition, c.Offset, c.Key})
	}
	m, err := readJournal(tx)
	if err != nil {
		return err
	}
	bucket := tx.Bucket(bucketChanges)
	bucket.FillPercent = 0.9 // keys only grow
	if err := bucket.Put(be64(j.next), e.encode()); err != nil {
		return err
	}
	j.next++
	j.keys += len(e.keys)
	for j.keys > j.limit && j.first < j.next-1 {
		old, err := decodeJournal(bucket.Get(be64(j.first)))
		if err != nil {
			return fmt.Errorf("journal batch %d: %w", j.first, err)
		}
		if err := bucket.Delete(be64(j.first)); err != nil {
			return err
		}
		m.Start = old.after
		j.keys -= len(old.keys)
		j.first++
	}
	m.First, m.Next, m.Keys = j.first, j.next, j.keys
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(keyJournal, b)
}

// begin empties the journal: it reaches back to p and not further.
func (j *journal) begin(tx *bolt.Tx, p Position) error {
	if err := tx.DeleteBucket(bucketChanges); err != nil {
		return err
	}
	if _, err := tx.CreateBucket(bucketChanges); err != nil {
		return err
	}
	j.first, j.keys = j.next, 0
	b, err := json.Marshal(journalMeta{First: j.first, Next: j.next, Start: p.String()})
	if err != nil {
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
			e, err := decodeJournal(v)
			if err != nil {
				return fmt.Errorf("journal batch %d: %w", binary.BigEndian.Uint64(k), err)
			}
			after, err := ParsePosition(e.after)
			if err != nil {
				return err
			}
			if since.Covers(after) {
				break // and so it does every older batch
			}
			for _, t := range e.keys {
				if t.offset < since.Next[t.partition] || seen[t.key] {
					continue
				}
				seen[t.key] = true
				ch := Change{Partition: t.partition, Offset: t.offset, Key: t.key}
				if row := tx.Get(t.key); row != nil {
					ch.Row = append([]byte{}, row...)
				}
				changes = append(changes, ch)
			}
		}
		return nil
	})
	return changes, at, err
}
