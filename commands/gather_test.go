package commands_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/prometheus/client_golang/prometheus"
)

// TestABusyDoorGetsFewerTransactions: while more comes in than the machine has time for, a writer makes no more than one
// every half second, loses nothing by it, and goes on at once when the rush is over.
func TestABusyDoorGetsFewerTransactions(t *testing.T) {
	cfg := eventstoretest.Config(t)
	n := eventstoretest.Start(t, cfg)
	metrics := prometheus.NewRegistry()
	var busy atomic.Bool
	busy.Store(true)
	w, err := commands.New(commands.Config{Log: n.Log, History: n.History, Types: types, Deciders: []domain.AnyDecider{counter},
		Busy: busy.Load, Logger: cfg.Logger, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	eventstoretest.Run(t, "writers", w.Run)
	handled := func() (transactions uint64, entries float64) {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "penstock_commit_entries" {
				h := f.GetMetric()[0].GetHistogram()
				return h.GetSampleCount(), h.GetSampleSum()
			}
		}
		return 0, 0
	}
	const all = 300
	began := time.Now()
	for i := range all {
		if err := n.Log.Append(t.Context(), delivery(fmt.Sprint("d", i), "one", 1)); err != nil {
			t.Fatal(err)
		}
	}
	transactions, _ := handled()
	if most := uint64(time.Since(began)/(500*time.Millisecond)) + 1; transactions > most {
		t.Errorf("%d transactions in %v, want at most %d", transactions, time.Since(began), most)
	}
	busy.Store(false)
	eventstoretest.Until(t, "everything is handled", func() bool { _, n := handled(); return n == all })
	o := bench{n, nil}.outcome(t, fmt.Sprint("d", all-1))
	if o.Status != domain.Accepted || o.Version != all {
		t.Errorf("the last one: %+v", o)
	}
}
