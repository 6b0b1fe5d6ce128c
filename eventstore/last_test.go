package eventstore_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// TestTheLastRecordsAreFound writes transactions of many sizes, whose markers make holes, and compares "the last n" with
// what a reading of the whole log says.
func TestTheLastRecordsAreFound(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	var ws []*eventstore.Writer
	for p := range l.Partitions() {
		ws = append(ws, writer(t, l, p))
	}
	topic := l.Topics.Events
	if p, err := l.Last(t.Context(), topic, 5, all); err != nil || slices.Max(p.Next) != 0 {
		t.Errorf("an empty log: %v, %v", p.Next, err)
	}
	write(t, l, ws, make([]uint64, len(ws)), 300, 50)
	eventstoretest.Readable(t, l, ws...)
	var wanted []*eventstore.Record
	odd := func(r *eventstore.Record) (bool, error) { return r.Event.Version%2 == 1, nil }
	for _, r := range read(t, l) {
		if yes, _ := odd(r); yes {
			wanted = append(wanted, r)
		}
	}
	slices.SortStableFunc(wanted, func(a, b *eventstore.Record) int { return a.Event.Time.Compare(b.Event.Time) })
	for _, n := range []int{1, 2, 3, 10, 50, len(wanted), len(wanted) + 1, 1000} {
		at, err := l.Last(t.Context(), topic, n, odd)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range read(t, l) {
			if yes, _ := odd(r); yes && r.Offset >= at.Next[r.Partition] {
				got = append(got, r.Event.ID)
			}
		}
		var want []string
		for _, r := range wanted[max(0, len(wanted)-n):] {
			want = append(want, r.Event.ID)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the last %d: %d events\n got %s\nwant %s", n, len(got), strings.Join(got, " "), strings.Join(want, " "))
		}
	}
	broken := errors.New("broken")
	if _, err := l.Last(t.Context(), topic, 3, func(*eventstore.Record) (bool, error) { return false, broken }); err != broken {
		t.Errorf("%v", err)
	}
}

func all(*eventstore.Record) (bool, error) { return true, nil }

// read gives every event of the log, in the order of their times.
func read(t *testing.T, l *eventstore.Log) (records []*eventstore.Record) {
	t.Helper()
	start, err := l.Start(t.Context(), l.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	end, err := l.End(t.Context(), l.Topics.Events)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.Follow(t.Context(), l.Topics.Events, start)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); !f.Position().Covers(end) && time.Now().Before(deadline); {
		b, err := f.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, b.Records...)
	}
	return records
}
