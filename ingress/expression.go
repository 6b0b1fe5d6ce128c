package ingress

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/penstock-io/penstock/domain"
)

const (
	maxExpression  = 4096    // bytes
	expressionCost = 100_000 // of CEL's cost units, for one evaluation: a few milliseconds
	// treeCost is how many bytes of memory a parsed body is taken to need for each of its bytes. Small arrays and
	// objects are the worst: "[]," is 3 bytes and about 40 in memory.
	treeCost = 16
)

// compile compiles a CEL expression (https://cel.dev) over a delivery. Its result must be of type wanted, or one that
// is known only when it is evaluated. Errors begin with name and say line and column.
func compile(name, text string, wanted *cel.Type) (cel.Program, error) {
	if name != "" {
		name += ": "
	}
	if len(text) > maxExpression {
		return nil, fmt.Errorf("%san expression has at most %d bytes", name, maxExpression)
	}
	env, err := cel.NewEnv(
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("query", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("body", cel.DynType),
		cel.Variable("payload", cel.DynType),
		cel.Variable("remote", cel.StringType),
		cel.Variable("delivery", cel.StringType),
		cel.Variable("type", cel.StringType),
		cel.Variable("source", cel.StringType),
		cel.Function("cidr", cel.Overload("cidr_string_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(within))),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals(), cidrLiterals{}),
	)
	if err != nil {
		return nil, fmt.Errorf("%s%w", name, err)
	}
	compiled, issues := env.Compile(text)
	if issues.Err() != nil {
		var errs []error
		for _, e := range issues.Errors() {
			errs = append(errs, fmt.Errorf("%sline %d, column %d: %s", name, e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, errors.Join(errs...)
	}
	if t := compiled.OutputType(); !t.IsExactType(wanted) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("%sline 1, column 1: the expression gives a %s, not a %s", name, t, wanted)
	}
	program, err := env.Program(compiled, cel.CostLimit(expressionCost))
	if err != nil {
		return nil, fmt.Errorf("%s%w", name, err)
	}
	return program, nil
}

// within is cidr(address, range). An address that isn't known is in no range.
func within(address, network ref.Val) ref.Val {
	a, okA := address.Value().(string)
	n, okN := network.Value().(string)
	if !okA || !okN {
		return types.MaybeNoSuchOverloadErr(address)
	}
	prefix, err := parseRange(n)
	if err != nil {
		return types.NewErr("cidr: %s", err)
	}
	addr, err := netip.ParseAddr(a)
	return types.Bool(err == nil && prefix.Contains(addr.Unmap()))
}

// cidrLiterals finds ranges that are none before there is a delivery to find them.
type cidrLiterals struct{}

func (cidrLiterals) Name() string { return "penstock.cidr" }

func (cidrLiterals) Validate(_ *cel.Env, _ cel.ValidatorConfig, a *ast.AST, issues *cel.Issues) {
	for _, call := range ast.MatchDescendants(ast.NavigateAST(a), ast.FunctionMatcher("cidr")) {
		arg := call.AsCall().Args()[1]
		if arg.Kind() != ast.LiteralKind {
			continue
		}
		if _, err := parseRange(fmt.Sprint(arg.AsLiteral().Value())); err != nil {
			issues.ReportErrorAtID(arg.ID(), "%s", err)
		}
	}
}

// subject is a delivery as expressions see it: a cel.Activation, which gives them only what they ask for.
type subject struct {
	header   http.Header // headers: lower-case name to value, without credentials
	query    string      // query: name to value
	remote   netip.Addr  // remote: the sender's address, or "" if it isn't known
	document document    // body and payload: the parsed body; whole numbers are ints
	id       string      // delivery
	kind     string      // type
	source   string      // source
	hold     *hold       // what the parsed body takes of the memory of all

	body    any // nil until it is asked for
	parsed  bool
	failure error // why something that was asked for can't be given
}

// Parent is part of cel.Activation.
func (*subject) Parent() cel.Activation { return nil }

// ResolveName is part of cel.Activation.
func (s *subject) ResolveName(name string) (any, bool) {
	switch name {
	case "headers":
		return visible(s.header), true
	case "query":
		m, err := parameters(s.query)
		if err != nil {
			s.failure = err
		}
		return m, err == nil
	case "body", "payload":
		if !s.parsed {
			s.parsed = true
			if s.hold != nil && !s.hold.take(treeCost*int64(len(s.document.json))) {
				s.failure = busy()
			} else if s.body, s.failure = domain.DecodeJSON(s.document.json); s.failure != nil {
				s.failure = domain.Invalidf("body", "the body is not JSON")
			}
		}
		return s.body, s.failure == nil
	case "remote":
		if !s.remote.IsValid() {
			return "", true
		}
		return s.remote.String(), true
	case "delivery":
		return s.id, true
	case "type":
		return s.kind, true
	case "source":
		return s.source, true
	}
	return nil, false
}

// eval evaluates an expression, which is called field in refusals.
func (s *subject) eval(program cel.Program, field string) (any, error) {
	out, _, err := program.Eval(s)
	if s.failure != nil {
		return nil, s.failure
	}
	if err != nil {
		return nil, &domain.Error{Class: domain.Invalid, Field: field, Message: "the source's expression failed", Err: err}
	}
	return out.Value(), nil
}

// visible is what an expression may see of the headers. A stream's name is public, and so is what a rule drops: a
// credential must not get into them by an expression's mistake.
func visible(header http.Header) map[string]string {
	m := make(map[string]string, len(header))
	for name, values := range header {
		if !credential(name) {
			m[strings.ToLower(name)] = strings.Join(values, ", ")
		}
	}
	return m
}

// parameters are those of a URL. One that stands twice is refused: readers disagree on which of the two counts.
func parameters(query string) (map[string]string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, domain.Invalidf("query", "the query of the URL can't be read")
	}
	m := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) > 1 {
			return nil, domain.Invalidf("query", "the parameter %.64q stands twice", name)
		}
		m[name] = v[0]
	}
	return m, nil
}
