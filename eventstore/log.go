package eventstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// MaxRecordBytes bounds one record, and so every body: the largest provider (GitHub) sends up to 25 MB.
const MaxRecordBytes = 27 << 20

// Config says which log to open. The zero values of everything but Brokers have a meaning.
type Config struct {
	Brokers []string
	// Prefix of the four topics and of every group and transactional id. Default "penstock".
	Prefix string
	// Partitions of topics that are created; topics that exist keep theirs. Default 8.
	Partitions int32
	// Replication of topics that are created. Default 1; with 3 or more, min.insync.replicas is set to 2.
	Replication int16
	// TailBytes bounds the in-memory tail of each followed topic. Default 64 MiB.
	TailBytes int64
	// FetchSlots bounds how many fetches of older records are made for clients at once, and how many bytes of them
	// clients hold: 2 MiB for each slot, or one larger record. Default 32.
	FetchSlots int
	// MemberFile is where a node keeps which member of the writers' group it is, in a folder that no other process works
	// in. With it a node that was killed needn't wait until the group has given it up. "" for none.
	MemberFile string
	Logger     *slog.Logger
	Metrics    prometheus.Registerer // nil for none
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "penstock"
	}
	if c.Partitions == 0 {
		c.Partitions = 8
	}
	if c.Replication == 0 {
		c.Replication = 1
	}
	if c.TailBytes == 0 {
		c.TailBytes = 64 << 20
	}
	if c.FetchSlots == 0 {
		c.FetchSlots = 32
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Log is the truth: four topics (see docs/topics.md), read and written through Kafka. It is safe for concurrent use.
type Log struct {
	Topics Topics

	cfg        Config
	client     *kgo.Client // appends to the inbox, asks administrative questions
	appends    *groups     // through client
	reader     *kgo.Client // reads older records, so that they don't queue before appends
	adm        *kadm.Client
	cluster    string
	partitions int32
	ids        map[string][16]byte
	tails      map[string]*Tail    // events and outcomes
	slots      chan struct{}       // fetches that are made for clients
	lent       *semaphore.Weighted // bytes that clients hold; see borrow
	hash       kgo.TopicPartitioner

	stableLag *prometheus.GaugeVec
	problems  atomic.Pointer[[]Problem]
	lookNow   chan struct{}
	joined    atomic.Bool
}

// Open connects, creates the topics that are missing and checks those that exist. It gives up when ctx ends. The
// caller runs Run and, at the end, calls Close.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("no Kafka brokers given")
	}
	l := &Log{
		Topics: topicsOf(cfg.Prefix), cfg: cfg, slots: make(chan struct{}, cfg.FetchSlots),
		lent: semaphore.NewWeighted(int64(cfg.FetchSlots) * fetchBytes),
		hash: kgo.StickyKeyPartitioner(nil).ForTopic(""), tails: map[string]*Tail{},
		lookNow: make(chan struct{}, 1),
	}
	l.stableLag = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "penstock_stable_offset_lag",
		Help: "Offsets between the last stable offset and the end: what open transactions hold back."}, []string{"topic", "partition"})
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(l.stableLag)
	}
	if err := l.open(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	var err error
	l.client, err = kgo.NewClient(l.options("append",
		kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(MaxRecordBytes),
		// How long one record may wait for a broker. Not the request's context: a hang-up must not cancel a write.
		kgo.RecordDeliveryTimeout(10*time.Second),
		kgo.MaxBufferedBytes(appendBuffer),
		kgo.MaxBufferedRecords(appendRecords),
	)...)
	if err != nil {
		return err
	}
	if l.reader, err = kgo.NewClient(l.options("catch-up")...); err != nil {
		return err
	}
	l.appends = newGroups(l.client.TryProduce)
	l.adm = kadm.NewClient(l.client)
	// A topic that was just created, perhaps by another node, is not known to every broker at once; and a broker that is
	// going down or coming up may answer, or close a connection, in ways that the client doesn't retry by itself.
	for {
		err = l.begin(ctx)
		if !errors.Is(err, kerr.UnknownTopicOrPartition) && domain.ClassOf(err) != domain.Unavailable {
			return err // also nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// begin creates and checks the topics and finds where to follow them from.
func (l *Log) begin(ctx context.Context) error {
	if err := l.ensureTopics(ctx); err != nil {
		return err
	}
	for _, topic := range []string{l.Topics.Events, l.Topics.Outcomes} {
		end, err := l.End(ctx, topic)
		if err != nil {
			return err
		}
		tail := NewTail(end, l.cfg.TailBytes)
		if topic == l.Topics.Events { // which clients follow
			tail = l.primed(ctx, topic, tail)
		}
		l.tails[topic] = tail
	}
	return nil
}

// options are what all clients of this log share.
func (l *Log) options(part string, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(l.cfg.Brokers...),
		kgo.ClientID(l.cfg.Prefix + "-" + part),
		kgo.WithLogger(kgoLogger{l.cfg.Logger.With("client", part)}),
		kgo.DialTimeout(5 * time.Second),
		// A fresh leader or a freshly created topic should be seen at once, not after the default five seconds.
		kgo.MetadataMinAge(50 * time.Millisecond),
	}, more...)
}

// Run keeps the tails filled and watches the topics until ctx ends. It returns nil then, and an error when the log can't
// be followed any more: a topic that was cut short, or permissions taken away.
func (l *Log) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for topic, tail := range l.tails {
		g.Go(func() error { return l.fill(ctx, topic, tail) })
	}
	g.Go(func() error { return l.guard(ctx) })
	err := g.Wait()
	for _, tail := range l.tails {
		tail.Fail(errors.Join(ErrClosed, err))
	}
	return err
}

