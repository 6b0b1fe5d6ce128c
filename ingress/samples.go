package ingress

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Facts are what a sample delivery tells of. Zero values are filled in by Sample.
type Facts struct {
	ID         string // delivery id; a random one by default, so that no two samples are duplicates
	Time       time.Time
	Customer   string // "cus_9"
	Charge     string // "ch_9"
	Amount     int64  // in the currency's minor unit; 4200 by default
	Refunded   int64  // charge.refunded: in total so far; all of Amount by default
	Authorized bool   // charge.succeeded: authorised and not captured yet
	Currency   string // "eur"
	Dispute    string // charge.dispute.*: "dp_9"; its status when closed is "won" or, with Lost, "lost"
	Lost       bool
	Repository string // "octo/hello"
	Number     int64  // of an issue or pull request; 12 by default
	Channel    string // "C024BE91L"
	Text       string
}

// Delivery is a request that a provider could have sent, not signed yet.
type Delivery struct {
	Provider Provider
	Type     string // as the event will be called: "stripe.charge.succeeded"
	Header   http.Header
	Query    string // of the URL, with its "?"; most have none
	Body     []byte
}

// object is a JSON object.
type object = map[string]any

// samples is the table of sample bodies by event type. The shapes are the providers' own, shortened.
var samples = []struct {
	kind string
	body func(Facts) object
}{
	{"github.pull_request.opened", func(f Facts) object {
		return gitHubSample(f, "pull_request", object{
			"merged": false, "head": object{"ref": "fix"}, "base": object{"ref": "main"},
		})
	}},
	{"github.issues.opened", func(f Facts) object { return gitHubSample(f, "issue", object{"labels": []any{}}) }},
	{"stripe.charge.succeeded", func(f Facts) object {
		return stripeSample(f, "charge.succeeded", charge(f, !f.Authorized, 0))
	}},
	{"stripe.charge.captured", func(f Facts) object { return stripeSample(f, "charge.captured", charge(f, true, 0)) }},
	{"stripe.charge.refunded", func(f Facts) object { return stripeSample(f, "charge.refunded", charge(f, true, f.Refunded)) }},
	{"stripe.charge.dispute.created", func(f Facts) object {
		return stripeSample(f, "charge.dispute.created", dispute(f, "needs_response"))
	}},
	{"stripe.charge.dispute.closed", func(f Facts) object {
		if f.Lost {
			return stripeSample(f, "charge.dispute.closed", dispute(f, "lost"))
		}
		return stripeSample(f, "charge.dispute.closed", dispute(f, "won"))
	}},
	{"slack.message", func(f Facts) object {
		ts := fmt.Sprintf("%d.000100", f.Time.Unix())
		return object{
			"type": "event_callback", "event_id": f.ID, "event_time": f.Time.Unix(),
			"team_id": "T024BE7LD", "api_app_id": "A02SAMPLE",
			"event": object{
				"type": "message", "channel": f.Channel, "channel_type": "channel", "user": "U2147483697",
				"text": f.Text, "ts": ts, "event_ts": ts,
			},
		}
	}},
	{"standard.invoice.paid", func(f Facts) object {
		return object{
			"type": "invoice.paid", "timestamp": f.Time.UTC().Format(time.RFC3339),
			"data": object{"id": f.Customer, "amount": f.Amount, "currency": f.Currency},
		}
	}},
}

func gitHubSample(f Facts, kind string, subject object) object {
	owner, name, _ := strings.Cut(f.Repository, "/")
	user := object{"login": "octocat", "id": 583231, "type": "User"}
	subject["number"], subject["title"], subject["state"], subject["user"] = f.Number, f.Text, "open", user
	o := object{
		"action": "opened", kind: subject, "sender": user,
		"repository": object{
			"id": 1296269, "name": name, "full_name": f.Repository, "private": false, "owner": object{"login": owner},
		},
	}
	if kind == "pull_request" {
		o["number"] = f.Number
	}
	return o
}

func stripeSample(f Facts, kind string, subject object) object {
	return object{
		"id": f.ID, "object": "event", "api_version": "2025-08-27.basil", "created": f.Time.Unix(), "livemode": false,
		"pending_webhooks": 1, "type": kind, "data": object{"object": subject},
	}
}

