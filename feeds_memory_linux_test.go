package penstock_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
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

	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"golang.org/x/sync/errgroup"
)

// TestFeedsTakeLittleMemory measures a node from outside while clients that don't read want everything since the beginning,
// others do read it, and thousands come and go.
func TestFeedsTakeLittleMemory(t *testing.T) {
	const (
		large    = 64        // events
		size     = 256 << 10 // bytes of each
		stalled  = 64
		comings  = 2500 // twice
		allowed  = 128 << 20
		leftover = 8 << 20
	)
	dir := t.TempDir()
	kafka := "embedded: 127.0.0.1:0"
	if brokers := testBrokers(); brokers != nil {
		kafka = fmt.Sprintf("brokers: [%q]", strings.Join(brokers, `", "`))
	}
	writeFile(t, filepath.Join(dir, "penstock.yaml"), fmt.Sprintf(`
listen: 127.0.0.1:0
data: %s
kafka:
  %s
  prefix: %s
  partitions: 4
sources:
  github: {provider: github, secrets: ["env:MEMORY_SECRET"]}
feeds:
  memory: 1048576
`, filepath.Join(dir, "data"), kafka, eventstoretest.Prefix()))
	const secret = "a secret of the memory test"
	// Garbage that waits for its collector is not what is looked for.
	p := launch(t, []string{"MEMORY_SECRET=" + secret, "GOGC=20"}, "serve", "-c", filepath.Join(dir, "penstock.yaml"))
	url := p.wait(t, &p.stderr, serving)[1]
	address := strings.TrimPrefix(url, "http://")
	eventstoretest.Until(t, "the node is ready", func() bool { return get(t, url+"/readyz").status == 200 })

	for i := range large {
		body := fmt.Appendf(nil, `{"action":"opened","issue":{"number":%d},"repository":{"full_name":"big/one"},"fill":"%s"}`, i%8+1, strings.Repeat("x", size))
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/hooks/github", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if a := do(t, r, "Content-Type", "application/json", "X-GitHub-Event", "issues", "X-GitHub-Delivery", strconv.Itoa(i),
			"X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil))); a.status != http.StatusAccepted {
			t.Fatal(a)
		}
	}
	read := func() (events int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/events?from=earliest&until=now", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "application/x-ndjson")
		r.Header.Set("Accept-Encoding", "identity")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReaderSize(resp.Body, 2*size)
		for {
			line, err := lines.ReadSlice('\n')
			if bytes.Contains(line, []byte(`"xxxx`)) {
				events++
			}
			if err == io.EOF {
				return events
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	eventstoretest.Until(t, "the log has every event", func() bool { return read() == large })

	base := residentMemory(t, p)
	var peak atomic.Int64
	var watching sync.WaitGroup
	ended := make(chan struct{})
	watching.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-ended:
				tick.Stop()
				return
			case <-tick.C:
				peak.Store(max(peak.Load(), residentMemory(t, p)))
			}
		}
	})
	stopWatching := sync.OnceFunc(func() { close(ended); watching.Wait() })
	t.Cleanup(stopWatching)

	for range stalled {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.(*net.TCPConn).SetReadBuffer(4 << 10) // where this fails the kernel takes some more
		fmt.Fprintf(conn, "GET /v1/events?from=earliest HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n", address)
	}
	following := func() int {
		var list struct{ Items []egress.Presence }
		get(t, url+"/v1/subscriptions?limit=1000").into(t, &list)
		return len(list.Items)
	}
	eventstoretest.Until(t, "all that will stall are there", func() bool { return following() == stalled })
	for range 3 {
		if got := read(); got != large {
			t.Errorf("%d events, not %d", got, large)
		}
	}
	if n := following(); n != stalled {
		t.Errorf("who reads had to wait until of %d clients that don't %d were left", stalled, n)
	}

	come := func() {
		t.Helper()
		var g errgroup.Group
		g.SetLimit(32)
		for i := range comings {
			g.Go(func() error { return comeAndGo(address, i) })
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
	come()
	once := residentMemory(t, p)
	come()
	twice := residentMemory(t, p)
	stopWatching()
	t.Logf("%d MiB of events; resident memory at first %d MiB, at most %d, after %d comings %d, after twice as many %d",
		large*size>>20, base>>20, peak.Load()>>20, comings, once>>20, twice>>20)
	if grown := peak.Load() - base; grown > allowed {
		t.Errorf("%d MiB more than at first", grown>>20)
	}
	if grown := twice - once; grown > leftover {
		t.Errorf("%d clients that are gone left %d MiB", comings, grown>>20)
	}
}

// comeAndGo follows until it has caught up, or not even so long, and hangs up.
func comeAndGo(address string, i int) error {
	conn, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	header := "Accept: text/event-stream"
	if i%2 == 1 {
		header = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	}
	fmt.Fprintf(conn, "GET /v1/events?from=latest HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", address, header)
	if i%5 == 0 {
		return nil
	}
	var got []byte
	for !bytes.Contains(got, []byte("caught-up")) {
		var b [2 << 10]byte
		n, err := conn.Read(b[:])
		if err != nil {
			return fmt.Errorf("client %d: %w after %q", i, err, got)
		}
		got = append(got, b[:n]...)
	}
	return nil
}

// residentMemory is the anonymous memory of a process, in bytes. The pages of its tables belong to the system.
func residentMemory(t *testing.T, p *child) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Error(err)
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "RssAnon:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				t.Error(err)
			}
			return kib << 10
		}
	}
	t.Error("no RssAnon")
	return 0
}
