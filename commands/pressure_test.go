package commands_test

import (
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

func TestABacklogRefusesItsOwnPartitionAloneUntilItIsHandled(t *testing.T) {
	cfg := eventstoretest.Config(t)
	n := eventstoretest.Start(t, cfg)
	p := commands.NewPressure(n.Log, n.History, 5, nil)
	eventstoretest.Run(t, "pressure", p.Run)
	busy, other := domain.Stream("counter/busy"), domain.Stream("counter/other0")
	for i := 0; n.Log.PartitionOf(other) == n.Log.PartitionOf(busy); i++ {
		other = domain.Stream(fmt.Sprint("counter/other", i))
	}
	for i := range 8 { // nobody handles them yet
		if err := p.Append(t.Context(), command(fmt.Sprint("b", i), busy.Key(), 1)); err != nil {
			t.Fatal(err)
		}
	}
	eventstoretest.Until(t, "the backlog is noticed", func() bool { return p.Admit(busy) != nil })
	if err := p.Append(t.Context(), command("one more", busy.Key(), 1)); domain.ClassOf(err) != domain.Unavailable {
		t.Errorf("beyond the limit: %v", err)
	}
	if err := p.Admit(other); err != nil {
		t.Errorf("another partition: %v", err)
	}
	w, err := commands.New(commands.Config{Log: n.Log, History: n.History, Types: types, Deciders: []domain.AnyDecider{counter}, Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	eventstoretest.Run(t, "writers", w.Run)
	eventstoretest.Until(t, "it is handled", func() bool { return p.Admit(busy) == nil })
}
