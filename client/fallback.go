package client

import (
	"errors"
	"fmt"
)

// away is a failure before the request was out: the node can't be reached, whatever the transport.
type away struct{ error }

func (e *away) Unwrap() error { return e.error }

// unfit is what a transport fails with that doesn't get through here, while another one may.
type unfit struct{ error }

func (e *unfit) Unwrap() error { return e.error }

// errBetter ends a feed by pages that may have got a better transport back.
var errBetter = errors.New("a better transport is tried again")

// fallback is which transport is used, and what is thought of it.
type fallback struct {
	ways   []Transport
	at     int
	proven bool // it has worked
	doubt  int  // it has failed since, as if somebody stood in the way
	worked bool // any has
	// back is the transport to return to, plus 1: it had worked and was given up on a guess, as when a node was away
	// behind something that takes connections for it.
	back int
}

func (w *fallback) way() Transport { return w.ways[w.at] }

// judge decides whether a failure is the transport's fault, and moves on to the next one then. What doesn't get through
// says so at once (doubt 3), or looks as if (2): a connection that is cut before the first message, a proxy's 502. One
// that has worked is doubted only when it happens again and again; where the node can't be reached none is. After the
// last transport comes the first again, after a pause. An error is the end: nobody here is a node.
func (w *fallback) judge(err error) (moved bool, end error) {
	_, wall := errors.AsType[*unfit](err)
	_, gone := errors.AsType[*away](err)
	refused, no := errors.AsType[*Refused](err)
	switch {
	case gone, no && refused.Type != "": // the node can't be reached, or has answered
		return false, nil
	case wall:
		w.doubt += 3
	case no && w.proven: // rather the node is away than a proxy new
		w.doubt++
	default:
		w.doubt += 2
	}
	limit := 3
	if w.proven {
		limit = 6
	}
	if w.doubt < limit {
		return false, nil
	}
	last := w.at+1 == len(w.ways)
	if last && !w.worked {
		if e, ok := errors.AsType[*foreign](err); ok {
			return false, &Refused{Status: e.status, Detail: fmt.Sprintf("this is no feed: the answer is %.100q", e.media)}
		}
		if no && !refused.temporary {
			return false, refused
		}
	}
	if w.proven && !wall {
		w.back = w.at + 1
	}
	w.use((w.at + 1) % len(w.ways))
	return !last, nil
}

// use takes a transport of which nothing is known.
func (w *fallback) use(i int) { w.at, w.proven, w.doubt = i, false, 0 }

// ended is told of every connection that had worked.
func (w *fallback) ended() {
	if w.doubt = 0; w.back > 0 {
		if w.at != w.back-1 {
			w.use(w.back - 1)
		}
		w.back = 0
	}
}
