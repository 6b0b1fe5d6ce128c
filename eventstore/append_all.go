package eventstore

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

// AppendAll writes entries to the inbox in the given order, without waiting for one before it sends the next, and
// returns an error for each of them: nil once all in-sync replicas have it, and otherwise what Append says.
//
// Of one partition what is written is a prefix: the client fails everything behind a record that it gives up
// (kgo.RecordDeliveryTimeout). That doesn't hold for TooLarge, which brokers say of a whole batch: entries of more than a
// few hundred KiB together are better sent apart.
func (l *Log) AppendAll(ctx context.Context, entries []Entry) []error {
	errs := make([]error, len(entries))
	fill := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	if err := ctx.Err(); err != nil {
		return fill(unavailable("append to the inbox", err))
	}
	if err := l.intact(); err != nil {
		return fill(err)
	}
	// Far from the bound: a record that found no room would be passed by the next one.
	if l.client.BufferedProduceBytes() > appendBuffer/2 || l.client.BufferedProduceRecords() > appendRecords/2 {
		return fill(unavailable("append to the inbox", kgo.ErrMaxBuffered))
	}
	type answer struct {
		entry int
		err   error
	}
	answers := make(chan answer, len(entries))
	for i, e := range entries {
		r := e.record(l.Topics.Inbox, l.PartitionOf(e.Stream))
		l.client.Produce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) { answers <- answer{i, err} })
	}
	fill(unavailable("append to the inbox: no acknowledgement in time", context.DeadlineExceeded))
	for range entries {
		select {
		case a := <-answers:
			errs[a.entry] = appended(a.err)
		case <-ctx.Done():
			return errs
		}
	}
	return errs
}
