package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/replays"
)

// newReplayingNode is a node that can replay.
func newReplayingNode(t *testing.T) *node {
	t.Helper()
	return newNode(t, true, func(c *Config) {
		v, _ := c.Engine.View("deliveries")
		r, err := replays.New(replays.Config{Log: c.Log, History: c.History, Deliveries: v, Append: c.Log.Append, Dir: t.TempDir(), Logger: c.Logger})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		c.Replays = r
	})
}

// take puts a delivery into the inbox, as ingress does, and waits until the delivery log has it.
func (n *node) take(e eventstore.Entry) {
	n.t.Helper()
	e.Kind, e.Received = eventstore.KindDelivery, time.Now().UTC()
	if _, known, err := n.cfg.Outcomes.Submit(n.t.Context(), e); err != nil || !known {
		n.t.Fatal(known, err)
	}
	n.settle()
}

func (n *node) post(target, body string, headers ...string) reply {
	n.t.Helper()
	return n.do("POST", target, body, append([]string{"Content-Type: application/json", "Prefer: wait=30"}, headers...)...)
}

const whyAnn = `{"reason":"it was lost","by":"ann"}`

func TestTheRequestOfADeliveryIsShownExactly(t *testing.T) {
	n := newReplayingNode(t)
	for i, c := range []struct {
		body string
		text bool
	}{
		{"{\"a\": 1,\r\n \"b\":\"<é>\"}\n", true},
		{"", true},
		{"\xff\x00\xfe", false},
		{`"\ud800"`, true}, // no text by its meaning, but by its bytes
	} {
		id := fmt.Sprintf("d/%d #?%%", i)
		n.take(eventstore.Entry{
			ID: id, Source: "github", Type: "github.push", Stream: "github/x", ContentType: "application/json; charset=utf-8", Verification: "github; body",
			Headers: map[string]string{"x-github-event": "push", "x-hub-signature-256": "sha256=00", "x-gitlab-token": "canary", "Authorization": "canary"}, Body: []byte(c.body),
		})
		r := n.get("/v1/deliveries/github/" + url.PathEscape(id) + "/request").is(200)
		var got deliveryRequest
		r.into(&got)
		sum := sha256.Sum256([]byte(c.body))
		if got.Method != "POST" || got.Path != "/hooks/github" || got.Size != len(c.body) || got.SHA256 != hex.EncodeToString(sum[:]) ||
			got.ContentType != "application/json; charset=utf-8" || got.Headers["x-hub-signature-256"] != "sha256=00" || got.Headers["x-gitlab-token"] != "(masked)" {
			t.Errorf("%+v", got)
		}
		if strings.Contains(string(r.body), "canary") {
			t.Errorf("a credential is shown: %s", r.body)
		}
		raw, err := base64.StdEncoding.DecodeString(got.Base64)
		if err != nil || (got.Body != nil) != c.text || c.text && *got.Body != c.body || !c.text && string(raw) != c.body {
			t.Errorf("%q is shown as %s", c.body, r.body)
		}
	}
	n.get("/v1/deliveries/github/nobody/request").problem(404, "not-found")
}

func TestADeliveryIsShownWithWhatItCaused(t *testing.T) {
	n := newReplayingNode(t)
	n.take(eventstore.Entry{ID: "d 1", Source: "github", Type: "github.push", Stream: "github/octo/hello#12", Verification: "github; body", Body: []byte("{}")})
	var d deliveryDetail
	n.get("/v1/deliveries/github/d%201").is(200).into(&d)
	if d.Status != domain.Accepted || len(d.Events) != 1 || d.Processing <= 0 || len(d.Links.Events) != 1 || d.Links.Self != "/v1/deliveries/github/d%201" {
		t.Errorf("%+v", d)
	}
	n.get(d.Links.Self).is(200)
	n.get(d.Links.Request).is(200)
	n.get(d.Links.Stream).is(200)
	n.get(d.Links.Events[0]).is(200)

	var one replayed
	n.post("/v1/deliveries/github/d%201/replay", whyAnn).is(200).into(&one)
	n.settle()
	original, replay := deliveryDetail{}, deliveryDetail{}
	n.get(d.Links.Self).is(200).into(&original)
	n.get(one.URL).is(200).into(&replay)
	if original.Replays != 1 || original.LastReplay != one.ID || replay.Links.ReplayOf != d.Links.Self || original.Links.LastReplay != replay.Links.Self {
		t.Errorf("%+v\n%+v", original, replay)
	}
	if replay.Replay == nil || *replay.Replay != (projections.DeliveryReplay{Of: "d 1", By: "ann", Reason: "it was lost"}) {
		t.Errorf("%+v", replay.Replay)
	}
}

