package egress

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Durable is one stream as the read half of the Durable Streams protocol has it
// (https://github.com/durable-streams/durable-streams/blob/main/PROTOCOL.md): a list of JSON messages, which are the
// stream's events, at offsets, which are its versions.
type Durable struct {
	Stream domain.Stream
	// Head is the stream's version, or an error of class NotFound.
	Head func() (uint64, error)
	// Events are the next events from a version on.
	Events func(from uint64, limit int) ([]domain.Event, error)
	// Wait returns once the stream has a higher version.
	Wait func(ctx context.Context, version uint64) error
	// Patience is how long a poll waits; 25 s by default.
	Patience time.Duration
}

// Bounds of one answer.
const (
	durableEvents   = 1000
	durableAtOnce   = 4 // held beside the answer: each may be as large as a record
	durableWait     = 25 * time.Second
	durableLifetime = time.Minute // of a stream of Server-Sent Events, as the protocol wants it
)

// Durable answers a GET or HEAD of the protocol: catch-up, live=long-poll and live=sse. Writes have other ways here.
func (f *Feeds) Durable(w http.ResponseWriter, r *http.Request, d Durable) {
	head, err := d.Head()
	if err != nil {
		f.refuseError(w, err)
		return
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.Method == http.MethodHead {
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		h.Set("ETag", fmt.Sprintf(`"%d"`, head))
		h.Set("Stream-Next-Offset", offsetOf(head))
		return
	}
	at, now, live, err := parseDurable(r.URL.Query(), head)
	if err != nil {
		f.refuseBadly(w, err)
		return
	}
	switch live {
	case "":
		f.durablePage(w, r, d, at, head, now)
	case "long-poll":
		f.durablePoll(w, r, d, at, head)
	case "sse":
		f.durableSSE(w, r, d, at)
	}
}

// refuseBadly answers what the protocol calls malformed, for which it wants 400.
func (f *Feeds) refuseBadly(w http.ResponseWriter, err error) {
	_, document := f.cfg.Problem(err)
	problem(w, http.StatusBadRequest, document)
}

// parseDurable reads where to begin and how to go on.
func parseDurable(q url.Values, head uint64) (at uint64, now bool, live string, err error) {
	for _, name := range []string{"offset", "live", "cursor"} {
		if len(q[name]) > 1 {
			return 0, false, "", domain.Invalidf(name, "more than one %s", name)
		}
	}
	if live = q.Get("live"); q.Has("live") && live != "long-poll" && live != "sse" {
		return 0, false, "", domain.Invalidf("live", "live is long-poll or sse")
	}
	if live != "" && !q.Has("offset") {
		return 0, false, "", domain.Invalidf("offset", "a live reading begins at an offset; -1 is the beginning")
	}
	switch offset := q.Get("offset"); {
	case !q.Has("offset"), offset == "-1":
	case offset == "now":
		return head, true, live, nil
	default:
		at, err = strconv.ParseUint(offset, 10, 64)
		if err != nil || len(offset) != offsetLen || strings.Trim(offset, "0123456789") != "" {
			return 0, false, "", domain.Invalidf("offset", "not an offset of this stream")
		}
		if at > head {
			return 0, false, "", domain.Invalidf("offset", "the offset lies beyond the end of the stream")
		}
	}
	return at, false, live, nil
}

const offsetLen = 20 // digits, so that offsets sort as texts do

func offsetOf(version uint64) string { return fmt.Sprintf("%0*d", offsetLen, version) }

// messages are the events after a version, as a JSON array, and the version after them.
func (d Durable) messages(at, head uint64) (body []byte, next uint64, err error) {
	body = []byte{'['}
	for n := 0; at < head && n < durableEvents && len(body) < pageBytes; {
		events, err := d.Events(at+1, min(durableAtOnce, durableEvents-n))
		if err != nil {
			return nil, 0, err
		}
		if len(events) == 0 {
			return nil, 0, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("stream %s has version %d but no event %d", d.Stream, head, at+1)}
		}
		for i := range events {
			if n > 0 {
				body = append(body, ',')
			}
			body = AppendCloudEvent(body, &events[i])
			n++
		}
		at = events[len(events)-1].Version
	}
	return append(body, ']'), at, nil
}

