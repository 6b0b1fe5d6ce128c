package ingress

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// vendors is an internet with the providers that publish keys: one real HTTPS server, whatever host is asked for.
type vendors struct {
	server *httptest.Server
	roots  *x509.CertPool
	asked  atomic.Int64
	answer func(http.ResponseWriter, *http.Request) bool // before all others; set before the first request

	instead atomic.Pointer[func(http.ResponseWriter, *http.Request)] // of all others; may change

	rsa     *rsa.PrivateKey
	ecdsa   *ecdsa.PrivateKey
	ed25519 ed25519.PrivateKey
	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey
}

// newVendors starts them. Every test that needs another answer has its own.
func newVendors(t testing.TB) *vendors {
	t.Helper()
	v := sharedKeys()
	out := &vendors{roots: v.roots, rsa: v.rsa, ecdsa: v.ecdsa, ed25519: v.ed25519, ca: v.ca, caKey: v.caKey}
	out.server = httptest.NewUnstartedServer(http.HandlerFunc(out.serve))
	out.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	out.server.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		der, key := out.issue(hello.ServerName, nil, time.Hour)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}}
	out.server.StartTLS()
	t.Cleanup(out.server.Close)
	return out
}

// sharedKeys makes keys once: RSA takes its time.
var sharedKeys = sync.OnceValue(func() *vendors {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	v := &vendors{}
	var err error
	v.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	v.ecdsa, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	_, v.ed25519, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	v.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Unix(0, 0),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, v.caKey.Public(), v.caKey)
	must(err)
	v.ca, err = x509.ParseCertificate(der)
	must(err)
	v.roots = x509.NewCertPool()
	v.roots.AddCert(v.ca)
	return v
})

// issue makes a certificate for a name, by the test authority. key nil makes one.
func (v *vendors) issue(name string, key crypto.Signer, life time.Duration) ([]byte, crypto.Signer) {
	if key == nil {
		key = v.ecdsa
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, v.ca, key.Public(), v.caKey)
	if err != nil {
		panic(err)
	}
	return der, key
}

func (v *vendors) certificate(name string, life time.Duration) []byte {
	der, _ := v.issue(name, v.rsa, life)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (v *vendors) serve(w http.ResponseWriter, r *http.Request) {
	v.asked.Add(1)
	if instead := v.instead.Load(); instead != nil {
		(*instead)(w, r)
		return
	}
	if v.answer != nil && v.answer(w, r) {
		return
	}
	raw := base64.RawURLEncoding.EncodeToString
	point, err := v.ecdsa.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	// They know their own keys and no others.
	switch host, address := r.Host, "https://"+r.Host+r.URL.Path; {
	case address == goodCertificate, address == "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem":
		w.Write(v.certificate("sns.amazonaws.com", time.Hour))
	case address == "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1d93a270":
		w.Write(v.certificate("messageverificationcerts.paypal.com", time.Hour))
	case strings.HasSuffix(host, ".plaid.com"):
		var asked struct {
			ID string `json:"key_id"`
		}
		if json.NewDecoder(r.Body).Decode(&asked); asked.ID != sampleKeyID {
			http.Error(w, `{"error_code":"INVALID_WEBHOOK_VERIFICATION_KEY_ID"}`, http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"key": map[string]any{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": sampleKeyID, "x": raw(point[1:33]), "y": raw(point[33:]),
		}})
	case host == "api.ebay.com" && strings.HasSuffix(r.URL.Path, "/token"):
		json.NewEncoder(w).Encode(map[string]any{"access_token": "access", "expires_in": 7200})
	case address == "https://api.ebay.com/commerce/notification/v1/public_key/"+sampleKeyID && r.Header.Get("Authorization") == "Bearer access":
		text := strings.ReplaceAll(string(publicPEM(v.ecdsa)), "\n", "")
		json.NewEncoder(w).Encode(map[string]any{"key": text, "algorithm": "ECDSA", "digest": "SHA1"})
	case strings.HasSuffix(host, ".kinde.com"):
		json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "use": "sig", "kid": sampleKeyID, "n": raw(v.rsa.N.Bytes()), "e": raw(big.NewInt(int64(v.rsa.E)).Bytes()),
		}}})
	default:
		http.Error(w, "nobody", http.StatusNotFound)
	}
}

// answers makes all providers answer so.
func (v *vendors) answers(with func(http.ResponseWriter, *http.Request)) { v.instead.Store(&with) }

