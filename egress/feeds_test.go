package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

func TestDrain(t *testing.T) {
	f := serve(t, eventstore.NewTail(at(0, 0, 0), 1<<20), Config{}, nil)
	var clients []*client
	for range 3 {
		c := f.connect("", "")
		c.until("penstock.caught-up") // its reader waits now, or will
		clients = append(clients, c)
	}
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.feeds.Drain(expired); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("no time to drain: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := f.feeds.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		if b, err := c.next(); err != nil || b != (block{"penstock.closing", c.lastID, `{"reason":"shutdown"}`}) {
			t.Errorf("%+v, %v", b, err)
		}
		if b, err := c.next(); err != io.EOF {
			t.Errorf("more after the end: %+v, %v", b, err)
		}
	}
	refused(t, f, "shutdown", 503)
	if err := f.feeds.Drain(ctx); err != nil {
		t.Errorf("again: %v", err)
	}
}

// refused demands that a new feed is refused, in the way that suits the client.
func refused(t *testing.T, f *feed, reason string, status int) {
	t.Helper()
	before := f.drops(reason)
	c := f.connect("", "")
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.NewDecoder(c.resp.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	if h := c.resp.Header; c.resp.StatusCode != status || p.Status != status || p.Type != "/problems/"+reason || p.Title == "" || p.Detail == "" ||
		h.Get("Content-Type") != "application/problem+json" || h.Get("Retry-After") == "" {
		t.Errorf("a program got %d %+v %v", c.resp.StatusCode, p, h)
	}
	id := at(1, 2, 3).String()
	for _, c := range []*client{f.connect("", "", "Sec-Fetch-Mode", "cors"), f.connect(id, "")} {
		b, err := c.next()
		if c.resp.StatusCode != 200 || err != nil || b.name != "penstock.closing" || b.data != `{"reason":"`+reason+`"}` || b.id == "" != (c.lastID == "") {
			t.Errorf("an EventSource got %d %+v, %v", c.resp.StatusCode, b, err)
		}
		var wait int
		if fmt.Sscan(c.retry, &wait); wait < 5000 || wait > 15000 {
			t.Errorf("retry: %q", c.retry)
		}
		if _, err := c.next(); err != io.EOF {
			t.Errorf("it was not closed: %v", err)
		}
	}
	if got := f.drops(reason) - before; got != 3 {
		t.Errorf("%v drops counted, want 3", got)
	}
}

func TestLimits(t *testing.T) {
	t.Run("per client", func(t *testing.T) {
		f := serve(t, eventstore.NewTail(at(0, 0, 0), 1<<20), Config{MaxPerIP: 2}, nil)
		a, b := f.connect("", ""), f.connect("", "")
		refused(t, f, "too-many-connections-per-client", 429)
		a.close()
		eventstoretest.Until(t, "a free place", func() bool { return f.feeds.Connections() == 1 })
		f.connect("", "").until("penstock.caught-up")
		b.until("penstock.caught-up")
	})
	t.Run("in total", func(t *testing.T) {
		f := serve(t, eventstore.NewTail(at(0, 0, 0), 1<<20), Config{MaxConnections: 1}, nil)
		f.connect("", "").until("penstock.caught-up")
		refused(t, f, "too-many-connections", 429)
	})
	if _, err := New(Config{MaxPerIP: -1}); err == nil {
		t.Error("a negative limit passes")
	}
}

func TestLater(t *testing.T) {
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept", "text/event-stream")
	w := httptest.NewRecorder()
	if f.Later(w, r) || w.Body.Len() > 0 || len(w.Header()) > 0 {
		t.Errorf("a program got %s", w.Body)
	}
	r.Header.Set("Sec-Fetch-Mode", "cors")
	if !f.Later(w, r) || !strings.Contains(w.Body.String(), `{"reason":"unavailable"}`) || !strings.HasPrefix(w.Body.String(), "retry: ") {
		t.Errorf("an EventSource got %s", w.Body)
	}
}

func TestNetwork(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:80": "192.0.2.7/32", "[::ffff:192.0.2.7]:80": "192.0.2.7/32", "[2001:db8:1:2:3::4%eth0]:80": "2001:db8:1:2::/64",
		"@": "invalid Prefix", "": "invalid Prefix",
	} {
		if got := network(peer(&http.Request{RemoteAddr: remote})).String(); got != want {
			t.Errorf("%q is of %s, want %s", remote, got, want)
		}
	}
}
