package penstock_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// spooling is what /v1/status says of the spool.
func (n *node) spooling(t *testing.T) (s struct {
	Records  int
	Bytes    int64
	MaxBytes int64 `json:"max_bytes"`
	Oldest   int64 `json:"oldest_seconds"`
	Refused  int
	Problems []string
}) {
	t.Helper()
	var st struct{ Spool any }
	st.Spool = &s
	n.get(t, "/v1/status").into(t, &st)
	return s
}

// metric is the value of a metric without labels.
func (n *node) metric(t *testing.T, name string) (value float64) {
	t.Helper()
	for line := range strings.Lines(string(n.get(t, "/metrics").body)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return value
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// A running node goes on accepting while Kafka is away, says where a delivery is safe, keeps what waits over a restart,
// and sends it on in order. The broker is an embedded one of the test's, so that it can be away.
func TestNodeSpoolsWhileKafkaIsAway(t *testing.T) {
	dir, quiet := t.TempDir(), slog.New(slog.DiscardHandler)
	broker, err := eventstore.StartEmbedded("127.0.0.1:0", dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	address := broker.Addr
	defer func() { broker.Close() }()
	cfg := nodeConfig(t)
	cfg.Kafka.Brokers = []string{address}
	cfg.Spool = penstock.SpoolConfig{MaxBytes: 8 << 20, After: time.Second}
	n := startNode(t, cfg)
	send := func(id, durability string) {
		t.Helper()
		a := n.deliver(t, "standard.invoice.paid", ingress.Facts{ID: id, Customer: "cus_1", Amount: 100})
		if got := a.header.Get("Penstock-Durability"); a.status != 202 || got != durability {
			t.Fatalf("%s: %s, %q, want %q", id, a, got, durability)
		}
	}
	eventstoretest.Until(t, "a delivery goes to the log", func() bool { // a busy machine may spool it at first
		a := n.deliver(t, "standard.invoice.paid", ingress.Facts{ID: "d1", Customer: "cus_1", Amount: 100})
		return a.header.Get("Penstock-Durability") == "log"
	})
	before := n.metric(t, "penstock_spooled_total")
	if s := n.spooling(t); s.Records != 0 || s.Bytes != 0 || s.MaxBytes != 8<<20 || len(s.Problems) > 0 {
		t.Errorf("nothing waits: %+v", s)
	}
	broker.Close()
	for i := 2; i <= 6; i++ {
		send(fmt.Sprintf("d%d", i), "spooled")
	}
	if s := n.spooling(t); s.Records != 5 || s.Bytes == 0 || s.Oldest > 60 || len(s.Problems) > 0 {
		t.Errorf("five wait: %+v", s)
	}
	for name, want := range map[string]float64{"penstock_spool_records": 5, "penstock_spooled_total": before + 5, "penstock_spool_refused_total": 0} {
		if got := n.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	n.stop(t)
	if broker, err = eventstore.StartEmbedded(address, dir, quiet); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, cfg)
	eventstoretest.Until(t, "the spool is drained", func() bool { s := n.spooling(t); return s.Records == 0 && s.Bytes == 0 })
	eventstoretest.Until(t, "a delivery goes to the log again", func() bool {
		a := n.deliver(t, "standard.invoice.paid", ingress.Facts{ID: "d7", Customer: "cus_1", Amount: 100})
		return a.header.Get("Penstock-Durability") == "log"
	})
	var page struct{ Items []cloudEvent }
	eventstoretest.Until(t, "the events are there", func() bool {
		return n.get(t, "/v1/streams/standard/cus_1?events=true").into(t, &page) && len(page.Items) >= 7
	})
	for i, e := range page.Items {
		if want := fmt.Sprintf("d%d", i+1); e.DeliveryID != want || e.StreamVersion != uint64(i+1) {
			t.Errorf("version %d is %s, want %s", e.StreamVersion, e.DeliveryID, want)
		}
	}
	if len(page.Items) != 7 {
		t.Errorf("%d events", len(page.Items))
	}
	// What the disk has spoiled keeps the node from being ready until somebody has looked.
	damaged := filepath.Join(cfg.Data, "spool", "damaged")
	if err := os.Mkdir(damaged, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(damaged, "1.bin"), "x")
	if a := n.get(t, "/readyz"); a.status != 503 || !strings.Contains(string(a.body), "spoiled") {
		t.Errorf("with damage: %s", a)
	}
	if err := os.RemoveAll(damaged); err != nil {
		t.Fatal(err)
	}
	if a := n.get(t, "/readyz"); a.status != 200 {
		t.Errorf("looked at: %s", a)
	}
}

func TestSpoolIsConfigured(t *testing.T) {
	path := filepath.Join(t.TempDir(), "penstock.yaml")
	for _, c := range []struct {
		yaml, env string
		want      penstock.SpoolConfig
		problem   string
	}{
		{"{}", "", penstock.SpoolConfig{MaxBytes: 1 << 30, After: 1500 * time.Millisecond}, ""},
		{"spool: {max_bytes: 2000000, after: 300ms}", "", penstock.SpoolConfig{MaxBytes: 2_000_000, After: 300 * time.Millisecond}, ""},
		{"spool: {max_bytes: 2000000}", "PENSTOCK_SPOOL_AFTER=1s", penstock.SpoolConfig{MaxBytes: 2_000_000, After: time.Second}, ""},
		{"spool: {max_bytes: 0}", "", penstock.SpoolConfig{After: 1500 * time.Millisecond}, ""},
		{"spool:\n  max_bytes: 1000", "", penstock.SpoolConfig{}, ":2: spool.max_bytes: between"},
		{"spool: {after: 3s}", "", penstock.SpoolConfig{}, "spool.after: between"},
		{"spool: {after: 3}", "", penstock.SpoolConfig{}, "spool.after: between"},
		{"spool: {dir: /tmp}", "", penstock.SpoolConfig{}, "spool.dir: no such key"},
	} {
		writeFile(t, path, c.yaml)
		got, err := penstock.LoadConfig(path, []string{c.env})
		switch {
		case c.problem == "" && (err != nil || got.Spool != c.want):
			t.Errorf("%s, %s: %+v, %v", c.yaml, c.env, got.Spool, err)
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("%s: %v, want %s", c.yaml, err, c.problem)
		}
	}
}
