package penstock_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
)

// batchEvent is an event with its payload, as /v1/events has it.
type batchEvent struct {
	ID, Type, Subject          string
	StreamVersion              uint64
	CorrelationID, CausationID string
	DeliveryID, Verification   string
	Data                       json.RawMessage
	DataBase64                 []byte `json:"data_base64"`
}

// batchNode is a node with sources of providers that send batches.
type batchNode struct {
	*node
	t       *testing.T
	secrets map[string]ingress.Secret
}

func startBatchNode(t *testing.T, change func(*penstock.Config)) *batchNode {
	t.Helper()
	b := &batchNode{t: t, secrets: map[string]ingress.Secret{"meta": ingress.Secret("a secret of batches"), "okta": ingress.Secret("another secret of batches")}}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err1 := x509.MarshalPKIXPublicKey(private.Public())
	secret, err2 := x509.MarshalPKCS8PrivateKey(private)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	b.secrets["sendgrid"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	cfg := nodeConfig(t)
	for name, secret := range b.secrets {
		variable := "BATCH_" + strings.ToUpper(name)
		if t.Setenv(variable, string(secret)); name == "sendgrid" {
			t.Setenv(variable, base64.StdEncoding.EncodeToString(public))
		}
		cfg.Sources[name] = penstock.SourceConfig{Provider: name, Secrets: penstock.Refs("env:" + variable)}
	}
	if change != nil {
		change(&cfg)
	}
	b.node = startNode(t, cfg)
	return b
}

// post sends a signed body, and returns the delivery's id.
func (b *batchNode) post(source, body string) (id string) {
	b.t.Helper()
	p, ok := ingress.ProviderNamed(source)
	if !ok {
		b.t.Fatalf("no provider %s", source)
	}
	d := ingress.Delivery{Provider: p, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)}
	r, err := d.Request(b.t.Context(), b.URL(), source, b.secrets[source], time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	a := do(b.t, r)
	var accepted struct{ ID, Stream string }
	if a.into(b.t, &accepted); a.status != 202 || accepted.Stream != source+"/"+accepted.ID {
		b.t.Fatalf("%s: %s", source, a)
	}
	return accepted.ID
}

// delivery waits for the row of a delivery.
func (b *batchNode) delivery(source, id string, when func(projections.Delivery) bool) (d projections.Delivery) {
	b.t.Helper()
	eventstoretest.Until(b.t, "delivery "+source+"/"+id, func() bool {
		d = projections.Delivery{}
		a := b.get(b.t, "/v1/deliveries/"+source+"/"+strings.ReplaceAll(id, "#", "%23"))
		return a.status == 200 && a.into(b.t, &d) && (when == nil || when(d))
	})
	return d
}

// events are all events of a source, in the order of the log.
func (b *batchNode) events(source string) (all []batchEvent) {
	b.t.Helper()
	var page struct{ Items []batchEvent }
	b.get(b.t, "/v1/events?limit=1000&source=/sources/"+source).into(b.t, &page)
	return page.Items
}

// TestBatches sends the batches of providers to a node, as they come and as they come again.
func TestBatches(t *testing.T) {
	b := startBatchNode(t, nil)
	items := map[string][]string{
		"meta": {
			`{"field":"messages","value":{"messages":[{"id":"wamid.1","from":"4915"}]}}`,
			`{ "field" : "messages", "value" : {"messages":[{"id":"wamid.2","from":"4915","text":"\u00e9 ] }"}]} }`,
			`{"value":{"messages":[{"id":"wamid.3","from":"4916"}]},"field":"messages"}`,
			`{"value":{"messages":[{"id":"wamid.4","from":"4915"}]},"field":"messages"}`,
		},
		"sendgrid": {
			`{"event":"processed","sg_event_id":"e1","sg_message_id":"m1"}`, "{\n  \"event\": \"delivered\",\n  \"sg_event_id\": \"e2\", \"sg_message_id\": \"m1\"\n}",
			`{"event":"click","sg_event_id":"e3","sg_message_id":"m2"}`, `{"event":"click","sg_event_id":"e4","sg_message_id":"m2"}`,
		},
		"okta": {
			`{"uuid":"u1","eventType":"user.session.start","target":[{"id":"a"}]}`, `{"uuid":"u2","eventType":"user.session.end","target":[{"id":"a"}]}`,
			`{"uuid":"u3","eventType":"user.session.start","target":[{"id":"b"}]}`, `{"uuid":"u4","eventType":"user.session.start","target":[{"id":"b"}]}`,
		},
	}
	wrap := map[string]func(items ...string) string{
		"meta": func(items ...string) string {
			return `{"object":"whatsapp_business_account","entry":[{"id":"W","changes":[` + strings.Join(items[:len(items)/2], ",") + `]},{"changes":[` +
				strings.Join(items[len(items)/2:], ", ") + `],"id":"W"}]}`
		},
		"sendgrid": func(items ...string) string { return "[\n" + strings.Join(items, ",\n") + "\n]\n" },
		"okta": func(items ...string) string {
			return `{"eventType":"com.okta.event_hook","data":{"events":[` + strings.Join(items, ",") + `]}}`
		},
	}
	ids := map[string][]string{
		"meta": {"wamid.1", "wamid.2", "wamid.3", "wamid.4"}, "sendgrid": {"e1", "e2", "e3", "e4"}, "okta": {"u1", "u2", "u3", "u4"},
	}
	for source, list := range items {
		body := wrap[source](list[:3]...)
		id := b.post(source, body)
		for i, item := range ids[source][:3] {
			d := b.delivery(source, item, nil)
			if d.Status != domain.Accepted || len(d.Events) != 1 || !strings.HasSuffix(d.Verification, "; part of "+id) || d.Size != len(list[i]) {
				t.Errorf("%s: item %s is %+v", source, item, d)
			}
		}
		if d := b.delivery(source, id, nil); d.Items != 3 || d.Type != source+".batch" || d.Size != len(body) {
			t.Errorf("%s: the batch is %+v", source, d)
		}
		// Again; then put together in another way, with a new one among the old.
		if again := b.post(source, body); again != id {
			t.Errorf("%s: the batch is %s, and %s when it comes again", source, id, again)
		}
		b.delivery(source, id, func(d projections.Delivery) bool { return d.Repeats == 1 })
		second := b.post(source, wrap[source](list[1], list[3], list[0]))
		b.delivery(source, ids[source][3], nil)
		for i, repeats := range []int{1, 1, 0, 0} {
			b.delivery(source, ids[source][i], func(d projections.Delivery) bool { return d.Repeats == repeats })
		}
		var events []batchEvent
		eventstoretest.Until(t, "all events are there", func() bool { events = b.events(source); return len(events) >= 6 })
		if len(events) != 6 {
			t.Fatalf("%s: %d events", source, len(events))
		}
		versions := map[string]uint64{}
		parents := map[string]batchEvent{}
		for _, e := range events {
			if e.Type == source+".batch" {
				parents[e.DeliveryID] = e
			}
		}
		if !bytes.Equal(parents[id].Data, []byte(body)) && !jsonEqual(t, parents[id].Data, []byte(body)) || parents[id].Subject != source+"/"+id {
			t.Errorf("%s: the batch's event is %+v", source, parents[id])
		}
		order := map[string][]string{}
		for _, e := range events {
			if versions[e.Subject]++; versions[e.Subject] != e.StreamVersion {
				t.Errorf("%s: version %d of %s at place %d", source, e.StreamVersion, e.Subject, versions[e.Subject])
			}
			if e.Type == source+".batch" {
				continue
			}
			n := slices.Index(ids[source], e.DeliveryID)
			parent := parents[id]
			if n == 3 {
				parent = parents[second]
			}
			if n < 0 || e.CausationID != parent.ID || e.CorrelationID != parent.DeliveryID || !jsonEqual(t, e.Data, []byte(list[n])) {
				t.Errorf("%s: %+v is no item of %+v", source, e, parent)
				continue
			}
			order[e.Subject] = append(order[e.Subject], e.DeliveryID)
		}
		for stream, list := range order {
			if !slices.IsSorted(list) {
				t.Errorf("%s: the items of %s are in the order %q", source, stream, list)
			}
		}
		// The exact bytes, where no JSON is between.
		for _, r := range readTopic(t, b.Brokers(), b.prefix(t)+".events") {
			if n := slices.Index(ids[source], header(r, "ce_deliveryid")); n >= 0 && string(r.Value) != list[n] {
				t.Errorf("%s: item %d stands as %q, want %q", source, n, r.Value, list[n])
			}
		}
	}
}

// prefix finds out the prefix of the node's topics.
func (b *batchNode) prefix(t *testing.T) string {
	var st struct {
		Kafka struct{ Topics []struct{ Name string } }
	}
	b.get(t, "/v1/status").into(t, &st)
	prefix, _, _ := strings.Cut(st.Kafka.Topics[0].Name, ".")
	return prefix
}

func jsonEqual(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y bytes.Buffer
	if err := json.Compact(&x, a); err != nil {
		t.Fatal(err)
	}
	if err := json.Compact(&y, b); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x.Bytes(), y.Bytes())
}

