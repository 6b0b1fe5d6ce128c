package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// backlogSize is how many deliveries wait in the inbox.
const backlogSize = 300_000

// backlog measures how fast a node works off deliveries that wait in its inbox, beside the least that could be done
// with them: read each record and write it to another topic, in transactions of the same size.
func (b *bench) backlog(ctx context.Context) error {
	temp, err := os.MkdirTemp(b.dir, "penstock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	brokers, kind := os.Getenv("PENSTOCK_TEST_BROKERS"), "the Kafka of PENSTOCK_TEST_BROKERS"
	if brokers == "" {
		kind = "embedded broker, synced at every write"
		e, err := eventstore.StartEmbedded("127.0.0.1:0", filepath.Join(temp, "kafka"), slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer e.Close()
		brokers = e.Addr
	}
	prefix := fmt.Sprintf("backlog%d", time.Now().UnixNano())
	l, err := eventstore.Open(ctx, eventstore.Config{Brokers: strings.Split(brokers, ","), Prefix: prefix, TailBytes: 64 << 20})
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintf(b.out, "\nbacklog: %d deliveries of 2 KiB wait; %s\n", backlogSize, kind)
	if err := fillInbox(ctx, l); err != nil {
		return err
	}
	bare, err := copyInbox(ctx, l, strings.Split(brokers, ","), prefix)
	if err != nil {
		return err
	}
	node, folded, err := workOff(ctx, l, temp)
	if err != nil {
		return err
	}
	rate := func(d time.Duration) float64 { return backlogSize / d.Seconds() }
	fmt.Fprintf(b.out, "  bare transactional copy   %8.0f/s\n  writers                   %8.0f/s   %.2f× of the copy\n  and until they are folded %8.0f/s\n",
		rate(bare), rate(node), rate(node)/rate(bare), rate(folded))
	return nil
}

func fillInbox(ctx context.Context, l *eventstore.Log) error {
	body := []byte(`{"action":"opened","x":"` + strings.Repeat("a", 2000) + `"}`)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4000)
	for i := range backlogSize {
		g.Go(func() error {
			wait, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return l.Append(wait, eventstore.Entry{
				Kind: eventstore.KindDelivery, ID: fmt.Sprint("d", i), Source: "github", Type: "github.issues.opened",
				Stream: domain.Stream(fmt.Sprintf("github/octo/hello#%d", i%20_000)), Received: time.Now(), ContentType: "application/json",
				Verification: "github; body", Body: body,
			})
		})
	}
	return g.Wait()
}

// copyInbox reads every partition and writes it to the partition of the parked topic, which nobody reads.
func copyInbox(ctx context.Context, l *eventstore.Log, brokers []string, prefix string) (time.Duration, error) {
	end, err := l.End(ctx, l.Topics.Inbox)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for p := range l.Partitions() {
		g.Go(func() error {
			cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(fmt.Sprint(prefix, "copy", p)), kgo.ProducerLinger(0),
				kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(20*time.Millisecond), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
				kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.Topics.Inbox: {p: kgo.NewOffset().AtStart()}}))
			if err != nil {
				return err
			}
			defer cl.Close()
			for at := int64(0); at < end.Next[p]; {
				var out []*kgo.Record
				cl.PollRecords(ctx, 2000).EachRecord(func(r *kgo.Record) {
					at = r.Offset + 1
					out = append(out, &kgo.Record{Topic: l.Topics.Parked, Partition: p, Key: r.Key, Value: r.Value, Headers: r.Headers})
				})
				if err := errors.Join(ctx.Err(), cl.BeginTransaction()); err != nil {
					return err
				}
				if err := errors.Join(cl.ProduceSync(ctx, out...).FirstErr(), cl.EndTransaction(ctx, kgo.TryCommit)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	return time.Since(began), err
}

// workOff runs the writers and projections of a node until every delivery has its outcome, and until all of it is
// folded.
func workOff(ctx context.Context, l *eventstore.Log, temp string) (handled, folded time.Duration, err error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var writers *commands.Writers
	engine, err := projections.New(projections.Config{Log: l, Dir: filepath.Join(temp, "projections"), Logger: logger,
		Yield:       func() bool { return writers.Pressed() },
		Projections: []projections.Projection{eventstore.StreamsFold{}, projections.Deliveries{}, projections.Parked{}}})
	if err != nil {
		return 0, 0, err
	}
	defer engine.Close()
	streams, _ := engine.View("streams")
	metrics := prometheus.NewRegistry()
	writers, err = commands.New(commands.Config{Log: l, History: eventstore.NewHistory(l, streams.Table()), Logger: logger, Commits: 4, Metrics: metrics})
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.Run(ctx) })
	g.Go(func() error { return engine.Run(ctx) })
	g.Go(func() error { return commands.NewOutcomes(l, l.Append).Run(ctx) })
	began := time.Now()
	g.Go(func() error { return writers.Run(ctx) })
	g.Go(func() error {
		defer cancel()
		for n := 0; n < backlogSize; { // following the outcomes would have them decoded, which a node leaves for later
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			if n, err = committed(metrics); err != nil {
				return err
			}
		}
		handled = time.Since(began)
		for _, v := range engine.Views() {
			for v.Status().Lag > 0 {
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		folded = time.Since(began)
		return nil
	})
	if err = g.Wait(); errors.Is(err, context.Canceled) && folded > 0 {
		err = nil
	}
	return handled, folded, err
}

// committed is how many entries of the inbox the writers have committed.
func committed(metrics *prometheus.Registry) (n int, err error) {
	families, err := metrics.Gather()
	for _, f := range families {
		if f.GetName() == "penstock_commit_entries" {
			n = int(f.GetMetric()[0].GetHistogram().GetSampleSum())
		}
	}
	return n, err
}
