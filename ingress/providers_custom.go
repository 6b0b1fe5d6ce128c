package ingress

import (
	"crypto/sha1"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Custom is a row that an operator wrote: what Scheme and Provider say, as text. Only Header is needed.
type Custom struct {
	Docs      string
	Algorithm string // hmac-sha256, the default, hmac-sha1, hmac-sha512, ed25519, ecdsa-p256-sha256, rsa-sha256, token, basic, none
	Header    string
	Encoding  string // hex, the default, base64 or base64url
	Key       string // verbatim, the default, whsec, hex, base64 or sha1
	Layout    string // prefixed, the default, pairs, tagged, list or positional
	Prefix    string // of the signature, in layout prefixed
	Label     string // the key or tag of a signature, in layouts pairs and tagged
	Separator string // of entries
	Assign    string // between a key or tag and its value
	// Message is what is signed, for example "{timestamp}.{body}"; "{body}" by default. Beside these it may have {method},
	// {url}, {path}, {header:‹name›}, {query:‹name›}, {form:‹name›}, {form}, {json:‹path›} and {secret}. "{{" is a brace.
	Message   string
	Timestamp CustomTime
	// Type, ID and Subject are lists of which the first that is there counts: {header:‹name›}, {body:‹path›}, several of
	// these with one separator between them, or plain text.
	Type         []string
	ID           []string
	Subject      []string
	Repeats      bool // equal bodies may be different news
	ContentTypes []string
	MaxBody      int64
	Inflated     bool     // the signature is over a compressed body as it was before
	Keep         []string // headers recorded with each delivery; a trailing * stands for any ending
}

// CustomTime says where the timestamp stands: in a header, under a key of layout pairs, or at a path of the JSON body. In
// layout positional it is the first entry.
type CustomTime struct {
	Header    string
	Key       string
	Body      string
	Unit      string // seconds, the default, milliseconds, iso or epoch
	Tolerance time.Duration
}

var (
	customAlgorithms = map[string]Algorithm{
		"": HMAC, "hmac-sha1": HMAC, "hmac-sha256": HMAC, "hmac-sha512": HMAC, "ed25519": Ed25519, "ecdsa-p256-sha256": ECDSA,
		"rsa-sha256": RSA, "token": Token, "basic": Basic, "none": None,
	}
	customDigests   = map[string]func() hash.Hash{"hmac-sha1": sha1.New, "hmac-sha512": sha512.New}
	customEncodings = map[string]Encoding{"": Hex, "hex": Hex, "base64": Base64, "base64url": Base64URL}
	customKeys      = map[string]KeyRule{
		"": Verbatim, "verbatim": Verbatim, "whsec": WhsecKeys, "hex": HexKeys, "base64": Base64Keys, "sha1": SHA1Keys,
	}
	customLayouts = map[string]Layout{
		"": Prefixed, "prefixed": Prefixed, "pairs": Pairs, "tagged": Tagged, "list": List, "positional": Positional,
	}
	customUnits = map[string]TimeUnit{"": Seconds, "seconds": Seconds, "milliseconds": Milliseconds, "iso": ISO, "epoch": Epoch}
)

// NewProvider makes the row called name. The error joins one of class Invalid for each problem, whose field is the key
// of Custom as configuration has it: "timestamp.unit".
func NewProvider(name string, c Custom) (Provider, error) {
	var errs []error
	bad := func(field, format string, args ...any) { errs = append(errs, domain.Invalidf(field, format, args...)) }
	if _, taken := ProviderNamed(name); taken {
		bad("", "there is a provider %s; a row of your own has another name", name)
	}
	s := Scheme{
		Algorithm:  oneOf("algorithm", c.Algorithm, customAlgorithms, &errs),
		Digest:     customDigests[c.Algorithm],
		Encoding:   oneOf("encoding", c.Encoding, customEncodings, &errs),
		Key:        oneOf("key", c.Key, customKeys, &errs),
		Layout:     oneOf("layout", c.Layout, customLayouts, &errs),
		Header:     http.CanonicalHeaderKey(c.Header),
		Label:      c.Label,
		Separator:  c.Separator,
		Assign:     c.Assign,
		TimeHeader: http.CanonicalHeaderKey(c.Timestamp.Header),
		TimeKey:    c.Timestamp.Key,
		TimeField:  c.Timestamp.Body,
		Unit:       oneOf("timestamp.unit", c.Timestamp.Unit, customUnits, &errs),
		Tolerance:  c.Timestamp.Tolerance,
	}
	switch {
	case s.Layout == Prefixed && c.Label != "":
		bad("label", "a label belongs to the layouts pairs and tagged; in prefixed there is a prefix")
	case s.Layout != Prefixed && c.Prefix != "":
		bad("prefix", "a prefix belongs to the layout prefixed")
	case s.Layout == Prefixed:
		s.Label = c.Prefix
	}
	if public := s.Algorithm == Ed25519 || s.Algorithm == ECDSA || s.Algorithm == RSA; public && c.Key != "" {
		bad("key", "the key of %s is the provider's public key", c.Algorithm)
	} else if public {
		s.Key = PublicKeys
	}
	for _, header := range []struct{ field, name string }{{"header", c.Header}, {"timestamp.header", c.Timestamp.Header}} {
		if header.name != "" && !headerName(header.name) {
			bad(header.field, "%.64q is no name of a header", header.name)
		}
	}
	if s.Algorithm != None && c.Header == "" {
		bad("header", "the header of the signature is missing")
	}
	var err error
	if signs := s.Algorithm != None && s.Algorithm != Token && s.Algorithm != Basic; !signs && c.Message != "" {
		bad("message", "nothing is signed with %s", c.Algorithm)
	} else if s.Message, err = parseMessage(c.Message); err != nil {
		bad("message", "%v", err)
	} else if timed := slices.ContainsFunc(s.Message, func(p Part) bool { return p.kind == partTimestamp }); timed && !s.timed() {
		bad("message", "it has a timestamp, and nothing says where that stands")
	} else if s.timed() && !timed && c.Timestamp.Body == "" && signs {
		bad("timestamp", "it is not in the message: a time that isn't signed protects from nothing")
	}
	if !slices.Contains([]Algorithm{Token, Basic, None}, s.Algorithm) && s.Message == nil {
		s.Message = []Part{Body()}
	}
	p := Provider{
		Name: name, Title: name, Docs: c.Docs, Confidence: Known, Scheme: s, Binding: customBinding(&s), Keep: lower(c.Keep),
		ContentTypes: c.ContentTypes, MaxBody: c.MaxBody, Repeats: c.Repeats, Inflated: c.Inflated, Sample: "example",
	}
	for _, list := range []struct {
		field string
		texts []string
		into  *[]Field
	}{{"type", c.Type, &p.Type}, {"id", c.ID, &p.ID}, {"subject", c.Subject, &p.Subject}} {
		for _, text := range list.texts {
			f, err := parseField(text)
			if err != nil {
				bad(list.field, "%v", err)
			}
			f.whole = list.field == "id"
			*list.into = append(*list.into, f)
		}
	}
	for _, media := range c.ContentTypes {
		if err := checkMedia(media); err != nil {
			bad("content_types", "%s", strings.TrimPrefix(err.Error(), "content_types: "))
		}
	}
	if c.MaxBody < 0 {
		bad("max_body", "it can't be %d", c.MaxBody)
	}
	if len(errs) > 0 {
		return Provider{}, errors.Join(errs...)
	}
	if err := p.compile(); err != nil {
		return Provider{}, domain.Invalidf("", "%v", err)
	}
	return p, nil
}

func oneOf[T any](field, text string, table map[string]T, errs *[]error) T {
	value, ok := table[text]
	if !ok {
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(table)), func(s string) bool { return s == "" })
		*errs = append(*errs, domain.Invalidf(field, "%.64q is none of %s", text, strings.Join(names, ", ")))
	}
	return value
}

