package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
)

func TestDeliveriesAreWhatTheIngressTakes(t *testing.T) {
	var stored atomic.Pointer[eventstore.Entry]
	hooks, err := ingress.New(ingress.Config{
		Sources: []ingress.Source{{Name: source, Provider: "github", Secrets: ingress.Keys(ingress.Secret(secret))}},
		Append: func(_ context.Context, e eventstore.Entry) (ingress.Durability, error) {
			stored.Store(&e)
			return ingress.Logged, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/hooks/{source}", hooks)
	for _, size := range []int{256, 2048, 5000} {
		sent := time.Now()
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(delivery(nil, "127.0.0.1:1", "run", 70, size, sent))))
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			t.Fatalf("%d bytes: %d %s", size, w.Code, w.Body)
		}
		e := stored.Load()
		if len(e.Body) != size || e.ID != "run-70" || e.Stream != "github/bench/load#7" || e.Type != "github.issues.opened" {
			t.Errorf("%d bytes: stored %d bytes, %s, %s, %s", size, len(e.Body), e.ID, e.Stream, e.Type)
		}
		if ns, ok := sentAt(e.Body); !ok || ns != sent.UnixNano() {
			t.Errorf("sent at %d, read as %d, %v", sent.UnixNano(), ns, ok)
		}
	}
}

func TestPublicationsHaveTheLengthAskedFor(t *testing.T) {
	for _, size := range []int{200, 1032, 9000} {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(publication(nil, "h", size, time.Now()))))
		if err != nil {
			t.Fatal(err)
		}
		block, err := io.ReadAll(r.Body)
		if err != nil || len(block) != size || bytes.Count(block, []byte("\n")) != 3 || !bytes.HasSuffix(block, []byte("\n\n")) {
			t.Errorf("%d: %d bytes, %v: %q", size, len(block), err, block)
		}
	}
}

func TestOnlyEventsAreCounted(t *testing.T) {
	event := "id: 1\ndata: {\"sent\":42}\n\n"
	// Long enough that some piece of the line begins like an event.
	long := "id: 1\ndata: {\"sent\":43,\"fill\":\"" + strings.Repeat(`data:"sent":1`, 8000) + "\"}\n\n"
	text := "retry: 2000\nid: 0\n\nevent: penstock.caught-up\ndata: {\"cursor\":\"0\"}\n\n" + event + long + "id: 2\n\n" + event
	for _, chunk := range []int{1, 7, 4096} {
		to := &receipts{every: 1}
		if err := to.blocks(&slow{[]byte(text), chunk}); err != io.EOF {
			t.Fatal(err)
		}
		if n, frame := to.count.Load(), to.frame.Load(); n != 3 || frame != int64(len(event)) {
			t.Errorf("in pieces of %d: %d events, the last of %d bytes", chunk, n, frame)
		}
	}
}

// slow gives few bytes at a time.
type slow struct {
	rest  []byte
	chunk int
}

func (s *slow) Read(b []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.chunk)], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// startInside serves in this process what a child would. It does not wait for handlers at the end: bareFanout's end at
// the next block only.
func startInside(t *testing.T, handlers func(*http.ServeMux)) string {
	mux := http.NewServeMux()
	handlers(mux)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().String()
}

func TestEveryListenerHearsEveryPublication(t *testing.T) {
	addr := startInside(t, fanOut)
	to := &receipts{every: 1}
	ls, err := listen(t.Context(), addr, "/sse", 5, to)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pace(t.Context(), addr, 1000, 100*time.Millisecond, func(dst []byte, _ int) []byte {
		return publication(dst, addr, 300, time.Now())
	})
	if err != nil || got.accepted() != 100 || got.refused != 0 {
		t.Fatalf("%d published, %d refused, %v", got.accepted(), got.refused, err)
	}
	if err := to.await(t.Context(), 500); err != nil {
		t.Error(err)
	}
	if to.frame.Load() != 300 || len(to.sorted()) != 500 {
		t.Errorf("frames of %d bytes, %d latencies", to.frame.Load(), len(to.sorted()))
	}
	if err := ls.close(); err != nil {
		t.Error(err)
	}
}

func TestAListenerThatIsCutOffIsAnError(t *testing.T) {
	var conns atomic.Pointer[net.Conn]
	addr := startInside(t, func(mux *http.ServeMux) {
		mux.HandleFunc("GET /sse", func(w http.ResponseWriter, _ *http.Request) {
			http.NewResponseController(w).Flush()
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conns.Store(&conn)
			}
		})
	})
	ls, err := listen(t.Context(), addr, "/sse", 1, &receipts{every: 1})
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(patience); conns.Load() == nil; {
		if time.Now().After(until) {
			t.Fatal("no connection")
		}
		if err := sleep(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	(*conns.Load()).Close()
	if err := ls.wait(); err == nil {
		t.Error("nobody noticed")
	}
	ls.cancel()
}

func TestRefusalsAreCountedApart(t *testing.T) {
	addr := startInside(t, func(mux *http.ServeMux) {
		var n atomic.Int64
		mux.HandleFunc("POST /pub", func(w http.ResponseWriter, _ *http.Request) {
			if n.Add(1)%2 == 0 {
				http.Error(w, "full", http.StatusServiceUnavailable)
			}
		})
	})
	got, err := press(t.Context(), addr, 3, 100*time.Millisecond, func(dst []byte, _ int) []byte {
		return publication(dst, addr, 300, time.Now())
	})
	if err != nil || got.accepted() == 0 || got.refused == 0 || !strings.HasPrefix(got.refusal, "503 Service Unavailable: full") {
		t.Errorf("%d accepted, %d refused: %q, %v", got.accepted(), got.refused, got.refusal, err)
	}
	if d := got.accepted() - got.refused; d < 0 || d > 1 {
		t.Errorf("%d accepted, %d refused", got.accepted(), got.refused)
	}
}

func TestJournalFindsWhereAChildListens(t *testing.T) {
	for _, line := range []string{
		`time=2026-01-02 level=INFO msg="penstock serves" url=http://127.0.0.1:81 kafka=[127.0.0.1:92] data=/tmp/x`,
		"serves url=http://127.0.0.1:81 kafka=[127.0.0.1:92]",
	} {
		j := &journal{ready: make(chan struct{})}
		for _, b := range []byte("first\n" + line + "\n" + line + "\n") {
			fmt.Fprintf(j, "%c", b)
		}
		select {
		case <-j.ready:
		default:
			t.Fatalf("%q was not recognised", line)
		}
		if j.url != "127.0.0.1:81" || j.kafka != "127.0.0.1:92" {
			t.Errorf("%q: %q, %q", line, j.url, j.kafka)
		}
	}
	j := &journal{ready: make(chan struct{})}
	j.Write(bytes.Repeat([]byte("x"), 10*keptBytes))
	for range 2 * keptLines {
		j.Write([]byte("y\n"))
	}
	if len(j.lines) != keptLines || len(j.rest) > keptBytes {
		t.Errorf("%d lines kept, %d bytes waiting", len(j.lines), len(j.rest))
	}
}

func TestStatistics(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(i+1))
	}
	if p := percentile(d, .5); p != 51 {
		t.Errorf("p50 is %d", p)
	}
	if p := percentile(d, .99); p != 100 {
		t.Errorf("p99 is %d", p)
	}
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("median of three is %g", m)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median of four is %g", m)
	}
}
