package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// snsRequest is a signed message of Amazon SNS whose certificate stands at the given address.
func snsRequest(t *testing.T, keys *VendorKeys, address string) (Provider, Request) {
	t.Helper()
	p, _ := ProviderNamed("sns")
	d, err := Sample("sns.Notification", Facts{ID: "d1", Time: signedAt})
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Method: "POST", Header: d.Header, Body: d.Body, Vendor: keys}
	if err := setField(&r.Body, "SigningCertURL", address); err != nil {
		t.Fatal(err)
	}
	if err := p.Scheme.SignWith(&r, secretOf("sns"), signer(p), signedAt); err != nil {
		t.Fatal(err)
	}
	return p, r
}

const goodCertificate = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem"

func statusOf(err error) int {
	if err == nil {
		return 0
	}
	return problemOf(err).Status
}

// What a stranger's request points to is not asked unless it is on the pin, to the letter.
func TestNothingIsAskedOffThePin(t *testing.T) {
	v := newVendors(t)
	for _, address := range []string{
		"", "nonsense", "//sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem",
		"http://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem",
		"https://sns.us-east-1.amazonaws.com.example.com/SimpleNotificationService-0a1b.pem",
		"https://example.com/sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem",
		"https://sns.us-east-1.amazonaws.com@example.com/SimpleNotificationService-0a1b.pem",
		"https://u:p@sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem",
		"https://example.com#sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem",
		"https://sns.us-east-1.amazonaws.com:8443/SimpleNotificationService-0a1b.pem",
		"https://sns.us-east-1.amazonaws.com./SimpleNotificationService-0a1b.pem",
		"https://SNS.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem?",
		"https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem?x=1",
		"https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem#x",
		"https://sns.us-east-1.amazonaws.com/../SimpleNotificationService-0a1b.pem",
		"https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem%00",
		"https://sns.us-east-1.amazonaws.com/anything.pem",
		"https://bucket.s3.amazonaws.com/SimpleNotificationService-0a1b.pem",
		"https://sns.us-east-1.example.amazonaws.com/SimpleNotificationService-0a1b.pem",
		"https://[::1]/SimpleNotificationService-0a1b.pem", "https://169.254.169.254/latest/meta-data", "file:///etc/passwd",
	} {
		p, r := snsRequest(t, v.keys(), address)
		if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("sns")), signedAt); reasonOf(err) != UntrustedKey {
			t.Errorf("%q: %v", address, err)
		}
	}
	if n := v.asked.Load(); n != 0 {
		t.Errorf("%d were asked", n)
	}
	p, r := snsRequest(t, v.keys(), goodCertificate)
	if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("sns")), signedAt); err != nil || v.asked.Load() != 1 {
		t.Errorf("the right address: %v, asked %d times", err, v.asked.Load())
	}
}

// Another topic's messages are signed by the same key.
func TestOnlyTheTopicsOfTheSourceCount(t *testing.T) {
	v := newVendors(t)
	p, r := snsRequest(t, v.keys(), goodCertificate)
	other := Secret(strings.Replace(sampleTopic, "123456789012", "210987654321", 1))
	if err := p.Scheme.Verify(t.Context(), &r, Keys(other), signedAt); reasonOf(err) != WrongSignature || v.asked.Load() != 0 {
		t.Errorf("%v, asked %d times", err, v.asked.Load())
	}
}

func TestPrivateAddressesAreNotConnectedTo(t *testing.T) {
	for _, host := range []string{
		"127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "[::1]", "[::]", "[fe80::1]", "[fd00::1]",
		"[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "localhost", "224.0.0.1", "255.255.255.255",
	} {
		_, err := newPinned(nil, nil).get(t.Context(), &url.URL{Scheme: "https", Host: host, Path: "/x"}, nil)
		if err == nil || !strings.Contains(err.Error(), "not a public address") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestWhatAProviderAnswersIsBounded(t *testing.T) {
	certificate := sharedKeys().certificate
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, goodCertificate+"?elsewhere", http.StatusFound)
		},
		"too much":       func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, fetchSize+1)) },
		"an error":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"slow down":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) },
		"who are you":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) },
		"a firewall":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) },
		"bad request":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) },
		"no certificate": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) },
		"a broken one": func(w http.ResponseWriter, _ *http.Request) {
			pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
		},
		"an expired one": func(w http.ResponseWriter, _ *http.Request) {
			w.Write(certificate("sns.amazonaws.com", -time.Minute))
		},
		"another's": func(w http.ResponseWriter, _ *http.Request) {
			w.Write(certificate("sns.amazonaws.com.example.com", time.Hour))
		},
		"nothing for long": func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendors(t)
			v.answers(answer)
			p, r := snsRequest(t, v.keys(), goodCertificate)
			if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("sns")), signedAt); statusOf(err) != 503 {
				t.Error(err)
			}
			if n := v.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// PayPal's certificate must come from an authority that the system knows.
func TestAChainIsVerified(t *testing.T) {
	v := newVendors(t)
	p, _ := ProviderNamed("paypal")
	r := sample(t, p, signedAt)
	keys := v.keys()
	keys.roots = strangersRoots()
	r.Vendor = keys
	if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("paypal")), signedAt); statusOf(err) != 503 || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("%v", err)
	}
}

func TestAKeyIsAskedForOnce(t *testing.T) {
	v := newVendors(t)
	keys := v.keys()
	p, r := snsRequest(t, keys, goodCertificate)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("sns")), signedAt); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := v.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// A provider that can't be reached takes no key away that is known, for two days.
