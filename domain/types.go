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
	Name   string
	goType reflect.Type
	decode func([]byte) (any, error)
}

// EventOf declares that events called name carry a T as JSON.
func EventOf[T any](name string) EventType {
	return EventType{Name: name, goType: reflect.TypeFor[T](), decode: decodeJSON[T]}
}

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
			p, err := et.decode(e.Data)
			if err != nil {
				return &Error{Class: Corrupt, Message: "event " + e.ID + " is not a " + e.Type, Err: err}
			}
			e.Payload = p
			return nil
		}
	}
	return nil
}

// Encode fills e.Type, e.ContentType and e.Data from e.Payload.
func (t Types) Encode(e *Event) error {
	for _, et := range t.Events {
		if et.goType == reflect.TypeOf(e.Payload) {
			data, err := json.Marshal(e.Payload)
			if err != nil {
				return fmt.Errorf("encode %s: %w", et.Name, err)
			}
			e.Type, e.ContentType, e.Data = et.Name, "application/json", data
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
