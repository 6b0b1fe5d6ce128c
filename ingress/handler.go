// Package ingress takes webhooks in: it verifies the signature of a request over its exact bytes, finds out what the
// delivery is called and which stream it belongs to, has it written to the log, and only then says 202.
package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
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
	// Proxies are those whose word about a sender's address is taken; none by default.
	Proxies Proxies
	// KeepRefused is how many refused requests of each source are kept in memory, within 256 KiB; 100 by default.
	KeepRefused int
	// SecretsDir is the folder of the secrets that handshakes teach, made when there is one. Empty: none can be learned.
	SecretsDir string
	// Vendor fetches the keys of providers that publish them; a store of its own by default.
	Vendor     *VendorKeys
	Clock      func() time.Time      // time.Now by default
	Logger     *slog.Logger          // none by default
	Registerer prometheus.Registerer // none by default
}

// Durability says where a delivery that was accepted is safe. It stands in the answer's Penstock-Durability.
type Durability string

// The durabilities.
const (
	Logged  Durability = "log"     // in the inbox, on all in-sync replicas
	Spooled Durability = "spooled" // on this node's disk, until the log takes it
)

const (
	defaultBudget      = 2500 * time.Millisecond
	defaultMaxInFlight = 256 << 20
)

// Handler serves /hooks/{source}. It may be used from any number of goroutines.
type Handler struct {
	appendEntry func(context.Context, eventstore.Entry) (Durability, error)
	budget      time.Duration
	clock       func() time.Time
	log         *slog.Logger
	metrics     metrics
	inFlight    *allowance
	rush        rush
	proxies     Proxies
	keepRefused int
	suspicion   *rate.Limiter
	shakes      *shakes
	vendor      *VendorKeys
	routes      atomic.Pointer[map[string]*route] // replaced whole by Reload
}

