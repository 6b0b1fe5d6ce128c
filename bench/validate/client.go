package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// client connects to nodes as chance says.
type client struct {
	nodes []string
	rnd   *rand.Rand
	token string
	cuts  int
}

// transport is a way to follow. It gives the messages of a connection, one after the other.
type transport struct {
	name string
	open func(ctx context.Context, c *client, base string, q url.Values) (next func() (event, error), err error)
}

var transports = []transport{
	{"sse", openSSE}, {"ndjson", openLines}, {"websocket", openSocket}, {"long-poll", openPages},
}

// errCut is a connection that was hung up on purpose.
var errCut = errors.New("hung up")

// begin is the cursor that a feed begins at; a cursor is one already.
func (c *client) begin(ctx context.Context, from string) (string, error) {
	if from != "latest" && from != "earliest" && !strings.Contains(from, ":") {
		return from, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next, err := openLines(ctx, c, c.nodes[0], url.Values{"from": {from}})
	if err != nil {
		return "", err
	}
	e, err := next()
	return e.Cursor, err
}

// some follows for a while and hangs up.
func (c *client) some(ctx context.Context, t transport, v *validator) error {
	var patience time.Duration
	if c.rnd.IntN(3) > 0 {
		patience = time.Duration(c.rnd.IntN(30)) * time.Millisecond
	}
	events := c.rnd.IntN(60)
	connection, cancel := context.WithCancelCause(ctx)
	defer cancel(errCut)
	base := c.nodes[c.rnd.IntN(len(c.nodes))]
	next, err := t.open(connection, c, base, url.Values{"cursor": {v.cursor}})
	if err != nil {
		return err
	}
	timer := time.AfterFunc(patience, func() { cancel(errCut) })
	defer timer.Stop()
	if patience == 0 {
		timer.Stop()
	}
	// The events of a page have no cursors of their own: who stops within one has not got it.
	for n, inside := 0, false; n <= events || inside; {
		e, err := next()
		if err != nil && context.Cause(connection) == errCut {
			c.cuts++
			return nil
		}
		if err == io.EOF {
			return nil // the node has ended it; the cursor goes on
		}
		if err != nil {
			return err
		}
		if err := v.take(e); err != nil {
			return err
		}
		if inside = e.ID != "" && e.Cursor == ""; e.ID != "" {
			n++
		}
		if e.Penstock == "caught-up" && patience == 0 {
			return nil
		}
	}
	return nil
}

// rest reads to the end as it is now.
func (c *client) rest(ctx context.Context, v *validator) error {
	next, err := openLines(ctx, c, c.nodes[0], url.Values{"cursor": {v.cursor}, "until": {"now"}})
	if err != nil {
		return err
	}
	for {
		e, err := next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := v.take(e); err != nil {
			return err
		}
	}
}

// between reads a closed range in one piece and returns its ids.
func (c *client) between(ctx context.Context, begin, end string) (ids []string, err error) {
	next, err := openLines(ctx, c, c.nodes[0], url.Values{"cursor": {begin}, "until": {end}})
	if err != nil {
		return nil, err
	}
	for {
		e, err := next()
		if err == io.EOF {
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
		if e.ID != "" && e.Penstock == "" {
			ids = append(ids, e.ID)
		}
	}
}

// connections of its own: a cut one must not wait in a pool.
var plain = &http.Client{Transport: &http.Transport{
	DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, DisableKeepAlives: true, DisableCompression: true,
}}

func (c *client) get(ctx context.Context, base string, q url.Values, accept string, h http.Header) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/events?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range h {
		r.Header[name] = values
	}
	r.Header.Set("Accept", accept)
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := plain.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // it only explains
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	return resp, nil
}

func openSSE(ctx context.Context, c *client, base string, q url.Values) (func() (event, error), error) {
	// As a browser: the URL stays what it was, and the header has the cursor.
	resp, err := c.get(ctx, base, url.Values{"from": {"latest"}}, "text/event-stream", http.Header{"Last-Event-Id": {q.Get("cursor")}})
	if err != nil {
		return nil, err
	}
	lines := bufio.NewReader(resp.Body)
	return func() (e event, err error) {
		var id, name, data string
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return e, err // a block that isn't whole isn't one
			}
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch field {
			case "":
				if data != "" {
					err = json.Unmarshal([]byte(data), &e)
				}
				e.Cursor, e.Penstock = id, strings.TrimPrefix(name, "penstock.")
				return e, err
			case "id":
				id = value
			case "event":
				name = value
			case "data":
				data += value
			}
		}
	}, nil
}

func openLines(ctx context.Context, c *client, base string, q url.Values) (func() (event, error), error) {
	resp, err := c.get(ctx, base, q, "application/x-ndjson", nil)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewReader(resp.Body)
	return func() (e event, err error) {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return e, err
		}
		return e, json.Unmarshal(line, &e)
	}, nil
}

func openSocket(ctx context.Context, c *client, base string, q url.Values) (func() (event, error), error) {
	h := http.Header{}
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
	ws, _, err := websocket.Dial(ctx, base+"/v1/events?"+q.Encode(), &websocket.DialOptions{HTTPClient: plain, HTTPHeader: h, Subprotocols: []string{"penstock.v1"}})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(32 << 20)
	context.AfterFunc(ctx, func() { ws.CloseNow() })
	return func() (e event, err error) {
		_, b, err := ws.Read(ctx)
		switch websocket.CloseStatus(err) {
		case websocket.StatusNormalClosure, websocket.StatusGoingAway:
			return e, io.EOF
		}
		if err != nil {
			return e, err
		}
		return e, json.Unmarshal(b, &e)
	}, nil
}

func openPages(ctx context.Context, c *client, base string, q url.Values) (func() (event, error), error) {
	var items []event
	var next string
	q.Set("limit", fmt.Sprint(1+c.rnd.IntN(40)))
	return func() (e event, err error) {
		for len(items) == 0 {
			if next != "" {
				e.Cursor, next = next, ""
				return e, nil
			}
			resp, err := c.get(ctx, base, q, "application/json", http.Header{"Prefer": {"wait=1"}})
			if err != nil {
				return e, err
			}
			var page struct {
				Items []event
				Next  string
			}
			err = json.NewDecoder(resp.Body).Decode(&page)
			resp.Body.Close()
			if err != nil {
				return e, err
			}
			q.Set("cursor", page.Next)
			items, next = page.Items, page.Next
			if len(items) == 0 {
				return event{Cursor: page.Next, Penstock: "caught-up"}, nil
			}
		}
		e, items = items[0], items[1:]
		return e, nil
	}, nil
}
