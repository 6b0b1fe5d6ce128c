// Package ingress takes webhooks in: it verifies the signature of a request over its exact bytes, finds out what the
// delivery is called and which stream it belongs to, has it written to the log, and only then says 202.
package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says what a Handler takes in and where it puts it.
type Config struct {
	Sources []Source
	// Append writes an entry durably, says where, and returns nil only then. Its context ends with Budget, never with the
	// request: a sender that hangs up must not cancel a write in flight. Append returns when the context ends; if
	// the write still happens, the sender's retry is recognised by its id. An error of class Unavailable is
	// answered with 503, one of class TooLarge with 413.
	Append func(context.Context, eventstore.Entry) (Durability, error)
	// Budget is how long an append may take before the answer is 503; 2.5 s by default, because Slack waits 3.
	Budget time.Duration
	// MaxInFlight bounds the bytes of all bodies being handled at once; 256 MiB by default. Beyond it the answer is
	// 503. Bytes count as they arrive, so that announcing a large body holds nothing.
	MaxInFlight int64
	Clock       func() time.Time      // time.Now by default
	Logger      *slog.Logger          // none by default
	Registerer  prometheus.Registerer // none by default
}

// Durability says where a delivery that was accepted is safe. It stands in the answer's Penstock-Durability.
type Durability string

// The durabilities.
const (
	Logged  Durability = "log"     // in the inbox, on all in-sync replicas
	Spooled Durability = "spooled" // on this node's disk, until the log takes it
)

// Source is one configured sender. Its name stands in the URL and is the category of its streams.
type Source struct {
	Name     string   // letters, digits, '-', '_' and '.'; it begins with a letter or digit
	Provider string   // a row of Providers
	Secrets  []Secret // any of them verifies; several while one is being replaced
	// Stream is a CEL expression for the stream key over headers (lower-case name to value), body (the parsed
	// JSON), delivery, type and source. Empty for the provider's default. Its stream is "‹name›/‹result›".
	Stream  string
	MaxBody int64 // bytes; 0 for the provider's default
}

const (
	defaultBudget      = 2500 * time.Millisecond
	defaultMaxInFlight = 256 << 20
)

// Handler serves /hooks/{source}. It owns no goroutine; it may be used from any number.
type Handler struct {
	appendEntry func(context.Context, eventstore.Entry) (Durability, error)
	budget      time.Duration
	clock       func() time.Time
	log         *slog.Logger
	metrics     metrics
	inFlight    *allowance
	routes      atomic.Pointer[map[string]*route] // replaced whole by Reload
}

// sourceName is narrower than a stream's category: a name stands in URLs, and noSource must not be one.
var sourceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// route is a source, checked and compiled.
type route struct {
	source   Source
	provider Provider
	stream   *streamRule // nil for the provider's default
	maxBody  int64
	duration prometheus.Observer
}

