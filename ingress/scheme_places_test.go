package ingress

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A batch whose items are signed one by one is as good as its worst item.
func TestEveryItemIsVerified(t *testing.T) {
	for _, c := range []struct{ provider, item string }{
		{"adyen", `{"NotificationRequestItem":{"pspReference":"p2","eventCode":"REFUND","success":"true","merchantReference":"a:b\\c"%s}}`},
		{"microsoft-graph", `{"id":"2","changeType":"deleted"%s}`},
	} {
		p, _ := ProviderNamed(c.provider)
		secret := secretOf(c.provider)
		r := sample(t, p, signedAt)
		two := r.clone()
		i := bytes.LastIndex(two.Body, []byte("]"))
		two.Body = slicesJoin(two.Body[:i], ","+fmt.Sprintf(c.item, ""), two.Body[i:])
		if !json.Valid(two.Body) {
			t.Fatalf("%s", two.Body)
		}
		verify := func(r Request) Reason { return reasonOf(p.Scheme.Verify(t.Context(), &r, Keys(secret), signedAt)) }
		if got := verify(two); got != MissingHeader {
			t.Errorf("%s: a second item without a signature: %q", c.provider, got)
		}
		forged := r.clone()
		wrong := map[string]string{
			"adyen": `,"additionalData":{"hmacSignature":"coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0="}`, "microsoft-graph": `,"clientState":"x"`,
		}[c.provider]
		forged.Body = slicesJoin(forged.Body[:i], ","+fmt.Sprintf(c.item, wrong), forged.Body[i:])
		if got := verify(forged); got != WrongSignature {
			t.Errorf("%s: a forged second item: %q", c.provider, got)
		}
		if err := p.Scheme.SignWith(&two, secret, nil, signedAt); err != nil {
			t.Fatal(err)
		}
		if got := verify(two); got != "" {
			t.Errorf("%s: two items: %q", c.provider, got)
		}
		for _, body := range []string{`{}`, `[]`, `x`, `{"value":[],"notificationItems":[]}`, `{"value":{},"notificationItems":7}`, `{"value":[1],"notificationItems":[null]}`} {
			empty := Request{Header: r.Header, Body: []byte(body)}
			if got := verify(empty); got != Malformed && got != MissingHeader {
				t.Errorf("%s: %s: %q", c.provider, body, got)
			}
		}
		stored := p.masked(two.Body)
		if c.provider == "microsoft-graph" && (bytes.Contains(stored, secret) || len(stored) != len(two.Body) || bytes.Count(stored, []byte("**")) == 0 || !json.Valid(stored)) {
			t.Errorf("stored: %s", stored)
		}
	}
}

func slicesJoin(before []byte, text string, after []byte) []byte {
	return append(append(append([]byte{}, before...), text...), after...)
}

// The secret is masked wherever JSON allows it to stand, and nothing else is.
func TestSecretsInBodiesAreMasked(t *testing.T) {
	p, _ := ProviderNamed("figma")
	for body, want := range map[string]string{
		`{"passcode":"abc","x":"abc"}`:           `{"passcode":"***","x":"abc"}`,
		` { "passcode" : "a\"b" , "y":1}`:        ` { "passcode" : "****" , "y":1}`,
		`{"a":{"passcode":"abc"},"passcode":""}`: `{"a":{"passcode":"abc"},"passcode":""}`,
		`{"passcode":7}`:                         `{"passcode":7}`,
	} {
		sent := []byte(body)
		if got := p.masked(sent); string(got) != want || string(sent) != body {
			t.Errorf("%s is stored as %s", body, got)
		}
	}
}

