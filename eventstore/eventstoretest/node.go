package eventstoretest

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/penstock-io/penstock/eventstore"
	"golang.org/x/sync/errgroup"
)

// Node is a log with the fold that writers need, kept without the projections engine.
type Node struct {
	Log     *eventstore.Log
	History *eventstore.History
	Table   *eventstore.Table
}

// Start opens a log and folds its streams into a table of its own until the test ends.
func Start(t testing.TB, cfg eventstore.Config) *Node {
	t.Helper()
	n := &Node{Log: Open(t, cfg)}
	var err error
	meta := eventstore.TableMeta{Name: "streams", Version: 1, Generation: 1, Cluster: n.Log.Cluster()}
	if n.Table, err = eventstore.OpenTable(filepath.Join(t.TempDir(), "streams.db"), meta); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Table.Close() })
	n.History = eventstore.NewHistory(n.Log, n.Table)
	Run(t, "fold", func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, topic := range []string{n.Log.Topics.Events, n.Log.Topics.Outcomes} {
			g.Go(func() error { return n.fold(ctx, topic) })
		}
		return g.Wait()
	})
	return n
}

func (n *Node) fold(ctx context.Context, topic string) error {
	from, err := n.Log.Start(ctx, topic)
	if err != nil {
		return err
	}
	if _, err := n.Table.Update(topic, from, func(*eventstore.Tx) error { return nil }); err != nil {
		return err
	}
	f, err := n.Log.Follow(ctx, topic, from)
	if err != nil {
		return err
	}
	fold := eventstore.StreamsFold{}
	for {
		b, err := f.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = n.Table.Update(topic, b.Next, func(tx *eventstore.Tx) error {
			for _, r := range b.Records {
				tx.At(r.Partition, r.Offset)
				switch {
				case r.Err != nil:
					return fmt.Errorf("record %d/%d: %w", r.Partition, r.Offset, r.Err)
				case r.Event != nil:
					if err := fold.Apply(tx, *r.Event); err != nil {
						return err
					}
				case r.Outcome != nil:
					if err := fold.ApplyOutcome(tx, *r.Outcome); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
