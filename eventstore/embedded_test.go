package eventstore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestAKilledBrokerComesBackWithWhatWasCommittedAndNothingElse takes a copy of the files of a running broker, which is
// what a kill leaves, with a transaction open in it, and, in the second case, with an index that a kill has cut short.
func TestAKilledBrokerComesBackWithWhatWasCommittedAndNothingElse(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string, topic string){
		"open transaction": func(*testing.T, string, string) {},
		"short index": func(t *testing.T, dir, topic string) {
			path := filepath.Join(dir, "partitions", topic+"-1", "0.idx")
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, info.Size()-15); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := eventstore.Config{Prefix: "k", Partitions: 3, Logger: eventstoretest.Logger(t)}
			alive, killed := t.TempDir(), t.TempDir()
			first := begin(t, &cfg, alive)
			versions := uint64(0)
			w := writer(t, first, 1)
			more := func(w *eventstore.Writer, n int) {
				t.Helper()
				for range n {
					versions++
					if err := w.Commit(eventstore.Commit{Events: []domain.Event{event("s/a", versions, 10)}}); err != nil {
						t.Fatal(err)
					}
				}
			}
			more(w, 5)
			// The same transactional id as the writer, so that its next life goes on with this producer.
			torn := outsider(t, cfg, kgo.TransactionalID("k.writer.1"))
			if err := torn.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			if err := torn.ProduceSync(t.Context(), &kgo.Record{Topic: first.Topics.Events, Partition: 1, Value: []byte("never committed")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(killed, os.DirFS(alive)); err != nil {
				t.Fatal(err)
			}
			damage(t, killed, first.Topics.Events)

			second := begin(t, &cfg, killed)
			more(writer(t, second, 1), 3)
			again := filepath.Join(t.TempDir(), "again")
			if err := os.CopyFS(again, os.DirFS(killed)); err != nil { // killed once more
				t.Fatal(err)
			}
			third := begin(t, &cfg, again)
			more(writer(t, third, 1), 3)
			start, err := third.Start(t.Context(), third.Topics.Events)
			if err != nil {
				t.Fatal(err)
			}
			f, err := third.Follow(t.Context(), third.Topics.Events, start)
			if err != nil {
				t.Fatal(err)
			}
			collect(t, f, 11)
		})
	}
}

// TestAKillBetweenTwoMarkers: what was committed in one partition and not yet in the other is committed there too, and what
// was aborted is not.
func TestAKillBetweenTwoMarkers(t *testing.T) {
	for end, want := range map[kgo.TransactionEndTry][]string{kgo.TryCommit: {"within", "after"}, kgo.TryAbort: {"after"}} {
		alive, killed := t.TempDir(), t.TempDir()
		start := func(dir string, opts ...kgo.Opt) *kgo.Client {
			e, err := eventstore.StartEmbedded("127.0.0.1:0", dir, eventstoretest.Logger(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(e.Close)
			return outsider(t, eventstore.Config{Brokers: []string{e.Addr}}, opts...)
		}
		produce := func(cl *kgo.Client, partition int32, value string) {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t-1", Partition: partition, Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		cl := start(alive, kgo.TransactionalID("x"))
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 2, 1, nil, "t-1"); err != nil {
			t.Fatal(err)
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		produce(cl, 0, "within")
		produce(cl, 1, "within")
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(killed, os.DirFS(alive)); err != nil {
			t.Fatal(err)
		}
		segment := filepath.Join(killed, "partitions", "t-1-1", "0.dat")
		b, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		first := 12 + int64(binary.BigEndian.Uint32(b[8:])) // the marker stands behind the first batch
		if err := os.Truncate(segment, first); err != nil || first == int64(len(b)) {
			t.Fatal(err, "no marker")
		}
		cl = start(killed, kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t-1": {1: kgo.NewOffset().AtStart()}}))
		produce(cl, 1, "after")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var got []string
		for !slices.Contains(got, "after") {
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				t.Fatalf("after %q: %v", got, err)
			}
			fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		}
		if !slices.Equal(got, want) {
			t.Errorf("commit %v: read %q, want %q", end, got, want)
		}
	}
}

// begin starts a broker on dir and opens its log.
func begin(t *testing.T, cfg *eventstore.Config, dir string) *eventstore.Log {
	t.Helper()
	e, err := eventstore.StartEmbedded("127.0.0.1:0", dir, eventstoretest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	cfg.Brokers = []string{e.Addr}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := eventstore.Open(ctx, *cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	eventstoretest.Run(t, "log", l.Run)
	return l
}

// TestTheEmbeddedBrokerIsNotImpressedByOtherProtocols sends what a browser sends when a page asks for the broker's port,
// and requests that no Kafka client makes.
func TestTheEmbeddedBrokerIsNotImpressedByOtherProtocols(t *testing.T) {
	broker, err := eventstore.StartEmbedded("127.0.0.1:0", t.TempDir(), eventstoretest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	frame := func(size uint32, kind uint16, rest int) []byte {
		return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(nil, size), kind), make([]byte, rest)...)
	}
	for name, sent := range map[string][]byte{
		"HTTP":           []byte("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
		"TLS":            append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 500)...),
		"huge request":   frame(1<<31-1, 18, 100),
		"unknown kind":   frame(20, 9999, 18),
		"negative kind":  frame(20, 0xffff, 18),
		"tiny request":   frame(3, 18, 100),
		"good, then bad": append(append(frame(10, 18, 8), frame(1<<30, 0, 6)...), make([]byte, 100)...), // ApiVersions 0, without a client id
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c, err := net.Dial("tcp", broker.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := c.Write(sent); err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, c)
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Error("the broker waits for the rest")
			}
			if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 64<<20 {
				t.Errorf("it took %d MiB", (after.TotalAlloc-before.TotalAlloc)>>20)
			}
		})
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).ListTopics(t.Context()); err != nil {
		t.Errorf("a Kafka client afterwards: %v", err)
	}
}