// TestABatchThatCannotBeReadIsParked: whole, with the reason, and nothing waits behind it. Mended, it is split.
func TestABatchThatCannotBeReadIsParked(t *testing.T) {
	cfg := penstock.Config{}
	b := startBatchNode(t, func(c *penstock.Config) {
		s := c.Sources["sendgrid"]
		s.Stream = `string(body.marketing_campaign_id)`
		c.Sources["sendgrid"] = s
		cfg = *c
	})
	other := b.post("sendgrid", `{"event":"processed"}`) // of another shape
	id := b.post("sendgrid", `[{"event":"open","sg_event_id":"e1","marketing_campaign_id":7},{"event":"open","sg_event_id":"e2"}]`)
	many := b.post("sendgrid", `[`+strings.Repeat(`{},`, 10_000)+`{}]`)
	for delivery, reason := range map[string]string{id: "item 1: the source's expression failed", other: "array", many: "at most 10000 items"} {
		d := b.delivery("sendgrid", delivery, nil)
		if d.Status != domain.Parked || !strings.Contains(d.Message, reason) || len(d.Events) != 0 || d.Items != 0 {
			t.Errorf("want it parked for %q: %+v", reason, d)
		}
	}
	b.post("sendgrid", `[{"event":"open","sg_event_id":"e3","marketing_campaign_id":7}]`)
	if d := b.delivery("sendgrid", "e3", nil); d.Stream != "sendgrid/7" {
		t.Errorf("%+v", d)
	}
	if a := b.get(t, "/v1/deliveries/sendgrid/e1"); a.status != 404 {
		t.Errorf("an item of a parked batch took effect: %s", a)
	}
	s := cfg.Sources["sendgrid"]
	s.Stream = `has(body.marketing_campaign_id) ? string(body.marketing_campaign_id) : delivery`
	cfg.Sources["sendgrid"] = s
	if _, err := b.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	var parked struct{ Items []projections.ParkedRow }
	b.get(t, "/v1/parked").into(t, &parked)
	for _, row := range parked.Items {
		if row.EntryID != id {
			continue
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.URL()+"/v1/parked/"+row.ID+"/requeue", strings.NewReader(`{"by":"ann","note":"mended"}`))
		if err != nil {
			t.Fatal(err)
		}
		if a := do(t, r, "Content-Type", "application/json"); a.status >= 300 {
			t.Fatalf("requeue: %s", a)
		}
	}
	for item, stream := range map[string]domain.Stream{"e1": "sendgrid/7", "e2": "sendgrid/e2"} {
		if d := b.delivery("sendgrid", item, nil); d.Stream != stream || d.Status != domain.Accepted {
			t.Errorf("%+v, want stream %s", d, stream)
		}
	}
	if d := b.delivery("sendgrid", id, nil); d.Status != domain.Accepted || d.Items != 2 || d.Release == nil {
		t.Errorf("the batch after its release: %+v", d)
	}
}

