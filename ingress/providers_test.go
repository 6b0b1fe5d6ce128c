package ingress

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// What each provider's requests are filed under: type, id and stream key.
func TestReadings(t *testing.T) {
	gh := func(event string) http.Header {
		h := http.Header{}
		h.Set("X-GitHub-Event", event)
		h.Set("X-GitHub-Delivery", "d-1")
		return h
	}
	msg := http.Header{"Webhook-Id": {"msg_1"}}
	form := http.Header{"Content-Type": {formType}}
	for _, c := range []struct {
		provider      string
		header        http.Header
		body          string
		kind, id, key string // id "hash" for a made one
		field         string // of a 422
	}{
		{"github", gh("push"), `{"ref":"x","repository":{"full_name":"octo/hello"}}`, "github.push", "d-1", "octo/hello", ""},
		{"github", gh("pull_request"), `{"action":"opened","number":7,"pull_request":{"number":7},"repository":{"full_name":"octo/hello"}}`,
			"github.pull_request.opened", "d-1", "octo/hello#7", ""},
		{"github", gh("issue_comment"), `{"action":"created","issue":{"number":9},"repository":{"full_name":"octo/hello"}}`,
			"github.issue_comment.created", "d-1", "octo/hello#9", ""},
		{"github", gh("organization"), `{"action":"member_added","organization":{"login":"octo"}}`,
			"github.organization.member_added", "d-1", "octo", ""},
		{"github", gh("installation"), `{"action":"created","installation":{"account":{"login":"mona"}}}`,
			"github.installation.created", "d-1", "mona", ""},
		{"github", gh("ping"), `{"zen":"z","hook_id":42}`, "github.ping", "d-1", "hook-42", ""},
		{"github", gh("meta"), `{"action":7}`, "github.meta", "d-1", "d-1", ""},
		{"github", gh("meta"), `[]`, "github.meta", "d-1", "d-1", ""},
		{"github", gh("meta"), `{"repository":"octo/hello"}`, "github.meta", "d-1", "d-1", ""},
		{"github", gh("a b/c:d"), `{}`, "github.a_b_c_d", "d-1", "d-1", ""},
		{"github", gh("é"), `{}`, "", "", "", "type"},
		{"github", gh(strings.Repeat("x", maxType)), `{}`, "", "", "", "type"},
		{"github", http.Header{"X-Github-Delivery": {"1"}}, `{}`, "", "", "", "X-GitHub-Event"},
		{"github", http.Header{"X-Github-Event": {"push"}}, `{}`, "", "", "", "X-GitHub-Delivery"},

		{"stripe", nil, `{"id":"evt_1","type":"charge.succeeded","data":{"object":{"id":"ch_1","object":"charge","customer":"cus_9"}}}`,
			"stripe.charge.succeeded", "evt_1", "cus_9", ""},
		{"stripe", nil, `{"id":"evt_1","type":"charge.succeeded","data":{"object":{"id":"ch_1","customer":{"id":"cus_9","object":"customer"}}}}`,
			"stripe.charge.succeeded", "evt_1", "cus_9", ""},
		{"stripe", nil, `{"id":"evt_1","type":"customer.created","data":{"object":{"id":"cus_9","object":"customer"}}}`,
			"stripe.customer.created", "evt_1", "cus_9", ""},
		{"stripe", nil, `{"id":"evt_1","type":"charge.dispute.created","data":{"object":{"id":"dp_1","object":"dispute","charge":"ch_1"}}}`,
			"stripe.charge.dispute.created", "evt_1", "ch_1", ""},
		{"stripe", nil, `{"id":"evt_1","type":"charge.succeeded","data":{"object":{"id":"ch_1","object":"charge","customer":null}}}`,
			"stripe.charge.succeeded", "evt_1", "ch_1", ""},
		{"stripe", nil, `{"id":"evt_1","type":"balance.available","data":{"object":{"object":"balance"}}}`,
			"stripe.balance.available", "evt_1", "evt_1", ""},
		{"stripe", nil, `{"id":"evt_1","type":"v1.x","related_object":{"id":"mtr_1"}}`, "stripe.v1.x", "evt_1", "mtr_1", ""},
		{"stripe", nil, `{"type":"charge.succeeded"}`, "", "", "", "id"},
		{"stripe", nil, `{"id":"evt_1"}`, "", "", "", "type"},
		{"stripe", nil, `{"id":"` + strings.Repeat("e", maxID+1) + `","type":"x"}`, "", "", "", "id"},
		{"stripe", nil, `{"id":"evt\u0007","type":"x"}`, "", "", "", "id"},
		{"stripe", nil, `{"id":"evt_1","type":"x\n"}`, "", "", "", "type"},

		{"slack", nil, `{"type":"event_callback","event_id":"Ev1","team_id":"T1","event":{"type":"message","channel":"C1"}}`,
			"slack.message", "Ev1", "C1", ""},
		{"slack", nil, `{"type":"event_callback","event_id":"Ev1","team_id":"T1","event":{"type":"reaction_added","item":{"channel":"C2"}}}`,
			"slack.reaction_added", "Ev1", "C2", ""},
		{"slack", nil, `{"type":"event_callback","event_id":"Ev1","team_id":"T1","event":{"type":"channel_created","channel":{"id":"C3"}}}`,
			"slack.channel_created", "Ev1", "C3", ""},
		{"slack", nil, `{"type":"event_callback","event_id":"Ev1","team_id":"T1","event":{"type":"team_join"}}`,
			"slack.team_join", "Ev1", "T1", ""},
		{"slack", form, "payload=" + `%7B%22type%22%3A%22block_actions%22%2C%22channel%22%3A%7B%22id%22%3A%22C4%22%7D%7D`,
			"slack.block_actions", "hash", "C4", ""},
		{"slack", form, slackBody, "slack.slash_commands", "hash", "G8PSS9T3V", ""},
		{"slack", nil, `{"team_id":"T1"}`, "", "", "", "type"},

		{"standard", msg, `{"type":"invoice.paid","data":{"id":"in_1"}}`, "standard.invoice.paid", "msg_1", "in_1", ""},
		{"standard", msg, `{"type":"invoice.paid","data":{"id":12}}`, "standard.invoice.paid", "msg_1", "12", ""},
		{"standard", msg, `{"type":"invoice.paid","data":[]}`, "standard.invoice.paid", "msg_1", "msg_1", ""},
		{"standard", msg, `{"data":{"id":true}}`, "standard.event", "msg_1", "msg_1", ""},
		{"standard", msg, `7`, "standard.event", "msg_1", "msg_1", ""},
	} {
		p, _ := ProviderNamed(c.provider)
		kind, id, key, err := func() (kind, id, key string, err error) {
			hold := hold{from: &allowance{limit: 1 << 20}}
			d, err := documentOf([]byte(c.body), content{format: formatOf(c.header.Get("Content-Type"), true)}, &hold)
			if err != nil {
				return
			}
			r, err := p.read(c.header, d)
			if err != nil {
				return
			}
			if kind, err = typeName(p.Name, r.kind); err != nil {
				return
			}
			id, err = deliveryID(r, p, "source", []byte(c.body), time.Time{})
			return kind, id, first(r.key, id), err
		}()
		if c.field != "" {
			if e, ok := errors.AsType[*domain.Error](err); !ok || e.Class != domain.Invalid || e.Field != c.field {
				t.Errorf("%s %.90s: %v, want a refusal of %s", c.provider, c.body, err, c.field)
			}
			continue
		}
		if c.id == "hash" && strings.HasPrefix(id, "sha256-") {
			c.id = id
		}
		if err != nil || kind != c.kind || id != c.id || key != c.key {
			t.Errorf("%s %.90s:\n got %q %q %q %v\nwant %q %q %q", c.provider, c.body, kind, id, key, err, c.kind, c.id, c.key)
		}
	}
}

