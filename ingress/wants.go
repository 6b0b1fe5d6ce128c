package ingress

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
)

// wants is what a provider's row needs of a body: the paths, as a tree of keys. It is never changed once made.
type wants struct {
	root  key
	paths []string // of every key in the tree by its number, those on the way included
}

type key struct {
	name   string
	number int
	above  *key
	below  []*key
}

// wanted makes the tree of paths such as "data.object.customer", which are keys of objects, case and all. Nothing in
// an array has a path.
func wanted(paths ...string) *wants {
	w := &wants{paths: []string{""}}
	for _, path := range paths {
		at, end := &w.root, 0
		for name := range strings.SplitSeq(path, ".") {
			end += len(name)
			next := at.child([]byte(name))
			if next == nil {
				next = &key{name: name, number: len(w.paths), above: at}
				at.below = append(at.below, next)
				w.paths = append(w.paths, path[:end])
			}
			at = next
			end++ // the dot
		}
	}
	return w
}

func (k *key) child(name []byte) *key {
	for _, c := range k.below {
		if c.name == string(name) {
			return c
		}
	}
	return nil
}

// values is what was found of what was wanted. It refers to the body.
type values struct {
	form  bool // the JSON came in a form
	wants *wants
	tails [][]byte // by the key's number: the body from where its value begins; nil if the key isn't there
}

// find checks that the body is JSON (RFC 8259; what encoding/json.Valid accepts, as UTF-8) and finds the wanted values,
// in one pass, without recursion and without keeping anything else. A key that stands twice in its object, anywhere, is
// an error of class Invalid that names its path: readers disagree on which of the two counts, so a delivery filed by
// one of them could be handled by the other.
func (w *wants) find(body []byte) (values, error) {
	s := scans.Get().(*scan)
	defer s.rest()
	s.body, s.tails, s.at = body, make([][]byte, len(w.paths)), &w.root
	if err := s.run(); err != nil {
		return values{}, err
	}
	if !utf8.Valid(body) {
		return values{}, notText(body)
	}
	if s.twice {
		if path := repeated(body); path != "" {
			return values{}, domain.Invalidf(path, "the key stands twice in the body")
		}
	}
	return values{wants: w, tails: s.tails}, nil
}

// tail returns the body from the value of path on. A path that the row doesn't list is a defect of the row.
func (v values) tail(path string) []byte {
	i := slices.Index(v.wants.paths, path)
	if i < 0 {
		panic("ingress: " + path + " is not among the wanted paths")
	}
	return v.tails[i]
}

// How far a body differs from what a provider documents is no ground to lose it: a value of another JSON type counts
// as one that isn't there.

// text returns the string at path.
func (v values) text(path string) string {
	if t := v.tail(path); byteAt(t, 0) == '"' {
		return string(unquoted(t[:stringEnd(t, 0)]))
	}
	return ""
}

// whole returns the number at path if it is written as an integer and is an int64.
func (v values) whole(path string) int64 {
	digits := v.digits(path)
	if digits == "" {
		return 0 // as nearly always, and parsing it would make an error
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// digits returns the number at path as it is written.
func (v values) digits(path string) string {
	t := v.tail(path)
	if c := byteAt(t, 0); c == '-' || c >= '0' && c <= '9' {
		return string(t[:numberEnd(t, 0)])
	}
	return ""
}

// ref returns the identifier at path: a string, a number, or an object that has one of these as its "id".
func (v values) ref(path string) string {
	id := path + ".id"
	return first(v.text(path), v.digits(path), v.text(id), v.digits(id))
}