// headerName reports whether text is a token (RFC 9110, 5.6.2), as a header's name must be.
func headerName(text string) bool {
	const others = "!#$%&'*+-.^_`|~"
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(others, c)
	})
}

func lower(names []string) (out []string) {
	for _, name := range names {
		out = append(out, strings.ToLower(name))
	}
	return out
}

func customBinding(s *Scheme) Binding {
	has := func(kinds ...partKind) bool {
		return slices.ContainsFunc(s.Message, func(p Part) bool { return slices.Contains(kinds, p.kind) })
	}
	switch b := s.binding(); {
	case b != BodySigned || has(partBody, partForm, partFormOrHash):
		return b
	case has(partURL, partPath):
		return RequestSigned
	}
	return MetadataSigned
}

// piece is a piece of a template: literal text, or what stands between braces.
type piece struct {
	text        string
	placeholder bool
}

// template takes text such as "{timestamp}.{body}" apart.
func template(text string) (pieces []piece, err error) {
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			pieces = append(pieces, piece{text: literal.String()})
			literal.Reset()
		}
	}
	for text != "" {
		switch {
		case strings.HasPrefix(text, "{{"), strings.HasPrefix(text, "}}"):
			literal.WriteByte(text[0])
			text = text[2:]
		case text[0] == '{':
			end := strings.IndexByte(text, '}')
			if end < 0 {
				return nil, errors.New("a { has no }; {{ stands for a brace")
			}
			flush()
			pieces = append(pieces, piece{text[1:end], true})
			text = text[end+1:]
		case text[0] == '}':
			return nil, errors.New("a } has no {; }} stands for a brace")
		default:
			literal.WriteByte(text[0])
			text = text[1:]
		}
	}
	flush()
	return pieces, nil
}

