package eventstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

func seed(t *testing.T) *rand.Rand {
	s := uint64(time.Now().UnixNano())
	t.Logf("seed %d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// feed appends n batches of random records in three partitions and returns all of them.
func feed(r *rand.Rand, tail *Tail, n int) (all []*Record) {
	at := tail.End().Clone()
	for range n {
		b := &Batch{Next: at.Clone(), Shared: true}
		for range r.IntN(4) + 1 {
			p := int32(r.IntN(3))
			b.Next.Next[p] += int64(r.IntN(2)) // a marker takes an offset
			rec := &Record{Partition: p, Offset: b.Next.Next[p]}
			b.Next.Next[p]++
			b.Records = append(b.Records, rec)
		}
		at, all = b.Next, append(all, b.Records...)
		size := int64(len(b.Records)) * 100
		if records := b.Records; r.IntN(2) == 0 {
			b.Records, b.later = nil, func() []*Record { return records }
		}
		tail.Append(b, size)
	}
	return all
}

func TestATailReaderFromAnywhereGetsExactlyTheRest(t *testing.T) {
	r := seed(t)
	for range 200 {
		start := Position{Next: []int64{0, 5, 9}}
		tail := NewTail(start, 1<<30)
		all := feed(r, tail, 30)
		// Any position: also one that no follower of this tail has ever stood at.
		from := Position{Next: make([]int64, 3)}
		for p := range from.Next {
			from.Next[p] = start.Next[p] + r.Int64N(tail.End().Next[p]-start.Next[p]+1)
		}
		reader := TailReader{At: from}
		var got []*Record
		for {
			b, covered, err := tail.read(&reader, nil)
			if err != nil || !covered {
				t.Fatal(covered, err)
			}
			if b == nil {
				break
			}
			if b.Shared && len(got) == 0 && !from.Covers(start) {
				t.Fatal("shared although unaligned")
			}
			got = append(got, b.Records...)
		}
		i := 0
		for _, rec := range all {
			if rec.Offset >= from.Next[rec.Partition] {
				if i >= len(got) || got[i] != rec {
					t.Fatalf("from %v: record %d is missing or out of order", from.Next, i)
				}
				i++
			}
		}
		if i != len(got) || !reader.At.Covers(tail.End()) {
			t.Fatalf("from %v: %d records, want %d; at %v", from.Next, len(got), i, reader.At.Next)
		}
	}
}

func TestABatchIsDecodedOnceAndOnlyForWhoAsks(t *testing.T) {
	tail := NewTail(Position{Next: []int64{0}}, 1<<30)
	decoded := 0
	add := func(next int64) {
		records := []*Record{{Offset: next - 2}, {Offset: next - 1}}
		tail.Append(&Batch{Next: Position{Next: []int64{next}}, Shared: true, later: func() []*Record { decoded++; return records }}, 1)
	}
	add(2)
	add(4)
	read := func(r *TailReader) *Batch {
		t.Helper()
		b, covered, err := tail.read(r, nil)
		if err != nil || !covered || b == nil {
			t.Fatal(b, covered, err)
		}
		return b
	}
	passing := TailReader{At: Position{Next: []int64{0}}, closed: true}
	if read(&passing); decoded != 0 {
		t.Error("decoded for one who passes")
	}
	passing.MoveTo(Position{Next: []int64{2}})
	if b := read(&passing); decoded != 0 || len(b.Open().Records) != 2 || decoded != 1 {
		t.Errorf("decoded %d times, %d records", decoded, len(b.Records))
	}
	for range 2 {
		asking := TailReader{At: Position{Next: []int64{0}}}
		for range 2 {
			if b := read(&asking); len(b.Records) != 2 {
				t.Errorf("%d records", len(b.Records))
			}
		}
	}
	if decoded != 2 {
		t.Errorf("two batches are decoded %d times", decoded)
	}
	between := TailReader{At: Position{Next: []int64{1}}, closed: true} // a part of a batch takes its records
	if b := read(&between); len(b.Records) != 1 || b.Records[0].Offset != 1 {
		t.Errorf("%+v", b.Records)
	}
}

func TestATailForgetsTheOldestAndSaysSo(t *testing.T) {
	r := seed(t)
	tail := NewTail(Position{Next: []int64{0, 0, 0}}, 2000)
	old := TailReader{At: tail.End().Clone()}
	aligned := TailReader{At: tail.End().Clone()}
	tail.read(&aligned, nil)
	feed(r, tail, 100)
	if tail.bytes > 2000 {
		t.Errorf("%d bytes", tail.bytes)
	}
	for _, reader := range []*TailReader{&old, &aligned} {
		if b, covered, _ := tail.read(reader, nil); covered || b != nil {
			t.Errorf("a reader from the beginning must be told that the tail no longer reaches back")
		}
	}
	start, _ := tail.Reach()
	if b, covered, _ := tail.read(&TailReader{At: start}, nil); !covered || b == nil || !b.Shared {
		t.Error("a reader from the start of the tail is served, and aligned")
	}
}

func TestATailWakesForRecordsTicksAndFailure(t *testing.T) {
	tail := NewTail(Position{Next: []int64{0}}, 1000)
	reader := TailReader{At: tail.End()}
	for _, event := range []struct {
		name string
		do   func()
		want error
	}{
		{"tick", tail.Tick, nil},
		{"record", func() { tail.Append(&Batch{Next: Position{Next: []int64{1}}}, 1) }, nil},
		{"failure", func() { tail.Fail(ErrClosed) }, ErrClosed},
	} {
		awake := sleeping(t, tail, &reader, t.Context())
		event.do()
		if got := <-awake; !errors.Is(got.err, event.want) || got.err == nil && got.batch == nil {
			t.Errorf("after a %s: %+v", event.name, got)
		}
	}
}

type woken struct {
	batch *Batch
	err   error
}

// sleeping has a reader wait, and returns once it does.
func sleeping(t *testing.T, tail *Tail, r *TailReader, ctx context.Context) <-chan woken {
	t.Helper()
	tail.mu.Lock()
	before := len(tail.asleep)
	tail.mu.Unlock()
	awake := make(chan woken, 1)
	go func() {
		b, _, err := tail.Next(ctx, r)
		awake <- woken{b, err}
	}()
	for asleep := before; asleep == before; {
		tail.mu.Lock()
		asleep = len(tail.asleep)
		tail.mu.Unlock()
		runtime.Gosched()
	}
	return awake
}

// A tail that nothing is added to any more, as that of a frozen generation, must not collect those who went away.
func TestWhoStopsWaitingLeavesNothingInTheTail(t *testing.T) {
	tail := NewTail(Position{Next: []int64{0}}, 1000)
	var ends []context.CancelFunc
	var awake []<-chan woken
	readers := make([]TailReader, 50)
	for i := range readers {
		readers[i].At = tail.End()
		ctx, cancel := context.WithCancel(t.Context())
		ends, awake = append(ends, cancel), append(awake, sleeping(t, tail, &readers[i], ctx))
	}
	for _, i := range seed(t).Perm(len(ends)) {
		ends[i]()
		if got := <-awake[i]; !errors.Is(got.err, context.Canceled) {
			t.Fatal(got)
		}
	}
	if len(tail.asleep) > 0 {
		t.Fatalf("%d are asleep", len(tail.asleep))
	}
	// One whose context has ended isn't put to sleep with it, and one with another context is.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if _, _, err := tail.Next(ctx, &readers[0]); !errors.Is(err, context.Canceled) || len(tail.asleep) > 0 {
			t.Errorf("%v, %d asleep", err, len(tail.asleep))
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	again := sleeping(t, tail, &readers[0], ctx)
	tail.Append(&Batch{Next: Position{Next: []int64{1}}}, 1)
	if got := <-again; got.err != nil || got.batch == nil {
		t.Error(got)
	}
}
