// Package commands is the write side: for each partition that this node owns, one writer takes what stands in the
// inbox, in order, and turns it into events and outcomes, exactly once.
package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what the writers need.
type Config struct {
	Log      *eventstore.Log
	History  *eventstore.History
	Types    domain.Types
	Deciders []domain.AnyDecider
	Policies []domain.Policy
	// Split takes a delivery that carries several events apart, into deliveries that are handled like any other; nothing
	// for one that doesn't. It is pure. A delivery that it fails on is parked. Nil if nothing is ever split.
	Split func(eventstore.Entry) ([]eventstore.Entry, error)
	// Snapshots keeps the states of streams whose decider has a Snapshot, every SnapshotEvery events (default 1000).
	// Nil for none.
	Snapshots     *eventstore.Snapshots
	SnapshotEvery uint64
	// Commits bounds the transactions that this node has open at once. A writer that waits for its turn takes what has
	// come in meanwhile along. 0: one for each partition.
	Commits int
	// Busy reports whether whoever fills the inbox needs the machine, and nobody waits for what the writers do; nil for
	// never. A writer then waits a moment before each transaction, so that fewer of them take more.
	Busy    func() bool
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil for none
}

// Writers runs one writer for each partition that the node owns.
type Writers struct {
	cfg      Config
	deciders map[string]domain.AnyDecider // by category
	metrics  metrics
	turns    chan struct{} // nil without a bound
	pending  atomic.Int64  // outcomes that all batches remember because the fold isn't there yet
	pressed  atomic.Int32  // writers with more to handle than one transaction takes

	mu      sync.Mutex
	serving map[int32]*status
}

type status struct {
	ready   bool
	handled int64 // inbox offset after the last handled entry
	left    bool  // this node doesn't own the partition any more
}

// New checks the business: every decider complete, every category owned once, every name in the types table unique.
func New(cfg Config) (*Writers, error) {
	w := &Writers{cfg: cfg, deciders: map[string]domain.AnyDecider{}, serving: map[int32]*status{}}
	if w.cfg.SnapshotEvery == 0 {
		w.cfg.SnapshotEvery = 1000
	}
	if cfg.Commits > 0 {
		w.turns = make(chan struct{}, cfg.Commits)
	}
	var problems []error
	if err := cfg.Types.Check(); err != nil {
		problems = append(problems, err)
	}
	for _, d := range cfg.Deciders {
		if err := d.Check(); err != nil {
			problems = append(problems, err)
			continue
		}
		if w.deciders[d.Owns()] != nil {
			problems = append(problems, fmt.Errorf("two deciders own category %q", d.Owns()))
		}
		w.deciders[d.Owns()] = d
	}
	names := map[string]bool{}
	for _, p := range cfg.Policies {
		if p.Name == "" || names[p.Name] || p.React == nil {
			problems = append(problems, fmt.Errorf("policy %q needs a React and a name of its own", p.Name))
		}
		names[p.Name] = true
	}
	w.metrics = newMetrics(cfg.Metrics)
	return w, errors.Join(problems...)
}

// Run takes part in dividing the partitions and serves those that it gets, until ctx ends. It finishes the batch in
// hand first.
func (w *Writers) Run(ctx context.Context) error {
	return w.cfg.Log.Own(ctx, w.serve, func(p int32) int64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		if s := w.serving[p]; s != nil {
			return s.handled
		}
		return 0
	})
}

// Owned returns the partitions that this node owns and whether it serves each of them already.
func (w *Writers) Owned() map[int32]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	owned := map[int32]bool{}
	for p, s := range w.serving {
		if !s.left {
			owned[p] = s.ready
		}
	}
	return owned
}

func (w *Writers) mark(p int32, ready bool, handled int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.serving[p] = &status{ready: ready, handled: handled}
}

// leave keeps what was handled: the group's offset is moved after the writer has stopped.
func (w *Writers) leave(p int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.serving[p]; s != nil {
		w.serving[p] = &status{handled: s.handled, left: true}
	}
}

