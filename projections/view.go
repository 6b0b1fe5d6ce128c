package projections

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// View is one projection's table as readers see it: that of the generation that serves. Safe for concurrent use.
type View struct {
	projection Projection
	log        *eventstore.Log
	folder     folder
	reads      chan struct{} // journal reads that clients hold at once
	scans      chan struct{} // queries that look at many rows at once
	serving    atomic.Pointer[generation]
	swaps      chan swap

	mu    sync.Mutex
	files serving
	build *build       // the generation that is built beside, nil for none
	asked atomic.Int64 // when rows were last asked for, in Unix nanoseconds
	past  string       // how the last build ended that didn't end well
}

// journalReads bounds how many clients hold the rows of a journal read at once; the others wait.
const journalReads = 4

// now is the generation that serves.
func (v *View) now() *generation { return v.serving.Load() }

// read calls f with the rows as of one moment. A projection that was never complete can't be read yet.
func (v *View) read(f func(*eventstore.Tx) error) error {
	return v.readOf(func(*generation) func(*eventstore.Tx) error { return f })
}

// readOwn is read for whoever knows the indexes of the definition that the program has: while an older one serves, they
// aren't there, and would look empty.
func (v *View) readOwn(f func(*eventstore.Tx) error) error {
	if v.now().frozen {
		return &domain.Error{Class: domain.Unavailable, Rule: "building", Message: "the projection " + v.Name() + " is being built anew; an older one serves its rows"}
	}
	return v.read(f)
}

func (v *View) readOf(f func(*generation) func(*eventstore.Tx) error) error {
	v.asked.Store(time.Now().UnixNano())
	for {
		g := v.now()
		if !g.isBuilt() {
			return v.unbuilt()
		}
		err := g.table.View(f(g))
		if errors.Is(err, eventstore.ErrRetired) && v.now() != g {
			continue // it was replaced between the two lines above
		}
		return err
	}
}

func (v *View) unbuilt() error {
	return &domain.Error{Class: domain.Unavailable, Rule: "building", Message: "the projection " + v.Name() + " is being built for the first time"}
}

// Name is the projection's name.
func (v *View) Name() string { return v.projection.Name() }

// Table is the table that serves now, for readers that know its indexes.
func (v *View) Table() *eventstore.Table { return v.now().table }

// Row is one row with its key.
type Row struct {
	Key string
	Row []byte // JSON
}

// Get returns the row of key, nil if there is none, and the position that it was read at.
func (v *View) Get(key string) (row []byte, at eventstore.Position, err error) {
	err = v.readOf(func(g *generation) func(*eventstore.Tx) error {
		return func(tx *eventstore.Tx) error {
			if at, err = g.at(tx); err != nil {
				return err
			}
			row = bytes.Clone(tx.Get(key))
			return nil
		}
	})
	return row, at, err
}

// Page returns at most limit rows with keys after the given one, in key order, all as of one moment; more says whether
// there are further ones.
func (v *View) Page(after string, limit int) (rows []Row, more bool, at eventstore.Position, err error) {
	err = v.readOf(func(g *generation) func(*eventstore.Tx) error {
		return func(tx *eventstore.Tx) error {
			rows, more = nil, false
			if at, err = g.at(tx); err != nil {
				return err
			}
			return tx.Scan(after, func(k, b []byte) bool {
				if string(k) == after {
					return true
				}
				if len(rows) == limit {
					more = true
					return false
				}
				rows = append(rows, Row{Key: string(k), Row: bytes.Clone(b)})
				return true
			})
		}
	})
	return rows, more, at, err
}

// Position is how far the rows are.
func (v *View) Position() eventstore.Position { return v.now().tail.End() }

// Wait returns once the rows are at least as far as at, a position in the log or one of this view, or with ctx's
// error.
func (v *View) Wait(ctx context.Context, at eventstore.Position) error {
	for {
		g := v.now()
		if err := g.tail.End().SameLog(at); err != nil {
			return err
		}
		if at.Scope != 0 && at.Scope != g.scope {
			return eventstore.ErrReset
		}
		err := g.table.Wait(ctx, g.topic(), at)
		if errors.Is(err, eventstore.ErrRetired) && v.now() != g {
			continue
		}
		return err
	}
}

// Changes follows the rows of a view: first the current row of every key touched since the position it starts at, then
// each change as it happens. Not for concurrent use; nothing to close, but every batch wants its Done.
type Changes struct {
	view *View
	of   *generation
	at   eventstore.TailReader
}

// Follow starts at from, which must be a position of this view's generation.
func (v *View) Follow(ctx context.Context, from eventstore.Position) (*Changes, error) {
	g := v.now()
	if !g.isBuilt() {
		return nil, v.unbuilt()
	}
	end := g.tail.End()
	if err := end.SameLog(from); err != nil {
		return nil, err
	}
	if from.Scope != g.scope {
		return nil, fmt.Errorf("%w: the cursor is of another projection or generation", eventstore.ErrReset)
	}
	if !end.Covers(from) {
		// A node that is ahead, or a log that was cut: the log knows.
		stable, err := v.log.End(ctx, g.topic())
		if err != nil {
			return nil, err
		}
		if !stable.Covers(from) {
			return nil, eventstore.ErrFuture
		}
	}
	c := &Changes{view: v, of: g, at: eventstore.TailReader{At: from.Clone()}}
	if start, _ := g.tail.Reach(); !from.Covers(start) {
		// Ask now whether the journal reaches back, so that a refusal comes before the stream.
		if _, _, err := g.table.ChangedSince(g.topic(), from); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Position is the position after everything given out so far. The caller must not change it.
func (c *Changes) Position() eventstore.Position { return c.at.At }

// CaughtUp reports whether everything that the view has applied has been given out.
func (c *Changes) CaughtUp() bool { return c.at.At.Covers(c.of.tail.End()) }

// Next returns the next batch. It waits for one until ctx ends; at least every few seconds it returns an empty batch.
func (c *Changes) Next(ctx context.Context) (*eventstore.Batch, error) {
	b, covered, err := c.of.tail.Next(ctx, &c.at)
	if err != nil || covered {
		return b, err
	}
	// Older than the tail: the journal says which keys, the table how they are now.
	select {
	case c.view.reads <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release := func() { <-c.view.reads }
	changes, at, err := c.of.table.ChangedSince(c.of.topic(), c.at.At)
	if err != nil {
		release()
		return nil, err
	}
	// In the order of the log, so that a client that stops within them has a cursor that is further than where it began.
	slices.SortStableFunc(changes, func(a, b eventstore.Change) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Partition, b.Partition))
	})
	b = &eventstore.Batch{Next: c.of.scoped(at), Release: release}
	for i := range changes {
		b.Records = append(b.Records, &eventstore.Record{Partition: changes[i].Partition, Offset: changes[i].Offset, Change: &changes[i]})
	}
	c.at.MoveTo(b.Next)
	return b, nil
}
