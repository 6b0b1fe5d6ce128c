package ingress

import (
	"crypto/hmac"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	maxSignatures      = 16   // candidates in one header; Stripe sends one per active secret, at most a handful
	maxSignatureHeader = 4096 // bytes
	maxSecrets         = 8    // per source, for rotation
)

// Secret is what a provider and a source share. It prints as "redacted" with every verb and in every encoding.
type Secret []byte

const redacted = "redacted"

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Format catches the verbs that would print the bytes without asking String, such as %d.
func (Secret) Format(f fmt.State, _ rune) { f.Write([]byte(redacted)) }

// Layout says how signatures stand in their header.
type Layout int

// The layouts.
const (
	Prefixed Layout = iota // one signature after Label: "sha256=‹sig›"
	Pairs                  // "t=‹time›,v1=‹sig›,v1=‹sig›": signatures under the key Label
	Tagged                 // "v1,‹sig› v1a,‹sig›": signatures with the tag Label
)

// Encoding is the text form of a signature.
type Encoding int

// The encodings. Base64 is the standard alphabet with padding.
const (
	Hex Encoding = iota
	Base64
)

// KeyRule says how a configured secret becomes the bytes of the key. The prefix whsec_ doesn't tell: Stripe uses
// the whole text, Standard Webhooks decodes what follows.
type KeyRule int

// The key rules.
const (
	Verbatim  KeyRule = iota // the secret's bytes as they are
	WhsecKeys                // base64 after an optional "whsec_"
)

// Part is one piece of the signed message.
type Part struct {
	kind partKind
	text string
}

type partKind int

const (
	partLiteral partKind = iota
	partHeader
	partTimestamp
	partBody
)

// Literal is fixed text in the signed message.
func Literal(text string) Part { return Part{partLiteral, text} }

// HeaderText is the value of a request header in the signed message. The name is in canonical form.
func HeaderText(name string) Part { return Part{partHeader, name} }

// Timestamp is the timestamp in the signed message, as sent.
func Timestamp() Part { return Part{kind: partTimestamp} }

// Body is the exact body in the signed message.
func Body() Part { return Part{kind: partBody} }

// Scheme says how a provider signs its requests: an HMAC over a message that is put together from parts. A scheme is
// data, so that a further provider is a further row. Header names are in canonical form.
type Scheme struct {
	Header   string // where the signatures stand
	Layout   Layout
	Label    string // the prefix, key or tag that marks a signature of this scheme
	Encoding Encoding
	Digest   func() hash.Hash
	Key      KeyRule
	Message  []Part

	// The timestamp, in decimal seconds since 1970, stands in TimeHeader, or under TimeKey in a header of layout
	// Pairs. With neither there is no timestamp. It may be Tolerance old, and as far in the future.
	TimeHeader string
	TimeKey    string
	Tolerance  time.Duration
}

// Reason says why a signature was refused. The texts are stable: they stand in problem documents and metric labels.
type Reason string

// The reasons.
const (
	MissingHeader  Reason = "missing-header"
	Malformed      Reason = "malformed"
	WrongSignature Reason = "wrong-signature"
	TooOld         Reason = "too-old" // the signature is right, the time is not
	TooNew         Reason = "too-new"
)

// Failure is a refused signature. Detail is fit for the sender: it names headers and holds no value of one, no key
// and no expected signature.
type Failure struct {
	Reason Reason
	Detail string
}

func (f *Failure) Error() string { return string(f.Reason) + ": " + f.Detail }

func failf(r Reason, format string, args ...any) error {
	return &Failure{r, fmt.Sprintf(format, args...)}
}

// Verify checks that one of the signatures in header was made for body with one of the secrets, and that its
// timestamp is within the tolerance around now. It returns nil, a *Failure, or another error when a secret can't be
// a key of this scheme. The time is looked at last, so that TooOld and TooNew are only ever said of requests that
// the provider signed.
func (s Scheme) Verify(secrets []Secret, header http.Header, body []byte, now time.Time) error {
	text, err := single(header, s.Header)
	if err != nil {
		return err
	}
	signed, err := s.parse(text)
	if err != nil {
		return err
	}
	if s.TimeHeader != "" {
		if signed.time, err = single(header, s.TimeHeader); err != nil {
			return err
		}
	}
	sent, err := s.sent(signed.time)
	if err != nil {
		return err
	}
	right := false
	for _, secret := range secrets {
		mac, err := s.mac(secret, header, signed.time, body)
		if err != nil {
			return err
		}
		for _, sig := range signed.signatures {
			right = hmac.Equal(sig, mac) || right
		}
	}
	if !right {
		return failf(WrongSignature, "no signature in %s is for this body and a secret of this source", s.Header)
	}
	if s.timed() {
		if age := now.Sub(sent); age > s.Tolerance {
			return failf(TooOld, "the timestamp is more than %v old", s.Tolerance)
		} else if age < -s.Tolerance {
			return failf(TooNew, "the timestamp is more than %v in the future", s.Tolerance)
		}
	}
	return nil
}

