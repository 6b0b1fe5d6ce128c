package ingress

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	maxVendorKeys  = 256
	vendorKeyLife  = 12 * time.Hour  // then it is asked for again
	vendorKeyStale = 48 * time.Hour  // and used on while the provider can't be asked
	vendorMissLife = time.Minute     // of the answer that there is no such key
	vendorRetry    = 2 * time.Second // after a failure
	fetchesAtOnce  = 4               // of all requests together
	fetchesBurst   = 20              // and how many soon after one another,
	fetchesEvery   = 3 * time.Second // one more each
)

// VendorKeys are the public keys that providers publish, fetched from pinned addresses when a delivery needs one, and
// kept. What strangers can make it do is bounded: a few fetches at once, a few a minute, one for each key. It owns no
// goroutine that outlives a fetch.
type VendorKeys struct {
	http  *pinned
	roots *x509.CertPool // nil for the system's
	now   func() time.Time

	mu      sync.Mutex
	known   map[string]*vendorEntry
	running int
	tokens  float64 // fetches that may begin
	filled  time.Time
}

// vendorEntry is a key, or the news that there is none.
type vendorEntry struct {
	key     crypto.PublicKey
	err     error
	fetched time.Time
	renew   time.Time
	until   time.Time     // of its certificate; zero if it has none
	busy    chan struct{} // closed when the fetch in hand is over; nil if there is none
}

// NewVendorKeys returns an empty store that asks the internet, with the system's certificate authorities.
func NewVendorKeys() *VendorKeys { return newVendorKeys(nil, nil) }

func newVendorKeys(roots *x509.CertPool, dial func(context.Context, string, string) (net.Conn, error)) *VendorKeys {
	return &VendorKeys{
		http: newPinned(roots, dial), roots: roots, now: time.Now, known: map[string]*vendorEntry{}, tokens: fetchesBurst,
	}
}

// errThrottled is for a key that isn't known when too many others are being asked for.
var errThrottled = errors.New("too many keys are being asked for")

// fetched is a key with the end of its certificate's validity, if it has one.
type fetched struct {
	key   crypto.PublicKey
	until time.Time
}

// key returns the key called name, by fetch if it isn't known. An error is a *Failure if the provider has no such key,
// else one that will pass, answered with 503.
func (v *VendorKeys) key(ctx context.Context, name string, fetch func(context.Context) (fetched, error)) (crypto.PublicKey, error) {
	if v == nil {
		return nil, errors.New("no provider's keys can be fetched here")
	}
	for {
		key, wait, err := v.look(ctx, name, fetch)
		if wait == nil {
			return key, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, keyUnavailable(ctx.Err())
		}
	}
}

// look returns what is known, or a channel that is closed when more is.
func (v *VendorKeys) look(
	ctx context.Context, name string, fetch func(context.Context) (fetched, error),
) (crypto.PublicKey, <-chan struct{}, error) {
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.known[name]
	if e == nil || e.busy == nil && !now.Before(e.renew) {
		if !v.mayFetch(now) {
			if e != nil && e.usable(now) {
				return e.key, nil, nil
			}
			return nil, nil, keyUnavailable(errThrottled)
		}
		if e == nil {
			v.makeRoom()
			e = &vendorEntry{}
			v.known[name] = e
		}
		e.busy = make(chan struct{})
		v.running++
		// The fetch is for everybody who waits, so it doesn't end with this request.
		go v.fetch(context.WithoutCancel(ctx), e, fetch)
	}
	switch {
	case e.usable(now):
		return e.key, nil, nil
	case e.busy != nil:
		return nil, e.busy, nil
	case errors.Is(e.err, errGone):
		return nil, nil, failf(UntrustedKey, "the provider has no key of the name that the request gives")
	}
	return nil, nil, keyUnavailable(e.err)
}

func (e *vendorEntry) usable(now time.Time) bool {
	return e.key != nil && now.Sub(e.fetched) < vendorKeyStale && (e.until.IsZero() || now.Before(e.until))
}

func (v *VendorKeys) fetch(ctx context.Context, e *vendorEntry, fetch func(context.Context) (fetched, error)) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	got, err := fetch(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.now()
	v.running--
	switch {
	case err == nil:
		e.key, e.err, e.until, e.fetched, e.renew = got.key, nil, got.until, now, now.Add(vendorKeyLife)
		if !got.until.IsZero() && got.until.Before(e.renew) {
			e.renew = got.until
		}
	case errors.Is(err, errGone):
		e.key, e.err, e.renew = nil, err, now.Add(vendorMissLife)
	default:
		e.err, e.renew = err, now.Add(vendorRetry)
	}
	close(e.busy)
	e.busy = nil
}

// mayFetch takes one of the fetches that may begin now.
func (v *VendorKeys) mayFetch(now time.Time) bool {
	if !v.filled.IsZero() {
		v.tokens = min(fetchesBurst, v.tokens+float64(now.Sub(v.filled))/float64(fetchesEvery))
	}
	v.filled = now
	if v.running >= fetchesAtOnce || v.tokens < 1 {
		return false
	}
	v.tokens--
	return true
}

// makeRoom forgets an entry if the store is full: one without a key if there is any, else the oldest.
func (v *VendorKeys) makeRoom() {
	if len(v.known) < maxVendorKeys {
		return
	}
	var drop string
	for name, e := range v.known {
		if e.busy != nil {
			continue
		}
		if d := v.known[drop]; d == nil || e.key == nil && d.key != nil || (e.key == nil) == (d.key == nil) && e.renew.Before(d.renew) {
			drop = name
		}
	}
	delete(v.known, drop)
}

func keyUnavailable(err error) error {
	p := refuse(503, "key-unavailable", "The provider's public key can't be had at the moment", "send it again later")
	p.cause = err
	return p
}
