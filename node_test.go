package penstock_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestNode takes a node through what its users do with it, in process and over HTTP.
func TestNode(t *testing.T) {
	n := startNode(t, nodeConfig(t))

	t.Run("a delivery takes effect once", func(t *testing.T) {
		charge := ingress.Facts{ID: "evt_once", Customer: "cus_1", Charge: "ch_1", Amount: 1200}
		for range 3 {
			if a := n.deliver(t, "stripe.charge.succeeded", charge); a.status != 202 {
				t.Fatalf("delivery: %s", a)
			}
		}
		var d projections.Delivery
		eventstoretest.Until(t, "the delivery log has counted the two repeats", func() bool {
			a := n.get(t, "/v1/deliveries/stripe/evt_once")
			return a.status == 200 && a.into(t, &d) && d.Repeats == 2
		})
		if d.Status != domain.Accepted || d.Type != "stripe.charge.succeeded" || len(d.Events) != 1 || d.Verification != "stripe; timestamp+body" {
			t.Errorf("delivery log: %+v", d)
		}
		var page struct{ Items []cloudEvent }
		eventstoretest.Until(t, "the charge is captured and linked", func() bool {
			return n.get(t, "/v1/events?limit=1000").into(t, &page) && len(page.Items) == 3
		})
		var types []string
		for _, e := range page.Items {
			types = append(types, e.Type)
			if e.CorrelationID != "evt_once" {
				t.Errorf("%s has correlation %q", e.Type, e.CorrelationID)
			}
		}
		slices.Sort(types)
		if want := []string{"billing.charge.captured", "charge.linked", "stripe.charge.succeeded"}; !slices.Equal(types, want) {
			t.Errorf("events %q, want %q", types, want)
		}
		n.wantBalance(t, "cus_1", "", 1200)
		var list struct{ Items []projections.Delivery }
		if n.get(t, "/v1/deliveries?source=stripe").into(t, &list); len(list.Items) != 1 || list.Items[0].ID != "evt_once" {
			t.Errorf("delivery log: %+v", list.Items)
		}
	})

	t.Run("a wrong signature leaves nothing behind", func(t *testing.T) {
		before := n.ends(t)
		d, err := ingress.Sample("stripe.charge.succeeded", ingress.Facts{ID: "evt_forged"})
		if err != nil {
			t.Fatal(err)
		}
		forged, err := d.Request(t.Context(), n.URL(), "stripe", ingress.Secret("not the secret"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if a := do(t, forged); a.status != 401 || a.problem(t).Type != "/problems/bad-signature" {
			t.Errorf("forged: %s", a)
		}
		tampered, err := d.Request(t.Context(), n.URL(), "stripe", ingress.Secret(penstock.DevelopmentSecret), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		tampered.Body = io.NopCloser(bytes.NewReader(bytes.Replace(d.Body, []byte("4200"), []byte("9200"), 1)))
		if a := do(t, tampered); a.status != 401 {
			t.Errorf("tampered: %s", a)
		}
		old, err := d.Request(t.Context(), n.URL(), "stripe", ingress.Secret(penstock.DevelopmentSecret), time.Now().Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if a := do(t, old); a.status != 401 {
			t.Errorf("replayed after an hour: %s", a)
		}
		if after := n.ends(t); after != before {
			t.Errorf("the topics' ends moved from %s to %s", before, after)
		}
	})

	t.Run("commands", func(t *testing.T) {
		grant := `{"customer":"cus_2","amount":500,"currency":"eur"}`
		first := n.command(t, "GrantCredit", grant, "Idempotency-Key", "grant-1")
		var r commandResult
		if first.into(t, &r); first.status != 200 || r.ID != "grant-1" || r.Version != 1 || len(r.Events) != 1 || first.header.Get("ETag") != `"1"` {
			t.Fatalf("first: %s", first)
		}
		n.wantBalance(t, "cus_2", r.Position, 500) // reads its own write
		again := n.command(t, "GrantCredit", grant, "Idempotency-Key", "grant-1")
		var r2 commandResult
		if again.into(t, &r2); again.status != 200 || r2.Version != 1 || !slices.Equal(r2.Events, r.Events) || again.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("the same key again: %s", again)
		}
		if a := n.command(t, "GrantCredit", strings.Replace(grant, "500", "600", 1), "Idempotency-Key", "grant-1"); a.status != 422 ||
			a.problem(t).Type != "/problems/idempotency-key-reused" {
			t.Errorf("the same key for another command: %s", a)
		}
		if a := n.command(t, "GrantCredit", grant, "If-Match", `"7"`); a.status != 412 || a.problem(t).Actual == nil || *a.problem(t).Actual != 1 {
			t.Errorf("at a version that isn't: %s", a)
		}
		if a := n.command(t, "SuspendAccount", `{"customer":"cus_2"}`, "If-Match", `"1"`); a.status != 200 {
			t.Errorf("at the version that is: %s", a)
		}
		for range 2 { // a refusal is repeated too
			a := n.command(t, "GrantCredit", grant, "Idempotency-Key", "grant-2")
			if p := a.problem(t); a.status != 409 || p.Type != "/problems/rejected" || p.Rule != "account-suspended" || p.ID != "grant-2" {
				t.Errorf("to a suspended account: %s", a)
			}
		}
		if a := n.command(t, "GrantCredit", `{"customer":"cus_2","amount":-1,"currency":"eur"}`); a.status != 422 || a.problem(t).Field != "amount" {
			t.Errorf("a negative amount: %s", a)
		}
		if a := n.command(t, "Grant", grant); a.status != 404 {
			t.Errorf("an unknown type: %s", a)
		}
		var st struct{ Status, Rule string }
		eventstoretest.Until(t, "the refusal can be asked for", func() bool {
			a := n.get(t, "/v1/commands/grant-2")
			return a.status == 200 && a.into(t, &st)
		})
		if st.Status != "rejected" || st.Rule != "account-suspended" {
			t.Errorf("/v1/commands/grant-2: %+v", st)
		}
		var head struct {
			Version uint64
			Last    string `json:"last_type"`
		}
		if n.get(t, "/v1/streams/billing/cus_2").into(t, &head); head.Version != 2 || head.Last != "billing.account.suspended" {
			t.Errorf("stream: %+v", head)
		}
		var page struct{ Items []cloudEvent }
		if n.get(t, "/v1/streams/billing/cus_2?events=true").into(t, &page); len(page.Items) != 2 || page.Items[0].ID != r.Events[0].ID ||
			page.Items[0].StreamVersion != 1 || page.Items[1].StreamVersion != 2 || page.Items[0].CausationID != "grant-1" {
			t.Errorf("its events: %+v", page.Items)
		}
		if a := n.get(t, "/v1/streams/billing/cus_nobody"); a.status != 404 {
			t.Errorf("a stream without events: %s", a)
		}
	})

	t.Run("a row has an ETag", func(t *testing.T) {
		a := n.get(t, "/v1/projections/balances/rows/cus_1")
		if b := n.get(t, "/v1/projections/balances/rows/cus_1", "If-None-Match", a.header.Get("ETag")); b.status != 304 || len(b.body) != 0 {
			t.Errorf("unchanged: %s", b)
		}
		if a := n.get(t, "/v1/projections/balances/rows/cus_nobody"); a.status != 404 {
			t.Errorf("no such row: %s", a)
		}
	})
}

// TestFeedAcrossRestart follows /v1/events with a client that hangs up now and then and whose node is replaced under
// it: it gets every event once, and those of a stream in order.
func TestFeedAcrossRestart(t *testing.T) {
	cfg := nodeConfig(t)
	n := startNode(t, cfg)
	f := follow(t, n.URL()+"/v1/events?from=earliest", 7)
	steady := follow(t, n.URL()+"/v1/events?from=earliest", 0)
	want := 0
	send := func(round int) {
		for i := range 20 {
			id := fmt.Sprintf("%d-%d", round, i)
			facts := ingress.Facts{ID: id, Customer: fmt.Sprintf("cus_%d", i%3), Charge: "ch_" + id, Number: int64(i % 2), Text: "two\nlines"}
			kind, events := "stripe.charge.succeeded", 3
			switch i % 5 {
			case 3:
				kind, events = "github.pull_request.opened", 1
			case 4:
				kind, events = "slack.message", 1
			}
			for range 1 + i%2 { // every other one comes twice
				if a := n.deliver(t, kind, facts); a.status/100 != 2 {
					t.Fatalf("delivery %s: %s", id, a)
				}
			}
			want += events
		}
	}
	send(1)
	eventstoretest.Until(t, "some events have come", func() bool { return len(f.got()) > 10 && len(steady.got()) > 10 })
	n.stop(t)
	eventstoretest.Until(t, "the client is told that the node stops", func() bool {
		return slices.Contains(steady.announcements(), "penstock.closing")
	})
	n = startNode(t, cfg)
	send(2)
	f.moveTo(n.URL() + "/v1/events?from=latest") // its Last-Event-ID wins
	steady.moveTo(n.URL() + "/v1/events?from=latest")
	send(3)

	var records []*kgo.Record
	eventstoretest.Until(t, "the log has all events", func() bool {
		records = readTopic(t, n.Brokers(), cfg.Kafka.Prefix+".events")
		return len(records) >= want
	})
	if len(records) != want {
		t.Errorf("%d events in the log, want %d", len(records), want)
	}
	for _, f := range []*feed{f, steady} {
		eventstoretest.Until(t, "the feed has all events", func() bool { return len(f.got()) >= len(records) })
		seen, versions := map[string]int{}, map[string]uint64{}
		for _, m := range f.got() {
			var e cloudEvent
			if err := json.Unmarshal([]byte(m.data), &e); err != nil {
				t.Fatalf("%q: %v", m.data, err)
			}
			seen[e.ID]++
			if versions[e.Subject]++; e.StreamVersion != versions[e.Subject] {
				t.Errorf("%s: version %d came at place %d", e.Subject, e.StreamVersion, versions[e.Subject])
			}
		}
		for _, r := range records {
			if id := header(r, "ce_id"); seen[id] != 1 {
				t.Errorf("event %s came %d times", id, seen[id])
			}
			delete(seen, header(r, "ce_id"))
		}
		for id := range seen {
			t.Errorf("event %s came and is not in the log", id)
		}
	}
	if f.connections() < 10 || steady.connections() < 2 {
		t.Errorf("%d and %d connections: the test did not test", f.connections(), steady.connections())
	}
}

// TestChangesFeed follows the rows of a projection.
func TestChangesFeed(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	at := n.get(t, "/v1/projections/balances/rows").header.Get("Penstock-Position")
	n.command(t, "GrantCredit", `{"customer":"cus_1","amount":5,"currency":"eur"}`)
	f := follow(t, n.URL()+"/v1/projections/balances/changes?cursor="+at, 0)
	n.command(t, "GrantCredit", `{"customer":"cus_1","amount":6,"currency":"eur"}`)
	eventstoretest.Until(t, "the row of 11 cents has come", func() bool {
		got := f.got()
		return len(got) > 0 && strings.Contains(got[len(got)-1].data, `"balance":11,`)
	})
	for _, m := range f.got() {
		var c struct{ Op, Key string }
		if err := json.Unmarshal([]byte(m.data), &c); err != nil || c.Op != "upsert" || c.Key != "cus_1" {
			t.Errorf("change %s: %v", m.data, err)
		}
	}
}

// TestOtherTeamReadsEvents has a Kafka client of another language read the events as read_committed, and compares with
// what went in.
func TestOtherTeamReadsEvents(t *testing.T) {
	python, err := exec.CommandContext(t.Context(), "deploy/kafka/kafka", "python").Output()
	if err != nil {
		why, _ := errors.AsType[*exec.ExitError](err)
		if why == nil || why.ExitCode() != 3 || os.Getenv("CI") == "true" {
			t.Fatalf("kafka python: %v: %s", err, stderrOf(why))
		}
		t.Skipf("no client of another language: %s", bytes.TrimSpace(why.Stderr))
	}
	cfg := nodeConfig(t)
	n := startNode(t, cfg)
	topic := cfg.Kafka.Prefix + ".events"
	deliveries := map[string]int{} // and how often each stands in events
	for i := range 30 {
		id := fmt.Sprintf("d-%d", i)
		kind := []string{"stripe.charge.succeeded", "github.issues.opened", "standard.invoice.paid"}[i%3]
		facts := ingress.Facts{ID: id, Customer: fmt.Sprintf("cus_%d", i%4), Charge: "ch_" + id, Number: int64(i), Repository: "octo/héllo"}
		for range 1 + i%2 {
			if a := n.deliver(t, kind, facts); a.status != 202 {
				t.Fatalf("delivery %s: %s", id, a)
			}
		}
		deliveries[id] = 0
	}
	commands := map[string]int{}
	for i := range 10 {
		id := fmt.Sprintf("c-%d", i)
		if a := n.command(t, "GrantCredit", fmt.Sprintf(`{"customer":"cus_%d","amount":1,"currency":"eur"}`, i%4), "Idempotency-Key", id); a.status != 200 {
			t.Fatalf("command %s: %s", id, a)
		}
		commands[id] = 0
	}
	const want = 30 + 2*10 + 10
	var mine []*kgo.Record
	eventstoretest.Until(t, "everything has taken effect", func() bool {
		mine = readTopic(t, n.Brokers(), topic)
		return len(mine) >= want
	})
	// What was aborted is there for those who don't ask for committed records alone.
	abortedRecord(t, n.Brokers(), topic, mine[0].Partition)

	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	reader := exec.CommandContext(ctx, string(bytes.TrimSpace(python)), "deploy/kafka/reader.py", strings.Join(n.Brokers(), ","), topic)
	out, err := reader.Output()
	if err != nil {
		why, _ := errors.AsType[*exec.ExitError](err)
		t.Fatalf("reader.py: %v: %s", err, stderrOf(why))
	}
	type line struct {
		Partition  int32
		Offset     int64
		Key, Value string
		Headers    map[string]string
	}
	theirs := map[string]line{} // by partition and offset
	ids, versions := map[string]bool{}, map[string]uint64{}
	for b := range bytes.Lines(out) {
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		theirs[fmt.Sprintf("%d/%d", l.Partition, l.Offset)] = l
		h := l.Headers
		if ids[h["ce_id"]] {
			t.Errorf("event %s stands twice", h["ce_id"])
		}
		ids[h["ce_id"]] = true
		for _, name := range []string{"ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "content-type",
			"ce_streamversion", "ce_correlationid", "ce_causationid"} {
			if h[name] == "" {
				t.Errorf("event %s has no %s", h["ce_id"], name)
			}
		}
		if _, err := time.Parse(time.RFC3339Nano, h["ce_time"]); err != nil || h["ce_specversion"] != "1.0" {
			t.Errorf("event %s: ce_time %q, ce_specversion %q", h["ce_id"], h["ce_time"], h["ce_specversion"])
		}
		if l.Key != h["ce_subject"] {
			t.Errorf("event %s of %s has key %q", h["ce_id"], h["ce_subject"], l.Key)
		}
		if p := javaPartition(l.Key, cfg.Kafka.Partitions); l.Partition != p {
			t.Errorf("key %q is in partition %d, Java's partitioner says %d", l.Key, l.Partition, p)
		}
		if versions[l.Key]++; h["ce_streamversion"] != strconv.FormatUint(versions[l.Key], 10) {
			t.Errorf("%s: version %s at place %d", l.Key, h["ce_streamversion"], versions[l.Key])
		}
		if strings.HasPrefix(h["ce_source"], "/sources/") {
			deliveries[h["ce_deliveryid"]]++
			if h["ce_verification"] == "" {
				t.Errorf("event %s came from outside and has no ce_verification", h["ce_id"])
			}
		} else if h["ce_type"] == "billing.credit.granted" {
			commands[h["ce_causationid"]]++
		}
	}
	for _, counts := range []map[string]int{deliveries, commands} {
		for id, n := range counts {
			if n != 1 {
				t.Errorf("%s took effect %d times", id, n)
			}
		}
	}
	if len(theirs) != len(mine) || len(mine) != want {
		t.Errorf("they have read %d events, we %d, and there should be %d", len(theirs), len(mine), want)
	}
	for _, r := range mine {
		l := theirs[fmt.Sprintf("%d/%d", r.Partition, r.Offset)]
		if l.Value != string(r.Value) || len(l.Headers) != len(r.Headers) || l.Headers["ce_id"] != header(r, "ce_id") {
			t.Errorf("record %d/%d is %q to us and %q to them", r.Partition, r.Offset, r.Value, l.Value)
		}
	}
}

// TestJavaPartition has two of the hashes in Kafka's own UtilsTest.
func TestJavaPartition(t *testing.T) {
	for key, want := range map[string]int32{"21": -973932308, "foobar": -790332482} {
		if got := murmur2([]byte(key)); got != want {
			t.Errorf("murmur2(%q) is %d, want %d", key, got, want)
		}
	}
}
