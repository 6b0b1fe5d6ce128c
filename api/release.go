package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

const (
	releaseLimit = 1000            // entries of a stream that one request releases
	releaseView  = 2 * time.Second // how long an answer waits for the list to show it
)

func (d parked) registerReleases() {
	const recorded = " Who and why are recorded with the outcome and stay visible in the list."
	problems := refused(http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusGone,
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable)
	for _, one := range []struct{ release, summary, description string }{
		{eventstore.Requeue, "Have a parked entry handled again",
			"The answer says what came of it. A command that a rule refuses is released all the same: `outcome` is rejected then, and `rule` says which."},
		{eventstore.Discard, "Drop a parked entry",
			"It takes no effect, also not when it is sent again. What was parked behind it stays parked until it is released in its turn."},
	} {
		op := huma.Operation{
			OperationID: one.release + "-parked", Method: http.MethodPost, Path: "/v1/parked/{id}/" + one.release, Tags: []string{"Parked"},
			Summary: one.summary, Description: one.description + recorded, Responses: responds(schemaOf[released](d.server)),
			Errors: problems, MaxBodyBytes: MaxBody + 1,
		}
		op.Responses["200"].Description = "It is released"
		op.Responses["202"] = &huma.Response{
			Description: "It is in the log and will be handled; what comes of it is not known yet",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: schemaOf[released](d.server)}},
		}
		add(d.server, op, func(ctx context.Context, in *releaseRequest) (*releaseAnswer, error) {
			return d.releaseOne(ctx, one.release, in)
		})
		op.Responses["409"].Description = "/problems/parked-again: it failed again, and detail says why. /problems/parked-behind: first is to be released before. " +
			"/problems/already-released. /problems/not-releasable"
		op.Responses["410"].Description = "/problems/entry-expired: the entry has left the log; it can only be discarded"
	}
	add(d.server, huma.Operation{
		OperationID: "requeue-stream", Method: http.MethodPost, Path: "/v1/parked/requeue", Tags: []string{"Parked"},
		Summary: "Have everything that a stream has parked handled again",
		Description: "In order, up to 1000 entries. It stops at the first that can't be released: that one is the last of `items` and has a `problem`. " +
			"Ask again while `more` is true." + recorded,
		Errors: refused(http.StatusNotFound, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusServiceUnavailable),
		MaxBodyBytes: MaxBody + 1,
	}, d.releaseStream)
}

// released says what became of an entry that an operator has released.
type released struct {
	ID       string         `json:"id" example:"4-17"`
	State    string         `json:"state" enum:"requeued,discarded,waiting,unknown" doc:"waiting: it was not released, and problem says why. unknown: ask for it again later"`
	Outcome  domain.Status  `json:"outcome,omitempty" enum:"accepted,rejected" doc:"requeued: what came of it"`
	Rule     string         `json:"rule,omitempty" doc:"rejected: name of the rule"`
	Message  string         `json:"message,omitempty" doc:"rejected: why in words"`
	Kind     string         `json:"kind" enum:"delivery,command"`
	EntryID  string         `json:"entry_id" doc:"delivery id or command id"`
	Stream   domain.Stream  `json:"stream" example:"billing/cus_9"`
	Version  uint64         `json:"version" doc:"Version of the stream afterwards; 0 while it isn't known"`
	Events   []commandEvent `json:"events" nullable:"false"`
	Commands []string       `json:"commands,omitempty" nullable:"false" doc:"ids of the commands that policies asked for"`
	Position string         `json:"position,omitempty" doc:"accepted: pass it as after= to read a projection that has seen these events"`
	By       string         `json:"by"`
	Note     string         `json:"note"`
	Problem  *Problem       `json:"problem,omitempty"`
}

// Releasing is what every request to release has in its headers.
type Releasing struct {
	Operator string `header:"Penstock-Operator" doc:"Who releases it: up to 100 printable characters. Wins over by"`
	Prefer   string `header:"Prefer" doc:"wait=‹seconds›: how long to wait for what comes of it, 1 to 30; 5 by default, and 30 for a stream" example:"wait=5"`
}

// Resolve refuses a body without a type: it may come from a form on somebody's web page, which asks nobody before it
// sends.
func (Releasing) Resolve(ctx huma.Context) []error {
	if ctx.Header("Content-Type") == "" {
		return []error{validationProblem(http.StatusUnsupportedMediaType, "", nil)}
	}
	return nil
}

// Reason is what every request to release has in its body.
type Reason struct {
	Note string `json:"note" minLength:"1" maxLength:"500" doc:"Why" example:"fixed in 1.4.2"`
	By   string `json:"by,omitempty" maxLength:"100" doc:"Who, unless the header Penstock-Operator says it" example:"ann"`
}

