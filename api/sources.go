package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/ingress"
)

func (s *server) registerSources() {
	tags := []string{"Webhooks"}
	add(s, huma.Operation{
		OperationID: "list-sources", Method: http.MethodGet, Path: "/v1/sources", Tags: tags,
		Summary:     "List the sources of webhooks",
		Description: "How each is configured, without secrets, and how it is doing on this node.",
		Errors:      refused(),
	}, s.sources)
	add(s, huma.Operation{
		OperationID: "get-source", Method: http.MethodGet, Path: "/v1/sources/{name}", Tags: tags,
		Summary: "Get one source of webhooks",
		Errors:  refused(http.StatusNotFound),
	}, s.source)
	add(s, huma.Operation{
		OperationID: "list-refusals", Method: http.MethodGet, Path: "/v1/sources/{name}/refusals", Tags: tags,
		Summary: "List the webhooks that this node refused or dropped",
		Description: "Why a provider's webhooks don't arrive: the newest first, and how many there were of each kind since the node started. They are kept " +
			"in memory only, a bounded number of them; in a flood of one kind, those of other kinds stay. Bodies are not kept, and secrets " +
			"and signatures in headers are masked.",
		Errors: refused(http.StatusNotFound),
	}, s.refusals)
}

type sourcesAnswer struct{ Body page[ingress.SourceStatus] }

func (s *server) sources(context.Context, *struct{}) (*sourcesAnswer, error) {
	items := []ingress.SourceStatus{}
	if s.Hooks != nil {
		items = s.Hooks.Sources()
	}
	return &sourcesAnswer{page[ingress.SourceStatus]{Items: items}}, nil
}

type sourceRequest struct {
	Name string `path:"name" example:"github"`
}

type sourceAnswer struct{ Body ingress.SourceStatus }

func (s *server) source(_ context.Context, in *sourceRequest) (*sourceAnswer, error) {
	if s.Hooks != nil {
		if status, ok := s.Hooks.Source(in.Name); ok {
			return &sourceAnswer{status}, nil
		}
	}
	return nil, notFound("no source %q", in.Name)
}

type refusalsRequest struct {
	Name   string `path:"name" example:"github"`
	Reason string `query:"reason" maxLength:"64" doc:"Only with this reason" example:"wrong-signature"`
	Status int    `query:"status" minimum:"200" maximum:"599" doc:"Only answered with this status; 200 for what rules dropped"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Most items to return"`
}

type refusalsAnswer struct{ Body refusalList }

type refusalList struct {
	Items  []ingress.Refusal      `json:"items" nullable:"false" doc:"The last ones, newest first"`
	Counts []ingress.RefusalCount `json:"counts" nullable:"false" doc:"All since the node started, by kind, the latest kind first"`
}

func (s *server) refusals(_ context.Context, in *refusalsRequest) (*refusalsAnswer, error) {
	if s.Hooks == nil {
		return nil, notFound("no source %q", in.Name)
	}
	last, counts, ok := s.Hooks.Refusals(in.Name)
	if !ok {
		return nil, notFound("no source %q", in.Name)
	}
	a := &refusalsAnswer{refusalList{Items: []ingress.Refusal{}, Counts: counts}}
	for _, r := range last {
		if (in.Reason == "" || r.Reason == in.Reason) && (in.Status == 0 || r.Status == in.Status) && len(a.Body.Items) < in.Limit {
			a.Body.Items = append(a.Body.Items, r)
		}
	}
	return a, nil
}