// New checks the whole configuration, reports every problem in it, and returns a handler.
func New(c Config) (*Handler, error) {
	h := &Handler{
		appendEntry: c.Append,
		budget:      first(c.Budget, defaultBudget),
		clock:       c.Clock,
		log:         c.Logger,
		inFlight:    &allowance{limit: first(c.MaxInFlight, defaultMaxInFlight)},
	}
	if h.clock == nil {
		h.clock = time.Now
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if c.Append == nil {
		errs = append(errs, errors.New("ingress needs Append"))
	}
	if h.budget < 0 {
		errs = append(errs, fmt.Errorf("the budget can't be %v", h.budget))
	}
	if h.inFlight.limit < firstRead {
		errs = append(errs, fmt.Errorf("MaxInFlight is %d, it must be at least %d", h.inFlight.limit, firstRead))
	}
	h.metrics = newMetrics()
	if err := h.Reload(c.Sources); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if c.Registerer != nil {
		if err := h.metrics.register(c.Registerer); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Reload replaces the sources, for secrets that changed. It reports every problem, and then nothing is replaced.
// Requests in hand finish with the sources they began with.
func (h *Handler) Reload(sources []Source) error {
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
	p, ok := ProviderNamed(s.Provider)
	if !ok {
		bad("no provider %q", s.Provider)
	}
	if len(s.Secrets) == 0 || len(s.Secrets) > maxSecrets {
		bad("1 to %d secrets, there are %d", maxSecrets, len(s.Secrets))
	}
	for i, secret := range s.Secrets {
		if strings.TrimSpace(string(secret)) != string(secret) {
			bad("secret %d begins or ends with white space; is it a file's last line break?", i+1)
		} else if _, err := p.Scheme.key(secret); err != nil {
			bad("secret %d: %w", i+1, err)
		}
	}
	r := &route{source: s, provider: p, maxBody: first(s.MaxBody, p.MaxBody)}
	if r.maxBody < 0 || r.maxBody > h.inFlight.limit {
		bad("MaxBody is %d, it must be from 1 to MaxInFlight, %d", r.maxBody, h.inFlight.limit)
	}
	if s.Stream != "" {
		var err error
		if r.stream, err = compileStream(s.Stream); err != nil {
			bad("%w", err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r.duration = h.metrics.duration.WithLabelValues(s.Name)
	return r, nil
}

// reply is an answer that is not a refusal.
type reply struct {
	status      int
	contentType string
	body        []byte
	durability  Durability // empty when nothing was stored
}

// ServeHTTP answers one request for the source that the path value "source" names.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	name := r.PathValue("source")
	rt := (*h.routes.Load())[name]
	if rt == nil {
		h.metrics.received.WithLabelValues(noSource, "404").Inc()
		refuse(404, "unknown-source", "No such source", "there is no source of this name").write(w)
		return
	}
	answer, err := h.receive(rt, r)
	if err != nil {
		p := problemOf(err)
		h.refused(rt, p)
		p.write(w)
		answer.status = p.Status
	} else {
		header := w.Header()
		if answer.contentType != "" {
			header.Set("Content-Type", answer.contentType)
		}
		if answer.durability != "" {
			header.Set("Penstock-Durability", string(answer.durability))
		}
		header.Set("Content-Length", strconv.Itoa(len(answer.body)))
		header.Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(answer.status)
		w.Write(answer.body) // stored all the same; a sender that is gone will send it again
	}
	h.metrics.received.WithLabelValues(name, strconv.Itoa(answer.status)).Inc()
	rt.duration.Observe(time.Since(start).Seconds())
}

func (h *Handler) refused(rt *route, p *problem) {
	if p.Reason != "" {
		h.metrics.failures.WithLabelValues(rt.source.Name, string(p.Reason)).Inc()
	}
	level := slog.LevelInfo
	if p.Status >= 500 {
		level = slog.LevelWarn
	}
	h.log.Log(context.Background(), level, "webhook refused", "source", rt.source.Name, "status", p.Status,
		"problem", p.Type, "reason", string(p.Reason), "field", p.Field, "error", p)
}

// receive takes a request all the way into the log. The order of its steps is the order of what a stranger may cost
// us: nothing is read before the headers are in order, nothing is parsed before the signature is right.
func (h *Handler) receive(rt *route, r *http.Request) (reply, error) {
	if r.Method != http.MethodPost {
		p := refuse(405, "method-not-allowed", "Webhooks are sent with POST", "this URL takes POST alone")
		p.allow = http.MethodPost
		return reply{}, p
	}
	media, err := mediaType(rt.provider, r.Header)
	if err != nil {
		return reply{}, err
	}
	if r.ContentLength > rt.maxBody {
		return reply{}, tooLarge(rt.maxBody)
	}
	hold := hold{from: h.inFlight}
	defer hold.release()
	body, err := read(r, rt.maxBody, &hold)
	if err != nil {
		return reply{}, err
	}
	now := h.clock()
	if err := rt.provider.Scheme.Verify(rt.source.Secrets, r.Header, body, now); err != nil {
		return reply{}, err
	}
	d, err := documentOf(body, media == formType)
	if err != nil {
		return reply{}, unreadable(err)
	}
	found, err := rt.provider.read(r.Header, d)
	if err != nil {
		if domain.ClassOf(err) == domain.Invalid {
			return reply{}, err
		}
		return reply{}, unreadable(err)
	}
	if found.challenge != nil && rt.provider.Challenge {
		return challengeReply(*found.challenge)
	}
	entry, err := h.entry(rt, r, d, found, body, now, &hold)
	if err != nil {
		return reply{}, err
	}
	durability, err := h.store(r.Context(), entry)
	if err != nil {
		return reply{}, err
	}
	if found.bare {
		return reply{status: http.StatusOK, durability: durability}, nil
	}
	accepted, err := json.Marshal(struct {
		ID     string        `json:"id"`
		Stream domain.Stream `json:"stream"`
	}{entry.ID, entry.Stream})
	return reply{http.StatusAccepted, "application/json", accepted, durability}, err
}

// entry makes the inbox record.
func (h *Handler) entry(
	rt *route, r *http.Request, d document, found reading, body []byte, now time.Time, hold *hold,
) (eventstore.Entry, error) {
	var none eventstore.Entry
	kind, err := typeName(rt.provider.Name, found.kind)
	if err != nil {
		return none, err
	}
	id, err := deliveryID(found, rt.provider, rt.source.Name, body)
	if err != nil {
		return none, err
	}
	key := first(found.key, id)
	if rt.stream != nil {
		if !hold.take(treeCost * int64(len(d.json))) {
			return none, busy()
		}
		if key, err = rt.stream.key(subject{r.Header, d, id, kind, rt.source.Name}); err != nil {
			return none, err
		}
	}
	stream, err := domain.NewStream(rt.source.Name, key)
	if err != nil {
		return none, err
	}
	headers, err := kept(rt.provider, r.Header)
	if err != nil {
		return none, err
	}
	return eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: id, Source: rt.source.Name, Type: kind, Stream: stream, Received: now,
		ContentType: r.Header.Get("Content-Type"), Verification: rt.provider.Verification, Correlation: id,
		TraceParent: traceParent(r.Header), Headers: headers, Body: body,
	}, nil
}

// store appends within the budget. The context keeps the request's values but not its end.
func (h *Handler) store(ctx context.Context, e eventstore.Entry) (Durability, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.budget)
	defer cancel()
	durability, err := h.appendEntry(ctx, e)
	if err == nil {
		return durability, nil
	}
	if domain.ClassOf(err) == domain.Internal && errors.Is(err, context.DeadlineExceeded) {
		err = &domain.Error{Class: domain.Unavailable, Message: fmt.Sprintf("not acknowledged within %v", h.budget), Err: err}
	}
	return "", fmt.Errorf("append delivery %s of %s: %w", e.ID, e.Source, err)
}
