package ingress

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

const (
	// maxItems bounds the items of one batch: they are appended in the transaction of the batch's own event.
	maxItems = 10_000
	// batchKind is the type of every delivery of a provider that sends batches, without the provider's name. What is
	// in the batch has the items' own types.
	batchKind = "batch"
	// itemKind is the type of an item that says none, or one that can't be a type.
	itemKind = "item"
)

// Split says how the requests of a provider that sends several events in one are taken apart. A request with one
// item is a batch all the same, so that an event has the same type and the same shape however it was grouped.
type Split struct {
	Form  string  // the form field that holds the JSON; empty when the body is the JSON
	Items []Items // a body has at least one of these arrays
}

// Items says where items stand, and what they are called. For each of ID, Type and Key the first text that the item has
// counts.
type Items struct {
	Array string // as "entry[].changes[]"; "[]" is the body itself
	// ID is the item's own id. It holds everything that tells two items apart, and nothing that a retry changes. An
	// item without one goes by the id of its batch and its number.
	ID   []Text
	Type []Text // "item" if there is none
	Key  []Text // of its stream; the item's id if there is none
}

// batchReading is what a batch is called, whatever the row finds or misses in it: its own id counts, if it has one.
func batchReading(r reading) reading {
	return reading{kind: batchKind, id: r.id, idField: r.idField, bare: r.bare}
}

// SplitBatch takes a batch apart. Each item becomes a delivery of its own: its body is the exact bytes of the item, its
// verification names the batch, and it is recorded with the headers of the batch alone, which the batch keeps. It is
// pure, and returns nothing for a delivery that is no batch.
//
// An error is of class Invalid: the body has none of the arrays, has a key twice on the way to a value, or more than
// 10,000 items. It is all or nothing, so that a batch that can't be read is set aside whole, and can be split later.
func SplitBatch(p Provider, e eventstore.Entry) ([]eventstore.Entry, error) {
	return splitBatch(p, e, nil)
}

// Split takes the batch e of one of the handler's sources apart, with the source's own stream expression. A delivery
// that is no batch gives nothing.
func (h *Handler) Split(e eventstore.Entry) ([]eventstore.Entry, error) {
	name, batch := strings.CutSuffix(e.Type, "."+batchKind)
	if !batch || e.Kind != eventstore.KindDelivery {
		return nil, nil
	}
	if rt := (*h.routes.Load())[e.Source]; rt != nil && rt.provider.Name == name {
		return splitBatch(rt.provider, e, rt.stream)
	}
	if strings.Contains(name, ".") { // a type like "stripe.payout.batch"
		return nil, nil
	}
	// Taken in by another configuration than the present one.
	if p, ok := ProviderNamed(name); ok && p.Split == nil {
		return nil, nil
	}
	return nil, domain.Invalidf("source", "%s is a batch of %s, and there is no such source any more", e.Source, name)
}

