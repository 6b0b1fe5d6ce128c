package ingress

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
)

// Provider is one row of the table: how a provider signs, and where in its requests the type, the delivery id and
// the subject stand. The rows stand in the files providers_….go, by how their requests are verified.
type Provider struct {
	Name       string
	Title      string     // as the provider calls itself; empty if that is its name with a capital
	Docs       string     // the provider's page on its signatures, from which the row was taken
	Confidence Confidence // in the row
	// Secret says what the source's secret is, in the provider's words.
	Secret  string
	Scheme  Scheme
	Binding Binding // what the signature covers; body, but for the rows that say otherwise
	// Verification is recorded with each delivery: the provider, and what its signature covers. An id in a header
	// that the signature doesn't cover can be changed by whoever holds one valid request.
	Verification string
	ContentTypes []string // media types it sends; others are 415. JSON by default
	MaxBody      int64    // bytes, unless the source says otherwise; 1 MiB by default
	// Inflated says that the signature is over a compressed body as it was before it was compressed. By default it is over
	// what was sent.
	Inflated bool
	// Keep are headers recorded with the delivery beside those that the row looks at, lower-case; a trailing * stands
	// for any ending.
	Keep []string
	// Split says how its requests are taken apart that carry several events; nil for a provider with one in each.
	Split *Split

	Type    []Field // the first that is there; "event" if none is
	ID      []Field // of the delivery; a hash of the body if none is there
	Subject []Field // the default stream key; the id if none is there
	// Repeats says that two requests with the same body may be two pieces of news, as of a provider that says "something
	// has changed". Without an id each of them is a delivery of its own then, a retry as well: twice is better than never.
	Repeats bool

	Budget time.Duration // within which the provider wants its answer; 0 if it doesn't say
	Retry  string        // what it does without one; empty if it doesn't say
	Sample string        // an event's type as the provider calls it, for samples
	Note   string        // what an operator must know

	// wants is what file needs of the body; file finds out what the delivery is called and where it belongs, for rows
	// that Type, ID and Subject can't describe.
	wants *wants
	file  func(http.Header, values) (reading, error)
}

// Confidence says how well a row is known. Which rows have been checked against the provider's own code, package
// vectors say: see docs/verification.md.
type Confidence string

// The confidences.
const (
	VendorPage Confidence = "vendor page" // the provider's own documentation
	ThirdParty Confidence = "third party" // somebody else's code for it, one source
	Known      Confidence = "known"       // general knowledge; try it before you rely on it
)

// Providers is the table of known providers, in the order of their names.
var Providers = table(familiarRows, macRows, moreMACRows, timedRows, standardRows, urlRows, publicKeyRows, tokenRows)

