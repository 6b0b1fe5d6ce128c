package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafka is a client that knows nothing of us.
func (n *node) kafka() *kgo.Client {
	n.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.broker.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(cl.Close)
	return cl
}

// park submits a command that ends parked: by its own defect, or behind another one.
func (n *node) park(id, body string) {
	n.t.Helper()
	if m := n.submit(body, "Idempotency-Key: "+id).is(202).fields(); m["status"] != "parked" {
		n.t.Fatalf("%s: %v", id, m)
	}
}

// parkedIDs returns the ids of what is listed, by the id of the command or delivery, and those in the list's order.
func (n *node) parkedIDs(query string) (byEntry map[string]string, entries []string) {
	n.t.Helper()
	n.settle()
	byEntry = map[string]string{}
	for next := ""; ; {
		var p page[projections.ParkedRow]
		n.get("/v1/parked?" + query + next).is(200).into(&p)
		for _, row := range p.Items {
			byEntry[row.EntryID] = row.ID
			entries = append(entries, row.EntryID)
		}
		if p.Next == "" {
			return byEntry, entries
		}
		next = "&cursor=" + p.Next
	}
}

func (n *node) release(id, what, body string, headers ...string) reply {
	n.t.Helper()
	return n.do("POST", "/v1/parked/"+id+"/"+what, body, append([]string{"Content-Type: application/json", "Prefer: wait=30"}, headers...)...)
}

const byAnn = `{"note":"mended","by":"ann"}`

func TestParkedIsShown(t *testing.T) {
	n := newNode(t, true)
	for _, counter := range []string{"x", "y", "z"} {
		n.park(counter+"0", fmt.Sprintf(`{"counter":%q,"by":1,"note":"panic"}`, counter))
		n.park(counter+"1", fmt.Sprintf(`{"counter":%q,"by":2}`, counter))
	}
	ids, entries := n.parkedIDs("")
	if slices.Sort(entries); !slices.Equal(entries, []string{"x0", "x1", "y0", "y1", "z0", "z1"}) {
		t.Errorf("waiting: %v", entries)
	}
	for limit := 1; limit <= 7; limit++ {
		if _, some := n.parkedIDs(fmt.Sprintf("limit=%d", limit)); len(some) != 6 {
			t.Errorf("limit %d: %v", limit, some)
		}
	}
	if _, some := n.parkedIDs("stream=counter/y&limit=1"); !slices.Equal(some, []string{"y0", "y1"}) {
		t.Errorf("of one stream: %v", some)
	}
	var last page[projections.ParkedRow]
	if n.get("/v1/parked?limit=6").is(200).into(&last); last.Next != "" {
		t.Error("the last page has a next one")
	}
	n.release(ids["x0"], "discard", byAnn).is(200)
	for state, want := range map[string]int{"waiting": 5, "discarded": 1, "requeued": 0} {
		if _, some := n.parkedIDs("state=" + state); len(some) != want {
			t.Errorf("%s: %v", state, some)
		}
	}
	n.get("/v1/parked?state=lost").problem(422, "invalid")
	n.get("/v1/parked?cursor=AAAA").problem(400, "bad-cursor")
	n.get("/v1/parked?cursor="+rowCursor{7, "0-1"}.String()).problem(409, "reset")

	var d parkedDetail
	n.get("/v1/parked/" + ids["y0"]).is(200).into(&d)
	if d.ID != ids["y0"] || d.Tries != 1 || !strings.Contains(d.Reason, "secret of the decider") || d.Entry == nil ||
		string(d.Entry.Body) != `{"counter":"y","by":1,"note":"panic"}` || d.Entry.Size != 37 || d.Entry.ContentType != "application/json" || d.Entry.Correlation != "y0" {
		t.Errorf("%+v, %+v", d, d.Entry)
	}
	n.get("/v1/parked/0-99999").problem(404, "not-found")
	n.get("/v1/parked/nothing").problem(404, "not-found")
}

