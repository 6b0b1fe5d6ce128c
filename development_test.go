package penstock

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
)

// foldDevelopment folds events by a projection of development.yaml, and returns its rows.
func foldDevelopment(t *testing.T, name string, events ...domain.Event) map[string]map[string]any {
	t.Helper()
	p, problems := developmentProjections()[name].declare(name)
	for _, problem := range problems {
		t.Fatalf("%s: %v", problem.key, problem.err)
	}
	table, err := eventstore.OpenTable(filepath.Join(t.TempDir(), "t.db"), eventstore.TableMeta{Name: name, Version: 1, Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for _, x := range p.Indexes() {
		table.Keep("row/"+x.Name, x.Keys)
	}
	rows := map[string]map[string]any{}
	_, err = table.Update("t", eventstore.Position{Next: []int64{1}}, func(tx *eventstore.Tx) error {
		for _, e := range events {
			if err := p.Apply(tx, e); err != nil {
				return fmt.Errorf("%s: %w", e.ID, err)
			}
		}
		return tx.Scan("", func(key, row []byte) bool {
			var m map[string]any
			if err := json.Unmarshal(row, &m); err != nil {
				t.Error(err)
			}
			rows[string(key)] = m
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func received(kind, at, body string) domain.Event {
	when, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	return domain.Event{ID: kind + " " + at, Type: kind, Source: "/sources/x", Stream: "x/1", Version: 1, Time: when, Data: []byte(body)}
}

// has fails unless the row has these members, written as they print.
func has(t *testing.T, rows map[string]map[string]any, key string, members ...any) {
	t.Helper()
	row, ok := rows[key]
	if !ok {
		t.Errorf("no row %q", key)
	}
	for i := 0; i+1 < len(members); i += 2 {
		if got, want := fmt.Sprint(row[members[i].(string)]), fmt.Sprint(members[i+1]); got != want {
			t.Errorf("%s: %s is %s, want %s", key, members[i], got, want)
		}
	}
}

// TestPullRequestsFromWhatGitHubSends folds every pull_request payload of @octokit/webhooks-examples, which GitHub has
// sent to people. One that lacks what the projection needs would halt it.
func TestPullRequestsFromWhatGitHubSends(t *testing.T) {
	f, err := os.Open("testdata/octokit/webhooks-examples-7.6.1.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []struct {
		Name     string
		Examples []json.RawMessage
	}
	if err := json.NewDecoder(z).Decode(&kinds); err != nil {
		t.Fatal(err)
	}
	var events []domain.Event
	numbers := map[string]int{}
	for _, kind := range kinds {
		for i, example := range kind.Examples {
			var body struct {
				Action      string
				Repository  struct{ Full_name string }
				PullRequest *struct{ Number int } `json:"pull_request"`
			}
			if err := json.Unmarshal(example, &body); err != nil {
				t.Fatal(err)
			}
			e := received("github."+kind.Name+"."+body.Action, "2026-03-01T10:00:00Z", string(example))
			e.ID = fmt.Sprintf("%s-%d", kind.Name, i)
			events = append(events, e)
			if kind.Name == "pull_request" {
				numbers[fmt.Sprintf("%s#%d", body.Repository.Full_name, body.PullRequest.Number)]++
			}
		}
	}
	rows := foldDevelopment(t, "github-pull-requests", events...)
	if len(numbers) == 0 || len(rows) != len(numbers) {
		t.Errorf("%d rows of %d pull requests", len(rows), len(numbers))
	}
	for key, n := range numbers {
		repository, number, _ := strings.Cut(key, "#")
		has(t, rows, key, "events", n, "repository", repository, "number", number, "updated", "2026-03-01T10:00:00.000000000Z")
		if state, _ := rows[key]["state"].(string); !slices.Contains([]string{"open", "draft", "closed", "merged"}, state) {
			t.Errorf("%s is %q", key, state)
		}
	}

	opened := `{"action":"%s","number":7,"pull_request":{"number":7,"state":"%s","merged":%t,"draft":%t,"title":"T","html_url":"u",
		"user":%s,"labels":[{"name":"bug"},{"name":"ui"}],"base":{"ref":"main"}},"repository":{"full_name":"octo/hello"}}`
	rows = foldDevelopment(t, "github-pull-requests",
		received("github.pull_request.opened", "2026-03-01T10:00:00Z", fmt.Sprintf(opened, "opened", "open", false, true, `{"login":"mona"}`)),
		received("github.pull_request.closed", "2026-03-02T10:00:00Z", fmt.Sprintf(opened, "closed", "closed", true, false, "null")),
		received("github.pull_request_review.submitted", "2026-03-03T10:00:00Z", `{}`))
	has(t, rows, "octo/hello#7", "state", "merged", "author", "ghost", "events", 2, "labels", "[bug ui]", "last_action", "closed",
		"first_seen", "2026-03-01T10:00:00.000000000Z", "updated", "2026-03-02T10:00:00.000000000Z")
	rows = foldDevelopment(t, "github-pull-requests",
		received("github.pull_request.opened", "2026-03-01T10:00:00Z", fmt.Sprintf(opened, "opened", "open", false, true, `{"login":"mona"}`)))
	has(t, rows, "octo/hello#7", "state", "draft", "author", "mona")
}

// The charge is that of https://docs.stripe.com/api/charges/object, the event around it that of
// https://docs.stripe.com/api/events/object, shortened by what nobody reads here.
func stripeEvent(kind, changed string, captured bool, capturedAmount, refunded int64) string {
	return fmt.Sprintf(`{"id":"evt_1","object":"event","api_version":"2025-08-27.basil","created":1679090539,"data":{"object":{
		"id":"ch_3MmlLrLkdIwHu7ix0snN0B15","object":"charge","amount":1099,"amount_captured":%d,"amount_refunded":%d,"application":null,
		"balance_transaction":"txn_3MmlLrLkdIwHu7ix0uke3Ezy","billing_details":{"address":{"city":null},"email":null},"captured":%t,
		"created":1679090539,"currency":"usd","customer":null,"disputed":false,"failure_code":null,"livemode":false,"metadata":{},
		"outcome":{"network_status":"approved_by_network","risk_score":32,"type":"authorized"},"paid":true,"refunded":%t,"status":"succeeded"}%s},
		"livemode":false,"pending_webhooks":1,"request":{"id":"req_1","idempotency_key":"k"},"type":"%s"}`,
		capturedAmount, refunded, captured, refunded == 1099, changed, kind)
}

func TestRevenueFromWhatStripeSends(t *testing.T) {
	rows := foldDevelopment(t, "stripe-revenue",
		received("stripe.charge.succeeded", "2026-03-01T23:59:59Z", stripeEvent("charge.succeeded", "", true, 1099, 0)),
		// Authorised, captured the next day, given back in two parts on the third.
		received("stripe.charge.succeeded", "2026-03-01T23:59:59Z", stripeEvent("charge.succeeded", "", false, 0, 0)),
		received("stripe.charge.captured", "2026-03-02T00:00:00Z", stripeEvent("charge.captured", `,"previous_attributes":{"captured":false}`, true, 1099, 0)),
		received("stripe.charge.refunded", "2026-03-03T01:00:00Z", stripeEvent("charge.refunded", `,"previous_attributes":{"amount_refunded":0,"receipt_url":"x"}`, true, 1099, 400)),
		received("stripe.charge.refunded", "2026-03-03T02:00:00Z", stripeEvent("charge.refunded", `,"previous_attributes":{"amount_refunded":400}`, true, 1099, 1099)),
		// An authorisation that was released.
		received("stripe.charge.refunded", "2026-03-03T03:00:00Z", stripeEvent("charge.refunded", `,"previous_attributes":{"amount_refunded":0}`, false, 0, 1099)),
		received("stripe.charge.failed", "2026-03-03T03:00:00Z", `{"data":{"object":{}}}`),
	)
	if len(rows) != 3 {
		t.Errorf("%d rows", len(rows))
	}
	has(t, rows, "2026-03-01/usd", "charges", 1, "gross", 1099, "refunded", 0, "net", 1099, "day", "2026-03-01T00:00:00.000000000Z", "largest", 1099)
	has(t, rows, "2026-03-02/usd", "charges", 1, "gross", 1099, "refunds", 0, "net", 1099)
	has(t, rows, "2026-03-03/usd", "charges", 0, "gross", 0, "refunds", 2, "refunded", 1099, "net", -1099, "currency", "usd")
}

// The messages are those of https://docs.slack.dev/reference/events/message and the pages of its subtypes.
func TestActivityFromWhatSlackSends(t *testing.T) {
	callback := func(event string) string {
		return `{"token":"XXYYZZ","team_id":"T123ABC456","api_app_id":"A123ABC456","event":` + event + `,"type":"event_callback","event_id":"Ev123ABC456","event_time":1355517523}`
	}
	rows := foldDevelopment(t, "slack-channels",
		received("slack.message", "2026-03-01T10:00:00Z", callback(`{"type":"message","channel":"C123ABC456","user":"U123ABC456","text":"Hello world","ts":"1355517523.000005"}`)),
		received("slack.message", "2026-03-01T10:01:00Z", callback(`{"type":"message","channel":"C123ABC456","user":"U2","text":"yes","ts":"1355517524.000005","thread_ts":"1355517523.000005"}`)),
		received("slack.message", "2026-03-01T10:02:00Z", callback(`{"type":"message","subtype":"bot_message","channel":"C123ABC456","ts":"1358877455.000010","text":"Pushing is the answer","bot_id":"BB12033","username":"github","icons":{}}`)),
		received("slack.message", "2026-03-01T10:03:00Z", callback(`{"type":"message","subtype":"message_changed","hidden":true,"channel":"C123ABC456","ts":"1358878755.000001","message":{"type":"message","user":"U123ABC456","text":"Hello, world!","ts":"1355517523.000005"}}`)),
		received("slack.message", "2026-03-02T10:00:00Z", callback(`{"type":"message","channel":"C2","user":"U2","text":"x","ts":"1355517525.000005"}`)),
		received("slack.app_mention", "2026-03-02T10:00:00Z", callback(`{"type":"app_mention"}`)),
	)
	if len(rows) != 2 {
		t.Errorf("%d rows", len(rows))
	}
	has(t, rows, "C123ABC456/2026-03-01", "messages", 3, "replies", 1, "last_author", "BB12033", "last", "2026-03-01T10:02:00.000000000Z", "recent_authors", "[U123ABC456 U2]")
	has(t, rows, "C2/2026-03-02", "messages", 1, "day", "2026-03-02T00:00:00.000000000Z")
}

// TestDevelopmentProjectionsTakeTheSamples: what `penstock send` and `penstock dev --demo` send must not halt them.
func TestDevelopmentProjectionsTakeTheSamples(t *testing.T) {
	for provider, projection := range map[string]string{"github": "github-pull-requests", "stripe": "stripe-revenue", "slack": "slack-channels"} {
		var events []domain.Event
		for _, kind := range ingress.SampleTypes(provider) {
			d, err := ingress.Sample(kind, ingress.Facts{})
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, received(kind, "2026-03-01T10:00:00Z", string(d.Body)))
		}
		if rows := foldDevelopment(t, projection, events...); len(rows) == 0 {
			t.Errorf("%s: no rows of %d samples", projection, len(events))
		}
	}
}
