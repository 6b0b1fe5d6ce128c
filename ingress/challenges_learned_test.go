package ingress

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func signedBy(t *testing.T, n *node, secret, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", n.server.URL+"/hooks/asana", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", jsonType)
	r.Header.Set("X-Hook-Signature", hex.EncodeToString(mac(secret, body)))
	return r
}

// TestAsanaTeachesItsSecret: while the source is armed the first secret that comes is kept, durably and for its user
// alone, and from then on counts; the next one is refused.
func TestAsanaTeachesItsSecret(t *testing.T) {
	const secret, event = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81", `{"events":[]}`
	clock := newClock()
	n := newDoor(t, clock, nil)
	teach := func(secret string) answer { return n.ask(t, "POST", "asana", "{}", "X-Hook-Secret", secret) }
	if a := do(t, signedBy(t, n, secret, event)); a.status != 401 {
		t.Errorf("before it is known: %d %s", a.status, a.body)
	}
	if a := teach(secret); a.status != 403 || a.header.Get("X-Hook-Secret") != "" {
		t.Errorf("not armed: %d %v", a.status, a.header)
	}
	n.arm(t, "asana")
	for _, bad := range []string{"<script>", "a b", strings.Repeat("x", maxChallenge+1)} {
		if a := teach(bad); a.status != 422 || a.header.Get("X-Hook-Secret") != "" {
			t.Errorf("%q: %d %s", bad, a.status, a.body)
		}
	}
	if a := teach(secret); a.status != 200 || a.header.Get("X-Hook-Secret") != secret {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	for _, e := range n.stored() {
		if strings.Contains(fmt.Sprintf("%+v %s", e, e.Body), secret) {
			t.Errorf("the secret is recorded: %+v", e)
		}
	}
	if strings.Contains(n.logged.String(), secret) {
		t.Error("the secret is logged")
	}
	if a := teach("another-secret-from-a-stranger"); a.status != 403 || a.header.Get("X-Hook-Secret") != "" {
		t.Errorf("the next one: %d %s", a.status, a.body)
	}
	accepted := func(when string, n *node) {
		t.Helper()
		if a := do(t, signedBy(t, n, secret, event)); a.status != 202 {
			t.Errorf("%s: %d %s", when, a.status, a.body)
		}
		if a := do(t, signedBy(t, n, "another-secret-from-a-stranger", event)); a.status != 401 {
			t.Errorf("%s, by a stranger: %d %s", when, a.status, a.body)
		}
	}
	accepted("once it is known", n)
	if err := n.handler.Reload(sourcesOf(n.handler)); err != nil {
		t.Fatal(err)
	}
	accepted("after a reload", n)
	path := filepath.Join(n.handler.shakes.dir, "asana.json")
	if at, err := os.Stat(path); err != nil || at.Mode() != 0o600 {
		t.Errorf("%v, %v", at, err)
	}
	if left, err := filepath.Glob(filepath.Join(n.handler.shakes.dir, ".new-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	again := newNode(t, func(c *Config) {
		c.Sources, c.SecretsDir = everySource(), n.handler.shakes.dir
		for i := range c.Sources {
			if c.Sources[i].Name == "asana" {
				c.Sources[i].Secrets = nil
			}
		}
	})
	accepted("after a restart", again)
	if s, err := again.handler.Handshakes("asana"); err != nil || len(s.Learned) != 1 || !s.Learned[0].Equal(clock.time()) {
		t.Errorf("%+v, %v", s, err)
	}

	// What a source can learn is bounded.
	for i := 1; i < maxLearned; i++ {
		n.arm(t, "asana")
		if a := teach(fmt.Sprintf("secret-number-%d", i)); a.status != 200 {
			t.Fatalf("%d: %d %s", i, a.status, a.body)
		}
		clock.pass(time.Minute)
	}
	n.arm(t, "asana")
	if a := teach("one-too-many"); a.status != 403 || a.Type != "/problems/handshake-full" {
		t.Errorf("%d %s", a.status, a.body)
	}
	accepted("with eight", n)
}

// TestOneLearnsOneSecret: of many who come at once, one teaches its secret, and only that one is told so.
func TestOneLearnsOneSecret(t *testing.T) {
	n := newDoor(t, newClock(), nil)
	n.arm(t, "asana")
	var told atomic.Int32
	var winner atomic.Value
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			secret := fmt.Sprintf("secret-of-racer-%d", i)
			r, err := http.NewRequestWithContext(t.Context(), "POST", n.server.URL+"/hooks/asana", strings.NewReader("{}"))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("X-Hook-Secret", secret)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode == 200 && resp.Header.Get("X-Hook-Secret") == secret {
				told.Add(1)
				winner.Store(secret)
			}
		})
	}
	wg.Wait()
	keys := n.handler.shakes.keysOf("asana")
	if told.Load() != 1 || len(keys) != 1 || string(keys[0]) != winner.Load() {
		t.Errorf("%d were told so, %d secrets are kept", told.Load(), len(keys))
	}
}

func TestNotionTeachesItsToken(t *testing.T) {
	n := newDoor(t, newClock(), nil)
	body := `{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}`
	if a := n.ask(t, "POST", "notion", body); a.status/100 != 4 {
		t.Errorf("not armed: %d %s", a.status, a.body)
	}
	n.arm(t, "notion")
	if a := n.ask(t, "POST", "notion", body); a.status != 200 || len(n.handler.shakes.keysOf("notion")) != 1 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, e := range n.stored() {
		if strings.Contains(string(e.Body), "secret_") {
			t.Errorf("the token is recorded: %s", e.Body)
		}
	}
}

// TestWhatCantBeKeptIsNotLearned: nobody is told that a secret is known which a restart would forget.
func TestWhatCantBeKeptIsNotLearned(t *testing.T) {
	n := newDoor(t, newClock(), nil)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.handler.shakes.dir = filepath.Join(file, "below") // also root can't make it
	n.arm(t, "asana")
	if a := n.ask(t, "POST", "asana", "{}", "X-Hook-Secret", "a-secret"); a.status != 503 || a.header.Get("X-Hook-Secret") != "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if len(n.handler.shakes.keysOf("asana")) != 0 {
		t.Error("it is learned all the same")
	}
	n = newNode(t, func(c *Config) { c.Sources = everySource() })
	if _, err := n.handler.Arm("asana", time.Minute); err == nil {
		t.Error("armed without a folder")
	}
}

func TestBrokenLearnedSecrets(t *testing.T) {
	dir := t.TempDir()
	many, _ := json.Marshal(make([]learned, maxLearned+1))
	for _, content := range []string{"hunter2", `[{"secret":""}]`, string(many), ""} {
		if err := os.WriteFile(filepath.Join(dir, "asana.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p, _ := ProviderNamed("asana")
		_, err := New(Config{Sources: []Source{{Name: "asana", Provider: p.Name}}, SecretsDir: dir, Append: nil})
		if err == nil || !strings.Contains(err.Error(), "asana.json") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", content, err)
		}
	}
}