// serve runs session after session on a partition until ctx ends. Any trouble ends a session; the next one fences,
// reads to the end and so learns what is true.
func (w *Writers) serve(ctx context.Context, p int32) {
	log := w.cfg.Logger.With("partition", p)
	w.metrics.gained.Inc()
	log.Info("partition gained")
	defer log.Info("partition given up")
	defer w.leave(p)
	for try := 0; ctx.Err() == nil; try++ {
		w.mark(p, false, 0)
		began := time.Now()
		err := w.session(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, eventstore.ErrFenced) {
			w.metrics.fenced.Inc()
		}
		if time.Since(began) > time.Minute {
			try = 0
		}
		// Jittered, so that two nodes which both believe to own the partition don't fence each other in step.
		pause := min(time.Duration(try+1)*200*time.Millisecond, 5*time.Second)
		pause += time.Duration(rand.Int64N(int64(pause)))
		log.Warn("writer starts over", "in", pause, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

const (
	batchEntries = 2000 // entries of one transaction at most
	// pendingLimit bounds what all writers of a node remember beyond the fold. An outcome takes about 1 KB. With a third of
	// it a backlog of 300,000 deliveries was written at the pace of the fold, 6,900 instead of 50,000 a second.
	pendingLimit = 300_000
)

// Pressed reports whether a backlog is being worked off and the writers, not the fold, are what it waits for. The
// projections leave them the machine then.
func (w *Writers) Pressed() bool { return w.pressed.Load() > 0 && w.pending.Load() < pendingLimit*9/10 }

// session is one writer's life: fence, read to the end, serve.
func (w *Writers) session(ctx context.Context, p int32) error {
	writer, err := w.cfg.Log.OpenWriter(ctx, p)
	if err != nil {
		return err
	}
	defer writer.Close()
	events, outcomes := writer.Ends()
	if err := w.readToEnd(ctx, p, events, outcomes); err != nil {
		return err
	}
	next, err := w.cfg.History.Handled(p)
	if err != nil {
		return err
	}
	committed, err := writer.CommittedInbox(ctx)
	if err != nil {
		return err
	}
	next = max(next, committed)
	if eventstore.Broken("inbox-from-end") {
		end, err := w.cfg.Log.End(ctx, w.cfg.Log.Topics.Inbox)
		if err != nil {
			return err
		}
		next = end.Next[p]
	}
	if err := writer.ReadFrom(ctx, next); err != nil {
		return err
	}
	w.mark(p, true, next)
	w.cfg.Logger.Info("writer serves", "partition", p, "from", next)

	b, err := newBatch(w, p)
	if err != nil {
		return err
	}
	pressed := int32(0)
	defer func() {
		w.pressed.Add(-pressed)
		w.pending.Add(-int64(len(b.queue)))
	}()
	for ctx.Err() == nil {
		entries, err := writer.Poll(ctx, batchEntries)
		if err != nil {
			return err
		}
		more := int32(0)
		if writer.Behind() > batchEntries {
			more = 1
		}
		w.pressed.Add(more - pressed)
		pressed = more
		if len(entries) == 0 {
			continue
		}
		if entries, err = w.gather(ctx, writer, entries); err != nil {
			return err
		}
		for len(entries) > 0 && ctx.Err() == nil {
			if entries, err = w.handle(ctx, writer, b, entries); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

const (
	// gatherFor is how long a writer that is not needed at once waits for more entries at most. A transaction costs as much
	// as handling a hundred deliveries.
	gatherFor  = 500 * time.Millisecond
	gatherStep = 20 * time.Millisecond
)

// gather returns the entries with those that come while the door is busy.
func (w *Writers) gather(ctx context.Context, writer *eventstore.Writer, entries []eventstore.Entry) ([]eventstore.Entry, error) {
	waited := time.Duration(0)
	for tick := time.NewTimer(gatherStep); w.cfg.Busy != nil && waited < gatherFor && w.cfg.Busy(); waited += gatherStep {
		tick.Reset(gatherStep)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return entries, nil
		}
	}
	for fetch := 0; fetch < 2 && waited > 0 && len(entries) < batchEntries; fetch++ { // the first is what the client took before the wait
		wait, cancel := context.WithTimeout(ctx, gatherStep)
		more, err := writer.Poll(wait, batchEntries-len(entries))
		cancel()
		if err != nil {
			return nil, err
		}
		entries = append(entries, more...)
	}
	return entries, nil
}

// handle decides and commits the entries, and what else has come in until it is this writer's turn. It returns those that
// another transaction must take.
func (w *Writers) handle(
	ctx context.Context, writer *eventstore.Writer, b *batch, entries []eventstore.Entry,
) (rest []eventstore.Entry, err error) {
	if b.prune(); w.pending.Load() > pendingLimit && len(b.queue) > 0 {
		// The fold is far behind: wait until it has half of this partition, instead of remembering ever more.
		half := b.queue[len(b.queue)/2]
		if err := w.readToEnd(ctx, b.partition, half.events, half.outcomes); err != nil {
			return nil, err
		}
		b.prune()
	}
	b.begin(writer.NextEvent(), writer.NextParked())
	taken, err := b.takeAll(ctx, entries)
	if err != nil {
		return nil, err
	}
	if w.turns != nil {
		select {
		case w.turns <- struct{}{}:
			defer func() { <-w.turns }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if taken == len(entries) && !b.full() {
			more, err := writer.More(batchEntries - taken)
			if err != nil {
				return nil, err
			}
			n, err := b.takeAll(ctx, more)
			if err != nil {
				return nil, err
			}
			entries, taken = append(entries, more...), taken+n
		}
	}
	began := time.Now()
	if err := writer.Commit(b.commit); err != nil {
		return nil, err
	}
	w.metrics.commit.Observe(time.Since(began).Seconds())
	w.metrics.batch.Observe(float64(taken))
	b.committed(writer.Ends())
	w.mark(b.partition, true, entries[taken-1].Offset+1)
	return entries[taken:], nil
}

// readToEnd waits until the fold has reached the given ends. It takes as long as it takes, and says so: an end that
// stays out of reach means a transaction of another program that is still open.
func (w *Writers) readToEnd(ctx context.Context, p int32, events, outcomes int64) error {
	for {
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := w.cfg.History.Wait(wait, p, events, outcomes)
		cancel()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		w.cfg.Logger.Warn("the fold has not reached the end of the log yet", "partition", p, "events", events, "outcomes", outcomes)
	}
}
