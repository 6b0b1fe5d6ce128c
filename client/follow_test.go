package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// serve runs a server that stands for a node.
func serve(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *httptest.Server {
	t.Helper()
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(int(n.Add(1)), w, r) }))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// soon follows with short waits and checks that nothing is left running.
func soon(t *testing.T, ctx context.Context, url string, o Options, change func(*follower), handle func(Message) error) (*follower, error) {
	t.Helper()
	f, err := newFollower(url, o, handle)
	if err != nil {
		t.Fatal(err)
	}
	f.hasty()
	if change != nil {
		change(f)
	}
	err = f.run(ctx)
	wantNobody(t)
	return f, err
}

// wantNobody checks that no goroutine of a Follow is left.
func wantNobody(t *testing.T) {
	t.Helper()
	var left string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left = ""
		for _, g := range strings.Split(string(stacks), "\n\n") {
			if strings.Contains(g, "client.(*ahead)") || strings.Contains(g, "http.(*persistConn)") {
				left = g
			}
		}
		if left == "" {
			return
		}
	}
	t.Errorf("still running: %s", left)
}

func say(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	io.WriteString(w, text)
	w.(http.Flusher).Flush()
}

const opened = "retry: 1\nid: c0\nevent: penstock.opened\ndata: {\"heartbeat\":15}\n\n"

// TestGoesOn: whatever ends a connection, the next one begins after the last message that was handled.
func TestGoesOn(t *testing.T) {
	at := func(n int, r *http.Request, want string) {
		if got := r.URL.Query().Get("cursor"); got != want {
			t.Errorf("connection %d goes on after %q, want %q", n, got, want)
		}
		if begins := r.URL.Query().Has("from"); begins != (want == "") {
			t.Errorf("connection %d at %q, and from where to begin: %v", n, want, begins)
		}
	}
	server := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			at(n, r, "")
			say(w, opened+"id: c1\ndata: {\"id\":\"one\"}\n\nid: c2\ndata: {\"id\":\"tw") // torn in the middle of a block
		case 2:
			http.Error(w, "starting", http.StatusServiceUnavailable)
		case 3:
			panic(http.ErrAbortHandler)
		case 4: // a connection that is dead without saying so
			at(n, r, "c1")
			say(w, opened+"id: c2\ndata: {\"id\":\"two\"}\n\n")
			<-r.Context().Done()
		case 5:
			at(n, r, "c2")
			say(w, "id: c3\ndata: {\"id\":\"three\"}\n\nid: c4\n\nretry: 2\nevent: penstock.closing\ndata: {\"reason\":\"lifetime\"}\n\n")
		default:
			at(n, r, "c4")
			w.WriteHeader(http.StatusNoContent)
		}
	})
	var got, lost []string
	f, err := soon(t, t.Context(), server.URL+"/v1/events?type=a", Options{
		Transport: SSE, From: "earliest",
		Notice: func(n Notice) {
			if n.Kind == Lost {
				if lost = append(lost, n.Err.Error()); n.Wait <= 0 {
					t.Errorf("%+v", n)
				}
			}
		},
	}, func(f *follower) { f.quiet = 300 * time.Millisecond }, func(m Message) error {
		if m.Kind == KindEvent {
			got = append(got, string(m.Data))
		}
		return nil
	})
	if err != nil || !slices.Equal(got, []string{`{"id":"one"}`, `{"id":"two"}`, `{"id":"three"}`}) || f.cursor != "c4" {
		t.Errorf("%v; got %q, at %q", err, got, f.cursor)
	}
	if len(lost) < 4 || lost[1] != "answered 503: Service Unavailable" || !slices.Contains(lost, errSilent.Error()) || !strings.Contains(lost[len(lost)-1], "lifetime") {
		t.Errorf("lost because of %q", lost)
	}
}

// TestHandlerIsNotHurried: a handler may take longer than a connection may be quiet, and a message that it failed on is
// not behind the cursor.
func TestHandlerIsNotHurried(t *testing.T) {
	for _, way := range []Transport{WebSocket, SSE} {
		var connections atomic.Int64
		handled := make(chan bool, 10)
		server := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
			connections.Add(1)
			if way == SSE {
				for i := range 3 {
					say(w, fmt.Sprintf("id: %d\ndata: {}\n\n", i))
					select { // not before the one before is handled
					case <-handled:
					case <-r.Context().Done():
						return
					}
				}
				<-r.Context().Done()
				return
			}
			ws := accept(t, w, r)
			for i := range 3 {
				ws.Write(r.Context(), websocket.MessageText, fmt.Appendf(nil, `{"cursor":"%d","id":"x"}`, i))
			}
			go ws.Ping(context.Background()) // answered, or the handler below waits in vain
			ws.Read(context.Background())
		})
		failure := errors.New("enough")
		f, err := soon(t, t.Context(), server.URL, Options{Transport: way}, func(f *follower) {
			if way == SSE {
				f.quiet = 100 * time.Millisecond
			}
		}, func(m Message) error {
			time.Sleep(300 * time.Millisecond) // the condition under test is time itself
			handled <- true
			if m.Cursor == "2" {
				return failure
			}
			return nil
		})
		if err != failure || f.cursor != "1" || connections.Load() != 1 {
			t.Errorf("%s: %v, at %q, over %d connections", way, err, f.cursor, connections.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err = soon(t, ctx, server.URL, Options{Transport: way}, nil, func(Message) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, ended by its context: %v", way, err)
		}
	}
}

