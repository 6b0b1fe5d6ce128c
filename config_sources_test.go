package penstock_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock"
)

// load reads a configuration as if it stood in penstock.yaml.
func load(t *testing.T, text string) (penstock.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "penstock.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return penstock.LoadConfig(path, nil)
}

func TestSourceConditionsAreRead(t *testing.T) {
	t.Setenv("HOOK_SECRET", "a secret of the tests")
	cfg, err := load(t, `
trusted_proxies: [10.0.0.0/8]
proxy_header: Forwarded
keep_refused: 7
sources:
  gh:
    provider: github
    secrets: [env:HOOK_SECRET]
    when:
      main: body.ref == "refs/heads/main"
      inside: cidr(remote, "192.0.2.0/24")
    allow: [192.0.2.0/24, "2001:db8::/32"]
    limits: {rate: 100, burst: 200, client_rate: 2.5, client_burst: 10}
    content_types: [application/json, text/*]
  one:
    provider: github
    secrets: [env:HOOK_SECRET]
    when: type != "github.push"
  list:
    provider: github
    secrets: [env:HOOK_SECRET]
    when: [type != "github.push", named: "true", source == "list"]
`)
	if err != nil {
		t.Fatal(err)
	}
	gh := cfg.Sources["gh"]
	if len(gh.When) != 2 || gh.When["main"] != `body.ref == "refs/heads/main"` || !slices.Equal(gh.Allow, []string{"192.0.2.0/24", "2001:db8::/32"}) ||
		gh.Limits != (penstock.LimitsConfig{Rate: 100, Burst: 200, ClientRate: 2.5, ClientBurst: 10}) || len(gh.ContentTypes) != 2 ||
		cfg.KeepRefused != 7 || cfg.ProxyHeader != "Forwarded" || !slices.Equal(cfg.TrustedProxies, []string{"10.0.0.0/8"}) {
		t.Errorf("%+v", cfg)
	}
	if w := cfg.Sources["one"].When; len(w) != 1 || w["when"] != `type != "github.push"` {
		t.Errorf("%+v", w)
	}
	if w := cfg.Sources["list"].When; len(w) != 3 || w["when"] == "" || w["named"] != "true" || w["when-3"] == "" {
		t.Errorf("%+v", w)
	}
}

func TestSourceConditionsThatAreWrong(t *testing.T) {
	t.Setenv("HOOK_SECRET", "a secret of the tests")
	_, err := load(t, `
trusted_proxies: [10.0.0.1/8]
proxy_header: X-Real-Ip
sources:
  gh:
    provider: github
    secrets: [env:HOOK_SECRET]
    when:
      fine: "true"
      main: body.ref ==
  ranges:
    provider: github
    secrets: [env:HOOK_SECRET]
    allow: [192.0.2.1/24]
  file:
    provider: github
    secrets: [env:HOOK_SECRET]
    allow_file: /nonexistent/hooks
  limits:
    provider: github
    secrets: [env:HOOK_SECRET]
    limits: {rate: -1, per_second: 3}
  types:
    provider: github
    secrets: [env:HOOK_SECRET]
    content_types: [json]
`)
	if err == nil {
		t.Fatal("all of it is taken")
	}
	for _, want := range []string{
		"penstock.yaml:2: trusted_proxies", "10.0.0.0/8", "penstock.yaml:3: proxy_header", "penstock.yaml:10: sources.gh.when.main: line 1, column 12",
		"sources.ranges", "bits beyond its mask", "sources.file", "/nonexistent/hooks", "limits.rate is -1", "sources.limits.limits.per_second: no such key",
		"content_types",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q in\n%v", want, err)
		}
	}
}

// A source that verifies nothing needs something else that keeps strangers out.
func TestUnverifiedSourcesNeedAnotherDoor(t *testing.T) {
	t.Setenv("HOOK_SECRET", "a secret of the tests")
	t.Setenv("HOOK_TOKEN", "0123456789abcdef")
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("192.0.2.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const public, loopback = "listen: 0.0.0.0:8080\nauth: {tokens: [env:HOOK_TOKEN]}\n", "listen: 127.0.0.1:8080\n"
	for _, c := range []struct {
		name, top, source string
		ok                bool
	}{
		{"no secret and nothing said", loopback, "", false},
		{"none, on loopback", loopback, "verification: none", true},
		{"none, on loopback behind a proxy", loopback + "trusted_proxies: [127.0.0.1]\n", "verification: none", false},
		{"none, behind a proxy with a list", loopback + "trusted_proxies: [127.0.0.1]\n", "verification: none, allow: [192.0.2.0/24]", true},
		{"none, in public", public, "verification: none", false},
		{"none, in public with a list", public, "verification: none, allow: [192.0.2.0/24]", true},
		{"none, in public with a file", public, "verification: none, allow_file: " + list, true},
		{"none, in public with everybody", public, "verification: none, allow: [0.0.0.0/0]", false},
		{"a list is no verification", public, "allow: [192.0.2.0/24]", false},
		{"none, and a secret", loopback, "verification: none, secrets: [env:HOOK_SECRET]", false},
		{"something else", loopback, "verification: maybe, secrets: [env:HOOK_SECRET]", false},
	} {
		_, err := load(t, c.top+"sources:\n  gh: {provider: github, "+c.source+"}\n")
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
