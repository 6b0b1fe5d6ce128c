package egress

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// unit is what a client must take within Config.Progress, in bytes, and the most that waits for a flush.
	unit = 64 << 10
	// staging is how many bytes of a hijacked connection are gathered for one write.
	staging = 16 << 10
)

// outlet is where the bytes for a client go: a response, or a connection taken over from the HTTP server.
type outlet interface {
	io.Writer
	Flush() error
	SetWriteDeadline(time.Time) error
}

// pipe paces an outlet: it flushes when a unit is full, and cuts off who doesn't take a unit in time. Not for concurrent
// use.
type pipe struct {
	out      outlet
	progress time.Duration
	// lazy says that a write deadline means nothing while nothing is written: so it is on HTTP/1 without TLS.
	lazy     bool
	pending  int       // bytes written and not flushed
	since    time.Time // when the first of them was written
	deadline time.Time // of writes; zero when there is none
	last     time.Time // when something was last written
}

// writeError is a failure to write to the client. There is nobody to tell.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// write hands b to the outlet, and flushes whenever a unit is full.
func (p *pipe) write(b []byte) error {
	for len(b) > 0 {
		p.last = time.Now()
		if p.pending == 0 {
			p.since = p.last
			if err := p.arm(p.last); err != nil {
				return err
			}
		}
		n := min(len(b), unit-p.pending)
		if _, err := p.out.Write(b[:n]); err != nil {
			return &writeError{err}
		}
		p.pending += n
		b = b[n:]
		if p.pending == unit {
			if err := p.flush(); err != nil && (err != errSlow || len(b) == 0) {
				return err // what is begun is finished first
			}
		}
	}
	return nil
}

// flush sends what is pending. errSlow says that it was taken, but too late: the client may still be told.
func (p *pipe) flush() error {
	if p.pending == 0 {
		return nil
	}
	if err := p.out.Flush(); err != nil {
		return &writeError{err}
	}
	p.pending = 0
	var slow error
	if time.Since(p.since) > p.progress {
		slow = errSlow
	}
	if !p.lazy {
		if err := p.disarm(); err != nil {
			return err
		}
	}
	return slow
}

// arm sets the deadline of a unit. Where it may be lazy, one that is far enough away is left as it is: setting and
// clearing it costs an eighth of delivering an event.
func (p *pipe) arm(now time.Time) error {
	if p.deadline.Sub(now) >= p.progress {
		return nil
	}
	// Half as much again: who takes a unit in that time is told why it is cut off, who doesn't is not.
	p.deadline = now.Add(p.progress + p.progress/2)
	if err := p.out.SetWriteDeadline(p.deadline); err != nil {
		return &writeError{fmt.Errorf("set the write deadline: %w", err)}
	}
	return nil
}

// disarm clears the deadline. On HTTP/2 one that passes while the feed is idle would reset the stream, although
// nothing is being written.
func (p *pipe) disarm() error {
	p.deadline = time.Time{}
	if err := p.out.SetWriteDeadline(time.Time{}); err != nil {
		return &writeError{fmt.Errorf("clear the write deadline: %w", err)}
	}
	return nil
}

// response is the outlet of a handler.
type response struct {
	http.ResponseWriter
	*http.ResponseController
}

func (r response) Flush() error { return r.ResponseController.Flush() }

// hijacked is the outlet of a connection taken over from the HTTP server. It holds a buffer only while something waits
// to be sent.
type hijacked struct {
	net.Conn
	chunked bool // every write is a chunk (RFC 9112, section 7.1)
	buf     *[]byte
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, staging); return &b }}

const chunkHead = 6 // "3fff" and CR LF; staging is below 64 KiB

func (h *hijacked) Write(b []byte) (n int, err error) {
	for n < len(b) {
		if h.buf == nil {
			h.buf = buffers.Get().(*[]byte)
			if *h.buf = (*h.buf)[:0]; h.chunked {
				*h.buf = (*h.buf)[:chunkHead]
			}
		}
		room := cap(*h.buf) - len(*h.buf) - 2 // for the CR LF that ends a chunk
		if room <= 0 {
			if err := h.Flush(); err != nil {
				return n, err
			}
			continue
		}
		take := min(room, len(b)-n)
		*h.buf = append(*h.buf, b[n:n+take]...)
		n += take
	}
	return n, nil
}

func (h *hijacked) Flush() error {
	if h.buf == nil {
		return nil
	}
	out := *h.buf
	if h.chunked {
		size := strconv.AppendInt(nil, int64(len(out)-chunkHead), 16)
		out = append(out, '\r', '\n')
		begin := chunkHead - 2 - len(size)
		copy(out[begin:], size)
		copy(out[chunkHead-2:], "\r\n")
		out = out[begin:]
	}
	_, err := h.Conn.Write(out)
	buffers.Put(h.buf)
	h.buf = nil
	return err
}