func TestSeveralHeaders(t *testing.T) {
	for _, c := range []struct {
		provider, header string
		others           http.Header
	}{
		{"box", "Box-Signature-Secondary", http.Header{"Box-Signature-Primary": {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}},
		{"box", "Box-Signature-Secondary", nil},
		{"sentry", "Sentry-App-Signature", nil},
		{"docusign", "X-Docusign-Signature-3", http.Header{
			"X-Docusign-Signature-1": {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}, "X-Docusign-Signature-2": {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
		}},
	} {
		p, _ := ProviderNamed(c.provider)
		r := sample(t, p, signedAt)
		name := covered(p)[0]
		sig := r.Header.Get(name)
		r.Header.Del(name)
		for k, v := range c.others {
			r.Header[k] = v
		}
		verify := func() error { return p.Scheme.Verify(t.Context(), &r, Keys(secretOf(p.Name)), signedAt) }
		if len(c.others) == 0 {
			if err := verify(); reasonOf(err) != MissingHeader {
				t.Errorf("%s without any: %v", c.provider, err)
			}
		} else if err := verify(); reasonOf(err) != WrongSignature {
			t.Errorf("%s with wrong ones: %v", c.provider, err)
		}
		r.Header.Set(c.header, sig)
		if err := verify(); err != nil {
			t.Errorf("%s in %s: %v", c.provider, c.header, err)
		}
		r.Header.Add(c.header, sig)
		if err := verify(); reasonOf(err) != Malformed {
			t.Errorf("%s twice: %v", c.header, err)
		}
	}
	p, _ := ProviderNamed("docusign")
	r := sample(t, p, signedAt)
	sig := r.Header.Get("X-Docusign-Signature-1")
	for i := 1; i <= maxNumbered+1; i++ { // the hundred and first is not looked at
		r.Header.Set(fmt.Sprint("X-Docusign-Signature-", i), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	}
	r.Header.Set("X-Docusign-Signature-101", sig)
	if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("docusign")), signedAt); reasonOf(err) != WrongSignature {
		t.Errorf("the hundred and first: %v", err)
	}
	r.Header.Set("X-Docusign-Signature-100", sig)
	if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("docusign")), signedAt); err != nil {
		t.Errorf("the hundredth: %v", err)
	}
}

// Of the family of Standard Webhooks: two sets of headers of Svix, and keys of either kind under one name.
func TestStandardWebhooksHasTwoKindsOfKeys(t *testing.T) {
	shared, public := secretOf("standard"), Secret("whpk_"+base64.StdEncoding.EncodeToString(sharedKeys().ed25519.Public().(ed25519.PublicKey)))
	p, _ := ProviderNamed("standard")
	r := sample(t, p, signedAt)
	both := r.clone()
	if err := p.Scheme.Also[0].SignWith(&both, nil, sharedKeys().ed25519, signedAt); err != nil {
		t.Fatal(err)
	}
	asymmetric := both.Header.Get("Webhook-Signature")
	both.Header.Set("Webhook-Signature", r.Header.Get("Webhook-Signature")+" "+asymmetric)
	verify := func(r Request, keys ...Key) Reason { return reasonOf(p.Scheme.Verify(t.Context(), &r, keys, signedAt)) }
	for _, keys := range [][]Key{Keys(shared), Keys(public), Keys(public, shared), Keys(shared, public)} {
		if got := verify(both, keys...); got != "" {
			t.Errorf("with %d keys: %q", len(keys), got)
		}
	}
	only := r.clone()
	only.Header.Set("Webhook-Signature", asymmetric)
	if got := verify(only, Keys(shared)...); got != Malformed {
		t.Errorf("v1a for a shared secret: %q", got)
	}
	if got := verify(r, Keys(public)...); got != Malformed {
		t.Errorf("v1 for a public key: %q", got)
	}
	only.Body = []byte("{}")
	if got := verify(only, Keys(public)...); got != WrongSignature {
		t.Errorf("another body: %q", got)
	}
	p, _ = ProviderNamed("svix")
	r = sample(t, p, signedAt)
	for _, name := range []string{"Id", "Timestamp", "Signature"} {
		r.Header["Webhook-"+name] = r.Header["Svix-"+name]
		delete(r.Header, "Svix-"+name)
	}
	if got := verify(r, Keys(secretOf("svix"))...); got != "" {
		t.Errorf("without the brand: %q", got)
	}
}

func TestTwilio(t *testing.T) {
	p, _ := ProviderNamed("twilio")
	secret := secretOf("twilio")
	verify := func(r Request) error { return p.Scheme.Verify(t.Context(), &r, Keys(secret), signedAt) }
	r := sample(t, p, signedAt)
	// Their servers sign the URL with or without the port that is the default.
	ported := r.clone()
	ported.URL = strings.Replace(publicBase, ".com", ".com:443", 1) + "/hooks/twilio"
	if err := p.Scheme.Sign(&ported, secret, signedAt); err != nil {
		t.Fatal(err)
	}
	ported.URL = publicBase + "/hooks/twilio"
	if err := verify(ported); err != nil {
		t.Errorf("signed with a port: %v", err)
	}
	r.URL = strings.Replace(r.URL, ".com", ".com:443", 1)
	if err := verify(r); err != nil {
		t.Errorf("signed without the port: %v", err)
	}
	r.URL = strings.Replace(r.URL, ":443", ":8443", 1)
	if err := verify(r); reasonOf(err) != WrongSignature {
		t.Errorf("another port: %v", err)
	}
	// Of what is no form the query has the hash.
	body := Request{Method: "POST", URL: publicBase + "/hooks/twilio?a=1", Header: http.Header{"Content-Type": {jsonType}}, Body: []byte(`{"EventType":"x"}`)}
	if err := p.Scheme.Sign(&body, secret, signedAt); err != nil {
		t.Fatal(err)
	}
	if err := verify(body); err != nil || !strings.Contains(body.URL, "bodySHA256="+hexSHA256(body.Body)) {
		t.Errorf("JSON: %v, %s", err, body.URL)
	}
	other := body.clone()
	other.Body = []byte(`{"EventType":"y"}`)
	if err := verify(other); reasonOf(err) != WrongSignature {
		t.Errorf("another JSON: %v", err)
	}
	// A signature of the URL alone, as of an old GET, covers no body.
	bare := body.clone()
	bare.URL = publicBase + "/hooks/twilio"
	bare.Header.Set("X-Twilio-Signature", mustSign(t, p, secret, bare.URL))
	if err := verify(bare); reasonOf(err) != MissingHeader {
		t.Errorf("JSON without a hash: %v", err)
	}
	// A form can't pose as JSON whose hash is in the query, nor the other way round.
	posing := body.clone()
	posing.Header.Set("Content-Type", formType)
	if err := verify(posing); reasonOf(err) != WrongSignature {
		t.Errorf("JSON called a form: %v", err)
	}
	plain := Request{Header: http.Header{"X-Twilio-Signature": {"x"}}}
	if err := p.Scheme.Verify(t.Context(), &plain, Keys(secret), signedAt); err == nil || reasonOf(err) != "" {
		t.Errorf("without a public URL: %v", err)
	}
}

// mustSign is a signature of nothing but the URL.
func mustSign(t *testing.T, p Provider, secret Secret, address string) string {
	t.Helper()
	s := p.Scheme
	s.Message = []Part{URL()}
	r := Request{URL: address, Header: http.Header{}}
	if err := s.Sign(&r, secret, signedAt); err != nil {
		t.Fatal(err)
	}
	return r.Header.Get("X-Twilio-Signature")
}

// Contentful says itself which headers it signed. If the time isn't among them, nobody signed it.
func TestSignedHeadersHaveTheTime(t *testing.T) {
	p, _ := ProviderNamed("contentful")
	for list, want := range map[string]Reason{
		"x-contentful-signed-headers,x-contentful-timestamp":                     "",
		"x-contentful-signed-headers, X-Contentful-Timestamp,x-contentful-topic": "",
		"x-contentful-signed-headers":                                            Malformed,
		"x-contentful-timestamp,x-none":                                          MissingHeader,
		strings.Repeat("x-contentful-timestamp,", maxSignatures+1):               Malformed,
	} {
		r := Request{Method: "POST", URL: publicBase + "/hooks/contentful", Header: http.Header{}, Body: []byte("{}")}
		r.Header.Set("X-Contentful-Topic", "t")
		r.Header.Set("X-Contentful-Signed-Headers", list)
		err := p.Scheme.Sign(&r, secretOf("contentful"), signedAt)
		if err == nil {
			err = p.Scheme.Verify(t.Context(), &r, Keys(secretOf("contentful")), signedAt)
		}
		if reasonOf(err) != want || want == "" && err != nil {
			t.Errorf("%.80s: %v, want %q", list, err, want)
		}
	}
}

