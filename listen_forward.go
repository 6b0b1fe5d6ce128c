package penstock

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/ingress"
)

// forwarder sends events, one after the other, to a program that takes webhooks.
type forwarder struct {
	node   *remote // where the exact requests are
	to     string
	sign   func(*http.Request, []byte, *client.CloudEvent, time.Time) error // nil to leave signatures as they are
	tries  int
	stop   bool // when all tries failed
	client *http.Client
}

// passed is what became of one try, or of an event.
type passed struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Status int    `json:"status,omitempty"`
	Answer string `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
	Tries  int    `json:"tries"`
	MS     int64  `json:"ms"`
	Exact  bool   `json:"exact"` // the body is the provider's, byte for byte

	wait time.Duration
}

func (p passed) ok() bool { return p.Status/100 == 2 }

// what is the outcome in words.
func (p passed) what() string {
	switch {
	case p.Error != "":
		return p.Error
	case p.ok():
		return fmt.Sprintf("%d in %d ms", p.Status, p.MS)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", p.Status, p.Answer))
}

const (
	forwardPatience = 30 * time.Second // of one try
	forwardAnswer   = 4 << 10          // bytes of an answer that are shown
	forwardWait     = 15 * time.Second // longest between tries
	foldPatience    = 10 * time.Second // for a delivery of the last hour to stand in the delivery log
)

func newForwarder(node *remote, to, resign, provider, onFailure string, tries int) (*forwarder, error) {
	u, err := url.Parse(to)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("--forward %q is not an http URL", to)
	case tries < 1 || tries > 100:
		return nil, fmt.Errorf("--tries is from 1 to 100, not %d", tries)
	case onFailure != "skip" && onFailure != "stop":
		return nil, fmt.Errorf("--on-failure is skip or stop, not %q", onFailure)
	}
	f := &forwarder{node: node, to: to, tries: tries, stop: onFailure == "stop", client: &http.Client{
		Timeout: forwardPatience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if resign == "" {
		return f, nil
	}
	row, ok := ingress.ProviderNamed(provider)
	if !ok {
		return nil, fmt.Errorf("--provider: there is no %q; see penstock sources providers", provider)
	}
	secret, err := resolve(resign)
	if err != nil {
		return nil, fmt.Errorf("--resign: %w", err)
	}
	f.sign = func(r *http.Request, body []byte, e *client.CloudEvent, now time.Time) error {
		return signAs(row, ingress.Secret(secret), r, body, e.ID, now)
	}
	return f, nil
}

// pass tries until the program takes the event, at most so often. An error is a reason to end: ctx, or an event that
// is not to be skipped.
func (f *forwarder) pass(ctx context.Context, e *client.CloudEvent, failed func(passed)) (passed, error) {
	req, err := f.request(ctx, e)
	if err != nil {
		return passed{}, err
	}
	for try := 1; ; try++ {
		p := passed{ID: e.ID, Type: e.Type, Tries: try, Exact: req.exact}
		if err := f.try(ctx, req, e, &p); err != nil {
			return p, err
		}
		switch {
		case p.ok(), try == f.tries && !f.stop:
			return p, nil
		case try == f.tries:
			return p, fmt.Errorf("%s could not be forwarded: %s", cell(e.ID, 80), cell(p.what(), 300))
		}
		p.wait = min(500*time.Millisecond<<min(try-1, 6), forwardWait)
		p.wait = p.wait/2 + rand.N(p.wait/2)
		failed(p)
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-time.After(p.wait):
		}
	}
}

// try sends the event once. What goes wrong over there is in p; an error is ours.
func (f *forwarder) try(ctx context.Context, req forwarded, e *client.CloudEvent, p *passed) error {
	r, err := http.NewRequestWithContext(ctx, cmp.Or(req.method, http.MethodPost), f.to, bytes.NewReader(req.body))
	if err != nil {
		return err
	}
	r.Header = req.header.Clone()
	r.Header.Set("Penstock-Attempt", strconv.Itoa(p.Tries))
	if f.sign != nil { // anew for each try: signatures age
		if err := f.sign(r, req.body, e, time.Now()); err != nil {
			return fmt.Errorf("--resign: %w", err)
		}
	}
	start := time.Now()
	resp, err := f.client.Do(r)
	p.MS = time.Since(start).Milliseconds()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the URL is the user's own
		}
		p.Error = err.Error()
		return nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, forwardAnswer))
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if p.Status = resp.StatusCode; !p.ok() { // how much of a refusal can be read doesn't matter
		p.Answer = cell(string(answer), 300)
	}
	return nil
}

// forwarded is a request as it is sent on.
type forwarded struct {
	method string
	header http.Header
	body   []byte
	exact  bool
}

// notPassed are the recorded headers that belong to another connection or another body.
var notPassed = []string{"Host", "Connection", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Cookie", "Authorization"}

// request makes the request for an event: a delivery's own, or else the event itself.
func (f *forwarder) request(ctx context.Context, e *client.CloudEvent) (forwarded, error) {
	req := forwarded{header: http.Header{}, body: e.Body()}
	if e.DataContentType != "" {
		req.header.Set("Content-Type", e.DataContentType)
	}
	source, delivered := strings.CutPrefix(e.Source, "/sources/")
	if delivered && e.DeliveryID != "" {
		o, found, err := f.original(ctx, source, e)
		if err != nil {
			return req, err
		}
		if found {
			for name, value := range o.Headers {
				if value != "(masked)" {
					req.header.Set(name, value)
				}
			}
			if o.ContentType != "" {
				req.header.Set("Content-Type", o.ContentType)
			}
			for _, name := range notPassed {
				req.header.Del(name)
			}
			body, err := o.bytes()
			if err != nil {
				return req, fmt.Errorf("the body of %s: %w", e.ID, err)
			}
			req.method, req.body, req.exact = o.Method, body, true
		}
	}
	for name, value := range map[string]string{
		"Penstock-Event": e.ID, "Penstock-Type": e.Type, "Penstock-Stream": e.Subject, "Penstock-Source": source,
		"Penstock-Version": strconv.FormatUint(e.StreamVersion, 10), "Penstock-Delivery": e.DeliveryID, "Traceparent": e.TraceParent,
	} {
		if value != "" {
			req.header.Set(name, headerText(value))
		}
	}
	if !req.exact { // https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md#31-binary-content-mode
		for name, value := range map[string]string{
			"Ce-Specversion": "1.0", "Ce-Id": e.ID, "Ce-Type": e.Type, "Ce-Source": e.Source, "Ce-Subject": e.Subject,
			"Ce-Time": e.Time.UTC().Format(time.RFC3339Nano), "Ce-Streamversion": strconv.FormatUint(e.StreamVersion, 10),
			"Ce-Correlationid": e.CorrelationID, "Ce-Causationid": e.CausationID,
		} {
			if value != "" {
				req.header.Set(name, headerText(value))
			}
		}
	}
	return req, nil
}

// headerText percent-encodes what can't stand in a header, as CloudEvents has it.
func headerText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// original asks the node for a delivery's request. One that has left the inbox is not found. A node that is away for a
// moment is asked again, as long as it takes: what is forwarded must not depend on the moment. Nor must it on which of
// two folds is faster: the delivery log may know of an event a little later than its feed.
func (f *forwarder) original(ctx context.Context, source string, e *client.CloudEvent) (o original, found bool, err error) {
	quiet := *f.node
	quiet.raw = false
	path := "/v1/deliveries/" + url.PathEscape(source) + "/" + url.PathEscape(e.DeliveryID) + "/request"
	start := time.Now()
	for failures := 0; ; failures++ {
		status, err := quiet.call(ctx, http.MethodGet, path, nil, &o)
		switch {
		case err == nil:
			return o, true, nil
		case status == http.StatusNotFound && start.Sub(e.Time) < time.Hour && time.Since(start) < foldPatience:
		case status == http.StatusNotFound, status == http.StatusGone:
			return o, false, nil
		case status/100 == 4 && status != http.StatusTooManyRequests:
			return o, false, err
		}
		select {
		case <-ctx.Done():
			return o, false, ctx.Err()
		case <-time.After(min(20*time.Millisecond<<min(failures, 10), forwardWait)):
		}
	}
}

// signAs signs a request as a provider would. Signatures that it came with are of another secret and another time.
func signAs(row ingress.Provider, secret ingress.Secret, r *http.Request, body []byte, id string, now time.Time) error {
	for name := range r.Header {
		if strings.Contains(strings.ToLower(name), "signature") {
			r.Header.Del(name)
		}
	}
	if row.Name == "standard" {
		r.Header.Set("Webhook-Id", id)
	}
	signed := ingress.Request{Method: r.Method, URL: r.URL.String(), Header: r.Header, Body: body}
	if err := row.Scheme.Sign(&signed, secret, now); err != nil {
		return err
	}
	if !bytes.Equal(signed.Body, body) {
		return fmt.Errorf("%s has its signature in the body, which is forwarded as it is", row.Name)
	}
	var err error
	r.URL, err = url.Parse(signed.URL)
	return err
}
