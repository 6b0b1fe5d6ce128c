package ingress

import (
	"net/http"
	"slices"
	"strings"
)

// Field is a place of a request where a text stands: a type, an id, a subject.
type Field struct {
	in    fieldKind
	name  string // of the header, or the path in the body, or the text itself; of a join what stands between
	names []string
	parts []Field
	whole bool // a join of which all parts must be there
}

type fieldKind int

const (
	fieldHeader fieldKind = iota
	fieldBody
	fieldKey
	fieldFixed
	fieldJoin
)

// InHeader is the value of a request header.
func InHeader(name string) Field { return Field{in: fieldHeader, name: http.CanonicalHeaderKey(name)} }

// InBody is the text or number at a path of the JSON body, or the "id" of an object there. Nothing in an array has a
// path.
func InBody(path string) Field { return Field{in: fieldBody, name: path} }

// KeyOf is the first of these keys that the JSON body has, for a provider whose type is a key.
func KeyOf(names ...string) Field { return Field{in: fieldKey, names: names} }

// Fixed is text itself.
func Fixed(text string) Field { return Field{in: fieldFixed, name: text} }

// Joined puts those of parts together that are there, with separator between them. It is nothing without the first, nor
// with nothing but fixed text.
func Joined(separator string, parts ...Field) Field {
	return Field{in: fieldJoin, name: separator, parts: parts}
}

// AllOf is Joined, and nothing if one of the parts isn't there. Ids are put together so: with a part less, two deliveries
// could have the same.
func AllOf(separator string, parts ...Field) Field {
	return Field{in: fieldJoin, name: separator, parts: parts, whole: true}
}

// each calls use with f and all that it is made of.
func (f Field) each(use func(Field)) {
	use(f)
	for _, part := range f.parts {
		part.each(use)
	}
}

func (f Field) of(h http.Header, b values) string {
	switch f.in {
	case fieldHeader:
		return h.Get(f.name)
	case fieldBody:
		return b.ref(f.name)
	case fieldKey:
		for _, name := range f.names {
			if b.tail(name) != nil {
				return name
			}
		}
	case fieldFixed:
		return f.name
	case fieldJoin:
		var texts []string
		said := false // by the request
		for i, part := range f.parts {
			text := part.of(h, b)
			if text == "" && (i == 0 || f.whole) {
				return ""
			}
			if text != "" {
				texts = append(texts, text)
				said = said || part.in != fieldFixed
			}
		}
		if !said {
			return ""
		}
		return strings.Join(texts, f.name)
	}
	return ""
}

// String is the field as documentation shows it.
func (f Field) String() string {
	switch f.in {
	case fieldHeader:
		return f.name
	case fieldBody:
		return "body." + f.name
	case fieldKey:
		return "the body's key"
	case fieldFixed:
		return `"` + f.name + `"`
	}
	var texts []string
	for _, part := range f.parts {
		texts = append(texts, part.String())
	}
	return strings.Join(texts, " + ")
}

// anyOf returns the first text that is there, and the name of its place.
func anyOf(fields []Field, h http.Header, b values) (text, name string) {
	for _, f := range fields {
		if text := f.of(h, b); text != "" {
			return text, f.String()
		}
	}
	return "", ""
}

// fileByFields is file for a row that has Type, ID and Subject. How far a request differs from what a provider
// documents is no ground to lose it: one that doesn't say its type is an "event".
func (p *Provider) fileByFields(h http.Header, b values) (reading, error) {
	var r reading
	r.kind, _ = anyOf(p.Type, h, b)
	r.kind = first(r.kind, "event")
	r.id, r.idField = anyOf(p.ID, h, b)
	r.key, _ = anyOf(p.Subject, h, b)
	return r, nil
}

// open returns what the provider says in a body: the body, or of a JSON Web Token its claims. It is used on bodies whose
// signature was verified.
func (p *Provider) open(body []byte) []byte {
	if p.Scheme.Algorithm != JWT || !p.Scheme.InBody {
		return body
	}
	t, err := p.Scheme.parseToken(strings.TrimSpace(string(body)))
	if err != nil {
		return body
	}
	return t.claims
}

// masked returns the body as it is stored: where a provider sends the secret itself in the body, asterisks stand in its
// place. Whoever reads the events could send in the provider's name otherwise.
func (p *Provider) masked(body []byte) []byte {
	s := &p.Scheme
	if s.Algorithm != Token || s.Field == "" {
		return body
	}
	out := slices.Clone(body)
	mask := func(in []byte, find *wants) { // in is part of out
		found, err := find.find(in)
		if err != nil {
			return // never: it was verified
		}
		if t := found.tail(s.Field); byteAt(t, 0) == '"' {
			for i := range t[:stringEnd(t, 0)-1] {
				if i > 0 {
					t[i] = '*'
				}
			}
		}
	}
	if s.Each == "" {
		mask(out, s.fields)
		return out
	}
	found, err := s.array.find(out)
	if err != nil {
		return out
	}
	items, _ := elements(found.tail(s.Each))
	for _, item := range items {
		mask(item, s.fields)
	}
	return out
}