func parseMessage(text string) (parts []Part, err error) {
	pieces, err := template(text)
	if err != nil {
		return nil, err
	}
	whole := map[string]func() Part{
		"timestamp": Timestamp, "body": Body, "method": Method, "url": URL, "path": Path, "form": SortedForm, "secret": SecretText,
	}
	named := map[string]func(string) Part{"query": QueryText, "form": FormText, "json": JSONText, "header": func(name string) Part {
		return HeaderText(http.CanonicalHeaderKey(name))
	}}
	for _, p := range pieces {
		kind, name, isNamed := strings.Cut(p.text, ":")
		switch {
		case !p.placeholder:
			parts = append(parts, Literal(p.text))
		case !isNamed && whole[kind] != nil:
			parts = append(parts, whole[kind]())
		case isNamed && named[kind] != nil && name != "" && (kind != "header" || headerName(name)):
			parts = append(parts, named[kind](name))
		default:
			return nil, fmt.Errorf("there is no {%.64s}", p.text)
		}
	}
	return parts, nil
}

func parseField(text string) (Field, error) {
	pieces, err := template(text)
	if err != nil {
		return Field{}, err
	}
	var parts []Field
	separator, separated := "", false
	for i, p := range pieces {
		kind, name, _ := strings.Cut(p.text, ":")
		switch {
		case p.placeholder && kind == "header" && headerName(name):
			parts = append(parts, InHeader(name))
		case p.placeholder && kind == "body" && name != "":
			parts = append(parts, InBody(name))
		case p.placeholder:
			return Field{}, fmt.Errorf("there is no {%.64s}, but {header:…} and {body:…}", p.text)
		case len(pieces) == 1:
			return Fixed(p.text), nil
		case i == 0 || i == len(pieces)-1 || separated && separator != p.text:
			return Field{}, fmt.Errorf("%.64q: one separator stands between the values, and nothing before and after them", text)
		default:
			separator, separated = p.text, true
		}
	}
	switch {
	case len(parts) == 0:
		return Field{}, errors.New("it is empty")
	case len(parts) == 1:
		return parts[0], nil
	}
	return Joined(separator, parts...), nil
}
