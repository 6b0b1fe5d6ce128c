package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

const (
	// readerTick is how long Reader.Next waits at most.
	readerTick = 5 * time.Second
	// progressEvery spaces the ids of a feed whose filter drops what arrives.
	progressEvery = 5 * time.Second
	// earliestBudget bounds the question where the log begins, asked for a client that is about to be cut off.
	earliestBudget = 2 * time.Second
	// reopenings bounds how often a feed goes on after a gap by itself.
	reopenings = 10
)

// writer takes a feed's messages, whole, one call each. An error ends the feed.
type writer interface {
	write(message []byte) error
	flush() error
}

// stream is one feed on its way to one client. It belongs to one goroutine, and keeps no bytes of its own.
type stream struct {
	feeds *Feeds
	sub   *Subscription
	out   writer
	enc   encoder
	who   *presence
	// alive is asked between two batches; an error ends the feed. Nil where nothing needs to be asked.
	alive func(now time.Time) error

	ends    time.Time // of its lifetime; zero for never
	last    time.Time // when something was last written
	unsaid  bool      // the reader has passed records since the last cursor
	inside  bool      // some of the reader's last batch was not written: its position is not where the client is
	left    int       // messages until the limit, if there is one
	gaps    int
	scratch []byte
}

// newStream is a feed at its beginning.
func (f *Feeds) newStream(sub *Subscription, out writer, enc encoder, who *presence) *stream {
	s := &stream{feeds: f, sub: sub, out: out, enc: enc, who: who, left: sub.limit}
	if f.cfg.Lifetime > 0 {
		s.ends = time.Now().Add(lifetimeOf(f.cfg.Lifetime))
	}
	return s
}

// run returns when the feed is over, and why: io.EOF when it is complete.
func (s *stream) run(ctx context.Context) error {
	c := control{name: "opened", cursor: cursorOf(s.sub.Reader.Position()), wait: retryWait(), heartbeat: s.feeds.cfg.Heartbeat}
	if !s.ends.IsZero() {
		c.lifetime = time.Until(s.ends)
	}
	if err := s.say(c); err != nil {
		return err
	}
	if err := s.tellGap(); err != nil {
		return err
	}
	caughtUp, more := false, false
	for {
		end := s.sub.Reader.CaughtUp()
		if end && !caughtUp {
			caughtUp = true
			if err := s.say(control{name: "caught-up", cursor: cursorOf(s.sub.Reader.Position())}); err != nil {
				return err
			}
		}
		// A shared batch came from memory, and so does the next one: what is small goes out together.
		if end || !more {
			if err := s.flush(); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx) // a reader that has something at hand need not look
		}
		now := time.Now()
		if !s.ends.IsZero() && now.After(s.ends) {
			return errLifetime
		}
		if s.alive != nil {
			if err := s.alive(now); err != nil {
				return err
			}
		}
		before := s.sub.Reader.Position()
		b, err := s.sub.Reader.Next(ctx)
		if err == nil {
			err = s.deliver(ctx, before, b, end)
			b.Done()
		} else if gap, ok := gapOf(err); ok && s.sub.request.onGap != "" && s.gaps < reopenings {
			s.gaps++
			if err = s.sub.resume(ctx, gap); err == nil {
				caughtUp = false
				err = s.tellGap()
			}
			more = false
			if err != nil {
				return err
			}
			continue
		} else if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		more = b.Shared
	}
}

// tellGap says that the feed did not begin, or does not go on, where it should.
func (s *stream) tellGap() error {
	if s.sub.Gap == nil {
		return nil
	}
	s.feeds.metrics.of[s.who.conn.transport].ended(reset)
	return s.say(control{name: "reset", reason: s.sub.Gap.Reason, resumed: s.sub.Gap.Resumed, cursor: cursorOf(s.sub.Reader.Position())})
}

