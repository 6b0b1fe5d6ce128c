package ingress

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
)

const (
	jsonType      = "application/json"
	formType      = "application/x-www-form-urlencoded"
	multipartType = "multipart/form-data"
)

// format says how a body is read. Whatever it is, the bytes are kept as they are.
type format int

const (
	asJSON format = iota
	asForm
	asMultipart
	asXML
	asText
	asBytes // not read at all
)

// content is what a request says about its body.
type content struct {
	format   format
	boundary string // of multipart
	encoding string // "gzip", "deflate" or "" for none
}

// contentOf reads Content-Type and Content-Encoding. The type must be one of those that are taken; one that the
// provider's row names is JSON unless it is plainly something else: Amazon SNS, for example, calls its JSON text/plain.
func contentOf(p Provider, taken []string, header http.Header) (content, error) {
	var c content
	for _, name := range []string{"Content-Type", "Content-Encoding"} {
		if len(header[name]) > 1 {
			return c, ambiguous(name)
		}
	}
	media := header.Get("Content-Type")
	var params map[string]string
	if media != jsonType {
		var err error
		// A broken parameter leaves the type readable, and only multipart needs one.
		if media, params, err = mime.ParseMediaType(media); err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
			media = ""
		}
	}
	if !slices.ContainsFunc(taken, func(pattern string) bool { return matchesMedia(pattern, media) }) {
		return c, refuse(415, "unsupported-media-type", "The content type is not one that this source takes",
			"it takes %s", strings.Join(taken, " or "))
	}
	c.format = formatOf(media, slices.Contains(p.ContentTypes, media))
	if c.boundary = params["boundary"]; c.format == asMultipart && c.boundary == "" {
		return c, unreadable(errors.New("the content type has no boundary"))
	}
	switch e := strings.ToLower(strings.TrimSpace(header.Get("Content-Encoding"))); e {
	case "", "identity":
	case "gzip", "x-gzip":
		c.encoding = "gzip"
	case "deflate":
		c.encoding = "deflate"
	default:
		p := refuse(415, "unsupported-media-type", "The content encoding is not one that this source takes", "it takes gzip and deflate")
		p.accept = "gzip, deflate" // RFC 9110, section 12.5.3
		return c, p
	}
	return c, nil
}

func ambiguous(name string) *problem {
	p := refuse(400, "ambiguous-header", "A header stands more than once", "readers disagree on which %s counts", name)
	p.Field = name
	return p
}

// matchesMedia matches a media type with one, or with a range such as text/* or */*.
func matchesMedia(pattern, media string) bool {
	if pattern == media || pattern == "*/*" {
		return true
	}
	kind, all := strings.CutSuffix(pattern, "/*")
	return all && strings.HasPrefix(media, kind+"/")
}

// checkMedia reports a content type of a configuration that no request can have.
func checkMedia(pattern string) error {
	kind, sub, ok := strings.Cut(pattern, "/")
	media, params, err := mime.ParseMediaType(strings.ReplaceAll(pattern, "*", "x"))
	if !ok || err != nil || len(params) > 0 || strings.ReplaceAll(pattern, "*", "x") != media ||
		kind == "*" && sub != "*" || kind != "*" && strings.Contains(kind, "*") || sub != "*" && strings.Contains(sub, "*") {
		return fmt.Errorf("content_types: %.64q is no media type such as application/json, text/* or */*, in lower case and without parameters", pattern)
	}
	return nil
}

func formatOf(media string, ofRow bool) format {
	kind, sub, _ := strings.Cut(media, "/")
	switch {
	case media == formType:
		return asForm
	case media == multipartType:
		return asMultipart
	case sub == "xml", strings.HasSuffix(sub, "+xml"):
		return asXML
	case ofRow, sub == "json", strings.HasSuffix(sub, "+json"):
		return asJSON
	case kind == "text", sub == "x-ndjson", sub == "yaml":
		return asText
	}
	return asBytes
}

// maxRatio is how many times larger a body may become when it is inflated, beyond firstRead. JSON stays below 30, a bomb
// reaches 1000.
const maxRatio = 100

