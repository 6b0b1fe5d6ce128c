package ingress

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Part is one piece of the signed message.
type Part struct {
	kind     partKind
	text     string // a name or path
	bytes    []byte // a literal
	fields   []string
	optional bool // left out, with what stands around it, if there is no such value
	before   string
	after    string
	escaped  bool // "\" and ":" after a "\"
	lower    bool
}

type partKind int

const (
	partLiteral partKind = iota
	partHeader
	partTimestamp
	partBody
	partMethod
	partURL
	partURLDecoded
	partURLOtherPort
	partPath
	partQuery
	partFormField
	partForm
	partFormOrHash
	partField
	partLines
	partSignedHeaders
	partSecret
	partCRC32
)

// Literal is fixed text in the signed message.
func Literal(text string) Part { return Part{kind: partLiteral, text: text, bytes: []byte(text)} }

// HeaderText is the value of a request header in the signed message. The name is in canonical form.
func HeaderText(name string) Part { return Part{kind: partHeader, text: name} }

// Timestamp is the timestamp in the signed message, as sent.
func Timestamp() Part { return Part{kind: partTimestamp} }

// Body is the exact body in the signed message.
func Body() Part { return Part{kind: partBody} }

// Method is the request's method.
func Method() Part { return Part{kind: partMethod} }

// URL is the address that the provider called, query included.
func URL() Part { return Part{kind: partURL} }

// URLDecoded is URL with the percent codes decoded that HubSpot decodes.
func URLDecoded() Part { return Part{kind: partURLDecoded} }

// URLOtherPort is URL with the scheme's default port, or without it if it is there. Twilio's servers do either.
func URLOtherPort() Part { return Part{kind: partURLOtherPort} }

// Path is the path of URL as it was sent, with its query.
func Path() Part { return Part{kind: partPath} }

// QueryText is the value of a query parameter.
func QueryText(name string) Part { return Part{kind: partQuery, text: name} }

// FormText is the value of a form field.
func FormText(name string) Part { return Part{kind: partFormField, text: name} }

// SortedForm is each form field's name and value, sorted by name, with nothing between.
func SortedForm() Part { return Part{kind: partForm} }

// SortedFormOrHash is SortedForm for a form. Of any other body it is nothing, but then the query parameter must be the
// body's SHA-256 in hexadecimal.
func SortedFormOrHash(parameter string) Part { return Part{kind: partFormOrHash, text: parameter} }

// JSONText is the string, number or boolean at a path of the JSON body; empty if there is none.
func JSONText(path string) Part { return Part{kind: partField, text: path} }

// JSONLines is a line with the name and a line with the value of each field that the JSON body has.
func JSONLines(names ...string) Part { return Part{kind: partLines, fields: names} }

// SignedHeaders is "name:value" for each header that the named header lists, in its order, joined by ";".
func SignedHeaders(list string) Part { return Part{kind: partSignedHeaders, text: list} }

// SecretText is the configured secret.
func SecretText() Part { return Part{kind: partSecret} }

// BodyCRC32 is the CRC-32 (IEEE) of the body, in decimal.
func BodyCRC32() Part { return Part{kind: partCRC32} }

// Optional is p between before and after, or nothing at all if the request has no such value.
func Optional(before string, p Part, after string) Part {
	p.optional, p.before, p.after = true, before, after
	return p
}

// Lower is p in lower case.
func Lower(p Part) Part {
	p.lower = true
	return p
}

// Escaped is p with a backslash before each backslash and colon.
func Escaped(p Part) Part {
	p.escaped = true
	return p
}

// needs is what a scheme looks at beside headers and body.
type needs int

const (
	needsURL needs = 1 << iota
	needsForm
	needsJSON
)

func (p Part) needs() needs {
	switch p.kind {
	case partURL, partURLDecoded, partURLOtherPort, partPath, partQuery:
		return needsURL
	case partFormOrHash:
		return needsURL | needsForm
	case partForm, partFormField:
		return needsForm
	case partField, partLines:
		return needsJSON
	}
	return 0
}

