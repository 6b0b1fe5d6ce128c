package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// answer is a row of the one table that says how an error is answered.
type answer struct {
	kind   string // the last part of the problem's type
	status int
	title  string
}

// classes says how each class is answered. A class that isn't here is internal.
var classes = map[domain.Class]answer{
	domain.Rejected:     {"rejected", http.StatusConflict, "A rule of the business says no"},
	domain.Conflict:     {"conflict", http.StatusPreconditionFailed, "The stream is at another version"},
	domain.Invalid:      {"invalid", http.StatusUnprocessableEntity, "The input is wrong"},
	domain.TooLarge:     {"too-large", http.StatusRequestEntityTooLarge, "The input is too large"},
	domain.NotFound:     {"not-found", http.StatusNotFound, "There is no such thing"},
	domain.Unauthorized: {"unauthorized", http.StatusUnauthorized, "It is not known who asks"},
	domain.Forbidden:    {"forbidden", http.StatusForbidden, "Who asks may not do this"},
	domain.Unavailable:  {"unavailable", http.StatusServiceUnavailable, "Not possible at the moment"},
	domain.Corrupt:      {"corrupt", http.StatusInternalServerError, "Stored data contradicts itself"},
	domain.Internal:     {"internal", http.StatusInternalServerError, "Something went wrong here"},
}

// rules says how the platform's own rules are answered where that differs from their class. The class is part of the
// key because a business may call its rules what it likes.
var rules = map[domain.Error]answer{
	{Class: domain.Conflict, Rule: "reset"}:                 {"reset", http.StatusConflict, "The cursor is of another log or generation"},
	{Class: domain.Conflict, Rule: "expired"}:               {"expired", http.StatusGone, "The log no longer reaches back to the cursor"},
	{Class: domain.Conflict, Rule: "future"}:                {"future", http.StatusConflict, "The cursor lies beyond the end of the log"},
	{Class: domain.Conflict, Rule: "entry-expired"}:         entryExpired,
	{Class: domain.Conflict, Rule: "replay-running"}:        {"replay-running", http.StatusConflict, "Another replay runs on this node"},
	{Class: domain.Conflict, Rule: "replay-ended"}:          {"replay-ended", http.StatusConflict, "The replay has ended"},
	{Class: domain.Conflict, Rule: "still-parked"}:          {"still-parked", http.StatusConflict, "The delivery is parked"},
	{Class: domain.Invalid, Rule: "idempotency-key-reused"}: {"idempotency-key-reused", http.StatusUnprocessableEntity, "The key belongs to another command"},
}

// statuses names the refusals that the HTTP layer makes itself, before there is an error with a class.
var statuses = map[int]answer{
	http.StatusNotFound:              classes[domain.NotFound],
	http.StatusMethodNotAllowed:      {"method-not-allowed", http.StatusMethodNotAllowed, "This URL doesn't take the method"},
	http.StatusNotAcceptable:         {"not-acceptable", http.StatusNotAcceptable, "This URL doesn't speak the media type asked for"},
	http.StatusRequestTimeout:        {"request-timeout", http.StatusRequestTimeout, "The request took too long to arrive"},
	http.StatusRequestEntityTooLarge: classes[domain.TooLarge],
	http.StatusUnsupportedMediaType:  {"unsupported-media-type", http.StatusUnsupportedMediaType, "The body is of a type that isn't taken"},
	http.StatusUnprocessableEntity:   classes[domain.Invalid],
	http.StatusTooManyRequests:       {"too-many-requests", http.StatusTooManyRequests, "Too much is asked for at once"},
	http.StatusServiceUnavailable:    classes[domain.Unavailable],
}

// Refusals that are no class of their own.
var (
	badCursor = answer{"bad-cursor", http.StatusBadRequest, "The cursor can't be read"}
	behind    = answer{"behind", http.StatusServiceUnavailable, "The projection has not come that far"}
	notReady  = answer{"not-ready", http.StatusServiceUnavailable, "The node should not get requests yet"}

	parkedAgain     = answer{"parked-again", http.StatusConflict, "It still can't be handled"}
	parkedBehind    = answer{"parked-behind", http.StatusConflict, "Another entry of its stream comes first"}
	alreadyReleased = answer{"already-released", http.StatusConflict, "It is not waiting any more"}
	notReleasable   = answer{"not-releasable", http.StatusConflict, "It can't be released"}
	projectionState = answer{"wrong-state", http.StatusConflict, "The projection is not in the state for that"}
	entryExpired    = answer{"entry-expired", http.StatusGone, "The entry has left the log"}
)

// Problem is a refusal as RFC 9457 (https://www.rfc-editor.org/rfc/rfc9457) writes it. It is an error, and the one
// shape of all errors of this surface.
type Problem struct {
	Type   string `json:"type" doc:"Kind of the problem, stable, for programs" example:"/problems/rejected"`
	Title  string `json:"title" doc:"The kind in words; the same for every problem of the kind"`
	Status int    `json:"status" doc:"HTTP status"`
	Detail string `json:"detail,omitempty" doc:"What is wrong this time"`

	Rule     string         `json:"rule,omitempty" doc:"Name of the rule that refused a command" example:"account-suspended"`
	Field    string         `json:"field,omitempty" doc:"Parameter, header or field of the body that is at fault" example:"amount"`
	Errors   []FieldProblem `json:"errors,omitempty" nullable:"false" doc:"Everything that is wrong with the input, if it is more than one thing"`
	Actual   *uint64        `json:"actual,omitempty" doc:"conflict: the version that the stream has"`
	Earliest string         `json:"earliest,omitempty" doc:"expired: cursor of the oldest events there are"`
	ID       string         `json:"id,omitempty" doc:"Id of the command that this is about. Send it as Idempotency-Key to try again"`
	First    string         `json:"first,omitempty" doc:"parked-behind: id of the entry to release first"`
	Reasons  []string       `json:"reasons,omitempty" nullable:"false" doc:"not-ready: what is still missing"`

	cause error // for the node's log alone
}

