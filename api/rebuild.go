package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/projections"
)

// registerRebuilds has the operations on a projection's generations.
func (s *server) registerRebuilds() {
	tags := []string{"Projections"}
	refusals := refused(http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable)
	add(s, huma.Operation{
		OperationID: "rebuild-projection", Method: http.MethodPost, Path: "/v1/projections/{name}/rebuild", Tags: tags,
		Summary: "Build a projection anew from the beginning of the log", DefaultStatus: http.StatusAccepted,
		Description: "The next generation is built beside the one that serves, on this node. Readers see the old one until the new one has " +
			"everything that the old one has. The answer comes when it has begun; `build` of the projection says how far it is.",
		Errors: refusals,
	}, s.rebuild)
	add(s, huma.Operation{
		OperationID: "rebuild-projections", Method: http.MethodPost, Path: "/v1/rebuilds", Tags: tags,
		Summary: "Build several projections anew, in one scan of the log", DefaultStatus: http.StatusAccepted,
		Errors: refused(http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusServiceUnavailable),
	}, s.rebuilds)
	add(s, huma.Operation{
		OperationID: "cancel-build", Method: http.MethodDelete, Path: "/v1/projections/{name}/build", Tags: tags,
		Summary: "Cancel the build of a projection, and delete what it has made", DefaultStatus: http.StatusAccepted,
		Errors: refusals,
	}, s.cancelBuild)
	add(s, huma.Operation{
		OperationID: "rollback-projection", Method: http.MethodPost, Path: "/v1/projections/{name}/rollback", Tags: tags,
		Summary: "Have the generation serve again that served before", DefaultStatus: http.StatusAccepted,
		Description: "It first catches up with the log. It must be of the definition that the running program has.",
		Errors:      refusals,
	}, s.rollback)
	add(s, huma.Operation{
		OperationID: "retry-projection", Method: http.MethodPost, Path: "/v1/projections/{name}/retry", Tags: tags,
		Summary: "Have a halted projection try again",
		Errors:  refusals,
	}, s.retry)
	add(s, huma.Operation{
		OperationID: "skip-record", Method: http.MethodPost, Path: "/v1/projections/{name}/skip", Tags: tags,
		Summary: "Have a halted projection go on without the record that it halted at",
		Description: "Who and why is kept in the projection's status, under `skips`, as long as the generation is: a rebuild tries the record again. " +
			"Other nodes have generations of their own; each halts, and is to be told, by itself.",
		Errors: refused(http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity),
	}, s.skip)
}

type rebuildRequest struct {
	ProjectionPath
	Body *struct {
		Rate int `json:"rate,omitempty" minimum:"0" maximum:"10000000" doc:"Records a second at most; 0 for no limit"`
	} `required:"false"`
}

func (s *server) rebuild(ctx context.Context, in *rebuildRequest) (*projectionAnswer, error) {
	rate := 0
	if in.Body != nil {
		rate = in.Body.Rate
	}
	if err := s.Engine.Rebuild(ctx, []string{in.Name}, rate); err != nil {
		return nil, wrongState(err)
	}
	return s.projection(ctx, &in.ProjectionPath)
}

type rebuildsRequest struct {
	Body struct {
		Projections []string `json:"projections" minItems:"1" maxItems:"1000" doc:"Names"`
		Rate        int      `json:"rate,omitempty" minimum:"0" maximum:"10000000" doc:"Records a second at most; 0 for no limit"`
	}
}

func (s *server) rebuilds(ctx context.Context, in *rebuildsRequest) (*projectionsAnswer, error) {
	if err := s.Engine.Rebuild(ctx, in.Body.Projections, in.Body.Rate); err != nil {
		return nil, wrongState(err)
	}
	return s.projections(ctx, nil)
}

func (s *server) cancelBuild(ctx context.Context, in *ProjectionPath) (*projectionAnswer, error) {
	return s.onView(ctx, in, func(v *projections.View) error { return s.Engine.CancelBuild(v) })
}

func (s *server) rollback(ctx context.Context, in *ProjectionPath) (*projectionAnswer, error) {
	return s.onView(ctx, in, func(v *projections.View) error { return s.Engine.Rollback(ctx, v) })
}

func (s *server) retry(ctx context.Context, in *ProjectionPath) (*projectionAnswer, error) {
	return s.onView(ctx, in, func(v *projections.View) error { return v.Retry(s.Clock()) })
}

type skipRequest struct {
	ProjectionPath
	Operator string `header:"Penstock-Operator" maxLength:"100" doc:"Who, if the body doesn't say it"`
	Body     struct {
		By     string `json:"by,omitempty" maxLength:"100" doc:"Who, unless the header Penstock-Operator says it" example:"ann"`
		Reason string `json:"reason,omitempty" maxLength:"1000" doc:"Why"`
	}
}

func (s *server) skip(ctx context.Context, in *skipRequest) (*projectionAnswer, error) {
	by := in.Body.By
	if by == "" {
		by = in.Operator
	}
	if by == "" {
		return nil, domain.Invalidf("by", "say who has the record left out")
	}
	return s.onView(ctx, &in.ProjectionPath, func(v *projections.View) error { return v.Skip(by, in.Body.Reason, s.Clock()) })
}

func (s *server) onView(ctx context.Context, in *ProjectionPath, do func(*projections.View) error) (*projectionAnswer, error) {
	v, err := s.view(in.Name)
	if err != nil {
		return nil, err
	}
	if err := do(v); err != nil {
		return nil, wrongState(err)
	}
	return s.projection(ctx, in)
}

// wrongState makes a refusal of the engine a problem of its own kind. Its class is Rejected, but that kind of problem is
// what the rules of the business say, and those have names of their own.
func wrongState(err error) error {
	if e, ok := errors.AsType[*domain.Error](err); ok && e.Class == domain.Rejected {
		p := projectionState.problem(e.Message)
		p.Rule, p.cause = e.Rule, err
		return p
	}
	return err
}
