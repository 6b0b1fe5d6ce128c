package api

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

func TestCommandsAnswer(t *testing.T) {
	n := newNode(t, true)
	r := n.submit(`{"counter":"a","by":2}`, "Idempotency-Key: one/1#x").is(200)
	var first commandResult
	r.into(&first)
	if first.ID != "one/1#x" || first.Stream != "counter/a" || first.Version != 1 || len(first.Events) != 1 || first.Events[0].Type != "counter.added" ||
		first.Events[0].Version != 1 || first.Position == "" || r.header.Get("ETag") != `"1"` || r.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("%s %v", r.body, r.header)
	}
	location := r.header.Get("Location")
	until(t, func() bool { return n.get(location).status == 200 })
	var status commandStatus
	n.get(location).into(&status)
	if status.ID != "one/1#x" || status.Status != "accepted" || status.Type != "Add" || !slices.Equal(status.Events, first.Events) || status.Received == nil {
		t.Errorf("%+v", status)
	}

	// Again: the same answer, and nothing happens.
	r = n.submit(`{"counter":"a","by":2}`, "Idempotency-Key: one/1#x").is(200)
	var again commandResult
	r.into(&again)
	if again.ID != first.ID || again.Version != 1 || !slices.Equal(again.Events, first.Events) || r.header.Get("Idempotent-Replayed") != "true" || r.header.Get("ETag") != `"1"` {
		t.Errorf("%s %v", r.body, r.header)
	}
	// The key with another command.
	if p := n.submit(`{"counter":"a","by":3}`, "Idempotency-Key: one/1#x").problem(422, "idempotency-key-reused"); p.Field != "Idempotency-Key" || p.ID != "one/1#x" {
		t.Errorf("%+v", p)
	}

	// Expected versions.
	if p := n.submit(`{"counter":"a","by":1}`, `If-Match: "0"`).problem(412, "conflict"); *p.Actual != 1 || p.ID == "" {
		t.Errorf("%+v", p)
	}
	if p := n.submit(`{"counter":"a","by":1}`, `If-Match: "1"`, "Idempotency-Key: two").is(200); p.header.Get("ETag") != `"2"` {
		t.Errorf("%v", p.header)
	}
	n.submit(`{"counter":"fresh","by":1}`, `If-Match: "0"`).is(200)
	if p := n.submit(`{"counter":"a","by":1}`, `If-Match: 2`).problem(422, "invalid"); p.Field != "If-Match" {
		t.Errorf("%+v", p)
	}
	if p := n.submit(`{"counter":"a","by":1}`, `If-Match: "0"`, "Idempotency-Key: late").problem(412, "conflict"); *p.Actual != 2 {
		t.Errorf("%+v", p)
	}
	until(t, func() bool { return n.get("/v1/commands/late").status == 200 })
	if m := n.get("/v1/commands/late").fields(); m["status"] != "rejected" || m["class"] != "conflict" || m["actual"] != 2.0 {
		t.Errorf("%v", m)
	}

	// A rule says no, each time.
	for range 10 {
		n.submit(`{"counter":"high","by":10}`).is(200)
	}
	for range 2 {
		p := n.submit(`{"counter":"high","by":1}`, "Idempotency-Key: over").problem(409, "rejected")
		if p.Rule != "too-high" || p.Detail != "101 is over 100" || p.ID != "over" {
			t.Errorf("%+v", p)
		}
	}
	// Nothing decides for its stream.
	n.do("POST", "/v1/commands/Orphan", `{"Amount":1}`, "Content-Type: application/json", "Prefer: wait=30").problem(404, "not-found")

	// It can't be handled: what the defect says is for the operator.
	for range 2 {
		r = n.submit(`{"counter":"a","by":1,"note":"panic"}`, "Idempotency-Key: bad").is(202)
		if m := r.fields(); m["status"] != "parked" || m["id"] != "bad" || r.header.Get("Location") != "/v1/commands/bad" || strings.Contains(string(r.body), "secret") {
			t.Errorf("%s", r.body)
		}
	}
	until(t, func() bool { return n.get("/v1/commands/bad").status == 200 })
	if r := n.get("/v1/commands/bad"); r.fields()["status"] != "parked" || strings.Contains(string(r.body), "secret") {
		t.Errorf("%s", r.body)
	}
	n.get("/v1/commands/nobody").problem(404, "not-found")
	if p := n.do("POST", "/v1/commands/Nope", `{}`).problem(404, "not-found"); !strings.Contains(p.Detail, "Add, Orphan") {
		t.Errorf("%+v", p)
	}
}

