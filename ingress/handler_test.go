package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
)

// node is a handler behind a real server, with a log that is a slice.
type node struct {
	handler *Handler
	server  *httptest.Server
	logged  *lockedBuffer

	mu      sync.Mutex
	entries []eventstore.Entry
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newNode serves one source per provider, named like it. change may alter the configuration.
func newNode(t *testing.T, change func(*Config)) *node {
	t.Helper()
	n := &node{logged: &lockedBuffer{}}
	c := Config{Logger: slog.New(slog.NewTextHandler(n.logged, nil))}
	c.Append = func(_ context.Context, e eventstore.Entry) (Durability, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.entries = append(n.entries, e)
		return Logged, nil
	}
	c.Sources = everySource()[:4]
	if change != nil {
		change(&c)
	}
	var err error
	if n.handler, err = New(c); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/hooks/{source}", n.handler)
	n.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		n.server.Close()
		if used := n.handler.inFlight.used.Load(); used != 0 {
			t.Errorf("%d bytes in flight after the last request", used)
		}
		for _, p := range Providers {
			if strings.Contains(n.logged.String(), string(secretOf(p.Name))) {
				t.Error("a secret stands in the log")
			}
		}
	})
	return n
}

func (n *node) stored() []eventstore.Entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.entries)
}

func (n *node) last() eventstore.Entry {
	all := n.stored()
	if len(all) == 0 {
		return eventstore.Entry{}
	}
	return all[len(all)-1]
}

// signed returns a request to the source named like the provider, signed now.
func (n *node) signed(t *testing.T, provider, contentType, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", n.server.URL+"/hooks/"+provider, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	switch provider {
	case "github":
		r.Header.Set("X-GitHub-Event", "push")
		r.Header.Set("X-GitHub-Delivery", "d-1")
	case "standard":
		r.Header.Set("Webhook-Id", "msg_1")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	p, _ := ProviderNamed(provider)
	if err := p.Scheme.SignWith(&Request{Method: "POST", Header: r.Header, Body: []byte(body)}, secretOf(provider), signer(p), time.Now()); err != nil {
		t.Fatal(err)
	}
	return r
}

type answer struct {
	status int
	header http.Header
	body   string
	problem
}

func do(t *testing.T, r *http.Request) answer {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: string(b)}
	if res.Header.Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(b, &a.problem); err != nil || a.Status != a.status || a.Title == "" {
			t.Errorf("problem document %s: %v", b, err)
		}
	}
	return a
}

