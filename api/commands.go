package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// How long a command waits for its outcome: unless the client prefers otherwise, at least (it must reach the log), and
// at most.
const (
	commandWait    = 5 * time.Second
	shortestSubmit = time.Second
	longestSubmit  = 30 * time.Second
)

// commandResult answers a command that took effect.
type commandResult struct {
	ID       string         `json:"id" doc:"Id of the command: the Idempotency-Key, or one made here"`
	Stream   domain.Stream  `json:"stream" example:"billing/cus_9"`
	Version  uint64         `json:"version" doc:"Version of the stream afterwards"`
	Events   []commandEvent `json:"events" nullable:"false" doc:"What happened; none if the command changed nothing"`
	Position string         `json:"position" doc:"Pass it as after= to read a projection that has seen these events"`
}

// commandPending answers a command that is in the log and has no final outcome.
type commandPending struct {
	ID     string        `json:"id"`
	Status string        `json:"status" enum:"unknown,parked" doc:"unknown: not handled yet. parked: it could not be handled, and an operator decides"`
	Stream domain.Stream `json:"stream"`
}

type commandEvent struct {
	ID      string `json:"id"`
	Type    string `json:"type" example:"billing.credit.granted"`
	Version uint64 `json:"version"`
}

// commandStatus says what became of a command.
type commandStatus struct {
	ID       string         `json:"id"`
	Type     string         `json:"type,omitempty" example:"GrantCredit"`
	Stream   domain.Stream  `json:"stream"`
	Status   domain.Status  `json:"status" enum:"accepted,rejected,parked,discarded"`
	Class    domain.Class   `json:"class,omitempty" doc:"rejected: why in general" enum:"rejected,conflict,invalid,not-found"`
	Rule     string         `json:"rule,omitempty" doc:"rejected: name of the rule"`
	Field    string         `json:"field,omitempty" doc:"rejected: field of the body that is at fault"`
	Message  string         `json:"message,omitempty" doc:"rejected: why in words"`
	Actual   *uint64        `json:"actual,omitempty" doc:"conflict: the version that the stream had"`
	Version  uint64         `json:"version" doc:"Version of the stream afterwards"`
	Events   []commandEvent `json:"events" nullable:"false"`
	Received *time.Time     `json:"received,omitempty"`
	Handled  *time.Time     `json:"handled,omitempty"`
}

func (s *server) registerCommands() error {
	for _, c := range s.Types.Commands {
		schema, err := s.commandSchema(c)
		if err != nil {
			return err
		}
		op := huma.Operation{
			OperationID: "submit-" + c.Name, Method: http.MethodPost, Path: "/v1/commands/" + c.Name, Tags: []string{"Commands"},
			Summary: "Submit " + c.Name,
			Description: "With an `Idempotency-Key` the command takes effect once, however often it is sent: later answers are that of the first. " +
				"Without one, a lost answer can't be asked for again.\n\n`If-Match` names the version that the stream must have. " +
				"`Prefer: wait` says how long to wait for the outcome; after that the answer is 202 and `Location` says where to ask.",
			RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}},
			Responses:   responds(schemaOf[commandResult](s)),
			Errors: refused(http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusPreconditionFailed,
				http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable),
			MaxBodyBytes: MaxBody + 1, // huma refuses what is as large as this
		}
		op.Responses["200"].Description = "The command took effect"
		op.Responses["202"] = &huma.Response{
			Description: "It is in the log and will be handled; what comes of it is not known yet",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: schemaOf[commandPending](s)}},
		}
		add(s, op, func(ctx context.Context, in *commandRequest) (*commandAnswer, error) {
			return s.submit(ctx, c.Name, in)
		})
		op.Responses["409"].Description = "/problems/rejected: a rule of the business says no; rule says which"
	}
	add(s, huma.Operation{
		OperationID: "submit-unknown", Method: http.MethodPost, Path: "/v1/commands/{type}", Metadata: wide(), Hidden: true,
	}, s.unknownCommand)
	add(s, huma.Operation{
		OperationID: "get-command", Method: http.MethodGet, Path: "/v1/commands/{id}", Tags: []string{"Commands"}, Metadata: wide(),
		Summary:     "Ask what became of a command",
		Description: "A command that is not handled yet is not known here.",
		Errors:      refused(http.StatusNotFound),
	}, s.command)
	return nil
}

type commandRequest struct {
	Key         string `header:"Idempotency-Key" minLength:"1" maxLength:"255" pattern:"^[!-~]+$" patternDescription:"visible ASCII" doc:"Id of this command, chosen by you and the same at each attempt"`
	IfMatch     string `header:"If-Match" doc:"Version that the stream must have, in quotes; \"0\" for one without events" example:"\"7\""`
	Prefer      string `header:"Prefer" doc:"wait=‹seconds›: how long to wait for the outcome, 1 to 30 and 5 by default" example:"wait=5"`
	TraceParent string `header:"traceparent" doc:"W3C Trace Context; the events carry it on"`
	// Not huma's RawBody: its bytes go back to a pool with the request, and an append may outlive that.
	Body json.RawMessage
}

// Resolve refuses what huma would let pass.
func (in *commandRequest) Resolve(ctx huma.Context) []error {
	var errs []error
	// Without a type the body may come from a form on somebody's web page, which asks nobody before it sends.
	if ctx.Header("Content-Type") == "" {
		errs = append(errs, validationProblem(http.StatusUnsupportedMediaType, "", nil))
	}
	ctx.EachHeader(func(name, value string) {
		// An empty key is a mistake of a client that wanted one.
		if name == "Idempotency-Key" && value == "" {
			errs = append(errs, ProblemOf(domain.Invalidf(name, "the key is empty")))
		}
	})
	return errs
}