// table puts rows together. A row that lacks something is a defect, which every start and every test would show.
func table(parts ...[]Provider) []Provider {
	rows := slices.Concat(parts...)
	for i := range rows {
		if err := rows[i].compile(); err != nil {
			panic("ingress: row " + rows[i].Name + ": " + err.Error())
		}
	}
	slices.SortFunc(rows, func(a, b Provider) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

// ProviderNamed returns the row called name.
func ProviderNamed(name string) (Provider, bool) {
	i, ok := slices.BinarySearchFunc(Providers, name, func(p Provider, name string) int { return strings.Compare(p.Name, name) })
	if !ok {
		return Provider{}, false
	}
	return Providers[i], true
}

// NeedsURL reports whether the signature covers the address that the provider called, so that a source needs to know
// it.
func (p *Provider) NeedsURL() bool { return p.Scheme.needsURL() }

// compile fills in what zero values stand for.
func (p *Provider) compile() error {
	if !sourceName.MatchString(p.Name) {
		return fmt.Errorf("a name has 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit")
	}
	if err := p.Scheme.compile(); err != nil {
		return err
	}
	p.Binding = first(p.Binding, p.Scheme.binding())
	p.Verification = first(p.Verification, p.Name+"; "+p.Scheme.covered(p.Binding))
	p.MaxBody = first(p.MaxBody, 1<<20)
	p.Title = first(p.Title, strings.ToUpper(p.Name[:1])+p.Name[1:])
	if p.ContentTypes == nil {
		p.ContentTypes = []string{jsonType}
	}
	keep := p.Scheme.headers()
	var paths []string
	for _, list := range [][]Field{p.Type, p.ID, p.Subject} {
		for _, f := range list {
			f.each(func(f Field) {
				switch f.in {
				case fieldHeader:
					keep = append(keep, f.name)
				case fieldBody:
					paths = append(paths, f.name, f.name+".id")
				case fieldKey:
					paths = append(paths, f.names...)
				}
			})
		}
	}
	for _, name := range keep {
		if name = strings.ToLower(name); name != "authorization" && !slices.Contains(p.Keep, name) {
			p.Keep = append(p.Keep[:len(p.Keep):len(p.Keep)], name)
		}
	}
	if p.file == nil {
		p.wants = wanted(paths...)
		row := *p
		p.file = row.fileByFields
	}
	return nil
}

// reading is what a provider's row finds in a request.
type reading struct {
	kind    string // the type without the provider's name, as sent
	id      string // delivery id; empty for a provider that has none: a hash stands in
	idField string // where the id stands, for a refusal
	key     string // the default stream key
	bare    bool   // the provider shows the answer's body to its users: answer 200 and nothing
}

// read finds out what the document is called and where it belongs. An error is of class Invalid, or says that the
// document is not JSON.
func (p Provider) read(h http.Header, d document) (reading, error) {
	found, err := p.wants.find(d.json)
	if err != nil {
		return reading{}, err
	}
	found.form = d.form
	r, err := p.file(h, found)
	if p.Split != nil {
		return batchReading(r), nil
	}
	if d.kind != "" && domain.ClassOf(err) == domain.Invalid { // what the row looks for can't be in XML, text or bytes
		return reading{kind: d.kind}, nil
	}
	return r, err
}

const (
	maxType = 128 // bytes
	maxID   = 256 // bytes
)

// typeName makes the event type out of the provider's name and what the provider called the event. Printable ASCII
// beside letters, digits, '_', '.' and '-' becomes '_', so that "invoice:paid" is "invoice_paid"; other characters
// are refused rather than made alike.
func typeName(provider, kind string) (string, error) {
	size := len(provider) + 1 + len(kind)
	if kind == "" || size > maxType {
		return "", domain.Invalidf("type", "an event type has 1 to %d bytes", maxType-len(provider)-1)
	}
	clean := make([]byte, 0, size)
	clean = append(append(clean, provider...), '.')
	for i := range len(kind) {
		switch c := kind[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
			clean = append(clean, c)
		case c < ' ' || c > '~':
			return "", domain.Invalidf("type", "an event type is printable ASCII")
		default:
			clean = append(clean, '_')
		}
	}
	return string(clean), nil
}

// deliveryID checks the provider's id of a delivery. Without one it is a hash of source and body, which a retry has
// again; the time of the attempt is left out because a retry changes it. Only where equal bodies may be different news
// the time is in it.
func deliveryID(r reading, p Provider, source string, body []byte, at time.Time) (string, error) {
	switch {
	case r.id == "":
		h := sha256.New()
		for _, s := range []string{p.Name, source} {
			h.Write([]byte(s))
			h.Write([]byte{0}) // in neither name
		}
		h.Write(body)
		if p.Repeats {
			fmt.Fprint(h, at.UnixNano())
		}
		return "sha256-" + hex.EncodeToString(h.Sum(nil)), nil
	case len(r.id) > maxID:
		return "", domain.Invalidf(r.idField, "a delivery id has at most %d bytes", maxID)
	case !utf8.ValidString(r.id) || strings.ContainsFunc(r.id, unicode.IsControl):
		return "", domain.Invalidf(r.idField, "a delivery id is UTF-8 without control characters")
	}
	return r.id, nil
}

// first returns the first value that is not zero.
func first[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}
