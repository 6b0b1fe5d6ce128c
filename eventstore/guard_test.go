package eventstore_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// outsider is a client that knows nothing of us.
func outsider(t *testing.T, cfg eventstore.Config, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(cfg.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// said waits until the guard says text, looking again and again.
func said(t *testing.T, l *eventstore.Log, text string) (found eventstore.Problem) {
	t.Helper()
	eventstoretest.Until(t, "the guard says "+text, func() bool {
		l.Look()
		for _, p := range l.Problems() {
			if strings.Contains(p.Text, text) {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

func TestTheGuardSaysWhatEndangersThePromises(t *testing.T) {
	entry := eventstore.Entry{Kind: eventstore.KindDelivery, ID: "d", Source: "s", Type: "t", Stream: "s/k", Received: time.Now()}
	t.Run("finite retention", func(t *testing.T) {
		t.Parallel()
		cfg := eventstoretest.Config(t)
		l := eventstoretest.Open(t, cfg)
		adm := kadm.NewClient(outsider(t, cfg))
		set := func(ms string) {
			if _, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &ms}}, l.Topics.Events); err != nil {
				t.Fatal(err)
			}
		}
		set("60000")
		if p := said(t, l, "would lose history"); p.Fatal {
			t.Error("history isn't lost yet")
		}
		if err := l.Append(t.Context(), entry); err != nil {
			t.Error(err)
		}
		set("-1")
		eventstoretest.Until(t, "it is mended", func() bool { l.Look(); return len(l.Problems()) == 0 })
	})
	t.Run("more partitions", func(t *testing.T) {
		t.Parallel()
		cfg := eventstoretest.Config(t)
		l := eventstoretest.Open(t, cfg)
		if _, err := kadm.NewClient(outsider(t, cfg)).CreatePartitions(t.Context(), 1, l.Topics.Events); err != nil {
			t.Fatal(err)
		}
		if p := said(t, l, "has 4 partitions instead of 3"); !p.Fatal {
			t.Error("streams would move")
		}
		if err := l.Append(t.Context(), entry); domain.ClassOf(err) != domain.Unavailable {
			t.Errorf("append: %v", err)
		}
	})
	t.Run("recreated", func(t *testing.T) {
		t.Parallel()
		cfg := eventstoretest.Config(t)
		l := eventstoretest.Open(t, cfg)
		adm := kadm.NewClient(outsider(t, cfg))
		if _, err := adm.DeleteTopics(t.Context(), l.Topics.Inbox); err != nil {
			t.Fatal(err)
		}
		said(t, l, "is gone")
		eventstoretest.Until(t, "the name is free again", func() bool {
			_, err := adm.CreateTopic(t.Context(), 3, 1, nil, l.Topics.Inbox)
			return err == nil
		})
		if p := said(t, l, "created anew"); !p.Fatal {
			t.Error("its history is gone")
		}
		if err := l.Append(t.Context(), entry); domain.ClassOf(err) != domain.Unavailable {
			t.Errorf("append: %v", err)
		}
	})
	t.Run("hanging transaction", func(t *testing.T) {
		t.Parallel()
		cfg := eventstoretest.Config(t)
		l := eventstoretest.Open(t, cfg)
		foreign := outsider(t, cfg, kgo.TransactionalID(cfg.Prefix+"-foreign"), kgo.TransactionTimeout(time.Minute))
		if err := foreign.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := foreign.ProduceSync(t.Context(), &kgo.Record{Topic: l.Topics.Events, Partition: 2, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		id, _, err := foreign.ProducerID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := said(t, l, "holds a transaction open in "+l.Topics.Events+" partition 2")
		if want := "producer id " + itoa(id); !strings.Contains(p.Text, want) {
			t.Errorf("%q doesn't name %s", p.Text, want)
		}
		if err := foreign.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
		eventstoretest.Until(t, "it is over", func() bool { l.Look(); return len(l.Problems()) == 0 })
	})
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// TestNothingOfARecreatedTopicIsTakenForTheOldOne: its offsets begin again, under the same name.
func TestNothingOfARecreatedTopicIsTakenForTheOldOne(t *testing.T) {
	t.Parallel()
	cfg := eventstoretest.Config(t)
	l := eventstoretest.Open(t, cfg)
	topic := l.Topics.Events
	if err := writer(t, l, 1).Commit(eventstore.Commit{Events: []domain.Event{event("s/a", 1, 1)}}); err != nil {
		t.Fatal(err)
	}
	start, err := l.Start(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.Follow(t.Context(), topic, start)
	if err != nil {
		t.Fatal(err)
	}
	collect(t, f, 1)
	adm := kadm.NewClient(outsider(t, cfg))
	if _, err := adm.DeleteTopics(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	said(t, l, "is gone")
	eventstoretest.Until(t, "the name is free again", func() bool {
		_, err := adm.CreateTopic(t.Context(), 3, 1, nil, topic)
		return err == nil
	})
	said(t, l, "created anew")
	impostor := outsider(t, cfg)
	for range 10 { // beyond the offset that the follower stands at
		if err := impostor.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: 1, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		b, err := f.Next(ctx)
		if err != nil {
			return
		}
		if len(b.Records) > 0 {
			t.Fatalf("record %d/%d of the new topic was given out", b.Records[0].Partition, b.Records[0].Offset)
		}
	}
}
