package projections

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// parsed is the body of one event, parsed when the first expression asks for it. Projections that are built together
// share it.
type parsed struct {
	done bool
	data ref.Val
}

func (p *parsed) value(e domain.Event) ref.Val {
	if !p.done {
		p.done, p.data = true, types.NullValue
		if v, err := domain.DecodeJSON(e.Data); err == nil {
			p.data = types.DefaultTypeAdapter.NativeToValue(v)
		}
	}
	return p.data
}

// scope is what the expressions see of one event: a cel.Activation, which makes only what is asked for.
type scope struct {
	event  domain.Event
	body   *parsed
	window time.Duration
	row    map[string]any
}

// Parent is part of cel.Activation.
func (*scope) Parent() cel.Activation { return nil }

// ResolveName is part of cel.Activation.
func (s *scope) ResolveName(name string) (any, bool) {
	e := &s.event
	switch name {
	case "data":
		return s.body.value(*e), true
	case "row":
		return s.row, true
	case "id":
		return e.ID, true
	case "type":
		return e.Type, true
	case "source":
		return e.Source, true
	case "stream":
		return string(e.Stream), true
	case "version":
		return int64(e.Version), true
	case "time":
		return types.Timestamp{Time: e.Time}, true
	case "window":
		return types.Timestamp{Time: windowOf(e.Time, s.window)}, true
	case "delivery":
		return e.Delivery, true
	case "correlation":
		return e.Correlation, true
	case "causation":
		return e.Causation, true
	}
	return nil, false
}

// windowOf is the beginning of the piece of time that t is in.
func windowOf(t time.Time, d time.Duration) time.Time {
	seconds, length := t.Unix(), int64(d/time.Second)
	return time.Unix(seconds-((seconds%length)+length)%length, 0).UTC()
}

// apply folds one event. An expression that fails is an error, which halts the projection at the event: leaving it out
// silently would make sums that nobody can trust. Where a member may be absent, has() asks for it.
//
// rows has the rows of the transaction that were read or written before, and may be nil.
func (d *Declared) apply(tx *eventstore.Tx, e domain.Event, body *parsed, rows recentRows) error {
	if !d.wants(e) {
		return nil
	}
	s := &scope{event: e, body: body, window: d.declaration.Window}
	if d.where != nil {
		yes, err := truth(d.where, s)
		if err != nil {
			return fmt.Errorf("from.where: %w", err)
		}
		if !yes {
			return nil
		}
	}
	v, err := eval(d.key, s)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	key, ok := v.Value().(string)
	if !ok || key == "" {
		return fmt.Errorf("key: a key is a text that isn't empty, not %s", v.Type().TypeName())
	}
	if s.row, ok = rows[key]; !ok {
		s.row = map[string]any{}
		if b := tx.Get(key); b != nil {
			old, err := domain.DecodeJSON(b)
			if err != nil {
				return fmt.Errorf("row %q: %w", key, err)
			}
			s.row, _ = old.(map[string]any)
		}
	}
	if d.remove != nil {
		yes, err := truth(d.remove, s)
		if err != nil {
			return fmt.Errorf("delete_when: %w", err)
		}
		if yes {
			delete(rows, key)
			return tx.Delete(key)
		}
	}
	next := make(map[string]any, len(d.fields))
	for _, f := range d.fields { // all of them see the row as it was
		if next[f.name], err = f.fold(s); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	b := appendRow(nil, next)
	if len(b) > maxRow {
		return fmt.Errorf("row %q would have %d bytes; a declared row has at most %d", key, len(b), maxRow)
	}
	rows.keep(key, next)
	return tx.Put(key, b)
}

// recentRows are rows that were written, and read as numbers would read them, so that they needn't be parsed again. They live as long as
// the transaction.
type recentRows map[string]map[string]any

const maxRecentRows = 10_000

func (r recentRows) keep(key string, row map[string]any) {
	if r == nil {
		return
	}
	if len(r) >= maxRecentRows {
		clear(r)
	}
	r[key] = row
}

func eval(program cel.Program, s *scope) (ref.Val, error) {
	v, _, err := program.Eval(s)
	if o, ok := v.(*types.Optional); ok && err == nil { // of what may be absent: null if it is
		if !o.HasValue() {
			return types.NullValue, nil
		}
		v = o.GetValue()
	}
	return v, err
}

func truth(program cel.Program, s *scope) (bool, error) {
	v, err := eval(program, s)
	if err != nil {
		return false, err
	}
	yes, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("the expression gives a %s, not a bool", v.Type().TypeName())
	}
	return yes, nil
}

