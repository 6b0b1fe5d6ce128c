package ingress

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// While a secret was on its way to the disk, every delivery of every source that learns, and every handshake, waited for
// the disk as well.
func TestNobodyWaitsForTheDiskOfALearner(t *testing.T) {
	n := newDoor(t, newClock(), nil)
	s := n.handler.shakes
	begun, disk := make(chan struct{}), make(chan error)
	s.keep = func(dir, path string, content []byte) error {
		begun <- struct{}{}
		if err := <-disk; err != nil {
			return err
		}
		return writeDurably(dir, path, content)
	}
	teach := func(secret string) <-chan answer {
		got := make(chan answer, 1)
		go func() { got <- n.ask(t, "POST", "asana", "{}", "X-Hook-Secret", secret) }()
		return got
	}
	n.arm(t, "asana")
	first := teach("the-first-secret")
	<-begun
	// All of this takes the lock; a test that hangs here has failed.
	if a := <-teach("the-second-secret"); a.status != 403 || a.Type != "/problems/handshake-not-armed" {
		t.Errorf("while one is being kept: %d %s", a.status, a.body)
	}
	if keys := s.keysOf("notion"); len(keys) > 0 || s.keysOf("asana") != nil {
		t.Error("a secret counts that isn't kept")
	}
	n.arm(t, "notion")
	disk <- os.ErrPermission
	if a := <-first; a.status != 503 || len(s.keysOf("asana")) > 0 {
		t.Errorf("the disk fails: %d %s", a.status, a.body)
	}
	// The window is open still, and one that is opened while a secret is kept stays so.
	second := teach("the-second-secret")
	<-begun
	n.handler.clock = func() time.Time { return time.Now().Add(time.Hour) } // another end than that of the first window
	n.arm(t, "asana")
	disk <- nil
	if a := <-second; a.status != 200 || !slices.EqualFunc(s.keysOf("asana"), []string{"the-second-secret"}, func(k Secret, want string) bool { return string(k) == want }) {
		t.Errorf("another try: %d %s", a.status, a.body)
	}
	if h, err := n.handler.Handshakes("asana"); err != nil || h.Until.IsZero() {
		t.Errorf("the new window is closed: %+v, %v", h, err)
	}
}

// What a process left that died while it wrote a secret is removed at the next start, and nothing else is.
func TestLeftoversOfLearnedSecretsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	stay := []string{".new-", ".new-x1", ".newer-1", "asana.json", "new-1"}
	for _, name := range append([]string{".new-1", ".new-4294967295"}, stay...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("[]"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newNode(t, func(c *Config) { c.SecretsDir = dir })
	if got := names(dir); !slices.Equal(got, stay) {
		t.Errorf("left: %q, want %q", got, stay)
	}
}
