package projections

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Declaration is a projection written as data, its expressions in CEL (https://cel.dev).
type Declaration struct {
	Name string
	// From says which events it takes. Empty lists take all.
	Types   []string // with * for any part
	Sources []string // names of sources; events of commands have none
	Streams []string // with *
	Where   string   // an expression that gives a bool
	// Key is an expression that gives the key of the row, a string.
	Key string
	// Window cuts the time of the event into pieces of this length, aligned to 1970-01-01 UTC: `window` is the beginning
	// of its piece. Zero for none.
	Window time.Duration
	// The fields of the row, each with an expression for its value. Count counts events.
	Set    map[string]string
	Count  []string
	Sum    map[string]string
	Min    map[string]string
	Max    map[string]string
	Append map[string]Appended
	// Delete is an expression that gives a bool: then the event deletes the row instead.
	Delete string
	// Indexes are lists of fields that rows can be found by.
	Indexes [][]string
	// Sample is the JSON of an event's data, for the types of the fields and for the documentation.
	Sample json.RawMessage
}

// Appended is a field that collects values.
type Appended struct {
	Value string
	Cap   int // the newest so many are kept; 100 by default
}

// Problem is something wrong with a declaration, at one of its keys: "sum.amount". Line and Column say where in the
// expression, from 1; they are 0 if it isn't about a place in one.
type Problem struct {
	Key          string
	Line, Column int
	Err          error
}

func (p Problem) Error() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s: line %d, column %d: %v", p.Key, p.Line, p.Column, p.Err)
	}
	return p.Key + ": " + p.Err.Error()
}

func (p Problem) Unwrap() error { return p.Err }

const (
	maxExpression  = 4096    // bytes
	expressionCost = 200_000 // of CEL's cost units, for one evaluation: a few milliseconds
	maxFields      = 100
	defaultCap     = 100
	maxCap         = 1000
	maxRow         = 256 << 10 // bytes
)

var fieldRule = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// Declared is a checked declaration: a Projection.
type Declared struct {
	declaration Declaration
	definition  string
	where, key  *expression // where is nil for none
	remove      *expression // nil for none
	fields      []field     // by name
	indexes     []Index
	schema      Schema
	readsData   bool         // an expression may look at the body
	size        atomic.Int64 // about that of the next row
}

type fieldKind int

const (
	fieldSet fieldKind = iota
	fieldCount
	fieldSum
	fieldMin
	fieldMax
	fieldAppend
)

// field is one field of the row.
type field struct {
	name   string
	kind   fieldKind
	value  *expression // nil for a count
	result *cel.Type
	cap    int
}

// key is where the field stands in its declaration.
func (f field) key() string {
	if f.kind == fieldCount {
		return "count"
	}
	return [...]string{fieldSet: "set", fieldSum: "sum", fieldMin: "min", fieldMax: "max", fieldAppend: "append"}[f.kind] + "." + f.name
}

