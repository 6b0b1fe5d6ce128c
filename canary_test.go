package penstock_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/ingress"
)

// TestSecretsStayWhereTheyBelong gives a node secrets that stand nowhere else, sends it every kind of request with
// credentials in them, and then looks for all of them, in all the forms in which bytes get printed, in everything that
// leaves the node or that it keeps: its log, its metrics, each answer, each record of each topic, each file in its folder.
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	c := newCanaries(t)
	n := c.start()

	c.driveHooks(n)
	c.driveTokens(n)
	c.driveHandshakes(n)
	c.reload(n)
	c.driveAPI(n)
	c.readEverything(n)
	c.scanTopics(n)
	c.scanFolder("while the node runs")
	n.stop(t)
	c.scanFolder("after the stop")
	c.scan("the log", c.log.bytes())
	c.checkScanner()
}

// canaries are secrets of one test, and the places where they were looked for.
type canaries struct {
	t       *testing.T
	file    string // the configuration
	cfg     penstock.Config
	log     logBuffer
	token   string            // of the API
	secrets map[string]string // by source
	names   map[string]string // what known made
	birds   []bird
	// ordinary is text that isn't secret, with what saw it: proof that the scanner sees.
	ordinary string
	saw      map[string]bool
	places   int
}

// bird is a text that must not be found, in one of its forms.
type bird struct {
	name string
	form []byte
}

func newCanaries(t *testing.T) *canaries {
	c := &canaries{t: t, secrets: map[string]string{}, names: map[string]string{}, saw: map[string]bool{}, ordinary: "ordinary" + rand.Text()}
	dir := t.TempDir()
	file := filepath.Join(dir, "secret") // outside the data folder: this is where a secret belongs
	writeFile(t, file, c.hatch("secret in a file"))
	t.Setenv("CANARY_TOKEN", c.hatch("token of the API"))
	t.Setenv("CANARY_OLD", c.hatch("a secret on its way out"))
	c.token = os.Getenv("CANARY_TOKEN")
	for _, source := range []string{"github", "slack", "shifting", "gitlab", "figma", "microsoft-graph", "okta", "postmark", "meta"} {
		c.secrets[source] = c.hatch("secret of " + source)
		if source == "postmark" { // basic authentication
			c.secrets[source] = "user:" + c.secrets[source]
		}
		t.Setenv("CANARY_"+strings.ToUpper(strings.ReplaceAll(source, "-", "_")), c.secrets[source])
	}
	t.Setenv("CANARY_VERIFY", c.known("verify token of meta"))
	key := c.hatch("key of standard")
	c.secrets["standard"] = "whsec_" + base64.StdEncoding.EncodeToString([]byte(key))
	t.Setenv("CANARY_STANDARD", c.secrets["standard"])
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.secrets["stripe"] = string(b)
	config := filepath.Join(dir, "penstock.yaml")
	kafka := "embedded: 127.0.0.1:0"
	if b := testBrokers(); b != nil {
		kafka = fmt.Sprintf("brokers: [%q]", strings.Join(b, `", "`))
	}
	writeFile(t, config, fmt.Sprintf(`
listen: 127.0.0.1:0
data: %s
kafka: {%s, prefix: %s, partitions: 4}
auth: {tokens: ["env:CANARY_TOKEN"]}
sources:
  github: {provider: github, secrets: ["env:CANARY_GITHUB", "env:CANARY_OLD"]}
  slack: {provider: slack, secrets: ["env:CANARY_SLACK"]}
  standard: {provider: standard, secrets: ["env:CANARY_STANDARD"]}
  stripe: {provider: stripe, secrets: ["file:%s"]}
  shifting: {provider: stripe, secrets: ["env:CANARY_SHIFTING"], stream: 'headers["authorization"]'}
  gitlab: {provider: gitlab, secrets: ["env:CANARY_GITLAB"]}
  figma: {provider: figma, secrets: ["env:CANARY_FIGMA"]}
  microsoft-graph: {provider: microsoft-graph, secrets: ["env:CANARY_MICROSOFT_GRAPH"]}
  okta: {provider: okta, secrets: ["env:CANARY_OKTA"]}
  postmark: {provider: postmark, secrets: ["env:CANARY_POSTMARK"]}
  meta: {provider: meta, secrets: ["env:CANARY_META"], verify_token: "env:CANARY_VERIFY"}
  asana: {provider: asana}
`, filepath.Join(dir, "data"), kafka, eventstoretest.Prefix(), file))
	if c.cfg, err = penstock.LoadConfig(config, nil); err != nil {
		t.Fatal(err)
	}
	c.file = config
	// A secret that stands in the file itself, against the rules, isn't repeated to whoever reads the error.
	literal := c.hatch("literal in the configuration")
	wrong := filepath.Join(dir, "wrong.yaml")
	writeFile(t, wrong, fmt.Sprintf("listen: 127.0.0.1:0\nauth: {tokens: [%q]}\nsources:\n  stripe: {provider: stripe, secrets: [%q]}\n", literal, literal))
	if _, err = penstock.LoadConfig(wrong, nil); err == nil {
		t.Error("a literal secret is accepted")
	}
	c.scan("the error of a wrong configuration", fmt.Appendf(nil, "%v %+v %#v", err, err, err))
	c.scan("a printed configuration", fmt.Appendf(nil, "%v %+v %#v", c.cfg, c.cfg, c.cfg))
	return c
}

