package eventstore

import (
	"context"
	"errors"
	"sync"
)

// recentBytes bounds the batches of older records that are kept for whoever comes to the same position next.
const recentBytes = 48 << 20

// recent lets followers that stand at the same position share one read and one decoding: the projections of a node that
// starts, or clients that come back together. What stands in the log after a position never changes, so a batch that was
// read there is right for everybody who asks for it.
type recent struct {
	mu      sync.Mutex
	kept    []*reading // oldest first
	reading map[string]*reading
	bytes   int64
}

// reading is one read, done or under way.
type reading struct {
	key   string
	done  chan struct{}
	batch *Batch
	bytes int64
	err   error
}

// get returns the batch after position at, from memory, from a read that is under way, or by read itself.
func (r *recent) get(ctx context.Context, topic string, at Position, read func() (*Batch, error)) (*Batch, error) {
	key := topic + " " + at.String()
	for {
		r.mu.Lock()
		if r.reading == nil {
			r.reading = map[string]*reading{}
		}
		known, ok := r.reading[key]
		if !ok {
			known = &reading{key: key, done: make(chan struct{})}
			r.reading[key] = known
		}
		r.mu.Unlock()
		if !ok {
			known.batch, known.err = read()
			// A read that got nowhere, for example because a leader had just changed, must be done again.
			r.finish(known, known.err == nil && !at.Covers(known.batch.Next))
			close(known.done)
		}
		select {
		case <-known.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case known.err == nil:
			own := *known.batch // Release is each follower's own
			return &own, nil
		case ok && (errors.Is(known.err, context.Canceled) || errors.Is(known.err, context.DeadlineExceeded)) && ctx.Err() == nil:
			// Whoever was reading has gone away. It is our turn.
		default:
			return nil, known.err
		}
	}
}

// finish keeps a batch, and forgets the oldest ones beyond the bound.
func (r *recent) finish(done *reading, keep bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if keep {
		done.bytes = done.batch.Bytes()
	}
	if !keep || done.bytes > recentBytes/4 {
		delete(r.reading, done.key)
		return
	}
	r.kept = append(r.kept, done)
	r.bytes += done.bytes
	for r.bytes > recentBytes {
		oldest := r.kept[0]
		r.kept = r.kept[1:]
		r.bytes -= oldest.bytes
		delete(r.reading, oldest.key)
	}
}