func (f *Feeds) durablePage(w http.ResponseWriter, r *http.Request, d Durable, at, head uint64, now bool) {
	body, next, err := d.messages(at, head)
	if err != nil {
		f.refuseError(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Stream-Next-Offset", offsetOf(next))
	h.Set("Stream-Cursor", streamCursor(r))
	if next >= head {
		h.Set("Stream-Up-To-Date", "true")
	}
	h.Set("Cache-Control", "no-cache")
	if now {
		h.Set("Cache-Control", "no-store")
	} else {
		// Events at a position never change; that more may follow is part of what the tag says.
		tag := fmt.Sprintf(`"%x:%d:%d%s"`, nameHash(d.Stream), at, next, map[bool]string{true: ":end"}[next >= head])
		h.Set("ETag", tag)
		if next < head {
			h.Set("Cache-Control", "max-age=31536000, immutable")
		}
		for candidate := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
			if candidate = strings.TrimSpace(candidate); candidate == "*" || strings.TrimPrefix(candidate, "W/") == tag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
	}
	h.Set("Vary", "Accept-Encoding, Origin")
	body, coding := Compress(r.Header.Get("Accept-Encoding"), body)
	if coding != "" {
		h.Set("Content-Encoding", coding)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body) // whoever asked may be gone; there is nobody else to tell
}

func nameHash(s domain.Stream) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

func (f *Feeds) durablePoll(w http.ResponseWriter, r *http.Request, d Durable, at, head uint64) {
	if at == head {
		c, why := f.admit(r.Context(), r, overLongPoll)
		if why != nil {
			f.refuse(w, r, overLongPoll, why)
			return
		}
		defer f.leave(c)
		patience := d.Patience
		if patience == 0 {
			patience = durableWait
		}
		ctx, cancel := context.WithTimeout(c.ctx, patience)
		defer cancel()
		err := d.Wait(ctx, at)
		if err == nil {
			head, err = d.Head()
		}
		switch {
		case err != nil && ctx.Err() != nil: // nothing came, or the node stops: the client asks again
			h := w.Header()
			h.Set("Cache-Control", "no-store")
			h.Set("Stream-Next-Offset", offsetOf(at))
			h.Set("Stream-Up-To-Date", "true")
			h.Set("Stream-Cursor", streamCursor(r))
			w.WriteHeader(http.StatusNoContent)
			return
		case err != nil:
			f.refuseError(w, err)
			return
		}
	}
	f.durablePage(w, r, d, at, head, false)
}

// durableSSE sends batches as events named data, each with one named control after it.
func (f *Feeds) durableSSE(w http.ResponseWriter, r *http.Request, d Durable, at uint64) {
	c, why := f.admit(r.Context(), r, overSSE)
	if why != nil {
		f.refuse(w, r, overSSE, why)
		return
	}
	defer f.leave(c)
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		f.cfg.Logger.Error("a stream can't be written through this ResponseWriter", "error", err)
		return
	}
	streamHeader(w.Header(), "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache, no-transform")
	p := &pipe{out: response{w, rc}, progress: f.cfg.Progress, lazy: r.ProtoMajor == 1 && r.TLS == nil}
	ctx, cancel := context.WithTimeout(c.ctx, lifetimeOf(durableLifetime))
	defer cancel()
	err := d.send(ctx, p, r, at, f.cfg.Heartbeat)
	p.disarm()
	if _, lost := errors.AsType[*writeError](err); err != nil && !lost && ctx.Err() == nil {
		f.cfg.Logger.Warn("a stream ends", "stream", d.Stream, "error", err) // the client comes back at its offset
	}
}

func (d Durable) send(ctx context.Context, p *pipe, r *http.Request, at uint64, heartbeat time.Duration) error {
	for first := true; ; first = false {
		head, err := d.Head()
		if err != nil {
			return err
		}
		var out []byte
		body, next, err := d.messages(at, head)
		if err != nil {
			return err
		}
		if next > at {
			out = appendDurable(out, "data", body)
		}
		if at = next; len(out) > 0 || first {
			control := fmt.Sprintf(`{"streamNextOffset":"%s","streamCursor":"%s"`, offsetOf(at), streamCursor(r))
			if at >= head {
				control += `,"upToDate":true`
			}
			out = appendDurable(out, "control", []byte(control+"}"))
		} else {
			out = append(out, ":\n\n"...) // alive
		}
		if err := p.write(out); err != nil {
			return err
		}
		if err := p.flush(); err != nil {
			return err
		}
		if at < head {
			continue
		}
		wait, cancel := context.WithTimeout(ctx, heartbeat)
		err = d.Wait(wait, at)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && wait.Err() == nil {
			return err
		}
	}
}

// appendDurable appends an event without the space that may stand after a colon: some of the protocol's clients don't
// expect it. The payload is one line.
func appendDurable(dst []byte, name string, payload []byte) []byte {
	dst = append(append(append(dst, "event: "...), name...), "\ndata:"...)
	return append(append(dst, payload...), "\n\n"...)
}

// streamCursor counts intervals of 20 seconds, and goes beyond the one that the client has shown: so that a cache
// between can't keep giving it the same answer (section 8.1 of the protocol).
func streamCursor(r *http.Request) string {
	const interval = 20
	n := (time.Now().Unix() - time.Date(2024, 10, 9, 0, 0, 0, 0, time.UTC).Unix()) / interval
	if shown, err := strconv.ParseInt(r.URL.Query().Get("cursor"), 10, 64); err == nil && shown >= n && shown < 1<<60 {
		n = shown + 1 + rand.Int64N(3600/interval)
	}
	return strconv.FormatInt(n, 10)
}
