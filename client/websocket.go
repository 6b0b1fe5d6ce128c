package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/coder/websocket"
	"golang.org/x/sync/semaphore"
)

// What is read ahead of the handler. Pings are answered only while somebody reads, and a node cuts who has missed two.
const (
	aheadBytes = 1 << 20
	aheadLeast = 512 // that a message counts, so that there are not too many
)

// overWebSocket follows the feed over a WebSocket (RFC 6455) with the subprotocol penstock.v1.
func (f *follower) overWebSocket(c *connection) error {
	r, err := f.request(c.ctx, "", nil)
	if err != nil {
		return err
	}
	c.dead.Reset(f.upgrade)
	hc, no := *f.HTTP, &refusal{}
	no.inner = hc.Transport
	hc.Transport = no
	ws, _, err := websocket.Dial(c.ctx, r.URL.String(), &websocket.DialOptions{
		HTTPClient: &hc, HTTPHeader: r.Header, Host: r.Host, Subprotocols: []string{"penstock.v1"},
	})
	if no.err != nil {
		return no.err
	}
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	ws.SetReadLimit(int64(f.message))
	c.dead.Reset(f.preamble)
	in := &ahead{messages: make(chan []byte, aheadBytes/aheadLeast+1), room: semaphore.NewWeighted(aheadBytes)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.read(c, ws)
	}()
	defer func() {
		c.cancel(nil)
		<-done
	}()
	for b := range in.messages {
		if err := f.object(b); err != nil {
			return err
		}
		in.room.Release(weight(b))
	}
	return closed(in.err)
}

// refusal keeps the answer of who doesn't upgrade: the library would cut a problem document off.
type refusal struct {
	inner http.RoundTripper // nil for the default
	err   error
}

func (n *refusal) RoundTrip(r *http.Request) (*http.Response, error) {
	inner := n.inner
	if inner == nil {
		inner = http.DefaultTransport
	}
	resp, err := inner.RoundTrip(r)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		n.err = sorted(WebSocket, resp, "")
		resp.Body.Close()
		resp.Body = http.NoBody
	}
	return resp, err
}

// ahead is what was read of a WebSocket and not handled yet.
type ahead struct {
	messages chan []byte
	room     *semaphore.Weighted // has a place in messages for every aheadLeast bytes
	err      error               // why no more comes; to be looked at when messages is closed
}

func weight(b []byte) int64 { return int64(min(max(len(b), aheadLeast), aheadBytes)) }

// read reads until the connection ends.
func (a *ahead) read(c *connection, ws *websocket.Conn) {
	defer close(a.messages)
	for begun := false; ; begun = true {
		_, r, err := ws.Reader(c.ctx)
		if err == nil {
			var b bytes.Buffer
			_, err = io.Copy(&b, heard{r, func() {
				if begun {
					c.dead.Reset(c.quiet)
				}
			}})
			if err == nil {
				c.dead.Stop() // while there is no room, nobody listens
				if err = a.room.Acquire(c.ctx, weight(b.Bytes())); err == nil {
					a.messages <- b.Bytes()
					c.dead.Reset(c.quiet)
					continue
				}
			}
		}
		a.err = err
		return
	}
}

// closed says what the end of a WebSocket means where the feed has not said it in a message.
func closed(err error) error {
	var e websocket.CloseError
	switch {
	case errors.Is(err, websocket.ErrMessageTooBig):
		return tooLarge()
	case !errors.As(err, &e):
		if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
			return errEnd
		}
		return err
	case e.Code == websocket.StatusNormalClosure:
		return errDone
	case e.Code == websocket.StatusPolicyViolation, e.Code == websocket.StatusMessageTooBig, e.Code >= 4400 && e.Code < 4500:
		return &Refused{Status: int(e.Code), Type: "/problems/" + e.Reason, Title: "The node closes the WebSocket"}
	case e.Reason != "":
		return &Closing{e.Reason}
	}
	return fmt.Errorf("the WebSocket is closed with %d", e.Code)
}
