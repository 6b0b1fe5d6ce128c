package egress

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// finite ends a feed at a position: it gives nothing from there on, and its own position never passes it, so that the
// last cursor of a finite feed is one to go on from.
type finite struct {
	inner Reader
	until eventstore.Position
	at    eventstore.Position

	// A time that is still to come is no position yet: it becomes one when it is there.
	when time.Time
	find func(context.Context) (eventstore.Position, error)
}

// finite bounds a reader by the request's until.
func (s *Subscription) finite(ctx context.Context, inner Reader, until Start) (Reader, error) {
	if until.kind == fromTime && until.time.After(time.Now()) {
		find := func(ctx context.Context) (eventstore.Position, error) { return s.Source.Resolve(ctx, until, Filter{}) }
		if s.Source.Earliest == nil {
			return nil, domain.Invalidf("until", "changes end at a cursor or at now")
		}
		return &finite{inner: inner, at: inner.Position(), when: until.time, find: find}, nil
	}
	end, err := s.Source.Resolve(ctx, until, Filter{})
	if err != nil {
		return nil, err
	}
	if at := inner.Position(); len(at.Next) > 0 {
		if err := end.SameLog(at); err != nil {
			return nil, err
		}
	}
	f := &finite{inner: inner, until: end}
	f.at = f.clamped(inner.Position())
	return f, nil
}

func (f *finite) Position() eventstore.Position { return f.at }

func (f *finite) CaughtUp() bool { return f.complete() || f.inner.CaughtUp() }

func (f *finite) complete() bool { return f.find == nil && len(f.at.Next) > 0 && f.at.Covers(f.until) }

func (f *finite) Next(ctx context.Context) (*eventstore.Batch, error) {
	if f.find != nil && !time.Now().Before(f.when) {
		end, err := f.find(ctx)
		if err != nil {
			return nil, err
		}
		// What came between the time and now may have been given out already.
		end = end.Clone()
		for p, n := range f.at.Next {
			end.Next[p] = max(end.Next[p], n)
		}
		f.find, f.until = nil, end
	}
	if f.complete() {
		return nil, io.EOF
	}
	b, err := f.inner.Next(ctx)
	if err != nil {
		return nil, err
	}
	if f.find != nil || len(b.Next.Next) == 0 || f.until.Covers(b.Next) {
		f.at = b.Next
		return b, nil
	}
	own := &eventstore.Batch{Next: f.clamped(b.Next), Release: b.Release}
	for _, r := range b.Records {
		if r.Offset < f.until.Next[r.Partition] || b.Rows {
			own.Records = append(own.Records, r)
		}
	}
	f.at = own.Next
	return own, nil
}

// clamped is p, but nowhere beyond the end.
func (f *finite) clamped(p eventstore.Position) eventstore.Position {
	if len(p.Next) == 0 || f.until.Covers(p) {
		return p
	}
	p.Next = slices.Clone(p.Next)
	for i, end := range f.until.Next {
		p.Next[i] = min(p.Next[i], end)
	}
	return p
}