func TestAParkedBodyIsShownWithinBounds(t *testing.T) {
	long := `"` + strings.Repeat("x", shownBody) + `"`
	for _, c := range []struct {
		body      string
		json      bool
		truncated bool
	}{
		{`{"a":[1,2]}`, true, false},
		{long[:shownBody-1] + `"`, true, false},
		{long, false, true},
		{"a=1&b=2", false, false},
		{"\"\xff\"", false, false}, // JSON by its structure, and no Unicode
		{"", false, false},
	} {
		s := shown(eventstore.Entry{Body: []byte(c.body), Headers: map[string]string{"user-agent": "x"}})
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || (s.Body != nil) != c.json || s.Truncated != c.truncated || s.Size != len(c.body) || len(raw) > shownBody {
			t.Errorf("%.20q: %+v %v", c.body, s, err)
		}
		if c.json && string(s.Body) != c.body || !c.json && string(raw) != c.body[:min(len(c.body), shownBody)] {
			t.Errorf("%.20q is shown as %.20q", c.body, s.Body)
		}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
	}
}

func TestParkedIsReleasedOneByOne(t *testing.T) {
	n := newNode(t, true)
	for range 9 {
		n.submit(`{"counter":"x","by":10}`).is(200)
	}
	n.park("p0", `{"counter":"x","by":1,"note":"panic"}`)
	n.park("p1", `{"counter":"x","by":4}`)
	n.park("p2", `{"counter":"x","by":10}`)
	ids, _ := n.parkedIDs("")

	if p := n.release(ids["p1"], "requeue", byAnn).problem(409, "parked-behind"); p.First != ids["p0"] || p.Rule != "parked-behind" {
		t.Errorf("out of order: %+v", p)
	}
	if p := n.release(ids["p1"], "discard", byAnn).problem(409, "parked-behind"); p.First != ids["p0"] {
		t.Errorf("discarded out of order: %+v", p)
	}
	if p := n.release(ids["p0"], "requeue", byAnn).problem(409, "parked-again"); !strings.Contains(p.Detail, "secret of the decider") {
		t.Errorf("it fails again: %+v", p)
	}
	var row parkedDetail
	if n.get("/v1/parked/" + ids["p0"]).is(200).into(&row); row.Tries != 2 || row.By != "ann" || row.State != "waiting" || row.Entry == nil {
		t.Errorf("%+v", row)
	}
	var r released
	n.release(ids["p0"], "discard", `{"note":"hopeless","by":"somebody else"}`, "Penstock-Operator: bob").is(200).into(&r)
	if r.ID != ids["p0"] || r.State != "discarded" || r.By != "bob" || r.Note != "hopeless" || r.Outcome != "" || r.EntryID != "p0" {
		t.Errorf("%+v", r)
	}
	if n.get("/v1/parked/" + ids["p0"]).is(200).into(&row); row.State != "discarded" || row.By != "bob" || row.Note != "hopeless" {
		t.Errorf("%+v", row)
	}
	n.release(ids["p1"], "requeue", byAnn).is(200).into(&r)
	if r.State != "requeued" || r.Outcome != domain.Accepted || r.Version != 10 || len(r.Events) != 1 || r.Stream != "counter/x" {
		t.Errorf("%+v", r)
	}
	var total added
	if n.get("/v1/projections/totals/rows/x?after="+r.Position, "Prefer: wait=25").is(200).into(&total); total.Total != 94 {
		t.Errorf("%+v", total)
	}
	r = released{}
	n.release(ids["p2"], "requeue", byAnn).is(200).into(&r)
	if r.State != "requeued" || r.Outcome != domain.Refused || r.Rule != "too-high" || len(r.Events) != 0 || r.Version != 10 {
		t.Errorf("a rule refuses it: %+v", r)
	}
	for _, entry := range []string{"p0", "p1", "p2"} {
		for _, what := range []string{"requeue", "discard"} {
			if p := n.release(ids[entry], what, byAnn).problem(409, "already-released"); p.Detail == "" {
				t.Errorf("%+v", p)
			}
		}
	}
	n.release("0-99999", "requeue", byAnn).problem(404, "not-found")
	n.submit(`{"counter":"x","by":1}`).is(200) // the stream goes on
}

