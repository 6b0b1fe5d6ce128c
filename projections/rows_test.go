package projections_test

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

// TestRowsThenChangesAreTheTable reads the rows while they change, and goes on with the changes: what a client has made of
// both is the table, from the moment on at which the rows were complete.
func TestRowsThenChangesAreTheTable(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	e := openEngine(t, l, t.TempDir(), counts{version: 1})
	running(t, e)
	v, _ := e.View("counts")
	g := newGenerator(t, l)
	g.write(t, 60)
	caughtUp(t, v)
	for range 20 {
		r := v.Rows()
		if len(r.Position().Next) != 0 || r.CaughtUp() {
			t.Fatal("there is a position before there are rows")
		}
		copied := map[string]string{}
		complete := false
		take := func() {
			t.Helper()
			b, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer b.Done()
			for _, rec := range b.Records {
				if rec.Change.Row == nil {
					delete(copied, rec.Change.Key)
				} else {
					copied[rec.Change.Key] = string(rec.Change.Row)
				}
			}
			if b.Rows && len(b.Next.Next) > 0 {
				complete = true
			}
		}
		for !complete {
			take()
			if rand.IntN(2) == 0 {
				g.write(t, 1+rand.IntN(5)) // between the pieces
				caughtUp(t, v)
			}
		}
		g.write(t, rand.IntN(5))
		end, err := l.End(t.Context(), l.Topics.Events)
		if err != nil {
			t.Fatal(err)
		}
		// Having caught up isn't enough: that is with what the node knows of, and the log may have more by now.
		for !r.CaughtUp() || !r.Position().Covers(end) {
			take()
		}
		if want := rows(t, v); !maps.Equal(copied, want) {
			t.Fatalf("got %v, want %v", copied, want)
		}
	}
}
