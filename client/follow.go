package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Transport is a way for a feed to travel.
type Transport string

// The transports. Auto takes the first of the others, in this order, that gets through.
const (
	Auto      Transport = "auto"
	WebSocket Transport = "websocket"
	SSE       Transport = "sse"
	LongPoll  Transport = "long-poll" // it has no snapshots
)

// Options are all optional.
type Options struct {
	// Cursor is where to go on. It wins over one in the URL, and over From.
	Cursor string
	// From is where to begin without a cursor: earliest, latest (the default), -10 for the last ten, or a time in
	// RFC 3339. It wins over the URL's own.
	From string
	// OnGap is where to go on when a cursor can't be honoured: earliest or latest. By default Follow ends instead.
	OnGap     string
	Transport Transport // Auto by default

	Header http.Header // of every request
	// Token returns a bearer token. It is asked before every connection, and once more after a 401, which ends Follow
	// if the new token is the old one or is refused too. Its error is waited out like that of a connection; end ctx
	// to give up.
	Token func(context.Context) (string, error)
	// HTTP is the client for all requests, with its TLS configuration and proxies. Its Timeout is ignored, as are
	// redirects: whoever redirects is not the node, and would get the token.
	HTTP *http.Client

	// Notice hears of connections, on the goroutine of Follow.
	Notice func(Notice)
}

// Notice says what becomes of the connections.
type Notice struct {
	Kind      NoticeKind
	Transport Transport
	Next      Transport     // Switched: the one that is tried now
	Err       error         // Lost and Switched: why. A *Closing if the node announced it, a *Refused if it said no
	Wait      time.Duration // Lost: until the next attempt
}

// NoticeKind is what a notice is about.
type NoticeKind string

// The kinds of notices.
const (
	Connected NoticeKind = "connected"
	Lost      NoticeKind = "lost"     // also when it could not be made
	Switched  NoticeKind = "switched" // a transport doesn't get through
)

// limits are bounds that tests make smaller.
type limits struct {
	upgrade  time.Duration // for the answer to a WebSocket's request
	answer   time.Duration // for the headers of any other
	preamble time.Duration // for the first message after that: a proxy that gathers answers sends none
	quiet    time.Duration // without a byte, after which a connection counts as dead
	poll     time.Duration // that a page is asked to wait for a message
	better   time.Duration // that pages go on where a better transport has worked
	least    time.Duration // wait after the first failure; doubled with each further one
	most     time.Duration
	longest  time.Duration // that somebody else's Retry-After or retry is obeyed
	message  int           // bytes of a message, or of a page: an event's body has up to 25 MB, a third more in base64
}

// A node answers within 10 s, speaks every 15 s and pings every 30 s.
var usual = limits{
	upgrade: 15 * time.Second, answer: 30 * time.Second, preamble: 15 * time.Second, quiet: 50 * time.Second,
	poll: 25 * time.Second, better: 5 * time.Minute, least: time.Second, most: 30 * time.Second,
	longest: 2 * time.Minute, message: 64 << 20,
}

var (
	errDone   = errors.New("the feed is complete")
	errSilent = errors.New("nothing is heard any more")
)

// handlerError is a failure of who handles the messages, not of the connection.
type handlerError struct{ error }

// Follow follows the feed at rawURL, which has the filter and other parameters in its query, and calls handle for each
// message; see the package's comment. The url's scheme is http, https, ws or wss. A limit in it holds over all
// connections together. Follow returns when everything that it started has ended.
func Follow(ctx context.Context, rawURL string, o Options, handle func(Message) error) error {
	f, err := newFollower(rawURL, o, handle)
	if err != nil {
		return err
	}
	return f.run(ctx)
}

// follower is one call of Follow, and belongs to its goroutine.
type follower struct {
	Options
	limits
	fallback
	url     *url.URL   // without a query
	query   url.Values // without where to begin
	changes bool       // a feed of rows, not of events
	call    func(Message) error
	own     bool // the HTTP client is ours to close

	cursor string // after the last message that was handled
	left   int    // messages until the end; 0 for no limit
	rows   bool   // rows were handled, and no cursor after them

	failures int           // connections in a row that brought nothing
	hint     time.Duration // that the node asked us to stay away
	token    string        // last used
	denied   *Refused      // the last answer, if it was a 401

	// Of the present connection.
	opened, useful, fresh bool
}