func TestReleasesSayWhoAndWhy(t *testing.T) {
	n := newNode(t, true)
	n.park("p", `{"counter":"x","by":1,"note":"panic"}`)
	ids, _ := n.parkedIDs("")
	for _, c := range []struct{ body, header, field string }{
		{`{"by":"ann"}`, "", "note"},
		{`{"note":"","by":"ann"}`, "", "note"},
		{`{"note":" ","by":"ann"}`, "", "note"},
		{`{"note":"` + strings.Repeat("x", 501) + `","by":"ann"}`, "", "note"},
		{`{"note":"x"}`, "", "by"},
		{`{"note":"x","by":" "}`, "", "by"},
		{`{"note":"x","by":"a\u001b[2J"}`, "", "by"},
		{`{"note":"x","by":"` + strings.Repeat("x", 101) + `"}`, "", "by"},
		{`{"note":"x"}`, "a\tb", "Penstock-Operator"},
		{`{"note":"x"}`, strings.Repeat("é", 101), "Penstock-Operator"},
		{`{"note":"x","by":"ann","more":1}`, "", "more"},
		{``, "", "body"},
	} {
		for _, target := range []string{"/v1/parked/" + ids["p"] + "/requeue", "/v1/parked/" + ids["p"] + "/discard", "/v1/parked/requeue"} {
			body := c.body
			if target == "/v1/parked/requeue" && body != "" {
				body = `{"stream":"counter/x",` + body[1:]
			}
			headers := []string{"Content-Type: application/json"}
			if c.header != "" {
				headers = append(headers, "Penstock-Operator: "+c.header)
			}
			if p := n.do("POST", target, body, headers...).problem(422, "invalid"); p.Field != c.field {
				t.Errorf("%s %q: %+v", body, c.header, p)
			}
		}
	}
	for _, target := range []string{"/v1/parked/" + ids["p"] + "/discard", "/v1/parked/requeue"} {
		n.do("POST", target, byAnn).problem(415, "unsupported-media-type")
		n.do("POST", target, byAnn, "Content-Type: text/plain").problem(415, "unsupported-media-type")
	}
	if p := n.do("POST", "/v1/parked/requeue", `{"stream":"x","note":"x","by":"x"}`, "Content-Type: application/json").problem(422, "invalid"); p.Field != "stream" {
		t.Errorf("%+v", p)
	}
	n.release(ids["p"], "discard", `{"note":"two\nlines"}`, "Penstock-Operator: José 🚰").is(200)
	if _, waiting := n.parkedIDs(""); len(waiting) != 0 {
		t.Errorf("%v", waiting)
	}
	var row parkedDetail
	if n.get("/v1/parked/" + ids["p"]).is(200).into(&row); row.By != "José 🚰" || row.Note != "two\nlines" || row.Tries != 1 {
		t.Errorf("%+v", row)
	}
}

