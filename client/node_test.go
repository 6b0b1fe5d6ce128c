package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var ways = []client.Transport{client.WebSocket, client.SSE, client.LongPoll}

// collect follows a finite feed to its end.
func collect(t *testing.T, url string, o client.Options) (out []client.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := client.Follow(ctx, url, o, func(m client.Message) error {
		out = append(out, m)
		return nil
	})
	if err != nil {
		t.Errorf("%s over %s: %v", url, o.Transport, err)
	}
	return out
}

// data are the bytes of messages of some kind, sorted: between partitions there is no order.
func data(messages []client.Message, kinds ...client.Kind) (out []string) {
	for _, m := range messages {
		if slices.Contains(kinds, m.Kind) {
			out = append(out, string(m.Data))
		}
	}
	slices.Sort(out)
	return out
}

// TestEveryTransportSaysTheSame: a feed is the same over every transport, byte for byte, and ends by itself if it is
// finite.
func TestEveryTransportSaysTheSame(t *testing.T) {
	n := newNode(t).start(t)
	const customers, each = 5, 50
	for i := range customers * each {
		n.grant(t, fmt.Sprintf("cus_%d", i%customers), i+1)
	}
	var want, limited []string
	for _, way := range ways {
		o := client.Options{Transport: way, From: "earliest"}
		got := collect(t, n.url+"/v1/events?type=billing.credit.granted&until=now", o)
		events := data(got, client.KindEvent)
		if want == nil {
			want = events
		}
		if len(events) != customers*each || !slices.Equal(events, want) {
			t.Errorf("%s: %d events, the first %.200s, want %.200s", way, len(events), events, want)
		}
		for _, m := range got {
			if m.Kind != client.KindEvent {
				continue
			}
			if e, err := m.Event(); err != nil || e.Type != "billing.credit.granted" || e.StreamVersion == 0 || !strings.HasPrefix(e.Subject, "billing/cus_") || len(e.Body()) == 0 {
				t.Fatalf("%s: %+v, %v", way, e, err)
			}
			if _, err := m.Change(); err == nil {
				t.Errorf("an event is taken for a change: %s", m.Data)
			}
		}
		// What a limit leaves comes after the cursor of the last one.
		got = collect(t, n.url+"/v1/events?type=billing.credit.granted&limit=7", o)
		if limited = data(got, client.KindEvent); len(limited) != 7 {
			t.Errorf("%s: %d events with a limit of 7", way, len(limited))
		}
		last := got[len(got)-1]
		rest := collect(t, n.url+"/v1/events?type=billing.credit.granted&until=now", client.Options{Transport: way, Cursor: last.Cursor})
		if all := append(data(rest, client.KindEvent), limited...); len(all) != len(want) || !slices.Equal(slices.Sorted(slices.Values(all)), want) {
			t.Errorf("%s: %d events before and after the cursor %q", way, len(all), last.Cursor)
		}
	}
	for _, way := range []client.Transport{client.WebSocket, client.SSE} {
		f := follow(t, n.url+"/v1/projections/balances/changes?snapshot=true", client.Options{Transport: way}, 0, 0)
		eventstoretest.Until(t, "the rows are there", func() bool { return len(f.of(client.KindSnapshot)) == 1 })
		if rows := f.of(client.KindRow); len(rows) != customers || rows[0].Cursor != "" || f.of(client.KindSnapshot)[0].Cursor == "" {
			t.Errorf("%s: %d rows", way, len(rows))
		}
	}
	for _, way := range ways { // what comes from now on
		f := follow(t, n.url+"/v1/events", client.Options{Transport: way}, 0, 0)
		eventstoretest.Until(t, "it waits", func() bool { return len(f.of(client.KindCaughtUp)) == 1 })
		if old := f.of(client.KindEvent); len(old) > 0 {
			t.Errorf("%s begins with %d events of the past", way, len(old))
		}
	}
	var changes []*following
	for _, way := range ways {
		f := follow(t, n.url+"/v1/projections/balances/changes", client.Options{Transport: way}, 0, 0)
		eventstoretest.Until(t, "it waits", func() bool { return len(f.of(client.KindCaughtUp)) == 1 })
		changes = append(changes, f)
	}
	n.grant(t, "cus_0", 1)
	for i, f := range changes {
		eventstoretest.Until(t, "the change comes", func() bool { return len(f.of(client.KindChange)) == 1 })
		m := f.of(client.KindChange)[0]
		if c, err := m.Change(); err != nil || c.Op != "upsert" || c.Key != "cus_0" || c.Snapshot || m.Cursor == "" || string(m.Data) != string(changes[0].of(client.KindChange)[0].Data) {
			t.Errorf("%s: %+v, %v", ways[i], m, err)
		}
		if err := f.end(t); !errors.Is(err, context.Canceled) {
			t.Errorf("%s ends with %v", ways[i], err)
		}
	}
}

