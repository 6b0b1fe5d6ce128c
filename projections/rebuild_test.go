package projections_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
)

// totals counts all events in one row: a reader sees at once when it is shown less than it was shown before.
type totals struct {
	name       string
	definition string
	gate       chan struct{} // if not nil, each event takes one
}

func (t totals) Name() string       { return t.name }
func (totals) Version() int         { return 1 }
func (t totals) Definition() string { return t.definition }

func (t totals) Apply(tx *eventstore.Tx, e domain.Event) error {
	if t.gate != nil {
		<-t.gate
	}
	n := 0
	if b := tx.Get("all"); b != nil {
		if err := json.Unmarshal(b, &n); err != nil {
			return err
		}
	}
	return tx.Put("all", fmt.Append(nil, n+1))
}

func total(t *testing.T, v *projections.View) (n int) {
	t.Helper()
	b, _, err := v.Get("all")
	if err != nil {
		t.Fatal(err)
	}
	if b != nil {
		if err := json.Unmarshal(b, &n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestARebuildIsSeenOnlyWhenItHasEverything(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 60)
	e := openEngine(t, l, t.TempDir(), totals{name: "a"}, totals{name: "b"}, projections.Deliveries{})
	running(t, e)
	a, _ := e.View("a")
	b, _ := e.View("b")
	deliveries, _ := e.View("deliveries")
	caughtUp(t, a)
	caughtUp(t, b)
	caughtUp(t, deliveries)
	cursor := a.Position()
	follower, err := a.Follow(t.Context(), cursor)
	if err != nil {
		t.Fatal(err)
	}
	stop, readers := make(chan struct{}), sync.WaitGroup{}
	for _, v := range []*projections.View{a, b} {
		readers.Go(func() {
			for seen := 0; ; {
				select {
				case <-stop:
					return
				default:
				}
				raw, _, err := v.Get("all")
				n := 0
				if err == nil {
					err = json.Unmarshal(raw, &n)
				}
				if err != nil || n < seen {
					t.Errorf("%s: %d after %d, %v", v.Name(), n, seen, err)
					return
				}
				seen = n
			}
		})
	}
	for round := range 3 {
		if err := e.Rebuild(t.Context(), []string{"a", "b", "deliveries"}, 0); err != nil {
			t.Fatal(err)
		}
		g.write(t, 20)
		for _, v := range []*projections.View{a, b, deliveries} {
			eventstoretest.Until(t, "the new generation of "+v.Name()+" serves", func() bool { return v.Status().Generation == round+2 })
			caughtUp(t, v)
		}
	}
	close(stop)
	readers.Wait()
	eventstoretest.Until(t, "everything is counted", func() bool { return total(t, a) == g.total })
	if s := a.Status(); s.Previous != 3 || s.Build != nil || s.Rows != 1 {
		t.Errorf("%+v", s)
	}
	if _, err := a.Follow(t.Context(), cursor); !errors.Is(err, eventstore.ErrReset) {
		t.Errorf("a cursor of an old generation: %v", err)
	}
	for { // a feed that was open is told, once it has given what there was
		if _, err = follower.Next(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, eventstore.ErrRetired) {
		t.Errorf("the feed of an old generation ends with %v", err)
	}
	refold(t, l, e, totals{name: "a"}, totals{name: "b"}, projections.Deliveries{})
}

func TestABuildGoesOnAfterACrashAndCanBeCancelledAndRolledBack(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 50)
	dir := t.TempDir()
	e := openEngine(t, l, dir, totals{name: "a"})
	stop := running(t, e)
	v, _ := e.View("a")
	caughtUp(t, v)
	stop()

	// Another definition: the old one serves until the new one has everything. The process ends while it is built.
	gate := make(chan struct{})
	e = openEngine(t, l, dir, totals{"a", "two", gate})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	gate <- struct{}{}
	v, _ = e.View("a")
	if s := v.Status(); s.Build == nil || s.Build.Generation != 2 || s.Generation != 1 || total(t, v) != 50 {
		t.Errorf("%+v", s)
	}
	if err := e.CancelBuild(v); domain.ClassOf(err) != domain.Rejected {
		t.Errorf("the only generation of this definition was cancelled: %v", err)
	}
	cancel()
	close(gate)
	if err := errors.Join(<-done, e.Close()); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, l, dir, totals{name: "a", definition: "two"})
	stop = running(t, e)
	v, _ = e.View("a")
	eventstoretest.Until(t, "the unfinished build is finished", func() bool { s := v.Status(); return s.Generation == 2 && s.State == "live" })
	if err := e.Rollback(t.Context(), v); domain.ClassOf(err) != domain.Rejected {
		t.Errorf("back to another definition: %v", err)
	}
	if err := e.Rebuild(t.Context(), []string{"a"}, 0); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the rebuilt one serves", func() bool { return v.Status().Generation == 3 && v.Status().Build == nil })
	g.write(t, 10)
	if err := e.Rollback(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the earlier one serves again", func() bool { return v.Status().Generation == 2 && v.Status().Build == nil })
	caughtUp(t, v)
	eventstoretest.Until(t, "everything is counted", func() bool { return total(t, v) == g.total })
	if s := v.Status(); s.Previous != 3 {
		t.Errorf("%+v", s)
	}
	stop()

	// What serves after a restart is what served before it, and a slow build can be cancelled.
	e = openEngine(t, l, dir, totals{name: "a", definition: "two"})
	running(t, e)
	v, _ = e.View("a")
	if s := v.Status(); s.Generation != 2 {
		t.Errorf("after a restart generation %d serves", s.Generation)
	}
	caughtUp(t, v)
	g.write(t, 300)
	if err := e.Rebuild(t.Context(), []string{"a"}, 1); err != nil { // at one record a second
		t.Fatal(err)
	}
	if err := e.Rebuild(t.Context(), []string{"a"}, 0); domain.ClassOf(err) != domain.Rejected {
		t.Errorf("built twice at once: %v", err)
	}
	if err := e.CancelBuild(v); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the build is cancelled", func() bool { s := v.Status(); return s.Build == nil && s.LastBuild == "canceled" })
	files, err := filepath.Glob(filepath.Join(dir, "a", "*.db*"))
	if err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	caughtUp(t, v)
	refold(t, l, e, totals{name: "a", definition: "two"})
}

func TestAHaltedProjectionGoesOnWithoutTheRecordOrTriesAgain(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 40)
	dir, fail := t.TempDir(), new("e20")
	e := openEngine(t, l, dir, counts{version: 1, fail: fail})
	stop := running(t, e)
	v, _ := e.View("counts")
	halted := func() bool { return v.Status().State == "halted" }
	eventstoretest.Until(t, "it halts", halted)
	if h := v.Status().Halted; h == nil || h.ID != "e20" || h.Stream == "" || h.Error == "" || h.Type == "" {
		t.Fatalf("%+v", h)
	}
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	if err := v.Retry(now); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "it halts again", halted)
	if err := v.Skip("ann", "a test", now); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, v)
	if err := v.Retry(now); domain.ClassOf(err) != domain.Rejected {
		t.Errorf("what isn't halted was tried again: %v", err)
	}
	stop()
	e = openEngine(t, l, dir, counts{version: 1, fail: fail}) // and it stays so
	running(t, e)
	v, _ = e.View("counts")
	caughtUp(t, v)
	s := v.Status()
	if len(s.Skips) != 1 || s.Skips[0].ID != "e20" || s.Skips[0].By != "ann" || s.Skips[0].Reason != "a test" || !s.Skips[0].At.Equal(now) {
		t.Errorf("%+v", s.Skips)
	}
	// A rebuild tries the record again: beside, so that readers notice nothing.
	if err := e.Rebuild(t.Context(), []string{"counts"}, 0); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the build halts", func() bool { s := v.Status(); return s.Build != nil && s.Build.State == "halted" && s.State == "live" })
	*fail = ""
	if err := v.Retry(now); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the new generation serves", func() bool { return v.Status().Generation == 2 })
	refold(t, l, e, counts{version: 1})
}