func TestAStreamIsRequeuedInOrder(t *testing.T) {
	n := newNode(t, true)
	n.park("first", `{"counter":"x","by":1,"note":"panic"}`)
	var want []string
	for i := range 12 { // their offsets have one digit and two
		want = append(want, fmt.Sprintf("p%d", i))
		n.park(want[i], `{"counter":"x","by":1}`)
	}
	n.park("last", `{"counter":"x","by":1,"note":"panic"}`)
	n.park("behind", `{"counter":"x","by":1}`)
	n.park("other", `{"counter":"y","by":1,"note":"panic"}`)
	ids, _ := n.parkedIDs("")
	requeue := func() (got releasedStream, entries []string) {
		t.Helper()
		n.do("POST", "/v1/parked/requeue", `{"stream":"counter/x","note":"mended","by":"ann"}`, "Content-Type: application/json").is(200).into(&got)
		for _, r := range got.Items {
			entries = append(entries, r.EntryID)
		}
		return got, entries
	}
	if got, entries := requeue(); !slices.Equal(entries, []string{"first"}) || got.Items[0].State != "waiting" ||
		got.Items[0].Problem == nil || got.Items[0].Problem.Type != "/problems/parked-again" || got.More {
		t.Errorf("the first one fails again: %+v", got)
	}
	n.release(ids["first"], "discard", byAnn).is(200)
	got, entries := requeue()
	if !slices.Equal(entries, append(want, "last")) || got.More {
		t.Fatalf("%v", entries)
	}
	for i, r := range got.Items[:12] {
		if r.State != "requeued" || r.Outcome != domain.Accepted || r.Version != uint64(i+1) || r.By != "ann" || r.Problem != nil {
			t.Errorf("%+v", r)
		}
	}
	if last := got.Items[12]; last.State != "waiting" || last.ID != ids["last"] || last.Problem == nil || !strings.Contains(last.Problem.Detail, "secret of the decider") {
		t.Errorf("%+v", last)
	}
	n.release(ids["last"], "discard", byAnn).is(200)
	if got, entries := requeue(); !slices.Equal(entries, []string{"behind"}) || got.Items[0].Version != 13 {
		t.Errorf("%+v", got)
	}
	if got, _ := requeue(); len(got.Items) != 0 || got.More {
		t.Errorf("nothing is left: %+v", got)
	}
	if _, waiting := n.parkedIDs(""); !slices.Equal(waiting, []string{"other"}) {
		t.Errorf("waiting: %v", waiting)
	}
}

// TestAnEntryThatHasLeftTheLog can still be discarded, or its stream would wait for ever.
func TestAnEntryThatHasLeftTheLog(t *testing.T) {
	n := newNode(t, true)
	n.park("p0", `{"counter":"x","by":1,"note":"panic"}`)
	n.park("p1", `{"counter":"x","by":1}`)
	ids, _ := n.parkedIDs("")
	var row parkedDetail
	n.get("/v1/parked/" + ids["p0"]).is(200).into(&row)
	offsets := kadm.Offsets{}
	offsets.AddOffset(n.log.Topics.Parked, row.Partition, row.ParkedAt+1, -1)
	if deleted, err := kadm.NewClient(n.kafka()).DeleteRecords(t.Context(), offsets); err != nil || deleted.Error() != nil {
		t.Fatal(err, deleted.Error())
	}
	row = parkedDetail{}
	if n.get("/v1/parked/" + ids["p0"]).is(200).into(&row); row.Entry != nil || row.EntryID != "p0" {
		t.Errorf("%+v", row)
	}
	n.release(ids["p0"], "requeue", byAnn).problem(410, "entry-expired")
	n.release(ids["p0"], "discard", byAnn).is(200)
	n.release(ids["p1"], "requeue", byAnn).is(200)

	// At the row's place stands another entry: the topic was made anew.
	d := parked{&server{Config: n.cfg}, make(chan struct{}, 1)}
	var other parkedDetail
	n.get("/v1/parked/" + ids["p1"]).is(200).into(&other)
	row.ParkedAt = other.ParkedAt
	if _, there, err := d.read(t.Context(), row.ParkedRow); there || err != nil {
		t.Errorf("another entry is taken for it: %v", err)
	}
}

func TestARecordOfAnotherProgramIsNotReleased(t *testing.T) {
	n := newNode(t, true)
	r := &kgo.Record{Topic: n.log.Topics.Inbox, Partition: 1, Key: []byte("counter/x"), Value: []byte("whatever")}
	if err := n.kafka().ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("1-%d", r.Offset)
	until(t, func() bool { return n.get("/v1/parked/"+id).status == 200 })
	var row parkedDetail
	n.get("/v1/parked/" + id).is(200).into(&row)
	if row.Kind != eventstore.KindForeign || row.Entry == nil || row.Entry.Base64 != base64.StdEncoding.EncodeToString(r.Value) {
		t.Errorf("%+v %+v", row, row.Entry)
	}
	n.release(id, "requeue", byAnn).problem(409, "not-releasable")
	n.release(id, "discard", byAnn).problem(409, "not-releasable")
	n.submit(`{"counter":"x","by":1}`).is(200) // it holds nothing back
}

