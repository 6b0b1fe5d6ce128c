package ingress

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Where the providers that sign with keys of their own publish them.

var keyName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// certificateAt finds the certificate at the address in a header or field of the body. It must be valid now, be for one
// of the names, and if chained for one of the system's authorities. AWS publishes no chain: there the trust is in the
// TLS connection to the pinned host.
func certificateAt(address func(*pass) string, pin Pin, names *regexp.Regexp, chained bool) vendorKey {
	return func(ctx context.Context, p *pass, _ Secret, _ string) (crypto.PublicKey, error) {
		u, err := pin.allows(address(p))
		if err != nil {
			return nil, failf(UntrustedKey, "the certificate's address is not one of the provider's")
		}
		v := p.r.Vendor
		key, err := v.key(ctx, u.String(), func(ctx context.Context) (fetched, error) {
			b, err := v.http.get(ctx, u, nil)
			if err != nil {
				return fetched{}, err
			}
			return v.certificate(b, names, chained)
		})
		if err != nil {
			return nil, err
		}
		return key, p.s.suits(key)
	}
}

// certificate checks the certificates in PEM text, the provider's own first, and returns its key.
func (v *VendorKeys) certificate(text []byte, names *regexp.Regexp, chained bool) (fetched, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil && len(certs) < 8; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fetched{}, fmt.Errorf("the certificate can't be read: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return fetched{}, errors.New("no certificate at the address")
	}
	leaf, now := certs[0], v.now()
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fetched{}, errors.New("the certificate is not valid now")
	}
	if !slices.ContainsFunc(append(leaf.DNSNames, leaf.Subject.CommonName), names.MatchString) {
		return fetched{}, errors.New("the certificate is for another name")
	}
	if chained {
		between := x509.NewCertPool()
		for _, c := range certs[1:] {
			between.AddCert(c)
		}
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: v.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err != nil {
			return fetched{}, fmt.Errorf("the certificate's chain: %w", err)
		}
	}
	return fetched{leaf.PublicKey, leaf.NotAfter}, nil
}

// snsCertificate: https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
var snsCertificate = certificateAt(
	func(p *pass) string {
		text, _ := p.fields.scalar(p.s.KeyField)
		return text
	},
	Pin{
		Host: regexp.MustCompile(`^sns\.[a-z0-9-]{1,30}\.amazonaws\.com(\.cn)?$`),
		Path: regexp.MustCompile(`^/SimpleNotificationService-[0-9a-zA-Z]{1,64}\.pem$`),
	},
	regexp.MustCompile(`^(sns|sns\.[a-z0-9-]+)\.amazonaws\.com(\.cn)?$`), false,
)

// payPalCertificate: https://developer.paypal.com/api/rest/webhooks/rest/#link-validatewebhooknotifications
var payPalCertificate = certificateAt(
	func(p *pass) string { return p.r.Header.Get("Paypal-Cert-Url") },
	Pin{
		Host: regexp.MustCompile(`^api(-m)?(\.sandbox)?\.paypal\.com$`),
		Path: regexp.MustCompile(`^/v1/notifications/certs/CERT-[0-9a-zA-Z-]{1,100}$`),
	},
	regexp.MustCompile(`^messageverificationcerts(\.sandbox)?\.paypal\.com$`), true,
)

// The forms of secrets that say whose deliveries are taken.

func aPair(text string) error {
	if user, password, _ := strings.Cut(text, ":"); user == "" || password == "" {
		return errors.New("the secret is not two parts with a colon between them")
	}
	return nil
}

func aPairOrKey(text string) error {
	if _, err := publicKey(text); err == nil {
		return nil
	}
	return aPair(text)
}

func anIssuer(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("the secret is not an issuer such as https://acme.kinde.com")
	}
	return nil
}

func aTopic(text string) error {
	if !snsARN.MatchString(text) {
		return errors.New("the secret is not the ARN of a topic")
	}
	return nil
}

// jwk is a JSON Web Key (RFC 7517), as far as it is needed.
type jwk struct {
	Kty, Crv, Kid, Alg, Use string
	X, Y, N, E              string
}