func TestADamagedFileIsPutAsideAndBuiltAnew(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 200)
	ps := []projections.Projection{counts{version: 1}, eventstore.StreamsFold{}}
	r := rand.New(rand.NewPCG(1, 2))
	for what, harm := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return []byte{} },
		"cut":   func(b []byte) []byte { return b[:4*4096] },
		"short": func(b []byte) []byte { return b[:5000] },
		"noise": func(b []byte) []byte {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return b
		},
		"no meta pages": func(b []byte) []byte { clear(b[:8192]); return b },
	} {
		dir := t.TempDir()
		e := openEngine(t, l, dir, ps...)
		stop := running(t, e)
		for _, v := range e.Views() {
			caughtUp(t, v)
		}
		stop()
		for _, v := range e.Views() {
			path := filepath.Join(dir, v.Name(), "000001.db")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, harm(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		e = openEngine(t, l, dir, ps...)
		stop = running(t, e)
		refold(t, l, e, ps...)
		for _, v := range e.Views() {
			if s := v.Status(); what != "empty" && (len(s.Quarantined) != 1 || !strings.HasSuffix(s.Quarantined[0], ".quarantined")) {
				t.Errorf("%s, %s: %+v", what, v.Name(), s.Quarantined)
			}
		}
		stop()
	}
}

func TestASwapThatFailsLeavesTheOldGenerationServing(t *testing.T) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	g := newGenerator(t, l)
	g.write(t, 20)
	dir := t.TempDir()
	e := openEngine(t, l, dir, totals{name: "a"})
	running(t, e)
	v, _ := e.View("a")
	caughtUp(t, v)
	pointer := filepath.Join(dir, "a", "serving")
	if err := errors.Join(os.Remove(pointer), os.Mkdir(pointer, 0o700)); err != nil { // nothing can be renamed to it
		t.Fatal(err)
	}
	if err := e.Rebuild(t.Context(), []string{"a"}, 0); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the build has failed", func() bool { s := v.Status(); return s.Build == nil && s.LastBuild != "" })
	g.write(t, 5)
	eventstoretest.Until(t, "the old generation goes on", func() bool { return total(t, v) == g.total })
	if s := v.Status(); s.Generation != 1 || s.State != "live" {
		t.Errorf("%+v", s)
	}
	if err := os.Remove(pointer); err != nil {
		t.Fatal(err)
	}
	if err := e.Rebuild(t.Context(), []string{"a"}, 0); err != nil {
		t.Fatal(err)
	}
	eventstoretest.Until(t, "the next one serves", func() bool { return v.Status().Generation > 1 })
	refold(t, l, e, totals{name: "a"})
}
