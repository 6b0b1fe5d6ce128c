package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

const (
	maxSubscriptions = 64 // on one socket
	maxName          = 64 // bytes of a subscription's name
)

// Opener opens the feed at a path of this node, as a request for it would.
type Opener func(ctx context.Context, path string, q url.Values) (*Subscription, error)

// demand is a message of a client:
//
//	{"subscribe":"‹name›","feed":"/v1/events?type=billing.*","cursor":"…"}
//	{"unsubscribe":"‹name›"}
type demand struct {
	Subscribe   string `json:"subscribe"`
	Unsubscribe string `json:"unsubscribe"`
	Feed        string `json:"feed"`
	Cursor      string `json:"cursor"`
}

// live is a socket that carries many feeds.
type live struct {
	feeds  *Feeds
	socket *socket
	open   Opener

	mu   sync.Mutex // of out, across the messages that belong together, and of subs
	subs map[string]*subscribed
	wait sync.WaitGroup
}

type subscribed struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

// errUnsubscribed ends one feed of a socket.
var errUnsubscribed = errors.New("unsubscribed")

// Live runs a WebSocket over which a client follows any number of feeds, up to 64, and changes its mind about which.
// Every message names its subscription; one that fails or ends leaves the others alone. w is its own from here on.
func (f *Feeds) Live(w http.ResponseWriter, r *http.Request, open Opener) {
	s := f.upgrade(w, r, []string{protocolLines})
	if s == nil {
		return
	}
	l := &live{feeds: f, socket: s, open: open, subs: map[string]*subscribed{}}
	go func() {
		defer s.left(f)
		go l.listen()
		s.close(l.serve())
	}()
}

// serve keeps the socket alive until it ends, and then ends what it carries.
func (l *live) serve() ending {
	ctx, f := l.socket.c.ctx, l.feeds
	var ends <-chan time.Time
	lives := lifetimeOf(max(f.cfg.Lifetime, 0))
	if f.cfg.Lifetime > 0 {
		t := time.NewTimer(lives)
		defer t.Stop()
		ends = t.C
	}
	l.say(lineEncoder{}.control(nil, control{name: "opened", wait: retryWait(), heartbeat: f.cfg.Heartbeat, lifetime: lives}))
	clock := time.NewTicker(min(readerTick, f.cfg.Ping))
	defer clock.Stop()
	var why error
	for said := time.Now(); why == nil; {
		select {
		case <-ctx.Done():
			why = context.Cause(ctx)
		case <-ends:
			why = errLifetime
		case now := <-clock.C:
			if why = l.socket.alive(now); why == nil && now.Sub(said) >= f.cfg.Heartbeat-readerTick {
				said = now
				why = l.say(lineEncoder{}.control(nil, control{name: "progress"}))
			}
		}
	}
	l.socket.c.cancel(why)
	l.wait.Wait()
	s := stream{feeds: f, sub: &Subscription{Reader: nowhere{}}, out: l.socket, enc: lineEncoder{}, who: &presence{conn: l.socket.c}, inside: true}
	return s.finish(ctx, why)
}

// say writes a message that belongs to no feed.
func (l *live) say(message []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.socket.write(message); err != nil {
		return err
	}
	return l.socket.flush()
}

// listen takes the client's demands until it leaves.
func (l *live) listen() {
	s := l.socket
	defer s.helpers.Done()
	for {
		kind, b, err := s.ws.Read(context.Background())
		if err != nil {
			s.c.cancel(errGone)
			return
		}
		l.feeds.metrics.of[overWebSocket].received.Inc()
		var d demand
		if kind != websocket.MessageText || json.Unmarshal(b, &d) != nil || (d.Subscribe == "") == (d.Unsubscribe == "") {
			err = domain.Invalidf("message", `a message is {"subscribe":"‹name›","feed":"‹path›"} or {"unsubscribe":"‹name›"}`)
		} else if d.Unsubscribe != "" {
			err = l.unsubscribe(d.Unsubscribe)
		} else {
			err = l.subscribe(d)
		}
		if err != nil {
			l.refuse(d.Subscribe+d.Unsubscribe, err)
		}
	}
}

