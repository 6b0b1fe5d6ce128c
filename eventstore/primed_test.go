package eventstore_test

import (
	"testing"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// TestATailBeginsWithWhatIsNew: clients that come back to a node that was just started find what they missed in memory, and
// those that come from before it, or follow on, miss nothing and get nothing twice.
func TestATailBeginsWithWhatIsNew(t *testing.T) {
	cfg := eventstoretest.Config(t)
	first := eventstoretest.Open(t, cfg)
	var ws []*eventstore.Writer
	for p := range first.Partitions() {
		ws = append(ws, writer(t, first, p))
	}
	versions := make([]uint64, len(ws))
	write(t, first, ws, versions, 1500, 50)
	eventstoretest.Readable(t, first, ws...)
	records := read(t, first)

	second := eventstoretest.Open(t, cfg)
	end, err := second.End(t.Context(), second.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	if got := second.TailEnd(second.Topics.Events); !got.Covers(end) {
		t.Errorf("the tail ends at %v, before %v", got.Next, end.Next)
	}
	after := func(at eventstore.Position) (n int) {
		for _, r := range records {
			if r.Offset >= at.Next[r.Partition] {
				n++
			}
		}
		return n
	}
	var followers []*eventstore.Follower
	for _, back := range []int64{0, 1, 7, 100, 199, 201, 250, 10_000} {
		at := end.Clone()
		for p := range at.Next {
			at.Next[p] = max(0, at.Next[p]-back)
		}
		f, err := second.Follow(t.Context(), second.Topics.Events, at)
		if err != nil {
			t.Fatal(err)
		}
		if back > 1 && back < 200 {
			if f = f.Leased(); after(at) == 0 {
				t.Fatal("nothing to read")
			}
			b, err := f.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if b.Release != nil {
				t.Errorf("%d back: it was read from Kafka", back)
			}
			b.Done()
			if f, err = second.Follow(t.Context(), second.Topics.Events, at); err != nil {
				t.Fatal(err)
			}
		}
		collect(t, f, after(at))
		followers = append(followers, f)
	}
	write(t, first, ws, versions, 200, 50)
	for _, f := range followers {
		collect(t, f, 200)
	}
}
