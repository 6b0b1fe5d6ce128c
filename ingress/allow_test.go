package ingress

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestParseRange(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.0/24": "192.0.2.0/24", "192.0.2.7": "192.0.2.7/32", "2001:db8::/32": "2001:db8::/32",
		"2001:db8::1":         "2001:db8::1/128", // one machine, not 2^96 of them
		"::ffff:192.0.2.7":    "192.0.2.7/32",
		"::ffff:10.0.0.0/104": "10.0.0.0/8", "::/0": "::/0",
		"192.0.2.7/24": "", "::ffff:0.0.0.0/95": "", "fe80::1%eth0": "", "example.org": "", "": "", "192.0.2.0/33": "", "192.0.2": "", "10.0.0.0 /8": "",
	} {
		if p, err := parseRange(text); (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %s, %v, want %q", text, p, err, want)
		}
	}
}

func TestRangesContain(t *testing.T) {
	list, err := parseRanges([]string{"192.0.2.0/24", "192.0.2.128/25", "198.51.100.7", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	r := rangesOf(list)
	for text, want := range map[string]bool{
		"192.0.2.0": true, "192.0.2.255": true, "192.0.3.0": false, "198.51.100.7": true, "198.51.100.6": false,
		"2001:db8:ffff::1": true, "2001:db9::": false, "::ffff:192.0.2.1": true, "::192.0.2.1": false,
	} {
		if got := r.contains(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if r.contains(netip.Addr{}) {
		t.Error("an address that isn't known is in a range")
	}
	if _, err := parseRanges([]string{"0.0.0.0/0"}); err == nil {
		t.Error("a list that allows everybody")
	}
}

func TestAllowFiles(t *testing.T) {
	for content, want := range map[string]string{
		"192.0.2.0/24\n# hooks\n  2001:db8::/32  # v6\r\n\n": "[192.0.2.0/24 2001:db8::/32]",
		`["192.0.2.1"]`: "[192.0.2.1/32]",
		`{"verifiable_password_authentication":false,"ssh_keys":["x"],"hooks":["192.30.252.0/22","2a0a:a440::/29"],"web":["10.0.0.0/8"]}`: "[192.30.252.0/22 2a0a:a440::/29]",
		"{\n  \"WEBHOOKS\": [\n \"3.18.12.63\",\n \"3.130.192.231\"\n]}":                                                                  "[3.18.12.63/32 3.130.192.231/32]",
		"": "", "# nothing\n": "", "[]": "", `{"hooks":[]}`: "", `{"API":["1.2.3.4"]}`: "", `{"hooks":"1.2.3.4"}`: "", `["1.2.3.4"`: "", `[1]`: "",
		"192.0.2.0/24 192.0.3.0/24": "", "<html>": "", "192.0.2.0/24\nnope\n": "", "0.0.0.0/0": "",
	} {
		list, err := parseAllowFile([]byte(content))
		if (err == nil) != (want != "") || err == nil && fmt.Sprint(list) != want {
			t.Errorf("%q: %v, %v, want %q", content, list, err, want)
		}
	}
}

// A file is followed; a broken one changes nothing but is said in the log, the metric and the status.
func TestAnAllowFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hooks")
	// A new file in place of the old one, as careful programs write it.
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("192.0.2.0/24\n")
	registry := prometheus.NewRegistry()
	n := newNode(t, func(c *Config) { c.Sources[0].AllowFile, c.Registerer = path, registry })
	status := func() int { return do(t, n.signed(t, "github", jsonType, "{}")).status }
	broken := func(want string) {
		t.Helper()
		s, _ := n.handler.Source("github")
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		gauge := -1.0
		for _, f := range families {
			if f.GetName() == "webhook_allow_file_broken" {
				gauge = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		if (gauge == 1) != (want != "") || !strings.Contains(s.Allow.Problem, want) || want == "" && s.Allow.Problem != "" {
			t.Errorf("gauge %v, status %+v, want %q", gauge, s.Allow, want)
		}
	}
	if a := do(t, n.signed(t, "github", jsonType, "{}")); a.status != 403 || a.Type != "/problems/address-not-allowed" {
		t.Errorf("%d %s", a.status, a.body)
	}
	do(t, n.signed(t, "github", jsonType, "{}", "X-Forwarded-For", "192.0.2.1"))
	if last, _, _ := n.handler.Refusals("github"); !strings.Contains(last[0].Hint, "127.0.0.1, which trusted_proxies doesn't name") || last[1].Hint != "" {
		t.Errorf("%+v", last)
	}
	broken("")
	write("127.0.0.0/8\n::1\n")
	n.handler.reloadFiles()
	if status() != 202 {
		t.Error("the new file isn't used")
	}
	write("127.0.0.0/8\nnope\n")
	n.handler.reloadFiles()
	n.handler.reloadFiles()
	if status() != 202 || strings.Count(n.logged.String(), "can't be reloaded") != 1 {
		t.Errorf("a broken file: %s", n.logged)
	}
	broken(`"nope" is no address range`)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	n.handler.reloadFiles()
	if status() != 202 {
		t.Error("without the file nobody is let in")
	}
	broken("no such file")
	write("192.0.2.0/24\n")
	n.handler.reloadFiles()
	if status() != 403 {
		t.Error("the mended file isn't used")
	}
	broken("")
	// In place, with the same length: its time tells.
	if err := os.WriteFile(path, []byte("127.0.0.0/8 \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	n.handler.reloadFiles()
	if status() != 202 {
		t.Error("a file that is changed in place isn't used")
	}
	for name, make := range map[string]func(string) error{
		"a folder": func(p string) error { return os.Mkdir(p, 0o700) },
		"large":    func(p string) error { return os.WriteFile(p, slices.Repeat([]byte("#"), maxAllowFile+1), 0o600) },
		"none":     func(string) error { return nil },
	} {
		other := filepath.Join(t.TempDir(), "other")
		if err := make(other); err != nil {
			t.Fatal(err)
		}
		source := Source{Name: "x", Provider: "github", Secrets: Keys(Secret("x")), AllowFile: other}
		if err := n.handler.Reload([]Source{source}); err == nil {
			t.Errorf("%s is taken for a list", name)
		}
	}
}

func TestTheClientsAddress(t *testing.T) {
	direct, err := ParseProxies([]string{"10.0.0.0/8", "127.0.0.1", "2001:db8::/32"}, "")
	if err != nil {
		t.Fatal(err)
	}
	rfc := direct
	rfc.Header = "Forwarded"
	for _, c := range []struct {
		proxies Proxies
		peer    string
		lines   []string // of the header
		want    string   // "" for an address that isn't known
	}{
		{direct, "192.0.2.1:80", []string{"198.51.100.1"}, "192.0.2.1"}, // a stranger's word is nothing
		{direct, "10.0.0.1:80", nil, "10.0.0.1"},
		{direct, "10.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{direct, "10.0.0.1:80", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"}, // what the client wrote itself stands left
		{direct, "10.0.0.1:80", []string{"203.0.113.9", "198.51.100.1,10.0.0.2"}, "198.51.100.1"},
		{direct, "10.0.0.1:80", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"}, // all are proxies
		{direct, "[::ffff:10.0.0.1]:80", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{direct, "[2001:db8::5]:80", []string{"2001:db9::1"}, "2001:db9::1"},
		{direct, "10.0.0.1:80", []string{"198.51.100.1:1234"}, "198.51.100.1"},
		{direct, "10.0.0.1:80", []string{"[2001:db9::1]:443"}, "2001:db9::1"},
		{direct, "10.0.0.1:80", []string{"[2001:db9::1]"}, "2001:db9::1"},
		{direct, "10.0.0.1:80", []string{"198.51.100.1, unknown"}, ""},
		{direct, "10.0.0.1:80", []string{"198.51.100.1, "}, ""},
		{direct, "10.0.0.1:80", []string{"198.51.100.1, unknown, 10.0.0.2"}, ""},
		{direct, "10.0.0.1:80", []string{""}, ""},
		{rfc, "10.0.0.1:80", []string{"for=198.51.100.1;proto=https;by=10.0.0.1"}, "198.51.100.1"},
		{rfc, "10.0.0.1:80", []string{`for=192.0.2.9, For="[2001:db9::1]:4711"`}, "2001:db9::1"},
		{rfc, "10.0.0.1:80", []string{`proto=https;for=198.51.100.1, for=10.0.0.2`}, "198.51.100.1"},
		{rfc, "10.0.0.1:80", []string{"for=_hidden"}, ""},
		{rfc, "10.0.0.1:80", []string{"for=198.51.100.1;for=198.51.100.2"}, ""},
		{rfc, "10.0.0.1:80", []string{`for="198.51.100.1`}, ""},
		{rfc, "10.0.0.1:80", []string{`for="198.51.100.1, for=192.0.2.1"`}, ""},
		{Proxies{}, "192.0.2.1:80", []string{"198.51.100.1"}, "192.0.2.1"},
		{Proxies{}, "@", nil, ""}, // a Unix socket
	} {
		name := "X-Forwarded-For"
		if c.proxies.Header != "" {
			name = c.proxies.Header
		}
		other := map[string]string{"Forwarded": "X-Forwarded-For", "X-Forwarded-For": "Forwarded"}[name]
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{name: c.lines, other: {"203.0.113.66"}}}
		if got := c.proxies.Client(r); got.IsValid() != (c.want != "") || got.IsValid() && got.String() != c.want {
			t.Errorf("%s %q: %s, want %q", c.peer, c.lines, got, c.want)
		}
	}
}