// Sign sets in header the signature, and the timestamp if the scheme has one, for a request with this body. Headers
// that are part of the signed message must already be there.
func (s Scheme) Sign(secret Secret, header http.Header, body []byte, now time.Time) error {
	var stamp string
	if s.timed() {
		stamp = strconv.FormatInt(now.Unix(), 10)
	}
	mac, err := s.mac(secret, header, stamp, body)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	sig := hex.EncodeToString(mac)
	if s.Encoding == Base64 {
		sig = base64.StdEncoding.EncodeToString(mac)
	}
	switch s.Layout {
	case Prefixed:
		sig = s.Label + sig
	case Pairs:
		sig = s.Label + "=" + sig
		if s.TimeKey != "" {
			sig = s.TimeKey + "=" + stamp + "," + sig
		}
	case Tagged:
		sig = s.Label + "," + sig
	}
	header.Set(s.Header, sig)
	if s.TimeHeader != "" {
		header.Set(s.TimeHeader, stamp)
	}
	return nil
}

func (s Scheme) timed() bool { return s.TimeHeader != "" || s.TimeKey != "" }

// signed is what a signature header says.
type signed struct {
	time       string // as sent; empty unless the layout carries one
	signatures [][]byte
}

// parse reads the signature header. Entries of other schemes, such as Stripe's v0, are passed over.
func (s Scheme) parse(text string) (signed, error) {
	var out signed
	if len(text) > maxSignatureHeader {
		return out, failf(Malformed, "%s is longer than %d bytes", s.Header, maxSignatureHeader)
	}
	size, candidates := s.Digest().Size(), 0
	add := func(sig string) error {
		if candidates++; candidates > maxSignatures {
			return failf(Malformed, "%s has more than %d signatures", s.Header, maxSignatures)
		}
		if mac, ok := s.decode(sig, size); ok {
			out.signatures = append(out.signatures, mac)
		}
		return nil
	}
	switch s.Layout {
	case Prefixed:
		if sig, ok := strings.CutPrefix(text, s.Label); ok {
			if err := add(sig); err != nil {
				return out, err
			}
		}
	case Pairs:
		for pair := range strings.SplitSeq(text, ",") {
			key, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
			switch {
			case !ok:
				return out, failf(Malformed, "%s is not a list of key=value", s.Header)
			case s.TimeKey != "" && key == s.TimeKey:
				if out.time != "" {
					return out, failf(Malformed, "%s has more than one %s", s.Header, s.TimeKey)
				}
				out.time = value
			case key == s.Label:
				if err := add(value); err != nil {
					return out, err
				}
			}
		}
	case Tagged:
		for entry := range strings.SplitSeq(text, " ") {
			if tag, sig, ok := strings.Cut(entry, ","); ok && tag == s.Label {
				if err := add(sig); err != nil {
					return out, err
				}
			}
		}
	}
	if len(out.signatures) == 0 {
		return out, failf(Malformed, "%s has no well-formed %q signature", s.Header, s.Label)
	}
	return out, nil
}

func (s Scheme) decode(sig string, size int) ([]byte, bool) {
	var mac []byte
	var err error
	if s.Encoding == Base64 {
		mac, err = base64.StdEncoding.Strict().DecodeString(sig)
	} else {
		mac, err = hex.DecodeString(sig)
	}
	return mac, err == nil && len(mac) == size
}

// sent reads the timestamp. It takes digits alone, no sign and no fraction: the text goes into the signed message,
// and a separator in it would let one message be read as another.
func (s Scheme) sent(stamp string) (time.Time, error) {
	if !s.timed() {
		return time.Time{}, nil
	}
	at := s.TimeHeader
	if at == "" {
		at = s.TimeKey + " in " + s.Header
	}
	const digits = 12 // beyond the year 30000, and far from overflowing a time.Duration's arithmetic
	if stamp == "" || len(stamp) > digits || strings.Trim(stamp, "0123456789") != "" {
		return time.Time{}, failf(Malformed, "%s is not a time in seconds", at)
	}
	n, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return time.Time{}, failf(Malformed, "%s is not a time in seconds", at)
	}
	return time.Unix(n, 0), nil
}

// mac computes the signature of the message. The body is hashed where it lies, not copied into a message.
func (s Scheme) mac(secret Secret, header http.Header, stamp string, body []byte) ([]byte, error) {
	key, err := s.key(secret)
	if err != nil {
		return nil, err
	}
	h := hmac.New(s.Digest, key)
	for i, p := range s.Message {
		switch p.kind {
		case partLiteral:
			h.Write([]byte(p.text))
		case partTimestamp:
			h.Write([]byte(stamp))
		case partBody:
			h.Write(body)
		case partHeader:
			value, err := single(header, p.text)
			if err != nil {
				return nil, err
			}
			// Standard Webhooks 1.0.0, "Signature scheme": an id with the separator in it could move the border
			// between id and timestamp.
			if next := i + 1; next < len(s.Message) && s.Message[next].kind == partLiteral &&
				strings.Contains(value, s.Message[next].text) {
				return nil, failf(Malformed, "%s has a %q in it", p.text, s.Message[next].text)
			}
			h.Write([]byte(value))
		}
	}
	return h.Sum(nil), nil
}

// key turns a configured secret into the bytes of the key. An empty key is refused: anyone can sign with it. The
// errors say nothing of the secret's content.
func (s Scheme) key(secret Secret) ([]byte, error) {
	if len(secret) == 0 {
		return nil, errors.New("the secret is empty")
	}
	if s.Key == Verbatim {
		return secret, nil
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(string(secret), "whsec_"))
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret is not base64 after whsec_")
	}
	return key, nil
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