// deliver writes the records of a batch that stands after position before. live says that the feed was waiting for it.
func (s *stream) deliver(ctx context.Context, before eventstore.Position, b *eventstore.Batch, live bool) error {
	s.inside = true
	sent, size, told := 0, 0, false
	var fr *framer // most of the time somebody else has made the frames already
	defer func() {
		if fr != nil {
			fr.release()
		}
		if sent == 0 && s.inside {
			return
		}
		var arrived time.Time
		if live && sent > 0 {
			arrived = b.Arrived
		}
		s.feeds.metrics.of[s.who.conn.transport].delivered(sent, arrived)
		s.who.moved(b.Next, sent, size)
	}()
	if sq, ok := s.out.(*squeezed); ok && b.Shared && len(b.Records) > 0 && s.left == 0 && s.sub.Filter.Everything() {
		if whole(b) {
			var err error
			sent, size, err = s.deliverPiece(sq, before, b)
			return err
		}
	}
	for i, rec := range b.Records {
		if rec.Err != nil {
			if fr == nil {
				fr = newFramer(before, b.Records)
			}
			c := control{name: "unreadable", reason: fmt.Sprintf("%d/%d", rec.Partition, rec.Offset), cursor: fr.cursor(i)}
			if err := s.say(c); err != nil {
				return err
			}
			told = true
			continue
		}
		yes, err := s.sub.wants(rec)
		if err != nil {
			return err
		}
		if !yes {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		encode := func() []byte {
			if fr == nil {
				fr = newFramer(before, b.Records)
			}
			return fr.frame(s.enc.kind(), i)
		}
		var frame []byte
		switch {
		case b.Rows:
			if fr == nil {
				fr = framers.Get().(*framer)
			}
			fr.payload = AppendRow(fr.payload[:0], rec.Change)
			frame = s.enc.row(s.scratch[:0], fr.payload)
			s.scratch = keep(frame)
		case b.Shared:
			frame = s.enc.message(s.scratch[:0], rec.Frame(s.enc.kind(), func() []byte { return bytes.Clone(encode()) }))
		default:
			frame = s.enc.message(s.scratch[:0], encode())
		}
		if err := s.write(frame); err != nil {
			return err
		}
		sent++
		size += len(frame)
		if s.left > 0 {
			if s.left--; s.left == 0 {
				return io.EOF
			}
		}
	}
	s.inside = false
	if b.Rows && len(b.Next.Next) > 0 {
		return s.say(control{name: "snapshot", cursor: b.Next.String()})
	}
	if sent > 0 || told {
		return nil
	}
	s.unsaid = s.unsaid || len(b.Records) > 0
	if !s.due(time.Now()) {
		return nil
	}
	return s.say(control{name: "progress", cursor: cursorOf(b.Next)})
}

// whole reports whether a feed without a filter gets every record of a batch.
func whole(b *eventstore.Batch) bool {
	for _, rec := range b.Records {
		if rec.Event == nil && rec.Change == nil {
			return false
		}
	}
	return true
}

// deliverPiece writes a batch that goes to everybody whole, in the piece that was compressed for everybody.
func (s *stream) deliverPiece(sq *squeezed, before eventstore.Position, b *eventstore.Batch) (sent, size int, err error) {
	var fr *framer
	frames := make([][]byte, len(b.Records))
	for i, rec := range b.Records {
		frames[i] = rec.Frame(frameLine, func() []byte {
			if fr == nil {
				fr = newFramer(before, b.Records)
			}
			return bytes.Clone(fr.frame(frameLine, i))
		})
		size += len(frames[i])
	}
	if fr != nil {
		fr.release()
	}
	s.last, s.unsaid = time.Now(), false
	if err := sq.shared(b.Piece(sq.kind(), func() []byte { return sq.piece(nil, bytes.Join(frames, nil)) }), frames); err != nil {
		return 0, 0, err
	}
	s.inside = false
	return len(frames), size, nil
}

// keep is a buffer for the next message, unless it has become too large to keep.
func keep(b []byte) []byte {
	if cap(b) > 4<<10 {
		return nil
	}
	return b
}

// due reports whether a feed without events must say where it is.
func (s *stream) due(now time.Time) bool {
	quiet := now.Sub(s.last)
	wait := s.feeds.cfg.Heartbeat - readerTick // the reader gives no chance before the next tick
	if s.unsaid {
		wait = min(wait, progressEvery)
	}
	return quiet >= wait
}

// say writes what the feed has to say about itself.
func (s *stream) say(c control) error {
	m := s.enc.control(nil, c)
	if len(m) == 0 {
		return nil
	}
	return s.write(m)
}

func (s *stream) write(message []byte) error {
	s.last, s.unsaid = time.Now(), false
	return s.out.write(message)
}

func (s *stream) flush() error { return s.out.flush() }

// ending is why a feed is over and how that is told.
type ending struct {
	reason  string // of the metric, and told
	control control
	told    bool // somebody may still listen
}

// end sorts out why a feed is over.
func (s *stream) end(ctx context.Context, why error) ending {
	_, lost := errors.AsType[*writeError](why)
	closing := func(reason string, wait time.Duration) ending {
		c := control{name: "closing", reason: reason, wait: wait}
		if !s.inside {
			c.cursor = cursorOf(s.sub.Reader.Position())
		}
		return ending{reason, c, true}
	}
	switch {
	case lost && (errors.Is(why, os.ErrDeadlineExceeded) || errors.Is(why, errStalled)):
		return ending{reason: stalled}
	case lost, errors.Is(why, errGone):
		return ending{}
	case why == io.EOF: // as it is: an error that wraps it is of a connection that broke
		return closing(done, 0)
	case errors.Is(why, errSlow):
		return closing(slow, laterWait())
	case errors.Is(why, errShutdown):
		return closing(shuttingDown.reason, retryWait())
	case errors.Is(why, errLifetime):
		return closing(lifetime, retryWait()/4)
	case errors.Is(why, errDisconnected):
		return closing(disconnected, laterWait())
	case errors.Is(why, errProtocol):
		return closing(protocol, 0)
	case errors.Is(why, errCostly):
		return ending{filterCost, control{name: "reset", reason: filterCost}, true}
	case ctx.Err() != nil && errors.Is(why, context.Canceled):
		return ending{} // the client is gone
	}
	if gap, ok := gapOf(why); ok {
		return ending{reset, control{name: "reset", reason: gap, earliest: s.earliest(ctx)}, true}
	}
	return closing(unavailable, retryWait())
}

// finish says goodbye where somebody may still listen, and counts and logs why the feed ended.
func (s *stream) finish(ctx context.Context, why error) ending {
	e := s.end(ctx, why)
	f := s.feeds
	if e.reason == "" {
		return e
	}
	f.metrics.of[s.who.conn.transport].ended(e.reason)
	switch e.reason {
	case done, shuttingDown.reason, lifetime, disconnected:
	default:
		f.cfg.Logger.Warn("a feed ends", "remote", s.who.conn.remote, "transport", s.who.conn.transport, "reason", e.reason, "error", why)
	}
	if e.told {
		// The client finds its feed ended either way, and resumes from its last cursor.
		if s.say(e.control) == nil {
			s.flush()
		}
	}
	return e
}

// earliest is the text of the position that the client could begin at, or empty.
func (s *stream) earliest(ctx context.Context) string {
	if s.sub.Source.Earliest == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), earliestBudget)
	defer cancel()
	p, err := s.sub.Source.Earliest(ctx)
	if err != nil {
		s.feeds.cfg.Logger.Warn("the beginning of the log is not known", "error", err)
		return ""
	}
	return p.String()
}

// errProtocol ends a feed whose client sends what it may not.
var errProtocol = &domain.Error{Class: domain.Invalid, Rule: protocol, Message: "this feed takes no messages"}
