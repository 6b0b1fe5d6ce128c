package penstock

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
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
		Log: n.log, History: n.history, Engine: n.engine, Outcomes: n.outcomes, Replays: n.replays, Types: n.app.Types,
		Version: Version, Brokers: n.brokers, Embedded: len(n.cfg.Kafka.Brokers) == 0, Ready: n.notReady, Owned: n.writers.Owned,
		Feeds: n.feeds.Connections, Subscriptions: n.feeds, Hooks: n.hooks, Reload: n.rereadForAPI(), Spool: n.spool.Depth, Logger: n.logger,
	}); err != nil {
		return nil, err
	}
	tokens, err := n.cfg.tokenHashes()
	if err != nil {
		return nil, err
	}
	n.auth.Store(&tokens)
	return &http.Server{
		Handler:           n.cors(n.guard(n.withFeeds(n.answers(mux)))),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // 25 MB of a slow sender; feeds only write
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState:         n.conns.state,
	}, nil
}

// tokenHashes returns the hashes of the bearer tokens, so that comparing takes the same time whatever their lengths.
func (c Config) tokenHashes() (hashes [][32]byte, err error) {
	for _, ref := range c.Auth.Tokens {
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
func (n *Node) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens := *n.auth.Load()
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

// bearerProtocol begins what a page in a browser offers besides a subprotocol, because it can't give a WebSocket headers: the
// token in base64url without padding. The node never chooses it, so it is not in the answer.
const bearerProtocol = "penstock.bearer."

// bearer returns the token that a request came with.
func bearer(r *http.Request) (token string, ok bool) {
	if token, ok = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return token, ok
	}
	for _, offered := range r.Header.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(offered, ",") {
			if text, ok := strings.CutPrefix(strings.TrimSpace(protocol), bearerProtocol); ok {
				b, err := base64.RawURLEncoding.DecodeString(text)
				return string(b), err == nil
			}
		}
	}
	return "", false
}

func authorized(tokens [][32]byte, r *http.Request) bool {
	token, ok := bearer(r)
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
