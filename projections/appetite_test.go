package projections

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

func TestATransactionTakesWhatFits(t *testing.T) {
	meal := newAppetite(50_000)
	eat := func(perRecord int64) {
		n := meal.next()
		meal.ate(n, int64(n)*perRecord)
	}
	for range 10 {
		eat(100) // small
	}
	if got := meal.next(); got != 50_000 {
		t.Errorf("%d records that change little, want 50,000", got)
	}
	for range 3 {
		eat(8 << 10) // a page or two each
	}
	if got := int64(meal.next()) * (8 << 10); got > pagesLimit || got < pagesLimit/2 {
		t.Errorf("a transaction of %d bytes of pages, want about %d", got, pagesLimit)
	}
	eat(1 << 30)
	if got := meal.next(); got != leastMeal {
		t.Errorf("%d records, want at least %d, so that it goes on", got, leastMeal)
	}
	for range 3 {
		meal.ate(1, 10) // the end of a batch says nothing
	}
	if got := meal.next(); got != leastMeal {
		t.Errorf("%d records after small ends of batches, want %d", got, leastMeal)
	}
	if slow := newAppetite(7); slow.next() != 7 {
		t.Errorf("%d records, want no more than the rate allows", slow.next())
	}
}

// TestPartsAreTheBatch: whatever the appetite, the parts are all records in their order, and each ends after its own.
func TestPartsAreTheBatch(t *testing.T) {
	seed := time.Now().UnixNano()
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	for range 200 {
		b := batch{from: eventstore.Position{Next: []int64{5, 0, 7}}}
		b.next = b.from.Clone()
		for range r.IntN(40) {
			p := r.Int32N(3)
			b.next.Next[p] += r.Int64N(3) // markers take offsets
			b.records = append(b.records, &eventstore.Record{Partition: p, Offset: b.next.Next[p]})
			b.next.Next[p]++
		}
		b.next.Next[1] += 4 // and stand at the end
		meal := newAppetite(1 + r.IntN(9))
		at, got := b.from.Clone(), []*eventstore.Record(nil)
		for part := range b.parts(meal) {
			for _, rec := range part.records {
				if rec.Offset < at.Next[rec.Partition] {
					t.Fatalf("seed %d: a record stands before its part", seed)
				}
				if rec.Offset >= part.next.Next[rec.Partition] {
					t.Fatalf("seed %d: a part ends before its record", seed)
				}
			}
			if !part.next.Covers(at) {
				t.Fatalf("seed %d: from %v back to %v", seed, at, part.next)
			}
			at, got = part.next, append(got, part.records...)
			meal.most.Store(1 + r.Int64N(9))
		}
		if !slices.Equal(got, b.records) || !slices.Equal(at.Next, b.next.Next) {
			t.Fatalf("seed %d: %d of %d records, at %v instead of %v", seed, len(got), len(b.records), at, b.next)
		}
	}
}