// TestNothingIsLostOrRepeated: while the node restarts under load, and connections are cut in the middle of messages,
// every event comes once and in the order of its stream, over every transport.
func TestNothingIsLostOrRepeated(t *testing.T) {
	n := newNode(t).start(t)
	w := newWire(t, n.cfg.Listen)
	const customers = 4
	var sent [customers]atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range customers {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n.grant(t, fmt.Sprintf("cus_%d", i), 1)
				sent[i].Add(1)
			}
		})
	}
	end := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer end()
	total := func() (sum int64) {
		for i := range sent {
			sum += sent[i].Load()
		}
		return sum
	}
	var all []*following
	for _, way := range append(ways, client.Auto) {
		all = append(all, follow(t, w.url()+"/v1/events?type=billing.credit.granted", client.Options{Transport: way, From: "earliest"}, 0, 0))
	}
	for round := range 4 {
		w.budget.Store(10_000) // a handful of events, then torn
		w.cut()
		enough := total() + 60
		eventstoretest.Until(t, "the load goes on", func() bool { return total() >= enough })
		if round%2 == 1 {
			n.stop()
			n.start(t)
		}
	}
	w.budget.Store(0)
	w.cut()
	end()
	for i, f := range all {
		eventstoretest.Until(t, "everything has come", func() bool { return int64(len(f.of(client.KindEvent))) >= total() })
		seen := map[string]uint64{}
		for _, m := range f.of(client.KindEvent) {
			e, err := m.Event()
			if seen[e.Subject]++; err != nil || e.StreamVersion != seen[e.Subject] {
				t.Fatalf("transport %d: version %d of %s comes as number %d, %v", i, e.StreamVersion, e.Subject, seen[e.Subject], err)
			}
		}
		for c := range customers {
			if got := seen[fmt.Sprintf("billing/cus_%d", c)]; got != uint64(sent[c].Load()) {
				t.Errorf("transport %d: %d events of customer %d, want %d", i, got, c, sent[c].Load())
			}
		}
		if resets := f.of(client.KindReset); len(resets) > 0 {
			t.Errorf("transport %d: a reset that nobody made: %+v", i, resets)
		}
		t.Logf("%d events over %d connections: %v", total(), len(f.connected()), f.connected()[len(f.connected())-1])
		f.end(t)
	}
}

// obstacle is a proxy for HTTP that some requests don't get through.
type obstacle struct {
	*httptest.Server
	websockets, streams atomic.Int64
}

func newObstacle(t *testing.T, n *node, websocket, stream http.HandlerFunc) *obstacle {
	to, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	pass := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	o := &obstacle{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") != "":
			if o.websockets.Add(1); websocket != nil {
				websocket(w, r)
				return
			}
		case strings.Contains(r.Header.Get("Accept"), "event-stream"):
			if o.streams.Add(1); stream != nil {
				stream(w, r)
				return
			}
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		o.CloseClientConnections()
		o.Close()
	})
	return o
}

// What stands in the way.
var (
	forbidden = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not here", http.StatusForbidden) }
	hang      = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	another   = func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }
	reset     = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	busy      = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "what is that", http.StatusBadGateway) }
	gather    = func(w http.ResponseWriter, r *http.Request) { // the answer, as soon as it is complete
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
)