// signed checks who releases and why.
func (r Reason) signed(operator string) (by, note string, err error) {
	if by, err = operatorOf(operator, r.By); err != nil {
		return "", "", err
	}
	if note = strings.TrimSpace(r.Note); note == "" {
		return "", "", domain.Invalidf("note", "why it is released is not said")
	}
	return by, note, nil
}

// operatorOf checks who wants something: as the header says, or else the body.
func operatorOf(header, body string) (by string, err error) {
	by, field := body, "by"
	if header != "" {
		by, field = header, "Penstock-Operator"
	}
	unprintable := func(c rune) bool { return !unicode.IsPrint(c) }
	switch by = strings.TrimSpace(by); {
	case by == "":
		return "", domain.Invalidf("by", "who wants it is not said: neither by the header Penstock-Operator nor in the body")
	case !utf8.ValidString(by) || utf8.RuneCountInString(by) > 100 || strings.ContainsFunc(by, unprintable):
		return "", domain.Invalidf(field, "up to 100 printable characters")
	}
	return by, nil
}

type releaseRequest struct {
	ParkedPath
	Releasing
	Body Reason
}

type releaseAnswer struct {
	Status int
	Body   released
}

func (d parked) releaseOne(ctx context.Context, release string, in *releaseRequest) (*releaseAnswer, error) {
	by, note, err := in.Body.signed(in.Operator)
	if err != nil {
		return nil, err
	}
	v, err := d.view()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(waitOf(in.Prefer, commandWait, longestSubmit), shortestSubmit))
	defer cancel()
	done, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	row, err := d.row(v, in.ID)
	if err != nil {
		return nil, err
	}
	r, err := d.release(ctx, v, row, release, by, note)
	d.show(ctx, v)
	if err != nil {
		return nil, err
	}
	if r.State == "unknown" {
		return &releaseAnswer{http.StatusAccepted, r}, nil
	}
	return &releaseAnswer{http.StatusOK, r}, nil
}

// show waits a moment until the list has what this node knows of the outcomes, so that who asks next finds it there.
// The answer is true without it.
func (d parked) show(ctx context.Context, v *projections.View) {
	ctx, cancel := context.WithTimeout(ctx, releaseView)
	defer cancel()
	_ = v.Wait(ctx, d.Log.TailEnd(d.Log.Topics.Outcomes))
}

// release puts the entry of a row into the inbox again, with who wants what of it and why, and says what became of it.
// An error tells why it is not released.
func (d parked) release(ctx context.Context, v *projections.View, row projections.ParkedRow, release, by, note string) (r released, err error) {
	switch {
	case row.Kind == eventstore.KindForeign:
		return r, notReleasable.problem("it is a record of another program in the inbox: it belongs to no stream and holds nothing back")
	case row.State != "waiting":
		return r, alreadyReleased.problem(fmt.Sprintf("%s was %s by %s", row.ID, row.State, row.By))
	}
	e, there, err := d.read(ctx, row)
	if err != nil {
		return r, err
	}
	if !there {
		if release == eventstore.Requeue {
			return r, entryExpired.problem(row.ID + " has left the log; it can only be discarded")
		}
		e = entryOfRow(row) // dropping it takes no content, and its stream must not wait for ever
	}
	e.Release, e.By, e.Note = release, by, note
	out, known, err := d.Outcomes.Submit(ctx, e)
	if err != nil {
		return r, fmt.Errorf("%s %s: %w", release, row.ID, err)
	}
	if !known {
		return d.pending(row, by, note), nil
	}
	return d.judge(v, row, e, out)
}

// judge says what an outcome that stands for e means for its release.
func (d parked) judge(v *projections.View, row projections.ParkedRow, e eventstore.Entry, out domain.Outcome) (r released, err error) {
	r = d.pending(row, e.By, e.Note)
	switch mine := out.Release == e.Release && out.By == e.By && out.Note == e.Note; {
	case !mine && out.Release != "" && out.Status != domain.Parked && out.Status != domain.Duplicate:
		return r, alreadyReleased.problem(fmt.Sprintf("%s was released by %s at the same moment", row.ID, out.By))
	case !mine:
		return r, nil // the outcome of a repeat by the sender, or of another operator's try; ours is still to come
	case out.Status == domain.Duplicate && out.Rule == "parked-behind":
		p := parkedBehind.problem(out.Message)
		p.Rule = out.Rule
		first, err := d.waiting(v, row.Stream)
		if err != nil {
			return r, err
		}
		if len(first) > 0 && first[0] != row.ID {
			p.First, p.Detail = first[0], fmt.Sprintf("%s is parked before this one: release it first", first[0])
		}
		return r, p
	case out.Status == domain.Duplicate && out.Original == domain.Parked:
		return r, notReleasable.problem("the writer of its stream doesn't hold it: it stood in another partition of the inbox than its stream's")
	case out.Status == domain.Duplicate:
		return r, alreadyReleased.problem(fmt.Sprintf("%s was released before: it is %s", row.ID, out.Original))
	case out.Status == domain.Parked:
		return r, parkedAgain.problem(out.Message)
	}
	r.State, r.Version, r.Events, r.Commands = "requeued", out.Version, refs(out.Events), out.Commands
	switch out.Status {
	case domain.Discarded:
		r.State = "discarded"
	case domain.Accepted:
		r.Outcome, r.Position = out.Status, d.positionAfter(out).String()
	case domain.Refused:
		r.Outcome, r.Rule, r.Message = out.Status, out.Rule, out.Message
	default:
		return r, fmt.Errorf("%s %s ended as %q", e.Release, row.ID, out.Status)
	}
	return r, nil
}

