package projections

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// View is one projection's table as readers see it. Safe for concurrent use.
type View struct {
	projection Projection
	table      *eventstore.Table
	log        *eventstore.Log
	topics     []string // the first one is that of the rows
	scope      uint64
	tail       *eventstore.Tail // of changes, at scoped positions
	reads      chan struct{}    // journal reads that clients hold at once

	mu     sync.Mutex
	live   map[string]bool // topics in which the view has once reached the end
	halted error
}

// changesBytes bounds the changes that a view keeps in memory for its feed.
const changesBytes = 16 << 20

// journalReads bounds how many clients hold the rows of a journal read at once; the others wait.
const journalReads = 4

func newView(l *eventstore.Log, p Projection, table *eventstore.Table) (*View, error) {
	v := &View{projection: p, table: table, log: l, scope: fingerprint(table.Meta), live: map[string]bool{}, reads: make(chan struct{}, journalReads)}
	switch p.(type) {
	case bothTopics:
		v.topics = []string{l.Topics.Events, l.Topics.Outcomes}
	case OutcomeProjection:
		v.topics = []string{l.Topics.Outcomes}
	default:
		v.topics = []string{l.Topics.Events}
	}
	for _, topic := range v.topics {
		if have, ok := table.Position(topic); ok {
			if err := l.TailEnd(topic).SameLog(have); err != nil {
				return nil, fmt.Errorf("its file was built from another log (delete the folder of the projection to build it anew): %w", err)
			}
		}
	}
	at, ok := table.Position(v.topic())
	if !ok {
		at = eventstore.Position{Topic: l.TailEnd(v.topic()).Topic, Next: make([]int64, l.Partitions())}
	}
	v.tail = eventstore.NewTail(v.scoped(at), changesBytes)
	return v, nil
}

// fingerprint makes a cursor of one generation foreign to another. It is the same on every node that has built the
// same generation of the same version.
func fingerprint(m eventstore.TableMeta) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d/%d", m.Name, m.Version, m.Generation)
	return max(h.Sum64(), 1)
}

func (v *View) topic() string { return v.topics[0] }

func (v *View) scoped(p eventstore.Position) eventstore.Position {
	p = p.Clone()
	p.Scope = v.scope
	return p
}

// Name is the projection's name.
func (v *View) Name() string { return v.projection.Name() }

// Table is the table itself, for readers that know its indexes.
func (v *View) Table() *eventstore.Table { return v.table }

// Row is one row with its key.
type Row struct {
	Key string
	Row []byte // JSON
}

// Get returns the row of key, nil if there is none, and the position that it was read at.
func (v *View) Get(key string) (row []byte, at eventstore.Position, err error) {
	err = v.table.View(func(tx *eventstore.Tx) error {
		if at, err = v.at(tx); err != nil {
			return err
		}
		if b := tx.Get(key); b != nil {
			row = append([]byte{}, b...)
		}
		return nil
	})
	return row, at, err
}

// Page returns at most limit rows with keys after the given one, in key order, all as of one moment; more says whether
// there are further ones.
func (v *View) Page(after string, limit int) (rows []Row, more bool, at eventstore.Position, err error) {
	err = v.table.View(func(tx *eventstore.Tx) error {
		if at, err = v.at(tx); err != nil {
			return err
		}
		tx.Scan(after, func(k, b []byte) bool {
			if string(k) == after {
				return true
			}
			if len(rows) == limit {
				more = true
				return false
			}
			rows = append(rows, Row{Key: string(k), Row: append([]byte{}, b...)})
			return true
		})
		return nil
	})
	return rows, more, at, err
}

// at is the position of a read. A view that has applied nothing is at the beginning.
func (v *View) at(tx *eventstore.Tx) (eventstore.Position, error) {
	p, err := tx.Position(v.topic())
	if domain.ClassOf(err) == domain.Unavailable {
		p, err = eventstore.Position{Topic: v.tail.End().Topic, Next: make([]int64, v.log.Partitions())}, nil
	}
	p.Scope = v.scope
	return p, err
}

// Position is how far the rows are.
func (v *View) Position() eventstore.Position { return v.tail.End() }

// Wait returns once the rows are at least as far as at, a position in the log or one of this view, or with ctx's
// error.
func (v *View) Wait(ctx context.Context, at eventstore.Position) error {
	here := v.tail.End()
	if err := here.SameLog(at); err != nil {
		return err
	}
	if at.Scope != 0 && at.Scope != v.scope {
		return eventstore.ErrReset
	}
	return v.table.Wait(ctx, v.topic(), at)
}

// Status is what operators see of a view.
type Status struct {
	Name       string `json:"name"`
	Version    int    `json:"version" doc:"version of the projection's definition"`
	Generation int    `json:"generation" doc:"number of the file that serves"`
	State      string `json:"state" enum:"building,live,halted" doc:"building until it has once reached the end of the log"`
	Error      string `json:"error,omitempty" doc:"why it halted"`
	Lag        int64  `json:"lag" doc:"offsets still to apply over all partitions; an upper bound of the events"`
	FileBytes  int64  `json:"file_bytes"`
	Position   string `json:"position"`
}

