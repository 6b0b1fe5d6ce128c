package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// message reads one message of a socket.
func message(t *testing.T, c *websocket.Conn) (m said) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return m
}

// closed reads until the socket is closed, and returns the code, the close frame's reason and the last message before.
func closed(t *testing.T, c *websocket.Conn) (code websocket.StatusCode, reason string, last said) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			e, _ := errors.AsType[websocket.CloseError](err)
			return e.Code, e.Reason, last
		}
		last = said{}
		if err := json.Unmarshal(b, &last); err != nil {
			t.Fatal(err)
		}
	}
}

// refusedUpgrade demands that there is no upgrade, and returns the answer's status.
func (f *feed) refusedUpgrade(path string, h http.Header, protocols ...string) int {
	f.t.Helper()
	c, resp, err := websocket.Dial(f.t.Context(), f.url+path, &websocket.DialOptions{HTTPHeader: h, Subprotocols: protocols})
	if err == nil {
		c.CloseNow()
		f.t.Errorf("%s %v: upgraded", path, h)
		return 0
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
		f.t.Errorf("%s %v: %s answered with %s", path, h, resp.Status, ct)
	}
	return resp.StatusCode
}

func TestWebSocketHandshake(t *testing.T) {
	f := serve(t, eventstore.NewTail(at(0, 0, 0), 1<<20), Config{Origins: []string{"pages.example", "https://*.apps.example"}}, nil)
	host := strings.TrimPrefix(f.url, "http://")
	for origin, ok := range map[string]bool{
		"": true, "http://" + host: true, "https://pages.example": true, "http://PAGES.example": true, "https://a.apps.example": true,
		"http://a.apps.example": false, "https://apps.example": false, "https://evil.example": false, "null": false, "https://pages.example.evil": false,
	} {
		h := http.Header{}
		if origin != "" {
			h.Set("Origin", origin)
		}
		if !ok {
			if status := f.refusedUpgrade("/", h); status != 403 {
				t.Errorf("origin %q: %d", origin, status)
			}
			continue
		}
		c, _, err := websocket.Dial(t.Context(), f.url, &websocket.DialOptions{HTTPHeader: h})
		if err != nil {
			t.Errorf("origin %q: %v", origin, err)
			continue
		}
		c.CloseNow()
	}
	if status := f.refusedUpgrade("/?cursor=x", nil); status != 422 {
		t.Errorf("a damaged cursor: %d", status)
	}
	if status := f.refusedUpgrade("/", nil, "graphql-ws"); status != 422 {
		t.Errorf("another subprotocol: %d", status)
	}
	for _, protocol := range []string{"penstock.v1", "cloudevents.json"} {
		if got := f.socket("/", "other", protocol).Subprotocol(); got != protocol {
			t.Errorf("%s: %q", protocol, got)
		}
	}
	for _, bad := range []string{"*", "", "["} {
		if _, err := New(Config{Origins: []string{bad}}); err == nil {
			t.Errorf("origin %q is taken", bad)
		}
	}
}

// With cloudevents.json every message is a CloudEvent, what is said about the feed too.
func TestWebSocketCloudEvents(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 5)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	c := f.socket("/?from=earliest&until=now", "cloudevents.json")
	var types []string
	for {
		_, b, err := c.Read(t.Context())
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
				t.Error(err)
			}
			break
		}
		var e struct{ SpecVersion, ID, Type, Source, Cursor string }
		if err := json.Unmarshal(b, &e); err != nil || e.SpecVersion != "1.0" || e.ID == "" || e.Type == "" {
			t.Fatalf("%s: %v", b, err)
		}
		types = append(types, e.Type)
	}
	want := "penstock.opened "
	for _, r := range records {
		want += r.Event.Type + " "
	}
	if got := strings.Join(types, " "); got != want+"penstock.caught-up penstock.closing" {
		t.Error(got)
	}
}

