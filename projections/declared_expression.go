package projections

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// expression is a compiled one.
type expression struct {
	program cel.Program
	// member is set if all that the expression does is to name a member of the body: data.order.total. Most do, and to look
	// it up takes an eighth of the time of an evaluation (BenchmarkExpression).
	member []string
}

func compileIn(env *cel.Env, text string, wanted []*cel.Type) (*expression, *cel.Type, []Problem) {
	whole := func(format string, args ...any) (*expression, *cel.Type, []Problem) {
		return nil, cel.DynType, []Problem{{Err: fmt.Errorf(format, args...)}}
	}
	if text == "" {
		return whole("an expression is needed")
	}
	if len(text) > maxExpression {
		return whole("an expression has at most %d bytes", maxExpression)
	}
	compiled, issues := env.Compile(text)
	if issues.Err() != nil {
		var all []Problem
		for _, e := range issues.Errors() {
			all = append(all, Problem{Line: e.Location.Line(), Column: e.Location.Column() + 1, Err: errors.New(e.Message)})
		}
		return nil, cel.DynType, all
	}
	result := compiled.OutputType()
	if len(wanted) > 0 && !result.IsExactType(cel.DynType) && !slices.ContainsFunc(wanted, result.IsExactType) {
		var names []string
		for _, t := range wanted {
			if t.Kind() != cel.OpaqueKind {
				names = append(names, t.String())
			}
		}
		return nil, result, []Problem{{Line: 1, Column: 1, Err: fmt.Errorf("the expression gives a %s, not a %s", result, strings.Join(names, " or "))}}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if estimate, err := env.EstimateCost(compiled, unknownSizes{}); err != nil || estimate.Max > expressionCost {
		options = append(options, cel.CostLimit(expressionCost)) // counting what is spent takes a third of the time (BenchmarkExpression)
	}
	program, err := env.Program(compiled, options...)
	if err != nil {
		return whole("%w", err)
	}
	return &expression{program, memberOf(compiled.NativeRep().Expr())}, result, nil
}

// unknownSizes knows nothing of what an expression is evaluated with.
type unknownSizes struct{}

func (unknownSizes) EstimateSize(cost.AstNode) *cost.SizeEstimate { return nil }
func (unknownSizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// memberOf is the path of a member of the body, or nil if e is anything else.
func memberOf(e ast.Expr) (path []string) {
	for e.Kind() == ast.SelectKind && !e.AsSelect().IsTestOnly() {
		path = append(path, e.AsSelect().FieldName())
		e = e.AsSelect().Operand()
	}
	if e.Kind() != ast.IdentKind || e.AsIdent() != "data" {
		return nil
	}
	slices.Reverse(path)
	return path
}

// value is what the expression gives, as JSON: null also where an optional value is absent.
func (x *expression) value(s *scope) (any, error) {
	if v, ok := x.lookUp(s); ok {
		return v, nil
	}
	v, err := x.eval(s)
	if err != nil {
		return nil, err
	}
	return plain(v)
}

// truth is what the expression gives as a condition.
func (x *expression) truth(s *scope) (bool, error) {
	v, err := x.eval(s)
	if err != nil {
		return false, err
	}
	yes, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("the expression gives a %s, not a bool", v.Type().TypeName())
	}
	return yes, nil
}

// text is what the expression gives as a key.
func (x *expression) text(s *scope) (string, error) {
	if v, ok := x.lookUp(s); ok {
		if text, ok := v.(string); ok {
			return text, nil
		}
	}
	v, err := x.eval(s)
	if err != nil {
		return "", err
	}
	text, ok := v.Value().(string)
	if !ok {
		return "", fmt.Errorf("a key is a text, not %s", v.Type().TypeName())
	}
	return text, nil
}

func (x *expression) eval(s *scope) (ref.Val, error) {
	v, _, err := x.program.Eval(s)
	if o, ok := v.(*types.Optional); ok && err == nil { // of what may be absent: null if it is
		if !o.HasValue() {
			return types.NullValue, nil
		}
		v = o.GetValue()
	}
	return v, err
}

// lookUp gives a member of the body that is there and neither an object nor an array. What the rest means is CEL's to say.
func (x *expression) lookUp(s *scope) (any, bool) {
	if x.member == nil {
		return nil, false
	}
	s.body.parse(s.event)
	v := s.body.json
	for _, name := range x.member {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = object[name]; !ok {
			return nil, false
		}
	}
	switch v.(type) {
	case nil, bool, int64, float64, string:
		return v, true
	}
	return nil, false
}
