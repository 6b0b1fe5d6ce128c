package penstock_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// signedIssue is a delivery of GitHub under a secret.
func signedIssue(t *testing.T, base, source, secret, id string) *http.Request {
	t.Helper()
	d, err := ingress.Sample("github.issues.opened", ingress.Facts{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Request(t.Context(), base, source, ingress.Secret(secret), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRotationUnderLoad replaces a source's secret while deliveries come in, as an operator does: the new one beside the
// old one, then the sender changes over, then the old one goes. No delivery is refused; afterwards the old secret is.
func TestRotationUnderLoad(t *testing.T) {
	dir := t.TempDir()
	path, old, fresh := filepath.Join(dir, "penstock.yaml"), filepath.Join(dir, "old"), filepath.Join(dir, "new")
	writeFile(t, old, "the old secret\n")
	writeFile(t, fresh, "the new secret\n")
	configure := func(secrets string) {
		writeFile(t, path, fmt.Sprintf("listen: 127.0.0.1:0\ndata: %s/data\nkafka: {embedded: \"127.0.0.1:0\", partitions: 2}\n"+
			"sources:\n  github: {provider: github, secrets: [%s]}\n", dir, secrets))
	}
	configure("file:" + old)
	s := startServe(t, path)
	var mu sync.RWMutex // held for reading while a delivery is on its way
	secret := "the old secret"
	var stop atomic.Bool
	var accepted atomic.Int64
	var load sync.WaitGroup
	for sender := range 4 {
		load.Go(func() {
			for i := 0; !stop.Load(); i++ {
				mu.RLock()
				r := signedIssue(t, s.url, "github", secret, fmt.Sprintf("d_%d_%d", sender, i))
				a, err := exchange(client, r)
				mu.RUnlock()
				if err != nil || a.status != 202 {
					t.Errorf("delivery %d of sender %d: %v %s", i, sender, err, a)
					return
				}
				accepted.Add(1)
			}
		})
	}
	defer load.Wait()
	defer stop.Store(true)
	more := func(what string) {
		t.Helper()
		from := accepted.Load()
		eventstoretest.Until(t, what, func() bool { return accepted.Load() > from+20 })
	}
	reload := func(n int) {
		t.Helper()
		s.signal(t, syscall.SIGHUP)
		eventstoretest.Until(t, "the configuration is in force", func() bool {
			return strings.Count(s.stderr.String(), "the configuration is in force") == n
		})
	}
	more("deliveries under the old secret")
	configure(fmt.Sprintf("{ref: \"file:%s\"}, {ref: \"file:%s\", until: 2999-01-01T00:00:00Z}", fresh, old))
	reload(1)
	more("deliveries under the old secret, with both")
	mu.Lock()
	secret = "the new secret"
	mu.Unlock()
	more("deliveries under the new secret, with both")
	configure("file:" + fresh)
	reload(2)
	more("deliveries under the new secret")
	stop.Store(true)
	load.Wait()
	if a := do(t, signedIssue(t, s.url, "github", "the old secret", "late")); a.status != 401 {
		t.Errorf("the old secret after all: %s", a)
	}

	// A file with a mistake changes nothing, and everything that is wrong is said.
	writeFile(t, path, fmt.Sprintf("listen: 127.0.0.1:0\nsources:\n  github: {provider: github, secrets: [\"file:%s\"]}\n  nobody:\n    provider: nobody\n  typo:\n    secret: x\n", old))
	s.signal(t, syscall.SIGHUP)
	said := s.wait(t, &s.stderr, regexp.MustCompile(`(?m)^.*the configuration is refused.*$`))[0]
	for _, want := range []string{path + ":5: sources.nobody.provider", path + ":7: sources.typo.secret: no such key"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not said in %s", want, said)
		}
	}
	if a := do(t, signedIssue(t, s.url, "github", "the old secret", "late")); a.status != 401 {
		t.Errorf("the old secret after a refused reload: %s", a)
	}
	if a := do(t, signedIssue(t, s.url, "github", "the new secret", "last")); a.status != 202 {
		t.Errorf("the new secret after a refused reload: %s", a)
	}
	if out := command(t, "sources", "reload", "--url", s.url); out.code == 0 || !strings.Contains(out.stderr, "sources.nobody.provider") {
		t.Errorf("%+v", out)
	}
	writeFile(t, path, fmt.Sprintf("listen: 127.0.0.1:0\ndata: %s/elsewhere\nkafka: {embedded: \"127.0.0.1:0\", partitions: 2}\n"+
		"sources:\n  github: {provider: github, secrets: [\"file:%s\"]}\n  second: {provider: github, secrets: [\"file:%s\"]}\n", dir, fresh, old))
	if out := command(t, "sources", "reload", "--url", s.url); out.code != 0 || !strings.Contains(out.stdout, "2 sources are in force") || !strings.Contains(out.stdout, "restart: data") {
		t.Errorf("%+v", out)
	}
	if a := do(t, signedIssue(t, s.url, "second", "the old secret", "1")); a.status != 202 {
		t.Errorf("a source that is new: %s", a)
	}
	if out := command(t, "sources", "--url", s.url); out.code != 0 || !strings.Contains(out.stdout, "/hooks/second") {
		t.Errorf("%+v", out)
	}
	if log := s.stderr.String(); strings.Contains(log, "the old secret") || strings.Contains(log, "the new secret") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
}

// TestReloadIsAllOrNothing checks what a running node takes over, and that it keeps what it had when anything is wrong.
func TestReloadIsAllOrNothing(t *testing.T) {
	t.Setenv("SECOND", "the second source's secret")
	t.Setenv("TOKEN", "a-token-of-this-test")
	cfg := nodeConfig(t)
	n := startNode(t, cfg)
	status := func(source, secret string) int {
		t.Helper()
		return do(t, signedIssue(t, n.URL(), source, secret, "d")).status
	}
	change := func(f func(*penstock.Config)) penstock.Config {
		c := cfg
		c.Sources = map[string]penstock.SourceConfig{}
		for name, s := range cfg.Sources {
			c.Sources[name] = s
		}
		f(&c)
		return c
	}
	second := penstock.SourceConfig{Provider: "github", Secrets: penstock.Refs("env:SECOND")}
	for what, c := range map[string]penstock.Config{
		"a secret that isn't there": change(func(c *penstock.Config) {
			c.Sources["second"] = second
			c.Sources["third"] = penstock.SourceConfig{Provider: "github", Secrets: penstock.Refs("env:NOT_THERE")}
		}),
		"no provider": change(func(c *penstock.Config) {
			c.Sources["second"] = second
			c.Sources["third"] = penstock.SourceConfig{Provider: "nobody"}
		}),
		"a decider's streams": change(func(c *penstock.Config) { c.Sources["second"], c.Sources["billing"] = second, second }),
		"a token that is none": change(func(c *penstock.Config) {
			c.Sources["second"] = second
			c.Auth.Tokens = []string{"a-token-of-this-test"}
		}),
	} {
		if _, err := n.Reload(c); err == nil || strings.Contains(err.Error(), "a-token-of") {
			t.Errorf("%s: %v", what, err)
		}
		if got := status("second", "the second source's secret"); got != 404 {
			t.Errorf("%s: the second source answers %d", what, got)
		}
		if got := status("github", penstock.DevelopmentSecret); got != 202 {
			t.Errorf("%s: the first source answers %d", what, got)
		}
	}
	restart, err := n.Reload(change(func(c *penstock.Config) {
		delete(c.Sources, "github")
		c.Sources["second"], c.Auth.Tokens, c.Listen, c.Kafka.Partitions = second, []string{"env:TOKEN"}, "0.0.0.0:1", 5
	}))
	slices.Sort(restart)
	if err != nil || !slices.Equal(restart, []string{"kafka", "listen"}) {
		t.Fatalf("%v, %v", restart, err)
	}
	if got := status("second", "the second source's secret"); got != 202 {
		t.Errorf("the new source answers %d", got)
	}
	if got := status("github", penstock.DevelopmentSecret); got != 404 {
		t.Errorf("the source that is gone answers %d", got)
	}
	if a := n.get(t, "/v1/sources"); a.status != 401 {
		t.Errorf("without the new token: %s", a)
	}
	a := n.get(t, "/v1/sources", "Authorization", "Bearer a-token-of-this-test")
	if a.status != 200 || !strings.Contains(string(a.body), "/hooks/second") || strings.Contains(string(a.body), "/hooks/github") {
		t.Errorf("with it: %s", a)
	}
	if a := n.get(t, "/metrics", "Authorization", "Bearer a-token-of-this-test"); !strings.Contains(string(a.body), `penstock_config_reloads_total{result="ok"} 1`) ||
		!strings.Contains(string(a.body), `penstock_config_reloads_total{result="refused"} 4`) {
		t.Error("the reloads are not counted")
	}
	// Whatever the file says, this node listens on loopback, and may have no tokens; one that others reach may not.
	if _, err := n.Reload(change(func(c *penstock.Config) { c.Listen = "0.0.0.0:1" })); err != nil {
		t.Error(err)
	}
}

// TestSecretsInTheFile: a secret is a reference, or one with dates, and whatever else stands there is said with its line.
func TestSecretsInTheFile(t *testing.T) {
	t.Setenv("A", "the secret called A")
	path := filepath.Join(t.TempDir(), "penstock.yaml")
	load := func(secrets string) (penstock.Config, error) {
		writeFile(t, path, "sources:\n  github:\n    provider: github\n    secrets: "+secrets+"\n")
		return penstock.LoadConfig(path, nil)
	}
	for _, good := range []string{
		`["env:A"]`, `env:A`, `[{ref: "env:A"}]`, `["env:A", {ref: "env:A", from: 2026-01-01T00:00:00Z, until: "2999-01-01T00:00:00+02:00"}]`,
		`[{ref: "env:A", until: 2020-01-01T00:00:00Z}, "env:A"]`, `[{ref: "env:A", from: 2999-01-01T00:00:00Z}]`,
	} {
		c, err := load(good)
		if err != nil || len(c.Sources["github"].Secrets) == 0 || c.Sources["github"].Secrets[0].Ref != "env:A" {
			t.Errorf("%s: %+v, %v", good, c.Sources, err)
		}
	}
	c, err := load(`[{ref: "env:A", from: 2026-01-31T12:00:00Z, until: "2026-02-01"}]`)
	if err == nil || !strings.Contains(err.Error(), path+":4: sources.github.secrets: until is not a time") {
		t.Errorf("%+v, %v", c.Sources, err)
	}
	for bad, want := range map[string]string{
		`[{ref: "env:A", untill: 2026-01-01T00:00:00Z}]`:                            "no such key: untill",
		`[{from: 2026-01-01T00:00:00Z}]`:                                            "needs its ref",
		`[{ref: "env:A", from: 2026-01-02T00:00:00Z, until: 2026-01-01T00:00:00Z}]`: "not before its until",
		`[{ref: "env:A", until: 2020-01-01T00:00:00Z}]`:                             "every secret has expired",
		`[{ref: "hunter2hunter2"}]`:                                                 "by reference",
		`[["env:A"]]`:                                                               "a secret is a reference",
		`[17]`:                                                                      "a secret is a reference",
		`[{ref: "env:A"}, {ref: "env:B"}]`:                                          "B is not set",
		`[]`:                                                                        "needs a secret",
		`[{ref: "hunter2hunter2", until: 2020-01-01T00:00:00Z}]`:                    "every secret has expired",
	} {
		_, err := load(bad)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path+":4: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
