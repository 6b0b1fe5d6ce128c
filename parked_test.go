package penstock_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
)

// said is what a command has printed, and its exit code.
type said struct {
	code           int
	stdout, stderr string
}

func command(t *testing.T, args ...string) said {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := penstock.Run(t.Context(), penstock.App{}, args, &stdout, &stderr)
	s := said{code, stdout.String(), stderr.String()}
	if (code == 0) != (s.stderr == "") || code != 0 && (strings.Count(s.stderr, "\n") != 1 || !strings.HasPrefix(s.stderr, "penstock: ")) {
		t.Errorf("penstock %q: exit code %d, and on stderr, where a failure is said in one line:\n%s", args, code, s.stderr)
	}
	return s
}

// TestParkedFromTheCommandLine has an operator find out what holds a stream back, and release it.
func TestParkedFromTheCommandLine(t *testing.T) {
	n := startNode(t, nodeConfig(t))
	parked := func(args ...string) said {
		t.Helper()
		return command(t, append([]string{"parked", "--url", n.URL() + "/"}, args...)...)
	}
	if s := parked("list"); s.code != 0 || strings.Count(s.stdout, "\n") != 1 {
		t.Errorf("nothing is parked: %+v", s)
	}
	d, err := ingress.Sample("stripe.charge.succeeded", ingress.Facts{ID: "evt_broken", Customer: "cus_1", Charge: "ch_1", Amount: 4200})
	if err != nil {
		t.Fatal(err)
	}
	d.Body = regexp.MustCompile(`"amount": ?4200`).ReplaceAll(d.Body, []byte(`"amount":"a lot"`))
	r, err := d.Request(t.Context(), n.URL(), "stripe", ingress.Secret(penstock.DevelopmentSecret), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, r); a.status != 202 {
		t.Fatalf("the broken delivery: %s", a)
	}
	for i := range 3 { // behind it
		if a := n.deliver(t, "stripe.charge.succeeded", ingress.Facts{ID: fmt.Sprintf("evt_%d", i), Customer: "cus_1", Charge: fmt.Sprintf("ch_%d", i+2), Amount: 100}); a.status != 202 {
			t.Fatalf("a good delivery: %s", a)
		}
	}
	var page struct{ Items []projections.ParkedRow }
	eventstoretest.Until(t, "four are parked", func() bool {
		return json.Unmarshal([]byte(parked("list", "--json").stdout), &page) == nil && len(page.Items) == 4
	})
	ids := map[string]string{}
	for _, row := range page.Items {
		ids[row.EntryID] = row.ID
	}
	if s := parked("list", "--limit", "3"); s.code != 0 || strings.Count(s.stdout, " waiting ") != 3 || !strings.Contains(s.stdout, "raise --limit") {
		t.Errorf("list: %+v", s)
	}
	if s := parked("list", "--stream", "stripe/cus_2"); strings.Contains(s.stdout, "waiting") {
		t.Errorf("of another stream: %+v", s)
	}
	show := parked("show", ids["evt_broken"])
	for _, want := range []string{"evt_broken", "stripe/cus_1", "waiting", `"amount": "a lot"`, "header user-agent", "billing/from-stripe"} {
		if !strings.Contains(show.stdout, want) {
			t.Errorf("show doesn't say %q:\n%s", want, show.stdout)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"requeue", ids["evt_broken"], "--note", "try"}, "(parked-again)"},
		{[]string{"requeue", ids["evt_0"], "--note", "try"}, ids["evt_broken"] + " is parked before this one: release it first (parked-behind)"},
		{[]string{"requeue-stream", "stripe/cus_1", "--note", "try"}, ids["evt_broken"] + " stays parked: "},
		{[]string{"requeue", "0-99999", "--note", "try"}, "(not-found)"},
		{[]string{"show", "../../v1/status"}, "(not-found)"},
		{[]string{"list", "--state", "lost"}, "state: "},
		{[]string{"discard", ids["evt_broken"]}, `"note"`},
		{[]string{"discard", ids["evt_broken"], "--note", " "}, "why it is released is not said"},
		{[]string{"lost"}, `unknown command "lost"`},
	} {
		if s := parked(c.args...); s.code != 1 || !strings.Contains(s.stderr, c.want) || s.stdout != "" {
			t.Errorf("%q: want %q in %+v", c.args, c.want, s)
		}
	}
	if s := parked("discard", ids["evt_broken"], "--note", "a test", "--by", "ann"); s.code != 0 || s.stdout != ids["evt_broken"]+" discarded\n" {
		t.Errorf("discard: %+v", s)
	}
	s := parked("requeue-stream", "stripe/cus_1", "--note", "the broken one is gone")
	if s.code != 0 || strings.Count(s.stdout, "requeued: accepted, 1 events, stripe/cus_1 is at version ") != 3 || !strings.HasSuffix(s.stdout, "\n3 released\n") {
		t.Errorf("requeue-stream: %+v", s)
	}
	n.wantBalance(t, "cus_1", "", 300)
	for state, want := range map[string]string{"discarded": "evt_broken", "requeued": "evt_2"} {
		list := parked("list", "--state", state)
		if !strings.Contains(list.stdout, ids[want]) {
			t.Errorf("%s: %+v", state, list)
		}
		why := "the broken one is gone"
		if state == "discarded" {
			why = "a test"
		}
		if show := parked("show", ids[want]); !strings.Contains(show.stdout, why) || !strings.Contains(show.stdout, "by") {
			t.Errorf("who and why is not said: %+v", show)
		}
	}
	if s := parked("requeue", ids["evt_2"], "--note", "again"); s.code != 1 || !strings.Contains(s.stderr, "(already-released)") {
		t.Errorf("once more: %+v", s)
	}
	if s := parked("requeue-stream", "stripe/cus_1", "--note", "again", "--json"); s.code != 0 || s.stdout != `{"items":[],"more":false}`+"\n" {
		t.Errorf("nothing is left: %+v", s)
	}
}

