package ingress

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// confirmation is SNS's request to confirm a subscription, signed. change may alter it first.
func confirmation(t *testing.T, n *node, change func(object)) *http.Request {
	t.Helper()
	const token = "2336412f37fb687f5d51e6e2425dacbbaffd4d5a6a2e"
	o := object{
		"Type": "SubscriptionConfirmation", "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b", "Token": token, "TopicArn": sampleTopic,
		"Message":          "You have chosen to subscribe to the topic.",
		"SubscribeURL":     "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + url.QueryEscape(sampleTopic) + "&Token=" + token,
		"SignatureVersion": "2", "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem",
	}
	if change != nil {
		change(o)
	}
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := ProviderNamed("sns")
	signed := Request{Method: "POST", Header: http.Header{"Content-Type": {"text/plain; charset=UTF-8"}}, Body: body}
	if err := p.Scheme.SignWith(&signed, Secret(sampleTopic), signer(p), time.Now()); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", n.server.URL+"/hooks/sns", strings.NewReader(string(signed.Body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = signed.Header
	return r
}

// newTopic is a node, and an internet in which SNS confirms, unless answer says something else. It returns what was
// asked of it.
func newTopic(t *testing.T, answer http.HandlerFunc) (n *node, asked func() []string) {
	t.Helper()
	v := newVendors(t)
	urls := make(chan string, 100)
	v.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".pem") {
			return false
		}
		urls <- r.Host + r.URL.String()
		answer(w, r)
		return true
	}
	n = newNode(t, func(c *Config) { c.Sources, c.Vendor = everySource(), v.keys() })
	n.handler.shakes.client = v.keys().http
	return n, func() (all []string) {
		for {
			select {
			case u := <-urls:
				all = append(all, u)
			default:
				return all
			}
		}
	}
}

func confirmed(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `<ConfirmSubscriptionResponse><ConfirmSubscriptionResult><SubscriptionArn>arn:…</SubscriptionArn></ConfirmSubscriptionResult></ConfirmSubscriptionResponse>`)
}

func TestSNSSubscription(t *testing.T) {
	n, asked := newTopic(t, confirmed)
	// Nobody has said that it shall be confirmed: it is a delivery like any other, for somebody to look at.
	if a := do(t, confirmation(t, n, nil)); a.status != 202 || len(asked()) != 0 || n.last().Type != "sns.SubscriptionConfirmation" {
		t.Errorf("not armed: %d %s, recorded as %s", a.status, a.body, n.last().Type)
	}
	n.arm(t, "sns")
	if a := do(t, confirmation(t, n, nil)); a.status != 200 || n.last().Type != "sns.handshake" {
		t.Errorf("armed: %d %s, recorded as %s", a.status, a.body, n.last().Type)
	}
	want := "sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37fb687f5d51e6e2425dacbbaffd4d5a6a2e&TopicArn=" + url.QueryEscape(sampleTopic)
	if got := asked(); len(got) != 1 || got[0] != want {
		t.Errorf("asked for %q", got)
	}
	// Somebody else's topic, signed as rightly.
	other := strings.ReplaceAll(sampleTopic, "123456789012", "999999999999")
	if a := do(t, confirmation(t, n, func(o object) { o["TopicArn"] = other })); a.status != 401 || len(asked()) != 0 {
		t.Errorf("another topic: %d %s", a.status, a.body)
	}
}

// TestSNSConfirmsNothingElse: the URL in a confirmation leads to SNS in the topic's region, or nowhere.
func TestSNSConfirmsNothingElse(t *testing.T) {
	n, asked := newTopic(t, confirmed)
	n.arm(t, "sns")
	right := "Action=ConfirmSubscription&TopicArn=" + url.QueryEscape(sampleTopic) + "&Token=2336412f37fb687f5d51e6e2425dacbbaffd4d5a6a2e"
	for _, bad := range []string{
		"http://sns.eu-central-1.amazonaws.com/?" + right, "https://sns.eu-central-1.amazonaws.com:8443/?" + right,
		"https://sns.eu-central-1.amazonaws.com:443/?" + right, "https://user@sns.eu-central-1.amazonaws.com/?" + right,
		"https://sns.eu-central-1.amazonaws.com.evil.example/?" + right, "https://evil.example/sns.eu-central-1.amazonaws.com/?" + right,
		"https://sns.us-east-1.amazonaws.com/?" + right, "https://sqs.eu-central-1.amazonaws.com/?" + right, "https://169.254.169.254/?" + right,
		"https://sns.eu-central-1.amazonaws.com/other?" + right, "https://sns.eu-central-1.amazonaws.com\\@evil.example/?" + right,
		"https://sns.eu-central-1.amazonaws.com/?" + strings.Replace(right, "ConfirmSubscription", "DeleteTopic", 1),
		"https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&Token=x&TopicArn=" + url.QueryEscape(sampleTopic),
		"https://sns.eu-central-1.amazonaws.com/?" + strings.Replace(right, "123456789012", "999999999999", 1),
		"file:///etc/passwd", "//sns.eu-central-1.amazonaws.com/?" + right, "https:sns.eu-central-1.amazonaws.com", "",
	} {
		if a := do(t, confirmation(t, n, func(o object) { o["SubscribeURL"] = bad })); a.status != 422 || a.Field != "SubscribeURL" {
			t.Errorf("%s: %d %s", bad, a.status, a.body)
		}
	}
	if got := asked(); len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
}

func TestSNSThatDoesNotConfirm(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1/", http.StatusFound)
		},
		"no":          func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<ErrorResponse/>", http.StatusForbidden) },
		"other words": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<h1>It works!</h1>") },
		"too much": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<SubscriptionArn>", strings.Repeat(" ", fetchSize))
		},
	} {
		n, asked := newTopic(t, handle)
		n.arm(t, "sns")
		if a := do(t, confirmation(t, n, nil)); a.status != 503 || strings.Contains(a.body, "2336412f") {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if got := asked(); len(got) != 1 {
			t.Errorf("%s: asked %d times", name, len(got))
		}
		if strings.Contains(n.logged.String(), "2336412f") {
			t.Errorf("%s: the token is logged", name)
		}
	}
}

// TestPublicOnly: whatever a name resolves to, a request of ours reaches no private network.
func TestPublicOnly(t *testing.T) {
	for address, public := range map[string]bool{
		"52.94.5.77:443": true, "[2600:1f18::1]:443": true,
		"52.94.5.77:80": false, "127.0.0.1:443": false, "10.1.2.3:443": false, "172.16.0.1:443": false, "192.168.1.1:443": false,
		"169.254.169.254:443": false, "100.64.0.1:443": false, "0.0.0.0:443": false, "224.0.0.1:443": false, "255.255.255.255:443": false,
		"198.18.0.1:443": false, "[::1]:443": false, "[::]:443": false, "[fe80::1]:443": false, "[fc00::1]:443": false, "[ff02::1]:443": false,
		"[::ffff:127.0.0.1]:443": false, "[::ffff:10.0.0.1]:443": false, "[64:ff9b::7f00:1]:443": false, "[2002:7f00:1::]:443": false,
		"[2001:db8::1]:443": false, "example.com:443": false,
	} {
		if err := publicOnly(address); (err == nil) != public {
			t.Errorf("%s: %v", address, err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = newPinned(nil, nil).get(ctx, &url.URL{Scheme: "https", Host: listener.Addr().String(), Path: "/"}, nil)
	if err == nil || !strings.Contains(err.Error(), "not a public address") {
		t.Errorf("a connection to this machine: %v", err)
	}
}
