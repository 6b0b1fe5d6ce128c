package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// pageItems is how many messages are asked for at a time. None of them has a cursor but the last one.
const pageItems = 100

// page is a page of a feed.
type page struct {
	Items []json.RawMessage `json:"items"`
	Next  string            `json:"next"`
	End   bool              `json:"end"`
	Reset *struct{ Reason, Resumed string }
}

// overPages follows the feed page by page. Only when a page was empty is the next one asked to wait: then there is a cursor,
// and nothing that comes in between two requests is missed.
func (f *follower) overPages(c *connection) error {
	if f.cursor == "" && f.query.Get("snapshot") == "true" {
		none := &Refused{Type: "/problems/invalid", Field: "snapshot", Title: "Pages have no snapshot; it takes a WebSocket or Server-Sent Events"}
		if len(f.ways) == 1 {
			return none
		}
		return &unfit{none}
	}
	since := time.Now()
	for caughtUp := false; ; {
		start := time.Now()
		p, err := f.page(c, caughtUp)
		if err != nil {
			return err
		}
		c.dead.Stop()
		f.open()
		if p.Reset != nil {
			if err := f.deliver(Message{Kind: KindReset, Reason: p.Reset.Reason, Resumed: p.Reset.Resumed}); err != nil {
				return err
			}
		}
		for i, item := range p.Items {
			m := Message{Kind: f.dataKind(item), Data: item}
			if i+1 == len(p.Items) {
				m.Cursor = p.Next
			}
			if err := f.deliver(m); err != nil {
				return err
			}
		}
		if len(p.Items) == 0 {
			name := "progress"
			if !caughtUp && !p.End {
				name = "caught-up"
			}
			if err := f.control(control{Name: name, Cursor: p.Next}); err != nil {
				return err
			}
		}
		if p.End {
			return errDone
		}
		// Who answers at once although asked to wait would be asked without a pause.
		if waited := time.Since(start); caughtUp && len(p.Items) == 0 && waited < f.least {
			if err := sleep(c.ctx, f.backoff()); err != nil {
				return err
			}
		}
		if f.back > 0 && start.Sub(since) > f.better {
			return errBetter
		}
		caughtUp = caughtUp || len(p.Items) == 0
	}
}

// page asks for one page.
func (f *follower) page(c *connection, wait bool) (*page, error) {
	r, err := f.request(c.ctx, "application/json", func(q url.Values) {
		if f.cursor == "" && q.Get("from") == "" {
			q.Set("from", "latest") // as a feed; a page would begin at the earliest
		}
		n := pageItems
		if f.left > 0 {
			n = min(n, f.left)
		}
		q.Set("limit", strconv.Itoa(n))
	})
	if err != nil {
		return nil, err
	}
	patience := f.answer
	if wait {
		r.Header.Set("Prefer", fmt.Sprintf("wait=%d", max(1, int(f.poll/time.Second))))
		patience += f.poll
	}
	c.dead.Reset(patience)
	resp, err := f.HTTP.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := sorted(LongPoll, resp, "application/json"); err != nil {
		return nil, err
	}
	c.dead.Reset(c.quiet)
	body, err := io.ReadAll(io.LimitReader(heard{resp.Body, func() { c.dead.Reset(c.quiet) }}, int64(f.message)+1))
	if err != nil {
		return nil, err
	}
	if len(body) > f.message {
		return nil, tooLarge()
	}
	p := &page{}
	if err := json.Unmarshal(body, p); err != nil || p.Next == "" {
		return nil, &unfit{&foreign{http.StatusOK, "JSON that is no page"}}
	}
	return p, nil
}
