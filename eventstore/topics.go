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
	return l.checkTopics(ctx)
}

// checkTopics learns cluster id, topic ids and partition count, and says everything that would endanger the promises.
func (l *Log) checkTopics(ctx context.Context) error {
	var meta kadm.Metadata
	for {
		var err error
		if meta, err = l.adm.Metadata(ctx, l.Topics.all()...); err != nil {
			return unavailable("read the topics' metadata", err)
		}
		// A topic that was just created takes a moment to have leaders.
		if meta.Topics.Error() == nil && allLed(meta.Topics) {
			break
		}
		select {
		case <-ctx.Done():
			return unavailable("wait for the topics' leaders", errors.Join(ctx.Err(), meta.Topics.Error()))
		case <-time.After(50 * time.Millisecond):
		}
	}
	l.cluster = meta.Cluster
	l.ids = map[string][16]byte{}
	var problems []error
	for _, topic := range l.Topics.all() {
		d := meta.Topics[topic]
		n := int32(len(d.Partitions))
		if l.partitions == 0 {
			l.partitions = n
		}
		if n != l.partitions {
			problems = append(problems, fmt.Errorf("topic %s has %d partitions, %s has %d: all four need the same count, and it can't change", topic, n, l.Topics.Inbox, l.partitions))
		}
		l.ids[topic] = d.ID
	}
	configs, err := l.adm.DescribeTopicConfigs(ctx, l.Topics.Events)
	if err != nil {
		return unavailable("read the configuration of "+l.Topics.Events, err)
	}
	for _, c := range configs {
		for key, want := range map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"} {
			for _, kv := range c.Configs {
				if kv.Key == key && kv.Value != nil && *kv.Value != want {
					problems = append(problems, fmt.Errorf("topic %s has %s=%s and would lose history: set it to %s", c.Name, key, *kv.Value, want))
				}
			}
		}
	}
	return errors.Join(problems...)
}

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
