package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	stormMissed = 20  // events between the clients' cursor and their return
	stormOthers = 100 // connections that are there before
	stormCalm   = 5 * time.Second
)

// storm has many clients come back at the same moment to a node that was restarted, each with the cursor that it had,
// while others follow.
func (b *bench) storm(ctx context.Context) error {
	n, rate := or(b.listeners, 10_000), or(b.rate, 5)
	fmt.Fprintf(b.out, "\nstorm: %d clients come back at once after a restart, %d events behind, at %d events a second; %d others follow\n",
		n, stormMissed, rate, stormOthers)
	t := newTable(b.out, "round", "all live after", "failed attempts", "resident before", "peak", "after", "others' p50, p99 before", "meanwhile", "after")
	for round := range or(b.rounds, 1) {
		cells, err := b.comeBack(ctx, n, rate)
		if err != nil {
			return fmt.Errorf("storm: %w", err)
		}
		t.row(append([]string{fmt.Sprint(round + 1)}, cells...)...)
	}
	t.end()
	return nil
}

func (b *bench) comeBack(ctx context.Context, n, rate int) (cells []string, err error) {
	dir, err := os.MkdirTemp(b.dir, "node-")
	if err != nil {
		return nil, err
	}
	prefix := b.id + "-" + filepath.Base(dir)
	node, err := b.startNodeOn(ctx, broker{replication: 1}, dir, prefix)
	if err != nil {
		return nil, err
	}
	defer func() { node.stop() }()
	sent := 0
	publish := func(ctx context.Context, rate int, d time.Duration) error {
		base := sent
		r, err := pace(ctx, node.addr, rate, d, func(dst []byte, i int) []byte {
			return delivery(dst, node.addr, prefix, base+i, or(b.body, 512), time.Now())
		})
		sent += r.accepted()
		if err == nil && r.refused > 0 {
			err = fmt.Errorf("%d events were refused: %s", r.refused, r.refusal)
		}
		return err
	}
	cursor, err := latestCursor(ctx, node.addr)
	if err == nil {
		err = publish(ctx, stormMissed, time.Second)
	}
	if err != nil {
		return nil, err
	}
	node.stop()
	if node, err = b.startNodeOn(ctx, broker{replication: 1}, dir, prefix); err != nil {
		return nil, err
	}
	if err := node.quiet(ctx); err != nil {
		return nil, err
	}

	others, back := &receipts{every: 1}, &receipts{every: 1 << 40}
	first, err := followers(ctx, node, stormOthers, others)
	if err != nil {
		return nil, err
	}
	defer first.close()
	before, err := node.memory()
	if err != nil {
		return nil, err
	}
	publishing, stop := context.WithCancel(ctx)
	defer stop()
	var load errgroup.Group
	defer load.Wait()
	defer stop()
	load.Go(func() error {
		for publishing.Err() == nil {
			if err := publish(publishing, rate, time.Second); err != nil && publishing.Err() == nil {
				return err
			}
		}
		return nil
	})
	if err := sleep(ctx, stormCalm); err != nil {
		return nil, err
	}
	calm := others.taken()

	peak := watchPeak(ctx, node)
	defer peak.stop()
	var failed atomic.Int64
	began := time.Now()
	ls, err := listenOver(ctx, n, n, back, func(ctx context.Context, i int) (net.Conn, func() error, error) {
		for try := 1; ; try++ {
			conn, body, err := subscribe(ctx, node.addr, "/v1/events?cursor="+url.QueryEscape(cursor), i)
			if err == nil || ctx.Err() != nil || try == 20 {
				return conn, func() error { return back.blocks(body) }, err
			}
			failed.Add(1)
			if err := sleep(ctx, 200*time.Millisecond+rand.N(time.Second)); err != nil {
				return nil, nil, err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer ls.close()
	for until := time.Now().Add(time.Minute); back.caughtUp.Load() < int64(n); {
		if time.Now().After(until) {
			return nil, errors.Join(fmt.Errorf("%d of %d are live after a minute", back.caughtUp.Load(), n), ls.close())
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return nil, err
		}
	}
	live := time.Since(began)
	meanwhile := others.taken()
	if err := sleep(ctx, stormCalm); err != nil {
		return nil, err
	}
	calmAgain := others.taken()
	highest := peak.stop()
	stop()
	if err := load.Wait(); err != nil {
		return nil, err
	}
	// Nobody has missed anything: what was published after the cursor has come to each, and no more. A publication that
	// was stopped on its way counts if it has come at all.
	if err := node.quiet(ctx); err != nil {
		return nil, err
	}
	got := back.count.Load()
	if got%int64(n) != 0 || got/int64(n) < int64(sent) || got/int64(n) > int64(sent+rate) {
		return nil, errors.Join(fmt.Errorf("%d events came to %d clients, of %d that were published", got, n, sent), ls.close())
	}
	after, err := node.memory()
	pair := func(l []time.Duration) string { return ms(percentile(l, .5)) + ", " + ms(percentile(l, .99)) }
	return []string{
		live.Round(time.Millisecond).String(), fmt.Sprint(failed.Load()), mib(before), mib(highest), mib(after), pair(calm), pair(meanwhile), pair(calmAgain),
	}, err
}

// latestCursor is the cursor at the end of a node's events.
func latestCursor(ctx context.Context, addr string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/events?from=latest", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var page struct{ Next string }
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil || page.Next == "" {
		return "", fmt.Errorf("a page without a cursor, %s: %w", resp.Status, err)
	}
	return page.Next, nil
}

// watch looks at a process's memory every few milliseconds.
type watch struct {
	cancel context.CancelFunc
	done   chan struct{}
	peak   int64
}

func watchPeak(ctx context.Context, p *process) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for sleep(ctx, 10*time.Millisecond) == nil {
			if m, err := p.memory(); err == nil { // a process that has ended is found elsewhere
				w.peak = max(w.peak, m)
			}
		}
	}()
	return w
}

// stop returns the most that was seen.
func (w *watch) stop() int64 {
	w.cancel()
	<-w.done
	return w.peak
}

func mib(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }
