package projections

import (
	"errors"
	"fmt"
	"math"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// parsed is the body of one event, parsed when the first expression asks for it. Projections that are built together
// share it.
type parsed struct {
	done bool
	json any     // of Go's types
	data ref.Val // the same for CEL
}

func (p *parsed) parse(e *domain.Event) {
	if !p.done {
		p.done, p.data = true, types.NullValue
		if v, err := domain.DecodeJSON(e.Data); err == nil {
			p.json, p.data = v, types.DefaultTypeAdapter.NativeToValue(v)
		}
	}
}

// scope is what the expressions see of one event: a cel.Activation, which makes only what is asked for.
type scope struct {
	of    *Declared
	event *domain.Event
	body  *parsed
	row   []any // values of the fields, in their order; nil if there is no row
	named map[string]any
}

// Parent is part of cel.Activation.
func (*scope) Parent() cel.Activation { return nil }

// ResolveName is part of cel.Activation.
func (s *scope) ResolveName(name string) (any, bool) {
	e := s.event
	switch name {
	case "data":
		s.body.parse(e)
		return s.body.data, true
	case "row":
		if s.named == nil {
			s.named = s.of.named(s.row)
		}
		return s.named, true
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
		return types.Timestamp{Time: windowOf(e.Time, s.of.declaration.Window)}, true
	case "delivery":
		return e.Delivery, true
	case "correlation":
		return e.Correlation, true
	case "causation":
		return e.Causation, true
	}
	return nil, false
}

// named is a row as expressions see it.
func (d *Declared) named(row []any) map[string]any {
	m := make(map[string]any, len(row))
	for i := range row {
		m[d.fields[i].name] = row[i]
	}
	return m
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
func (d *Declared) apply(tx *eventstore.Tx, e *domain.Event, body *parsed, rows recentRows) error {
	if !d.wants(e) {
		return nil
	}
	s := &scope{of: d, event: e, body: body}
	if d.where != nil {
		yes, err := d.where.truth(s)
		if err != nil {
			return fmt.Errorf("from.where: %w", err)
		}
		if !yes {
			return nil
		}
	}
	key, err := d.key.text(s)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if key == "" {
		return errors.New("key: the text is empty")
	}
	var ok bool
	if s.row, ok = rows[key]; !ok {
		if b := tx.Get(key); b != nil {
			if s.row, err = d.decodeRow(b); err != nil {
				return fmt.Errorf("row %q: %w", key, err)
			}
		}
	}
	if d.remove != nil {
		yes, err := d.remove.truth(s)
		if err != nil {
			return fmt.Errorf("delete_when: %w", err)
		}
		if yes {
			delete(rows, key)
			return tx.Delete(key)
		}
	}
	next := make([]any, len(d.fields))
	for i, f := range d.fields { // all of them see the row as it was
		var old any
		if s.row != nil {
			old = s.row[i]
		}
		if next[i], err = f.fold(s, old); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	b := d.appendRow(make([]byte, 0, d.size.Load()), next)
	if len(b) > maxRow {
		return fmt.Errorf("row %q would have %d bytes; a declared row has at most %d", key, len(b), maxRow)
	}
	d.size.Store(int64(len(b) + len(b)/8))
	rows.keep(key, next)
	return tx.Put(key, b)
}

// recentRows are values of rows that were written, so that they needn't be parsed again. They live as long as the
// transaction.
type recentRows map[string][]any

const maxRecentRows = 10_000

func (r recentRows) keep(key string, row []any) {
	if r == nil {
		return
	}
	if len(r) >= maxRecentRows {
		clear(r)
	}
	r[key] = row
}

// fold returns the field's value after the event.
func (f field) fold(s *scope, old any) (any, error) {
	had := s.row != nil
	if f.kind == fieldCount {
		n, _ := old.(int64)
		return n + 1, nil
	}
	given, err := f.value.value(s)
	if err != nil || f.kind == fieldSet {
		return given, err
	}
	if given == nil { // nothing to add: the field stays
		if !had && f.kind == fieldSum {
			return int64(0), nil
		}
		if !had && f.kind == fieldAppend {
			return []any{}, nil
		}
		return old, nil
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
