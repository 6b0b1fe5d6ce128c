package ingress

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// What is wrong with a body is found in the one pass of scan; where, only once it is to be said.

// maxPath bounds the path that a refusal names, in bytes. A body can nest much deeper.
const maxPath = 256

// place is a way into a document: an element for each array and object that is open.
type place []rung

type rung struct {
	object bool
	index  int    // in an array
	key    string // in an object
	seen   map[string]bool
	again  bool // the object had the key before
}

// String is the place as "data.items[3].id". A place that has no name is the body.
func (p place) String() string {
	var b strings.Builder
	for _, at := range p {
		switch {
		case b.Len() > maxPath:
		case !at.object:
			b.WriteString("[" + strconv.Itoa(at.index) + "]")
		case b.Len() > 0:
			b.WriteString("." + at.key)
		default:
			b.WriteString(at.key)
		}
	}
	path := b.String()
	if len(path) > maxPath {
		path = path[:maxPath] + "…"
	}
	if path == "" {
		path = "body"
	}
	return strings.ToValidUTF8(path, "\ufffd")
}

// repeated returns the path of the first key that stands twice in its object, or "" if there is none.
func repeated(body []byte) (path string) {
	walk(body, func(at place, _ []byte) bool {
		if len(at) == 0 || !at[len(at)-1].again {
			return true
		}
		path = at.String()
		return false
	})
	return path
}

// notText refuses a body that is not UTF-8, and says where.
func notText(body []byte) error {
	p := unreadable(errNotValid)
	walk(body, func(at place, quoted []byte) bool {
		if utf8.Valid(quoted) {
			return true
		}
		p.Field = at.String()
		return false
	})
	return p
}

// walk calls visit for each string in a body that is JSON by its grammar, keys included, until visit returns false.
func walk(body []byte, visit func(at place, quoted []byte) bool) {
	var at place
	isKey := false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; c {
		case '{', '[':
			at = append(at, rung{object: c == '{', seen: map[string]bool{}})
			isKey = c == '{'
		case '}', ']':
			at = at[:len(at)-1]
		case ':':
			isKey = false
		case ',':
			in := &at[len(at)-1]
			in.index++
			in.again = false
			isKey = in.object
		case '"':
			end := stringEnd(body, i)
			if isKey {
				in := &at[len(at)-1]
				in.key = string(unquoted(body[i:end]))
				in.again = in.seen[in.key]
				in.seen[in.key] = true
			}
			if !visit(at, body[i:end]) {
				return
			}
			i = end - 1
		}
	}
}
