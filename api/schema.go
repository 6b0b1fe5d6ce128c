package api

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
)

// schemaNames names schemas by their Go types. Two types of one name, say ours and one of the business, get a number:
// huma would panic.
func schemaNames() func(reflect.Type, string) string {
	owner := map[string]reflect.Type{}
	return func(t reflect.Type, hint string) string {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		base := huma.DefaultSchemaNamer(t, hint)
		if t.Kind() != reflect.Struct {
			return base // asked for, and never used: only structs are named
		}
		for n := 1; ; n++ {
			name := base
			if n > 1 {
				name += strconv.Itoa(n)
			}
			if other, ok := owner[name]; !ok || other == t {
				owner[name] = t
				return name
			}
		}
	}
}

// schemaOf returns a reference to the schema of T.
func schemaOf[T any](s *server) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

// commandName is what stands in a URL without escaping.
var commandName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func checkTypes(types domain.Types) error {
	errs := []error{types.Check()}
	for _, c := range types.Commands {
		if !commandName.MatchString(c.Name) {
			errs = append(errs, fmt.Errorf("command type %q stands in a URL: only letters, digits, '_', '.' and '-'", c.Name))
		}
	}
	return errors.Join(errs...)
}

// commandSchema is the schema of a command's body, made of its Go type and the tags in it (doc, minimum, pattern,
// enum …). huma panics on a tag that it can't read; here it is an error of the one who wrote the type.
func (s *server) commandSchema(c domain.CommandType) (schema *huma.Schema, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the schema of command %s: %v", c.Name, p)
		}
	}()
	registry := s.api.OpenAPI().Components.Schemas
	leaveOpaque(registry, c.GoType, map[reflect.Type]bool{})
	return registry.Schema(c.GoType, true, c.Name), nil
}

var (
	anyType       = reflect.TypeFor[any]()
	jsonReader    = reflect.TypeFor[json.Unmarshaler]()
	textReader    = reflect.TypeFor[encoding.TextUnmarshaler]()
	ownSchema     = reflect.TypeFor[huma.SchemaProvider]()
	describedSelf = map[reflect.Type]bool{reflect.TypeFor[time.Time](): true, reflect.TypeFor[json.RawMessage](): true}
)

// leaveOpaque makes every type that reads its JSON itself one that may be anything, as its fields say nothing about
// what it reads. Decoding the command checks it.
func leaveOpaque(registry huma.Registry, t reflect.Type, seen map[reflect.Type]bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if seen[t] || describedSelf[t] {
		return
	}
	seen[t] = true
	reads := func(i reflect.Type) bool { return t.Implements(i) || reflect.PointerTo(t).Implements(i) }
	switch {
	case reads(ownSchema):
	case reads(jsonReader):
		registry.RegisterTypeAlias(t, anyType)
	case reads(textReader):
	default:
		switch t.Kind() {
		case reflect.Struct:
			for i := range t.NumField() {
				leaveOpaque(registry, t.Field(i).Type, seen)
			}
		case reflect.Slice, reflect.Array, reflect.Map:
			leaveOpaque(registry, t.Elem(), seen)
		}
	}
}
