// Command vectors writes test vectors by Go packages: go run . OUT.json
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/PagerDuty/go-pagerduty/webhookv3"
	"github.com/buildkite/go-buildkite/v4"
	bitbucket "github.com/go-playground/webhooks/v6/bitbucket-server"
	"github.com/go-playground/webhooks/v6/gitlab"
	"github.com/google/go-github/v74/github"
	"github.com/mailgun/mailgun-go/v4"
	"github.com/slack-go/slack"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stripe/stripe-go/v82/webhook"
)

type vector struct {
	Provider string            `json:"provider"`
	By       string            `json:"by"`
	Origin   string            `json:"origin"`
	Note     string            `json:"note"`
	Secret   string            `json:"secret"`
	Method   string            `json:"method"`
	URL      string            `json:"url"`
	Headers  map[string]string `json:"headers"`
	Body     []byte            `json:"body"`
	At       string            `json:"at"`
	Valid    bool              `json:"valid"`
	Reason   string            `json:"reason,omitempty"`

	module, fn string
	sig        string // the header with the signature
	unsigned   bool   // the signature doesn't cover the body
	verify     func(vector, *http.Request) bool
}

var vectors []vector

// record has the package confirm a signed request, and refuse it with the body, the secret and the signature changed.
// These verifiers ask the machine's clock, which can't be set here: those that look at the time are told not to.
func record(v vector) {
	v.Method, v.URL, v.Valid = "POST", "https://hooks.example.com/hooks/"+v.Provider, true
	v.At = at.Format("2006-01-02T15:04:05.000Z07:00")
	v.Origin = fmt.Sprintf("Go %s@%s, %s", v.module, version(v.module), v.fn)
	if v.By == "" {
		v.By = "vendor"
	}
	v.take(true)
	bad := func(note, reason string, edit func(*vector)) {
		b := v
		b.Headers, b.Valid, b.Note, b.Reason = maps.Clone(v.Headers), false, note, reason
		edit(&b)
		b.take(false)
	}
	if !v.unsigned {
		bad("body changed", "wrong-signature", func(b *vector) { b.Body = []byte(change(string(b.Body))) })
	}
	bad("another secret", "wrong-signature", func(b *vector) { b.Secret = change(b.Secret) })
	if v.sig != "" {
		bad("signature changed", "wrong-signature", func(b *vector) { b.Headers[v.sig] = change(b.Headers[v.sig]) })
		bad("no signature", "missing-header", func(b *vector) { delete(b.Headers, v.sig) })
	}
}

func (v vector) take(want bool) {
	r, err := http.NewRequest(v.Method, v.URL, bytes.NewReader(v.Body))
	if err != nil {
		panic(err)
	}
	for name, value := range v.Headers {
		r.Header.Set(name, value)
	}
	if v.verify(v, r) != want {
		panic(fmt.Sprintf("%s: %s: accepted is %v", v.Origin, v.Note, !want))
	}
	vectors = append(vectors, v)
}

// change puts another character of the same kind somewhere into the second half, so that JSON, hex and base64 stay
// what they are.
func change(s string) string {
	for i := len(s) / 2; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			return s[:i] + string('0'+(c-'0'+1)%10) + s[i+1:]
		case c >= 'a' && c <= 'z' && s[i-1] != '\\':
			return s[:i] + string("bc"[(c&1+1)%2]) + s[i+1:]
		}
	}
	panic("nothing to change in " + s)
}

func version(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == module {
			return m.Version
		}
	}
	panic("no module " + module)
}

const secret = "penstock-test-secret"

var (
	at    = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	stamp = strconv.FormatInt(at.Unix(), 10)
	js    = map[string]string{"Content-Type": "application/json"}
)

func sign(text string) string { return hex.EncodeToString(mac(sha256.New, text)) }

func mac(digest func() hash.Hash, text string) []byte {
	h := hmac.New(digest, []byte(secret))
	h.Write([]byte(text))
	return h.Sum(nil)
}

func with(headers ...string) map[string]string {
	all := maps.Clone(js)
	for i := 0; i < len(headers); i += 2 {
		all[headers[i]] = headers[i+1]
	}
	return all
}

