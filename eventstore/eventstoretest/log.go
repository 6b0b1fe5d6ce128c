// Package eventstoretest gives tests a log: on the real brokers that PENSTOCK_TEST_BROKERS names, or on a broker inside
// the test.
package eventstoretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// Brokers returns the brokers to test against. Without real ones it starts the embedded broker for this test.
func Brokers(t testing.TB) []string {
	if b := os.Getenv("PENSTOCK_TEST_BROKERS"); b != "" {
		return strings.Split(b, ",")
	}
	e, err := eventstore.StartEmbedded("127.0.0.1:0", t.TempDir(), Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return []string{e.Addr}
}

// Prefix returns a topic prefix that no other test uses.
func Prefix() string { return "t" + strings.ToLower(rand.Text()[:10]) }

// Config is for a log of this test alone, with few partitions.
func Config(t testing.TB) eventstore.Config {
	return eventstore.Config{Brokers: Brokers(t), Prefix: Prefix(), Partitions: 3, Logger: Logger(t)}
}

// Open opens a log and runs it until the test ends.
func Open(t testing.TB, cfg eventstore.Config) *eventstore.Log {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := eventstore.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	Run(t, "log", l.Run)
	return l
}

// Run runs an engine in the background and, at the end of the test, stops it and demands that it ends without an
// error. Engines stop in the reverse order.
func Run(t testing.TB, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s doesn't stop", name)
		}
	})
}

// Until waits for a condition, up to 30 seconds.
func Until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Readable waits until readers see all events that the writers have committed, one for each partition in their order. Kafka
// answers a commit when it is decided; the end of what read_committed gives moves a moment later.
func Readable(t testing.TB, l *eventstore.Log, writers ...*eventstore.Writer) {
	t.Helper()
	Until(t, "what was committed can be read", func() bool {
		end, err := l.End(t.Context(), l.Topics.Events)
		if err != nil {
			t.Fatal(err)
		}
		for p, w := range writers {
			if end.Next[p] < w.NextEvent() {
				return false
			}
		}
		return true
	})
}

// Logger writes to the test's log, until the test ends.
func Logger(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() { w.mu.Lock(); w.t = nil; w.mu.Unlock() })
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Logf("%s", bytes.TrimSpace(b))
	}
	return len(b), nil
}
