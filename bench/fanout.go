package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// fanout compares what it costs to bring one event to many connections: SSE and WebSocket of a node, and the least that
// SSE can cost.
func (b *bench) fanout(ctx context.Context) error {
	rounds := or(b.rounds, 3)
	names := []string{"bare-fanout", "penstock, SSE", "penstock, WebSocket"}
	rows := make([][]spreading, len(names)) // by contestant, by round
	frame := 0
	for range rounds {
		// The node goes first: the baseline sends frames of the same length.
		for i, connect := range []func(context.Context, *process, int, *receipts) (*listeners, error){followers, sockets} {
			node, err := b.startNode(ctx, broker{replication: 1})
			if err != nil {
				return fmt.Errorf("fanout: %w", err)
			}
			ours, err := b.spread(ctx, node, connect, func(dst []byte, n, size int) []byte {
				return delivery(dst, node.addr, node.topic, n, size, time.Now())
			}, or(b.body, 512))
			node.stop()
			if err != nil {
				return fmt.Errorf("fanout, %s: %w\n%s", names[i+1], err, node.journal)
			}
			if i == 0 {
				frame = ours.frame
			}
			rows[i+1] = append(rows[i+1], ours)
		}
		limit, err := b.startRole(ctx, "bare-fanout", broker{})
		if err != nil {
			return fmt.Errorf("fanout: %w", err)
		}
		bare, err := b.spread(ctx, limit, bareFollowers, func(dst []byte, _, size int) []byte {
			return publication(dst, limit.addr, size, time.Now())
		}, frame)
		limit.stop()
		if err != nil {
			return fmt.Errorf("fanout, bare-fanout: %w", err)
		}
		rows[0] = append(rows[0], bare)
	}
	fmt.Fprintf(b.out, "\nfanout: one event to %d connections, %d a second for %s, frames of %d bytes, %d rounds in turns\n",
		b.spreadTo(), b.spreadRate(), or(b.window, 10*time.Second), frame, rounds)
	t := newTable(b.out, "round", "", "CPU per delivered event", "× bare", "CPU without connections", "resident per connection", "× bare",
		"after events", "kernel", "p50", "p99")
	cost, memory := make([][]float64, len(names)), make([][]float64, len(names))
	for round := range rounds {
		bare := rows[0][round]
		for i := range names {
			s := rows[i][round]
			cost[i], memory[i] = append(cost[i], s.cost/bare.cost), append(memory[i], s.memory/bare.memory)
			t.row(strconv.Itoa(round+1), names[i], micros(s.cost), times(s.cost/bare.cost), fmt.Sprintf("%.1f %%", 100*s.idle),
				kib(s.memory), times(s.memory/bare.memory), kib(s.after), kib(s.kernel), ms(percentile(s.latencies, .5)), ms(percentile(s.latencies, .99)))
		}
	}
	t.end()
	for i := 1; i < len(names); i++ {
		fmt.Fprintf(b.out, "%s / bare-fanout: %s CPU per delivered event (%s), %s resident per connection (%s); medians of %d rounds\n",
			names[i], times(median(cost[i])), extent(cost[i]), times(median(memory[i])), extent(memory[i]), rounds)
	}
	return nil
}

func (b *bench) spreadTo() int { return or(b.listeners, 1000) }

// spreadRate is how many events a second two cores can bring to so many connections, the clients' work included, with
// room to spare.
func (b *bench) spreadRate() int { return or(b.rate, max(1, min(50, 50_000/b.spreadTo()))) }

func followers(ctx context.Context, p *process, n int, to *receipts) (*listeners, error) {
	return listen(ctx, p.addr, "/v1/events", n, to)
}

func bareFollowers(ctx context.Context, p *process, n int, to *receipts) (*listeners, error) {
	return listen(ctx, p.addr, "/sse", n, to)
}

// spreading is one round of one contestant.
type spreading struct {
	frame     int             // bytes of an event's block
	cost      float64         // CPU seconds for each event at each connection, without what the events cost by themselves
	idle      float64         // cores used by the same events with nobody connected
	memory    float64         // bytes for each connection, before the first event
	after     float64         // and after the last
	kernel    float64         // bytes in the kernel for each connection, before the first event
	latencies []time.Duration // from just before publishing, of a sample
}

