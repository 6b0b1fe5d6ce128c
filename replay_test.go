package penstock_test

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// deliveryPage is what the tests read of the delivery log.
type deliveryPage struct {
	Items []struct {
		Source, ID, Type, Stream, Status, Verification string
		Processing                                     float64 `json:"processing_ms"`
		Events                                         []eventRef
		Replay                                         *struct{ Of, By, Reason string }
		Replays                                        int
	}
	Next string
}

func (n *node) deliveries(t *testing.T, query string) (p deliveryPage) {
	t.Helper()
	n.get(t, "/v1/deliveries?limit=1000&"+query).into(t, &p)
	return p
}

// TestAWebhookIsReplayedFromTheCommandLine has a customer's charges handled once more: the events say so, and the
// account, which knows the charges by their ids, books nothing twice.
func TestAWebhookIsReplayedFromTheCommandLine(t *testing.T) {
	cfg := nodeConfig(t)
	n := startNode(t, cfg)
	replay := func(args ...string) said {
		t.Helper()
		return command(t, append([]string{"replay", "--url", n.URL()}, args...)...)
	}
	for i := range 5 {
		f := ingress.Facts{ID: fmt.Sprintf("evt_%d", i), Customer: "cus_1", Charge: fmt.Sprintf("ch_%d", i), Amount: 100}
		if a := n.deliver(t, "stripe.charge.succeeded", f); a.status != 202 {
			t.Fatal(a)
		}
	}
	n.wantBalance(t, "cus_1", "", 500)
	eventstoretest.Until(t, "the delivery log has them", func() bool { return len(n.deliveries(t, "source=stripe").Items) == 5 })

	var request struct {
		Method, Path, Body string
		Headers            map[string]string
	}
	n.get(t, "/v1/deliveries/stripe/evt_0/request").into(t, &request)
	if request.Method != "POST" || request.Path != "/hooks/stripe" || !strings.Contains(request.Body, `"evt_0"`) || request.Headers["stripe-signature"] == "" {
		t.Errorf("%+v", request)
	}

	s := replay("one", "stripe", "evt_0", "--reason", "a test", "--by", "ann")
	if s.code != 0 || !strings.HasPrefix(s.stdout, "evt_0~replay-") || !strings.Contains(s.stdout, " accepted: 1 events, 1 commands, stripe/cus_1 is at version 6") {
		t.Errorf("%+v", s)
	}
	if s := replay("one", "stripe", "evt_9", "--reason", "a test"); s.code != 1 || !strings.Contains(s.stderr, "(not-found)") {
		t.Errorf("%+v", s)
	}
	if s := replay("one", "stripe", "evt_0"); s.code != 1 || !strings.Contains(s.stderr, `"reason"`) {
		t.Errorf("without a reason: %+v", s)
	}

	s = replay("many", "--source", "stripe", "--since", "1h", "--dry-run", "--rate", "1000", "--reason", "the shop was down", "--by", "ann")
	plan := regexp.MustCompile(`^(\w{12}) finds 5 deliveries, \d+ bytes, from \S+Z to \S+Z\n$`).FindStringSubmatch(s.stdout)
	if s.code != 0 || plan == nil {
		t.Fatalf("%+v", s)
	}
	id := plan[1]
	if s := replay("list"); !strings.Contains(s.stdout, id) || !strings.Contains(s.stdout, " planned ") || !strings.Contains(s.stdout, "the shop was down") {
		t.Errorf("%+v", s)
	}
	if s := replay("watch", id); s.code != 1 || !strings.Contains(s.stderr, "was not started") {
		t.Errorf("%+v", s)
	}
	if s := replay("start", id); s.code != 0 || !strings.HasSuffix(s.stdout, id+" done: 5 of 5 replayed\n") {
		t.Errorf("%+v", s)
	}
	if s := replay("show", id); s.code != 0 || !regexp.MustCompile(`(?s)done: 5 of 5.*by +ann.*source +stripe.*rate +1000 per second.*finished +2`).MatchString(s.stdout) {
		t.Errorf("%+v", s)
	}
	if s := replay("cancel", id); s.code != 1 || !strings.Contains(s.stderr, "(replay-ended)") {
		t.Errorf("%+v", s)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"many", "--reason", "x"}, "filter"},
		{[]string{"many", "--source", "stripe", "--since", "yesterday", "--reason", "x"}, "--since"},
		{[]string{"many", "--source", "stripe", "--since", "-2h", "--reason", "x"}, "--since"},
		{[]string{"many", "--source", "stripe", "--max", "2", "--reason", "x"}, "more than 2 deliveries"},
		{[]string{"show", "nobody"}, "(not-found)"},
	} {
		if s := replay(c.args...); s.code != 1 || !strings.Contains(s.stderr, c.want) {
			t.Errorf("%q: %+v", c.args, s)
		}
	}

	eventstoretest.Until(t, "all replays are in the delivery log", func() bool { return len(n.deliveries(t, "replay="+id).Items) == 5 })
	for _, d := range n.deliveries(t, "source=stripe").Items {
		if d.Status != "accepted" || len(d.Events) != 1 || d.Processing < 0 || d.Verification == "" {
			t.Errorf("%+v", d)
		}
		if original, ok := strings.CutSuffix(d.ID, "~replay-"+id); ok && (d.Replay == nil || d.Replay.Of != original || d.Replay.By != "ann" || d.Replay.Reason != "the shop was down") {
			t.Errorf("%+v", d)
		}
		if want := map[string]int{"evt_0": 2, "evt_1": 1}[d.ID]; want > 0 && d.Replays != want {
			t.Errorf("%s was replayed %d times, want %d", d.ID, d.Replays, want)
		}
	}
	// In the topic, where other teams read, the replays say whose they are.
	var replayed []string
	for _, r := range readTopic(t, n.Brokers(), cfg.Kafka.Prefix+".events") {
		if of := header(r, "ce_replayof"); of != "" {
			replayed = append(replayed, of)
			if !strings.HasPrefix(header(r, "ce_deliveryid"), of+"~replay-") || header(r, "ce_subject") != "stripe/cus_1" {
				t.Errorf("%v", r.Headers)
			}
		}
	}
	if slices.Sort(replayed); !slices.Equal(replayed, []string{"evt_0", "evt_0", "evt_1", "evt_2", "evt_3", "evt_4"}) {
		t.Errorf("replays in the topic: %v", replayed)
	}
	n.wantBalance(t, "cus_1", "", 500) // the decider knew the charges
	a := n.get(t, "/v1/events?limit=1000&stream="+url.QueryEscape("stripe/cus_1"))
	if strings.Count(string(a.body), `"replayof":"evt_`) != 6 {
		t.Errorf("%s", a)
	}
}

