// Package projectiontest finds out whether a projection keeps the contract of projections.Projection: that its rows are
// a function of the events, whatever batches and order between streams they come in, and however often it starts anew.
package projectiontest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// Run folds a history again and again, as nodes do: event by event and in batches of any size, with restarts between, as
// a rebuild does, with the events of different streams in other orders, and on another day. It fails the test unless
// every time the rows, their number and what the indexes hold are the same, and names the first row that isn't, or the
// event that could not be applied. A failure prints the seed of the folding; PENSTOCK_TEST_SEED repeats it.
//
// A history needs Stream, Type and Data; the order of the events of a stream is theirs. Versions that are all zero, and
// ids and times that are missing, are filled in. Rows that hold tx.Partition or tx.Offset differ between clusters, and
// so are found here too.
func Run(t *testing.T, p projections.Projection, history []domain.Event) {
	t.Helper()
	seed, err := seedOf(os.Getenv("PENSTOCK_TEST_SEED"))
	if err == nil {
		err = check(t, p, history, seed)
	}
	if err != nil {
		t.Fatalf("%s: %v (PENSTOCK_TEST_SEED=%d)", p.Name(), err, seed)
	}
}

func seedOf(text string) (seed uint64, err error) {
	if text == "" {
		return rand.Uint64(), nil
	}
	if _, err := fmt.Sscan(text, &seed); err != nil {
		return 0, fmt.Errorf("PENSTOCK_TEST_SEED: %w", err)
	}
	return seed, nil
}

// Of each kind of folding that chance has a part in.
const (
	repeats = 12
	orders  = 24
)

func check(t *testing.T, p projections.Projection, history []domain.Event, seed uint64) error {
	if _, ok := p.(projections.OutcomeProjection); ok {
		return errors.New("projections of outcomes can't be tested here")
	}
	history, err := complete(history)
	if err != nil {
		return err
	}
	f := folder{p: p, dir: t.TempDir()}
	want, err := f.fold(history, plan{})
	if err != nil {
		return err
	}
	compare := func(how string, events []domain.Event, pl plan) error {
		got, err := f.fold(events, pl)
		if err != nil {
			return fmt.Errorf("%s: %w", how, err)
		}
		if diff := want.differs(got); diff != "" {
			return fmt.Errorf("%s: %s", how, diff)
		}
		return nil
	}
	ones := plan{sizes: func() int { return 1 }}
	if err := compare("event by event instead of all at once", history, ones); err != nil {
		return err
	}
	for i := range repeats {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		if err := compare("all at once, once more", history, plan{}); err != nil {
			return err
		}
		sizes := func() int { return 1 + r.IntN(1+r.IntN(len(history)+1)) }
		if err := compare("in other batches", history, plan{sizes: sizes}); err != nil {
			return err
		}
		if err := compare("with restarts between", history, plan{sizes: sizes, restarts: true}); err != nil {
			return err
		}
		if err := compare("as a rebuild", history, plan{sizes: sizes, rebuild: r.IntN(len(history) + 1)}); err != nil {
			return err
		}
	}
	var other error
	synctest.Test(t, func(*testing.T) { // where it is the year 2000
		other = compare("on another day", history, ones)
		time.Sleep(1000 * time.Hour)
		other = errors.Join(other, compare("on another day", history, plan{}))
	})
	if other != nil {
		return other
	}
	for i := range orders {
		r := rand.New(rand.NewPCG(seed, uint64(1000+i)))
		sizes := func() int { return 1 + r.IntN(8) }
		if err := compare("with the events of different streams in another order", interleave(history, r, i), plan{sizes: sizes}); err != nil {
			return err
		}
	}
	return nil
}

// complete checks a history and fills in what is missing.
func complete(history []domain.Event) ([]domain.Event, error) {
	if len(history) == 0 {
		return nil, errors.New("the history has no events")
	}
	history = slices.Clone(history)
	versions := map[domain.Stream]uint64{}
	given := slices.ContainsFunc(history, func(e domain.Event) bool { return e.Version != 0 })
	for i := range history {
		e := &history[i]
		if e.Stream == "" || e.Type == "" {
			return nil, fmt.Errorf("event %d of the history has no stream or no type", i)
		}
		versions[e.Stream]++
		if given && e.Version != versions[e.Stream] {
			return nil, fmt.Errorf("event %d of the history is version %d of %s, which is at %d", i, e.Version, e.Stream, versions[e.Stream]-1)
		}
		e.Version = versions[e.Stream]
		if e.ID == "" {
			e.ID = fmt.Sprintf("event-%d", i)
		}
		if e.Time.IsZero() {
			e.Time = time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC)
		}
	}
	return history, nil
}

// interleave gives the same events in another order that keeps that of every stream. The first two are the extremes:
// stream after stream, in the order of their names and against it.
func interleave(history []domain.Event, r *rand.Rand, i int) (out []domain.Event) {
	of := map[domain.Stream][]domain.Event{}
	for _, e := range history {
		of[e.Stream] = append(of[e.Stream], e)
	}
	streams := slices.Sorted(maps.Keys(of))
	if i == 1 {
		slices.Reverse(streams)
	}
	for len(streams) > 0 {
		at := 0
		if i > 1 {
			at = r.IntN(len(streams))
		}
		s := streams[at]
		out, of[s] = append(out, of[s][0]), of[s][1:]
		if len(of[s]) == 0 {
			streams = slices.Delete(streams, at, at+1)
		}
	}
	return out
}