// spread measures one contestant. publish makes the request for event n with size bytes.
//
//	CPU of the events with all connections, less CPU of the same events with none
//	─────────────────────────────────────────────────────────────────────────────
//	                         events × connections
func (b *bench) spread(
	ctx context.Context, p *process, connect func(context.Context, *process, int, *receipts) (*listeners, error),
	publish func(dst []byte, n, size int) []byte, size int,
) (s spreading, err error) {
	rate, window, n := b.spreadRate(), or(b.window, 10*time.Second), b.spreadTo()
	sent := 0
	// events publishes for d, and returns how many events and how much CPU time that took, a second after them included.
	events := func(d time.Duration) (int, time.Duration, error) {
		base := sent
		before, err := p.cpu()
		if err != nil {
			return 0, 0, err
		}
		t, err := pace(ctx, p.addr, rate, d, func(dst []byte, n int) []byte { return publish(dst, base+n, size) })
		if err == nil && t.refused > 0 {
			err = fmt.Errorf("%d events were refused: %s", t.refused, t.refusal)
		}
		if err == nil {
			err = sleep(ctx, time.Second)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%w\n%s", err, p.journal)
		}
		after, err := p.cpu()
		sent += t.accepted()
		return t.accepted(), after - before, err
	}

	// One connection, to warm up and to learn the length of a frame.
	one := &receipts{every: 1}
	ls, err := connect(ctx, p, 1, one)
	if err != nil {
		return s, err
	}
	published, _, err := events(2 * time.Second)
	if err = errors.Join(err, one.await(ctx, published), ls.close(), p.quiet(ctx)); err != nil {
		return s, fmt.Errorf("warm up: %w", err)
	}
	s.frame = int(one.frame.Load())

	alone, err := p.footprint()
	if err != nil {
		return s, err
	}
	all := &receipts{every: 16}
	if ls, err = connect(ctx, p, n, all); err != nil {
		return s, err
	}
	closing := sync.OnceValue(ls.close)
	defer closing()
	if err := p.quiet(ctx); err != nil {
		return s, err
	}
	connected, err := p.footprint()
	if err != nil {
		return s, err
	}
	published, busy, err := events(window)
	if err == nil {
		err = all.await(ctx, published*n)
	}
	if err != nil {
		return s, errors.Join(err, closing()) // a connection that ended explains what did not arrive
	}
	after, err := p.footprint()
	if err = errors.Join(err, closing(), p.quiet(ctx)); err != nil {
		return s, err
	}
	_, idle, err := events(window)
	s.cost = (busy - idle).Seconds() / float64(published*n)
	s.idle = idle.Seconds() / (window + time.Second).Seconds()
	s.memory, s.kernel = connected.each(alone, n)
	s.after, _ = after.each(alone, n)
	s.latencies = all.sorted()
	return s, err
}

// publication appends a whole request to bareFanout with a block of size bytes.
func publication(dst []byte, host string, size int, sent time.Time) []byte {
	frame := make([]byte, 0, size)
	frame = fill(append(frame, "id: "...), size/4)
	frame = fmt.Appendf(frame, "\ndata: {\"sent\":%d,\"fill\":\"", sent.UnixNano())
	frame = fill(frame, size-len("\"}\n\n"))
	frame = append(frame, "\"}\n\n"...)
	dst = fmt.Appendf(dst, "POST /pub HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", host, len(frame))
	return append(dst, frame...)
}

// link is a published block, and the way to the next.
type link struct {
	published chan struct{} // closed once block and next are set
	block     []byte
	next      *link
}

// bareFanout is the least that an SSE server can do with net/http: write a block that was made before to every
// connection, and flush it. It keeps blocks only as long as somebody has still to write them.
func bareFanout(ctx context.Context, _ role) error {
	mux := http.NewServeMux()
	fanOut(mux)
	return serve(ctx, mux, nil)
}

func fanOut(mux *http.ServeMux) {
	var mu sync.Mutex
	last := &link{published: make(chan struct{})}
	mux.HandleFunc("POST /pub", func(w http.ResponseWriter, r *http.Request) {
		block, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<21))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		at := last
		last = &link{published: make(chan struct{})}
		at.block, at.next = slices.Clip(block), last
		mu.Unlock()
		close(at.published)
	})
	mux.HandleFunc("GET /sse", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		at := last
		mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		flusher := http.NewResponseController(w)
		if err := errors.Join(flusher.SetReadDeadline(time.Time{}), flusher.Flush()); err != nil {
			return
		}
		for { // a client that left is noticed at the next block
			<-at.published
			if _, err := w.Write(at.block); err != nil || flusher.Flush() != nil {
				return
			}
			at = at.next
		}
	})
}