func TestSNSVersions(t *testing.T) {
	v := newVendors(t)
	keys := v.keys()
	p, _ := ProviderNamed("sns")
	for _, version := range []string{"1", "2"} {
		s := &p.Scheme
		if version == "2" {
			s = &p.Scheme.Also[0]
		}
		d, err := Sample("sns.Notification", Facts{ID: "d1", Time: signedAt})
		if err != nil {
			t.Fatal(err)
		}
		r := Request{Method: "POST", Header: d.Header, Body: d.Body, Vendor: keys}
		if err := s.SignWith(&r, secretOf("sns"), signer(p), signedAt); err != nil {
			t.Fatal(err)
		}
		if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("sns")), signedAt); err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		for _, other := range []string{"1", "2", "3", ""} {
			changed := r.clone()
			if err := setField(&changed.Body, "SignatureVersion", other); err != nil {
				t.Fatal(err)
			}
			if err := p.Scheme.Verify(t.Context(), &changed, Keys(secretOf("sns")), signedAt); (err == nil) != (other == version) {
				t.Errorf("version %s called %s: %v", version, other, err)
			}
		}
		subject := r.clone() // a field more
		if err := setField(&subject.Body, "Subject", "x"); err != nil {
			t.Fatal(err)
		}
		if err := p.Scheme.Verify(t.Context(), &subject, Keys(secretOf("sns")), signedAt); reasonOf(err) != WrongSignature {
			t.Errorf("with a subject: %v", err)
		}
	}
}

func TestMercadoPagoLeavesOutWhatIsNotThere(t *testing.T) {
	p, _ := ProviderNamed("mercadopago")
	for _, c := range []struct {
		query, id, message string
	}{
		{"?data.id=ABC&type=payment", "r1", "id:abc;request-id:r1;ts:1767225600;"},
		{"", "r1", "request-id:r1;ts:1767225600;"},
		{"?data.id=1", "", "id:1;ts:1767225600;"},
	} {
		r := Request{Method: "POST", URL: publicBase + "/hooks/mercadopago" + c.query, Header: http.Header{}, Body: []byte("{}")}
		if c.id != "" {
			r.Header.Set("X-Request-Id", c.id)
		}
		one := pass{s: &p.Scheme, r: &r}
		var b bytes.Buffer
		if err := one.open(); err != nil {
			t.Fatal(err)
		}
		if err := one.write(&b, p.Scheme.Message, "1767225600", nil); err != nil || b.String() != c.message {
			t.Errorf("%s: %s, %v", c.query, b.String(), err)
		}
	}
	r := Request{Method: "POST", URL: publicBase + "?data.id=1&data.id=2", Header: http.Header{"X-Signature": {"ts=1767225600,v1=" + strings.Repeat("0", 64)}}}
	if err := p.Scheme.Verify(t.Context(), &r, Keys(Secret("s")), signedAt); reasonOf(err) != Malformed {
		t.Errorf("two ids: %v", err)
	}
}

func TestTimeUnits(t *testing.T) {
	for _, c := range []struct {
		unit  TimeUnit
		stamp string
		want  time.Time
	}{
		{Seconds, "1767225600", signedAt}, {Milliseconds, "1767225600000", signedAt}, {Epoch, "1767225600", signedAt}, {Epoch, "1767225600000", signedAt},
		{ISO, "2026-01-01T00:00:00Z", signedAt}, {ISO, "2026-01-01T01:00:00.000000000+01:00", signedAt},
		{Seconds, "1767225600000", time.Time{}}, {Seconds, "2026-01-01T00:00:00Z", time.Time{}}, {ISO, "1767225600", time.Time{}},
		{ISO, "2026-01-01", time.Time{}}, {Milliseconds, "-1", time.Time{}}, {Epoch, "1767225600.5", time.Time{}}, {Seconds, "١٧٦٧٢٢٥٦٠٠", time.Time{}},
		{Milliseconds, "1767225600000000", time.Time{}}, {Seconds, " 1767225600", time.Time{}}, {Seconds, "", time.Time{}},
	} {
		s := Scheme{Header: "X", TimeHeader: "T", Unit: c.unit}
		got, err := s.sent(c.stamp)
		if (err == nil) != !c.want.IsZero() || err == nil && !got.Equal(c.want) {
			t.Errorf("unit %d, %q: %v, %v", c.unit, c.stamp, got, err)
		}
	}
}

func TestTheAddressOfARequest(t *testing.T) {
	s := Source{PublicURL: "https://hooks.example.com/in/hooks/a"}
	for sent, want := range map[string]string{
		"/hooks/a": "https://hooks.example.com/in/hooks/a", "/hooks/a?x=%20y&z": "https://hooks.example.com/in/hooks/a?x=%20y&z",
		"http://evil.example/hooks/a?x": "https://hooks.example.com/in/hooks/a?x",
	} {
		u, err := url.Parse(sent)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.address(u); got != want {
			t.Errorf("%s: %s", sent, got)
		}
	}
}
