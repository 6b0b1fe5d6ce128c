package ingress

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// firstRead is how much room a body is given before any of it has arrived, in bytes.
const firstRead = 64 << 10

func unreadable(err error) *problem {
	return refuse(400, "unreadable-body", "The body can't be read", "%s", err)
}

// read reads the whole body of a request, at most limit bytes.
func read(r *http.Request, limit int64, hold *hold) ([]byte, error) {
	size := limit + 1
	if r.ContentLength >= 0 {
		size = r.ContentLength
	}
	body, err := fill(r.Body, size, limit, hold)
	if err != nil {
		if p, ok := errors.AsType[*problem](err); ok {
			return nil, p
		}
		p := unreadable(errors.New("the body ended early, or came too slowly, or its length or chunks are wrong"))
		p.cause = err
		return nil, p
	}
	return body, nil
}

// fill reads all of r, at most limit bytes, into a buffer that ends at the announced size or grows by doubling. Only
// what has arrived is counted, up to a factor of two, so that a stranger who announces 25 MiB and sends nothing keeps
// nobody out. A size that isn't known is limit+1: one more than allowed, to see that there is more.
func fill(r io.Reader, size, limit int64, hold *hold) ([]byte, error) {
	room := min(size, firstRead)
	if !hold.take(room) {
		return nil, busy()
	}
	buf := make([]byte, 0, room)
	for {
		if len(buf) == cap(buf) {
			if int64(len(buf)) == size {
				break
			}
			room := min(2*int64(cap(buf)), size)
			if !hold.take(room - int64(cap(buf))) {
				return nil, busy()
			}
			buf = append(make([]byte, 0, room), buf...)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if int64(len(buf)) > limit {
		return nil, tooLarge(limit)
	}
	return buf, nil
}

// allowance is a number of bytes that requests share.
type allowance struct {
	limit int64
	used  atomic.Int64
}

// hold is what one request has taken of the allowance.
type hold struct {
	from *allowance
	held int64
}

// take takes n more bytes, or none. A request alone is always served: what it needs beyond the whole allowance is
// not counted.
func (h *hold) take(n int64) bool {
	n = min(n, h.from.limit-h.held)
	if h.from.used.Add(n) > h.from.limit {
		h.from.used.Add(-n)
		return false
	}
	h.held += n
	return true
}

func (h *hold) release() {
	h.from.used.Add(-h.held)
	h.held = 0
}