// inflate undoes a Content-Encoding. The result is bounded like a body that came as it is, and in its ratio.
func inflate(sent []byte, encoding string, limit int64, hold *hold) ([]byte, error) {
	var r io.Reader
	var err error
	switch {
	case encoding == "gzip":
		r, err = gzip.NewReader(bytes.NewReader(sent))
	case len(sent) >= 2 && sent[0]&0x0f == 8 && (uint(sent[0])<<8|uint(sent[1]))%31 == 0:
		r, err = zlib.NewReader(bytes.NewReader(sent)) // what RFC 9110 calls deflate
	default:
		r = flate.NewReader(bytes.NewReader(sent)) // what many take it for
	}
	bound := min(limit, max(firstRead, maxRatio*int64(len(sent))))
	var body []byte
	if err == nil {
		body, err = fill(r, bound+1, bound, hold)
	}
	switch p, ok := errors.AsType[*problem](err); {
	case err == nil:
		return body, nil
	case ok && p.Status == http.StatusRequestEntityTooLarge && bound < limit:
		return nil, refuse(413, "body-too-large", "The body is too large", "it becomes more than %d times larger when it is inflated", maxRatio)
	case ok:
		return nil, p
	}
	p := unreadable(fmt.Errorf("the body is not %s", encoding))
	p.cause = err
	return nil, p
}

// document is a body as JSON: what a provider's row and expressions look into.
type document struct {
	json []byte
	form bool   // it came in a form
	kind string // what a delivery of this body is called if nothing else says it
}

// maxFields bounds the fields of a form.
const maxFields = 10_000

// textCost is how many bytes of memory a form or a text is taken to need for each of its bytes: a copy, its fields, and the
// JSON made of them. A text of nothing but control characters needs six.
const textCost = 6

// documentOf finds the JSON of a body. A body of a form's field "payload" is it, as GitHub, if told so, and Slack's
// interactivity send it; a form without one, such as a slash command's, becomes an object of its fields; XML becomes
// one of its elements; text a string; other bytes null.
func documentOf(body []byte, c content, hold *hold) (document, error) {
	switch c.format {
	case asForm, asMultipart, asText:
		if !hold.take(textCost * int64(len(body))) {
			return document{}, busy()
		}
	}
	switch c.format {
	case asForm:
		fields, err := url.ParseQuery(string(body))
		if err != nil {
			return document{}, unreadable(errors.New("the body is not a form"))
		}
		return formDocument(fields)
	case asMultipart:
		return multipartDocument(body, c.boundary)
	case asXML:
		if !hold.take(treeCost * int64(len(body))) {
			return document{}, busy()
		}
		return xmlDocument(body)
	case asText:
		if !utf8.Valid(body) {
			return document{json: []byte("null"), kind: "text"}, nil // in another encoding: it is kept all the same
		}
		b, err := json.Marshal(string(body))
		return document{json: b, kind: "text"}, err
	case asBytes:
		return document{json: []byte("null"), kind: "binary"}, nil
	}
	return document{json: body}, nil
}

// formDocument makes an object of fields. A field that stands twice is refused like a key of JSON, unless its name ends
// with "[]", as PHP calls a list.
func formDocument(fields map[string][]string) (document, error) {
	if len(fields) > maxFields {
		return document{}, unreadable(fmt.Errorf("the form has more than %d fields", maxFields))
	}
	object := make(map[string]any, len(fields))
	for name, values := range fields {
		shown := shortened(name)
		for _, text := range append(values, name) {
			if !utf8.ValidString(text) {
				p := unreadable(errNotValid)
				p.Field = shown
				return document{}, p
			}
		}
		switch {
		case strings.HasSuffix(name, "[]"):
			object[name] = values
		case len(values) > 1:
			return document{}, domain.Invalidf(shown, "the field stands twice in the form")
		default:
			object[name] = values[0]
		}
	}
	if payload, ok := object["payload"].(string); ok {
		return document{json: []byte(payload), form: true}, nil
	}
	b, err := json.Marshal(object)
	return document{json: b, form: true}, err
}

// multipartDocument makes an object of the fields of multipart/form-data. Of a file it has the name and the size.
func multipartDocument(body []byte, boundary string) (document, error) {
	broken := func() (document, error) {
		return document{}, unreadable(errors.New("the body is not multipart/form-data"))
	}
	fields := map[string][]string{}
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for n := 0; ; n++ {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil || n == maxFields {
			return broken()
		}
		name := part.FormName()
		if name == "" {
			return broken()
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return broken()
		}
		if file := part.FileName(); file != "" {
			value = fmt.Appendf(nil, "%s (%d bytes)", file, len(value))
		}
		fields[name] = append(fields[name], string(value))
	}
	return formDocument(fields)
}
