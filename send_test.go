package penstock_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// TestSendAsAnyProvider: what penstock send signs, a source of the provider takes; what it forges, none does.
func TestSendAsAnyProvider(t *testing.T) {
	t.Setenv("PLAIN", "plain-secret:of-all-sources")
	t.Setenv("HEX", "44782def547aaa06c910c43932b1eb0c71fc68d9d0c057550c48ec2acf6ba056")
	t.Setenv("BASE64", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	cfg := nodeConfig(t)
	cfg.Sources = map[string]penstock.SourceConfig{}
	secrets := map[string]string{}
	left := map[string]string{}
	for _, p := range ingress.Providers {
		ref := map[ingress.KeyRule]string{ingress.HexKeys: "env:HEX", ingress.WhsecKeys: "env:BASE64", ingress.Base64Keys: "env:HEX"}[p.Scheme.Key]
		switch {
		case p.Scheme.Key == ingress.PublicKeys, p.Scheme.Key == ingress.VendorPublicKey:
			left[p.Name] = "only the provider has its key"
			continue
		case ref == "":
			ref = "env:PLAIN"
		}
		secrets[p.Name] = ref
		s := penstock.SourceConfig{Provider: p.Name, Secrets: penstock.Refs(ref)}
		if p.NeedsURL() {
			s.PublicURL = "https://hooks.example.com/hooks/" + p.Name
		}
		cfg.Sources[p.Name] = s
	}
	if len(secrets) < 60 {
		t.Fatalf("only %d providers share a secret; left out: %v", len(secrets), slices.Sorted(maps.Keys(left)))
	}
	n := startNode(t, cfg)
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		args := []string{"send", name, "--url", n.URL(), "--secret", secrets[name]}
		if cfg.Sources[name].PublicURL != "" {
			args = append(args, "--public-url", cfg.Sources[name].PublicURL)
		}
		if s := command(t, args...); s.code != 0 || !strings.HasPrefix(s.stdout, "20") {
			t.Errorf("%s: %+v", name, s)
		}
		if s := command(t, append(args, "--forge")...); s.code != 0 || !strings.HasPrefix(s.stdout, "401 ") {
			t.Errorf("%s, forged: %+v", name, s)
		}
	}
	for name := range secrets {
		eventstoretest.Until(t, "the delivery of "+name, func() bool {
			var page struct{ Items []struct{ ID string } }
			n.get(t, "/v1/deliveries?source="+name).into(t, &page)
			return len(page.Items) > 0
		})
	}
}

