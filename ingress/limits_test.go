package ingress

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestLimits(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	l := newLimiter(Limits{Rate: 10, Burst: 4, ClientRate: 1, ClientBurst: 2})
	ask := func(from string) string {
		scope, wait := l.allow(netip.MustParseAddr(from), now)
		if (scope == "") != (wait == 0) {
			t.Errorf("%q, %v", scope, wait)
		}
		return scope
	}
	for i, c := range []struct{ from, want string }{
		{"192.0.2.1", ""}, {"192.0.2.1", ""}, {"192.0.2.1", scopeClient}, {"::ffff:192.0.2.1", scopeClient},
		{"2001:db8::1", ""}, {"2001:db8::ffff:1", ""}, {"2001:db8::2", scopeClient}, // one /64
		{"2001:db8:0:1::1", scopeSource},
	} {
		if got := ask(c.from); got != c.want {
			t.Errorf("%d, %s: %q, want %q", i, c.from, got, c.want)
		}
	}
	now = now.Add(time.Second) // one more for each client, four for the source
	if ask("192.0.2.1") != "" || ask("192.0.2.1") != scopeClient || ask("2001:db8::1") != "" {
		t.Error("a second later")
	}
	if scope, _ := (*limiter)(nil).allow(netip.Addr{}, now); scope != "" {
		t.Error("a source without limits has one")
	}
}

// However many addresses send, so many are remembered; and who goes on sending is not forgotten.
func TestClientsThatAreRememberedAreBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	l := newLimiter(Limits{ClientRate: 0.001, ClientBurst: 1})
	steady := netip.MustParseAddr("192.0.2.1")
	l.allow(steady, now)
	for i := range 5 * maxClients {
		l.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
		if i%(maxClients/4) == 0 {
			if scope, _ := l.allow(steady, now); scope != scopeClient {
				t.Fatalf("forgotten after %d others", i)
			}
		}
	}
	if n := len(l.young) + len(l.old); n > maxClients {
		t.Errorf("%d clients are remembered", n)
	}
}

func TestTooManyRequestsAreRefusedBeforeTheyAreRead(t *testing.T) {
	registry := prometheus.NewRegistry()
	var later atomic.Int64
	n := newNode(t, func(c *Config) {
		c.Registerer = registry
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
		c.Sources[0].Limits = Limits{ClientRate: 0.01, ClientBurst: 2}
	})
	for i := range 2 {
		if a := do(t, n.signed(t, "github", jsonType, "{}")); a.status != 202 {
			t.Errorf("%d: %d %s", i, a.status, a.body)
		}
	}
	r := n.signed(t, "github", jsonType, "{}")
	read := false
	r.Body = http.NoBody
	r.Body = readerFunc(func(p []byte) (int, error) { read = true; return 0, fmt.Errorf("read") })
	r.ContentLength = 10
	r.Header.Set("Expect", "100-continue")
	a := do(t, r)
	if a.status != 429 || a.Type != "/problems/rate-limited" || a.header.Get("Retry-After") == "" || a.header.Get("Retry-After") == "0" || read {
		t.Errorf("%d %s, Retry-After %q, read %v", a.status, a.body, a.header.Get("Retry-After"), read)
	}
	// A reload doesn't lift a limit that stays the same.
	source := Source{Name: "github", Provider: "github", Secrets: Keys(secretOf("github")), Limits: Limits{ClientRate: 0.01, ClientBurst: 2}}
	if err := n.handler.Reload([]Source{source}); err != nil {
		t.Fatal(err)
	}
	if a := do(t, n.signed(t, "github", jsonType, "{}")); a.status != 429 {
		t.Errorf("after a reload: %d %s", a.status, a.body)
	}
	if want := "webhook_rate_limited_total scope=client source=github 2"; !slices.Contains(series(t, registry), want) {
		t.Errorf("no %q in\n%s", want, strings.Join(series(t, registry), "\n"))
	}
	later.Store(int64(200 * time.Second))
	if a := do(t, n.signed(t, "github", jsonType, "{}")); a.status != 202 {
		t.Errorf("later: %d %s", a.status, a.body)
	}
	for _, bad := range []Limits{{Rate: -1}, {ClientRate: maxRate + 1}, {Burst: 1}, {Rate: 1, ClientBurst: 1}} {
		source.Limits = bad
		if err := n.handler.Reload([]Source{source}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
func (readerFunc) Close() error                 { return nil }