func TestCommandsOfOneKeyTakeEffectOnce(t *testing.T) {
	n := newNode(t, true)
	var wg sync.WaitGroup
	answers := make([]string, 20)
	for i := range answers {
		wg.Go(func() {
			var out commandResult
			n.submit(`{"counter":"a","by":1}`, "Idempotency-Key: same").is(200).into(&out)
			answers[i] = fmt.Sprint(out.Version, out.Events)
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a != answers[0] {
			t.Errorf("%s and %s", a, answers[0])
		}
	}
	if ids := n.idsOf(""); len(ids) != 1 {
		t.Errorf("%d events", len(ids))
	}
}

func TestCommandsAreChecked(t *testing.T) {
	n := newNode(t, true)
	for _, c := range []struct{ body, field string }{
		{`{"counter":"a"}`, "by"},
		{`{"counter":"a","by":0}`, "by"},
		{`{"counter":"a","by":11}`, "by"},
		{`{"counter":"a","by":1.5}`, "by"},
		{`{"counter":"a","by":"1"}`, "by"},
		{`{"counter":"a","by":null}`, "by"},
		{`{"counter":7,"by":1}`, "counter"},
		{`{"counter":"a","by":1,"more":1}`, "more"},
		{`{"counter":"a","by":1,"BY":11}`, "BY"}, // Go's decoder would take it for by
		{`{"counter":"a","by":1,"lines":[{"Amount":1},{"Amount":"x"}]}`, "lines[1].Amount"},
		{`{"counter":"a","by":1,"note":"reserved"}`, "note"},
		{`{"counter":"","by":1}`, "stream"},
		{`[]`, "body"},
		{`null`, "body"},
		{`{"counter":`, "body"},
		{`{"counter":"a","by":1} {}`, "body"},
		{``, "body"},
	} {
		if p := n.submit(c.body).problem(422, "invalid"); p.Field != c.field {
			t.Errorf("%s: field %q, want %q (%s)", c.body, p.Field, c.field, p.Detail)
		}
	}
	// What a type reads itself is checked by the type alone.
	n.submit(`{"counter":"a","by":1,"opaque":"square","extra":{"any":[1]}}`).is(200)
	n.submit(`{"counter":"a","by":1,"opaque":{"sides":4}}`).problem(422, "invalid")

	for _, header := range []string{"Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "Content-Type: "} {
		n.do("POST", "/v1/commands/Add", `{"counter":"a","by":1}`, header).problem(415, "unsupported-media-type")
	}
	n.do("POST", "/v1/commands/Add", `{"counter":"a","by":1}`, "Content-Type: application/json; charset=utf-8").is(200)
	for _, key := range []string{"", "two words", "é", strings.Repeat("x", 256), "a\tb"} {
		if p := n.submit(`{"counter":"a","by":1}`, "Idempotency-Key: "+key).problem(422, "invalid"); p.Field != "Idempotency-Key" {
			t.Errorf("%q: %+v", key, p)
		}
	}
	n.submit(`{"counter":"a","by":1}`, "Idempotency-Key: "+strings.Repeat("x", 255)).is(200)

	pad := func(size int) string {
		body := `{"counter":"a","by":1,"note":""}`
		return strings.Replace(body, `""`, `"`+strings.Repeat("x", size-len(body))+`"`, 1)
	}
	n.submit(pad(MaxBody)).is(200)
	if p := n.submit(pad(MaxBody+1)).problem(413, "too-large"); !strings.Contains(p.Detail, "65536") {
		t.Errorf("%+v", p)
	}
}

func TestUnhandledCommandIsPending(t *testing.T) {
	n := newNode(t, false) // nobody writes
	r := n.do("POST", "/v1/commands/Add", `{"counter":"a","by":1}`, "Content-Type: application/json", "Prefer: wait=1").is(202)
	m := r.fields()
	if m["status"] != "unknown" || m["id"] == "" || m["stream"] != "counter/a" || r.header.Get("Location") != "/v1/commands/"+m["id"].(string) || r.header.Get("ETag") != "" {
		t.Errorf("%s %v", r.body, r.header)
	}
	n.get(r.header.Get("Location")).problem(404, "not-found")
}

// TestUnreachableLogTellsTheID: without the id an attempt can't be repeated safely, as it may be in the log.
func TestUnreachableLogTellsTheID(t *testing.T) {
	n := newNode(t, false)
	n.down.Store(true)
	n.broker.Close()
	r := n.do("POST", "/v1/commands/Add", `{"counter":"a","by":1}`, "Content-Type: application/json", "Prefer: wait=1")
	p := r.problem(503, "unavailable")
	if len(p.ID) != 36 || r.header.Get("Retry-After") == "" {
		t.Errorf("%+v %v", p, r.header)
	}
	if !strings.Contains(n.logged.String(), "request failed") {
		t.Error("the reason is nowhere")
	}
}

// TestRefusal says which outcomes are refusals, as the first answer and as a repeated one.
func TestRefusal(t *testing.T) {
	for _, c := range []struct {
		o    domain.Outcome
		rule string // of the refusal; "" for none
	}{
		{domain.Outcome{Status: domain.Accepted}, ""},
		{domain.Outcome{Status: domain.Parked}, ""},
		{domain.Outcome{Status: domain.Duplicate, Original: domain.Accepted}, ""},
		{domain.Outcome{Status: domain.Refused, Class: domain.Rejected, Rule: "r"}, "r"},
		{domain.Outcome{Status: domain.Duplicate, Original: domain.Refused, Class: domain.Rejected, Rule: "r"}, "r"},
		{domain.Outcome{Status: domain.Duplicate, Original: domain.Accepted, Class: domain.Invalid, Rule: "idempotency-key-reused"}, "idempotency-key-reused"},
		{domain.Outcome{Status: domain.Discarded}, "discarded"},
		{domain.Outcome{Status: domain.Duplicate, Original: domain.Discarded}, "discarded"},
	} {
		err := refusal(c.o)
		if (err == nil) != (c.rule == "") || (err != nil && ProblemOf(err).Rule != c.rule) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

func TestNewIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newID()
		if seen[id] || len(id) != 36 || id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatal(id)
		}
		seen[id] = true
	}
}

func TestEventsCarryTheTrace(t *testing.T) {
	n := newNode(t, true)
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	n.submit(`{"counter":"a","by":1}`, "traceparent: "+trace).is(200)
	n.submit(`{"counter":"a","by":1}`, "traceparent: rubbish").is(200)
	n.settle()
	r := n.get("/v1/events").is(200)
	if strings.Count(string(r.body), trace) != 1 || strings.Contains(string(r.body), "rubbish") {
		t.Errorf("%s", r.body)
	}
}

// TestOutcomeIsToldByTheEvents: a command's outcome may be unknown, not folded yet or gone from the log, when its events
// are not.
func TestOutcomeIsToldByTheEvents(t *testing.T) {
	table, err := eventstore.OpenTable(t.TempDir()+"/t.db", eventstore.TableMeta{Name: "streams", Version: 1, Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	log := &eventstore.Log{}
	_, err = table.Update("events", eventstore.Position{Next: []int64{9}}, func(tx *eventstore.Tx) error {
		for i, cause := range []string{"one", "two", "two", "three"} {
			tx.At(0, int64(i))
			e := domain.Event{ID: fmt.Sprint(i), Type: "counter.added", Source: "/commands/Add", Stream: "counter/a", Version: uint64(i + 1), Causation: cause}
			if err := (eventstore.StreamsFold{}).Apply(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Config: Config{History: eventstore.NewHistory(log, table)}}
	a, err := s.command(t.Context(), &commandStatusRequest{ID: "two"})
	if err != nil {
		t.Fatal(err)
	}
	want := []commandEvent{{"1", "counter.added", 2}, {"2", "counter.added", 3}}
	if b := a.Body; b.Status != domain.Accepted || b.Type != "Add" || b.Version != 3 || !slices.Equal(b.Events, want) {
		t.Errorf("%+v", b)
	}
}
