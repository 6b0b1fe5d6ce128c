package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
)

// The business of these tests: counters that only go up.
type (
	add1 struct {
		Counter string          `json:"counter" doc:"Which counter" example:"c/1" maxLength:"100"`
		By      int             `json:"by" minimum:"1" maximum:"10"`
		Note    string          `json:"note,omitempty"`
		Lines   []line          `json:"lines,omitempty"`
		Opaque  shape           `json:"opaque,omitzero"`
		Extra   json.RawMessage `json:"extra,omitempty"`
	}
	line  struct{ Amount int }
	added struct {
		By    int `json:"by"`
		Total int `json:"total"`
	}
	// shape reads its JSON itself: a text, though its field is a number.
	shape struct{ sides int }
)

func (s *shape) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	s.sides = len(text)
	return nil
}

var types = domain.Types{
	Events: []domain.EventType{domain.EventOf[added]("counter.added")},
	Commands: []domain.CommandType{
		domain.CommandOf("Add", func(a add1) (domain.Stream, error) {
			if a.Note == "reserved" {
				return "", domain.Invalidf("note", "the note is reserved")
			}
			return domain.NewStream("counter", a.Counter)
		}),
		domain.CommandOf("Orphan", func(line) (domain.Stream, error) { return domain.NewStream("nobody", "x") }),
	},
}

var counter = domain.Decider[int]{
	Category: "counter",
	Initial:  func() int { return 0 },
	Decide: func(total int, c domain.Command) ([]domain.Event, error) {
		a := c.Payload.(add1)
		switch {
		case a.Note == "panic":
			panic("secret of the decider")
		case total+a.By > 100:
			return nil, domain.Reject("too-high", "%d is over 100", total+a.By)
		}
		return []domain.Event{domain.Fact(added{a.By, total + a.By})}, nil
	},
	Evolve: func(_ int, e domain.Event) int { return e.Payload.(added).Total },
}

// totals is the read model of these tests: the last event of each counter.
type totals struct{}

func (totals) Name() string { return "totals" }
func (totals) Version() int { return 1 }
func (totals) Apply(tx *eventstore.Tx, e domain.Event) error {
	if e.Type != "counter.added" {
		return nil
	}
	return tx.Put(e.Stream.Key(), e.Data)
}

// node is everything below the surface, on a broker in this process.
type node struct {
	t       *testing.T
	cfg     Config
	api     huma.API
	mux     *http.ServeMux
	log     *eventstore.Log
	writers *commands.Writers
	logged  *logged
	broker  *eventstore.Embedded
	down    atomic.Bool // the broker was stopped on purpose
}

