package eventstore

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/domain"
)

// appendTexts appends texts as a JSON object with sorted keys, exactly as encoding/json does. Every delivery has some,
// written at the door and read by a writer: encoding/json took 6 % of what a node spends on one.
func appendTexts(b []byte, texts map[string]string) []byte {
	b = append(b, '{')
	for i, key := range slices.Sorted(maps.Keys(texts)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(domain.AppendJSONText(b, key), ':')
		b = domain.AppendJSONText(b, texts[key])
	}
	return append(b, '}')
}

// readTexts reads an object of texts. One as appendTexts writes it, of plain characters, is cut up; any other is left to
// encoding/json, which says what it refuses.
func readTexts(object string) (texts map[string]string, err error) {
	if texts, ok := cutTexts(object); ok {
		return texts, nil
	}
	err = json.Unmarshal([]byte(object), &texts)
	return texts, err
}

func cutTexts(object string) (texts map[string]string, ok bool) {
	rest, ok := strings.CutPrefix(object, "{")
	if !ok {
		return nil, false
	}
	texts = make(map[string]string, strings.Count(object, ","))
	for end := ","; end == ","; {
		var key, value string
		if key, rest, ok = cutText(rest); !ok || !strings.HasPrefix(rest, ":") {
			return nil, false
		}
		if value, rest, ok = cutText(rest[1:]); !ok || rest == "" {
			return nil, false
		}
		texts[key], end, rest = value, rest[:1], rest[1:]
		if end == "}" {
			return texts, rest == ""
		}
	}
	return nil, false
}

// cutText takes a JSON text off s when it has no escapes and nothing that would need one.
func cutText(s string) (text, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[1:i], s[i+1:], true
		case c < ' ' || c > '~' || c == '\\':
			return "", "", false
		}
	}
	return "", "", false
}
