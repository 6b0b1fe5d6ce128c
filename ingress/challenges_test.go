package ingress

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
)

// shaken are the handshakes that were recorded.
func (n *node) shaken() (records []eventstore.Entry) {
	for _, e := range n.stored() {
		if strings.HasSuffix(e.Type, ".handshake") {
			records = append(records, e)
		}
	}
	return records
}

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// newDoor is a node whose sources have verify tokens and a folder for secrets, with change applied to each source.
func newDoor(t *testing.T, c *clock, change func(*Source)) *node {
	t.Helper()
	dir := t.TempDir()
	return newNode(t, func(cfg *Config) {
		cfg.Sources, cfg.Clock, cfg.SecretsDir = everySource(), c.time, dir
		for i := range cfg.Sources {
			s := &cfg.Sources[i]
			if s.VerifyToken = Secret("verify-" + s.Name); s.Name == "asana" || s.Name == "notion" {
				s.Secrets = nil
			}
			if change != nil {
				change(s)
			}
		}
	})
}

func always(s *Source) {
	if p, _ := ProviderNamed(s.Provider); !p.learns() {
		s.Handshake = HandshakeAlways
	}
}

func (n *node) arm(t *testing.T, source string) {
	t.Helper()
	if _, err := n.handler.Arm(source, DefaultArmed); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request that is not signed. headers are pairs.
func (n *node) ask(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, n.server.URL+"/hooks/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", jsonType)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return do(t, r)
}

func mac(key, message string) []byte {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(message))
	return m.Sum(nil)
}