// hands is a clock that a test moves.
type hands struct{ atomic.Int64 }

func newHands(at time.Time) *hands {
	h := &hands{}
	h.set(at)
	return h
}

func (h *hands) set(at time.Time)        { h.Store(at.UnixNano()) }
func (h *hands) now() time.Time          { return time.Unix(0, h.Load()) }
func (h *hands) forward(d time.Duration) { h.Add(int64(d)) }

// keys is a store that asks this internet.
func (v *vendors) keys() *VendorKeys {
	address := v.server.Listener.Addr().String()
	return newVendorKeys(v.roots, func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	})
}

func publicPEM(key crypto.Signer) []byte {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func privatePEM(key crypto.Signer) Secret {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (v *vendors) of(s *Scheme) crypto.Signer {
	a := s.Algorithm
	if a == JWT {
		a = s.Claims.Algorithm.public()
	}
	switch a {
	case Ed25519:
		return v.ed25519
	case ECDSA:
		return v.ecdsa
	case RSA:
		return v.rsa
	}
	return nil
}

// signer is the private key that the provider of a row signs with; nil if it shares a secret.
func signer(p Provider) crypto.Signer {
	if !p.Scheme.asymmetric() {
		return nil
	}
	return sharedKeys().of(&p.Scheme)
}

// secretOf is the secret of the row's source in tests.
func secretOf(provider string) Secret {
	p, _ := ProviderNamed(provider)
	text := "secret-of-" + provider
	switch p.Scheme.Key {
	case WhsecKeys:
		return Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	case HexKeys:
		return Secret("44782def547aaa06c910c43932b1eb0c71fc68d9d0c057550c48ec2acf6ba056")
	case Base64Keys:
		return Secret(base64.StdEncoding.EncodeToString([]byte(text)))
	case PublicKeys:
		return Secret(strings.TrimSpace(string(publicPEM(signer(p)))))
	case VendorPublicKey:
		return Secret(map[string]string{
			"sns": sampleTopic, "paypal": "8PT597110X687430LKGECATA", "kinde": "https://octo.kinde.com",
		}[provider] + map[string]string{"plaid": "id:" + text, "plaid-sandbox": "id:" + text, "ebay": "id:" + text}[provider])
	}
	if p.Scheme.Algorithm == Basic {
		return Secret("user:" + text + ":with:colons")
	}
	return Secret(text)
}

const publicBase = "https://hooks.example.com"

// sourceOf is a source of the row, called like it.
func sourceOf(p Provider) Source {
	return Source{
		Name: p.Name, Provider: p.Name, Secrets: Keys(secretOf(p.Name)), PublicURL: publicBase + "/hooks/" + p.Name,
	}
}

// everySource is a source of each row: first github, stripe, slack and standard, in this order.
func everySource() (sources []Source) {
	familiar := []string{"github", "stripe", "slack", "standard"}
	for _, name := range familiar {
		p, _ := ProviderNamed(name)
		sources = append(sources, sourceOf(p))
	}
	for _, p := range Providers {
		if !slices.Contains(familiar, p.Name) {
			sources = append(sources, sourceOf(p))
		}
	}
	return sources
}

// sample returns a signed request of the row, as its source sees it.
func sample(t testing.TB, p Provider, now time.Time) Request {
	t.Helper()
	d, err := Sample(SampleTypes(p.Name)[0], Facts{ID: "d1-" + p.Name, Time: now})
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Method: "POST", URL: publicBase + "/hooks/" + p.Name + d.Query, Header: d.Header, Body: d.Body}
	if err := p.Scheme.SignWith(&r, secretOf(p.Name), signer(p), now); err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	return r
}

// otherPublicKey is a key of the same kind as the row's, of somebody else.
func otherPublicKey(p Provider) Secret {
	keys := strangers()
	return Secret(publicPEM(keys.of(&p.Scheme)))
}

var strangers = sync.OnceValue(func() *vendors {
	v := &vendors{}
	v.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	v.ecdsa, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, v.ed25519, _ = ed25519.GenerateKey(rand.Reader)
	return v
})

// weakRSA is a public key of 1024 bits.
func weakRSA() string {
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// strangersRoots trusts somebody else.
func strangersRoots() *x509.CertPool {
	v := strangers()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stranger"}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, v.ecdsa.Public(), v.ecdsa)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}
