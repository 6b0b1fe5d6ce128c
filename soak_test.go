//go:build linux

package penstock_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// What the soak test configures, and what a node may take of it; docs/operations.md has the sum.
const (
	soakInFlight    = 32 << 20
	soakTail        = 8 << 20
	soakConnections = 1000
	soakFeeds       = 300

	soakBody   = 4 << 20 // the largest that its source takes
	soakSecret = "a secret of the soak test"

	// Each bound is in bytes of one form of the data. While it is taken in, a body is there as it came, in its record and
	// compressed; older records that are lent to feeds are there with what a broker sent; an answer is built and sent.
	soakLive = 3*soakInFlight + 2*soakTail + 2*(64<<20) + 2*(64<<20) + soakConnections*(64<<10) + soakFeeds*(64<<10)
	// The writers and the projections have their batches, 8 MiB and 16 MiB of what is compressed, and the writers remember
	// 300,000 outcomes of about 1 KiB that the projections don't have yet.
	soakEngines = 128<<20 + 300<<20
	// What stays on purpose when nothing is done any more: the newest events, changes and outcomes, and the last batches.
	soakKept = 128 << 20
	// The garbage collector lets the heap grow to twice what is alive.
	soakBound = 2 * (soakLive + soakEngines)
)

// soak is a node, and what is done to it.
type soak struct {
	t    *testing.T
	url  string
	addr string
	pid  int
	each time.Duration // for each phase
	ids  atomic.Int64
	peak atomic.Int64 // bytes, of the phase
}

// TestSoak has clients do to a node, with small bounds and in a process of its own, whatever may cost memory, and wants it
// below what its configuration allows all the time, and back where it was afterwards. PENSTOCK_SOAK says for how long.
func TestSoak(t *testing.T) {
	total := 16 * time.Second
	if text := os.Getenv("PENSTOCK_SOAK"); text != "" {
		var err error
		if total, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if testing.Short() || testBrokers() != nil && os.Getenv("PENSTOCK_SOAK") == "" {
		t.Skip("takes a minute, and is the same on every broker")
	}
	s := startSoak(t)
	phases := []struct {
		name string
		run  func(*soak, context.Context)
	}{
		{"largest bodies", (*soak).largestBodies},
		{"slow headers and bodies", (*soak).slowLoris},
		{"giant batches", (*soak).giantBatches},
		{"forgeries", (*soak).forgeries},
		{"stalled feeds and a backlog", (*soak).stalledFeeds},
		{"feeds from the beginning", (*soak).eagerFeeds},
		{"pages that nobody reads", (*soak).stalledPages},
		{"all of it", (*soak).everything},
	}
	s.each = total / time.Duration(len(phases))
	idle := s.resident()
	t.Logf("%d MiB at the start, %d MiB allowed", idle>>20, soakBound>>20)
	sampling, stop := context.WithCancel(t.Context())
	var sampler sync.WaitGroup
	defer sampler.Wait()
	defer stop()
	sampler.Go(func() { s.sample(sampling) })
	for _, p := range phases {
		s.peak.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), s.each)
		p.run(s, ctx)
		cancel()
		t.Logf("%-28s %5d MiB", p.name, s.peak.Load()>>20)
		if got := s.peak.Load(); got > idle+soakBound {
			t.Errorf("%s: %d MiB, more than %d", p.name, got>>20, (idle+soakBound)>>20)
		}
	}
	// What was accepted is worked off first.
	for deadline := time.Now().Add(5 * time.Minute); s.behind() > 0; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d entries and events are still to be handled", s.behind())
		}
	}
	// Requests keep the garbage collector going, which else would come by every two minutes.
	last := int64(0)
	deadline := time.Now().Add(90 * time.Second)
	for last = s.resident(); last > idle+2*soakKept; last = s.resident() {
		if time.Now().After(deadline) {
			t.Fatalf("%d MiB at the end, %d at the start: it doesn't come back\n%s", last>>20, idle>>20, s.heap())
		}
		s.many(t.Context(), 4, func(context.Context, *rand.Rand) { s.get("/metrics") }, time.Second)
	}
	t.Logf("%d MiB at the end", last>>20)
	if a := s.get("/readyz"); a.status != 200 {
		t.Errorf("at the end: %s", a)
	}
}

