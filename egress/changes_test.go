package egress

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

func change(o int64, key, row string) *eventstore.Record {
	c := &eventstore.Change{Offset: o, Key: key}
	if row != "" {
		c.Row = []byte(row)
	}
	return &eventstore.Record{Offset: o, Change: c}
}

// rowsReader gives rows in two pieces and then follows a tail.
type rowsReader struct {
	tailReader
	pieces []*eventstore.Batch
}

func (r *rowsReader) Position() eventstore.Position {
	if len(r.pieces) > 0 {
		return eventstore.Position{}
	}
	return r.tailReader.Position()
}

func (r *rowsReader) CaughtUp() bool { return len(r.pieces) == 0 && r.tailReader.CaughtUp() }

func (r *rowsReader) Next(ctx context.Context) (*eventstore.Batch, error) {
	if len(r.pieces) == 0 {
		return r.tailReader.Next(ctx)
	}
	b := r.pieces[0]
	r.pieces = r.pieces[1:]
	return b, nil
}

// serveChanges serves a tail of changes with rows before it.
func serveChanges(t *testing.T, tail *eventstore.Tail) *feed {
	f := serve(t, tail, Config{}, nil)
	f.kind = OfChanges
	f.rows = func(context.Context) (Reader, error) {
		at := tail.End()
		return &rowsReader{tailReader{tail, eventstore.TailReader{At: at.Clone()}}, []*eventstore.Batch{
			{Rows: true, Records: []*eventstore.Record{change(0, "a", `{"n":1}`), change(0, "b", `{"n":2}`)}},
			{Rows: true, Records: []*eventstore.Record{change(3, "b", "")}, Next: at},
		}}, nil
	}
	return f
}

