package penstock_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// feedMessage is what a feed says, over any transport.
type feedMessage struct {
	Penstock, Subscription, Cursor, Reason string
	ID, Op, Key                            string
	Snapshot                               bool
	Problem                                problemDoc
}

func (n *node) socket(t *testing.T, path string, h http.Header) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, n.URL()+path, &websocket.DialOptions{HTTPHeader: h, Subprotocols: []string{"penstock.v1"}})
	if err != nil {
		t.Fatalf("%v: %v", resp, err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(1 << 20)
	return c
}

func nextMessage(t *testing.T, c *websocket.Conn) (m feedMessage) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return m
}

// TestFeedsOfANode asks a node the same questions over all transports.
func TestFeedsOfANode(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	for i := range 30 {
		if a := n.command(t, "GrantCredit", fmt.Sprintf(`{"customer":"cus_%d","amount":%d,"currency":"eur"}`, i%5, i+1)); a.status != 200 {
			t.Fatal(a)
		}
	}
	for _, c := range []struct {
		name, path string
		want       int
	}{
		{"all events", "/v1/events?from=earliest&until=now", 30},
		{"of a stream", "/v1/events?from=earliest&until=now&stream=billing/cus_1", 6},
		{"by predicate", "/v1/events?from=earliest&until=now&filter=" + url.QueryEscape("data.amount > 25"), 5},
		{"the last 7", "/v1/events?from=-7&until=now", 7},
		{"the last 2 of a stream", "/v1/events?from=-2&until=now&stream=billing/cus_3", 2},
		{"the past", "/v1/events?from=latest&until=now", 0},
		{"rows", "/v1/projections/balances/changes?snapshot=true&until=now", 5},
	} {
		got := map[string][]string{}
		add := func(transport string, m feedMessage) {
			if m.ID != "" {
				got[transport] = append(got[transport], m.ID)
			} else if m.Op != "" {
				got[transport] = append(got[transport], m.Key)
			}
		}
		sse := n.get(t, c.path, "Accept", "text/event-stream")
		for line := range strings.SplitSeq(string(sse.body), "\n") {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				var m feedMessage
				if err := json.Unmarshal([]byte(data), &m); err != nil {
					t.Fatal(err)
				}
				add("sse", m)
			}
		}
		lines := n.get(t, c.path, "Accept", "application/x-ndjson")
		for line := range bytes.Lines(lines.body) {
			var m feedMessage
			if err := json.Unmarshal(line, &m); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			add("ndjson", m)
		}
		for ws := n.socket(t, c.path, nil); ; {
			m := nextMessage(t, ws)
			add("websocket", m)
			if m.Penstock == "closing" {
				if m.Reason != "done" {
					t.Errorf("%s: %+v", c.name, m)
				}
				break
			}
		}
		if !strings.Contains(c.path, "snapshot") {
			for next := c.path; next != ""; {
				var page struct {
					Items []feedMessage
					End   bool
				}
				a := n.get(t, next+"&limit=4") // next is the link without its limit
				if a.status != 200 {
					t.Fatal(a)
				}
				a.into(t, &page)
				for _, m := range page.Items {
					add("long-poll", m)
				}
				link, _ := url.Parse(strings.TrimPrefix(strings.TrimSuffix(a.header.Get("Link"), `>; rel="next"`), "<"))
				q := link.Query()
				q.Del("limit")
				if next = link.Path + "?" + q.Encode(); page.End {
					next = ""
				}
			}
		}
		slices.Sort(got["sse"])
		for transport, ids := range got {
			slices.Sort(ids)
			if len(ids) != c.want || !slices.Equal(ids, got["sse"]) {
				t.Errorf("%s over %s: %d, want %d: %v", c.name, transport, len(ids), c.want, ids)
			}
		}
		if len(got) < 3 && c.want > 0 {
			t.Errorf("%s: only over %d transports", c.name, len(got))
		}
	}
}

