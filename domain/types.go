package domain

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Types is the literal table that ties names on the wire to Go types. Names are written out, never derived from Go
// names, so that renaming Go code can't rename history.
type Types struct {
	Events   []EventType
	Commands []CommandType
}

// EventType ties an event name to the Go type of its payload.
type EventType struct {
	Name    string
	goType  reflect.Type
	decode  func([]byte) (any, error)
	upcasts []Upcast
}

// Upcast turns the JSON of one schema version of an event into that of the next. It is pure: history is never
// rewritten, so the same old event passes through it at every read.
type Upcast func(old []byte) ([]byte, error)

// EventOf declares that events called name carry a T as JSON. upcasts lift what was written before T had its present
// form: the first one from schema version 1 to 2, and so on. New events are written with the version after the last.
func EventOf[T any](name string, upcasts ...Upcast) EventType {
	return EventType{Name: name, goType: reflect.TypeFor[T](), decode: decodeJSON[T], upcasts: upcasts}
}

// schema is the version that new events are written with.
func (et EventType) schema() int { return len(et.upcasts) + 1 }

// CommandType ties a command name to the Go type of its body and to the stream it is for.
type CommandType struct {
	Name   string
	GoType reflect.Type
	decode func([]byte) (any, error)
	stream func(any) (Stream, error)
}

// CommandOf declares that commands called name carry a T as JSON and are for the stream that the function returns.
// The function also checks the body: its error, of class Invalid, names the field and becomes a 422.
func CommandOf[T any](name string, stream func(T) (Stream, error)) CommandType {
	return CommandType{
		Name: name, GoType: reflect.TypeFor[T](), decode: decodeJSON[T],
		stream: func(p any) (Stream, error) { return stream(p.(T)) },
	}
}

func decodeJSON[T any](data []byte) (any, error) {
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	return v, nil
}

// Check reports names and Go types that stand in the table twice.
func (t Types) Check() error {
	names, goTypes := map[string]bool{}, map[reflect.Type]bool{}
	for _, e := range t.Events {
		if e.Name == "" || names[e.Name] || goTypes[e.goType] {
			return fmt.Errorf("event type %q (%v) is empty or stands in the table twice", e.Name, e.goType)
		}
		names[e.Name], goTypes[e.goType] = true, true
	}
	names, goTypes = map[string]bool{}, map[reflect.Type]bool{}
	for _, c := range t.Commands {
		if c.Name == "" || names[c.Name] || goTypes[c.GoType] {
			return fmt.Errorf("command type %q (%v) is empty or stands in the table twice", c.Name, c.GoType)
		}
		names[c.Name], goTypes[c.GoType] = true, true
	}
	return nil
}

// Decode fills e.Payload from e.Data. Types that are not in the table are left as they are.
func (t Types) Decode(e *Event) error {
	for _, et := range t.Events {
		if et.Name == e.Type {
			p, err := et.read(max(e.Schema, 1), e.Data)
			if err != nil {
				return &Error{Class: Corrupt, Message: fmt.Sprintf("event %s is not a %s of schema version %d", e.ID, e.Type, max(e.Schema, 1)), Err: err}
			}
			e.Payload = p
			return nil
		}
	}
	return nil
}

// read decodes an event of a schema version, lifting it to the present one first.
func (et EventType) read(schema int, data []byte) (any, error) {
	if schema > et.schema() {
		return nil, fmt.Errorf("it was written by a newer program: this one knows schema version %d", et.schema())
	}
	for v := schema; v < et.schema(); v++ {
		var err error
		if data, err = et.upcasts[v-1](data); err != nil {
			return nil, fmt.Errorf("upcast from schema version %d: %w", v, err)
		}
	}
	return et.decode(data)
}

// Encode fills e.Type, e.Schema, e.ContentType and e.Data from e.Payload.
func (t Types) Encode(e *Event) error {
	for _, et := range t.Events {
		if et.goType == reflect.TypeOf(e.Payload) {
			data, err := json.Marshal(e.Payload)
			if err != nil {
				return fmt.Errorf("encode %s: %w", et.Name, err)
			}
			e.Type, e.ContentType, e.Data = et.Name, "application/json", data
			if e.Schema = et.schema(); e.Schema == 1 {
				e.Schema = 0 // the first version is not written out
			}
			return nil
		}
	}
	return fmt.Errorf("no event type for %T in the types table", e.Payload)
}

// DecodeCommand fills c.Payload and c.Stream from c.Type and c.Data. An unknown type is of class NotFound; a body
// that doesn't fit is of class Invalid and names the field.
func (t Types) DecodeCommand(c *Command) error {
	for _, ct := range t.Commands {
		if ct.Name != c.Type {
			continue
		}
		p, err := ct.decode(c.Data)
		if err != nil {
			return invalidJSON(err)
		}
		s, err := ct.stream(p)
		if err != nil {
			return err
		}
		c.Payload, c.Stream = p, s
		return nil
	}
	return &Error{Class: NotFound, Message: fmt.Sprintf("no command type %q", c.Type)}
}

// EncodeCommand fills c.Type, c.Stream and c.Data from c.Payload.
func (t Types) EncodeCommand(c *Command) error {
	for _, ct := range t.Commands {
		if ct.GoType != reflect.TypeOf(c.Payload) {
			continue
		}
		s, err := ct.stream(c.Payload)
		if err != nil {
			return err
		}
		data, err := json.Marshal(c.Payload)
		if err != nil {
			return fmt.Errorf("encode %s: %w", ct.Name, err)
		}
		c.Type, c.Stream, c.Data = ct.Name, s, data
		return nil
	}
	return fmt.Errorf("no command type for %T in the types table", c.Payload)
}

func invalidJSON(err error) error {
	if te, ok := err.(*json.UnmarshalTypeError); ok && te.Field != "" {
		return Invalidf(te.Field, "%s can't be a %s", te.Field, te.Value)
	}
	return &Error{Class: Invalid, Field: "body", Message: "the body is not the JSON this command takes", Err: err}
}
