package eventstore_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
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
