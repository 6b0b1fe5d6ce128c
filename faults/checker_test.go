package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// world is a log and a journal that agree: what a test does to it is the only thing wrong.
type world struct {
	t        *testing.T
	attempts []Attempt
	dump     Dump
	versions map[string]uint64
	offsets  map[string]int64
}

// newWorld has one partition with a charge that its sender sent twice, the two commands that follow from it, a race of
// two commands for version 0 of an account and one command that a rule refuses.
func newWorld(t *testing.T) *world {
	w := &world{t: t, versions: map[string]uint64{}, offsets: map[string]int64{}}
	charge := Request{Kind: Delivery, Source: "stripe", ID: "evt_1", Stream: "stripe/cus_1", Digest: Digest([]byte(`{"charge":1}`))}
	w.attempt(charge, 0, "")
	w.attempt(charge, 202, `{"id":"evt_1","stream":"stripe/cus_1"}`)
	w.handle(charge, "accepted", 1, `{"charge":1}`, "e1/billing/from-stripe/0", "e1/billing/disputes/0")
	w.handle(charge, "duplicate", 0, "")
	w.handle(Request{Kind: Command, ID: "e1/billing/from-stripe/0", Stream: "billing/cus_1"}, "accepted", 1, `{}`)
	w.handle(Request{Kind: Command, ID: "e1/billing/disputes/0", Stream: "charge/ch_1"}, "accepted", 1, `{}`)

	won := Request{Kind: Command, ID: "cmd_1", Stream: "billing/cus_2", Expected: new(uint64(0))}
	lost := Request{Kind: Command, ID: "cmd_2", Stream: "billing/cus_2", Expected: new(uint64(0))}
	w.handle(won, "accepted", 1, `{}`)
	w.handle(lost, "conflict", 0, ``)
	w.attempt(lost, 412, `{"id":"cmd_2","actual":1}`)
	w.attempt(won, 202, `{"id":"cmd_1","status":"unknown"}`)
	w.attempt(won, 200, `{"id":"cmd_1","stream":"billing/cus_2","version":1,"events":[{"id":"e4","version":1}]}`)

	refused := Request{Kind: Command, ID: "cmd_3", Stream: "billing/cus_2"}
	w.handle(refused, "rejected", 0, ``)
	w.attempt(refused, 409, `{"id":"cmd_3","rule":"account-suspended"}`)
	w.attempt(Request{Kind: Delivery, Source: "github", ID: "once", Stream: "github/a", Once: true}, 0, "")
	return w
}

func (w *world) attempt(r Request, status int, body string) {
	a := Attempt{Request: r, Number: len(w.attempts) + 1, Status: status}
	if body != "" {
		a.Body = json.RawMessage(body)
	}
	w.attempts = append(w.attempts, a)
}

func (w *world) next(topic string) int64 {
	w.offsets[topic]++
	return w.offsets[topic] - 1
}

// handle appends an inbox record, its outcome and, for an accepted one, its events.
func (w *world) handle(r Request, status string, events int, value string, follow ...string) {
	inbox := Record{Offset: w.next("inbox"), Key: r.Stream, Headers: map[string]string{"ps_kind": r.Kind, "ps_source": r.Source, "ps_id": r.ID}}
	w.dump.Inbox = append(w.dump.Inbox, inbox)
	o := map[string]any{"kind": r.Kind, "id": r.ID, "source": r.Source, "stream": r.Stream, "status": status, "inbox": inbox.Offset, "commands": follow}
	if status == "conflict" {
		o["status"], o["class"], o["actual"] = "rejected", "conflict", w.versions[r.Stream]
	}
	var refs []any
	for range events {
		w.versions[r.Stream]++
		e := Record{Offset: w.next("events"), Key: r.Stream, Value: Value(value), Headers: map[string]string{
			"ce_id": fmt.Sprintf("e%d", w.offsets["events"]), "ce_subject": r.Stream, "ce_streamversion": fmt.Sprint(w.versions[r.Stream]), "ce_causationid": r.ID,
		}}
		if r.Kind == Delivery {
			e.Headers["ce_source"], e.Headers["ce_deliveryid"] = "/sources/"+r.Source, r.ID
		}
		w.dump.Events = append(w.dump.Events, e)
		refs = append(refs, map[string]any{"id": e.Headers["ce_id"], "version": w.versions[r.Stream], "offset": e.Offset})
	}
	o["events"], o["version"] = refs, w.versions[r.Stream]
	b, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.dump.Outcomes = append(w.dump.Outcomes, Record{Offset: w.next("outcomes"), Key: r.Stream, Value: b})
}

