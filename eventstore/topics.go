package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
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
	if _, err := l.createTopics(ctx); err != nil {
		return err
	}
	meta, err := l.leadersOf(ctx)
	if err != nil {
		return err
	}
	l.remember(meta)
	problems, err := l.inspect(ctx)
	for _, p := range problems {
		err = errors.Join(err, errors.New(p.Text))
		if p.gone { // one broker has just said that it is there
			err = errors.Join(err, kerr.UnknownTopicOrPartition)
		}
	}
	return err
}

// createTopics creates the topics that are missing and returns their names. It refuses to set topics with another
// partition count beside those that are there: neither could be changed afterwards.
func (l *Log) createTopics(ctx context.Context) (created []string, err error) {
	missing, err := l.missingTopics(ctx)
	if err != nil {
		return nil, err
	}
	for _, topic := range missing {
		_, err := l.adm.CreateTopic(ctx, l.cfg.Partitions, l.cfg.Replication, l.topicConfig(topic), topic)
		switch {
		case err == nil:
			created = append(created, topic)
		case !errors.Is(err, kerr.TopicAlreadyExists): // another node was faster
			return created, fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	return created, nil
}

// missingTopics returns the topics that can be created. A broker lists what it has heard of, and one that has not yet
// heard of a topic let us create three others beside it with another partition count: so the controller is asked
// whether each can be created, and the brokers again until they know of those that can't.
func (l *Log) missingTopics(ctx context.Context) (missing []string, err error) {
	for {
		have, err := l.adm.ListTopics(ctx, l.Topics.all()...)
		if err != nil {
			return nil, unavailable("list the topics", err)
		}
		missing = nil
		for _, topic := range l.Topics.all() {
			switch d, ok := have[topic]; {
			case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
				missing = append(missing, topic)
			case d.Err != nil:
				return nil, unavailable("read the metadata of "+topic, d.Err)
			}
		}
		for _, topic := range l.Topics.all() {
			if n := len(have[topic].Partitions); n > 0 && n != int(l.cfg.Partitions) && len(missing) > 0 {
				return nil, fmt.Errorf("topic %s has %d partitions, and %s would be created with %d: all four need the same count",
					topic, n, strings.Join(missing, ", "), l.cfg.Partitions)
			}
		}
		unheard := ""
		for _, topic := range missing {
			answers, err := l.adm.ValidateCreateTopics(ctx, l.cfg.Partitions, l.cfg.Replication, l.topicConfig(topic), topic)
			if err != nil {
				return nil, unavailable("ask whether topic "+topic+" can be created", err)
			}
			switch a := answers[topic]; {
			case errors.Is(a.Err, kerr.TopicAlreadyExists):
				unheard = topic
			case a.Err != nil:
				return nil, fmt.Errorf("create topic %s: %w (%s)", topic, a.Err, cmp.Or(a.ErrMessage, "no reason given"))
			}
		}
		if unheard == "" {
			return missing, nil
		}
		select {
		case <-ctx.Done():
			return nil, unavailable("wait for the brokers to know of topic "+unheard, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// topicConfig is what a topic is created with.
func (l *Log) topicConfig(topic string) map[string]*string {
	ms := "-1"
	if r := l.Topics.retention()[topic]; r > 0 {
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
	return configs
}

// remember notes which cluster and topics these are, for inspect to compare with.
func (l *Log) remember(meta kadm.Metadata) {
	l.cluster, l.ids, l.partitions = meta.Cluster, map[string][16]byte{}, 0
	for _, topic := range l.Topics.all() {
		d := meta.Topics[topic]
		l.ids[topic] = d.ID
		if l.partitions == 0 {
			l.partitions = int32(len(d.Partitions))
		}
	}
}

// Problem is something wrong with the topics.
type Problem struct {
	Text string
	// Fatal: they are not the topics that this node was started on. It writes nothing any more.
	Fatal bool
	gone  bool // a topic was there before and isn't now
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
		problems = append(problems, Problem{Text: fmt.Sprintf(format, args...), Fatal: true})
	}
	if meta.Cluster != l.cluster {
		lost("the brokers are those of cluster %s; this node was started on %s", meta.Cluster, l.cluster)
	}
	for _, topic := range l.Topics.all() {
		d, ok := meta.Topics[topic]
		switch n := int32(len(d.Partitions)); {
		case (!ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition)) && l.ids[topic] == [16]byte{}:
			lost("topic %s does not exist", topic)
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			lost("topic %s is gone", topic)
			problems[len(problems)-1].gone = true
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

// TopicsReport is what CheckTopics has seen.
type TopicsReport struct {
	Cluster string
	Topics  []TopicReport // those that exist
	// Problems is everything wrong with them, one sentence each. None: a node can start on these topics.
	Problems []string
}

// TopicReport is one topic as the brokers describe it.
type TopicReport struct {
	Name        string
	Partitions  int
	Replication int           // of the partition with the fewest replicas
	Retention   time.Duration // negative: for ever
	// Start and End are the oldest offset of each partition and the one after its last readable record; nil when
	// they can't be listed.
	Start, End []int64
}

// CreateTopics creates the topics of cfg that are missing and returns their names. Topics that exist it leaves as they
// are; with another partition count than cfg wants it creates nothing beside them.
func CreateTopics(ctx context.Context, cfg Config) (created []string, err error) {
	l, err := administer(cfg)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if created, err = l.createTopics(ctx); err != nil {
		return created, err
	}
	_, err = l.leadersOf(ctx)
	return created, err
}

// CheckTopics looks at the topics of cfg as a node would at its start, and closer: also at what a node starts with all
// the same, but that loses records when a broker does. It changes nothing. An error tells that it couldn't look.
func CheckTopics(ctx context.Context, cfg Config) (r TopicsReport, err error) {
	l, err := administer(cfg)
	if err != nil {
		return r, err
	}
	defer l.Close()
	meta, err := l.adm.Metadata(ctx, l.Topics.all()...)
	if err != nil {
		return r, unavailable("read the topics' metadata", err)
	}
	l.remember(meta)
	r.Cluster = l.cluster
	problems, err := l.inspect(ctx)
	if err != nil {
		return r, err
	}
	for _, p := range problems {
		r.Problems = append(r.Problems, p.Text)
	}
	for _, topic := range l.Topics.all() {
		if d := meta.Topics[topic]; d.Err != nil || len(d.Partitions) == 0 {
			continue // inspect has said so
		}
		t, problems, err := l.describe(ctx, meta.Topics[topic])
		if err != nil {
			return r, err
		}
		r.Topics, r.Problems = append(r.Topics, t), append(r.Problems, problems...)
	}
	return r, nil
}

// administer is a Log that only asks administrative questions. The caller closes it.
func administer(cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	l := &Log{Topics: topicsOf(cfg.Prefix), cfg: cfg}
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("no Kafka brokers given")
	}
	var err error
	if l.client, err = kgo.NewClient(l.options("topics")...); err != nil {
		return nil, err
	}
	l.adm = kadm.NewClient(l.client)
	return l, nil
}

// describe tells how a topic is, and what about it a node doesn't look at.
func (l *Log) describe(ctx context.Context, d kadm.TopicDetail) (t TopicReport, problems []string, err error) {
	partitions := d.Partitions.Sorted()
	t = TopicReport{Name: d.Topic, Partitions: len(partitions), Replication: len(partitions[0].Replicas)}
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	readable := true
	for _, p := range partitions {
		t.Replication = min(t.Replication, len(p.Replicas))
		switch {
		case p.Leader < 0 || p.Err != nil:
			say("topic %s partition %d has no leader: nobody can read or write it", d.Topic, p.Partition)
			readable = false
		case len(p.ISR) < len(p.Replicas):
			say("topic %s partition %d has %d of %d replicas in sync", d.Topic, p.Partition, len(p.ISR), len(p.Replicas))
		}
	}
	if t.Replication < int(l.cfg.Replication) {
		say("topic %s has replication %d instead of %d", d.Topic, t.Replication, l.cfg.Replication)
	}
	described, err := l.adm.DescribeTopicConfigs(ctx, d.Topic)
	if err != nil {
		return t, nil, unavailable("read the configuration of "+d.Topic, err)
	}
	have := map[string]string{}
	for _, c := range described {
		if c.Err != nil {
			return t, nil, unavailable("read the configuration of "+d.Topic, c.Err)
		}
		for _, kv := range c.Configs {
			if kv.Value != nil {
				have[kv.Key] = *kv.Value
			}
		}
	}
	ms, err := strconv.ParseInt(have["retention.ms"], 10, 64)
	if err != nil {
		return t, nil, fmt.Errorf("retention.ms of %s: %w", d.Topic, err)
	}
	// A Duration ends after 292 years; what is kept longer is kept for ever.
	if t.Retention = -1; ms >= 0 && ms <= math.MaxInt64/int64(time.Millisecond) {
		t.Retention = time.Duration(ms) * time.Millisecond
	}
	want := l.topicConfig(d.Topic)
	for _, key := range slices.Sorted(maps.Keys(want)) {
		value, wanted := have[key], *want[key]
		if _, inspected := eventsConfig[key]; inspected && (d.Topic == l.Topics.Events || key != "cleanup.policy") {
			continue // said already, or theirs to choose: how long the other topics are kept
		}
		if !suffices(key, value, wanted) {
			say("topic %s has %s=%s instead of %s", d.Topic, key, cmp.Or(value, "(not set)"), wanted)
		}
	}
	if !readable {
		return t, problems, nil
	}
	offsets := func(listed kadm.ListedOffsets, err error) []int64 {
		next := make([]int64, t.Partitions)
		if err = errors.Join(err, listed.Error()); err != nil {
			problems = append(problems, fmt.Sprintf("the offsets of topic %s can't be listed: %v", d.Topic, err))
			return nil
		}
		for p := range next {
			o, _ := listed.Lookup(d.Topic, int32(p))
			next[p] = o.Offset
		}
		return next
	}
	t.Start, t.End = offsets(l.adm.ListStartOffsets(ctx, d.Topic)), offsets(l.adm.ListCommittedOffsets(ctx, d.Topic))
	return t, problems, nil
}

// suffices compares a setting with the one that topics are created with: of a number, more is as good.
func suffices(key, value, wanted string) bool {
	have, err := strconv.Atoi(value)
	want, err2 := strconv.Atoi(wanted)
	if err == nil && err2 == nil {
		return have >= want
	}
	return value == wanted
}
