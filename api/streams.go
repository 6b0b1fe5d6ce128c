package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

func (s *server) registerStreams() {
	add(s, huma.Operation{
		OperationID: "list-streams", Method: http.MethodGet, Path: "/v1/streams", Tags: []string{"Streams"},
		Summary:   "List the streams",
		Responses: responds(schemaOf[page[eventstore.StreamRow]](s), "Penstock-Position"),
		Errors:    refused(http.StatusBadRequest, http.StatusConflict),
	}, s.streams)
	one := schemaOf[eventstore.StreamRow](s)
	history := schemaOf[page[cloudEvent]](s)
	add(s, huma.Operation{
		OperationID: "get-stream", Method: http.MethodGet, Path: "/v1/streams/{category}/{key}", Tags: []string{"Streams"}, Metadata: wide(),
		Summary: "Get a stream's version, or its events",
		Description: "The ETag is the stream's version: send it as `If-Match` with a command to have it refused if anything has happened since.\n\n" +
			"With `events=true` the answer is a page of the stream's events from version `from` on. Its `next` is a version.\n\n" +
			"With `offset`, and `live=long-poll` or `live=sse`, the stream is read by the Durable Streams protocol.",
		Responses: responds(&huma.Schema{AnyOf: []*huma.Schema{one, history}}, "ETag", "Link"),
		Errors:    refused(http.StatusBadRequest, http.StatusNotFound, http.StatusServiceUnavailable),
	}, s.stream)
}

// streamsView returns the read model of the streams.
func (s *server) streamsView() (*projections.View, error) {
	v, ok := s.Engine.View(eventstore.StreamsFold{}.Name())
	if !ok {
		return nil, notFound("this node keeps no read model of the streams")
	}
	return v, nil
}

type streamsRequest struct {
	Paging
	Category string `query:"category" maxLength:"512" doc:"Only streams of this category" example:"billing"`
}

func (s *server) streams(_ context.Context, in *streamsRequest) (*answered, error) {
	v, err := s.streamsView()
	if err != nil {
		return nil, err
	}
	prefix := ""
	if in.Category != "" {
		prefix = in.Category + "/"
	}
	after, err := rowCursorIn(v, in.Cursor)
	if err != nil {
		return nil, err
	}
	// One more than asked for, to know whether the next one is still of the category.
	rows, _, at, err := v.Page(max(after, prefix), in.Limit+1)
	if err != nil {
		return nil, err
	}
	list := page[json.RawMessage]{Items: []json.RawMessage{}}
	for i, row := range rows {
		if !strings.HasPrefix(row.Key, prefix) {
			break
		}
		if i == in.Limit {
			list.Next = rowCursor{at.Scope, rows[i-1].Key}.String()
			break
		}
		list.Items = append(list.Items, row.Row)
	}
	out, err := jsonAnswer(list)
	out.Position = at.String()
	return out, err
}

type streamRequest struct {
	Paging
	Waiting
	Category string `path:"category" example:"billing"`
	Key      string `path:"key" doc:"May contain slashes" example:"cus_9"`
	Events   bool   `query:"events" doc:"Its events instead of its version"`
	From     uint64 `query:"from" minimum:"1" doc:"With events=true: the first version to return, 1 by default"`
	NotMatch string `header:"If-None-Match" doc:"ETag of an earlier answer"`
}

func (s *server) stream(ctx context.Context, in *streamRequest) (*answered, error) {
	name, err := domain.NewStream(in.Category, in.Key)
	if err != nil {
		return nil, err
	}
	if in.After != "" {
		v, err := s.streamsView()
		if err != nil {
			return nil, err
		}
		if err := in.await(ctx, v); err != nil {
			return nil, err
		}
	}
	row, ok, err := s.History.Head(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound("the stream %s has no events", name)
	}
	if in.Events {
		return s.streamEvents(in, row)
	}
	out, err := jsonAnswer(row)
	if err != nil {
		return nil, err
	}
	out.ETag = versionTag(row.Version)
	return out.notModified(in.NotMatch, 0), nil
}

// eventsAtOnce is how many of a stream's events are held in memory before they count against a page's bytes: each may
// be as large as a record.
const eventsAtOnce = 4

func (s *server) streamEvents(in *streamRequest, row eventstore.StreamRow) (*answered, error) {
	from := max(in.From, 1)
	if in.Cursor != "" {
		n, err := strconv.ParseUint(in.Cursor, 10, 64)
		if err != nil || n == 0 {
			return nil, eventstore.ErrBadPosition
		}
		from = n
	}
	body, items := []byte(`{"items":[`), 0
	for items < in.Limit && len(body) < pageBytes && from <= row.Version {
		events, err := s.History.Events(row.Stream, from, min(eventsAtOnce, in.Limit-items))
		if err != nil {
			return nil, err
		}
		if len(events) == 0 {
			return nil, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("stream %s has version %d but no event %d", row.Stream, row.Version, from)}
		}
		for i := range events {
			if items > 0 {
				body = append(body, ',')
			}
			body = egress.AppendCloudEvent(body, &events[i])
			items++
		}
		from = events[len(events)-1].Version + 1
	}
	out := &answered{ContentType: "application/json", Status: http.StatusOK}
	body = append(body, ']')
	if from <= row.Version {
		body = fmt.Appendf(body, `,"next":"%d"`, from)
		out.Link = fmt.Sprintf(`</v1/streams/%s/%s?events=true&cursor=%d&limit=%d>; rel="next"`,
			row.Stream.Category(), url.PathEscape(row.Stream.Key()), from, in.Limit)
	}
	out.Body = append(body, "}\n"...)
	return out.notModified(in.NotMatch, 0), nil
}
