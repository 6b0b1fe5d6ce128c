package ingress

import (
	"cel.dev/cel-go/cel"
	"github.com/penstock-io/penstock/domain"
)

// streamRule is a source's own expression for the stream key.
type streamRule struct{ program cel.Program }

// compileStream compiles an expression whose result is the key of the stream. The category is always the name of the
// source.
func compileStream(text string) (*streamRule, error) {
	program, err := compile("stream", text, cel.StringType)
	if err != nil {
		return nil, err
	}
	return &streamRule{program}, nil
}

// key evaluates the expression. An error is of class Invalid and names the field "stream", or what the expression
// asked for in vain.
func (s *streamRule) key(on *subject) (string, error) {
	out, err := on.eval(s.program, "stream")
	if err != nil {
		return "", err
	}
	key, ok := out.(string)
	if !ok || key == "" {
		return "", domain.Invalidf("stream", "the source's stream expression gave no text")
	}
	return key, nil
}
