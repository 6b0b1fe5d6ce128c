package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

func newLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func TestEachClassHasItsStatusThroughWrapping(t *testing.T) {
	secret := errors.New("dial tcp 10.0.0.7: secret")
	for _, c := range []struct {
		err    error
		status int
		kind   string
	}{
		{domain.Reject("too-high", "no"), 409, "rejected"},
		{domain.Reject("expired", "a rule of the business that is called like one of ours"), 409, "rejected"},
		{&domain.Error{Class: domain.Conflict, Rule: "expected-version", Actual: 7}, 412, "conflict"},
		{domain.Invalidf("amount", "no"), 422, "invalid"},
		{&domain.Error{Class: domain.Invalid, Rule: "idempotency-key-reused"}, 422, "idempotency-key-reused"},
		{&domain.Error{Class: domain.TooLarge}, 413, "too-large"},
		{&domain.Error{Class: domain.NotFound}, 404, "not-found"},
		{&domain.Error{Class: domain.Unauthorized}, 401, "unauthorized"},
		{&domain.Error{Class: domain.Forbidden}, 403, "forbidden"},
		{&domain.Error{Class: domain.Unavailable, Err: secret}, 503, "unavailable"},
		{eventstore.ErrClosed, 503, "unavailable"},
		{context.DeadlineExceeded, 503, "unavailable"},
		{&domain.Error{Class: domain.Corrupt, Message: "secret"}, 500, "corrupt"},
		{&domain.Error{Class: "of another version", Message: "secret"}, 500, "internal"},
		{secret, 500, "internal"},
		{eventstore.ErrReset, 409, "reset"},
		{eventstore.ErrExpired, 410, "expired"},
		{eventstore.ErrFuture, 409, "future"},
		{eventstore.ErrBadPosition, 400, "bad-cursor"},
		{&Problem{Type: "/problems/mine", Status: 429}, 429, "mine"},
	} {
		w := httptest.NewRecorder()
		status := WriteProblem(w, httptest.NewRequest("GET", "/", nil), fmt.Errorf("secret wrapping: %w", c.err))
		var p Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if status != c.status || w.Code != c.status || p.Status != c.status || p.Type != "/problems/"+c.kind {
			t.Errorf("%v: %d %s, want %d %s", c.err, w.Code, w.Body, c.status, c.kind)
		}
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: the answer tells %s", c.err, w.Body)
		}
		if again := w.Header().Get("Retry-After") != ""; again != (c.status == 503 || c.status == 429) {
			t.Errorf("%v: Retry-After is %q", c.err, w.Header().Get("Retry-After"))
		}
		if c.status == 412 && (p.Actual == nil || *p.Actual != 7) {
			t.Errorf("the actual version is missing: %s", w.Body)
		}
	}
}

func TestEveryClassStandsInTheTable(t *testing.T) {
	for _, class := range []domain.Class{domain.Internal, domain.Rejected, domain.Conflict, domain.Invalid, domain.TooLarge, domain.NotFound, domain.Unauthorized, domain.Forbidden, domain.Unavailable, domain.Corrupt} {
		if a := classes[class]; a.status < 400 || a.title == "" || a.kind != string(class) {
			t.Errorf("%s: %+v", class, a)
		}
	}
}

func TestValidationNamesFieldsAndKeepsValues(t *testing.T) {
	var errs []error
	for i := range 50 {
		errs = append(errs, &huma.ErrorDetail{Location: fmt.Sprintf("body.lines[%d].amount", i), Message: "expected integer", Value: "secret"})
	}
	p := validationProblem(422, "validation failed", errs)
	b, _ := json.Marshal(p)
	if p.Status != 422 || p.Field != "lines[0].amount" || len(p.Errors) != maxFieldProblems || strings.Contains(string(b), "secret") {
		t.Errorf("%s", b)
	}
	if p := validationProblem(400, "request body is required", nil); p.Status != 422 || p.Field != "body" {
		t.Errorf("%+v", p)
	}
	if p := validationProblem(500, "cannot read request body", []error{errors.New("secret")}); p.Detail != "" || p.Unwrap() == nil {
		t.Errorf("%+v", p)
	}
}

func FuzzRowCursor(f *testing.F) {
	f.Add(uint64(1), "cus_9")
	f.Add(uint64(0), "")
	f.Fuzz(func(t *testing.T, scope uint64, key string) {
		c := rowCursor{scope, key}
		back, err := parseRowCursor(c.String())
		if err != nil || back != c {
			t.Fatalf("%v became %v, %v", c, back, err)
		}
		text := []byte(c.String())
		for i := range text {
			old := text[i]
			if text[i] = 'A'; old == 'A' {
				text[i] = 'B'
			}
			if got, err := parseRowCursor(string(text)); err == nil {
				t.Fatalf("damage at %d was taken for %v", i, got)
			}
			text[i] = old
		}
		if _, err := eventstore.ParsePosition(c.String()); err == nil {
			t.Fatal("a row cursor was taken for a position")
		}
		if _, err := parseRowCursor(key); err == nil && key == "" {
			t.Fatal("the empty text is a cursor")
		}
	})
}