func (a answer) wantRetryAfter(t *testing.T) {
	t.Helper()
	if s, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || s < 3 || s > 8 {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
}

func TestADeliveryBecomesAnEntry(t *testing.T) {
	now := time.Now()
	n := newNode(t, func(c *Config) { c.Clock = func() time.Time { return now } })
	body := `{"ref":"refs/heads/main", "repository":{"full_name":"octo/hello"}}` // with its space
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	a := do(t, n.signed(t, "github", jsonType, body, "Authorization", "Bearer s3cret", "Cookie", "s3cret", "X-Other", "x",
		"Traceparent", trace, "User-Agent", "GitHub-Hookshot/1"))
	if a.status != 202 || a.header.Get("Content-Type") != "application/json" || a.body != `{"id":"d-1","stream":"github/octo/hello"}` {
		t.Fatalf("%d %s", a.status, a.body)
	}
	e := n.last()
	keys := []string{}
	for k, v := range e.Headers {
		keys = append(keys, k)
		if strings.Contains(v, "s3cret") {
			t.Errorf("a credential was recorded: %s", k)
		}
	}
	slices.Sort(keys)
	if want := "[content-type user-agent x-github-delivery x-github-event x-hub-signature-256]"; fmt.Sprint(keys) != want {
		t.Errorf("recorded headers %v, want %s", keys, want)
	}
	e.Headers = nil
	want := eventstore.Entry{Kind: "delivery", ID: "d-1", Source: "github", Type: "github.push", Stream: "github/octo/hello",
		Received: now, ContentType: jsonType, Verification: "github; body", Correlation: "d-1", TraceParent: trace, Body: []byte(body)}
	if fmt.Sprintf("%+v", e) != fmt.Sprintf("%+v", want) {
		t.Errorf("\n got %+v\nwant %+v", e, want)
	}
	// What was recorded verifies again.
	h := http.Header{}
	for k, v := range n.last().Headers {
		h.Set(k, v)
	}
	p, _ := ProviderNamed("github")
	if err := p.Scheme.Verify(t.Context(), &Request{Header: h, Body: n.last().Body}, Keys(secretOf("github")), now); err != nil {
		t.Error(err)
	}
}

func TestFormsOfGitHubAndSlack(t *testing.T) {
	n := newNode(t, nil)
	form := "payload=%7B%22repository%22%3A%7B%22full_name%22%3A%22octo%2Fhello%22%7D%7D"
	if a := do(t, n.signed(t, "github", formType, form)); a.status != 202 || string(n.last().Body) != form || n.last().Stream != "github/octo/hello" {
		t.Errorf("%d %s, entry %+v", a.status, a.body, n.last())
	}
	// Slack shows the body of this answer to the user who typed the command.
	if a := do(t, n.signed(t, "slack", formType, slackBody)); a.status != 200 || a.body != "" || n.last().Type != "slack.slash_commands" {
		t.Errorf("%d %q, entry %+v", a.status, a.body, n.last())
	}
}

func TestRefusals(t *testing.T) {
	registry := prometheus.NewRegistry()
	n := newNode(t, func(c *Config) {
		c.Registerer = registry
		c.Sources[1].MaxBody = 64 // stripe
	})
	at := func(method, source string) *http.Request {
		r, _ := http.NewRequestWithContext(t.Context(), method, n.server.URL+"/hooks/"+source, nil)
		return r
	}
	with := func(r *http.Request, f func(*http.Request)) *http.Request { f(r); return r }
	long := `{"id":"evt_1","type":"x","data":"` + strings.Repeat("x", 64) + `"}`
	for _, c := range []struct {
		name   string
		r      *http.Request
		status int
		kind   string
		reason Reason
		field  string
	}{
		{"unknown source", at("POST", "nope"), 404, "unknown-source", "", ""},
		{"unknown source, GET", at("GET", "nope"), 404, "unknown-source", "", ""},
		{"GET", at("GET", "github"), 405, "method-not-allowed", "", ""},
		{"PUT", at("PUT", "github"), 405, "method-not-allowed", "", ""},
		{"no content type", at("POST", "github"), 415, "unsupported-media-type", "", ""},
		{"text", n.signed(t, "github", "text/plain", "{}"), 415, "unsupported-media-type", "", ""},
		{"form to Stripe", n.signed(t, "stripe", formType, "a=b"), 415, "unsupported-media-type", "", ""},
		{"no gzip", n.signed(t, "github", jsonType, "{}", "Content-Encoding", "gzip"), 400, "unreadable-body", "", ""},
		{"brotli", n.signed(t, "github", jsonType, "{}", "Content-Encoding", "br"), 415, "unsupported-media-type", "", ""},
		{"announced too large", n.signed(t, "stripe", jsonType, long), 413, "body-too-large", "", ""},
		{"too large in chunks", with(n.signed(t, "stripe", jsonType, long), func(r *http.Request) { r.ContentLength = -1 }), 413, "body-too-large", "", ""},
		{"not signed", with(n.signed(t, "github", jsonType, "{}"), func(r *http.Request) { r.Header.Del("X-Hub-Signature-256") }),
			401, "bad-signature", MissingHeader, ""},
		{"malformed", with(n.signed(t, "github", jsonType, "{}"), func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", "x") }),
			401, "bad-signature", Malformed, ""},
		{"forged, not JSON", with(n.signed(t, "github", jsonType, "{}"), func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("[")), 1
		}), 401, "bad-signature", WrongSignature, ""},
		{"not JSON", n.signed(t, "github", jsonType, `{"a":`), 400, "unreadable-body", "", ""},
		{"empty", n.signed(t, "github", jsonType, ``), 400, "unreadable-body", "", ""},
		{"two documents", n.signed(t, "github", jsonType, `{} {}`), 400, "unreadable-body", "", ""},
		{"no form", n.signed(t, "slack", formType, `payload=%zz`), 400, "unreadable-body", "", ""},
		{"no id", n.signed(t, "stripe", jsonType, `{"type":"x"}`), 422, "invalid-delivery", "", "id"},
		{"a type of nothing", n.signed(t, "github", jsonType, `{}`, "X-GitHub-Event", ""), 422, "invalid-delivery", "", "X-GitHub-Event"},
		{"a stream too long", n.signed(t, "standard", jsonType, `{"data":{"id":"`+strings.Repeat("x", 600)+`"}}`), 422, "invalid-delivery", "", "stream"},
		{"headers too large", n.signed(t, "github", jsonType, `{}`, "X-GitHub-Other", strings.Repeat("x", maxKept)), 431, "headers-too-large", "", ""},
	} {
		a := do(t, c.r)
		if a.status != c.status || a.Type != "/problems/"+c.kind || a.Reason != c.reason || a.Field != c.field {
			t.Errorf("%s: %d %s", c.name, a.status, a.body)
		}
		if c.status == 405 && a.header.Get("Allow") != "POST" {
			t.Errorf("%s: Allow %q", c.name, a.header.Get("Allow"))
		}
	}
	if len(n.stored()) != 0 {
		t.Errorf("stored although refused: %+v", n.stored())
	}
	for _, want := range []string{
		"webhook_signature_failures_total reason=wrong-signature source=github 1",
		"webhook_deliveries_received_total source=_unknown status=404 2",
		"webhook_deliveries_received_total source=github status=401 3",
		"webhook_processing_duration_seconds source=stripe 4",
	} {
		if got := series(t, registry); !slices.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// series lists the counters, and the counts of the histograms, as "name label=value … n".
func series(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			line := f.GetName()
			for _, l := range m.GetLabel() {
				line += " " + l.GetName() + "=" + l.GetValue()
			}
			lines = append(lines, fmt.Sprintf("%s %v", line, m.GetCounter().GetValue()+float64(m.GetHistogram().GetSampleCount())))
		}
	}
	return lines
}

func TestAppendErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{fmt.Errorf("x: %w", &domain.Error{Class: domain.Unavailable, Message: "broker 10.0.0.1 down"}), 503},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), 503},
		{&domain.Error{Class: domain.TooLarge, Field: "body", Message: "at most 5"}, 413},
		{errors.New("broker 10.0.0.1"), 500},
	} {
		n := newNode(t, func(cfg *Config) {
			cfg.Append = func(context.Context, eventstore.Entry) (Durability, error) { return "", c.err }
		})
		a := do(t, n.signed(t, "github", jsonType, "{}"))
		if a.status != c.status || strings.Contains(a.body, "10.0.0.1") {
			t.Errorf("%v: %d %s", c.err, a.status, a.body)
		}
		if c.status == 503 {
			a.wantRetryAfter(t)
		}
		if !strings.Contains(n.logged.String(), c.err.Error()) {
			t.Errorf("the cause is not in the log: %s", n.logged)
		}
	}
}

func TestAnAppendOverBudgetIs503(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Budget = time.Millisecond
		c.Append = func(ctx context.Context, _ eventstore.Entry) (Durability, error) {
			<-ctx.Done()
			return Logged, ctx.Err()
		}
	})
	a := do(t, n.signed(t, "github", jsonType, "{}"))
	if a.status != 503 || a.Type != "/problems/log-unavailable" {
		t.Errorf("%d %s", a.status, a.body)
	}
	a.wantRetryAfter(t)
}

// A sender that hangs up while its delivery is being written must not cancel the write.
func TestAHangUpDoesNotCancelTheAppend(t *testing.T) {
	writing, gone, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	n := newNode(t, func(c *Config) {
		c.Budget = time.Hour
		c.Append = func(ctx context.Context, _ eventstore.Entry) (Durability, error) {
			close(writing)
			<-gone
			result <- ctx.Err()
			return Logged, nil
		}
	})
	inner := n.handler
	n.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		go func() {
			<-r.Context().Done() // the server has seen the hang-up
			close(gone)
		}()
		r.SetPathValue("source", "github")
		inner.ServeHTTP(w, r)
	})
	ctx, hangUp := context.WithCancel(t.Context())
	r := n.signed(t, "github", jsonType, "{}").WithContext(ctx)
	go func() {
		<-writing
		hangUp()
	}()
	if _, err := http.DefaultClient.Do(r); !errors.Is(err, context.Canceled) {
		t.Fatalf("the request wasn't cut: %v", err)
	}
	if err := <-result; err != nil {
		t.Errorf("the append's context ended with the request: %v", err)
	}
}

