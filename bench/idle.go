package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// idle holds many connections that get nothing but heartbeats, and then one event.
func (b *bench) idle(ctx context.Context) error {
	n, window := or(b.listeners, 10_000), or(b.window, 30*time.Second)
	fmt.Fprintf(b.out, "\nidle: %d connections for %s, then one event to all\n", n, window)
	t := newTable(b.out, "", "opened in", "resident per connection", "kernel", "CPU without connections", "CPU with them", "event at the first", "at the last")
	for _, kind := range []struct {
		name    string
		connect func(context.Context, *process, int, *receipts) (*listeners, error)
	}{{"SSE", followers}, {"WebSocket", sockets}} {
		cells, err := b.still(ctx, kind.connect, n, window)
		if err != nil {
			return fmt.Errorf("idle, %s: %w", kind.name, err)
		}
		t.row(append([]string{kind.name}, cells...)...)
	}
	t.end()
	return nil
}

func (b *bench) still(
	ctx context.Context, connect func(context.Context, *process, int, *receipts) (*listeners, error), n int, window time.Duration,
) (cells []string, err error) {
	node, err := b.startNode(ctx, broker{replication: 1})
	if err != nil {
		return nil, err
	}
	defer node.stop()
	publish := func() error {
		r, err := pace(ctx, node.addr, 1, time.Second, func(dst []byte, _ int) []byte {
			return delivery(dst, node.addr, node.topic, 1, or(b.body, 512), time.Now())
		})
		if err == nil && r.refused > 0 {
			err = errors.New(r.refusal)
		}
		return err
	}
	// cores is what the node computes within the window.
	cores := func() (float64, error) {
		before, err := node.cpu()
		if err == nil {
			err = sleep(ctx, window)
		}
		if err != nil {
			return 0, err
		}
		after, err := node.cpu()
		return (after - before).Seconds() / window.Seconds(), err
	}
	if err := node.quiet(ctx); err != nil {
		return nil, err
	}
	alone, err := node.footprint()
	if err != nil {
		return nil, err
	}
	without, err := cores()
	if err != nil {
		return nil, err
	}
	all := &receipts{every: 1}
	began := time.Now()
	ls, err := connect(ctx, node, n, all)
	if err != nil {
		return nil, err
	}
	defer ls.close()
	opened := time.Since(began)
	if err := node.quiet(ctx); err != nil {
		return nil, err
	}
	with, err := cores()
	if err != nil {
		return nil, err
	}
	connected, err := node.footprint()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(publish(), all.await(ctx, n)); err != nil {
		return nil, errors.Join(err, ls.close())
	}
	resident, kernel := connected.each(alone, n)
	took := all.sorted()
	return []string{
		opened.Round(time.Millisecond).String(), kib(resident), kib(kernel), fmt.Sprintf("%.1f %%", 100*without), fmt.Sprintf("%.1f %%", 100*with),
		ms(took[0]), ms(took[len(took)-1]),
	}, nil
}
