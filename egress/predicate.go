package egress

import (
	"fmt"
	"net/url"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

const (
	maxPredicate  = 2048   // bytes of an expression
	predicateCost = 50_000 // of CEL's cost units, for one record: about a millisecond
)

// predicate is a compiled expression. It is safe for concurrent use.
type predicate struct {
	text    string
	program cel.Program
	body    bool // it looks at data or row, which must be parsed first
}

// errCostly ends a feed whose predicate took too long on a record.
var errCostly = &domain.Error{Class: domain.Invalid, Field: "filter", Rule: "filter-cost",
	Message: "the expression takes too long on an event; make it cheaper, for example by naming types with type="}

// The environments are built once: it takes longer than compiling most expressions. There are two so that a name that
// a feed doesn't have is refused; it would match nothing, silently.
var (
	ofEvents = sync.OnceValues(func() (*cel.Env, error) {
		return cel.NewEnv(
			cel.CrossTypeNumericComparisons(true),
			cel.Variable("id", cel.StringType),
			cel.Variable("type", cel.StringType),
			cel.Variable("source", cel.StringType),
			cel.Variable("stream", cel.StringType),
			cel.Variable("category", cel.StringType),
			cel.Variable("version", cel.IntType),
			cel.Variable("time", cel.TimestampType),
			cel.Variable("delivery", cel.StringType),
			cel.Variable("data", cel.DynType),
		)
	})
	ofChanges = sync.OnceValues(func() (*cel.Env, error) {
		return cel.NewEnv(
			cel.CrossTypeNumericComparisons(true),
			cel.Variable("op", cel.StringType),
			cel.Variable("key", cel.StringType),
			cel.Variable("row", cel.DynType),
		)
	})
)

func predicateOf(q url.Values, environment func() (*cel.Env, error)) (*predicate, error) {
	if !q.Has("filter") {
		return nil, nil
	}
	if len(q["filter"]) > 1 {
		return nil, domain.Invalidf("filter", "more than one expression; join them with &&")
	}
	return compile(q.Get("filter"), environment)
}

// compile compiles a CEL expression (https://cel.dev) that says whether a record is wanted. Of an event it sees id,
// type, source, stream, category, version, time, delivery and data, the parsed payload (null if it isn't JSON); of a
// change op, key and row. The error is of class Invalid, names the parameter, and says line and column.
func compile(text string, environment func() (*cel.Env, error)) (*predicate, error) {
	if len(text) > maxPredicate {
		return nil, domain.Invalidf("filter", "an expression has at most %d bytes", maxPredicate)
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		var all []string
		for _, e := range issues.Errors() {
			all = append(all, fmt.Sprintf("line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, domain.Invalidf("filter", "%s", strings.Join(all, "; "))
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, domain.Invalidf("filter", "the expression gives a %s, not true or false", t)
	}
	program, err := env.Program(ast, cel.CostLimit(predicateCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, domain.Invalidf("filter", "%v", err)
	}
	p := &predicate{text: text, program: program}
	for _, ref := range ast.NativeRep().ReferenceMap() {
		p.body = p.body || ref.Name == "data" || ref.Name == "row"
	}
	return p, nil
}

// match evaluates the expression. What isn't there, or is of another type than the expression needs, makes it false:
// events of many kinds pass by, and few have the field.
func (p *predicate) match(r *eventstore.Record) (bool, error) {
	out, _, err := p.program.Eval(p.variables(r))
	if err != nil {
		// cel-go has no error value for this; its text is the only sign.
		if strings.Contains(err.Error(), "cost limit exceeded") {
			return false, errCostly
		}
		return false, nil
	}
	yes, ok := out.Value().(bool)
	return ok && yes, nil
}

func (p *predicate) variables(r *eventstore.Record) map[string]any {
	vars := map[string]any{}
	var body []byte
	if e := r.Event; e != nil {
		category, _, _ := strings.Cut(string(e.Stream), "/")
		vars["id"], vars["type"], vars["source"], vars["stream"], vars["category"] = e.ID, e.Type, e.Source, string(e.Stream), category
		vars["version"], vars["time"], vars["delivery"], vars["data"] = int64(e.Version), e.Time, e.Delivery, nil
		if body = e.Data; formOf(e.ContentType) == formText {
			vars["data"], body = string(e.Data), nil
		}
	} else {
		vars["op"], vars["key"], vars["row"] = opOf(r.Change), r.Change.Key, nil
		body = r.Change.Row
	}
	if !p.body || len(body) == 0 {
		return vars
	}
	if v, err := domain.DecodeJSON(body); err == nil {
		if r.Event != nil {
			vars["data"] = v
		} else {
			vars["row"] = v
		}
	}
	return vars
}
