package ingress

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
)

// Provider is one row of the table: how a provider signs, and where in its requests the type, the delivery id and
// the subject stand.
type Provider struct {
	Name   string
	Docs   string // the provider's page on its signatures
	Scheme Scheme
	// Verification is recorded with each delivery: the provider, and what its signature covers. An id in a header
	// that the signature doesn't cover can be changed by whoever holds one valid request.
	Verification string
	ContentTypes []string // media types it sends; others are 415
	MaxBody      int64    // bytes, unless the source says otherwise
	Keep         []string // headers recorded with the delivery, lower-case; a trailing * stands for any ending
	// Challenge says that the provider proves ownership of the URL with a signed request that wants its challenge
	// back. See challenges.go.
	Challenge bool

	// wants is what file needs of the body; file finds out what the delivery is called and where it belongs.
	wants *wants
	file  func(http.Header, values) (reading, error)
}

// Providers is the table of known providers.
var Providers = []Provider{
	{
		Name: "github",
		Docs: "https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries",
		Scheme: Scheme{
			Header: "X-Hub-Signature-256", Layout: Prefixed, Label: "sha256=", Encoding: Hex, Digest: sha256.New,
			Message: []Part{Body()},
		},
		Verification: "github; body",
		ContentTypes: []string{jsonType, formType},
		// "Payloads are capped at 25 MB", https://docs.github.com/en/webhooks/webhook-events-and-payloads
		MaxBody: 25 << 20,
		Keep:    []string{"x-github-*", "x-hub-signature-256"},
		wants: wanted(
			"action", "number", "issue.number", "pull_request.number",
			"repository.full_name", "organization.login", "installation.account.login", "hook_id", "hook_id.id",
		),
		file: fileGitHub,
	},
	{
		Name: "stripe",
		Docs: "https://docs.stripe.com/webhooks/signature",
		Scheme: Scheme{
			Header: "Stripe-Signature", Layout: Pairs, Label: "v1", Encoding: Hex, Digest: sha256.New,
			Message: []Part{Timestamp(), Literal("."), Body()},
			TimeKey: "t", Tolerance: 5 * time.Minute,
		},
		Verification: "stripe; timestamp+body",
		ContentTypes: []string{jsonType},
		MaxBody:      1 << 20,
		Keep:         []string{"stripe-signature"},
		wants: wanted(
			"id", "type", "data.object.id", "data.object.customer", "data.object.customer.id",
			"data.object.charge", "data.object.charge.id",
			"related_object.id", // an event of API v2 carries no object, only a reference to one
		),
		file: fileStripe,
	},
	{
		Name: "slack",
		Docs: "https://docs.slack.dev/authentication/verifying-requests-from-slack",
		Scheme: Scheme{
			Header: "X-Slack-Signature", Layout: Prefixed, Label: "v0=", Encoding: Hex, Digest: sha256.New,
			Message:    []Part{Literal("v0:"), Timestamp(), Literal(":"), Body()},
			TimeHeader: "X-Slack-Request-Timestamp", Tolerance: 5 * time.Minute,
		},
		Verification: "slack; timestamp+body",
		ContentTypes: []string{jsonType, formType},
		MaxBody:      1 << 20,
		Keep:         []string{"x-slack-*"},
		Challenge:    true,
		wants: wanted(
			"type", "challenge", "command", "event_id", "event.type",
			"event.channel", "event.channel.id", "event.item.channel", "event.item.channel.id",
			"channel", "channel.id", "channel_id", "container.channel_id",
			"team", "team.id", "team_id", "enterprise", "enterprise.id", "api_app_id",
		),
		file: fileSlack,
	},
	{
		Name: "standard",
		Docs: "https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md",
		Scheme: Scheme{
			Header: "Webhook-Signature", Layout: Tagged, Label: "v1", Encoding: Base64, Digest: sha256.New, Key: WhsecKeys,
			Message:    []Part{HeaderText("Webhook-Id"), Literal("."), Timestamp(), Literal("."), Body()},
			TimeHeader: "Webhook-Timestamp", Tolerance: 5 * time.Minute,
		},
		Verification: "standard; id+timestamp+body",
		ContentTypes: []string{jsonType},
		MaxBody:      1 << 20,
		Keep:         []string{"webhook-id", "webhook-timestamp", "webhook-signature"},
		wants:        wanted("type", "data.id", "data.id.id"),
		file:         fileStandard,
	},
}

