package penstock_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// startPatience is how long a start may take to fail.
const startPatience = 10 * time.Second

// TestStartFailures: a start that can't work says why in one line that names the flag, and ends.
func TestStartFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	running := startDev(t, t.TempDir())

	for _, c := range []struct {
		name string
		args []string
		flag string
	}{
		{"the HTTP port is taken", []string{"--listen", taken.Addr().String()}, "--listen"},
		{"the Kafka port is taken", []string{"--kafka-listen", taken.Addr().String()}, "--kafka-listen"},
		{"both ports are another node's", []string{"--listen", strings.TrimPrefix(running.url, "http://"), "--kafka-listen", running.kafka}, "--listen"},
		{"no such address", []string{"--listen", "127.0.0.1"}, "listen: "},
		// Whoever runs as root may write everywhere, but not below a file.
		{"the folder can't be made", []string{"--data", filepath.Join(file, "data")}, "--data"},
		{"the folder is a file", []string{"--data", file}, "--data"},
		{"the folder is in use", []string{"--data", running.data}, "--data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"dev", "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--data", t.TempDir()}, c.args...)
			p := launch(t, nil, args...)
			if code := p.end(t, startPatience); code != 1 {
				t.Errorf("exit code %d", code)
			}
			said := p.stderr.String()
			if strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "penstock: ") || !strings.Contains(said, c.flag) {
				t.Errorf("stderr, which should be one line that names %s:\n%s", c.flag, said)
			}
			if out := p.stdout.String(); out != "" {
				t.Errorf("stdout:\n%s", out)
			}
		})
	}
	if a := get(t, running.url+"/readyz"); a.status != 200 {
		t.Errorf("the running node, which was in the way: %s", a)
	}
}

// TestStopUnderLoad: SIGTERM ends a node that is followed and written to; the followers are told, and what was
// acknowledged is there at the next start.
func TestStopUnderLoad(t *testing.T) {
	dir := t.TempDir()
	dev := startDev(t, dir)
	var feeds []*feed
	for range 20 {
		feeds = append(feeds, follow(t, dev.url+"/v1/events?from=earliest", 0))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	var mu sync.Mutex
	var acknowledged []string
	for sender := range 4 {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("d_%d_%d", sender, i)
				d, err := ingress.Sample("github.issues.opened", ingress.Facts{ID: id, Number: int64(i % 7)})
				if err != nil {
					t.Error(err)
					return
				}
				r, err := d.Request(ctx, dev.url, "github", ingress.Secret(penstock.DevelopmentSecret), time.Now())
				if err != nil {
					t.Error(err)
					return
				}
				a, err := exchange(client, r)
				if err != nil {
					return // the node is gone
				}
				if a.status == 202 {
					mu.Lock()
					acknowledged = append(acknowledged, id)
					mu.Unlock()
				} else if a.status != 503 {
					t.Errorf("delivery %s: %s", id, a)
				}
			}
		})
	}
	eventstoretest.Until(t, "every feed is in the middle of it", func() bool {
		return !slices.ContainsFunc(feeds, func(f *feed) bool { return len(f.got()) < 20 })
	})
	dev.signal(t, syscall.SIGTERM)
	if code := dev.end(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d; stderr:\n%s", code, dev.stderr.tail())
	}
	stop()
	load.Wait()
	if said := dev.stderr.String(); strings.Contains(said, "level=ERROR") || strings.Contains(said, "penstock:") {
		t.Errorf("stderr:\n%s", dev.stderr.tail())
	}
	for _, f := range feeds {
		eventstoretest.Until(t, "a follower is told that the node stops", func() bool {
			return slices.Contains(f.announcements(), "penstock.closing")
		})
	}

	again := startDev(t, dir)
	for _, id := range acknowledged {
		eventstoretest.Until(t, "delivery "+id+" is there", func() bool {
			return get(t, again.url+"/v1/deliveries/github/"+id).status == 200
		})
	}
	if len(acknowledged) < 20 {
		t.Errorf("only %d deliveries were acknowledged: the test did not test", len(acknowledged))
	}
}