func TestWebSocketCloseCodes(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(f *feed, c *websocket.Conn)
		code   websocket.StatusCode
		reason string
	}{
		"shutdown":    {func(f *feed, _ *websocket.Conn) { f.stop() }, 1001, "shutdown"},
		"a message":   {func(f *feed, c *websocket.Conn) { c.Write(f.t.Context(), websocket.MessageText, []byte("{}")) }, 1008, "protocol"},
		"expired":     {func(f *feed, _ *websocket.Conn) { f.tail.Fail(eventstore.ErrExpired) }, 4410, "expired"},
		"reset":       {func(f *feed, _ *websocket.Conn) { f.tail.Fail(eventstore.ErrReset) }, 4409, "reset"},
		"unavailable": {func(f *feed, _ *websocket.Conn) { f.tail.Fail(eventstore.ErrClosed) }, 1013, "unavailable"},
		"disconnect": {func(f *feed, _ *websocket.Conn) {
			list, _ := f.feeds.Open("", 1)
			if !f.feeds.Disconnect(list[0].ID) || f.feeds.Disconnect("x") {
				f.t.Error("disconnected another")
			}
		}, 4503, "disconnected"},
	} {
		f := serve(t, eventstore.NewTail(at(3, 0, 0), 1<<20), Config{}, nil)
		ws := f.socket("/")
		for message(t, ws).Penstock != "caught-up" {
		}
		c.do(f, ws)
		code, reason, last := closed(t, ws)
		if code != c.code || reason != c.reason || last.Reason != c.reason {
			t.Errorf("%s: %d %q after %+v", name, code, reason, last)
		}
		if last.Penstock == "closing" && last.Cursor != at(3, 0, 0).String() {
			t.Errorf("%s: it does not say where to go on: %+v", name, last)
		}
	}
}

// The lifetime ends a feed with its cursor; the client was told how long it would be.
func TestLifetime(t *testing.T) {
	tail := eventstore.NewTail(at(3, 0, 0), 1<<20)
	f := serve(t, tail, Config{Lifetime: time.Millisecond}, nil)
	tick(t, tail)
	c := f.connect("", "")
	if b := c.until("penstock.closing"); b.data != `{"reason":"lifetime"}` || b.id != at(3, 0, 0).String() {
		t.Errorf("%+v", b)
	}
	if code, reason, last := closed(t, f.socket("/")); code != 1001 || reason != "lifetime" || last.Cursor != at(3, 0, 0).String() {
		t.Errorf("%d %s %+v", code, reason, last)
	}
	if f.metric("feed_errors_total", "")+f.metric("ws_errors_total", "") != 0 {
		t.Error("the end of a lifetime counts as an error")
	}
}

// A client that answers no ping is cut after two, although its connection stands and its buffers are empty.
func TestPingsWithoutPong(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	f := serve(t, tail, Config{Ping: 20 * time.Millisecond}, nil)
	tick(t, tail)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	alive := f.socket("/")
	reads := make(chan error, 1)
	go func() { // whoever reads answers pings
		for {
			if _, _, err := alive.Read(t.Context()); err != nil {
				reads <- err
				return
			}
		}
	}()
	until(t, "the mute client to be cut", func() bool { return f.drops(stalled) == 1 })
	until(t, "one connection", func() bool { return f.feeds.Connections() == 1 })
	select {
	case err := <-reads:
		t.Errorf("the other was cut too: %v", err)
	default:
	}
	if f.metric("ws_errors_total", stalled) != 1 {
		t.Error("not counted")
	}
}

// A client that takes too little, but takes it, is told before it is cut, with its cursor; a stalled one isn't.
func TestSlowWebSocketIsTold(t *testing.T) {
	out := &slowOutlet{}
	p := pipe{out: out, progress: time.Millisecond, lazy: true}
	if err := p.write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	p.since = p.since.Add(-time.Second)
	if err := p.flush(); err != errSlow {
		t.Fatalf("%v", err)
	}
	f, _ := New(Config{})
	sub := &Subscription{Reader: &busy{n: 7}}
	s := f.newStream(sub, &p, lineEncoder{end: "\n"}, &presence{conn: &connection{transport: overWebSocket}})
	e := s.finish(t.Context(), errSlow)
	if !e.told || closeCodes[e.reason] != 4508 || !strings.Contains(string(out.got), `"reason":"slow"`) || !strings.Contains(string(out.got), `"cursor":"`+at(7).String()) {
		t.Errorf("%+v: %s", e, out.got)
	}
}

type slowOutlet struct {
	got  []byte
	word string
	do   func()
}

