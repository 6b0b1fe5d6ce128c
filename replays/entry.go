package replays

import (
	"context"
	"errors"
	"strings"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// ErrExpired: neither the request of a delivery nor an event of it is in the log any more.
var ErrExpired = &domain.Error{Class: domain.Conflict, Rule: "entry-expired",
	Message: "the request has left the log, and it never became an event that would still have it"}

// Request reads a delivery as it came in, from the inbox. ErrRequestExpired says that the inbox has it no more.
func (r *Replays) Request(ctx context.Context, d projections.Delivery) (eventstore.Entry, error) {
	e, err := r.cfg.Log.ReadInbox(ctx, d.Partition, d.Inbox)
	switch {
	case domain.ClassOf(err) == domain.NotFound:
		return e, ErrRequestExpired
	case err != nil:
		return e, err
	case e.Foreign != nil || e.Kind != eventstore.KindDelivery || e.Source != d.Source || e.ID != d.ID:
		return e, ErrRequestExpired // the topic was made anew, and the place is another entry's by now
	}
	return e, nil
}

// ErrRequestExpired: the inbox no longer has the request of a delivery.
var ErrRequestExpired = &domain.Error{Class: domain.Conflict, Rule: "entry-expired", Message: "the request has left the inbox"}

// Entry makes the inbox entry that repeats a delivery under an identity of its own: with the request as it came in, or,
// when that has left the log, with the body that the delivery's event has. A replay of a replay repeats the original.
func (r *Replays) Entry(ctx context.Context, d projections.Delivery, replay, by, reason string) (eventstore.Entry, error) {
	e, err := r.Request(ctx, d)
	if errors.Is(err, ErrRequestExpired) {
		e, err = r.fromEvent(d)
	}
	if err != nil {
		return e, err
	}
	original := d.ID
	if d.Replay != nil {
		original = d.Replay.Of
	}
	e.ID, e.ReplayOf, e.By, e.Note, e.Release = projections.ReplayID(original, replay), original, by, reason, ""
	e.Received, e.Attempt, e.Partition, e.Offset = r.cfg.Clock().UTC(), 0, 0, 0
	return e, nil
}

// fromEvent makes an entry of what the log still has of a delivery: everything but its headers.
func (r *Replays) fromEvent(d projections.Delivery) (e eventstore.Entry, err error) {
	if len(d.Events) == 0 {
		return e, ErrExpired
	}
	ev, ok, err := r.cfg.History.Event(d.Events[0].ID)
	switch {
	case err != nil:
		return e, err
	case !ok && !r.cfg.History.Reached(d.Partition, d.Events[0].Offset+1, 0):
		return e, &domain.Error{Class: domain.Unavailable, Message: "the streams have not come as far as the delivery log"}
	}
	if !ok || ev.Delivery != d.ID || strings.TrimPrefix(ev.Source, "/sources/") != d.Source {
		return e, ErrExpired
	}
	return eventstore.Entry{
		Kind: eventstore.KindDelivery, Source: d.Source, Type: ev.Type, Stream: ev.Stream, ContentType: ev.ContentType,
		Verification: ev.Verification, Correlation: ev.Correlation, TraceParent: ev.TraceParent, Body: ev.Data,
	}, nil
}
