package ingress

import "strings"

// Text is how a row makes a text out of an item: the values of some paths, put together.
type Text struct {
	separator string
	paths     []itemPath
}

// textOf joins what stands at the paths. There is no text unless each is there; one with a '?' at its end may be absent,
// and is empty then, or left out if nothing comes behind it.
//
// A path goes from the item, by the keys of objects: "resource.gid"; it takes a string, a number or a boolean as it is
// written. "../" begins at the element around the item, or at the body. "target[0]" is an array's first element,
// "messages[].id" is all of them, joined with commas. A '~' at the end takes only what stands before the first dot.
// What begins with '=' is no path but the text itself.
func textOf(separator string, paths ...string) Text {
	t := Text{separator: separator}
	for _, p := range paths {
		t.paths = append(t.paths, parseItemPath(p))
	}
	return t
}

// textAt is the text at one path.
func textAt(path string) Text { return textOf("", path) }

// outer remembers what the paths that begin at an element around the item have led to. All the items in that element have
// it in common, and looking it up for each of them made a batch cost its items times its size.
type outer map[*itemPath]shared

// shared is the last answer of a path.
type shared struct {
	around *byte // where the element begins
	text   string
	err    error
}

// maxShared bounds a text that the items of an element have in common, in bytes: longer ones count by their hash. A copy of
// it stands in the id of each item, so its length times theirs is what a batch could cost.
const maxShared = 1024

// of is what stands at p. Items come in their order, so that the last element that was looked at is enough.
func (o outer) of(p *itemPath, levels [][]byte) (string, error) {
	if p.up == 0 || p.literal != "" {
		return p.of(levels)
	}
	if p.up >= len(levels) {
		panic("ingress: a path of a batch leaves the body")
	}
	around := &levels[len(levels)-1-p.up][0] // a value of JSON is never empty
	if known, ok := o[p]; ok && known.around == around {
		return known.text, known.err
	}
	s := shared{around: around}
	if s.text, s.err = p.of(levels); len(s.text) > maxShared {
		s.text = hashed(s.text)
	}
	o[p] = s
	return s.text, s.err
}

// first is the first text that there is.
func (o outer) first(texts []Text, levels [][]byte) (string, error) {
	for _, t := range texts {
		s, err := t.of(o, levels)
		if s != "" || err != nil {
			return s, err
		}
	}
	return "", nil
}

func (t Text) of(o outer, levels [][]byte) (string, error) {
	var parts []string
	last := 0
	for i := range t.paths {
		p := &t.paths[i]
		s, err := o.of(p, levels)
		if err != nil || s == "" && !p.optional {
			return "", err
		}
		if parts = append(parts, s); s != "" {
			last = i + 1
		}
	}
	return strings.Join(parts[:last], t.separator), nil
}

// itemPath is a parsed path of textOf, or of an array.
type itemPath struct {
	literal  string
	up       int // elements around the item to leave
	steps    []hop
	cut      bool // before the first dot
	optional bool
}

// hop goes from a value to one in it.
type hop struct {
	key   string // of an object, or
	array bool   // into an array: its first element, or
	all   bool   // each of them
}

func parseItemPath(text string) itemPath {
	var p itemPath
	if literal, ok := strings.CutPrefix(text, "="); ok {
		p.literal = literal
		return p
	}
	for strings.HasPrefix(text, "../") {
		text = text[len("../"):]
		p.up++
	}
	text, p.optional = strings.CutSuffix(text, "?")
	text, p.cut = strings.CutSuffix(text, "~")
	for name := range strings.SplitSeq(text, ".") {
		name, all := strings.CutSuffix(name, "[]")
		name, begin := strings.CutSuffix(name, "[0]")
		if name != "" {
			p.steps = append(p.steps, hop{key: name})
		}
		if all || begin {
			p.steps = append(p.steps, hop{array: true, all: all})
		}
	}
	return p
}

func (p *itemPath) of(levels [][]byte) (string, error) {
	if p.literal != "" {
		return p.literal, nil
	}
	var found []string
	_, err := eachValue(levels[len(levels)-1-p.up:len(levels)-p.up], p.steps, func(levels [][]byte) error {
		if s := scalarOf(levels[len(levels)-1]); s != "" {
			found = append(found, s)
		}
		return nil
	})
	text := strings.Join(found, ",")
	if p.cut {
		text, _, _ = strings.Cut(text, ".")
	}
	return text, err
}
