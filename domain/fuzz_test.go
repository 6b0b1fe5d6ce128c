package domain

import (
	"regexp"
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

// FuzzMatchType compares with a regular expression that says the same.
func FuzzMatchType(f *testing.F) {
	f.Add("stripe.*", "stripe.charge.succeeded")
	f.Add("*", "")
	f.Add("a*b*b", "axbb")
	f.Add("*ab*ab", "abxab")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(name) || len(pattern) > 500 { // what a regular expression takes
			return
		}
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		want := regexp.MustCompile(`(?s)\A` + strings.Join(parts, ".*") + `\z`).MatchString(name)
		if got := MatchType(pattern, name); got != want {
			t.Fatalf("%q matches %q: %v", pattern, name, got)
		}
	})
}
