package client_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/domain/billing"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/projections/balances"
)

// node is a node in this process that may be stopped and started again at the same address.
type node struct {
	cfg  penstock.Config
	url  string
	stop func()
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newNode(t *testing.T) *node {
	cfg := penstock.DevelopmentConfig()
	cfg.Listen, cfg.Data = freeAddress(t), t.TempDir()
	cfg.Kafka = penstock.KafkaConfig{Embedded: freeAddress(t), Prefix: eventstoretest.Prefix(), Partitions: 4, Replication: 1}
	if b := os.Getenv("PENSTOCK_TEST_BROKERS"); b != "" {
		cfg.Kafka.Brokers = strings.Split(b, ",")
	}
	return &node{cfg: cfg, url: "http://" + cfg.Listen}
}

// brokers are where the node's Kafka is.
func (n *node) brokers() []string {
	if len(n.cfg.Kafka.Brokers) > 0 {
		return n.cfg.Kafka.Brokers
	}
	return []string{n.cfg.Kafka.Embedded}
}

func (n *node) start(t *testing.T) *node {
	t.Helper()
	inner, err := penstock.NewNode(n.cfg, penstock.App{
		Types: billing.Types, Deciders: []domain.AnyDecider{billing.Account, billing.Charge},
		Policies: []domain.Policy{billing.FromStripe, billing.Disputes}, Projections: []projections.Projection{balances.New()},
	}, eventstoretest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- inner.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the node ends with: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the node doesn't stop")
		}
	})
	t.Cleanup(n.stop)
	eventstoretest.Until(t, "the node is ready", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the node doesn't start: %v", err)
		default:
		}
		resp, err := http.Get(n.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	return n
}

// grant makes an event in the stream of a customer, exactly one, however often it has to ask.
func (n *node) grant(t *testing.T, customer string, amount int, headers ...string) {
	t.Helper()
	key := rand.Uint64()
	last := ""
	eventstoretest.Until(t, "a command is taken", func() bool {
		body := fmt.Sprintf(`{"customer":%q,"amount":%d,"currency":"eur"}`, customer, amount)
		r, err := http.NewRequest(http.MethodPost, n.url+"/v1/commands/GrantCredit", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", fmt.Sprint(key))
		r.Header.Set("Prefer", "wait=30")
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if s := string(bytes.TrimSpace(b)); s != last && resp.StatusCode != 200 {
			last = s
			t.Logf("%d %s", resp.StatusCode, s)
		}
		return resp.StatusCode == 200
	})
}

// following is one Follow, and what it has brought.
type following struct {
	cancel context.CancelFunc
	done   chan error

	mu       sync.Mutex
	messages []client.Message
	notices  []client.Notice
}

// follow follows until the test ends.
func follow(t *testing.T, url string, o client.Options, upgrade, preamble time.Duration) *following {
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{cancel: cancel, done: make(chan error, 1)}
	o.Notice = func(n client.Notice) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.notices = append(f.notices, n)
	}
	go func() {
		f.done <- client.FollowSoon(ctx, url, o, upgrade, preamble, func(m client.Message) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.messages = append(f.messages, m)
			return nil
		})
	}()
	t.Cleanup(func() { f.end(t) })
	return f
}

// end stops it, and returns what it ended with.
func (f *following) end(t *testing.T) error {
	t.Helper()
	f.cancel()
	return f.wait(t)
}

func (f *following) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-f.done:
		f.done <- err
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("Follow doesn't end")
		return nil
	}
}

// of returns the messages of some kinds.
func (f *following) of(kinds ...client.Kind) (out []client.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.messages {
		for _, k := range kinds {
			if m.Kind == k {
				out = append(out, m)
			}
		}
	}
	return out
}

// connected returns the transports of the connections so far.
func (f *following) connected() (ways []client.Transport) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.notices {
		if n.Kind == client.Connected {
			ways = append(ways, n.Transport)
		}
	}
	return ways
}

// wire is a proxy for TCP that cuts connections.
type wire struct {
	net.Listener
	budget atomic.Int64 // most bytes of an answer before it is cut; 0 for no limit

	mu    sync.Mutex
	conns map[net.Conn]bool
	done  sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, conns: map[net.Conn]bool{}}
	w.done.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			w.keep(in, out)
			w.done.Go(func() { io.Copy(out, in); w.drop(in, out) })
			w.done.Go(func() {
				var answer io.Reader = out
				if b := w.budget.Load(); b > 0 {
					answer = io.LimitReader(out, 1+rand.Int64N(b))
				}
				io.Copy(in, answer)
				w.drop(in, out)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.cut()
		w.done.Wait()
	})
	return w
}

func (w *wire) url() string { return "http://" + w.Addr().String() }

func (w *wire) keep(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		w.conns[c] = true
	}
}

// drop ends connections as a crash does: with a reset, and without what was not sent yet.
func (w *wire) drop(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		delete(w.conns, c)
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	var all []net.Conn
	for c := range w.conns {
		all = append(all, c)
	}
	w.mu.Unlock()
	w.drop(all...)
}
