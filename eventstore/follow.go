package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Follower gives the records of one topic from a position on, without a gap and without a repeat: older ones read from
// Kafka, newer ones from the node's shared tail. It holds no connection, no goroutine and no buffer while it isn't
// being asked, so a slow caller costs nothing. Not for concurrent use; nothing to close, but every batch wants its Done,
// and a context that it has waited with knows it until that ends: many followers, one after the other, want one each.
type Follower struct {
	log   *Log
	lease bool  // batches of its own are paid for until they are Done
	share int64 // bytes that it may hold next
	ask   int32 // bytes, as they are stored, that it fills that with
	topic string
	tail  *Tail
	at    TailReader
}

// Follow starts at from, which must be a position in topic (events or outcomes). A position that can't be honoured is
// refused: ErrReset, ErrExpired or ErrFuture, never moved.
func (l *Log) Follow(ctx context.Context, topic string, from Position) (*Follower, error) {
	tail, ok := l.tails[topic]
	if !ok {
		return nil, fmt.Errorf("topic %s is not followed", topic)
	}
	start, end := tail.Reach()
	if err := end.SameLog(from); err != nil {
		return nil, err
	}
	if !from.Covers(start) {
		oldest, err := l.Start(ctx, topic)
		if err != nil {
			return nil, err
		}
		if !from.Covers(oldest) {
			return nil, ErrExpired
		}
	}
	if !end.Covers(from) {
		// Another node may be a few milliseconds ahead of this one; Kafka knows.
		stable, err := l.End(ctx, topic)
		if err != nil {
			return nil, err
		}
		if !stable.Covers(from) {
			return nil, ErrFuture
		}
	}
	return &Follower{log: l, topic: topic, tail: tail, at: TailReader{At: from.Clone()}}, nil
}

// Leased makes f one of those that share FetchSlots; see borrow. For whoever serves clients; the engines of a node are
// few, use a batch at once, and must not wait for clients.
func (f *Follower) Leased() *Follower {
	f.lease, f.share, f.ask = true, firstShare, firstAsk
	return f
}

// Unopened has f give batches whose Records are there only after their Open. For whoever may not need them: what nobody
// needs is never decoded.
func (f *Follower) Unopened() *Follower {
	f.at.closed = true
	return f
}

// Position is the position after everything given out so far. The caller must not change it.
func (f *Follower) Position() Position { return f.at.At }

// CaughtUp reports whether everything that this node knows of has been given out.
func (f *Follower) CaughtUp() bool { return f.at.At.Covers(f.tail.End()) }

// Next returns the next batch. It waits for one until ctx ends; at least every few seconds it returns an empty batch,
// so that the caller can look at the clock or say where it is.
func (f *Follower) Next(ctx context.Context) (*Batch, error) {
	b, covered, err := f.tail.Next(ctx, &f.at)
	if err != nil || covered {
		return b, err
	}
	return f.catchUp(ctx)
}

// catchUp reads what the tail no longer has, one bounded fetch at a time.
func (f *Follower) catchUp(ctx context.Context) (*Batch, error) {
	if !f.lease {
		return f.read(ctx)
	}
	return f.borrow(ctx)
}

func (f *Follower) read(ctx context.Context) (*Batch, error) { return f.readUpTo(ctx, fetchBytes, 0) }

