package ingress

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound how many requests a second a source answers, refused ones included. What is beyond is answered with 429
// before its body is read. A rate of 0 is no limit; a burst of 0 is that of a second, at least 1.
type Limits struct {
	Rate        float64 // of the source
	Burst       int
	ClientRate  float64 // of each client, which is an IPv4 address or the /64 of an IPv6 address
	ClientBurst int
}

const (
	maxRate = 1e6
	// maxClients is how many clients a source remembers. One that is forgotten begins anew, with a whole burst: the
	// source's own limit is what holds against a swarm.
	maxClients = 8192
)

// check reports every problem.
func (l Limits) check() error {
	var errs []error
	for name, v := range map[string]float64{"rate": l.Rate, "client_rate": l.ClientRate, "burst": float64(l.Burst), "client_burst": float64(l.ClientBurst)} {
		if !(v >= 0 && v <= maxRate) {
			errs = append(errs, fmt.Errorf("limits.%s is %v, it must be between 0 and %.0f", name, v, float64(maxRate)))
		}
	}
	if l.Rate == 0 && l.Burst != 0 || l.ClientRate == 0 && l.ClientBurst != 0 {
		errs = append(errs, errors.New("limits: a burst needs its rate"))
	}
	return errors.Join(errs...)
}

// limiter keeps the limits of one source. A nil limiter allows everything.
type limiter struct {
	Limits
	whole *rate.Limiter // nil without a limit

	mu sync.Mutex
	// Of two halves the younger is filled; when it is full, the older one is forgotten. A client that comes back is moved
	// to the younger one, so that those who send stay.
	young, old map[netip.Prefix]*rate.Limiter
}

func newLimiter(l Limits) *limiter {
	if l == (Limits{}) {
		return nil
	}
	return &limiter{Limits: l, whole: bucket(l.Rate, l.Burst), young: map[netip.Prefix]*rate.Limiter{}}
}

func bucket(perSecond float64, configured int) *rate.Limiter {
	if perSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst(perSecond, configured))
}

// burst is the configured one, or that of a second.
func burst(perSecond float64, configured int) int {
	if configured == 0 && perSecond > 0 {
		return max(1, int(math.Ceil(perSecond)))
	}
	return configured
}

// scopes of a limit, as they stand in metrics and refusals.
const (
	scopeClient = "client"
	scopeSource = "source"
)

// allow takes one request of the client. If it is too much it returns whose limit it is over, and for how long. Only a
// request that its client may send counts for the source.
func (l *limiter) allow(client netip.Addr, now time.Time) (scope string, wait time.Duration) {
	if l == nil {
		return "", 0
	}
	if l.ClientRate > 0 {
		if wait := delay(l.client(client), now); wait > 0 {
			return scopeClient, wait
		}
	}
	if l.whole != nil {
		if wait := delay(l.whole, now); wait > 0 {
			return scopeSource, wait
		}
	}
	return "", 0
}

// delay takes one token, or none and says when there will be one.
func delay(b *rate.Limiter, now time.Time) time.Duration {
	r := b.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// clientOf is what counts as one client. All whose address isn't known are one.
func clientOf(a netip.Addr) (client netip.Prefix) {
	if a = a.Unmap().WithZone(""); a.IsValid() {
		bits := 32
		if a.Is6() {
			bits = 64 // what a single customer of a provider gets
		}
		client, _ = a.Prefix(bits) // it has that many
	}
	return client
}

// client returns the bucket of an address.
func (l *limiter) client(a netip.Addr) *rate.Limiter {
	key := clientOf(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.young[key]
	if b == nil {
		if b = l.old[key]; b == nil {
			b = bucket(l.ClientRate, l.ClientBurst)
		}
		if len(l.young) >= maxClients/2 {
			l.young, l.old = make(map[netip.Prefix]*rate.Limiter, maxClients/2), l.young
		}
		l.young[key] = b
	}
	return b
}
