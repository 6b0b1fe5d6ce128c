package egress

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// refusal is why a feed was not opened, although nothing is wrong with the request.
type refusal struct {
	status int
	reason string // in the problem's type, in the closing event and in the metric
	title  string
	detail string
}

var (
	shuttingDown  = refusal{503, "shutdown", "The node is stopping", "connect again; another node, or this one a little later, will answer"}
	nodeFull      = refusal{429, "too-many-connections", "The node has no room for another feed", "connect again later"}
	clientFull    = refusal{429, "too-many-connections-per-client", "Too many feeds from this address", "close some of them, or follow several things on one"}
	principalFull = refusal{429, "too-many-connections-per-principal", "Too many feeds with this token", "close some of them, or follow several things on one"}
	wrongOrigin   = refusal{403, "origin", "A page of this origin may not follow feeds here", "the node's operator can allow it under feeds.origins"}
)

func (why *refusal) document() []byte {
	body, _ := json.Marshal(map[string]any{ // strings and an int always encode
		"type": "/problems/" + why.reason, "title": why.title, "status": why.status, "detail": why.detail,
	})
	return body
}

// refuse answers with a problem document (RFC 9457), or tells an EventSource to come back.
func (f *Feeds) refuse(w http.ResponseWriter, r *http.Request, t transport, why *refusal) {
	if t == overSSE && f.later(w, r, why.reason) {
		return
	}
	f.metrics.of[t].refused(why.reason)
	problem(w, why.status, why.document())
}

// problem answers with a problem document.
func problem(w http.ResponseWriter, status int, document []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(document)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(int(laterWait()/time.Second)))
	}
	w.WriteHeader(status)
	w.Write(document) // the client may be gone; there is nobody else to tell
}

// Later answers the request of an EventSource whose feed can't be opened at the moment, because its Reader can't be
// had, with an empty feed that says when to come back: any other status than 200 ends an EventSource for good
// (https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model). It reports false, and has
// done nothing, for any other client: a status says more to those. It is not for refusals that last.
func (f *Feeds) Later(w http.ResponseWriter, r *http.Request) bool { return f.later(w, r, unavailable) }

func (f *Feeds) later(w http.ResponseWriter, r *http.Request, reason string) bool {
	if !reconnects(r) {
		return false
	}
	f.metrics.of[overSSE].refused(reason)
	streamHeader(w.Header(), "text/event-stream; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	w.Write(sseEncoder{}.control(nil, control{name: "closing", reason: reason, wait: laterWait()})) // if it is lost, the client comes back by itself
	return true
}

// laterWait is how long a client that got nothing should stay away. It is longer than retryWait and as uneven.
func laterWait() time.Duration { return time.Duration(5000+rand.IntN(10_000)) * time.Millisecond }

// retryWait is how long a client should wait before it connects again. It differs from client to client, so that they
// don't all come back in the same moment.
func retryWait() time.Duration { return time.Duration(2000+rand.IntN(3001)) * time.Millisecond }

// reconnects reports whether the client looks like an EventSource, which no request says outright. It asks for an event
// stream; and it is in a browser, which sends Sec-Fetch-Mode, or it has followed a feed before. Programs that open
// their first connection are left, and to them a status says more.
func reconnects(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream") &&
		(r.Header.Get("Sec-Fetch-Mode") != "" || r.Header.Get("Last-Event-ID") != "")
}
