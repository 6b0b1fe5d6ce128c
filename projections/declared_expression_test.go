package projections

import (
	"reflect"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"github.com/penstock-io/penstock/domain"
)

// TestMembersAreWhatCELGives: members of the body are looked up without CEL, and mean the same: values, nulls and errors.
func TestMembersAreWhatCELGives(t *testing.T) {
	env, err := environment(false)
	if err != nil {
		t.Fatal(err)
	}
	bodies := []string{
		`{"a":1,"b":2.0,"c":"x","d":true,"e":null,"f":[1],"g":{"a":{"a":-0.5}},"has":9007199254740993,"size":1e400}`,
		`{"a":{"a":"deep","b":[]}}`, `{"g":{}}`, `{"g":null}`, `{}`, `[{"a":1}]`, `"text"`, `null`, ``, `{"a":`,
	}
	for _, text := range []string{
		"data", "data.a", "data.b", "data.c", "data.d", "data.e", "data.f", "data.g.a", "data.g.a.a", "data.has", "data.size", "data.a.a", "data.a.b",
		"data.nothing", "data.a.nothing",
	} {
		x, _, problems := compileIn(env, text, nil)
		if problems != nil {
			t.Fatal(text, problems)
		}
		if want := text != "data"; (x.member != nil) != want {
			t.Errorf("%s: looked up %v", text, x.member)
		}
		for _, body := range bodies {
			event := &domain.Event{Data: []byte(body)}
			scoped := func() *scope { return &scope{of: &Declared{}, event: event, body: &parsed{}} }
			fast, err1 := x.value(scoped())
			slow, err2 := (&expression{program: x.program}).value(scoped())
			if !reflect.DeepEqual(fast, slow) || (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
				t.Errorf("%s of %s: %#v %v, CEL gives %#v %v", text, body, fast, err1, slow, err2)
			}
		}
	}
	for _, text := range []string{"has(data.a)", "row.a", "data.a + 1", "data.?a", `data["a"]`, "[data].map(data, data.a)[0]", "type"} {
		if x, _, problems := compileIn(env, text, nil); problems != nil || x.member != nil {
			t.Errorf("%s: looked up %v %v", text, x, problems)
		}
	}
}

// TestExpressionsHaveABound: what an expression may cost is known beforehand, or counted.
func TestExpressionsHaveABound(t *testing.T) {
	env, err := environment(false)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"l":[` + strings.TrimSuffix(strings.Repeat("1,", 300), ",") + `]}`)
	for _, text := range []string{
		"data.l.map(a, data.l.map(b, data.l.map(c, a + b + c)))", "[data.l].map(x, x.map(a, x.map(b, x.map(c, a))))",
		"[1,2,3,4,5,6,7,8,9,10].map(a, data.l.map(b, data.l.map(c, a)))",
	} {
		x, _, problems := compileIn(env, text, nil)
		if problems != nil {
			t.Fatal(text, problems)
		}
		if _, err := x.value(&scope{of: &Declared{}, event: &domain.Event{Data: body}, body: &parsed{}}); err == nil || !strings.Contains(err.Error(), "cost limit") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// BenchmarkExpression: a member that is looked up, the same by CEL, and CEL that counts what it spends.
func BenchmarkExpression(b *testing.B) {
	env, err := environment(false)
	if err != nil {
		b.Fatal(err)
	}
	x, _, problems := compileIn(env, "data.order.total", nil)
	if problems != nil {
		b.Fatal(problems)
	}
	compiled, _ := env.Compile("data.order.total")
	counting, err := env.Program(compiled, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(expressionCost))
	if err != nil {
		b.Fatal(err)
	}
	s := &scope{of: &Declared{}, event: &domain.Event{Data: []byte(`{"id":"o_1","order":{"total":1250}}`)}, body: &parsed{}}
	for _, of := range []struct {
		name string
		x    *expression
	}{{"looked up", x}, {"evaluated", &expression{program: x.program}}, {"counted", &expression{program: counting}}} {
		b.Run(of.name, func(b *testing.B) {
			for b.Loop() {
				if v, err := of.x.value(s); v == nil || err != nil {
					b.Fatal(v, err)
				}
			}
		})
	}
}