func TestAKnownKeyOutlivesItsProvider(t *testing.T) {
	v := newVendors(t)
	keys := v.keys()
	clock := newHands(signedAt)
	keys.now = clock.now
	p, _ := ProviderNamed("plaid")
	r := sample(t, p, signedAt)
	r.Vendor = keys
	verify := func() error { return p.Scheme.Verify(t.Context(), &r, Keys(secretOf("plaid")), signedAt) }
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	v.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
	})
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{time.Hour, 0}, {13 * time.Hour, 0}, {47 * time.Hour, 0}, {49 * time.Hour, 503}} {
		clock.set(signedAt.Add(c.after))
		if err := verify(); statusOf(err) != c.want {
			t.Errorf("after %v: %v", c.after, err)
		}
	}
}

func TestAKeyThatIsNot(t *testing.T) {
	v := newVendors(t)
	v.answers(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		fmt.Fprint(w, `{"error_code":"INVALID_WEBHOOK_VERIFICATION_KEY_ID"}`)
	})
	keys := v.keys()
	clock := newHands(signedAt)
	keys.now = clock.now
	p, _ := ProviderNamed("plaid")
	r := sample(t, p, signedAt)
	r.Vendor = keys
	for range 10 {
		if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("plaid")), signedAt); reasonOf(err) != UntrustedKey {
			t.Fatal(err)
		}
	}
	if n := v.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	clock.forward(vendorMissLife)
	v.instead.Store(nil)
	// The first to come finds out.
	if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("plaid")), signedAt); err != nil {
		t.Errorf("a key that came later: %v", err)
	}
	// That our own credentials are wrong says nothing of the request.
	v.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		fmt.Fprint(w, `{"error_code":"INVALID_API_KEYS"}`)
	})
	r.Vendor = v.keys()
	if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("plaid")), signedAt); statusOf(err) != 503 || strings.Contains(err.Error(), "secret-of") {
		t.Errorf("wrong credentials: %v", err)
	}
}

// However many names strangers think up, the provider is asked rarely and little is kept.
func TestStrangersCantMakeUsAsk(t *testing.T) {
	v := newVendors(t)
	v.answers(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(404)
	})
	keys := v.keys()
	clock := newHands(signedAt)
	keys.now = clock.now
	for i := range 2000 {
		name := fmt.Sprint(i)
		_, err := keys.key(t.Context(), name, func(ctx context.Context) (fetched, error) {
			_, err := keys.http.get(ctx, &url.URL{Scheme: "https", Host: "example.com", Path: "/" + name}, nil)
			return fetched{}, err
		})
		if err == nil {
			t.Fatal("there is a key")
		}
	}
	if n := v.asked.Load(); n != fetchesBurst {
		t.Errorf("asked %d times", n)
	}
	for i := range 1000 {
		clock.forward(fetchesEvery)
		keys.key(t.Context(), fmt.Sprint("later", i), func(context.Context) (fetched, error) { return fetched{}, errGone })
	}
	if n := len(keys.known); n > maxVendorKeys {
		t.Errorf("%d are kept", n)
	}
	key := sharedKeys().rsa.Public()
	clock.forward(time.Hour)
	got, err := keys.key(t.Context(), "honest", func(context.Context) (fetched, error) { return fetched{key: key}, nil })
	if err != nil || got != key {
		t.Errorf("%v, %v", got, err)
	}
	for i := range 1000 { // what nobody has is forgotten first
		clock.forward(fetchesEvery)
		keys.key(t.Context(), fmt.Sprint("again", i), func(context.Context) (fetched, error) { return fetched{}, errGone })
	}
	got, err = keys.key(t.Context(), "honest", func(context.Context) (fetched, error) { return fetched{}, errors.New("asked again") })
	if err != nil || got != key {
		t.Errorf("an honest key was forgotten: %v, %v", got, err)
	}
}

func TestAnIssuersKeys(t *testing.T) {
	v := newVendors(t)
	p, _ := ProviderNamed("kinde")
	r := sample(t, p, signedAt)
	r.Vendor = v.keys()
	if err := p.Scheme.Verify(t.Context(), &r, Keys(Secret("https://stranger.example.com")), signedAt); reasonOf(err) != UntrustedKey {
		t.Errorf("another issuer: %v", err)
	}
	for name, key := range map[string]map[string]any{
		"another key":    {"kty": "RSA", "kid": "other", "n": "AQAB", "e": "AQAB"},
		"a short one":    {"kty": "RSA", "kid": sampleKeyID, "n": "AQAB", "e": "AQAB"},
		"for encryption": {"kty": "RSA", "kid": sampleKeyID, "use": "enc", "n": "AQAB", "e": "AQAB"},
		"shared":         {"kty": "oct", "kid": sampleKeyID, "k": "AQAB"},
		"off the curve":  {"kty": "EC", "crv": "P-256", "kid": sampleKeyID, "x": "AQAB", "y": "AQAB"},
	} {
		v.answers(func(w http.ResponseWriter, _ *http.Request) {
			json.NewEncoder(w).Encode(map[string]any{"keys": []any{key}})
		})
		r.Vendor = v.keys()
		if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("kinde")), signedAt); err == nil || statusOf(err) != 503 && reasonOf(err) != UntrustedKey {
			t.Errorf("%s: %v", name, err)
		}
	}
	if body := p.open(r.Body); !bytes.HasPrefix(body, []byte("{")) || !bytes.Contains(body, []byte("user.created")) {
		t.Errorf("the claims are %s", body)
	}
}
