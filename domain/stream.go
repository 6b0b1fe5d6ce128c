package domain

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxStreamLen bounds the text of a stream in bytes. It is the Kafka key of every record of the stream.
const MaxStreamLen = 512

// Stream names one ordered history as "category/key", for example "billing/cus_9" or "github/octo/hello#12".
// The category runs to the first slash; the key may contain further slashes. A stream decides the partition and the
// order of its events. The zero value is not a valid stream.
type Stream string

// NewStream joins a category and a key and checks the result.
func NewStream(category, key string) (Stream, error) {
	return ParseStream(category + "/" + key)
}

// ParseStream checks s and returns it as a Stream. The error is of class Invalid and names the field "stream".
func ParseStream(s string) (Stream, error) {
	category, key, ok := strings.Cut(s, "/")
	switch {
	case !ok || category == "" || key == "":
		return "", Invalidf("stream", "a stream is category/key, got %q", s)
	case len(s) > MaxStreamLen:
		return "", Invalidf("stream", "a stream is at most %d bytes, got %d", MaxStreamLen, len(s))
	case !utf8.ValidString(s):
		return "", Invalidf("stream", "a stream is valid UTF-8")
	case strings.IndexFunc(s, unicode.IsControl) >= 0:
		return "", Invalidf("stream", "a stream has no control characters")
	}
	for _, r := range category {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return "", Invalidf("stream", "a category has only letters, digits, '-', '_' and '.', got %q", category)
		}
	}
	return Stream(s), nil
}

// Category is the part before the first slash.
func (s Stream) Category() string {
	category, _, _ := strings.Cut(string(s), "/")
	return category
}

// Key is the part after the first slash.
func (s Stream) Key() string {
	_, key, _ := strings.Cut(string(s), "/")
	return key
}
