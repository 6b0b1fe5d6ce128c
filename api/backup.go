package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
)

// backupPatience is how long whoever loads a backup may take nothing.
const backupPatience = 30 * time.Second

func (s *server) registerBackups() {
	responses := map[string]*huma.Response{"200": {
		Description: "A tar file with manifest.json, table.db and SHA256SUMS, in this order. One without the last is not whole",
		Headers: map[string]*huma.Param{
			"Content-Disposition": {Description: "A name for the file", Schema: &huma.Schema{Type: huma.TypeString}},
			"Penstock-Position":   {Description: headers["Penstock-Position"], Schema: &huma.Schema{Type: huma.TypeString}},
		},
		Content: map[string]*huma.MediaType{"application/x-tar": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
	}}
	add(s, huma.Operation{
		OperationID: "backup-projection", Method: http.MethodGet, Path: "/v1/projections/{name}/backup", Tags: []string{"Projections"},
		Summary: "Load a copy of a projection's table, consistent with the position that it stands at",
		Description: "The generation that serves is copied on this node's disk, while it goes on, and then sent. `penstock restore` has another node start " +
			"from it. One copy at a time.",
		Responses: responses,
		Errors:    refused(http.StatusNotFound, http.StatusServiceUnavailable),
	}, s.backup)
}

func (s *server) backup(_ context.Context, in *ProjectionPath) (*huma.StreamResponse, error) {
	v, err := s.view(in.Name)
	if err != nil {
		return nil, err
	}
	select {
	case s.copying <- struct{}{}: // each takes the space of a table
	default:
		return nil, &domain.Error{Class: domain.Unavailable, Rule: "backup-running", Message: "another backup is made on this node"}
	}
	b, err := v.Backup(s.Clock())
	if err != nil {
		<-s.copying
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		defer func() { b.Close(); <-s.copying }() // it has no name any more: closing it is all there is to do
		ctx.SetHeader("Content-Type", "application/x-tar")
		ctx.SetHeader("Content-Disposition", fmt.Sprintf("attachment; filename=%q", fmt.Sprintf("%s-%06d.tar", b.Name, b.Generation)))
		ctx.SetHeader("Penstock-Position", b.At)
		ctx.SetHeader("Cache-Control", "no-store")
		ctx.SetStatus(http.StatusOK)
		w := ctx.BodyWriter()
		if _, err := b.WriteTo(&patient{w, http.NewResponseController(w.(http.ResponseWriter))}); err != nil {
			s.Logger.Warn("a backup broke off", "projection", b.Name, "error", err)
			// Whoever loads it must see that: the end of an answer in chunks would say that it is whole.
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

// patient cuts off whoever takes nothing for too long.
type patient struct {
	io.Writer
	control *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(backupPatience)) // what can't have one is not a connection
	return p.Writer.Write(b)
}
