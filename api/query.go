package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/projections"
)

// registerQueries has the operations on the rows of a projection.
func (s *server) registerQueries() {
	tags := []string{"Projections"}
	lists := responds(schemaOf[rowPage](s), "ETag", "Penstock-Position", "Link")
	documentExports(lists)
	add(s, huma.Operation{
		OperationID: "list-rows", Method: http.MethodGet, Path: "/v1/projections/{name}/rows", Tags: tags,
		Summary:     "List rows of a projection: all, some by key, or a range by key or by an index",
		Description: queryText,
		Responses:   lists,
		Errors:      refused(http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable),
	}, s.rows)
	add(s, huma.Operation{
		OperationID: "count-rows", Method: http.MethodGet, Path: "/v1/projections/{name}/count", Tags: tags,
		Summary: "Count rows of a projection",
		Description: "The count is exact. Of all rows it is known; with bounds at most 1,000,000 rows are counted, and with a filter 20,000 looked at: " +
			"more is refused.",
		Responses: responds(schemaOf[rowCount](s), "ETag", "Penstock-Position"),
		Errors:    refused(http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable),
	}, s.count)
	add(s, huma.Operation{
		OperationID: "get-row", Method: http.MethodGet, Path: "/v1/projections/{name}/rows/{key}", Tags: tags, Metadata: wide(),
		Summary:     "Get one row of a projection",
		Description: rowText,
		Responses:   responds(&huma.Schema{Description: "The row, as the projection wrote it"}, "ETag", "Penstock-Position"),
		Errors:      refused(http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable),
	}, s.row)
	s.documentRows()
}

const queryText = "Without an index, `gte`, `gt`, `lte`, `lt` and `prefix` bound the key. With `index=‹name›`, each `eq` is a value of the next of its fields, " +
	"and the bounds are those of the field after them. `filter` looks at what is left: at 20,000 rows for a page at most, and more is refused.\n\n" +
	"Pages go on with `cursor`, in either order, while rows change: one that doesn't is on exactly one page.\n\n" +
	"With `Accept: text/csv` or `application/x-ndjson` the answer is every row of the query, not a page. Changes after its `Penstock-Position` follow " +
	"from …/changes, so that both together miss nothing."

const rowText = "The answer is the row itself. To see the effect of a command, pass the position of its answer as `after`: " +
	"the answer then waits until the projection is there, or says 503.\n\n" +
	"Of projections whose rows depend on one stream each, `at` gives the row as it was, at a time or at a position of the log."

// row is a row in a list.
type row struct {
	Key string          `json:"key"`
	Row json.RawMessage `json:"row" doc:"The row, as the projection wrote it"`
}

// rowPage is a page of rows.
type rowPage struct {
	Items   []row    `json:"items" nullable:"false"`
	Next    string   `json:"next,omitempty" doc:"Cursor of the next page; absent on the last one"`
	Missing []string `json:"missing,omitempty" nullable:"false" doc:"Keys asked for that have no row"`
}

// RowSelection says which rows are wanted. It is exported because huma looks into no embedded struct that isn't.
type RowSelection struct {
	Index  string   `query:"index" doc:"Name of an index: its fields, with commas" example:"state,updated"`
	Eq     []string `query:"eq,explode" nullable:"false" maxItems:"4" doc:"Values of the first fields of the index, in their order" example:"[\"open\"]"`
	Gte    string   `query:"gte" doc:"From this value of the next field on, or from this key on"`
	Gt     string   `query:"gt" doc:"After this value or key"`
	Lte    string   `query:"lte" doc:"Up to this value or key"`
	Lt     string   `query:"lt" doc:"Before this value or key"`
	Prefix string   `query:"prefix" doc:"Texts that begin so"`
	Order  string   `query:"order" enum:"asc,desc" default:"asc"`
	Filter string   `query:"filter" maxLength:"2048" doc:"CEL expression over key and row; what isn't there makes it false" example:"row.amount > 1000"`

	query projections.Query
}

// Resolve tells an empty bound from none, and refuses one that stands twice.
func (in *RowSelection) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	given := u.Query()
	var errs []error
	text := func(name string) *string {
		switch v := given[name]; len(v) {
		case 0:
			return nil
		case 1:
			return &v[0]
		default:
			errs = append(errs, &huma.ErrorDetail{Location: "query." + name, Message: "the parameter stands twice"})
			return nil
		}
	}
	for _, name := range []string{"index", "order", "filter"} {
		text(name)
	}
	in.query = projections.Query{Index: in.Index, Eq: in.Eq, Desc: in.Order == "desc", Filter: in.Filter,
		Gte: text("gte"), Gt: text("gt"), Lte: text("lte"), Lt: text("lt"), Prefix: text("prefix")}
	return errs
}

type rowsRequest struct {
	ProjectionPath
	RowSelection
	Waiting
	Key      []string `query:"key,explode" nullable:"false" maxItems:"200" doc:"Only the rows of these keys, in this order"`
	Limit    int      `query:"limit" minimum:"1" maximum:"1000" doc:"Most rows to return; 100 by default, and all of an export"`
	Cursor   string   `query:"cursor" maxLength:"57344" doc:"next of the page before"`
	Accept   string   `header:"Accept" hidden:"true"`
	NotMatch string   `header:"If-None-Match" doc:"ETag of an earlier answer"`
}

