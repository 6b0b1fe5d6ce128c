package eventstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// transactionTimeout bounds how long a dead writer can hold back the readers of its partition.
	transactionTimeout = 10 * time.Second
	// commitTimeout is longer, so that the broker has decided before we stop waiting for its answer.
	commitTimeout = 15 * time.Second
)

// Writer is the only one that may commit to a partition, until another Writer is opened for it anywhere. Not for
// concurrent use.
type Writer struct {
	log       *Log
	partition int32
	producer  *kgo.Client
	inbox     *kgo.Client // nil until ReadFrom
	// The offsets that the next records will get. Predicted, so that an outcome can name its events' offsets in the
	// same transaction; checked when the broker answers.
	nextEvent, nextOutcome, nextParked int64
	behind                             int64
}

// OpenWriter fences whoever wrote to the partition before: InitProducerID raises the producer's epoch and aborts what
// the predecessor left open. Only after that does it ask where the logs end, so nothing the predecessor managed to
// commit can lie beyond Ends. Read the fold up to Ends before deciding anything.
func (l *Log) OpenWriter(ctx context.Context, partition int32) (*Writer, error) {
	w := &Writer{log: l, partition: partition}
	id := fmt.Sprintf("%s.writer.%d", l.cfg.Prefix, partition)
	if Broken("no-fence") {
		id += rand.Text()
	}
	var err error
	w.producer, err = kgo.NewClient(l.options(fmt.Sprintf("writer-%d", partition),
		kgo.TransactionalID(id),
		kgo.TransactionTimeout(transactionTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(MaxRecordBytes),
		// Kafka 4 answers a transaction that starts before the last one is fully completed with
		// CONCURRENT_TRANSACTIONS; the client then refreshes metadata and waits. The defaults make that a stall of
		// up to five seconds.
		kgo.MetadataMinAge(20*time.Millisecond),
		kgo.RetryBackoffFn(func(try int) time.Duration { return min(time.Duration(try)*5*time.Millisecond, 250*time.Millisecond) }),
	)...)
	if err != nil {
		return nil, err
	}
	if Broken("read-before-fence") {
		if err = w.findEnds(ctx); err != nil {
			w.Close()
			return nil, err
		}
		time.Sleep(3 * time.Second)
	}
	if _, _, err = w.producer.ProducerID(ctx); err != nil {
		w.Close()
		return nil, fmt.Errorf("fence partition %d: %w", partition, classify(err))
	}
	if Broken("read-before-fence") {
		return w, nil
	}
	if err = w.findEnds(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// findEnds asks for the ends including what isn't decided yet.
func (w *Writer) findEnds(ctx context.Context) error {
	ends, err := w.log.adm.ListEndOffsets(ctx, w.log.Topics.Events, w.log.Topics.Outcomes, w.log.Topics.Parked)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return unavailable(fmt.Sprintf("find the end of partition %d", w.partition), err)
	}
	e, ok1 := ends.Lookup(w.log.Topics.Events, w.partition)
	o, ok2 := ends.Lookup(w.log.Topics.Outcomes, w.partition)
	p, ok3 := ends.Lookup(w.log.Topics.Parked, w.partition)
	if !ok1 || !ok2 || !ok3 {
		return unavailable(fmt.Sprintf("find the end of partition %d", w.partition), nil)
	}
	w.nextEvent, w.nextOutcome, w.nextParked = e.Offset, o.Offset, p.Offset
	return nil
}

// Ends returns the offsets up to which the fold of events and outcomes must be read before this writer may decide.
func (w *Writer) Ends() (events, outcomes int64) { return w.nextEvent, w.nextOutcome }

// NextEvent is the offset that the first event of the next Commit will get; the following ones count up from it.
func (w *Writer) NextEvent() int64 { return w.nextEvent }

// NextParked is the offset that the first parked entry of the next Commit will get.
func (w *Writer) NextParked() int64 { return w.nextParked }

// ReadFrom starts reading the partition's inbox at offset, or at the oldest entry still there.
func (w *Writer) ReadFrom(ctx context.Context, offset int64) error {
	oldest, err := w.log.Start(ctx, w.log.Topics.Inbox)
	if err != nil {
		return err
	}
	if first := oldest.Next[w.partition]; offset < first {
		if offset > 0 {
			w.log.cfg.Logger.Error("the inbox lost entries to its retention before they were handled",
				"partition", w.partition, "expected", offset, "oldest", first)
		}
		offset = first
	}
	w.inbox, err = kgo.NewClient(w.log.options(fmt.Sprintf("inbox-%d", w.partition),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{w.log.Topics.Inbox: {w.partition: kgo.NewOffset().At(offset)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // follow-up commands come in other writers' transactions
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxWait(time.Second),
	)...)
	return err
}

// CommittedInbox is the inbox offset that the ownership group remembers, 0 if none.
func (w *Writer) CommittedInbox(ctx context.Context) (int64, error) {
	offsets, err := w.log.adm.FetchOffsets(ctx, w.log.writersGroup())
	if errors.Is(err, kerr.GroupIDNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, unavailable("read the group's offsets", err)
	}
	o, _ := offsets.Lookup(w.log.Topics.Inbox, w.partition)
	return max(o.At, 0), nil
}

// Poll waits for entries and returns at most n of them in order. A record that no node of ours wrote comes as a Foreign
// entry with its offset. It returns nothing when ctx ends.
func (w *Writer) Poll(ctx context.Context, n int) ([]Entry, error) {
	return w.entries(ctx, w.inbox.PollRecords(ctx, n))
}

// Behind is how many offsets the inbox had beyond the last entry given out, when that was fetched.
func (w *Writer) Behind() int64 { return w.behind }

// More returns at most n further entries that are here already.
func (w *Writer) More(n int) ([]Entry, error) {
	if n <= 0 {
		return nil, nil
	}
	//lint:ignore SA1012 to this client nil means "don't wait"; a context that is over would give nothing
	return w.entries(context.Background(), w.inbox.PollRecords(nil, n))
}

func (w *Writer) entries(ctx context.Context, fetches kgo.Fetches) ([]Entry, error) {
	if err := pollError(fetches); err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("read the inbox: %w", err)
	}
	entries := make([]Entry, 0, fetches.NumRecords())
	fetches.EachRecord(func(r *kgo.Record) {
		e, err := entryOf(r)
		e.Foreign = err
		entries = append(entries, e)
	})
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(entries) > 0 {
			w.behind = p.HighWatermark - entries[len(entries)-1].Offset - 1
		}
	})
	return entries, nil
}

// Commit is what one handled batch of inbox entries leaves behind, all of it or nothing.
type Commit struct {
	Events   []domain.Event
	Outcomes []EncodedOutcome
	Commands []Entry // follow-ups, to any partition of the inbox
	Parked   []ParkedEntry
}

// ParkedEntry is an inbox entry that could not be handled.
type ParkedEntry struct {
	Entry
	Reason string
}

// Commit writes c in one transaction. Every error ends this writer's life: close it, open another (which fences),
// read the fold to the end and look there for what became of the batch. ErrFenced says that another writer has the
// partition; anything else, above all ErrUnknown, says nothing about whether c was committed.
func (w *Writer) Commit(c Commit) error {
	// No caller's context: a commit must not be cancelled half-way.
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if err := w.log.intact(); err != nil {
		return err
	}
	records, err := w.records(c)
	if err != nil {
		return err
	}
	if err := w.producer.BeginTransaction(); err != nil {
		return classify(err)
	}
	results := w.producer.ProduceSync(ctx, records...)
	if err := w.verify(records, results); err != nil && Broken("commit-assumed-done") {
		w.producer.EndTransaction(ctx, kgo.TryAbort)
		return nil
	} else if err != nil {
		return errors.Join(err, w.producer.EndTransaction(ctx, kgo.TryAbort))
	}
	if err := w.producer.EndTransaction(ctx, kgo.TryCommit); err != nil && !Broken("commit-assumed-done") {
		return classify(err)
	}
	// The commit marker takes one offset in every partition that the transaction wrote to.
	if n := int64(len(c.Events)); n > 0 {
		w.nextEvent += n + 1
	}
	if n := int64(len(c.Outcomes)); n > 0 {
		w.nextOutcome += n + 1
	}
	if n := int64(len(c.Parked)); n > 0 {
		w.nextParked += n + 1
	}
	return nil
}

func (w *Writer) records(c Commit) ([]*kgo.Record, error) {
	t := w.log.Topics
	records := make([]*kgo.Record, 0, len(c.Events)+len(c.Outcomes)+len(c.Commands)+len(c.Parked))
	headers := newHeaders(len(c.Events), eventTexts*len(c.Events))
	for _, e := range c.Events {
		records = append(records, eventRecord(t.Events, w.partition, e, headers))
	}
	for _, o := range c.Outcomes {
		r, err := o.record(t.Outcomes)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	for _, e := range c.Commands {
		records = append(records, e.record(t.Inbox, w.log.PartitionOf(e.Stream)))
	}
	for _, p := range c.Parked {
		r := p.record(t.Parked, w.partition)
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "ps_reason", Value: []byte(p.Reason)})
		records = append(records, r)
	}
	return records, nil
}

