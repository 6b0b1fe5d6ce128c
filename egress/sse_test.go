package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/prometheus/client_golang/prometheus"
)

// tailReader follows a tail as an *eventstore.Follower does, without a log behind it.
type tailReader struct {
	tail *eventstore.Tail
	at   eventstore.TailReader
}

func (r *tailReader) Position() eventstore.Position { return r.at.At }
func (r *tailReader) CaughtUp() bool                { return r.at.At.Covers(r.tail.End()) }

func (r *tailReader) Next(ctx context.Context) (*eventstore.Batch, error) {
	b, covered, err := r.tail.Next(ctx, &r.at)
	if err == nil && !covered {
		return nil, eventstore.ErrExpired
	}
	return b, err
}

// feed is a tail and a server that serves it as the node does.
type feed struct {
	t     *testing.T
	tail  *eventstore.Tail
	feeds *Feeds
	url   string
	reg   *prometheus.Registry
	kind  Kind
	rows  func(context.Context) (Reader, error)
}

// serve starts a server for a tail. wrap, if given, comes between the server and the feed.
func serve(t *testing.T, tail *eventstore.Tail, cfg Config, wrap func(http.ResponseWriter) http.ResponseWriter) *feed {
	t.Helper()
	f := &feed{t: t, tail: tail, reg: prometheus.NewRegistry()}
	cfg.Registerer = f.reg
	if cfg.Stagger == 0 {
		cfg.Stagger = time.Nanosecond
	}
	cfg.Problem = func(err error) (int, []byte) {
		return http.StatusUnprocessableEntity, fmt.Appendf(nil, `{"detail":%q}`, err)
	}
	if cfg.Logger == nil {
		cfg.Logger = eventstoretest.Logger(t)
	}
	var err error
	if f.feeds, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(f.handler(wrap))
	t.Cleanup(func() {
		f.stop()
		s.CloseClientConnections() // some clients of these tests never read
		s.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := f.feeds.Drain(ctx); err != nil { // on HTTP/2 a closed server doesn't wait for its handlers
			t.Error(err)
			return
		}
		if n := len(f.feeds.byIP); n != 0 {
			t.Errorf("%d clients are left", n)
		}
	})
	f.url = s.URL
	return f
}

// stop begins to drain and doesn't wait.
func (f *feed) stop() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	f.feeds.Drain(ended) // its error says who is still there
}

// source is the tail as the node offers its log.
func (f *feed) source() Source {
	earliest := func(context.Context) (eventstore.Position, error) { p, _ := f.tail.Reach(); return p, nil }
	if f.rows != nil {
		earliest = nil // as the changes of a projection
	}
	return Source{
		Name: "events",
		Resolve: func(ctx context.Context, s Start, _ Filter) (eventstore.Position, error) {
			switch s.kind {
			case fromEarliest:
				return earliest(ctx)
			case fromCursor:
				return s.cursor, nil
			}
			return f.tail.End(), nil
		},
		Follow: func(_ context.Context, from eventstore.Position) (Reader, error) {
			begin, end := f.tail.Reach()
			switch {
			case end.SameLog(from) != nil:
				return nil, end.SameLog(from)
			case !from.Covers(begin):
				return nil, eventstore.ErrExpired
			}
			return &tailReader{f.tail, eventstore.TailReader{At: from.Clone()}}, nil
		},
		Earliest: earliest, End: f.tail.End, Rows: f.rows,
	}
}

// handler serves the tail at any path, over the transport that the request asks for.
func (f *feed) handler(wrap func(http.ResponseWriter) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wrap != nil {
			w = wrap(w)
		}
		if r.URL.Path == "/live" {
			f.feeds.Live(w, r, func(ctx context.Context, _ string, q url.Values) (*Subscription, error) {
				return f.open(ctx, http.Header{}, q)
			})
			return
		}
		sub, err := f.open(r.Context(), r.Header, r.URL.Query())
		if err != nil {
			f.feeds.refuseError(w, err)
			return
		}
		if r.URL.Path == "/page" {
			f.page(w, r, sub)
			return
		}
		switch Wants(r) {
		case "websocket":
			f.feeds.WebSocket(w, r, sub)
		case "ndjson":
			f.feeds.NDJSON(w, r, sub)
		default:
			f.feeds.SSE(w, r, sub)
		}
	})
}

