package eventstore

import (
	"bytes"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// firstShare is how much of the older records a follower asks for that is new, or slow, in bytes.
	firstShare = 64 << 10
	// fullShare is the most that it asks for.
	fullShare = 4 << 20
	// firstAsk and leastAsk are bytes that are asked of Kafka, as they are stored. How many of them fill a share is learned:
	// to decompress what will not be kept only costs time.
	firstAsk = 64 << 10
	leastAsk = 4 << 10
	// prompt is how long a batch may be in use by a follower that gets a larger one next.
	prompt = 500 * time.Millisecond
	// recordOverhead is about what a record takes besides its key and value.
	recordOverhead = 1 << 10
)

// borrow reads one batch of older records for a client, within what all clients may hold at once: FetchSlots times
// fetchBytes, in bytes of decompressed records. Whoever finds it used up waits. A client holds its batch for as long as it
// takes to send it, so shares begin small and double for those who are prompt. With a whole fetch for everybody, 32 clients
// that stalled kept all others from catching up until they were cut off; and because a fetch was counted as it is stored, a
// compressed log took ten times as much memory. FetchSlots also bounds the fetches that are being made: until it is cut,
// what a broker has sent is larger than what is kept of it.
func (f *Follower) borrow(ctx context.Context) (*Batch, error) {
	l, all := f.log, int64(f.log.cfg.FetchSlots)*fetchBytes
	for held, from := min(f.share, all), f.at; ; {
		if err := l.lent.Acquire(ctx, held); err != nil {
			return nil, err
		}
		b, err := f.fetchOne(ctx, held)
		if err != nil {
			l.lent.Release(held)
			return nil, err
		}
		size := min(b.Bytes()/2, all) // the half is for encodings, and these are not kept
		switch {
		case size <= held:
			l.lent.Release(held - size)
		case !l.lent.TryAcquire(size - held): // one record, larger than the share: again when there is room
			l.lent.Release(held)
			held, f.at = size, from
			continue
		}
		if b.short {
			f.ask = max(f.ask/2, leastAsk)
		} else if size < held/2 {
			f.ask = min(f.ask*2, fetchBytes)
		}
		given := time.Now()
		b.Release = func() {
			l.lent.Release(size)
			if time.Since(given) < prompt {
				f.share = min(2*f.share, fullShare)
			} else {
				f.share = firstShare
			}
		}
		return b, nil
	}
}

func (f *Follower) fetchOne(ctx context.Context, limit int64) (*Batch, error) {
	select {
	case f.log.slots <- struct{}{}:
		defer func() { <-f.log.slots }()
		return f.readUpTo(ctx, f.ask, limit)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cut leaves out what goes beyond limit bytes, but never the first record, and moves Next back to it. Records that stay
// don't keep the buffer alive that they were decompressed into, unless they may be most of it.
func (b *Batch) cut(records []*kgo.Record, limit int64) []*kgo.Record {
	size, kept := int64(0), 0
	for i, r := range records {
		if r.Attrs.IsControl() {
			continue
		}
		size += int64(len(r.Key)+len(r.Value)) + recordOverhead
		if kept > 0 && size > limit {
			left := map[int32]bool{}
			for _, r := range records[i:] {
				if !left[r.Partition] {
					left[r.Partition] = true
					b.Next.Next[r.Partition] = r.Offset
				}
			}
			records, b.short = records[:i], true
			break
		}
		kept++
	}
	if b.short || limit < fullShare {
		for _, r := range records {
			r.Value = bytes.Clone(r.Value)
		}
	}
	return records
}
