package ingress

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/domain"
)

func TestStreamExpressions(t *testing.T) {
	on := &subject{
		header:   http.Header{"X-Tenant": {"acme"}, "Authorization": {"Bearer s3cret"}, "Cookie": {"s3cret"}},
		document: document{json: []byte(`{"id":1296135570,"amount":1.5,"repo":{"name":"hello"},"tags":["a","b"]}`)},
		id:       "d-1", kind: "github.push", source: "gh",
	}
	for _, c := range []struct{ expression, want string }{
		{`"x"`, "x"},
		{`body.repo.name`, "hello"},
		{`string(body.id)`, "1296135570"}, // not 1.29613557e+09
		{`string(body.amount)`, "1.5"},
		{`headers["x-tenant"] + "/" + source + "/" + type + "/" + delivery`, "acme/gh/github.push/d-1"},
		{`has(body.missing) ? "yes" : "no"`, "no"},
		{`body.tags.filter(t, t != "a")[0]`, "b"},
	} {
		rule, err := compileStream(c.expression)
		if err != nil {
			t.Errorf("%s: %v", c.expression, err)
			continue
		}
		if got, err := rule.key(on); got != c.want || err != nil {
			t.Errorf("%s = %q, %v, want %q", c.expression, got, err, c.want)
		}
	}
	for _, expression := range []string{
		`body.missing`, `body.id`, `""`, `headers["authorization"]`, `headers["cookie"]`, `body.repo`, `body.tags[9]`,
		`[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, [1,2,3,4,5,6,7,8,9,10].map(c, [1,2,3,4,5,6,7,8,9,10].map(d,
			[1,2,3,4,5,6,7,8,9,10].map(e, string(a+b+c+d+e))))))[0][0][0][0][0]`, // 10^5 steps and more: over the cost limit
	} {
		rule, err := compileStream(expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		got, err := rule.key(on)
		if e, ok := errors.AsType[*domain.Error](err); !ok || e.Class != domain.Invalid || e.Field != "stream" {
			t.Errorf("%.60s = %q, %v, want a refusal of stream", expression, got, err)
		}
	}
}

func TestStreamExpressionErrorsSayWhere(t *testing.T) {
	for _, c := range []struct{ expression, want string }{
		{"source +\n  nope", "line 2, column 3"},
		{"source + (", "line 1, column 11"},
		{"1 + 2", "gives a int"},
		{"size(source)", "gives a int"},
		{strings.Repeat("x", maxExpression+1), "at most"},
	} {
		if _, err := compileStream(c.expression); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %q in it", c.expression, err, c.want)
		}
	}
}
