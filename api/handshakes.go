package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/ingress"
)

func (s *server) registerHandshakes() {
	tags := []string{"Webhooks"}
	add(s, huma.Operation{
		OperationID: "get-handshake", Method: http.MethodGet, Path: "/v1/sources/{name}/handshake", Tags: tags,
		Summary: "Get how a source stands towards its provider's handshake",
		Errors:  refused(http.StatusNotFound),
	}, s.handshake)
	add(s, huma.Operation{
		OperationID: "arm-handshake", Method: http.MethodPost, Path: "/v1/sources/{name}/handshake", Tags: tags,
		Summary: "Have a source wait for its provider's handshake",
		Description: "Before a provider sends webhooks it may ask the URL to answer a challenge. Where nothing shows that it is the provider who asks, " +
			"the source answers only while it is armed, on this node. 0 seconds disarm it.",
		Errors: refused(http.StatusNotFound),
	}, s.arm)
	add(s, huma.Operation{
		OperationID: "reload-sources", Method: http.MethodPost, Path: "/v1/sources/reload", Tags: tags,
		Summary: "Read the configuration file again",
		Description: "Sources, their secrets, and the bearer tokens are taken over, all or none; no request is lost. It is what SIGHUP does. " +
			"Other keys need a restart, and are named if they have changed.",
		Errors: refused(http.StatusNotFound, http.StatusServiceUnavailable),
	}, s.reloadSources)
	s.documentChallenges()
}

// documentChallenges describes the other way in which providers come. Like their webhooks, ingress answers them.
func (s *server) documentChallenges() {
	problem := map[string]*huma.MediaType{"application/problem+json": {Schema: schemaOf[Problem](s)}}
	text := map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}, "application/json": {Schema: &huma.Schema{}}}
	op := &huma.Operation{
		OperationID: "answer-challenge", Method: http.MethodGet, Path: "/hooks/{source}", Tags: []string{"Webhooks"},
		Summary: "Answer a provider's challenge",
		Description: "For providers that ask with GET whether the URL is meant to get their webhooks. Which parameter or header carries the challenge, " +
			"and what the answer is, depends on the source's provider.",
		Parameters: []*huma.Param{{
			Name: "source", In: "path", Required: true, Description: "Name of a source", Example: "dropbox",
			Schema: &huma.Schema{Type: huma.TypeString},
		}},
		Responses: map[string]*huma.Response{"200": {Description: "The answer, in the provider's form", Content: text}},
	}
	for status, description := range map[string]string{
		"401": "The signature was not accepted",
		"403": "The source waits for no handshake, or the verify token is not the source's",
		"404": "No such source",
		"405": "The provider has no such challenge",
		"422": "The challenge is none",
		"429": "Too many requests",
		"503": "The log can't be written at the moment; ask again later",
	} {
		op.Responses[status] = &huma.Response{Description: description, Content: problem}
	}
	s.api.OpenAPI().AddOperation(op)
}

// SourcePath names a source.
type SourcePath struct {
	Name string `path:"name" maxLength:"64" example:"zoom"`
}

type handshakeState struct {
	Source   string                  `json:"source"`
	Provider string                  `json:"provider" example:"zoom"`
	Mode     string                  `json:"mode" enum:"armed,always,off" doc:"As configured: answers while armed, always or never"`
	Armed    bool                    `json:"armed"`
	Until    *time.Time              `json:"until,omitempty" doc:"Armed until then"`
	Kinds    []ingress.HandshakeKind `json:"kinds" nullable:"false" doc:"The handshakes that the provider has; none for most"`
	Learned  []time.Time             `json:"learned,omitempty" nullable:"false" doc:"When each of the secrets that the provider taught was learned"`
}

type handshakeAnswer struct{ Body handshakeState }

func handshakeOf(h ingress.Handshakes) *handshakeAnswer {
	st := handshakeState{Source: h.Source, Provider: h.Provider, Mode: h.Mode, Kinds: append([]ingress.HandshakeKind{}, h.Kinds...), Learned: h.Learned}
	if !h.Until.IsZero() {
		until := h.Until.UTC()
		st.Armed, st.Until = true, &until
	}
	return &handshakeAnswer{st}
}

func (s *server) handshake(_ context.Context, in *SourcePath) (*handshakeAnswer, error) {
	if s.Hooks == nil {
		return nil, notFound("this node takes no webhooks")
	}
	h, err := s.Hooks.Handshakes(in.Name)
	if err != nil {
		return nil, err
	}
	return handshakeOf(h), nil
}

type armRequest struct {
	SourcePath
	Body struct {
		Seconds *int `json:"seconds,omitempty" minimum:"0" maximum:"86400" doc:"For how long, 900 by default; 0 disarms"`
	}
}

func (s *server) arm(_ context.Context, in *armRequest) (*handshakeAnswer, error) {
	if s.Hooks == nil {
		return nil, notFound("this node takes no webhooks")
	}
	wait := ingress.DefaultArmed
	if in.Body.Seconds != nil {
		wait = time.Duration(*in.Body.Seconds) * time.Second
	}
	h, err := s.Hooks.Arm(in.Name, wait)
	if err != nil {
		return nil, err
	}
	s.Logger.Info("a source is armed for a handshake", "source", h.Source, "for", wait)
	return handshakeOf(h), nil
}

type reloaded struct {
	Sources int      `json:"sources" doc:"Number of sources now"`
	Restart []string `json:"restart" nullable:"false" doc:"Keys that have changed too and need a restart" example:"[\"kafka\"]"`
}

type reloadedAnswer struct{ Body reloaded }

func (s *server) reloadSources(context.Context, *struct{}) (*reloadedAnswer, error) {
	if s.Reload == nil {
		return nil, notFound("this node has no configuration file")
	}
	sources, restart, err := s.Reload()
	if err != nil {
		if c := domain.ClassOf(err); c == domain.NotFound || c == domain.Unavailable {
			return nil, err
		}
		// Whatever is wrong is wrong with the file, of which the caller is told all of it.
		return nil, &domain.Error{Class: domain.Invalid, Rule: "bad-configuration", Message: strings.ReplaceAll(err.Error(), "\n", "; "), Err: err}
	}
	return &reloadedAnswer{reloaded{sources, append([]string{}, restart...)}}, nil
}