// startSoak starts a node and, in this process, its broker, unless there are real ones.
func startSoak(t *testing.T) *soak {
	t.Helper()
	dir, brokers := t.TempDir(), testBrokers()
	if brokers == nil {
		b, err := eventstore.StartEmbedded("127.0.0.1:0", filepath.Join(dir, "kafka"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		brokers = []string{b.Addr}
	}
	path := filepath.Join(dir, "penstock.yaml")
	writeFile(t, path, fmt.Sprintf(`
listen: 127.0.0.1:0
data: %s
max_connections: %d
max_in_flight: %d
spool: {max_bytes: %d}
feeds: {memory: %d, max_connections: %d, max_per_ip: %d}
kafka: {brokers: ["%s"], prefix: %s, partitions: 4}
sources:
  github: {provider: github, secrets: ["env:SOAK_SECRET"], max_body: %d}
  meta: {provider: meta, secrets: ["env:SOAK_SECRET"], max_body: %d}
`, filepath.Join(dir, "data"), soakConnections, soakInFlight, 64<<20, soakTail, soakFeeds, soakFeeds,
		strings.Join(brokers, `","`), eventstoretest.Prefix(), soakBody, soakBody))
	c := launch(t, []string{"SOAK_SECRET=" + soakSecret}, "serve", "-c", path)
	s := &soak{t: t, url: c.wait(t, &c.stderr, serving)[1], pid: c.cmd.Process.Pid}
	s.addr = strings.TrimPrefix(s.url, "http://")
	eventstoretest.Until(t, "the node is ready", func() bool { return s.get("/readyz").status == 200 })
	t.Cleanup(func() {
		select {
		case <-c.exited:
			t.Errorf("the node has ended with %d:\n%s", c.code, c.stderr.tail())
		default:
		}
	})
	return s
}

// resident is the anonymous memory of the node in bytes: without files, which the system takes back when it likes.
func (s *soak) resident() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return 0 // it has ended, which the test says
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

func (s *soak) sample(ctx context.Context) {
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-tick.C:
			s.peak.Store(max(s.peak.Load(), s.resident()))
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// many repeats what count clients do until ctx ends or, if it isn't 0, for so long.
func (s *soak) many(ctx context.Context, count int, do func(context.Context, *rand.Rand), within time.Duration) {
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			for random := rand.New(rand.NewPCG(1, uint64(i))); ctx.Err() == nil; {
				do(ctx, random)
			}
		})
	}
	all.Wait()
}

func (s *soak) get(path string) answer {
	a, err := fetch(context.Background(), http.MethodGet, s.url+path, nil, nil)
	if err != nil {
		return answer{}
	}
	return a
}

// behind is how much writers and projections have before them; 1 if the node doesn't say.
func (s *soak) behind() (n int64) {
	var page struct{ Items []struct{ Lag int64 } }
	if a := s.get("/v1/projections"); a.status != 200 || json.Unmarshal(a.body, &page) != nil {
		return 1
	}
	for _, p := range page.Items {
		n += p.Lag
	}
	for line := range strings.Lines(string(s.get("/metrics").body)) {
		if strings.HasPrefix(line, "penstock_inbox_lag{") {
			lag, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			n += int64(lag)
		}
	}
	return n
}

// heap is what the node says of its memory.
func (s *soak) heap() (lines string) {
	for line := range strings.Lines(string(s.get("/metrics").body)) {
		if strings.HasPrefix(line, "go_memstats_") || strings.HasPrefix(line, "go_goroutines") || strings.HasPrefix(line, "penstock_http_connections") {
			lines += line
		}
	}
	return lines
}

// post sends a delivery; what becomes of it is of no interest here. A client that is refused waits a little.
func (s *soak) post(ctx context.Context, source string, body []byte, secret string) {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(body)
	header := http.Header{
		"Content-Type": {"application/json"}, "X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(h.Sum(nil))},
		"X-Github-Event": {"push"}, "X-Github-Delivery": {fmt.Sprintf("soak-%d", s.ids.Add(1))},
	}
	if a, err := fetch(ctx, http.MethodPost, s.url+"/hooks/"+source, header, body); err != nil || a.status != 202 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

var soakClient = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func fetch(ctx context.Context, method, url string, header http.Header, body []byte) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if header != nil {
		r.Header = header
	}
	resp, err := soakClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: b}, err
}

// blob is a delivery of about size bytes that doesn't compress.
func blob(random *rand.Rand, size int) []byte {
	raw := make([]byte, size/2)
	for i := 0; i+8 <= len(raw); i += 8 {
		word := random.Uint64()
		for n := range 8 {
			raw[i+n] = byte(word >> (8 * n))
		}
	}
	return fmt.Appendf(nil, `{"repository":{"full_name":"octo/%d"},"blob":"%x"}`, random.IntN(50), raw)
}