// hatch makes a secret, and has all its forms looked for.
func (c *canaries) hatch(name string) string {
	secret := "canary" + rand.Text()
	add := func(form string, b []byte) { c.birds = append(c.birds, bird{name + ", " + form, b}) }
	raw := []byte(secret)
	add("as it is", raw)
	add("hexadecimal", []byte(hex.EncodeToString(raw)))
	add("hexadecimal, capitals", []byte(strings.ToUpper(hex.EncodeToString(raw))))
	add("as numbers", []byte(strings.Trim(fmt.Sprint(raw), "[]")))
	add("as numbers of JSON", []byte(strings.ReplaceAll(strings.Trim(fmt.Sprint(raw), "[]"), " ", ",")))
	for shift := range 3 { // base64 of a text with the secret in it: what its neighbours don't change
		shifted := append(make([]byte, shift), raw...)
		shifted = shifted[:len(shifted)/3*3]
		encoded := base64.StdEncoding.EncodeToString(shifted)
		add(fmt.Sprintf("base64, shifted by %d", shift), []byte(encoded[(shift*8+5)/6:]))
	}
	return secret
}

// known is the secret of a name, the same each time.
func (c *canaries) known(name string) string {
	if c.names[name] == "" {
		c.names[name] = c.hatch(name)
	}
	return c.names[name]
}

func (c *canaries) scan(place string, b []byte) {
	c.t.Helper()
	c.places++
	if bytes.Contains(b, []byte(c.ordinary)) {
		kind, _, _ := strings.Cut(place, " ")
		c.saw[kind] = true
	}
	for _, bird := range c.birds {
		if i := bytes.Index(b, bird.form); i >= 0 {
			c.t.Errorf("%s has the %s: …%q…", place, bird.name, b[max(0, i-100):min(len(b), i+len(bird.form)+40)])
		}
	}
}

