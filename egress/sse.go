package egress

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// SSE runs one feed as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html) until the
// client leaves, the reader fails, the feed is complete or Drain is called. w is its own from here on; where the feed
// could take the connection over, it goes on after SSE has returned.
//
// Every event and row change is a block with the default event name, its JSON as data, and as id the cursor after it:
// whoever resumes there misses nothing. An id without data says how far a feed has come that has nothing to show, and
// that it is alive. penstock.opened says how often that is and how long the feed lives; penstock.caught-up, once, that
// everything older was sent; penstock.snapshot that all rows were. penstock.closing says that the feed ends and can be
// resumed; penstock.reset that it can't, or that it goes on elsewhere, and why.
//
// A finite feed that is complete is answered with 204, which ends an EventSource.
func (f *Feeds) SSE(w http.ResponseWriter, r *http.Request, sub *Subscription) {
	if sub.limit > 0 {
		f.refuseError(w, domain.Invalidf("limit", "an EventSource would come back for more; end the feed with until"))
		return
	}
	if sub.Ended() && sub.Gap == nil { // a gap has to be told, also where nothing comes after it
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	f.stream(w, r, sub, overSSE, "text/event-stream; charset=utf-8", sseEncoder{})
}

// NDJSON runs one feed as lines of JSON (https://github.com/ndjson/ndjson-spec), which end as SSE's do. Every line is an
// event or a row change with its cursor, or says something about the feed: then it has a member "penstock".
func (f *Feeds) NDJSON(w http.ResponseWriter, r *http.Request, sub *Subscription) {
	f.stream(w, r, sub, overNDJSON, "application/x-ndjson", lineEncoder{end: "\n"})
}

func streamHeader(h http.Header, contentType string) {
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // nginx
	h.Set("X-Content-Type-Options", "nosniff")
}

// stream runs a feed as the body of a response.
func (f *Feeds) stream(w http.ResponseWriter, r *http.Request, sub *Subscription, t transport, contentType string, enc encoder) {
	own := f.takesOver(w, r)
	parent := r.Context()
	if own {
		parent = context.Background() // the request's ends when the handler returns
	}
	c, why := f.admit(parent, r, t)
	if why != nil {
		f.refuse(w, r, t, why)
		return
	}
	streamHeader(w.Header(), contentType)
	if r.Method == http.MethodHead {
		f.leave(c)
		return
	}
	var squeeze *squeezed
	if t == overNDJSON {
		w.Header().Set("Vary", "Accept, Accept-Encoding, Origin")
		if squeeze = squeezeFor(r.Header.Get("Accept-Encoding")); squeeze != nil {
			w.Header().Set("Content-Encoding", squeeze.name())
		}
	}
	serve := func(p *pipe) {
		var out writer = p
		if squeeze != nil {
			squeeze.pipe = p
			out = squeeze
		}
		s := f.newStream(sub, out, enc, f.enter(c, sub, nil))
		s.finish(c.ctx, s.run(c.ctx))
		if squeeze != nil {
			squeeze.close()
		}
		f.exit(s.who)
	}
	if own {
		f.serveHijacked(w, c, serve)
		return
	}
	defer f.leave(c)
	rc := http.NewResponseController(w)
	// A server's ReadTimeout is meant for requests. On HTTP/1 it would end the feed.
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		f.cfg.Logger.Error("a feed can't be written through this ResponseWriter", "error", err)
		return
	}
	p := &pipe{out: response{w, rc}, progress: f.cfg.Progress, lazy: r.ProtoMajor == 1 && r.TLS == nil}
	serve(p)
	// The connection may carry another request, which must not find our deadline.
	p.disarm()
}

func (f *Feeds) refuseError(w http.ResponseWriter, err error) {
	status, document := f.cfg.Problem(err)
	problem(w, status, document)
}

// lifetimeOf takes up to a fifth off, so that feeds opened together don't end together.
func lifetimeOf(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d)/5+1)) }

// Wants says which of a feed's transports a request asks for: "sse", "ndjson", "websocket", or "" for a page.
func Wants(r *http.Request) string {
	accept := r.Header.Get("Accept")
	switch {
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		return string(overWebSocket)
	case strings.Contains(accept, "text/event-stream"):
		return string(overSSE)
	case strings.Contains(accept, "application/x-ndjson"), strings.Contains(accept, "application/ndjson"):
		return string(overNDJSON)
	}
	return ""
}