// TestObstacles: what one transport doesn't get through another one does, and the one that has worked is kept.
func TestObstacles(t *testing.T) {
	n := newNode(t).start(t)
	for name, c := range map[string]struct {
		websocket, stream http.HandlerFunc
		want              client.Transport
	}{
		"nothing":                      {nil, nil, client.WebSocket},
		"a proxy without upgrades":     {forbidden, nil, client.SSE},
		"a proxy that drops upgrades":  {another, nil, client.SSE},
		"a proxy that resets":          {reset, nil, client.SSE},
		"a proxy that never answers":   {hang, nil, client.SSE},
		"a proxy that makes it a 502":  {busy, nil, client.SSE},
		"a proxy that gathers answers": {forbidden, gather, client.LongPoll},
		"a proxy that changes answers": {forbidden, another, client.LongPoll},
		"a proxy that resets streams":  {forbidden, reset, client.LongPoll},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newObstacle(t, n, c.websocket, c.stream)
			w := newWire(t, o.Listener.Addr().String())
			customer := "cus_" + strings.ReplaceAll(name, " ", "_")
			patience := 500 * time.Millisecond
			if c.websocket == nil { // nothing is in the way: it may take its time
				patience = 0
			}
			f := follow(t, w.url()+"/v1/events?stream=billing/"+customer, client.Options{}, patience, patience)
			eventstoretest.Until(t, "it waits", func() bool { return len(f.of(client.KindCaughtUp)) == 1 })
			n.grant(t, customer, 1)
			eventstoretest.Until(t, "the event comes", func() bool { return len(f.of(client.KindEvent)) == 1 })
			before := [2]int64{o.websockets.Load(), o.streams.Load()}
			connections := len(f.connected())
			w.cut()
			n.grant(t, customer, 2)
			eventstoretest.Until(t, "it comes back", func() bool {
				// A page that was not answered Go's own HTTP client asks for again.
				return (len(f.connected()) > connections || c.want == client.LongPoll) && len(f.of(client.KindEvent)) == 2
			})
			if got := slices.Compact(f.connected()); !slices.Equal(got, []client.Transport{c.want}) {
				t.Errorf("connected over %v, want %s", got, c.want)
			}
			if c.want != client.WebSocket && o.websockets.Load() != before[0] || c.want == client.LongPoll && o.streams.Load() != before[1] {
				t.Errorf("it tries again what doesn't get through")
			}
			if err := f.end(t); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// TestWallMoves: a transport that has worked is given up when it doesn't get through any more, and when none does, all are
// tried again.
func TestWallMoves(t *testing.T) {
	n := newNode(t).start(t)
	var wall atomic.Int64 // 0: nothing, 1: no WebSocket, 2: nothing gets through
	stop := func(from int64) http.HandlerFunc {
		to, _ := url.Parse(n.url)
		pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, FlushInterval: -1}
		return func(w http.ResponseWriter, r *http.Request) {
			if wall.Load() >= from {
				another(w, r)
				return
			}
			pass.ServeHTTP(w, r)
		}
	}
	var o *obstacle
	websocket, stream := stop(1), stop(2)
	o = newObstacle(t, n, websocket, stream)
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wall.Load() >= 2 {
			another(w, r)
			return
		}
		o.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { pages.CloseClientConnections(); pages.Close() })
	w := newWire(t, pages.Listener.Addr().String())
	f := follow(t, w.url()+"/v1/events?stream=billing/cus_9", client.Options{}, 0, 0)
	amount := 0
	works := func(way client.Transport) {
		t.Helper()
		eventstoretest.Until(t, "it is connected", func() bool {
			ways := f.connected()
			return len(ways) > 0 && ways[len(ways)-1] == way
		})
		amount++
		n.grant(t, "cus_9", amount)
		eventstoretest.Until(t, "an event comes", func() bool { return len(f.of(client.KindEvent)) == amount })
	}
	works(client.WebSocket)
	wall.Store(1)
	w.cut()
	works(client.SSE)
	wall.Store(2)
	w.cut()
	eventstoretest.Until(t, "everything was tried twice", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		switched := 0
		for _, n := range f.notices {
			if n.Kind == client.Switched && n.Next == client.LongPoll {
				switched++
			}
		}
		return switched >= 2
	})
	wall.Store(0)
	eventstoretest.Until(t, "it gets through again", func() bool { return len(f.connected()) > 2 })
	amount++
	n.grant(t, "cus_9", amount)
	eventstoretest.Until(t, "an event comes", func() bool { return len(f.of(client.KindEvent)) == amount })
}

