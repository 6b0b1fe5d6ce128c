package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/ingress"
)

// hook sends a webhook to the source "github" as from the given address, signed with secret.
func (n *node) hook(event, remote, secret string) int {
	n.t.Helper()
	const body = `{"action":"opened"}`
	r := httptest.NewRequest("POST", "/hooks/github", strings.NewReader(body))
	r.SetPathValue("source", "github")
	r.RemoteAddr = remote
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", event)
	r.Header.Set("X-GitHub-Delivery", "d-"+event)
	r.Header.Set("Authorization", "Bearer hidden")
	p, _ := ingress.ProviderNamed("github")
	if err := p.Scheme.Sign(&ingress.Request{Header: r.Header, Body: []byte(body)}, ingress.Secret(secret), time.Now()); err != nil {
		n.t.Fatal(err)
	}
	w := httptest.NewRecorder()
	n.cfg.Hooks.ServeHTTP(w, r)
	return w.Code
}

// Why a provider's deliveries don't arrive is answered by one call.
func TestSourcesAndTheirRefusals(t *testing.T) {
	n := newNode(t, false)
	const secret, here = "secret of the tests", "192.0.2.1:4711"
	for _, c := range []struct {
		event, remote, secret string
		status                int
	}{
		{"issues", here, secret, 202},
		{"push", here, secret, 200},
		{"issues", "198.51.100.1:80", secret, 403},
		{"issues", here, "another", 401},
		{"issues", here, "another", 401},
	} {
		if got := n.hook(c.event, c.remote, c.secret); got != c.status {
			t.Errorf("%+v: %d", c, got)
		}
	}
	var list page[ingress.SourceStatus]
	n.get("/v1/sources").is(200).into(&list)
	var one ingress.SourceStatus
	n.get("/v1/sources/github").is(200).into(&one)
	if len(list.Items) != 1 || list.Items[0].Refused != one.Refused {
		t.Errorf("%+v", list)
	}
	if one.Name != "github" || one.URL != "/hooks/github" || one.Verification != "github; body" || one.Secrets != 1 || one.Refused != 3 ||
		one.Dropped != 1 || one.LastRefused == nil || one.Allow == nil || one.Allow.Ranges != 2 || one.Limits != nil ||
		len(one.When) != 1 || one.When[0].Dropped != 1 || one.When[0].Failed != 0 {
		t.Errorf("%+v", one)
	}
	var all refusalList
	a := n.get("/v1/sources/github/refusals").is(200)
	a.into(&all)
	if len(all.Items) != 4 || len(all.Counts) != 3 || all.Counts[0].Count != 2 || all.Items[0].Reason != "wrong-signature" ||
		all.Items[2].Remote != "198.51.100.1" || all.Items[3].Rule != "opened" {
		t.Errorf("%s", a.body)
	}
	for _, hidden := range []string{secret, "Bearer", "sha256=", `"opened"}`} {
		if strings.Contains(string(a.body), hidden) {
			t.Errorf("%s stands in %s", hidden, a.body)
		}
	}
	var some refusalList
	n.get("/v1/sources/github/refusals?status=401&limit=1").is(200).into(&some)
	if len(some.Items) != 1 || some.Items[0].Status != 401 || len(some.Counts) != 3 {
		t.Errorf("%+v", some)
	}
	n.get("/v1/sources/github/refusals?reason=dropped").is(200).into(&some)
	if len(some.Items) != 1 || some.Items[0].Status != 200 {
		t.Errorf("%+v", some)
	}
	for _, path := range []string{"/v1/sources/nope", "/v1/sources/nope/refusals"} {
		n.get(path).problem(http.StatusNotFound, "not-found")
	}
}
