package replays

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/projections"
)

// State is where a plan is.
type State string

// The states. A planned or interrupted one can be started.
const (
	Planned     State = "planned"
	Running     State = "running"
	Done        State = "done"
	Cancelled   State = "cancelled"
	Interrupted State = "interrupted"
)

// Filter says which deliveries are replayed. Empty fields match everything, but one has to be set.
type Filter struct {
	Source string        `json:"source,omitempty" doc:"Only of this source" example:"stripe"`
	Type   string        `json:"type,omitempty" maxLength:"512" doc:"Only of this type; * stands for any characters" example:"stripe.charge.*"`
	Status domain.Status `json:"status,omitempty" enum:"accepted,discarded" doc:"Only with this outcome. What is parked is never replayed: release it"`
	Stream domain.Stream `json:"stream,omitempty" maxLength:"512" doc:"Only of this stream" example:"stripe/cus_9"`
	ID     string        `json:"id,omitempty" maxLength:"1024" doc:"Only with delivery ids that begin so"`
	Text   string        `json:"q,omitempty" maxLength:"256" doc:"Only with this text in the delivery id, stream or type"`
	Since  *time.Time    `json:"since,omitempty" doc:"Only received then or later" example:"2026-01-31T12:00:00Z"`
	Until  *time.Time    `json:"until,omitempty" doc:"Only received before"`
}

func (f Filter) deliveries() projections.DeliveryFilter {
	d := projections.DeliveryFilter{Source: f.Source, Type: f.Type, Status: f.Status, Stream: f.Stream, ID: f.ID, Text: f.Text}
	if f.Since != nil {
		d.Since = *f.Since
	}
	if f.Until != nil {
		d.Until = *f.Until
	}
	return d
}

// Plan is a replay of many deliveries, from its planning to its end.
type Plan struct {
	ID       string     `json:"id"`
	State    State      `json:"state" enum:"planned,running,done,cancelled,interrupted" doc:"interrupted: the node stopped, or the log was away too long; it can be started again and repeats nothing"`
	Filter   Filter     `json:"filter"`
	Rate     int        `json:"rate" doc:"Deliveries per second at most"`
	Most     int        `json:"max" doc:"A plan of more deliveries would have been refused"`
	By       string     `json:"by"`
	Reason   string     `json:"reason"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Planned  Found      `json:"planned" doc:"What the filter found when the plan was made. Nothing that came later is replayed"`
	Replayed int        `json:"replayed" doc:"Put into the inbox again. What becomes of them is in the delivery log: /v1/deliveries?replay=‹id›"`
	Expired  int        `json:"expired" doc:"Neither the request nor an event of it is in the log any more"`
	Skipped  int        `json:"skipped" doc:"Parked since the plan was made"`
	Failed   int        `json:"failed" doc:"Could not be put into the inbox"`
	Failures []Failure  `json:"failures,omitempty" nullable:"false" doc:"The first 20 that expired or failed"`
	Error    string     `json:"error,omitempty" doc:"Why it was interrupted"`

	// Through and Done are inbox offsets by partition, -1 for none: of the last delivery that the plan found, and of the
	// last one that was come to.
	Through []int64 `json:"-"`
	Done    []int64 `json:"-"`
}

// storedPlan is a plan as its file has it.
type storedPlan struct {
	*Plan
	Through []int64 `json:"through"`
	Done    []int64 `json:"done"`
}

// Found says what a filter finds.
type Found struct {
	Count   int        `json:"count"`
	Bytes   int64      `json:"bytes" doc:"Of their bodies"`
	First   *time.Time `json:"first,omitempty" doc:"When the oldest was received"`
	Last    *time.Time `json:"last,omitempty" doc:"When the newest was received"`
	Parked  int        `json:"parked" doc:"Left out because they are parked"`
	Replays int        `json:"replays" doc:"Left out because they are replays themselves"`
}

// Failure is a delivery that could not be replayed.
type Failure struct {
	Source string `json:"source"`
	ID     string `json:"id"`
	Error  string `json:"error"`
}

// Ended says that nothing more happens by itself.
func (p Plan) Ended() bool { return p.State != Planned && p.State != Running }

// Left is how many deliveries are still to be come to.
func (p Plan) Left() int {
	return max(0, p.Planned.Count-p.Replayed-p.Expired-p.Skipped-p.Failed)
}

// final says that it can never run again.
func (p *Plan) final() bool { return p.State == Done || p.State == Cancelled }

func (p *Plan) check() error {
	switch {
	case p.Filter == (Filter{}):
		return domain.Invalidf("filter", "say which deliveries: a filter without any field would replay all of them")
	case p.Rate < 1 || p.Rate > MaxRate:
		return domain.Invalidf("rate", "between 1 and %d deliveries per second, not %d", MaxRate, p.Rate)
	case p.Most < 1 || p.Most > MaxMost:
		return domain.Invalidf("max", "between 1 and %d deliveries, not %d", MaxMost, p.Most)
	case p.Filter.Status != "" && p.Filter.Status != domain.Accepted && p.Filter.Status != domain.Discarded:
		return domain.Invalidf("filter.status", "accepted or discarded; what is parked is released, not replayed")
	}
	return nil
}

// sameAs says whether a plan was asked for in the same way.
func (p Plan) sameAs(o *Plan) bool {
	a, err1 := json.Marshal(p.Filter)
	b, err2 := json.Marshal(o.Filter)
	return err1 == nil && err2 == nil && string(a) == string(b) && p.Rate == o.Rate && p.Most == o.Most && p.By == o.By && p.Reason == o.Reason
}

func (p *Plan) copy() Plan {
	c := *p
	c.Failures, c.Through, c.Done = slices.Clone(p.Failures), slices.Clone(p.Through), slices.Clone(p.Done)
	return c
}

const planFile = ".json"

func loadPlans(dir string) (map[string]*Plan, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	plans := map[string]*Plan{}
	for _, f := range entries {
		id, ok := strings.CutSuffix(f.Name(), planFile)
		if !ok {
			continue // half-written, when the node died
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		p := &Plan{}
		stored := storedPlan{Plan: p}
		if err := json.Unmarshal(b, &stored); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		p.Through, p.Done = stored.Through, stored.Done
		if p.ID != id {
			return nil, fmt.Errorf("%s holds plan %q", f.Name(), p.ID)
		}
		plans[id] = p
	}
	return plans, nil
}

// savePlan writes a plan so that it stands there wholly or as before, also after the machine lost its power.
func savePlan(dir string, p *Plan) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep replay %s: %w", p.ID, err)
		}
	}()
	b, err := json.Marshal(storedPlan{p, p.Through, p.Done})
	if err != nil {
		return err
	}
	path := filepath.Join(dir, p.ID+planFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(dir)
}

func dropPlan(dir, id string) error {
	if err := os.Remove(filepath.Join(dir, id+planFile)); err != nil {
		return fmt.Errorf("drop replay %s: %w", id, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
