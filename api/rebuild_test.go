package api

import (
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/projections"
)

// TestGenerationsOverREST rebuilds, cancels, and goes back.
func TestGenerationsOverREST(t *testing.T) {
	n := newNode(t, true)
	for i := range 10 {
		n.submit(fmt.Sprintf(`{"counter":"c%d","by":1}`, i)).is(200)
	}
	n.settle()
	post := func(path, body string) reply {
		t.Helper()
		return n.do("POST", path, body, "Content-Type: application/json")
	}
	status := func(r reply) (s projections.Status) {
		t.Helper()
		r.into(&s)
		return s
	}
	now := func() projections.Status { return status(n.get("/v1/projections/totals").is(200)) }
	refused := func(r reply, rule string) {
		t.Helper()
		if p := r.problem(409, "wrong-state"); p.Rule != rule || p.Detail == "" {
			t.Errorf("%+v, want the rule %s", p, rule)
		}
	}

	refused(n.do("DELETE", "/v1/projections/totals/build", ""), "not-building")
	refused(post("/v1/projections/totals/rollback", ""), "no-previous")
	refused(post("/v1/projections/totals/retry", ""), "not-halted")
	refused(post("/v1/projections/totals/skip", `{"by":"ann"}`), "not-halted")
	refused(post("/v1/projections/streams/rebuild", ""), "not-while-running")
	if p := post("/v1/projections/totals/skip", `{"reason":"nobody says who"}`).problem(422, "invalid"); p.Field != "by" {
		t.Errorf("%+v", p)
	}
	if p := post("/v1/projections/totals/rebuild", `{"rate":-1}`).problem(422, "invalid"); p.Field != "rate" {
		t.Errorf("%+v", p)
	}
	post("/v1/rebuilds", `{"projections":[]}`).problem(422, "invalid")
	for _, path := range []string{"rebuild", "rollback", "retry"} {
		post("/v1/projections/nothing/"+path, "").problem(404, "not-found")
	}
	n.do("DELETE", "/v1/projections/nothing/build", "").problem(404, "not-found")
	post("/v1/projections/nothing/skip", `{"by":"ann"}`).problem(404, "not-found")

	// All of a set or none: the good name in it is not built for the sake of the bad one.
	post("/v1/rebuilds", `{"projections":["totals","nothing"]}`).problem(404, "not-found")
	refused(post("/v1/rebuilds", `{"projections":["totals","streams"]}`), "not-while-running")
	if s := now(); s.Build != nil || s.Generation != 1 {
		t.Errorf("%+v", s)
	}

	// At one record a second it is there to be looked at.
	s := status(post("/v1/projections/totals/rebuild", `{"rate":1}`).is(202))
	if s.Build == nil || s.Build.Generation != 2 || s.Build.Limit != 1 || s.Generation != 1 || s.State != "live" {
		t.Fatalf("%+v", s)
	}
	refused(post("/v1/projections/totals/rebuild", ""), "building")
	refused(post("/v1/projections/totals/rollback", ""), "building")
	if got := n.get("/v1/projections/totals/rows").is(200); len(got.fields()["items"].([]any)) != 10 {
		t.Errorf("while it is built: %s", got.body)
	}
	n.do("DELETE", "/v1/projections/totals/build", "").is(202)
	until(t, func() bool { s = now(); return s.Build == nil && s.LastBuild == "canceled" })

	post("/v1/rebuilds", `{"projections":["totals","deliveries","totals"]}`).is(202)
	until(t, func() bool { s = now(); return s.Build == nil && s.Generation == 2 && s.State == "live" })
	until(t, func() bool {
		return status(n.get("/v1/projections/deliveries").is(200)).Generation == 2
	})
	if s.Previous != 1 || s.LastBuild != "" || s.Rows != 10 {
		t.Errorf("%+v", s)
	}
	post("/v1/projections/totals/rollback", "").is(202)
	until(t, func() bool { s = now(); return s.Build == nil && s.Generation == 1 && s.Previous == 2 })
	if got := n.get("/v1/projections/totals/rows").is(200); len(got.fields()["items"].([]any)) != 10 {
		t.Errorf("after going back: %s", got.body)
	}
}
