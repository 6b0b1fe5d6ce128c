package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/replays"
)

// planTime bounds how long the delivery log is searched for a plan.
const planTime = 20 * time.Second

func (s *server) registerReplays() {
	const effect = " A replay is a delivery of its own: its id is the original's with `~replay-` and the replay's id, its event says `replayof`, " +
		"and policies see it like any other, so that the commands which they ask for are decided again."
	changes := refused(http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusServiceUnavailable)
	one := huma.Operation{
		OperationID: "replay-delivery", Method: http.MethodPost, Path: "/v1/deliveries/{source}/{id}/replay", Tags: []string{"Webhooks"},
		Summary:     "Have a delivery handled once more",
		Description: "The answer says what came of it." + effect + " With the same `Idempotency-Key` it is replayed once. A slash in the id is written as %2F.",
		Responses:   responds(schemaOf[replayed](s)), Errors: append([]int{http.StatusGone}, changes...), MaxBodyBytes: MaxBody + 1,
	}
	one.Responses["200"].Description = "It was handled"
	one.Responses["202"] = &huma.Response{
		Description: "It is in the log and will be handled; what comes of it is not known yet",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: schemaOf[replayed](s)}},
	}
	add(s, one, s.replayOne)
	one.Responses["409"].Description = "/problems/still-parked: the delivery itself is parked; release it instead"
	one.Responses["410"].Description = "/problems/entry-expired: the request has left the log, and it never became an event"

	plan := huma.Operation{
		OperationID: "plan-replay", Method: http.MethodPost, Path: "/v1/replays", Tags: []string{"Webhooks"}, DefaultStatus: http.StatusCreated,
		Summary: "Replay all deliveries that pass a filter, or plan to",
		Description: "With `dry_run` the answer is a plan: how many deliveries, from when to when. Start it with POST /v1/replays/{id}/start. Without, it is started " +
			"at once. A node runs one at a time, oldest delivery first, each stream in its order. What is parked, and what is a replay itself, is left out." + effect,
		Responses: map[string]*huma.Response{}, Errors: changes, MaxBodyBytes: MaxBody + 1,
	}
	add(s, plan, s.planReplay)
	plan.Responses["409"].Description = "/problems/replay-running: another replay runs on this node. The plan is kept"
	add(s, huma.Operation{
		OperationID: "list-replays", Method: http.MethodGet, Path: "/v1/replays", Tags: []string{"Webhooks"},
		Summary: "List the replays of this node, newest first", Description: "The last 100. Each is known to the node that made it.",
		Errors: refused(http.StatusNotFound),
	}, s.listReplays)
	add(s, huma.Operation{
		OperationID: "get-replay", Method: http.MethodGet, Path: "/v1/replays/{id}", Tags: []string{"Webhooks"},
		Summary: "Get a replay and how far it is", Errors: refused(http.StatusNotFound),
	}, func(_ context.Context, in *ReplayPath) (*replayAnswer, error) {
		return s.replay(in, (*replays.Replays).Get)
	})
	for _, change := range []struct {
		name, summary, description string
		do                         func(*replays.Replays, string) (replays.Plan, error)
	}{
		{"start", "Start a plan, or go on with an interrupted replay", "What was replayed before is not replayed again.", (*replays.Replays).Start},
		{"cancel", "End a replay for good", "What was replayed stays replayed.", (*replays.Replays).Cancel},
	} {
		op := huma.Operation{
			OperationID: change.name + "-replay", Method: http.MethodPost, Path: "/v1/replays/{id}/" + change.name, Tags: []string{"Webhooks"},
			Summary: change.summary, Description: change.description, Responses: map[string]*huma.Response{},
			Errors: refused(http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable),
		}
		add(s, op, func(_ context.Context, in *ReplayPath) (*replayAnswer, error) { return s.replay(in, change.do) })
		op.Responses["409"].Description = "/problems/replay-running: another one runs on this node. /problems/replay-ended: plan it anew"
	}
}

