// Package egress is where events leave: feeds that clients follow live and resume without a loss.
package egress

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Reader is what a feed pulls from: an *eventstore.Follower for the events of the log, or the changes of a projection.
// A feed calls it from one goroutine.
type Reader interface {
	// Next returns the next batch. It waits for one until ctx ends; at least about every five seconds it returns
	// an empty batch, which a feed uses as its clock. The feed calls Done on every batch. io.EOF says that the feed was
	// finite and is complete. Any other error ends the feed: ErrReset, ErrExpired and ErrFuture of package eventstore
	// are told to the client as such.
	Next(ctx context.Context) (*eventstore.Batch, error)
	// Position is the position after everything given out so far. What it returned stays as it is when Next moves
	// the reader on. The caller must not change it.
	Position() eventstore.Position
	// CaughtUp reports whether everything that this node knows of was given out. Until then Next doesn't wait.
	CaughtUp() bool
}

// Source is something that feeds are opened on: the events of the log, or the changes of a projection's rows. Its
// functions may be called at the same time.
type Source struct {
	Name string // "events", or "changes of ‹projection›": for whoever looks at the feeds
	// Resolve finds the position that a start means now. The filter is of use to "the last n".
	Resolve func(context.Context, Start, Filter) (eventstore.Position, error)
	// Follow begins at a position, which is refused if it can't be honoured.
	Follow func(context.Context, eventstore.Position) (Reader, error)
	// Earliest is the oldest position there is. Nil where none is older than the latest.
	Earliest func(context.Context) (eventstore.Position, error)
	// Rows gives every row as it is and then the changes from exactly there. Nil where there are no rows.
	Rows func(context.Context) (Reader, error)
	// End is the position after everything that this node knows of. It asks nobody.
	End func() eventstore.Position
}

// Events is the source of a topic's events.
func Events(log *eventstore.Log, topic string) Source {
	return Source{
		Name: "events",
		Resolve: func(ctx context.Context, s Start, f Filter) (eventstore.Position, error) {
			return s.In(ctx, log, topic, f)
		},
		Follow: func(ctx context.Context, from eventstore.Position) (Reader, error) {
			follower, err := log.Follow(ctx, topic, from)
			if err != nil {
				return nil, err
			}
			return follower.Leased(), nil
		},
		Earliest: func(ctx context.Context) (eventstore.Position, error) { return log.Start(ctx, topic) },
		End:      func() eventstore.Position { return log.TailEnd(topic) },
	}
}

// Subscription is one client's feed, opened.
type Subscription struct {
	Source Source
	Reader Reader
	Filter Filter
	// Gap is set when the cursor asked for could not be honoured and the client had said where to begin instead.
	Gap *Gap

	request Request
	rows    bool // the reader gives rows first; until it has given them all there is no position
	limit   int  // end after so many messages; 0 for no limit
}

// Gap is a place where a feed skips, or may skip. It is always told.
type Gap struct {
	Reason  string // expired, reset or future
	Resumed string // earliest or latest: where the feed goes on
}

// Open finds where the request begins and ends in src. A cursor that can't be honoured is refused, as ErrReset,
// ErrExpired or ErrFuture of package eventstore, unless the request says on_gap.
func Open(ctx context.Context, src Source, req Request) (*Subscription, error) {
	s := &Subscription{Source: src, Filter: req.filter, request: req, limit: req.limit}
	if err := s.begin(ctx, req.start); err != nil {
		gap, ok := gapOf(err)
		if !ok || req.onGap == "" {
			return nil, err
		}
		if err := s.resume(ctx, gap); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// begin opens the reader, with whatever bounds it.
func (s *Subscription) begin(ctx context.Context, start Start) error {
	reader, err := s.reader(ctx, start)
	if err != nil {
		return err
	}
	if s.request.every > 0 {
		reader = newConflated(reader, s.request.every)
	}
	if s.request.until != nil {
		if reader, err = s.finite(ctx, reader, *s.request.until); err != nil {
			return err
		}
	}
	s.Reader = reader
	return nil
}

func (s *Subscription) reader(ctx context.Context, start Start) (Reader, error) {
	if s.request.snapshot && start.kind != fromCursor {
		if s.Source.Rows == nil {
			return nil, domain.Invalidf("snapshot", "only the changes of a projection can begin with its rows")
		}
		s.rows = true
		return s.Source.Rows(ctx)
	}
	s.rows = false
	from, err := s.Source.Resolve(ctx, start, s.Filter)
	if err != nil {
		return nil, err
	}
	return s.Source.Follow(ctx, from)
}

// resume begins where the client wants to be after a gap, and remembers to tell.
func (s *Subscription) resume(ctx context.Context, gap string) error {
	start := Start{}
	if s.request.onGap == "earliest" {
		start.kind = fromEarliest
		if s.Source.Earliest == nil {
			// Of rows the earliest that there is are the rows as they are.
			s.request.snapshot, start.kind = true, fromLatest
		}
	}
	if err := s.begin(ctx, start); err != nil {
		return fmt.Errorf("after a gap (%s): %w", gap, err)
	}
	s.Gap = &Gap{Reason: gap, Resumed: s.request.onGap}
	return nil
}

// gapOf names what keeps a cursor from being honoured.
func gapOf(err error) (string, bool) {
	switch {
	case errors.Is(err, eventstore.ErrExpired):
		return "expired", true
	case errors.Is(err, eventstore.ErrReset):
		return "reset", true
	case errors.Is(err, eventstore.ErrFuture):
		return "future", true
	}
	return "", false
}

// Ended reports whether the feed is finite and has nothing to give.
func (s *Subscription) Ended() bool {
	f, ok := s.Reader.(*finite)
	return ok && f.complete()
}

// wants reports whether the record is for this client.
func (s *Subscription) wants(r *eventstore.Record) (bool, error) {
	if r.Event == nil && r.Change == nil {
		return false, nil
	}
	return s.Filter.Match(r)
}