func (k jwk) public() (crypto.PublicKey, error) {
	number := func(text string) (*big.Int, error) {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
		return new(big.Int).SetBytes(b), err
	}
	wrong := errors.New("the key is neither RSA nor P-256")
	switch {
	case k.Use != "" && k.Use != "sig":
		return nil, errors.New("the key is not for signatures")
	case k.Kty == "EC" && k.Crv == "P-256":
		x, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(k.X, "="))
		y, err2 := base64.RawURLEncoding.DecodeString(strings.TrimRight(k.Y, "="))
		if err != nil || err2 != nil || len(x) > 32 || len(y) > 32 {
			return nil, wrong
		}
		point := make([]byte, 65)
		point[0] = 4 // uncompressed
		copy(point[33-len(x):33], x)
		copy(point[65-len(y):], y)
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	case k.Kty == "RSA":
		n, err := number(k.N)
		e, err2 := number(k.E)
		if err != nil || err2 != nil || !e.IsInt64() || e.Int64() > 1<<31-1 || e.Int64() < 3 || n.BitLen() < minRSABits || n.BitLen() > 8192 {
			return nil, wrong
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	}
	return nil, wrong
}

// nameFor names a key that is asked for with credentials. They are part of it: what was answered to a password that has
// been replaced says nothing of the new one.
func nameFor(host string, credentials Secret, kid string) string {
	return host + " " + hexSHA256(credentials) + " " + kid
}

// aboutUs is the error for an answer that says nothing of the key, whatever its status: the address that was asked is the
// same for all keys.
func aboutUs(a *answered) error {
	switch a.code {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the source's credentials are refused: ask %s: %s", a.host, a.status)
	}
	return fmt.Errorf("ask %s: %s", a.host, a.status)
}

