package commands

import (
	"context"
	"fmt"
	"sync"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Outcomes tells callers what became of what they put into the inbox. It follows the node's own tail of outcomes, so
// that a caller may talk to any node: nodes don't talk to each other.
type Outcomes struct {
	log    *eventstore.Log
	append func(context.Context, eventstore.Entry) error

	mu      sync.Mutex
	waiting map[string][]chan domain.Outcome
	closed  bool
}

// NewOutcomes waits on l for what append puts into its inbox: Log.Append, or Pressure.Append.
func NewOutcomes(l *eventstore.Log, append func(context.Context, eventstore.Entry) error) *Outcomes {
	return &Outcomes{log: l, append: append, waiting: map[string][]chan domain.Outcome{}}
}

// waitKey includes the digest: two commands under one id but with other bodies have different outcomes.
func waitKey(e eventstore.Entry, digest string) string { return e.Cause() + "\x00" + digest }

// maxWaiting bounds the callers that wait at once.
const maxWaiting = 10_000

// Run hands outcomes to those who wait, until ctx ends.
func (o *Outcomes) Run(ctx context.Context) error {
	topic := o.log.Topics.Outcomes
	f, err := o.log.Follow(ctx, topic, o.log.TailEnd(topic))
	if err == nil {
		f = f.Unopened()
	}
	for err == nil {
		var b *eventstore.Batch
		if b, err = f.Next(ctx); err == nil {
			o.tell(b)
		}
	}
	o.mu.Lock()
	o.closed = true
	for id, chans := range o.waiting {
		for _, c := range chans {
			close(c)
		}
		delete(o.waiting, id)
	}
	o.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow the outcomes: %w", err)
}

func (o *Outcomes) tell(b *eventstore.Batch) {
	o.mu.Lock()
	nobody := len(o.waiting) == 0
	o.mu.Unlock()
	if nobody { // who begins to wait now appends later, and the outcome is in a later batch
		return
	}
	b.Open() // not under the lock: it may be thousands, and new commands want it
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range b.Records {
		if r.Outcome == nil {
			continue
		}
		key := waitKey(eventstore.Entry{Kind: r.Outcome.Kind, Source: r.Outcome.Source, ID: r.Outcome.ID}, r.Outcome.Digest)
		for _, c := range o.waiting[key] {
			c <- *r.Outcome // buffered for one, and taken out here
		}
		delete(o.waiting, key)
	}
}

// Submit appends e to the inbox and waits for its outcome until ctx ends. known is false when the outcome isn't known
// yet; the entry is in the log then and will be handled. An error of class Unavailable says that it may or may not be
// in the log: sending it again with the same id is safe.
func (o *Outcomes) Submit(ctx context.Context, e eventstore.Entry) (out domain.Outcome, known bool, err error) {
	key, c := waitKey(e, e.Digest()), make(chan domain.Outcome, 1)
	o.mu.Lock()
	if o.closed || len(o.waiting) >= maxWaiting {
		o.mu.Unlock()
		return out, false, &domain.Error{Class: domain.Unavailable, Rule: "busy", Message: "too many commands wait for their outcome, or the node stops"}
	}
	o.waiting[key] = append(o.waiting[key], c)
	o.mu.Unlock()
	if err := o.append(ctx, e); err != nil {
		o.forget(key, c)
		return out, false, err
	}
	select {
	case out, known = <-c:
		return out, known, nil
	case <-ctx.Done():
		o.forget(key, c)
		select {
		case out, known = <-c: // it came in the same moment
		default:
		}
		return out, known, nil
	}
}

// Waiting returns how many callers wait for an outcome at this moment.
func (o *Outcomes) Waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.waiting)
}

func (o *Outcomes) forget(key string, c chan domain.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	left := o.waiting[key][:0]
	for _, other := range o.waiting[key] {
		if other != c {
			left = append(left, other)
		}
	}
	if o.waiting[key] = left; len(left) == 0 {
		delete(o.waiting, key)
	}
}
