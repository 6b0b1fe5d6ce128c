package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"golang.org/x/sync/errgroup"
)

const (
	catchupEvents = 1_000_000
	catchupTail   = 100_000 // of them, kept in memory
)

// catchup measures how fast one subscriber that has been away gets what it missed, over each transport: what is older
// than the memory from Kafka, and what isn't from there.
func (b *bench) catchup(ctx context.Context) error {
	temp, err := os.MkdirTemp(b.dir, "catchup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	addrs, kind := os.Getenv("PENSTOCK_TEST_BROKERS"), "the Kafka of PENSTOCK_TEST_BROKERS"
	if addrs == "" {
		kind = "embedded broker"
		e, err := eventstore.StartEmbedded("127.0.0.1:0", filepath.Join(temp, "kafka"), slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer e.Close()
		addrs = e.Addr
	}
	cfg := eventstore.Config{Brokers: strings.Split(addrs, ","), Prefix: fmt.Sprintf("catchup%d", time.Now().UnixNano())}
	fmt.Fprintf(b.out, "\ncatch-up of one subscriber, events of 256 bytes; %s\n", kind)
	t := newTable(b.out, "from", "transport", "events", "took", "events/s", "MiB/s")
	for _, part := range []struct {
		from   string
		events int
		tail   int64
	}{{"Kafka", or(b.events, catchupEvents), 1 << 20}, {"memory", catchupTail, 1 << 30}} {
		cfg := cfg
		cfg.Prefix, cfg.TailBytes = cfg.Prefix+"-"+strings.ToLower(part.from), part.tail
		if err := b.behind(ctx, cfg, part.events, func(transport string, events, bytes int, took time.Duration) {
			t.row(part.from, transport, fmt.Sprint(events), took.Round(time.Millisecond).String(), fmt.Sprintf("%.0f", float64(events)/took.Seconds()),
				fmt.Sprintf("%.0f", float64(bytes)/took.Seconds()/(1<<20)))
		}); err != nil {
			return err
		}
	}
	t.end()
	return nil
}

// behind fills a log and has a client of each transport read all of it.
func (b *bench) behind(ctx context.Context, cfg eventstore.Config, events int, report func(transport string, events, bytes int, took time.Duration)) error {
	l, err := eventstore.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return l.Run(running) })
	defer g.Wait()
	defer stop()
	if err := fillEvents(ctx, l, events); err != nil {
		return err
	}
	feeds, err := egress.New(egress.Config{})
	if err != nil {
		return err
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := egress.ParseRequest(r.Header, r.URL.Query(), egress.OfEvents)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		sub, err := egress.Open(r.Context(), egress.Events(l, l.Topics.Events), req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		switch egress.Wants(r) {
		case "websocket":
			feeds.WebSocket(w, r, sub)
		case "ndjson":
			feeds.NDJSON(w, r, sub)
		default:
			feeds.SSE(w, r, sub)
		}
	}))
	defer server.Close()
	for _, transport := range []string{"SSE", "NDJSON", "NDJSON, zstd", "WebSocket"} {
		began := time.Now()
		n, size, err := readAll(ctx, strings.TrimPrefix(server.URL, "http://"), transport)
		if err != nil {
			return fmt.Errorf("%s: %w", transport, err)
		}
		if transport != "NDJSON, zstd" && n != events { // compressed bytes are not looked into
			return fmt.Errorf("%s: %d events arrived, not %d", transport, n, events)
		}
		report(transport, events, size, time.Since(began))
	}
	return nil
}

// fillEvents commits events to every partition.
func fillEvents(ctx context.Context, l *eventstore.Log, events int) error {
	g, ctx := errgroup.WithContext(ctx)
	partitions := int(l.Partitions())
	data := []byte(`{"sent":1,"x":"` + strings.Repeat("a", 230) + `"}`)
	for p := range partitions {
		g.Go(func() error {
			w, err := l.OpenWriter(ctx, int32(p))
			if err != nil {
				return err
			}
			defer w.Close()
			stream := domain.Stream(fmt.Sprintf("bench/%d", p))
			for left, version := events/partitions, uint64(1); left > 0; {
				var c eventstore.Commit
				for range min(left, 2000) {
					c.Events = append(c.Events, domain.Event{
						ID: fmt.Sprintf("%d-%d", p, version), Type: "bench.happened", Source: "/bench", Stream: stream, Version: version,
						Time: time.Now(), ContentType: "application/json", Data: data,
					})
					version++
				}
				left -= len(c.Events)
				if err := w.Commit(c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// readAll reads a feed to its end and counts.
func readAll(ctx context.Context, addr, transport string) (events, size int, err error) {
	q := url.Values{"from": {"earliest"}, "until": {"now"}}.Encode()
	if transport == "WebSocket" {
		conn, r, err := upgrade(ctx, addr, "/?"+q, 0)
		if err != nil {
			return 0, 0, err
		}
		defer conn.Close()
		to := &receipts{every: 1 << 40}
		counted := &counting{Reader: r}
		err = to.frames(bufio.NewReader(counted), conn)
		if !strings.HasPrefix(err.Error(), "closed: 03e8") { // 1000, complete
			return 0, 0, err
		}
		return int(to.count.Load()), counted.n, nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/?"+q, nil)
	if err != nil {
		return 0, 0, err
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Accept-Encoding", "identity")
	if transport != "SSE" {
		r.Header.Set("Accept", "application/x-ndjson")
	}
	if transport == "NDJSON, zstd" {
		r.Header.Set("Accept-Encoding", "zstd")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	counted := &counting{Reader: resp.Body}
	if transport == "NDJSON, zstd" {
		_, err := io.Copy(io.Discard, counted)
		return 0, counted.n, err
	}
	lines := bufio.NewReaderSize(counted, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if bytes.Contains(line, sentMember) {
			events++
		}
		if err == io.EOF {
			return events, counted.n, nil
		}
		if err != nil {
			return events, counted.n, err
		}
	}
}

// counting counts bytes.
type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}
