package ingress

import (
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

func TestARushIsNoticed(t *testing.T) {
	for _, c := range []struct {
		of   time.Duration // between two
		want bool
	}{
		{rushSpan / time.Duration(rushCount) * 9 / 10, true},
		{rushSpan / time.Duration(rushCount) * 11 / 10, false},
	} {
		var h Handler
		now := time.Now()
		for range 3 * rushCount {
			now = now.Add(c.of)
			h.rush.count(now)
		}
		if got := h.rush.until.Load() > now.UnixNano(); got != c.want {
			t.Errorf("one every %v: %v, want %v", c.of, got, c.want)
		}
	}
}

// TestStrangersMakeNoRush, and one is over soon after.
func TestStrangersMakeNoRush(t *testing.T) {
	n := newNode(t, nil)
	n.handler.rush.deliveries.Store(rushCount - 1)
	n.handler.rush.marked.Store(time.Now().Add(time.Hour).UnixNano()) // whatever is complete next was fast
	bad := n.signed(t, "github", jsonType, "{}")
	bad.Header.Set("X-Hub-Signature-256", "sha256=00")
	if a := do(t, bad); a.status != 401 || n.handler.Rush() {
		t.Errorf("%d, rush %v", a.status, n.handler.Rush())
	}
	if a := do(t, n.signed(t, "github", jsonType, "{}")); a.status != 202 || !n.handler.Rush() {
		t.Errorf("%d, rush %v", a.status, n.handler.Rush())
	}
	eventstoretest.Until(t, "the rush is over", func() bool { return !n.handler.Rush() })
}