func (f *feed) open(ctx context.Context, h http.Header, q url.Values) (*Subscription, error) {
	req, err := ParseRequest(h, q, f.kind)
	if err != nil {
		return nil, err
	}
	return Open(ctx, f.source(), req)
}

// metric sums the samples of a metric that have the given label value; "" takes all.
func (f *feed) metric(name, label string) (sum float64) {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (f *feed) drops(reason string) (sum float64) {
	return f.metric("penstock_feed_drops_total", reason)
}

func TestEncodedOnce(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 12)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	all := f.connect("", "from=earliest").rest()
	var some []block
	for i, b := range all {
		if records[i].Event.Type == "b" {
			some = append(some, b)
		}
	}
	if got := f.connect("", "from=earliest&type=b").rest(); !slices.Equal(got, some) {
		t.Errorf("a filtered feed has other blocks:\n got %v\nwant %v", got, some)
	}
	for _, r := range records {
		r.Frame(frameSSE, func() []byte { t.Errorf("%s was not kept", r.Event.ID); return nil })
	}
	if got := f.metric("feed_messages_sent_total", ""); got != float64(len(all)+len(some)) {
		t.Errorf("%v events counted, %d sent", got, len(all)+len(some))
	}
}

func TestHeaderAndOpening(t *testing.T) {
	f := serve(t, eventstore.NewTail(at(4, 5, 6), 1<<20), Config{}, nil)
	c := f.connect("", "")
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store, no-transform",
		"X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff", "Content-Encoding": "", "Content-Length": "",
	} {
		if got := c.resp.Header.Get(name); got != want || c.resp.StatusCode != 200 {
			t.Errorf("%d %s: %q, want %q", c.resp.StatusCode, name, got, want)
		}
	}
	b, err := c.next()
	var says struct{ Heartbeat, Lifetime int }
	if err != nil || b.name != "penstock.opened" || b.id != at(4, 5, 6).String() || json.Unmarshal([]byte(b.data), &says) != nil ||
		says.Heartbeat != 15 || says.Lifetime < 719 || says.Lifetime > 900 {
		t.Fatalf("the first block is %+v, %v", b, err)
	}
	var wait int
	if fmt.Sscan(c.retry, &wait); wait < 2000 || wait > 5000 {
		t.Errorf("retry: %q", c.retry)
	}
	if b := c.until("penstock.caught-up"); b.id != at(4, 5, 6).String() || b.data != `{"cursor":"`+b.id+`"}` {
		t.Errorf("caught up: %+v", b)
	}
	resp, err := http.Head(f.url)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
}

// A feed that shows little still moves its client's cursor past what it drops.
func TestIDsWithoutEvents(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	f := serve(t, tail, Config{Heartbeat: time.Nanosecond}, nil)
	c := f.connect("", "type=b")
	c.until("penstock.caught-up")
	dropped := &eventstore.Record{Partition: 1, Event: &domain.Event{ID: "1", Type: "a"}}
	foreign := &eventstore.Record{Partition: 1, Offset: 1, Err: errors.New("not ours")}
	tail.Append(&eventstore.Batch{Records: []*eventstore.Record{dropped, foreign}, Next: at(0, 2, 0), Shared: true}, 100)
	if b, err := c.next(); err != nil || b != (block{"penstock.unreadable", at(0, 2, 0).String(), `{"reason":"1/1"}`}) {
		t.Errorf("after a foreign record: %+v, %v", b, err)
	}
	dropped = &eventstore.Record{Partition: 2, Event: &domain.Event{ID: "1", Type: "a"}}
	tail.Append(&eventstore.Batch{Records: []*eventstore.Record{dropped}, Next: at(0, 2, 1), Shared: true}, 100)
	if b, err := c.next(); err != nil || b != (block{id: at(0, 2, 1).String()}) {
		t.Errorf("after a dropped event: %+v, %v", b, err)
	}
	tail.Append(&eventstore.Batch{Next: at(0, 3, 1), Shared: true}, 100) // a marker
	if b, err := c.next(); err != nil || b != (block{id: at(0, 3, 1).String()}) {
		t.Errorf("after a marker: %+v, %v", b, err)
	}
	tick(t, tail)
	if b, err := c.next(); err != nil || b != (block{id: at(0, 3, 1).String()}) {
		t.Errorf("after a tick: %+v, %v", b, err)
	}
}

