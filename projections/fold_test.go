package projections_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// BenchmarkFold measures what one delivery costs each built-in projection: its event of 2 KiB or its outcome, in
// batches of 5,000. The records are decoded already.
func BenchmarkFold(b *testing.B) {
	const batch, streams = 5000, 20_000
	body := []byte(`{"action":"opened","x":"` + strings.Repeat("a", 2000) + `"}`)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	stream := func(i int) domain.Stream { return domain.Stream(fmt.Sprintf("github/octo/hello#%d", i%streams)) }
	id := func(i int) string {
		return fmt.Sprintf("%08x-5f3c-11ef-%04x-9e1b2c3d4e5f", uint32(i)*2654435761, i%65521)
	}
	event := func(i int) domain.Event {
		return domain.Event{
			ID: fmt.Sprintf("%08x%024x", uint32(i)*2654435761, i), Type: "github.issues.opened", Source: "/sources/github", Stream: stream(i), Time: at,
			Version: uint64(i/streams) + 1, ContentType: "application/json", Correlation: id(i), Causation: id(i), Delivery: id(i),
			Verification: "github; body", Data: body,
		}
	}
	outcome := func(i int) domain.Outcome {
		e := event(i)
		return domain.Outcome{
			Kind: eventstore.KindDelivery, ID: id(i), Source: "github", Type: e.Type, Stream: e.Stream, Status: domain.Accepted, Version: e.Version,
			Events:       []domain.EventRef{{ID: e.ID, Type: e.Type, Version: e.Version, Offset: int64(i)}},
			Verification: "github; body", Received: at, Handled: at, Size: len(body), Digest: e.ID, Correlation: id(i), Inbox: int64(i),
		}
	}
	events := func(tx *eventstore.Tx, i int) error { return eventstore.StreamsFold{}.Apply(tx, event(i)) }
	outcomes := func(p projections.OutcomeProjection) func(tx *eventstore.Tx, i int) error {
		return func(tx *eventstore.Tx, i int) error { return p.ApplyOutcome(tx, outcome(i)) }
	}
	for _, c := range []struct {
		name  string
		apply func(tx *eventstore.Tx, i int) error
	}{
		{"streams/events", events},
		{"streams/outcomes", outcomes(eventstore.StreamsFold{})},
		{"deliveries", outcomes(projections.Deliveries{})},
		{"parked", outcomes(projections.Parked{})},
	} {
		b.Run(c.name, func(b *testing.B) {
			table, err := eventstore.OpenTable(filepath.Join(b.TempDir(), "t.db"), eventstore.TableMeta{Name: "x", Version: 1, Generation: 1})
			if err != nil {
				b.Fatal(err)
			}
			defer table.Close()
			b.ReportAllocs()
			for i := 0; i < b.N; {
				end := min(b.N, i+batch)
				next := eventstore.Position{Topic: [16]byte{1}, Next: []int64{int64(end)}}
				_, err := table.Update("t", next, func(tx *eventstore.Tx) error {
					for ; i < end; i++ {
						tx.At(0, int64(i))
						if err := c.apply(tx, i); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
