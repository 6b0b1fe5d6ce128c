package commands

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/domain/billing"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// BenchmarkLoad measures how long a writer needs for the state of a stream of 100,000 events that it doesn't have in
// memory: with a snapshot that is as old as one may get, and without any.
func BenchmarkLoad(b *testing.B) {
	const events = 100_000
	l := eventstoretest.Open(b, eventstoretest.Config(b))
	table, err := eventstore.OpenTable(filepath.Join(b.TempDir(), "streams.db"), eventstore.TableMeta{Name: "streams", Version: 1, Generation: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	snapshots, err := eventstore.OpenSnapshots(l, filepath.Join(b.TempDir(), "snapshots.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer snapshots.Close()
	w, err := New(Config{Log: l, History: eventstore.NewHistory(l, table), Types: billing.Types, Deciders: []domain.AnyDecider{billing.Account},
		Snapshots: snapshots, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	stream, at := domain.Stream("billing/cus_1"), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	next := eventstore.Position{Topic: [16]byte{1}, Next: make([]int64, l.Partitions())}
	for v := 0; v < events; {
		end := v + 10_000
		next.Next[0] = int64(end)
		_, err := table.Update(l.Topics.Events, next, func(tx *eventstore.Tx) error {
			for ; v < end; v++ {
				tx.At(0, int64(v))
				e := domain.Event{ID: fmt.Sprint("e", v), Type: "billing.credit.granted", Source: "/commands/GrantCredit", Stream: stream, Version: uint64(v) + 1, Time: at,
					ContentType: "application/json", Causation: fmt.Sprint("c", v), Correlation: fmt.Sprint("c", v),
					Data: fmt.Appendf(nil, `{"customer":"cus_1","amount":5,"currency":"eur","balance":%d}`, 5*(v+1))}
				if err := (eventstore.StreamsFold{}).Apply(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	load := func(b *testing.B, version uint64) state {
		fresh, err := newBatch(w, 0)
		if err != nil {
			b.Fatal(err)
		}
		fresh.begin(0, 0)
		st, reason, err := fresh.load(b.Context(), billing.Account, stream, version)
		if err != nil || reason != nil || st.version != version {
			b.Fatal(st.version, reason, err)
		}
		return st
	}
	b.Run("no-snapshot", func(b *testing.B) {
		for b.Loop() {
			load(b, events)
		}
	})
	old := load(b, events-w.cfg.SnapshotEvery+1)
	encoded, err := billing.Account.EncodeAny(old.value)
	if err != nil {
		b.Fatal(err)
	}
	err = snapshots.Put([]eventstore.Snapshot{{Stream: string(stream), Version: old.version, Codec: billing.Account.SnapshotVersion(), State: encoded}})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("oldest-snapshot", func(b *testing.B) {
		for b.Loop() {
			load(b, events)
		}
	})
}
