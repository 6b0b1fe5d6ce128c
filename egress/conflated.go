package egress

import (
	"context"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// maxConflated bounds the changes that one window looks at. A window that reaches it ends early.
const maxConflated = 20_000

// conflated gives, at most once in a while, the newest change of every key that changed since. It keeps nothing between
// two batches: what comes meanwhile waits where it is, in the tail that everybody shares.
type conflated struct {
	inner Reader
	every time.Duration
	next  time.Time // the earliest time of the next batch with records
}

func newConflated(inner Reader, every time.Duration) *conflated {
	return &conflated{inner: inner, every: every}
}

func (c *conflated) Position() eventstore.Position { return c.inner.Position() }
func (c *conflated) CaughtUp() bool                { return c.inner.CaughtUp() }

func (c *conflated) Next(ctx context.Context) (*eventstore.Batch, error) {
	if wait := time.Until(c.next); wait > 0 {
		timer := time.NewTimer(min(wait, readerTick))
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
		}
		if wait > readerTick {
			return &eventstore.Batch{Next: c.inner.Position()}, nil
		}
	}
	b, err := c.inner.Next(ctx)
	if err != nil || !b.Shared || len(b.Records) == 0 {
		return b, err // a read of the rows or of the journal has each key once
	}
	own := &eventstore.Batch{Records: append([]*eventstore.Record(nil), b.Records...), Next: b.Next}
	for !c.inner.CaughtUp() && len(own.Records) < maxConflated {
		if b, err = c.inner.Next(ctx); err != nil {
			break // it comes again with the next call
		}
		own.Records, own.Next = append(own.Records, b.Records...), b.Next
		if b.Release != nil { // older than the tail by now; its place in the pool is given back with the whole
			own.Release = b.Release
			break
		}
	}
	own.Records = newest(own.Records)
	c.next = time.Now().Add(c.every)
	return own, nil
}

// newest keeps of every key the last change, in the order of these.
func newest(records []*eventstore.Record) []*eventstore.Record {
	last := make(map[string]int, len(records))
	for i, r := range records {
		last[r.Change.Key] = i
	}
	kept := records[:0]
	for i, r := range records {
		if last[r.Change.Key] == i {
			kept = append(kept, r)
		}
	}
	return kept
}
