package eventstore

import (
	"encoding/json"
	"maps"
	"testing"
)

// FuzzObject: whatever stands in a record's headers is read as encoding/json reads it, and written as it writes it.
func FuzzObject(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `{"a":"b"}`, `{"a":"b","c":""}`, `{"":"b"}`, `{"a":"b","a":"c"}`, `{"a":"b",}`, `{"a":"b"} `, ` {"a":"b"}`, `{"a" :"b"}`,
		`{"a":"b"`, `{"a":"b"}}`, `{"a":"b";"c":"d"}`, `{"a":"\u0041"}`, `{"a":"é"}`, "{\"a\":\"\xff\"}", "{\"a\":\"\n\"}", `{"a":null}`, `{"a":1}`,
		`{"a":"b","c":`, `{"a"`, `{"a`, `{"a":`, `{"a":"`, `null`, `[]`, `{"a":"<&>"}`, "{\"a\":\"\x7f\"}", `{"a":"b"}{`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var want map[string]string
		bad := json.Unmarshal([]byte(text), &want)
		got, err := readObject(text)
		if (err == nil) != (bad == nil) || !maps.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q, %v", text, got, err, want, bad)
		}
		if written, _ := json.Marshal(got); got != nil && string(written) != string(appendObject(nil, got)) {
			t.Errorf("%s, want %s", appendObject(nil, got), written)
		}
	})
}
