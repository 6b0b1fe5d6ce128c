package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

func (s *server) registerDeliveries() {
	add(s, huma.Operation{
		OperationID: "list-deliveries", Method: http.MethodGet, Path: "/v1/deliveries", Tags: []string{"Webhooks"},
		Summary: "List the deliveries, newest first",
		Description: "With `id` they are in the order of source and id instead, and found at once however many there are. " +
			"A page may be short, even empty, and still be followed by another, when few of the deliveries pass the filters.",
		Errors: refused(http.StatusBadRequest, http.StatusNotFound),
	}, s.deliveries)
	add(s, huma.Operation{
		OperationID: "get-delivery", Method: http.MethodGet, Path: "/v1/deliveries/{source}/{id}", Tags: []string{"Webhooks"}, Metadata: wide(),
		Summary: "Get one delivery and what became of it",
		Errors:  refused(http.StatusNotFound),
	}, s.delivery)
	request := huma.Operation{
		OperationID: "get-delivery-request", Method: http.MethodGet, Path: "/v1/deliveries/{source}/{id}/request", Tags: []string{"Webhooks"},
		Summary: "Get the request of a delivery as it came in",
		Description: "As long as the inbox has it, 30 days by default; the event of an accepted delivery has the body for ever. " +
			"A slash in the id is written as %2F here.",
		Errors: refused(http.StatusNotFound, http.StatusGone, http.StatusServiceUnavailable), Responses: map[string]*huma.Response{},
	}
	reading := make(chan struct{}, parkedReads) // one for each request with a body in hand
	add(s, request, func(ctx context.Context, in *DeliveryPath) (*deliveryRequestAnswer, error) {
		select {
		case reading <- struct{}{}:
			defer func() { <-reading }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return s.deliveryRequest(ctx, in)
	})
	request.Responses["410"].Description = "/problems/entry-expired: the request has left the inbox"
}

func (s *server) deliveriesView() (*projections.View, error) {
	v, ok := s.Engine.View(projections.Deliveries{}.Name())
	if !ok {
		return nil, notFound("this node keeps no delivery log")
	}
	return v, nil
}

type deliveriesRequest struct {
	Paging
	Source string    `query:"source" maxLength:"64" doc:"Only of this source" example:"github"`
	Type   string    `query:"type" maxLength:"512" doc:"Only of this type; * stands for any characters" example:"github.pull_request.*"`
	Status string    `query:"status" enum:"accepted,parked,discarded" doc:"Only with this outcome"`
	Stream string    `query:"stream" maxLength:"512" doc:"Only of this stream" example:"github/octo/hello#12"`
	ID     string    `query:"id" maxLength:"1024" doc:"Only with delivery ids that begin so; changes the order"`
	Text   string    `query:"q" maxLength:"256" doc:"Only with this text in the delivery id, stream or type, whatever its case"`
	Since  time.Time `query:"since" doc:"Only received then or later" example:"2026-01-31T12:00:00Z"`
	Until  time.Time `query:"until" doc:"Only received before"`
	Replay string    `query:"replay" maxLength:"64" doc:"Only those that this replay has made"`
}

// deliveryRow is a row of the list.
type deliveryRow struct {
	projections.Delivery
	Processing float64 `json:"processing_ms" doc:"milliseconds from when it was received to when it was decided"`
}

func rowOf(d projections.Delivery) deliveryRow {
	return deliveryRow{d, float64(d.Handled.Sub(d.Received).Microseconds()) / 1000}
}

type deliveriesAnswer struct {
	Body page[deliveryRow]
}

func (s *server) deliveries(ctx context.Context, in *deliveriesRequest) (*deliveriesAnswer, error) {
	v, err := s.deliveriesView()
	if err != nil {
		return nil, err
	}
	filter := projections.DeliveryFilter{
		Source: in.Source, Type: in.Type, Status: domain.Status(in.Status), Stream: domain.Stream(in.Stream), ID: in.ID, Text: in.Text,
		Since: in.Since, Until: in.Until, Replay: in.Replay,
	}
	items, next, err := projections.DeliveryPage(ctx, v, filter, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	a := &deliveriesAnswer{page[deliveryRow]{Items: []deliveryRow{}, Next: next}}
	for _, d := range items {
		a.Body.Items = append(a.Body.Items, rowOf(d))
	}
	return a, nil
}

// DeliveryPath names a delivery.
type DeliveryPath struct {
	Source string `path:"source" example:"github"`
	ID     string `path:"id" maxLength:"1024" doc:"The provider's id of the delivery"`
}

// deliveryDetail is a delivery with what it caused, and where all of that is found.
type deliveryDetail struct {
	deliveryRow
	Caused []causedCommand `json:"caused" nullable:"false" doc:"What became of the first 100 commands that policies asked for"`
	Links  deliveryLinks   `json:"links"`
}

type causedCommand struct {
	ID      string            `json:"id"`
	Type    string            `json:"type,omitempty"`
	Stream  domain.Stream     `json:"stream,omitempty"`
	Status  domain.Status     `json:"status" enum:"accepted,rejected,parked,discarded,pending" doc:"pending: nothing is known yet, or any more"`
	Rule    string            `json:"rule,omitempty" doc:"rejected: name of the rule"`
	Message string            `json:"message,omitempty" doc:"rejected: why in words"`
	Events  []domain.EventRef `json:"events" nullable:"false"`
	URL     string            `json:"url"`
}

type deliveryLinks struct {
	Self       string   `json:"self"`
	Request    string   `json:"request"`
	Stream     string   `json:"stream"`
	Events     []string `json:"events" nullable:"false" doc:"Of the delivery and of what it caused"`
	Parked     string   `json:"parked,omitempty" doc:"It is or was parked"`
	ReplayOf   string   `json:"replay_of,omitempty"`
	LastReplay string   `json:"last_replay,omitempty"`
}

const shownCommands = 100

type deliveryAnswer struct{ Body deliveryDetail }

// find returns the row of a delivery, or NotFound.
func (s *server) find(source, id string) (d projections.Delivery, err error) {
	v, err := s.deliveriesView()
	if err != nil {
		return d, err
	}
	d, ok, err := projections.DeliveryGet(v, source, id)
	if err == nil && !ok {
		err = notFound("no delivery %s of %s is in the delivery log", id, source)
	}
	return d, err
}

func (s *server) delivery(_ context.Context, in *DeliveryPath) (*deliveryAnswer, error) {
	d, err := s.find(in.Source, in.ID)
	if err != nil {
		return nil, err
	}
	self := func(id string) string {
		return "/v1/deliveries/" + url.PathEscape(d.Source) + "/" + url.PathEscape(id)
	}
	detail := deliveryDetail{
		deliveryRow: rowOf(d), Caused: []causedCommand{},
		Links: deliveryLinks{Self: self(d.ID), Request: self(d.ID) + "/request", Events: []string{}, Stream: streamURL(d.Stream)},
	}
	if d.Replay != nil {
		detail.Links.ReplayOf = self(d.Replay.Of)
	}
	if d.LastReplay != "" {
		detail.Links.LastReplay = self(d.LastReplay)
	}
	if d.Status == domain.Parked || d.Release != nil {
		detail.Links.Parked = fmt.Sprintf("/v1/parked/%d-%d", d.Partition, d.Inbox)
	}
	links := func(events []domain.EventRef) {
		for _, e := range events {
			detail.Links.Events = append(detail.Links.Events, "/v1/events/"+url.PathEscape(e.ID))
		}
	}
	links(d.Events)
	for _, id := range d.Commands[:min(len(d.Commands), shownCommands)] {
		c := causedCommand{ID: id, Status: "pending", Events: []domain.EventRef{}, URL: "/v1/commands/" + url.PathEscape(id)}
		o, known, err := s.History.Outcome(eventstore.KindCommand, "", id)
		if err != nil {
			return nil, err
		}
		if known {
			c.Type, c.Stream, c.Status, c.Rule = o.Type, o.Stream, o.Status, o.Rule
			c.Events = append(c.Events, o.Events...)
			if o.Status == domain.Refused {
				c.Message = o.Message
			}
			links(o.Events)
		}
		detail.Caused = append(detail.Caused, c)
	}
	return &deliveryAnswer{detail}, nil
}

func streamURL(s domain.Stream) string {
	return "/v1/streams/" + url.PathEscape(s.Category()) + "/" + url.PathEscape(s.Key())
}

// deliveryRequest is the request of a delivery as it came in.
type deliveryRequest struct {
	Method       string            `json:"method"`
	Path         string            `json:"path" example:"/hooks/github"`
	Received     time.Time         `json:"received"`
	Verification string            `json:"verification"`
	ContentType  string            `json:"content_type,omitempty"`
	Headers      map[string]string `json:"headers" nullable:"false" doc:"Those that are kept: what verifies the request, and what says what it is. Secrets are masked"`
	Size         int               `json:"size" doc:"bytes of the body"`
	SHA256       string            `json:"sha256" doc:"of the body, in hex"`
	Body         *string           `json:"body,omitempty" doc:"The body, exactly, if it is UTF-8"`
	Base64       string            `json:"body_base64,omitempty" doc:"The body otherwise"`
}

type deliveryRequestAnswer struct{ Body deliveryRequest }

func (s *server) deliveryRequest(ctx context.Context, in *DeliveryPath) (*deliveryRequestAnswer, error) {
	d, err := s.find(in.Source, in.ID)
	if err != nil {
		return nil, err
	}
	if s.Replays == nil {
		return nil, notFound("this node does not show requests")
	}
	e, err := s.Replays.Request(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("the request of %s: %w", d.ID, err)
	}
	sum := sha256.Sum256(e.Body)
	a := &deliveryRequestAnswer{deliveryRequest{
		Method: http.MethodPost, Path: "/hooks/" + url.PathEscape(e.Source), Received: e.Received, Verification: e.Verification,
		ContentType: e.ContentType, Headers: masked(e.Headers), Size: len(e.Body), SHA256: hex.EncodeToString(sum[:]),
	}}
	if a.Body.Headers == nil {
		a.Body.Headers = map[string]string{}
	}
	if utf8.Valid(e.Body) {
		text := string(e.Body)
		a.Body.Body = &text
	} else {
		a.Body.Base64 = base64.StdEncoding.EncodeToString(e.Body)
	}
	return a, nil
}

// masked hides the values of headers that may hold a credential, whatever list they are on. A signature is none: it
// proves the request and nothing else.
func masked(headers map[string]string) map[string]string {
	if headers == nil {
		return nil
	}
	shown := make(map[string]string, len(headers))
	for name, value := range headers {
		for _, part := range []string{"authorization", "cookie", "token", "secret", "password", "key", "credential"} {
			if strings.Contains(strings.ToLower(name), part) {
				value = "(masked)"
			}
		}
		shown[name] = value
	}
	return shown
}

// documentHooks describes where webhooks come in. The requests themselves are ingress's.
func (s *server) documentHooks() {
	problem := map[string]*huma.MediaType{"application/problem+json": {Schema: schemaOf[Problem](s)}}
	op := &huma.Operation{
		OperationID: "receive-webhook", Method: http.MethodPost, Path: "/hooks/{source}", Tags: []string{"Webhooks"},
		Summary: "Receive a webhook",
		Description: "For providers. The body is taken as it is and its signature verified over these bytes; a 202 means that it is stored durably. " +
			"Which headers carry the signature, the id and the type depends on the source's provider.",
		Parameters: []*huma.Param{{
			Name: "source", In: "path", Required: true, Description: "Name of a source", Example: "github",
			Schema: &huma.Schema{Type: huma.TypeString},
		}},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: &huma.Schema{Description: "Whatever the provider sends"}},
		}},
		Responses: map[string]*huma.Response{
			"202": {Description: "Stored", Content: map[string]*huma.MediaType{"application/json": {Schema: schemaOf[received](s)}}},
		},
	}
	for status, description := range map[string]string{
		"200": "Dropped by a rule of the source; `dropped` names it",
		"400": "The body or a header can't be read",
		"401": "The signature was not accepted",
		"403": "The sender's address is not allowed",
		"404": "No such source",
		"413": "The body is larger than the source takes",
		"415": "The body is of another type than the provider sends",
		"422": "The delivery can't be filed",
		"429": "Too many requests",
		"503": "The log can't be written at the moment; send it again later",
	} {
		content := problem
		if status == "200" {
			content = map[string]*huma.MediaType{"application/json": {Schema: schemaOf[droppedDelivery](s)}}
		}
		op.Responses[status] = &huma.Response{Description: description, Content: content}
	}
	s.api.OpenAPI().AddOperation(op)
}

// received documents the answer to a webhook.
type received struct {
	ID     string `json:"id" doc:"The provider's id of the delivery"`
	Stream string `json:"stream" example:"github/octo/hello#12"`
}

// droppedDelivery documents the answer to a webhook that a rule drops.
type droppedDelivery struct {
	Dropped string `json:"dropped" doc:"Name of the rule" example:"main-branch"`
}
