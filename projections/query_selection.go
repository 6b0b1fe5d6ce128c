package projections

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// selection is a query, read: which places of the rows or of an index, from lo on and before hi, and in which order.
type selection struct {
	index   string
	lo, hi  []byte // hi is nil for no end
	desc    bool
	filter  *rowFilter
	entries bool   // nobody needs the rows
	hash    uint64 // of what cursors belong to
}

// bound is one of the query's bounds, under the name of its parameter.
type bound struct {
	name string
	text *string
}

func (q Query) bounds() (given []bound) {
	for _, b := range []bound{{"gte", q.Gte}, {"gt", q.Gt}, {"lte", q.Lte}, {"lt", q.Lt}, {"prefix", q.Prefix}} {
		if b.text != nil {
			given = append(given, b)
		}
	}
	return given
}

func (v *View) selection(q Query) (*selection, error) {
	s := &selection{index: q.Index, desc: q.Desc, hash: q.hash()}
	for _, pair := range [][2]bound{{{"gte", q.Gte}, {"gt", q.Gt}}, {{"lte", q.Lte}, {"lt", q.Lt}}} {
		if pair[0].text != nil && pair[1].text != nil {
			return nil, domain.Invalidf(pair[1].name, "either %s or %s", pair[0].name, pair[1].name)
		}
	}
	if q.Prefix != nil && len(q.bounds()) > 1 {
		return nil, domain.Invalidf("prefix", "a prefix is a range by itself: without gte, gt, lte and lt")
	}
	var err error
	if q.Filter != "" {
		if s.filter, err = compileFilter(q.Filter); err != nil {
			return nil, err
		}
	}
	if q.Index == "" {
		if len(q.Eq) > 0 {
			return nil, domain.Invalidf("eq", "eq is for an index; rows are asked for with key")
		}
		for _, b := range q.bounds() {
			s.narrow(b.name, []byte(*b.text), []byte(*b.text))
		}
		return s, nil
	}
	return s, v.selectEntries(q, s)
}

// selectEntries sets the range of an index's entries. What stands before is equal in all of them: values are written so
// that none is the beginning of another.
func (v *View) selectEntries(q Query, s *selection) error {
	names := v.Indexes()
	if !slices.Contains(names, q.Index) {
		if len(names) == 0 {
			return domain.Invalidf("index", "the projection %s has no indexes", v.Name())
		}
		return domain.Invalidf("index", "the projection %s has no index %q; there are %s", v.Name(), q.Index, strings.Join(names, " and "))
	}
	fields, schema := strings.Split(q.Index, ","), v.Schema()
	if len(q.Eq) > len(fields) {
		return domain.Invalidf("eq", "the index %s has %d fields, and %d values are given", q.Index, len(fields), len(q.Eq))
	}
	var base []byte
	for i, text := range q.Eq {
		value, err := schema.Properties[fields[i]].value("eq", text)
		if err != nil {
			return err
		}
		base = AppendIndexKey(base, value)
	}
	s.lo, s.hi = base, after(base)
	given := q.bounds()
	if len(given) == 0 {
		return nil
	}
	if len(q.Eq) == len(fields) {
		return domain.Invalidf(given[0].name, "every field of the index %s has a value by eq: there is none left to bound", q.Index)
	}
	field := schema.Properties[fields[len(q.Eq)]]
	var kind byte
	for _, b := range given {
		var value any = *b.text
		var err error
		if b.name != "prefix" {
			if value, err = field.value(b.name, *b.text); err != nil {
				return err
			}
		} else if len(*b.text) > maxIndexText {
			return domain.Invalidf("prefix", "a text of at most %d bytes: an index holds no more of them", maxIndexText)
		} else if field.Type != "" && field.Type != "string" {
			return domain.Invalidf("prefix", "the field %s is a %s, and no text", fields[len(q.Eq)], field.Type)
		}
		key := AppendIndexKey(nil, value)
		if kind != 0 && kind != sortOf(key[0]) {
			return domain.Invalidf(b.name, "the bounds are of different types")
		}
		kind = sortOf(key[0])
		at := slices.Concat(base, key)
		if b.name == "prefix" {
			at = at[:len(at)-1] // without its end
		}
		if len(given) == 1 { // values of other types are not in a range that is open on one side
			s.lo, s.hi = slices.Concat(base, []byte{kind}), slices.Concat(base, []byte{kind + 0x10})
		}
		s.narrow(b.name, at, at)
	}
	return nil
}

// sortOf is what the values of a type begin with, at the least.
func sortOf(kind byte) byte { return kind &^ 0x0f }

// narrow sets an end of the range. Rows' keys are themselves; entries of an index go on after the value.
func (s *selection) narrow(name string, from, to []byte) {
	switch name {
	case "gte":
		s.lo = from
	case "gt":
		if s.lo = append(bytes.Clone(from), 0); s.index != "" {
			s.lo = after(from)
		}
	case "lt":
		s.hi = to
	case "lte":
		if s.hi = append(bytes.Clone(to), 0); s.index != "" {
			s.hi = after(to)
		}
	case "prefix":
		s.lo, s.hi = from, after(to)
	}
}

