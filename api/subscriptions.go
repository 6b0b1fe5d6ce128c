package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/egress"
)

func (s *server) registerSubscriptions() {
	if s.Subscriptions == nil {
		return
	}
	tags := []string{"Node"}
	add(s, huma.Operation{
		OperationID: "list-subscriptions", Method: http.MethodGet, Path: "/v1/subscriptions", Tags: tags,
		Summary:     "List the feeds that are open on this node",
		Description: "Every node lists its own. Many feeds over one WebSocket are listed one by one.",
		Errors:      refused(http.StatusBadRequest),
	}, s.subscriptions)
	add(s, huma.Operation{
		OperationID: "disconnect-subscription", Method: http.MethodDelete, Path: "/v1/subscriptions/{id}", Tags: tags,
		Summary: "End a feed",
		Description: "Its client is told, and may come back and go on from its cursor: this ends what hangs or was forgotten. " +
			"To keep a client away, take its token away.",
		DefaultStatus: http.StatusNoContent,
		Errors:        refused(http.StatusNotFound),
	}, s.disconnect)
	problem := map[string]*huma.MediaType{"application/problem+json": {Schema: schemaOf[Problem](s)}}
	s.api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "follow-live", Method: http.MethodGet, Path: "/v1/live", Tags: []string{"Events"},
		Summary: "Follow many feeds over one WebSocket",
		Description: "Messages of the client are `{\"subscribe\":\"‹name›\",\"feed\":\"/v1/events?…\",\"cursor\":\"…\"}` and " +
			"`{\"unsubscribe\":\"‹name›\"}`; every message of the node names its `subscription`. Subprotocol `penstock.v1`.",
		Responses: map[string]*huma.Response{
			"101": {Description: "A WebSocket"},
			"403": {Description: "A page of another origin, which feeds.origins doesn't name", Content: problem},
			"426": {Description: "Not a request for a WebSocket", Content: problem},
			"429": {Description: refusals[http.StatusTooManyRequests], Content: problem},
		},
	})
}

type subscriptionsAnswer struct{ Body page[egress.Presence] }

func (s *server) subscriptions(_ context.Context, in *Paging) (*subscriptionsAnswer, error) {
	list, more := s.Subscriptions.Open(in.Cursor, in.Limit)
	out := &subscriptionsAnswer{page[egress.Presence]{Items: list}}
	if more {
		out.Body.Next = list[len(list)-1].ID
	}
	return out, nil
}

type subscriptionPath struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *server) disconnect(_ context.Context, in *subscriptionPath) (*struct{}, error) {
	if !s.Subscriptions.Disconnect(in.ID) {
		return nil, notFound("no feed with this id is open on this node")
	}
	return nil, nil
}