// New checks the whole configuration, reports every problem in it, and returns a handler.
func New(c Config) (*Handler, error) {
	h := &Handler{
		appendEntry: c.Append,
		budget:      first(c.Budget, defaultBudget),
		clock:       c.Clock,
		log:         c.Logger,
		inFlight:    &allowance{limit: first(c.MaxInFlight, defaultMaxInFlight)},
		proxies:     c.Proxies,
		keepRefused: first(c.KeepRefused, defaultKept),
		suspicion:   newSuspicion(),
		shakes:      newShakes(c.SecretsDir),
		vendor:      c.Vendor,
	}
	if h.vendor == nil {
		h.vendor = NewVendorKeys()
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
	if h.keepRefused < 0 || h.keepRefused > maxKeptRefusals {
		errs = append(errs, fmt.Errorf("KeepRefused is %d, it must be between 0 and %d", h.keepRefused, maxKeptRefusals))
	}
	if n := h.proxies.Header; n != "" && n != "X-Forwarded-For" && n != "Forwarded" {
		errs = append(errs, fmt.Errorf("proxies say who asked them in X-Forwarded-For or Forwarded, not in %.64q", n))
	}
	h.metrics = newMetrics(h.inFlight)
	if err := h.Reload(c.Sources); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err := h.shakes.sweep(); err != nil {
		return nil, fmt.Errorf("remove what is left of learned secrets: %w", err)
	}
	if c.Registerer != nil {
		if err := errors.Join(h.metrics.register(c.Registerer), c.Registerer.Register(h.shakes.taken)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// reply is an answer that is not a refusal.
type reply struct {
	status      int
	contentType string
	body        []byte
	durability  Durability // empty when nothing was stored
	header      http.Header
	dropped     string // the rule that the delivery didn't fulfil
}

// incoming is a request, and what is found out about it on its way.
type incoming struct {
	*http.Request
	route  *route
	at     time.Time
	remote netip.Addr
	size   int64 // of the body: read, else announced, else -1
	id     string
	kind   string
	reason Reason // why its signature is wrong, as far as it was found out for the operator
	hint   string // the same in words
}

var noSniff = []string{"nosniff"}

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
	if name := standing[rt.provider.Name]; name != "" && len(rt.source.VerifyToken) > 0 {
		w.Header().Set(name, string(rt.source.VerifyToken))
	}
	in := &incoming{Request: r, route: rt, at: h.clock(), remote: h.proxies.Client(r), size: r.ContentLength}
	answer, err := h.receive(in)
	if err != nil {
		p := problemOf(err)
		h.refused(in, p)
		p.write(w)
		answer.status = p.Status
	} else {
		if answer.dropped != "" {
			h.dropped(in, answer.dropped)
		}
		header := w.Header()
		maps.Copy(header, answer.header)
		if answer.contentType != "" {
			header["Content-Type"] = []string{answer.contentType}
		}
		if answer.durability != "" {
			header["Penstock-Durability"] = []string{string(answer.durability)}
		}
		header["Content-Length"] = []string{strconv.Itoa(len(answer.body))}
		header["X-Content-Type-Options"] = noSniff
		w.WriteHeader(answer.status)
		w.Write(answer.body) // stored all the same; a sender that is gone will send it again
	}
	if answer.status == http.StatusAccepted {
		rt.accepted.Inc()
	} else {
		h.metrics.received.WithLabelValues(name, strconv.Itoa(answer.status)).Inc()
	}
	rt.duration.Observe(time.Since(start).Seconds())
}

// receive takes a request all the way into the log. The order of its steps is the order of what a stranger may cost
// us: nothing is read before the headers are in order, nothing is parsed before the signature is right.
func (h *Handler) receive(in *incoming) (reply, error) {
	rt, r := in.route, in.Request
	if err := h.admit(in); err != nil {
		return reply{}, err
	}
	if answer, ok, err := h.greet(in); ok {
		return answer, err
	}
	if r.Method != http.MethodPost {
		p := refuse(405, "method-not-allowed", "Webhooks are sent with POST", "this URL takes POST alone")
		p.allow = rt.provider.methods()
		return reply{}, p
	}
	says, err := contentOf(rt.provider, rt.content, r.Header)
	if err != nil {
		return reply{}, err
	}
	if r.ContentLength > rt.maxBody {
		return reply{}, tooLarge(rt.maxBody)
	}
	hold := hold{from: h.inFlight}
	defer hold.release()
	sent, err := read(r, rt.maxBody, &hold)
	if err != nil {
		return reply{}, err
	}
	in.size = int64(len(sent))
	body := sent
	if says.encoding != "" && rt.provider.Inflated {
		if body, err = inflate(sent, says.encoding, rt.maxBody, &hold); err != nil {
			return reply{}, err
		}
		says.encoding = "" // what is verified is what is kept
	}
	err = h.verify(rt, r, body, in.at)
	if answer, ok, err := h.greetBody(in, body, err); ok {
		return answer, err
	}
	if err == nil {
		err = rt.couldBeAnswer(body)
	}
	if err != nil {
		h.investigate(in, body, says, err)
		return reply{}, err
	}
	if says.encoding != "" {
		if body, err = inflate(sent, says.encoding, rt.maxBody, &hold); err != nil {
			return reply{}, err
		}
	}
	d, err := documentOf(rt.provider.open(body), says, &hold)
	if err != nil {
		return reply{}, unfit(err)
	}
	found, err := rt.provider.read(r.Header, d)
	if err != nil {
		return reply{}, unfit(err)
	}
	entry, rule, err := h.entry(in, d, found, body, &hold)
	if err != nil {
		return reply{}, err
	}
	if rule != "" {
		return dropReply(rule, found.bare)
	}
	if says.encoding != "" {
		entry.Verification += "; sent as " + says.encoding
	}
	durability, err := h.store(r.Context(), entry)
	if err != nil {
		return reply{}, err
	}
	if found.bare {
		return reply{status: http.StatusOK, durability: durability}, nil
	}
	accepted := domain.AppendJSONText([]byte(`{"id":`), entry.ID)
	accepted = append(domain.AppendJSONText(append(accepted, `,"stream":`...), string(entry.Stream)), '}')
	return reply{status: http.StatusAccepted, contentType: "application/json", body: accepted, durability: durability}, nil
}

// admit refuses who isn't allowed, and what is too much, before anything of the request is looked at.
func (h *Handler) admit(in *incoming) error {
	if !in.route.allow.contains(in.remote) {
		in.hint = h.proxies.hint(in.Request)
		return refuse(403, "address-not-allowed", "The address is not allowed", "deliveries of this source come from other addresses")
	}
	scope, wait := in.route.limits.allow(in.remote, in.at)
	if scope == "" {
		return nil
	}
	h.metrics.limited.WithLabelValues(in.route.source.Name, scope).Inc()
	p := refuse(429, "rate-limited", "Too many requests", "more than this %s may send; nothing was stored", scope)
	p.retry = wait
	return p
}

// unfit is an error about a body that isn't what it should be.
func unfit(err error) error {
	if _, ok := errors.AsType[*problem](err); ok || domain.ClassOf(err) == domain.Invalid {
		return err
	}
	return unreadable(err)
}

// dropReply answers for a delivery that a rule drops. The sender did nothing wrong, and must not send it again.
func dropReply(rule string, bare bool) (reply, error) {
	if bare {
		return reply{status: http.StatusOK, dropped: rule}, nil
	}
	body, err := json.Marshal(struct {
		Dropped string `json:"dropped"`
	}{rule})
	return reply{status: http.StatusOK, contentType: "application/json", body: body, dropped: rule}, err
}

// verify checks that a request was signed with one of the secrets that the source has or has learned.
func (h *Handler) verify(rt *route, r *http.Request, body []byte, now time.Time) error {
	if rt.source.Unverified {
		return nil
	}
	return h.verifyWith(h.keys(rt), rt, r, body, now)
}

func (h *Handler) verifyWith(keys []Key, rt *route, r *http.Request, body []byte, now time.Time) error {
	return rt.provider.Scheme.Verify(r.Context(), &Request{
		Method: r.Method, URL: rt.source.address(r.URL), Header: r.Header, Body: body, Vendor: h.vendor,
	}, keys, now)
}

// entry makes the inbox record, or names the rule that the delivery doesn't fulfil.
func (h *Handler) entry(
	in *incoming, d document, found reading, body []byte, hold *hold,
) (e eventstore.Entry, rule string, err error) {
	rt, header := in.route, in.Header
	if in.kind, err = typeName(rt.provider.Name, found.kind); err != nil {
		return e, "", err
	}
	if in.id, err = deliveryID(found, rt.provider, rt.source.Name, body, in.at); err != nil {
		return e, "", err
	}
	headers, err := kept(rt.provider, header)
	if err != nil {
		return e, "", err
	}
	on := &subject{
		header: header, query: in.URL.RawQuery, remote: in.remote, document: d, id: in.id, kind: in.kind,
		source: rt.source.Name, hold: hold,
	}
	if rule, err = dropped(rt.rules, on); rule != "" || err != nil {
		return e, rule, err
	}
	key := first(found.key, in.id)
	if rt.stream != nil && rt.provider.Split == nil { // of a batch it is about the items
		if key, err = rt.stream.key(on); err != nil {
			return e, "", err
		}
	}
	stream, err := domain.NewStream(rt.source.Name, key)
	if err != nil {
		return e, "", err
	}
	return eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: in.id, Source: rt.source.Name, Type: in.kind, Stream: stream, Received: in.at,
		ContentType: header.Get("Content-Type"), Verification: rt.verification(), Correlation: in.id,
		TraceParent: traceParent(header), Attempt: attemptOf(header), Headers: headers, Body: rt.provider.masked(body),
	}, "", nil
}

// store appends within the budget. The context keeps the request's values but not its end.
func (h *Handler) store(ctx context.Context, e eventstore.Entry) (Durability, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.budget)
	defer cancel()
	h.rush.count(time.Now())
	durability, err := h.appendEntry(ctx, e)
	if err == nil {
		return durability, nil
	}
	if domain.ClassOf(err) == domain.Internal && errors.Is(err, context.DeadlineExceeded) {
		err = &domain.Error{Class: domain.Unavailable, Message: fmt.Sprintf("not acknowledged within %v", h.budget), Err: err}
	}
	return "", fmt.Errorf("append delivery %s of %s: %w", e.ID, e.Source, err)
}