func TestOneDeliveryIsReplayed(t *testing.T) {
	n := newReplayingNode(t)
	n.take(eventstore.Entry{ID: "d/1", Source: "github", Type: "github.push", Stream: "github/x", ContentType: "application/json", Verification: "github; body", Body: []byte(`{"a":1}`)})
	target := "/v1/deliveries/github/d%2F1/replay"
	var r replayed
	n.post(target, whyAnn).is(200).into(&r)
	if !strings.HasPrefix(r.ID, "d/1~replay-") || r.ReplayOf != "d/1" || r.Status != domain.Accepted || r.Version != 2 || len(r.Events) != 1 || r.Stream != "github/x" || r.Position == "" {
		t.Fatalf("%+v", r)
	}
	n.settle()
	e := n.get("/v1/events/" + r.Events[0].ID).is(200).fields()
	if e["replayof"] != "d/1" || e["deliveryid"] != r.ID || e["streamversion"] != 2.0 || fmt.Sprint(e["data"]) != "map[a:1]" {
		t.Errorf("%v", e)
	}
	// Again is again; under one key it is once.
	var keyed, twice replayed
	n.post(target, whyAnn, "Idempotency-Key: k").is(200).into(&keyed)
	n.post(target, whyAnn, "Idempotency-Key: k").is(200).into(&twice)
	if keyed.Version != 3 || keyed.ID == r.ID || twice.ID != keyed.ID || twice.Version != 3 || twice.Status != domain.Accepted || twice.Events[0].ID != keyed.Events[0].ID {
		t.Errorf("%+v\n%+v", keyed, twice)
	}
	n.settle()
	// A replay of a replay is one of the original.
	var deep replayed
	n.post("/v1/deliveries/github/"+url.PathEscape(r.ID)+"/replay", whyAnn, "Penstock-Operator: bob").is(200).into(&deep)
	if deep.ReplayOf != "d/1" || strings.Count(deep.ID, "~replay-") != 1 {
		t.Errorf("%+v", deep)
	}
	n.settle()
	var shown deliveryDetail
	n.get(deep.URL).is(200).into(&shown)
	if shown.Replay.By != "bob" {
		t.Errorf("%+v", shown.Replay)
	}
	for _, c := range []struct{ body, field string }{
		{`{"by":"ann"}`, "reason"}, {`{"by":"ann","reason":""}`, "reason"}, {`{"by":"ann","reason":" "}`, "reason"}, {`{"reason":"x"}`, "by"}, {`{"reason":"x","by":"a\u0007"}`, "by"},
		{`{"reason":"x","by":"ann","rate":1}`, "rate"},
	} {
		if p := n.post(target, c.body).problem(422, "invalid"); p.Field != c.field {
			t.Errorf("%s: %+v", c.body, p)
		}
	}
	n.do("POST", target, whyAnn).problem(415, "unsupported-media-type")
	n.post("/v1/deliveries/github/nobody/replay", whyAnn).problem(404, "not-found")
	if n.settle(); len(n.ids("/v1/deliveries?")) != 4 {
		t.Errorf("%v", n.ids("/v1/deliveries?"))
	}
}

// ids reads the ids of a list, page by page.
func (n *node) ids(target string) (ids []string) {
	n.t.Helper()
	for next := ""; ; {
		var p page[deliveryRow]
		n.get(target + next).is(200).into(&p)
		for _, d := range p.Items {
			ids = append(ids, d.ID)
		}
		if p.Next == "" {
			return ids
		}
		next = "&cursor=" + p.Next
	}
}

func TestDeliveriesAreFiltered(t *testing.T) {
	n := newReplayingNode(t)
	var times []time.Time
	for i := range 6 {
		times = append(times, time.Now().UTC())
		n.take(eventstore.Entry{ID: fmt.Sprintf("%c%d", 'a'+i%2, i), Source: "github", Type: "github.push", Stream: domain.Stream(fmt.Sprintf("github/r%d", i%3)), Body: []byte("{}")})
	}
	stamp := func(t time.Time) string { return url.QueryEscape(t.Format(time.RFC3339Nano)) }
	for query, want := range map[string][]string{
		"":                                    {"b5", "a4", "b3", "a2", "b1", "a0"},
		"stream=github/r1":                    {"a4", "b1"},
		"id=a":                                {"a0", "a2", "a4"},
		"q=R2":                                {"b5", "a2"},
		"q=A4":                                {"a4"},
		"since=" + stamp(times[4]):            {"b5", "a4"},
		"until=" + stamp(times[1]):            {"a0"},
		"since=2100-01-01T00:00:00Z":          nil,
		"replay=nothing":                      nil,
		"source=github&type=github.*&q=b&id=": {"b5", "a4", "b3", "a2", "b1", "a0"},
	} {
		for _, limit := range []string{"1", "100"} {
			if got := n.ids("/v1/deliveries?limit=" + limit + "&" + query); !slices.Equal(got, want) {
				t.Errorf("%s, limit %s: %v, want %v", query, limit, got, want)
			}
		}
	}
	for query, field := range map[string]string{"since=yesterday": "since", "status=lost": "status", "typ=x": "typ", "id=" + strings.Repeat("x", 1025): "id"} {
		if p := n.get("/v1/deliveries?"+query).problem(422, "invalid"); p.Field != field {
			t.Errorf("%s: %+v", query, p)
		}
	}
}