// Close flushes nothing (every append waits for its own acknowledgement) and releases the connections.
func (l *Log) Close() {
	if l.client != nil {
		l.client.Close()
	}
	if l.reader != nil {
		l.reader.Close()
	}
}

// Cluster returns Kafka's cluster id.
func (l *Log) Cluster() string { return l.cluster }

// Partitions returns the partition count, which all four topics share.
func (l *Log) Partitions() int32 { return l.partitions }

// PartitionOf returns the partition of a stream: murmur2 as in Java's default partitioner, so that any client agrees.
func (l *Log) PartitionOf(s domain.Stream) int32 {
	r := keyed.Get().(*kgo.Record)
	defer keyed.Put(r)
	r.Key = append(r.Key[:0], s...)
	return int32(l.hash.Partition(r, int(l.partitions)))
}

// keyed are records for PartitionOf, which each delivery needs up to three times.
var keyed = sync.Pool{New: func() any { return new(kgo.Record) }}

// Start is the position of the oldest record that topic still has.
func (l *Log) Start(ctx context.Context, topic string) (Position, error) {
	return l.position(topic)(l.adm.ListStartOffsets(ctx, topic))
}

// End is the position of the last stable offset: everything before it is decided and readable.
func (l *Log) End(ctx context.Context, topic string) (Position, error) {
	return l.position(topic)(l.adm.ListCommittedOffsets(ctx, topic))
}

// At is the position of the first record of each partition whose timestamp is t or later. It is a lower bound, not an
// exact moment: timestamps of one partition need not be in order.
func (l *Log) At(ctx context.Context, topic string, t time.Time) (Position, error) {
	return l.position(topic)(l.adm.ListOffsetsAfterMilli(ctx, t.UnixMilli(), topic))
}

func (l *Log) position(topic string) func(kadm.ListedOffsets, error) (Position, error) {
	return func(listed kadm.ListedOffsets, err error) (Position, error) {
		if err == nil {
			err = listed.Error()
		}
		if err != nil {
			return Position{}, unavailable("list the offsets of "+topic, err)
		}
		p := Position{Topic: l.ids[topic], Next: make([]int64, l.partitions)}
		for i := range p.Next {
			o, ok := listed.Lookup(topic, int32(i))
			if !ok {
				return Position{}, unavailable("list the offsets of "+topic, fmt.Errorf("partition %d is missing", i))
			}
			p.Next[i] = o.Offset
		}
		return p, nil
	}
}

// unavailable wraps a failure of Kafka that may pass.
func unavailable(what string, err error) error {
	return &domain.Error{Class: domain.Unavailable, Message: what, Err: err}
}