func splitBatch(p Provider, e eventstore.Entry, stream *streamRule) ([]eventstore.Entry, error) {
	if p.Split == nil {
		return nil, nil
	}
	body := e.Body
	if p.Split.Form != "" {
		fields, err := url.ParseQuery(string(e.Body))
		if err != nil || len(fields[p.Split.Form]) != 1 {
			return nil, domain.Invalidf(p.Split.Form, "the body is not a form with one field of this name")
		}
		body = []byte(fields.Get(p.Split.Form))
	}
	body = bytes.Trim(body, " \t\r\n")
	if !json.Valid(body) { // the rest relies on it
		return nil, domain.Invalidf("body", "the body is not JSON")
	}
	type item struct {
		of     Items
		levels [][]byte
	}
	var items []item
	found := false
	for _, of := range p.Split.Items {
		there, err := eachValue([][]byte{body}, parseItemPath(of.Array).steps, func(levels [][]byte) error {
			if items = append(items, item{of, levels}); len(items) > maxItems {
				return domain.Invalidf("body", "a batch has at most %d items", maxItems)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		found = found || there
	}
	if !found {
		return nil, domain.Invalidf("body", "the body of a %s batch has an array %s", p.Name, p.Split.arrays())
	}
	b := batch{provider: p, entry: e, stream: stream, outer: outer{}, verification: e.Verification + "; part of " + e.ID}
	if stream != nil {
		b.header = make(http.Header, len(e.Headers))
		for name, value := range e.Headers {
			b.header.Set(name, value)
		}
	}
	children := make([]eventstore.Entry, 0, len(items))
	for n, i := range items {
		child, err := b.child(i.of, i.levels, n)
		if err != nil {
			return nil, err
		}
		children = append(children, child)
	}
	return children, nil
}

func (s *Split) arrays() string {
	var names []string
	for _, items := range s.Items {
		names = append(names, strconv.Quote(items.Array))
	}
	return strings.Join(names, " or ")
}

// batch is one that is taken apart, and what its items share.
type batch struct {
	provider     Provider
	entry        eventstore.Entry
	stream       *streamRule // nil without one
	header       http.Header // for the stream rule
	outer        outer
	verification string
}

// child makes the delivery of an item, the last of levels. An item is never lost to what it says of itself: an id, a
// type or a key that can't be one counts as one that isn't there.
func (b *batch) child(items Items, levels [][]byte, n int) (eventstore.Entry, error) {
	p, e, item := b.provider, b.entry, levels[len(levels)-1]
	child := eventstore.Entry{
		Kind: eventstore.KindDelivery, Source: e.Source, Received: e.Received, ContentType: jsonType,
		Verification: b.verification, Correlation: first(e.Correlation, e.ID),
		TraceParent: e.TraceParent, Body: item,
	}
	id, err := b.outer.first(items.ID, levels)
	if err != nil {
		return child, err
	}
	// In a replay an item has the id and the stream that it had before; the writer makes a replay of it.
	child.ID = itemID(id, first(e.ReplayOf, e.ID), n)
	kind, err := b.outer.first(items.Type, levels)
	if err != nil {
		return child, err
	}
	if child.Type, err = typeName(p.Name, kind); err != nil || kind == batchKind {
		child.Type = p.Name + "." + itemKind
	}
	key, err := b.outer.first(items.Key, levels)
	if err != nil {
		return child, err
	}
	if b.stream != nil { // the operator's own rule: if it fails, it is to be mended, and the batch waits for that
		if key, err = b.stream.key(&subject{
			header: b.header, document: document{json: item}, id: child.ID, kind: child.Type, source: e.Source,
		}); err != nil {
			return child, fmt.Errorf("item %d: %w", n, err)
		}
		child.Stream, err = domain.NewStream(e.Source, key)
		return child, err
	}
	if child.Stream, err = domain.NewStream(e.Source, key); err != nil {
		child.Stream, err = domain.NewStream(e.Source, child.ID)
	}
	return child, err
}

// itemID is the id of item n. What can't be an id, for its length or its characters, still identifies: by its hash.
func itemID(own, batch string, n int) string {
	switch {
	case own == "":
		return batch + "#" + strconv.Itoa(n)
	case len(own) > maxID, !utf8.ValidString(own), strings.ContainsFunc(own, unicode.IsControl):
		return hashed(own)
	}
	return own
}

func hashed(text string) string {
	h := sha256.Sum256([]byte(text))
	return "sha256-" + hex.EncodeToString(h[:])
}

// eachValue calls visit for every value that the steps lead to from the last of levels, with the elements of arrays on the
// way added to levels. It reports whether the way led to the end, be it an empty array or null.
func eachValue(levels [][]byte, steps []hop, visit func([][]byte) error) (there bool, err error) {
	value := levels[len(levels)-1]
	for i, s := range steps {
		if !s.array {
			if value, err = memberOf(value, s.key); value == nil || err != nil {
				return false, err
			}
			continue
		}
		if byteAt(value, 0) != '[' {
			return string(value) == "null", nil
		}
		at := space(value, 1)
		there = i == len(steps)-1 || byteAt(value, at) == ']'
		for byteAt(value, at) != ']' {
			end := valueEnd(value, at)
			inner, err := eachValue(append(levels[:len(levels):len(levels)], value[at:end:end]), steps[i+1:], visit)
			if err != nil {
				return there, err
			}
			if there = there || inner; !s.all {
				break
			}
			if at = space(value, end); byteAt(value, at) == ',' {
				at = space(value, at+1)
			}
		}
		return there, nil
	}
	return true, visit(append(levels[:len(levels)-1:len(levels)-1], value))
}

// memberOf returns the value of a key of the object b, nil if there is none. A key that stands twice is refused: readers
// disagree on which of the two counts.
func memberOf(b []byte, name string) (value []byte, err error) {
	if byteAt(b, 0) != '{' {
		return nil, nil
	}
	for i := space(b, 1); byteAt(b, i) == '"'; {
		end := stringEnd(b, i)
		key := unquoted(b[i:end])
		begin := space(b, space(b, end)+1) // past the colon
		end = valueEnd(b, begin)
		if string(key) == name {
			if value != nil {
				return nil, domain.Invalidf(name, "the key stands twice in the body")
			}
			value = b[begin:end:end]
		}
		if i = space(b, end); byteAt(b, i) == ',' {
			i = space(b, i+1)
		}
	}
	return value, nil
}

// valueEnd returns the index after the value that begins at b[i]. The text is known to be JSON.
func valueEnd(b []byte, i int) int {
	depth := 0
	for {
		switch byteAt(b, i) {
		case '"':
			i = stringEnd(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		default:
			if depth > 0 {
				i++ // what stands between is nothing's end
				continue
			}
			if n := bytes.IndexAny(b[i:], ",]} \t\r\n"); n >= 0 {
				return i + n
			}
			return len(b)
		}
		if depth == 0 {
			return i
		}
	}
}

// scalarOf returns a string's content, or a number or boolean as it is written.
func scalarOf(b []byte) string {
	switch byteAt(b, 0) {
	case '"':
		return string(unquoted(b))
	case '{', '[', 'n', 0:
		return ""
	}
	return string(b)
}