func TestManyAreReplayedByPlan(t *testing.T) {
	n := newReplayingNode(t)
	for i := range 20 {
		n.take(eventstore.Entry{ID: fmt.Sprintf("d%d", i), Source: "github", Type: "github.push", Stream: domain.Stream(fmt.Sprintf("github/r%d", i%3)), Body: []byte("{}")})
	}
	plan := `{"filter":{"source":"github","id":"d1"},"dry_run":true,"reason":"it was lost","by":"ann","rate":1000}`
	var p, same replayView
	r := n.post("/v1/replays", plan, "Idempotency-Key: plan").is(201)
	r.into(&p)
	if p.State != replays.Planned || p.Planned.Count != 11 || p.Left != 11 || p.Rate != 1000 || p.Most != replays.DefaultMost || r.header.Get("Location") != "/v1/replays/"+p.ID {
		t.Errorf("%+v", p)
	}
	n.post("/v1/replays", plan, "Idempotency-Key: plan").is(201).into(&same)
	if same.ID != p.ID {
		t.Error("the same plan was made twice")
	}
	n.post("/v1/replays", strings.Replace(plan, "d1", "d2", 1), "Idempotency-Key: plan").problem(422, "idempotency-key-reused")
	n.post("/v1/replays/"+p.ID+"/start", "").is(200).into(&p)
	until(t, func() bool { n.get("/v1/replays/" + p.ID).is(200).into(&p); return p.State == replays.Done })
	until(t, func() bool { n.settle(); return len(n.ids(p.Results+"&limit=4")) == 11 })
	if p.Replayed != 11 || p.Left != 0 {
		t.Errorf("%+v", p)
	}
	n.post("/v1/replays/"+p.ID+"/cancel", "").problem(409, "replay-ended")
	n.post("/v1/replays/"+p.ID+"/start", "").problem(409, "replay-ended")

	// At once, and slow enough to be in the way of another one.
	var slow replayView
	n.post("/v1/replays", `{"filter":{"source":"github"},"reason":"again","by":"ann","rate":1}`).is(201).into(&slow)
	if slow.State != replays.Running || slow.Planned.Count != 20 || slow.Planned.Replays != 11 || slow.ETA == 0 {
		t.Errorf("%+v", slow)
	}
	n.post("/v1/replays", `{"filter":{"source":"github"},"reason":"again","by":"ann"}`).problem(409, "replay-running")
	n.post("/v1/replays/"+slow.ID+"/cancel", "").is(200).into(&slow)
	if slow.State != replays.Cancelled {
		t.Errorf("%+v", slow)
	}
	var list page[replayView]
	if n.get("/v1/replays").is(200).into(&list); len(list.Items) != 3 || list.Items[2].ID != p.ID || strings.Contains(string(n.get("/v1/replays").body), "through") {
		t.Errorf("%+v", list)
	}
	for body, field := range map[string]string{
		`{"reason":"x","by":"ann"}`:                                         "filter",
		`{"filter":{},"reason":"x","by":"ann"}`:                             "filter",
		`{"filter":{"status":"parked"},"reason":"x","by":"ann"}`:            "filter.status",
		`{"filter":{"sorce":"x"},"reason":"x","by":"ann"}`:                  "filter.sorce",
		`{"filter":{"source":"github"},"by":"ann"}`:                         "reason",
		`{"filter":{"source":"github"},"reason":"x","by":"ann","max":1}`:    "max",
		`{"filter":{"source":"github"},"reason":"x","by":"ann","rate":9e9}`: "rate",
	} {
		if p := n.post("/v1/replays", body).problem(422, "invalid"); p.Field != field {
			t.Errorf("%s: %+v", body, p)
		}
	}
	n.get("/v1/replays/nobody").problem(404, "not-found")
	n.do("POST", "/v1/replays", plan).problem(415, "unsupported-media-type")
}

func TestANodeWithoutReplaysSaysSo(t *testing.T) {
	n := newNode(t, true)
	n.deliver("github", "d", "github.push")
	n.settle()
	n.get("/v1/deliveries/github/d/request").problem(404, "not-found")
	n.post("/v1/deliveries/github/d/replay", whyAnn).problem(404, "not-found")
	n.get("/v1/replays").problem(404, "not-found")
}
