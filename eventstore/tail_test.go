package eventstore

import (
	"math/rand/v2"
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
		tail.Append(b, int64(len(b.Records))*100)
		at, all = b.Next, append(all, b.Records...)
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
			b, covered, _, err := tail.Read(&reader)
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

func TestATailForgetsTheOldestAndSaysSo(t *testing.T) {
	r := seed(t)
	tail := NewTail(Position{Next: []int64{0, 0, 0}}, 2000)
	old := TailReader{At: tail.End().Clone()}
	aligned := TailReader{At: tail.End().Clone()}
	tail.Read(&aligned)
	feed(r, tail, 100)
	if tail.bytes > 2000 {
		t.Errorf("%d bytes", tail.bytes)
	}
	for _, reader := range []*TailReader{&old, &aligned} {
		if b, covered, _, _ := tail.Read(reader); covered || b != nil {
			t.Errorf("a reader from the beginning must be told that the tail no longer reaches back")
		}
	}
	start, _ := tail.Reach()
	if b, covered, _, _ := tail.Read(&TailReader{At: start}); !covered || b == nil || !b.Shared {
		t.Error("a reader from the start of the tail is served, and aligned")
	}
}

func TestATailWakesForRecordsTicksAndFailure(t *testing.T) {
	tail := NewTail(Position{Next: []int64{0}}, 1000)
	reader := TailReader{At: tail.End()}
	for _, wake := range []func(){func() { tail.Tick() }, func() { tail.Append(&Batch{Next: Position{Next: []int64{1}}}, 1) }} {
		_, _, waiting, _ := tail.Read(&reader)
		go wake()
		<-waiting
	}
	tail.Fail(ErrClosed)
	if _, _, _, err := tail.Read(&reader); err != ErrClosed {
		t.Error(err)
	}
}
