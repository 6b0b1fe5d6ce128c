package penstock

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// A client that asks for large answers and doesn't read them had the node keep all of them. What is beyond the bound is
// refused, with nothing of the answer that it stands for, small ones go through, and there is room again when they leave.
func TestLargeAnswersAreBounded(t *testing.T) {
	large := bytes.Repeat([]byte("x"), answersBytes/2)
	answers := (&Node{}).answers(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.WriteHeader(http.StatusAccepted)
		if r.URL.Path == "/large" {
			w.Write(large)
		} else if r.URL.Path == "/small" {
			io.WriteString(w, "small")
		}
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://shop.example")
		answers.ServeHTTP(w, r)
	}))
	defer server.Close()
	ask := func(path string) (*http.Response, string) {
		t.Helper()
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	var stalled []net.Conn
	leave := func() {
		for _, c := range stalled {
			c.Close()
		}
	}
	defer leave()
	for range answersBytes / len(large) {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		stalled = append(stalled, c)
		io.WriteString(c, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
		status := make([]byte, len("HTTP/1.1 202")) // it is being answered now, and not after those that are asked for below
		if _, err := io.ReadFull(c, status); err != nil || string(status) != "HTTP/1.1 202" {
			t.Fatalf("%s %v", status, err)
		}
	}
	eventstoretest.Until(t, "a large answer is refused", func() bool {
		resp, body := ask("/large")
		if resp.StatusCode == 503 && (resp.Header.Get("ETag") != "" || strings.Contains(body, "xxx") || resp.Header.Get("Retry-After") == "") {
			t.Errorf("%v %.200s", resp.Header, body)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") == "" {
			t.Errorf("a page could not read it: %v", resp.Header)
		}
		return resp.StatusCode == 503
	})
	for path, want := range map[string]string{"/small": "small", "/empty": ""} {
		if resp, body := ask(path); resp.StatusCode != 202 || body != want || resp.Header.Get("ETag") != `"e"` {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	leave()
	eventstoretest.Until(t, "there is room again", func() bool {
		resp, body := ask("/large")
		return resp.StatusCode == 202 && len(body) == len(large)
	})
}

// Connections beyond the bound are closed, and others come in when there is room again.
func TestConnectionsAreBounded(t *testing.T) {
	c := newConnections(2)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = c.state
	server.Start()
	defer server.Close()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	a, b := dial(), dial()
	defer b.Close()
	eventstoretest.Until(t, "two are open", func() bool { return c.open.Load() == 2 })
	over := dial()
	defer over.Close()
	over.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := over.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the third one: %v", err)
	}
	a.Close()
	eventstoretest.Until(t, "there is room again", func() bool { return c.open.Load() == 1 })
	if resp, err := http.Get(server.URL); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v", err)
	}
}
