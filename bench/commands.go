package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// commands measures commands with an expected version, through HTTP, beside deliveries that are only made durable.
func (b *bench) commands(ctx context.Context) error {
	for _, k := range brokers() {
		if err := b.compareCommands(ctx, k); err != nil {
			return fmt.Errorf("commands, %s: %w", k.name, err)
		}
	}
	return nil
}

func (b *bench) compareCommands(ctx context.Context, k broker) (err error) {
	rounds, window := or(b.rounds, 3), or(b.window, 4*time.Second)
	defer func() { k.drop(b.id) }()
	bare, err := b.startRole(ctx, "bare-ingress", k)
	if err != nil {
		return err
	}
	defer bare.stop()
	node, err := b.startNode(ctx, k)
	if err != nil {
		return err
	}
	defer node.stop()
	fmt.Fprintf(b.out, "\ncommands: %d connections, each with a stream of its own and If-Match for every command, %d rounds of %s in turns; %s\n",
		b.connections, rounds, window, k.name)
	t := newTable(b.out, "round", "", "per second", "× bare", "p50", "p99", "refused")
	var ratios []float64
	base := 0
	for round := range rounds + 1 { // the first one warms up
		floor, err := press(ctx, bare.addr, b.connections, window, func(dst []byte, n int) []byte {
			return delivery(dst, bare.addr, fmt.Sprint(b.id, round), base+n, 256, time.Now())
		})
		if err != nil {
			return fmt.Errorf("bare-ingress: %w", err)
		}
		ours, err := expect(ctx, node.addr, filepath.Base(b.dir)+strconv.Itoa(round), b.connections, window)
		if err != nil {
			return fmt.Errorf("penstock: %w\n%s", err, node.journal)
		}
		if err := node.quiet(ctx); err != nil {
			return err
		}
		if round == 0 {
			continue
		}
		ratios = append(ratios, ours.rate()/floor.rate())
		for name, r := range map[string]tally{"bare-ingress": floor, "penstock": ours} {
			t.row(strconv.Itoa(round), name, fmt.Sprintf("%.0f", r.rate()), times(r.rate()/floor.rate()), ms(percentile(r.latencies, .5)),
				ms(percentile(r.latencies, .99)), strconv.Itoa(r.refused))
		}
	}
	t.end()
	fmt.Fprintf(b.out, "penstock / bare-ingress: %s commands per second (%s); median of %d rounds\n", times(median(ratios)), extent(ratios), rounds)
	return nil
}

// expect has each connection command a stream of its own, one command after the other, each with the version that the
// one before left.
func expect(ctx context.Context, addr, run string, connections int, d time.Duration) (total tally, err error) {
	lines, closer, err := dial(ctx, addr, connections)
	if err != nil {
		return tally{}, err
	}
	defer closer()
	var mu sync.Mutex
	var g errgroup.Group
	began := time.Now()
	for i, l := range lines {
		g.Go(func() error {
			var own tally
			for version := 0; time.Since(began) < d; version++ {
				t := time.Now()
				refusal, err := l.send(grantCredit(addr, fmt.Sprintf("%s-%d", run, i), version))
				if err != nil {
					return err
				}
				if own.add(time.Since(t), refusal); refusal != "" {
					return fmt.Errorf("command %d of stream %d: %s", version+1, i, refusal)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.join(own)
			return nil
		})
	}
	err = g.Wait()
	total.took = time.Since(began)
	slices.Sort(total.latencies)
	return total, err
}

// grantCredit is a command of the example business.
func grantCredit(host, customer string, version int) []byte {
	body := fmt.Sprintf(`{"customer":%q,"amount":100,"currency":"eur"}`, customer)
	return fmt.Appendf(nil, "POST /v1/commands/GrantCredit HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nIdempotency-Key: %s-%d\r\n"+
		"If-Match: \"%d\"\r\nContent-Length: %d\r\n\r\n%s", host, customer, version, version, len(body), body)
}
