// Package web is what a browser shows: the live events of the log at /, and the delivery log, without anything from
// elsewhere.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"time"
)

//go:embed index.html app.js deliveries.html deliveries.js style.css icon.svg
var files embed.FS

// policy lets the page load and reach nothing but its own origin, and run no script that stands in its markup. An event
// is somebody else's text.
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"

// Handler serves the page at /, and the other one and what both need under /web/. Other paths are 404.
func Handler() http.Handler {
	mux := http.NewServeMux()
	for path, f := range map[string]struct{ name, contentType string }{
		"/{$}":                 {"index.html", "text/html; charset=utf-8"},
		"/web/app.js":          {"app.js", "text/javascript; charset=utf-8"},
		"/web/deliveries.html": {"deliveries.html", "text/html; charset=utf-8"},
		"/web/deliveries.js":   {"deliveries.js", "text/javascript; charset=utf-8"},
		"/web/style.css":       {"style.css", "text/css; charset=utf-8"},
		"/web/icon.svg":        {"icon.svg", "image/svg+xml"},
	} {
		mux.Handle("GET "+path, file(f.name, f.contentType))
	}
	return mux
}

func file(name, contentType string) http.HandlerFunc {
	body, err := files.ReadFile(name)
	if err != nil {
		panic(err) // the name is not in the list above
	}
	sum := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // the tag says whether a new version is served
		h.Set("ETag", tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
	}
}