func TestSend(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	t.Setenv("DISCORD", hex.EncodeToString(public))
	t.Setenv("SHOP", "the shop's secret")
	cfg := nodeConfig(t)
	cfg.Sources["shop"] = penstock.SourceConfig{Provider: "shopify", Secrets: penstock.Refs("env:SHOP")}
	cfg.Sources["bot"] = penstock.SourceConfig{Provider: "discord", Secrets: penstock.Refs("env:DISCORD")}
	n := startNode(t, cfg)
	send := func(args ...string) said {
		t.Helper()
		return command(t, append([]string{"send", "--url", n.URL()}, args...)...)
	}
	// A type, as the tour has it, to the source called like the provider, or to another.
	if s := send("stripe.charge.succeeded", "--customer", "cus_9", "--charge", "ch_1", "--id", "evt_1"); s.code != 0 || !strings.Contains(s.stdout, `"id":"evt_1"`) ||
		!strings.Contains(s.stdout, "202 Accepted") || !strings.Contains(s.stdout, "(in the log)") {
		t.Errorf("%+v", s)
	}
	// A source, whose provider the node knows.
	writeFile(t, filepath.Join(dir, "order.json"), `{"id": 820982911946154508}`)
	if s := send("shop", "--secret", "env:SHOP", "--data", "@"+filepath.Join(dir, "order.json"), "--type", "orders/create"); s.code != 0 {
		t.Errorf("%+v", s)
	}
	var page struct {
		Items []struct {
			Source, Type string
			Size         int
		}
	}
	eventstoretest.Until(t, "it is there", func() bool { n.get(t, "/v1/deliveries?source=shop").into(t, &page); return len(page.Items) == 1 })
	if d := page.Items[0]; d.Type != "shopify.orders_create" || d.Size != len(`{"id": 820982911946154508}`) {
		t.Errorf("%+v", d)
	}
	if s := send("--provider", "discord", "--to", n.URL()+"/hooks/bot", "--secret", "file:"+filepath.Join(dir, "key.pem")); s.code != 0 {
		t.Errorf("by a private key: %+v", s)
	}
	if s := send("--provider", "discord", "--to", n.URL()+"/hooks/bot", "--secret", "file:"+filepath.Join(dir, "key.pem"), "--forge"); s.code != 0 || !strings.HasPrefix(s.stdout, "401") {
		t.Errorf("by a private key, forged: %+v", s)
	}
	if s := send("github", "--count", "3", "--id", "d"); s.code != 0 || strings.Count(s.stdout, "202 Accepted") != 3 || !strings.Contains(s.stdout, `"id":"d-3"`) {
		t.Errorf("three: %+v", s)
	}
	// What the configuration says of a source needn't be said again, and rows of one's own are known from there.
	writeFile(t, filepath.Join(dir, "penstock.yaml"), `public_url: https://hooks.example.com
providers:
  acme: {header: X-Acme-Signature, message: "{url}.{body}", type: ["{body:kind}"]}
sources:
  shop: {provider: shopify, secrets: ["env:SHOP"]}
  acme: {provider: acme, secrets: [{ref: "env:SHOP", from: 2026-01-01T00:00:00Z}]}
`)
	if s := send("shop", "-c", filepath.Join(dir, "penstock.yaml")); s.code != 0 {
		t.Errorf("with a configuration: %+v", s)
	}
	if c, err := penstock.LoadConfig(filepath.Join(dir, "penstock.yaml"), nil); err != nil {
		t.Error(err)
	} else if _, err := n.Reload(c); err != nil {
		t.Error(err)
	}
	if s := send("acme", "-c", filepath.Join(dir, "penstock.yaml")); s.code != 0 {
		t.Errorf("a row of one's own: %+v", s)
	}
	if _, err := n.Reload(cfg); err != nil {
		t.Error(err)
	}
	for what, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing":                      {nil, "name a source"},
		"no such source":               {[]string{"nope"}, "no source"},
		"no such provider":             {[]string{"--provider", "nobody"}, "no provider"},
		"a wrong secret":               {[]string{"shop"}, "1 of 1 deliveries were not accepted"},
		"a secret that's no reference": {[]string{"github", "--secret", "hunter2"}, "by reference"},
		"no such sample":               {[]string{"github", "--type", "nothing"}, "no sample"},
		"no private key":               {[]string{"bot", "--secret", "env:SHOP"}, "private key"},
		"no file":                      {[]string{"github", "--data", "@" + filepath.Join(dir, "nothing")}, "--data"},
		"too many":                     {[]string{"github", "--count", "0"}, "--count"},
		"a forged one that is taken":   {[]string{"--provider", "github", "--to", newHook(t, nil).URL, "--forge"}, "were not refused"},
	} {
		if s := send(c.args...); s.code != 1 || !strings.Contains(s.stderr, c.want) || strings.Contains(s.stderr+s.stdout, "hunter2") {
			t.Errorf("%s: %+v", what, s)
		}
	}
}