// after is the first text that comes after all that begin with b; nil for none.
func after(b []byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}

// value reads a parameter as the field is: where the schema doesn't say, as JSON if it is that, and as a text if not.
func (s Schema) value(parameter, text string) (any, error) {
	if len(text) > maxIndexText {
		return nil, domain.Invalidf(parameter, "a text of at most %d bytes: an index holds no more of them", maxIndexText)
	}
	switch {
	case s.Nullable && text == "null" && s.Type != "string":
		return nil, nil
	case s.Type == "string" && s.fixed:
		for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
			if t, err := time.Parse(layout, text); err == nil {
				return t.UTC().Format(fixedTime), nil
			}
		}
		return nil, domain.Invalidf(parameter, "a time such as 2026-01-31T12:00:00Z or a day such as 2026-01-31, not %q", text)
	case s.Type == "string":
		return text, nil
	}
	v, err := domain.DecodeJSON([]byte(text))
	wanted := map[string]bool{"integer": true, "number": true, "boolean": true}[s.Type]
	_, isBool := v.(bool)
	_, isNumber := double(v)
	if wanted && (err != nil || s.Type == "boolean" && !isBool || s.Type != "boolean" && !isNumber) {
		return nil, domain.Invalidf(parameter, "the field is a %s, and %q is none", s.Type, text)
	}
	if err != nil {
		return text, nil
	}
	return v, nil
}

// hash identifies what a cursor is of: everything but how much is asked for.
func (q Query) hash() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q %t %q", q.Index, q.Eq, q.Desc, q.Filter)
	for _, b := range q.bounds() {
		fmt.Fprintf(h, " %s %q", b.name, *b.text)
	}
	return h.Sum64()
}

// cursor is a place after which a query goes on.
type cursor struct {
	scope uint64 // of the generation
	hash  uint64 // of the query
	place []byte
}

const cursorFormat = 3 // a position begins with 1, a cursor of streams with 2

// MaxCursor bounds the text of a cursor: a row's key may be long, and stands in it.
const MaxCursor = 56 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// String is the cursor's text: a format byte, scope, hash and place, and a CRC-32C over it all, in unpadded base64url.
func (c cursor) String() string {
	b := binary.BigEndian.AppendUint64([]byte{cursorFormat}, c.scope)
	b = append(binary.BigEndian.AppendUint64(b, c.hash), c.place...)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)))
}

// parseCursor reads what String wrote; without a text the place is nil.
func parseCursor(text string) (c cursor, err error) {
	if text == "" {
		return c, nil
	}
	if len(text) > MaxCursor || strings.ContainsAny(text, "\r\n") { // line breaks are passed over in base64
		return c, eventstore.ErrBadPosition
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 1+8+8+4 || b[0] != cursorFormat {
		return c, eventstore.ErrBadPosition
	}
	b, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(b, castagnoli) != sum {
		return c, eventstore.ErrBadPosition
	}
	return cursor{binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), b[17:]}, nil
}

// of reports an error unless the cursor is of a generation and a query.
func (c cursor) of(scope, hash uint64) error {
	if c.scope != scope {
		return eventstore.ErrReset
	}
	if c.hash != hash {
		return domain.Invalidf("cursor", "the cursor is of another query: index, bounds, order and filter must stay as they were")
	}
	return nil
}

const (
	maxFilter  = 2048   // bytes of an expression
	filterCost = 50_000 // of CEL's cost units, for one row: about a millisecond
)

// rowFilter is a compiled expression over a row.
type rowFilter struct{ program cel.Program }

// The environment is built once: it takes longer than compiling most expressions.
var ofRows = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(), cel.DefaultUTCTimeZone(true), ext.Strings(ext.StringsVersion(4)),
		cel.Variable("key", cel.StringType), cel.Variable("row", cel.DynType),
	)
})

// compileFilter compiles a CEL expression (https://cel.dev) that says whether a row is wanted. The error is of class
// Invalid and says line and column.
func compileFilter(text string) (*rowFilter, error) {
	if len(text) > maxFilter {
		return nil, domain.Invalidf("filter", "an expression has at most %d bytes", maxFilter)
	}
	env, err := ofRows()
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
	program, err := env.Program(ast, cel.CostLimit(filterCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, domain.Invalidf("filter", "%v", err)
	}
	return &rowFilter{program}, nil
}

// match evaluates the expression. What isn't there, or is of another type than the expression needs, makes it false.
func (f *rowFilter) match(key string, row []byte) (bool, error) {
	v, err := domain.DecodeJSON(row)
	if err != nil {
		return false, nil // a row that isn't JSON has nothing to ask for
	}
	out, _, err := f.program.Eval(map[string]any{"key": key, "row": v})
	if err != nil {
		// cel-go has no error value for this; its text is the only sign.
		if strings.Contains(err.Error(), "cost limit exceeded") {
			return false, &domain.Error{Class: domain.Invalid, Field: "filter", Rule: "filter-cost", Message: "the expression takes too long on a row; make it cheaper"}
		}
		return false, nil
	}
	yes, ok := out.Value().(bool)
	return ok && yes, nil
}