// pass is a request that is being verified or signed.
type pass struct {
	s      *Scheme
	r      *Request
	fields values // of the JSON body, or of one element of Each
	form   url.Values
	url    *url.URL
	isForm bool
	signed signed
}

// open reads as much of the request as the scheme needs.
func (p *pass) open() error {
	n := p.s.needs
	if n&needsURL != 0 {
		u, err := url.Parse(p.r.URL)
		if err != nil && p.r.URL != "" { // for its query, which is as the sender wrote it
			return failf(Malformed, "the address that was called can't be read")
		}
		if err != nil || u.Host == "" {
			return fmt.Errorf("the signature covers the request's URL, and no public URL is configured")
		}
		p.url = u
	}
	if n&needsForm != 0 {
		media, _, _ := mime.ParseMediaType(p.r.Header.Get("Content-Type"))
		if p.isForm = media == formType; p.isForm {
			var err error
			if p.form, err = url.ParseQuery(string(p.r.Body)); err != nil {
				return failf(Malformed, "the body is not a form")
			}
		}
	}
	if n&needsJSON != 0 && p.s.Each == "" {
		var err error
		if p.fields, err = p.s.fields.find(p.r.Body); err != nil {
			return failf(Malformed, "what is signed is in the body: %v", err)
		}
	}
	return nil
}

