package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// Serve runs one feed as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html) until the
// client leaves, the reader fails or Drain is called. It owns w until it returns.
//
// Every event and row change is a block with the default event name, its JSON as data, and as id the cursor after it:
// whoever resumes there misses nothing. An id without data says how far a feed has come that has nothing to show, and
// that it is alive. penstock.caught-up says, once, that everything older was sent. penstock.closing says that the feed
// ends and can be resumed; penstock.reset that it can't, and why.
func (f *Feeds) Serve(w http.ResponseWriter, r *http.Request, sub Subscription) {
	from, why := f.admit(r)
	if why != nil {
		f.refuse(w, r, why)
		return
	}
	defer f.leave(from)
	feedHeader(w.Header())
	if r.Method == http.MethodHead {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(f.stopping, cancel)()
	s := stream{feeds: f, sub: sub, w: w, rc: http.NewResponseController(w), plain: r.ProtoMajor == 1 && r.TLS == nil}
	s.finish(r, s.run(ctx))
}

func feedHeader(h http.Header) {
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // nginx
	h.Set("X-Content-Type-Options", "nosniff")
}

const (
	// unit is what a client must take within Config.Progress, in bytes, and the most that waits for a flush.
	unit = 64 << 10
	// readerTick is how long Reader.Next waits at most.
	readerTick = 5 * time.Second
	// progressEvery spaces the ids of a feed whose filter drops what arrives.
	progressEvery = 5 * time.Second
	// earliestBudget bounds the question where the log begins, asked for a client that is about to be cut off.
	earliestBudget = 2 * time.Second
)

// stream is one connection. It belongs to the goroutine of the request, and keeps no bytes of its own: frames go
// straight to the ResponseWriter.
type stream struct {
	feeds    *Feeds
	sub      Subscription
	w        http.ResponseWriter
	rc       *http.ResponseController
	plain    bool      // HTTP/1 without TLS, where a write deadline means nothing while nothing is written
	pending  int       // bytes written and not flushed
	deadline time.Time // of writes; zero when there is none
	last     time.Time // when a block was last written
	unsaid   bool      // the reader has passed records since the last id
}

// writeError is a failure to write to the client. There is nobody to tell.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// run returns when the feed is over, and why.
func (s *stream) run(ctx context.Context) error {
	// A server's ReadTimeout is meant for requests. On HTTP/1 it would end the feed.
	if err := s.rc.SetReadDeadline(time.Time{}); err != nil {
		return &writeError{fmt.Errorf("clear the read deadline: %w", err)}
	}
	if err := s.write(appendOpening(nil, s.sub.Reader.Position())); err != nil {
		return err
	}
	caughtUp, more := false, false
	for {
		end := s.sub.Reader.CaughtUp()
		if end && !caughtUp {
			caughtUp = true
			if err := s.write(appendCaughtUp(nil, s.sub.Reader.Position())); err != nil {
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
			return err // a reader that has something at hand need not look
		}
		before := s.sub.Reader.Position()
		b, err := s.sub.Reader.Next(ctx)
		if err != nil {
			return err
		}
		err = s.deliver(ctx, before, b)
		b.Done()
		if err != nil {
			return err
		}
		more = b.Shared
	}
}

// deliver writes the records of a batch that stands after position before.
func (s *stream) deliver(ctx context.Context, before eventstore.Position, b *eventstore.Batch) error {
	sent := 0
	var fr *framer // most of the time somebody else has made the frames already
	defer func() {
		if fr != nil {
			fr.release()
		}
		s.feeds.metrics.events.Add(float64(sent))
	}()
	for i, rec := range b.Records {
		if !s.sub.wants(rec) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		encode := func() []byte {
			if fr == nil {
				fr = newFramer(before, b.Records)
			}
			return fr.frame(i)
		}
		var frame []byte
		if b.Shared {
			frame = rec.Frame(frameSSE, func() []byte { return bytes.Clone(encode()) })
		} else {
			frame = encode()
		}
		if err := s.write(frame); err != nil {
			return err
		}
		sent++
	}
	if sent > 0 {
		return nil
	}
	s.unsaid = s.unsaid || len(b.Records) > 0
	if !s.due(time.Now()) {
		return nil
	}
	return s.write(appendID(nil, b.Next))
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

// write hands b to the connection, and flushes whenever a unit is full.
func (s *stream) write(b []byte) error {
	for len(b) > 0 {
		s.last, s.unsaid = time.Now(), false
		if s.pending == 0 {
			if err := s.arm(s.last); err != nil {
				return err
			}
		}
		n := min(len(b), unit-s.pending)
		if _, err := s.w.Write(b[:n]); err != nil {
			return &writeError{err}
		}
		s.pending += n
		b = b[n:]
		if s.pending == unit {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush sends what is pending.
func (s *stream) flush() error {
	if s.pending == 0 {
		return nil
	}
	if err := s.rc.Flush(); err != nil {
		return &writeError{err}
	}
	s.pending = 0
	if s.plain {
		return nil
	}
	return s.disarm()
}

// arm sets the deadline of a unit. On a plain connection one that is far enough away is left as it is: setting and
// clearing it costs an eighth of delivering an event.
func (s *stream) arm(now time.Time) error {
	progress := s.feeds.cfg.Progress
	if s.deadline.Sub(now) >= progress {
		return nil
	}
	s.deadline = now.Add(progress)
	if s.plain {
		s.deadline = s.deadline.Add(progress / 2)
	}
	if err := s.rc.SetWriteDeadline(s.deadline); err != nil {
		return &writeError{fmt.Errorf("set the write deadline: %w", err)}
	}
	return nil
}

// disarm clears the deadline. On HTTP/2 one that passes while the feed is idle would reset the stream, although
// nothing is being written.
func (s *stream) disarm() error {
	s.deadline = time.Time{}
	if err := s.rc.SetWriteDeadline(time.Time{}); err != nil {
		return &writeError{fmt.Errorf("clear the write deadline: %w", err)}
	}
	return nil
}

// finish says goodbye where somebody may still listen, and counts and logs why the feed ended.
func (s *stream) finish(r *http.Request, why error) {
	f := s.feeds
	var reason string
	var goodbye []byte
	_, lost := errors.AsType[*writeError](why)
	switch {
	case lost && errors.Is(why, http.ErrNotSupported):
		f.cfg.Logger.Error("a feed can't be written through this ResponseWriter", "error", why)
		return
	case lost && (errors.Is(why, os.ErrDeadlineExceeded) || s.pending > 0 && time.Now().After(s.deadline)):
		// HTTP/2 resets the stream at the deadline and reports that instead.
		f.metrics.drops[slow].Inc()
		f.cfg.Logger.Info("a feed's client takes nothing and is cut off", "remote", r.RemoteAddr, "error", why)
		return
	case lost:
		return
	case f.stopping.Err() != nil:
		reason, goodbye = shuttingDown.reason, appendClosing(nil, retryWait(), shuttingDown.reason)
	case r.Context().Err() != nil:
		return
	case errors.Is(why, eventstore.ErrExpired):
		reason, goodbye = reset, appendReset(nil, "expired", s.earliest(r.Context()))
	case errors.Is(why, eventstore.ErrReset):
		reason, goodbye = reset, appendReset(nil, "reset", s.earliest(r.Context()))
	case errors.Is(why, eventstore.ErrFuture):
		reason, goodbye = reset, appendReset(nil, "future", s.earliest(r.Context()))
	default:
		reason, goodbye = unavailable, appendClosing(nil, retryWait(), unavailable)
	}
	f.metrics.drops[reason].Inc()
	if reason != shuttingDown.reason {
		f.cfg.Logger.Warn("a feed ends", "remote", r.RemoteAddr, "reason", reason, "error", why)
	}
	// The client finds its feed ended either way, and resumes from its last id. But the connection may carry another
	// request, which must not find our deadline.
	if s.write(goodbye) == nil && s.flush() == nil {
		s.disarm()
	}
}

// earliest is the text of the position that the client could begin at, or empty.
func (s *stream) earliest(ctx context.Context) string {
	if s.sub.Earliest == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, earliestBudget)
	defer cancel()
	p, err := s.sub.Earliest(ctx)
	if err != nil {
		s.feeds.cfg.Logger.Warn("the beginning of the log is not known", "error", err)
		return ""
	}
	return p.String()
}
