package api

import (
	"context"
	"net/http"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// pastRow answers with a row as it was.
func (s *server) pastRow(ctx context.Context, v *projections.View, in *rowRequest) (*answered, error) {
	past, err := s.past(ctx, in)
	if err != nil {
		return nil, err
	}
	b, err := v.GetPast(ctx, s.History, in.Key, past)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, notFound("the projection %s had no row %q then", in.Name, in.Key)
	}
	out := &answered{ContentType: "application/json", Status: http.StatusOK, Body: append(b, '\n')}
	if past.Before.Next != nil {
		out.Position = past.Before.String()
	}
	return out.notModified(in.NotMatch, 0), nil
}

// past reads `at`, and waits until the streams are known up to there.
func (s *server) past(ctx context.Context, in *rowRequest) (past eventstore.Past, err error) {
	if t, err := time.Parse(time.RFC3339Nano, in.At); err == nil {
		if t.After(s.Clock()) {
			return past, domain.Invalidf("at", "%s is in the future", in.At)
		}
		return eventstore.Past{Until: t}, nil
	}
	if past.Before, err = eventstore.ParsePosition(in.At); err != nil {
		return past, domain.Invalidf("at", "neither a time such as 2026-01-31T12:00:00Z nor a position")
	}
	streams, err := s.streamsView()
	if err != nil {
		return past, err
	}
	past.Before.Scope = 0 // a position of this projection is one of the log too
	return past, Waiting{After: past.Before.String(), Prefer: in.Prefer}.await(ctx, streams)
}