func TestSourcesCommand(t *testing.T) {
	t.Setenv("ZOOM", "zoom's secret token")
	cfg := nodeConfig(t)
	cfg.Sources["meetings"] = penstock.SourceConfig{Provider: "zoom", Secrets: penstock.Refs("env:ZOOM")}
	cfg.Sources["tasks"] = penstock.SourceConfig{Provider: "asana"}
	n := startNode(t, cfg)
	sources := func(args ...string) said {
		t.Helper()
		return command(t, append([]string{"sources", "--url", n.URL()}, args...)...)
	}
	if s := sources(); s.code != 0 || !strings.Contains(s.stdout, "meetings") || !strings.Contains(s.stdout, "zoom; ") {
		t.Errorf("%+v", s)
	}
	const challenge = `{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}`
	ask := func() int {
		t.Helper()
		return post(t, n.URL()+"/hooks/meetings", challenge).status
	}
	if got := ask(); got != 403 {
		t.Errorf("before it is armed: %d", got)
	}
	if s := sources("refusals", "meetings"); s.code != 0 || !strings.Contains(s.stdout, "handshake-not-armed") || !strings.Contains(s.stdout, "penstock sources arm meetings") {
		t.Errorf("%+v", s)
	}
	if s := sources("arm", "meetings", "--for", "5m"); s.code != 0 || !strings.Contains(s.stdout, "meetings waits for the handshake of zoom until ") {
		t.Errorf("%+v", s)
	}
	if got := ask(); got != 200 {
		t.Errorf("armed: %d", got)
	}
	var state struct {
		Mode  string
		Armed bool
		Kinds []struct{ Name, Proof string }
	}
	n.get(t, "/v1/sources/meetings/handshake").into(t, &state)
	if !state.Armed || state.Mode != "armed" || len(state.Kinds) != 1 || state.Kinds[0].Name != "endpoint.url_validation" {
		t.Errorf("%+v", state)
	}
	eventstoretest.Until(t, "the handshake is an event", func() bool {
		var page struct{ Items []cloudEvent }
		n.get(t, "/v1/events?type=zoom.handshake").into(t, &page)
		return len(page.Items) == 1 && page.Items[0].Subject == "meetings/handshake"
	})
	if s := sources("arm", "meetings", "--for", "0s"); s.code != 0 || !strings.Contains(s.stdout, "disarmed") || ask() != 403 {
		t.Errorf("%+v", s)
	}
	for what, c := range map[string][]string{
		"no such source": {"arm", "nope"}, "no handshake": {"arm", "github"}, "too long": {"arm", "meetings", "--for", "25h"}, "negative": {"arm", "meetings", "--for", "-1s"},
		"no file": {"reload"},
	} {
		if s := sources(c...); s.code != 1 {
			t.Errorf("%s: %+v", what, s)
		}
	}
	// What Asana teaches is kept with the node's data, and is there after a restart.
	if s := sources("arm", "tasks"); s.code != 0 {
		t.Errorf("%+v", s)
	}
	a := post(t, n.URL()+"/hooks/tasks", "{}", "X-Hook-Secret", "b537207f20cbfa02357cf448134da559e8bd39d6")
	if a.status != 200 || a.header.Get("X-Hook-Secret") != "b537207f20cbfa02357cf448134da559e8bd39d6" {
		t.Errorf("%s", a)
	}
	t.Setenv("ASANA", "b537207f20cbfa02357cf448134da559e8bd39d6")
	n.stop(t)
	n = startNode(t, cfg)
	if s := command(t, "send", "tasks", "--url", n.URL(), "--secret", "env:ASANA"); s.code != 0 {
		t.Errorf("%+v", s)
	}
}

func post(t *testing.T, url, body string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r, append([]string{"Content-Type", "application/json"}, headers...)...)
}

// TestProvidersCommand: every row is listed, for people and for programs.
func TestProvidersCommand(t *testing.T) {
	s := command(t, "sources", "providers")
	if s.code != 0 || strings.Count(s.stdout, "\n") != len(ingress.Providers)+1 {
		t.Errorf("%d lines for %d providers, exit code %d", strings.Count(s.stdout, "\n"), len(ingress.Providers), s.code)
	}
	var rows []struct {
		Name, Binding, Docs, Verification string
		Samples                           []string
	}
	s = command(t, "sources", "providers", "--json")
	if err := json.Unmarshal([]byte(s.stdout), &rows); err != nil || len(rows) != len(ingress.Providers) {
		t.Fatalf("%v, %d rows", err, len(rows))
	}
	for _, r := range rows {
		if r.Name == "" || r.Binding == "" || !strings.HasPrefix(r.Docs, "https://") || r.Verification == "" || len(r.Samples) == 0 {
			t.Errorf("%+v lacks something", r)
		}
		one := command(t, "sources", "providers", r.Name)
		if one.code != 0 || !strings.Contains(one.stdout, r.Docs) {
			t.Errorf("%s: %+v", r.Name, one)
		}
	}
	if s := command(t, "sources", "providers", "nobody"); s.code != 1 || !strings.Contains(s.stderr, `no provider "nobody"`) {
		t.Errorf("%+v", s)
	}
	if s := command(t, "sources", "providers", "zoom"); !strings.Contains(s.stdout, "endpoint.url_validation; proof: signature or window") {
		t.Errorf("%s", s.stdout)
	}
}