// pending is the answer of which nothing is known yet.
func (parked) pending(row projections.ParkedRow, by, note string) released {
	return released{ID: row.ID, State: "unknown", Kind: row.Kind, EntryID: row.EntryID, Stream: row.Stream, Events: []commandEvent{}, By: by, Note: note}
}

// waiting returns the ids of the first releaseLimit entries that a stream has parked, in the order in which its writer
// takes them back.
func (d parked) waiting(v *projections.View, s domain.Stream) (ids []string, err error) {
	prefix := strconv.Itoa(int(d.Log.PartitionOf(s))) + "-"
	var offsets []int64
	for after, rest := prefix, true; rest; {
		var rows []projections.Row
		if rows, rest, _, err = v.Page(after, 1000); err != nil {
			return nil, err
		}
		for _, r := range rows {
			number, ok := strings.CutPrefix(r.Key, prefix)
			if !ok {
				rest = false
				break
			}
			after = r.Key
			row, err := parkedRow(r.Key, r.Row)
			if err != nil {
				return nil, err
			}
			if row.Stream != s || row.State != "waiting" || row.Kind == eventstore.KindForeign {
				continue
			}
			offset, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("row %s of parked: %w", r.Key, err)
			}
			offsets = append(offsets, offset)
		}
	}
	slices.Sort(offsets) // as texts 10 stands before 9
	for _, o := range offsets[:min(len(offsets), releaseLimit)] {
		ids = append(ids, prefix+strconv.FormatInt(o, 10))
	}
	return ids, nil
}

type requeueStreamRequest struct {
	Releasing
	Body struct {
		Stream string `json:"stream" maxLength:"512" example:"billing/cus_9"`
		Reason
	}
}

// releasedStream says what became of each entry of a stream that was tried.
type releasedStream struct {
	Items []released `json:"items" nullable:"false" doc:"In order. If the last one has a problem, nothing after it was tried"`
	More  bool       `json:"more" doc:"The time or the limit is reached, and there may be more: ask again"`
}

type requeueStreamAnswer struct{ Body releasedStream }

func (d parked) releaseStream(ctx context.Context, in *requeueStreamRequest) (*requeueStreamAnswer, error) {
	by, note, err := in.Body.signed(in.Operator)
	if err != nil {
		return nil, err
	}
	stream, err := domain.ParseStream(in.Body.Stream)
	if err != nil {
		return nil, err
	}
	v, err := d.view()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(waitOf(in.Prefer, longestSubmit, longestSubmit), shortestSubmit))
	defer cancel()
	done, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	d.show(ctx, v)
	ids, err := d.waiting(v, stream)
	if err != nil {
		return nil, err
	}
	a, tried := &requeueStreamAnswer{releasedStream{Items: []released{}}}, map[string]bool{}
	for _, id := range ids {
		if ctx.Err() != nil {
			break
		}
		tried[id] = true
		r := d.requeueNext(ctx, v, id, by, note)
		if r.Problem != nil && r.Problem.Type == alreadyReleased.problem("").Type {
			continue // somebody else was faster: the next one is the first by now
		}
		a.Body.Items = append(a.Body.Items, r)
		if r.Problem != nil || r.State == "unknown" {
			return a, nil
		}
	}
	// Also what was parked behind them in the meantime.
	d.show(ctx, v)
	if ids, err = d.waiting(v, stream); err != nil {
		return nil, err
	}
	a.Body.More = slices.ContainsFunc(ids, func(id string) bool { return !tried[id] })
	return a, nil
}

// requeueNext releases one entry of several: whatever keeps it from being released is part of the answer.
func (d parked) requeueNext(ctx context.Context, v *projections.View, id, by, note string) (r released) {
	row, err := d.row(v, id)
	if err == nil {
		r, err = d.release(ctx, v, row, eventstore.Requeue, by, note)
	}
	if err == nil {
		return r
	}
	p := ProblemOf(err)
	if p.Status >= http.StatusInternalServerError {
		d.Logger.Warn("requeuing a stream stops", "stream", row.Stream, "id", id, "error", err)
	}
	r = d.pending(row, by, note)
	r.ID, r.State, r.Problem = id, "waiting", p
	return r
}
