package ingress

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

// vector is a signed request that someone else has published.
type vector struct {
	provider, secret string
	header           http.Header
	body             string
	at               int64
}

const slackBody = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&" +
	"channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&" +
	"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&" +
	"trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"

var vectors = []vector{
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

// every returns the published vectors and one made here for Stripe, which publishes none.
func every(t testing.TB) []vector {
	v := vector{"stripe", "whsec_test_secret", http.Header{}, `{"id":"evt_1"}`, 1492774577}
	p, _ := ProviderNamed("stripe")
	if err := p.Scheme.Sign(Secret(v.secret), v.header, []byte(v.body), time.Unix(v.at, 0)); err != nil {
		t.Fatal(err)
	}
	return append([]vector{v}, vectors...)
}

func (v vector) verify(secrets ...string) error {
	p, _ := ProviderNamed(v.provider)
	var all []Secret
	for _, s := range secrets {
		all = append(all, Secret(s))
	}
	return p.Scheme.Verify(all, v.header, []byte(v.body), time.Unix(v.at, 0))
}

func reasonOf(err error) Reason {
	f, _ := errors.AsType[*Failure](err)
	if f == nil {
		return ""
	}
	return f.Reason
}

func TestPublishedVectorsVerify(t *testing.T) {
	for _, v := range every(t) {
		if err := v.verify(v.secret); err != nil {
			t.Errorf("%s: %v", v.provider, err)
		}
		if err := v.verify("b3RoZXI=", v.secret); err != nil {
			t.Errorf("%s, as the second of two secrets: %v", v.provider, err)
		}
		if r := reasonOf(v.verify("b3RoZXI=")); r != WrongSignature {
			t.Errorf("%s, another secret: %q", v.provider, r)
		}
		if r := reasonOf(v.verify()); r != WrongSignature {
			t.Errorf("%s, no secret: %q", v.provider, r)
		}
	}
}

// Sign must give what the provider published, byte for byte.
func TestSignGivesThePublishedHeaders(t *testing.T) {
	for _, v := range vectors {
		p, _ := ProviderNamed(v.provider)
		got := http.Header{}
		if id := v.header.Get("Webhook-Id"); id != "" {
			got.Set("Webhook-Id", id)
		}
		if err := p.Scheme.Sign(Secret(v.secret), got, []byte(v.body), time.Unix(v.at, 0)); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(v.header) {
			t.Errorf("%s:\n got %v\nwant %v", v.provider, got, v.header)
		}
	}
}

// Whatever part of a signed request is changed, and by as little as one bit, it is refused.
func TestEveryPartIsBound(t *testing.T) {
	for _, v := range every(t) {
		for i := range len(v.body) {
			changed := []byte(v.body)
			changed[i] ^= 1
			w := v
			if w.body = string(changed); reasonOf(w.verify(v.secret)) != WrongSignature {
				t.Fatalf("%s: bit of byte %d of the body: %v", v.provider, i, w.verify(v.secret))
			}
		}
		for _, body := range []string{"", v.body + " ", v.body[1:], v.body[:len(v.body)-1]} {
			w := v
			if w.body = body; reasonOf(w.verify(v.secret)) != WrongSignature {
				t.Errorf("%s: body of another length: %v", v.provider, w.verify(v.secret))
			}
		}
		for name := range v.header {
			if strings.HasPrefix(name, "User") {
				continue
			}
			w := v
			w.header = v.header.Clone()
			value := []byte(v.header.Get(name))
			for i := range value {
				changed := append([]byte{}, value...)
				changed[i] ^= 1
				w.header[name] = []string{string(changed)}
				if w.verify(v.secret) == nil {
					t.Errorf("%s: %s: bit of byte %d changed and still verified: %q", v.provider, name, i, changed)
				}
			}
			w.header[name] = []string{string(value), string(value)}
			if r := reasonOf(w.verify(v.secret)); r != Malformed {
				t.Errorf("%s: %s twice: %q", v.provider, name, r)
			}
			w.header[name] = []string{""}
			if r := reasonOf(w.verify(v.secret)); r != MissingHeader {
				t.Errorf("%s: %s empty: %q", v.provider, name, r)
			}
			delete(w.header, name)
			if r := reasonOf(w.verify(v.secret)); r != MissingHeader {
				t.Errorf("%s: %s missing: %q", v.provider, name, r)
			}
		}
	}
}

func TestToleranceLooksBothWays(t *testing.T) {
	for _, v := range every(t) {
		p, _ := ProviderNamed(v.provider)
		if !p.Scheme.timed() {
			continue
		}
		for _, c := range []struct {
			off  time.Duration
			want Reason
		}{
			{5 * time.Minute, ""}, {5*time.Minute + 1, TooOld}, {time.Hour, TooOld},
			{-5 * time.Minute, ""}, {-5*time.Minute - 1, TooNew}, {-time.Hour, TooNew}, {0, ""},
			{250 * 365 * 24 * time.Hour, TooOld},
		} {
			now := time.Unix(v.at, 0).Add(c.off)
			if c.off > 200*365*24*time.Hour {
				now = now.Add(c.off) // beyond what a time.Duration can tell apart
			}
			err := p.Scheme.Verify([]Secret{Secret(v.secret)}, v.header, []byte(v.body), now)
			if r := reasonOf(err); r != c.want {
				t.Errorf("%s: off by %v: %v, want %q", v.provider, c.off, err, c.want)
			}
			// A request that nobody signed is not told about its time.
			err = p.Scheme.Verify([]Secret{Secret("b3RoZXI=")}, v.header, []byte(v.body), now)
			if r := reasonOf(err); r != WrongSignature {
				t.Errorf("%s: not signed, off by %v: %v", v.provider, c.off, err)
			}
		}
	}
}

func TestSignatureHeaders(t *testing.T) {
	good := map[string]string{} // provider → one right signature, as its layout has it
	for _, v := range every(t) {
		p, _ := ProviderNamed(v.provider)
		good[v.provider] = v.header.Get(p.Scheme.Header)
	}
	_, stripeSig, _ := strings.Cut(good["stripe"], ",v1=")
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
		{"stripe", "t=1492774577,v1=" + zero + ",v1=" + stripeSig, ""}, // while a secret is being replaced
		{"stripe", "v1=" + stripeSig + ", t=1492774577,v0=" + zero, ""},
		{"stripe", "t=1492774577,v0=" + stripeSig, Malformed},
		{"stripe", "t=1492774577,t=1492774577,v1=" + stripeSig, Malformed},
		{"stripe", "v1=" + stripeSig, Malformed},
		{"stripe", "t=,v1=" + stripeSig, Malformed},
		{"stripe", "t=+1492774577,v1=" + stripeSig, Malformed},
		{"stripe", "t=1492774577.0,v1=" + stripeSig, Malformed},
		{"stripe", "t=99999999999999999999,v1=" + stripeSig, Malformed},
		{"stripe", "t=1492774578,v1=" + stripeSig, WrongSignature},
		{"stripe", "nonsense", Malformed},
		{"stripe", "t=1492774577" + strings.Repeat(",v1="+zero, maxSignatures-1) + ",v1=" + stripeSig, ""},
		{"stripe", "t=1492774577" + strings.Repeat(",v1="+zero, maxSignatures) + ",v1=" + stripeSig, Malformed},
		{"stripe", "t=1492774577,v1=" + stripeSig + strings.Repeat(",x=y", maxSignatureHeader), Malformed},
		{"standard", "v1a,AAAA " + good["standard"], ""},
		{"standard", good["standard"] + " v1,AAAA", ""},
		{"standard", "v1a" + good["standard"][2:], Malformed},
		{"standard", strings.TrimRight(good["standard"], "="), Malformed},
		{"standard", strings.Replace(good["standard"], ",", ", ", 1), Malformed},
		{"slack", "v1" + good["slack"][2:], Malformed},
	} {
		for _, v := range every(t) {
			if v.provider != c.provider {
				continue
			}
			p, _ := ProviderNamed(v.provider)
			v.header = v.header.Clone()
			v.header.Set(p.Scheme.Header, c.header)
			if err := v.verify(v.secret); reasonOf(err) != c.want || (c.want == "") != (err == nil) {
				t.Errorf("%s %.80q: %v, want %q", c.provider, c.header, err, c.want)
			}
		}
	}
}

