package ingress

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Every sample is accepted by a source of its provider, under the type that it was asked for.
func TestSamplesAreAccepted(t *testing.T) {
	node := newNode(t, nil)
	streams := map[string]domain.Stream{
		"github.pull_request.opened": "github/octo/hello#12", "github.issues.opened": "github/octo/hello#12",
		"stripe.charge.succeeded": "stripe/cus_9", "stripe.charge.dispute.created": "stripe/ch_9",
		"slack.message": "slack/C024BE91L", "standard.invoice.paid": "standard/cus_9",
	}
	sent := 0
	for _, p := range Providers {
		for _, kind := range SampleTypes(p.Name) {
			for range 2 { // never the same delivery twice
				d, err := Sample(kind, Facts{})
				if err != nil {
					t.Fatal(err)
				}
				r, err := d.Request(t.Context(), node.server.URL, p.Name, secretOf(p.Name), time.Now())
				if err != nil {
					t.Fatal(err)
				}
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
			}
		}
	}
	ids := map[string]bool{}
	for _, e := range node.stored() {
		ids[e.ID] = true
	}
	if len(ids) != sent || sent != 2*len(samples) {
		t.Errorf("%d ids of %d deliveries of %d samples", len(ids), sent, len(samples))
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
