package api

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

func (s *server) registerProjections() {
	tags := []string{"Projections"}
	add(s, huma.Operation{
		OperationID: "list-projections", Method: http.MethodGet, Path: "/v1/projections", Tags: tags,
		Summary: "List the projections and how they are doing",
		Errors:  refused(),
	}, s.projections)
	add(s, huma.Operation{
		OperationID: "get-projection", Method: http.MethodGet, Path: "/v1/projections/{name}", Tags: tags,
		Summary: "Get how a projection is doing",
		Errors:  refused(http.StatusNotFound),
	}, s.projection)
	s.registerQueries()
	changes := responds(schemaOf[changePage](s), "Link", "Penstock-Position", "Preference-Applied", "ETag")
	documentFeed(changes)
	add(s, huma.Operation{
		OperationID: "follow-changes", Method: http.MethodGet, Path: "/v1/projections/{name}/changes", Tags: tags,
		Summary: "Read the changes of a projection's rows, or follow them",
		Description: "A page of changes, from now on unless told otherwise. " + feedText + "\n\n" +
			"Whoever resumes first gets the current row of every key that was touched since. With `snapshot=true` a feed begins with " +
			"every row as it is, and then gives the changes from exactly there.\n\n" +
			"The `Penstock-Position` of an answer from …/rows is a cursor from which the changes after that answer follow.",
		Responses: changes,
		Errors: refused(http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusGone,
			http.StatusTooManyRequests, http.StatusServiceUnavailable),
	}, s.changes)
}

func (s *server) view(name string) (*projections.View, error) {
	v, ok := s.Engine.View(name)
	if !ok {
		return nil, notFound("no projection %q", name)
	}
	return v, nil
}

type projectionsAnswer struct{ Body page[projections.Status] }

func (s *server) projections(context.Context, *struct{}) (*projectionsAnswer, error) {
	return &projectionsAnswer{page[projections.Status]{Items: s.projectionStatuses()}}, nil
}

func (s *server) projectionStatuses() []projections.Status {
	list := []projections.Status{}
	for _, v := range s.Engine.Views() {
		list = append(list, v.Status())
	}
	return list
}

// ProjectionPath names a projection.
type ProjectionPath struct {
	Name string `path:"name" example:"balances"`
}

type projectionAnswer struct{ Body projections.Status }

func (s *server) projection(_ context.Context, in *ProjectionPath) (*projectionAnswer, error) {
	v, err := s.view(in.Name)
	if err != nil {
		return nil, err
	}
	return &projectionAnswer{v.Status()}, nil
}

// How long a read waits for its projection to reach a position.
const (
	viewWait    = 5 * time.Second
	longestView = 25 * time.Second
)

// Waiting asks for an answer that is not older than a position.
type Waiting struct {
	After  string `query:"after" maxLength:"4096" doc:"Position that the answer must have seen, for example that of a command's answer"`
	Prefer string `header:"Prefer" doc:"wait=‹seconds›: how long to wait for that position, at most 25 and 5 by default" example:"wait=5"`
}

// await returns once v has reached the position asked for, if any was.
func (w Waiting) await(ctx context.Context, v *projections.View) error {
	if w.After == "" {
		return nil
	}
	at, err := eventstore.ParsePosition(w.After)
	if err != nil {
		p := badCursor.problem("not a position, or damaged on the way")
		p.Field = "after"
		return p
	}
	wait, cancel := context.WithTimeout(ctx, waitOf(w.Prefer, viewWait, longestView))
	defer cancel()
	err = v.Wait(wait, at)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return behind.problem("the projection " + v.Name() + " has not reached that position yet")
	}
	return err
}

// change is a row change as a feed writes it.
type change struct {
	Op        string          `json:"op" enum:"upsert,delete"`
	Key       string          `json:"key" example:"cus_9"`
	Row       json.RawMessage `json:"row,omitempty" doc:"The row, as the projection wrote it; absent when it is deleted"`
	RowBase64 string          `json:"row_base64,omitempty" doc:"The row if it isn't JSON"`
	Partition int32           `json:"partition" doc:"With offset and index the change's identity, the same on every node"`
	Offset    int64           `json:"offset"`
	Index     int             `json:"index"`
}

// changePage is the document of a page of changes; the bytes are written by feedPage.
type changePage struct {
	Items []change `json:"items" nullable:"false"`
	Next  string   `json:"next" doc:"Cursor after these changes; always there. Ask again with it, or with Prefer: wait"`
	FeedPageMembers
}

type changesRequest struct {
	ProjectionPath
	FeedRequest
	Snapshot bool   `query:"snapshot" doc:"Feeds only: begin with every row as it is"`
	Every    string `query:"every" doc:"Of several changes of a row within this time only the newest is sent" example:"500ms"`
}

// Resolve reads what the page shares with the feed at the same URL, by the feed's own rules.
func (in *changesRequest) Resolve(ctx huma.Context) []error { return in.resolve(ctx, egress.OfChanges) }

func (s *server) changes(ctx context.Context, in *changesRequest) (*answered, error) {
	v, err := s.view(in.Name)
	if err != nil {
		return nil, err
	}
	if in.Snapshot {
		return nil, domain.Invalidf("snapshot", "a page of rows is …/rows; its Penstock-Position is the cursor of the changes after it")
	}
	return s.feedPage(ctx, Changes(v), in.request, &in.FeedRequest, false)
}

// rowCursor is a place between two rows of a projection's generation.
type rowCursor struct {
	scope uint64
	key   string // of the last row before
}

const rowCursorFormat = 2 // a position begins with 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// String is the cursor's text: a format byte, the scope, the key and a CRC-32C over it all, in unpadded base64url.
func (c rowCursor) String() string {
	b := binary.BigEndian.AppendUint64([]byte{rowCursorFormat}, c.scope)
	b = append(b, c.key...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseRowCursor(s string) (rowCursor, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 1+8+4 || b[0] != rowCursorFormat {
		return rowCursor{}, eventstore.ErrBadPosition
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return rowCursor{}, eventstore.ErrBadPosition
	}
	return rowCursor{binary.BigEndian.Uint64(body[1:9]), string(body[9:])}, nil
}

// rowCursorIn returns the key to go on after, "" without a cursor. A cursor of another projection or generation is
// ErrReset: rows may have other keys there.
func rowCursorIn(v *projections.View, cursor string) (after string, err error) {
	if cursor == "" {
		return "", nil
	}
	c, err := parseRowCursor(cursor)
	if err != nil {
		return "", err
	}
	if c.scope != v.Position().Scope {
		return "", eventstore.ErrReset
	}
	return c.key, nil
}