// TestABatchIsReplayedWithItsItems, and an item without its batch.
func TestABatchIsReplayedWithItsItems(t *testing.T) {
	b := startBatchNode(t, nil)
	id := b.post("okta", `{"data":{"events":[{"uuid":"u1","eventType":"a","target":[{"id":"t"}]},{"eventType":"b"}]}}`)
	b.delivery("okta", id+"#1", nil)
	replay := func(id string) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.URL()+"/v1/deliveries/okta/"+strings.ReplaceAll(id, "#", "%23")+"/replay",
			strings.NewReader(`{"by":"ann","reason":"a test"}`))
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ ID, Status string }
		a := do(t, r, "Content-Type", "application/json", "Prefer", "wait=30")
		if a.into(t, &answer); a.status != 200 || answer.Status != "accepted" {
			t.Fatalf("replay of %s: %s", id, a)
		}
		return strings.TrimPrefix(answer.ID, id)
	}
	suffix := replay(id)
	for _, item := range []struct{ id, stream string }{{"u1", "okta/t"}, {id + "#1", "okta/" + id + "#1"}} {
		d := b.delivery("okta", item.id+suffix, nil)
		if d.Replay == nil || d.Replay.Of != item.id || d.Replay.By != "ann" || string(d.Stream) != item.stream || d.Status != domain.Accepted {
			t.Errorf("%s of the replayed batch is %+v", item.id, d)
		}
	}
	alone := replay("u1")
	if d := b.delivery("okta", "u1"+alone, nil); d.Status != domain.Accepted || d.Replay == nil {
		t.Errorf("%+v", d)
	}
	eventstoretest.Until(t, "all are events", func() bool { return len(b.events("okta")) >= 7 })
	if events := b.events("okta"); len(events) != 7 { // three, three again, and one
		t.Errorf("%d events", len(events))
	}
}