// TestRefused: what asking again would not change ends it, over every transport.
func TestRefused(t *testing.T) {
	for _, way := range []Transport{Auto, WebSocket, SSE, LongPoll} {
		for status, want := range map[int]string{401: "unauthorized", 410: "expired", 409: "reset", 422: "invalid", 403: "origin"} {
			server := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(status)
				// Longer than what a WebSocket library keeps of an answer.
				fmt.Fprintf(w, `{"type":"/problems/%s","title":"No","status":%d,"detail":"%s","rule":"","field":"f","earliest":"e"}`, want, status, strings.Repeat("no", 1000))
			})
			_, err := soon(t, t.Context(), server.URL, Options{Transport: way}, nil, func(Message) error { return nil })
			r, ok := errors.AsType[*Refused](err)
			if !ok || r.Kind() != want || r.Status != status || r.Field != "f" || r.Earliest != "e" || !strings.Contains(r.Detail, "nono") || len(r.Error()) > 600 {
				t.Errorf("%s, %d: %v", way, status, err)
			}
		}
	}
	for status, want := range map[int]string{404: "answered 404: Not Found", 302: "answered 302: Found", 200: "is no feed"} {
		for _, way := range []Transport{Auto, WebSocket, SSE, LongPoll} {
			server := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(status)
			})
			_, err := soon(t, t.Context(), server.URL, Options{Transport: way}, nil, func(Message) error { return nil })
			if r, ok := errors.AsType[*Refused](err); !ok || !strings.Contains(err.Error(), want) || r.Status != status {
				t.Errorf("%s, %d: %v", way, status, err)
			}
		}
	}
	for _, bad := range []struct {
		url string
		o   Options
	}{{"ftp://x/", Options{}}, {"http:///v1", Options{}}, {"x", Options{}}, {"http://x/?limit=0", Options{}}, {"http://x", Options{Transport: "smoke"}}, {"http://x", Options{OnGap: "skip"}}, {"http://\x01", Options{}}} {
		if err := Follow(t.Context(), bad.url, bad.o, func(Message) error { return nil }); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// TestErrorsAreFitForTerminals: what an answer says doesn't reach the terminal as it is.
func TestErrorsAreFitForTerminals(t *testing.T) {
	r := &Refused{Status: 400, Detail: "a\x1b[2J\nb", Type: "/problems/\x1b"}
	for _, err := range []error{r, &Closing{"\x1b]0;"}, &foreign{200, "\x1b"}} {
		if s := fmt.Sprint(err); strings.ContainsAny(s, "\x1b\n") {
			t.Errorf("%q", s)
		}
	}
}

// TestWaits: a wait is as long as somebody asks for within bounds, never in step, and grows with every failure.
func TestWaits(t *testing.T) {
	f, err := newFollower("http://x", Options{}, func(Message) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for failures, most := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 4: 16 * time.Second, 5: 30 * time.Second, 1000: 30 * time.Second} {
		seen := map[time.Duration]bool{}
		for range 100 {
			f.failures = failures
			wait := f.backoff()
			if seen[wait] = true; wait < most/2 || wait > most {
				t.Errorf("after %d failures it waits %s", failures, wait)
			}
		}
		if len(seen) < 50 {
			t.Errorf("after %d failures all wait the same", failures)
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999999": 0, "2000000000": maxRetry * time.Second,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("Retry-After: %s is %s", text, got)
		}
	}
	// What is obeyed, as the notice has it: the context ends the wait.
	for asked, want := range map[string][2]time.Duration{"7": {7 * time.Second, 9 * time.Second}, "86400": {2 * time.Minute, 3 * time.Minute}, "0": {500 * time.Millisecond, time.Second}} {
		for _, way := range []Transport{WebSocket, SSE, LongPoll} {
			server := serve(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", asked)
				http.Error(w, "no room", http.StatusTooManyRequests)
			})
			ctx, cancel := context.WithCancel(t.Context())
			var wait time.Duration
			err := Follow(ctx, server.URL, Options{Transport: way, Notice: func(n Notice) { wait = n.Wait; cancel() }}, func(Message) error { return nil })
			if !errors.Is(err, context.Canceled) || wait < want[0] || wait > want[1] {
				t.Errorf("%s, Retry-After: %s: %v, waits %s", way, asked, err, wait)
			}
		}
	}
}