// checkScanner shows that a secret in any of the places would have been found, in any of its forms.
func (c *canaries) checkScanner() {
	for _, kind := range []string{"topic", "file", "answer"} {
		if !c.saw[kind] {
			c.t.Errorf("the text that is not secret was not seen in any %s: the scan sees nothing", kind)
		}
	}
	if !bytes.Contains(c.log.bytes(), []byte("webhook refused")) || !bytes.Contains(c.log.bytes(), []byte("DEBUG")) && !bytes.Contains(c.log.bytes(), []byte("INFO")) {
		c.t.Error("the log has not what it was made to say")
	}
	for form, text := range map[string]string{
		"base64": base64.StdEncoding.EncodeToString([]byte("user:" + c.token)), "base64url": base64.URLEncoding.EncodeToString([]byte("x" + c.token)),
		"hex": hex.EncodeToString([]byte("ab" + c.token)), "numbers": fmt.Sprint([]byte(c.token)), "raw": "a" + c.token + "b",
	} {
		if !slices.ContainsFunc(c.birds, func(b bird) bool { return strings.Contains(text, string(b.form)) }) {
			c.t.Errorf("the scan doesn't know %s", form)
		}
	}
	c.t.Logf("%d places, %d texts", c.places, len(c.birds))
}

// logBuffer keeps the log, in both forms that slog writes.
type logBuffer struct{ output }

func (l *logBuffer) bytes() []byte { return []byte(l.String()) }

func (c *canaries) start() *node {
	c.t.Helper()
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	inner, err := penstock.NewNode(c.cfg, billingApp(), slog.New(slog.NewMultiHandler(slog.NewTextHandler(&c.log, options), slog.NewJSONHandler(&c.log, options))))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{inner, cancel, make(chan error, 1)}
	go func() { n.done <- inner.Run(ctx) }()
	c.t.Cleanup(func() { n.stop(c.t) })
	select {
	case <-inner.Started():
	case err := <-n.done:
		n.done <- nil
		c.t.Fatal(err)
	}
	eventstoretest.Until(c.t, "the node is ready", func() bool { return n.get(c.t, "/readyz").status == 200 })
	return n
}

// send sends a request with credentials wherever senders and proxies put them, and looks at the answer.
func (c *canaries) send(r *http.Request, want int) {
	c.t.Helper()
	for _, header := range []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "X-Gitlab-Token"} {
		if r.Header.Get(header) == "" {
			r.Header.Set(header, c.known(header+" of a webhook"))
		}
	}
	a := do(c.t, r)
	if a.status != want {
		c.t.Errorf("%s %s: %s, want %d", r.Method, r.URL, a, want)
	}
	c.scan("answer of "+r.URL.Path, fmt.Appendf(nil, "%s %v", a.body, a.header))
}

