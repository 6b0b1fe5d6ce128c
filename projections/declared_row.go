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

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/penstock-io/penstock/domain"
)

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

// decodeRow reads the values of a row, in the order of the fields.
func (d *Declared) decodeRow(b []byte) ([]any, error) {
	v, err := domain.DecodeJSON(b)
	if err != nil {
		return nil, err
	}
	named, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("no JSON object")
	}
	row := make([]any, len(d.fields))
	for i, f := range d.fields {
		row[i] = named[f.name]
	}
	return row, nil
}

// appendRow writes the values of the fields as a JSON object with its keys in order, which is the fields' order.
func (d *Declared) appendRow(b []byte, row []any) []byte {
	b = append(b, '{')
	for i, f := range d.fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), f.name...), `":`...) // a name has nothing to escape
		b = appendValue(b, row[i])
	}
	return append(b, '}')
}

// appendValue writes a value that plain has made as JSON, with the keys of objects in order. A double is always written as
// one, 2.0: so it is one again when it is read, and row.x has the same type whatever its value.
func appendValue(b []byte, v any) []byte {
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
			b = appendValue(b, item)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendValue(b, name), ':')
			b = appendValue(b, v[name])
		}
		return append(b, '}')
	case string:
		return domain.AppendJSONText(b, v)
	}
	return b // there is nothing else
}
