package commands_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// A counter is the smallest business: Add adds, never above ten; every "counter.added" of a webhook makes an Add.
type add struct {
	Counter string `json:"counter"`
	N       int    `json:"n"`
}
type added struct {
	N int `json:"n"`
}

var (
	types = domain.Types{
		Events:   []domain.EventType{domain.EventOf[added]("counter.added")},
		Commands: []domain.CommandType{domain.CommandOf("Add", func(a add) (domain.Stream, error) { return domain.NewStream("counter", a.Counter) })},
	}
	counter = domain.Decider[int]{
		Category: "counter", Initial: func() int { return 0 },
		Decide: func(total int, c domain.Command) ([]domain.Event, error) {
			a := c.Payload.(add)
			switch {
			case a.N == 13:
				panic("thirteen")
			case a.N == 14:
				return nil, errors.New("a defect")
			case total+a.N > 10:
				return nil, domain.Reject("at-most-ten", "%d and %d", total, a.N)
			case a.N > 1: // two events, to see that they are atomic
				return []domain.Event{domain.Fact(added{1}), domain.Fact(added{a.N - 1})}, nil
			}
			return []domain.Event{domain.Fact(added{a.N})}, nil
		},
		Evolve: func(total int, e domain.Event) int { return total + e.Payload.(added).N },
	}
	// onAdded can't follow up on a nine: it asks for something invalid.
	onAdded = domain.Policy{Name: "on-added", From: []string{"counter.added"}, React: func(e domain.Event) ([]domain.Command, error) {
		if e.Payload.(added).N == 8 { // Add 9 is one and eight
			return []domain.Command{domain.Ask(add{Counter: "", N: 1})}, nil
		}
		return nil, nil
	}}
	fromHook = domain.Policy{Name: "from-hook", From: []string{"hook.*"}, React: func(e domain.Event) ([]domain.Command, error) {
		var a add
		if err := json.Unmarshal(e.Data, &a); err != nil {
			return nil, err
		}
		return []domain.Command{domain.Ask(a)}, nil
	}}
)

type bench struct {
	*eventstoretest.Node
	outcomes *commands.Outcomes
}

func start(t *testing.T) bench {
	return startOn(t, eventstoretest.Config(t))
}

