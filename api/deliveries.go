package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/projections"
)

func (s *server) registerDeliveries() {
	add(s, huma.Operation{
		OperationID: "list-deliveries", Method: http.MethodGet, Path: "/v1/deliveries", Tags: []string{"Webhooks"},
		Summary:     "List the deliveries, newest first",
		Description: "A page may be short, even empty, and still be followed by another, when few of the deliveries pass the filters.",
		Errors:      refused(http.StatusBadRequest, http.StatusNotFound),
	}, s.deliveries)
	add(s, huma.Operation{
		OperationID: "get-delivery", Method: http.MethodGet, Path: "/v1/deliveries/{source}/{id}", Tags: []string{"Webhooks"}, Metadata: wide(),
		Summary: "Get one delivery and what became of it",
		Errors:  refused(http.StatusNotFound),
	}, s.delivery)
	add(s, huma.Operation{
		OperationID: "list-sources", Method: http.MethodGet, Path: "/v1/sources", Tags: []string{"Webhooks"},
		Summary: "List the sources of webhooks",
		Errors:  refused(),
	}, s.sources)
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
	Source string `query:"source" doc:"Only of this source" example:"github"`
	Type   string `query:"type" maxLength:"512" doc:"Only of this type; * stands for any characters" example:"github.pull_request.*"`
	Status string `query:"status" enum:"accepted,parked,discarded" doc:"Only with this outcome"`
}

type deliveriesAnswer struct {
	Body page[projections.Delivery]
}

func (s *server) deliveries(_ context.Context, in *deliveriesRequest) (*deliveriesAnswer, error) {
	v, err := s.deliveriesView()
	if err != nil {
		return nil, err
	}
	filter := projections.DeliveryFilter{Source: in.Source, Type: in.Type, Status: in.Status}
	items, next, err := projections.DeliveryPage(v, filter, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	return &deliveriesAnswer{page[projections.Delivery]{items, next}}, nil
}

type deliveryRequest struct {
	Source string `path:"source" example:"github"`
	ID     string `path:"id" maxLength:"1024" doc:"The provider's id of the delivery"`
}

type deliveryAnswer struct{ Body projections.Delivery }

func (s *server) delivery(_ context.Context, in *deliveryRequest) (*deliveryAnswer, error) {
	v, err := s.deliveriesView()
	if err != nil {
		return nil, err
	}
	d, ok, err := projections.DeliveryGet(v, in.Source, in.ID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound("no delivery %s of %s has been handled", in.ID, in.Source)
	}
	return &deliveryAnswer{d}, nil
}

type sourcesAnswer struct{ Body page[SourceInfo] }

func (s *server) sources(context.Context, *struct{}) (*sourcesAnswer, error) {
	return &sourcesAnswer{page[SourceInfo]{Items: append([]SourceInfo{}, s.Sources...)}}, nil
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
		"401": "The signature was not accepted",
		"404": "No such source",
		"413": "The body is larger than the source takes",
		"415": "The body is of another type than the provider sends",
		"422": "The delivery can't be filed",
		"429": "Too many requests",
		"503": "The log can't be written at the moment; send it again later",
	} {
		op.Responses[status] = &huma.Response{Description: description, Content: problem}
	}
	s.api.OpenAPI().AddOperation(op)
}

// received documents the answer to a webhook.
type received struct {
	ID     string `json:"id" doc:"The provider's id of the delivery"`
	Stream string `json:"stream" example:"github/octo/hello#12"`
}
