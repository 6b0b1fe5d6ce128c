package projections

import (
	"bytes"
	"context"
	"fmt"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// StreamLocal is a Projection whose rows each depend on one stream alone. Its past can be asked for.
type StreamLocal interface {
	// StreamOf returns the stream that the row of key depends on; ok is false if it depends on more.
	StreamOf(key string) (s domain.Stream, ok bool)
}

// StreamOf is the stream that alone the row of key depends on, if there is one.
func (v *View) StreamOf(key string) (s domain.Stream, ok bool) {
	if p, local := v.projection.(StreamLocal); local {
		return p.StreamOf(key)
	}
	return "", false
}

// maxPast is how many events of a stream are folded for one answer.
const maxPast = 100_000

// GetPast returns the row of key as past says, nil if there was none: the fold of its stream up to there by the definition
// that the program has now. Records that an operator had the projection leave out are left out.
func (v *View) GetPast(ctx context.Context, h *eventstore.History, key string, past eventstore.Past) ([]byte, error) {
	s, ok := v.StreamOf(key)
	if !ok {
		return nil, domain.Invalidf("at", "rows of %s depend on more than one stream each: their past can't be asked for", v.Name())
	}
	if past.Before.Next != nil {
		if err := v.Position().SameLog(past.Before); err != nil {
			return nil, err
		}
	}
	release, err := v.scanning(ctx, true)
	if err != nil {
		return nil, err
	}
	defer release()
	skips := v.now().skipped()
	var row []byte
	_, err = eventstore.Fold(func(tx *eventstore.Tx) error {
		err := h.Replay(ctx, s, past, maxPast, func(e eventstore.Placed) error {
			if skips[spot{false, e.Partition, e.Offset}] {
				return nil
			}
			tx.At(e.Partition, e.Offset)
			if err := v.projection.Apply(tx, e.Event); err != nil {
				return &domain.Error{Class: domain.Rejected, Rule: "not-applicable", Err: err,
					Message: fmt.Sprintf("version %d of %s can't be applied: %v", e.Version, s, err)}
			}
			return nil
		})
		row = bytes.Clone(tx.Get(key))
		return err
	})
	return row, err
}
