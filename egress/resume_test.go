package egress

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

const partitions = 3

// history makes records in partitions with holes between their offsets, and returns them in an order that keeps that
// of each partition.
func history(rng *rand.Rand, n int) []*eventstore.Record {
	var next [partitions]int64
	var records []*eventstore.Record
	for range n {
		p := rng.IntN(partitions)
		next[p] += int64(rng.IntN(3)) // markers and aborted records
		records = append(records, &eventstore.Record{Partition: int32(p), Offset: next[p], Event: &domain.Event{
			ID: fmt.Sprintf("%d/%d", p, next[p]), Type: []string{"a", "b"}[rng.IntN(2)], Stream: "s/1", Data: []byte(`{"n": 1}`),
		}})
		next[p]++
	}
	return records
}

// shuffled returns records in another order between partitions, and new Records so that no frame is shared.
func shuffled(rng *rand.Rand, records []*eventstore.Record) []*eventstore.Record {
	var queues [partitions][]*eventstore.Record
	for _, r := range records {
		queues[r.Partition] = append(queues[r.Partition], &eventstore.Record{Partition: r.Partition, Offset: r.Offset, Event: r.Event, Change: r.Change})
	}
	var out []*eventstore.Record
	for len(out) < len(records) {
		if p := rng.IntN(partitions); len(queues[p]) > 0 {
			out = append(out, queues[p][0])
			queues[p] = queues[p][1:]
		}
	}
	return out
}

// tailOf fills a tail with records in batches of random sizes.
func tailOf(rng *rand.Rand, records []*eventstore.Record) *eventstore.Tail {
	pos := at(make([]int64, partitions)...)
	tail := eventstore.NewTail(pos, 64<<20)
	for len(records) > 0 {
		n := min(1+rng.IntN(5), len(records))
		pos = pos.Clone()
		for _, r := range records[:n] {
			pos.Next[r.Partition] = r.Offset + 1
		}
		tail.Append(&eventstore.Batch{Records: records[:n], Next: pos, Shared: true}, 100)
		records = records[n:]
	}
	return tail
}

func idsOf(records []*eventstore.Record) (ids []string) {
	for _, r := range records {
		ids = append(ids, r.Event.ID)
	}
	return ids
}

func newRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestResumeAtEveryCutPoint(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 40)
	want := idsOf(records)
	f := serve(t, tailOf(rng, records), Config{}, nil)
	for cut := range len(want) + 1 {
		c := f.connect("", "from=earliest")
		got := c.ids(cut)
		if cut == 0 {
			// The connection dies before its first event.
			if b, err := c.next(); err != nil || b.name != "penstock.opened" || b.id == "" {
				t.Fatalf("the first block is %+v, %v", b, err)
			}
		}
		c.close()
		// The URL still says earliest, as an EventSource's does.
		again := f.connect(c.lastID, "from=earliest")
		got = append(got, messageIDs(t, again.rest())...)
		again.close()
		if !slices.Equal(got, want) {
			t.Fatalf("cut after %d:\n got %v\nwant %v", cut, got, want)
		}
	}
}

func messageIDs(t *testing.T, messages []block) (ids []string) {
	t.Helper()
	for _, m := range messages {
		var e struct{ ID string }
		if err := json.Unmarshal([]byte(m.data), &e); err != nil {
			t.Fatalf("%q: %v", m.data, err)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

// Another node has the same partitions in another order between them, and in other batches.
func TestResumeOnAnotherNode(t *testing.T) {
	rng := newRand(t)
	records := history(rng, 40)
	here := serve(t, tailOf(rng, records), Config{}, nil)
	there := serve(t, tailOf(rng, shuffled(rng, records)), Config{}, nil)
	want := idsOf(records)
	slices.Sort(want)
	for cut := range len(records) + 1 {
		c := here.connect("", "from=earliest")
		first := c.ids(cut)
		if cut == 0 {
			c.next()
		}
		c.close()
		// And back in the middle of what is left.
		c = there.connect(c.lastID, "")
		more := rng.IntN(len(records) - cut + 1)
		got := append(first, c.ids(more)...)
		if more == 0 {
			c.next()
		}
		c.close()
		c = here.connect(c.lastID, "")
		got = append(got, messageIDs(t, c.rest())...)
		c.close()
		if err := inOrder(got); err != nil {
			t.Fatalf("cut after %d and %d: %v in %v", cut, more, err, got)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("cut after %d and %d:\n got %v\nwant %v", cut, more, got, want)
		}
	}
}

// inOrder checks that the offsets of each partition rise.
func inOrder(ids []string) error {
	last := map[int]int{}
	for _, id := range ids {
		var p, o int
		if _, err := fmt.Sscanf(id, "%d/%d", &p, &o); err != nil {
			return err
		}
		if before, ok := last[p]; ok && o <= before {
			return fmt.Errorf("%s comes late", id)
		}
		last[p] = o
	}
	return nil
}

// Several rows change with one event, and what a journal gives is in no order: then a resumed feed may repeat, and still
// must not skip.
func TestResumeChanges(t *testing.T) {
	rng := newRand(t)
	var records []*eventstore.Record
	want := map[string]bool{}
	for o := range int64(8) {
		for i := range 1 + rng.IntN(3) {
			key := fmt.Sprintf("%d-%d", o, i)
			want[key] = true
			records = append(records, &eventstore.Record{Partition: int32(o % partitions), Offset: o, Change: &eventstore.Change{
				Partition: int32(o % partitions), Offset: o, Index: i, Key: key, Row: []byte(`{}`),
			}})
		}
	}
	start, end := at(0, 0, 0), at(9, 9, 9)
	start.Scope, end.Scope = 5, 5
	disordered := slices.Clone(records)
	rng.Shuffle(len(disordered), func(i, j int) { disordered[i], disordered[j] = disordered[j], disordered[i] })
	for name, batch := range map[string]*eventstore.Batch{
		"in order": {Records: records, Next: end, Shared: true},
		"journal":  {Records: disordered, Next: end},
	} {
		t.Run(name, func(t *testing.T) {
			tail := eventstore.NewTail(start, 1<<20)
			tail.Append(batch, 100)
			f := serve(t, tail, Config{}, nil)
			for cut := range len(records) + 1 {
				c := f.connect(start.String(), "")
				got := map[string]bool{}
				add := func(b block) {
					var change struct{ Key string }
					if err := json.Unmarshal([]byte(b.data), &change); err != nil {
						t.Fatal(err)
					}
					got[change.Key] = true
				}
				for range cut {
					add(c.until("message"))
				}
				c.close()
				if p, err := eventstore.ParsePosition(c.lastID); err != nil || p.Scope != 5 {
					t.Fatalf("cursor %q: %+v, %v", c.lastID, p, err)
				}
				c = f.connect(c.lastID, "")
				for _, b := range c.rest() {
					add(b)
				}
				c.close()
				if !maps.Equal(got, want) {
					t.Fatalf("cut after %d: got %v, want %v", cut, got, want)
				}
			}
		})
	}
}

// tailOn appends records to a tail as one batch.
func tailOn(tail *eventstore.Tail, records []*eventstore.Record) {
	pos := tail.End().Clone()
	for _, r := range records {
		pos.Next[r.Partition] = max(pos.Next[r.Partition], r.Offset+1)
	}
	tail.Append(&eventstore.Batch{Records: records, Next: pos, Shared: true}, 100)
}

func errField(err error) string {
	if e, ok := errors.AsType[*domain.Error](err); ok {
		return e.Field
	}
	return ""
}

var until = eventstoretest.Until