// refuse tells why a demand isn't met. The socket goes on.
func (l *live) refuse(name string, err error) {
	_, document := l.feeds.cfg.Problem(err)
	enc := lineEncoder{prefix: prefixOf(name)}
	m := enc.control(nil, control{name: "refused"})
	m = append(append(append(m[:len(m)-1], `,"problem":`...), document...), '}')
	l.say(m) // if it can't be said, the reader ends next
}

func prefixOf(name string) string {
	if len(name) > maxName {
		name = name[:maxName]
	}
	if name == "" {
		return ""
	}
	return `"subscription":` + string(appendString(nil, name)) + ","
}

func (l *live) subscribe(d demand) error {
	if len(d.Subscribe) > maxName {
		return domain.Invalidf("subscribe", "a name has at most %d bytes", maxName)
	}
	u, err := url.Parse(d.Feed)
	if err != nil || u.Host != "" || u.Scheme != "" {
		return domain.Invalidf("feed", "a feed is a path of this node, as in /v1/events?type=billing.*")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return domain.Invalidf("feed", "the query can't be read")
	}
	if d.Cursor != "" {
		q["cursor"] = []string{d.Cursor}
	}
	l.mu.Lock()
	_, taken := l.subs[d.Subscribe]
	count := len(l.subs)
	l.mu.Unlock()
	switch {
	case taken:
		return domain.Invalidf("subscribe", "there is a subscription of this name; unsubscribe it first")
	case count >= maxSubscriptions:
		return domain.Invalidf("subscribe", "at most %d subscriptions on one socket", maxSubscriptions)
	}
	sub, err := l.open(l.socket.c.ctx, u.Path, q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(l.socket.c.ctx)
	one := &subscribed{cancel: cancel, ended: make(chan struct{})}
	l.mu.Lock()
	l.subs[d.Subscribe] = one
	l.mu.Unlock()
	l.wait.Go(func() {
		defer close(one.ended)
		defer cancel(nil)
		l.run(ctx, d.Subscribe, sub, cancel)
		l.mu.Lock()
		delete(l.subs, d.Subscribe)
		l.mu.Unlock()
	})
	return nil
}

// run is one feed of the socket.
func (l *live) run(ctx context.Context, name string, sub *Subscription, cancel context.CancelCauseFunc) {
	f := l.feeds
	who := f.enter(l.socket.c, sub, cancel)
	defer f.exit(who)
	st := f.newStream(sub, &shared{live: l}, lineEncoder{prefix: prefixOf(name)}, who)
	st.ends = time.Time{} // the socket's is told once, for all
	why := st.run(ctx)
	switch {
	case errors.Is(why, errUnsubscribed):
		c := control{name: "unsubscribed"}
		if !st.inside {
			c.cursor = cursorOf(sub.Reader.Position())
		}
		if st.say(c) == nil {
			st.flush()
		}
	case l.socket.c.ctx.Err() != nil: // the end of the socket is told once, for all
	default:
		if _, lost := errors.AsType[*writeError](why); lost || errors.Is(why, errSlow) {
			l.socket.c.cancel(why)
			return
		}
		st.finish(ctx, why)
	}
}

func (l *live) unsubscribe(name string) error {
	l.mu.Lock()
	one, ok := l.subs[name]
	l.mu.Unlock()
	if !ok {
		return &domain.Error{Class: domain.NotFound, Field: "unsubscribe", Message: fmt.Sprintf("no subscription %q", name)}
	}
	one.cancel(errUnsubscribed)
	<-one.ended // so that its name is free when the client reads on
	return nil
}

// shared is the part of a socket that one of its feeds writes to. Whole messages are all that must not mix.
type shared struct{ live *live }

func (s *shared) write(message []byte) error {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return s.live.socket.write(message)
}

func (s *shared) flush() error {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return s.live.socket.flush()
}

// nowhere is the reader of what has no place in a log.
type nowhere struct{}

func (nowhere) Position() eventstore.Position { return eventstore.Position{} }
func (nowhere) CaughtUp() bool                { return true }
func (nowhere) Next(ctx context.Context) (*eventstore.Batch, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