// Status reports how the view is doing.
func (v *View) Status() Status {
	s := Status{Name: v.Name(), Version: v.table.Meta.Version, Generation: v.table.Meta.Generation, State: "live", FileBytes: v.table.Size(), Position: v.Position().String()}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, topic := range v.topics {
		end := v.log.TailEnd(topic)
		at, ok := v.table.Position(topic)
		for p, n := range end.Next {
			if !ok {
				s.Lag += n
			} else {
				s.Lag += max(0, n-at.Next[p])
			}
		}
		if !v.live[topic] {
			s.State = "building"
		}
	}
	if v.halted != nil {
		s.State, s.Error = "halted", v.halted.Error()
	}
	return s
}

func (v *View) caughtUp(topic string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.live[topic] = true
}

// halt stops this view, and nothing else, until an operator acts. It returns nil for the engine to go on.
func (v *View) halt(log *slog.Logger, err error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.halted = err
	log.Error("projection halted", "projection", v.Name(), "error", err)
	return nil
}

// apply folds records into tx. A panic of the projection is an error like any other.
func (v *View) apply(tx *eventstore.Tx, records []*eventstore.Record) (err error) {
	var at *eventstore.Record
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		if err != nil && at != nil {
			err = fmt.Errorf("record %d/%d: %w", at.Partition, at.Offset, err)
		}
	}()
	for _, at = range records {
		tx.At(at.Partition, at.Offset)
		switch {
		case at.Event != nil:
			err = v.projection.Apply(tx, *at.Event)
		case at.Outcome != nil:
			err = v.projection.(OutcomeProjection).ApplyOutcome(tx, *at.Outcome)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// publish gives a committed batch to the feed.
func (v *View) publish(changes []eventstore.Change, next eventstore.Position) {
	b := &eventstore.Batch{Next: v.scoped(next), Shared: true}
	size := int64(0)
	for i := range changes {
		c := &changes[i]
		b.Records = append(b.Records, &eventstore.Record{Partition: c.Partition, Offset: c.Offset, Change: c})
		size += int64(len(c.Key)+len(c.Row)) + 256
	}
	v.tail.Append(b, size)
}

// Changes follows the rows of a view: first the current row of every key touched since the position it starts at, then
// each change as it happens. Not for concurrent use; nothing to close, but every batch wants its Done.
type Changes struct {
	view *View
	at   eventstore.TailReader
}

// Follow starts at from, which must be a position of this view's generation.
func (v *View) Follow(ctx context.Context, from eventstore.Position) (*Changes, error) {
	end := v.tail.End()
	if err := end.SameLog(from); err != nil {
		return nil, err
	}
	if from.Scope != v.scope {
		return nil, fmt.Errorf("%w: the cursor is of another projection or generation", eventstore.ErrReset)
	}
	if !end.Covers(from) {
		// A node that is ahead, or a log that was cut: the log knows.
		stable, err := v.log.End(ctx, v.topic())
		if err != nil {
			return nil, err
		}
		if !stable.Covers(from) {
			return nil, eventstore.ErrFuture
		}
	}
	c := &Changes{view: v, at: eventstore.TailReader{At: from.Clone()}}
	if start, _ := v.tail.Reach(); !from.Covers(start) {
		// Ask now whether the journal reaches back, so that a refusal comes before the stream.
		if _, _, err := v.table.ChangedSince(v.topic(), from); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Position is the position after everything given out so far. The caller must not change it.
func (c *Changes) Position() eventstore.Position { return c.at.At }

// CaughtUp reports whether everything that the view has applied has been given out.
func (c *Changes) CaughtUp() bool { return c.at.At.Covers(c.view.tail.End()) }

// Next returns the next batch. It waits for one until ctx ends; at least every few seconds it returns an empty batch.
func (c *Changes) Next(ctx context.Context) (*eventstore.Batch, error) {
	tail := c.view.tail
	b, covered, wake, err := tail.Read(&c.at)
	if err == nil && b == nil && covered {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wake:
		}
		if b, covered, _, err = tail.Read(&c.at); err == nil && b == nil && covered {
			return &eventstore.Batch{Next: c.at.At}, nil
		}
	}
	if err != nil || b != nil {
		return b, err
	}
	// Older than the tail: the journal says which keys, the table how they are now.
	select {
	case c.view.reads <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release := func() { <-c.view.reads }
	changes, at, err := c.view.table.ChangedSince(c.view.topic(), c.at.At)
	if err != nil {
		release()
		return nil, err
	}
	b = &eventstore.Batch{Next: c.view.scoped(at), Release: release}
	for i := range changes {
		b.Records = append(b.Records, &eventstore.Record{Partition: changes[i].Partition, Offset: changes[i].Offset, Change: &changes[i]})
	}
	c.at = eventstore.TailReader{At: b.Next}
	return b, nil
}
