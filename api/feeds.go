package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// Changes is the source of a projection's changes.
func Changes(v *projections.View) egress.Source {
	return egress.Source{
		Name: "changes of " + v.Name(),
		Resolve: func(_ context.Context, s egress.Start, _ egress.Filter) (eventstore.Position, error) {
			return s.InView(v.Position())
		},
		Follow: func(ctx context.Context, from eventstore.Position) (egress.Reader, error) {
			c, err := v.Follow(ctx, from)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Rows: func(context.Context) (egress.Reader, error) { return v.Rows(), nil },
		End:  v.Position,
	}
}

// WithEarliest is err as a problem, which tells, if err says that a cursor has expired, where the log begins now.
func WithEarliest(ctx context.Context, err error, earliest func(context.Context) (eventstore.Position, error)) error {
	p := ProblemOf(err)
	if errors.Is(err, eventstore.ErrExpired) && earliest != nil {
		if at, err := earliest(ctx); err == nil { // without it the answer is still right
			p.Earliest = at.String()
		}
	}
	return p
}

// UpgradeRequired is the refusal of a request that should have been a WebSocket's.
func UpgradeRequired(detail string) *Problem {
	return answer{"upgrade-required", http.StatusUpgradeRequired, "This URL is a WebSocket"}.problem(detail)
}

// Bounds of a page of a feed.
const (
	pageStart   = 10 * time.Second // finding where to begin
	longestPoll = 25 * time.Second // what proxies bear
	pageBytes   = 4 << 20          // of a page of a stream
)

const cloudEventsBatch = "application/cloudevents-batch+json"

// feedText is what the operations that are feeds have in common.
const feedText = "The same URL is a feed, from `latest` on unless told otherwise: of Server-Sent Events with `Accept: text/event-stream`, " +
	"of lines of JSON with `Accept: application/x-ndjson`, over a WebSocket with `Upgrade: websocket`, and, page by page, with `Prefer: wait`. " +
	"All of them have the same parameters and the same cursors: a feed goes on over another transport and on another node. " +
	"In Server-Sent Events `id:` is the cursor, and `Last-Event-ID` resumes."

// documentFeed adds the forms of a feed to those of a page.
func documentFeed(pages map[string]*huma.Response) {
	for _, form := range []string{"text/event-stream", "application/x-ndjson"} {
		pages["200"].Content[form] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
}

// FeedPageMembers are what a page says about itself beside its items and next.
type FeedPageMembers struct {
	End   bool      `json:"end,omitempty" doc:"With until: these are the last ones"`
	Reset *feedJump `json:"reset,omitempty" doc:"With on_gap: the cursor could not be honoured, and the page begins elsewhere"`
}

type feedJump struct {
	Reason  string `json:"reason" enum:"expired,reset,future"`
	Resumed string `json:"resumed" enum:"earliest,latest"`
}

// FeedRequest is what every page of a feed can be asked.
type FeedRequest struct {
	Paging
	From     string `query:"from" doc:"Where to begin without a cursor: earliest, latest, -n for the last n, or a time" example:"2026-01-31T12:00:00Z"`
	Until    string `query:"until" doc:"Where to end: a cursor, a time, or now"`
	OnGap    string `query:"on_gap" doc:"What to do with a cursor that can't be honoured: fail, or begin at earliest or latest, and say so"`
	Filter   string `query:"filter" doc:"CEL expression that says what is wanted" example:"data.amount > 100"`
	Prefer   string `header:"Prefer" doc:"wait=‹seconds›, at most 25: at the end, wait for the next one" example:"wait=25"`
	NotMatch string `header:"If-None-Match" doc:"ETag of an earlier answer"`
	Codings  string `header:"Accept-Encoding" hidden:"true"`

	query   url.Values
	http    *http.Request
	request egress.Request
}

// resolve reads the parameters by the feed's own rules.
func (in *FeedRequest) resolve(ctx huma.Context, kind egress.Kind) []error {
	u := ctx.URL()
	in.query = u.Query()
	in.http, _ = humago.Unwrap(ctx)
	var err error
	if in.request, err = egress.ParseRequest(http.Header{}, in.query, kind); err != nil {
		return []error{ProblemOf(err)}
	}
	return nil
}

// feedPage reads one page and answers with it. batch leaves only the events of it, as CloudEvents has it.
func (s *server) feedPage(ctx context.Context, src egress.Source, req egress.Request, in *FeedRequest, batch bool) (*answered, error) {
	start, cancel := context.WithTimeout(ctx, pageStart)
	defer cancel()
	sub, err := egress.Open(start, src, req)
	if err != nil {
		return nil, WithEarliest(start, err, src.Earliest)
	}
	wait := waitOf(in.Prefer, 0, longestPoll)
	var p egress.Page
	if s.Subscriptions == nil {
		p, err = egress.ReadPage(ctx, sub, in.Limit, wait)
	} else {
		var refused *egress.Refused
		p, refused, err = s.Subscriptions.Poll(in.http, sub, in.Limit, wait)
		if refused != nil {
			return nil, answer{refused.Reason, refused.Status, http.StatusText(refused.Status)}.problem(refused.Detail)
		}
	}
	if err != nil {
		return nil, WithEarliest(context.WithoutCancel(start), err, src.Earliest)
	}
	next := p.Position.String()
	in.query.Del("from")
	in.query.Set("cursor", next)
	out := &answered{
		ContentType: "application/json", Status: http.StatusOK, Position: next, Body: feedDocument(p, next),
		Link: fmt.Sprintf(`<%s?%s>; rel="next"`, in.http.URL.EscapedPath(), in.query.Encode()), Vary: "Accept, Accept-Encoding, Prefer, Origin",
	}
	if batch {
		out.ContentType, out.Body = cloudEventsBatch, append(append([]byte("["), bytes.Join(p.Items, []byte(","))...), ']')
	}
	if wait > 0 {
		out.Applied = fmt.Sprintf("wait=%d", wait/time.Second)
	}
	if p.Closed {
		// Nothing can come into this range any more. Whoever keeps it, keeps it for who may read it: without public, a
		// shared cache doesn't keep what was asked for with a token (RFC 9111, section 3.5).
		out.Cache = "max-age=31536000, immutable"
	}
	out = out.notModified(in.NotMatch, p.Position.Scope)
	if out.Status == http.StatusOK {
		out.Body, out.Encoding = egress.Compress(in.Codings, out.Body)
	}
	return out, nil
}

func feedDocument(p egress.Page, next string) []byte {
	b := append([]byte(`{"items":[`), bytes.Join(p.Items, []byte(","))...)
	b = append(append(append(b, `],"next":"`...), next...), '"')
	if p.End {
		b = append(b, `,"end":true`...)
	}
	if p.Gap != nil {
		b = fmt.Appendf(b, `,"reset":{"reason":"%s","resumed":"%s"}`, p.Gap.Reason, p.Gap.Resumed)
	}
	return append(b, "}\n"...)
}

// Durable is a stream of a node as the Durable Streams protocol reads it.
func Durable(h *eventstore.History, streams *projections.View, name domain.Stream) egress.Durable {
	head := func() (uint64, error) {
		row, ok, err := h.Head(name)
		if err == nil && !ok {
			err = notFound("the stream %s has no events", name)
		}
		return row.Version, err
	}
	return egress.Durable{
		Stream: name, Head: head,
		Events: func(from uint64, limit int) ([]domain.Event, error) { return h.Events(name, from, limit) },
		Wait: func(ctx context.Context, version uint64) error {
			// A connection waits again and again: each follower with a context of its own, as Follower wants it.
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			changes, err := streams.Follow(ctx, streams.Position())
			if err != nil {
				return err
			}
			// What came between the client's reading and the position above.
			if now, err := head(); err != nil || now > version {
				return err
			}
			for {
				b, err := changes.Next(ctx)
				if err != nil {
					return err
				}
				found := slices.ContainsFunc(b.Records, func(r *eventstore.Record) bool { return r.Change != nil && r.Change.Key == string(name) })
				b.Done()
				if !found {
					continue
				}
				if now, err := head(); err != nil || now > version {
					return err
				}
			}
		},
	}
}