// tick ticks until the test ends: one tick alone is lost on a reader that is just about to wait.
func tick(t *testing.T, tail *eventstore.Tail) {
	eventstoretest.Run(t, "ticks", func(ctx context.Context) error {
		for ctx.Err() == nil {
			tail.Tick()
			time.Sleep(time.Millisecond)
		}
		return nil
	})
}

func TestWhenAnIDIsDue(t *testing.T) {
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		quiet  time.Duration
		unsaid bool
		want   bool
	}{
		{4 * time.Second, true, false}, {5 * time.Second, true, true},
		{9 * time.Second, false, false}, {10 * time.Second, false, true}, // the next tick would be after 15 s
	} {
		s := stream{feeds: f, last: noon, unsaid: c.unsaid}
		if got := s.due(noon.Add(c.quiet)); got != c.want {
			t.Errorf("after %v, unsaid %v: %v", c.quiet, c.unsaid, got)
		}
	}
}

func TestInjection(t *testing.T) {
	evil := "x\r\nid: evil\r\n\r\ndata: y\n\nevent: error\rretry: 1\r\r\x00\u2028"
	e := domain.Event{ID: "1" + evil, Type: evil, Source: evil, Stream: domain.Stream(evil), ContentType: "text/plain", Data: []byte(evil), Delivery: evil}
	change := eventstore.Change{Key: evil, Row: []byte("{\r\n\"a\":\r[\n]}")}
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	f := serve(t, tail, Config{}, nil)
	c := f.connect("", "")
	c.until("penstock.caught-up")
	retry := c.retry
	tail.Append(&eventstore.Batch{Next: at(2, 0, 0), Shared: true, Records: []*eventstore.Record{
		{Offset: 0, Event: &e}, {Offset: 1, Change: &change},
	}}, 100)
	b, err := c.next()
	var got struct{ ID, Type, Subject, Data string }
	if err != nil || b.name != "message" || b.id != at(1, 0, 0).String() || json.Unmarshal([]byte(b.data), &got) != nil {
		t.Fatalf("%+v, %v", b, err)
	}
	if got.ID != e.ID || got.Type != evil || got.Subject != evil || got.Data != evil {
		t.Errorf("got %+v", got)
	}
	b, err = c.next()
	if err != nil || b.id != at(2, 0, 0).String() || !strings.Contains(b.data, `"row":{"a":[]}`) || c.retry != retry {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestDeadlines(t *testing.T) {
	for _, proto := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP/%d", proto), func(t *testing.T) {
			body := `"` + strings.Repeat("x", 3*unit) + `"`
			tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
			rec := &eventstore.Record{Event: &domain.Event{ID: "1", ContentType: "application/json", Data: []byte(body)}}
			tail.Append(&eventstore.Batch{Records: []*eventstore.Record{rec}, Next: at(1, 0, 0), Shared: true}, 100)
			d := deadlines{plain: proto == 1}
			f := serve(t, tail, Config{Progress: time.Hour}, d.wrap)
			with := http.DefaultClient
			if proto == 2 {
				f.url, with = f.serveHTTP2(d.wrap)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", f.url+"/?from=earliest", nil)
			if err != nil {
				t.Fatal(err)
			}
			c := f.do(cancel, r, with, "")
			if got := c.rest(); len(got) != 1 || !strings.Contains(got[0].data, body) || c.resp.ProtoMajor != proto {
				t.Errorf("%d messages over HTTP/%d", len(got), c.resp.ProtoMajor)
			}
			// The client may have the bytes before the server has left its flush.
			if proto == 2 {
				eventstoretest.Until(t, "the deadline to be cleared", d.cleared)
			}
			f.stop()
			c.until("penstock.closing")
			eventstoretest.Until(t, "the deadline to be cleared", d.cleared)
			d.report(t)
		})
	}
}

// deadlines watches the order of writes, flushes and deadlines.
type deadlines struct {
	http.ResponseWriter
	plain    bool
	mu       sync.Mutex
	at       time.Time
	pending  int
	flushes  int
	problems []string
}

func (d *deadlines) wrap(w http.ResponseWriter) http.ResponseWriter { d.ResponseWriter = w; return d }

