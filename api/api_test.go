package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// idsOf reads page after page and returns the ids of the events in order.
func (n *node) idsOf(query string) (ids []string) {
	n.t.Helper()
	n.settle()
	cursor := ""
	for {
		r := n.get("/v1/events?" + query + cursor).is(200)
		var p struct {
			Items []struct {
				ID, Subject   string
				StreamVersion uint64
			}
			Next string
		}
		r.into(&p)
		if p.Next == "" || r.header.Get("Penstock-Position") != p.Next {
			n.t.Fatalf("next %q, position %q", p.Next, r.header.Get("Penstock-Position"))
		}
		link := r.header.Get("Link")
		if target, rest, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">"); rest != `; rel="next"` || !strings.Contains(target, url.QueryEscape(p.Next)) {
			n.t.Fatalf("Link: %s", link)
		}
		if len(p.Items) == 0 {
			return ids
		}
		for _, e := range p.Items {
			ids = append(ids, e.ID)
		}
		cursor = "&cursor=" + p.Next
	}
}

func TestPagesOfEventsSkipAndRepeatNothing(t *testing.T) {
	n := newNode(t, true)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var want []string
	for c := range 5 {
		wg.Go(func() {
			for range 20 {
				var out commandResult
				n.submit(fmt.Sprintf(`{"counter":"c%d","by":1}`, c)).is(200).into(&out)
				mu.Lock()
				want = append(want, out.Events[0].ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(want)
	for _, limit := range []string{"1", "3", "7", "100", "1000"} {
		got := n.idsOf("limit=" + limit)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("limit %s: %d events, want %d, or not the same ones", limit, len(got), len(want))
		}
	}
	if got := n.idsOf("stream=counter/c3&type=counter.*&limit=3"); len(got) != 20 {
		t.Errorf("%d events of one stream, want 20", len(got))
	}
	if got := n.idsOf("type=nothing"); len(got) != 0 {
		t.Errorf("%d events of a type that isn't there", len(got))
	}
	if got := n.idsOf("from=2000-01-01T00:00:00Z"); len(got) != len(want) {
		t.Errorf("%d events since 2000, want %d", len(got), len(want))
	}
	if got := n.idsOf("from=2100-01-01T00:00:00Z"); len(got) != 0 {
		t.Errorf("%d events of the future", len(got))
	}
	if got := n.idsOf("from=latest"); len(got) != 0 {
		t.Errorf("%d events after the latest", len(got))
	}
}

func TestPollWaitsForTheFirstMatch(t *testing.T) {
	n := newNode(t, true)
	server := httptest.NewServer(n.mux)
	defer server.Close()
	asked := make(chan struct{})
	type answer struct {
		status  int
		applied string
		body    eventsDocument
	}
	got := make(chan answer)
	go func() {
		var a answer
		cursor := ""
		for range 20 { // each waits up to 25 s
			r, _ := http.NewRequest("GET", server.URL+"/v1/events?type=counter.*&stream=counter/wanted"+cursor, nil)
			r.Header.Set("Prefer", "wait=25")
			if cursor == "" {
				close(asked)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				break
			}
			a.status, a.applied = resp.StatusCode, resp.Header.Get("Preference-Applied")
			err = json.NewDecoder(resp.Body).Decode(&a.body)
			resp.Body.Close()
			if err != nil || len(a.body.Items) > 0 {
				break
			}
			cursor = "&cursor=" + a.body.Next
		}
		got <- a
	}()
	<-asked
	n.submit(`{"counter":"other","by":1}`).is(200)
	n.submit(`{"counter":"wanted","by":1}`).is(200)
	if a := <-got; a.status != 200 || a.applied != "wait=25" || len(a.body.Items) != 1 {
		t.Errorf("%+v", a)
	}
}

type eventsDocument struct {
	Items []map[string]any
	Next  string
}

func TestCursorsAreRefusedNeverMoved(t *testing.T) {
	n := newNode(t, true)
	n.submit(`{"counter":"a","by":1}`).is(200)
	n.settle()
	var p eventsDocument
	n.get("/v1/events").is(200).into(&p)
	at, err := eventstore.ParsePosition(p.Next)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*eventstore.Position)) string {
		q := at.Clone()
		f(&q)
		return "/v1/events?cursor=" + q.String()
	}
	n.get(change(func(q *eventstore.Position) { q.Next[0] += 1000 })).problem(409, "future")
	n.get(change(func(q *eventstore.Position) { q.Topic[0]++ })).problem(409, "reset")
	n.get(change(func(q *eventstore.Position) { q.Scope = 7 })).problem(409, "reset")
	n.get(change(func(q *eventstore.Position) { q.Next = append(q.Next, 0) })).problem(409, "reset")
	// Of fewer partitions: the topic has got more since, of which the cursor has seen nothing.
	n.get(change(func(q *eventstore.Position) { q.Next = q.Next[:2] })).is(200)
	if p := n.get("/v1/events?cursor=AAAA").problem(400, "bad-cursor"); p.Field != "cursor" {
		t.Errorf("%+v", p)
	}
	if p := n.get("/v1/events?limit=1001").problem(422, "invalid"); p.Field != "limit" {
		t.Errorf("%+v", p)
	}
	if p := n.get("/v1/events?from=yesterday").problem(422, "invalid"); p.Field != "from" {
		t.Errorf("%+v", p)
	}
	if p := n.get("/v1/events?typ=x").problem(422, "invalid"); p.Field != "typ" {
		t.Errorf("%+v", p)
	}
	n.get("/v1/events?stream=nostream").problem(422, "invalid")
	n.get("/v1/projections/totals/rows?cursor=AAAA").problem(400, "bad-cursor")
	n.get("/v1/projections/totals/rows?cursor="+rowCursor{7, "a"}.String()).problem(400, "bad-cursor")
	n.get("/v1/projections/totals/rows?cursor="+p.Next).problem(400, "bad-cursor")
	n.get("/v1/deliveries?cursor=AAAA").problem(400, "bad-cursor")
	n.get("/v1/streams?cursor=AAAA").problem(400, "bad-cursor")
	n.get("/v1/streams/counter/a?events=true&cursor=x").problem(400, "bad-cursor")
}

func TestExpiredTellsWhereTheLogBegins(t *testing.T) {
	n := newNode(t, false)
	earliest := egress.Events(n.cfg.Log, n.cfg.Log.Topics.Events).Earliest
	p := ProblemOf(WithEarliest(t.Context(), eventstore.ErrExpired, earliest))
	if p.Status != 410 || p.Type != "/problems/expired" {
		t.Errorf("%+v", p)
	}
	n.get("/v1/events?cursor=" + p.Earliest).is(200)
}

func TestEventAndStream(t *testing.T) {
	n := newNode(t, true)
	// A key with everything that a URL could misunderstand.
	key := "octo/hello#12?x=%2F&y z/é"
	for i := range 9 {
		n.submit(fmt.Sprintf(`{"counter":%q,"by":%d}`, key, i+1)).is(200)
	}
	var last commandResult
	n.submit(fmt.Sprintf(`{"counter":%q,"by":1}`, key), "Idempotency-Key: k1").is(200).into(&last)
	at := "after=" + last.Position

	escaped := "/v1/streams/counter/" + url.PathEscape(key)
	raw := "/v1/streams/counter/octo/hello%2312%3Fx=%252F&y%20z/%C3%A9"
	for _, target := range []string{escaped, raw} {
		r := n.get(target + "?" + at).is(200)
		if m := r.fields(); m["stream"] != "counter/"+key || m["version"] != 10.0 || r.header.Get("ETag") != `"10"` {
			t.Errorf("%s: %s", target, r.body)
		}
	}
	n.get(escaped, `If-None-Match: "10"`).is(304)
	n.get(escaped, `If-None-Match: "9"`).is(200)
	if p := n.get("/v1/streams/counter/nobody").problem(404, "not-found"); !strings.Contains(p.Detail, "nobody") {
		t.Errorf("%+v", p)
	}
	n.get("/v1/streams/bad%20category/x").problem(422, "invalid")

	for _, limit := range []int{1, 3, 4, 5, 10, 100} {
		next, versions := "", []uint64{}
		for {
			r := n.get(fmt.Sprintf("%s?events=true&limit=%d%s", escaped, limit, next)).is(200)
			var p struct {
				Items []struct{ StreamVersion uint64 }
				Next  string
			}
			r.into(&p)
			for _, e := range p.Items {
				versions = append(versions, e.StreamVersion)
			}
			if (p.Next == "") != (r.header.Get("Link") == "") {
				t.Errorf("next %q, Link %q", p.Next, r.header.Get("Link"))
			}
			if p.Next == "" {
				break
			}
			if target, _, _ := strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">"); string(n.get(target).is(200).body) !=
				string(n.get(fmt.Sprintf("%s?events=true&limit=%d&cursor=%s", escaped, limit, p.Next)).is(200).body) {
				t.Errorf("the link %s leads elsewhere than next", target)
			}
			next = "&cursor=" + p.Next
		}
		if len(versions) != 10 || versions[0] != 1 || versions[9] != 10 {
			t.Errorf("limit %d: versions %v", limit, versions)
		}
	}
	if r := n.get(escaped + "?events=true&from=8").is(200); strings.Count(string(r.body), `"streamversion"`) != 3 {
		t.Errorf("%s", r.body)
	}
	if r := n.get(escaped + "?events=true&from=11").is(200); string(r.body) != "{\"items\":[]}\n" {
		t.Errorf("%s", r.body)
	}

	r := n.get("/v1/events/" + last.Events[0].ID).is(200)
	if m := r.fields(); m["subject"] != "counter/"+key || m["causationid"] != "k1" || m["specversion"] != "1.0" || r.header.Get("Content-Type") != "application/cloudevents+json" {
		t.Errorf("%s", r.body)
	}
	n.get("/v1/events/nothing").problem(404, "not-found")

	n.submit(`{"counter":"a","by":1}`).is(200).into(&last)
	n.submit(`{"counter":"z","by":1}`).is(200).into(&last)
	n.get("/v1/streams/counter/z?after=" + last.Position).is(200)
	var names []string
	for next := ""; ; {
		var p struct {
			Items []eventstore.StreamRow
			Next  string
		}
		n.get("/v1/streams?category=counter&limit=1" + next).is(200).into(&p)
		for _, s := range p.Items {
			names = append(names, s.Stream.Key())
		}
		if p.Next == "" {
			break
		}
		next = "&cursor=" + p.Next
	}
	if !slices.Equal(names, []string{"a", key, "z"}) {
		t.Errorf("streams %q", names)
	}
	if r := n.get("/v1/streams?category=count").is(200); len(r.fields()["items"].([]any)) != 0 {
		t.Errorf("%s", r.body)
	}
}

func TestReadYourWrites(t *testing.T) {
	n := newNode(t, true)
	total := 0
	for i := range 30 {
		var out commandResult
		by := 1 + i%3
		n.submit(fmt.Sprintf(`{"counter":"a/b","by":%d}`, by)).is(200).into(&out)
		total += by
		var row added
		r := n.get("/v1/projections/totals/rows/a/b?after="+out.Position, "Prefer: wait=25").is(200)
		r.into(&row)
		if row.Total != total {
			t.Fatalf("the row says %d, want %d", row.Total, total)
		}
		position, err := eventstore.ParsePosition(r.header.Get("Penstock-Position"))
		if after, _ := eventstore.ParsePosition(out.Position); err != nil || !position.Covers(after) || position.Scope == 0 {
			t.Fatalf("Penstock-Position %v, %v", position, err)
		}
	}
	// A position that nothing has reached yet.
	ahead := n.log.TailEnd(n.log.Topics.Events).Clone()
	ahead.Next[0] += 1000
	n.get("/v1/projections/totals/rows/a/b?after="+ahead.String(), "Prefer: wait=0").problem(503, "behind")
	n.get("/v1/projections/totals/rows/a/b?after=x").problem(400, "bad-cursor")
	foreign := ahead.Clone()
	foreign.Topic[3]++
	n.get("/v1/projections/totals/rows?after="+foreign.String()).problem(409, "reset")
	foreign = ahead.Clone()
	foreign.Scope = 3
	n.get("/v1/projections/totals/rows?after="+foreign.String()).problem(409, "reset")
}

func TestRows(t *testing.T) {
	n := newNode(t, true)
	var out commandResult
	for i := range 12 {
		n.submit(fmt.Sprintf(`{"counter":"k%02d","by":1}`, i)).is(200).into(&out)
	}
	n.get("/v1/projections/totals/rows?after=" + out.Position).is(200)
	for _, limit := range []int{1, 5, 12, 100} {
		var keys []string
		for next := ""; ; {
			var p page[row]
			r := n.get(fmt.Sprintf("/v1/projections/totals/rows?limit=%d%s", limit, next)).is(200)
			r.into(&p)
			for _, item := range p.Items {
				keys = append(keys, item.Key)
			}
			if r.header.Get("Penstock-Position") == "" {
				t.Error("no position")
			}
			if p.Next == "" {
				break
			}
			next = "&cursor=" + p.Next
		}
		if len(keys) != 12 || !slices.IsSorted(keys) {
			t.Errorf("limit %d: %v", limit, keys)
		}
	}
	list := n.get("/v1/projections/totals/rows").is(200)
	n.get("/v1/projections/totals/rows", "If-None-Match: "+list.header.Get("ETag")).is(304)
	one := n.get("/v1/projections/totals/rows/k00").is(200)
	if one.header.Get("ETag") == "" {
		t.Error("no ETag")
	}
	same := n.get("/v1/projections/totals/rows/k00", "If-None-Match: W/"+one.header.Get("ETag")).is(304)
	if len(same.body) != 0 || same.header.Get("ETag") != one.header.Get("ETag") || same.header.Get("Penstock-Position") == "" {
		t.Errorf("%q %v", same.body, same.header)
	}
	n.submit(`{"counter":"k00","by":5}`).is(200).into(&out)
	changed := n.get("/v1/projections/totals/rows/k00?after="+out.Position, "If-None-Match: "+one.header.Get("ETag")).is(200)
	if string(changed.body) != "{\"by\":5,\"total\":6}\n" {
		t.Errorf("%s", changed.body)
	}
	n.get("/v1/projections/totals/rows/nobody").problem(404, "not-found")
	n.get("/v1/projections/nothing/rows").problem(404, "not-found")
	n.get("/v1/projections/nothing/rows/x").problem(404, "not-found")
	n.get("/v1/projections/nothing").problem(404, "not-found")
	n.get("/v1/projections/nothing/changes").problem(404, "not-found")
	n.get("/v1/projections/nothing/changes?snapshot=true").problem(404, "not-found")
	if p := n.get("/v1/projections/totals/changes?snapshot=true").problem(422, "invalid"); p.Field != "snapshot" {
		t.Errorf("%+v", p)
	}
	var all page[projections.Status]
	n.get("/v1/projections").is(200).into(&all)
	if len(all.Items) != 6 || all.Items[5].Name != "totals" || all.Items[3].Generation != 1 {
		t.Errorf("%+v", all)
	}
	if m := n.get("/v1/projections/totals").is(200).fields(); m["name"] != "totals" {
		t.Errorf("%v", m)
	}
}

// deliver puts a verified delivery into the inbox, as ingress does.
func (n *node) deliver(source, id, kind string) {
	n.t.Helper()
	stream, err := domain.NewStream(source, "x/"+id)
	if err != nil {
		n.t.Fatal(err)
	}
	_, known, err := n.cfg.Outcomes.Submit(n.t.Context(), eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: id, Source: source, Type: kind, Stream: stream, Received: time.Now(),
		ContentType: "application/json", Verification: "github; body", Body: []byte(`{"a":1}`),
	})
	if err != nil || !known {
		n.t.Fatal(known, err)
	}
}

