package penstock_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/domain/billing"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/projections/balances"
	"github.com/twmb/franz-go/pkg/kadm"
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

// billingApp is the business of cmd/penstock.
func billingApp() penstock.App {
	return penstock.App{
		Types:       billing.Types,
		Deciders:    []domain.AnyDecider{billing.Account, billing.Charge},
		Policies:    []domain.Policy{billing.FromStripe, billing.Disputes},
		Projections: []projections.Projection{balances.New()},
	}
}

// testBrokers are the real ones to test against, if any.
func testBrokers() []string {
	if b := os.Getenv("PENSTOCK_TEST_BROKERS"); b != "" {
		return strings.Split(b, ",")
	}
	return nil
}

// nodeConfig is the development configuration on free ports, in folders and topics of this test alone.
func nodeConfig(t *testing.T) penstock.Config {
	cfg := penstock.DevelopmentConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", t.TempDir()
	cfg.Kafka = penstock.KafkaConfig{
		Brokers: testBrokers(), Embedded: "127.0.0.1:0", Prefix: eventstoretest.Prefix(), Partitions: 4, Replication: 1,
	}
	return cfg
}

// node is a node in this process.
type node struct {
	*penstock.Node
	cancel context.CancelFunc
	done   chan error
}

// startNode runs a node until the test ends, or stop is called, and waits until it is ready.
func startNode(t *testing.T, cfg penstock.Config) *node {
	t.Helper()
	inner, err := penstock.NewNode(cfg, billingApp(), eventstoretest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{inner, cancel, make(chan error, 1)}
	go func() { n.done <- inner.Run(ctx) }()
	t.Cleanup(func() { n.stop(t) })
	select {
	case <-inner.Started():
	case err := <-n.done:
		n.done <- nil
		t.Fatalf("the node doesn't start: %v", err)
	}
	eventstoretest.Until(t, "the node is ready", func() bool { return n.get(t, "/readyz").status == 200 })
	return n
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	n.cancel()
	select {
	case err := <-n.done:
		if err != nil {
			t.Errorf("the node ends with: %v", err)
		}
		n.done <- nil // for those who stop it again
	case <-time.After(30 * time.Second):
		t.Error("the node doesn't stop")
	}
}

// deliver sends a signed sample to the source called like its provider.
func (n *node) deliver(t *testing.T, kind string, f ingress.Facts) answer {
	t.Helper()
	d, err := ingress.Sample(kind, f)
	if err != nil {
		t.Fatal(err)
	}
	secret := ingress.Secret(penstock.DevelopmentSecret)
	if d.Provider.Name == "standard" {
		secret = ingress.Secret(penstock.DevelopmentWhsec)
	}
	r, err := d.Request(t.Context(), n.URL(), d.Provider.Name, secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r)
}

func (n *node) command(t *testing.T, name, body string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+"/v1/commands/"+name, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	// A new node may have to wait for its predecessor's session to expire.
	return do(t, r, append(headers, "Content-Type", "application/json", "Prefer", "wait=30")...)
}

func (n *node) get(t *testing.T, path string, headers ...string) answer {
	t.Helper()
	return get(t, n.URL()+path, headers...)
}

func (n *node) wantBalance(t *testing.T, customer, after string, want int64) {
	t.Helper()
	var row balanceRow
	if a := n.get(t, "/v1/projections/balances/rows/"+customer+"?after="+after); after != "" {
		if a.into(t, &row); row.Balances["eur"].Balance != want {
			t.Errorf("balance of %s is %s, want %d", customer, a, want)
		}
		return
	}
	eventstoretest.Until(t, fmt.Sprintf("%s has a balance of %d", customer, want), func() bool {
		a := n.get(t, "/v1/projections/balances/rows/"+customer)
		return a.status == 200 && a.into(t, &row) && row.Balances["eur"].Balance == want
	})
}

// ends are the ends of all topics, as text to compare.
func (n *node) ends(t *testing.T) string {
	t.Helper()
	var st struct {
		Kafka struct {
			Topics []struct {
				Name string
				End  []int64
			}
		}
	}
	n.get(t, "/v1/status").into(t, &st)
	if len(st.Kafka.Topics) != 4 {
		t.Fatalf("status has %d topics", len(st.Kafka.Topics))
	}
	return fmt.Sprint(st.Kafka.Topics)
}

// What the tests read of the answers.
type (
	cloudEvent struct {
		ID            string
		Type          string
		Source        string
		Subject       string
		StreamVersion uint64
		CorrelationID string
		CausationID   string
		DeliveryID    string
	}
	eventRef struct {
		ID      string
		Type    string
		Version uint64
	}
	commandResult struct {
		ID       string
		Version  uint64
		Events   []eventRef
		Position string
	}
	problemDoc struct {
		Type   string
		Status int
		Detail string
		Rule   string
		Field  string
		ID     string
		Actual *uint64
	}
	balanceRow struct {
		Customer string
		Status   string
		Balances map[string]currencyRow
		Charges  int64
		Version  uint64
	}
	currencyRow struct {
		Balance  int64
		Credit   int64
		Captured int64
		Refunded int64
		Pending  int64 `json:"pending_refunds"`
		Disputed int64
	}
)

// answer is a response, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

func (a answer) into(t *testing.T, v any) bool {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	return true
}

// problem reads a problem document, and fails if the answer isn't one.
func (a answer) problem(t *testing.T) (p problemDoc) {
	t.Helper()
	if a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("not a problem document: %s", a)
	}
	if a.into(t, &p); p.Status != a.status {
		t.Errorf("the problem document of %s has another status", a)
	}
	return p
}