// Declare checks a declaration and compiles its expressions. Every problem is reported, each with the line and column in
// its expression.
func Declare(d Declaration) (*Declared, []Problem) {
	out := &Declared{declaration: d}
	var problems []Problem
	bad := func(key string, err error) { problems = append(problems, Problem{Key: key, Err: err}) }
	if !nameRule.MatchString(d.Name) {
		bad("", fmt.Errorf("%q: a name has lower-case letters, digits and '-', and begins with a letter", d.Name))
	}
	if d.Window != 0 && (d.Window < time.Second || d.Window%time.Second != 0) {
		bad("window", fmt.Errorf("whole seconds, not %s", d.Window))
	}
	env, err := environment(d.Window > 0)
	if err != nil {
		return nil, []Problem{{Err: err}}
	}
	compile := func(key, text string, wanted ...*cel.Type) (*expression, *cel.Type) {
		x, result, found := compileIn(env, text, wanted)
		out.readsData = out.readsData || strings.Contains(text, "data")
		for _, p := range found {
			p.Key = key
			problems = append(problems, p)
		}
		return x, result
	}
	if d.Where != "" {
		out.where, _ = compile("from.where", d.Where, cel.BoolType)
	}
	if d.Key == "" {
		bad("key", errors.New("an expression for the key of the row is needed"))
	} else {
		out.key, _ = compile("key", d.Key, cel.StringType)
	}
	if d.Delete != "" {
		out.remove, _ = compile("delete_when", d.Delete, cel.BoolType)
	}
	numbers := orAbsent(cel.IntType, cel.DoubleType)
	ordered := orAbsent(cel.IntType, cel.DoubleType, cel.StringType, cel.TimestampType)
	for _, of := range []struct {
		key    string
		kind   fieldKind
		texts  map[string]string
		wanted []*cel.Type
	}{
		{"set", fieldSet, d.Set, nil}, {"sum", fieldSum, d.Sum, numbers}, {"min", fieldMin, d.Min, ordered}, {"max", fieldMax, d.Max, ordered},
	} {
		for name, text := range of.texts {
			value, result := compile(of.key+"."+name, text, of.wanted...)
			out.fields = append(out.fields, field{name: name, kind: of.kind, value: value, result: result})
		}
	}
	for _, name := range d.Count {
		out.fields = append(out.fields, field{name: name, kind: fieldCount, result: cel.IntType})
	}
	for name, a := range d.Append {
		value, result := compile("append."+name+".value", a.Value)
		if a.Cap == 0 {
			a.Cap = defaultCap
		}
		if a.Cap < 1 || a.Cap > maxCap {
			bad("append."+name+".cap", fmt.Errorf("between 1 and %d, not %d", maxCap, a.Cap))
		}
		out.fields = append(out.fields, field{name: name, kind: fieldAppend, value: value, result: result, cap: a.Cap})
	}
	slices.SortFunc(out.fields, func(a, b field) int { return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind)) })
	if len(out.fields) == 0 || len(out.fields) > maxFields {
		bad("", fmt.Errorf("a row has 1 to %d fields, not %d", maxFields, len(out.fields)))
	}
	for i, f := range out.fields {
		if !fieldRule.MatchString(f.name) {
			bad(f.key(), errors.New("a field's name has lower-case letters, digits and '_', and begins with a letter"))
		}
		if i > 0 && out.fields[i-1].name == f.name {
			bad(f.key(), errors.New("the field is declared twice"))
		}
	}
	for i, fields := range d.Indexes {
		x, err := out.index(fields)
		if err != nil {
			bad(fmt.Sprintf("indexes[%d]", i), err)
		}
		out.indexes = append(out.indexes, x)
	}
	if d.Sample != nil && !json.Valid(d.Sample) {
		bad("sample", errors.New("not JSON"))
	}
	if len(problems) == 0 {
		problems = out.describe()
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b Problem) int { return strings.Compare(a.Key, b.Key) })
		return nil, problems
	}
	out.definition, err = digest(d)
	if err != nil {
		return nil, []Problem{{Err: err}}
	}
	return out, nil
}

// digest identifies what a declaration folds to. The sample is documentation.
func digest(d Declaration) (string, error) {
	d.Sample = nil
	b, err := json.Marshal(d) // with sorted keys
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(append([]byte("declared 1\x00"), b...))
	return hex.EncodeToString(h[:12]), nil
}

// environment is what an expression may use. There is no clock and no randomness in it.
func environment(windowed bool) (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.Variable("id", cel.StringType), cel.Variable("type", cel.StringType), cel.Variable("source", cel.StringType),
		cel.Variable("stream", cel.StringType), cel.Variable("version", cel.IntType), cel.Variable("time", cel.TimestampType),
		cel.Variable("delivery", cel.StringType), cel.Variable("correlation", cel.StringType), cel.Variable("causation", cel.StringType),
		cel.Variable("data", cel.DynType), cel.Variable("row", cel.MapType(cel.StringType, cel.DynType)),
		cel.OptionalTypes(), cel.DefaultUTCTimeZone(true), ext.Strings(ext.StringsVersion(4)), ext.Math(), ext.Lists(),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	}
	if windowed {
		options = append(options, cel.Variable("window", cel.TimestampType))
	}
	return cel.NewEnv(options...)
}

// orAbsent adds the types of what may be absent, which then changes nothing: data.?amount.
func orAbsent(all ...*cel.Type) []*cel.Type {
	for _, t := range all[:len(all):len(all)] {
		all = append(all, cel.OptionalType(t))
	}
	return append(all, cel.OptionalType(cel.DynType))
}

// Name is the projection's name.
func (d *Declared) Name() string { return d.declaration.Name }

// Version is that of how declarations are folded.
func (d *Declared) Version() int { return 1 }

// Definition identifies the declaration: another one is built anew.
func (d *Declared) Definition() string { return d.definition }

// Indexes are the declared ones.
func (d *Declared) Indexes() []Index { return d.indexes }

// Declaration is what it was declared by.
func (d *Declared) Declaration() Declaration { return d.declaration }

// wants reports whether an event's attributes pass.
func (d *Declared) wants(e *domain.Event) bool {
	matches := func(patterns []string, text string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return domain.MatchType(p, text) })
	}
	source, _ := strings.CutPrefix(e.Source, "/sources/")
	return matches(d.declaration.Types, e.Type) && matches(d.declaration.Sources, source) && matches(d.declaration.Streams, string(e.Stream))
}

// StreamOf is the stream that alone the row of key depends on: there is one if the key is the stream.
func (d *Declared) StreamOf(key string) (domain.Stream, bool) {
	return domain.Stream(key), strings.TrimSpace(d.declaration.Key) == "stream"
}

// Apply folds one event.
func (d *Declared) Apply(tx *eventstore.Tx, e domain.Event) error {
	return d.apply(tx, &e, &parsed{}, nil)
}