// logged keeps what the node writes to its log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newNode starts a node; with writers false its commands stay unhandled.
func newNode(t *testing.T, writers bool, change ...func(*Config)) *node {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	logs := &logged{}
	logger := newLogger(logs)
	broker, err := eventstore.StartEmbedded("127.0.0.1:0", t.TempDir(), logger)
	must(err)
	var n *node
	t.Cleanup(func() {
		if n == nil || !n.down.Load() {
			broker.Close()
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	log, err := eventstore.Open(ctx, eventstore.Config{Brokers: []string{broker.Addr}, Partitions: 3, TailBytes: 64 << 10, Logger: logger})
	must(err)
	t.Cleanup(log.Close)
	engine, err := projections.New(projections.Config{
		Log: log, Dir: t.TempDir(), Logger: logger,
		Projections: []projections.Projection{eventstore.StreamsFold{}, projections.Deliveries{}, projections.Parked{}, totals{}, tally(t), many{}},
	})
	must(err)
	t.Cleanup(func() { engine.Close() })
	streams, _ := engine.View("streams")
	history := eventstore.NewHistory(log, streams.Table())
	outcomes := commands.NewOutcomes(log, log.Append)
	w, err := commands.New(commands.Config{Log: log, History: history, Types: types, Deciders: []domain.AnyDecider{counter}, Logger: logger})
	must(err)
	hooks, err := ingress.New(ingress.Config{
		Sources: []ingress.Source{{
			Name: "github", Provider: "github", Secrets: ingress.Keys(ingress.Secret("secret of the tests")),
			When: []ingress.Rule{{Name: "opened", Expression: `headers["x-github-event"] != "push"`}}, Allow: []string{"127.0.0.0/8", "192.0.2.0/24"},
		}},
		Append: func(ctx context.Context, e eventstore.Entry) (ingress.Durability, error) {
			return ingress.Logged, log.Append(ctx, e)
		},
	})
	must(err)
	n = &node{t: t, mux: http.NewServeMux(), log: log, writers: w, logged: logs, broker: broker}
	n.cfg = Config{
		Log: log, History: history, Engine: engine, Outcomes: outcomes, Types: types, Version: "test", Logger: logger, Embedded: true, Owned: w.Owned,
		Hooks: hooks,
	}
	for _, c := range change {
		c(&n.cfg)
	}
	n.api, err = Register(n.mux, n.cfg)
	must(err)

	var running sync.WaitGroup
	run := func(f func(context.Context) error) {
		running.Go(func() {
			if err := f(ctx); err != nil && !n.down.Load() {
				t.Errorf("an engine ended: %v", err)
			}
		})
	}
	run(log.Run)
	run(engine.Run)
	run(outcomes.Run)
	if writers {
		run(w.Run)
		until(t, func() bool {
			ready := 0
			for _, serving := range w.Owned() {
				if serving {
					ready++
				}
			}
			return ready == int(log.Partitions())
		})
		for _, v := range engine.Views() { // a first build, of nothing
			until(t, func() bool { return v.Status().State != "building" })
		}
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return n
}

// settle waits until the node has seen, and its read models have applied, everything that is in the log.
func (n *node) settle() {
	n.t.Helper()
	for _, topic := range []string{n.log.Topics.Events, n.log.Topics.Outcomes} {
		end, err := n.log.End(n.t.Context(), topic)
		if err != nil {
			n.t.Fatal(err)
		}
		until(n.t, func() bool { return n.log.TailEnd(topic).Covers(end) })
		for _, v := range n.cfg.Engine.Views() {
			until(n.t, func() bool { return v.Status().State != "building" })
			if at, ok := v.Table().Position(topic); ok {
				until(n.t, func() bool { at, _ = v.Table().Position(topic); return at.Covers(end) })
			}
		}
	}
}

// until waits for a condition, as long as the test has.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	for !condition() {
		if t.Context().Err() != nil {
			t.Fatal("the condition never came true")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// reply is an answer, read whole.
type reply struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

// do sends a request; headers are "Name: value".
func (n *node) do(method, target, body string, headers ...string) reply {
	n.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, in)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	n.mux.ServeHTTP(w, r)
	return reply{n.t, w.Code, w.Result().Header, w.Body.Bytes()}
}

func (n *node) get(target string, headers ...string) reply {
	n.t.Helper()
	return n.do("GET", target, "", headers...)
}

func (n *node) submit(body string, headers ...string) reply {
	n.t.Helper()
	return n.do("POST", "/v1/commands/Add", body, append([]string{"Content-Type: application/json", "Prefer: wait=30"}, headers...)...)
}

// is checks the status and returns the answer as it was.
func (r reply) is(status int) reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	return r
}

// problem checks that the answer is a problem of the kind.
func (r reply) problem(status int, kind string) Problem {
	r.t.Helper()
	r.is(status)
	var p Problem
	r.into(&p)
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" || p.Type != "/problems/"+kind || p.Status != status || p.Title == "" {
		r.t.Fatalf("%s %s, want problem %s", ct, r.body, kind)
	}
	return p
}

func (r reply) into(v any) {
	r.t.Helper()
	if err := json.Unmarshal(r.body, v); err != nil {
		r.t.Fatalf("%v in %s", err, r.body)
	}
}

// fields returns the answer as a JSON object.
func (r reply) fields() map[string]any {
	r.t.Helper()
	var m map[string]any
	r.into(&m)
	return m
}
