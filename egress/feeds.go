package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config bounds the feeds of a node. Every zero value has a meaning.
type Config struct {
	MaxConnections int // at once; 10,000 by default
	MaxPerIP       int // at once, from one IPv4 address or IPv6 /64; 1,000 by default
	// Progress is how long a client may take for 64 KiB of its feed, or for less when there is less; 10 s by
	// default. After that, and at the latest after half as much again, it is cut off.
	Progress time.Duration
	// Heartbeat is the longest that a feed stays silent, in steps of the five seconds after which a Reader returns
	// at the latest; 15 s by default, below the 30 s of strict proxies.
	Heartbeat time.Duration
	// Address names the client of a request, for MaxPerIP; by default it is the peer's address. Behind a proxy it is
	// for whoever knows the proxy to say which header can be believed. Clients without a valid address count as one.
	Address    func(*http.Request) netip.Addr
	Logger     *slog.Logger          // none by default
	Registerer prometheus.Registerer // none by default
}

const (
	defaultConnections = 10_000
	defaultPerIP       = 1_000
	defaultProgress    = 10 * time.Second
	defaultHeartbeat   = 15 * time.Second
)

// Feeds serves any number of feeds. It owns no goroutine and no queue: every feed runs in its request's goroutine and
// pulls. Safe for concurrent use.
type Feeds struct {
	cfg     Config
	metrics metrics

	// stopping ends at Drain and with it the wait of every reader. It is a context because that is what Reader.Next
	// takes; it belongs to Feeds as a whole and to no request.
	stopping context.Context
	stop     context.CancelFunc

	mu   sync.Mutex
	open int
	byIP map[netip.Prefix]int
	gone chan struct{} // closed when stopping and open is 0
}

// New checks the configuration and returns Feeds without connections.
func New(c Config) (*Feeds, error) {
	if c.MaxConnections < 0 || c.MaxPerIP < 0 || c.Progress < 0 || c.Heartbeat < 0 {
		return nil, errors.New("limits of feeds can't be negative")
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultConnections
	}
	if c.MaxPerIP == 0 {
		c.MaxPerIP = defaultPerIP
	}
	if c.Progress == 0 {
		c.Progress = defaultProgress
	}
	if c.Address == nil {
		c.Address = peer
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Feeds{cfg: c, metrics: newMetrics(), byIP: map[netip.Prefix]int{}, gone: make(chan struct{})}
	if c.Registerer != nil {
		if err := f.metrics.register(c.Registerer); err != nil {
			return nil, err
		}
	}
	f.stopping, f.stop = context.WithCancel(context.Background())
	return f, nil
}

// Connections counts the feeds that are open.
func (f *Feeds) Connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Drain refuses new feeds, tells the open ones that the node stops, and ends them. It returns nil when all are gone,
// and an error if ctx ends before; a client that doesn't read holds its feed until it is cut off. Drain may be
// called again.
func (f *Feeds) Drain(ctx context.Context) error {
	f.mu.Lock()
	if f.stopping.Err() == nil {
		f.stop()
		if f.open == 0 {
			close(f.gone)
		}
	}
	f.mu.Unlock()
	select {
	case <-f.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d feeds are still open: %w", f.Connections(), ctx.Err())
	}
}

// admit counts a new feed, or says why there can't be one. The caller gives the place back to leave.
func (f *Feeds) admit(r *http.Request) (netip.Prefix, *refusal) {
	from := network(f.cfg.Address(r))
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.stopping.Err() != nil:
		return from, &shuttingDown
	case f.open >= f.cfg.MaxConnections:
		return from, &nodeFull
	case f.byIP[from] >= f.cfg.MaxPerIP:
		return from, &clientFull
	}
	f.open++
	f.byIP[from]++
	f.metrics.connections.Inc()
	return from, nil
}

func (f *Feeds) leave(from netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open--
	if f.byIP[from]--; f.byIP[from] == 0 {
		delete(f.byIP, from)
	}
	f.metrics.connections.Dec()
	if f.open == 0 && f.stopping.Err() != nil {
		close(f.gone)
	}
}

