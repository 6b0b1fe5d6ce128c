package ingress

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// FuzzSplit takes arbitrary bodies apart by every row. What comes out is JSON that stands in the body, and could be
// handled.
func FuzzSplit(f *testing.F) {
	for _, body := range []string{
		`[{"sg_event_id":"a","event":"open"},{"event":"é"},[],7,null,"x"]`, `{"value":[{"id":"i","changeType":"created","subscriptionId":"s"}]}`,
		`{"object":"page","entry":[{"id":"1","messaging":[{"message":{"mid":"m"},"sender":{"id":"u"}}]},{"changes":[{"field":"x","value":{"messages":[{"id":"a"},{"id":"b"}]}}]}]}`,
		`{"data":{"events":[{"uuid":"u","target":[{"id":"t"}]}]}}`, `{"notificationItems":[{"NotificationRequestItem":{"pspReference":"p","eventCode":"c"}}]}`,
		`{"eventNotifications":[{"realmId":"1","dataChangeEvent":{"entities":[{"name":"n","id":"1","operation":"o","lastUpdated":"l"}]}}]}`,
		"mandrill_events=%5B%7B%22_id%22%3A%22a%22%2C%22event%22%3A%22open%22%2C%22ts%22%3A1%7D%5D", `{"events":null}`, ` [ ] `, `[[[{"a":1}]]]`, `{"events":[{"a":1,"a":2}]}`,
	} {
		f.Add([]byte(body))
	}
	rows := splitRows()
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, split := range rows {
			children, err := SplitBatch(Provider{Name: name, Split: split}, batchOf(name, string(body)))
			if err != nil {
				if domain.ClassOf(err) != domain.Invalid || children != nil {
					t.Fatalf("%s %q: %d items, %v", name, body, len(children), err)
				}
				continue
			}
			if len(children) > maxItems {
				t.Fatalf("%s: %d items", name, len(children))
			}
			at := 0
			for i, c := range children {
				_, bad := domain.ParseStream(string(c.Stream))
				if !json.Valid(c.Body) || bad != nil || c.ID == "" || len(c.ID) > maxID || !utf8.ValidString(c.ID) ||
					!strings.HasPrefix(c.Type, name+".") || len(c.Type) > maxType || c.Type == name+"."+batchKind || c.Kind != eventstore.KindDelivery {
					t.Fatalf("%s %q: item %d is %+v", name, body, i, c)
				}
				if split.Form != "" || len(split.Items) > 1 {
					continue
				}
				found := bytes.Index(body[at:], c.Body)
				if found < 0 {
					t.Fatalf("%s %q: item %d is %q, which doesn't stand behind the one before it", name, body, i, c.Body)
				}
				at += found + len(c.Body)
			}
		}
	})
}

// splitRows are the rows that split, and all that could.
func splitRows() map[string]*Split {
	return map[string]*Split{
		"sendgrid": splitSendGrid, "hubspot": splitHubSpot, "meta": splitMeta, "graph": splitGraph, "okta": splitOkta, "adyen": splitAdyen,
		"asana": splitAsana, "mandrill": splitMandrill, "klaviyo": splitKlaviyo, "gocardless": splitGoCardless, "sparkpost": splitSparkPost, "xero": splitXero, "quickbooks": splitQuickBooks,
	}
}

