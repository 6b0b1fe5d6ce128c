package penstock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// blocksOf are the blocks that a text dispatches, as "id|event|data".
func blocksOf(text, cursor string) (blocks []string, err error) {
	err = readFeed(strings.NewReader(text), cursor, func(b feedBlock, wait time.Duration) error {
		s := b.id + "|" + b.event + "|" + string(b.data)
		if wait > 0 {
			s += "|" + wait.String()
		}
		blocks = append(blocks, s)
		return nil
	})
	return blocks, err
}

// TestFeedBlocks reads event streams as https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
// has it.
func TestFeedBlocks(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                               nil,
		"data: 1\n":                                      nil, // no empty line: not dispatched
		"data: 1\n\n":                                    {"c||1"},
		"data:1\n\ndata\n\ndata\ndata\n\n":               {"c||1", "c||", "c||\n"},
		"data:  1\n\n":                                   {"c|| 1"},
		"id: 7\ndata: a\ndata: b\n\n":                    {"7||a\nb"},
		"id: 7\r\nevent: x\r\ndata: a\r\n\r\n":           {"7|x|a"},
		"\ufeffid: 7\n\n":                                {"7||"},
		"id: 7\n\nid: 7\n\n":                             {"7||"},
		"id: a\x00b\ndata: 1\n\n":                        {"c||1"},
		"id: 1\ndata: 1\n\ndata: 2\n\n":                  {"1||1", "1||2"},
		"id: 1\ndata: 1\n\nid\ndata: 2\n\n":              {"1||1", "||2"},
		": comment\n\n:\n\n":                             nil,
		"event: x\n\ndata: 1\n\n":                        {"c||1"},
		"retry: 1500\nid: 2\n\n":                         {"2|||1.5s"},
		"retry: 1s\nid: 2\n\n":                           {"2||"},
		"nonsense: 1\ndata: 1\n\n":                       {"c||1"},
		"data: " + strings.Repeat("x", 200_000) + "\n\n": {"c||" + strings.Repeat("x", 200_000)},
	} {
		got, err := blocksOf(text, "c")
		if err == nil || !slices.Equal(got, want) {
			t.Errorf("%.80q: %.200q, %v, want %.200q", text, got, err, want)
		}
	}
	if _, err := blocksOf("data: "+strings.Repeat("x", maxFeedBlock)+"\n\n", ""); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a line beyond all bounds: %v", err)
	}
	many := strings.NewReader(strings.Repeat("data: "+strings.Repeat("x", 1<<20)+"\n", 70))
	if err := readFeed(many, "", func(feedBlock, time.Duration) error { return nil }); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a block beyond all bounds: %v", err)
	}
}

func FuzzFeedBlocks(f *testing.F) {
	f.Add("id: 7\r\nevent: x\r\ndata: a\r\n\r\n", "c")
	f.Add(": x\nretry: 1\n\ndata\n\n", "")
	f.Fuzz(func(t *testing.T, text, cursor string) {
		blocks, err := blocksOf(text, cursor)
		if err == nil {
			t.Error("a stream that ends must say so")
		}
		if again, _ := blocksOf(text, cursor); !slices.Equal(again, blocks) {
			t.Error("another result for the same text")
		}
		if len(blocks) > strings.Count(text, "\n\n")+strings.Count(text, "\n\r\n")+1 {
			t.Errorf("%d blocks of %q", len(blocks), text)
		}
	})
}

// TestFeedGoesOn: whatever ends a connection, the next one begins after the last block that was handled.
func TestFeedGoesOn(t *testing.T) {
	var n atomic.Int64
	release := make(chan struct{})
	defer close(release)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last := r.Header.Get("Last-Event-ID")
		say := func(text string) {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
		}
		switch n.Add(1) {
		case 1:
			if last != "" {
				t.Errorf("begins after %q", last)
			}
			say("retry: 1\nid: 0\n\nid: 1\ndata: one\n\nid: 2\ndata: two") // torn in the middle of a block
		case 2:
			http.Error(w, "starting", http.StatusServiceUnavailable)
		case 3:
			panic(http.ErrAbortHandler)
		case 4: // a connection that is dead without saying so
			if last != "1" {
				t.Errorf("goes on after %q", last)
			}
			say("id: 2\ndata: two\n\n")
			<-release
		case 5:
			if last != "2" {
				t.Errorf("goes on after %q", last)
			}
			say("id: 3\ndata: three\n\nevent: penstock.closing\ndata: {}\n\n")
		default:
			if last != "3" {
				t.Errorf("goes on after %q", last)
			}
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer func() { server.CloseClientConnections() }()
	var got []string
	lost := 0
	f := feedClient{
		url: server.URL, header: http.Header{}, client: http.DefaultClient, quiet: 300 * time.Millisecond,
		lost: func(why error, wait time.Duration) {
			if lost++; wait <= 0 || why == nil {
				t.Errorf("lost because of %v, again in %v", why, wait)
			}
		},
	}
	err := f.follow(t.Context(), func(b feedBlock) error {
		if len(b.data) > 0 && b.event == "" {
			got = append(got, string(b.data))
		}
		return nil
	})
	if !errors.Is(err, errFeedDone) || !slices.Equal(got, []string{"one", "two", "three"}) || lost < 4 || f.cursor != "3" {
		t.Errorf("%v; got %q, lost %d times, at %q", err, got, lost, f.cursor)
	}
}

// TestFeedHandlerIsNotHurried: a handler may take longer than a connection may be quiet, and a block that it failed on is
// not behind the cursor.
func TestFeedHandlerIsNotHurried(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connections.Add(1)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "id: %d\ndata: %d\n\n", i, i)
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	failure := errors.New("enough")
	f := feedClient{url: server.URL, header: http.Header{}, client: http.DefaultClient, quiet: 50 * time.Millisecond}
	err := f.follow(t.Context(), func(b feedBlock) error {
		time.Sleep(150 * time.Millisecond) // the condition under test is time itself
		if b.id == "2" {
			return failure
		}
		return nil
	})
	if !errors.Is(err, failure) || f.cursor != "1" || connections.Load() != 1 {
		t.Errorf("%v, at %q, over %d connections", err, f.cursor, connections.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = f.follow(ctx, func(feedBlock) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended by its context: %v", err)
	}
}

// TestFeedRefused: what asking again would not change ends it.
func TestFeedRefused(t *testing.T) {
	for status, want := range map[int]string{401: "(unauthorized)", 410: "(expired)", 409: "(reset)", 404: "answered 404", 200: `not answer with a feed`, 302: "answered 302"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			if kind := strings.Trim(want, "()"); kind != want {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(status)
				fmt.Fprintf(w, `{"type":"/problems/%s","detail":"no"}`, kind)
				return
			}
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
		}))
		f := feedClient{url: server.URL, header: http.Header{}, client: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}
		err := f.follow(t.Context(), func(feedBlock) error { return nil })
		if _, refused := errors.AsType[*feedRefused](err); !refused || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", status, err)
		}
		server.Close()
	}
}
