package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

const (
	shownBody   = 64 << 10 // bytes of a parked body that are shown
	parkedScan  = 20_000   // rows that a page of the list looks at
	parkedReads = 4        // requests that hold parked entries at once: each entry may have 27 MB
)

// parked answers for what could not be handled.
type parked struct {
	*server
	reading chan struct{} // holds one for each request with an entry in hand
}

func (s *server) registerParked() {
	d := parked{s, make(chan struct{}, parkedReads)}
	add(s, huma.Operation{
		OperationID: "list-parked", Method: http.MethodGet, Path: "/v1/parked", Tags: []string{"Parked"},
		Summary: "List what could not be handled, by id",
		Description: "A parked entry holds back its stream: later entries of it are parked behind. " +
			"A page may be short, even empty, and still be followed by another, when few of the entries pass the filters.",
		Errors: refused(http.StatusBadRequest, http.StatusNotFound, http.StatusConflict),
	}, d.list)
	add(s, huma.Operation{
		OperationID: "get-parked", Method: http.MethodGet, Path: "/v1/parked/{id}", Tags: []string{"Parked"},
		Summary: "Get a parked entry: why it was parked, and what it is",
		Errors:  refused(http.StatusNotFound, http.StatusServiceUnavailable),
	}, d.get)
	d.registerReleases()
}

func (d parked) view() (*projections.View, error) {
	v, ok := d.Engine.View(projections.Parked{}.Name())
	if !ok {
		return nil, notFound("this node keeps no list of what is parked")
	}
	return v, nil
}

type parkedRequest struct {
	Paging
	State  string `query:"state" enum:"waiting,requeued,discarded" default:"waiting" doc:"Only those in this state"`
	Stream string `query:"stream" maxLength:"512" doc:"Only of this stream" example:"billing/cus_9"`
}

type parkedList struct {
	Body page[projections.ParkedRow]
}

func (d parked) list(_ context.Context, in *parkedRequest) (*parkedList, error) {
	v, err := d.view()
	if err != nil {
		return nil, err
	}
	after, err := rowCursorIn(v, in.Cursor)
	if err != nil {
		return nil, err
	}
	list := page[projections.ParkedRow]{Items: []projections.ParkedRow{}}
	for scanned := 0; ; {
		rows, more, at, err := v.Page(after, 1000)
		if err != nil {
			return nil, err
		}
		for i, r := range rows {
			row, err := parkedRow(r.Key, r.Row)
			if err != nil {
				return nil, err
			}
			after = r.Key
			if row.State == in.State && (in.Stream == "" || in.Stream == string(row.Stream)) {
				list.Items = append(list.Items, row)
			}
			if last := i == len(rows)-1; len(list.Items) == in.Limit && (more || !last) {
				list.Next = rowCursor{at.Scope, after}.String()
				return &parkedList{list}, nil
			}
		}
		if !more {
			return &parkedList{list}, nil
		}
		if scanned += len(rows); scanned >= parkedScan {
			list.Next = rowCursor{at.Scope, after}.String()
			return &parkedList{list}, nil
		}
	}
}

func parkedRow(key string, b []byte) (row projections.ParkedRow, err error) {
	if err := json.Unmarshal(b, &row); err != nil {
		return row, fmt.Errorf("row %s of parked: %w", key, err)
	}
	return row, nil
}

// row returns the row of an id, or NotFound.
func (d parked) row(v *projections.View, id string) (row projections.ParkedRow, err error) {
	b, _, err := v.Get(id)
	if err != nil {
		return row, err
	}
	if b == nil {
		return row, notFound("nothing was ever parked as %q", id)
	}
	return parkedRow(id, b)
}

// ParkedPath names a parked entry.
type ParkedPath struct {
	ID string `path:"id" maxLength:"64" doc:"id of the list: partition and inbox offset" example:"4-17"`
}

