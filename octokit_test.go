package penstock_test

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/penstock-io/penstock"
)

// octokitExamples is @octokit/webhooks-examples, version 7.6.1, as it stands in the package: payloads that GitHub has
// sent to people, by event. testdata/octokit/LICENSE is its licence.
const octokitExamples = "testdata/octokit/webhooks-examples-7.6.1.json.gz"

// gitHubDelivery is one payload on its way, and what must become of it.
type gitHubDelivery struct {
	id, contentType, kind, stream string
	event                         string // X-GitHub-Event
	body                          []byte
	shown                         []byte // in GET /v1/events, where JSON has no insignificant white space
}

// gitHubDeliveries are all payloads as JSON, without white space as GitHub sends them, and every tenth once more as a
// form and once more with the white space that it has in the package.
func gitHubDeliveries(t *testing.T) (all []gitHubDelivery) {
	t.Helper()
	f, err := os.Open(octokitExamples)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var events []struct {
		Name     string
		Examples []json.RawMessage
	}
	if err := json.NewDecoder(z).Decode(&events); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		for i, example := range e.Examples {
			id := fmt.Sprintf("%s-%d", e.Name, i)
			d := gitHubDelivery{id, "application/json", gitHubType(t, e.Name, example), gitHubStream(t, example, id), e.Name, compact(t, example), nil}
			d.shown = d.body
			all = append(all, d)
			if len(all)%10 == 1 {
				d.id, d.stream = id+"-form", gitHubStream(t, example, id+"-form")
				d.contentType, d.body = "application/x-www-form-urlencoded", []byte("payload="+url.QueryEscape(string(example)))
				d.shown = d.body
				all = append(all, d)
				d.id, d.stream = id+"-spaced", gitHubStream(t, example, id+"-spaced")
				d.contentType, d.body, d.shown = "application/json", example, compact(t, example)
				all = append(all, d)
			}
		}
	}
	return all
}

func compact(t *testing.T, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, body); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gitHubType(t *testing.T, event string, payload []byte) string {
	t.Helper()
	var p struct{ Action string }
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix("github."+event+"."+p.Action, ".")
}

// gitHubStream is the stream that the documentation promises: the issue or pull request, else the repository, else the
// organisation, else the account of the installation, else the hook, else the delivery by itself.
func gitHubStream(t *testing.T, payload []byte, id string) string {
	t.Helper()
	var p struct {
		Number      int64
		Issue       struct{ Number int64 }
		PullRequest struct{ Number int64 } `json:"pull_request"`
		Repository  struct {
			FullName string `json:"full_name"`
		}
		Organization struct{ Login string }
		Installation struct{ Account struct{ Login string } }
		HookID       json.Number `json:"hook_id"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	switch n := max(p.Issue.Number, p.PullRequest.Number, p.Number); {
	case p.Repository.FullName != "" && n > 0:
		return fmt.Sprintf("github/%s#%d", p.Repository.FullName, n)
	case p.Repository.FullName != "":
		return "github/" + p.Repository.FullName
	case p.Organization.Login != "":
		return "github/" + p.Organization.Login
	case p.Installation.Account.Login != "":
		return "github/" + p.Installation.Account.Login
	case p.HookID != "":
		return "github/hook-" + p.HookID.String()
	}
	return "github/" + id
}

// TestGitHubPayloads sends every payload of Octokit's collection to a running node, signed as GitHub signs, and finds
// each again in GET /v1/events, byte for byte, with its type and on its stream, and nothing else. The log has the bytes that were sent, white space and
// all.
func TestGitHubPayloads(t *testing.T) {
	cfg := nodeConfig(t)
	n := startNode(t, cfg)
	sent := map[string]gitHubDelivery{}
	for _, d := range gitHubDeliveries(t) {
		mac := hmac.New(sha256.New, []byte(penstock.DevelopmentSecret))
		mac.Write(d.body)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+"/hooks/github", bytes.NewReader(d.body))
		if err != nil {
			t.Fatal(err)
		}
		a := do(t, r, "Content-Type", d.contentType, "X-GitHub-Event", d.event, "X-GitHub-Delivery", d.id,
			"X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
		if a.status != http.StatusAccepted {
			t.Fatalf("%s: %s", d.id, a)
		}
		sent[d.id] = d
	}
	if len(sent) < 329 {
		t.Fatalf("only %d payloads", len(sent))
	}
	versions, seen := map[string]uint64{}, map[string]bool{}
	for next, found := "/v1/events?limit=100", 0; found < len(sent); {
		a := n.get(t, next, "Prefer", "wait=10")
		var page struct {
			Items []struct {
				Type, Subject, DeliveryID, DataContentType string
				StreamVersion                              uint64
				Data                                       json.RawMessage
				Base64                                     []byte `json:"data_base64"`
			}
			Next string
		}
		if a.into(t, &page); a.status != 200 || len(page.Items) == 0 {
			t.Fatalf("after %d of %d events: %s", found, len(sent), a)
		}
		next = "/v1/events?limit=100&cursor=" + url.QueryEscape(page.Next)
		for _, e := range page.Items {
			d, ok := sent[e.DeliveryID]
			if !ok || seen[d.id] {
				t.Fatalf("an event of delivery %q, which was not sent, or stands twice", e.DeliveryID)
			}
			if e.Type != d.kind || e.Subject != d.stream || e.DataContentType != d.contentType {
				t.Errorf("%s: %s on %s, %s; want %s on %s, %s", d.id, e.Type, e.Subject, e.DataContentType, d.kind, d.stream, d.contentType)
			}
			if versions[e.Subject]++; e.StreamVersion != versions[e.Subject] {
				t.Errorf("%s: version %d of %s, want %d", d.id, e.StreamVersion, e.Subject, versions[e.Subject])
			}
			if got := dataOf(t, d.contentType, e.Data, e.Base64); !bytes.Equal(got, d.shown) {
				t.Errorf("%s: the data is\n%s\nwant\n%s", d.id, got, d.shown)
			}
			found++
			seen[d.id] = true
		}
	}
	for _, r := range readTopic(t, n.Brokers(), cfg.Kafka.Prefix+".events") {
		if d, ok := sent[header(r, "ce_deliveryid")]; !ok || !bytes.Equal(r.Value, d.body) {
			t.Errorf("%s: the log has\n%s\nwant\n%s", d.id, r.Value, d.body)
		}
	}
}

// dataOf is the payload that an event in JSON carries. What is JSON stands there without insignificant white space.
func dataOf(t *testing.T, contentType string, data json.RawMessage, encoded []byte) []byte {
	t.Helper()
	if encoded != nil || contentType == "application/json" {
		return append(encoded, data...)
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		t.Fatalf("%s is no string: %v", data, err)
	}
	return []byte(text)
}