// TestAReplayOutlivesItsNode stops the node in the middle of a replay.
func TestAReplayOutlivesItsNode(t *testing.T) {
	cfg := nodeConfig(t)
	n := startNode(t, cfg)
	for i := range 30 {
		f := ingress.Facts{ID: fmt.Sprintf("evt_%02d", i), Customer: fmt.Sprintf("cus_%d", i%3), Charge: fmt.Sprintf("ch_%d", i), Amount: 100}
		if a := n.deliver(t, "stripe.charge.succeeded", f); a.status != 202 {
			t.Fatal(a)
		}
	}
	eventstoretest.Until(t, "the delivery log has them", func() bool { return len(n.deliveries(t, "source=stripe").Items) == 30 })
	s := command(t, "replay", "many", "--url", n.URL(), "--id", "evt_", "--rate", "20", "--detach", "--reason", "a test")
	id, _, _ := strings.Cut(s.stdout, " ")
	if s.code != 0 || len(id) != 12 {
		t.Fatalf("%+v", s)
	}
	eventstoretest.Until(t, "some are replayed", func() bool { return len(n.deliveries(t, "replay="+id).Items) >= 5 })
	n.stop(t)

	n = startNode(t, cfg)
	if s := command(t, "replay", "watch", "--url", n.URL(), id); s.code != 1 || !strings.Contains(s.stdout, "interrupted: ") || !strings.Contains(s.stderr, "replay start "+id) {
		t.Errorf("%+v", s)
	}
	if s := command(t, "replay", "start", "--url", n.URL(), id); s.code != 0 || !strings.HasSuffix(s.stdout, "done: 30 of 30 replayed\n") {
		t.Errorf("%+v", s)
	}
	eventstoretest.Until(t, "all replays are in the delivery log", func() bool { return len(n.deliveries(t, "replay="+id).Items) == 30 })
	for _, stream := range []string{"cus_0", "cus_1", "cus_2"} {
		var row struct{ Version int }
		if n.get(t, "/v1/streams/stripe/"+stream).into(t, &row); row.Version != 20 {
			t.Errorf("%s is at version %d, want 20: each delivery, and each replay once", stream, row.Version)
		}
	}
}