// parkedDetail is a row with the entry itself.
type parkedDetail struct {
	projections.ParkedRow
	Entry *parkedEntry `json:"entry,omitempty" doc:"Absent when it has left the log: parked entries are kept for 90 days"`
}

// parkedEntry is an entry as it was received.
type parkedEntry struct {
	ContentType  string            `json:"content_type,omitempty"`
	Verification string            `json:"verification,omitempty" doc:"deliveries: scheme and binding class"`
	Expected     *uint64           `json:"expected,omitempty" doc:"commands: the version that the stream must have"`
	Correlation  string            `json:"correlationid,omitempty"`
	Causation    string            `json:"causationid,omitempty"`
	Headers      map[string]string `json:"headers,omitempty" doc:"deliveries: the request's headers that are kept"`
	Size         int               `json:"size" doc:"bytes of the body"`
	Body         json.RawMessage   `json:"body,omitempty" doc:"The body, if it is JSON of at most 64 KiB"`
	Base64       string            `json:"body_base64,omitempty" doc:"Otherwise its first 64 KiB"`
	Truncated    bool              `json:"truncated,omitempty" doc:"The body is longer than what is shown"`
}

type parkedAnswer struct{ Body parkedDetail }

func (d parked) get(ctx context.Context, in *ParkedPath) (*parkedAnswer, error) {
	v, err := d.view()
	if err != nil {
		return nil, err
	}
	row, err := d.row(v, in.ID)
	if err != nil {
		return nil, err
	}
	done, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	a := &parkedAnswer{parkedDetail{ParkedRow: row}}
	e, there, err := d.read(ctx, row)
	if err != nil {
		return nil, err
	}
	if there {
		a.Body.Entry = shown(e)
	}
	return a, nil
}

func shown(e eventstore.Entry) *parkedEntry {
	s := &parkedEntry{
		ContentType: e.ContentType, Verification: e.Verification, Expected: e.Expected, Correlation: e.Correlation, Causation: e.Causation,
		Headers: masked(e.Headers), Size: len(e.Body),
	}
	if len(e.Body) <= shownBody && utf8.Valid(e.Body) && json.Valid(e.Body) {
		s.Body = e.Body
		return s
	}
	s.Truncated = len(e.Body) > shownBody
	s.Base64 = base64.StdEncoding.EncodeToString(e.Body[:min(len(e.Body), shownBody)])
	return s
}

// begin waits until the request may hold a parked entry, until done.
func (d parked) begin(ctx context.Context) (done func(), err error) {
	select {
	case d.reading <- struct{}{}:
		return func() { <-d.reading }, nil
	case <-ctx.Done():
		return nil, &domain.Error{Class: domain.Unavailable, Message: "too many ask for parked entries", Err: ctx.Err()}
	}
}

// read fetches the entry of a row. there is false when it has left the log, or when the place in the log is another
// entry's by now, because the topic was made anew.
func (d parked) read(ctx context.Context, row projections.ParkedRow) (e eventstore.Entry, there bool, err error) {
	found, err := d.Log.ReadParked(ctx, row.Partition, row.ParkedAt)
	switch {
	case domain.ClassOf(err) == domain.NotFound:
		return e, false, nil
	case err != nil:
		// Whether retention has removed it, the log's beginning tells.
		start, startErr := d.Log.Start(ctx, d.Log.Topics.Parked)
		if startErr == nil && row.ParkedAt < start.Next[row.Partition] {
			return e, false, nil
		}
		return e, false, err
	case row.Kind == eventstore.KindForeign:
		return found.Entry, found.Foreign != nil, nil
	}
	return found.Entry, found.Foreign == nil && found.Cause() == entryOfRow(row).Cause(), nil
}

// entryOfRow is what a row tells of its entry: everything but the content.
func entryOfRow(row projections.ParkedRow) eventstore.Entry {
	return eventstore.Entry{Kind: row.Kind, ID: row.EntryID, Source: row.Source, Type: row.Type, Stream: row.Stream, Received: row.Received}
}
