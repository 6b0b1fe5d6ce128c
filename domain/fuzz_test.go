package domain

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParseStream: what is a stream has a category and a key, and is the same when it is put together again.
func FuzzParseStream(f *testing.F) {
	for _, s := range []string{"github/octo/hello#12", "billing/cus_9", "", "/", "a/", "/b", "a//b", "a/\x00", "a/\xff", "é/ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		stream, err := ParseStream(s)
		if err != nil {
			if ClassOf(err) != Invalid {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		again, err := NewStream(stream.Category(), stream.Key())
		if err != nil || again != stream || string(stream) != s || stream.Category() == "" || stream.Key() == "" || !utf8.ValidString(s) {
			t.Fatalf("%q is category %q and key %q, and %q when put together, %v", s, stream.Category(), stream.Key(), again, err)
		}
	})
}

// FuzzMatchType: a pattern is a type, or one with an open end.
func FuzzMatchType(f *testing.F) {
	f.Add("stripe.*", "stripe.charge.succeeded")
	f.Add("*", "")
	f.Add("a*b*", "axb")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		got := MatchType(pattern, name)
		prefix, open := strings.CutSuffix(pattern, "*")
		want := pattern == name || open && strings.HasPrefix(name, prefix)
		if got != want {
			t.Fatalf("%q matches %q: %v", pattern, name, got)
		}
	})
}