// fill polls one topic into its tail: the one live consumer of that topic on this node.
func (l *Log) fill(ctx context.Context, topic string, tail *Tail) error {
	at := tail.End()
	offsets := map[int32]kgo.Offset{}
	for p, next := range at.Next {
		offsets[int32(p)] = kgo.NewOffset().At(next)
	}
	cl, err := kgo.NewClient(l.options("tail",
		// Or closing would take up to two seconds to say goodbye to brokers that are away.
		kgo.WithContext(ctx),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Markers take offsets. Keeping them is what lets a position pass the last marker and reach the end.
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxWait(time.Second),
	)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, tickEvery)
		fetches := cl.PollRecords(wait, 10_000)
		cancel()
		if err := pollError(fetches); err != nil && ctx.Err() == nil {
			return fmt.Errorf("follow %s: %w", topic, err)
		}
		b := &Batch{Shared: true, Next: at.Clone()}
		size, records := int64(0), fetches.Records()
		for _, r := range records {
			b.Next.Next[r.Partition] = r.Offset + 1
			if !r.Attrs.IsControl() {
				size += sizeOf(r)
			}
		}
		if len(records) == 0 {
			tail.Tick()
			continue
		}
		b.later = func() []*Record { return l.decodeAll(records) }
		at = b.Next
		tail.Append(b, size)
	}
	return nil
}

// tickEvery wakes waiting followers also when nothing arrives, so that none of them needs a timer of its own.
const tickEvery = 5 * time.Second

// pollError picks the errors that a tail can't outlive. Everything that passes by itself is retried inside the client.
// That includes a topic id that the brokers no longer know: the client stays with the topic that it was started on and
// gives nothing of one that was created under the same name since; the guard says what has happened.
func pollError(fetches kgo.Fetches) error {
	var errs []error
	fetches.EachError(func(topic string, partition int32, err error) {
		early, _ := errors.AsType[*kgo.ErrFirstReadEOF](err)
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), kerr.IsRetriable(err):
		// A broker, or a balancer before it, that takes a connection and closes it while it goes down. The client says so
		// because it might be a wrong TLS setting, and tries again; without this, one such broker ended every node.
		case early != nil:
		case errors.Is(err, kerr.OffsetOutOfRange):
			errs = append(errs, fmt.Errorf("partition %d: %w", partition, ErrExpired))
		default:
			errs = append(errs, fmt.Errorf("partition %d: %w", partition, err))
		}
	})
	return errors.Join(errs...)
}

// decodeAll leaves out markers.
func (l *Log) decodeAll(records []*kgo.Record) (all []*Record) {
	for _, r := range records {
		if rec := l.decode(r); rec != nil {
			all = append(all, rec)
		}
	}
	return all
}

// sizeOf is about how much memory a decoded record takes. Its bytes count twice: once as they are, once for the encoding
// that feeds share.
func sizeOf(r *kgo.Record) int64 { return 2*int64(len(r.Key)+len(r.Value)) + 2048 }

// decode turns a Kafka record into what followers see; nil for markers.
func (l *Log) decode(r *kgo.Record) *Record {
	if r.Attrs.IsControl() {
		return nil
	}
	rec := &Record{Partition: r.Partition, Offset: r.Offset, size: sizeOf(r)}
	switch r.Topic {
	case l.Topics.Events:
		var e domain.Event
		if e, rec.Err = eventOf(r); rec.Err == nil {
			rec.Event = &e
		}
	case l.Topics.Outcomes:
		var o domain.Outcome
		if o, rec.Err = outcomeOf(r); rec.Err == nil {
			rec.Outcome = &o
		}
	}
	if rec.Err != nil {
		l.cfg.Logger.Warn("a foreign record is left out", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", rec.Err)
	}
	return rec
}

// kgoLogger passes the client's warnings and errors on.
type kgoLogger struct{ *slog.Logger }

func (k kgoLogger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (k kgoLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	// What matters comes back as an error and is said where it is handled; the rest is a line per attempt while a
	// broker is away.
	lv := slog.LevelDebug
	if level == kgo.LogLevelError {
		lv = slog.LevelInfo
	}
	k.Logger.Log(context.Background(), lv, "kafka: "+msg, keyvals...)
}

// TailEnd is the position after the newest record of events or outcomes that this node has seen. The caller must not
// change it.
func (l *Log) TailEnd(topic string) Position { return l.tails[topic].End() }