// A made id is the same for a retry, and another one for another source or body.
func TestMadeDeliveryIDs(t *testing.T) {
	p, _ := ProviderNamed("slack")
	id := func(source, body string) string {
		s, err := deliveryID(reading{}, p, source, []byte(body), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if once, again := id("a", "x"), id("a", "x"); once != again {
		t.Errorf("a retry has another id: %s, %s", once, again)
	}
	if id("a", "x") == id("a", "y") || id("a", "x") == id("b", "x") || id("a", "bx") == id("ab", "x") {
		t.Error("different deliveries have one id")
	}
	p.Repeats = true // then it is the time that tells
	if one, two := id("a", "x"), id("a", "x"); one == two {
		t.Error("two pieces of news have one id")
	}
}

// An id nested as deep as bodies may be is passed over in one go, and one level more is refused.
func TestNestedIDsAreNotFollowed(t *testing.T) {
	p, _ := ProviderNamed("standard")
	nested := func(levels int) document {
		return document{json: []byte(strings.Repeat(`{"data":{"id":`, levels/2) + `"x"` + strings.Repeat("}}", levels/2))}
	}
	if r, err := p.read(http.Header{"Webhook-Id": {"msg_1"}}, nested(maxNesting)); err != nil || first(r.key, r.id) != "msg_1" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := p.read(http.Header{"Webhook-Id": {"msg_1"}}, nested(maxNesting+2)); err != errTooDeep {
		t.Errorf("%v", err)
	}
}

func TestRowsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Providers {
		s := p.Scheme
		if seen[p.Name] || p.Title == "" || !strings.HasPrefix(p.Docs, "https://") || p.Verification == "" || p.Secret == "" || p.Confidence == "" ||
			p.Binding == "" || p.Binding == Unverified || len(p.ContentTypes) == 0 || p.MaxBody <= 0 || p.Sample == "" || p.wants == nil || p.file == nil {
			t.Errorf("row %q lacks something or stands twice", p.Name)
		}
		seen[p.Name] = true
		if strings.ToLower(p.Name) != p.Name || strings.Contains(p.Name, ".") { // it is the first word of event types
			t.Errorf("%q is no name for a row", p.Name)
		}
		if (p.Binding == SharedToken) != (s.Algorithm == Token || s.Algorithm == Basic) {
			t.Errorf("%s is bound to %s", p.Name, p.Binding)
		}
		names := append([]string{s.Header, s.TimeHeader}, s.Headers...)
		for _, part := range s.Message {
			if part.kind == partHeader || part.kind == partSignedHeaders {
				names = append(names, part.text)
			}
		}
		for _, name := range names {
			if name != http.CanonicalHeaderKey(name) {
				t.Errorf("%s: %q is not canonical, it would never be found", p.Name, name)
			}
			// What is recorded suffices to verify the delivery again, but for credentials, which are not.
			secret := name == "Authorization" || name == s.Header && p.Binding == SharedToken
			if s.Numbered && name == s.Header {
				name += "-1"
			}
			kept, err := kept(p, http.Header{name: {"x"}})
			if name != "" && (err != nil || (kept[strings.ToLower(name)] == "x") == secret) {
				t.Errorf("%s: %s is recorded: %v, %v", p.Name, name, !secret, err)
			}
		}
		found, ok := ProviderNamed(p.Name)
		if !ok || found.Name != p.Name {
			t.Errorf("%s is not found by its name", p.Name)
		}
	}
	for _, name := range []string{"", "nope", "zzz"} {
		if _, ok := ProviderNamed(name); ok {
			t.Errorf("there is a row %q", name)
		}
	}
	if len(Providers) < 100 {
		t.Errorf("%d rows", len(Providers))
	}
}

func TestRowsThatLackSomething(t *testing.T) {
	good := Scheme{Header: "X-Sig"}
	for name, change := range map[string]func(*Provider){
		"name":          func(p *Provider) { p.Name = "a b" },
		"no place":      func(p *Provider) { p.Scheme.Header = "" },
		"two places":    func(p *Provider) { p.Scheme.Field = "sig" },
		"two times":     func(p *Provider) { p.Scheme.TimeHeader, p.Scheme.TimeField = "X-Time", "time" },
		"key of time":   func(p *Provider) { p.Scheme.TimeKey = "t" },
		"no label":      func(p *Provider) { p.Scheme.Layout = Pairs },
		"tolerance":     func(p *Provider) { p.Scheme.Tolerance = time.Minute },
		"negative":      func(p *Provider) { p.Scheme.TimeHeader, p.Scheme.Tolerance = "X-Time", -time.Minute },
		"claims":        func(p *Provider) { p.Scheme.Algorithm = JWT },
		"no JWT":        func(p *Provider) { p.Scheme.Claims = &Claims{} },
		"no vendor":     func(p *Provider) { p.Scheme.Algorithm, p.Scheme.Key = RSA, VendorPublicKey },
		"shared key":    func(p *Provider) { p.Scheme.Algorithm = Ed25519 },
		"public secret": func(p *Provider) { p.Scheme.Key = PublicKeys },
		"in another":    func(p *Provider) { p.Scheme.Also = []Scheme{{}} },
	} {
		p := Provider{Name: "row", Scheme: good}
		change(&p)
		if err := p.compile(); err == nil {
			t.Errorf("%s: nothing is wrong", name)
		}
	}
	p := Provider{Name: "row", Scheme: good}
	if err := p.compile(); err != nil {
		t.Error(err)
	}
}