// The rows come first, without a cursor, because there is none to go on from; then the changes from exactly there. Who
// reconnects with a cursor gets changes only, whatever its URL says.
func TestSnapshotThenChanges(t *testing.T) {
	start := at(4)
	start.Scope = 7
	tail := eventstore.NewTail(start, 1<<20)
	f := serveChanges(t, tail)
	c := f.connect("", "snapshot=true")
	opened, err := c.next()
	if err != nil || opened.name != "penstock.opened" || opened.id != "" {
		t.Errorf("%+v, %v", opened, err)
	}
	for _, want := range []block{
		{"message", "", `{"op":"upsert","key":"a","row":{"n":1},"snapshot":true}`},
		{"message", "", `{"op":"upsert","key":"b","row":{"n":2},"snapshot":true}`},
		{"message", "", `{"op":"delete","key":"b","snapshot":true}`},
		{"penstock.snapshot", start.String(), `{"cursor":"` + start.String() + `"}`},
		{"penstock.caught-up", start.String(), `{"cursor":"` + start.String() + `"}`},
	} {
		if got, err := c.next(); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	tailOn(tail, []*eventstore.Record{change(4, "c", `{}`)})
	if b := c.until("message"); !strings.Contains(b.data, `"key":"c"`) || b.id == "" {
		t.Errorf("%+v", b)
	}
	c.close()
	tailOn(tail, []*eventstore.Record{change(5, "d", `{}`)})
	if got := f.connect(c.lastID, "snapshot=true").rest(); len(got) != 1 || !strings.Contains(got[0].data, `"key":"d"`) {
		t.Errorf("%+v", got)
	}
	for name, follow := range over {
		if name == "long-poll" {
			continue // a page of rows is the read model's own
		}
		got := follow(f, url.Values{"snapshot": {"true"}, "until": {"now"}}, 100)
		if len(got.messages) != 3 || !got.messages[0].Snapshot || !got.end || got.cursor != tail.End().String() {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// After a gap, who wants the earliest of rows gets them all as they are.
func TestGapOfChangesIsFilledWithRows(t *testing.T) {
	start := at(4)
	start.Scope = 7
	f := serveChanges(t, eventstore.NewTail(start, 1<<20))
	old := at(1)
	old.Scope = 7
	c := f.connect(old.String(), "on_gap=earliest")
	if b := c.until("penstock.reset"); !strings.Contains(b.data, `"resumed":"earliest"`) || b.id != old.String() {
		t.Errorf("%+v", b)
	}
	if b := c.until("message"); !strings.Contains(b.data, `"snapshot":true`) {
		t.Errorf("%+v", b)
	}
	if b := c.until("penstock.snapshot"); b.id != start.String() {
		t.Errorf("%+v", b)
	}
}

// Within a window only the newest change of each key is sent; no cursor in between skips one that isn't sent yet.
func TestConflation(t *testing.T) {
	for cut := range 3 {
		tail := eventstore.NewTail(at(0), 1<<20)
		f := serve(t, tail, Config{}, nil)
		f.kind = OfChanges
		tailOn(tail, []*eventstore.Record{change(0, "a", "1"), change(1, "b", "1")})
		tailOn(tail, []*eventstore.Record{change(2, "a", "2"), change(3, "c", "1")})
		tailOn(tail, []*eventstore.Record{change(4, "a", "3"), change(5, "c", "")})
		c := f.connect("", "cursor="+at(0).String()+"&every=50ms")
		state := map[string]string{}
		apply := func(b block) {
			var op, key, row string
			fmt.Sscanf(strings.NewReplacer(`"`, " ", `,`, " ", `:`, " ", "{", " ").Replace(b.data), " op %s key %s row %s", &op, &key, &row)
			if state[key] = row; op == "delete" {
				state[key] = "gone"
			}
		}
		for range cut {
			apply(c.until("message"))
		}
		if cut == 0 {
			c.next()
		}
		c.close()
		again := f.connect(c.lastID, "every=50ms")
		rest := again.rest()
		for _, b := range rest {
			apply(b)
		}
		if len(state) != 3 || state["a"] != "3" || state["b"] != "1" || state["c"] != "gone" {
			t.Errorf("cut after %d: %v", cut, state)
		}
		if cut == 0 {
			if n := len(rest); n != 3 {
				t.Errorf("%d changes sent, 3 keys changed", n)
			}
		}
	}
	// What came in one window is one message a key, although the client was there all the time.
	tail := eventstore.NewTail(at(0), 1<<20)
	r := newConflated(&tailReader{tail, eventstore.TailReader{At: at(0)}}, 100*time.Millisecond)
	for i := range 3 {
		tailOn(tail, []*eventstore.Record{change(int64(2*i), "a", "1"), change(int64(2*i+1), "b", "1")})
		began := time.Now()
		b, err := r.Next(t.Context())
		if err != nil || len(b.Records) != 2 || b.Shared {
			t.Fatalf("%+v, %v", b, err)
		}
		if i > 0 && time.Since(began) < 50*time.Millisecond {
			t.Error("it did not wait for the window's end")
		}
	}
}

// A time that is still to come ends the feed when it is there.
func TestUntilATimeToCome(t *testing.T) {
	tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
	f := serve(t, tail, Config{}, nil)
	tick(t, tail)
	soon := time.Now().Add(300 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	c := f.connect("", "until="+soon)
	tailOn(tail, []*eventstore.Record{event(0, 0, "before")})
	if got := c.ids(1); got[0] != "before" {
		t.Error(got)
	}
	if b := c.until("penstock.closing"); b.data != `{"reason":"done"}` {
		t.Errorf("%+v", b)
	}
}

// Pages of changes go on, however small they are, although several rows change with one event.
func TestPagesOfChanges(t *testing.T) {
	rng := newRand(t)
	var records []*eventstore.Record
	var want []string
	for o := range int64(12) {
		for i := range 1 + rng.IntN(4) {
			key := fmt.Sprintf("%d-%d", o, i)
			want = append(want, key)
			records = append(records, &eventstore.Record{Partition: int32(o % 3), Offset: o / 3, Change: &eventstore.Change{
				Partition: int32(o % 3), Offset: o / 3, Index: i, Key: key, Row: []byte(`{}`),
			}})
		}
	}
	for limit := range 6 {
		tail := eventstore.NewTail(at(0, 0, 0), 1<<20)
		tailOn(tail, records)
		f := serve(t, tail, Config{}, nil)
		f.kind = OfChanges
		var got []string
		q := url.Values{"cursor": {at(0, 0, 0).String()}, "limit": {fmt.Sprint(limit + 1)}}
		for pages := 0; ; pages++ {
			p := f.poll(q, 0)
			if len(p.Items) == 0 {
				break
			}
			if pages > len(want) {
				t.Fatal("the pages don't end")
			}
			for _, m := range p.Items {
				got = append(got, m.Key)
			}
			q.Set("cursor", p.Next)
		}
		if !sameSet(got, want) {
			t.Errorf("limit %d: %v, want %v", limit+1, got, want)
		}
	}
}

// What a journal gives is in no order of its own: a page that stops within it skips nothing of what it has left.
func TestPageStopsInTheMiddleOfAJournal(t *testing.T) {
	rng := newRand(t)
	for range 100 {
		var records []*eventstore.Record
		for o := range int64(12) {
			records = append(records, &eventstore.Record{Partition: int32(o % 3), Offset: o / 3, Change: &eventstore.Change{Key: fmt.Sprint(o), Row: []byte("{}")}})
		}
		rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		n := rng.IntN(len(records) + 1)
		stop := before(at(0, 0, 0), records, n)
		for _, r := range records[n:] {
			if r.Offset < stop.Next[r.Partition] {
				t.Fatalf("after %d records the position is %v, and %d/%d is still to come", n, stop.Next, r.Partition, r.Offset)
			}
		}
	}
}
