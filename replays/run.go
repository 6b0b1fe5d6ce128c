package replays

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// Run runs what Start wants, one plan after the other, until ctx ends. A plan in hand is interrupted then.
func (r *Replays) Run(ctx context.Context) error {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.closed = true
	}()
	for {
		select {
		case id := <-r.begin:
			r.run(ctx, id)
		case <-ctx.Done():
			return nil
		}
	}
}

// run runs one plan to its end, whatever that is, and keeps it.
func (r *Replays) run(ctx context.Context, id string) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	p := r.plans[id]
	r.cancel = cancel
	own := p.copy() // this goroutine's; published by save
	cancelled := p.State == Cancelled
	r.mu.Unlock()
	var err error
	if cancelled {
		err = errCancelled
	} else {
		r.cfg.Logger.Info("replay begins", "replay", id, "deliveries", own.Planned.Count, "left", own.Left(), "by", own.By, "reason", own.Reason)
		err = r.work(ctx, &own)
	}
	now := r.cfg.Clock().UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case p.State == Cancelled: // also when it came too late to keep anything from being replayed
		own.State, own.Finished = Cancelled, p.Finished
	case err == nil:
		own.State, own.Finished = Done, &now
	case ctx.Err() != nil:
		own.State, own.Error = Interrupted, "the node stopped"
	default:
		own.State, own.Error = Interrupted, err.Error()
	}
	r.running, r.cancel = "", nil
	*p = own
	if err := savePlan(r.cfg.Dir, p); err != nil {
		// At the next start the plan is as it was saved last, and going on from there repeats nothing.
		r.cfg.Logger.Error("the end of a replay was not kept", "replay", id, "error", err)
	}
	r.cfg.Logger.Info("replay ends", "replay", id, "state", own.State, "replayed", own.Replayed, "expired", own.Expired, "skipped", own.Skipped,
		"failed", own.Failed, "error", own.Error)
}

// saveEvery is how long progress may be newer than what is on disk. What is replayed again after a crash is recognised
// by its ids.
const saveEvery = time.Second