// Replaying is what every request to replay has in its headers.
type Replaying struct {
	Operator string `header:"Penstock-Operator" doc:"Who wants it: up to 100 printable characters. Wins over by"`
	Key      string `header:"Idempotency-Key" maxLength:"255" doc:"The same key replays once, however often it is sent"`
}

// Resolve refuses a body that may come from a form on somebody's web page.
func (Replaying) Resolve(ctx huma.Context) []error { return Releasing{}.Resolve(ctx) }

// id is that of the replay: the key's, so that it is the same for the same key, or a new one.
func (r Replaying) id() string {
	if r.Key == "" {
		return replays.NewID()
	}
	sum := sha256.Sum256([]byte(r.Key))
	return "k" + hex.EncodeToString(sum[:10])
}

// ReplayReason is what every request to replay has in its body.
type ReplayReason struct {
	Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"Why" example:"the shop was down"`
	By     string `json:"by,omitempty" maxLength:"100" doc:"Who, unless the header Penstock-Operator says it" example:"ann"`
}

func (r ReplayReason) signed(operator string) (by, reason string, err error) {
	if by, err = operatorOf(operator, r.By); err != nil {
		return "", "", err
	}
	if reason = strings.TrimSpace(r.Reason); reason == "" {
		return "", "", domain.Invalidf("reason", "why it is replayed is not said")
	}
	return by, reason, nil
}

func (s *server) replays() (*replays.Replays, error) {
	if s.Replays == nil {
		return nil, notFound("this node replays nothing")
	}
	return s.Replays, nil
}

type replayOneRequest struct {
	DeliveryPath
	Replaying
	Prefer string `header:"Prefer" doc:"wait=‹seconds›: how long to wait for what comes of it, 1 to 30; 5 by default" example:"wait=5"`
	Body   ReplayReason
}

// replayed says what became of the replay of a delivery.
type replayed struct {
	ID       string         `json:"id" doc:"Delivery id of the replay"`
	ReplayOf string         `json:"replay_of" doc:"Delivery id of the original"`
	Source   string         `json:"source"`
	Stream   domain.Stream  `json:"stream"`
	Status   domain.Status  `json:"status" enum:"accepted,parked,discarded,pending" doc:"pending: ask for the delivery later"`
	Message  string         `json:"message,omitempty" doc:"parked: why"`
	Version  uint64         `json:"version" doc:"Version of the stream afterwards; 0 while it isn't known"`
	Events   []commandEvent `json:"events" nullable:"false"`
	Commands []string       `json:"commands,omitempty" nullable:"false" doc:"ids of the commands that policies asked for"`
	Position string         `json:"position,omitempty" doc:"accepted: pass it as after= to read a projection that has seen these events"`
	URL      string         `json:"url" doc:"The replay in the delivery log"`
}

type replayOneAnswer struct {
	Status int
	Body   replayed
}

func (s *server) replayOne(ctx context.Context, in *replayOneRequest) (*replayOneAnswer, error) {
	by, reason, err := in.Body.signed(in.Operator)
	if err != nil {
		return nil, err
	}
	r, err := s.replays()
	if err != nil {
		return nil, err
	}
	d, err := s.find(in.Source, in.ID)
	if err != nil {
		return nil, err
	}
	if d.Status == domain.Parked {
		return nil, &domain.Error{Class: domain.Conflict, Rule: "still-parked",
			Message: fmt.Sprintf("it is parked as %d-%d, and a replay would be parked behind it: release it instead", d.Partition, d.Inbox)}
	}
	ctx, cancel := context.WithTimeout(ctx, max(waitOf(in.Prefer, commandWait, longestSubmit), shortestSubmit))
	defer cancel()
	e, err := r.Entry(ctx, d, in.id(), by, reason)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", d.ID, err)
	}
	s.Logger.Info("a delivery is replayed", "source", d.Source, "delivery", d.ID, "as", e.ID, "by", by, "reason", reason)
	out, known, err := s.Outcomes.Submit(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", d.ID, err)
	}
	a := &replayOneAnswer{http.StatusAccepted, replayed{
		ID: e.ID, ReplayOf: e.ReplayOf, Source: e.Source, Stream: e.Stream, Status: "pending", Events: []commandEvent{},
		URL: "/v1/deliveries/" + url.PathEscape(e.Source) + "/" + url.PathEscape(e.ID),
	}}
	if !known {
		return a, nil
	}
	a.Status, a.Body.Status = http.StatusOK, out.Status
	if out.Status == domain.Duplicate { // sent again under the same key
		a.Body.Status = out.Original
	}
	a.Body.Version, a.Body.Events, a.Body.Commands = out.Version, refs(out.Events), out.Commands
	if a.Body.Status == domain.Accepted {
		a.Body.Position = s.positionAfter(out).String()
	} else {
		a.Body.Message = out.Message
	}
	return a, nil
}

type planRequest struct {
	Replaying
	Body struct {
		Filter replays.Filter `json:"filter" doc:"Which deliveries; one field at least"`
		DryRun bool           `json:"dry_run,omitempty" doc:"Only plan it"`
		Rate   int            `json:"rate,omitempty" minimum:"1" maximum:"1000" default:"50" doc:"Deliveries per second at most"`
		Most   int            `json:"max,omitempty" minimum:"1" maximum:"100000" default:"10000" doc:"Refuse a plan of more deliveries"`
		ReplayReason
	}
}

// replayView is a plan with how far it is.
type replayView struct {
	replays.Plan
	Left    int    `json:"left" doc:"Deliveries still to come to"`
	ETA     int    `json:"eta_seconds,omitempty" doc:"running: about how long it still takes"`
	Results string `json:"results" doc:"The deliveries that it has made"`
}

type replayAnswer struct {
	Location string `header:"Location" hidden:"true"`
	Body     replayView
}

func viewOf(p replays.Plan) replayView {
	v := replayView{Plan: p, Left: p.Left(), Results: "/v1/deliveries?replay=" + url.QueryEscape(p.ID)}
	if p.State == replays.Running {
		v.ETA = int(math.Ceil(float64(v.Left) / float64(p.Rate)))
	}
	return v
}

func (s *server) planReplay(ctx context.Context, in *planRequest) (*replayAnswer, error) {
	by, reason, err := in.Body.signed(in.Operator)
	if err != nil {
		return nil, err
	}
	r, err := s.replays()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, planTime)
	defer cancel()
	p, err := r.Plan(ctx, replays.Request{ID: in.id(), Filter: in.Body.Filter, Rate: in.Body.Rate, Most: in.Body.Most, By: by, Reason: reason})
	if err == nil && !in.Body.DryRun && !p.Ended() {
		p, err = r.Start(p.ID)
	}
	if err != nil {
		return nil, err
	}
	return &replayAnswer{"/v1/replays/" + p.ID, viewOf(p)}, nil
}

type replaysAnswer struct{ Body page[replayView] }

func (s *server) listReplays(context.Context, *struct{}) (*replaysAnswer, error) {
	r, err := s.replays()
	if err != nil {
		return nil, err
	}
	a := &replaysAnswer{page[replayView]{Items: []replayView{}}}
	for _, p := range r.List() {
		a.Body.Items = append(a.Body.Items, viewOf(p))
	}
	return a, nil
}

// ReplayPath names a replay.
type ReplayPath struct {
	ID string `path:"id" maxLength:"64" example:"k3v9x2a7q1mz"`
}

func (s *server) replay(in *ReplayPath, do func(*replays.Replays, string) (replays.Plan, error)) (*replayAnswer, error) {
	r, err := s.replays()
	if err != nil {
		return nil, err
	}
	p, err := do(r, in.ID)
	if err != nil {
		return nil, err
	}
	return &replayAnswer{Body: viewOf(p)}, nil
}
