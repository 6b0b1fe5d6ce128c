package egress

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// TestDurableStreamsSuite runs the public conformance suite of the Durable Streams protocol against Durable.
// PENSTOCK_DURABLE_SUITE is a folder in which npm has installed @durable-streams/server-conformance-tests and vitest. The suite
// writes what it reads, which is not part of what Durable does: writer below takes its writes into memory, and takes
// payloads out of the CloudEvents that Durable answers with. Everything else is Durable's own. What writer doesn't do
// (expiry, closing, forks, producers) fails there; docs/feeds.md says what passes.
func TestDurableStreamsSuite(t *testing.T) {
	dir := os.Getenv("PENSTOCK_DURABLE_SUITE")
	if dir == "" {
		t.Skip("PENSTOCK_DURABLE_SUITE is not set")
	}
	feeds, err := New(Config{Problem: func(err error) (int, []byte) {
		status := http.StatusInternalServerError
		if domain.ClassOf(err) == domain.NotFound {
			status = http.StatusNotFound
		}
		return status, []byte("{}")
	}, Logger: eventstoretest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&suiteWriter{feeds: feeds, streams: map[string]*written{}})
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	suite := "import { runConformanceTests } from '@durable-streams/server-conformance-tests'\nrunConformanceTests({ baseUrl: process.env.SUITE_URL })\n"
	if err := os.WriteFile(filepath.Join(dir, "suite.test.mjs"), []byte(suite), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "node_modules/.bin/vitest"), "run", "suite.test.mjs", "--no-color", "--reporter=verbose")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "SUITE_URL="+server.URL)
	out, err := cmd.CombinedOutput()
	t.Logf("%v\n%s", err, out)
}

// written is a stream of the suite.
type written struct {
	contentType string
	events      []domain.Event
	changed     chan struct{} // closed at the next write
}

type suiteWriter struct {
	feeds   *Feeds
	mu      sync.Mutex
	streams map[string]*written
}

