package ingress

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// published is a signed request that a provider has published.
type published struct {
	provider, secret string
	header           http.Header
	body             string
	at               int64
}

const slackBody = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&" +
	"channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&" +
	"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&" +
	"trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"

var publishedRequests = []published{
	// https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
	{"github", "It's a Secret to Everybody", http.Header{
		"X-Hub-Signature-256": {"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
	}, "Hello, World!", 0},
	// https://docs.slack.dev/authentication/verifying-requests-from-slack
	{"slack", "8f742231b10e8888abcd99yyyzzz85a5", http.Header{
		"X-Slack-Signature":         {"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"},
		"X-Slack-Request-Timestamp": {"1531420618"},
	}, slackBody, 1531420618},
	// The test vector of the Standard Webhooks reference libraries.
	{"standard", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", http.Header{
		"Webhook-Id":        {"msg_p5jXN8AQM9LWM0D4loKWxJek"},
		"Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}, `{"test": 2432232314}`, 1614265330},
}

func reasonOf(err error) Reason {
	f, _ := errors.AsType[*Failure](err)
	if f == nil {
		return ""
	}
	return f.Reason
}

// Sign must give what the provider published, byte for byte, and that must verify.
func TestSignGivesThePublishedHeaders(t *testing.T) {
	for _, v := range publishedRequests {
		p, _ := ProviderNamed(v.provider)
		r := Request{Header: http.Header{}, Body: []byte(v.body)}
		if id := v.header.Get("Webhook-Id"); id != "" {
			r.Header.Set("Webhook-Id", id)
		}
		at := time.Unix(v.at, 0)
		if err := p.Scheme.Sign(&r, Secret(v.secret), at); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(r.Header) != fmt.Sprint(v.header) {
			t.Errorf("%s:\n got %v\nwant %v", v.provider, r.Header, v.header)
		}
		if err := p.Scheme.Verify(t.Context(), &Request{Header: v.header, Body: []byte(v.body)}, Keys(Secret(v.secret)), at); err != nil {
			t.Errorf("%s: %v", v.provider, err)
		}
	}
}

// signedAt is when samples are signed: a whole second, so that no unit of time loses anything.
var signedAt = time.Unix(1767225600, 0)

// everyRow runs a test with a signed sample of each row, and the secret of its source.
func everyRow(t *testing.T, test func(t *testing.T, p Provider, r Request, secret Secret)) {
	v := newVendors(t)
	for _, p := range Providers {
		t.Run(p.Name, func(t *testing.T) {
			r := sample(t, p, signedAt)
			r.Vendor = v.keys()
			test(t, p, r, secretOf(p.Name))
		})
	}
}

func (r Request) clone() Request {
	r.Header, r.Body = r.Header.Clone(), slices.Clone(r.Body)
	return r
}

// another is a secret of the form that the row wants, and not the source's.
func another(p Provider) Secret {
	switch p.Scheme.Key {
	case WhsecKeys, Base64Keys:
		return Secret("b3RoZXI=")
	case HexKeys:
		return Secret("00ff")
	case PublicKeys:
		return otherPublicKey(p)
	}
	if p.Scheme.Key == VendorPublicKey {
		return nil // whose key it is, the provider says
	}
	return Secret("other:other")
}

func TestEveryRowVerifiesWhatItSigns(t *testing.T) {
	everyRow(t, func(t *testing.T, p Provider, r Request, secret Secret) {
		verify := func(keys ...Key) error { return p.Scheme.Verify(t.Context(), &r, keys, signedAt) }
		if err := verify(Key{Secret: secret}); err != nil {
			t.Fatalf("%v\n%v\n%s", err, r.Header, r.Body)
		}
		if other := another(p); other != nil {
			if err := verify(Key{Secret: other}, Key{Secret: secret}); err != nil {
				t.Errorf("as the second of two secrets: %v", err)
			}
			if err := verify(Key{Secret: other}); reasonOf(err) != WrongSignature {
				t.Errorf("another secret: %v", err)
			}
		}
		if err := verify(); reasonOf(err) != NoSecret {
			t.Errorf("no secret: %v", err)
		}
		// The dates of a secret.
		second := time.Second
		for _, c := range []struct {
			from, until time.Time
			want        Reason
		}{
			{signedAt, time.Time{}, ""}, {time.Time{}, signedAt.Add(second), ""}, {signedAt, signedAt.Add(second), ""},
			{signedAt.Add(second), time.Time{}, NoSecret}, {time.Time{}, signedAt, NoSecret},
		} {
			if err := verify(Key{secret, c.from, c.until}); reasonOf(err) != c.want || c.want == "" && err != nil {
				t.Errorf("from %v until %v: %v, want %q", c.from, c.until, err, c.want)
			}
		}
	})
}

// Whatever a row says that its signature covers, is covered: to the bit.
func TestEveryRowIsBound(t *testing.T) {
	everyRow(t, func(t *testing.T, p Provider, r Request, secret Secret) {
		verify := func(r Request) error { return p.Scheme.Verify(t.Context(), &r, Keys(secret), signedAt) }
		if p.Binding == BodySigned {
			for i := range r.Body {
				changed := r.clone()
				changed.Body[i] ^= 1
				if err := verify(changed); err == nil && !sameForm(p, r, changed) {
					t.Fatalf("bit of byte %d of the body: %s", i, changed.Body)
				}
			}
			for _, body := range []string{"", string(r.Body) + " ", string(r.Body[1:]), string(r.Body[:len(r.Body)-1])} {
				changed := r.clone()
				if changed.Body = []byte(body); verify(changed) == nil && !sameForm(p, r, changed) {
					t.Errorf("body of another length: %q", body)
				}
			}
		}
		if p.NeedsURL() {
			for _, address := range []string{
				strings.Replace(r.URL, "hooks.", "hoaks.", 1), strings.Replace(r.URL, "/hooks/", "/hoaks/", 1), r.URL + "&x=1", r.URL + "?x=1",
			} {
				changed := r.clone()
				changed.URL = address
				// Atlassian signs no host, Mercado Pago nothing but a parameter.
				if verify(changed) == nil && p.Name != "mercadopago" && (p.Name != "atlassian-connect" && p.Name != "contentful" || strings.Contains(address, "hooks.")) {
					t.Errorf("sent to %s", address)
				}
			}
		}
		for _, name := range covered(p) {
			value := []byte(r.Header.Get(name))
			for i := range value {
				changed := r.clone()
				bits := slices.Clone(value)
				bits[i] ^= 1
				changed.Header[name] = []string{string(bits)}
				if verify(changed) == nil && !sameHeader(p, string(value), string(bits)) {
					t.Errorf("%s: bit of byte %d changed and still verified: %q", name, i, bits)
				}
			}
			changed := r.clone()
			changed.Header[name] = []string{string(value), string(value)}
			if err := verify(changed); reasonOf(err) != Malformed {
				t.Errorf("%s twice: %v", name, err)
			}
			for _, nothing := range [][]string{{""}, nil} {
				changed.Header[name] = nothing
				// A request without an id is signed in another way by Mercado Pago.
				if err := verify(changed); reasonOf(err) != MissingHeader && !(p.Name == "mercadopago" && reasonOf(err) == WrongSignature) {
					t.Errorf("%s is %q: %v", name, nothing, err)
				}
			}
		}
	})
}

// covered are the headers that a sample has for its verification.
func covered(p Provider) (names []string) {
	s := &p.Scheme
	if s.Header != "" {
		name := s.Header
		if s.Numbered {
			name += "-1"
		}
		names = append(names, name)
	}
	if s.TimeHeader != "" {
		names = append(names, s.TimeHeader)
	}
	for _, part := range s.Message {
		if part.kind == partHeader || part.kind == partSignedHeaders {
			names = append(names, part.text)
		}
	}
	return names
}

// sameForm says that two bodies are the same form to whoever reads them.
func sameForm(p Provider, a, b Request) bool {
	if p.Name == "sns" { // it signs what the fields say, not how
		one, other := pass{s: &p.Scheme, r: &a}, pass{s: &p.Scheme, r: &b}
		var x, y strings.Builder
		return one.open() == nil && other.open() == nil && one.write(&x, p.Scheme.Message, "", nil) == nil &&
			other.write(&y, p.Scheme.Message, "", nil) == nil && x.String() == y.String()
	}
	if p.ContentTypes[0] != formType {
		return p.Scheme.InBody && strings.TrimSpace(string(a.Body)) == strings.TrimSpace(string(b.Body))
	}
	one, err := url.ParseQuery(string(a.Body))
	other, err2 := url.ParseQuery(string(b.Body))
	if err != nil || err2 != nil {
		return false
	}
	if p.Name == "braintree" { // it signs one field; what stands beside it, nobody reads
		return one.Get("bt_payload") == other.Get("bt_payload")
	}
	return writtenForm(one) == writtenForm(other)
}

func writtenForm(form url.Values) string {
	var b strings.Builder
	writeForm(&b, form)
	return b.String()
}

// sameHeader says that two signature headers say the same: hexadecimal has two cases, and so has the word before a token.
func sameHeader(p Provider, a, b string) bool {
	return strings.EqualFold(a, b) && (p.Scheme.Encoding == Hex || p.Scheme.Algorithm == JWT || p.Scheme.Algorithm == Basic) ||
		p.Scheme.Label == "*" || p.Scheme.Layout == Enveloped
}

func TestToleranceLooksBothWays(t *testing.T) {
	everyRow(t, func(t *testing.T, p Provider, r Request, secret Secret) {
		limit := p.Scheme.Tolerance
		if limit == 0 || p.Scheme.Algorithm == JWT {
			return
		}
		for _, c := range []struct {
			off  time.Duration
			want Reason
		}{
			{limit, ""}, {limit + 1, TooOld}, {limit + time.Hour, TooOld}, {-limit, ""}, {-limit - 1, TooNew}, {-limit - time.Hour, TooNew}, {0, ""},
			{250 * 365 * 24 * time.Hour, TooOld},
		} {
			now := signedAt.Add(c.off)
			if c.off > 200*365*24*time.Hour {
				now = now.Add(c.off) // beyond what a time.Duration can tell apart
				if p.Scheme.Vendor != nil {
					continue
				}
			}
			err := p.Scheme.Verify(t.Context(), &r, Keys(secret), now)
			if reasonOf(err) != c.want || c.want == "" && err != nil {
				t.Errorf("off by %v: %v, want %q", c.off, err, c.want)
			}
			// A request that nobody signed is not told about its time.
			if other := another(p); other != nil {
				if err := p.Scheme.Verify(t.Context(), &r, Keys(other), now); reasonOf(err) != WrongSignature {
					t.Errorf("not signed, off by %v: %v", c.off, err)
				}
			}
		}
		// A source may take more.
		wide := p.Scheme.within(limit + time.Hour)
		if err := wide.Verify(t.Context(), &r, Keys(secret), signedAt.Add(limit+time.Minute)); err != nil {
			t.Errorf("with a tolerance of %v: %v", wide.Tolerance, err)
		}
	})
}

// A secret that ended while a request was under way still counts for it, and not for a later one.
func TestARotationLosesNoRequest(t *testing.T) {
	p, _ := ProviderNamed("stripe")
	r := sample(t, p, signedAt)
	old := Key{Secret: secretOf("stripe"), Until: signedAt.Add(time.Second)}
	fresh := Key{Secret: Secret("new"), From: signedAt}
	if err := p.Scheme.Verify(t.Context(), &r, []Key{old, fresh}, signedAt.Add(time.Minute)); err != nil {
		t.Errorf("signed before the end: %v", err)
	}
	late := sample(t, p, signedAt.Add(time.Second))
	if err := p.Scheme.Verify(t.Context(), &late, []Key{old, fresh}, signedAt.Add(time.Minute)); reasonOf(err) != WrongSignature {
		t.Errorf("signed after the end: %v", err)
	}
}

func TestSignatureHeaders(t *testing.T) {
	good := map[string]string{} // provider → one right signature, as its layout has it
	for _, p := range Providers {
		if p.Scheme.Header != "" && !p.Scheme.Numbered {
			r := sample(t, p, signedAt)
			good[p.Name] = r.Header.Get(p.Scheme.Header)
		}
	}
	stamp := "1767225600"
	_, stripe, _ := strings.Cut(good["stripe"], ",v1=")
	_, paddle, _ := strings.Cut(good["paddle"], ";h1=")
	_, recurly, _ := strings.Cut(good["recurly"], ",")
	zero := strings.Repeat("0", 64)
	for _, c := range []struct {
		provider, header string
		want             Reason
	}{
		{"github", strings.ToUpper(good["github"][:7]) + good["github"][7:], Malformed},
		{"github", "sha256=" + strings.ToUpper(good["github"][7:]), ""},
		{"github", "sha1=" + good["github"][7:], Malformed},
		{"github", good["github"][7:], Malformed},
		{"github", "sha256=" + zero, WrongSignature},
		{"github", good["github"][:20], Malformed}, // a MAC cut short is none
		{"github", "sha256=", Malformed},
		{"stripe", "t=" + stamp + ",v1=" + zero + ",v1=" + stripe, ""}, // while a secret is being replaced
		{"stripe", "v1=" + stripe + ", t=" + stamp + ",v0=" + zero, ""},
		{"stripe", "t=" + stamp + ",v0=" + stripe, Malformed},
		{"stripe", "t=" + stamp + ",t=" + stamp + ",v1=" + stripe, Malformed},
		{"stripe", "v1=" + stripe, Malformed},
		{"stripe", "t=,v1=" + stripe, Malformed},
		{"stripe", "t=+" + stamp + ",v1=" + stripe, Malformed},
		{"stripe", "t=" + stamp + ".0,v1=" + stripe, Malformed},
		{"stripe", "t=99999999999999999999,v1=" + stripe, Malformed},
		{"stripe", "t=1767225601,v1=" + stripe, WrongSignature},
		{"stripe", "nonsense", Malformed},
		{"stripe", "t=" + stamp + strings.Repeat(",v1="+zero, maxSignatures-1) + ",v1=" + stripe, ""},
		{"stripe", "t=" + stamp + strings.Repeat(",v1="+zero, maxSignatures) + ",v1=" + stripe, Malformed},
		{"stripe", "t=" + stamp + ",v1=" + stripe + strings.Repeat(",x=y", maxSignatureHeader), Malformed},
		{"standard", "v1a,AAAA " + good["standard"], ""},
		{"standard", good["standard"] + " v1,AAAA", ""},
		{"standard", "v1a" + good["standard"][2:], Malformed},
		{"standard", strings.TrimRight(good["standard"], "="), Malformed},
		{"standard", strings.Replace(good["standard"], ",", ", ", 1), Malformed},
		{"slack", "v1" + good["slack"][2:], Malformed},
		{"paddle", "ts=" + stamp + ";h1=" + zero + ";h1=" + paddle, ""},
		{"paddle", "ts=" + stamp + ",h1=" + paddle, Malformed},
		{"recurly", stamp + "," + zero + "," + recurly, ""},
		{"recurly", recurly + "," + stamp, Malformed},
		{"recurly", stamp, Malformed},
		{"persona", "t=1767225500,v1=" + zero + " " + good["persona"], ""},
		{"persona", good["persona"] + " t=1767225500,v1=" + zero, ""},
		{"persona", strings.Repeat(good["persona"]+" ", maxGroups) + good["persona"], Malformed},
		{"pagerduty", "v1=" + zero + "," + good["pagerduty"], ""},
		{"zendesk", good["zendesk"] + "=", Malformed},
		{"chargebee", strings.Replace(good["chargebee"], "Basic", "basic", 1), ""}, // RFC 7235: in any case
		{"chargebee", strings.Replace(good["chargebee"], "Basic", "Bearer", 1), Malformed},
		{"chargebee", "Basic %", Malformed},
		{"gitlab", good["gitlab"] + "x", WrongSignature},
		{"gitlab", strings.ToUpper(good["gitlab"]), WrongSignature},
	} {
		p, _ := ProviderNamed(c.provider)
		r := sample(t, p, signedAt)
		r.Header.Set(p.Scheme.Header, c.header)
		if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf(p.Name)), signedAt); reasonOf(err) != c.want || (c.want == "") != (err == nil) {
			t.Errorf("%s %.80q: %v, want %q", c.provider, c.header, err, c.want)
		}
	}
}

