package ingress

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Sign signs r as the provider would: it sets the headers of the signature and its time, or puts them into the body or
// the URL. Headers that are part of the message must already be there. For a provider that signs with a key of its own,
// secret is that private key in PEM (PKCS #8), which only tests have.
func (s *Scheme) Sign(r *Request, secret Secret, now time.Time) error {
	if !s.asymmetric() {
		return s.SignWith(r, secret, nil, now)
	}
	block, _ := pem.Decode(secret)
	if block == nil {
		return errors.New("sign: this provider signs with a private key, in PEM")
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return errors.New("sign: the private key is not PKCS #8")
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return errors.New("sign: the private key can't sign")
	}
	return s.SignWith(r, nil, signer, now)
}

// SignWith is Sign with a provider's private key beside the secret of the source, for a provider that has both.
func (s *Scheme) SignWith(r *Request, secret Secret, private crypto.Signer, now time.Time) error {
	if s.Algorithm == None {
		return nil
	}
	p := pass{s: s, r: r}
	var stamp string
	if s.timed() {
		stamp = s.stamp(now)
	}
	err := p.prepare(stamp)
	if err == nil && s.Each != "" {
		err = p.signEach(secret, stamp)
	} else if err == nil {
		if err = p.open(); err == nil {
			err = p.sign(secret, private, stamp, now)
		}
	}
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return nil
}

func (s *Scheme) stamp(now time.Time) string {
	switch s.Unit {
	case ISO:
		return now.UTC().Format(time.RFC3339Nano)
	case Milliseconds:
		return strconv.FormatInt(now.UnixMilli(), 10)
	}
	return strconv.FormatInt(now.Unix(), 10)
}

// prepare puts in place what is signed along: times in a header or the body, and the body's hash in the URL.
func (p *pass) prepare(stamp string) error {
	s, r := p.s, p.r
	if s.TimeHeader != "" {
		r.Header.Set(s.TimeHeader, stamp)
	}
	if s.If != "" {
		if err := setField(&r.Body, s.If, s.Is); err != nil {
			return err
		}
	}
	if s.TimeField != "" {
		var value any = stamp
		if s.Unit != ISO {
			value = json.Number(stamp)
		}
		if err := setField(&r.Body, s.TimeField, value); err != nil {
			return err
		}
	}
	for _, part := range s.Message {
		media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		switch {
		case part.kind == partFormOrHash && media != formType:
			u, err := url.Parse(r.URL)
			if err != nil {
				return err
			}
			q := u.Query()
			q.Set(part.text, hexSHA256(r.Body))
			u.RawQuery = q.Encode()
			r.URL = u.String()
		case part.kind == partSignedHeaders && r.Header.Get(part.text) == "":
			r.Header.Set(part.text, strings.ToLower(part.text+","+s.TimeHeader))
		}
	}
	return nil
}

func (p *pass) sign(secret Secret, private crypto.Signer, stamp string, now time.Time) error {
	s, r := p.s, p.r
	var text string
	switch s.Algorithm {
	case Token:
		text = s.Label + string(secret)
	case Basic:
		text = "Basic " + base64.StdEncoding.EncodeToString(secret)
	case JWT:
		var err error
		if text, err = p.signToken(secret, private, now); err != nil {
			return err
		}
	default:
		sig, err := p.signature(secret, private, stamp)
		if err != nil {
			return err
		}
		text = s.layOut(s.encode(sig), stamp)
	}
	switch {
	case s.Field != "":
		return setField(&r.Body, s.Field, text)
	case s.Form != "":
		p.form.Set(s.Form, text)
		r.Body = []byte(p.form.Encode())
	case s.InBody:
		r.Body = []byte(text)
	case s.Numbered:
		r.Header.Set(s.Header+"-1", text)
	default:
		r.Header.Set(s.Header, text)
	}
	return nil
}

// signature is the bare signature of the message.
func (p *pass) signature(secret Secret, private crypto.Signer, stamp string) ([]byte, error) {
	s := p.s
	var key material
	if s.Algorithm == HMAC {
		var err error
		if key, err = s.material(secret); err != nil {
			return nil, err
		}
	} else if private == nil {
		return nil, errors.New("the provider signs with a private key of its own")
	} else if err := s.suits(private.Public()); err != nil {
		return nil, err
	}
	what, err := p.digest(key, s.Message, stamp, secret)
	if err != nil || s.Algorithm == HMAC {
		return what, err
	}
	how := s.cryptoHash()
	if s.Algorithm == Ed25519 {
		how = 0
	}
	return private.Sign(rand.Reader, what, how)
}