// write writes the message to w. The body is hashed where it lies, not copied into a message.
func (p *pass) write(w io.Writer, message []Part, stamp string, secret Secret) error {
	for i := range message {
		part := &message[i]
		switch part.kind {
		case partLiteral:
			w.Write(part.bytes)
		case partTimestamp:
			writeText(w, part, stamp)
		case partBody:
			w.Write(p.r.Body)
		case partHeader:
			value, err := single(p.r.Header, part.text)
			if err != nil {
				if part.optional && len(p.r.Header[part.text]) == 0 {
					continue
				}
				return err
			}
			// Standard Webhooks 1.0.0, "Signature scheme": an id with the separator in it could move the border
			// between id and timestamp.
			if next := i + 1; next < len(message) && message[next].kind == partLiteral && strings.Contains(value, message[next].text) {
				return failf(Malformed, "%s has a %q in it", part.text, message[next].text)
			}
			writeText(w, part, value)
		default:
			if err := p.writeRare(w, part, secret); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeText(w io.Writer, part *Part, text string) {
	if part.lower {
		text = strings.ToLower(text)
	}
	if part.escaped {
		text = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(text)
	}
	if part.optional {
		text = part.before + text + part.after
	}
	w.Write([]byte(text))
}

// writeRare writes the parts that few schemes have.
func (p *pass) writeRare(w io.Writer, part *Part, secret Secret) error {
	text, there := "", true
	switch part.kind {
	case partMethod:
		text = p.r.Method
	case partURL:
		text = p.r.URL
	case partURLDecoded:
		text = hubSpotDecoded.Replace(p.r.URL)
	case partURLOtherPort:
		text = otherPort(p.r.URL, p.url)
	case partPath:
		if text = p.url.EscapedPath(); text == "" {
			text = "/"
		}
		if p.url.RawQuery != "" {
			text += "?" + p.url.RawQuery
		}
	case partQuery:
		found := p.url.Query()[part.text]
		if len(found) > 1 {
			return failf(Malformed, "the query has more than one %s", part.text)
		}
		if there = len(found) == 1; there {
			text = found[0]
		}
	case partFormField:
		found := p.form[part.text]
		if len(found) > 1 {
			return failf(Malformed, "the form has more than one %s", part.text)
		}
		if there = len(found) == 1; there {
			text = found[0]
		}
	case partForm, partFormOrHash:
		if part.kind == partFormOrHash && !p.isForm {
			return p.hashed(part.text)
		}
		if !p.isForm {
			return failf(Malformed, "the body is not a form")
		}
		writeForm(w, p.form)
		return nil
	case partField:
		text, there = p.fields.scalar(part.text)
	case partLines:
		for _, name := range part.fields {
			if value, ok := p.fields.scalar(name); ok {
				w.Write([]byte(name + "\n" + value + "\n"))
			}
		}
		return nil
	case partSignedHeaders:
		return p.writeHeaders(w, part.text)
	case partSecret:
		text = string(secret)
	case partCRC32:
		text = strconv.FormatUint(uint64(crc32.ChecksumIEEE(p.r.Body)), 10)
	}
	if !there && part.optional {
		return nil
	}
	if !there && part.kind != partField {
		return failf(MissingHeader, "the request has no %s", part.text)
	}
	writeText(w, part, text)
	return nil
}

// hashed checks that the query parameter is the hash of the body: the signature is over the URL alone.
func (p *pass) hashed(parameter string) error {
	sum := sha256.Sum256(p.r.Body)
	sent, err := hex.DecodeString(p.url.Query().Get(parameter))
	if err != nil || len(sent) == 0 {
		return failf(MissingHeader, "the query has no %s, which binds a body that is no form", parameter)
	}
	if subtle.ConstantTimeCompare(sum[:], sent) != 1 {
		return failf(WrongSignature, "the body is not the one that %s in the query is for", parameter)
	}
	return nil
}

// writeForm writes names and values as Twilio's libraries do: of a field that stands several times, each value once.
func writeForm(w io.Writer, form url.Values) {
	names := make([]string, 0, len(form))
	for name := range form {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		list := slices.Clone(form[name])
		slices.Sort(list)
		for _, value := range slices.Compact(list) {
			w.Write([]byte(name + value))
		}
	}
}

// writeHeaders writes the headers that the provider says it signed. The timestamp must be among them: otherwise it is
// signed by nobody.
func (p *pass) writeHeaders(w io.Writer, list string) error {
	names, err := single(p.r.Header, list)
	if err != nil {
		return err
	}
	timed := p.s.TimeHeader == ""
	for i, name := range strings.Split(names, ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if i >= maxSignatures {
			return failf(Malformed, "%s names more than %d headers", list, maxSignatures)
		}
		value, err := single(p.r.Header, http.CanonicalHeaderKey(name))
		if err != nil {
			return err
		}
		if i > 0 {
			w.Write([]byte{';'})
		}
		timed = timed || http.CanonicalHeaderKey(name) == p.s.TimeHeader
		w.Write([]byte(name + ":" + value))
	}
	if !timed {
		return failf(Malformed, "%s does not name %s", list, p.s.TimeHeader)
	}
	return nil
}

// hubSpotDecoded is the table of "URI encoded characters" that are decoded before signing:
// https://developers.hubspot.com/docs/apps/legacy-apps/authentication/validating-requests
var hubSpotDecoded = strings.NewReplacer(
	"%3A", ":", "%2F", "/", "%3F", "?", "%40", "@", "%21", "!", "%24", "$", "%27", "'", "%28", "(", "%29", ")",
	"%2A", "*", "%2C", ",", "%3B", ";", "%3a", ":", "%2f", "/", "%3f", "?", "%2a", "*", "%2c", ",", "%3b", ";",
)

func otherPort(text string, u *url.URL) string {
	standard := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	before, rest, ok := strings.Cut(text, u.Host)
	if !ok || standard == "" {
		return text
	}
	if host, cut := strings.CutSuffix(u.Host, standard); cut {
		return before + host + rest
	}
	if u.Port() == "" {
		return before + u.Host + standard + rest
	}
	return text
}

// single returns the one value of a header. A header that stands twice is refused: proxies differ in which they keep.
func single(header http.Header, name string) (string, error) {
	switch values := header[name]; {
	case len(values) == 0 || values[0] == "":
		return "", failf(MissingHeader, "no %s header", name)
	case len(values) > 1:
		return "", failf(Malformed, "the %s header stands more than once", name)
	default:
		return values[0], nil
	}
}

// scalar returns the string, number or boolean at path as text, and whether there is one.
func (v values) scalar(path string) (string, bool) {
	t := v.tail(path)
	switch c := byteAt(t, 0); {
	case c == '"':
		return v.text(path), true
	case c == '-' || c >= '0' && c <= '9':
		return v.digits(path), true
	case bytes.HasPrefix(t, []byte("true")):
		return "true", true
	case bytes.HasPrefix(t, []byte("false")):
		return "false", true
	}
	return "", false
}