// With a separator in the id, "a.1" at time 2 and "a" at time "1" with "2." before the body would be one message.
func TestAnIDCannotMoveTheBorderOfTheMessage(t *testing.T) {
	p, _ := ProviderNamed("standard")
	h := http.Header{"Webhook-Id": {"msg.1"}}
	err := p.Scheme.Sign(Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), h, nil, time.Unix(1, 0))
	if reasonOf(err) != Malformed {
		t.Errorf("id with a separator: %v", err)
	}
}

func TestSecretsThatAreNoKeys(t *testing.T) {
	p, _ := ProviderNamed("standard")
	for _, s := range []string{"", "whsec_", "whsec_%%%"} {
		if _, err := p.Scheme.key(Secret(s)); err == nil || strings.Contains(err.Error(), "%%%") {
			t.Errorf("%q: %v", s, err)
		}
	}
	p, _ = ProviderNamed("stripe")
	if key, err := p.Scheme.key(Secret("whsec_abcd")); string(key) != "whsec_abcd" || err != nil {
		t.Errorf("Stripe's secret is the whole text: %q, %v", key, err)
	}
	if _, err := p.Scheme.key(nil); err == nil {
		t.Error("anyone can sign with an empty key")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := Secret("hunter2")
	source := Source{Name: "a", Secrets: []Secret{s}}
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
	for _, v := range every(f) {
		p, _ := ProviderNamed(v.provider)
		f.Add(v.header.Get(p.Scheme.Header))
	}
	f.Add("t=1,t=2,v1=,v1=00")
	f.Add("v1, v1,= ,")
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range Providers {
			signed, err := p.Scheme.parse(text)
			if err != nil {
				if reasonOf(err) != Malformed {
					t.Errorf("%s %q: %v", p.Name, text, err)
				}
				continue
			}
			if n := len(signed.signatures); n == 0 || n > maxSignatures || len(text) > maxSignatureHeader {
				t.Errorf("%s %q: %d signatures", p.Name, text, n)
			}
			for _, sig := range signed.signatures {
				if len(sig) != p.Scheme.Digest().Size() {
					t.Errorf("%s %q: a MAC of %d bytes", p.Name, text, len(sig))
				}
			}
			h := http.Header{p.Scheme.Header: {text}, "Webhook-Id": {"i"}}
			if p.Scheme.TimeHeader != "" {
				h.Set(p.Scheme.TimeHeader, "1492774577")
			}
			// The body is not one that a seed was signed for.
			err = p.Scheme.Verify([]Secret{Secret("c2VjcmV0")}, h, []byte("not signed"), time.Unix(1492774577, 0))
			if err == nil {
				t.Errorf("%s accepted %q", p.Name, text)
			}
		}
	})
}
