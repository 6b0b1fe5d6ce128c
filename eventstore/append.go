package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Append writes one entry to the inbox and returns once all in-sync replicas have it.
//
// ctx bounds only the waiting: a write in flight is never cancelled. After an error of class Unavailable the entry may
// or may not stand in the inbox; sending it again is safe, because its id takes effect once.
func (l *Log) Append(ctx context.Context, e Entry) error {
	if err := ctx.Err(); err != nil {
		return unavailable("append to the inbox", err)
	}
	if err := l.intact(); err != nil {
		return err
	}
	done := make(chan error, 1)
	r := e.record(l.Topics.Inbox, l.PartitionOf(e.Stream))
	l.client.TryProduce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) { done <- err })
	if Broken("ack-before-durable") {
		return nil
	}
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
			return &domain.Error{Class: domain.TooLarge, Field: "body", Message: fmt.Sprintf("the log takes records of at most %d bytes", MaxRecordBytes), Err: err}
		}
		return unavailable("append to the inbox", err)
	case <-ctx.Done():
		return unavailable("append to the inbox: no acknowledgement in time", ctx.Err())
	}
}

// ReadParked reads a parked entry at its offset, with everything needed to put it into the inbox again.
func (l *Log) ReadParked(ctx context.Context, partition int32, offset int64) (ParkedEntry, error) {
	if partition < 0 || partition >= l.partitions {
		return ParkedEntry{}, fmt.Errorf("no partition %d", partition)
	}
	topic := l.Topics.Parked
	at := Position{Topic: l.ids[topic], Next: make([]int64, l.partitions)}
	until := at.Clone()
	at.Next[partition], until.Next[partition] = offset, offset+1
	records, _, err := l.fetchRaw(ctx, topic, at, until, 10*time.Second)
	for try := range 5 {
		if _, passing := errors.AsType[*retryFetch](err); !passing || ctx.Err() != nil {
			break
		}
		select { // a leader moves; less than a second in all
		case <-ctx.Done():
		case <-time.After(time.Duration(try+1) * 50 * time.Millisecond):
		}
		records, _, err = l.fetchRaw(ctx, topic, at, until, time.Millisecond)
	}
	if err != nil {
		return ParkedEntry{}, fmt.Errorf("read parked entry %d/%d: %w", partition, offset, err)
	}
	for _, r := range records {
		if r.Offset == offset && !r.Attrs.IsControl() {
			e, err := entryOf(r)
			e.Foreign = err
			return ParkedEntry{Entry: e, Reason: readHeaders(r)["ps_reason"]}, nil
		}
	}
	return ParkedEntry{}, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("the parked topic has nothing at %d/%d any more", partition, offset)}
}