func get(t *testing.T, url string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r, headers...)
}

var client = &http.Client{Timeout: 40 * time.Second}

func do(t *testing.T, r *http.Request, headers ...string) answer {
	t.Helper()
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.Host = r.Header.Get("Host") // empty: that of the URL
	a, err := exchange(client, r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func exchange(c *http.Client, r *http.Request) (answer, error) {
	resp, err := c.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return answer{resp.StatusCode, resp.Header, b}, err
}

// feed is a client of Server-Sent Events that comes back like a browser's, with the last id that it has seen.
type feed struct {
	mu     sync.Mutex
	url    string
	lastID string
	events []message // without a name of their own
	named  []string
	opened int
}

type message struct{ id, data string }

// follow follows url until the test ends. After every hangUp events, if not 0, it leaves and comes back.
func follow(t *testing.T, url string, hangUp int) *feed {
	f := &feed{url: url}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			f.connect(ctx, hangUp) // however it ends: what is missing comes with the next one
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

// connect follows one connection to its end. Like a browser it takes over an id with the empty line that ends a block.
func (f *feed) connect(ctx context.Context, hangUp int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		panic(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if f.lastID != "" {
		r.Header.Set("Last-Event-ID", f.lastID)
	}
	f.mu.Unlock()
	resp, err := (&http.Client{}).Do(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return
	}
	f.mu.Lock()
	f.opened++
	f.mu.Unlock()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	var id, event string
	var data []string
	for count := 0; lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			f.mu.Lock()
			if id != "" {
				f.lastID = id
			}
			if event != "" {
				f.named = append(f.named, event)
			} else if data != nil {
				f.events = append(f.events, message{id, strings.Join(data, "\n")})
				count++
			}
			f.mu.Unlock()
			id, event, data = "", "", nil
			if hangUp > 0 && count >= hangUp {
				return
			}
		case name == "id":
			id = value
		case name == "event":
			event = value
		case name == "data":
			data = append(data, value)
		}
	}
}

func (f *feed) got() []message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

func (f *feed) announcements() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.named)
}

func (f *feed) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened
}

// moveTo has the next connection go to another node.
func (f *feed) moveTo(url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.url = url
}

// readTopic reads what is committed of a topic from its beginning to its last stable offsets, partition by partition in
// their order.
func readTopic(t *testing.T, brokers []string, topic string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	left, from := map[int32]int64{}, map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition], from[o.Partition] = o.Offset, kgo.NewOffset().AtStart()
		}
	})
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	var records []*kgo.Record
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s, with %v still to come: %v", topic, left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, ok := left[r.Partition]
			if ok && !r.Attrs.IsControl() {
				records = append(records, r)
			}
			if ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	slices.SortFunc(records, func(a, b *kgo.Record) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return records
}

// abortedRecord leaves a record of an aborted transaction behind.
func abortedRecord(t *testing.T, brokers []string, topic string, partition int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(eventstoretest.Prefix()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: partition, Value: []byte("never happened")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func stderrOf(e *exec.ExitError) []byte {
	if e == nil {
		return nil
	}
	return bytes.TrimSpace(e.Stderr)
}

// javaPartition is where the default partitioner of Kafka's Java client puts a key.
func javaPartition(key string, partitions int32) int32 {
	return (murmur2([]byte(key)) & 0x7fffffff) % partitions
}

// murmur2 is org.apache.kafka.common.utils.Utils.murmur2.
func murmur2(data []byte) int32 {
	const m, shift = uint32(0x5bd1e995), 24
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> shift
		h = h*m ^ k*m
	}
	for i := len(data) - 1; i >= 0; i-- {
		h ^= uint32(data[i]) << (8 * i)
	}
	if len(data) > 0 {
		h *= m
	}
	h ^= h >> 13
	h *= m
	return int32(h ^ h>>15)
}
