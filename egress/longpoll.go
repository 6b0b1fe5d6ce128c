package egress

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// Bounds of one page. A page that reaches one of them is short, and its next goes on from there.
const (
	pageBytes   = 4 << 20          // of messages, and always one, however large
	pageRecords = 50_000           // looked at, of which a filter may drop all
	pageTime    = 10 * time.Second // reading, besides what the client wants to wait
	// gather is how long a page that was waited for goes on when its first message has come: most come in company.
	gather = 5 * time.Millisecond
)

// Page is a piece of a feed. The next piece begins at its position: nothing is skipped and nothing comes twice.
type Page struct {
	Items    [][]byte // JSON, as a feed sends it, without cursors
	Position eventstore.Position
	Gap      *Gap
	End      bool // the feed is finite, and this is its last page
	// Closed says that the page is all of a range of the log, so that the same question has the same answer for ever.
	Closed bool
}

// Poll reads one page of at most limit messages. At the end of the feed it waits for the first message as long as it is
// told to; who waits counts as a connection. refused is set when there can't be another one.
func (f *Feeds) Poll(r *http.Request, sub *Subscription, limit int, wait time.Duration) (page Page, refused *Refused, err error) {
	ctx := r.Context()
	transport := f.metrics.of[overLongPoll]
	if wait > 0 {
		c, why := f.admit(ctx, r, overLongPoll)
		if why != nil {
			transport.refused(why.reason)
			return Page{}, &Refused{why.status, why.reason, why.detail}, nil
		}
		defer f.leave(c)
		who := f.enter(c, sub, nil)
		defer f.exit(who)
		ctx = c.ctx
	}
	page, err = ReadPage(ctx, sub, limit, wait)
	if why := context.Cause(ctx); errors.Is(why, errShutdown) || errors.Is(why, errDisconnected) {
		err = nil // the page that there is, if only an empty one: the client asks again
		page.Position = sub.at(page.Position)
	}
	transport.delivered(len(page.Items), time.Time{})
	return page, nil, err
}

// Refused is why a client can't wait, although nothing is wrong with its request.
type Refused struct {
	Status         int
	Reason, Detail string
}

// ReadPage reads one page: see Feeds.Poll.
func ReadPage(ctx context.Context, sub *Subscription, limit int, wait time.Duration) (Page, error) {
	p := &pager{sub: sub, limit: limit}
	p.page.Gap = sub.Gap
	p.page.Position = sub.Reader.Position().Clone()
	err := p.fill(ctx, wait)
	p.finish()
	return p.page, err
}

// at is p, or where the reader began if p says nothing.
func (s *Subscription) at(p eventstore.Position) eventstore.Position {
	if len(p.Next) == 0 {
		return s.Reader.Position()
	}
	return p
}

// pager collects a page.
type pager struct {
	sub     *Subscription
	limit   int
	page    Page
	records []*eventstore.Record // kept instead of items where the order is still to be made
	seen    int
	size    int
}

func (p *pager) full() bool {
	return len(p.page.Items)+len(p.records) >= p.limit || p.size >= pageBytes || p.seen >= pageRecords
}

// fill reads until the page is full or at the end of what there is, where an empty page waits. Once something was read an
// error only ends the page: it will come again with the next one, and nothing is skipped.
func (p *pager) fill(ctx context.Context, wait time.Duration) error {
	read, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	poll, stop := context.WithTimeout(ctx, wait)
	defer stop()
	waited := false
	for !p.full() {
		within := read
		if p.sub.Reader.CaughtUp() && !p.sub.Ended() {
			switch {
			case len(p.page.Items)+len(p.records) > 0 && !waited, poll.Err() != nil:
				return nil
			case waited:
				// One more look, a moment later.
				more, end := context.WithTimeout(poll, gather)
				defer end()
				within = more
			default:
				within = poll
			}
		}
		b, err := p.sub.Reader.Next(within)
		switch {
		case err == nil:
			before := len(p.page.Items) + len(p.records)
			err = p.take(b)
			b.Done()
			if err != nil {
				return err
			}
			if within == poll && before == 0 && len(p.page.Items)+len(p.records) > 0 {
				waited = true
			} else if waited {
				return nil
			}
		case err == io.EOF:
			p.page.End = true
			return nil
		case p.seen > 0 || within != read && within.Err() != nil && ctx.Err() == nil:
			return nil
		default:
			return err
		}
	}
	return nil
}

// take adds what the filter passes. A batch that doesn't fit is left in the middle: then the position is that after the
// last record looked at, and else the batch's own, which passes markers too.
func (p *pager) take(b *eventstore.Batch) error {
	at := p.page.Position
	for i, r := range b.Records {
		// Several rows change with one event: a page that ended between them would end where it began.
		if p.full() && !(i > 0 && r.Partition == b.Records[i-1].Partition && r.Offset == b.Records[i-1].Offset) {
			p.page.Position = before(at, b.Records, i)
			return nil
		}
		yes, err := p.sub.wants(r)
		if err != nil {
			return err
		}
		p.seen++
		if yes {
			p.add(r)
		}
	}
	p.page.Position = b.Next.Clone()
	return nil
}

// before is the position, in a batch after at, that has passed the first n records and none that is still to come. Several
// changes of rows share an offset.
func before(at eventstore.Position, records []*eventstore.Record, n int) eventstore.Position {
	at = at.Clone()
	for _, r := range records[:n] {
		at.Next[r.Partition] = max(at.Next[r.Partition], r.Offset+1)
	}
	for _, r := range records[n:] {
		at.Next[r.Partition] = min(at.Next[r.Partition], r.Offset)
	}
	return at
}

func (p *pager) add(r *eventstore.Record) {
	if r.Event == nil {
		item := AppendChange(nil, r.Change)
		p.size += len(item)
		p.page.Items = append(p.page.Items, item)
		return
	}
	p.records = append(p.records, r)
	p.size += len(r.Event.Data) + 512
}

// finish makes the page what it is. The events of a whole range are put in an order that doesn't depend on how they were
// read, so that the answer is the same on every node, at any time.
func (p *pager) finish() {
	start := p.sub.request.start
	// The reader may be further than the page, which took a part of its last batch.
	p.page.End = p.page.End || p.sub.Ended() && p.page.Position.Covers(p.sub.Reader.Position())
	p.page.Closed = p.page.End && p.sub.Gap == nil && p.sub.Source.Rows == nil && start.kind == fromCursor && p.sub.request.until.kind == fromCursor
	if p.page.Closed {
		p.records = merged(p.records, len(p.page.Position.Next))
	}
	for _, r := range p.records {
		p.page.Items = append(p.page.Items, AppendCloudEvent(nil, r.Event))
	}
}

// merged puts events in the order of their times, as far as their order within a partition allows.
func merged(records []*eventstore.Record, partitions int) []*eventstore.Record {
	queues := make([][]*eventstore.Record, partitions)
	for _, r := range records {
		queues[r.Partition] = append(queues[r.Partition], r)
	}
	out := records[:0:0]
	for len(out) < len(records) {
		first := -1
		for p, q := range queues {
			if len(q) > 0 && (first < 0 || q[0].Event.Time.Before(queues[first][0].Event.Time)) {
				first = p
			}
		}
		out = append(out, queues[first][0])
		queues[first] = queues[first][1:]
	}
	return out
}
