package eventstore

import (
	"context"
	"errors"
	"fmt"

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
	done := make(chan error, 1)
	r := e.record(l.Topics.Inbox, l.PartitionOf(e.Stream))
	l.client.TryProduce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) { done <- err })
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