func main() {
	body := `{"event":{"id":"01DEN4HPBQAAAG05V5QQYBRZMF","event_type":"incident.triggered","resource_type":"incident","data":{"id":"PGR0VU2","title":"Überlauf"}}}`
	record(vector{
		Provider: "pagerduty", Note: "two signatures", module: "github.com/PagerDuty/go-pagerduty", fn: "webhookv3.VerifySignature",
		Secret: secret, Body: []byte(body), sig: "X-PagerDuty-Signature",
		Headers: with("X-PagerDuty-Signature", "v1="+strings.Repeat("0", 64)+",v1="+sign(body), "X-Webhook-Id", "h1"),
		verify:  func(v vector, r *http.Request) bool { return webhookv3.VerifySignature(r, v.Secret) == nil },
	})
	body = `{"event":"build.finished","build":{"id":"f62a1b4d","number":12,"message":"Größe"},"pipeline":{"slug":"octo"}}`
	record(vector{
		Provider: "buildkite", Note: "a build", module: "github.com/buildkite/go-buildkite/v4", fn: "ValidatePayload",
		Secret: secret, Body: []byte(body),
		Headers: with("X-Buildkite-Event", "build.finished", "X-Buildkite-Request", "r1", "X-Buildkite-Signature", "timestamp="+stamp+",signature="+sign(stamp+"."+body)),
		sig:     "X-Buildkite-Signature",
		verify: func(v vector, r *http.Request) bool {
			_, err := buildkite.ValidatePayload(r, []byte(v.Secret))
			return err == nil
		},
	})
	token := strings.Repeat("5f", 25)
	body = `{"signature":{"timestamp":"` + stamp + `","token":"` + token + `","signature":"` + sign(stamp+token) + `"},"event-data":{"event":"opened","id":"Ase7i2zsRYeDXztHGENqRA","recipient":"alice@example.com"}}`
	record(vector{
		Provider: "mailgun", Note: "the event's data is not covered", module: "github.com/mailgun/mailgun-go/v4", fn: "VerifyWebhookSignature",
		Secret: secret, Body: []byte(body), Headers: js, unsigned: true,
		verify: func(v vector, _ *http.Request) bool {
			var payload mailgun.WebhookPayload
			mg := mailgun.NewMailgun("example.com", "key")
			mg.SetWebhookSigningKey(v.Secret)
			if json.Unmarshal(v.Body, &payload) != nil {
				return false
			}
			ok, err := mg.VerifyWebhookSignature(payload.Signature)
			return ok && err == nil
		},
	})
	body = `{"object_kind":"push","ref":"refs/heads/main","project":{"id":15,"path_with_namespace":"mike/diaspora"},"user_name":"Zoë"}`
	record(vector{
		Provider: "gitlab", By: "other", Note: "nothing is signed", module: "github.com/go-playground/webhooks/v6", fn: "gitlab.Webhook.Parse",
		Secret: secret, Body: []byte(body), unsigned: true, sig: "X-Gitlab-Token",
		Headers: with("X-Gitlab-Event", "Push Hook", "X-Gitlab-Token", secret, "X-Gitlab-Event-UUID", "13792a34", "Idempotency-Key", "f5e5f430"),
		verify: func(v vector, r *http.Request) bool {
			hook, err := gitlab.New(gitlab.Options.Secret(v.Secret))
			if err == nil {
				_, err = hook.Parse(r, gitlab.PushEvents)
			}
			return err == nil
		},
	})
	body = `{"eventKey":"pr:opened","date":"2026-01-15T12:00:00+0000","actor":{"name":"admin","id":1},"pullRequest":{"id":1,"title":"Lösung"}}`
	record(vector{
		Provider: "bitbucket-server", By: "other", Note: "a pull request", module: "github.com/go-playground/webhooks/v6", fn: "bitbucketserver.Webhook.Parse",
		Secret: secret, Body: []byte(body), sig: "X-Hub-Signature",
		Headers: with("X-Event-Key", "pr:opened", "X-Request-Id", "r1", "X-Hub-Signature", "sha256="+sign(body)),
		verify: func(v vector, r *http.Request) bool {
			hook, err := bitbucket.New(bitbucket.Options.Secret(v.Secret))
			if err == nil {
				_, err = hook.Parse(r, bitbucket.PullRequestOpenedEvent)
			}
			return err == nil
		},
	})
	body = `{"zen":"Keep it logically awesome.","hook_id":1}`
	record(vector{
		Provider: "github", Note: "a ping", module: "github.com/google/go-github/v74", fn: "github.ValidatePayload",
		Secret: secret, Body: []byte(body), sig: "X-Hub-Signature-256",
		Headers: with("X-GitHub-Event", "ping", "X-GitHub-Delivery", "0b989ba4", "X-Hub-Signature-256", "sha256="+sign(body)),
		verify: func(v vector, r *http.Request) bool {
			_, err := github.ValidatePayload(r, []byte(v.Secret))
			return err == nil
		},
	})
	body = `{"id":"evt_3","object":"event","type":"customer.created","data":{"object":{"id":"cus_3","name":"Zoë"}}}`
	record(vector{
		Provider: "stripe", Note: "a customer", module: "github.com/stripe/stripe-go/v82", fn: "webhook.ComputeSignature and ValidatePayloadIgnoringTolerance",
		Secret: secret, Body: []byte(body), sig: "Stripe-Signature",
		Headers: with("Stripe-Signature", "t="+stamp+",v1="+hex.EncodeToString(webhook.ComputeSignature(at, []byte(body), secret))),
		verify: func(v vector, r *http.Request) bool {
			return webhook.ValidatePayloadIgnoringTolerance(v.Body, r.Header.Get("Stripe-Signature"), v.Secret) == nil
		},
	})
	gitlabSigned()
	slackNow()
	lines := make([]string, len(vectors))
	for i, v := range vectors {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		lines[i] = string(b)
	}
	if err := os.WriteFile(os.Args[1], []byte("[\n"+strings.Join(lines, ",\n")+"\n]\n"), 0o644); err != nil {
		panic(err)
	}
	fmt.Println(len(vectors), "vectors")
}

