package ingress

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
)

// raw sends bytes as they are and returns the first answer, or 0 if the connection ends without one.
func (n *node) raw(t *testing.T, request string) (status int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite() // what is missing will not come
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b := make([]byte, 4096)
	k, _ := res.Body.Read(b)
	return res.StatusCode, string(b[:k])
}

// Requests that mean two things, or less than they say: a clear 4xx, nothing stored, and the next request is served.
func TestRequestsThatAreWrongOnTheWire(t *testing.T) {
	n := newNode(t, nil)
	body := `{"repository":{"full_name":"octo/hello"}}`
	good := n.signed(t, "github", jsonType, body).Header
	head := func(change func(http.Header), more string) string {
		h := good.Clone()
		if change != nil {
			change(h)
		}
		var b strings.Builder
		b.WriteString("POST /hooks/github HTTP/1.1\r\nHost: x\r\n")
		if err := h.Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.String() + more + "\r\n"
	}
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	chunks := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	twice := func(name string) func(http.Header) {
		return func(h http.Header) { h[name] = append(h[name], h[name][0]) }
	}
	for _, c := range []struct {
		name, request string
		status        int
		says          string // in the answer
	}{
		{"in order", head(nil, length) + body, 202, `"d-1"`},
		{"in order, in chunks", head(nil, "Transfer-Encoding: chunked\r\n") + chunks, 202, `"d-1"`},
		{"announced too long", head(nil, fmt.Sprintf("Content-Length: %d\r\n", len(body)+1)) + body, 400, "unreadable-body"},
		{"announced too short", head(nil, fmt.Sprintf("Content-Length: %d\r\n", len(body)-1)) + body, 401, "bad-signature"},
		{"negative length", head(nil, "Content-Length: -1\r\n") + body, 400, ""},
		{"no number", head(nil, "Content-Length: 1x\r\n") + body, 400, ""},
		{"two lengths", head(nil, length+"Content-Length: 1\r\n") + body, 400, ""},
		{"no length", head(nil, ""), 401, "bad-signature"},
		{"chunks that are none", head(nil, "Transfer-Encoding: chunked\r\n") + "zz\r\n" + body, 400, "unreadable-body"},
		{"a chunk cut off", head(nil, "Transfer-Encoding: chunked\r\n") + "ffff\r\n" + body, 400, "unreadable-body"},
		{"chunks without an end", head(nil, "Transfer-Encoding: chunked\r\n") + strings.TrimSuffix(chunks, "0\r\n\r\n"), 400, "unreadable-body"},
		{"an unknown coding", head(nil, "Transfer-Encoding: gzip, chunked\r\n") + chunks, 501, ""},
		{"a header with a line break", head(nil, length+"X-GitHub-Event: a\r b\r\n") + body, 400, ""},
		{"a space in a name", head(nil, length+"X-GitHub-Event : push\r\n") + body, 400, ""},
		{"two signatures", head(twice("X-Hub-Signature-256"), length) + body, 401, "X-Hub-Signature-256"},
		{"two events", head(twice("X-Github-Event"), length) + body, 400, `"field":"x-github-event"`},
		{"two ids", head(twice("X-Github-Delivery"), length) + body, 400, `"field":"x-github-delivery"`},
		{"two types", head(twice("Content-Type"), length) + body, 400, `"field":"Content-Type"`},
		{"two encodings", head(nil, length+"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n") + body, 400, `"field":"Content-Encoding"`},
	} {
		before := len(n.stored())
		status, answer := n.raw(t, c.request)
		if status != c.status || !strings.Contains(answer, c.says) {
			t.Errorf("%s: %d %s", c.name, status, answer)
		}
		if got := len(n.stored()) - before; (got == 1) != (c.status == 202) {
			t.Errorf("%s: %d stored", c.name, got)
		}
	}
}