// plan is how a history is folded.
type plan struct {
	sizes    func() int // of the next batch; nil: all at once
	restarts bool       // the file is closed and opened again between batches
	rebuild  int        // so many events are folded as a rebuild folds them, the rest as they come
}

// folder folds into tables, each in a file of its own.
type folder struct {
	p     projections.Projection
	dir   string
	count int
}

func (f *folder) open(path string) (*eventstore.Table, error) {
	t, err := eventstore.OpenTable(path, eventstore.TableMeta{Name: f.p.Name(), Version: f.p.Version(), Generation: 1})
	if err != nil {
		return nil, err
	}
	if ix, ok := f.p.(projections.Indexed); ok {
		for _, x := range ix.Indexes() {
			t.Keep(x.Name, x.Keys)
		}
	}
	return t, nil
}

const topic = "events"

func (f *folder) fold(events []domain.Event, pl plan) (out content, err error) {
	f.count++
	path := filepath.Join(f.dir, fmt.Sprintf("%d.db", f.count))
	t, err := f.open(path)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, t.Close(), os.Remove(path)) }()
	if pl.rebuild > 0 {
		t.Bulk()
	}
	next := eventstore.Position{Next: make([]int64, partitions)}
	for done := 0; done < len(events); {
		n := len(events) - done
		if pl.sizes != nil {
			n = min(n, pl.sizes())
		}
		if done < pl.rebuild {
			n = min(n, pl.rebuild-done)
		}
		if err := f.batch(t, events[done:done+n], next); err != nil {
			return out, err
		}
		if done += n; done == pl.rebuild {
			if err := t.Built(topic); err != nil {
				return out, err
			}
		}
		if pl.restarts {
			if err := t.Close(); err != nil {
				return out, err
			}
			if t, err = f.open(path); err != nil {
				return out, err
			}
		}
	}
	return f.read(t)
}

// partitions is how many the events are spread over. A stream is in one, as in the log.
const partitions = 3

func partitionOf(s domain.Stream) int32 {
	n := int32(0)
	for _, c := range []byte(s) {
		n = (n*31 + int32(c)) % partitions
	}
	return n
}

// batch applies events in one transaction and moves next.
func (f *folder) batch(t *eventstore.Table, events []domain.Event, next eventstore.Position) error {
	after := next.Clone()
	for _, e := range events {
		after.Next[partitionOf(e.Stream)]++
	}
	_, err := t.Update(topic, after, func(tx *eventstore.Tx) error {
		for _, e := range events {
			p := partitionOf(e.Stream)
			tx.At(p, next.Next[p])
			next.Next[p]++
			if err := f.apply(tx, e); err != nil {
				return fmt.Errorf("event %s (%s, version %d of %s): %w", e.ID, e.Type, e.Version, e.Stream, err)
			}
		}
		return nil
	})
	return err
}

func (f *folder) apply(tx *eventstore.Tx, e domain.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	data := bytes.Clone(e.Data)
	err = f.p.Apply(tx, e)
	if err == nil && !bytes.Equal(data, e.Data) {
		err = errors.New("the event's data was changed by Apply, and others read it too")
	}
	return err
}

// content is everything that a folding leaves.
type content struct {
	rows    map[string]string
	indexes map[string]string // index and entry → row key
}

func (f *folder) read(t *eventstore.Table) (c content, err error) {
	c = content{map[string]string{}, map[string]string{}}
	var indexes []string
	if ix, ok := f.p.(projections.Indexed); ok {
		for _, x := range ix.Indexes() {
			indexes = append(indexes, x.Name)
		}
	}
	err = t.View(func(tx *eventstore.Tx) error {
		if err := tx.Scan("", func(k, row []byte) bool { c.rows[string(k)] = string(row); return true }); err != nil {
			return err
		}
		for _, name := range indexes {
			index, err := tx.Index(name)
			if err != nil {
				return err
			}
			index.Scan(nil, func(k, key []byte) bool {
				c.indexes[fmt.Sprintf("%s: %q", name, bytes.TrimSuffix(k, append([]byte{0}, key...)))+" of "+string(key)] = string(key)
				if bytes.IndexByte(k, 0) < len(k)-len(key)-1 {
					err = fmt.Errorf("index %s: the key of row %q holds a zero byte: %q", name, key, k)
				}
				return err == nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return c, err
}

// differs names the first difference, or is empty.
func (c content) differs(other content) string {
	for _, part := range []struct {
		what      string
		want, got map[string]string
	}{{"row", c.rows, other.rows}, {"index", c.indexes, other.indexes}} {
		keys := slices.Collect(maps.Keys(part.want))
		for k := range part.got {
			if _, known := part.want[k]; !known {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			want, there := part.want[k]
			got, found := part.got[k]
			switch {
			case there && !found:
				return fmt.Sprintf("%s %q is missing; it was %s", part.what, k, brief(want))
			case found && !there:
				return fmt.Sprintf("%s %q is there, and was not before: %s", part.what, k, brief(got))
			case want != got:
				return fmt.Sprintf("%s %q is %s, and was %s", part.what, k, brief(got), brief(want))
			}
		}
	}
	return ""
}

func brief(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
