package penstock

import (
	"net/http"
	"strings"

	"github.com/penstock-io/penstock/egress"
)

// What pages of other origins may send and see (https://fetch.spec.whatwg.org/#http-cors-protocol).
const (
	corsRequest = "Accept, Authorization, Content-Type, If-None-Match, Last-Event-ID, Prefer"
	corsAnswer  = "Content-Range, ETag, Link, Location, Penstock-Position, Preference-Applied, Retry-After, Stream-Cursor, Stream-Next-Offset, Stream-Up-To-Date"
)

// cors lets pages of the origins that feeds.origins names read /v1: EventSource and fetch, where a WebSocket is asked for its
// origin. It gives them no credentials of the browser's: a page brings a token of its own, as any program does. Commands and
// what operators do stay with pages of the node's own origin.
func (n *Node) cors(next http.Handler) http.Handler {
	origins := n.cfg.Feeds.Origins
	if len(origins) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
		if r.Header.Get("Origin") == "" || !egress.AllowedOrigin(r, origins) || !preflight && r.Method != http.MethodGet && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		if !preflight {
			h.Set("Access-Control-Expose-Headers", corsAnswer)
			next.ServeHTTP(w, r)
			return
		}
		// It comes without the token, and says nothing but what the configuration does.
		h.Set("Access-Control-Allow-Methods", "GET, HEAD")
		h.Set("Access-Control-Allow-Headers", corsRequest)
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
	})
}
