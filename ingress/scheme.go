package ingress

import (
	"context"
	"crypto"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"time"
)

const (
	maxSignatures      = 16   // candidates in one header; Stripe sends one per active secret, at most a handful
	maxSignatureHeader = 4096 // bytes
	maxSecrets         = 8    // per source, for rotation
	maxGroups          = 4    // times in one header, each with its signatures; Persona sends one per secret
	maxNumbered        = 100  // DocuSign: one header per key
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

// Key is a secret and when it counts: from From on and before Until. A zero time doesn't bound.
type Key struct {
	Secret      Secret
	From, Until time.Time
}

// Keys are keys without dates.
func Keys(secrets ...Secret) []Key {
	keys := make([]Key, len(secrets))
	for i, s := range secrets {
		keys[i].Secret = s
	}
	return keys
}

func (k Key) counts(at time.Time) bool {
	return !at.Before(k.From) && (k.Until.IsZero() || at.Before(k.Until))
}

// Request is a request as its signature sees it.
type Request struct {
	Method string
	// URL is the address that the provider called, with the query as it was sent. What stands before the query comes
	// from configuration, never from forwarded headers, which anybody can send. Empty if none is configured.
	URL    string
	Header http.Header
	Body   []byte // exactly as sent
	// Vendor fetches what only the provider can tell: its certificates and public keys. Nil: a scheme that needs one
	// refuses.
	Vendor *VendorKeys
}

// Algorithm says what a signature is.
type Algorithm int

// The algorithms.
const (
	HMAC    Algorithm = iota // of Digest
	Token                    // the secret itself
	Basic                    // the secret, "user:password", as RFC 7617 has it
	Ed25519                  // over the message
	ECDSA                    // P-256 over Digest of the message, ASN.1
	RSA                      // PKCS #1 v1.5 over Digest of the message
	JWT                      // a JSON Web Token (RFC 7519): see Claims
	None                     // no verification: everybody may send
)

// Layout says how signatures stand in their header.
type Layout int

// The layouts. The examples have the separators that are the default.
const (
	Prefixed   Layout = iota // one signature after Label: "sha256=‹sig›"
	Pairs                    // "t=‹time›,v1=‹sig›,v1=‹sig›": signatures under the key Label, or under any if that is "*"
	Tagged                   // "v1,‹sig› v1a,‹sig›": signatures with the tag Label
	List                     // "‹sig›,‹sig›"
	Positional               // "‹time›,‹sig›,‹sig›"
	Enveloped                // base64 of JSON that has the signature as "signature" and its key's name as "kid"
)

// Encoding is the text form of a signature.
type Encoding int

// The encodings. Base64 is the standard alphabet with padding, Base64URL the other one without.
const (
	Hex Encoding = iota
	Base64
	Base64URL
)

// KeyRule says how a configured secret becomes a key. The prefix whsec_ doesn't tell: Stripe uses the whole text,
// Standard Webhooks decodes what follows.
type KeyRule int

// The key rules.
const (
	Verbatim        KeyRule = iota // the secret's bytes as they are
	WhsecKeys                      // base64 after an optional "whsec_"
	HexKeys                        // hexadecimal
	Base64Keys                     // base64
	SHA1Keys                       // SHA-1 of the secret
	PublicKeys                     // a public key: PEM or base64 of SubjectPublicKeyInfo; Ed25519 also raw, in hex or base64
	WhpkKeys                       // an Ed25519 public key: base64 after "whpk_"
	VendorPublicKey                // the provider's, fetched; the secret says whose deliveries are taken
)

// TimeUnit says how a timestamp is written.
type TimeUnit int

// The units. All but ISO count from 1970.
const (
	Seconds TimeUnit = iota
	Milliseconds
	ISO   // RFC 3339
	Epoch // seconds, or milliseconds from 13 digits on, for providers that are said to send either
)

// Binding says how much a successful verification means.
type Binding string

// The bindings.
const (
	BodySigned     Binding = "body"     // the signature covers the whole body
	RequestSigned  Binding = "request"  // it covers the request's address, not the body
	MetadataSigned Binding = "metadata" // it covers some fields of the body or headers, not all that is reported
	SharedToken    Binding = "token"    // nothing is signed: the sender knows a secret that it sends along
	Unverified     Binding = "none"
)

// Scheme says how a provider signs its requests: where the signatures stand, and the message, put together from parts,
// that they are for. A scheme is data, so that a further provider is a further row. Header names are in canonical
// form, paths into JSON are keys joined by dots.
//
// Zero values stand for what is most common: HMAC-SHA256 over the body, in hexadecimal, alone in a header.
type Scheme struct {
	Algorithm Algorithm
	Digest    func() hash.Hash
	Key       KeyRule
	Encoding  Encoding

	Header   string   // where the signatures stand: in this header,
	Headers  []string // or in any of these as well,
	Numbered bool     // or in Header-1, Header-2, … up to 100, without a gap,
	Field    string   // or at this path of the JSON body,
	Form     string   // or in this form field,
	InBody   bool     // or the body is one

	Layout    Layout
	Label     string // the prefix, key or tag that marks a signature of this scheme
	Separator string // of a header's entries
	Assign    string // between key and value; "=" by default
	Groups    string // what separates several lists of pairs, each with its own time; none by default

	Message []Part
	Or      [][]Part // further messages that count as well
	// Each is the path of an array of the JSON body, "value" for example. Then every element has a signature of its
	// own, Field and the JSON parts of the message are paths in the element, and all must be right.
	Each string
	// Pinned is a path of the JSON body whose text must be the configured secret, such as the topic of AWS SNS.
	Pinned string

	// If is a path of the JSON body that must have the text Is: the version of a signature.
	If, Is string

	// The timestamp, in Unit, stands in TimeHeader, under TimeKey in a header of layout Pairs, first in one of layout
	// Positional, or at the path TimeField of the JSON body. With none of these there is no timestamp. It may be
	// Tolerance old, and as far in the future; with a zero Tolerance it is not looked at beyond its form.
	TimeHeader string
	TimeKey    string
	TimeField  string
	Unit       TimeUnit
	Tolerance  time.Duration

	Claims *Claims // of a JWT
	// Vendor finds the provider's public key for a signature; for key rule VendorPublicKey.
	Vendor vendorKey
	// KeyField is the path of the JSON body where Vendor finds what it asks for, if it stands there.
	KeyField string
	// Credential reports a secret that isn't of the form it must have; nil if it may have any.
	Credential func(string) error
	// Also are further schemes of the same provider. A request that is right by any of them is right.
	Also []Scheme

	size   int  // of a digest
	paired bool // the row has further schemes, and a secret may be a key of another of them
	needs  needs
	fields *wants // the paths of the JSON body, or of the elements of Each
	array  *wants // the path of Each
}

// vendorKey finds the public key with which a provider signed a request. keyID is the name of the key, of a scheme that
// has one.
type vendorKey func(ctx context.Context, p *pass, secret Secret, keyID string) (crypto.PublicKey, error)

// Reason says why a signature was refused. The texts are stable: they stand in problem documents and metric labels.
type Reason string

// The reasons.
const (
	MissingHeader  Reason = "missing-header" // no signature, or something that it covers isn't there
	Malformed      Reason = "malformed"
	WrongSignature Reason = "wrong-signature" // another secret, or another body
	TooOld         Reason = "too-old"         // the signature is right, the time is not
	TooNew         Reason = "too-new"
	NoSecret       Reason = "no-valid-secret" // no secret of the source counts at this time
	UntrustedKey   Reason = "untrusted-key"   // the key that the request points to is not one of the provider's
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