func newFollower(rawURL string, o Options, handle func(Message) error) (*follower, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("the URL of the feed: %w", err)
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	}
	f := &follower{
		Options: o, limits: usual, url: u, query: u.Query(), call: handle, cursor: o.Cursor,
		changes: strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/changes"),
	}
	u.RawQuery, u.Fragment = "", ""
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%q is no URL of a feed", u.Redacted())
	case o.OnGap != "" && o.OnGap != "fail" && o.OnGap != "earliest" && o.OnGap != "latest":
		return nil, fmt.Errorf("OnGap is fail, earliest or latest, not %q", o.OnGap)
	case handle == nil:
		return nil, errors.New("a feed without a handler")
	}
	for _, name := range []string{"cursor", "lastEventId"} {
		if f.cursor == "" {
			f.cursor = f.query.Get(name)
		}
		f.query.Del(name)
	}
	if text := f.query.Get("limit"); text != "" {
		if f.left, err = strconv.Atoi(text); err != nil || f.left < 1 {
			return nil, fmt.Errorf("limit is a number from 1 on, not %q", text)
		}
		f.query.Del("limit") // of one connection, by the node; of all together, here
	}
	if o.From != "" {
		f.query.Set("from", o.From)
	}
	if o.OnGap != "" {
		f.query.Set("on_gap", o.OnGap)
	}
	switch o.Transport {
	case "", Auto:
		f.ways = []Transport{WebSocket, SSE, LongPoll}
	case WebSocket, SSE, LongPoll:
		f.ways = []Transport{o.Transport}
	default:
		return nil, fmt.Errorf("there is no transport %q", o.Transport)
	}
	hc := http.Client{}
	if o.HTTP == nil {
		f.own = true
		hc.Transport = http.DefaultTransport
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			hc.Transport = t.Clone()
		}
	} else {
		hc = *o.HTTP
		hc.Timeout = 0
	}
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	f.HTTP = &hc
	return f, nil
}

// run makes one connection after the other.
func (f *follower) run(ctx context.Context) error {
	if f.own {
		defer f.HTTP.CloseIdleConnections()
	}
	for {
		err := f.connect(ctx)
		if e, ok := errors.AsType[*handlerError](err); ok {
			return e.error
		}
		if errors.Is(err, errDone) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		refused, no := errors.AsType[*Refused](err)
		_, passes := errors.AsType[*unfit](err)
		if no && !passes && !refused.temporary {
			if refused.Status == http.StatusUnauthorized && f.Token != nil && f.denied == nil {
				f.denied = refused
				continue
			}
			return refused
		}
		if no && refused.wait > 0 {
			f.hint = min(refused.wait, f.longest)
		}
		if errors.Is(err, errBetter) {
			f.ended()
			continue
		}
		used := f.way()
		if f.opened {
			f.ended()
		} else {
			moved, end := f.judge(err)
			if end != nil {
				return end
			}
			if moved {
				f.notify(Notice{Kind: Switched, Transport: used, Next: f.way(), Err: err})
				continue
			}
		}
		if err := f.pause(ctx, used, err); err != nil {
			return err
		}
	}
}

// pause waits until the next connection: as long as the node asked for, or longer with each connection that brought
// nothing, and never in step with other clients.
func (f *follower) pause(ctx context.Context, used Transport, why error) error {
	if f.useful {
		f.failures = 0
	}
	wait := f.backoff()
	f.failures++
	if f.hint > 0 {
		wait = max(wait, f.hint+rand.N(f.hint/5+1))
		f.hint = 0
	}
	f.notify(Notice{Kind: Lost, Transport: used, Err: why, Wait: wait})
	return sleep(ctx, wait)
}

func (f *follower) backoff() time.Duration {
	wait := min(f.least<<min(f.failures, 10), f.most)
	return wait/2 + rand.N(wait/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (f *follower) notify(n Notice) {
	if f.Notice != nil {
		f.Notice(n)
	}
}
