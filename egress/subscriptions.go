package egress

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// presence is a feed as operators see it.
type presence struct {
	id     string
	conn   *connection
	sub    *Subscription
	since  time.Time
	cancel context.CancelCauseFunc // ends this feed alone

	mu     sync.Mutex
	at     eventstore.Position
	events int64
	bytes  int64
}

// enter lists a feed. cancel is the connection's own where it carries nothing else.
func (f *Feeds) enter(c *connection, sub *Subscription, cancel context.CancelCauseFunc) *presence {
	if cancel == nil {
		cancel = c.cancel
	}
	p := &presence{id: rand.Text()[:16], conn: c, sub: sub, since: time.Now(), cancel: cancel, at: sub.Reader.Position()}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.feeds[p.id] = p
	return p
}

func (f *Feeds) exit(p *presence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.feeds, p.id)
}

func (p *presence) moved(to eventstore.Position, events, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = to
	p.events += int64(events)
	p.bytes += int64(bytes)
}

// Presence is an open feed as operators see it.
type Presence struct {
	ID        string    `json:"id"`
	Transport string    `json:"transport" enum:"sse,websocket,long-poll,ndjson"`
	Feed      string    `json:"feed" doc:"events, or the changes of a projection" example:"changes of balances"`
	Query     string    `json:"query,omitempty" doc:"What the client asked for: filter, start, end" example:"type=billing.*"`
	Remote    string    `json:"remote" doc:"The client's address"`
	Principal string    `json:"principal,omitempty" doc:"Which token it came with; never the token itself"`
	Since     time.Time `json:"since"`
	Position  string    `json:"position,omitempty" doc:"How far it is; absent while it reads the rows of a snapshot"`
	Lag       int64     `json:"lag" doc:"Offsets between it and the newest record over all partitions; an upper bound of the events"`
	Events    int64     `json:"events" doc:"Events and row changes sent"`
	Bytes     int64     `json:"bytes" doc:"Of these, before compression"`
}

// Open lists the feeds with ids after the given one, in the order of their ids, at most limit; more says whether there
// are further ones.
func (f *Feeds) Open(after string, limit int) (list []Presence, more bool) {
	f.mu.Lock()
	var all []*presence
	for id, p := range f.feeds {
		if id > after {
			all = append(all, p)
		}
	}
	f.mu.Unlock()
	slices.SortFunc(all, func(a, b *presence) int { return cmp.Compare(a.id, b.id) })
	if more = len(all) > limit; more {
		all = all[:limit]
	}
	list = []Presence{}
	for _, p := range all {
		list = append(list, p.look())
	}
	return list, more
}

func (p *presence) look() Presence {
	p.mu.Lock()
	o := Presence{
		ID: p.id, Transport: string(p.conn.transport), Feed: p.sub.Source.Name, Query: p.sub.request.query, Remote: p.conn.remote,
		Principal: p.conn.principal, Since: p.since.UTC(), Position: cursorOf(p.at), Events: p.events, Bytes: p.bytes,
	}
	at := p.at
	p.mu.Unlock()
	for i, end := range p.sub.Source.End().Next {
		if i < len(at.Next) {
			o.Lag += max(0, end-at.Next[i])
		} else {
			o.Lag += end
		}
	}
	return o
}

// Disconnect ends the feed with this id, and reports whether there is one. Its client is told, and may come back.
func (f *Feeds) Disconnect(id string) bool {
	f.mu.Lock()
	p, ok := f.feeds[id]
	f.mu.Unlock()
	if ok {
		p.cancel(errDisconnected)
	}
	return ok
}
