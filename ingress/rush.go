package ingress

import (
	"runtime"
	"sync/atomic"
	"time"
)

// rush notices that verified deliveries come in faster than rushRate. It costs a clock reading for every few hundred.
type rush struct {
	deliveries atomic.Int64
	marked     atomic.Int64 // when the last rushCount of them were complete, in Unix nanoseconds
	until      atomic.Int64
}

const (
	// rushRate is how many deliveries a second for each core are a rush: a core that does nothing else handles a few times
	// as many.
	rushRate = 1000
	rushSpan = 100 * time.Millisecond
	// rushLasts bridges the moments in which the log or the machine holds everybody up.
	rushLasts = time.Second
)

// rushCount is how many deliveries come within rushSpan at that rate.
var rushCount = int64(runtime.GOMAXPROCS(0)) * int64(rushRate*rushSpan/time.Second)

func (r *rush) count(now time.Time) {
	if r.deliveries.Add(1)%rushCount != 0 {
		return
	}
	t := now.UnixNano()
	if t-r.marked.Swap(t) <= int64(rushSpan) {
		r.until.Store(t + int64(rushLasts))
	}
}

// Rush reports whether verified deliveries come in so fast that taking them in is what the machine is needed for.
func (h *Handler) Rush() bool { return time.Now().UnixNano() < h.rush.until.Load() }