// on calls do when the word is written.
func (o *slowOutlet) on(word string, do func()) { o.word, o.do = word, do }

func (o *slowOutlet) Write(b []byte) (int, error) {
	o.got = append(o.got, b...)
	if o.do != nil && strings.Contains(string(b), o.word) {
		o.do()
	}
	return len(b), nil
}

func (o *slowOutlet) Flush() error                     { return nil }
func (o *slowOutlet) SetWriteDeadline(time.Time) error { return nil }

func TestStalledWebSocket(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 4<<20)
	f := serve(t, tail, Config{Progress: 300 * time.Millisecond}, nil)
	c := f.socket("/") // and reads nothing
	good := f.connect("", "")
	until(t, "two feeds", func() bool { return f.feeds.Connections() == 2 })
	body := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	for o := int64(0); f.drops(stalled) == 0; o++ {
		if o == 2000 {
			t.Fatal("the client took 200 MB without reading")
		}
		rec := &eventstore.Record{Offset: o, Event: &domain.Event{ID: fmt.Sprintf("0/%d", o), Data: body}}
		tail.Append(&eventstore.Batch{Records: []*eventstore.Record{rec}, Next: at(o+1, 0, 0), Shared: true}, 100_000)
		good.ids(1)
		if o > 200 {
			until(t, "the stalled client to be cut", func() bool { return f.drops(stalled) > 0 })
		}
	}
	until(t, "one feed", func() bool { return f.feeds.Connections() == 1 })
	c.CloseNow()
}

// Many feeds on one socket: each has its own cursor, errors and end, and names itself in every message.
func TestLive(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 20)
	tail := tailOf(rng, records)
	f := serve(t, tail, Config{}, nil)
	ws := f.socket("/live", "penstock.v1")
	send := func(format string, args ...any) {
		t.Helper()
		if err := ws.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string][]string{}
	cursors := map[string]string{}
	var others []said
	read := func(enough func(said) bool) said {
		t.Helper()
		for {
			m := message(t, ws)
			if m.Cursor != "" {
				cursors[m.Subscription] = m.Cursor
			}
			if m.Penstock == "" {
				got[m.Subscription] = append(got[m.Subscription], m.ID)
			} else {
				others = append(others, m)
			}
			if enough(m) {
				return m
			}
		}
	}
	is := func(name, what string) func(said) bool {
		return func(m said) bool { return m.Subscription == name && m.Penstock == what }
	}
	read(is("", "opened"))
	send(`{"subscribe":"all","feed":"/v1/events?from=earliest"}`)
	read(is("all", "caught-up"))
	send(`{"subscribe":"b \"only\"","feed":"/v1/events?from=earliest&type=b"}`)
	read(is(`b "only"`, "caught-up"))
	// What is wrong is told to the one, and the others go on.
	for demand, detail := range map[string]string{
		`{"subscribe":"all","feed":"/v1/events"}`:             "of this name",
		`{"subscribe":"x","feed":"/v1/events?form=earliest"}`: "no parameter",
		`{"subscribe":"x","feed":"https://else.example/"}`:    "a path of this node",
		`{"subscribe":"x","feed":"/v1/events","cursor":"y"}`:  "cursor",
		`{"unsubscribe":"x"}`:                                 "no subscription",
		`{"subscribe":`:                                       "a message is",
		`{}`:                                                  "a message is",
		`{"subscribe":"` + strings.Repeat("x", 65) + `"}`:     "at most 64 bytes",
	} {
		send("%s", demand)
		if m := read(func(m said) bool { return m.Penstock == "refused" }); !strings.Contains(m.Problem.Detail, detail) {
			t.Errorf("%s: %+v", demand, m)
		}
	}
	if list, _ := f.feeds.Open("", 10); len(list) != 2 || f.feeds.Connections() != 1 {
		t.Errorf("%d feeds on %d connections", len(list), f.feeds.Connections())
	}
	// One leaves with its cursor, and comes back to what came meanwhile.
	send(`{"unsubscribe":"all"}`)
	if m := read(is("all", "unsubscribed")); m.Cursor != tail.End().String() {
		t.Errorf("%+v", m)
	}
	var next []*eventstore.Record
	for i := range 5 {
		next = append(next, &eventstore.Record{Partition: 1, Offset: tail.End().Next[1] + int64(i), Event: &domain.Event{ID: fmt.Sprintf("new-%d", i), Type: "b"}})
	}
	tailOn(tail, next)
	read(func(m said) bool { return m.ID == "new-4" && m.Subscription != "all" })
	send(`{"subscribe":"all","feed":"/v1/events?from=earliest","cursor":%q}`, cursors["all"])
	read(func(m said) bool { return m.ID == "new-4" && m.Subscription == "all" })
	if want := append(idsOf(records), idsOf(next)...); !sameSet(got["all"], want) {
		t.Errorf("all: %v, want %v", got["all"], want)
	}
	// A finite one ends by itself, and its name is free again.
	send(`{"subscribe":"some","feed":"/v1/events?from=earliest&until=now"}`)
	read(is("some", "closing"))
	until(t, "the finite feed to be gone", func() bool { list, _ := f.feeds.Open("", 10); return len(list) == 2 })
	// One that an operator ends leaves the others alone.
	list, _ := f.feeds.Open("", 10)
	f.feeds.Disconnect(list[0].ID)
	if m := read(func(m said) bool { return m.Penstock == "closing" }); m.Reason != disconnected || m.Subscription == "" || m.Cursor == "" {
		t.Errorf("%+v", m)
	}
	for i := range maxSubscriptions {
		send(`{"subscribe":"s%d","feed":"/v1/events"}`, i)
	}
	if m := read(func(m said) bool { return m.Penstock == "refused" }); !strings.Contains(m.Problem.Detail, "at most 64") {
		t.Errorf("%+v", m)
	}
	f.stop()
	if code, reason, last := closed(t, ws); code != 1001 || reason != "shutdown" || last.Penstock != "closing" {
		t.Errorf("%d %s %+v", code, reason, last)
	}
	if n := f.metric("ws_messages_received_total", ""); n < 70 {
		t.Errorf("%v messages received", n)
	}
}

