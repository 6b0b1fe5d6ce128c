package projections

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"github.com/penstock-io/penstock/domain"
)

// Documented is a Projection that says what its rows look like, for the document of the API and for exports.
type Documented interface {
	RowSchema() Schema
}

// Schema is a JSON Schema (2020-12) of a row or of something in it. A Schema without a Type is of anything.
type Schema struct {
	Type        string // "object", "array", "string", "integer", "number", "boolean", "null"
	Nullable    bool
	Format      string
	Description string
	Items       *Schema           // of an array
	Properties  map[string]Schema // of an object: those that every one has
	Values      *Schema           // of an object with any other properties
	Example     json.RawMessage

	fixed bool // a time that a declared projection has written, which has one form
}

// MarshalJSON writes the schema as the standard has it.
func (s Schema) MarshalJSON() ([]byte, error) {
	m := map[string]any{}
	switch {
	case s.Type != "" && s.Nullable && s.Type != "null":
		m["type"] = []string{s.Type, "null"}
	case s.Type != "":
		m["type"] = s.Type
	}
	for name, text := range map[string]string{"format": s.Format, "description": s.Description} {
		if text != "" {
			m[name] = text
		}
	}
	if s.Items != nil {
		m["items"] = s.Items
	}
	if s.Properties != nil {
		m["properties"], m["required"] = s.Properties, slices.Sorted(maps.Keys(s.Properties))
	}
	if s.Values != nil {
		m["additionalProperties"] = s.Values
	}
	if s.Example != nil {
		m["examples"] = []json.RawMessage{s.Example}
	}
	return json.Marshal(m)
}

// SchemaOf infers a schema from one example. What is null in it may be anything, and an array is of what its first
// member is.
func SchemaOf(example json.RawMessage) (Schema, error) {
	v, err := domain.DecodeJSON(example)
	if err != nil {
		return Schema{}, err
	}
	s := schemaOf(v)
	s.Example = example
	return s, nil
}

func schemaOf(v any) Schema {
	switch v := v.(type) {
	case bool:
		return Schema{Type: "boolean"}
	case int64:
		return Schema{Type: "integer", Format: "int64"}
	case float64:
		return Schema{Type: "number"}
	case string:
		return Schema{Type: "string"}
	case []any:
		items := Schema{}
		if len(v) > 0 {
			items = schemaOf(v[0])
		}
		return Schema{Type: "array", Items: &items}
	case map[string]any:
		s := Schema{Type: "object", Properties: map[string]Schema{}}
		for name, member := range v {
			s.Properties[name] = schemaOf(member)
		}
		return s
	}
	return Schema{}
}

// schemaOfType is what the values of a CEL type become in a row.
func schemaOfType(t *cel.Type) Schema {
	switch t.Kind() {
	case cel.BoolKind:
		return Schema{Type: "boolean"}
	case cel.IntKind, cel.UintKind:
		return Schema{Type: "integer", Format: "int64"}
	case cel.DoubleKind:
		return Schema{Type: "number"}
	case cel.StringKind:
		return Schema{Type: "string"}
	case cel.BytesKind:
		return Schema{Type: "string", Format: "byte", Description: "in base64"}
	case cel.TimestampKind:
		return Schema{Type: "string", Format: "date-time", fixed: true}
	case cel.DurationKind:
		return Schema{Type: "number", Description: "seconds"}
	case cel.NullTypeKind:
		return Schema{Type: "null"}
	case cel.ListKind:
		items := schemaOfType(t.Parameters()[0])
		return Schema{Type: "array", Items: &items}
	case cel.MapKind:
		values := schemaOfType(t.Parameters()[1])
		return Schema{Type: "object", Values: &values}
	case cel.OpaqueKind:
		if t.TypeName() == "optional_type" && len(t.Parameters()) == 1 {
			s := schemaOfType(t.Parameters()[0])
			s.Nullable = s.Type != ""
			return s
		}
	}
	return Schema{}
}

// RowSchema is made of the types of the expressions and, where these are known only when they are evaluated, of the
// sample.
func (d *Declared) RowSchema() Schema { return d.schema }

// describe infers the schema of the rows. Expressions that the sample fails are problems: they would halt the projection
// at the first event like it.
func (d *Declared) describe() (problems []Problem) {
	s := d.sampleScope()
	bad := func(key string, err error) {
		if err != nil {
			problems = append(problems, Problem{Key: key, Err: fmt.Errorf("with the sample: %w", err)})
		}
	}
	if s != nil {
		_, err := d.key.text(s)
		bad("key", err)
		for key, condition := range map[string]*expression{"from.where": d.where, "delete_when": d.remove} {
			if condition != nil {
				_, err := condition.truth(s)
				bad(key, err)
			}
		}
	}
	d.schema = Schema{Type: "object", Properties: map[string]Schema{}}
	row := make([]any, len(d.fields))
	for i, f := range d.fields {
		shape := schemaOfType(f.result)
		if s != nil {
			v, err := f.fold(s, nil)
			bad(f.key(), err)
			if row[i] = v; f.kind == fieldAppend { // of the one value in it
				if list, _ := v.([]any); len(list) > 0 {
					v = list[0]
				} else {
					v = nil
				}
			}
			if known := schemaOf(v); shape.Type == "" || shape.Type == "array" && shape.Items.Type == "" || shape.Type == "object" {
				if v != nil {
					shape = known
				}
			}
		}
		switch f.kind {
		case fieldSum:
			if shape.Type == "" {
				shape = Schema{Type: "number"}
			}
			shape.Nullable = false
		case fieldAppend:
			items := shape
			shape = Schema{Type: "array", Items: &items}
		}
		d.schema.Properties[f.name] = shape
	}
	if s != nil && problems == nil {
		d.schema.Example = d.appendRow(nil, row)
	}
	return problems
}

// sampleScope is the sample as an event of the first type that is taken; nil without one.
func (d *Declared) sampleScope() *scope {
	if d.declaration.Sample == nil {
		return nil
	}
	text := func(patterns []string, otherwise string) string {
		if len(patterns) == 0 {
			return otherwise
		}
		return strings.ReplaceAll(patterns[0], "*", "x")
	}
	e := domain.Event{
		ID: "0123456789abcdef", Type: text(d.declaration.Types, "sample"), Source: "/sources/" + text(d.declaration.Sources, "sample"),
		Stream: domain.Stream(text(d.declaration.Streams, "sample/1")), Version: 1, Time: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC),
		Delivery: "delivery-1", Correlation: "delivery-1", Causation: "delivery-1", Data: d.declaration.Sample,
	}
	return &scope{of: d, event: &e, body: &parsed{}}
}

// Columns are the fields that every row has and no row has more of, in order; nil if that isn't known.
func (v *View) Columns() (names []string) {
	d, ok := v.projection.(*Declared)
	if !ok {
		return nil
	}
	for _, f := range d.fields {
		names = append(names, f.name)
	}
	return names
}
