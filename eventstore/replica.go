package eventstore

import (
	"context"
	"encoding/binary"
	"runtime"

	"github.com/penstock-io/penstock/domain"
)

// Replica reads the events that the table of StreamsFold holds, partition by partition in the order of the log: the same
// records that Follow gives, without a broker. Not for concurrent use; nothing to close.
type Replica struct {
	history *History
	at, end Position
}

// Bounds of one batch of a replica, which is one short transaction.
const (
	replicaRecords = 5000
	replicaBytes   = 2 << 20
)

// Replica starts at from and ends where the table is now. ok is false when the table can't stand in for the log: it has
// applied nothing, or there are events that it left out because they broke the order of their streams.
func (h *History) Replica(from Position) (r *Replica, ok bool, err error) {
	err = h.table.View(func(tx *Tx) error {
		end, err := tx.Position(h.topics.Events)
		if domain.ClassOf(err) == domain.Unavailable {
			return nil
		}
		if err == nil {
			err = end.SameLog(from)
		}
		if err != nil {
			return err
		}
		left, err := tx.Index(indexViolations)
		if err != nil {
			return err
		}
		ok = true
		left.Scan(nil, func(_, _ []byte) bool { ok = false; return false })
		r = &Replica{history: h, at: from.Clone(), end: end}
		return nil
	})
	return r, ok && err == nil, err
}

// Position is the position after everything given out so far. The caller must not change it.
func (r *Replica) Position() Position { return r.at }

// CaughtUp reports whether everything up to the end has been given out.
func (r *Replica) CaughtUp() bool { return r.at.Covers(r.end) }

// Next returns the next batch, of one partition.
func (r *Replica) Next(ctx context.Context) (*Batch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := &Batch{Next: r.at.Clone()}
	for p, end := range r.end.Next {
		if b.Next.Next[p] >= end {
			continue
		}
		if err := r.read(b, int32(p), end); err != nil {
			return nil, err
		}
		break
	}
	r.at = b.Next
	return b, nil
}

func (r *Replica) read(b *Batch, partition int32, end int64) error {
	return r.history.table.View(func(tx *Tx) error {
		log, err := tx.Index(indexLog)
		if err != nil {
			return err
		}
		size, next := 0, end // markers and aborted records may stand between the last event and the end
		from := append(be64(uint64(partition)), be64(uint64(b.Next.Next[partition]))...)
		log.Scan(from, func(k, v []byte) bool {
			offset := int64(binary.BigEndian.Uint64(k[8:]))
			if int32(binary.BigEndian.Uint64(k)) != partition || offset >= end {
				return false
			}
			if len(b.Records) == replicaRecords || size >= replicaBytes {
				next = offset
				return false
			}
			var e domain.Event
			if e, err = decodeEvent(v); err != nil {
				return false
			}
			if len(b.Records)%64 == 63 {
				runtime.Gosched()
			}
			r := &Record{Partition: partition, Offset: offset, Event: &e, size: 2*int64(len(v)) + 2048} // as decode counts
			b.Records = append(b.Records, r)
			size += len(v)
			return true
		})
		b.Next.Next[partition] = next
		return err
	})
}
