package commands_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// splitter takes batches like `x {"counter":"a","n":1}` apart: each line an id and a body. Until mended it fails on
// a line that says "broken", and panics on one that says "panic".
type splitter struct{ mended atomic.Bool }

func (s *splitter) split(e eventstore.Entry) ([]eventstore.Entry, error) {
	if e.Type != "many.batch" {
		return nil, nil
	}
	var items []eventstore.Entry
	for line := range bytes.Lines(e.Body) {
		id, body, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		switch {
		case s.mended.Load():
		case string(id) == "broken":
			return items, errors.New("a broken line")
		case string(id) == "panic":
			panic("a bad line")
		}
		item := delivery(string(id), string(id), 1)
		if bytes.HasPrefix(id, []byte("plain")) { // nothing follows from it
			item.Type = "plain.item"
		}
		item.Body, item.Correlation, item.Received = body, e.Correlation, e.Received
		items = append(items, item)
	}
	return items, nil
}

func startSplitting(t *testing.T) (bench, *splitter) {
	cfg := eventstoretest.Config(t)
	n, s := eventstoretest.Start(t, cfg), &splitter{}
	w, err := commands.New(commands.Config{Log: n.Log, History: n.History, Types: types, Deciders: []domain.AnyDecider{counter},
		Policies: []domain.Policy{fromHook}, Split: s.split, Commits: 2, Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	o := commands.NewOutcomes(n.Log, n.Log.Append)
	eventstoretest.Run(t, "outcomes", o.Run)
	eventstoretest.Run(t, "writers", w.Run)
	return bench{n, o}, s
}

// batchOf is a batch of the given lines.
func batchOf(id string, lines ...string) eventstore.Entry {
	e := delivery(id, "batch-"+id, 1)
	e.Type, e.Correlation, e.Body = "many.batch", id, []byte(strings.Join(lines, "\n"))
	return e
}

// outcome waits for the outcome of a delivery that nobody here submitted.
func (b bench) outcome(t *testing.T, id string) (o domain.Outcome) {
	t.Helper()
	eventstoretest.Until(t, "the outcome of "+id, func() (ok bool) {
		var err error
		if o, ok, err = b.History.Outcome(eventstore.KindDelivery, "hook", id); err != nil {
			t.Fatal(err)
		}
		return ok && !o.Handled.IsZero() // and not only its event
	})
	return o
}

func TestABatchIsSplitOnce(t *testing.T) {
	b, _ := startSplitting(t)
	lines := []string{`i1 {"counter":"one","n":1}`, `i2 {"counter":"two","n":2}`, `i3 {"counter":"one","n":3}`}
	batch := batchOf("b1", lines...)
	o := b.submit(t, batch)
	if o.Status != domain.Accepted || o.Items != 3 || len(o.Events) != 1 || len(o.Commands) != 0 {
		t.Fatalf("%+v", o)
	}
	for i, line := range lines {
		id, body, _ := strings.Cut(line, " ")
		item := b.outcome(t, id)
		if item.Status != domain.Accepted || item.Correlation != "b1" || len(item.Events) != 1 || len(item.Commands) != 1 {
			t.Errorf("item %d: %+v", i, item)
		}
		var events []domain.Event
		eventstoretest.Until(t, "its event is folded", func() bool {
			var err error
			events, err = b.History.Events(item.Stream, 1, 10)
			return err != nil || len(events) == 1
		})
		if e := events[0]; string(e.Data) != body || e.Causation != o.Events[0].ID || e.Correlation != "b1" || e.Delivery != id {
			t.Errorf("item %d is the event %+v", i, e)
		}
	}
	if o := b.submit(t, batch); o.Status != domain.Duplicate {
		t.Errorf("the batch again: %+v", o)
	}
	// Grouped in another way, it is another batch, and only what is new takes effect.
	if o := b.submit(t, batchOf("b2", lines[1], `i4 {"counter":"one","n":4}`, lines[0])); o.Status != domain.Accepted || o.Items != 3 {
		t.Errorf("regrouped: %+v", o)
	}
	b.outcome(t, "i4")
	b.submit(t, delivery("after", "i1", 1)) // in the partition of i1, behind the items of b2
	for id, want := range map[string]uint64{"hook/i1": 2, "hook/i2": 1, "hook/i3": 1, "hook/i4": 1} {
		eventstoretest.Until(t, "the fold has "+id, func() bool {
			row, ok, err := b.History.Head(domain.Stream(id))
			return err == nil && ok && row.Version == want
		})
	}
	// What stands in the log: each item that was there twice has a second outcome, a duplicate.
	seen := map[string][]domain.Status{}
	eventstoretest.Until(t, "the outcomes of b2's items", func() bool {
		clear(seen)
		for _, o := range b.allOutcomes(t) {
			seen[o.ID] = append(seen[o.ID], o.Status)
		}
		return len(seen["i1"]) == 2 && len(seen["i2"]) == 2
	})
	if seen["i1"][1] != domain.Duplicate || seen["i2"][1] != domain.Duplicate || len(seen["i3"]) != 1 || len(seen["b1"]) != 2 || len(seen["i4"]) != 1 {
		t.Errorf("%v", seen)
	}
}

// placed is an outcome at its offset.
type placed struct {
	domain.Outcome
	at int64
}

// allOutcomes reads the outcomes that are in the log now, partition by partition.
func (b bench) allOutcomes(t *testing.T) (all []placed) {
	t.Helper()
	topic := b.Log.Topics.Outcomes
	at, err := b.Log.Start(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	end, err := b.Log.End(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	f, err := b.Log.Follow(t.Context(), topic, at)
	if err != nil {
		t.Fatal(err)
	}
	for !at.Covers(end) {
		batch, err := f.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.Records {
			if r.Outcome != nil {
				all = append(all, placed{*r.Outcome, r.Offset})
			}
		}
		at = batch.Next
	}
	slices.SortFunc(all, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.at, b.at))
	})
	return all
}

// A batch that can't be split is set aside whole, and nothing of it takes effect until it is released.
func TestABatchThatCannotBeSplitIsParked(t *testing.T) {
	b, s := startSplitting(t)
	for _, bad := range []string{"broken", "panic"} {
		batch := batchOf("b-"+bad, `ok-`+bad+` {"counter":"one","n":1}`, bad+` {"counter":"one","n":1}`)
		o := b.submit(t, batch)
		if o.Status != domain.Parked || len(o.Events) != 0 || o.Items != 0 || !strings.Contains(o.Message, "split the batch") {
			t.Fatalf("%+v", o)
		}
		if o := b.submit(t, batch); o.Status != domain.Duplicate || o.Original != domain.Parked {
			t.Errorf("again: %+v", o)
		}
		if _, ok, err := b.History.Outcome(eventstore.KindDelivery, "hook", "ok-"+bad); ok || err != nil {
			t.Errorf("an item took effect: %v", err)
		}
		s.mended.Store(true)
		batch.Release = eventstore.Requeue
		if o := b.submit(t, batch); o.Status != domain.Accepted || o.Items != 2 {
			t.Errorf("released: %+v", o)
		}
		b.outcome(t, "ok-"+bad)
		b.outcome(t, bad)
		s.mended.Store(false)
	}
}

// A transaction that has much to follow up takes no further entry, and what it left is taken by the next one.
func TestLargeBatchesShareNoTransactionWithoutABound(t *testing.T) {
	b, _ := startSplitting(t)
	const batches, each = 6, 3000
	ids := make(chan string)
	want := map[string]bool{}
	for n := range batches {
		lines := make([]string, each)
		for i := range lines {
			id := fmt.Sprintf("plain-%d-%d", n, i)
			if i < 10 {
				id = fmt.Sprintf("plain-%d", i) // in every batch
			}
			lines[i], want[id] = id+" {}", true
		}
		e := batchOf(fmt.Sprint("large", n), lines...)
		e.Stream = "hook/large" // in one partition, so that one transaction meets many of them
		go func() {
			if o := b.submit(t, e); o.Status != domain.Accepted || o.Items != each {
				t.Errorf("%+v", o)
			}
			ids <- e.ID
		}()
	}
	for range batches {
		want[<-ids] = true
	}
	handled := map[string][]domain.Status{}
	var all []placed
	eventstoretest.Until(t, "every item is handled", func() bool {
		clear(handled)
		if all = b.allOutcomes(t); len(all) < batches*(each+1) {
			return false
		}
		for _, o := range all {
			handled[o.ID] = append(handled[o.ID], o.Status)
		}
		return true
	})
	if len(handled) != len(want) || len(all) != batches*(each+1) {
		t.Errorf("%d outcomes of %d ids, want %d of %d", len(all), len(handled), batches*(each+1), len(want))
	}
	for id, statuses := range handled {
		accepted := 0
		for _, s := range statuses {
			if s == domain.Accepted {
				accepted++
			}
		}
		if !want[id] || accepted != 1 {
			t.Errorf("%s: %v", id, statuses)
		}
	}
	// Outcomes of one transaction have consecutive offsets, for a marker stands behind each transaction.
	for first, last := 0, 0; first < len(all); first = last {
		large := 0
		for ; last < len(all) && all[last].Partition == all[first].Partition && all[last].at == all[first].at+int64(last-first); last++ {
			if strings.HasPrefix(all[last].ID, "large") {
				large++
			}
		}
		if large > 10_000/each+1 {
			t.Fatalf("%d batches of %d items share a transaction", large, each)
		}
	}
}
