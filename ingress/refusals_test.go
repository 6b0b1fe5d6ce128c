package ingress

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRefusalsAreKeptWithoutSecrets(t *testing.T) {
	n := newNode(t, func(c *Config) { c.KeepRefused = 3 })
	r := n.signed(t, "github", jsonType, `{"action":"hidden-body"}`, "Authorization", "Bearer s3cret", "Cookie", "a=s3cret", "X-Gitlab-Token", "s3cret",
		"X-Api-Key", "s3cret", "X-Unknown", "s3cret", "User-Agent", strings.Repeat("u", 300), "X-GitHub-Event", "a\xffb")
	r.Header.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64))
	if a := do(t, r); a.status != 401 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	last, counts, ok := n.handler.Refusals("github")
	if !ok || len(last) != 1 || len(counts) != 1 {
		t.Fatalf("%v %+v %+v", ok, last, counts)
	}
	x := last[0]
	if x.Status != 401 || x.Problem != "/problems/bad-signature" || x.Reason != string(WrongSignature) || x.Remote != "127.0.0.1" || x.Method != "POST" ||
		x.Size != int64(len(`{"action":"hidden-body"}`)) || time.Since(x.Time) > time.Minute || x.Detail == "" || x.DeliveryID != "" {
		t.Errorf("%+v", x)
	}
	for name, want := range map[string]string{
		"authorization": "(13 bytes)", "cookie": "(8 bytes)", "x-gitlab-token": "(6 bytes)", "x-api-key": "(6 bytes)", "x-unknown": "(6 bytes)",
		"x-hub-signature-256": "(71 bytes)", "x-github-delivery": "d-1", "x-github-event": "a\ufffdb", "content-type": jsonType,
		"user-agent": strings.Repeat("u", maxShownHeader) + "…",
	} {
		if x.Headers[name] != want {
			t.Errorf("%s is %q, want %q", name, x.Headers[name], want)
		}
	}
	if all := fmt.Sprintf("%+v", last); strings.Contains(all, "s3cret") || strings.Contains(all, "hidden-body") {
		t.Error(all)
	}
	for range 5 {
		do(t, n.signed(t, "github", "text/plain", "{}"))
	}
	last, counts, _ = n.handler.Refusals("github")
	if len(last) != 3 || last[2].Status != 401 || len(counts) != 2 || counts[0].Count != 5 || counts[0].Status != 415 || counts[0].Last.Before(counts[0].First) {
		t.Errorf("%+v\n%+v", last, counts)
	}
	if _, _, ok := n.handler.Refusals("nope"); ok {
		t.Error("a source that isn't there")
	}
}

func TestRefusalsAreBoundedInBytes(t *testing.T) {
	s := newRefusals(maxKeptRefusals)
	for i := range 10_000 {
		s.add(&Refusal{Status: 400 + i%3, Headers: map[string]string{"a": strings.Repeat("x", i%2000)}})
	}
	size := 0
	for _, r := range s.last {
		size += r.bytes()
	}
	if s.bytes != size || size > maxRefusalBytes || size < maxRefusalBytes/2 {
		t.Errorf("%d bytes, counted as %d", size, s.bytes)
	}
	per := 0
	for _, n := range s.per {
		per += n
	}
	if per != len(s.last) {
		t.Errorf("%d are kept, counted as %d", len(s.last), per)
	}
}

// The operator is told what can be found out about a wrong signature, the sender is not.
func TestHints(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Sources[0].Secrets = append(c.Sources[0].Secrets, Key{Secret: Secret("expired"), Until: time.Unix(1e9, 0)})
		c.Sources = append(c.Sources, Source{Name: "other", Provider: "github", Secrets: Keys(Secret("of the other"))})
	})
	sendAs := func(sent string, change func(*http.Request)) func(string) *http.Request {
		return func(signed string) *http.Request {
			r := n.signed(t, "github", jsonType, signed)
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(sent)), int64(len(sent))
			if change != nil {
				change(r)
			}
			return r
		}
	}
	p, _ := ProviderNamed("github")
	for _, c := range []struct {
		name   string
		r      *http.Request
		reason Reason
		hint   string
	}{
		{"a line break added", sendAs("{}\n", nil)("{}"), BodyChanged, "without the line break"},
		{"a line break lost", sendAs("{}", nil)("{}\n"), BodyChanged, "with a line break"},
		{"line breaks of Windows", sendAs("{\r\n}", nil)("{\n}"), BodyChanged, "as Unix has them"},
		{"line breaks of Unix", sendAs("{\n}", nil)("{\r\n}"), BodyChanged, "as Windows has them"},
		{"a byte order mark", sendAs("\ufeff{}", nil)("{}"), BodyChanged, "byte order mark"},
		{"another source's", sendAs("{}", func(r *http.Request) {
			if err := p.Scheme.Sign(&Request{Header: r.Header, Body: []byte("{}")}, Secret("of the other"), time.Now()); err != nil {
				t.Fatal(err)
			}
		})("{}"), OtherSource, "the source other"},
		{"an expired one", sendAs("{}", func(r *http.Request) {
			if err := p.Scheme.Sign(&Request{Header: r.Header, Body: []byte("{}")}, Secret("expired"), time.Now()); err != nil {
				t.Fatal(err)
			}
		})("{}"), SecretNotNow, "only until 2001-09-09T01:46:40Z"},
		{"another provider's", sendAs("{}", func(r *http.Request) {
			r.Header.Del("X-Hub-Signature-256")
			r.Header.Set("Stripe-Signature", "t=1,v1=00")
		})("{}"), MissingHeader, "stripe"},
		{"just wrong", sendAs("{}", nil)("[]"), WrongSignature, ""},
	} {
		n.handler.suspicion = newSuspicion()
		a := do(t, c.r)
		last, _, _ := n.handler.Refusals("github")
		if a.status != 401 || last[0].Reason != string(c.reason) || !strings.Contains(last[0].Hint, c.hint) || c.hint == "" && last[0].Hint != "" {
			t.Errorf("%s: %d %+v", c.name, a.status, last[0])
		}
		if a.Reason == BodyChanged || a.Reason == OtherSource || a.Reason == SecretNotNow || c.hint != "" && strings.Contains(a.body, c.hint) {
			t.Errorf("%s: the sender is told %s", c.name, a.body)
		}
	}
	for range 2 * suspicions {
		do(t, sendAs("{}\n", nil)("{}"))
	}
	last, _, _ := n.handler.Refusals("github")
	if last[0].Hint != "" {
		t.Error("every forgery is looked into, which makes each dear")
	}
}

func TestUnverifiedSources(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Sources[0].Unverified, c.Sources[0].Secrets = true, nil
	})
	r := n.signed(t, "github", jsonType, "{}")
	r.Header.Del("X-Hub-Signature-256")
	if a := do(t, r); a.status != 202 || n.last().Verification != "github; none" {
		t.Errorf("%d %s, %+v", a.status, a.body, n.last())
	}
	if err := n.handler.Reload([]Source{{Name: "x", Provider: "github", Unverified: true, Secrets: Keys(Secret("x"))}}); err == nil {
		t.Error("secrets that verify nothing are taken")
	}
}