// plaidKey asks Plaid for the key of a token's kid, with the credentials "client_id:secret" that the source has for it.
// https://plaid.com/docs/api/webhooks/webhook-verification/
func plaidKey(host string) vendorKey {
	return func(ctx context.Context, p *pass, secret Secret, kid string) (crypto.PublicKey, error) {
		if static, err := publicKey(string(secret)); err == nil {
			return static, p.s.suits(static)
		}
		id, password, _ := strings.Cut(string(secret), ":")
		if !keyName.MatchString(kid) {
			return nil, failf(UntrustedKey, "the token names no key")
		}
		v := p.r.Vendor
		return v.key(ctx, nameFor(host, secret, kid), func(ctx context.Context) (fetched, error) {
			b, err := json.Marshal(map[string]string{"client_id": id, "secret": password, "key_id": kid})
			if err != nil {
				return fetched{}, err
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/webhook_verification_key/get", bytes.NewReader(b))
			if err != nil {
				return fetched{}, err
			}
			answer, err := v.http.do(r, http.Header{"Content-Type": {jsonType}})
			if no, ok := errors.AsType[*answered](err); ok {
				if no.code == http.StatusBadRequest && strings.Contains(string(answer), "WEBHOOK_VERIFICATION_KEY") {
					return fetched{}, fmt.Errorf("%w: %w", errGone, err)
				}
				return fetched{}, aboutUs(no)
			}
			if err != nil {
				return fetched{}, err
			}
			var got struct {
				Key struct {
					jwk
					ExpiredAt *int64 `json:"expired_at"`
				}
			}
			if err := json.Unmarshal(answer, &got); err != nil {
				return fetched{}, err
			}
			if got.Key.ExpiredAt != nil {
				return fetched{}, fmt.Errorf("the key has expired: %w", errGone)
			}
			key, err := got.Key.public()
			return fetched{key: key}, err
		})
	}
}

// issuerKey finds the key of a token's kid among those that the issuer publishes. The secret is the issuer, for example
// "https://acme.kinde.com": no other host is asked.
func issuerKey(ctx context.Context, p *pass, secret Secret, kid string) (crypto.PublicKey, error) {
	if err := anIssuer(string(secret)); err != nil {
		return nil, err
	}
	issuer, err := url.Parse(string(secret))
	if err != nil {
		return nil, err
	}
	if !keyName.MatchString(strings.NewReplacer(":", "", ".", "").Replace(kid)) {
		return nil, failf(UntrustedKey, "the token names no key")
	}
	v := p.r.Vendor
	u := issuer.JoinPath(".well-known", "jwks.json")
	return v.key(ctx, u.String()+" "+kid, func(ctx context.Context) (fetched, error) {
		b, err := v.http.get(ctx, u, nil)
		if err != nil {
			return fetched{}, err
		}
		var set struct{ Keys []jwk }
		if err := json.Unmarshal(b, &set); err != nil {
			return fetched{}, err
		}
		for _, k := range set.Keys {
			if k.Kid == kid {
				key, err := k.public()
				return fetched{key: key}, err
			}
		}
		return fetched{}, errGone
	})
}

// eBayKeys asks eBay for the key that a signature names, with an application's access token, which it gets for the
// credentials "client_id:client_secret" that the source has for it.
// https://developer.ebay.com/api-docs/commerce/notification/resources/public_key/methods/getPublicKey
type eBayKeys struct {
	host string

	mu    sync.Mutex
	token string
	of    string // the credentials it was given for
	until time.Time
}

func (e *eBayKeys) find(ctx context.Context, p *pass, secret Secret, kid string) (crypto.PublicKey, error) {
	if static, err := publicKey(string(secret)); err == nil {
		return static, p.s.suits(static)
	}
	id, password, _ := strings.Cut(string(secret), ":")
	if !keyName.MatchString(kid) {
		return nil, failf(UntrustedKey, "the signature names no key")
	}
	v := p.r.Vendor
	key, err := v.key(ctx, nameFor(e.host, secret, kid), func(ctx context.Context) (fetched, error) {
		token, err := e.access(ctx, v, id, password)
		if err != nil {
			return fetched{}, err
		}
		u := &url.URL{Scheme: "https", Host: e.host, Path: "/commerce/notification/v1/public_key/" + kid}
		b, err := v.http.get(ctx, u, http.Header{"Authorization": {"Bearer " + token}, "Accept": {jsonType}})
		if no, ok := errors.AsType[*answered](err); ok && no.code == http.StatusUnauthorized {
			e.drop(token)
		}
		if err != nil {
			return fetched{}, err
		}
		var got struct{ Key string }
		if err := json.Unmarshal(b, &got); err != nil {
			return fetched{}, err
		}
		key, err := publicKey(bare(got.Key))
		return fetched{key: key}, err
	})
	if err != nil {
		return nil, err
	}
	return key, p.s.suits(key)
}

// access returns an access token for the public API: the client credentials grant.
func (e *eBayKeys) access(ctx context.Context, v *VendorKeys, id, password string) (string, error) {
	of := hexSHA256([]byte(id + ":" + password))
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := v.now(); e.of == of && now.Before(e.until) {
		return e.token, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"https://api.ebay.com/oauth/api_scope"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+e.host+"/identity/v1/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.SetBasicAuth(id, password)
	answer, err := v.http.do(r, http.Header{"Content-Type": {formType}, "Authorization": r.Header["Authorization"]})
	if no, ok := errors.AsType[*answered](err); ok {
		return "", aboutUs(no)
	}
	if err != nil {
		return "", err
	}
	var got struct {
		Token   string `json:"access_token"`
		Expires int64  `json:"expires_in"`
	}
	if err := json.Unmarshal(answer, &got); err != nil || got.Token == "" {
		return "", errors.New("the answer has no access token")
	}
	e.token, e.of, e.until = got.Token, of, v.now().Add(time.Duration(min(got.Expires, 7200))*time.Second-time.Minute)
	return e.token, nil
}

// drop forgets an access token that eBay refuses before its time, unless there is a newer one.
func (e *eBayKeys) drop(token string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.token == token {
		e.token, e.of, e.until = "", "", time.Time{}
	}
}
