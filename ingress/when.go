package ingress

import (
	"errors"
	"fmt"
	"regexp"

	"cel.dev/cel-go/cel"
	"github.com/penstock-io/penstock/domain"
)

// Rule is a condition that a source's deliveries must fulfil to be kept: a CEL expression over headers, query, body
// (also called payload), remote, delivery, type and source that gives a bool, with the function cidr(address, range).
type Rule struct {
	Name       string // letters, digits, '-' and '_'; a metric label
	Expression string
}

// Check compiles the rule, for who wants to say where in a file it is wrong.
func (r Rule) Check() error {
	if !ruleName.MatchString(r.Name) {
		return fmt.Errorf("a rule's name has 1 to 64 letters, digits, '-' and '_', and begins with a letter or digit: %.70q", r.Name)
	}
	_, err := compile("", r.Expression, cel.BoolType)
	return err
}

// maxRules bounds a source's rules, and with them what a delivery costs and how many series a source makes.
const maxRules = 32

var ruleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// condition is a rule, compiled.
type condition struct {
	name    string
	program cel.Program
}

// compileRules reports every problem of all rules.
func compileRules(rules []Rule) (compiled []condition, err error) {
	var errs []error
	if len(rules) > maxRules {
		errs = append(errs, fmt.Errorf("when: at most %d rules, there are %d", maxRules, len(rules)))
	}
	seen := map[string]bool{}
	for _, r := range rules {
		if !ruleName.MatchString(r.Name) || seen[r.Name] {
			errs = append(errs, fmt.Errorf("when: a rule's name has 1 to 64 letters, digits, '-' and '_', begins with a letter "+
				"or digit, and is there once: %.70q", r.Name))
		}
		seen[r.Name] = true
		program, err := compile("when."+r.Name, r.Expression, cel.BoolType)
		if err != nil {
			errs = append(errs, err)
		}
		compiled = append(compiled, condition{r.Name, program})
	}
	return compiled, errors.Join(errs...)
}

// dropped returns the name of the first rule that a delivery doesn't fulfil, or "". A rule that fails, for example
// because it reads a field that the body doesn't have, says nothing about the delivery: the error is of class Invalid and
// names the rule.
func dropped(rules []condition, on *subject) (string, error) {
	for _, rule := range rules {
		out, err := on.eval(rule.program, "when."+rule.name)
		if err != nil {
			return "", err
		}
		switch out {
		case true:
		case false:
			return rule.name, nil
		default:
			return "", domain.Invalidf("when."+rule.name, "the source's expression gave neither true nor false")
		}
	}
	return "", nil
}