func TestHandshakesBelongToRows(t *testing.T) {
	for name, all := range handshakes {
		if _, ok := ProviderNamed(name); !ok {
			t.Errorf("there is no row %q", name)
		}
		for _, s := range all {
			if s.name == "" || !strings.HasPrefix(s.docs, "https://") || s.proof == "" || s.token.in != nowhere && s.letters == "" {
				t.Errorf("%s: %+v lacks something", name, s)
			}
			if s.proof != bySignature && strings.ContainsAny(s.letters, `"'{}<>&\`+"\r\n\t") {
				t.Errorf("%s: its challenges can hold what must not be echoed", name)
			}
			computes := s.needs&needsSecret != 0
			if computes && (s.signs == nil && name != "zoom" || strings.ContainsAny(s.letters, ": ")) {
				t.Errorf("%s computes with the secret whatever it is given", name)
			}
		}
	}
}

// TestNoChallengeIsAMessage: what is signed under the key that answers challenges can't be written in their alphabets.
func TestNoChallengeIsAMessage(t *testing.T) {
	xml := base64.StdEncoding.EncodeToString([]byte("<notification></notification>"))
	for provider, messages := range map[string][]string{
		"zoom":      {"v0:1654503849:{}", "v0:1654503849:1", "v0:1654503849:"},
		"x":         {`{"a":1}`, "[]", "1", "12345678", "-1", "1.5", "true", "false", "null", `"a"`},
		"braintree": {xml, xml + "\n", strings.ToLower(xml), strings.Repeat("a", 33)},
	} {
		for _, m := range messages {
			if handshakes[provider][0].admits(m) {
				t.Errorf("%s takes %q for a challenge", provider, m)
			}
		}
	}
	for provider, challenge := range map[string]string{
		"zoom": "qgg8vlvZRS6UYooatFL8Aw", "x": "NjZhNDM3ODMtMWVhYS00Nzc3LWE4YzgtMjdkZGE5ZWUxYTI2", "braintree": "20f9f8ed05f77439fe955c977e4c8a53",
	} {
		if !handshakes[provider][0].admits(challenge) {
			t.Errorf("%s does not take %q for a challenge", provider, challenge)
		}
	}
}

// unsigned are the handshakes that nobody signs, as the providers ask, and the answers that they want.
func unsigned() []unsignedCase {
	const token = "Zk3-Xw_9.q7="
	sum := sha256.Sum256([]byte(token + "verify-ebay" + publicBase + "/hooks/ebay"))
	return []unsignedCase{
		{"zoom", "POST", "", `{"event":"endpoint.url_validation","event_ts":1,"payload":{"plainToken":"` + token + `"}}`, nil, jsonType,
			`{"encryptedToken":"` + hex.EncodeToString(mac("secret-of-zoom", token)) + `","plainToken":"` + token + `"}`},
		{"x", "GET", "?crc_token=" + url.QueryEscape(token), "", nil, jsonType,
			`{"response_token":"sha256=` + base64.StdEncoding.EncodeToString(mac("secret-of-x", token)) + `"}`},
		{"ebay", "GET", "?challenge_code=" + url.QueryEscape(token), "", nil, jsonType, `{"challengeResponse":"` + hex.EncodeToString(sum[:]) + `"}`},
		{"dropbox", "GET", "?challenge=" + url.QueryEscape(token), "", nil, "text/plain; charset=utf-8", token},
		{"microsoft-graph", "POST", "?validationToken=Validation%3A+Testing+client+application+reachability.+Request-Id%3A+3f0e-1", "",
			[]string{"Content-Type", "text/plain; charset=utf-8"}, "text/plain; charset=utf-8",
			"Validation: Testing client application reachability. Request-Id: 3f0e-1"},
		{"okta", "GET", "", "", []string{"X-Okta-Verification-Challenge", token}, jsonType, `{"verification":"` + token + `"}`},
	}
}

type unsignedCase struct {
	source, method, query, body string
	headers                     []string
	contentType, answer         string
}

func (c unsignedCase) ask(t *testing.T, n *node) answer {
	t.Helper()
	return n.ask(t, c.method, c.source+c.query, c.body, c.headers...)
}

// TestNobodysHandshake: what nobody signs is answered while the source is armed, or says always, and never else; each
// answer is recorded, without what was asked and answered.
func TestNobodysHandshake(t *testing.T) {
	clock := newClock()
	n := newDoor(t, clock, nil)
	refused := func(when string) {
		t.Helper()
		before := len(n.stored())
		for _, c := range unsigned() {
			if a := c.ask(t, n); a.status != 403 || a.Type != "/problems/handshake-not-armed" || strings.Contains(a.body, c.answer) {
				t.Errorf("%s, %s: %d %s", c.source, when, a.status, a.body)
			}
		}
		if len(n.stored()) != before {
			t.Errorf("%s: a refused handshake is recorded", when)
		}
	}
	refused("before it is armed")
	for i, c := range unsigned() {
		n.arm(t, c.source)
		a := c.ask(t, n)
		if a.status != 200 || a.body != c.answer || a.header.Get("Content-Type") != c.contentType || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v %s, want %s", c.source, a.status, a.header, a.body, c.answer)
		}
		e := n.last()
		if len(n.shaken()) != i+1 || e.Type != c.source+".handshake" || string(e.Stream) != c.source+"/handshake" ||
			e.Verification != c.source+"; handshake; window" || !json.Valid(e.Body) || !strings.Contains(string(e.Body), `"proof":"window"`) ||
			strings.Contains(string(e.Body), "Zk3-Xw") || strings.Contains(string(e.Body), "3f0e-1") {
			t.Errorf("%s is recorded as %+v: %s", c.source, e, e.Body)
		}
	}
	clock.pass(DefaultArmed)
	refused("after the window")
	n.arm(t, "zoom")
	if _, err := n.handler.Arm("zoom", 0); err != nil {
		t.Fatal(err)
	}
	refused("disarmed")

	n = newDoor(t, newClock(), always)
	for _, c := range unsigned() {
		if a := c.ask(t, n); a.status != 200 || a.body != c.answer || !strings.Contains(string(n.last().Body), `"proof":"always"`) {
			t.Errorf("%s, always: %d %s, recorded as %s", c.source, a.status, a.body, n.last().Body)
		}
	}
	n = newDoor(t, newClock(), func(s *Source) { s.Handshake = HandshakeOff })
	for _, c := range unsigned() {
		if a := c.ask(t, n); a.status != 403 || a.Type != "/problems/handshake-off" {
			t.Errorf("%s, off: %d %s", c.source, a.status, a.body)
		}
	}
}

// TestNoOracle: whoever asks for the answers to challenges of their own making, with the door wide open, gets no
// signature that the same door takes for a provider's.
func TestNoOracle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	clock := newClock()
	n := newDoor(t, clock, func(s *Source) { s.ContentTypes = []string{"*/*"}; always(s) })
	stamp := fmt.Sprint(clock.time().Unix())
	xml := base64.StdEncoding.EncodeToString([]byte("<notification><kind>check</kind></notification>"))
	bodies := []string{
		`{"event":"meeting.started","payload":{}}`, `{"a":1}`, `[]`, `1`, `12345678`, `1.5`, `-1e9`, `true`, `null`, `"text"`, `x=y`, `a.b=c`, `abc`, xml, xml + "\n",
		"deadbeefdeadbeefdeadbeef", "0123456789", "00000000000000000000",
	}
	const letters = wordLetters + `{}[]":, ` + "\n"
	for range 500 { // what could be a challenge, and what nearly could
		b := make([]byte, 1+rnd.IntN(40))
		from := []string{letters, wordLetters, hexLetters, "0123456789"}[rnd.IntN(4)]
		for i := range b {
			b[i] = from[rnd.IntN(len(from))]
		}
		bodies = append(bodies, string(b))
	}
	answered := map[string]int{}
	oracle := func(source string, a answer) (signature string, ok bool) {
		t.Helper()
		clock.pass(time.Minute) // the limit is not what is tested here
		switch {
		case a.status == 200:
			answered[source]++
			return a.body, true
		case a.status != 422 && a.status != 400:
			t.Errorf("%s: %d %s", source, a.status, a.body)
		}
		return "", false
	}
	forged := func(source, contentType, message string, headers ...string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", n.server.URL+"/hooks/"+source, strings.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", contentType)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		if a := do(t, r); a.status/100 != 4 {
			t.Errorf("%s took %q with a signature that it made itself: %d %s", source, message, a.status, a.body)
		}
	}
	for _, body := range bodies {
		for _, message := range []string{body, "v0:" + stamp + ":" + body} {
			quoted, _ := json.Marshal(message)
			if s, ok := oracle("zoom", n.ask(t, "POST", "zoom", `{"event":"endpoint.url_validation","payload":{"plainToken":`+string(quoted)+`}}`)); ok {
				var said struct{ EncryptedToken string }
				if json.Unmarshal([]byte(s), &said) != nil {
					t.Fatal(s)
				}
				for _, b := range []string{body, message} {
					forged("zoom", jsonType, b, "X-Zm-Signature", "v0="+said.EncryptedToken, "X-Zm-Request-Timestamp", stamp)
				}
			}
		}
		if s, ok := oracle("x", n.ask(t, "GET", "x?crc_token="+url.QueryEscape(body), "")); ok {
			var said struct {
				Token string `json:"response_token"`
			}
			if json.Unmarshal([]byte(s), &said) != nil {
				t.Fatal(s)
			}
			for _, contentType := range []string{jsonType, formType, "text/plain"} {
				forged("x", contentType, body, "X-Twitter-Webhooks-Signature", said.Token)
			}
		}
		if s, ok := oracle("braintree", n.ask(t, "GET", "braintree?bt_challenge="+url.QueryEscape(body), "")); ok {
			forged("braintree", formType, url.Values{"bt_signature": {s}, "bt_payload": {body}}.Encode())
		}
	}
	for _, source := range []string{"zoom", "x", "braintree"} {
		if answered[source] < 20 {
			t.Errorf("%s answered %d challenges: the attack did not attack", source, answered[source])
		}
	}
	for _, e := range n.stored() {
		if !strings.HasSuffix(e.Type, ".handshake") {
			t.Errorf("a forged delivery is stored: %s %q", e.Type, e.Body)
		}
	}
}

// TestBraintreeChallenge is the vector of Braintree's own libraries (braintree_python, test_webhooks.py).
func TestBraintreeChallenge(t *testing.T) {
	n := newDoor(t, newClock(), func(s *Source) {
		if s.Name == "braintree" {
			s.Secrets, s.VerifyToken = Keys(Secret("integration_private_key")), Secret("integration_public_key")
		}
	})
	n.arm(t, "braintree")
	a := n.ask(t, "GET", "braintree?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53", "")
	if a.status != 200 || a.body != "integration_public_key|d9b899556c966b3f06945ec21311865d35df3ce4" {
		t.Errorf("%d %s", a.status, a.body)
	}
	key := sha1.Sum([]byte("integration_private_key"))
	if strings.Contains(a.body, hex.EncodeToString(key[:])) {
		t.Error("the key is told")
	}
}

func TestSlackChallenge(t *testing.T) {
	registry := prometheus.NewRegistry()
	n := newNode(t, func(c *Config) { c.Registerer = registry })
	ask := func(challenge string) *http.Request {
		return n.signed(t, "slack", jsonType, `{"token":"t","challenge":"`+challenge+`","type":"url_verification"}`)
	}
	a := do(t, ask("3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"))
	if a.status != 200 || a.body != "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P" ||
		!strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %v %q", a.status, a.header, a.body)
	}
	if all := n.shaken(); len(all) != 1 {
		t.Errorf("%d handshakes are recorded", len(all))
	} else if e := all[0]; e.Type != "slack.handshake" || e.Stream != "slack/handshake" || e.Verification != "slack; handshake; signature" ||
		strings.Contains(string(e.Body), "3eZbrw1a") || !strings.Contains(string(e.Body), "url_verification") {
		t.Errorf("recorded: %+v, %s", e, e.Body)
	}
	r := ask("abc")
	r.Header.Set("X-Slack-Signature", "v0="+strings.Repeat("0", 64))
	if a := do(t, r); a.status != 401 || strings.Contains(a.body, "abc") {
		t.Errorf("a stranger got %d %q", a.status, a.body)
	}
	for _, bad := range []string{"", "<script>", "v0:1:x", "a b", strings.Repeat("x", maxChallenge+1)} {
		if a := do(t, ask(bad)); a.status != 422 || a.Field != "challenge" {
			t.Errorf("%q: %d %q", bad, a.status, a.body)
		}
	}
	if all := n.stored(); len(all) != 1 {
		t.Errorf("what was refused is recorded: %+v", all)
	}
	for _, want := range []string{"webhook_handshakes_total result=answered source=slack 1", "webhook_handshakes_total result=invalid-delivery source=slack 5"} {
		if got := series(t, registry); !slices.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// TestSignedHandshakes: what the provider signs needs no arming, and a wrong signature is 401, whatever is asked.
func TestSignedHandshakes(t *testing.T) {
	n := newDoor(t, newClock(), nil)
	zoom := `{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}`
	for _, c := range []struct {
		source, body string
		headers      []string
		status       int
		answer       string
	}{
		{"twitch", `{"challenge":"pogchamp-kappa-360noscope-vohiyo","subscription":{"type":"user.follow"}}`, []string{
			"Twitch-Eventsub-Message-Type", "webhook_callback_verification", "Twitch-Eventsub-Message-Id", "m-1",
			"Twitch-Eventsub-Subscription-Type", "user.follow"}, 200, "pogchamp-kappa-360noscope-vohiyo"},
		{"discord", `{"version":1,"application_id":"1","type":0}`, nil, 204, ""},
		{"discord", `{"id":"2","application_id":"1","token":"t","type":1,"version":1}`, nil, 200, `{"type":1}`},
		{"zoom", zoom, nil, 200, `{"encryptedToken":"` + hex.EncodeToString(mac("secret-of-zoom", "qgg8vlvZRS6UYooatFL8Aw")) + `","plainToken":"qgg8vlvZRS6UYooatFL8Aw"}`},
	} {
		a := do(t, n.signed(t, c.source, jsonType, c.body, c.headers...))
		if a.status != c.status || a.body != c.answer || !strings.HasSuffix(n.last().Verification, "; handshake; signature") {
			t.Errorf("%s: %d %q, recorded as %q", c.source, a.status, a.body, n.last().Verification)
		}
		before := len(n.stored())
		r := n.signed(t, c.source, jsonType, c.body+" ", c.headers...)
		r2 := n.signed(t, c.source, jsonType, c.body, c.headers...)
		r2.Header = r.Header // of another body
		if a := do(t, r2); a.status != 401 || len(n.stored()) != before {
			t.Errorf("%s with a wrong signature: %d %q", c.source, a.status, a.body)
		}
	}
	// One that is sent again is the same one, and so the same event.
	r := n.signed(t, "zoom", jsonType, zoom)
	for range 2 {
		again := r.Clone(t.Context())
		again.Body = io.NopCloser(strings.NewReader(zoom))
		if a := do(t, again); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if all := n.stored(); all[len(all)-1].ID != all[len(all)-2].ID || !strings.HasPrefix(all[len(all)-1].ID, "handshake-") {
		t.Errorf("%q and %q", all[len(all)-2].ID, all[len(all)-1].ID)
	}
	// An event of Discord has type 1 too.
	a := do(t, n.signed(t, "discord", jsonType, `{"version":1,"application_id":"1","type":1,"event":{"type":"APPLICATION_AUTHORIZED","timestamp":"2026-01-01T00:00:00Z"}}`))
	if a.status != 202 {
		t.Errorf("an event: %d %s", a.status, a.body)
	}
	// Armed or not, a signature that is there counts.
	n.arm(t, "zoom")
	if a := n.ask(t, "POST", "zoom", zoom, "X-Zm-Signature", "v0="+strings.Repeat("0", 64), "X-Zm-Request-Timestamp", fmt.Sprint(time.Now().Unix())); a.status != 401 {
		t.Errorf("a wrong signature of an armed source: %d %s", a.status, a.body)
	}
}

// TestHandshakesOfWhatNobodyVerifies: a source without verification accepts every signature, which therefore shows nothing.
func TestHandshakesOfWhatNobodyVerifies(t *testing.T) {
	n := newDoor(t, newClock(), func(s *Source) { s.Unverified, s.Secrets = true, nil })
	ask := func() answer {
		return n.ask(t, "POST", "slack", `{"type":"url_verification","challenge":"abc"}`)
	}
	if a := ask(); a.status != 403 || a.Type != "/problems/handshake-not-armed" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.ask(t, "GET", "okta", "", "X-Okta-Verification-Challenge", "abc"); a.status != 403 {
		t.Errorf("%d %s", a.status, a.body)
	}
	n = newDoor(t, newClock(), func(s *Source) {
		s.Unverified, s.Secrets = true, nil
		always(s)
	})
	if a := ask(); a.status != 200 || a.body != "abc" || n.last().Verification != "slack; handshake; always" {
		t.Errorf("%d %s, recorded as %s", a.status, a.body, n.last().Verification)
	}
	if a := n.ask(t, "POST", "sns", `{"Type":"SubscriptionConfirmation","Token":"t","TopicArn":"`+sampleTopic+`","SubscribeURL":"https://sns.eu-central-1.amazonaws.com/"}`); a.status != 403 {
		t.Errorf("sns: %d %s", a.status, a.body)
	}
}

func TestMetaChallenge(t *testing.T) {
	n := newDoor(t, newClock(), nil)
	ask := func(query string) answer { return n.ask(t, "GET", "meta?"+query, "") }
	if a := ask("hub.mode=subscribe&hub.verify_token=verify-meta&hub.challenge=1158201444"); a.status != 200 || a.body != "1158201444" ||
		n.last().Verification != "meta; handshake; verify token" || strings.Contains(string(n.last().Body), "verify-meta") {
		t.Errorf("%d %q, recorded as %+v", a.status, a.body, n.last())
	}
	for query, status := range map[string]int{
		"hub.mode=subscribe&hub.verify_token=verify-met&hub.challenge=1":                            403,
		"hub.mode=subscribe&hub.verify_token=&hub.challenge=1":                                      403,
		"hub.mode=subscribe&hub.challenge=1":                                                        403,
		"hub.mode=subscribe&hub.verify_token=x&hub.verify_token=verify-meta&hub.challenge=1":        403,
		"hub.mode=subscribe&hub.verify_token=verify-meta&hub.challenge=%3Cscript%3E":                422,
		"hub.mode=subscribe&hub.verify_token=verify-meta&hub.challenge=":                            422,
		"hub.mode=unsubscribe&hub.verify_token=verify-meta&hub.challenge=1":                         405,
		"hub.mode=subscribe&hub.verify_token=verify-meta":                                           405,
		"hub.mode=subscribe&hub.verify_token=verify-meta&hub.challenge=" + strings.Repeat("1", 300): 422,
	} {
		if a := ask(query); a.status != status || strings.Contains(a.body, "verify-meta") || strings.Contains(a.body, "script") {
			t.Errorf("%s: %d %s, want %d", query, a.status, a.body, status)
		}
	}
	if len(n.stored()) != 1 {
		t.Errorf("%d records", len(n.stored()))
	}
	n = newDoor(t, newClock(), func(s *Source) { s.VerifyToken = nil })
	if a := ask("hub.mode=subscribe&hub.verify_token=&hub.challenge=1"); a.status != 403 {
		t.Errorf("without a token: %d %s", a.status, a.body)
	}
}

// TestHandshakesAreLimited: also a door that is always open answers and records only so many.
func TestHandshakesAreLimited(t *testing.T) {
	clock := newClock()
	n := newDoor(t, clock, always)
	ask := func() answer { return n.ask(t, "GET", "x?crc_token=abc", "") }
	for range 2 * shakesPerMinute { // what is no challenge takes nothing of it
		if a := n.ask(t, "GET", "x?crc_token=%3C", ""); a.status == 200 || a.status == 429 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	for range shakesPerMinute {
		if a := ask(); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	a := ask()
	if a.status != 429 || a.header.Get("Retry-After") == "" || a.Type != "/problems/too-many-handshakes" {
		t.Errorf("one more: %d %v %s", a.status, a.header, a.body)
	}
	// A reload must not fill it up again, and other sources have their own.
	if err := n.handler.Reload(sourcesOf(n.handler)); err != nil {
		t.Fatal(err)
	}
	if a := ask(); a.status != 429 {
		t.Errorf("after a reload: %d %s", a.status, a.body)
	}
	if a := n.ask(t, "GET", "dropbox?challenge=abc", ""); a.status != 200 {
		t.Errorf("another source: %d %s", a.status, a.body)
	}
	clock.pass(time.Minute)
	if a := ask(); a.status != 200 {
		t.Errorf("a minute later: %d %s", a.status, a.body)
	}
}

// TestOneStrangerDoesNotKeepOthersOut, and all of them together can only do so much.
func TestOneStrangerDoesNotKeepOthersOut(t *testing.T) {
	s, now := newShakes(""), time.Now()
	client := func(i int) netip.Prefix { return clientOf(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})) }
	for range 2 * shakesPerMinute {
		s.spend("x", client(1), now)
	}
	if s.spend("x", client(1), now) == 0 || s.spend("x", client(2), now) != 0 {
		t.Error("the budget is not each client's own")
	}
	taken := 0
	for i := range 250 {
		if s.spend("x", client(i+3), now) == 0 {
			taken++
		}
	}
	if want := strangersPerMinute - shakesPerMinute - 1; taken != want {
		t.Errorf("%d more were answered, want %d", taken, want)
	}
}

func sourcesOf(h *Handler) (all []Source) {
	for _, rt := range *h.routes.Load() {
		all = append(all, rt.source)
	}
	return all
}

// TestProbes: some providers only ask whether the URL is there.
func TestProbes(t *testing.T) {
	n := newDoor(t, newClock(), nil)
	for _, source := range []string{"trello", "mandrill"} {
		if a := n.ask(t, "HEAD", source, ""); a.status != 200 {
			t.Errorf("%s: %d", source, a.status)
		}
	}
	if a := n.ask(t, "GET", "vercel", ""); a.status != 200 || a.header.Get("X-Vercel-Verify") != "verify-vercel" {
		t.Errorf("vercel: %d %v", a.status, a.header)
	}
	if a := n.ask(t, "POST", "vercel", "{}"); a.status != 401 || a.header.Get("X-Vercel-Verify") != "verify-vercel" {
		t.Errorf("vercel, POST: %d %v", a.status, a.header)
	}
	if a := n.ask(t, "GET", "github", ""); a.status != 405 || a.header.Get("Allow") != "POST" {
		t.Errorf("github: %d %v", a.status, a.header)
	}
	if a := n.ask(t, "PUT", "dropbox", ""); a.status != 405 || a.header.Get("Allow") != "POST, GET" {
		t.Errorf("dropbox: %d %v", a.status, a.header)
	}
}

func TestArm(t *testing.T) {
	clock := newClock()
	n := newDoor(t, clock, nil)
	for source, why := range map[string]string{"github": "no handshake", "slack": "no handshake", "meta": "no handshake", "trello": "no handshake", "nope": "no source"} {
		if _, err := n.handler.Arm(source, time.Minute); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", source, err)
		}
	}
	for _, wait := range []time.Duration{-1, maxArmed + 1} {
		if _, err := n.handler.Arm("zoom", wait); err == nil {
			t.Errorf("for %v", wait)
		}
	}
	s, err := n.handler.Arm("zoom", time.Minute)
	if err != nil || s.Mode != HandshakeArmed || !s.Until.Equal(clock.time().Add(time.Minute)) || len(s.Kinds) != 1 || s.Kinds[0].Proof != string(byEither) {
		t.Errorf("%+v, %v", s, err)
	}
	if err := n.handler.Reload(sourcesOf(n.handler)); err != nil {
		t.Fatal(err)
	}
	if s, err := n.handler.Handshakes("zoom"); err != nil || s.Until.IsZero() {
		t.Errorf("after a reload: %+v, %v", s, err)
	}
	clock.pass(time.Minute)
	if s, err := n.handler.Handshakes("zoom"); err != nil || !s.Until.IsZero() {
		t.Errorf("after the window: %+v, %v", s, err)
	}
	for _, bad := range []Source{{Handshake: "sometimes"}, {Provider: "asana", Handshake: HandshakeAlways}} {
		s := sourceOf(Providers[0])
		s.Provider, s.Handshake = first(bad.Provider, s.Provider), bad.Handshake
		if err := n.handler.Reload([]Source{s}); err == nil || !strings.Contains(err.Error(), "handshake") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
