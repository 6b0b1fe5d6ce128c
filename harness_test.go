package penstock_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
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
	return startApp(t, cfg, billingApp())
}

// startApp is startNode for another business.
func startApp(t *testing.T, cfg penstock.Config, app penstock.App) *node {
	t.Helper()
	inner, err := penstock.NewNode(cfg, app, eventstoretest.Logger(t))
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
