package eventstore

import (
	"encoding/json"
	"maps"
	"testing"
)

// FuzzTexts: whatever stands in a record's headers is read as encoding/json reads it, and written as it writes it.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `{"a":"b"}`, `{"a":"b","c":""}`, `{"":"b"}`, `{"a":"b","a":"c"}`, `{"a":"b",}`, `{"a":"b"} `, ` {"a":"b"}`, `{"a" :"b"}`,
		`{"a":"b"`, `{"a":"b"}}`, `{"a":"b";"c":"d"}`, `{"a":"\u0041"}`, `{"a":"é"}`, "{\"a\":\"\xff\"}", "{\"a\":\"\n\"}", `{"a":null}`, `{"a":1}`,
		`{"a":"b","c":`, `{"a"`, `{"a`, `{"a":`, `{"a":"`, `null`, `[]`, `{"a":"<&>"}`, "{\"a\":\"\x7f\"}", `{"a":"b"}{`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, object string) {
		var want map[string]string
		bad := json.Unmarshal([]byte(object), &want)
		got, err := readTexts(object)
		if (err == nil) != (bad == nil) || !maps.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q, %v", object, got, err, want, bad)
		}
		if written, _ := json.Marshal(got); got != nil && string(written) != string(appendTexts(nil, got)) {
			t.Errorf("%s, want %s", appendTexts(nil, got), written)
		}
	})
}
