package ingress

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxElements bounds how deep XML nests. encoding/json's bound would hold too, but no sender of XML comes near this.
const maxElements = 1000

// maxAttributes bounds those of one element, which are compared with each other.
const maxAttributes = 1000

// element is one of a document that is read.
type element struct {
	name     string
	children map[string]any
	text     strings.Builder
}

// xmlDocument makes an object of an XML document, so that expressions can look into it: an element is its text, or an
// object if it has elements or attributes ("@name") in it, with its text as "#text"; elements of one name are a list.
// Names are without their namespace. The type of such a delivery is the name of the outermost element.
//
// A document type definition is refused, and with it all entities that a document could bring: what they stand for is
// up to the reader.
func xmlDocument(body []byte) (document, error) {
	broken := func(text string) (document, error) {
		return document{}, unreadable(errors.New("the body is not XML that is read here: " + text))
	}
	d := xml.NewDecoder(bytes.NewReader(body))
	d.CharsetReader = charset
	open := []*element{{children: map[string]any{}}} // the document itself, then the elements that are open
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return broken("it is not well-formed UTF-8 or ISO-8859-1")
		}
		top := open[len(open)-1]
		switch t := token.(type) {
		case xml.Directive:
			return broken("it has a document type definition")
		case xml.StartElement:
			if len(open) == 1 && len(top.children) > 0 {
				return broken("it has more than one outermost element")
			}
			if len(open) > maxElements {
				return broken("its elements nest too deep")
			}
			e := &element{name: t.Name.Local, children: map[string]any{}}
			if len(t.Attr) > maxAttributes {
				return broken(fmt.Sprintf("an element has more than %d attributes", maxAttributes))
			}
			for i, a := range t.Attr {
				if slices.ContainsFunc(t.Attr[:i], func(b xml.Attr) bool { return b.Name == a.Name }) {
					return broken("an attribute stands twice: " + shortened(a.Name.Local))
				}
				if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
					continue
				}
				e.add("@"+a.Name.Local, a.Value)
			}
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
			open[len(open)-1].add(top.name, top.value())
		case xml.CharData:
			if len(open) > 1 {
				top.text.Write(t)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return broken("it has text beside its outermost element")
			}
		}
	}
	root := open[0].children
	if len(root) == 0 {
		return broken("it has no element")
	}
	kind := ""
	for name := range root {
		kind = name
	}
	b, err := json.Marshal(root)
	return document{json: b, kind: kind}, err
}

// add puts a child beside those of the same name.
func (e *element) add(name string, value any) {
	switch before := e.children[name].(type) {
	case nil:
		e.children[name] = value
	case []any:
		e.children[name] = append(before, value)
	default:
		e.children[name] = []any{before, value}
	}
}

func (e *element) value() any {
	text := e.text.String()
	if len(e.children) == 0 {
		return text
	}
	if text = strings.TrimSpace(text); text != "" {
		e.children["#text"] = text
	}
	return e.children
}

// charset reads the one other encoding that is common in XML.
func charset(label string, r io.Reader) (io.Reader, error) {
	switch strings.ToLower(label) {
	case "us-ascii":
		return r, nil
	case "iso-8859-1", "latin1":
		b, err := io.ReadAll(r) // of a body that is bounded
		runes := make([]rune, len(b))
		for i, c := range b {
			runes[i] = rune(c)
		}
		return strings.NewReader(string(runes)), err
	}
	return nil, errors.New("an encoding that isn't read here")
}
