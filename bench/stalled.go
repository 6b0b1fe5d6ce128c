package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"
)

const (
	stalledEvents = 256
	stalledBody   = 64 << 10 // bytes; in all more than the kernel takes for a client that doesn't read
	// stalledCut is when a node must have cut a client that takes nothing: 15 s, and some for a busy machine.
	stalledCut = 20 * time.Second
)

// stalled looks for what one client that doesn't read costs the others. A window with it stands between two windows
// without; those two beside each other say how much is chance.
func (b *bench) stalled(ctx context.Context) error {
	n, rate, window, rounds := or(b.listeners, 1000), or(b.rate, 20), or(b.window, 8*time.Second), or(b.rounds, 5)
	node, err := b.startNode(ctx, broker{replication: 1})
	if err != nil {
		return err
	}
	defer node.stop()
	deliveries := 0
	events := func(rate int, d time.Duration, size int) (int, error) {
		base := deliveries
		r, err := pace(ctx, node.addr, rate, d, func(dst []byte, i int) []byte {
			return delivery(dst, node.addr, node.topic, base+i, size, time.Now())
		})
		deliveries += r.accepted()
		if err == nil && r.refused > 0 {
			err = fmt.Errorf("%d events were refused: %s", r.refused, r.refusal)
		}
		return r.accepted(), err
	}
	// What the stalled client wants and doesn't take.
	if _, err := events(stalledEvents/2, 2*time.Second, stalledBody); err != nil {
		return err
	}
	if err := node.quiet(ctx); err != nil {
		return err
	}
	all := &receipts{every: 4}
	ls, err := followers(ctx, node, n, all)
	if err != nil {
		return err
	}
	defer ls.close()
	want := 0
	measure := func(d time.Duration) ([]time.Duration, error) {
		if err := node.quiet(ctx); err != nil {
			return nil, err
		}
		all.taken()
		got, err := events(rate, d, or(b.body, 512))
		want += got * n
		if err == nil {
			err = all.await(ctx, want)
		}
		return all.taken(), err
	}
	if _, err := measure(2 * time.Second); err != nil { // to warm up
		return errors.Join(err, ls.close())
	}
	fmt.Fprintf(b.out, "\nstalled: %d connections, %d events a second, windows of %s; one more client asks for %d MiB and reads nothing\n",
		n, rate, window, stalledEvents*stalledBody>>20)
	t := newTable(b.out, "round", "p50, p99 without", "with", "without again", "p99 with ÷ without", "without again ÷ without")
	pair := func(l []time.Duration) string { return ms(percentile(l, .5)) + ", " + ms(percentile(l, .99)) }
	var effect, chance []float64
	var pooled [3][]time.Duration // the windows of all rounds: a p99 of one window is a few events
	taken := int64(0)
	for round := range rounds {
		var windows [3][]time.Duration
		for i := range windows {
			var client net.Conn
			if i == 1 {
				if client, err = stall(ctx, node.addr); err != nil {
					return err
				}
			}
			began := time.Now()
			windows[i], err = measure(window)
			if client == nil {
				if err != nil {
					return errors.Join(err, ls.close())
				}
				continue
			}
			if err == nil && round == rounds-1 { // it must be cut off: what it gets is not all
				if err = sleep(ctx, stalledCut-time.Since(began)); err == nil {
					client.SetReadDeadline(time.Now().Add(patience))
					taken, _ = io.Copy(io.Discard, client) // ends in one way or another
					if taken >= stalledEvents*stalledBody {
						err = errors.New("the stalled client was not cut off")
					}
				}
			}
			client.Close()
			if err != nil {
				return errors.Join(err, ls.close())
			}
		}
		for i, w := range windows {
			pooled[i] = append(pooled[i], w...)
		}
		p99 := func(i int) float64 { return float64(percentile(windows[i], .99)) }
		// Both neighbours together, so that what changes slowly cancels out.
		effect = append(effect, p99(1)/((p99(0)+p99(2))/2))
		chance = append(chance, p99(2)/p99(0))
		t.row(strconv.Itoa(round+1), pair(windows[0]), pair(windows[1]), pair(windows[2]), fmt.Sprintf("%.3f", effect[round]), fmt.Sprintf("%.3f", chance[round]))
	}
	t.end()
	fmt.Fprintf(b.out, "others' p99 with a stalled client: %.3f × (%s); without, again: %.3f × (%s); medians of %d rounds; it took %d KiB and was cut\n",
		median(effect), extent(effect), median(chance), extent(chance), rounds, taken>>10)
	for i := range pooled {
		slices.Sort(pooled[i])
	}
	without := slices.Sorted(slices.Values(slices.Concat(pooled[0], pooled[2])))
	ratio := func(p float64, a, b []time.Duration) float64 {
		return float64(percentile(a, p)) / float64(percentile(b, p))
	}
	fmt.Fprintf(b.out, "of all rounds together: p50 %.3f ×, p99 %.3f ×; without, again: p50 %.3f ×, p99 %.3f ×\n",
		ratio(.5, pooled[1], without), ratio(.99, pooled[1], without), ratio(.5, pooled[2], pooled[0]), ratio(.99, pooled[2], pooled[0]))
	return nil
}

// stall opens a feed from the beginning that takes as little as it can.
func stall(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn.(*net.TCPConn).SetReadBuffer(4 << 10) // where this fails, the kernel takes more; the backlog is for that
	_, err = fmt.Fprintf(conn, "GET /v1/events?from=earliest HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n", addr)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// taken returns the latencies that were kept, sorted, and forgets them.
func (r *receipts) taken() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.latencies
	r.latencies = nil
	slices.Sort(l)
	return l
}
