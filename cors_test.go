package penstock_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestPagesOfOtherOrigins: those that were named may read, with a token of their own, and nobody else's page may.
func TestPagesOfOtherOrigins(t *testing.T) {
	t.Setenv("CORS_TOKEN", "the token of a test")
	cfg := nodeConfig(t)
	cfg.Feeds.Origins = []string{"shop.example", "https://*.shop.example"}
	cfg.Auth.Tokens = []string{"env:CORS_TOKEN"}
	n := startNode(t, cfg)
	ask := func(method, path string, headers ...string) answer {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, n.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return do(t, r, headers...)
	}
	const token = "Bearer the token of a test"
	for _, c := range []struct {
		origin  string
		allowed bool
	}{
		{"https://shop.example", true}, {"http://shop.example", true}, {"https://www.shop.example", true}, {n.URL(), true},
		{"http://www.shop.example", false}, {"https://evilshop.example", false}, {"https://shop.example.evil", false}, {"https://shop.example:8443", false},
		{"null", false}, {"https://", false}, {"", false},
	} {
		want := ""
		if c.allowed {
			want = c.origin
		}
		var origin []string
		if c.origin != "" {
			origin = []string{"Origin", c.origin}
		}
		for _, path := range []string{"/v1/events", "/v1/events?until=now", "/v1/status", "/v1/projections/balances/rows", "/v1/streams/billing/cus_1"} {
			a := ask("GET", path, append(origin, "Authorization", token)...)
			if got := a.header.Get("Access-Control-Allow-Origin"); got != want || a.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s from %q: allows %q", path, c.origin, got)
			}
			if vary := strings.Join(a.header.Values("Vary"), ", "); !slices.Contains(strings.Split(vary, ", "), "Origin") {
				t.Errorf("%s from %q: varies by %q", path, c.origin, vary)
			}
			// What is wrong with a request is for the page to read too.
			if a := ask("GET", path, origin...); a.status != 401 || a.header.Get("Access-Control-Allow-Origin") != want {
				t.Errorf("%s from %q without a token: %d %v", path, c.origin, a.status, a.header)
			}
		}
		a := ask("OPTIONS", "/v1/events", append(origin, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization")...)
		if c.allowed != (a.status == 204) || a.header.Get("Access-Control-Allow-Origin") != want {
			t.Errorf("a question from %q: %d %v", c.origin, a.status, a.header)
		}
		if c.allowed && (a.header.Get("Access-Control-Allow-Methods") != "GET, HEAD" || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Authorization")) {
			t.Errorf("the answer to %q: %v", c.origin, a.header)
		}
	}
	for method, path := range map[string]string{"POST": "/v1/commands/GrantCredit", "GET": "/metrics"} {
		if a := ask(method, path, "Origin", "https://shop.example", "Authorization", token); a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %v", method, path, a.header)
		}
	}
}