func (s *soak) largestBodies(ctx context.Context) {
	// Under the race detector to make one took longer than the node takes for it.
	body := blob(rand.New(rand.NewPCG(1, 0)), soakBody-1<<10)
	s.many(ctx, 48, func(ctx context.Context, r *rand.Rand) { s.post(ctx, "github", body, soakSecret) }, 0)
}

// slowLoris opens more connections than may be open. Half of them send headers and never end, the others announce a body.
func (s *soak) slowLoris(ctx context.Context) {
	s.many(ctx, 2*soakConnections, func(ctx context.Context, r *rand.Rand) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
		if err != nil {
			return
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		if r.IntN(2) == 0 {
			fmt.Fprintf(c, "POST /hooks/github HTTP/1.1\r\nHost: x\r\nX-Filler: %s", strings.Repeat("x", 30<<10))
		} else {
			fmt.Fprintf(c, "POST /hooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", soakBody, strings.Repeat(" ", 60<<10))
		}
		io.Copy(io.Discard, c) // until it is closed
	}, 0)
}

func (s *soak) giantBatches(ctx context.Context) {
	s.many(ctx, 2, func(ctx context.Context, r *rand.Rand) {
		var items []string
		for range 5_000 {
			items = append(items, fmt.Sprintf(`{"field":"messages","value":{"messages":[{"id":"wamid.%d","from":"%d","text":"%d"}]}}`, r.Uint64(), r.IntN(99), r.Uint64()))
		}
		s.post(ctx, "meta", fmt.Appendf(nil, `{"object":"whatsapp_business_account","entry":[{"id":"%s","changes":[%s]}]}`, strings.Repeat("i", 1<<20), strings.Join(items, ",")), soakSecret)
		select { // or the backlog takes minutes
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}, 0)
}

func (s *soak) forgeries(ctx context.Context) {
	s.many(ctx, 64, func(ctx context.Context, r *rand.Rand) {
		s.post(ctx, []string{"github", "meta", "nobody"}[r.IntN(3)], blob(r, 1<<10<<r.IntN(12)), "another secret")
	}, 0)
}

// ask sends a request over a connection that takes little, and hands it to read.
func (s *soak) ask(ctx context.Context, path, accept string, read func(net.Conn)) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\n\r\n", path, s.addr, accept)
	read(c)
}

func (s *soak) stalledFeeds(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		s.many(ctx, 8, func(ctx context.Context, r *rand.Rand) { s.post(ctx, "github", blob(r, 256<<10), soakSecret) }, 0)
	})
	s.many(ctx, soakFeeds+50, func(ctx context.Context, r *rand.Rand) {
		s.ask(ctx, "/v1/events?from="+[]string{"earliest", "latest"}[r.IntN(2)], "text/event-stream", func(c net.Conn) {
			if line, err := bufio.NewReaderSize(c, 16).ReadString('\n'); err == nil && strings.Contains(line, " 200 ") {
				<-ctx.Done()
			}
		})
	}, 0)
}

func (s *soak) eagerFeeds(ctx context.Context) {
	s.many(ctx, 32, func(ctx context.Context, r *rand.Rand) {
		s.ask(ctx, []string{"/v1/events?from=earliest", "/v1/projections/deliveries/changes?snapshot=true"}[r.IntN(2)], "text/event-stream", func(c net.Conn) {
			io.CopyN(io.Discard, c, 64<<20)
		})
	}, 0)
}

// stalledPages asks for the largest pages there are and reads none of them to its end.
func (s *soak) stalledPages(ctx context.Context) {
	paths := []string{"/v1/events?limit=1000", "/v1/deliveries?limit=1000", "/v1/streams/github/octo%2F1?events=true&limit=1000", "/metrics", "/openapi.json"}
	s.many(ctx, 200, func(ctx context.Context, r *rand.Rand) {
		s.ask(ctx, paths[r.IntN(len(paths))], "*/*", func(net.Conn) {
			wait, cancel := context.WithTimeout(ctx, time.Second+time.Duration(r.Int64N(int64(s.each))))
			defer cancel()
			<-wait.Done()
		})
	}, 0)
}

func (s *soak) everything(ctx context.Context) {
	var all sync.WaitGroup
	for _, run := range []func(*soak, context.Context){
		(*soak).largestBodies, (*soak).giantBatches, (*soak).forgeries, (*soak).stalledFeeds, (*soak).eagerFeeds, (*soak).stalledPages,
	} {
		all.Go(func() { run(s, ctx) })
	}
	all.Wait()
}