// TestDeliveryMetrics looks at what operators alert on.
func TestDeliveryMetrics(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	has := func(line string) func() bool {
		return func() bool { return strings.Contains(string(n.get(t, "/metrics").body), "\n"+line+"\n") }
	}
	for _, line := range []string{`webhook_dlq_depth{source="stripe"} 0`, `webhook_retry_count{attempt="5+",source="slack"} 0`} {
		if !has(line)() {
			t.Errorf("%s is missing", line)
		}
	}
	f := ingress.Facts{ID: "evt_1", Customer: "cus_1", Charge: "ch_1", Amount: 100}
	for range 3 {
		n.deliver(t, "stripe.charge.succeeded", f)
	}
	eventstoretest.Until(t, "two retries are counted", func() bool {
		return has(`webhook_retry_count{attempt="2",source="stripe"} 1`)() && has(`webhook_retry_count{attempt="3",source="stripe"} 1`)()
	})
	// A provider that says so itself needs no first delivery: that one may have got a 503.
	late, err := ingress.Sample("slack.message", ingress.Facts{ID: "Ev1"})
	if err != nil {
		t.Fatal(err)
	}
	retry, err := late.Request(t.Context(), n.URL(), "slack", ingress.Secret(penstock.DevelopmentSecret), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, retry, "X-Slack-Retry-Num", "2"); a.status/100 != 2 {
		t.Fatal(a)
	}
	eventstoretest.Until(t, "its third try is counted", has(`webhook_retry_count{attempt="3",source="slack"} 1`))
	d, err := ingress.Sample("stripe.charge.succeeded", ingress.Facts{ID: "evt_2", Customer: "cus_2", Charge: "ch_2", Amount: 4200})
	if err != nil {
		t.Fatal(err)
	}
	d.Body = regexp.MustCompile(`"amount": ?4200`).ReplaceAll(d.Body, []byte(`"amount":"a lot"`))
	r, err := d.Request(t.Context(), n.URL(), "stripe", ingress.Secret(penstock.DevelopmentSecret), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, r); a.status != 202 {
		t.Fatal(a)
	}
	eventstoretest.Until(t, "one is parked", has(`webhook_dlq_depth{source="stripe"} 1`))
	var parked struct{ Items []struct{ ID string } }
	n.get(t, "/v1/parked").into(t, &parked)
	if s := command(t, "parked", "discard", "--url", n.URL(), parked.Items[0].ID, "--note", "a test"); s.code != 0 {
		t.Errorf("%+v", s)
	}
	eventstoretest.Until(t, "none is parked", has(`webhook_dlq_depth{source="stripe"} 0`))
}

func TestTheDeliveryLogsBoundsAreChecked(t *testing.T) {
	cfg := nodeConfig(t)
	cfg.Deliveries = penstock.DeliveriesConfig{Keep: time.Minute, Max: 10}
	err := cfg.Check()
	for _, want := range []string{"deliveries.keep: between 1h and 87600h, not 1m0s", "deliveries.max: between a thousand and a billion, not 10"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v doesn't say %q", err, want)
		}
	}
}
