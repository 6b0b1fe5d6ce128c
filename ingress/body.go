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

// read reads the whole body, at most limit bytes, into a buffer that ends at the announced length or grows by
// doubling. Only what has arrived is counted, up to a factor of two, so that a stranger who announces 25 MiB and
// sends nothing keeps nobody out.
func read(r *http.Request, limit int64, hold *hold) ([]byte, error) {
	end := limit + 1 // one more than allowed, to see that there is more
	if r.ContentLength >= 0 {
		end = r.ContentLength
	}
	size := min(end, firstRead)
	if !hold.take(size) {
		return nil, busy()
	}
	buf := make([]byte, 0, size)
	for {
		if len(buf) == cap(buf) {
			if int64(len(buf)) == end {
				break
			}
			size := min(2*int64(cap(buf)), end)
			if !hold.take(size - int64(cap(buf))) {
				return nil, busy()
			}
			buf = append(make([]byte, 0, size), buf...)
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			p := unreadable(errors.New("the body ended early, or came too slowly"))
			p.cause = err
			return nil, p
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
