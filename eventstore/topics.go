package eventstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Topics are the names of the log's four topics.
type Topics struct {
	Inbox    string // verified deliveries and commands, as received
	Events   string // events: immutable facts
	Outcomes string // what became of each inbox record
	Parked   string // what could not be handled
}

func topicsOf(prefix string) Topics {
	return Topics{Inbox: prefix + ".inbox", Events: prefix + ".events", Outcomes: prefix + ".outcomes", Parked: prefix + ".parked"}
}

func (t Topics) all() []string { return []string{t.Inbox, t.Events, t.Outcomes, t.Parked} }

// retention of each topic. Events are the truth and are kept for ever.
func (t Topics) retention() map[string]time.Duration {
	const day = 24 * time.Hour
	return map[string]time.Duration{t.Inbox: 30 * day, t.Events: -1, t.Outcomes: 30 * day, t.Parked: 90 * day}
}

// ensureTopics creates what is missing and then checks what is there. It repairs nothing.
func (l *Log) ensureTopics(ctx context.Context) error {
	have, err := l.adm.ListTopics(ctx, l.Topics.all()...)
	if err != nil {
		return unavailable("list the topics", err)
	}
	retention := l.Topics.retention()
	for _, topic := range l.Topics.all() {
		if d, ok := have[topic]; ok && d.Err == nil {
			continue
		}
		ms := "-1"
		if r := retention[topic]; r > 0 {
			ms = strconv.FormatInt(r.Milliseconds(), 10)
		}
		configs := map[string]*string{
			"cleanup.policy": new("delete"), "retention.ms": &ms, "retention.bytes": new("-1"),
			"max.message.bytes": new(strconv.Itoa(MaxRecordBytes)),
		}
		if l.cfg.Replication >= 3 {
			configs["min.insync.replicas"] = new("2")
			configs["unclean.leader.election.enable"] = new("false")
		}
		_, err := l.adm.CreateTopic(ctx, l.cfg.Partitions, l.cfg.Replication, configs, topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	meta, err := l.leadersOf(ctx)
	if err != nil {
		return err
	}
	l.cluster, l.ids = meta.Cluster, map[string][16]byte{}
	for _, topic := range l.Topics.all() {
		l.ids[topic] = meta.Topics[topic].ID
	}
	l.partitions = int32(len(meta.Topics[l.Topics.Inbox].Partitions))
	problems, err := l.inspect(ctx)
	for _, p := range problems {
		err = errors.Join(err, errors.New(p.Text))
	}
	return err
}

// Problem is something wrong with the topics.
type Problem struct {
	Text string
	// Fatal: they are not the topics that this node was started on. It writes nothing any more.
	Fatal bool
}

// leadersOf waits until every partition has a leader: a topic that was just created takes a moment.
func (l *Log) leadersOf(ctx context.Context) (kadm.Metadata, error) {
	for {
		meta, err := l.adm.Metadata(ctx, l.Topics.all()...)
		if err != nil {
			return meta, unavailable("read the topics' metadata", err)
		}
		if meta.Topics.Error() == nil && allLed(meta.Topics) {
			return meta, nil
		}
		select {
		case <-ctx.Done():
			return meta, unavailable("wait for the topics' leaders", errors.Join(ctx.Err(), meta.Topics.Error()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// inspect compares the topics with what this log was opened on, and says everything that would endanger the promises.
// err tells that it couldn't look.
func (l *Log) inspect(ctx context.Context) (problems []Problem, err error) {
	meta, err := l.adm.Metadata(ctx, l.Topics.all()...)
	if err != nil {
		return nil, unavailable("read the topics' metadata", err)
	}
	lost := func(format string, args ...any) {
		problems = append(problems, Problem{fmt.Sprintf(format, args...), true})
	}
	if meta.Cluster != l.cluster {
		lost("the brokers are those of cluster %s; this node was started on %s", meta.Cluster, l.cluster)
	}
	for _, topic := range l.Topics.all() {
		d, ok := meta.Topics[topic]
		switch n := int32(len(d.Partitions)); {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			lost("topic %s is gone", topic)
		case d.Err != nil:
			return nil, unavailable("read the metadata of "+topic, d.Err)
		case d.ID != l.ids[topic]:
			lost("topic %s was deleted and created anew: its history is gone; restart the nodes to begin again from what is there", topic)
		case n != l.partitions:
			lost("topic %s has %d partitions instead of %d: all four need the same count, and it can't change, because streams would move", topic, n, l.partitions)
		}
	}
	configs, err := l.adm.DescribeTopicConfigs(ctx, l.Topics.Events)
	if err != nil {
		return problems, unavailable("read the configuration of "+l.Topics.Events, err)
	}
	for _, c := range configs {
		for _, kv := range c.Configs {
			if want, ok := eventsConfig[kv.Key]; ok && kv.Value != nil && *kv.Value != want {
				problems = append(problems, Problem{Text: fmt.Sprintf("topic %s has %s=%s and would lose history: set it to %s", c.Name, kv.Key, *kv.Value, want)})
			}
		}
	}
	return problems, nil
}

// eventsConfig is what keeps the events for ever.
var eventsConfig = map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

func allLed(topics kadm.TopicDetails) bool {
	for _, t := range topics {
		if len(t.Partitions) == 0 {
			return false
		}
		for _, p := range t.Partitions {
			if p.Leader < 0 || p.Err != nil {
				return false
			}
		}
	}
	return true
}