// charge is https://docs.stripe.com/api/charges/object. amount_refunded is the total of all refunds so far.
func charge(f Facts, captured bool, refunded int64) object {
	o := object{
		"id": f.Charge, "object": "charge", "amount": f.Amount, "amount_captured": int64(0), "amount_refunded": refunded,
		"captured": captured, "created": f.Time.Unix(), "currency": f.Currency, "customer": f.Customer, "disputed": false,
		"livemode": false, "paid": true, "refunded": refunded >= f.Amount, "status": "succeeded",
	}
	if captured {
		o["amount_captured"] = f.Amount
	}
	return o
}

// dispute is https://docs.stripe.com/api/disputes/object, which names a charge and no customer.
func dispute(f Facts, status string) object {
	return object{
		"id": f.Dispute, "object": "dispute", "amount": f.Amount, "charge": f.Charge, "created": f.Time.Unix(),
		"currency": f.Currency, "livemode": false, "reason": "fraudulent", "status": status,
	}
}

// SampleTypes returns the event types that Sample knows of a provider, the plainest first.
func SampleTypes(provider string) []string {
	var kinds []string
	for _, s := range samples {
		if strings.HasPrefix(s.kind, provider+".") {
			kinds = append(kinds, s.kind)
		}
	}
	if p, ok := ProviderNamed(provider); ok && kinds == nil {
		kinds = append(kinds, p.sampleType())
	}
	return kinds
}

// Sample returns a delivery of the given event type, for example "stripe.charge.succeeded". A type without a sample
// is of class NotFound.
func Sample(kind string, f Facts) (Delivery, error) {
	name, _, _ := strings.Cut(kind, ".")
	p, ok := ProviderNamed(name)
	if !ok {
		return Delivery{}, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("no sample of %q", kind)}
	}
	return p.NewSample(kind, f)
}

// NewSample is Sample for a row of the operator's own as well.
func (p Provider) NewSample(kind string, f Facts) (Delivery, error) {
	f.fill(p.Name)
	known := false
	for _, s := range samples {
		known = known || strings.HasPrefix(s.kind, p.Name+".")
		if s.kind != kind {
			continue
		}
		body, err := json.Marshal(s.body(f))
		if err != nil {
			return Delivery{}, fmt.Errorf("sample %s: %w", kind, err)
		}
		d := Delivery{Provider: p, Type: kind, Header: http.Header{}, Body: body}
		d.Header.Set("Content-Type", jsonType)
		d.Header.Set("User-Agent", "penstock-sample")
		switch p.Name {
		case "github":
			d.Header.Set("X-GitHub-Event", strings.Split(kind, ".")[1])
			d.Header.Set("X-GitHub-Delivery", f.ID)
		case "standard":
			d.Header.Set("Webhook-Id", f.ID)
		}
		return d, nil
	}
	if known || !strings.HasPrefix(kind, p.Name+".") {
		return Delivery{}, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("no sample of %q", kind)}
	}
	return p.shaped(kind, f)
}

func (f *Facts) fill(provider string) {
	prefix := map[string]string{"stripe": "evt_", "slack": "Ev", "standard": "msg_"}[provider]
	f.ID = first(f.ID, prefix+rand.Text())
	if f.Time.IsZero() {
		f.Time = time.Now()
	}
	f.Customer = first(f.Customer, "cus_9")
	f.Charge = first(f.Charge, "ch_9")
	f.Amount = first(f.Amount, 4200)
	f.Refunded = first(f.Refunded, f.Amount)
	f.Currency = first(f.Currency, "eur")
	f.Dispute = first(f.Dispute, "dp_9")
	f.Repository = first(f.Repository, "octo/hello")
	f.Number = first(f.Number, 12)
	f.Channel = first(f.Channel, "C024BE91L")
	f.Text = first(f.Text, "Hello, World!")
}

// Request returns the delivery as a request to a source of a running node, signed at now. base is the node's URL,
// for example "http://127.0.0.1:8080"; of a provider that signs the URL it must be the source's public one. For the
// secret see Scheme.Sign.
func (d Delivery) Request(ctx context.Context, base, source string, secret Secret, now time.Time) (*http.Request, error) {
	target, err := url.JoinPath(base, "hooks", url.PathEscape(source))
	if err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	signed := Request{Method: http.MethodPost, URL: target + d.Query, Header: d.Header.Clone(), Body: d.Body}
	if err := d.Provider.Scheme.Sign(&signed, secret, now); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, signed.Method, signed.URL, bytes.NewReader(signed.Body))
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", target, err)
	}
	r.Header = signed.Header
	return r, nil
}
