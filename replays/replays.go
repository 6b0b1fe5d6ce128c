// Package replays has deliveries handled once more: it puts them into the inbox again, each under an identity of its
// own, one or by plan as many as a filter finds.
package replays

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what replays need.
type Config struct {
	Log        *eventstore.Log
	History    *eventstore.History
	Deliveries *projections.View // of projections.Deliveries
	// Append puts an entry into the inbox: Log.Append, or commands.Pressure's.
	Append  func(context.Context, eventstore.Entry) error
	Dir     string                // keeps the plans
	Clock   func() time.Time      // time.Now by default
	Logger  *slog.Logger          // none by default
	Metrics prometheus.Registerer // none by default
}

// Bounds of plans.
const (
	DefaultRate = 50 // deliveries per second
	MaxRate     = 1000
	DefaultMost = 10_000 // deliveries of a plan
	MaxMost     = 100_000

	keptPlans    = 100
	keptFailures = 20
)

// Replays keeps the plans of this node and runs one of them at a time. Safe for concurrent use.
type Replays struct {
	cfg     Config
	metrics *prometheus.CounterVec
	begin   chan string   // id of the plan to run; one waits at most
	scan    chan struct{} // holds one while the delivery log is searched for a plan

	mu      sync.Mutex
	plans   map[string]*Plan
	running string // id, empty for none
	cancel  context.CancelCauseFunc
	closed  bool
}

// New reads the plans that the node has kept. One that was running when the node stopped is interrupted.
func New(cfg Config) (*Replays, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Replays{
		cfg: cfg, begin: make(chan string, 1), scan: make(chan struct{}, 1),
		metrics: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "webhook_replays_total",
			Help: "Deliveries that this node has replayed or could not replay, by source and result."}, []string{"source", "result"}),
	}
	var err error
	if r.plans, err = loadPlans(cfg.Dir); err != nil {
		return nil, fmt.Errorf("read the plans of replays: %w", err)
	}
	for _, p := range r.plans {
		if p.State == Running {
			p.State, p.Error = Interrupted, "the node stopped"
			if err := savePlan(cfg.Dir, p); err != nil {
				return nil, err
			}
		}
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(r.metrics)
	}
	return r, nil
}

// Request asks for a plan.
type Request struct {
	// ID of the plan; a new one if empty. Asking for one that exists gives that one, if it was asked for in the same way.
	ID     string
	Filter Filter
	Rate   int // deliveries per second; DefaultRate if 0
	Most   int // a plan of more deliveries is refused; DefaultMost if 0
	By     string
	Reason string
}

// NewID returns an id for a plan or for a single replay.
func NewID() string { return strings.ToLower(rand.Text()[:12]) }