// TestTheLargestBatch is one transaction of 10,000 items over all partitions.
func TestTheLargestBatch(t *testing.T) {
	b := startBatchNode(t, nil)
	var body strings.Builder
	const items = 10_000
	for i := range items {
		fmt.Fprintf(&body, `,{"event":"open","sg_event_id":"e%d","sg_message_id":"m%d"}`, i, i%100)
	}
	id := b.post("sendgrid", "["+body.String()[1:]+"]")
	if d := b.delivery("sendgrid", id, nil); d.Status != domain.Accepted || d.Items != items {
		t.Fatalf("%+v", d)
	}
	total := 0
	for part := 1; part <= 4; part++ { // each has its own patience: 10,000 take long where others work too
		eventstoretest.Until(t, fmt.Sprintf("%d quarters of the items are events", part), func() bool {
			var page struct {
				Items []struct {
					Stream  string
					Version int
				}
			}
			total = 0
			b.get(t, "/v1/streams?category=sendgrid&limit=1000").into(t, &page)
			for _, row := range page.Items {
				if strings.HasPrefix(row.Stream, "sendgrid/m") {
					total += row.Version
				}
			}
			return total >= items*part/4
		})
	}
	if total != items {
		t.Errorf("%d events of %d items", total, items)
	}
	for _, n := range []int{0, 99, 5_000, items - 1} { // in the order of the batch
		e := b.streamEvent(fmt.Sprintf("m%d", n%100), n/100+1)
		if e.DeliveryID != fmt.Sprintf("e%d", n) {
			t.Errorf("event %d of m%d is %+v", n/100+1, n%100, e)
		}
	}
}

func (b *batchNode) streamEvent(key string, version int) batchEvent {
	b.t.Helper()
	var page struct{ Items []batchEvent }
	a := b.get(b.t, fmt.Sprintf("/v1/streams/sendgrid/%s?events=true&from=%d&limit=1", key, version))
	if a.into(b.t, &page); len(page.Items) != 1 {
		b.t.Fatalf("%s: %s", key, a)
	}
	return page.Items[0]
}