// Unwrap gives the ResponseController what isn't overridden here.
func (d *deadlines) Unwrap() http.ResponseWriter { return d.ResponseWriter }

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at = t; d.pending > 0 {
		d.problems = append(d.problems, "moved before the flush")
	}
	return http.NewResponseController(d.ResponseWriter).SetWriteDeadline(t)
}

func (d *deadlines) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A minute for a slow machine, out of the hour that these tests give.
	if left := time.Until(d.at); left < 59*time.Minute || left > 90*time.Minute {
		d.problems = append(d.problems, fmt.Sprintf("written with %v left", left))
	}
	if d.pending += len(b); d.pending > unit {
		d.problems = append(d.problems, "more than a unit without a flush")
	}
	return d.ResponseWriter.Write(b)
}

func (d *deadlines) cleared() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at.IsZero()
}

func (d *deadlines) report(t *testing.T) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.problems {
		t.Error(p)
	}
}

func (d *deadlines) FlushError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending = 0; !d.plain && d.at.IsZero() {
		d.problems = append(d.problems, "flushed without a deadline")
	}
	d.flushes++
	return http.NewResponseController(d.ResponseWriter).Flush()
}

func TestOneFlushPerBatch(t *testing.T) {
	rng := newRand(t)
	d := deadlines{plain: true}
	f := serve(t, tailOf(rng, history(rng, 50)), Config{Progress: time.Hour}, d.wrap)
	c := f.connect("", "from=earliest")
	c.rest()
	flushes := func() int { d.mu.Lock(); defer d.mu.Unlock(); return d.flushes }
	// The opening goes out before the reader is asked; what is in memory goes out together.
	if got := flushes(); got != 2 {
		t.Errorf("%d flushes for a short history, want 2", got)
	}
	for i, n := range []int64{1, 3} {
		var b eventstore.Batch
		b.Next, b.Shared = f.tail.End().Clone(), true
		for range n {
			b.Records = append(b.Records, &eventstore.Record{Offset: b.Next.Next[0], Event: &domain.Event{ID: "x"}})
			b.Next.Next[0]++
		}
		f.tail.Append(&b, 100)
		c.ids(int(n))
		if got, want := flushes(), 3+i; got != want {
			t.Errorf("%d flushes after a batch of %d, want %d", got, n, want)
		}
	}
	d.report(t)
}

// A client that stops reading is cut off, whatever waits for it; one that reads is not, even while the other hangs.
func TestSlowClient(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 4<<20)
	f := serve(t, tail, Config{Progress: 500 * time.Millisecond, Heartbeat: time.Nanosecond}, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
	good := f.connect("", "")
	eventstoretest.Until(t, "two feeds", func() bool { return f.feeds.Connections() == 2 })
	body := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	for o := int64(0); f.drops(stalled) == 0; o++ {
		if o == 2000 {
			t.Fatal("the client took 200 MB without reading")
		}
		rec := &eventstore.Record{Offset: o, Event: &domain.Event{ID: fmt.Sprintf("0/%d", o), Data: body}}
		tail.Append(&eventstore.Batch{Records: []*eventstore.Record{rec}, Next: at(o+1, 0, 0), Shared: true}, 100_000)
		if got := good.ids(1); got[0] != rec.Event.ID {
			t.Fatalf("the other client got %v, want %v", got, rec.Event.ID)
		}
		if o > 200 { // the buffers between are full
			eventstoretest.Until(t, "the slow client to be cut off", func() bool { return f.drops(stalled) > 0 })
		}
	}
	eventstoretest.Until(t, "one feed", func() bool { return f.feeds.Connections() == 1 })
	tick(t, tail)
	good.until("")
}

func TestClientLeaves(t *testing.T) {
	f := serve(t, eventstore.NewTail(at(0, 0, 0), 1<<20), Config{}, nil)
	c := f.connect("", "")
	c.until("penstock.caught-up")
	c.close()
	eventstoretest.Until(t, "no feed", func() bool { return f.feeds.Connections() == 0 })
	if n := f.metric("feed_connections_active", ""); n != 0 {
		t.Errorf("%v connections by the metric", n)
	}
}

