package ingress

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Every sample is accepted by a source of its provider, under the type that it was asked for.
func TestSamplesAreAccepted(t *testing.T) {
	v := newVendors(t)
	node := newNode(t, func(c *Config) { c.Sources, c.Vendor = everySource(), v.keys() })
	streams := map[string]domain.Stream{
		"github.pull_request.opened": "github/octo/hello#12", "github.issues.opened": "github/octo/hello#12",
		"stripe.charge.succeeded": "stripe/cus_9", "stripe.charge.dispute.created": "stripe/ch_9",
		"slack.message": "slack/C024BE91L", "standard.invoice.paid": "standard/cus_9", "linear.Issue.create": "linear/linear_9",
		"braintree.subscription_charged_successfully": "",
	}
	server, err := url.Parse(node.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for _, p := range Providers {
		for _, kind := range SampleTypes(p.Name) {
			for range 2 { // never the same delivery twice
				d, err := Sample(kind, Facts{})
				if err != nil {
					t.Fatal(err)
				}
				secret := secretOf(p.Name)
				if key := signer(p); key != nil && p.Name != "paypal" && p.Name != "sns" {
					secret = privatePEM(key)
				}
				r, err := d.Request(t.Context(), publicBase, p.Name, secret, time.Now())
				if p.Name == "paypal" || p.Name == "sns" { // two keys
					signed := Request{Method: "POST", URL: publicBase, Header: d.Header, Body: d.Body}
					err = p.Scheme.SignWith(&signed, secret, signer(p), time.Now())
					r, _ = http.NewRequestWithContext(t.Context(), "POST", publicBase+"/hooks/"+p.Name, bytes.NewReader(signed.Body))
					r.Header = signed.Header
				}
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				r.URL.Scheme, r.URL.Host = server.Scheme, server.Host // as a proxy passes it on
				answer, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(answer.Body)
				answer.Body.Close()
				if answer.StatusCode != 202 {
					t.Fatalf("%s: %d %s", kind, answer.StatusCode, body)
				}
				sent++
				e := node.last()
				if e.Type != kind || e.ID == "" || (streams[kind] != "" && e.Stream != streams[kind]) {
					t.Errorf("%s: filed as %s in %s", kind, e.Type, e.Stream)
				}
				if p.Split != nil {
					if items, err := SplitBatch(p, e); err != nil || len(items) != 1 {
						t.Errorf("%s: %d items: %v", kind, len(items), err)
					}
				}
				if secret := secretOf(p.Name); signer(p) == nil && bytes.Contains(e.Body, secret) {
					t.Errorf("%s: the secret is stored: %s", kind, e.Body)
				}
			}
		}
	}
	ids := map[string]bool{}
	for _, e := range node.stored() {
		ids[e.Source+" "+e.ID] = true
	}
	if len(ids) != sent || sent < 2*len(Providers) {
		t.Errorf("%d ids of %d deliveries", len(ids), sent)
	}
}

func TestSampleFacts(t *testing.T) {
	d, err := Sample("stripe.charge.refunded", Facts{Charge: "ch_1", Amount: 100, Refunded: 40, Customer: `a"b`})
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		Data struct {
			Object struct {
				ID, Customer   string
				AmountRefunded int64 `json:"amount_refunded"`
				Refunded       bool
			}
		}
	}
	if err := json.Unmarshal(d.Body, &b); err != nil {
		t.Fatal(err)
	}
	if o := b.Data.Object; o.ID != "ch_1" || o.Customer != `a"b` || o.AmountRefunded != 40 || o.Refunded {
		t.Errorf("%+v", o)
	}
	if d, _ := Sample("stripe.charge.succeeded", Facts{Authorized: true}); !strings.Contains(string(d.Body), `"captured":false`) {
		t.Errorf("an authorisation is not captured: %s", d.Body)
	}
	if _, err := Sample("stripe.nope", Facts{}); domain.ClassOf(err) != domain.NotFound {
		t.Errorf("unknown sample: %v", err)
	}
}