// TestPagesOfANode are what a cache and a polling client need.
func TestPagesOfANode(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	begin := n.get(t, "/v1/events?from=latest").header.Get("Penstock-Position")
	for i := range 20 {
		n.command(t, "GrantCredit", fmt.Sprintf(`{"customer":"cus_%d","amount":%d,"currency":"eur"}`, i%5, i+1))
	}
	var page struct {
		Items []json.RawMessage
		Next  string
		End   bool
	}
	eventstoretest.Until(t, "all events in a page", func() bool { // which a command doesn't wait for
		n.get(t, "/v1/events?cursor="+begin).into(t, &page)
		return len(page.Items) == 20
	})
	closed := "/v1/events?cursor=" + begin + "&until=" + page.Next
	a := n.get(t, closed)
	if cc := a.header.Get("Cache-Control"); !strings.Contains(cc, "immutable") || a.header.Get("ETag") == "" {
		t.Errorf("a closed range: %v", a.header)
	}
	if again := n.get(t, closed); !bytes.Equal(again.body, a.body) {
		t.Errorf("another answer:\n%s\n%s", again.body, a.body)
	}
	if again := n.get(t, closed, "If-None-Match", a.header.Get("ETag")); again.status != 304 || len(again.body) > 0 {
		t.Errorf("%s", again)
	}
	if open := n.get(t, "/v1/events?cursor="+begin); strings.Contains(open.header.Get("Cache-Control"), "immutable") {
		t.Errorf("an open range: %v", open.header)
	}
	packed := n.get(t, closed, "Accept-Encoding", "gzip")
	r, err := gzip.NewReader(bytes.NewReader(packed.body))
	if err != nil {
		t.Fatal(err, packed.header)
	}
	if plain, err := io.ReadAll(r); err != nil || !bytes.Equal(plain, a.body) || !strings.Contains(packed.header.Get("Vary"), "Accept-Encoding") {
		t.Errorf("%v %v", err, packed.header)
	}
	batch := n.get(t, closed, "Accept", "application/cloudevents-batch+json")
	var events []cloudEvent
	if batch.into(t, &events); len(events) != 20 || batch.header.Get("Content-Type") != "application/cloudevents-batch+json" {
		t.Errorf("a batch: %s", batch)
	}
	// A page of changes, waited for.
	at := n.get(t, "/v1/projections/balances/rows").header.Get("Penstock-Position")
	got := make(chan answer)
	go func() { got <- n.get(t, "/v1/projections/balances/changes?cursor="+at, "Prefer", "wait=20") }()
	eventstoretest.Until(t, "the client to be seen waiting", func() bool {
		return strings.Contains(string(n.get(t, "/v1/subscriptions").body), `"transport":"long-poll"`)
	})
	n.command(t, "GrantCredit", `{"customer":"cus_9","amount":1,"currency":"eur"}`)
	if a := <-got; a.status != 200 || !strings.Contains(string(a.body), `"key":"cus_9"`) || a.header.Get("Preference-Applied") != "wait=20" {
		t.Errorf("%s", a)
	}
	if p := n.get(t, "/v1/events?filter=data.").problem(t); p.Field != "filter" || p.Status != 422 {
		t.Errorf("%+v", p)
	}
}