// gitlabSigned is GitLab's signing token, which is Standard Webhooks with GitLab's own headers beside.
func gitlabSigned() {
	key := "whsec_" + base64.StdEncoding.EncodeToString([]byte(secret+", 32 bytes.."))
	body := `{"object_kind":"merge_request","project":{"path_with_namespace":"mike/diaspora"},"object_attributes":{"iid":1,"title":"Über"}}`
	hook, err := standardwebhooks.NewWebhook(key)
	if err != nil {
		panic(err)
	}
	signature, err := hook.Sign("f5e5f430-f57b-4e6e-9fac-d9128cd7232f", at, []byte(body))
	if err != nil {
		panic(err)
	}
	record(vector{
		Provider: "gitlab-signed", By: "other", Note: "a signing token", module: "github.com/standard-webhooks/standard-webhooks/libraries",
		fn: "Webhook.Sign and VerifyIgnoringTimestamp", Secret: key, Body: []byte(body), sig: "webhook-signature",
		Headers: with("X-Gitlab-Event", "Merge Request Hook", "webhook-id", "f5e5f430-f57b-4e6e-9fac-d9128cd7232f", "webhook-timestamp", stamp, "webhook-signature", signature),
		verify: func(v vector, r *http.Request) bool {
			hook, err := standardwebhooks.NewWebhook(v.Secret)
			return err == nil && hook.VerifyIgnoringTimestamp(v.Body, r.Header) == nil
		},
	})
}

// slackNow is signed at the present time, because slack-go refuses any other.
func slackNow() {
	defer func(a time.Time, s string) { at, stamp = a, s }(at, stamp)
	at = time.Now().UTC().Truncate(time.Second)
	stamp = strconv.FormatInt(at.Unix(), 10)
	body := `{"type":"event_callback","event_id":"Ev2","team_id":"T1","event":{"type":"app_mention","channel":"C1","text":"schön"}}`
	record(vector{
		Provider: "slack", Note: "a mention", module: "github.com/slack-go/slack", fn: "SecretsVerifier.Ensure",
		Secret: secret, Body: []byte(body), sig: "X-Slack-Signature",
		Headers: with("X-Slack-Request-Timestamp", stamp, "X-Slack-Signature", "v0="+sign("v0:"+stamp+":"+body)),
		verify: func(v vector, r *http.Request) bool {
			sv, err := slack.NewSecretsVerifier(r.Header, v.Secret)
			if err == nil {
				_, err = sv.Write(v.Body)
			}
			return err == nil && sv.Ensure() == nil
		},
	})
}
