package eventstore_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// existing returns the topics of the prefix, as others see them.
func existing(t *testing.T, cfg eventstore.Config) (names []string) {
	t.Helper()
	all, err := kadm.NewClient(outsider(t, cfg)).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all.Names() {
		if strings.HasPrefix(name, cfg.Prefix+".") {
			names = append(names, name)
		}
	}
	return names
}

func check(t *testing.T, cfg eventstore.Config) eventstore.TopicsReport {
	t.Helper()
	r, err := eventstore.CheckTopics(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTopicsAreCreatedOnceAndChecked(t *testing.T) {
	cfg := eventstoretest.Config(t)
	r := check(t, cfg)
	if len(r.Problems) != 4 || !strings.Contains(r.Problems[0], "does not exist") || len(r.Topics) != 0 {
		t.Errorf("before they exist: %+v", r)
	}
	if names := existing(t, cfg); len(names) != 0 {
		t.Fatalf("a check has created %v", names)
	}
	created, err := eventstore.CreateTopics(t.Context(), cfg)
	want := []string{cfg.Prefix + ".inbox", cfg.Prefix + ".events", cfg.Prefix + ".outcomes", cfg.Prefix + ".parked"}
	if err != nil || !slices.Equal(created, want) {
		t.Fatalf("created %v, %v", created, err)
	}
	if again, err := eventstore.CreateTopics(t.Context(), cfg); err != nil || len(again) != 0 {
		t.Errorf("created again: %v, %v", again, err)
	}
	l := eventstoretest.Open(t, cfg) // a node is content with them
	for i := range 5 {
		e := eventstore.Entry{Kind: eventstore.KindDelivery, ID: string(rune('a' + i)), Source: "s", Type: "t", Stream: "s/k", Received: time.Now()}
		if err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	r = check(t, cfg)
	if len(r.Problems) != 0 || len(r.Topics) != 4 || r.Cluster != l.Cluster() {
		t.Fatalf("%+v", r)
	}
	for i, topic := range r.Topics {
		kept := []time.Duration{30 * 24 * time.Hour, -1, 30 * 24 * time.Hour, 90 * 24 * time.Hour}[i]
		if topic.Name != want[i] || topic.Partitions != 3 || topic.Replication != 1 || topic.Retention != kept || len(topic.Start) != 3 {
			t.Errorf("%+v", topic)
		}
	}
	if inbox := r.Topics[0]; inbox.End[l.PartitionOf("s/k")] != 5 || slices.Max(inbox.Start) != 0 {
		t.Errorf("%+v", inbox)
	}
}

func TestTopicsOfAnotherPartitionCountAreNotMixed(t *testing.T) {
	cfg := eventstoretest.Config(t)
	adm := kadm.NewClient(outsider(t, cfg))
	if _, err := adm.CreateTopic(t.Context(), 5, 1, nil, cfg.Prefix+".events"); err != nil {
		t.Fatal(err)
	}
	if created, err := eventstore.CreateTopics(t.Context(), cfg); err == nil || len(created) != 0 || !strings.Contains(err.Error(), "has 5 partitions") {
		t.Errorf("created %v, %v", created, err)
	}
	if l, err := eventstore.Open(t.Context(), cfg); err == nil {
		l.Close()
		t.Error("a node has started on them")
	}
	if names := existing(t, cfg); len(names) != 1 {
		t.Errorf("there are %v", names)
	}
}

// A broker that has not yet heard of a topic says that there is none.
func TestTopicsThatABrokerHasNotHeardOfAreNotMixed(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := eventstore.Config{Brokers: cluster.ListenAddrs(), Prefix: eventstoretest.Prefix(), Partitions: 3, Replication: 1}
	adm := kadm.NewClient(outsider(t, cfg))
	if _, err := adm.CreateTopic(t.Context(), 5, 1, nil, cfg.Prefix+".events"); err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(cluster.ListenAddrs()[0], ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	behind := 0
	cluster.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		asked := r.(*kmsg.MetadataRequest)
		if len(asked.Topics) == 0 || behind == 2 {
			cluster.KeepControl()
			return nil, nil, false
		}
		behind++
		cluster.KeepControl()
		answer := asked.ResponseKind().(*kmsg.MetadataResponse)
		answer.ClusterID, answer.ControllerID = new("c"), 0
		answer.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 0, Host: host, Port: int32(number)}}
		for _, topic := range asked.Topics {
			answer.Topics = append(answer.Topics, kmsg.MetadataResponseTopic{Topic: topic.Topic, ErrorCode: kerr.UnknownTopicOrPartition.Code})
		}
		return answer, nil, true
	})
	created, err := eventstore.CreateTopics(t.Context(), cfg)
	if err == nil || len(created) != 0 || !strings.Contains(err.Error(), "has 5 partitions") {
		t.Errorf("created %v, %v", created, err)
	}
	if names := existing(t, cfg); behind != 2 || len(names) != 1 {
		t.Errorf("behind %d times; there are %v", behind, names)
	}
}

func TestACheckSaysEverythingThatIsWrong(t *testing.T) {
	cfg := eventstoretest.Config(t)
	if _, err := eventstore.CreateTopics(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(outsider(t, cfg))
	set := func(topic, key, value string) {
		t.Helper()
		if _, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, cfg.Prefix+topic); err != nil {
			t.Fatal(err)
		}
	}
	set(".events", "retention.ms", "60000")
	set(".inbox", "cleanup.policy", "compact")
	set(".parked", "max.message.bytes", "1000")
	set(".outcomes", "retention.ms", "86400000") // theirs to choose
	if _, err := adm.CreatePartitions(t.Context(), 2, cfg.Prefix+".outcomes"); err != nil {
		t.Fatal(err)
	}
	cfg.Replication = 2
	var got eventstore.TopicsReport
	eventstoretest.Until(t, "the brokers have heard of all changes", func() bool {
		got = check(t, cfg)
		return len(got.Problems) >= 4+4 && len(got.Topics) == 4 && got.Topics[2].Retention == 24*time.Hour
	})
	said := strings.Join(got.Problems, "\n")
	for _, want := range []string{
		".events has retention.ms=60000", ".inbox has cleanup.policy=compact instead of delete",
		".parked has max.message.bytes=1000", ".outcomes has 5 partitions instead of 3", ".inbox has replication 1 instead of 2",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("it doesn't say %q:\n%s", want, said)
		}
	}
	if len(got.Problems) != 4+4 { // the replication is that of all four
		t.Errorf("it says:\n%s", said)
	}
	if len(got.Topics) != 4 || got.Topics[2].Partitions != 5 || got.Topics[2].Retention != 24*time.Hour {
		t.Errorf("%+v", got.Topics)
	}
}
