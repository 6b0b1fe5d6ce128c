package ingress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"cel.dev/cel-go/cel"
	"github.com/penstock-io/penstock/domain"
)

const (
	maxExpression = 4096    // bytes
	streamCost    = 100_000 // of CEL's cost units, for one delivery: a few milliseconds
	// treeCost is how many bytes of memory a parsed body is taken to need for each of its bytes. Small arrays and
	// objects are the worst: "[]," is 3 bytes and about 40 in memory.
	treeCost = 16
)

// streamRule is a source's own expression for the stream key.
type streamRule struct{ program cel.Program }

// subject is what a stream expression sees. The names in the comments are the expression's.
type subject struct {
	header   http.Header // headers: lower-case name to value, without credentials
	document document    // body: the parsed JSON; whole numbers are ints
	id       string      // delivery
	kind     string      // type
	source   string      // source
}

// compileStream compiles a CEL expression (https://cel.dev) whose result is the key of the stream. The category is
// always the name of the source. Errors say line and column.
func compileStream(text string) (*streamRule, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("stream: an expression has at most %d bytes", maxExpression)
	}
	env, err := cel.NewEnv(
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("body", cel.DynType),
		cel.Variable("delivery", cel.StringType),
		cel.Variable("type", cel.StringType),
		cel.Variable("source", cel.StringType),
	)
	if err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		var errs []error
		for _, e := range issues.Errors() {
			errs = append(errs, fmt.Errorf("stream: line %d, column %d: %s",
				e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, errors.Join(errs...)
	}
	if t := ast.OutputType(); !t.IsExactType(cel.StringType) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("stream: line 1, column 1: the expression gives a %s, a stream key is a string", t)
	}
	program, err := env.Program(ast, cel.CostLimit(streamCost))
	if err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	return &streamRule{program}, nil
}

// key evaluates the expression. An error is of class Invalid and names the field "stream".
func (s *streamRule) key(on subject) (string, error) {
	body, err := tree(on.document.json)
	if err != nil {
		return "", domain.Invalidf("body", "the body is not JSON")
	}
	out, _, err := s.program.Eval(map[string]any{
		"headers": visible(on.header), "body": body, "delivery": on.id, "type": on.kind, "source": on.source,
	})
	if err != nil {
		return "", &domain.Error{Class: domain.Invalid, Field: "stream", Message: "the source's stream expression failed", Err: err}
	}
	key, ok := out.Value().(string)
	if !ok || key == "" {
		return "", domain.Invalidf("stream", "the source's stream expression gave no text but a %s", out.Type().TypeName())
	}
	return key, nil
}

// visible is what an expression may see of the headers.
func visible(header http.Header) map[string]string {
	m := make(map[string]string, len(header))
	for name, values := range header {
		switch name {
		case "Authorization", "Proxy-Authorization", "Cookie":
			continue // a stream's name is public; a credential must not get into it by an expression's mistake
		}
		m[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return m
}

// tree parses JSON with whole numbers as int64. As CEL's doubles they would print as 1.29613557e+08 in a key.
func tree(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return number(v), nil
}

func number(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return v.String() // beyond a double; as text it is at least exact
		}
		return f
	case []any:
		for i := range v {
			v[i] = number(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = number(v[k])
		}
	}
	return v
}
