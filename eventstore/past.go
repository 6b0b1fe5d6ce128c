package eventstore

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Fold applies records to rows that live in memory alone, as long as the returned transaction does. It has no indexes.
func Fold(apply func(*Tx) error) (tx *Tx, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = PanicError("a fold in memory", p)
		}
	}()
	tx = &Tx{table: &Table{}, memory: true}
	tx.table.bulk.Store(true) // nobody follows it
	return tx, apply(tx)
}

var errMemory = errors.New("rows in memory have no indexes")

// Past says how much of a stream is meant: its events before a position of the log, or up to a time.
type Past struct {
	Before Position  // of the events topic; without offsets, the time counts
	Until  time.Time // the first event after it, and all later ones, are left out
}

// Bounds of one read of a stream's past.
const (
	pastAtOnce      = 500     // events
	pastAtOnceBytes = 4 << 20 // and bytes of them
)

// Placed is an event with its place in the log.
type Placed struct {
	domain.Event
	Partition int32
	Offset    int64
}

// Replay calls f for the events of a stream that past means, in their order, until f returns an error, which it returns.
// More than most events are of class Invalid.
func (h *History) Replay(ctx context.Context, s domain.Stream, past Past, most int, f func(Placed) error) error {
	for from, n := uint64(1), 0; ; {
		events, more, err := h.placed(s, from, past)
		if err != nil {
			return err
		}
		for _, e := range events {
			if n++; n > most {
				return domain.Invalidf("at", "the stream %s has more than %d events before that; the past of longer ones can't be asked for", s, most)
			}
			if err := f(e); err != nil {
				return err
			}
			from = e.Version + 1
		}
		if err := ctx.Err(); err != nil || !more {
			return err
		}
	}
}

// placed reads some events of a stream; more says whether others may follow.
func (h *History) placed(s domain.Stream, from uint64, past Past) (events []Placed, more bool, err error) {
	err = h.table.View(func(tx *Tx) error {
		index, err := tx.Index(indexEvents)
		if err != nil {
			return err
		}
		log, err := tx.Index(indexLog)
		if err != nil {
			return err
		}
		events, more = nil, false
		size, prefix := 0, string(s)+"\x00"
		index.Scan(placeOf(s, from), func(k, spot []byte) bool {
			if len(k) != len(prefix)+8 || string(k[:len(prefix)]) != prefix {
				return false
			}
			if len(events) == pastAtOnce || size >= pastAtOnceBytes {
				more = true
				return false
			}
			p := Placed{Partition: int32(binary.BigEndian.Uint64(spot)), Offset: int64(binary.BigEndian.Uint64(spot[8:]))}
			if past.Before.Next != nil && p.Offset >= past.Before.Next[p.Partition] {
				return false
			}
			if p.Event, err = eventAt(log, spot); err != nil {
				return false
			}
			if past.Before.Next == nil && p.Time.After(past.Until) {
				return false
			}
			size += len(p.Data)
			events = append(events, p)
			return true
		})
		return err
	})
	return events, more, err
}