// TestDemo: the sample traffic goes through, and nobody complains.
func TestDemo(t *testing.T) {
	dev := startDev(t, t.TempDir(), "--demo")
	var page struct{ Items []struct{ ID string } }
	eventstoretest.Until(t, "ten deliveries and what follows from them", func() bool {
		get(t, dev.url+"/v1/deliveries").into(t, &page)
		return len(page.Items) >= 10 && len(allRows(t, dev.url)) >= 3
	})
	dev.signal(t, syscall.SIGTERM)
	if code := dev.end(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(dev.stderr.String(), "level=ERROR") || strings.Contains(dev.stdout.String(), "demo:") {
		t.Errorf("stdout:\n%s\nstderr:\n%s", dev.stdout.tail(), dev.stderr.tail())
	}
}

// TestCheck: everything that is wrong with a file is said at once, each with its line.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "penstock.yaml")
	writeFile(t, path, `listen: 0.0.0.0:8080
kafka:
  partitions: 1000
  prefx: typo
sources:
  stripe:
    provider: stripe
    secrets: ["whsec_in_the_file"]
  nobody:
    provider: nobody
    secrets: ["env:PRESENT"]
auth:
  tokens: ["env:ABSENT"]
`)
	p := launch(t, []string{"PRESENT=secret"}, "check", "-c", path)
	if code := p.end(t, startPatience); code != 1 {
		t.Errorf("exit code %d", code)
	}
	said := p.stderr.String()
	for _, want := range []string{
		path + ":3: kafka.partitions: ",
		path + ":4: kafka.prefx: no such key",
		path + ":8: sources.stripe.secrets: ",
		path + ":10: sources.nobody.provider: ",
		path + ":13: auth.tokens: environment variable ABSENT is not set",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing begins with %q in:\n%s", want, said)
		}
	}
	if strings.Contains(said, "whsec_in_the_file") {
		t.Errorf("a secret is shown:\n%s", said)
	}

	writeFile(t, path, "sources:\n  github: {provider: github, secrets: [\"env:PRESENT\"]}\n")
	p = launch(t, []string{"PRESENT=secret"}, "check", "-c", path)
	if code := p.end(t, startPatience); code != 0 || !strings.Contains(p.stdout.String(), "is fine") {
		t.Errorf("a file without mistakes: exit code %d, stderr:\n%s", code, p.stderr.String())
	}
}

// TestServeBeyondLoopback: without tokens nobody else's machine may reach a node.
func TestServeBeyondLoopback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "penstock.yaml")
	writeFile(t, path, "# reachable\nlisten: 0.0.0.0:0\nkafka: {embedded: \"127.0.0.1:0\"}\n")
	p := launch(t, nil, "serve", "-c", path)
	if code := p.end(t, startPatience); code != 1 || !strings.Contains(p.stderr.String(), path+":2: listen: ") ||
		!strings.Contains(p.stderr.String(), "auth.tokens") {
		t.Errorf("exit code %d, stderr:\n%s", code, p.stderr.String())
	}
	writeFile(t, path, "kafka: {embedded: \"0.0.0.0:0\"}\n")
	p = launch(t, nil, "serve", "-c", path)
	if code := p.end(t, startPatience); code != 1 || !strings.Contains(p.stderr.String(), path+":1: kafka.embedded: ") {
		t.Errorf("exit code %d, stderr:\n%s", code, p.stderr.String())
	}
}

// TestEnvironment: what the environment says wins over the file.
func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "penstock.yaml")
	writeFile(t, path, "listen: 203.0.113.1:1\ndata: /dev/null/nowhere\nkafka: {embedded: \"203.0.113.1:1\", partitions: 3}\n")
	s := startServe(t, path, "PENSTOCK_LISTEN=127.0.0.1:0", "PENSTOCK_DATA="+filepath.Join(dir, "data"),
		"PENSTOCK_KAFKA_EMBEDDED=127.0.0.1:0", "PENSTOCK_KAFKA_PARTITIONS=2", "PENSTOCK_KAFKA_PREFIX=other")
	var st struct {
		Kafka struct {
			Topics []struct {
				Name string
				End  []int64
			}
		}
	}
	get(t, s.url+"/v1/status").into(t, &st)
	if topics := st.Kafka.Topics; len(topics) != 4 || topics[0].Name != "other.inbox" || len(topics[0].End) != 2 {
		t.Errorf("topics: %+v", topics)
	}
}