func TestDeliveries(t *testing.T) {
	n := newNode(t, true)
	for i := range 5 {
		n.deliver("github", fmt.Sprintf("d/%d", i), "github.push")
	}
	n.deliver("stripe", "e 1", "stripe.charge.succeeded")
	until(t, func() bool { return n.get("/v1/deliveries/stripe/e%201").status == 200 })
	if m := n.get("/v1/deliveries/github/d/3").is(200).fields(); m["id"] != "d/3" || m["status"] != "accepted" || m["verification"] != "github; body" {
		t.Errorf("%v", m)
	}
	n.get("/v1/deliveries/github/nothing").problem(404, "not-found")
	var ids []string
	for next := ""; ; {
		var p page[projections.Delivery]
		n.get("/v1/deliveries?source=github&type=github.*&status=accepted&limit=2" + next).is(200).into(&p)
		for _, d := range p.Items {
			ids = append(ids, d.ID)
		}
		if p.Next == "" {
			break
		}
		next = "&cursor=" + p.Next
	}
	if !slices.Equal(ids, []string{"d/4", "d/3", "d/2", "d/1", "d/0"}) {
		t.Errorf("newest first: %v", ids)
	}
	if p := n.get("/v1/deliveries?status=lost").problem(422, "invalid"); p.Field != "status" {
		t.Errorf("%+v", p)
	}
}

