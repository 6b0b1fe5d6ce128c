package projections

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/domain"
)

const maxIndexText = 512 // bytes of a text in an index key; longer ones are cut

// index makes an index over fields of the row.
func (d *Declared) index(names []string) (Index, error) {
	if len(names) == 0 || len(names) > 4 {
		return Index{}, errors.New("an index is over 1 to 4 fields")
	}
	for _, n := range names {
		if !slices.ContainsFunc(d.fields, func(f field) bool { return f.name == n }) {
			return Index{}, fmt.Errorf("the row has no field %q", n)
		}
	}
	return FieldIndex(names...), nil
}

// FieldIndex is an index over fields of rows that are JSON objects. A row without the first field isn't in it.
func FieldIndex(names ...string) Index {
	return Index{Name: strings.Join(names, ","), Keys: func(_ string, row []byte) ([][]byte, error) {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(row, &fields); err != nil {
			return nil, fmt.Errorf("the row is no JSON object: %w", err)
		}
		if fields[names[0]] == nil {
			return nil, nil
		}
		var key []byte
		for _, n := range names {
			var v any // a field that isn't there sorts as null
			if raw := fields[n]; raw != nil {
				var err error
				if v, err = domain.DecodeJSON(raw); err != nil {
					return nil, err
				}
			}
			key = AppendIndexKey(key, v)
		}
		return [][]byte{key}, nil
	}}
}

// The kinds of values in an index key, in the order in which they sort.
const (
	kindNull   = 0x10
	kindFalse  = 0x20
	kindTrue   = 0x21
	kindNumber = 0x30
	kindText   = 0x40
	kindOther  = 0x50
)

// AppendIndexKey appends a value so that keys sort as values do: null, false, true, numbers, texts, everything else. No
// zero byte comes out of it.
//
// A number is its double's bits, turned so that they sort, and then by how much a whole number differs from that double,
// in groups of seven bits with the high bit set. A text ends with 0x01; 0x00 and 0x01 in it become 0x02 0x01 and 0x02
// 0x02, and 0x02 becomes 0x02 0x03. One that is cut has 0xff, which no text has, before its end.
func AppendIndexKey(key []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(key, kindNull)
	case bool:
		if v {
			return append(key, kindTrue)
		}
		return append(key, kindFalse)
	case int64:
		f := float64(v)
		whole := int64(math.MinInt64) // 2⁶³ doesn't fit; the difference comes out right all the same
		if f < 1<<63 {
			whole = int64(f)
		}
		return appendNumber(append(key, kindNumber), f, v-whole)
	case float64:
		return appendNumber(append(key, kindNumber), v, 0)
	case string:
		return append(appendIndexText(append(key, kindText), v), 0x01)
	}
	return append(key, kindOther)
}

// appendNumber appends f + rest. A double is at most 512 away from any int64.
func appendNumber(key []byte, f float64, rest int64) []byte {
	if f == 0 {
		f = 0 // and not −0
	}
	bits := math.Float64bits(f)
	if bits>>63 == 1 {
		bits = ^bits
	} else {
		bits |= 1 << 63
	}
	for shift := 63; shift >= 0; shift -= 7 {
		key = append(key, 0x80|byte(bits>>shift)&0x7f)
	}
	rest += 1 << 13
	return append(key, 0x80|byte(rest>>7)&0x7f, 0x80|byte(rest)&0x7f)
}

func appendIndexText(key []byte, s string) []byte {
	if len(s) > maxIndexText {
		return append(appendIndexText(key, s[:maxIndexText]), 0xff)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == 0:
			key = append(key, 0x02, 0x01)
		case c == 1:
			key = append(key, 0x02, 0x02)
		case c == 2:
			key = append(key, 0x02, 0x03)
		default:
			key = append(key, c)
		}
	}
	return key
}