func startOn(t *testing.T, cfg eventstore.Config) bench {
	n := eventstoretest.Start(t, cfg)
	w, err := commands.New(commands.Config{Log: n.Log, History: n.History, Types: types, Deciders: []domain.AnyDecider{counter},
		Policies: []domain.Policy{fromHook, onAdded}, Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	o := commands.NewOutcomes(n.Log, n.Log.Append)
	eventstoretest.Run(t, "outcomes", o.Run)
	eventstoretest.Run(t, "writers", w.Run)
	return bench{n, o}
}

func command(id, counter string, n int) eventstore.Entry {
	body, _ := json.Marshal(add{counter, n})
	return eventstore.Entry{Kind: eventstore.KindCommand, ID: id, Source: "api", Type: "Add", Stream: domain.Stream("counter/" + counter),
		Received: time.Now(), ContentType: "application/json", Body: body}
}

func delivery(id, key string, n int) eventstore.Entry {
	e := command(id, key, n)
	e.Kind, e.Source, e.Type, e.Stream = eventstore.KindDelivery, "hook", "hook.sent", domain.Stream("hook/"+key)
	return e
}

func (b bench) submit(t *testing.T, e eventstore.Entry) domain.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	o, known, err := b.outcomes.Submit(ctx, e)
	if err != nil || !known {
		t.Fatalf("%s: known %v, %v", e.ID, known, err)
	}
	return o
}

func TestCommandsTakeEffectOnceAndByTheRules(t *testing.T) {
	b := start(t)
	o := b.submit(t, command("a", "x", 4))
	if o.Status != domain.Accepted || o.Version != 2 || len(o.Events) != 2 {
		t.Fatalf("first: %+v", o)
	}
	again := b.submit(t, command("a", "x", 4))
	if again.Status != domain.Duplicate || again.Original != domain.Accepted || again.Version != 2 || again.Events[0] != o.Events[0] {
		t.Errorf("a repeat gives the same answer: %+v", again)
	}
	if other := b.submit(t, command("a", "x", 5)); other.Class != domain.Invalid || other.Rule != "idempotency-key-reused" {
		t.Errorf("the key with another body: %+v", other)
	}
	if again := b.submit(t, command("a", "x", 4)); again.Original != domain.Accepted || again.Class != "" {
		t.Errorf("the first body again after that: %+v", again)
	}
	if o := b.submit(t, command("b", "x", 7)); o.Class != domain.Rejected || o.Rule != "at-most-ten" || o.Version != 2 {
		t.Errorf("beyond the rule: %+v", o)
	}
	if o := b.submit(t, command("b", "x", 7)); o.Original != domain.Refused || o.Rule != "at-most-ten" {
		t.Errorf("a repeated refusal: %+v", o)
	}
	e := command("c", "x", 1)
	e.Expected = new(uint64(1))
	if o := b.submit(t, e); o.Class != domain.Conflict || o.Actual != 2 {
		t.Errorf("wrong expected version: %+v", o)
	}
	e = command("d", "x", 1)
	e.Expected = new(uint64(2))
	if o := b.submit(t, e); o.Status != domain.Accepted || o.Version != 3 {
		t.Errorf("right expected version: %+v", o)
	}
	eventstoretest.Until(t, "the fold has the stream", func() bool {
		row, ok, err := b.History.Head("counter/x")
		return err == nil && ok && row.Version == 3
	})
	events, err := b.History.Events("counter/x", 1, 100)
	if err != nil || len(events) != 3 || events[2].Version != 3 || events[2].Causation != "d" {
		t.Fatalf("%v %v", events, err)
	}
}

func TestADeliveryTakesEffectOnceAndItsPolicyToo(t *testing.T) {
	b := start(t)
	o := b.submit(t, delivery("d1", "k", 2))
	if o.Status != domain.Accepted || len(o.Events) != 1 || len(o.Commands) != 1 {
		t.Fatalf("%+v", o)
	}
	if o := b.submit(t, delivery("d1", "k", 2)); o.Status != domain.Duplicate {
		t.Errorf("%+v", o)
	}
	eventstoretest.Until(t, "the policy's command is decided", func() bool {
		out, ok, err := b.History.Outcome(eventstore.KindCommand, "", o.Commands[0])
		return err == nil && ok && out.Status == domain.Accepted
	})
	var events []domain.Event
	eventstoretest.Until(t, "its events are folded", func() (ok bool) { // outcomes and events are followed side by side
		var err error
		events, err = b.History.Events("counter/k", 1, 10)
		return err != nil || len(events) == 2
	})
	if len(events) != 2 || events[0].Correlation != "d1" || events[0].Causation != o.Commands[0] {
		t.Errorf("%+v", events)
	}
}

func TestConcurrentCommandsOnOneStreamKeepTheRule(t *testing.T) {
	b := start(t)
	results := make(chan domain.Outcome)
	for i := range 50 {
		go func() { results <- b.submit(t, command(fmt.Sprint("c", i), "hot", 1)) }()
	}
	accepted, versions := 0, map[uint64]bool{}
	for range 50 {
		if o := <-results; o.Status == domain.Accepted {
			accepted++
			versions[o.Version] = true
		} else if o.Rule != "at-most-ten" {
			t.Errorf("%+v", o)
		}
	}
	if accepted != 10 || len(versions) != 10 {
		t.Errorf("%d accepted with %d versions, want 10", accepted, len(versions))
	}
}

func TestANodeThatTakesOverKnowsEverything(t *testing.T) {
	cfg := eventstoretest.Config(t)
	first := ""
	t.Run("one", func(t *testing.T) {
		b := startOn(t, cfg)
		o := b.submit(t, command("a", "x", 4))
		first = o.Events[0].ID
		b.submit(t, command("b", "x", 9)) // refused
	})
	t.Run("another, with an empty folder", func(t *testing.T) {
		b := startOn(t, cfg)
		if o := b.submit(t, command("a", "x", 4)); o.Status != domain.Duplicate || o.Events[0].ID != first {
			t.Errorf("%+v", o)
		}
		if o := b.submit(t, command("b", "x", 9)); o.Original != domain.Refused || o.Rule != "at-most-ten" {
			t.Errorf("%+v", o)
		}
		if o := b.submit(t, command("c", "x", 1)); o.Version != 3 {
			t.Errorf("%+v", o)
		}
	})
}

func TestADefectParksItsStreamUntilAnOperatorReleasesIt(t *testing.T) {
	cfg := eventstoretest.Config(t)
	var reasons []string
	t.Run("parked in order", func(t *testing.T) {
		b := startOn(t, cfg)
		b.submit(t, command("a", "x", 1))
		for i, n := range []int{13, 2, 14, 3} { // a panic, one behind it, a defect, one behind
			o := b.submit(t, command(fmt.Sprint("p", i), "x", n))
			if o.Status != domain.Parked || o.Message == "" || o.ParkedAt == nil || o.Version != 1 {
				t.Errorf("%d: %+v", n, o)
			}
			reasons = append(reasons, o.Message)
			e, err := b.Log.ReadParked(t.Context(), o.Partition, *o.ParkedAt)
			if err != nil || e.ID != o.ID || string(e.Body) != string(command("", "x", n).Body) || e.Reason != o.Message {
				t.Errorf("the parked topic has %+v, %v", e, err)
			}
		}
		if !strings.Contains(reasons[0], "thirteen") || !strings.Contains(reasons[0], "writer_test.go") {
			t.Errorf("a panic is parked with its stack: %s", reasons[0])
		}
		if o := b.submit(t, command("nine", "z", 9)); o.Status != domain.Parked || !strings.Contains(o.Message, "policy on-added") {
			t.Errorf("a policy's mistake is not the caller's: %+v", o)
		}
		if o := b.submit(t, command("other", "y", 1)); o.Status != domain.Accepted {
			t.Errorf("other streams go on: %+v", o)
		}
		if o := b.submit(t, command("p1", "x", 2)); o.Status != domain.Duplicate || o.Original != domain.Parked {
			t.Errorf("a repeat of a parked one: %+v", o)
		}
	})
	t.Run("released by another node", func(t *testing.T) {
		b := startOn(t, cfg)
		release := func(id string, n int, what string) domain.Outcome {
			e := command(id, "x", n)
			e.Release, e.By, e.Note = what, "ann", "mended"
			return b.submit(t, e)
		}
		if o := release("p1", 2, eventstore.Requeue); o.Rule != "parked-behind" {
			t.Errorf("out of order: %+v", o)
		}
		if o := release("p0", 13, eventstore.Requeue); o.Status != domain.Parked {
			t.Errorf("it fails again: %+v", o)
		}
		if o := release("p0", 13, eventstore.Discard); o.Status != domain.Discarded || o.By != "ann" || o.Note != "mended" {
			t.Errorf("discard: %+v", o)
		}
		if o := release("p1", 2, eventstore.Requeue); o.Status != domain.Accepted || o.Version != 3 || o.By != "ann" {
			t.Errorf("requeue: %+v", o)
		}
		if o := release("p1", 2, eventstore.Requeue); o.Status != domain.Duplicate || o.Original != domain.Accepted {
			t.Errorf("requeued twice: %+v", o)
		}
		if o := b.submit(t, command("late", "x", 1)); o.Status != domain.Parked {
			t.Errorf("still behind p2: %+v", o)
		}
		release("p2", 14, eventstore.Discard)
		release("p3", 3, eventstore.Requeue)
		if o := release("late", 1, eventstore.Requeue); o.Status != domain.Accepted || o.Version != 6 {
			t.Errorf("the last one: %+v", o)
		}
		if o := b.submit(t, command("free", "x", 1)); o.Status != domain.Accepted || o.Version != 7 {
			t.Errorf("the stream goes on: %+v", o)
		}
	})
}

// TestALongStreamIsLoadedFromItsSnapshot gives a node the events' history without the events before the snapshot being
// foldable: loading them would fail.
func TestALongStreamIsLoadedFromItsSnapshot(t *testing.T) {
	cfg := eventstoretest.Config(t)
	path := filepath.Join(t.TempDir(), "snapshots.db")
	folded := 0
	long := domain.Decider[int]{
		Category: "counter", Initial: func() int { return 0 },
		Decide: func(total int, c domain.Command) ([]domain.Event, error) {
			return []domain.Event{domain.Fact(added{total + 1})}, nil // each event tells how many came before
		},
		Evolve:   func(total int, e domain.Event) int { folded++; return e.Payload.(added).N },
		Snapshot: domain.JSONSnapshot[int](1),
	}
	run := func(t *testing.T, d domain.Decider[int], commandsToSend, from int) {
		n := eventstoretest.Start(t, cfg)
		snaps, err := eventstore.OpenSnapshots(n.Log, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { snaps.Close() })
		w, err := commands.New(commands.Config{Log: n.Log, History: n.History, Types: types, Deciders: []domain.AnyDecider{d},
			Snapshots: snaps, SnapshotEvery: 10, Logger: cfg.Logger})
		if err != nil {
			t.Fatal(err)
		}
		o := commands.NewOutcomes(n.Log, n.Log.Append)
		eventstoretest.Run(t, "outcomes", o.Run)
		eventstoretest.Run(t, "writers", w.Run)
		b := bench{n, o}
		for i := range commandsToSend {
			out := b.submit(t, command(fmt.Sprint("s", from+i), "x", 1))
			if out.Status != domain.Accepted || out.Version != uint64(from+i+1) {
				t.Fatalf("%+v", out)
			}
		}
		events, err := n.History.Events("counter/x", uint64(from+1), 1)
		if err == nil && len(events) == 1 && string(events[0].Data) != fmt.Sprintf(`{"n":%d}`, from+1) {
			t.Errorf("event %d says %s", from+1, events[0].Data)
		}
	}
	t.Run("first node", func(t *testing.T) { run(t, long, 35, 0) })
	folded = 0
	t.Run("restarted", func(t *testing.T) { run(t, long, 1, 35) })
	if folded > 10 { // at most the events since the last snapshot, and the new one
		t.Errorf("%d events were folded to load a stream of 35", folded)
	}
	folded = 0
	long.Snapshot = domain.JSONSnapshot[int](2)
	t.Run("another encoding", func(t *testing.T) { run(t, long, 1, 36) })
	if folded < 36 {
		t.Errorf("a snapshot of another encoding was trusted: %d events folded", folded)
	}
}

// TestTheEventsAloneStillTellWhatWasAccepted folds the events without the outcomes, which are kept for 30 days only.
func TestTheEventsAloneStillTellWhatWasAccepted(t *testing.T) {
	b := start(t)
	first := b.submit(t, command("a", "x", 4)) // two events
	b.submit(t, command("b", "x", 1))
	b.submit(t, delivery("d", "k", 1))
	path := filepath.Join(t.TempDir(), "events.db")
	table, err := eventstore.OpenTable(path, eventstore.TableMeta{Name: "streams", Version: 1, Generation: 1, Cluster: b.Log.Cluster()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	topic := b.Log.Topics.Events
	from, err := b.Log.Start(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	f, err := b.Log.Follow(t.Context(), topic, from)
	if err != nil {
		t.Fatal(err)
	}
	alone := eventstore.NewHistory(b.Log, table)
	eventstoretest.Until(t, "the events are folded", func() bool {
		batch, err := f.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := table.Update(topic, batch.Next, func(tx *eventstore.Tx) error {
			for _, r := range batch.Records {
				tx.At(r.Partition, r.Offset)
				if err := (eventstore.StreamsFold{}).Apply(tx, *r.Event); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		_, delivery, err1 := alone.Outcome(eventstore.KindDelivery, "hook", "d")
		_, command, err2 := alone.Outcome(eventstore.KindCommand, "", "a") // of another partition
		return delivery && command && err1 == nil && err2 == nil
	})
	o, ok, err := alone.Outcome(eventstore.KindCommand, "", "a")
	if !ok || err != nil || o.Status != domain.Accepted || o.Version != first.Version || fmt.Sprint(o.Events) != fmt.Sprint(first.Events) {
		t.Errorf("%+v, %v; it was %+v", o, err, first)
	}
	if _, ok, err := alone.Outcome(eventstore.KindCommand, "", "never"); ok || err != nil {
		t.Error(ok, err)
	}
}
