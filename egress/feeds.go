package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config bounds the feeds of a node. Every zero value has a meaning.
type Config struct {
	MaxConnections  int // at once; 10,000 by default
	MaxPerIP        int // at once, from one IPv4 address or IPv6 /64; 1,000 by default
	MaxPerPrincipal int // at once, of one principal; MaxConnections by default
	// Progress is how long a client may take for 64 KiB of its feed, or for less when there is less; 10 s by
	// default. After that, and at the latest after half as much again, it is cut off.
	Progress time.Duration
	// Heartbeat is the longest that a feed stays silent, in steps of the five seconds after which a Reader returns
	// at the latest; 15 s by default, below the 30 s of strict proxies.
	Heartbeat time.Duration
	// Lifetime is how long a feed lives, less up to a fifth, so that feeds opened together don't end together; 15
	// minutes by default. The client is told, at the beginning and at the end, and goes on from its cursor: that
	// spreads clients over nodes again, and ends what nobody reads any more. Negative for no end.
	Lifetime time.Duration
	// Ping is how often a WebSocket's client is asked whether it is there; after two questions without an answer it is
	// cut off; 30 s by default.
	Ping time.Duration
	// Stagger is how long Drain takes to end the feeds one after the other; 2 s by default.
	Stagger time.Duration
	// Origins are the hosts of web pages, besides the node's own, that may open a WebSocket: "example.com",
	// "https://*.example.com". Other transports are guarded by the browser itself.
	Origins []string
	// Deflate offers permessage-deflate (RFC 7692) to WebSocket clients, without context takeover.
	Deflate bool
	// Address names the client of a request, for MaxPerIP; by default it is the peer's address. Behind a proxy it is
	// for whoever knows the proxy to say which header can be believed. Clients without a valid address count as one.
	Address func(*http.Request) netip.Addr
	// Principal names who asks, for MaxPerPrincipal and for operators: never a secret. Empty for nobody in
	// particular. By default it always is.
	Principal func(*http.Request) string
	// Problem is how an error is told to a client: a status and a problem document (RFC 9457). By default, the status
	// is 500 and the document empty.
	Problem    func(error) (status int, document []byte)
	Logger     *slog.Logger          // none by default
	Registerer prometheus.Registerer // none by default
}

const (
	defaultConnections = 10_000
	defaultPerIP       = 1_000
	defaultProgress    = 10 * time.Second
	defaultHeartbeat   = 15 * time.Second
	defaultLifetime    = 15 * time.Minute
	defaultStagger     = 2 * time.Second
)

// Feeds serves any number of feeds. It owns no queue: every feed runs in a goroutine of its own and pulls. Safe for
// concurrent use.
type Feeds struct {
	cfg     Config
	metrics metrics

	mu          sync.Mutex
	stopping    bool
	open        int // connections
	byIP        map[netip.Prefix]int
	byPrincipal map[string]int
	connections map[*connection]struct{}
	feeds       map[string]*presence // by id
	gone        chan struct{}        // closed when stopping and nothing is open
}

