package penstock_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// hook is a program on the developer's machine that takes webhooks, and remembers them.
type hook struct {
	*httptest.Server
	mu   sync.Mutex
	got  []hooked
	says func(n int) int // the status for the n-th request, from 0
}

type hooked struct {
	method string
	header http.Header
	body   string
}

func newHook(t *testing.T, says func(n int) int) *hook {
	h := &hook{says: says}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		status := 200
		if h.says != nil {
			status = h.says(len(h.got))
		}
		h.got = append(h.got, hooked{r.Method, r.Header, string(b)})
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		io.WriteString(w, "said\x1b[2J the hook\nand more")
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) requests() []hooked {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

// ids are the delivery ids of what came, in order.
func (h *hook) ids() (ids []string) {
	for _, r := range h.requests() {
		ids = append(ids, r.header.Get("Penstock-Delivery"))
	}
	return ids
}

// listening is penstock listen.
type listening struct {
	stdout, stderr output
	cancel         context.CancelFunc
	code           chan int
}

func listen(t *testing.T, args ...string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &listening{cancel: cancel, code: make(chan int, 1)}
	go func() {
		l.code <- penstock.Run(ctx, penstock.App{}, append([]string{"listen"}, args...), &l.stdout, &l.stderr)
	}()
	t.Cleanup(func() { l.stop(t) })
	return l
}

// stop ends it as Ctrl-C does, and returns the exit code.
func (l *listening) stop(t *testing.T) int {
	t.Helper()
	l.cancel()
	return l.end(t)
}

func (l *listening) end(t *testing.T) int {
	t.Helper()
	select {
	case code := <-l.code:
		l.code <- code // for those who stop it again
		return code
	case <-time.After(30 * time.Second):
		t.Fatal("listen doesn't end")
		return -1
	}
}

// issue delivers a body of GitHub exactly as given.
func (n *node) issue(t *testing.T, id, body string) {
	t.Helper()
	d, err := ingress.Sample("github.issues.opened", ingress.Facts{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	d.Body = []byte(body)
	r, err := d.Request(t.Context(), n.URL(), "github", ingress.Secret(penstock.DevelopmentSecret), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, r); a.status != 202 {
		t.Fatalf("%s: %s", id, a)
	}
}

func gitHubVerifies(t *testing.T, secret string, r hooked) error {
	t.Helper()
	p, _ := ingress.ProviderNamed("github")
	return p.Scheme.Verify(t.Context(), &ingress.Request{Method: r.method, Header: r.header, Body: []byte(r.body)}, ingress.Keys(ingress.Secret(secret)), time.Now())
}

// TestListenForwards: a forward is the provider's request, byte for byte, with its signature; what no provider sent is a
// CloudEvent in binary mode.
func TestListenForwards(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	h := newHook(t, nil)
	const body = "{ \"action\" : \"opened\",\n\t\"issue\":{\"number\":1.0e0}, \"text\":\"\\u00fc <b>\"}\n"
	n.issue(t, "d/1 ü#", body)
	n.deliver(t, "stripe.charge.succeeded", ingress.Facts{ID: "evt_1", Customer: "cus_9", Charge: "ch_1"})
	l := listen(t, "--url", n.URL(), "--from", "earliest", "--source", "github", "--forward", h.URL+"/hook?x=1")
	eventstoretest.Until(t, "the delivery is forwarded", func() bool { return len(h.requests()) == 1 })
	r := h.requests()[0]
	if r.method != "POST" || r.body != body || r.header.Get("Content-Type") != "application/json" || r.header.Get("X-Github-Event") != "issues" ||
		r.header.Get("X-Github-Delivery") != "d/1 ü#" || r.header.Get("Penstock-Type") != "github.issues.opened" || r.header.Get("Penstock-Source") != "github" ||
		r.header.Get("Penstock-Version") != "1" || r.header.Get("Penstock-Attempt") != "1" || r.header.Get("Penstock-Event") == "" ||
		r.header.Get("Penstock-Delivery") != "d/1%20%C3%BC#" {
		t.Errorf("%s %v %q", r.method, r.header, r.body)
	}
	if err := gitHubVerifies(t, penstock.DevelopmentSecret, r); err != nil {
		t.Errorf("the provider's signature does not fit any more: %v", err)
	}
	eventstoretest.Until(t, "it is said", func() bool { return strings.Contains(l.stdout.String(), "→ 200 in ") })
	if code := l.stop(t); code != 0 || l.stderr.String() != "" {
		t.Errorf("exit code %d, stderr: %s", code, l.stderr.String())
	}

	h = newHook(t, nil)
	l = listen(t, "--url", n.URL(), "--from", "earliest", "--type", "billing.charge.*", "--forward", h.URL, "--json")
	eventstoretest.Until(t, "the business's event is forwarded", func() bool { return len(h.requests()) == 1 })
	r = h.requests()[0]
	var captured struct{ Charge string }
	if r.header.Get("Ce-Specversion") != "1.0" || r.header.Get("Ce-Type") != "billing.charge.captured" || r.header.Get("Ce-Subject") != "billing/cus_9" ||
		r.header.Get("Content-Type") != "application/json" || json.Unmarshal([]byte(r.body), &captured) != nil || captured.Charge != "ch_1" {
		t.Errorf("%v %q", r.header, r.body)
	}
	eventstoretest.Until(t, "it is said", func() bool { return strings.Contains(l.stdout.String(), `"status":200`) })
}

// TestListenGoesOnWhereItWas: what came while nobody listened is forwarded later, and nothing twice.
func TestListenGoesOnWhereItWas(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	h := newHook(t, nil)
	file := filepath.Join(t.TempDir(), "cursor")
	args := []string{"--url", n.URL(), "--from", "earliest", "--cursor-file", file, "--source", "github", "--forward", h.URL}
	want := []string{}
	for round := range 3 {
		for i := range 10 { // nobody listens
			id := fmt.Sprintf("d-%d-%d", round, i)
			n.issue(t, id, `{"action":"opened"}`)
			want = append(want, id)
		}
		l := listen(t, args...)
		eventstoretest.Until(t, "what came meanwhile is forwarded", func() bool { return len(h.requests()) >= len(want) })
		id := fmt.Sprintf("d-%d-live", round)
		n.issue(t, id, `{"action":"opened"}`)
		want = append(want, id)
		eventstoretest.Until(t, "what comes live too", func() bool {
			return len(h.requests()) >= len(want) && strings.Count(l.stdout.String(), "→") == len(want)-round*11
		})
		if code := l.stop(t); code != 0 {
			t.Errorf("exit code %d: %s", code, l.stderr.String())
		}
	}
	got := h.ids()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("forwarded %q, want %q", got, want)
	}
	if at, err := os.Stat(file); err != nil || at.Mode() != 0o600 {
		t.Errorf("%v, %v", at, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".cursor-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	writeFile(t, file, "\n")
	if s := command(t, "listen", "--url", n.URL(), "--cursor-file", file); s.code != 1 || !strings.Contains(s.stderr, "no cursor file") {
		t.Errorf("%+v", s)
	}
	writeFile(t, file, "gibberish\n")
	if s := command(t, "listen", "--url", n.URL(), "--cursor-file", file); s.code != 1 || !strings.Contains(s.stderr, "bad-cursor") {
		t.Errorf("%+v", s)
	}
}

// TestListenTriesAgain: what the program doesn't take is tried again, and then skipped or a reason to stop, in order.
func TestListenTriesAgain(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	for i := range 3 {
		n.issue(t, fmt.Sprintf("d-%d", i), `{"action":"opened","repository":{"full_name":"octo/hello"}}`) // of one stream, so in order
	}
	status := func(n int) int { return []int{500, 302, 200, 200, 200}[min(n, 4)] }
	h := newHook(t, status)
	l := listen(t, "--url", n.URL(), "--from", "earliest", "--source", "github", "--forward", h.URL)
	eventstoretest.Until(t, "all are taken", func() bool { return len(h.requests()) == 5 })
	if got := h.ids(); !slices.Equal(got, []string{"d-0", "d-0", "d-0", "d-1", "d-2"}) || h.requests()[2].header.Get("Penstock-Attempt") != "3" {
		t.Errorf("%q", got)
	}
	if code := l.stop(t); code != 0 || !strings.Contains(l.stderr.String(), "500 said\ufffd[2J the hook…; again in") || strings.Contains(l.stderr.String(), "\x1b") {
		t.Errorf("exit code %d, %q", code, l.stderr.String())
	}

	h = newHook(t, func(n int) int { return []int{500, 500, 200, 200}[min(n, 3)] })
	l = listen(t, "--url", n.URL(), "--from", "earliest", "--source", "github", "--forward", h.URL, "--tries", "2")
	eventstoretest.Until(t, "the others are taken", func() bool { return strings.Count(l.stdout.String(), "→ 200") == 2 })
	if code := l.stop(t); code != 0 || !slices.Equal(h.ids(), []string{"d-0", "d-0", "d-1", "d-2"}) || !strings.Contains(l.stderr.String(), "1 of 3 events could not be forwarded") {
		t.Errorf("exit code %d, %q, %q", code, h.ids(), l.stderr.String())
	}

	h = newHook(t, func(n int) int { return []int{200, 500, 200}[min(n, 2)] })
	file := filepath.Join(t.TempDir(), "cursor")
	args := []string{"--url", n.URL(), "--from", "earliest", "--source", "github", "--cursor-file", file, "--forward", h.URL, "--tries", "1", "--on-failure", "stop"}
	l = listen(t, args...)
	if code := l.end(t); code != 1 || !strings.Contains(l.stderr.String(), "could not be forwarded: 500") {
		t.Errorf("exit code %d, %q", code, l.stderr.String())
	}
	l = listen(t, args...)
	eventstoretest.Until(t, "it goes on with what failed", func() bool { return strings.Count(l.stdout.String(), "→ 200") == 2 })
	l.stop(t)
	if got := h.ids(); !slices.Equal(got, []string{"d-0", "d-1", "d-1", "d-2"}) {
		t.Errorf("%q", got)
	}
	for _, bad := range [][]string{
		{"--forward", "localhost:3000"}, {"--forward", h.URL, "--tries", "0"}, {"--forward", h.URL, "--on-failure", "cry"}, {"--resign", "env:X"},
		{"--forward", h.URL, "--resign", "hunter2-in-the-clear"}, {"--forward", h.URL, "--resign", "env:HOME", "--provider", "nobody"}, {"--token", "hunter2-in-the-clear"},
	} {
		if s := command(t, append([]string{"listen", "--url", n.URL()}, bad...)...); s.code != 1 || strings.Contains(s.stderr, "hunter2") {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

// TestListenSigns: forwards are signed anew if asked, in the form of Standard Webhooks or a provider's.
func TestListenSigns(t *testing.T) {
	t.Setenv("OWN_WHSEC", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	t.Setenv("OWN_SECRET", "my own secret")
	n := startNode(t, nodeConfig(t))
	n.issue(t, "d-1", `{ "action" : "opened" }`)
	h := newHook(t, nil)
	listen(t, "--url", n.URL(), "--from", "earliest", "--source", "github", "--forward", h.URL, "--resign", "env:OWN_WHSEC")
	listen(t, "--url", n.URL(), "--from", "earliest", "--source", "github", "--forward", h.URL, "--resign", "env:OWN_SECRET", "--provider", "github")
	eventstoretest.Until(t, "both are forwarded", func() bool { return len(h.requests()) == 2 })
	for _, r := range h.requests() {
		if r.body != `{ "action" : "opened" }` {
			t.Errorf("%q", r.body)
		}
		if r.header.Get("Webhook-Signature") == "" {
			if err := gitHubVerifies(t, "my own secret", r); err != nil {
				t.Errorf("%v: %v", r.header, err)
			}
			continue
		}
		p, _ := ingress.ProviderNamed("standard")
		err := p.Scheme.Verify(t.Context(), &ingress.Request{Header: r.header, Body: []byte(r.body)}, ingress.Keys(ingress.Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")), time.Now())
		if err != nil || r.header.Get("Webhook-Id") != r.header.Get("Penstock-Event") || r.header.Get("X-Hub-Signature-256") != "" {
			t.Errorf("%v: %v", r.header, err)
		}
	}
}

// TestListenOutlivesTheNode: a node that restarts is waited for, and nothing is lost or shown twice.
func TestListenOutlivesTheNode(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := nodeConfig(t)
	cfg.Listen = free.Addr().String()
	free.Close()
	n := startNode(t, cfg)
	l := listen(t, "--url", "http://"+cfg.Listen, "--from", "earliest", "--source", "github", "--json")
	h := newHook(t, nil)
	listen(t, "--url", "http://"+cfg.Listen, "--from", "earliest", "--source", "github", "--forward", h.URL)
	shown := func() (ids []string) {
		for line := range strings.Lines(l.stdout.String()) {
			var e cloudEvent
			if json.Unmarshal([]byte(line), &e) != nil {
				return nil // the last one is still being written
			}
			ids = append(ids, e.DeliveryID)
		}
		return ids
	}
	var want []string
	for round := range 3 {
		for i := range 5 {
			id := fmt.Sprintf("d-%d-%d", round, i)
			n.issue(t, id, `{"action":"opened","repository":{"full_name":"octo/hello"}}`)
			want = append(want, id)
		}
		eventstoretest.Until(t, "all are shown and forwarded", func() bool { return len(shown()) >= len(want) && len(h.requests()) >= len(want) })
		if round < 2 {
			n.stop(t)
			eventstoretest.Until(t, "it is said that the node is away", func() bool { return strings.Count(l.stderr.String(), "the connection is lost") > round })
			n = startNode(t, cfg)
		}
	}
	if got := shown(); !slices.Equal(got, want) {
		t.Errorf("shown %q, want %q", got, want)
	}
	if got := h.ids(); !slices.Equal(got, want) {
		t.Errorf("forwarded %q, want %q", got, want)
	}
}

// TestListenOverEachTransport: what is shown doesn't depend on how it came, nor does the file that remembers it.
func TestListenOverEachTransport(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	file := filepath.Join(t.TempDir(), "cursor")
	var want string
	for i, way := range []string{"sse", "long-poll", "websocket", "auto"} {
		n.issue(t, fmt.Sprintf("d-%d", i), `{"action":"opened","repository":{"full_name":"octo/hello"}}`)
		all := listen(t, "--url", n.URL(), "--from", "earliest", "--source", "github", "--json", "--transport", way)
		eventstoretest.Until(t, "all are shown", func() bool { return strings.Count(all.stdout.String(), "\n") == i+1 })
		if got := all.stdout.String(); !strings.HasPrefix(got, want) {
			t.Errorf("%s shows %s, want %s first", way, got, want)
		} else {
			want = got
		}
		l := listen(t, "--url", n.URL(), "--from", "earliest", "--source", "github", "--json", "--transport", way, "--cursor-file", file)
		eventstoretest.Until(t, "the new one is shown", func() bool { return strings.Contains(l.stdout.String(), "\n") })
		if code := l.stop(t); code != 0 || strings.Count(l.stdout.String(), "\n") != 1 || !strings.HasSuffix(want, l.stdout.String()) {
			t.Errorf("%s: exit code %d, shown %s", way, code, l.stdout.String())
		}
	}
	if s := command(t, "listen", "--url", n.URL(), "--transport", "pigeon"); s.code != 1 || !strings.Contains(s.stderr, "pigeon") {
		t.Errorf("%+v", s)
	}
}