// webhook is a signed sample for a source.
func (c *canaries) webhook(n *node, source, kind string, f ingress.Facts, change func(*ingress.Delivery)) *http.Request {
	c.t.Helper()
	d, err := ingress.Sample(kind, f)
	if err != nil {
		c.t.Fatal(err)
	}
	if change != nil {
		change(&d)
	}
	r, err := d.Request(c.t.Context(), n.URL(), source, ingress.Secret(c.secrets[source]), time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// driveHooks sends what is accepted, refused for each reason, parked, broken and asked back.
func (c *canaries) driveHooks(n *node) {
	kinds := map[string]string{"github": "github.issues.opened", "slack": "slack.message", "standard": "standard.invoice.paid", "stripe": "stripe.charge.succeeded"}
	for source, kind := range kinds {
		facts := ingress.Facts{ID: "id-" + source, Text: c.ordinary, Customer: "cus_" + c.ordinary}
		c.send(c.webhook(n, source, kind, facts, nil), 202)
		c.send(c.webhook(n, source, kind, facts, nil), 202) // again

		wrong := c.webhook(n, source, kind, facts, nil)
		wrong.Body = io.NopCloser(strings.NewReader(`{"another":"body"}`))
		wrong.ContentLength = -1
		c.send(wrong, 401)
		missing := c.webhook(n, source, kind, facts, nil)
		for name := range missing.Header {
			if strings.Contains(name, "Signature") {
				missing.Header.Del(name)
			}
		}
		c.send(missing, 401)
		// Signed with one credential, by mistake, in place of another: neither is ours to show.
		mistaken := c.webhook(n, source, kind, facts, nil)
		for name := range mistaken.Header {
			if strings.Contains(name, "Signature") {
				mistaken.Header.Set(name, c.secrets[source])
			}
		}
		c.send(mistaken, 401)
		old := c.webhook(n, source, kind, facts, nil)
		for name := range old.Header {
			if strings.HasSuffix(name, "Timestamp") {
				old.Header.Set(name, "1000000000")
			}
		}
		if source != "github" && source != "stripe" {
			c.send(old, 401)
		}
		c.send(c.webhook(n, source, kind, facts, func(d *ingress.Delivery) { d.Body = []byte(`{"broken`) }), 400)
		large := c.webhook(n, source, kind, facts, func(d *ingress.Delivery) { d.Body = bytes.Repeat([]byte(" "), 26<<20) })
		c.send(large, 413)
		form := c.webhook(n, source, kind, facts, nil)
		form.Header.Set("Content-Type", "text/plain")
		c.send(form, 415)
	}
	c.send(c.webhook(n, "stripe", "stripe.charge.succeeded", ingress.Facts{ID: "evt_parked"}, func(d *ingress.Delivery) {
		d.Body = regexp.MustCompile(`"amount": ?4200`).ReplaceAll(d.Body, []byte(`"amount":"a lot"`))
	}), 202)
	c.send(c.webhook(n, "shifting", "stripe.charge.succeeded", ingress.Facts{}, nil), 422) // its expression wants a credential
	c.send(c.webhook(n, "slack", "slack.message", ingress.Facts{}, func(d *ingress.Delivery) {
		d.Body = []byte(`{"type":"url_verification","token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}`)
	}), 200)
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, n.URL()+"/hooks/nobody", strings.NewReader("{}"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(r, 404)
}

// driveTokens sends to the sources that know their provider by a secret in each request: that of the source, and others.
func (c *canaries) driveTokens(n *node) {
	for _, source := range []string{"gitlab", "figma", "microsoft-graph", "okta", "postmark", "meta"} {
		kind := ingress.SampleTypes(source)[0]
		facts := ingress.Facts{ID: "id-" + source, Text: c.ordinary}
		c.send(c.webhook(n, source, kind, facts, nil), 202)
		right := c.secrets[source]
		c.secrets[source] = c.hatch("wrong secret for " + source)
		if source == "postmark" {
			c.secrets[source] = "user:" + c.secrets[source]
		}
		c.send(c.webhook(n, source, kind, facts, nil), 401)
		c.secrets[source] = right
	}
}

// driveHandshakes has challenges answered and refused, and a secret learned.
func (c *canaries) driveHandshakes(n *node) {
	for token, want := range map[string]int{c.known("verify token of meta"): 200, c.hatch("wrong verify token"): 403} {
		r, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, n.URL()+"/hooks/meta?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="+token, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		c.send(r, want)
	}
	teach := func(secret string, want int) {
		r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, n.URL()+"/hooks/asana", strings.NewReader("{}"))
		if err != nil {
			c.t.Fatal(err)
		}
		if a := do(c.t, r, "Content-Type", "application/json", "X-Hook-Secret", secret); a.status != want { // the answer repeats it, as it must
			c.t.Errorf("X-Hook-Secret: %s, want %d", a, want)
		}
	}
	teach(c.hatch("secret that nobody waits for"), 403)
	if a := c.call(n, "POST", "/v1/sources/asana/handshake", c.token, `{}`); a.status != 200 {
		c.t.Errorf("arm asana: %s", a)
	}
	c.secrets["asana"] = c.hatch("learned secret of asana")
	teach(c.secrets["asana"], 200)
	c.send(c.webhook(n, "asana", ingress.SampleTypes("asana")[0], ingress.Facts{ID: "id-asana", Text: c.ordinary}, nil), 202)
}

// reload rotates secrets and the token, and tries to do so wrongly.
func (c *canaries) reload(n *node) {
	c.secrets["slack"] = c.hatch("next secret of slack")
	c.t.Setenv("CANARY_SLACK", c.secrets["slack"])
	c.token = c.hatch("next token of the API")
	c.t.Setenv("CANARY_TOKEN", c.token)
	next, err := penstock.LoadConfig(c.file, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := n.Reload(next); err != nil {
		c.t.Fatal(err)
	}
	c.send(c.webhook(n, "slack", "slack.message", ingress.Facts{ID: "id-slack-2", Text: c.ordinary}, nil), 202)

	c.t.Setenv("CANARY_STANDARD", "whsec_"+c.hatch("a secret that can't be a key")+"!")
	c.t.Setenv("CANARY_TOKEN", c.hatch("token")[:9]) // too short
	next, err = penstock.LoadConfig(c.file, nil)
	c.scan("the error of a wrong reload", fmt.Appendf(nil, "%v %+v %#v", err, err, err))
	_, err = n.Reload(next)
	c.scan("the error of a wrong reload", fmt.Appendf(nil, "%v %+v %#v", err, err, err))
	if err == nil {
		c.t.Error("secrets that can't be used were taken over")
	}
	c.t.Setenv("CANARY_STANDARD", c.secrets["standard"])
	c.t.Setenv("CANARY_TOKEN", c.token)
	c.send(c.webhook(n, "standard", "standard.invoice.paid", ingress.Facts{ID: "id-standard-2", Text: c.ordinary}, nil), 202)
}

// call is a request to the API with the right token, or another.
func (c *canaries) call(n *node, method, path, token, body string, headers ...string) answer {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, n.URL()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Cookie", "session="+c.known("cookie of a caller"))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	a := do(c.t, r, headers...)
	c.scan("answer of "+path, fmt.Appendf(nil, "%s %v", a.body, a.header))
	return a
}

// driveAPI sends commands and operations, with tokens right and wrong.
func (c *canaries) driveAPI(n *node) {
	if a := c.call(n, "GET", "/v1/events", c.hatch("wrong token"), ""); a.status != 401 {
		c.t.Errorf("a wrong token: %s", a)
	}
	c.call(n, "GET", "/v1/events", c.token+"x", "")
	grant := fmt.Sprintf(`{"customer":"cus_%s","amount":500,"currency":"eur"}`, c.ordinary)
	for _, body := range []string{grant, `{"customer":"cus_1","amount":-1,"currency":"eur"}`, `{"broken`, `{"unknown":1}`} {
		c.call(n, "POST", "/v1/commands/GrantCredit", c.token, body, "Prefer", "wait=30")
	}
	c.call(n, "POST", "/v1/commands/GrantCredit", c.token, grant, "If-Match", `"77"`, "Prefer", "wait=30")
	eventstoretest.Until(c.t, "a delivery is parked", func() bool {
		return strings.Contains(string(c.call(n, "GET", "/v1/parked", c.token, "").body), "evt_parked")
	})
}

// readEverything reads every URL that the API describes, with everything that there is for its parameters, and the feeds.
func (c *canaries) readEverything(n *node) {
	var doc struct {
		Paths map[string]map[string]any
	}
	c.call(n, "GET", "/openapi.json", c.token, "").into(c.t, &doc)
	var events struct{ Items []cloudEvent }
	eventstoretest.Until(c.t, "all deliveries are events", func() bool {
		return c.call(n, "GET", "/v1/events?limit=1000", c.token, "").into(c.t, &events) && len(events.Items) >= 6
	})
	var parked struct{ Items []struct{ ID string } }
	c.call(n, "GET", "/v1/parked", c.token, "").into(c.t, &parked)
	ids := []string{"nothing", "id-github", "id-standard", "id-figma", "evt_parked", events.Items[0].ID}
	for _, p := range parked.Items {
		ids = append(ids, p.ID)
	}
	values := map[string][]string{
		"source": {"github", "slack", "standard", "stripe", "shifting", "figma", "microsoft-graph", "gitlab"}, "id": ids, "category": {"github", "billing", "stripe"},
		"key": {"cus_" + c.ordinary, "octo/hello#12", "id-standard"}, "type": {"GrantCredit"},
		"name": {"streams", "deliveries", "parked", "balances", "github", "slack", "standard", "stripe", "shifting", "figma", "gitlab", "meta", "asana",
			"microsoft-graph", "okta", "postmark", "nothing"},
	}
	paths := []string{"/metrics", "/openapi.yaml", "/docs", "/", "/healthz", "/readyz", "/v1/events?from=latest", "/v1/status?verbose=true"}
	for path, methods := range doc.Paths {
		if methods["get"] != nil {
			paths = append(paths, fill(c.t, path, values)...)
		}
	}
	read := 0
	for _, path := range paths {
		if a := c.call(n, "GET", path, c.token, ""); a.status == 200 {
			read++
		}
		c.scan("answer of "+path, nil)
	}
	if read < len(doc.Paths)/2 {
		c.t.Errorf("only %d of %d URLs have an answer", read, len(paths))
	}
	for _, feed := range []string{"/v1/events?from=earliest", "/v1/projections/deliveries/changes?snapshot=true", "/v1/projections/parked/changes?snapshot=true"} {
		c.follow(n, feed)
	}
}

// fill puts every value of its parameters into a path.
func fill(t *testing.T, path string, values map[string][]string) []string {
	t.Helper()
	begin, end := strings.Index(path, "{"), strings.Index(path, "}")
	if begin < 0 {
		return []string{path}
	}
	name := path[begin+1 : end]
	if values[name] == nil {
		t.Errorf("%s has the parameter %s, of which this test knows no value", path, name)
	}
	var all []string
	for _, v := range values[name] {
		all = append(all, fill(t, path[:begin]+url.PathEscape(v)+path[end+1:], values)...)
	}
	return all
}

// follow reads a feed up to where it has caught up.
func (c *canaries) follow(n *node, path string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL()+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []byte
	for buf := make([]byte, 4096); !bytes.Contains(all, []byte("penstock.caught-up")); {
		n, err := resp.Body.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			c.t.Errorf("%s ends with %v after %d bytes %s", path, err, len(all), all)
			break
		}
	}
	c.scan("answer of "+path, all)
}

// scanTopics looks at every record: key, headers and value.
func (c *canaries) scanTopics(n *node) {
	for _, topic := range []string{"inbox", "events", "outcomes", "parked"} {
		records := readTopic(c.t, n.Brokers(), c.cfg.Kafka.Prefix+"."+topic)
		if len(records) == 0 {
			c.t.Errorf("topic %s is empty", topic)
		}
		for _, r := range records {
			b := slices.Concat(r.Key, []byte{0}, r.Value)
			for _, h := range r.Headers {
				b = append(append(append(append(b, 0), h.Key...), 0), h.Value...)
			}
			c.scan("topic "+topic, b)
			if !json.Valid(r.Value) {
				c.t.Errorf("topic %s has the value %q", topic, r.Value)
			}
		}
	}
}

// scanFolder looks at the files in the data folder.
func (c *canaries) scanFolder(when string) {
	files := 0
	err := filepath.WalkDir(c.cfg.Data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if rest, _ := filepath.Rel(c.cfg.Data, path); rest == filepath.Join("secrets", "asana.json") { // where it belongs
			if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 || !bytes.Contains(b, []byte(c.secrets["asana"])) {
				c.t.Errorf("the learned secret is kept as %v, %v", info, err)
			}
			return nil
		}
		c.scan("file "+path+" "+when, b)
		return nil
	})
	if err != nil || files < 4 {
		c.t.Errorf("%d files in the data folder, %v", files, err)
	}
}
