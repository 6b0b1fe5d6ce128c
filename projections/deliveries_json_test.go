package projections

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// TestRowsOfDeliveriesAreTheJSONThatReflectionMakes fills every field at random, whatever fields there are.
func TestRowsOfDeliveriesAreTheJSONThatReflectionMakes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		var d Delivery
		fill(t, r, reflect.ValueOf(&d).Elem())
		if d.Events == nil {
			d.Events = []domain.EventRef{}
		}
		want, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendDelivery(nil, &d); string(got) != string(want) {
			t.Fatalf("\n got %s\nwant %s", got, want)
		}
	}
}

// fill sets v, at random, to something or to nothing.
func fill(t *testing.T, r *rand.Rand, v reflect.Value) {
	if _, ok := v.Interface().(time.Time); ok {
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(4e9), r.Int64N(1e9)*r.Int64N(2)).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, r, v.Field(i))
		}
	case reflect.String:
		text := []rune("abcXYZ019-_./#:;, \"\\<>&\x00\x1f\x7f\nöß€😀\u2028")
		if r.IntN(2) == 0 {
			text = text[:18] // plain, as most are
		}
		var s []rune
		for range r.IntN(12) {
			s = append(s, text[r.IntN(len(text))])
		}
		v.SetString(string(s))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt((r.Int64() >> r.IntN(64)) * int64(1-2*r.IntN(2)))
	case reflect.Uint64:
		v.SetUint(r.Uint64() >> r.IntN(65))
	case reflect.Pointer:
		if r.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, r, v.Elem())
		}
	case reflect.Slice:
		for range r.IntN(4) {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			fill(t, r, v.Index(v.Len()-1))
		}
	default:
		t.Fatalf("no way to fill a %s", v.Type())
	}
}