// signEach signs every element of Each, and writes the body again with the signatures in it.
func (p *pass) signEach(secret Secret, stamp string) error {
	items, err := p.items()
	if err != nil {
		return err
	}
	signed := make([]json.RawMessage, len(items))
	for i, item := range items {
		if p.fields, err = p.s.fields.find(item); err != nil {
			return err
		}
		text := string(secret)
		if p.s.Algorithm != Token {
			sig, err := p.signature(secret, nil, stamp)
			if err != nil {
				return err
			}
			text = p.s.layOut(p.s.encode(sig), stamp)
		}
		if err := setField(&item, p.s.Field, text); err != nil {
			return err
		}
		signed[i] = item
	}
	return setField(&p.r.Body, p.s.Each, signed)
}

func (s *Scheme) encode(sig []byte) string {
	switch s.Encoding {
	case Base64:
		return base64.StdEncoding.EncodeToString(sig)
	case Base64URL:
		return base64.RawURLEncoding.EncodeToString(sig)
	}
	return hex.EncodeToString(sig)
}

// layOut is the text around one signature.
func (s *Scheme) layOut(sig, stamp string) string {
	switch s.Layout {
	case Pairs:
		key := s.Label
		if key == "*" {
			key = "key"
		}
		if sig = key + s.Assign + sig; s.TimeKey != "" {
			sig = s.TimeKey + s.Assign + stamp + s.Separator + sig
		}
	case Tagged:
		sig = s.Label + s.Assign + sig
	case Positional:
		sig = stamp + s.Separator + sig
	case Prefixed:
		sig = s.Label + sig
	case Enveloped:
		b, _ := json.Marshal(map[string]string{"alg": "ecdsa", "kid": sampleKeyID, "signature": sig, "digest": "SHA1"}) // strings
		sig = base64.StdEncoding.EncodeToString(b)
	}
	return sig
}

// sampleKeyID is the name of the key that samples are signed with, of schemes that name one.
const sampleKeyID = "00000000-0000-0000-0000-000000000001"

// signToken makes a JSON Web Token for the request. Of a scheme whose token is the body, the body before is the claims.
func (p *pass) signToken(secret Secret, private crypto.Signer, now time.Time) (string, error) {
	c := p.s.Claims
	claims := map[string]any{}
	if p.s.InBody {
		if err := json.Unmarshal(p.r.Body, &claims); err != nil {
			return "", err
		}
	}
	claims["iat"], claims["exp"] = now.Unix(), now.Add(3*time.Minute).Unix()
	set := func(name string, value any) {
		if name != "" {
			claims[name] = value
		}
	}
	if c.Issuer != "" {
		claims["iss"] = c.Issuer
	}
	if c.QueryHash != "" {
		claims[c.QueryHash] = p.queryHash()
	}
	set(c.BodyHash, hexSHA256(p.r.Body))
	set(c.URLHash, hexSHA256([]byte(p.r.URL)))
	head, err := json.Marshal(map[string]string{"alg": string(c.Algorithm), "typ": "JWT", "kid": sampleKeyID})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	sig, err := c.Algorithm.sign(secret, private, input)
	return p.s.Label + input + "." + base64.RawURLEncoding.EncodeToString(sig), err
}

func (a TokenAlgorithm) sign(secret Secret, private crypto.Signer, input string) ([]byte, error) {
	sum := sha256.Sum256([]byte(input))
	switch k := private.(type) {
	case nil:
		if a == HS256 {
			h := hmac.New(sha256.New, secret)
			h.Write([]byte(input))
			return h.Sum(nil), nil
		}
	case *rsa.PrivateKey:
		if a == RS256 {
			return rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
		}
	case *ecdsa.PrivateKey:
		if a == ES256 {
			r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
			if err != nil {
				return nil, err
			}
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
		}
	}
	return nil, fmt.Errorf("the key is not one for %s", a)
}

// setField sets a value in the JSON object *body, at a path of keys joined by dots. Objects on the way are made.
func setField(body *[]byte, path string, value any) error {
	d := json.NewDecoder(bytes.NewReader(*body))
	d.UseNumber()
	root := map[string]any{}
	if err := d.Decode(&root); err != nil {
		return err
	}
	at := root
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		next, ok := at[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[name] = next
		}
		at = next
	}
	at[names[len(names)-1]] = value
	b, err := json.Marshal(root)
	*body = b
	return err
}