func (r *Replays) work(ctx context.Context, p *Plan) error {
	var picks []pick
	err := r.patiently(ctx, func(context.Context) error { // without a bound on one try: it may be a long log
		picks = picks[:0]
		_, err := r.pick(ctx, p, func(k pick) { picks = append(picks, k) }, &Found{})
		return err
	})
	if err != nil {
		return err
	}
	pause := time.Second / time.Duration(p.Rate)
	next, saved := time.Now(), time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, k := range inOrder(picks) {
		if k.inbox <= p.Done[k.partition] {
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		next = later(next.Add(pause), time.Now().Add(-time.Second)) // what was missed is caught up on for a second at most
		if err := r.one(ctx, p, k); err != nil {
			return err
		}
		p.Done[k.partition] = k.inbox
		if err := r.publish(p, time.Since(saved) >= saveEvery); err != nil {
			return err
		}
		if time.Since(saved) >= saveEvery {
			saved = time.Now()
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// publish shows the progress, and keeps it if it is time to. A plan that was cancelled meanwhile stays so.
func (r *Replays) publish(p *Plan, save bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	shown := r.plans[p.ID]
	if shown.State == Cancelled {
		return errCancelled
	}
	*shown = p.copy()
	if save {
		return savePlan(r.cfg.Dir, shown)
	}
	return nil
}

// one replays one delivery. An error ends the run; what is wrong with this delivery alone is counted.
func (r *Replays) one(ctx context.Context, p *Plan, k pick) error {
	fail := func(n *int, result string, err error) {
		*n++
		r.metrics.WithLabelValues(k.source, result).Inc()
		if len(p.Failures) < keptFailures {
			p.Failures = append(p.Failures, Failure{k.source, k.id, err.Error()})
		}
	}
	var d projections.Delivery
	var ok bool
	err := r.patiently(ctx, func(context.Context) (err error) {
		d, ok, err = projections.DeliveryGet(r.cfg.Deliveries, k.source, k.id)
		return err
	})
	switch {
	case err != nil:
		return err
	case !ok:
		fail(&p.Expired, "expired", errors.New("it has left the delivery log"))
		return nil
	case d.Status == domain.Parked:
		p.Skipped++
		r.metrics.WithLabelValues(k.source, "skipped").Inc()
		return nil
	}
	e, err := r.entry(ctx, d, p)
	switch {
	case errors.Is(err, ErrExpired):
		fail(&p.Expired, "expired", err)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		switch domain.ClassOf(err) {
		case domain.TooLarge, domain.Invalid, domain.NotFound, domain.Conflict:
			fail(&p.Failed, "failed", err)
			return nil
		}
		return err // trouble of the node, and not of this delivery: the run is interrupted
	}
	switch err := r.append(ctx, e); {
	case err == nil:
		p.Replayed++
		r.metrics.WithLabelValues(k.source, "replayed").Inc()
		return nil
	case ctx.Err() != nil || domain.ClassOf(err) == domain.Unavailable:
		return err
	default:
		fail(&p.Failed, "failed", err)
		return nil
	}
}

// patience is how long a run waits for a log that is away, before it is interrupted.
const patience = 2 * time.Minute

// entry makes the entry of a delivery, and waits for a log that is away.
func (r *Replays) entry(ctx context.Context, d projections.Delivery, p *Plan) (e eventstore.Entry, err error) {
	err = r.patiently(ctx, func(ctx context.Context) error {
		e, err = r.Entry(ctx, d, p.ID, p.By, p.Reason)
		return err
	})
	return e, err
}

func (r *Replays) append(ctx context.Context, e eventstore.Entry) error {
	return r.patiently(ctx, func(ctx context.Context) error { return r.cfg.Append(ctx, e) })
}

// patiently tries again while the log is away, or while too much waits to be handled.
func (r *Replays) patiently(ctx context.Context, try func(context.Context) error) error {
	began := time.Now()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		attempt, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := try(attempt)
		cancel()
		passing := domain.ClassOf(err) == domain.Unavailable || errors.Is(err, context.DeadlineExceeded)
		if err == nil || !passing || ctx.Err() != nil {
			return err
		}
		if time.Since(began) > patience {
			return &domain.Error{Class: domain.Unavailable, Message: fmt.Sprintf("not possible for %v", patience), Err: err}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// pick is a delivery that a plan has found.
type pick struct {
	source, id string
	received   time.Time
	partition  int32
	inbox      int64
}

// pick finds the deliveries of a plan, at most as many as it may have. On a plan that is being made it notes the last
// of each partition.
func (r *Replays) pick(ctx context.Context, p *Plan, take func(pick), found *Found) (n int, err error) {
	err = projections.EachDelivery(ctx, r.cfg.Deliveries, p.Filter.deliveries(), func(d projections.Delivery) error {
		switch {
		case d.Replay != nil:
			found.Replays++
			return nil
		case d.Status == domain.Parked:
			found.Parked++
			return nil
		}
		if n++; n > p.Most && p.State == Planned {
			return domain.Invalidf("max", "more than %d deliveries pass the filter: narrow it, or allow more", p.Most)
		}
		found.Bytes += int64(d.Size)
		if found.First == nil {
			found.First = &d.Received
		}
		found.Last = &d.Received
		if p.State == Planned {
			p.Through[d.Partition] = max(p.Through[d.Partition], d.Inbox)
		} else if d.Inbox > p.Through[d.Partition] || d.Release != nil && d.Handled.After(p.Created) {
			return nil // it came, or was released, after the plan was made
		}
		take(pick{d.Source, d.ID, d.Received, d.Partition, d.Inbox})
		return nil
	})
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		err = &domain.Error{Class: domain.Unavailable, Message: "the delivery log is too long to be searched in time: narrow the filter with since, until or stream", Err: err}
	}
	return n, err
}

// inOrder puts picks into the order in which they are replayed: each partition's, so each stream's, as they stood in the
// inbox, and as far as that allows by the time they were received. Clocks of nodes differ; the inbox is right.
func inOrder(picks []pick) []pick {
	slices.SortFunc(picks, func(a, b pick) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.inbox, b.inbox))
	})
	for i := 1; i < len(picks); i++ {
		if picks[i].partition == picks[i-1].partition {
			picks[i].received = later(picks[i].received, picks[i-1].received)
		}
	}
	slices.SortStableFunc(picks, func(a, b pick) int { return a.received.Compare(b.received) })
	return picks
}
