package penstock

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
)

const (
	// feedStart bounds what is asked of Kafka before a feed begins.
	feedStart = 10 * time.Second
	// unanswered is how long a client is believed in that acknowledges nothing. With the 15 seconds after which a feed
	// says something at the latest, a client that vanished is cut within 45.
	unanswered = 30 * time.Second
)

// newFeeds builds the feeds under the limits of the configuration.
func (n *Node) newFeeds() (*egress.Feeds, error) {
	c := n.cfg.Feeds
	proxies, err := n.cfg.proxies()
	if err != nil {
		return nil, err
	}
	return egress.New(egress.Config{
		Address:        proxies.Client,
		MaxConnections: c.MaxConnections, MaxPerIP: c.MaxPerIP, MaxPerPrincipal: c.MaxPerToken, Lifetime: c.Lifetime,
		Origins: c.Origins, Deflate: c.Deflate, Principal: n.principal, Problem: problemDocument,
		Logger: n.logger, Registerer: n.metrics,
	})
}

func problemDocument(err error) (int, []byte) {
	p := api.ProblemOf(err)
	b, _ := json.Marshal(p) // strings and numbers
	return p.Status, b
}

// principal names the token that a request came with by its place in the configuration.
func (n *Node) principal(r *http.Request) string {
	tokens := n.auth.Load()
	text, ok := bearer(r)
	if !ok || tokens == nil {
		return ""
	}
	got, found := sha256.Sum256([]byte(text)), 0
	for i, want := range *tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(got[:], want[:]), i+1, found)
	}
	if found == 0 {
		return ""
	}
	return fmt.Sprintf("token %d", found)
}

// withFeeds answers the requests for feeds. A feed is a page's URL under another Accept, or with Upgrade; a mux can't tell
// them apart.
func (n *Node) withFeeds(pages http.Handler) http.Handler {
	feeds := http.NewServeMux()
	feeds.HandleFunc("GET /v1/events", n.follow)
	feeds.HandleFunc("GET /v1/projections/{name}/changes", n.follow)
	durable := http.NewServeMux()
	durable.HandleFunc("GET /v1/streams/{category}/{key...}", n.durable)
	live := http.NewServeMux()
	live.HandleFunc("GET /v1/live", n.live)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := live.Handler(r); pattern != "" {
			live.ServeHTTP(w, r)
			return
		}
		if r.Method == http.MethodHead || r.Method == http.MethodGet && (r.URL.Query().Has("offset") || r.URL.Query().Has("live")) {
			if _, pattern := durable.Handler(r); pattern != "" {
				durable.ServeHTTP(w, r)
				return
			}
		}
		if r.Method == http.MethodGet && egress.Wants(r) != "" {
			if _, pattern := feeds.Handler(r); pattern != "" {
				feeds.ServeHTTP(w, r)
				return
			}
		}
		pages.ServeHTTP(w, r)
	})
}

// follow opens the feed that a request asks for and runs it over the transport that it asks for.
func (n *Node) follow(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), feedStart)
	defer cancel()
	src, sub, err := n.openFeed(ctx, r.URL.Path, r.Header, r.URL.Query())
	if err != nil {
		n.refuseFeed(w, r, err, src.Earliest)
		return
	}
	switch egress.Wants(r) {
	case "websocket":
		n.feeds.WebSocket(w, r, sub)
	case "ndjson":
		n.feeds.NDJSON(w, r, sub)
	default:
		n.feeds.SSE(w, r, sub)
	}
}

// live takes one WebSocket for many feeds.
func (n *Node) live(w http.ResponseWriter, r *http.Request) {
	if egress.Wants(r) != "websocket" {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		api.WriteProblem(w, r, api.UpgradeRequired("this URL is a WebSocket; see docs/feeds.md"))
		return
	}
	n.feeds.Live(w, r, func(ctx context.Context, path string, q url.Values) (*egress.Subscription, error) {
		ctx, cancel := context.WithTimeout(ctx, feedStart)
		defer cancel()
		src, sub, err := n.openFeed(ctx, path, http.Header{}, q)
		if err != nil {
			return nil, api.WithEarliest(ctx, err, src.Earliest)
		}
		return sub, nil
	})
}

// durable reads a stream by the Durable Streams protocol.
func (n *Node) durable(w http.ResponseWriter, r *http.Request) {
	name, err := domain.NewStream(r.PathValue("category"), r.PathValue("key"))
	if err != nil {
		api.WriteProblem(w, r, err)
		return
	}
	streams, _ := n.engine.View(eventstore.StreamsFold{}.Name())
	n.feeds.Durable(w, r, api.Durable(n.history, streams, name))
}

// openFeed opens the feed at a path.
func (n *Node) openFeed(ctx context.Context, path string, h http.Header, q url.Values) (src egress.Source, sub *egress.Subscription, err error) {
	kind := egress.OfEvents
	if name, ok := strings.CutPrefix(path, "/v1/projections/"); ok && strings.HasSuffix(name, "/changes") {
		name = strings.TrimSuffix(name, "/changes")
		view, ok := n.engine.View(name)
		if !ok {
			return src, nil, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("no projection %q", name)}
		}
		kind, src = egress.OfChanges, api.Changes(view)
	} else if path == "/v1/events" {
		src = egress.Events(n.log, n.log.Topics.Events)
	} else {
		return src, nil, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("no feed at %q", path)}
	}
	req, err := egress.ParseRequest(h, q, kind)
	if err != nil {
		return src, nil, err
	}
	sub, err = egress.Open(ctx, src, req)
	return src, sub, err
}

// refuseFeed answers a feed that can't begin. What may pass by itself is told to an EventSource in the only way that
// doesn't end it for good; an expired cursor is told where the log begins now.
func (n *Node) refuseFeed(w http.ResponseWriter, r *http.Request, err error, earliest func(context.Context) (eventstore.Position, error)) {
	if domain.ClassOf(err) == domain.Unavailable && egress.Wants(r) == "sse" && n.feeds.Later(w, r) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), feedStart)
	defer cancel()
	err = api.WithEarliest(ctx, err, earliest)
	if api.WriteProblem(w, r, err) == http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		n.logger.Error("a feed can't begin", "url", r.URL.Path, "error", err)
	}
}
