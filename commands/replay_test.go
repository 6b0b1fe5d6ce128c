package commands_test

import (
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// again is a delivery as a replay repeats it.
func again(e eventstore.Entry) eventstore.Entry {
	e.ReplayOf, e.By, e.Note = e.ID, "ann", "lost"
	e.ID += "~replay-p1"
	return e
}

func TestAReplayTakesEffectOnceMoreAndItsPolicyToo(t *testing.T) {
	b := start(t)
	original := delivery("d1", "x", 1)
	first := b.submit(t, original)
	o := b.submit(t, again(original))
	if o.Status != domain.Accepted || o.ReplayOf != "d1" || o.By != "ann" || o.Note != "lost" || o.Release != "" || len(o.Commands) != 1 || o.Commands[0] == first.Commands[0] ||
		o.Version != first.Version+1 || o.Events[0].ID == first.Events[0].ID {
		t.Errorf("%+v", o)
	}
	if o := b.submit(t, again(original)); o.Status != domain.Duplicate || o.Original != domain.Accepted {
		t.Errorf("the same replay again: %+v", o)
	}
	var events []domain.Event
	eventstoretest.Until(t, "the fold has both", func() bool {
		var err error
		events, err = b.History.Events(original.Stream, 1, 10)
		return err != nil || len(events) == 2
	})
	if events[0].ReplayOf != "" || events[1].ReplayOf != "d1" || events[1].Delivery != "d1~replay-p1" || string(events[1].Data) != string(events[0].Data) {
		t.Errorf("%+v", events)
	}
}

func TestAReplayedBatchReplaysItsItems(t *testing.T) {
	b, _ := startSplitting(t)
	batch := batchOf("b1", `i1 {"counter":"one","n":1}`, `plain2 {}`)
	b.submit(t, batch)
	for _, id := range []string{"i1", "plain2"} {
		b.outcome(t, id)
	}
	o := b.submit(t, again(batch))
	if o.Status != domain.Accepted || o.Items != 2 || o.ReplayOf != "b1" {
		t.Fatalf("%+v", o)
	}
	for _, id := range []string{"i1", "plain2"} {
		item := b.outcome(t, id+"~replay-p1")
		if item.Status != domain.Accepted || item.ReplayOf != id || item.By != "ann" || item.Note != "lost" || len(item.Events) != 1 {
			t.Errorf("%+v", item)
		}
	}
}