func (s *server) rows(ctx context.Context, in *rowsRequest) (*huma.StreamResponse, error) {
	v, err := s.view(in.Name)
	if err != nil {
		return nil, err
	}
	if err := in.await(ctx, v); err != nil {
		return nil, err
	}
	if len(in.Key) > 0 {
		out, err := s.many(v, in)
		return out.stream(), err
	}
	q := in.query
	q.Cursor, q.Limit = in.Cursor, in.Limit
	if f := formatOf(in.Accept); f != formatJSON {
		return s.export(ctx, v, q, f)
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	p, err := v.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	list := rowPage{Items: listOf(p.Rows), Next: p.Next}
	out, err := jsonAnswer(list)
	if err != nil {
		return nil, err
	}
	out.Position, out.Vary = p.At.String(), "Accept, Origin"
	if p.Next != "" {
		out.Link = "<" + in.next(p.Next) + `>; rel="next"`
	}
	return out.notModified(in.NotMatch, p.At.Scope).stream(), nil
}

// next is the URL of the next page.
func (in *rowsRequest) next(cursor string) string {
	v := url.Values{"cursor": {cursor}}
	set := func(name string, texts ...string) {
		if len(texts) > 0 && texts[0] != "" {
			v[name] = texts
		}
	}
	q := in.query
	set("index", q.Index)
	set("eq", q.Eq...)
	set("filter", q.Filter)
	if q.Desc {
		set("order", "desc")
	}
	for name, text := range map[string]*string{"gte": q.Gte, "gt": q.Gt, "lte": q.Lte, "lt": q.Lt, "prefix": q.Prefix} {
		if text != nil {
			v.Set(name, *text)
		}
	}
	if in.Limit > 0 {
		b, _ := json.Marshal(in.Limit) // a number
		set("limit", string(b))
	}
	return "/v1/projections/" + url.PathEscape(in.Name) + "/rows?" + v.Encode()
}

func listOf(rows []projections.Row) []row {
	list := make([]row, len(rows))
	for i, r := range rows {
		list[i] = row{r.Key, r.Row}
	}
	return list
}

// many answers with the rows of several keys.
func (s *server) many(v *projections.View, in *rowsRequest) (*answered, error) {
	for name, given := range map[string]bool{"index": in.Index != "", "eq": len(in.Eq) > 0, "filter": in.Filter != "", "cursor": in.Cursor != "",
		"gte": in.query.Gte != nil, "gt": in.query.Gt != nil, "lte": in.query.Lte != nil, "lt": in.query.Lt != nil, "prefix": in.query.Prefix != nil} {
		if given {
			return nil, domain.Invalidf(name, "rows are asked for by key or by a range, not by both")
		}
	}
	rows, missing, at, err := v.Many(in.Key)
	if err != nil {
		return nil, err
	}
	out, err := jsonAnswer(rowPage{Items: listOf(rows), Missing: missing})
	if err != nil {
		return nil, err
	}
	out.Position = at.String()
	return out.notModified(in.NotMatch, at.Scope), nil
}

// rowCount is how many rows there are.
type rowCount struct {
	Count int64 `json:"count"`
}

type countRequest struct {
	ProjectionPath
	RowSelection
	Waiting
	NotMatch string `header:"If-None-Match" doc:"ETag of an earlier answer"`
}

func (s *server) count(ctx context.Context, in *countRequest) (*answered, error) {
	v, err := s.view(in.Name)
	if err != nil {
		return nil, err
	}
	if err := in.await(ctx, v); err != nil {
		return nil, err
	}
	n, at, err := v.Count(ctx, in.query)
	if err != nil {
		return nil, err
	}
	out, err := jsonAnswer(rowCount{n})
	if err != nil {
		return nil, err
	}
	out.Position = at.String()
	return out.notModified(in.NotMatch, at.Scope), nil
}

type rowRequest struct {
	ProjectionPath
	Waiting
	Key      string `path:"key" doc:"May contain slashes" example:"cus_9"`
	At       string `query:"at" maxLength:"4096" doc:"The row as it was at this time (RFC 3339), or at this position" example:"2026-01-31T12:00:00Z"`
	NotMatch string `header:"If-None-Match" doc:"ETag of an earlier answer"`
}

func (s *server) row(ctx context.Context, in *rowRequest) (*answered, error) {
	v, err := s.view(in.Name)
	if err != nil {
		return nil, err
	}
	if err := in.await(ctx, v); err != nil {
		return nil, err
	}
	if in.At != "" {
		return s.pastRow(ctx, v, in)
	}
	b, at, err := v.Get(in.Key)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, notFound("the projection %s has no row %q", in.Name, in.Key)
	}
	out := &answered{ContentType: "application/json", Status: http.StatusOK, Position: at.String(), Body: append(b, '\n')}
	return out.notModified(in.NotMatch, at.Scope), nil
}

// stream has an answer sent by an operation that may also stream.
func (a *answered) stream() *huma.StreamResponse {
	if a == nil {
		return nil
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		for name, value := range map[string]string{"Content-Type": a.ContentType, "ETag": a.ETag, "Link": a.Link, "Penstock-Position": a.Position, "Vary": a.Vary} {
			if value != "" {
				ctx.SetHeader(name, value)
			}
		}
		ctx.SetStatus(a.Status)
		ctx.BodyWriter().Write(a.Body) // whoever asked may be gone; there is nobody else to tell
	}}
}