type commandAnswer struct {
	Status   int
	Location string `header:"Location" doc:"Where to ask what became of the command"`
	ETag     string `header:"ETag" doc:"Version of the stream afterwards, for If-Match"`
	Replayed string `header:"Idempotent-Replayed" doc:"true if the answer is that of an earlier request with the same key"`
	Body     any    // commandResult with 200, commandPending with 202
}

func (s *server) submit(ctx context.Context, name string, in *commandRequest) (*commandAnswer, error) {
	c := domain.Command{Type: name, Data: in.Body}
	if err := s.Types.DecodeCommand(&c); err != nil {
		return nil, err
	}
	expected, err := expectedVersion(in.IfMatch)
	if err != nil {
		return nil, err
	}
	id := in.Key
	if id == "" {
		id = newID()
	}
	ctx, cancel := context.WithTimeout(ctx, max(waitOf(in.Prefer, commandWait, longestSubmit), shortestSubmit))
	defer cancel()
	out, known, err := s.Outcomes.Submit(ctx, eventstore.Entry{
		Kind: eventstore.KindCommand, ID: id, Source: "api", Type: name, Stream: c.Stream, Received: s.Clock().UTC(),
		ContentType: "application/json", Expected: expected, Correlation: id, TraceParent: traceParent(in.TraceParent), Body: in.Body,
	})
	if err != nil {
		// It may stand in the log all the same: only with this id can it be sent again safely.
		return nil, withID(fmt.Errorf("submit %s: %w", name, err), id)
	}
	answer := &commandAnswer{Status: http.StatusAccepted, Location: commandURL(id)}
	if !known {
		answer.Body = commandPending{id, "unknown", c.Stream}
		return answer, nil
	}
	if out.Status == domain.Duplicate {
		answer.Replayed = "true"
	}
	if err := refusal(out); err != nil {
		return nil, withID(err, id)
	}
	switch status := final(out); status {
	case domain.Accepted:
		answer.Status, answer.ETag = http.StatusOK, versionTag(out.Version)
		answer.Body = commandResult{id, out.Stream, out.Version, refs(out.Events), s.positionAfter(out).String()}
	case domain.Parked:
		answer.Body = commandPending{id, string(status), out.Stream}
	default:
		return nil, withID(fmt.Errorf("command %s ended as %q", id, status), id)
	}
	return answer, nil
}

// final is what became of a command in the end: of a duplicate, what became of the first one.
func final(o domain.Outcome) domain.Status {
	if o.Status == domain.Duplicate && o.Original != "" {
		return o.Original
	}
	return o.Status
}

// refusal is the error that a refused command is answered with, nil for any other.
func refusal(o domain.Outcome) error {
	switch {
	case o.Class != "":
		return &domain.Error{Class: o.Class, Rule: o.Rule, Field: o.Field, Actual: o.Actual, Message: o.Message}
	case final(o) == domain.Discarded:
		return &domain.Error{Class: domain.Rejected, Rule: "discarded", Message: "it could not be handled, and an operator dropped it"}
	}
	return nil
}

// withID tells in a problem which command it is about.
func withID(err error, id string) error {
	p := *ProblemOf(err)
	p.ID = id
	return &p
}

// positionAfter is where this node is, and at least behind the command's own events.
func (s *server) positionAfter(o domain.Outcome) eventstore.Position {
	p := s.Log.TailEnd(s.Log.Topics.Events).Clone()
	if n := len(o.Events); n > 0 && int(o.Partition) < len(p.Next) {
		p.Next[o.Partition] = max(p.Next[o.Partition], o.Events[n-1].Offset+1)
	}
	return p
}

func refs(events []domain.EventRef) []commandEvent {
	list := make([]commandEvent, len(events))
	for i, e := range events {
		list[i] = commandEvent{e.ID, e.Type, e.Version}
	}
	return list
}

func commandURL(id string) string { return "/v1/commands/" + url.PathEscape(id) }

// newID makes a random UUID, version 4 (RFC 9562, section 5.4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

type unknownCommandRequest struct {
	Type string `path:"type"`
}

func (s *server) unknownCommand(_ context.Context, in *unknownCommandRequest) (*struct{}, error) {
	names := make([]string, len(s.Types.Commands))
	for i, c := range s.Types.Commands {
		names[i] = c.Name
	}
	if len(names) == 0 {
		return nil, notFound("no command type %q; this node has none", in.Type)
	}
	return nil, notFound("no command type %q; there are %s", in.Type, strings.Join(names, ", "))
}

type commandStatusRequest struct {
	ID string `path:"id" maxLength:"1024"`
}

type commandStatusAnswer struct{ Body commandStatus }

func (s *server) command(_ context.Context, in *commandStatusRequest) (*commandStatusAnswer, error) {
	o, ok, err := s.History.Outcome(eventstore.KindCommand, "", in.ID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound("no command with this id has been handled")
	}
	a := &commandStatusAnswer{commandStatus{
		ID: o.ID, Type: o.Type, Stream: o.Stream, Status: final(o), Version: o.Version, Events: refs(o.Events),
		Received: present(o.Received), Handled: present(o.Handled),
	}}
	no, ok := errors.AsType[*domain.Error](refusal(o))
	if !ok {
		return a, nil // the reason why one was parked is for the operator's log
	}
	a.Body.Class, a.Body.Rule, a.Body.Field, a.Body.Message = no.Class, no.Rule, no.Field, no.Message
	if no.Class == domain.Conflict {
		a.Body.Actual = &no.Actual
	}
	return a, nil
}

// present is nil for the zero time, which stands for one that isn't known any more.
func present(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
