package projections_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
)

// counts counts the events of each stream's category, so that a row depends on several partitions.
type counts struct {
	version int
	fail    *string // id of an event that it can't apply
}

func (counts) Name() string   { return "counts" }
func (c counts) Version() int { return c.version }

func (c counts) Apply(tx *eventstore.Tx, e domain.Event) error {
	if c.fail != nil && *c.fail == e.ID {
		panic("can't")
	}
	n := 0
	if b := tx.Get(e.Type); b != nil {
		if err := json.Unmarshal(b, &n); err != nil {
			return err
		}
	}
	if n++; n%7 == 0 { // rows also go away
		return tx.Delete(e.Type)
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return tx.Put(e.Type, b)
}

func openEngine(t *testing.T, l *eventstore.Log, dir string, ps ...projections.Projection) *projections.Engine {
	t.Helper()
	e, err := projections.New(projections.Config{Log: l, Dir: dir, Projections: ps, Logger: eventstoretest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// running runs an engine and returns what stops and closes it, leaving the files.
func running(t *testing.T, e *projections.Engine) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-done, e.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

type generator struct {
	l        *eventstore.Log
	ws       []*eventstore.Writer
	versions map[domain.Stream]uint64
	total    int
}

func newGenerator(t *testing.T, l *eventstore.Log) *generator {
	g := &generator{l: l, versions: map[domain.Stream]uint64{}}
	for p := range l.Partitions() {
		w, err := l.OpenWriter(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		g.ws = append(g.ws, w)
	}
	return g
}

// write commits n events of random streams and types, with an outcome for each.
func (g *generator) write(t *testing.T, n int) {
	t.Helper()
	for range n {
		s := domain.Stream(fmt.Sprintf("s/%d", rand.IntN(9)))
		p := g.l.PartitionOf(s)
		g.versions[s]++
		g.total++
		id := fmt.Sprint("e", g.total)
		o := domain.Outcome{Kind: eventstore.KindDelivery, ID: id, Source: "test", Type: "t", Stream: s, Status: domain.Accepted,
			Received: time.Unix(int64(g.total), 0).UTC(), Partition: p, Inbox: int64(g.total)}
		err := g.ws[p].Commit(eventstore.Commit{
			Events: []domain.Event{{ID: id, Type: fmt.Sprint("type", rand.IntN(5)), Source: "/sources/test", Stream: s, Version: g.versions[s],
				Time: o.Received, Delivery: id, Causation: id, Data: []byte("{}")}},
			Outcomes: []eventstore.EncodedOutcome{eventstore.EncodeOutcome(o)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventstoretest.Readable(t, g.l, g.ws...)
}

func caughtUp(t *testing.T, v *projections.View) {
	t.Helper()
	eventstoretest.Until(t, v.Name()+" has caught up", func() bool {
		s := v.Status()
		return s.State == "live" && s.Lag == 0
	})
}

func rows(t *testing.T, v *projections.View) map[string]string {
	t.Helper()
	all, after := map[string]string{}, ""
	for {
		page, more, _, err := v.Page(after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			all[r.Key], after = string(r.Row), r.Key
		}
		if !more {
			return all
		}
	}
}

// refold folds the log from zero into a fresh folder and demands the same rows.
func refold(t *testing.T, l *eventstore.Log, e *projections.Engine, ps ...projections.Projection) {
	t.Helper()
	fresh := openEngine(t, l, t.TempDir(), ps...)
	stop := running(t, fresh)
	defer stop()
	for _, v := range fresh.Views() {
		caughtUp(t, v)
		served, _ := e.View(v.Name())
		caughtUp(t, served)
		want, got := rows(t, v), rows(t, served)
		if len(want) != len(got) {
			t.Errorf("%s: %d rows, the fold of the log has %d", v.Name(), len(got), len(want))
		}
		for k, row := range want {
			if got[k] != row {
				t.Errorf("%s[%s] = %s, the fold of the log has %s", v.Name(), k, got[k], row)
			}
		}
	}
}

func TestTablesAreTheFoldOfTheLogAcrossRestarts(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	dir := t.TempDir()
	all := []projections.Projection{eventstore.StreamsFold{}, projections.Deliveries{}, counts{version: 1}}
	for range 4 {
		e := openEngine(t, l, dir, all...)
		stop := running(t, e)
		g.write(t, 30)
		stop() // at any moment: some of it may not be applied yet
	}
	g.write(t, 20) // while nobody follows
	e := openEngine(t, l, dir, all...)
	running(t, e)
	refold(t, l, e, all...)

	streams, _ := e.View("streams")
	h := eventstore.NewHistory(l, streams.Table())
	for s, version := range g.versions {
		row, ok, err := h.Head(s)
		events, err2 := h.Events(s, 1, 1000)
		if !ok || err != nil || err2 != nil || row.Version != version || len(events) != int(version) {
			t.Errorf("%s: version %d with %d events, want %d (%v, %v)", s, row.Version, len(events), version, err, err2)
		}
		for i, ev := range events {
			if ev.Version != uint64(i+1) {
				t.Errorf("%s: event %d has version %d", s, i+1, ev.Version)
			}
		}
	}
	deliveries, _ := e.View("deliveries")
	var ids []string
	for cursor := ""; ; {
		page, next, err := projections.DeliveryPage(t.Context(), deliveries, projections.DeliveryFilter{Source: "test"}, cursor, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			ids = append(ids, d.ID)
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(ids) != g.total || ids[0] != fmt.Sprint("e", g.total) || ids[len(ids)-1] != "e1" {
		t.Errorf("%d deliveries, want %d, newest first: %v", len(ids), g.total, ids)
	}
}

func TestAChangedVersionIsBuiltAnew(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	dir := t.TempDir()
	g.write(t, 20)
	e := openEngine(t, l, dir, counts{version: 1})
	v, _ := e.View("counts")
	stop := running(t, e)
	caughtUp(t, v)
	old := v.Position()
	stop()
	e = openEngine(t, l, dir, counts{version: 2})
	running(t, e)
	v, _ = e.View("counts")
	caughtUp(t, v)
	if s := v.Status(); s.Generation != 2 || s.Version != 2 {
		t.Errorf("%+v", s)
	}
	if _, err := v.Follow(t.Context(), old); !errors.Is(err, eventstore.ErrReset) {
		t.Errorf("a cursor of the old generation: %v", err)
	}
	refold(t, l, e, counts{version: 2})
}

func TestAFailingProjectionHaltsAloneAndGoesOnWhenMended(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 40)
	dir := t.TempDir()
	e := openEngine(t, l, dir, counts{version: 1, fail: new("e20")}, eventstore.StreamsFold{})
	stop := running(t, e)
	bad, _ := e.View("counts")
	good, _ := e.View("streams")
	eventstoretest.Until(t, "the failing projection halts", func() bool { return bad.Status().State == "halted" })
	g.write(t, 10)
	caughtUp(t, good)
	if s := bad.Status(); s.Error == "" {
		t.Errorf("%+v", s)
	}
	stop()
	e = openEngine(t, l, dir, counts{version: 1})
	running(t, e)
	refold(t, l, e, counts{version: 1})
}

func TestAChangesFeedConvergesFromAnyCursor(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	e := openEngine(t, l, t.TempDir(), counts{version: 1})
	running(t, e)
	v, _ := e.View("counts")
	caughtUp(t, v)
	// A client keeps its own copy, goes away at some cursor, and comes back.
	mine, cursor := map[string]string{}, v.Position()
	for round := range 6 {
		f, err := v.Follow(t.Context(), cursor)
		if err != nil {
			t.Fatal(round, err)
		}
		g.write(t, 15)
		caughtUp(t, v)
		stopAt := rand.IntN(15)
		for seen := 0; !f.CaughtUp() && (seen < stopAt || round == 5); {
			b, err := f.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range b.Records {
				if mine[r.Change.Key] = string(r.Change.Row); r.Change.Row == nil {
					delete(mine, r.Change.Key)
				}
				seen++
			}
			cursor = f.Position()
		}
	}
	want := rows(t, v)
	if fmt.Sprint(mine) != fmt.Sprint(want) {
		t.Errorf("the client has %v, the rows are %v", mine, want)
	}
}