// FieldProblem is one of several things wrong with the input.
type FieldProblem struct {
	Field  string `json:"field" doc:"Parameter, header or field of the body"`
	Detail string `json:"detail"`
}

func (a answer) problem(detail string) *Problem {
	return &Problem{Type: "/problems/" + a.kind, Title: a.title, Status: a.status, Detail: detail}
}

// ProblemOf says how err is answered: a *Problem in its chain as it is, else by class. The text of an error that is
// ours alone to mend (status 500) is not in the answer.
func ProblemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	var p *Problem
	e, classed := errors.AsType[*domain.Error](err)
	switch {
	case errors.Is(err, eventstore.ErrBadPosition):
		p = badCursor.problem(e.Message)
		p.Field = e.Field
	case !classed && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		p = classes[domain.Unavailable].problem("it took too long")
	case !classed:
		p = classes[domain.Internal].problem("")
	default:
		a, known := rules[domain.Error{Class: e.Class, Rule: e.Rule}]
		if !known {
			if a, known = classes[e.Class]; !known {
				a = classes[domain.Internal]
			}
		}
		p = a.problem("")
		if a.status != http.StatusInternalServerError {
			p.Detail, p.Rule, p.Field = e.Message, e.Rule, e.Field
		}
		if a.status == http.StatusPreconditionFailed {
			p.Actual = &e.Actual
		}
	}
	p.cause = err
	return p
}

// WriteProblem answers with the problem that err is, by the same table as every operation here, and returns the
// status. A status of 500 hides err from the caller: log it.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) (status int) {
	p := ProblemOf(err)
	body, _ := json.Marshal(p) // strings and numbers
	h := w.Header()
	for name, values := range p.GetHeaders() {
		h[name] = values
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		w.Write(body) // whoever asked may be gone; there is nobody else to tell
	}
	return p.Status
}

func (p *Problem) Error() string {
	s := fmt.Sprintf("%d %s: %s", p.Status, p.Type, p.Detail)
	if p.cause != nil {
		s += ": " + p.cause.Error()
	}
	return s
}

// Unwrap returns what the problem was made of.
func (p *Problem) Unwrap() error { return p.cause }

// GetStatus is the HTTP status; huma asks for it.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders adds Retry-After to what is over by itself, spread over some seconds so that clients don't come back in
// step; huma asks for it.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", strconv.Itoa(2+rand.IntN(5)))
	}
	return h
}

// ContentType is the media type of a problem; huma asks for it.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// maxFieldProblems bounds how many of the things that are wrong are listed.
const maxFieldProblems = 20

// useProblems makes huma's own refusals problems of ours, and its validation as strict as ours: with names compared
// regardless of case, {"amount":5,"Amount":-5} would pass the check of the first and be decoded as the second.
// huma keeps both in package variables, so this holds for the whole process and is set once.
var useProblems = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return validationProblem(status, message, errs)
	}
})

// validationProblem is what huma has to say. It sends 400 for bodies that aren't JSON, or aren't there; here these are
// wrong input like any other. The values that huma puts beside its messages are left out: they may be secrets.
func validationProblem(status int, message string, errs []error) *Problem {
	for _, err := range errs {
		if p, ok := errors.AsType[*Problem](err); ok {
			return p
		}
	}
	if status == http.StatusBadRequest {
		status = http.StatusUnprocessableEntity
	}
	a, known := statuses[status]
	if !known {
		p := classes[domain.Internal].problem("")
		p.cause = errors.Join(append([]error{errors.New(message)}, errs...)...)
		return p
	}
	p := a.problem(message)
	switch status {
	case http.StatusRequestEntityTooLarge:
		p.Detail, p.Field = fmt.Sprintf("a body has at most %d bytes", MaxBody), "body"
	case http.StatusUnsupportedMediaType:
		p.Detail = "the body must be JSON, with Content-Type: application/json"
	case http.StatusUnprocessableEntity:
		for _, err := range errs[:min(len(errs), maxFieldProblems)] {
			d, ok := err.(huma.ErrorDetailer)
			if !ok {
				d = &huma.ErrorDetail{Location: "body", Message: err.Error()}
			}
			p.Errors = append(p.Errors, fieldProblem(d.ErrorDetail()))
		}
		if len(p.Errors) > 0 {
			p.Field, p.Detail = p.Errors[0].Field, p.Errors[0].Field+": "+p.Errors[0].Detail
		} else {
			p.Field = "body"
		}
		if len(p.Errors) == 1 {
			p.Errors = nil
		}
	}
	return p
}

// fieldProblem takes the place off huma's location: "query.limit" is "limit", "body.lines[0].amount" is
// "lines[0].amount". A missing property huma reports at the object around it.
func fieldProblem(d *huma.ErrorDetail) FieldProblem {
	location := d.Location
	before, after, _ := strings.Cut(validation.MsgExpectedRequiredProperty, "%s")
	if name, ok := strings.CutPrefix(d.Message, before); ok {
		if name, ok = strings.CutSuffix(name, after); ok {
			location += "." + name
		}
	}
	if place, field, ok := strings.Cut(location, "."); ok {
		switch place {
		case "body", "query", "path", "header":
			location = field
		}
	}
	return FieldProblem{Field: location, Detail: d.Message}
}
