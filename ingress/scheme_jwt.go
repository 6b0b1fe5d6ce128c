package ingress

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"
)

// TokenAlgorithm is the "alg" of a JSON Web Token. It is the row's, never the token's own: a token that says "none", or
// that wants a public key taken for a shared secret, is refused (RFC 8725, 3.1).
type TokenAlgorithm string

// The token algorithms.
const (
	HS256 TokenAlgorithm = "HS256"
	RS256 TokenAlgorithm = "RS256"
	ES256 TokenAlgorithm = "ES256"
)

// public is the signature algorithm of the token's public keys.
func (a TokenAlgorithm) public() Algorithm {
	switch a {
	case RS256:
		return RSA
	case ES256:
		return ECDSA
	}
	return HMAC
}

// Claims says what a provider's tokens must have in them. exp and nbf are always honoured where they are.
type Claims struct {
	Algorithm TokenAlgorithm
	Issuer    string // "iss", if it is always the same
	BodyHash  string // the claim with the SHA-256 of the body, in hexadecimal
	URLHash   string // the claim with the SHA-256 of the URL
	QueryHash string // the claim with Atlassian's hash of method, path and query
	Expiry    bool   // "exp" must be there
	// IssuedAt demands "iat", within the scheme's tolerance.
	IssuedAt bool
}

// leeway is how far clocks may differ for exp and nbf.
const leeway = time.Minute

var tokenHead = wanted("alg", "kid", "crit")

// token is a JSON Web Token, split up.
type token struct {
	input     []byte // what is signed
	signature []byte
	keyID     string
	claims    []byte // JSON
	values    values
}

// parseToken takes the token from the text of its header. A token that isn't of the row's algorithm is refused before
// any key is looked for.
func (s *Scheme) parseToken(text string) (token, error) {
	bad := func(what string) (token, error) { return token{}, failf(Malformed, "%s %s", s.where(), what) }
	text, ok := cutFold(text, s.Label)
	parts := strings.Split(text, ".")
	if !ok || len(parts) != 3 {
		return bad("is not a JSON Web Token")
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return bad("is not a JSON Web Token")
		}
	}
	head, err := tokenHead.find(raw[0])
	if err != nil {
		return bad("has a token whose head is not JSON")
	}
	if head.text("alg") != string(s.Claims.Algorithm) || head.tail("crit") != nil {
		return bad(fmt.Sprintf("has a token that is not signed with %s", s.Claims.Algorithm))
	}
	t := token{
		input: []byte(text[:len(text)-len(parts[2])-1]), signature: raw[2], keyID: head.text("kid"), claims: raw[1],
	}
	c := s.Claims
	t.values, err = wanted(slices.DeleteFunc([]string{"exp", "nbf", "iat", "iss", c.BodyHash, c.URLHash, c.QueryHash},
		func(path string) bool { return path == "" })...).find(raw[1])
	if err != nil {
		return bad("has a token whose claims are not JSON")
	}
	return t, nil
}

func cutFold(text, prefix string) (string, bool) {
	if len(text) < len(prefix) || !strings.EqualFold(text[:len(prefix)], prefix) {
		return text, false
	}
	return text[len(prefix):], true
}

// checkJWT verifies the token, then what it says of the request, then its times.
func (p *pass) checkJWT(ctx context.Context, keys []Key, now time.Time) error {
	s := p.s
	var t token
	limit := maxSignatureHeader
	if s.InBody {
		limit = len(p.r.Body)
	}
	err := p.each(func(text string) (err error) {
		if len(text) > limit {
			return failf(Malformed, "%s is longer than %d bytes", s.where(), limit)
		}
		t, err = s.parseToken(text)
		return err
	})
	if err != nil {
		return err
	}
	right, counted, missed := false, false, error(nil)
	for i := range keys {
		if !keys[i].counts(now) {
			continue
		}
		if right && s.Vendor != nil {
			break // a further key is not worth the wait for it: it is public, there is no secret to be timed
		}
		counted = true
		key, err := s.material(keys[i].Secret)
		if err != nil {
			return err
		}
		if s.Vendor != nil {
			if key.public, err = s.Vendor(ctx, p, keys[i].Secret, t.keyID); err != nil {
				missed = noKey{err}.after(missed)
				continue
			}
		}
		right = s.Claims.Algorithm.signed(key, t) || right
	}
	switch {
	case !counted:
		return failf(NoSecret, "the source has no secret that counts at this time")
	case !right && missed != nil:
		return missed
	case !right:
		return failf(WrongSignature, "the token in %s is not signed with a key of this source", s.where())
	}
	if err := p.bound(t); err != nil {
		return err
	}
	return s.current(t, now)
}