func TestAReleaseThatNobodyHandlesIsNotKnown(t *testing.T) {
	n := newNode(t, false) // nobody writes
	p := n.log.PartitionOf("counter/x")
	o, _ := json.Marshal(domain.Outcome{Kind: eventstore.KindCommand, ID: "p", Source: "api", Type: "Add", Stream: "counter/x", Status: domain.Parked,
		Received: time.Now().UTC(), Handled: time.Now().UTC(), Message: "a defect", ParkedAt: new(int64(0)), Partition: p, Inbox: 7})
	if err := n.kafka().ProduceSync(t.Context(), &kgo.Record{Topic: n.log.Topics.Outcomes, Partition: p, Value: o}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ids, _ := n.parkedIDs("")
	m := n.release(ids["p"], "discard", byAnn, "Prefer: wait=1").is(202).fields()
	if m["state"] != "unknown" || m["id"] != ids["p"] || m["by"] != "ann" {
		t.Errorf("%v", m)
	}
}

// TestJudge says what an outcome means for a release, also one that is not its own: everybody who waits for an id is
// told the next outcome of it.
func TestJudge(t *testing.T) {
	n := newNode(t, false)
	d := parked{&server{Config: n.cfg}, make(chan struct{}, 1)}
	v, err := d.view()
	if err != nil {
		t.Fatal(err)
	}
	row := projections.ParkedRow{ID: "1-2", State: "waiting", Kind: eventstore.KindCommand, EntryID: "p", Stream: "counter/x"}
	e := eventstore.Entry{Release: eventstore.Requeue, By: "ann", Note: "mended"}
	mine := domain.Outcome{Release: eventstore.Requeue, By: "ann", Note: "mended"}
	theirs := domain.Outcome{Release: eventstore.Requeue, By: "bob", Note: "mended"}
	with := func(o domain.Outcome, status, original domain.Status) domain.Outcome {
		o.Status, o.Original = status, original
		return o
	}
	for name, c := range map[string]struct {
		o     domain.Outcome
		state string // or
		kind  string // of a problem
	}{
		"accepted":                {with(mine, domain.Accepted, ""), "requeued", ""},
		"refused":                 {with(mine, domain.Refused, ""), "requeued", ""},
		"discarded":               {with(mine, domain.Discarded, ""), "discarded", ""},
		"parked":                  {with(mine, domain.Parked, ""), "", "parked-again"},
		"done before":             {with(mine, domain.Duplicate, domain.Refused), "", "already-released"},
		"in no writer's list":     {with(mine, domain.Duplicate, domain.Parked), "", "not-releasable"},
		"sent again":              {with(domain.Outcome{}, domain.Duplicate, domain.Parked), "unknown", ""},
		"sent the first time":     {with(domain.Outcome{}, domain.Parked, ""), "unknown", ""},
		"bob was faster":          {with(theirs, domain.Accepted, ""), "", "already-released"},
		"bob's failed":            {with(theirs, domain.Parked, ""), "unknown", ""},
		"bob's was out of order":  {with(theirs, domain.Duplicate, domain.Parked), "unknown", ""},
		"of a version to come":    {with(mine, "evaporated", ""), "", "internal"},
		"bob's was already there": {with(theirs, domain.Duplicate, domain.Accepted), "unknown", ""},
	} {
		r, err := d.judge(v, row, e, c.o)
		if c.kind != "" {
			if err == nil || ProblemOf(err).Type != "/problems/"+c.kind {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || r.State != c.state {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