// network is what counts as one client: an IPv4 address, or the /64 that one IPv6 host can choose its addresses from.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // fails for the zero address alone, and then is zero too
	return p
}

func peer(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr) // not an address on a Unix socket
	return a.Addr()
}

// refusal is why a feed was not opened, although nothing is wrong with the request.
type refusal struct {
	status int
	reason string // in the problem's type, in the closing event and in the metric
	title  string
	detail string
}

var (
	shuttingDown = refusal{503, "shutdown", "The node is stopping", "connect again; another node, or this one a little later, will answer"}
	nodeFull     = refusal{503, "too-many-connections", "The node has no room for another feed", "connect again later"}
	clientFull   = refusal{429, "too-many-connections-per-client", "Too many feeds from this address", "close some of them, or follow several things on one"}
)

// refuse answers with a problem document (RFC 9457), or tells an EventSource to come back.
func (f *Feeds) refuse(w http.ResponseWriter, r *http.Request, why *refusal) {
	if f.later(w, r, why.reason) {
		return
	}
	f.metrics.drops[why.reason].Inc()
	body, _ := json.Marshal(map[string]any{ // strings and an int always encode
		"type": "/problems/" + why.reason, "title": why.title, "status": why.status, "detail": why.detail,
	})
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Retry-After", strconv.Itoa(int(laterWait()/time.Second)))
	w.WriteHeader(why.status)
	w.Write(body) // the client may be gone; there is nobody else to tell
}

// Later answers the request of an EventSource whose feed can't be opened at the moment, because its Reader can't be
// had, with an empty feed that says when to come back: any other status than 200 ends an EventSource for good
// (https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model). It reports false, and has
// done nothing, for any other client: a status says more to those. It is not for refusals that last.
func (f *Feeds) Later(w http.ResponseWriter, r *http.Request) bool { return f.later(w, r, unavailable) }

func (f *Feeds) later(w http.ResponseWriter, r *http.Request, reason string) bool {
	if !reconnects(r) {
		return false
	}
	f.metrics.drops[reason].Inc()
	feedHeader(w.Header())
	w.WriteHeader(http.StatusOK)
	w.Write(appendClosing(nil, laterWait(), reason)) // if it is lost, the client comes back by itself
	return true
}

// laterWait is how long a client that got nothing should stay away. It is longer than retryWait and as uneven.
func laterWait() time.Duration { return time.Duration(5000+rand.IntN(10_000)) * time.Millisecond }

// reconnects reports whether the client looks like an EventSource, which no request says outright. It asks for an event
// stream; and it is in a browser, which sends Sec-Fetch-Mode, or it has followed a feed before. Programs that open
// their first connection are left, and to them a status says more.
func reconnects(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream") &&
		(r.Header.Get("Sec-Fetch-Mode") != "" || r.Header.Get("Last-Event-ID") != "")
}

type metrics struct {
	connections prometheus.Gauge
	events      prometheus.Counter
	dropped     *prometheus.CounterVec
	drops       map[string]prometheus.Counter // of dropped, by reason
}

// The reasons to end an open feed, beside those to refuse one.
const (
	slow        = "slow"
	reset       = "reset"
	unavailable = "unavailable"
)

func newMetrics() metrics {
	m := metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_feed_connections", Help: "Feeds that are open.",
		}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_feed_events_total", Help: "Events and row changes written to feeds, each feed counted.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_feed_drops_total",
			Help: "Feeds refused or ended by this node, by reason. No event is lost: the client resumes at its cursor.",
		}, []string{"reason"}),
		drops: map[string]prometheus.Counter{},
	}
	for _, reason := range []string{slow, reset, unavailable, shuttingDown.reason, nodeFull.reason, clientFull.reason} {
		m.drops[reason] = m.dropped.WithLabelValues(reason)
	}
	return m
}

func (m metrics) register(r prometheus.Registerer) error {
	if err := errors.Join(r.Register(m.connections), r.Register(m.events), r.Register(m.dropped)); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