// edit changes one field of an outcome.
func (w *world) edit(outcome int, field string, value any) {
	var o map[string]any
	if err := json.Unmarshal(w.dump.Outcomes[outcome].Value, &o); err != nil {
		w.t.Fatal(err)
	}
	o[field] = value
	w.dump.Outcomes[outcome].Value, _ = json.Marshal(o)
}

func TestCheckFindsNothingWrong(t *testing.T) {
	w := newWorld(t)
	for _, f := range Check(w.attempts, w.dump) {
		t.Error(f)
	}
}

// TestCheckFindsWhatIsWrong breaks one thing at a time.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		wrong func(*world)
		want  Promise
		says  string
	}{
		{"an acknowledged delivery is lost", func(w *world) {
			w.attempt(Request{Kind: Delivery, Source: "stripe", ID: "evt_2", Stream: "stripe/cus_1"}, 202, `{}`)
		}, Durable, "delivery stripe/evt_2 was acknowledged with 202"},
		{"a delivery's bytes are others", func(w *world) { w.dump.Events[0].Value = Value(`{"charge":2}`) }, Durable, "with other bytes"},
		{"a delivery stands twice", func(w *world) {
			w.handle(w.attempts[0].Request, "accepted", 1, `{"charge":1}`)
		}, Once, "delivery stripe/evt_1 stands 2 times in events, at [0/0 0/4]"},
		{"an id stands twice", func(w *world) { w.dump.Events[3].Headers["ce_id"] = "e1" }, Once, "event e1 of billing/cus_2"},
		{"an event that nobody asked for", func(w *world) {
			w.handle(Request{Kind: Command, ID: "cmd_9", Stream: "billing/cus_9"}, "accepted", 1, `{}`)
		}, Once, "cause command cmd_9, which nobody sent"},
		{"a policy's command without its event", func(w *world) { w.dump.Events[1].Headers["ce_causationid"] = "e77/billing/from-stripe/0" }, Once, "follows from event e77"},
		{"a policy's command is lost", func(w *world) {
			w.dump.Events, w.dump.Outcomes, w.dump.Inbox = slices.Delete(w.dump.Events, 1, 2), slices.Delete(w.dump.Outcomes, 2, 3), slices.Delete(w.dump.Inbox, 2, 3)
		}, Durable, "asked for command e1/billing/from-stripe/0"},
		{"an event without an outcome", func(w *world) { w.edit(0, "events", nil) }, Once, "event e1 at 0/0 (delivery stripe/evt_1) is told of by no outcome"},
		{"an outcome without its event", func(w *world) { w.dump.Events = slices.Delete(w.dump.Events, 3, 4) }, Durable, "says event e4, version 1, stands at 0/3"},
		{"a hole", func(w *world) { w.dump.Events[3].Headers["ce_streamversion"] = "2" }, Versions, "stream billing/cus_2 has a hole"},
		{"a version stands twice", func(w *world) {
			w.versions["billing/cus_2"] = 0
			w.handle(Request{Kind: Command, ID: "cmd_3", Stream: "billing/cus_2"}, "accepted", 1, `{}`)
		}, Versions, "has version 1 at 0/4 again"},
		{"a stream in two partitions", func(w *world) {
			w.handle(Request{Kind: Command, ID: "cmd_3", Stream: "billing/cus_2"}, "accepted", 1, `{}`)
			w.dump.Events[4].Partition = 1
		}, Versions, "stands in partitions 0 and 1"},
		{"an expected version is ignored", func(w *world) {
			w.handle(w.attempts[2].Request, "accepted", 1, `{}`)
		}, Versions, "accepts command cmd_2, which expected version 0 of billing/cus_2, at version 1"},
		{"two winners", func(w *world) {
			w.handle(w.attempts[2].Request, "accepted", 1, `{}`)
		}, Versions, "both won version 0 of billing/cus_2"},
		{"an expected version is refused wrongly", func(w *world) {
			r := Request{Kind: Command, ID: "cmd_4", Stream: "billing/cus_2", Expected: new(uint64(1))}
			w.handle(r, "conflict", 0, ``)
			w.attempt(r, 412, `{"actual":1}`)
		}, Versions, "refuses command cmd_4, which expected version 1 of billing/cus_2, at that version"},
		{"a conflict names another version", func(w *world) { w.edit(5, "actual", 7) }, Versions, "is at 7; it is at 1"},
		{"a refused command has an effect", func(w *world) { w.attempts[3].Status, w.attempts[4].Status = 409, 409 }, Once, "command cmd_1 was refused with 409"},
		{"answered with other events", func(w *world) {
			w.attempts[4].Body = json.RawMessage(`{"id":"cmd_1","stream":"billing/cus_2","version":1,"events":[{"id":"e9","version":1}]}`)
		}, Durable, "command cmd_1 was answered with event e9"},
		{"an accepted command has no event", func(w *world) {
			w.attempts[4].Body = json.RawMessage(`{"id":"cmd_1","stream":"billing/cus_2","version":1,"events":[{"id":"e4","version":1},{"id":"e5","version":2}]}`)
		}, Durable, "has 1 in the log"},
		{"two answers to one id", func(w *world) { w.attempt(w.attempts[4].Request, 409, `{}`) }, Answers, "command cmd_1 was answered 200 in attempt 5 and 409 in attempt 8"},
		{"a command that is only promised", func(w *world) {
			w.attempt(Request{Kind: Command, ID: "cmd_5", Stream: "billing/cus_2"}, 202, `{}`)
		}, Durable, "command cmd_5 was answered 202"},
		{"an answer that is none of ours", func(w *world) { w.attempts[0].Status = 500 }, Answers, "was answered 500"},
		{"a delivery refused", func(w *world) { w.attempts[0].Status = 409 }, Answers, "was answered 409"},
		{"never acknowledged", func(w *world) { w.attempts[6].Once = false }, Recovery, "delivery github/once was never acknowledged"},
		{"an inbox record isn't handled", func(w *world) {
			w.dump.Inbox = append(w.dump.Inbox, Record{Offset: 99, Headers: map[string]string{"ps_kind": Command, "ps_id": "x"}})
		}, Recovery, "inbox record 0/99 (command x) was never handled"},
		{"an inbox record is handled twice", func(w *world) { w.edit(1, "inbox", 0) }, Once, "inbox record 0/0 (delivery stripe/evt_1) was handled again"},
		{"a duplicate of nothing", func(w *world) { w.edit(0, "status", "duplicate") }, Durable, "calls delivery stripe/evt_1 a duplicate"},
		{"a record that is no event", func(w *world) { w.dump.Events[3].Key = "billing/other" }, Versions, "events 0/3 is no event"},
		{"an outcome that can't be read", func(w *world) { w.dump.Outcomes[6].Value = Value("x") }, Answers, "outcome 0/6 can't be read"},
		{"handled twice", func(w *world) { w.handle(w.attempts[2].Request, "conflict", 0, ``) }, Once, "command cmd_2 was handled twice"},
		{"an outcome of another's event", func(w *world) { w.edit(4, "id", "cmd_2") }, Once, "of command cmd_2 names event e4 of billing/cus_2, caused by command cmd_1"},
		{"an event told of twice", func(w *world) {
			w.edit(6, "events", []any{map[string]any{"id": "e4", "version": 1, "offset": 3}})
		}, Once, "event e4 at 0/3 is told of by outcomes 0/4 and 0/6"},
		{"an outcome of nothing", func(w *world) { w.edit(6, "inbox", 50) }, Once, "inbox record 0/50 has an outcome and isn't there"},
		{"outcomes in another order than events", func(w *world) {
			w.handle(Request{Kind: Command, ID: "cmd_3", Stream: "billing/cus_2"}, "accepted", 1, `{}`)
			w.dump.Outcomes[4], w.dump.Outcomes[7] = w.dump.Outcomes[7], w.dump.Outcomes[4]
		}, Versions, "version 2 of billing/cus_2 comes when the stream is at 0"},
		{"a delivery in another stream", func(w *world) { w.attempts[1].Stream = "stripe/cus_2" }, Durable, "stands in stream stripe/cus_1, not stripe/cus_2"},
		{"an answer that can't be read", func(w *world) { w.attempts[4].Body = json.RawMessage(`"ok"`) }, Answers, "attempt 5 of command cmd_1: 200 with"},
		{"answered with a version that wasn't expected", func(w *world) {
			w.attempts[4].Body = json.RawMessage(`{"id":"cmd_1","stream":"billing/cus_2","version":5,"events":[{"id":"e4","version":1}]}`)
		}, Versions, "expected version 0 and was answered 200 with version 5"},
		{"refused for the version it expected", func(w *world) { w.attempts[2].Body = json.RawMessage(`{"actual":0}`) }, Versions, "command cmd_2 was refused for its version"},
		{"parked", func(w *world) { w.edit(6, "status", "parked") }, Recovery, "command cmd_3 is parked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.wrong(w)
			findings := Check(w.attempts, w.dump)
			if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Promise == c.want && strings.Contains(f.What, c.says) }) {
				t.Errorf("no finding [%s] …%s… among %d:", c.want, c.says, len(findings))
				for _, f := range findings {
					t.Log(f)
				}
			}
		})
	}
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := NewJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Kind: Command, ID: "c", Stream: "billing/c", Expected: new(uint64(0))}
	first, second, third := j.Send(r, 0), j.Send(r, 1), j.Send(r, 1)
	j.Answer(second, 200, []byte(`{"version":1}`), nil)
	j.Answer(first, 0, nil, os.ErrDeadlineExceeded)
	j.Answer(third, 502, []byte(`<html>`), nil)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ReadJournal(f)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d attempts, %v", len(got), err)
	}
	if a := got[0]; a.Status != 0 || a.Trouble == "" || a.ID != "c" || a.Expected == nil || *a.Expected != 0 {
		t.Errorf("%+v", a)
	}
	if a := got[1]; a.Status != 200 || a.Node != 1 || string(a.Body) != `{"version":1}` || a.Answered < a.Sent || !a.Acknowledged() {
		t.Errorf("%+v", a)
	}
	if a := got[2]; a.Status != 502 || string(a.Body) != `"\u003chtml\u003e"` || a.Acknowledged() {
		t.Errorf("%+v", a)
	}
	if _, err := ReadJournal(strings.NewReader(`{"n":7,"status":200}`)); err == nil {
		t.Error("an answer to nothing is read")
	}
}

func TestReadRecords(t *testing.T) {
	got, err := ReadRecords(strings.NewReader(`{"partition":1,"offset":0,"key":"k","headers":{},"value":{"base64":"/w=="}}
{"partition":0,"offset":9,"key":"k","headers":{"ce_id":"1"},"value":"é"}
{"partition":0,"offset":2,"key":null,"headers":{"x":null},"value":null}`))
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	if got[0].Offset != 2 || got[1].Headers["ce_id"] != "1" || string(got[1].Value) != "é" || string(got[2].Value) != "\xff" {
		t.Errorf("%v", got)
	}
	if _, err := ReadRecords(strings.NewReader(`{"partition":0`)); err == nil {
		t.Error("a dump that breaks off is read")
	}
}
