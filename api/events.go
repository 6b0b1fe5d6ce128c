package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
)

// cloudEvent is an event as CloudEvents 1.0.2 writes it in JSON
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
type cloudEvent struct {
	SpecVersion     string          `json:"specversion" enum:"1.0"`
	ID              string          `json:"id" doc:"Unique in the log"`
	Type            string          `json:"type" example:"billing.credit.granted"`
	Source          string          `json:"source" doc:"/sources/‹name› or /commands/‹type›" example:"/commands/GrantCredit"`
	Subject         string          `json:"subject" doc:"The stream" example:"billing/cus_9"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype,omitempty" example:"application/json"`
	Data            json.RawMessage `json:"data,omitempty" doc:"The payload; a string if it is text and not JSON"`
	DataBase64      string          `json:"data_base64,omitempty" doc:"The payload if it is neither JSON nor text"`
	StreamVersion   uint64          `json:"streamversion" doc:"1, 2, 3 … within the stream, without a hole"`
	CorrelationID   string          `json:"correlationid,omitempty" doc:"Id of the first cause"`
	CausationID     string          `json:"causationid,omitempty" doc:"Id of the direct cause: a delivery or a command"`
	TraceParent     string          `json:"traceparent,omitempty" doc:"W3C Trace Context"`
	DeliveryID      string          `json:"deliveryid,omitempty" doc:"The provider's id of the delivery that brought it"`
	Verification    string          `json:"verification,omitempty" doc:"How the delivery was verified: scheme and binding class"`
	ReplayOf        string          `json:"replayof,omitempty" doc:"The delivery id that deliveryid repeats, when an operator had it replayed"`
}

// eventPage is the document of a page of events; the bytes are written by writePage.
type eventPage struct {
	Items []cloudEvent `json:"items" nullable:"false"`
	Next  string       `json:"next" doc:"Cursor after these events; always there. Ask again with it, or with Prefer: wait"`
	FeedPageMembers
}

func (s *server) registerEvents() {
	pages := responds(schemaOf[eventPage](s), "Link", "Penstock-Position", "Preference-Applied", "ETag")
	pages["200"].Content[cloudEventsBatch] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeArray, Items: schemaOf[cloudEvent](s)}}
	documentFeed(pages)
	add(s, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/events", Tags: []string{"Events"},
		Summary: "Read the events of the log, or follow them",
		Description: "A page of events in the log's order, from the oldest on unless told otherwise. " + feedText + "\n\n" +
			"A page may be short, even empty, and still be followed by another: it is the end of the log only when asking again gives nothing.",
		Responses: pages,
		Errors:    refused(http.StatusBadRequest, http.StatusConflict, http.StatusGone, http.StatusTooManyRequests, http.StatusServiceUnavailable),
	}, s.events)
	one := map[string]*huma.Response{"200": {
		Description: http.StatusText(http.StatusOK), Content: map[string]*huma.MediaType{"application/cloudevents+json": {Schema: schemaOf[cloudEvent](s)}},
	}}
	add(s, huma.Operation{
		OperationID: "get-event", Method: http.MethodGet, Path: "/v1/events/{id}", Tags: []string{"Events"}, Metadata: wide(),
		Summary:   "Get one event",
		Responses: one,
		Errors:    refused(http.StatusNotFound),
	}, s.event)
}

type eventsRequest struct {
	FeedRequest
	Type   []string `query:"type,explode" nullable:"false" doc:"Only these types; * stands for any characters" example:"[\"billing.*\"]"`
	Source []string `query:"source,explode" nullable:"false" doc:"Only from these sources; a * at the end makes it a beginning"`
	Stream []string `query:"stream,explode" nullable:"false" doc:"Only of these streams; a * at the end makes it a beginning" example:"[\"billing/*\"]"`
	Accept string   `header:"Accept" hidden:"true"`
}

// Resolve reads what the page shares with the feed at the same URL, by the feed's own rules.
func (in *eventsRequest) Resolve(ctx huma.Context) []error { return in.resolve(ctx, egress.OfEvents) }

func (s *server) events(ctx context.Context, in *eventsRequest) (*answered, error) {
	batch := strings.Contains(in.Accept, cloudEventsBatch)
	return s.feedPage(ctx, egress.Events(s.Log, s.Log.Topics.Events), in.request.FromEarliest(), &in.FeedRequest, batch)
}

type eventRequest struct {
	ID string `path:"id" maxLength:"1024"`
}

func (s *server) event(_ context.Context, in *eventRequest) (*answered, error) {
	e, ok, err := s.History.Event(in.ID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound("no event has this id")
	}
	return &answered{ContentType: "application/cloudevents+json", Status: http.StatusOK, Body: append(egress.AppendCloudEvent(nil, &e), '\n')}, nil
}

func notFound(format string, args ...any) error {
	return &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf(format, args...)}
}