// TestGaps: a cursor that can't be honoured is an error that says so, or, if asked for, a reset in its place.
func TestGaps(t *testing.T) {
	n := newNode(t)
	n.cfg.Feeds.Memory = 64 << 10 // what is still in memory is given out, whether Kafka has it or not
	n.start(t)
	var load sync.WaitGroup
	for i := range 8 {
		load.Go(func() {
			for range 80 {
				n.grant(t, fmt.Sprintf("cus_%d", i), 1)
			}
		})
	}
	load.Wait()
	first := collect(t, n.url+"/v1/events?limit=1", client.Options{From: "earliest", Transport: client.SSE})
	old := first[len(first)-1].Cursor
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	topic := n.cfg.Kafka.Prefix + ".events"
	ends, err := adm.ListCommittedOffsets(t.Context(), topic)
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	before := ends.Offsets()
	before.Each(func(o kadm.Offset) {
		o.At = max(0, o.At-2) // the last event and its marker stay
		before.Add(o)
	})
	if deleted, err := adm.DeleteRecords(t.Context(), before); err != nil || deleted.Error() != nil {
		t.Fatal(err, deleted.Error())
	}
	for _, way := range append(ways, client.Auto) {
		err := client.Follow(t.Context(), n.url+"/v1/events?until=now", client.Options{Cursor: old, Transport: way}, nop)
		r, ok := errors.AsType[*client.Refused](err)
		if !ok || r.Kind() != "expired" || r.Earliest == "" || r.Earliest == old {
			t.Fatalf("%s: %v", way, err)
		}
		got := collect(t, n.url+"/v1/events?until=now", client.Options{Cursor: old, OnGap: "earliest", Transport: way})
		i := slices.IndexFunc(got, func(m client.Message) bool { return m.Kind == client.KindReset })
		if i < 0 || got[i].Reason != "expired" || got[i].Resumed != "earliest" || i > 0 {
			t.Errorf("%s: %s", way, got)
		}
		if err := client.Follow(t.Context(), n.url+"/v1/events", client.Options{Cursor: "gibberish", Transport: way}, nop); err == nil || !strings.Contains(err.Error(), "bad-cursor") {
			t.Errorf("%s: %v", way, err)
		}
	}
	err = client.Follow(t.Context(), n.url+"/v1/projections/nobody/changes", client.Options{}, nop)
	if r, ok := errors.AsType[*client.Refused](err); !ok || r.Status != 404 || r.Kind() != "not-found" {
		t.Errorf("a feed that isn't there: %v", err)
	}
}

func nop(client.Message) error { return nil }

// TestTokenOfANode: the node's own refusals, and a token that is renewed.
func TestTokenOfANode(t *testing.T) {
	token := fmt.Sprintf("%016x", rand.Uint64())
	t.Setenv("CLIENT_TOKEN", token)
	n := newNode(t)
	n.cfg.Auth.Tokens = []string{"env:CLIENT_TOKEN"}
	n.start(t)
	n.grant(t, "cus_9", 1, "Authorization", "Bearer "+token)
	for _, way := range append(ways, client.Auto) {
		err := client.Follow(t.Context(), n.url+"/v1/events", client.Options{Transport: way}, nop)
		if r, ok := errors.AsType[*client.Refused](err); !ok || r.Status != 401 || r.Kind() != "unauthorized" {
			t.Errorf("%s without a token: %v", way, err)
		}
		asked := 0
		got := collect(t, n.url+"/v1/events?until=now", client.Options{Transport: way, From: "earliest", Token: func(context.Context) (string, error) {
			if asked++; asked == 1 {
				return "one that has expired", nil
			}
			return token, nil
		}})
		if asked != 2 || len(data(got, client.KindEvent)) == 0 {
			t.Errorf("%s: asked %d times for a token, %d messages", way, asked, len(got))
		}
	}
}

// TestOutage: a long outage behind something that answers for the node costs the best transport only for a while.
func TestOutage(t *testing.T) {
	n := newNode(t).start(t)
	to, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, FlushInterval: -1}
	var away atomic.Bool
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			busy(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	w := newWire(t, front.Listener.Addr().String())
	f := follow(t, w.url()+"/v1/events?type=billing.credit.granted", client.Options{}, 0, 0)
	last := func() client.Transport {
		ways := f.connected()
		return append([]client.Transport{""}, ways...)[len(ways)]
	}
	eventstoretest.Until(t, "it is connected", func() bool { return last() == client.WebSocket })
	away.Store(true)
	w.cut()
	eventstoretest.Until(t, "another transport was tried", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.ContainsFunc(f.notices, func(n client.Notice) bool { return n.Kind == client.Switched })
	})
	n.grant(t, "cus_9", 1)
	connections := len(f.connected())
	away.Store(false)
	eventstoretest.Until(t, "it is connected again", func() bool { return len(f.connected()) > connections })
	eventstoretest.Until(t, "what came meanwhile is there", func() bool { return len(f.of(client.KindEvent)) == 1 })
	eventstoretest.Until(t, "it is back on a WebSocket", func() bool {
		if last() == client.WebSocket {
			return true
		}
		w.cut()
		return false
	})
}
