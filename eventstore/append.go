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
	l.appends.append(r, func(err error) { done <- err })
	if Broken("ack-before-durable") {
		return nil
	}
	select {
	case err := <-done:
		return appended(err)
	case <-ctx.Done():
		return unavailable("append to the inbox: no acknowledgement in time", ctx.Err())
	}
}

// What appends may have in flight.
const (
	appendBuffer  = 256 << 20 // bytes
	appendRecords = 10_000
)

// appended says what the brokers' answer to an append means.
func appended(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return &domain.Error{Class: domain.TooLarge, Field: "body", Message: fmt.Sprintf("the log takes records of at most %d bytes", MaxRecordBytes), Err: err}
	}
	return unavailable("append to the inbox", err)
}

// ReadParked reads a parked entry at its offset, with everything needed to put it into the inbox again.
func (l *Log) ReadParked(ctx context.Context, partition int32, offset int64) (ParkedEntry, error) {
	r, err := l.readAt(ctx, l.Topics.Parked, partition, offset)
	if err != nil {
		return ParkedEntry{}, fmt.Errorf("read a parked entry: %w", err)
	}
	e, err := entryOf(r)
	e.Foreign = err
	return ParkedEntry{Entry: e, Reason: readHeaders(r).get("ps_reason")}, nil
}

// ReadInbox reads an inbox entry at its offset. NotFound says that the inbox has nothing there, as a rule because its
// retention has removed it.
func (l *Log) ReadInbox(ctx context.Context, partition int32, offset int64) (Entry, error) {
	r, err := l.readAt(ctx, l.Topics.Inbox, partition, offset)
	if errors.Is(err, kerr.OffsetOutOfRange) {
		if start, startErr := l.Start(ctx, l.Topics.Inbox); startErr == nil && offset < start.Next[partition] {
			err = &domain.Error{Class: domain.NotFound, Message: "the inbox no longer reaches back to it", Err: err}
		}
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read an inbox entry: %w", err)
	}
	e, err := entryOf(r)
	e.Foreign = err
	return e, nil
}

// readAt reads one committed record. NotFound says that there is none at the offset.
func (l *Log) readAt(ctx context.Context, topic string, partition int32, offset int64) (*kgo.Record, error) {
	if partition < 0 || partition >= l.partitions {
		return nil, fmt.Errorf("no partition %d", partition)
	}
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
		return nil, fmt.Errorf("%s %d/%d: %w", topic, partition, offset, err)
	}
	for _, r := range records {
		if r.Offset == offset && !r.Attrs.IsControl() {
			return r, nil
		}
	}
	return nil, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("%s has nothing at %d/%d any more", topic, partition, offset)}
}
