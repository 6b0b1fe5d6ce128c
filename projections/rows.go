package projections

import (
	"context"
	"errors"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Bounds of one read of the rows.
const (
	rowsAtOnce      = 500
	rowsAtOnceBytes = 512 << 10
)

// Rows gives every row of a view as it is, and then the changes from exactly there. It reads the rows piece by piece, so
// that a slow reader holds nothing open; what changed meanwhile comes, as of one moment, with the last piece. Until then
// there is no position. Not for concurrent use; nothing to close, but every batch wants its Done.
type Rows struct {
	view  *View
	of    *generation
	begun eventstore.Position // that of the first piece
	after string              // key of the last row given
	given bool                // all rows were given
	rest  *Changes            // and what changed meanwhile
}

// Rows begins at the first row.
func (v *View) Rows() *Rows { return &Rows{view: v, of: v.now()} }

// Position is empty until all rows were given, and then as in Changes.
func (r *Rows) Position() eventstore.Position {
	if r.rest == nil {
		return eventstore.Position{}
	}
	return r.rest.Position()
}

// CaughtUp reports whether the rows and all changes that the view has applied were given out.
func (r *Rows) CaughtUp() bool { return r.rest != nil && r.rest.CaughtUp() }

// Next returns the next rows, or then the next changes. An error of class Unavailable says that the rows changed faster
// than they were taken: whoever wants them begins again.
func (r *Rows) Next(ctx context.Context) (*eventstore.Batch, error) {
	if r.rest != nil {
		return r.rest.Next(ctx)
	}
	select {
	case r.view.reads <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release := func() { <-r.view.reads }
	read := r.piece
	if r.given {
		read = r.since
	}
	b, err := read()
	if err != nil {
		release()
		return nil, err
	}
	b.Rows, b.Release = true, release
	return b, nil
}

// piece reads on from the last row.
func (r *Rows) piece() (*eventstore.Batch, error) {
	b := &eventstore.Batch{}
	bytes := 0
	err := r.of.table.View(func(tx *eventstore.Tx) error {
		at, err := r.of.at(tx)
		if err != nil {
			return err
		}
		if r.begun.Next == nil {
			r.begun = at
		}
		r.given = true
		tx.Scan(r.after, func(k, row []byte) bool {
			key := string(k)
			if key == r.after {
				return true
			}
			if len(b.Records) == rowsAtOnce || bytes >= rowsAtOnceBytes {
				r.given = false
				return false
			}
			bytes += len(key) + len(row)
			b.Records = append(b.Records, &eventstore.Record{Change: &eventstore.Change{Key: key, Row: append([]byte{}, row...)}})
			return true
		})
		return nil
	})
	if n := len(b.Records); n > 0 {
		r.after = b.Records[n-1].Change.Key
	}
	return b, err
}

// since reads what changed while the rows were read: after it everything given is the table as of one moment.
func (r *Rows) since() (*eventstore.Batch, error) {
	changes, at, err := r.of.table.ChangedSince(r.of.topic(), r.begun)
	if errors.Is(err, eventstore.ErrExpired) {
		return nil, &domain.Error{Class: domain.Unavailable, Message: "the rows change faster than they are taken; begin again"}
	}
	if err != nil {
		return nil, err
	}
	b := &eventstore.Batch{Next: r.of.scoped(at)}
	for i := range changes {
		b.Records = append(b.Records, &eventstore.Record{Change: &changes[i]})
	}
	r.rest = &Changes{view: r.view, of: r.of, at: eventstore.TailReader{At: b.Next}}
	return b, nil
}
