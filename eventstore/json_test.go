package eventstore

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestOutcomesAreTheJSONThatReflectionMakes fills every field of an outcome at random, whatever fields it has.
func TestOutcomesAreTheJSONThatReflectionMakes(t *testing.T) {
	r := seed(t)
	for range 5000 {
		var want domain.Outcome
		fill(r, reflect.ValueOf(&want).Elem())
		record, err := EncodeOutcome(want).record("o")
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if string(record.Value) != string(b) {
			t.Fatalf("\n got %s\nwant %s", record.Value, b)
		}
		got, ok := parseOutcome(b)
		if !ok {
			t.Fatalf("not read: %s", b)
		}
		var again domain.Outcome
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, again) {
			t.Fatalf("\n got %+v\nwant %+v\nfrom %s", got, again, b)
		}
	}
}

// TestStreamRowsAreTheJSONThatReflectionMakes does the same with the rows of streams.
func TestStreamRowsAreTheJSONThatReflectionMakes(t *testing.T) {
	r := seed(t)
	for range 5000 {
		var want StreamRow
		fill(r, reflect.ValueOf(&want).Elem())
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := appendStreamRow(nil, want); err != nil || string(got) != string(b) {
			t.Fatalf("\n got %s, %v\nwant %s", got, err, b)
		}
		var again StreamRow
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if got, err := decodeStreamRow(b); err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("\n got %+v, %v\nwant %+v", got, err, again)
		}
	}
}

// TestOutcomesOfOthersAreReadAsJSON: what our own writer wouldn't write is read by encoding/json, or refused by it.
func TestOutcomesOfOthersAreReadAsJSON(t *testing.T) {
	for _, text := range []string{
		`{ "kind":"delivery", "inbox": 7 }`, `{"inbox":7,"new":[1,{"a":"}"}],"kind":"delivery"}`, `{"kind":"delivery","inbox":7}`,
		`{"kind":"x","kind":"delivery","inbox":7,"events":null}`, `{"kind":"delivery","inbox":7,"commands":[]}`,
	} {
		if o, err := outcomeOf(&kgo.Record{Value: []byte(text)}); err != nil || o.Kind != "delivery" || o.Inbox != 7 {
			t.Errorf("%s: %+v, %v", text, o, err)
		}
	}
	for _, text := range []string{
		``, `{`, `[]`, `{"kind":"delivery"`, `{"kind":"delivery"}x`, `{"kind":"delivery",}`, `{"inbox":07}`, `{"inbox":"7"}`, `{"kind":"a` + "\n" + `"}`,
		`{"events":[{"id":"a"},]}`, `{"received":"yesterday"}`, `{"partition":4294967296}`, `{"version":-1}`, `{"kind":"\x"}`, `{"kind":"abc\`,
	} {
		if o, err := outcomeOf(&kgo.Record{Value: []byte(text)}); domain.ClassOf(err) != domain.Corrupt {
			t.Errorf("%s was read as %+v, %v", text, o, err)
		}
	}
}

func FuzzOutcome(f *testing.F) {
	f.Add([]byte(`{"kind":"delivery","id":"1","version":1,"events":[{"id":"a","type":"t","version":1,"offset":0}],"received":"2026-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := parseOutcome(b)
		if !ok {
			return
		}
		var want domain.Outcome
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("read what is no JSON: %q: %v", b, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\n got %+v\nwant %+v", b, got, want)
		}
	})
}

// fill sets v, at random, to something or to nothing.
func fill(r *rand.Rand, v reflect.Value) {
	const letters = "abcXYZ019-_./#:;, \"\\<>&\x00\x1f\x7f\nöß€😀\u2028"
	switch v.Interface().(type) {
	case time.Time:
		zone := time.UTC
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(4e9), r.Int64N(1e9)*r.Int64N(2)).In(zone)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.String:
		text := []rune(letters)
		if r.IntN(2) == 0 {
			text = text[:20] // plain, as most are
		}
		var s []rune
		for range r.IntN(12) {
			s = append(s, text[r.IntN(len(text))])
		}
		v.SetString(string(s))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt((r.Int64() >> (r.IntN(64))) * int64(1-2*r.IntN(2)))
	case reflect.Uint64:
		v.SetUint(r.Uint64() >> r.IntN(65))
	case reflect.Pointer:
		if r.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem())
		}
	case reflect.Slice:
		v.SetZero()
		for range r.IntN(4) {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			fill(r, v.Index(v.Len()-1))
		}
	default:
		panic("no way to fill a " + v.Type().String())
	}
}