// verify compares the offsets that the broker gave with the predicted ones.
func (w *Writer) verify(records []*kgo.Record, results kgo.ProduceResults) error {
	if err := results.FirstErr(); err != nil {
		return classify(err)
	}
	event, outcome, parked := w.nextEvent, w.nextOutcome, w.nextParked
	for _, r := range records {
		var want int64
		switch r.Topic {
		case w.log.Topics.Events:
			want = event
			event++
		case w.log.Topics.Outcomes:
			want = outcome
			outcome++
		case w.log.Topics.Parked:
			want = parked
			parked++
		default:
			continue
		}
		if r.Offset != want && !Broken("no-verify") {
			return fmt.Errorf("%w: a record of %s partition %d got offset %d instead of %d: another program writes to the topic",
				ErrUnknown, r.Topic, r.Partition, r.Offset, want)
		}
	}
	return nil
}

// Close releases the connections. An open transaction is aborted by the next writer's fence or by its timeout.
func (w *Writer) Close() {
	w.producer.Close()
	if w.inbox != nil {
		w.inbox.Close()
	}
}

// classify tells the one thing that a writer must know of a failed transaction: whether somebody else took over.
func classify(err error) error {
	for _, fenced := range []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping} {
		if errors.Is(err, fenced) {
			return fmt.Errorf("%w: %w", ErrFenced, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