// readUpTo fetches once, and again while what fails passes by itself.
func (f *Follower) readUpTo(ctx context.Context, ask int32, limit int64) (*Batch, error) {
	for try := 0; ; try++ {
		start, _ := f.tail.Reach()
		leaderAge := 10 * time.Second
		if try > 0 {
			leaderAge = time.Millisecond // the leaders we believed in may be the reason
		}
		b, err := f.log.fetch(ctx, f.topic, f.at.At, start, leaderAge, ask, limit)
		if err == nil {
			f.at.MoveTo(b.Next)
			return b, nil
		}
		if errors.Is(err, kerr.OffsetOutOfRange) {
			return nil, f.outOfRange(ctx)
		}
		if _, passing := errors.AsType[*retryFetch](err); !passing || try == 40 {
			return nil, fmt.Errorf("read %s: %w", f.topic, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(min(time.Duration(try+1)*50*time.Millisecond, time.Second)):
		}
	}
}

// outOfRange tells the two reasons apart. The broker's answer doesn't.
func (f *Follower) outOfRange(ctx context.Context) error {
	oldest, err := f.log.Start(ctx, f.topic)
	if err != nil {
		return err
	}
	if !f.at.At.Covers(oldest) {
		return ErrExpired
	}
	return ErrFuture
}

// retryFetch wraps what passes by itself: a leader that moves, a broker that restarts.
type retryFetch struct{ error }

func (r *retryFetch) Unwrap() error { return r.error }

// Bounds of one fetch. A single larger record is still returned, alone.
const (
	fetchBytes          = 2 << 20
	fetchPartitionBytes = 512 << 10
)

// fetch reads the partitions in which at is behind until, from their leaders, once. A raw fetch instead of a client
// for each reader: it keeps no session, buffers nothing ahead, and its answer says exactly how far it got. ask is in
// bytes as they are stored. A limit other than 0 bounds what is returned, in bytes of records as they are when
// decompressed; a larger record comes alone.
func (l *Log) fetch(ctx context.Context, topic string, at, until Position, leaderAge time.Duration, ask int32, limit int64) (*Batch, error) {
	records, next, err := l.fetchUpTo(ctx, topic, at, until, leaderAge, ask)
	if err != nil {
		return nil, err
	}
	b := &Batch{Next: next}
	if limit > 0 {
		records = b.cut(records, limit)
	}
	b.Records = l.decodeAll(records)
	return b, nil
}

func (l *Log) fetchRaw(ctx context.Context, topic string, at, until Position, leaderAge time.Duration) (records []*kgo.Record, end Position, err error) {
	return l.fetchUpTo(ctx, topic, at, until, leaderAge, fetchBytes)
}

// fetchUpTo asks each leader for so many bytes, as they are stored.
func (l *Log) fetchUpTo(
	ctx context.Context, topic string, at, until Position, leaderAge time.Duration, bytes int32,
) (records []*kgo.Record, end Position, err error) {
	end = at.Clone()
	leaders, err := l.leaders(ctx, topic, leaderAge)
	if err != nil {
		return nil, end, err
	}
	behind := map[int32][]kmsg.FetchRequestTopicPartition{}
	for p, next := range at.Next {
		if next >= until.Next[p] {
			continue
		}
		leader, ok := leaders[int32(p)]
		if !ok {
			return nil, end, &retryFetch{unavailable(fmt.Sprintf("partition %d of %s has no leader", p, topic), nil)}
		}
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.FetchOffset, fp.PartitionMaxBytes = int32(p), next, min(fetchPartitionBytes, bytes)
		if until.Next[p] == next+1 {
			fp.PartitionMaxBytes = 1 // a single record: the batch that it is in comes whole all the same
		}
		fp.CurrentLeaderEpoch, fp.LastFetchedEpoch = -1, -1
		behind[leader] = append(behind[leader], fp)
	}
	for leader, parts := range behind {
		req := kmsg.NewPtrFetchRequest()
		req.ReplicaID, req.IsolationLevel, req.SessionEpoch = -1, 1, -1
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 1, bytes
		t := kmsg.NewFetchRequestTopic()
		t.Topic, t.TopicID, t.Partitions = topic, l.ids[topic], parts
		req.Topics = append(req.Topics, t)
		resp, err := l.reader.Broker(int(leader)).RetriableRequest(ctx, req)
		if err != nil {
			if ctx.Err() != nil {
				return nil, end, ctx.Err()
			}
			return nil, end, &retryFetch{unavailable("fetch", err)}
		}
		got, err := l.take(end, topic, at, resp.(*kmsg.FetchResponse))
		if err != nil {
			return nil, end, err
		}
		records = append(records, got...)
	}
	return records, end, nil
}

// take decodes a fetch response and moves end.
func (l *Log) take(end Position, topic string, at Position, resp *kmsg.FetchResponse) (records []*kgo.Record, err error) {
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, &retryFetch{unavailable("fetch", err)}
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			from := at.Next[p.Partition]
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case errors.Is(err, kerr.OffsetOutOfRange):
				return nil, err
			case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
				return nil, fmt.Errorf("%w: %w", ErrReset, err)
			case err != nil:
				return nil, &retryFetch{unavailable(fmt.Sprintf("fetch partition %d", p.Partition), err)}
			}
			got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				KeepControlRecords: true, Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: topic, Partition: p.Partition,
			}, &p, decompressor, nil)
			if got.Err != nil {
				return nil, fmt.Errorf("partition %d from %d: %w", p.Partition, from, got.Err)
			}
			records = append(records, got.Records...)
			end.Next[p.Partition] = max(from, next)
		}
	}
	return records, nil
}

var decompressor = kgo.DefaultDecompressor()

// leaders asks the reader's metadata, at most maxAge old, who leads each partition of topic.
func (l *Log) leaders(ctx context.Context, topic string, maxAge time.Duration) (map[int32]int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	resp, err := l.reader.RequestCachedMetadata(ctx, req, maxAge)
	if err != nil {
		return nil, &retryFetch{unavailable("find the leaders of "+topic, err)}
	}
	leaders := map[int32]int32{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.Leader >= 0 {
				leaders[p.Partition] = p.Leader
			}
		}
	}
	return leaders, nil
}