func TestBytesInFlightAreBounded(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	n := newNode(t, func(c *Config) {
		c.MaxInFlight = 150 << 10 // two first reads fit, two whole bodies don't
		c.Sources[0].MaxBody = 100 << 10
		for i := range c.Sources[1:] {
			c.Sources[i+1].MaxBody = 1 << 10
		}
		c.Append = func(context.Context, eventstore.Entry) (Durability, error) {
			entered <- struct{}{}
			<-release
			return Logged, nil
		}
	})
	big := `{"x":"` + strings.Repeat("x", 80<<10) + `"}`
	first := make(chan answer, 1)
	go func() { first <- do(t, n.signed(t, "github", jsonType, big)) }()
	<-entered
	a := do(t, n.signed(t, "github", jsonType, big))
	if a.status != 503 || a.Type != "/problems/busy" {
		t.Errorf("%d %s", a.status, a.body)
	}
	a.wantRetryAfter(t)
	// What still fits is served meanwhile.
	second := make(chan answer, 1)
	go func() { second <- do(t, n.signed(t, "github", jsonType, "{}")) }()
	<-entered
	release <- struct{}{}
	release <- struct{}{}
	for _, c := range []chan answer{first, second} {
		if a := <-c; a.status != 202 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	go func() { first <- do(t, n.signed(t, "github", jsonType, big)) }()
	<-entered
	release <- struct{}{}
	if a := <-first; a.status != 202 {
		t.Errorf("after the first was done: %d %s", a.status, a.body)
	}
}

// Announcing a body costs the announcer nothing, so it must cost the node next to nothing.
func TestAnnouncedBytesHoldNothing(t *testing.T) {
	n := newNode(t, func(c *Config) { c.MaxInFlight = 25 << 20 })
	for range 20 {
		c, err := net.Dial("tcp", n.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /hooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", 25<<20)
		// The server asks for the body when the handler begins to read it, so it holds by now what it will hold.
		got := make([]byte, len("HTTP/1.1 100"))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "HTTP/1.1 100" {
			t.Fatalf("%q %v", got, err)
		}
	}
	if used := n.handler.inFlight.used.Load(); used != 20*firstRead {
		t.Errorf("%d bytes are held for bodies that never came", used)
	}
	if a := do(t, n.signed(t, "github", jsonType, "{}")); a.status != 202 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// A body that is announced as too large is refused without the server ever asking for it.
func TestTooLargeIsSaidBeforeTheBodyIsSent(t *testing.T) {
	n := newNode(t, nil)
	c, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /hooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", 1<<20+1)
	got := make([]byte, len("HTTP/1.1 413"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "HTTP/1.1 413" {
		t.Errorf("%q %v", got, err)
	}
}

func TestBodiesOfAllSizesArriveWhole(t *testing.T) {
	n := newNode(t, nil)
	for _, size := range []int{10, firstRead - 1, firstRead, firstRead + 1, 3 * firstRead, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			body := `{"x":"` + strings.Repeat("x", size-8) + `"}`
			r := n.signed(t, "github", jsonType, body)
			if chunked {
				r.ContentLength = -1
			}
			if a := do(t, r); a.status != 202 {
				t.Fatalf("%d bytes, chunked %v: %d %s", size, chunked, a.status, a.body)
			}
			if e := n.last(); string(e.Body) != body || !chunked && cap(e.Body) != size {
				t.Errorf("%d bytes, chunked %v: %d arrived in a buffer of %d", size, chunked, len(e.Body), cap(e.Body))
			}
		}
	}
}

func TestStreamOfASource(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Sources[0].Stream = `"team/" + body.team`
	})
	if a := do(t, n.signed(t, "github", jsonType, `{"team":"red"}`)); a.status != 202 || n.last().Stream != "github/team/red" {
		t.Errorf("%d %s, %s", a.status, a.body, n.last().Stream)
	}
	if a := do(t, n.signed(t, "github", jsonType, `{}`)); a.status != 422 || a.Field != "stream" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// For an expression the body is parsed into a tree, which takes far more memory than its text, and counts as such.
func TestParsedBodiesCount(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	n := newNode(t, func(c *Config) {
		c.MaxInFlight = 100 << 10
		for i := range c.Sources {
			c.Sources[i].MaxBody = 8 << 10
		}
		c.Sources[0].Stream = `body.x != "" ? "x" : "y"`
		c.Append = func(context.Context, eventstore.Entry) (Durability, error) {
			once.Do(func() {
				close(entered)
				<-release
			})
			return Logged, nil
		}
	})
	body := `{"x":"` + strings.Repeat("x", 4<<10) + `"}` // two of them fit, two of their trees don't
	first := make(chan answer, 1)
	go func() { first <- do(t, n.signed(t, "github", jsonType, body)) }()
	<-entered
	second := do(t, n.signed(t, "github", jsonType, body))
	close(release)
	if a := <-first; a.status != 202 || second.status != 503 {
		t.Errorf("%d and %d", a.status, second.status)
	}
}

func TestReload(t *testing.T) {
	n := newNode(t, nil)
	github := func(secrets ...Secret) []Source {
		return []Source{{Name: "github", Provider: "github", Secrets: Keys(secrets...)}}
	}
	old := func() int { return do(t, n.signed(t, "github", jsonType, "{}")).status }
	if err := n.handler.Reload(github(Secret("new"), secretOf("github"))); err != nil || old() != 202 {
		t.Errorf("both secrets: %v", err)
	}
	if err := n.handler.Reload(github()); err == nil || old() != 202 {
		t.Errorf("a broken reload changes nothing: %v", err)
	}
	if err := n.handler.Reload(github(Secret("new"))); err != nil || old() != 401 {
		t.Errorf("the new secret alone: %v", err)
	}
}

func TestNewReportsEveryProblem(t *testing.T) {
	_, err := New(Config{
		Budget: -1,
		Sources: []Source{
			{Name: "a/b", Provider: "github", Secrets: Keys(Secret("x"))},
			{Name: "ok", Provider: "nope"},
			{Name: "line", Provider: "github", Secrets: Keys(Secret("hunter2\n"))},
			{Name: "std", Provider: "standard", Secrets: Keys(Secret("hunter2!"))},
			{Name: "cel", Provider: "github", Secrets: Keys(Secret("x")), Stream: "nope"},
			{Name: "big", Provider: "github", Secrets: Keys(Secret("x")), MaxBody: 1 << 40},
			{Name: "api", Provider: "github", Secrets: Keys(Secret("x"))},
			{Name: "twice", Provider: "github", Secrets: Keys(Secret("x"))},
			{Name: "twice", Provider: "github", Secrets: Keys(Secret("x"))},
			{Provider: "github", Secrets: Keys(Secret("x"))},
		},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"needs Append", "budget", `"a/b"`, `no provider "nope"`, "1 to 8 secrets", "white space", "not base64",
		"line 1, column 1", "MaxBody", "commands sent over HTTP", `"twice" is there twice`, `source ""`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("a secret stands in the error")
	}
}

func TestTraceParent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for text, want := range map[string]bool{
		good:                      true,
		"01" + good[2:] + "-more": true,
		good + "-more":            false,
		"ff" + good[2:]:           false,
		strings.ToUpper(good):     false,
		good[:54]:                 false,
		"00-" + strings.Repeat("0", 32) + good[35:]: false,
		good[:36] + strings.Repeat("0", 16) + "-01": false,
		strings.Replace(good, "4bf9", "4bg9", 1):    false,
		"01" + good[2:] + "-\n":                     false,
		"":                                          false,
	} {
		if got := traceParent(http.Header{"Traceparent": {text}}) == text && text != ""; got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// BenchmarkReceive is the handler without server and log: what it costs beside them.
func BenchmarkReceive(b *testing.B) {
	h, err := New(Config{
		Sources: []Source{{Name: "github", Provider: "github", Secrets: Keys(secretOf("github"))}},
		Append:  func(context.Context, eventstore.Entry) (Durability, error) { return Logged, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"action":"opened","number":7,"pull_request":{"number":7},"x":["` + strings.Repeat(`abc","`, 300) + `"],"repository":{"full_name":"octo/hello"}}`)
	r := httptest.NewRequest("POST", "/hooks/github", nil)
	r.SetPathValue("source", "github")
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Type", jsonType)
	r.Header.Set("X-GitHub-Event", "pull_request")
	r.Header.Set("X-GitHub-Delivery", "d-1")
	p, _ := ProviderNamed("github")
	if err := p.Scheme.Sign(&Request{Header: r.Header, Body: body}, secretOf("github"), time.Now()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(bytes.NewReader(body))
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != 202 {
			b.Fatal(w.Body)
		}
	}
}