func (s *suiteWriter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	media, _, _ := strings.Cut(strings.ToLower(r.Header.Get("Content-Type")), ";")
	switch r.Method {
	case http.MethodPut:
		s.mu.Lock()
		defer s.mu.Unlock()
		if media == "" {
			media = "application/octet-stream"
		}
		status := http.StatusCreated
		st, exists := s.streams[r.URL.Path]
		switch {
		case exists && st.contentType != media:
			w.WriteHeader(http.StatusConflict)
			return
		case exists:
			status = http.StatusOK
		default:
			st = &written{contentType: media, changed: make(chan struct{})}
			body, _ := io.ReadAll(r.Body)
			if len(body) > 0 && !st.take(body, true) {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			s.streams[r.URL.Path] = st
			w.Header().Set("Location", "http://"+r.Host+r.URL.Path)
		}
		w.Header().Set("Content-Type", media)
		w.Header().Set("Stream-Next-Offset", offsetOf(uint64(len(st.events))))
		w.WriteHeader(status)
	case http.MethodPost:
		s.mu.Lock()
		defer s.mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		st, exists := s.streams[r.URL.Path]
		switch {
		case !exists:
			w.WriteHeader(http.StatusNotFound)
		case len(body) == 0 || media == "":
			w.WriteHeader(http.StatusBadRequest)
		case media != st.contentType:
			w.WriteHeader(http.StatusConflict)
		case !st.take(body, false):
			w.WriteHeader(http.StatusBadRequest)
		default:
			close(st.changed)
			st.changed = make(chan struct{})
			w.Header().Set("Stream-Next-Offset", offsetOf(uint64(len(st.events))))
			w.WriteHeader(http.StatusNoContent)
		}
	case http.MethodDelete:
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, exists := s.streams[r.URL.Path]; !exists {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		delete(s.streams, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	default:
		s.read(w, r)
	}
}

// take makes events of a body.
func (st *written) take(body []byte, empty bool) bool {
	messages := [][]byte{body}
	if st.contentType == "application/json" {
		var list []json.RawMessage
		if json.Unmarshal(body, &list) == nil {
			if messages = nil; len(list) == 0 {
				return empty
			}
			for _, m := range list {
				messages = append(messages, m)
			}
		} else if !json.Valid(body) {
			return false
		}
	}
	for _, m := range messages {
		v := uint64(len(st.events) + 1)
		st.events = append(st.events, domain.Event{ID: fmt.Sprint(v), Type: "t", Source: "/s", Stream: "a/b", Version: v, ContentType: st.contentType, Data: m})
	}
	return true
}

func (s *suiteWriter) read(w http.ResponseWriter, r *http.Request) {
	look := func() (*written, int, chan struct{}) {
		s.mu.Lock()
		defer s.mu.Unlock()
		st, ok := s.streams[r.URL.Path]
		if !ok {
			return nil, 0, nil
		}
		return st, len(st.events), st.changed
	}
	st, _, _ := look()
	if st != nil && r.URL.Query().Get("live") == "sse" && st.contentType != "application/json" && !strings.HasPrefix(st.contentType, "text/") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	d := Durable{
		Patience: 2 * time.Second,
		Stream:   domain.Stream(r.URL.Path),
		Head: func() (uint64, error) {
			st, n, _ := look()
			if st == nil {
				return 0, &domain.Error{Class: domain.NotFound, Message: "no such stream"}
			}
			return uint64(n), nil
		},
		Events: func(from uint64, limit int) ([]domain.Event, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return st.events[from-1 : min(len(st.events), int(from)-1+limit)], nil
		},
		Wait: func(ctx context.Context, version uint64) error {
			for {
				_, n, changed := look()
				if uint64(n) > version {
					return nil
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
	}
	u := &unwrapper{ResponseWriter: w, st: st, live: r.URL.Query().Get("live") == "sse"}
	r.Header.Del("Accept-Encoding")
	s.feeds.Durable(u, r, d)
	u.end()
}

// unwrapper takes the payloads out of the events.
type unwrapper struct {
	http.ResponseWriter
	st     *written
	live   bool
	status int
	buf    bytes.Buffer
}

func (u *unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func (u *unwrapper) WriteHeader(status int) {
	if u.status = status; u.live {
		u.ResponseWriter.WriteHeader(status)
	}
}

func (u *unwrapper) Write(b []byte) (int, error) {
	if u.buf.Write(b); !u.live {
		return len(b), nil
	}
	for {
		block, rest, whole := bytes.Cut(u.buf.Bytes(), []byte("\n\n"))
		if !whole {
			return len(b), nil
		}
		text := string(block) + "\n\n"
		if data, ok := strings.CutPrefix(text, "event: data\ndata:"); ok {
			text = "event: data\n"
			for line := range strings.SplitSeq(string(u.payloads([]byte(data))), "\n") {
				text += "data:" + line + "\n"
			}
			text += "\n"
		}
		rest = bytes.Clone(rest)
		u.buf.Reset()
		u.buf.Write(rest)
		if _, err := io.WriteString(u.ResponseWriter, text); err != nil {
			return 0, err
		}
	}
}

func (u *unwrapper) payloads(body []byte) []byte {
	var events []struct {
		Data   json.RawMessage
		Base64 []byte `json:"data_base64"`
	}
	if json.Unmarshal(body, &events) != nil {
		return body
	}
	var out [][]byte
	for _, e := range events {
		data := []byte(e.Data)
		if u.st.contentType != "application/json" {
			if e.Base64 != nil {
				data = e.Base64
			} else {
				var text string
				json.Unmarshal(e.Data, &text)
				data = []byte(text)
			}
		}
		out = append(out, data)
	}
	if u.st.contentType == "application/json" {
		return append(append([]byte("["), bytes.Join(out, []byte(","))...), ']')
	}
	return bytes.Join(out, nil)
}

func (u *unwrapper) end() {
	if u.live {
		return
	}
	body := u.buf.Bytes()
	if u.Header().Get("Content-Type") == "application/json" && u.st != nil {
		u.Header().Set("Content-Type", u.st.contentType)
		body = u.payloads(body)
		u.Header().Del("Content-Length")
	}
	if u.status != 0 {
		u.ResponseWriter.WriteHeader(u.status)
	}
	if len(body) > 0 {
		u.ResponseWriter.Write(body)
	}
}
