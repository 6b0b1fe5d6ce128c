package ingress

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/prometheus/client_golang/prometheus"
)

// How a source treats the handshakes that nobody signs.
const (
	HandshakeArmed  = "armed"  // answers them while it is armed; the default
	HandshakeAlways = "always" // for providers that repeat them, as Zoom does every 72 hours and X every hour
	HandshakeOff    = "off"    // answers none, not even signed ones
)

const (
	// DefaultArmed is how long a source waits for a handshake unless told otherwise.
	DefaultArmed = 15 * time.Minute
	maxArmed     = 24 * time.Hour
	// shakesPerMinute bounds the unsigned handshakes that a source answers to one client, and strangersPerMinute those to
	// all: so what strangers can have recorded is bounded, and one of them alone can't keep the provider out.
	shakesPerMinute    = 20
	strangersPerMinute = 200
)

// shakes is what a handler remembers of handshakes. It outlives a Reload.
type shakes struct {
	taken *prometheus.CounterVec
	dir   string // of the secrets that were learned; empty when none can be
	// client fetches what confirms a subscription.
	client *pinned

	keep func(dir, path string, content []byte) error // writeDurably, but for tests

	mu      sync.Mutex           // never held while the disk is waited for
	until   map[string]time.Time // by source: armed until then
	keeping map[string]bool      // by source: what it learns is on its way to the disk
	minutes map[string]minute
	learned map[string][]learned
}

// minute counts the answers of one minute, also for each client.
type minute struct {
	from    time.Time
	count   int
	clients map[netip.Prefix]int
}

func newShakes(dir string) *shakes {
	return &shakes{
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhook_handshakes_total",
			Help: "Handshakes of providers by source, and answered or the kind of problem that refused them.",
		}, []string{"source", "result"}),
		dir: dir, client: newPinned(nil, nil), keep: writeDurably, until: map[string]time.Time{}, keeping: map[string]bool{}, minutes: map[string]minute{}, learned: map[string][]learned{},
	}
}

func (s *shakes) count(source string, err error) {
	result := "answered"
	if err != nil {
		result = problemOf(err).Type[len("/problems/"):]
	}
	s.taken.WithLabelValues(source, result).Inc()
}

// open says whether a handshake that nobody signs may be answered now.
func (s *shakes) open(source Source, now time.Time) bool {
	if source.Handshake == HandshakeAlways {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return source.Handshake != HandshakeOff && now.Before(s.until[source.Name])
}

// spend takes one of a client's answers of this minute, or says how long to wait for the next.
func (s *shakes) spend(source string, client netip.Prefix, now time.Time) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.minutes[source]
	if age := now.Sub(m.from); age < 0 || age >= time.Minute {
		m = minute{from: now, clients: map[netip.Prefix]int{}}
	}
	if m.count >= strangersPerMinute || m.clients[client] >= shakesPerMinute {
		return time.Minute - now.Sub(m.from)
	}
	m.count++
	m.clients[client]++
	s.minutes[source] = m
	return 0
}

// Handshakes says how a source stands towards its provider's handshakes.
type Handshakes struct {
	Source   string
	Provider string
	Mode     string    // armed, always or off
	Until    time.Time // armed until then; zero when it isn't
	Kinds    []HandshakeKind
	Learned  []time.Time // when each of the secrets that a handshake taught was learned
}

// HandshakeKind is one handshake that a provider has.
type HandshakeKind struct {
	Name  string `json:"name" example:"endpoint.url_validation"`
	Docs  string `json:"docs"`
	Proof string `json:"proof" doc:"What shows that the provider asks. window: nothing does, so the source must be armed"`
}

// HandshakesOf returns the handshakes of a provider.
func HandshakesOf(provider string) (kinds []HandshakeKind) {
	for _, s := range handshakes[provider] {
		how := s.proof
		switch {
		case s.optIn:
			how += " and window"
		case s.harmless() && how == byWindow:
			how = "not needed"
		}
		kinds = append(kinds, HandshakeKind{s.name, s.docs, string(how)})
	}
	return kinds
}

// Handshakes returns how a source stands. A source that isn't there is of class NotFound.
func (h *Handler) Handshakes(source string) (Handshakes, error) {
	rt := (*h.routes.Load())[source]
	if rt == nil {
		return Handshakes{}, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("there is no source %q", source)}
	}
	out := Handshakes{
		Source: source, Provider: rt.provider.Name, Mode: first(rt.source.Handshake, HandshakeArmed), Kinds: HandshakesOf(rt.provider.Name),
	}
	h.shakes.mu.Lock()
	defer h.shakes.mu.Unlock()
	if until := h.shakes.until[source]; h.clock().Before(until) && out.Mode != HandshakeOff {
		out.Until = until
	}
	for _, l := range h.shakes.learned[source] {
		out.Learned = append(out.Learned, l.At)
	}
	return out, nil
}

// Arm has a source answer the handshakes that nobody signs for that long from now on, on this node, and returns how it
// stands then. 0 disarms it. A source that has nothing to wait for is of class Invalid.
func (h *Handler) Arm(source string, wait time.Duration) (Handshakes, error) {
	state, err := h.Handshakes(source)
	switch {
	case err != nil:
		return state, err
	case wait < 0 || wait > maxArmed:
		return state, domain.Invalidf("for", "a source can be armed for up to %v", maxArmed)
	case state.Mode == HandshakeOff:
		return state, domain.Invalidf("name", "handshake is off for this source")
	case !slices.ContainsFunc(handshakes[state.Provider], handshake.waits):
		return state, domain.Invalidf("name", "%s has no handshake that a source must be armed for", state.Provider)
	case wait > 0 && h.shakes.dir == "" && slices.ContainsFunc(handshakes[state.Provider], func(s handshake) bool { return s.learns }):
		return state, domain.Invalidf("name", "there is no folder to keep a learned secret in")
	}
	h.shakes.mu.Lock()
	if h.shakes.until[source] = h.clock().Add(wait); wait == 0 {
		delete(h.shakes.until, source)
	}
	h.shakes.mu.Unlock()
	return h.Handshakes(source)
}

// waits says that arming makes a difference.
func (s handshake) waits() bool {
	return s.optIn || !s.harmless() && (s.proof == byWindow || s.proof == byEither)
}

// checkHandshake reports what is wrong with the settings of a source that are about handshakes.
func checkHandshake(s Source, p Provider) error {
	switch s.Handshake {
	case "", HandshakeArmed, HandshakeOff:
	case HandshakeAlways:
		if slices.ContainsFunc(p.handshakes(), func(k handshake) bool { return k.learns }) {
			return fmt.Errorf("the handshake of %s teaches the secret, and can't be answered for good: arm the source when you register it", p.Name)
		}
	default:
		return fmt.Errorf("handshake is %q, it must be %s, %s or %s", s.Handshake, HandshakeArmed, HandshakeAlways, HandshakeOff)
	}
	return nil
}

// learns says that a source of the provider needs no secret to begin with.
func (p Provider) learns() bool {
	return slices.ContainsFunc(p.handshakes(), func(s handshake) bool { return s.learns })
}

// methods are the methods that a source of the provider takes, for a 405.
func (p Provider) methods() string {
	allow := http.MethodPost
	for _, m := range []string{http.MethodGet, http.MethodHead} {
		if slices.ContainsFunc(p.handshakes(), func(s handshake) bool { return s.method == m }) {
			allow += ", " + m
		}
	}
	return allow
}

// TeachesSecret says that the provider's handshake brings the secret, so that a source needs none to begin with.
func TeachesSecret(provider string) bool {
	p, ok := ProviderNamed(provider)
	return ok && p.learns()
}