const (
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"
)

// ProviderNamed returns the row called name.
func ProviderNamed(name string) (Provider, bool) {
	for _, p := range Providers {
		if p.Name == name {
			return p, true
		}
	}
	return Provider{}, false
}

// reading is what a provider's row finds in a request.
type reading struct {
	kind      string // the type without the provider's name, as sent
	id        string // delivery id; empty for a provider that has none: a hash stands in
	idField   string // where the id stands, for a refusal
	key       string // the default stream key
	challenge *string
	bare      bool // the provider shows the answer's body to its users: answer 200 and nothing
}

// document is the JSON of a request.
type document struct {
	json []byte
	form bool // it came in a form
}

// documentOf finds the JSON of a body. GitHub, if told so, and Slack's interactivity put it into the form field
// "payload"; a form without one, such as a slash command's, becomes an object of its fields.
func documentOf(body []byte, form bool) (document, error) {
	if !form {
		return document{json: body}, nil
	}
	fields, err := url.ParseQuery(string(body))
	if err != nil {
		return document{}, errors.New("the body is not a form")
	}
	if payload := fields["payload"]; len(payload) == 1 {
		return document{json: []byte(payload[0]), form: true}, nil
	}
	object := make(map[string]string, len(fields))
	for name := range fields {
		object[name] = fields.Get(name)
	}
	b, err := json.Marshal(object)
	return document{json: b, form: true}, err
}

// read finds out what the document is called and where it belongs. An error is of class Invalid, or says that the
// document is not JSON.
func (p Provider) read(h http.Header, d document) (reading, error) {
	found, err := p.wants.find(d.json)
	if err != nil {
		return reading{}, err
	}
	found.form = d.form
	return p.file(h, found)
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
	if b.text("type") == "url_verification" && !b.form {
		challenge := b.text("challenge")
		return reading{challenge: &challenge}, nil
	}
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

func fileStandard(h http.Header, b values) (reading, error) {
	r := reading{kind: first(b.text("type"), "event"), id: h.Get("Webhook-Id"), idField: "webhook-id"}
	r.key = first(b.ref("data.id"), r.id)
	return r, nil
}

const (
	maxType = 128 // bytes
	maxID   = 256 // bytes
)

// typeName makes the event type out of the provider's name and what the provider called the event. Printable ASCII
// beside letters, digits, '_', '.' and '-' becomes '_', so that "invoice:paid" is "invoice_paid"; other characters
// are refused rather than made alike.
func typeName(provider, kind string) (string, error) {
	size := len(provider) + 1 + len(kind)
	if kind == "" || size > maxType {
		return "", domain.Invalidf("type", "an event type has 1 to %d bytes", maxType-len(provider)-1)
	}
	clean := make([]byte, 0, size)
	clean = append(append(clean, provider...), '.')
	for i := range len(kind) {
		switch c := kind[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
			clean = append(clean, c)
		case c < ' ' || c > '~':
			return "", domain.Invalidf("type", "an event type is printable ASCII")
		default:
			clean = append(clean, '_')
		}
	}
	return string(clean), nil
}

// deliveryID checks the provider's id of a delivery. Without one it is a hash of source and body, which a retry has
// again; the time of the attempt is left out because a retry changes it.
func deliveryID(r reading, p Provider, source string, body []byte) (string, error) {
	switch {
	case r.id == "":
		h := sha256.New()
		for _, s := range []string{p.Name, source} {
			h.Write([]byte(s))
			h.Write([]byte{0}) // in neither name
		}
		h.Write(body)
		return "sha256-" + hex.EncodeToString(h.Sum(nil)), nil
	case len(r.id) > maxID:
		return "", domain.Invalidf(r.idField, "a delivery id has at most %d bytes", maxID)
	case !utf8.ValidString(r.id) || strings.ContainsFunc(r.id, unicode.IsControl):
		return "", domain.Invalidf(r.idField, "a delivery id is UTF-8 without control characters")
	}
	return r.id, nil
}

// first returns the first value that is not zero.
func first[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}
