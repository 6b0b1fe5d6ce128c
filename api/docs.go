package api

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs
var docsFiles embed.FS

// docsPolicy lets the page load nothing from anywhere else. It works without the internet and shows a caller's data to
// nobody.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// registerDocs serves the OpenAPI document and the page that shows it. They are made here and not by huma: its handlers
// fill a cache without a lock, and its page loads a script from a third party.
func registerDocs(mux *http.ServeMux, api huma.API) {
	// At the first request, when the caller of Register has added what it wants to.
	specJSON := sync.OnceValues(func() ([]byte, error) { return json.Marshal(api.OpenAPI()) })
	specYAML := sync.OnceValues(func() ([]byte, error) { return api.OpenAPI().YAML() })
	mux.HandleFunc("GET /openapi.json", document("application/openapi+json", specJSON))
	mux.HandleFunc("GET /openapi.yaml", document("application/openapi+yaml", specYAML))
	for path, file := range map[string]struct{ name, contentType string }{
		"/docs":          {"docs/index.html", "text/html; charset=utf-8"},
		"/docs/docs.js":  {"docs/docs.js", "text/javascript; charset=utf-8"},
		"/docs/docs.css": {"docs/docs.css", "text/css; charset=utf-8"},
	} {
		mux.HandleFunc("GET "+path, document(file.contentType, func() ([]byte, error) { return docsFiles.ReadFile(file.name) }))
	}
}

// document serves bytes that stay the same as long as the process runs.
func document(contentType string, read func() ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := read()
		if err != nil {
			WriteProblem(w, r, err)
			return
		}
		sum := sha256.Sum256(body)
		tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Security-Policy", docsPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		if matches(r.Header.Get("If-None-Match"), tag) {
			h.Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write(body)
	}
}
