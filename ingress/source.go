package ingress

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Source is one configured sender. Its name stands in the URL and is the category of its streams.
type Source struct {
	Name     string // letters, digits, '-', '_' and '.'; it begins with a letter or digit
	Provider string // a row of Providers
	Secrets  []Key  // any that counts verifies; several while one is being replaced
	// Row is a row of the operator's own, called as Provider says; nil for one of Providers.
	Row *Provider `json:"-"`
	// Tolerance of the provider's timestamps; 0 for what its row says.
	Tolerance time.Duration
	// Stream is a CEL expression for the stream key, over what a Rule sees. Empty for the provider's default. Its stream is
	// "‹name›/‹result›".
	Stream  string
	MaxBody int64 // bytes; 0 for the provider's default

	// Unverified takes what nobody has signed. It is for sources that something else keeps strangers from, and has no secrets.
	Unverified bool
	// When are the rules that a delivery must fulfil, all of them, to be kept. They are looked at once its signature is right;
	// what they drop is answered with 200.
	When         []Rule
	Allow        []string // address ranges that deliveries come from; with AllowFile none for everywhere
	AllowFile    string   // a file of further ones, followed while Run runs
	Limits       Limits
	ContentTypes []string // media types that are taken, also text/* and */*; none for those of the provider

	Handshake   string // HandshakeArmed by default, HandshakeAlways or HandshakeOff
	VerifyToken Secret // what the provider shows, or wants to see, in a handshake: see the rows in challenges_rows.go
	PublicURL   string // of this source, as the provider knows it
}

// sourceName is narrower than a stream's category: a name stands in URLs, and noSource must not be one.
var sourceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// route is a source, checked and compiled.
type route struct {
	source   Source
	provider Provider
	stream   *streamRule // nil for the provider's default
	rules    []condition
	allow    *allowList // nil for everybody
	limits   *limiter   // nil without limits
	content  []string   // media types
	maxBody  int64
	refused  *refusals
	logged   *logLine
	accepted prometheus.Counter // answers with 202, so that they aren't looked up each time
	duration prometheus.Observer
	broken   prometheus.Gauge
}

// Reload replaces the sources, for secrets that changed. It reports every problem, and then nothing is replaced.
// Requests in hand finish with the sources they began with.
func (h *Handler) Reload(sources []Source) error {
	old := h.routes.Load()
	routes := make(map[string]*route, len(sources))
	var errs []error
	for _, s := range sources {
		r, err := h.route(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if routes[s.Name] != nil {
			errs = append(errs, fmt.Errorf("source %q is there twice", s.Name))
		}
		routes[s.Name] = r
		if old == nil || (*old)[s.Name] == nil {
			continue
		}
		// What is known of the past stays: also a reload each second must not lift a limit.
		before := (*old)[s.Name]
		r.refused, r.logged = before.refused, before.logged
		if before.limits != nil && before.limits.Limits == s.Limits {
			r.limits = before.limits
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	h.routes.Store(&routes)
	return nil
}

func (h *Handler) route(s Source) (*route, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("source %q: "+format, append([]any{s.Name}, args...)...))
	}
	if !sourceName.MatchString(s.Name) {
		bad("a name has 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit")
	}
	if s.Name == "api" {
		bad("the name is that of commands sent over HTTP")
	}
	p, ok := s.row()
	if !ok {
		bad("no provider %q", s.Provider)
	}
	if p.Binding == Unverified && !s.Unverified {
		bad("nothing of %s is verified, which the source must say as well", p.Name)
	}
	if p.NeedsURL() && s.PublicURL == "" {
		bad("%s signs the address that it calls: public_url is needed", p.Name)
	}
	if s.Unverified && len(s.Secrets) > 0 {
		bad("it has secrets, which nothing would be verified with")
	}
	if len(s.Secrets) == 0 && !p.learns() && !s.Unverified || len(s.Secrets) > maxSecrets {
		bad("1 to %d secrets, there are %d", maxSecrets, len(s.Secrets))
	}
	if err := errors.Join(checkHandshake(s, p), h.shakes.load(s.Name)); err != nil {
		bad("%w", err)
	}
	for i, key := range s.Secrets {
		if secret := key.Secret; strings.TrimSpace(string(secret)) != string(secret) {
			bad("secret %d begins or ends with white space; is it a file's last line break?", i+1)
		} else if err := p.Scheme.check(secret); err != nil {
			bad("secret %d: %w", i+1, err)
		}
	}
	r := &route{source: s, provider: p, maxBody: first(s.MaxBody, p.MaxBody)}
	if r.maxBody < 0 || r.maxBody > h.inFlight.limit {
		bad("MaxBody is %d, it must be from 1 to MaxInFlight, %d", r.maxBody, h.inFlight.limit)
	}
	var err error
	if s.Stream != "" {
		if r.stream, err = compileStream(s.Stream); err != nil {
			bad("%w", err)
		}
	}
	if r.rules, err = compileRules(s.When); err != nil {
		bad("%w", err)
	}
	if r.allow, err = newAllowList(s.Allow, s.AllowFile, h.clock()); err != nil {
		bad("%w", err)
	}
	if err = s.Limits.check(); err != nil {
		bad("%w", err)
	} else {
		r.limits = newLimiter(s.Limits)
	}
	if r.content = p.ContentTypes; len(s.ContentTypes) > 0 {
		r.content = s.ContentTypes
	}
	for _, pattern := range s.ContentTypes {
		if err := checkMedia(pattern); err != nil {
			bad("%w", err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r.refused, r.logged = newRefusals(h.keepRefused), newLogLine()
	r.broken = h.metrics.broken.WithLabelValues(s.Name)
	r.broken.Set(0)
	r.accepted = h.metrics.received.WithLabelValues(s.Name, "202")
	r.duration = h.metrics.duration.WithLabelValues(s.Name)
	return r, nil
}
