package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// latency measures how long a delivery takes to whoever waits for its event.
func (b *bench) latency(ctx context.Context) error {
	for _, k := range brokers() {
		if err := b.compareLatency(ctx, k); err != nil {
			return fmt.Errorf("latency, %s: %w", k.name, err)
		}
	}
	return nil
}

// delays are the latencies of one contestant, from just before the request is sent.
type delays struct {
	answer   []time.Duration // until the answer
	consumer []time.Duration // until another client of Kafka has the event, read_committed
	feed     []time.Duration // until an SSE client has it
	late     time.Duration
}

func (b *bench) compareLatency(ctx context.Context, k broker) (err error) {
	rate, window, size := or(b.rate, 200), or(b.window, 10*time.Second), or(b.body, 2048)
	defer func() { err = errors.Join(err, k.drop(b.id)) }()
	bare, err := b.startRole(ctx, "bare-ingress", k)
	if err != nil {
		return err
	}
	defer bare.stop()
	floor, err := b.delaysOf(ctx, bare, false)
	if err != nil {
		return fmt.Errorf("bare-ingress: %w", err)
	}
	node, err := b.startNode(ctx, k)
	if err != nil {
		return err
	}
	defer node.stop()
	ours, err := b.delaysOf(ctx, node, true)
	if err != nil {
		return fmt.Errorf("penstock: %w", err)
	}
	fmt.Fprintf(b.out, "\nlatency: %d-byte signed deliveries, %d a second for %s; %s\n", size, rate, window, k.name)
	t := newTable(b.out, "", "to 2xx p50", "p99", "to a consumer p50", "p99", "to an SSE client p50", "p99", "sent late by at most")
	t.row(slices.Concat([]string{"bare-ingress"}, pair(floor.answer), pair(floor.consumer), []string{"", "", ms(floor.late)})...)
	t.row(slices.Concat([]string{"penstock"}, pair(ours.answer), pair(ours.consumer), pair(ours.feed), []string{ms(ours.late)})...)
	t.row(slices.Concat([]string{"penstock / bare"}, ratios(ours.answer, floor.answer), ratios(ours.consumer, floor.consumer),
		[]string{"", "", ""})...)
	t.end()
	return nil
}

func pair(sorted []time.Duration) []string {
	return []string{ms(percentile(sorted, .5)), ms(percentile(sorted, .99))}
}

func ratios(ours, bare []time.Duration) []string {
	var cells []string
	for _, p := range []float64{.5, .99} {
		cells = append(cells, times(percentile(ours, p).Seconds()/percentile(bare, p).Seconds()))
	}
	return cells
}

// delaysOf measures one contestant, after two seconds of the same load.
func (b *bench) delaysOf(ctx context.Context, p *process, feed bool) (d delays, err error) {
	rate, window, size := or(b.rate, 200), or(b.window, 10*time.Second), or(b.body, 2048)
	arrivals := map[string]*receipts{"the consumer": {every: 1}}
	stop, err := consume(ctx, p, arrivals["the consumer"])
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if feed {
		arrivals["the SSE client"] = &receipts{every: 1}
		ls, err := listen(ctx, p.addr, "/v1/events", 1, arrivals["the SSE client"])
		if err != nil {
			return d, err
		}
		defer func() { err = errors.Join(err, ls.close()) }()
	}
	sent := 0
	for _, span := range []time.Duration{2 * time.Second, window} {
		for _, r := range arrivals {
			r.forget()
		}
		base := sent
		t, err := pace(ctx, p.addr, rate, span, func(dst []byte, n int) []byte {
			return delivery(dst, p.addr, p.topic, base+n, size, time.Now())
		})
		if err != nil {
			return d, fmt.Errorf("%w\n%s", err, p.journal)
		}
		if t.refused > 0 {
			return d, fmt.Errorf("%d deliveries were refused: %s", t.refused, t.refusal)
		}
		sent += t.accepted()
		for who, r := range arrivals {
			if err := r.await(ctx, sent); err != nil {
				return d, fmt.Errorf("%s: %w", who, err)
			}
		}
		d.answer, d.late = t.latencies, t.late
	}
	d.consumer = arrivals["the consumer"].sorted()
	if feed {
		d.feed = arrivals["the SSE client"].sorted()
	}
	return d, nil
}

// consume reads the topic of p from its beginning, as another team would, until stop is called.
func consume(ctx context.Context, p *process, to *receipts) (stop func() error, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(p.kafka...), kgo.ConsumeTopics(p.topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for {
			fetches := client.PollFetches(ctx)
			now := time.Now()
			if ctx.Err() != nil {
				done <- nil
				return
			}
			if err := fetches.Err(); err != nil {
				done <- fmt.Errorf("consume %s: %w", p.topic, err)
				return
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if ns, ok := sentAt(r.Value); ok {
					to.take(ns, now)
				}
			})
		}
	}()
	return func() error {
		cancel()
		err := <-done
		client.Close()
		return err
	}, nil
}
