package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
)

// Bounds of one page of events. A page that reaches one of them is short, and its next goes on from there.
const (
	pageBytes   = 4 << 20          // of events, and always one event, however large
	pageRecords = 50_000           // looked at, of which a filter may drop all
	pageTime    = 10 * time.Second // reading, besides what the client wants to wait
	longestPoll = 25 * time.Second // what proxies bear
)

// cloudEvent is an event as CloudEvents 1.0.2 writes it in JSON
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
type cloudEvent struct {
	SpecVersion     string          `json:"specversion" enum:"1.0"`
	ID              string          `json:"id" doc:"Unique in the log"`
	Type            string          `json:"type" example:"billing.credit.granted"`
	Source          string          `json:"source" doc:"/sources/‹name› or /commands/‹type›" example:"/commands/GrantCredit"`
	Subject         string          `json:"subject" doc:"The stream" example:"billing/cus_9"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype,omitempty" example:"application/json"`
	Data            json.RawMessage `json:"data,omitempty" doc:"The payload; a string if it is text and not JSON"`
	DataBase64      string          `json:"data_base64,omitempty" doc:"The payload if it is neither JSON nor text"`
	StreamVersion   uint64          `json:"streamversion" doc:"1, 2, 3 … within the stream, without a hole"`
	CorrelationID   string          `json:"correlationid,omitempty" doc:"Id of the first cause"`
	CausationID     string          `json:"causationid,omitempty" doc:"Id of the direct cause: a delivery or a command"`
	TraceParent     string          `json:"traceparent,omitempty" doc:"W3C Trace Context"`
	DeliveryID      string          `json:"deliveryid,omitempty" doc:"The provider's id of the delivery that brought it"`
	Verification    string          `json:"verification,omitempty" doc:"How the delivery was verified: scheme and binding class"`
}

// eventPage is the document of a page of events; the bytes are written by writePage.
type eventPage struct {
	Items []cloudEvent `json:"items" nullable:"false"`
	Next  string       `json:"next" doc:"Cursor after these events; always there. Ask again with it, or with Prefer: wait"`
}

func (s *server) registerEvents() {
	pages := responds(schemaOf[eventPage](s), "Link", "Penstock-Position", "Preference-Applied")
	pages["200"].Content["text/event-stream"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	add(s, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/events", Tags: []string{"Events"},
		Summary: "Read the events of the log, or follow them",
		Description: "A page of events in the log's order. With `Accept: text/event-stream` the same URL is a feed of Server-Sent Events: it begins at " +
			"`latest` unless told otherwise, each event's `id:` is a cursor, and `Last-Event-ID` resumes it on any node.\n\n" +
			"A page may be short, even empty, and still be followed by another: it is the end of the log only when asking again gives nothing.",
		Responses: pages,
		Errors:    refused(http.StatusBadRequest, http.StatusConflict, http.StatusGone, http.StatusServiceUnavailable),
	}, s.events)
	one := map[string]*huma.Response{"200": {
		Description: http.StatusText(http.StatusOK), Content: map[string]*huma.MediaType{"application/cloudevents+json": {Schema: schemaOf[cloudEvent](s)}},
	}}
	add(s, huma.Operation{
		OperationID: "get-event", Method: http.MethodGet, Path: "/v1/events/{id}", Tags: []string{"Events"}, Metadata: wide(),
		Summary:   "Get one event",
		Responses: one,
		Errors:    refused(http.StatusNotFound),
	}, s.event)
}

type eventsRequest struct {
	Paging
	From   string   `query:"from" doc:"Where to begin without a cursor: earliest, latest or a time" example:"2026-01-31T12:00:00Z"`
	Type   []string `query:"type,explode" nullable:"false" doc:"Only these types; * stands for any characters" example:"[\"billing.*\"]"`
	Source []string `query:"source,explode" nullable:"false" doc:"Only from these sources; a * at the end makes it a beginning"`
	Stream []string `query:"stream,explode" nullable:"false" doc:"Only of these streams; a * at the end makes it a beginning" example:"[\"billing/*\"]"`
	Prefer string   `header:"Prefer" doc:"wait=‹seconds›, at most 25: at the end of the log, wait for the next event" example:"wait=25"`

	query  url.Values
	start  egress.Start
	filter egress.Filter
}