// TestRemote says what the command line does with whatever answers.
func TestRemote(t *testing.T) {
	t.Setenv("NODE_TOKEN", "a-token-of-a-node")
	var asked []string
	answer := func(w http.ResponseWriter, status int, contentType, body string) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+" "+string(b))
		switch {
		case strings.HasPrefix(r.URL.Path, "/proxy"):
			answer(w, 502, "text/html", "<h1>Bad Gateway</h1>")
		case strings.HasPrefix(r.URL.Path, "/moved"):
			answer(w, 307, "text/html", "")
		case strings.HasPrefix(r.URL.Path, "/other"):
			answer(w, 200, "text/html", "<h1>It works!</h1>")
		case strings.HasPrefix(r.URL.Path, "/steers"):
			answer(w, 409, "application/problem+json", `{"type":"/problems/parked-again","detail":"\u001b[2Jpanic\ngoroutine 1","rule":"r"}`)
		case r.Method == "POST" && strings.HasSuffix(r.URL.Path, "/requeue"):
			answer(w, 202, "application/json", `{"id":"1-2","state":"unknown"}`)
		default:
			answer(w, 200, "application/json", `{"items":[{"id":"1-2","state":"waiting","type":"\u001b[31m\u009b1m","reason":"one\ntwo"}]}`)
		}
	}))
	defer server.Close()
	run := func(base string, args ...string) said {
		t.Helper()
		return command(t, append([]string{"parked", "--url", server.URL + base, "--token", "env:NODE_TOKEN"}, args...)...)
	}
	for base, want := range map[string]string{
		"/proxy": "answered 502", "/moved": "answered 307", "/other": "does not answer as a node does", "/steers": "\ufffd[2Jpanic… (r)",
	} {
		if s := run(base, "list"); s.code != 1 || !strings.Contains(s.stderr, want) || strings.Contains(s.stderr, "\x1b") {
			t.Errorf("%s: %+v", base, s)
		}
	}
	if s := run("", "list"); s.code != 0 || strings.ContainsAny(s.stdout, "\x1b\u009b") || !strings.Contains(s.stdout, "one…") {
		t.Errorf("%q", s.stdout)
	}
	if s := run("", "requeue", "1-2", "--note", "n", "--by", "b"); s.code != 1 || !strings.Contains(s.stderr, "1-2: ") || !strings.Contains(s.stderr, "not known yet") {
		t.Errorf("%+v", s)
	}
	want := `POST /v1/parked/1-2/requeue Bearer a-token-of-a-node {"note":"n","by":"b"}`
	if !slices.Contains(asked, want) {
		t.Errorf("asked %q", asked)
	}
	if s := command(t, "parked", "list", "--url", server.URL, "--token", "a-token-of-a-node"); s.code != 1 || strings.Contains(s.stderr, "a-token") {
		t.Errorf("a token that is no reference: %+v", s)
	}
	server.Close()
	if s := run("", "list"); s.code != 1 || !strings.Contains(s.stderr, "refused") {
		t.Errorf("nobody answers: %+v", s)
	}
}