// TestTokens: a token that has expired is renewed, and one that is refused again ends it.
func TestTokens(t *testing.T) {
	for _, way := range []Transport{Auto, WebSocket, SSE, LongPoll} {
		for name, c := range map[string]struct {
			tokens []string // as they are given out; the last one again and again
			asked  string   // what the node sees
			end    bool     // accepted in the end
		}{
			"renewed":      {[]string{"old", "new"}, "[old new]", true},
			"none newer":   {[]string{"old"}, "[old]", false},
			"both refused": {[]string{"old", "older", "new"}, "[old older]", false},
			"not there":    {[]string{"", "new"}, "[new]", true},
		} {
			var seen []string
			server := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
				token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				if seen = append(seen, token); r.Header.Get("X-Extra") != "x" {
					t.Error("without the other headers")
				}
				if token == "new" {
					complete(t, way, w, r)
					return
				}
				w.WriteHeader(401)
				io.WriteString(w, `{"type":"/problems/unauthorized","title":"No","status":401}`)
			})
			tokens := c.tokens
			_, err := soon(t, t.Context(), server.URL, Options{Transport: way, Header: http.Header{"X-Extra": {"x"}}, Token: func(context.Context) (string, error) {
				token := tokens[0]
				if len(tokens) > 1 {
					tokens = tokens[1:]
				}
				if token == "" {
					return "", errors.New("the issuer is away")
				}
				return token, nil
			}}, nil, func(Message) error { return nil })
			r, no := errors.AsType[*Refused](err)
			if fmt.Sprint(seen) != c.asked || (err == nil) != c.end || !c.end && (!no || r.Status != 401) {
				t.Errorf("%s, %s: %v after %q", way, name, err, seen)
			}
		}
	}
}

