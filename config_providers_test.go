package penstock_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

var update = flag.Bool("update", false, "write the table of providers in docs/providers.md")

// The table for users is made of the rows themselves.
func TestProvidersAreDocumented(t *testing.T) {
	const path = "docs/providers.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := bytes.Cut(page, []byte("-update -->\n"))
	_, after, ok2 := bytes.Cut(rest, []byte("<!-- end -->"))
	if !ok || !ok2 {
		t.Fatal("the page has no place for the table")
	}
	var want bytes.Buffer
	fmt.Fprintf(&want, "%s-update -->\n%s<!-- end -->%s", before, tableOfProviders(), after)
	if bytes.Equal(page, want.Bytes()) {
		return
	}
	if *update {
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s is not what the rows say: go test -run TestProvidersAreDocumented -update .", path)
}

func tableOfProviders() string {
	var b strings.Builder
	b.WriteString("| row | provider | binding | tolerance | the secret is | confidence | retries | wants its answer within |\n|---|---|---|---|---|---|---|---|\n")
	var notes strings.Builder
	for _, p := range ingress.Providers {
		tolerance, budget := "", ""
		if d := p.Scheme.Tolerance; d > 0 {
			tolerance = "±" + plain(d)
		}
		if p.Budget > 0 {
			budget = plain(p.Budget)
		}
		fmt.Fprintf(&b, "| `%s` | [%s](%s) | %s | %s | %s | %s | %s | %s |\n", p.Name, p.Title, p.Docs, p.Binding, tolerance, p.Secret, p.Confidence, p.Retry, budget)
		if p.Note != "" {
			fmt.Fprintf(&notes, "- `%s`: %s\n", p.Name, p.Note)
		}
	}
	b.WriteString("\n| row | type | delivery id | subject | content types | largest body | splits |\n|---|---|---|---|---|---|---|\n")
	for _, p := range ingress.Providers {
		kind, splits := placesOf(p.Type), ""
		if p.Split != nil {
			kind, splits = `"batch"`, "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %d MiB | %s |\n", p.Name, kind, placesOf(p.ID), placesOf(p.Subject),
			strings.Join(p.ContentTypes, ", "), p.MaxBody>>20, splits)
	}
	return b.String() + "\n" + notes.String()
}

func placesOf(fields []ingress.Field) string {
	var texts []string
	for _, f := range fields {
		texts = append(texts, f.String())
	}
	return strings.Join(texts, ", ")
}

// plain is a duration without its zeros.
func plain(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

const ownRow = `public_url: https://hooks.example.com/in/
providers:
  acme:
    header: X-Acme-Signature
    layout: pairs
    label: v1
    encoding: base64
    message: "{timestamp}.{header:X-Acme-Id}.{url}.{body}"
    timestamp: {key: t, tolerance: 90s}
    type: ["{body:kind}.{body:action}"]
    id: ["{header:X-Acme-Id}"]
    subject: ["{body:customer}"]
    content_types: [application/json]
    keep: [X-Acme-*]
sources:
  shop:
    provider: acme
    secrets: [env:PENSTOCK_TEST_ACME]
    tolerance: 10m
`

func TestARowOfYourOwn(t *testing.T) {
	t.Setenv("PENSTOCK_TEST_ACME", "s3cret")
	c, err := load(t, ownRow)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := c.Provider("acme")
	if !ok || p.Binding != ingress.BodySigned || p.Verification != "acme; timestamp+header+url+body" || !p.NeedsURL() {
		t.Fatalf("%+v", p)
	}
	if _, ok := c.Provider("github"); !ok {
		t.Error("the built-in rows are gone")
	}
	s, err := penstock.SourceOf(c, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if s.PublicURL != "https://hooks.example.com/in/hooks/shop" || s.Row == nil || s.Row.Name != "acme" || s.Tolerance != 10*time.Minute {
		t.Errorf("%+v", s)
	}
}

func TestWhatIsWrongWithARow(t *testing.T) {
	t.Setenv("PENSTOCK_TEST_ACME", "s3cret")
	for change, want := range map[string]string{
		"label: v1 => label: ":                                           ":3: providers.acme: the key or tag",
		"encoding: base64 => encoding: base32":                           ":7: providers.acme.encoding: ",
		`message: "{timestamp}. => message: "{nope}.`:                    ":8: providers.acme.message: there is no {nope}",
		`message: "{timestamp}. => message: "{{timestamp}.`:              ":8: providers.acme.message: a } has no {",
		"timestamp: {key: t, => timestamp: {key: t, unit: weeks,":        ":9: providers.acme.timestamp.unit: ",
		"timestamp: {key: t, => timestamp: {header: 'X Time', ":          ":9: providers.acme.timestamp.header: ",
		"timestamp: {key: t, tolerance: 90s} => algorithm: hmac-sha256":  ":8: providers.acme.message: it has a timestamp",
		`"{body:kind}.{body:action}" => "{body:kind}-x-{json:action}"`:   ":10: providers.acme.type: ",
		"  acme:\n => github:\n":                                         "providers.github: there is a provider github",
		"header: X-Acme-Signature => docs: https://example.com":          ":4: providers.acme.header: ",
		"content_types: [application/json] => content_types: [json]":     ":13: providers.acme.content_types: ",
		"keep: [X-Acme-*] => max_body: -1":                               ":14: providers.acme.max_body: ",
		"keep: [X-Acme-*] => colour: red":                                ":14: providers.acme.colour: no such key",
		"public_url: https://hooks.example.com/in/ => public_url: hooks": ":1: public_url: ",
		"public_url: https://hooks.example.com/in/ => data: /tmp":        "public_url is needed",
		"tolerance: 10m => tolerance: 999h":                              ":19: sources.shop.tolerance: ",
		"provider: acme => provider: acmee":                              "there are acme, adyen",
	} {
		from, to, _ := strings.Cut(change, " => ")
		text := strings.Replace(ownRow, from, to, 1)
		if change == "  acme:\n => github:\n" {
			text = strings.Replace(strings.ReplaceAll(ownRow, "  acme:\n", "  github:\n"), "provider: acme", "provider: github", 1)
		}
		if text == ownRow {
			t.Fatalf("%q changes nothing", change)
		}
		_, err := load(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", change, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the secret is told: %v", change, err)
		}
	}
}

// Through a whole node: a row of the operator's own, a provider that signs the address it calls, and one that keeps its
// secret in the body.
func TestDeliveriesOfOtherRows(t *testing.T) {
	t.Setenv("PENSTOCK_TEST_ACME", "s3cret")
	cfg := nodeConfig(t)
	own, err := load(t, ownRow)
	if err != nil {
		t.Fatal(err)
	}
	cfg.PublicURL, cfg.Providers = own.PublicURL, own.Providers
	cfg.Sources["shop"] = own.Sources["shop"]
	for _, name := range []string{"twilio", "figma"} {
		cfg.Sources[name] = penstock.SourceConfig{Provider: name, Secrets: penstock.Refs("env:PENSTOCK_TEST_ACME")}
	}
	n := startNode(t, cfg)
	public, err := url.Parse(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	send := func(p ingress.Provider, source string, change func(*http.Request)) answer {
		t.Helper()
		kind := p.Name + ".x"
		if kinds := ingress.SampleTypes(p.Name); len(kinds) > 0 {
			kind = kinds[0]
		}
		d, err := p.NewSample(kind, ingress.Facts{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Request(t.Context(), "https://hooks.example.com/in", source, ingress.Secret("s3cret"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Scheme, r.URL.Host, r.URL.Path = public.Scheme, public.Host, strings.TrimPrefix(r.URL.Path, "/in") // the proxy's part
		if change != nil {
			change(r)
		}
		return do(t, r)
	}
	for source, want := range map[string]string{"shop": "acme; timestamp+header+url+body", "twilio": "twilio; url+body", "figma": "figma; token"} {
		p, _ := cfg.Provider(cfg.Sources[source].Provider)
		if a := send(p, source, nil); a.status != 202 {
			t.Errorf("%s: %d %s", source, a.status, a.body)
		}
		if a := send(p, source, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2
		}); a.status != 401 {
			t.Errorf("%s, another body: %d %s", source, a.status, a.body)
		}
		var page struct{ Items []map[string]any }
		eventstoretest.Until(t, "the event of "+source, func() bool {
			a := n.get(t, "/v1/events?source=/sources/"+source)
			page.Items = nil
			return a.status == 200 && json.Unmarshal([]byte(a.body), &page) == nil && len(page.Items) == 1
		})
		if e := page.Items[0]; e["verification"] != want || !strings.HasPrefix(fmt.Sprint(e["type"]), p.Name+".") || strings.Contains(fmt.Sprint(e), "s3cret") {
			t.Errorf("%s: %v", source, e)
		}
	}
}
