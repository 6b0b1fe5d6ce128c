package web

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, path, tag string) *http.Response {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

func TestFiles(t *testing.T) {
	for path, contentType := range map[string]string{
		"/": "text/html; charset=utf-8", "/web/app.js": "text/javascript; charset=utf-8",
		"/web/style.css": "text/css; charset=utf-8", "/web/icon.svg": "image/svg+xml",
		"/web/deliveries.html": "text/html; charset=utf-8", "/web/deliveries.js": "text/javascript; charset=utf-8",
	} {
		resp := get(t, path, "")
		h := resp.Header
		if resp.StatusCode != http.StatusOK || h.Get("Content-Type") != contentType || h.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'self';") || strings.Contains(h.Get("Content-Security-Policy"), "unsafe") {
			t.Errorf("%s: %d %v", path, resp.StatusCode, h)
		}
		if again := get(t, path, h.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", path, again.StatusCode)
		}
	}
	for _, path := range []string{"/x", "/web/", "/web/web.go", "/index.html"} {
		if resp := get(t, path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

// The policy would stop all of this in the browser, where nobody sees why.
func TestPagesObeyTheirPolicy(t *testing.T) {
	for path, links := range map[string][]string{
		"/":                    {"/docs", "/openapi.json", "/v1/status", "/v1/events", "/v1/projections", "/v1/deliveries", "/metrics", "/web/deliveries.html"},
		"/web/deliveries.html": {"/", "/docs", "/v1/deliveries", "/v1/replays"},
	} {
		page, err := io.ReadAll(get(t, path, "").Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllSubmatch(page, -1) {
			path := string(m[1])
			if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") {
				t.Errorf("%s is elsewhere", path)
			}
			if strings.HasPrefix(path, "/web/") && get(t, path, "").StatusCode != http.StatusOK {
				t.Errorf("%s is not served", path)
			}
		}
		if m := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script[^>]*>[^<]`).Find(page); m != nil {
			t.Errorf("inline: %s", m)
		}
		for _, link := range links {
			if !strings.Contains(string(page), `href="`+link+`"`) {
				t.Errorf("%s: no link to %s", path, link)
			}
		}
	}
	for _, name := range []string{"app.js", "deliveries.js"} {
		script, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\.style\.`).Find(script); m != nil {
			t.Errorf("%s in %s", m, name)
		}
	}
}