// TestLiveOfANode follows events and rows over one socket, and has an operator look and end one.
func TestLiveOfANode(t *testing.T) {
	cfg := nodeConfig(t)
	cfg.Feeds.Origins = []string{"pages.example"}
	n := startNode(t, cfg)
	if a := n.get(t, "/v1/live"); a.status != 426 || a.problem(t).Type != "/problems/upgrade-required" {
		t.Errorf("%s", a)
	}
	_, resp, err := websocket.Dial(t.Context(), n.URL()+"/v1/live", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}})
	if err == nil || resp.StatusCode != 403 {
		t.Errorf("a page of another origin: %v", err)
	}
	ws := n.socket(t, "/v1/live", http.Header{"Origin": {"https://pages.example"}})
	send := func(text string) {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	await := func(what string, enough func(feedMessage) bool) feedMessage {
		t.Helper()
		for range 100 {
			if m := nextMessage(t, ws); enough(m) {
				return m
			}
		}
		t.Fatalf("%s: 100 other messages", what)
		return feedMessage{}
	}
	send(`{"subscribe":"events","feed":"/v1/events"}`)
	send(`{"subscribe":"rows","feed":"/v1/projections/balances/changes?snapshot=true"}`)
	send(`{"subscribe":"nothing","feed":"/v1/projections/nothing/changes"}`)
	if m := await("the refusal", func(m feedMessage) bool { return m.Penstock == "refused" }); m.Subscription != "nothing" || m.Problem.Status != 404 {
		t.Errorf("%+v", m)
	}
	n.command(t, "GrantCredit", `{"customer":"cus_1","amount":5,"currency":"eur"}`)
	await("event and row", func() func(feedMessage) bool {
		seen := map[string]bool{}
		return func(m feedMessage) bool {
			seen[m.Subscription] = seen[m.Subscription] || m.ID != "" || m.Op != ""
			return seen["events"] && seen["rows"]
		}
	}())
	var list struct {
		Items []struct {
			ID, Transport, Feed, Position string
			Events, Lag                   int64
		}
	}
	n.get(t, "/v1/subscriptions").into(t, &list)
	if len(list.Items) != 2 || list.Items[0].Transport != "websocket" || list.Items[0].Position == "" || list.Items[0].Events != 1 {
		t.Errorf("%+v", list)
	}
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, n.URL()+"/v1/subscriptions/"+list.Items[0].ID, nil)
	if a := do(t, r); a.status != 204 {
		t.Errorf("%s", a)
	}
	await("the end of one", func(m feedMessage) bool { return m.Penstock == "closing" && m.Reason == "disconnected" })
	// The client knows a moment before the list does.
	eventstoretest.Until(t, "it is off the list", func() bool {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, n.URL()+"/v1/subscriptions/"+list.Items[0].ID, nil)
		return do(t, r).status == 404
	})
	figures := string(n.get(t, "/metrics").body)
	for _, name := range []string{"ws_connections_active 1", "ws_messages_received_total 3", "ws_message_latency_ms_bucket", `feed_connections_total{transport="sse"} 0`} {
		if !strings.Contains(figures, name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
}

// certified writes a key pair for 127.0.0.1 and returns its files and who signs for it.
func certified(t *testing.T) (penstock.TLSConfig, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "penstock"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := penstock.TLSConfig{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for name, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return files, pool
}

// TestFeedOverHTTP2 follows over TLS, where HTTP/2 is chosen as browsers do, and in the clear by prior knowledge.
func TestFeedOverHTTP2(t *testing.T) {
	for _, secure := range []bool{true, false} {
		cfg := nodeConfig(t)
		var pool *x509.CertPool
		if secure {
			cfg.TLS, pool = certified(t)
		}
		inner, err := penstock.NewNode(cfg, billingApp(), eventstoretest.Logger(t))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		n := &node{inner, cancel, make(chan error, 1)}
		go func() { n.done <- inner.Run(ctx) }()
		t.Cleanup(func() { n.stop(t) })
		<-inner.Started()
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP2(secure)
		transport.Protocols.SetUnencryptedHTTP2(!secure)
		defer transport.CloseIdleConnections()
		r, _ := http.NewRequestWithContext(t.Context(), "GET", n.URL()+"/v1/events", nil)
		r.Header.Set("Accept", "text/event-stream")
		resp, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), "retry: ") || resp.ProtoMajor != 2 || resp.Header.Get("Connection") != "" {
			t.Errorf("HTTP/%d: %q %v", resp.ProtoMajor, lines.Text(), resp.Header)
		}
		// The node stops, and says so on this stream too.
		n.stop(t)
		closing := false
		for lines.Scan() {
			closing = closing || strings.Contains(lines.Text(), "penstock.closing")
		}
		if !closing {
			t.Error("the feed ended without a word")
		}
	}
}
