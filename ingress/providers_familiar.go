package ingress

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// familiarRows are the providers whose deliveries are filed by more than fields: file decides, and the fields here are
// the gist of it for readers of the table.
var familiarRows = []Provider{
	{
		Name: "github", Title: "GitHub", Confidence: VendorPage, Secret: "the webhook's secret",
		Docs:         "https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries",
		Scheme:       Scheme{Header: "X-Hub-Signature-256", Label: "sha256="},
		ContentTypes: []string{jsonType, formType},
		// "Payloads are capped at 25 MB", https://docs.github.com/en/webhooks/webhook-events-and-payloads
		MaxBody: 25 << 20,
		Keep:    []string{"x-github-*"},
		Budget:  10 * time.Second, Retry: "none; by hand or API for 3 days", Sample: "issues.opened",
		Type: []Field{Joined(".", InHeader("X-GitHub-Event"), InBody("action"))}, ID: []Field{InHeader("X-GitHub-Delivery")},
		Subject: []Field{Joined("#", InBody("repository.full_name"), InBody("number")), InBody("organization.login")},
		wants: wanted(
			"action", "number", "issue.number", "pull_request.number",
			"repository.full_name", "organization.login", "installation.account.login", "hook_id", "hook_id.id",
		),
		file: fileGitHub,
	},
	{
		Name: "stripe", Confidence: VendorPage, Secret: "the endpoint's signing secret, whsec_ included",
		Docs: "https://docs.stripe.com/webhooks/signature",
		Scheme: Scheme{
			Header: "Stripe-Signature", Layout: Pairs, Label: "v1", TimeKey: "t", Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Retry: "3 days", Sample: "charge.succeeded",
		Type: []Field{InBody("type")}, ID: []Field{InBody("id")},
		Subject: []Field{InBody("data.object.customer"), InBody("data.object.charge"), InBody("data.object.id")},
		wants: wanted(
			"id", "type", "data.object.id", "data.object.customer", "data.object.customer.id",
			"data.object.charge", "data.object.charge.id",
			"related_object.id", // an event of API v2 carries no object, only a reference to one
		),
		file: fileStripe,
	},
	{
		Name: "slack", Confidence: VendorPage, Secret: "the app's signing secret",
		Docs: "https://docs.slack.dev/authentication/verifying-requests-from-slack",
		Scheme: Scheme{
			Header: "X-Slack-Signature", Label: "v0=", TimeHeader: "X-Slack-Request-Timestamp", Tolerance: 5 * time.Minute,
			Message: []Part{Literal("v0:"), Timestamp(), Literal(":"), Body()},
		},
		ContentTypes: []string{jsonType, formType},
		Keep:         []string{"x-slack-*"},
		Budget:       3 * time.Second, Retry: "3 times within the hour", Sample: "message",
		Type: []Field{InBody("event.type"), InBody("type")}, ID: []Field{InBody("event_id")},
		Subject: []Field{InBody("event.channel"), InBody("channel"), InBody("team_id")},
		wants: wanted(
			"type", "command", "event_id", "event.type",
			"event.channel", "event.channel.id", "event.item.channel", "event.item.channel.id",
			"channel", "channel.id", "channel_id", "container.channel_id",
			"team", "team.id", "team_id", "enterprise", "enterprise.id", "api_app_id",
		),
		file: fileSlack,
	},
	{
		Name: "braintree", Confidence: ThirdParty, Secret: "the private key of the API",
		Docs: "https://developer.paypal.com/braintree/docs/guides/webhooks/parse",
		Scheme: Scheme{
			Digest: sha1.New, Key: SHA1Keys, Form: "bt_signature", Layout: Pairs, Label: "*", Separator: "&", Assign: "|",
			Message: []Part{FormText("bt_payload")},
		},
		ContentTypes: []string{formType}, Sample: "subscription_charged_successfully",
		Type: []Field{InBody("bt_payload.kind")}, Subject: []Field{InBody("bt_payload.subject")},
		wants: wanted("bt_payload"), file: fileBraintree,
	},
}

func fileGitHub(h http.Header, b values) (reading, error) {
	r := reading{kind: h.Get("X-GitHub-Event"), id: h.Get("X-GitHub-Delivery"), idField: "X-GitHub-Delivery"}
	switch {
	case r.kind == "":
		return r, domain.Invalidf("X-GitHub-Event", "the header is missing")
	case r.id == "":
		return r, domain.Invalidf(r.idField, "the header is missing")
	}
	if action := b.text("action"); action != "" {
		r.kind += "." + action
	}
	repository := b.text("repository.full_name")
	r.key = first(repository, b.text("organization.login"), b.text("installation.account.login"))
	if n := first(b.whole("issue.number"), b.whole("pull_request.number"), b.whole("number")); n > 0 && repository != "" {
		r.key += "#" + strconv.FormatInt(n, 10)
	}
	if hook := b.ref("hook_id"); r.key == "" && hook != "" {
		r.key = "hook-" + hook
	}
	r.key = first(r.key, r.id)
	return r, nil
}

// fileStripe takes the customer as the subject: of a customer's own events that is the object's id. Objects that name
// no customer but a charge, such as disputes and refunds, go by their charge.
func fileStripe(_ http.Header, b values) (reading, error) {
	r := reading{kind: b.text("type"), id: b.text("id"), idField: "id"}
	switch {
	case r.kind == "":
		return r, domain.Invalidf("type", "the body has no type")
	case r.id == "":
		return r, domain.Invalidf("id", "the body has no id")
	}
	r.key = first(b.ref("data.object.customer"), b.ref("data.object.charge"), b.text("data.object.id"),
		b.text("related_object.id"), r.id)
	return r, nil
}

func fileSlack(_ http.Header, b values) (reading, error) {
	r := reading{kind: first(b.text("event.type"), b.text("type")), id: b.text("event_id"), idField: "event_id", bare: b.form}
	if r.kind == "" && b.text("command") != "" {
		r.kind = "slash_commands" // as Slack itself calls the envelope in Socket Mode
	}
	if r.kind == "" {
		return r, domain.Invalidf("type", "the body has no type")
	}
	r.key = first(b.ref("event.channel"), b.ref("event.item.channel"), b.ref("channel"), b.text("channel_id"),
		b.text("container.channel_id"), b.text("team_id"), b.ref("team"), b.ref("enterprise"), b.text("api_app_id"))
	return r, nil
}

// fileBraintree looks into the XML that the form carries in base64.
func fileBraintree(_ http.Header, b values) (reading, error) {
	r := reading{kind: "notification"}
	content, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(b.text("bt_payload")), ""))
	if err != nil {
		return r, nil
	}
	d, err := xmlDocument(content)
	if err != nil {
		return r, nil
	}
	found, err := braintreeNotification.find(d.json)
	if err != nil {
		return r, nil
	}
	r.kind = first(found.text("notification.kind"), found.text("notification.kind.#text"), r.kind)
	r.key = first(found.text("notification.subject.subscription.id"), found.text("notification.subject.transaction.id"),
		found.text("notification.subject.dispute.id"), found.text("notification.subject.merchant-account.id"))
	return r, nil
}

var braintreeNotification = wanted("notification.kind", "notification.kind.#text", "notification.subject.subscription.id",
	"notification.subject.transaction.id", "notification.subject.dispute.id", "notification.subject.merchant-account.id")
