package eventstore_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// onlyInKafka is a log whose tail keeps next to nothing, and what clients may hold is 2 MiB. Its events, so many of each
// size, lie in partitions 0 to 2, many in one compressed batch.
func onlyInKafka(t *testing.T, n int, sizes ...int) (l *eventstore.Log, start eventstore.Position) {
	t.Helper()
	cfg := eventstoretest.Config(t)
	cfg.TailBytes, cfg.FetchSlots = 1, 1
	l = eventstoretest.Open(t, cfg)
	start, err := l.Start(t.Context(), l.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	ws := []*eventstore.Writer{writer(t, l, 0), writer(t, l, 1), writer(t, l, 2)}
	versions := make([]uint64, len(ws))
	for _, size := range sizes {
		write(t, l, ws, versions, n, size)
	}
	eventstoretest.Readable(t, l, ws...)
	eventstoretest.Until(t, "the tail no longer reaches back", func() bool {
		f, err := l.Follow(t.Context(), l.Topics.Events, start)
		if err != nil {
			t.Fatal(err)
		}
		b, err := f.Leased().Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.Release == nil { // it keeps the newest batch, whatever its size: now that is another one
			p := slices.IndexFunc(versions, func(n uint64) bool { return n > 0 }) // where large ones come first
			write(t, l, ws[p:p+1], versions[p:p+1], 1, 10)
			return false
		}
		b.Done()
		return true
	})
	return l, start
}

// held is about what the records of a batch take.
func held(b *eventstore.Batch) (bytes int) {
	for _, r := range b.Records {
		bytes += len(r.Event.Data) + 1024
	}
	return bytes
}

func TestClientsThatHoldOldRecordsAreBoundedAndEnginesDontWaitForThem(t *testing.T) {
	l, start := onlyInKafka(t, 400, 10<<10)
	patience, enough := context.WithTimeout(t.Context(), time.Minute)
	defer enough()
	follow := func() *eventstore.Follower {
		f, err := l.Follow(t.Context(), l.Topics.Events, start)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const all, share = 2 << 20, 64 << 10
	var batches []*eventstore.Batch
	for out := 0; out+share <= all; {
		b, err := follow().Leased().Next(patience)
		if err != nil || len(b.Records) == 0 || b.Release == nil || held(b) > share {
			t.Fatalf("%d bytes, %v", held(b), err)
		}
		out += held(b)
		batches = append(batches, b)
	}
	if len(batches) < all/share {
		t.Errorf("%d clients used up what is for %d", len(batches), all/share)
	}
	if b, err := follow().Next(patience); err != nil || len(b.Records) == 0 {
		t.Fatalf("an engine: %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		b, err := follow().Leased().Next(patience)
		if err == nil {
			b.Done()
		}
		waiting <- err
	}()
	ctx, cancel := context.WithTimeout(patience, 50*time.Millisecond)
	defer cancel()
	if _, err := follow().Leased().Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a client beyond the bound got through: %v", err)
	}
	for _, b := range batches[:4] {
		b.Done()
		b.Done() // harmless
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}

// TestSharesOfOldRecordsMissNothing reads in shares that cut through Kafka's batches, by one follower whose shares grow, and
// by one after the other that each get the first one.
func TestSharesOfOldRecordsMissNothing(t *testing.T) {
	sizes := []int{10, 3 << 10, 70 << 10, 20, 300 << 10, 10}
	const each = 60
	l, start := onlyInKafka(t, each, sizes...)
	patience, enough := context.WithTimeout(t.Context(), time.Minute)
	defer enough()
	for _, anew := range []bool{false, true} {
		at, versions, got := start, map[int32]uint64{}, 0
		var f *eventstore.Follower
		for got < each*len(sizes) {
			if f == nil || anew {
				var err error
				if f, err = l.Follow(t.Context(), l.Topics.Events, at); err != nil {
					t.Fatal(err)
				}
				f.Leased()
			}
			b, err := f.Next(patience)
			if err != nil {
				t.Fatalf("after %d: %v", got, err)
			}
			if anew && b.Release != nil && len(b.Records) > 1 && held(b) > 64<<10 { // or it is the newest, from memory
				t.Fatalf("%d records of %d bytes", len(b.Records), held(b))
			}
			for _, r := range b.Records {
				if versions[r.Partition]++; r.Event.Version != versions[r.Partition] || len(r.Event.Data) == 0 {
					t.Fatalf("anew %t, partition %d: version %d, not %d, after %d", anew, r.Partition, r.Event.Version, versions[r.Partition], got)
				}
				if r.Offset >= b.Next.Next[r.Partition] {
					t.Fatalf("record %d/%d lies beyond its batch's position %v", r.Partition, r.Offset, b.Next.Next)
				}
				got++
			}
			at = b.Next.Clone()
			b.Done()
		}
	}
}

// TestALargeRecordIsReadAgainWhenThereIsRoom: nobody knows how large a record is before it has been read.
func TestALargeRecordIsReadAgainWhenThereIsRoom(t *testing.T) {
	l, start := onlyInKafka(t, 4, 1800<<10)
	patience, enough := context.WithTimeout(t.Context(), 20*time.Second)
	defer enough()
	next := func(ctx context.Context) (*eventstore.Batch, error) {
		f, err := l.Follow(ctx, l.Topics.Events, start)
		if err != nil {
			t.Error(err)
			return nil, err
		}
		return f.Leased().Next(ctx)
	}
	first, err := next(patience)
	if err != nil || len(first.Records) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	short, cancel := context.WithTimeout(patience, 100*time.Millisecond)
	defer cancel()
	if _, err := next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("two hold more than there is for all: %v", err)
	}
	second := make(chan *eventstore.Batch, 1)
	go func() {
		b, err := next(patience)
		if err != nil {
			t.Error(err)
		}
		second <- b
	}()
	select {
	case b := <-second:
		t.Errorf("two hold more than there is for all: %+v", b)
	case <-time.After(300 * time.Millisecond): // it has read it, most likely, and waits
		first.Done()
		if b := <-second; b == nil || len(b.Records) != 1 || b.Records[0].Offset != first.Records[0].Offset {
			t.Errorf("%+v, not %+v", b, first)
		}
	}
}