// FuzzTree compares what expressions see of a body with what encoding/json makes of it: the same but for whole numbers,
// which stay whole.
func FuzzTree(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d))
	}
	f.Add([]byte(`[9223372036854775807,9223372036854775808,-9223372036854775808,1e3,1.0,1e999,-0,0.1]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := domain.DecodeJSON(body)
		var want any
		if json.Unmarshal(body, &want) != nil {
			return // tree is asked for JSON alone
		}
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if !alike(got, want) {
			t.Fatalf("%q: %#v, want %#v", body, got, want)
		}
	})
}

func alike(got, want any) bool {
	switch w := want.(type) {
	case float64:
		switch g := got.(type) {
		case int64:
			return float64(g) == w
		case float64:
			return g == w
		}
		return false
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range w {
			if !alike(g[i], w[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for k := range w {
			if !alike(g[k], w[k]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(got, want)
}

// FuzzProxies looks for a header by which a client could choose its own address: behind a trusted proxy the address is
// what the proxy saw, whatever stands to the left of it.
func FuzzProxies(f *testing.F) {
	for _, h := range []string{"203.0.113.7", "10.0.0.1, 203.0.113.7", "::ffff:10.0.0.1", "[2001:db8::1]:443", "for=1.2.3.4;by=x", `for="[2001:db8::1]:1"`, `for="a,b"`, "unknown", ",,", "1.2.3.4%eth0"} {
		f.Add(h)
	}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}
	f.Fuzz(func(t *testing.T, said string) {
		for _, name := range []string{"X-Forwarded-For", "Forwarded"} {
			seen := "192.0.2.9" // what the proxy appended
			if name == "Forwarded" {
				seen = "for=192.0.2.9"
			}
			at := func(remote string, lines ...string) netip.Addr {
				return Proxies{trusted, name}.Client(&http.Request{RemoteAddr: remote, Header: http.Header{name: lines}})
			}
			if a := at("203.0.113.1:99", said); a != netip.MustParseAddr("203.0.113.1") {
				t.Errorf("a stranger's %s %q makes it %v", name, said, a)
			}
			for _, lines := range [][]string{{said + "," + seen}, {said, seen}} {
				if a := at("10.0.0.1:99", lines...); a != netip.MustParseAddr("192.0.2.9") {
					t.Errorf("%s %q is taken for %v", name, lines, a)
				}
			}
			if a := at("10.0.0.1:99", said); a.Zone() != "" || a.Is4In6() {
				t.Errorf("%s %q is the address %v", name, said, a)
			}
		}
	})
}

// FuzzAllowFile reads files that somebody else writes.
func FuzzAllowFile(f *testing.F) {
	for _, text := range []string{"192.0.2.0/24\n# c\n2001:db8::/32", `["10.0.0.0/8"]`, `{"hooks":["192.30.252.0/22"]}`, `{"WEBHOOKS":["3.18.12.63"]}`, "::ffff:1.2.3.4/120", "0.0.0.0/0", `{"hooks":null}`, "fe80::1%eth0"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := parseAllowFile(content)
		if err != nil {
			return
		}
		if len(list) == 0 {
			t.Errorf("%q allows nobody", content)
		}
		for _, p := range list {
			if p.Bits() == 0 || p.Masked() != p || p.Addr().Is4In6() || !rangesOf(list).contains(p.Addr()) {
				t.Errorf("%q has the range %v", content, p)
			}
		}
	})
}

// FuzzChallenge: what counts as a challenge can't be a signed message, nor anything that a browser would run.
func FuzzChallenge(f *testing.F) {
	f.Add("3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P")
	f.Add(`{"a":1}`)
	f.Add("v0:1492774577:{}")
	f.Add("123")
	f.Fuzz(func(t *testing.T, text string) {
		for provider, list := range handshakes {
			for _, s := range list {
				if s.token.in == nowhere || !s.admits(text) {
					continue
				}
				if text == "" || len(text) > 1024 || strings.ContainsAny(text, "\"'<>{}[]\\&%\r\n\t\x00") {
					t.Errorf("%s takes %q for a challenge", provider, text)
				}
				if s.signs != nil && (strings.ContainsAny(text, ": \n") || json.Valid([]byte(text))) {
					t.Errorf("%s would sign %q", provider, text)
				}
			}
		}
	})
}

// FuzzTypeName: a type is of the alphabet that filters and routes know, whatever a provider calls its events.
func FuzzTypeName(f *testing.F) {
	f.Add("invoice:paid")
	f.Add("é")
	f.Add("a b.c-d_e")
	f.Fuzz(func(t *testing.T, kind string) {
		name, err := typeName("p", kind)
		if err != nil {
			if domain.ClassOf(err) != domain.Invalid {
				t.Errorf("%q: %v", kind, err)
			}
			return
		}
		if len(name) > maxType || len(name) != len("p.")+len(kind) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "" {
			t.Errorf("%q is called %q", kind, name)
		}
	})
}

// FuzzTraceParent: what is passed on is a traceparent by the letter.
func FuzzTraceParent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what")
	f.Fuzz(func(t *testing.T, text string) {
		got := traceParent(http.Header{"Traceparent": {text}})
		if got != "" && (got != text || len(got) > 128 || strings.ToLower(got) != got || strings.ContainsAny(got, "\r\n ")) {
			t.Errorf("%q passes as %q", text, got)
		}
		if n := attemptOf(http.Header{"X-Attempt-Number": {text}, "X-Slack-Retry-Num": {text}}); n < 0 {
			t.Errorf("%q is attempt %d", text, n)
		}
	})
}