func TestBodiesThatAreWrong(t *testing.T) {
	n := newNode(t, nil)
	for _, c := range []struct {
		body   string
		status int
		field  string
	}{
		{`{"x":1,"x":2}`, 422, "x"},
		{`{"commits":[{"a":1},{"author":{"name":"a","name":"b"}}]}`, 422, "commits[1].author.name"},
		{strings.Repeat("[", maxNesting+1) + strings.Repeat("]", maxNesting+1), 400, ""},
		{"{\"a\":{\"b\":\"\xff\"}}", 400, "a.b"},
		{"{\"a\":[0,{\"\xff\":1}]}", 400, "a[1].\ufffd"},
		{"\ufeff{}", 400, ""},
		{"{}\x00", 400, ""},
		{"[" + strings.Repeat(" ", 100), 400, ""},
	} {
		if a := do(t, n.signed(t, "github", jsonType, c.body)); a.status != c.status || a.Field != c.field {
			t.Errorf("%.60q: %d %s", c.body, a.status, a.body)
		}
	}
	many := make([]string, maxKeys+2)
	for i := range many {
		many[i] = fmt.Sprintf(`"%d":0`, i)
	}
	if a := do(t, n.signed(t, "github", jsonType, "{"+strings.Join(many, ",")+"}")); a.status != 400 {
		t.Errorf("an object of too many keys: %d %s", a.status, a.body)
	}
	if len(n.stored()) != 0 {
		t.Errorf("%d stored", len(n.stored()))
	}
}

// A flood of forgeries is written nowhere, and what is remembered of it is bounded; it doesn't wash out the one refusal
// of another kind.
func TestForgeriesAreNotWrittenAndBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	n := newNode(t, func(c *Config) {
		c.Registerer = registry
		c.Append = func(context.Context, eventstore.Entry) (Durability, error) {
			t.Error("a forgery is written")
			return Logged, nil
		}
	})
	if a := do(t, n.signed(t, "github", "text/plain", "{}")); a.status != 415 {
		t.Fatalf("%d", a.status)
	}
	request := func(i int) *http.Request {
		r, err := http.NewRequest("POST", "/hooks/github", strings.NewReader(fmt.Sprintf(`{"n":%d}`, i)))
		if err != nil {
			t.Fatal(err)
		}
		r.SetPathValue("source", "github")
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:80", i>>16&255, i>>8&255, i&255)
		r.Header.Set("Content-Type", jsonType)
		r.Header.Set("X-Hub-Signature-256", fmt.Sprintf("sha256=%064x", i))
		r.Header.Set("X-Noise", strings.Repeat("x", 8<<10))
		return r
	}
	const flood = 20_000
	var before, after runtime.MemStats
	for i := range flood {
		w := silent{http.Header{}, 0}
		if n.handler.ServeHTTP(&w, request(i)); w.status != 401 {
			t.Fatalf("%d", w.status)
		}
		if i == flood/4 {
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes more after %d further forgeries", grown, flood*3/4)
	}
	last, counts, _ := n.handler.Refusals("github")
	if len(last) != defaultKept || !slices.ContainsFunc(last, func(r Refusal) bool { return r.Status == 415 }) {
		t.Errorf("%d are kept, the other kind among them: no", len(last))
	}
	total := uint64(0)
	for _, c := range counts {
		total += c.Count
	}
	if total != flood+1 {
		t.Errorf("%d were counted", total)
	}
	if lines := strings.Count(n.logged.String(), "\n"); lines > 1000 {
		t.Errorf("%d lines of log", lines)
	}
	if want := fmt.Sprintf("webhook_signature_failures_total reason=wrong-signature source=github %d", flood); !slices.Contains(series(t, registry), want) {
		t.Errorf("no %q", want)
	}
}

// silent is a ResponseWriter that keeps the status alone.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) Write(b []byte) (int, error) { return len(b), nil }
func (s *silent) WriteHeader(status int)      { s.status = status }