func TestReaderFails(t *testing.T) {
	for _, c := range []struct {
		err                error
		name, data, reason string
	}{
		{fmt.Errorf("x: %w", eventstore.ErrExpired), "penstock.reset", `{"reason":"expired","earliest":"` + at(1, 2, 3).String() + `"}`, reset},
		{errors.Join(eventstore.ErrClosed, eventstore.ErrReset), "penstock.reset", `{"reason":"reset","earliest":"` + at(1, 2, 3).String() + `"}`, reset},
		{eventstore.ErrFuture, "penstock.reset", `{"reason":"future","earliest":"` + at(1, 2, 3).String() + `"}`, reset},
		{eventstore.ErrClosed, "penstock.closing", `{"reason":"unavailable"}`, unavailable},
		// A broken connection to Kafka; as the end of a finite feed it would be a silent loss.
		{fmt.Errorf("fetch: %w", io.EOF), "penstock.closing", `{"reason":"unavailable"}`, unavailable},
	} {
		tail := eventstore.NewTail(at(1, 2, 3), 1<<20)
		f := serve(t, tail, Config{}, nil)
		client := f.connect("", "")
		id := client.until("penstock.caught-up").id
		tail.Fail(c.err)
		if b, err := client.next(); err != nil || b != (block{c.name, id, c.data}) {
			t.Errorf("%v: %+v, %v", c.err, b, err)
		}
		if b, err := client.next(); err != io.EOF {
			t.Errorf("%v: more after the end: %+v, %v", c.err, b, err)
		}
		if f.drops(c.reason) != 1 {
			t.Errorf("%v is not counted as %s", c.err, c.reason)
		}
	}
}

// busy always has something at hand and never looks at the context.
type busy struct{ n int64 }

func (b *busy) Position() eventstore.Position { return at(b.n) }
func (b *busy) CaughtUp() bool                { return false }

func (b *busy) Next(context.Context) (*eventstore.Batch, error) {
	if b.n++; b.n == 100 {
		return nil, errors.New("still asked")
	}
	rec := &eventstore.Record{Offset: b.n - 1, Event: &domain.Event{ID: "1", Type: "a"}}
	return &eventstore.Batch{Records: []*eventstore.Record{rec}, Next: at(b.n)}, nil
}

func TestDrainWhileBusy(t *testing.T) {
	for _, kind := range []string{"a", "b"} { // sent, and dropped by the filter
		f, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		rec := recorder{httptest.NewRecorder()}
		c, _ := f.admit(t.Context(), httptest.NewRequest("GET", "/", nil), overSSE)
		sub := &Subscription{Reader: &busy{}, Filter: Filter{types: []string{kind}}}
		p := &pipe{out: response{rec, http.NewResponseController(rec)}, progress: f.cfg.Progress}
		s := f.newStream(sub, p, sseEncoder{}, f.enter(c, sub, nil))
		c.cancel(errShutdown)
		err = s.run(c.ctx)
		if !errors.Is(err, errShutdown) {
			t.Errorf("type %s: %v", kind, err)
		}
		s.finish(c.ctx, err)
		if got := rec.Body.String(); strings.Contains(got, "specversion") || !strings.Contains(got, "event: penstock.closing") {
			t.Errorf("type %s: %s", kind, got)
		}
	}
}

// recorder takes deadlines.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

// serveHTTP2 starts another server for the same feed, and returns the client for it.
func (f *feed) serveHTTP2(wrap func(http.ResponseWriter) http.ResponseWriter) (string, *http.Client) {
	s := httptest.NewUnstartedServer(f.handler(wrap))
	s.EnableHTTP2 = true
	s.StartTLS()
	f.t.Cleanup(func() { f.stop(); s.Close() })
	return s.URL, s.Client()
}

func TestHTTP2(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 10)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	url, with := f.serveHTTP2(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", url+"/?from=earliest", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := f.do(cancel, r, with, "")
	if got := messageIDs(t, c.rest()); c.resp.ProtoMajor != 2 || !slices.Equal(got, idsOf(records)) {
		t.Errorf("HTTP/%d: %v", c.resp.ProtoMajor, got)
	}
	if err := f.feeds.Drain(ctx); err != nil {
		t.Error(err)
	}
	if b := c.until("penstock.closing"); b.data != `{"reason":"shutdown"}` {
		t.Errorf("%+v", b)
	}
}