// New checks the configuration and returns Feeds without connections.
func New(c Config) (*Feeds, error) {
	if c.MaxConnections < 0 || c.MaxPerIP < 0 || c.MaxPerPrincipal < 0 || c.Progress < 0 || c.Heartbeat < 0 || c.Ping < 0 || c.Stagger < 0 {
		return nil, errors.New("limits of feeds can't be negative")
	}
	or := func(d *time.Duration, fallback time.Duration) {
		if *d == 0 {
			*d = fallback
		}
	}
	or(&c.Progress, defaultProgress)
	or(&c.Heartbeat, defaultHeartbeat)
	or(&c.Lifetime, defaultLifetime)
	or(&c.Ping, pingEvery)
	or(&c.Stagger, defaultStagger)
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultConnections
	}
	if c.MaxPerIP == 0 {
		c.MaxPerIP = defaultPerIP
	}
	if c.MaxPerPrincipal == 0 {
		c.MaxPerPrincipal = c.MaxConnections
	}
	if c.Address == nil {
		c.Address = peer
	}
	if c.Principal == nil {
		c.Principal = func(*http.Request) string { return "" }
	}
	if c.Problem == nil {
		c.Problem = func(error) (int, []byte) { return http.StatusInternalServerError, []byte("{}") }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := checkOrigins(c.Origins); err != nil {
		return nil, err
	}
	f := &Feeds{
		cfg: c, metrics: newMetrics(), byIP: map[netip.Prefix]int{}, byPrincipal: map[string]int{},
		connections: map[*connection]struct{}{}, feeds: map[string]*presence{}, gone: make(chan struct{}),
	}
	if c.Registerer != nil {
		if err := f.metrics.register(c.Registerer); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Connections counts the connections that are open.
func (f *Feeds) Connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// connection is one client's, from its admission to its end.
type connection struct {
	transport transport
	from      netip.Prefix
	remote    string
	principal string
	ctx       context.Context // ends with the connection; its cause says why
	cancel    context.CancelCauseFunc
	cut       atomic.Pointer[net.Conn] // a connection taken over from the HTTP server, which no longer closes it
}

// The causes that end a connection's context, besides the client's own leaving.
var (
	errShutdown     = errors.New("the node stops")
	errDisconnected = errors.New("disconnected by an operator")
	errLifetime     = errors.New("the end of its lifetime")
	errSlow         = errors.New("the client takes too little")
	errGone         = errors.New("the client is gone")
)

// admit counts a new connection, or says why there can't be one. The connection lives as long as ctx at most. The caller
// gives the place back to leave.
func (f *Feeds) admit(ctx context.Context, r *http.Request, t transport) (*connection, *refusal) {
	address := f.cfg.Address(r)
	c := &connection{transport: t, from: network(address), remote: r.RemoteAddr, principal: f.cfg.Principal(r)}
	if address.IsValid() && address != peer(r) {
		c.remote = address.String() + " over " + r.RemoteAddr
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.stopping:
		return nil, &shuttingDown
	case f.open >= f.cfg.MaxConnections:
		return nil, &nodeFull
	case f.byIP[c.from] >= f.cfg.MaxPerIP:
		return nil, &clientFull
	case c.principal != "" && f.byPrincipal[c.principal] >= f.cfg.MaxPerPrincipal:
		return nil, &principalFull
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	f.open++
	f.byIP[c.from]++
	if c.principal != "" {
		f.byPrincipal[c.principal]++
	}
	f.connections[c] = struct{}{}
	f.metrics.of[t].opened()
	return c, nil
}

func (f *Feeds) leave(c *connection) {
	c.cancel(errGone)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open--
	if f.byIP[c.from]--; f.byIP[c.from] == 0 {
		delete(f.byIP, c.from)
	}
	if c.principal != "" {
		if f.byPrincipal[c.principal]--; f.byPrincipal[c.principal] == 0 {
			delete(f.byPrincipal, c.principal)
		}
	}
	delete(f.connections, c)
	f.metrics.of[c.transport].closed()
	if f.open == 0 && f.stopping {
		close(f.gone)
	}
}

// drainSteps is in how many groups the feeds are ended.
const drainSteps = 20

// Drain refuses new feeds and tells the open ones, over Config.Stagger, that the node stops, and ends them: clients that
// come back all at once would be a load of their own. It returns nil when all are gone, and an error if ctx ends before;
// a client that doesn't read holds its feed until it is cut off. When ctx ends all are told. Drain may be called again.
func (f *Feeds) Drain(ctx context.Context) error {
	f.mu.Lock()
	if !f.stopping {
		f.stopping = true
		if f.open == 0 {
			close(f.gone)
		}
	}
	var all []*connection
	for c := range f.connections { // in no order: whoever came first has no reason to be first
		all = append(all, c)
	}
	f.mu.Unlock()
	group := len(all)/drainSteps + 1
	step := time.NewTicker(f.cfg.Stagger/drainSteps + 1)
	defer step.Stop()
	for i, c := range all {
		if c.cancel(errShutdown); (i+1)%group != 0 {
			continue
		}
		select {
		case <-step.C:
		case <-ctx.Done():
		}
	}
	select {
	case <-f.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d feeds are still open: %w", f.Connections(), ctx.Err())
	}
}

// Close cuts every connection that the HTTP server no longer knows of. It is for what Drain has left.
func (f *Feeds) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.connections {
		if conn := c.cut.Load(); conn != nil {
			(*conn).Close()
		}
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
	return a.Addr().Unmap()
}