// Plan searches the delivery log and keeps what it finds as a plan: how many deliveries, from when to when. It replays
// nothing yet. What is parked is left out, because a replay would be parked behind it, and so are replays, because
// their originals are there.
func (r *Replays) Plan(ctx context.Context, req Request) (Plan, error) {
	p := &Plan{
		ID: cmp.Or(req.ID, NewID()), State: Planned, Filter: req.Filter, Rate: cmp.Or(req.Rate, DefaultRate), Most: cmp.Or(req.Most, DefaultMost),
		By: req.By, Reason: req.Reason, Created: r.cfg.Clock().UTC(), Through: make([]int64, r.cfg.Log.Partitions()), Done: make([]int64, r.cfg.Log.Partitions()),
	}
	if err := p.check(); err != nil {
		return Plan{}, err
	}
	select {
	case r.scan <- struct{}{}:
		defer func() { <-r.scan }()
	case <-ctx.Done():
		return Plan{}, &domain.Error{Class: domain.Unavailable, Message: "another plan is being made", Err: ctx.Err()}
	}
	if have, err := r.Get(p.ID); err == nil {
		if have.sameAs(p) {
			return have, nil
		}
		return Plan{}, &domain.Error{Class: domain.Invalid, Rule: "idempotency-key-reused", Field: "Idempotency-Key", Message: "this key was used for another replay"}
	}
	for i := range p.Done {
		p.Through[i], p.Done[i] = -1, -1
	}
	if _, err := r.pick(ctx, p, func(pick) { p.Planned.Count++ }, &p.Planned); err != nil {
		return Plan{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.keep(p); err != nil {
		return Plan{}, err
	}
	return p.copy(), nil
}

// keep makes room for a new plan, an ended one's first, and stores it. r.mu is held.
func (r *Replays) keep(p *Plan) error {
	for len(r.plans) >= keptPlans {
		var oldest *Plan
		for _, q := range r.plans {
			if q.State == Running {
				continue
			}
			if oldest == nil || q.final() && !oldest.final() || q.final() == oldest.final() && q.Created.Before(oldest.Created) {
				oldest = q
			}
		}
		if err := dropPlan(r.cfg.Dir, oldest.ID); err != nil {
			return err
		}
		delete(r.plans, oldest.ID)
	}
	if err := savePlan(r.cfg.Dir, p); err != nil {
		return err
	}
	r.plans[p.ID] = p
	return nil
}

// Start runs a plan, or goes on with one that was interrupted: what was replayed before is not replayed again.
func (r *Replays) Start(id string) (Plan, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.plan(id)
	if err != nil {
		return Plan{}, err
	}
	switch {
	case r.closed:
		return Plan{}, &domain.Error{Class: domain.Unavailable, Message: "the node stops"}
	case p.State == Running:
		return p.copy(), nil
	case p.final():
		return Plan{}, &domain.Error{Class: domain.Conflict, Rule: "replay-ended", Message: fmt.Sprintf("replay %s is %s: plan it anew", id, p.State)}
	case r.running != "":
		return Plan{}, &domain.Error{Class: domain.Conflict, Rule: "replay-running", Message: fmt.Sprintf("replay %s runs on this node: wait for its end, or cancel it", r.running)}
	}
	before := *p
	p.State, p.Error, p.Finished = Running, "", nil
	if p.Started == nil {
		now := r.cfg.Clock().UTC()
		p.Started = &now
	}
	if err := savePlan(r.cfg.Dir, p); err != nil {
		*p = before
		return Plan{}, err
	}
	r.running = id
	r.begin <- id // has room: nothing runs
	return p.copy(), nil
}

// Cancel ends a plan for good. What was replayed stays replayed.
func (r *Replays) Cancel(id string) (Plan, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.plan(id)
	if err != nil {
		return Plan{}, err
	}
	switch p.State {
	case Cancelled:
		return p.copy(), nil
	case Done:
		return Plan{}, &domain.Error{Class: domain.Conflict, Rule: "replay-ended", Message: fmt.Sprintf("replay %s is done", id)}
	}
	before := *p
	now := r.cfg.Clock().UTC()
	p.State, p.Error, p.Finished = Cancelled, "", &now
	if err := savePlan(r.cfg.Dir, p); err != nil {
		*p = before
		return Plan{}, err
	}
	if r.running == id && r.cancel != nil {
		r.cancel(errCancelled)
	}
	return p.copy(), nil
}

var errCancelled = errors.New("the replay was cancelled")

// Get returns a plan of this node.
func (r *Replays) Get(id string) (Plan, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.plan(id)
	if err != nil {
		return Plan{}, err
	}
	return p.copy(), nil
}

// List returns the plans of this node, newest first.
func (r *Replays) List() (plans []Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.plans {
		plans = append(plans, p.copy())
	}
	slices.SortFunc(plans, func(a, b Plan) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return plans
}

func (r *Replays) plan(id string) (*Plan, error) {
	p := r.plans[id]
	if p == nil {
		return nil, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("this node has no replay %q; a plan is known to the node that made it", id)}
	}
	return p, nil
}