// A message that is too long ends the socket as RFC 6455 says.
func TestLiveReadLimit(t *testing.T) {
	f := serve(t, eventstore.NewTail(at(0), 1<<20), Config{}, nil)
	ws := f.socket("/live")
	message(t, ws)
	if err := ws.Write(t.Context(), websocket.MessageText, make([]byte, readLimit+100)); err != nil {
		t.Fatal(err)
	}
	if code, _, _ := closed(t, ws); code != websocket.StatusMessageTooBig {
		t.Errorf("closed with %d", code)
	}
}

// permessage-deflate is spoken only where it is switched on.
func TestDeflate(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 30)
	for i, on := range []bool{false, true} {
		f := serve(t, tailOf(rng, records), Config{Deflate: on}, nil)
		c, resp, err := websocket.Dial(t.Context(), f.url+"/?from=earliest", &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if got := resp.Header.Get("Sec-WebSocket-Extensions") != ""; got != on {
			t.Errorf("%d: %v", i, got)
		}
		for id := ""; id != records[len(records)-1].Event.ID; {
			id = message(t, c).ID
		}
	}
}

func TestLimitPerPrincipal(t *testing.T) {
	f := serve(t, eventstore.NewTail(at(0, 0, 0), 1<<20), Config{MaxPerPrincipal: 1, Principal: func(r *http.Request) string { return r.Header.Get("Who") }}, nil)
	f.connect("", "", "Who", "a").until("penstock.caught-up")
	if status := f.refusedUpgrade("/", http.Header{"Who": {"a"}}); status != 429 {
		t.Errorf("%d", status)
	}
	f.connect("", "", "Who", "b").until("penstock.caught-up")
	f.connect("", "").until("penstock.caught-up") // nobody in particular is not limited
	list, more := f.feeds.Open("", 2)
	rest, last := f.feeds.Open(list[1].ID, 2)
	if len(list) != 2 || !more || len(rest) != 1 || last {
		t.Errorf("%+v, %+v", list, rest)
	}
	if r, err := http.Get(f.url + "/page?" + url.Values{"from": {"earliest"}}.Encode()); err != nil || r.StatusCode != 200 {
		t.Errorf("a page that doesn't wait: %v, %v", r, err)
	}
}