// TestTokens: with tokens everything but webhooks and health needs one of them.
func TestTokens(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "penstock.yaml")
	writeFile(t, filepath.Join(dir, "token"), "the-second-token-of-this-test\n")
	writeFile(t, path, fmt.Sprintf(`
listen: 0.0.0.0:0
data: %s/data
kafka: {embedded: "127.0.0.1:0", partitions: 2}
sources:
  github: {provider: github, secrets: ["env:HOOK"]}
auth:
  tokens: ["env:TOKEN", "file:%[1]s/token"]
`, dir))
	s := startServe(t, path, "TOKEN=the-first-token-of-this-test", "HOOK=hook secret")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	base := "http://127.0.0.1:" + port
	for _, path := range []string{"/v1/status", "/v1/events", "/v1/projections/balances/rows", "/v1/nothing", "/metrics", "/", "/docs", "/openapi.json"} {
		for _, credentials := range []string{"", "Bearer ", "Bearer the-third-token-of-this-test", "Basic dGhlLWZpcnN0", "the-first-token-of-this-test"} {
			a := get(t, base+path, "Authorization", credentials)
			if a.status != 401 || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") || a.problem(t).Type != "/problems/unauthorized" {
				t.Errorf("%s with %q: %s", path, credentials, a)
			}
		}
		for _, token := range []string{"the-first-token-of-this-test", "the-second-token-of-this-test"} {
			if a := get(t, base+path, "Authorization", "Bearer "+token); a.status == 401 {
				t.Errorf("%s with a token: %s", path, a)
			}
		}
	}
	if a := get(t, base+"/v1/events", "Accept", "text/event-stream"); a.status != 401 {
		t.Errorf("a feed without a token: %s", a)
	}
	// A page in a browser can't give a WebSocket headers.
	for _, c := range []struct {
		protocol string
		want     int
	}{
		{"penstock.bearer.", 401},
		{"penstock.bearer.the-first-token-of-this-test", 401},
		{"penstock.bearer." + base64.RawURLEncoding.EncodeToString([]byte("the-third-token-of-this-test")), 401},
		{"penstock.bearer." + base64.RawURLEncoding.EncodeToString([]byte("the-first-token-of-this-test")), 101},
	} {
		ws, resp, err := websocket.Dial(t.Context(), base+"/v1/events", &websocket.DialOptions{Subprotocols: []string{"penstock.v1", c.protocol}})
		if resp == nil || resp.StatusCode != c.want {
			t.Fatalf("a WebSocket with %q: %v, %v", c.protocol, resp, err)
		}
		if err == nil {
			if got := ws.Subprotocol(); got != "penstock.v1" {
				t.Errorf("the answer is %q", got)
			}
			ws.CloseNow()
		}
		if a := get(t, base+"/v1/events", "Sec-WebSocket-Protocol", "penstock.v1, "+c.protocol); a.status != 401 {
			t.Errorf("no WebSocket with %q: %s", c.protocol, a)
		}
	}
	if a := get(t, base+"/healthz"); a.status != 200 {
		t.Errorf("/healthz: %s", a)
	}
	eventstoretest.Until(t, "/readyz without a token", func() bool { return get(t, base+"/readyz").status == 200 })
	d, err := ingress.Sample("github.issues.opened", ingress.Facts{ID: "d1"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Request(t.Context(), base, "github", ingress.Secret("hook secret"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, r); a.status != 202 {
		t.Errorf("a webhook: %s", a)
	}
	// With tokens a node is reached under any name.
	if a := get(t, base+"/v1/status", "Authorization", "Bearer the-first-token-of-this-test", "Host", "penstock.example"); a.status != 200 {
		t.Errorf("under another name: %s", a)
	}
	if said := s.stderr.String(); strings.Contains(said, "token-of-this-test") || strings.Contains(said, "hook secret") {
		t.Errorf("a secret is in the log:\n%s", said)
	}
}

// TestForeignHost: without tokens a page in a browser can't reach a node by having its own name point here.
func TestForeignHost(t *testing.T) {
	dev := startDev(t, t.TempDir())
	_, port, err := net.SplitHostPort(strings.TrimPrefix(dev.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"evil.example:" + port: 403, "evil.example": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example:" + port: 403, "10.0.0.1": 403,
		"localhost:" + port: 200, "localhost": 200, "127.0.0.1:" + port: 200, "[::1]:" + port: 200, "[::1]": 200,
	} {
		a := get(t, dev.url+"/v1/status", "Host", host)
		if a.status != want {
			t.Errorf("Host %s: %s, want %d", host, a, want)
		} else if want == 403 && a.problem(t).Type != "/problems/forbidden" {
			t.Errorf("Host %s: %s", host, a)
		}
		if a := get(t, dev.url+"/healthz", "Host", host); a.status != 200 {
			t.Errorf("/healthz, Host %s: %s", host, a)
		}
	}
	// A tunnel brings webhooks under its own name.
	d, err := ingress.Sample("github.issues.opened", ingress.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Request(t.Context(), dev.url, "github", ingress.Secret(penstock.DevelopmentSecret), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, r, "Host", "tunnel.example"); a.status != 202 {
		t.Errorf("a webhook through a tunnel: %s", a)
	}
}

// served is a child that answers requests.
type served struct {
	*child
	url, kafka, data string
}

// startDev runs penstock dev on free ports, which it must print, until it is ready.
func startDev(t *testing.T, data string, args ...string) *served {
	t.Helper()
	p := launch(t, nil, append([]string{"dev", "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--data", data}, args...)...)
	s := &served{child: p, data: data}
	s.url = p.wait(t, &p.stdout, regexp.MustCompile(`(?m)^ *API +(http://127\.0\.0\.1:[1-9][0-9]*)/docs`))[1]
	s.kafka = p.wait(t, &p.stdout, regexp.MustCompile(`(?m)^ *Kafka +(127\.0\.0\.1:[1-9][0-9]*) `))[1]
	eventstoretest.Until(t, "the node is ready", func() bool { return get(t, s.url+"/readyz").status == 200 })
	return s
}

func startServe(t *testing.T, config string, env ...string) *served {
	t.Helper()
	p := launch(t, env, "serve", "-c", config)
	m := p.wait(t, &p.stderr, serving)
	return &served{child: p, url: m[1], kafka: m[2]}
}

func TestASourceCantTakeADecidersStreams(t *testing.T) {
	cfg := nodeConfig(t)
	cfg.Sources["billing"] = cfg.Sources["stripe"]
	if _, err := penstock.NewNode(cfg, billingApp(), eventstoretest.Logger(t)); err == nil || !strings.Contains(err.Error(), "sources.billing") {
		t.Errorf("%v", err)
	}
}
