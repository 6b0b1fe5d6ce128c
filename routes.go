package penstock

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/web"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// server has every URL of the process: what is not here or in api is 404.
func (n *Node) server() (*http.Server, error) {
	mux := http.NewServeMux()
	mux.Handle("/hooks/{source}", n.hooks)
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{}))
	mux.Handle("GET /{$}", web.Handler())
	mux.Handle("GET /web/", web.Handler())
	if _, err := api.Register(mux, api.Config{
		Log: n.log, History: n.history, Engine: n.engine, Outcomes: n.outcomes, Types: n.app.Types, Sources: n.sources(),
		Version: Version, Brokers: n.brokers, Embedded: len(n.cfg.Kafka.Brokers) == 0, Ready: n.notReady, Owned: n.writers.Owned,
		Feeds: n.feeds.Connections, Logger: n.logger,
	}); err != nil {
		return nil, err
	}
	// A feed is a page's URL under another Accept; the mux can't tell them apart.
	feeds := http.NewServeMux()
	feeds.HandleFunc("GET /v1/events", n.followEvents)
	feeds.HandleFunc("GET /v1/projections/{name}/changes", n.followChanges)
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			if _, pattern := feeds.Handler(r); pattern != "" {
				feeds.ServeHTTP(w, r)
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
	tokens, err := n.tokens()
	if err != nil {
		return nil, err
	}
	return &http.Server{
		Handler:           n.guard(tokens, handler),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // 25 MB of a slow sender; feeds only write
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
	}, nil
}

func (n *Node) followEvents(w http.ResponseWriter, r *http.Request) {
	topic := n.log.Topics.Events
	earliest := func(ctx context.Context) (eventstore.Position, error) { return n.log.Start(ctx, topic) }
	follower, filter, err := n.subscribe(r, topic)
	if err != nil {
		n.refuseFeed(w, r, err, earliest)
		return
	}
	n.feeds.Serve(w, r, egress.Subscription{Reader: follower, Filter: filter, Earliest: earliest})
}

func (n *Node) subscribe(r *http.Request, topic string) (*eventstore.Follower, egress.Filter, error) {
	filter, err := egress.ParseFilter(r.URL.Query())
	if err != nil {
		return nil, filter, err
	}
	start, err := egress.ParseStart(r.Header, r.URL.Query())
	if err != nil {
		return nil, filter, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), feedStart)
	defer cancel()
	from, err := start.In(ctx, n.log, topic)
	if err != nil {
		return nil, filter, err
	}
	follower, err := n.log.Follow(ctx, topic, from)
	if err != nil {
		return nil, filter, err
	}
	return follower.Leased(), filter, nil
}

func (n *Node) followChanges(w http.ResponseWriter, r *http.Request) {
	changes, err := n.subscribeChanges(r)
	if err != nil {
		n.refuseFeed(w, r, err, nil)
		return
	}
	n.feeds.Serve(w, r, egress.Subscription{Reader: changes})
}

func (n *Node) subscribeChanges(r *http.Request) (*projections.Changes, error) {
	view, ok := n.engine.View(r.PathValue("name"))
	if !ok {
		return nil, &domain.Error{Class: domain.NotFound, Message: fmt.Sprintf("no projection %q", r.PathValue("name"))}
	}
	start, err := egress.ParseStart(r.Header, r.URL.Query())
	if err != nil {
		return nil, err
	}
	from, err := start.InView(view.Position())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), feedStart)
	defer cancel()
	return view.Follow(ctx, from)
}

// feedStart bounds what is asked of Kafka before a feed begins.
const feedStart = 10 * time.Second

// refuseFeed answers a feed that can't begin. What may pass by itself is told to an EventSource in the only way that
// doesn't end it for good; an expired cursor is told where the log begins now.
func (n *Node) refuseFeed(w http.ResponseWriter, r *http.Request, err error, earliest func(context.Context) (eventstore.Position, error)) {
	if domain.ClassOf(err) == domain.Unavailable && n.feeds.Later(w, r) {
		return
	}
	problem := api.ProblemOf(err)
	if errors.Is(err, eventstore.ErrExpired) && earliest != nil {
		ctx, cancel := context.WithTimeout(r.Context(), feedStart)
		defer cancel()
		if p, err := earliest(ctx); err == nil { // without it the answer is still right
			problem.Earliest = p.String()
		}
	}
	if api.WriteProblem(w, r, problem) == http.StatusInternalServerError {
		n.logger.Error("a feed can't begin", "url", r.URL.Path, "error", err)
	}
}

func (n *Node) sources() (infos []api.SourceInfo) {
	for _, name := range sortedKeys(n.cfg.Sources) {
		infos = append(infos, api.SourceInfo{Name: name, Provider: n.cfg.Sources[name].Provider, URL: "/hooks/" + name})
	}
	return infos
}

// tokens returns the hashes of the bearer tokens, so that comparing takes the same time whatever their lengths.
func (n *Node) tokens() (hashes [][32]byte, err error) {
	for _, ref := range n.cfg.Auth.Tokens {
		token, err := resolve(ref)
		if err != nil {
			return nil, fmt.Errorf("auth.tokens: %w", err)
		}
		hashes = append(hashes, sha256.Sum256(token))
	}
	return hashes, nil
}

// guard lets through what needs no token: webhooks, which are signed, and the health of the process. Everything else
// needs one of the tokens; where none are configured the node listens on loopback only, and then the Host must be a
// loopback name too, or a page in a browser could reach it by having its own name point here.
func (n *Node) guard(tokens [][32]byte, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/hooks/"), r.URL.Path == "/healthz", r.URL.Path == "/readyz":
		case len(tokens) == 0:
			host, _, err := net.SplitHostPort(r.Host)
			if err != nil {
				host = r.Host
			}
			if !loopback(strings.Trim(host, "[]")) {
				api.WriteProblem(w, r, &domain.Error{Class: domain.Forbidden, Message: "without auth.tokens this node answers on loopback names only"})
				return
			}
		case !authorized(tokens, r):
			w.Header().Set("WWW-Authenticate", `Bearer realm="penstock"`)
			api.WriteProblem(w, r, &domain.Error{Class: domain.Unauthorized, Message: "a bearer token is needed"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func authorized(tokens [][32]byte, r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return false
	}
	got, found := sha256.Sum256([]byte(token)), 0
	for _, want := range tokens {
		found |= subtle.ConstantTimeCompare(got[:], want[:])
	}
	return found == 1
}

// nowhere takes entries of a handler that only checks its configuration.
func nowhere(context.Context, eventstore.Entry) (ingress.Durability, error) {
	return "", eventstore.ErrClosed
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