// Resolve reads what the page shares with the feed at the same URL, by the feed's own rules.
func (in *eventsRequest) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	in.query = u.Query()
	from := url.Values{"from": {"earliest"}}
	for _, name := range []string{"from", "cursor"} {
		if in.query.Has(name) {
			from[name] = in.query[name]
		}
	}
	var err1, err2 error
	in.start, err1 = egress.ParseStart(http.Header{}, from)
	in.filter, err2 = egress.ParseFilter(in.query)
	if err := errors.Join(err1, err2); err != nil {
		return []error{ProblemOf(err)}
	}
	return nil
}

func (s *server) events(ctx context.Context, in *eventsRequest) (*answered, error) {
	topic := s.Log.Topics.Events
	wait := waitOf(in.Prefer, 0, longestPoll)
	read, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	from, err := in.start.In(read, s.Log, topic)
	if err != nil {
		return nil, err
	}
	follower, err := s.Log.Follow(read, topic, from)
	if errors.Is(err, eventstore.ErrExpired) {
		return nil, s.expired(read, err)
	}
	if err != nil {
		return nil, err
	}
	p := pageOf(follower.Position(), in.filter, in.Limit)
	if err := p.fill(ctx, follower.Leased(), wait); err != nil {
		if errors.Is(err, eventstore.ErrExpired) {
			err = s.expired(read, err)
		}
		return nil, err
	}
	next := p.next.String()
	in.query.Del("from")
	in.query.Set("cursor", next)
	out := &answered{
		ContentType: "application/json", Status: http.StatusOK, Position: next, Body: p.document(),
		Link: fmt.Sprintf(`</v1/events?%s>; rel="next"`, in.query.Encode()),
	}
	if wait > 0 {
		out.Applied = fmt.Sprintf("wait=%d", wait/time.Second)
	}
	return out, nil
}

// expired tells where the log begins now, if it can be asked.
func (s *server) expired(ctx context.Context, err error) error {
	p := ProblemOf(err)
	if start, err := s.Log.Start(ctx, s.Log.Topics.Events); err == nil {
		p.Earliest = start.String()
	}
	return p
}

// eventsPage collects the events of one page.
type eventsPage struct {
	filter egress.Filter
	limit  int
	items  int
	seen   int
	body   []byte
	next   eventstore.Position // after everything looked at, of which nothing is skipped
}

func pageOf(at eventstore.Position, filter egress.Filter, limit int) *eventsPage {
	return &eventsPage{filter: filter, limit: limit, next: at.Clone(), body: []byte(`{"items":[`)}
}

func (p *eventsPage) full() bool {
	return p.items >= p.limit || len(p.body) >= pageBytes || p.seen >= pageRecords
}

// fill reads until the page is full or the log's end, where an empty page waits. Once something was read an error only
// ends the page: it will come again with the next one, and nothing is skipped.
func (p *eventsPage) fill(ctx context.Context, f *eventstore.Follower, wait time.Duration) error {
	read, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	poll, stop := context.WithTimeout(ctx, wait)
	defer stop()
	for !p.full() {
		within := read
		if f.CaughtUp() {
			if p.items > 0 || poll.Err() != nil {
				return nil
			}
			within = poll
		}
		b, err := f.Next(within)
		if err == nil {
			p.take(b)
			b.Done()
			continue
		}
		if p.seen > 0 || (within == poll && poll.Err() != nil && ctx.Err() == nil) {
			return nil
		}
		return err
	}
	return nil
}

// take adds what the filter passes. A batch that doesn't fit is left in the middle: then next is the position after the
// last record looked at, and else the batch's own, which passes markers too.
func (p *eventsPage) take(b *eventstore.Batch) {
	for _, r := range b.Records {
		if p.full() {
			return
		}
		p.seen++
		p.next.Next[r.Partition] = r.Offset + 1
		if r.Event != nil && p.filter.Match(r.Event) {
			p.add(r.Event)
		}
	}
	p.next = b.Next.Clone()
}

func (p *eventsPage) add(e *domain.Event) {
	if p.items > 0 {
		p.body = append(p.body, ',')
	}
	p.body = egress.AppendCloudEvent(p.body, e)
	p.items++
}

func (p *eventsPage) document() []byte {
	return append(append(append(p.body, `],"next":"`...), p.next.String()...), "\"}\n"...)
}

type eventRequest struct {
	ID string `path:"id" maxLength:"1024"`
}

func (s *server) event(_ context.Context, in *eventRequest) (*answered, error) {
	e, ok, err := s.History.Event(in.ID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound("no event has this id")
	}
	return &answered{ContentType: "application/cloudevents+json", Status: http.StatusOK, Body: append(egress.AppendCloudEvent(nil, &e), '\n')}, nil
}

func notFound(format string, args ...any) error {
	return &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf(format, args...)}
}
