package projections_test

import (
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
)

type place struct {
	partition int32
	offset    int64
}

// read takes everything that a source has before end.
func read(t *testing.T, next func() (*eventstore.Batch, error), at func() eventstore.Position, end eventstore.Position) map[place]domain.Event {
	t.Helper()
	all, last := map[place]domain.Event{}, map[int32]int64{}
	for !at().Covers(end) {
		b, err := next()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			if r.Event == nil {
				continue
			}
			if before, ok := last[r.Partition]; ok && r.Offset <= before {
				t.Fatalf("%d/%d comes after %d", r.Partition, r.Offset, before)
			}
			last[r.Partition], all[place{r.Partition, r.Offset}] = r.Offset, *r.Event
		}
		if !b.Next.Covers(at()) {
			t.Fatalf("a batch ends at %v, and the source is at %v", b.Next, at())
		}
	}
	return all
}

// TestAReplicaIsTheLog compares what the table of streams gives with what Kafka gives, event by event, has builds read
// from it, and sees that it is not taken once an event of another program broke its stream's order.
func TestAReplicaIsTheLog(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	m := &model{rows: map[string]int{}}
	if err := g.random(m, rand.New(rand.NewPCG(rand.Uint64(), 5)), 400); err != nil {
		t.Fatal(err)
	}
	ps := []projections.Projection{eventstore.StreamsFold{}, ledger{}}
	dir := t.TempDir()
	e, err := projections.New(projections.Config{Log: l, Dir: dir, Projections: ps, Replica: true, Logger: eventstoretest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	running(t, e)
	streams, _ := e.View("streams")
	v, _ := e.View("ledger")
	caughtUp(t, streams)
	caughtUp(t, v)
	start, err := l.Start(t.Context(), l.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	h := eventstore.NewHistory(l, streams.Table())
	from := start.Clone()
	from.Next[1] += 5 // a build that was further in one partition
	replica, ok, err := h.Replica(from)
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	f, err := l.Follow(t.Context(), l.Topics.Events, from)
	if err != nil {
		t.Fatal(err)
	}
	end, err := l.End(t.Context(), l.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, func() (*eventstore.Batch, error) { return replica.Next(t.Context()) }, replica.Position, end)
	want := read(t, func() (*eventstore.Batch, error) { return f.Next(t.Context()) }, f.Position, end)
	if len(got) != len(want) || len(want) < 300 {
		t.Errorf("%d events from the table, %d from the log", len(got), len(want))
	}
	for at, e := range want {
		if !reflect.DeepEqual(got[at], e) {
			t.Errorf("%v: %+v from the table, %+v from the log", at, got[at], e)
		}
	}

	rebuilt := func(generation int) {
		t.Helper()
		if err := e.Rebuild(t.Context(), []string{"ledger"}, 0); err != nil {
			t.Fatal(err)
		}
		if err := g.random(m, rand.New(rand.NewPCG(rand.Uint64(), 5)), 50); err != nil { // what the table hasn't at the start
			t.Fatal(err)
		}
		eventstoretest.Until(t, "it is rebuilt", func() bool { return v.Status().Generation == generation })
		modelled(t, v, m)
	}
	rebuilt(2)

	// An event that skips a version is no part of streams, and a part of the log.
	s := domain.Stream("s/1")
	foreign := domain.Event{ID: "foreign", Type: "type1", Source: "/sources/test", Stream: s, Version: g.versions[s] + 5, Time: time.Unix(1, 0).UTC(), Data: []byte("7")}
	if err := g.ws[l.PartitionOf(s)].Commit(eventstore.Commit{Events: []domain.Event{foreign}}); err != nil {
		t.Fatal(err)
	}
	m.apply(foreign)
	eventstoretest.Until(t, "streams has left it out", func() bool { _, n, err := h.Violations(1); return err == nil && n == 1 })
	if _, ok, err := h.Replica(start); ok || err != nil {
		t.Errorf("a table that lacks an event stands in for the log: %v", err)
	}
	rebuilt(3)
	if found, _ := filepath.Glob(filepath.Join(dir, "ledger", "*.db")); len(found) != 2 {
		t.Errorf("%v", found)
	}
}