// fold returns the field's value after the event.
func (f field) fold(s *scope) (any, error) {
	old, had := s.row[f.name]
	if f.kind == fieldCount {
		n, _ := old.(int64)
		return n + 1, nil
	}
	v, err := eval(f.program, s)
	if err != nil {
		return nil, err
	}
	if f.kind == fieldSet {
		return plain(v)
	}
	if _, null := v.(types.Null); null { // nothing to add: the field stays
		if !had && f.kind == fieldSum {
			return int64(0), nil
		}
		if !had && f.kind == fieldAppend {
			return []any{}, nil
		}
		return old, nil
	}
	given, err := plain(v)
	if err != nil {
		return nil, err
	}
	switch f.kind {
	case fieldSum:
		return sum(old, given)
	case fieldAppend:
		list, _ := old.([]any)
		list = append(list[:len(list):len(list)], given)
		return list[max(0, len(list)-f.cap):], nil
	}
	if !had || old == nil {
		return given, nil
	}
	order, err := compare(old, given)
	if err != nil {
		return nil, err
	}
	if f.kind == fieldMin && order <= 0 || f.kind == fieldMax && order >= 0 {
		return old, nil
	}
	return given, nil
}

// sum adds whole numbers exactly, or says that it can't.
func sum(old, given any) (any, error) {
	if old == nil {
		old = int64(0)
	}
	a, whole1 := old.(int64)
	b, whole2 := given.(int64)
	if whole1 && whole2 {
		total := a + b
		if (total > a) != (b > 0) && b != 0 {
			return nil, errors.New("the sum is larger than 64 bits hold")
		}
		return total, nil
	}
	x, ok1 := double(old)
	y, ok2 := double(given)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("only numbers can be added, not %T and %T", old, given)
	}
	if math.IsInf(x+y, 0) || math.IsNaN(x+y) {
		return nil, errors.New("the sum is no finite number")
	}
	return x + y, nil
}

func double(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func compare(a, b any) (int, error) {
	if x, ok := a.(int64); ok {
		if y, ok := b.(int64); ok {
			return order(x, y), nil
		}
	}
	if x, ok := double(a); ok {
		if y, ok := double(b); ok {
			return order(x, y), nil
		}
	}
	x, ok1 := a.(string)
	y, ok2 := b.(string)
	if !ok1 || !ok2 {
		return 0, fmt.Errorf("%T and %T have no order", a, b)
	}
	return order(x, y), nil
}

func order[T int64 | float64 | string](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// fixedTime is RFC 3339 in UTC with nanoseconds always written, so that texts sort as times do.
const fixedTime = "2006-01-02T15:04:05.000000000Z"

// plain makes JSON of a value.
func plain(v ref.Val) (any, error) {
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		if v > math.MaxInt64 {
			return nil, errors.New("the number is larger than 63 bits hold")
		}
		return int64(v), nil
	case types.Double:
		if math.IsInf(float64(v), 0) || math.IsNaN(float64(v)) {
			return nil, errors.New("the number is not finite")
		}
		return float64(v), nil
	case types.String:
		return string(v), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(v), nil
	case types.Timestamp:
		return v.UTC().Format(fixedTime), nil
	case types.Duration:
		return v.Duration.Seconds(), nil
	case traits.Lister:
		list := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			item, err := plain(it.Next())
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, nil
	case traits.Mapper:
		m := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			k := it.Next()
			name, ok := k.Value().(string)
			if !ok {
				return nil, fmt.Errorf("a map's keys are texts, not %s", k.Type().TypeName())
			}
			item, err := plain(v.Get(k))
			if err != nil {
				return nil, err
			}
			m[name] = item
		}
		return m, nil
	case *types.Err:
		return nil, v
	}
	if o, ok := v.(*types.Optional); ok {
		if !o.HasValue() {
			return nil, nil
		}
		return plain(o.GetValue())
	}
	return nil, fmt.Errorf("a %s can't stand in a row", v.Type().TypeName())
}

// appendRow writes a value that plain has made as JSON, with the keys of objects in order. A double is always written as
// one, 2.0: so it is one again when it is read, and row.x has the same type whatever its value.
func appendRow(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		text, _ := json.Marshal(v) // it is finite
		if b = append(b, text...); !bytes.ContainsAny(text, ".e") {
			b = append(b, ".0"...)
		}
		return b
	case []any:
		b = append(b, '[')
		for i, item := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendRow(b, item)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendRow(b, name), ':')
			b = appendRow(b, v[name])
		}
		return append(b, '}')
	}
	text, _ := json.Marshal(v) // a text
	return append(b, text...)
}