func TestNode(t *testing.T) {
	var reasons []string
	n := newNode(t, true, func(c *Config) {
		c.Ready = func() []string { return reasons }
		c.Brokers = []string{"b:9092"}
		c.Feeds = func() int { return 3 }
	})
	if m := n.get("/healthz").is(200).fields(); m["status"] != "ok" {
		t.Errorf("%v", m)
	}
	n.get("/readyz").is(200)
	reasons = []string{"streams is building", "no broker"}
	if p := n.get("/readyz").problem(503, "not-ready"); !slices.Equal(p.Reasons, reasons) {
		t.Errorf("%+v", p)
	}
	n.submit(`{"counter":"a","by":1}`).is(200)
	var st nodeStatus
	n.get("/v1/status").is(200).into(&st)
	if st.Version != "test" || len(st.Kafka.Topics) != 4 || len(st.Kafka.Topics[0].End) != 3 || st.Kafka.Cluster == "" || !st.Kafka.Embedded ||
		len(st.Partitions) != 3 || !st.Partitions[2].Serving || len(st.Projections) != 6 || st.Feeds != 3 || st.Kafka.Error != "" {
		t.Errorf("%+v", st)
	}
	if strings.Contains(n.logged.String(), "request failed") {
		t.Error("being not ready is logged at every question")
	}
}

func TestStatusAnswersWithoutKafka(t *testing.T) {
	n := newNode(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody answers in time
	r := httptest.NewRequest("GET", "/v1/status", nil).WithContext(ctx)
	w := httptest.NewRecorder()
	n.mux.ServeHTTP(w, r)
	var st nodeStatus
	if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || w.Code != 200 || st.Kafka.Error == "" || len(st.Projections) != 6 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
