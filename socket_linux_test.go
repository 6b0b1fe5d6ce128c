package penstock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// inNetwork says that this process is in a network of its own.
const inNetwork = "PENSTOCK_TEST_IN_NETWORK"

// TestVanishedClient cuts the cable between a node and clients of its feeds: no FIN, no RST, and nothing that is sent is
// acknowledged. The node must give their places to others. The test runs itself once more in a network of its own, with
// the clients in another one behind a virtual cable; this takes root.
func TestVanishedClient(t *testing.T) {
	if os.Getenv(inNetwork) == "" {
		if os.Getuid() != 0 {
			t.Skip("network namespaces need root")
		}
		if _, err := exec.LookPath("ip"); err != nil {
			t.Skip("there is no ip, of iproute2")
		}
		self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVanishedClient$", "-test.v", "-test.timeout=2m")
		self.Env = append(os.Environ(), inNetwork+"=1")
		self.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread() // Pdeathsig is about the thread that started it
		defer runtime.UnlockOSThread()
		out, err := self.CombinedOutput()
		if errors.Is(err, syscall.EPERM) {
			t.Skip("network namespaces are not allowed here")
		}
		if err != nil || !strings.Contains(string(out), "--- PASS: TestVanishedClient") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}

	ip(t, "link set lo up")
	dial, cable := farAway(t)
	ip(t, "addr add 10.9.0.1/24 dev near")
	ip(t, "link set near up")
	cfg := nodeConfig(t)
	cfg.Kafka.Brokers = nil // a real one is in another network; this is about clients
	cfg.Listen = "10.9.0.1:0"
	cfg.Feeds.MaxPerIP = 3
	const token = "a-token-of-this-test" // without one a node listens on loopback only
	t.Setenv("TOKEN_OF_THIS_TEST", token)
	cfg.Auth.Tokens = []string{"env:TOKEN_OF_THIS_TEST"}
	inner, err := penstock.NewNode(cfg, billingApp(), eventstoretest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	inner.SetUnanswered(time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{inner, cancel, make(chan error, 1)}
	go func() { n.done <- inner.Run(ctx) }()
	t.Cleanup(func() { n.stop(t) })
	select {
	case <-inner.Started():
	case err := <-n.done:
		n.done <- nil
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the node is ready", func() bool { return n.get(t, "/readyz").status == 200 })

	address := strings.TrimPrefix(n.URL(), "http://")
	const sse, lines, socket = "Accept: text/event-stream", "Accept: application/x-ndjson",
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	open := func(header string) (net.Conn, int) {
		t.Helper()
		conn, err := dial(address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s\r\n\r\n", address, token, header)
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, resp.StatusCode
	}
	var conns []net.Conn
	for _, c := range []struct {
		header string
		status int
	}{{sse, 200}, {lines, 200}, {socket, 101}} {
		conn, status := open(c.header)
		if status != c.status {
			t.Fatalf("%s: %d", c.header, status)
		}
		conns = append(conns, conn)
	}
	if conn, status := open(lines); status != http.StatusTooManyRequests {
		t.Fatalf("one more than there may be: %d", status)
	} else {
		conn.Close()
	}

	n.deliver(t, "stripe.charge.succeeded", ingress.Facts{ID: "before", Customer: "cus_1", Charge: "ch_1"})
	following := func() (list struct{ Items []egress.Presence }) {
		n.get(t, "/v1/subscriptions", "Authorization", "Bearer "+token).into(t, &list)
		return list
	}
	eventstoretest.Until(t, "three feeds have the event", func() bool {
		have := 0
		for _, feed := range following().Items {
			have += int(min(feed.Events, 1))
		}
		return have == 3
	})
	cable("down")
	n.deliver(t, "stripe.charge.succeeded", ingress.Facts{ID: "after", Customer: "cus_1", Charge: "ch_2"})
	eventstoretest.Until(t, "no feed is left", func() bool { return len(following().Items) == 0 })

	for _, conn := range conns { // nobody has told them: they had really vanished, and were not closed by anything else
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Errorf("a client knows: %v", err)
		}
	}

	cable("up")
	for range 3 {
		if _, status := open(lines); status != 200 {
			t.Errorf("the places of those that vanished are not free: %d", status)
		}
	}
}

// farAway is a network at the other end of a cable whose near end is the interface "near", a way to dial from there,
// and one to take the far end up or down.
func farAway(t *testing.T) (dial func(address string) (net.Conn, error), cable func(state string)) {
	t.Helper()
	work, ready := make(chan func()), make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, and the network with it, ends with this goroutine
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ready <- syscall.Gettid()
		for f := range work {
			f()
		}
	}()
	t.Cleanup(func() { close(work) })
	ip(t, fmt.Sprintf("link add near type veth peer name far netns %d", <-ready))
	inside := func(f func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); f() }
		<-done
	}
	inside(func() {
		ip(t, "addr add 10.9.0.2/24 dev far")
		ip(t, "link set far up")
	})
	dial = func(address string) (conn net.Conn, err error) {
		inside(func() { conn, err = net.DialTimeout("tcp", address, 10*time.Second) })
		return conn, err
	}
	return dial, func(state string) { inside(func() { ip(t, "link set far "+state) }) }
}

func ip(t *testing.T, arguments string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(arguments)...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", arguments, err, out)
	}
}