// With a separator in the id, "a.1" at time 2 and "a" at time "1" with "2." before the body would be one message.
func TestAnIDCannotMoveTheBorderOfTheMessage(t *testing.T) {
	p, _ := ProviderNamed("standard")
	r := Request{Header: http.Header{"Webhook-Id": {"msg.1"}}}
	err := p.Scheme.Sign(&r, Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), time.Unix(1, 0))
	if reasonOf(err) != Malformed {
		t.Errorf("id with a separator: %v", err)
	}
}

func TestSecretsThatAreNoKeys(t *testing.T) {
	for provider, secrets := range map[string][]string{
		"standard":  {"", "whsec_", "whsec_%%%", "whpk_%%%", "whpk_AAAA"},
		"github":    {""},
		"adyen":     {"", "%%%", "abc"},
		"airtable":  {"", "%%%"},
		"chargebee": {"", "user%%%", ":%%%"},
		"discord":   {"", "%%%", "00ff", string(publicPEM(sharedKeys().rsa)), string(publicPEM(sharedKeys().ecdsa))},
		"sendgrid":  {"", "%%%", string(publicPEM(sharedKeys().ed25519))},
		"wise":      {"", "%%%", string(publicPEM(sharedKeys().ecdsa)), weakRSA()},
		"plaid":     {"", "%%%"},
		"kinde":     {"", "%%%", "http://octo.kinde.com", "https://user:p@octo.kinde.com", "https://octo.kinde.com?x"},
		"sns":       {"", "%%%"},
		"ebay":      {"", "%%%"},
	} {
		p, _ := ProviderNamed(provider)
		for _, s := range secrets {
			if err := p.Scheme.check(Secret(s)); err == nil || strings.Contains(err.Error(), "%%%") {
				t.Errorf("%s %q: %v", provider, s, err)
			}
		}
		if err := p.Scheme.check(secretOf(provider)); err != nil {
			t.Errorf("%s: %v", provider, err)
		}
	}
	p, _ := ProviderNamed("stripe")
	if key, err := p.Scheme.material(Secret("whsec_abcd")); string(key.bytes) != "whsec_abcd" || err != nil {
		t.Errorf("Stripe's secret is the whole text: %q, %v", key.bytes, err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := Secret("hunter2")
	source := Source{Name: "a", Secrets: Keys(s)}
	asJSON, err := json.Marshal(source)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "source", source)
	out := []string{string(asJSON), log.String(), s.String(), s.GoString()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%U", "%c"} {
		out = append(out, fmt.Sprintf(verb, s), fmt.Sprintf(verb, source), fmt.Sprintf(verb, []Secret{s}))
	}
	for _, o := range out {
		for _, leak := range []string{"hunter2", "68756e74657232", "104 117", "aHVudGVyMg"} {
			if strings.Contains(o, leak) {
				t.Errorf("leaked: %s", o)
			}
		}
	}
}

// FuzzSignatureHeader looks for a header that breaks the parser, or that is accepted without a signature in it.
func FuzzSignatureHeader(f *testing.F) {
	for _, p := range Providers {
		if p.Scheme.Header != "" {
			r := sample(f, p, signedAt)
			f.Add(r.Header.Get(covered(p)[0]))
		}
	}
	f.Add("t=1,t=2,v1=,v1=00")
	f.Add("v1, v1,= ,")
	v := newVendors(f)
	v.answers(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nobody", http.StatusNotFound) })
	keys := v.keys()
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range Providers {
			if p.Scheme.Header == "" || strings.Contains(text, string(secretOf(p.Name))) {
				continue
			}
			if p.Scheme.Algorithm == HMAC {
				var out signed
				out.groups = out.one[:0]
				if err := p.Scheme.parse(text, &out); err != nil && reasonOf(err) != Malformed {
					t.Errorf("%s %q: %v", p.Name, text, err)
				}
				if out.count > maxSignatures+1 || len(out.groups) > maxGroups+1 {
					t.Errorf("%s %q: %d signatures in %d lists", p.Name, text, out.count, len(out.groups))
				}
				for _, g := range out.groups {
					for _, sig := range g.signatures {
						if len(sig) != p.Scheme.size {
							t.Errorf("%s %q: a MAC of %d bytes", p.Name, text, len(sig))
						}
					}
				}
			}
			// The body is not one that a seed was signed for.
			r := Request{
				Method: "POST", URL: publicBase, Header: http.Header{"Content-Type": {formType}}, Body: []byte("not=signed"), Vendor: keys,
			}
			for _, name := range covered(p) {
				r.Header.Set(name, "1767225600")
			}
			r.Header.Set(covered(p)[0], text)
			if err := p.Scheme.Verify(t.Context(), &r, Keys(Secret(secretOf(p.Name))), signedAt); err == nil && p.Binding != SharedToken {
				t.Errorf("%s accepted %q", p.Name, text)
			}
		}
	})
}

// BenchmarkVerify is what a signature costs, of 2 KiB.
func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"github", "stripe", "standard", "twilio", "sendgrid", "discord"} {
		p, _ := ProviderNamed(name)
		r := sample(b, p, signedAt)
		r.Body = append(r.Body, strings.Repeat(" ", 2048-len(r.Body))...)
		if err := p.Scheme.SignWith(&r, secretOf(name), signer(p), signedAt); err != nil {
			b.Fatal(err)
		}
		keys := Keys(secretOf(name))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Scheme.Verify(b.Context(), &r, keys, signedAt); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