// complete answers with a feed that is complete.
func complete(t *testing.T, way Transport, w http.ResponseWriter, r *http.Request) {
	switch way {
	case SSE:
		w.WriteHeader(http.StatusNoContent)
	case LongPoll:
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"items":[],"next":"c9","end":true}`)
	default:
		accept(t, w, r).Close(websocket.StatusNormalClosure, "done")
	}
}

func accept(t *testing.T, w http.ResponseWriter, r *http.Request) *websocket.Conn {
	t.Helper()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"penstock.v1"}})
	if err != nil {
		t.Errorf("no WebSocket: %v", err)
		panic(http.ErrAbortHandler)
	}
	return ws
}

// TestWebSocketEnds: codes say whether to come back where no message has said it.
func TestWebSocketEnds(t *testing.T) {
	for code, ends := range map[websocket.StatusCode]bool{
		1000: true, 1001: false, 1008: true, 1011: false, 1013: false, 4409: true, 4410: true, 4422: true, 4503: false, 4508: false,
	} {
		server := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
			ws := accept(t, w, r)
			if n > 1 {
				ws.Close(websocket.StatusNormalClosure, "done")
				return
			}
			ws.Write(r.Context(), websocket.MessageText, []byte(`{"penstock":"opened","cursor":"c0","heartbeat":15,"retry":1}`))
			ws.Close(code, "why")
		})
		connections, lost := 0, 0
		f, err := soon(t, t.Context(), server.URL, Options{Transport: WebSocket, Notice: func(n Notice) {
			switch n.Kind {
			case Connected:
				connections++
			case Lost:
				lost++
			}
		}}, nil, func(Message) error { return nil })
		r, no := errors.AsType[*Refused](err)
		if no != (ends && code != 1000) || !no && err != nil || no && (r.Status != int(code) || r.Kind() != "why") || connections != 1 || (lost == 0) != ends || f.cursor != "c0" {
			t.Errorf("%d: %v, %d connections, %d lost", code, err, connections, lost)
		}
	}
	for text, want := range map[string]string{
		`{"penstock":"reset","reason":"expired","earliest":"e1"}`: "expired",
		`{"penstock":"closing","reason":"protocol"}`:              "protocol",
		`{"penstock":"closing","cursor":"c7","reason":"done"}`:    "",
	} {
		server := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			accept(t, w, r).Write(r.Context(), websocket.MessageText, []byte(text))
			<-r.Context().Done()
		})
		f, err := soon(t, t.Context(), server.URL, Options{Transport: WebSocket}, nil, func(Message) error { return nil })
		r, no := errors.AsType[*Refused](err)
		if want == "" && (err != nil || f.cursor != "c7") || want != "" && (!no || r.Kind() != want) || want == "expired" && r.Earliest != "e1" {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestTooLarge: a message beyond all bounds ends it, over every transport.
func TestTooLarge(t *testing.T) {
	big := `{"cursor":"c","x":"` + strings.Repeat("x", 1<<20) + `"}`
	for _, way := range []Transport{WebSocket, SSE, LongPoll} {
		server := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			switch way {
			case WebSocket:
				accept(t, w, r).Write(r.Context(), websocket.MessageText, []byte(big))
			case SSE:
				say(w, "data: "+big+"\n\n")
			default:
				w.Header().Set("Content-Type", "application/json")
				io.WriteString(w, big)
			}
		})
		_, err := soon(t, t.Context(), server.URL, Options{Transport: way}, func(f *follower) { f.message = 1 << 20 }, func(Message) error {
			t.Error("handled")
			return nil
		})
		if _, no := errors.AsType[*Refused](err); !no || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// TestRowsBeginAgain: a connection that is lost before all rows have come is a reset, for the rows begin again.
func TestRowsBeginAgain(t *testing.T) {
	const row, change = `{"op":"upsert","key":"a","row":1,"snapshot":true}`, `{"op":"delete","key":"a","partition":1,"offset":2,"index":0}`
	for _, way := range []Transport{WebSocket, SSE} {
		server := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
			messages := [][2]string{{"", row}}
			switch n {
			case 2:
				messages = append(messages, [2]string{"c1", "penstock.snapshot"})
			case 3:
				messages = [][2]string{{"c2", change}, {"", "penstock.closing"}}
			}
			if way == SSE {
				text := "retry: 1\nevent: penstock.opened\ndata: {}\n\n"
				for _, m := range messages {
					if m[0] != "" {
						text += "id: " + m[0] + "\n"
					}
					if strings.HasPrefix(m[1], "penstock") {
						text += "event: " + m[1] + "\ndata: {\"reason\":\"done\"}\n\n"
					} else {
						text += "data: " + m[1] + "\n\n"
					}
				}
				say(w, text)
				return
			}
			ws := accept(t, w, r)
			for _, m := range append([][2]string{{"", "penstock.opened"}}, messages...) {
				text, cursor := m[1], ""
				if m[0] != "" {
					cursor = `"cursor":"` + m[0] + `",`
				}
				if name, ok := strings.CutPrefix(m[1], "penstock."); ok {
					text = `{"penstock":"` + name + `",` + cursor + `"reason":"done"}`
				} else {
					text = "{" + cursor + text[1:]
				}
				ws.Write(r.Context(), websocket.MessageText, []byte(text))
			}
			ws.CloseNow()
		})
		var got []string
		_, err := soon(t, t.Context(), server.URL+"/v1/projections/x/changes?snapshot=true", Options{Transport: way}, nil, func(m Message) error {
			got = append(got, strings.TrimSpace(string(m.Kind)+" "+m.Cursor+m.Reason+string(m.Data)))
			return nil
		})
		want := []string{"row " + row, "reset interrupted", "row " + row, "snapshot c1", "change c2" + change}
		got = slices.DeleteFunc(got, func(s string) bool { return s == "progress" })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %q", way, err, got)
		}
	}
}

// TestReadAhead: more than is read ahead comes through, large messages among it, and none is given before its turn.
func TestReadAhead(t *testing.T) {
	const messages = 200
	body := func(i int) string { return strings.Repeat("x", 1<<(i%15)+i*100) }
	server := serve(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		ws := accept(t, w, r)
		for i := range messages {
			text := fmt.Appendf(nil, `{"cursor":"%d","x":"%s"}`, i, body(i))
			if i == 100 {
				text = append(text[:len(text)-1], `,"y":"`+strings.Repeat("y", 3*aheadBytes)+`"}`...)
			}
			if err := ws.Write(context.Background(), websocket.MessageText, text); err != nil {
				t.Errorf("message %d: %v", i, err)
				return
			}
		}
		ws.Close(websocket.StatusNormalClosure, "done")
	})
	next := 0
	_, err := soon(t, t.Context(), server.URL, Options{Transport: WebSocket}, nil, func(m Message) error {
		if m.Cursor != fmt.Sprint(next) || !strings.HasPrefix(string(m.Data), `{"x":"`+body(next)+`"`) {
			t.Fatalf("%.50s comes as number %d", m.Data, next)
		}
		next++
		return nil
	})
	if err != nil || next != messages {
		t.Errorf("%v after %d messages", err, next)
	}
}
