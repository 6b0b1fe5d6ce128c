package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

// connection is what is watched of one connection: its requests end with ctx.
type connection struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	dead   *time.Timer // ends ctx when nothing comes
	quiet  time.Duration
	sent   atomic.Bool // a request is out
}

// connect makes one connection and follows it to its end, which is always an error.
func (f *follower) connect(parent context.Context) error {
	f.opened, f.useful, f.fresh = false, false, true
	if err := f.renew(parent); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	c := &connection{cancel: cancel, quiet: f.quiet}
	c.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { c.sent.Store(true) }})
	// A connection whose other end has vanished, as after a laptop's sleep, gives no error by itself.
	c.dead = time.AfterFunc(time.Hour, func() { cancel(errSilent) })
	defer c.dead.Stop()
	var err error
	switch f.way() {
	case WebSocket:
		err = f.overWebSocket(c)
	case SSE:
		err = f.overSSE(c)
	default:
		err = f.overPages(c)
	}
	return f.because(c, err)
}

// because is why a connection ended.
func (f *follower) because(c *connection, err error) error {
	if _, ours := errors.AsType[*handlerError](err); ours || errors.Is(err, errDone) {
		return err
	}
	if _, no := errors.AsType[*Refused](err); no {
		return err
	}
	if context.Cause(c.ctx) == errSilent {
		err = errSilent
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // the URL is the caller's own, and has the cursor in it
	}
	switch {
	case !c.sent.Load():
		return &away{err}
	case err == errSilent && !f.opened:
		return &unfit{err} // somebody keeps it from us
	}
	return err
}

// renew gets the token for the next request.
func (f *follower) renew(ctx context.Context) error {
	if f.Token == nil {
		return nil
	}
	token, err := f.Token(ctx)
	if err != nil {
		return &away{fmt.Errorf("get a token: %w", err)}
	}
	if f.denied != nil && token == f.token {
		return f.denied
	}
	f.token = token
	return nil
}

// request is one for the feed, from where we are. set adds to its query.
func (f *follower) request(ctx context.Context, accept string, set func(url.Values)) (*http.Request, error) {
	u, q := *f.url, url.Values{}
	for name, values := range f.query {
		q[name] = values
	}
	if f.cursor != "" {
		q.Del("from")
		q.Set("cursor", f.cursor)
	}
	if set != nil {
		set(q)
	}
	u.RawQuery = q.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, &Refused{Detail: err.Error()}
	}
	if f.Header != nil {
		r.Header = f.Header.Clone()
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	if f.token != "" {
		r.Header.Set("Authorization", "Bearer "+f.token)
	}
	return r, nil
}

// control takes what a feed says about itself.
func (f *follower) control(c control) error {
	if c.Retry > 0 {
		f.hint = min(time.Duration(min(c.Retry, maxRetry))*time.Millisecond, f.longest)
	}
	m := Message{Kind: KindProgress, Cursor: c.Cursor}
	switch c.Name {
	case "opened":
		f.open()
		if f.cursor != "" {
			m.Cursor = "" // ours, or beyond a gap that is told with the next message: not to be stored before that
		}
	case "caught-up":
		m.Kind = KindCaughtUp
	case "snapshot":
		m.Kind = KindSnapshot
	case "unreadable":
		m.Kind, m.Reason = KindUnreadable, c.Reason
	case "reset":
		if c.Resumed == "" {
			return &Refused{Type: "/problems/" + c.Reason, Title: "The feed can't go on from its cursor", Earliest: c.Earliest}
		}
		m.Kind, m.Reason, m.Resumed = KindReset, c.Reason, c.Resumed
	}
	if m.Kind != KindProgress || m.Cursor != "" && m.Cursor != f.cursor {
		if err := f.deliver(m); err != nil {
			return err
		}
	}
	if c.Name != "opened" && c.Name != "closing" {
		f.useful = true
	}
	if c.Name != "closing" {
		return nil
	}
	switch c.Reason {
	case "done":
		return errDone
	case "protocol":
		return &Refused{Type: "/problems/protocol", Title: "The node takes what was sent for a message"}
	}
	return &Closing{c.Reason}
}

// open notes that the transport works.
func (f *follower) open() {
	if f.opened {
		return
	}
	f.opened, f.proven, f.worked, f.denied = true, true, true, nil
	f.notify(Notice{Kind: Connected, Transport: f.way()})
}

// deliver hands a message on. The cursor moves only once that is done.
func (f *follower) deliver(m Message) error {
	if f.fresh && f.rows && f.cursor == "" {
		f.rows = false
		if err := f.call(Message{Kind: KindReset, Reason: Interrupted}); err != nil {
			return &handlerError{err}
		}
	}
	f.fresh = false
	if err := f.call(m); err != nil {
		return &handlerError{err}
	}
	if m.Cursor != "" {
		f.cursor, f.rows = m.Cursor, false
	}
	switch m.Kind {
	case KindRow:
		f.rows = true
	case KindEvent, KindChange:
	default:
		return nil
	}
	f.useful = true
	if f.left > 0 {
		if f.left--; f.left == 0 {
			return errDone
		}
	}
	return nil
}
