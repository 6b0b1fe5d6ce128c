package ingress

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/prometheus/client_golang/prometheus"
)

func TestRules(t *testing.T) {
	on := func() *subject {
		return &subject{
			header: map[string][]string{"X-Github-Event": {"push"}, "Authorization": {"Bearer s3cret"}, "X-Gitlab-Token": {"s3cret"}},
			query:  "env=prod&debug=", remote: netip.MustParseAddr("10.1.2.3"), source: "gh", kind: "github.push", id: "d-1",
			document: document{json: []byte(`{"ref":"refs/heads/main","commits":[{"author":"ann"},{"author":"bot"}],"size":3}`)},
		}
	}
	for expression, want := range map[string]string{
		`body.ref == "refs/heads/main"`:                                     "kept",
		`payload.ref == "refs/heads/dev"`:                                   "dropped",
		`headers["x-github-event"] == "push" && query["env"] == "prod"`:     "kept",
		`query.env == "prod" || query.none == "x"`:                          "kept",
		`"debug" in query && query.debug == ""`:                             "kept",
		`!(body.size > 5)`:                                                  "kept",
		`body.commits.exists(c, c.author == "bot")`:                         "kept",
		`body.ref.matches("^refs/heads/(main|release/.*)$")`:                "kept",
		`cidr(remote, "10.0.0.0/8") && !cidr(remote, "10.1.2.4")`:           "kept",
		`cidr(remote, "192.0.2.0/24")`:                                      "dropped",
		`cidr("::ffff:10.9.9.9", "10.0.0.0/8")`:                             "kept",
		`cidr("nonsense", "10.0.0.0/8")`:                                    "dropped",
		`type.startsWith("github.") && source == "gh" && delivery == "d-1"`: "kept",
		`body.missing == "x"`:                                               "failed",
		`body.size`:                                                         "failed",
		`query.missing == "x"`:                                              "failed",
		`headers["authorization"] == "Bearer s3cret"`:                       "failed", // no rule sees it
		`headers["x-gitlab-token"] == "s3cret"`:                             "failed",
		`cidr(remote, body.ref)`:                                            "failed",
		`has(body.missing) && body.missing == "x"`:                          "dropped",
	} {
		rules, err := compileRules([]Rule{{"first", "true"}, {"second", expression}})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		rule, err := dropped(rules, on())
		got := map[bool]string{true: "dropped", false: "kept"}[rule == "second"]
		if err != nil {
			got = "failed"
			if p := problemOf(err); p.Status != 422 || p.Field != "when.second" {
				t.Errorf("%s: %v", expression, err)
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s (%v)", expression, got, want, err)
		}
	}
}

func TestRulesAreCheckedWhenTheyAreLoaded(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{Rule{"r", "body.ref =="}, "line 1, column 12"},
		{Rule{"r", "type == 'x' &&\n  nope"}, "line 2, column 3"},
		{Rule{"r", "type"}, "gives a string, not a bool"},
		{Rule{"r", `cidr(remote, "10.0.0.1/8")`}, "bits beyond its mask"},
		{Rule{"r", `cidr(remote, "nope")`}, "line 1, column 14"},
		{Rule{"r", `type.matches("(")`}, "line 1, column 14"},
		{Rule{"a b", "true"}, "a rule's name"},
		{Rule{"", "true"}, "a rule's name"},
		{Rule{"r", strings.Repeat("x", maxExpression+1)}, "at most"},
	} {
		if err := c.rule.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60v: %v, want %q", c.rule, err, c.want)
		}
		if _, err := compileRules([]Rule{c.rule}); err == nil {
			t.Errorf("%.60v is compiled", c.rule)
		}
	}
	if _, err := compileRules([]Rule{{"a", "true"}, {"a", "true"}}); err == nil {
		t.Error("two rules of one name")
	}
	if _, err := compileRules(slices.Repeat([]Rule{{"a", "true"}}, maxRules+1)); err == nil {
		t.Error("too many rules")
	}
}

// What a rule drops was verified, is answered with 2xx, counted and shown, and stands in no log. What a rule can't be
// evaluated for is refused.
func TestARuleDropsDeliveries(t *testing.T) {
	registry := prometheus.NewRegistry()
	n := newNode(t, func(c *Config) {
		c.Registerer = registry
		for i := range c.Sources {
			c.Sources[i].When = []Rule{{"main", `has(body.ref) ? body.ref == "main" : !("strict" in query)`}, {"size", `!has(body.size) || body.size < 10`}}
		}
	})
	if a := do(t, n.signed(t, "github", jsonType, `{"ref":"dev"}`)); a.status != 200 || a.body != `{"dropped":"main"}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := do(t, n.signed(t, "github", jsonType, `{"ref":"main","size":11}`)); a.status != 200 || a.body != `{"dropped":"size"}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := do(t, n.signed(t, "slack", formType, "command=x&ref=dev")); a.status != 200 || a.body != "" {
		t.Errorf("%d %q", a.status, a.body)
	}
	if a := do(t, n.signed(t, "github", jsonType, `{"size":"x"}`)); a.status != 422 || a.Field != "when.size" {
		t.Errorf("%d %s", a.status, a.body)
	}
	forged := n.signed(t, "github", jsonType, `{"ref":"dev"}`)
	forged.Header.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64))
	if a := do(t, forged); a.status != 401 {
		t.Errorf("a rule says something about what nobody signed: %d %s", a.status, a.body)
	}
	twice := n.signed(t, "github", jsonType, `{}`)
	twice.URL.RawQuery = "strict=1&strict=0"
	if a := do(t, twice); a.status != 422 || a.Field != "query" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if len(n.stored()) != 0 {
		t.Errorf("stored: %+v", n.stored())
	}
	if a := do(t, n.signed(t, "github", jsonType, `{"ref":"main","size":9}`)); a.status != 202 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, want := range []string{
		"webhook_dropped_total rule=main source=github 1", "webhook_dropped_total rule=size source=github 1",
		"webhook_deliveries_received_total source=github status=200 2",
	} {
		if got := series(t, registry); !slices.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
	last, _, _ := n.handler.Refusals("github")
	if len(last) != 5 || last[4].Rule != "main" || last[4].Reason != "dropped" || last[4].DeliveryID != "d-1" || last[4].Type != "github.push" {
		t.Errorf("%+v", last)
	}
	s, _ := n.handler.Source("github")
	if s.Dropped != 2 || s.Refused != 3 || s.When[1].Failed != 1 || s.When[1].Dropped != 1 {
		t.Errorf("%+v", s)
	}
}

// A rule is bounded in what it costs, whatever a body holds.
func TestRulesAreBounded(t *testing.T) {
	rules, err := compileRules([]Rule{{"all", `body.all(a, body.all(b, body.all(c, a + b + c >= 0)))`}})
	if err != nil {
		t.Fatal(err)
	}
	on := &subject{document: document{json: []byte("[" + strings.TrimSuffix(strings.Repeat("1,", 1000), ",") + "]")}}
	if _, err := dropped(rules, on); domain.ClassOf(err) != domain.Invalid {
		t.Errorf("%v", err)
	}
}