func (a TokenAlgorithm) signed(key material, t token) bool {
	sum := sha256.Sum256(t.input)
	switch a {
	case HS256:
		h := hmac.New(sha256.New, key.bytes)
		h.Write(t.input)
		return hmac.Equal(h.Sum(nil), t.signature)
	case RS256:
		k, ok := key.public.(*rsa.PublicKey)
		return ok && rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], t.signature) == nil
	case ES256: // RFC 7518, 3.4: R and S, 32 bytes each
		k, ok := key.public.(*ecdsa.PublicKey)
		return ok && len(t.signature) == 64 &&
			ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(t.signature[:32]), new(big.Int).SetBytes(t.signature[32:]))
	}
	return false
}

// bound checks that the token was made for this request.
func (p *pass) bound(t token) error {
	c := p.s.Claims
	if iss := t.values.text("iss"); c.Issuer != "" && iss != c.Issuer {
		return failf(WrongSignature, "the token is not issued by %s", c.Issuer)
	}
	for _, b := range []struct {
		claim, of string
		hash      func() string
	}{
		{c.BodyHash, "body", func() string { return hexSHA256(p.r.Body) }},
		{c.URLHash, "URL", func() string { return hexSHA256([]byte(p.r.URL)) }},
		{c.QueryHash, "method, path and query", p.queryHash},
	} {
		// A request without a body needs no hash of one, as MessageBird leaves it out.
		if b.claim == "" || b.claim == c.BodyHash && len(p.r.Body) == 0 && t.values.tail(b.claim) == nil {
			continue
		}
		sent := t.values.text(b.claim)
		if sent == "" {
			return failf(MissingHeader, "the token has no claim %s", b.claim)
		}
		if !equal([]byte(strings.ToLower(sent)), []byte(b.hash())) {
			return failf(WrongSignature, "the token is for another %s", b.of)
		}
	}
	return nil
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// current checks the token's times (RFC 7519, 4.1).
func (s *Scheme) current(t token, now time.Time) error {
	at := func(claim string) (time.Time, bool) {
		var seconds float64 // NumericDate may have a fraction
		if json.Unmarshal([]byte(t.values.digits(claim)), &seconds) != nil || seconds < 0 || seconds > 1e12 {
			return time.Time{}, false
		}
		return time.UnixMilli(int64(seconds * 1000)), true
	}
	exp, ok := at("exp")
	switch {
	case !ok && (s.Claims.Expiry || t.values.tail("exp") != nil):
		return failf(Malformed, "the token has no time exp")
	case ok && now.After(exp.Add(leeway)):
		return failf(TooOld, "the token has expired")
	}
	nbf, ok := at("nbf")
	switch {
	case !ok && t.values.tail("nbf") != nil:
		return failf(Malformed, "the token has no time nbf")
	case ok && now.Before(nbf.Add(-leeway)):
		return failf(TooNew, "the token is not valid yet")
	}
	if !s.Claims.IssuedAt {
		return nil
	}
	iat, ok := at("iat")
	switch {
	case !ok:
		return failf(Malformed, "the token has no time iat")
	case now.Sub(iat) > s.Tolerance:
		return failf(TooOld, "the token is more than %v old", s.Tolerance)
	case iat.Sub(now) > s.Tolerance:
		return failf(TooNew, "the token is from more than %v in the future", s.Tolerance)
	}
	return nil
}

// queryHash is Atlassian's query string hash: the method, the path and the query in a canonical form, joined by "&".
// https://developer.atlassian.com/cloud/jira/platform/understanding-jwt-for-connect-apps/#creating-a-query-string-hash
func (p *pass) queryHash() string {
	path := strings.ReplaceAll(strings.TrimSuffix(p.url.EscapedPath(), "/"), "&", "%26")
	if path == "" {
		path = "/"
	}
	query := p.url.Query()
	var pairs []string
	for name, list := range query {
		if name == "jwt" {
			continue // the token itself
		}
		for i := range list {
			list[i] = percent(list[i])
		}
		slices.Sort(list)
		pairs = append(pairs, percent(name)+"="+strings.Join(list, ","))
	}
	slices.Sort(pairs)
	return hexSHA256([]byte(strings.ToUpper(p.r.Method) + "&" + path + "&" + strings.Join(pairs, "&")))
}

// percent is percent-encoding as RFC 3986 has it, with nothing reserved left.
func percent(text string) string {
	return strings.NewReplacer("+", "%20", "%7E", "~").Replace(url.QueryEscape(text))
}
