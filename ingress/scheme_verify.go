package ingress

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Verify checks that one of the signatures of r was made with a key that counts, and that its timestamp is within the
// tolerance around now. It returns nil, a *Failure, or another error when a key can't be one of this scheme or the
// provider's can't be had at the moment. The time is looked at last, so that TooOld and TooNew are only ever said of
// requests that the provider signed. ctx bounds what is fetched from the provider.
//
// A key counts if it does now or did when the request was signed, so that a request under way during a rotation isn't
// lost.
func (s *Scheme) Verify(ctx context.Context, r *Request, keys []Key, now time.Time) error {
	err := s.verify(ctx, r, keys, now)
	if err == nil || len(s.Also) == 0 {
		return err
	}
	mine := s.fits(keys)
	for i := range s.Also {
		also := &s.Also[i]
		if !also.fits(keys) {
			continue
		}
		other := also.verify(ctx, r, keys, now)
		if other == nil {
			return nil
		}
		if mine {
			other = telling(err, other)
		}
		err, mine = other, true
	}
	return err
}

// fits reports whether one of keys is a key of s itself. What the others say of a request is of no interest.
func (s *Scheme) fits(keys []Key) bool {
	return slices.ContainsFunc(keys, func(k Key) bool {
		_, err := s.material(k.Secret)
		return err == nil
	})
}

// further is the order in which schemes refuse: what comes later says more of a request.
var further = []Reason{MissingHeader, Malformed, NoSecret, WrongSignature, UntrustedKey, TooOld, TooNew}

// telling returns the error of the scheme that got further, and first of all one that is ours and not the sender's.
func telling(a, b error) error {
	rank := func(err error) int {
		if f, ok := errors.AsType[*Failure](err); ok {
			return slices.Index(further, f.Reason)
		}
		return len(further)
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

func (s *Scheme) verify(ctx context.Context, r *Request, keys []Key, now time.Time) error {
	if s.Algorithm == None {
		return nil
	}
	p := pass{s: s, r: r}
	if err := p.open(); err != nil {
		return err
	}
	if s.Each == "" {
		return p.check(ctx, keys, now)
	}
	items, err := p.items()
	if err != nil {
		return err
	}
	for _, item := range items {
		if p.fields, err = s.fields.find(item); err != nil {
			return failf(Malformed, "what is signed is in the body: %v", err)
		}
		if err := p.check(ctx, keys, now); err != nil {
			return err
		}
	}
	return nil
}

// items returns the elements of Each. None at all is refused: nothing would be verified.
func (p *pass) items() ([][]byte, error) {
	found, err := p.s.array.find(p.r.Body)
	if err != nil {
		return nil, failf(Malformed, "what is signed is in the body: %v", err)
	}
	items, ok := elements(found.tail(p.s.Each))
	if !ok || len(items) == 0 || len(items) > maxItems {
		return nil, failf(Malformed, "the body has no array %s of 1 to %d elements", p.s.Each, maxItems)
	}
	return items, nil
}

// elements returns the elements of the array that b begins with.
func elements(b []byte) (items [][]byte, ok bool) {
	if byteAt(b, 0) != '[' {
		return nil, false
	}
	for i := space(b, 1); byteAt(b, i) != ']' && len(items) <= maxItems; {
		end := valueEnd(b, i)
		items = append(items, b[i:end:end])
		if i = space(b, end); byteAt(b, i) == ',' {
			i = space(b, i+1)
		}
	}
	return items, true
}

// check verifies the request, or one element of it.
func (p *pass) check(ctx context.Context, keys []Key, now time.Time) error {
	s := p.s
	if s.If != "" {
		if text, _ := p.fields.scalar(s.If); text != s.Is {
			return failf(Malformed, "%s in the body is not %s", s.If, s.Is)
		}
	}
	switch s.Algorithm {
	case Token, Basic:
		return p.checkToken(keys, now)
	case JWT:
		return p.checkJWT(ctx, keys, now)
	}
	sig := &p.signed
	*sig = signed{}
	if err := p.collect(sig); err != nil {
		return err
	}
	counted, stale, missed := false, error(nil), error(nil)
	for i := range sig.groups {
		g := &sig.groups[i]
		sent, err := s.sent(g.stamp)
		if err != nil {
			return err
		}
		for k := range keys {
			key := &keys[k]
			if !key.counts(now) && (s.Tolerance == 0 || !key.counts(sent)) {
				continue
			}
			right, err := p.right(ctx, key.Secret, g, sig.keyID)
			if none, ok := errors.AsType[noKey](err); ok {
				missed = none.after(missed)
				continue
			}
			if err != nil {
				return err
			}
			counted = true
			if !right {
				continue
			}
			if stale = s.fresh(sent, now); stale == nil {
				return nil
			}
		}
	}
	switch {
	case stale != nil:
		return stale
	case missed != nil:
		return missed
	case !counted:
		return failf(NoSecret, "the source has no secret that counts at this time")
	}
	return failf(WrongSignature, "no signature in %s is for this body and a secret of this source", s.where())
}

// right reports whether one of the signatures of g is for the request under secret. All are compared, wherever the right one
// stands. A secret that isn't a key of this scheme but of another one of the row is passed over.
func (p *pass) right(ctx context.Context, secret Secret, g *group, keyID string) (bool, error) {
	s := p.s
	key, err := s.material(secret)
	if err != nil {
		return false, ifAlone(s, err)
	}
	if s.Pinned != "" {
		if text, _ := p.fields.scalar(s.Pinned); !equal([]byte(text), secret) {
			return false, nil
		}
	}
	if s.Vendor != nil {
		if key.public, err = s.Vendor(ctx, p, secret, keyID); err != nil {
			return false, noKey{err}
		}
	}
	right := false
	for i := -1; i < len(s.Or); i++ {
		message := s.Message
		if i >= 0 {
			message = s.Or[i]
		}
		what, err := p.digest(key, message, g.stamp, secret)
		if err != nil {
			return false, err
		}
		for _, sig := range g.signatures {
			if s.Algorithm == HMAC {
				right = hmac.Equal(sig, what) || right
			} else {
				right = s.signs(key.public, what, sig) || right
			}
		}
	}
	return right, nil
}

// noKey says that the provider's key can't be had for a secret. It is no verdict on the request while another secret may
// still be right: two issuers, or the credentials before and after their rotation.
type noKey struct{ error }

// after returns which of two such errors to answer with. One that will pass comes first: the request may be signed with
// just that key, and a sender that is told 401 doesn't come again.
func (n noKey) after(earlier error) error {
	if earlier == nil {
		return n.error
	}
	return telling(earlier, n.error)
}

// ifAlone drops the error of a secret that doesn't fit s, if the row has other schemes that it may fit. That it fits
// one of them was checked when the source was configured.
func ifAlone(s *Scheme, err error) error {
	if s.paired {
		return nil
	}
	return err
}

// digest returns what is signed: a MAC of the message, its digest, or for Ed25519 the message.
func (p *pass) digest(key material, message []Part, stamp string, secret Secret) ([]byte, error) {
	switch p.s.Algorithm {
	case Ed25519:
		var b bytes.Buffer
		err := p.write(&b, message, stamp, secret)
		return b.Bytes(), err
	case HMAC:
		h := hmac.New(p.s.Digest, key.bytes)
		if err := p.write(h, message, stamp, secret); err != nil {
			return nil, err
		}
		return h.Sum(nil), nil
	}
	h := p.s.Digest()
	if err := p.write(h, message, stamp, secret); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

func (s *Scheme) timed() bool {
	return s.TimeHeader != "" || s.TimeKey != "" || s.TimeField != "" || s.Layout == Positional
}

// sent reads the timestamp. Of a number it takes digits alone, no sign and no fraction: the text goes into the signed
// message, and a separator in it would let one message be read as another.
func (s *Scheme) sent(stamp string) (time.Time, error) {
	if !s.timed() {
		return time.Time{}, nil
	}
	if s.Unit == ISO {
		t, err := time.Parse(time.RFC3339, stamp)
		if err != nil || len(stamp) > len("2006-01-02T15:04:05.999999999+00:00") {
			return time.Time{}, failf(Malformed, "%s is not a time as RFC 3339 has it", s.whereTime())
		}
		return t, nil
	}
	digits, unit := 12, "seconds" // beyond the year 30000, and far from overflowing a time.Duration's arithmetic
	if s.Unit != Seconds {
		digits, unit = 15, "milliseconds"
	}
	n, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || len(stamp) > digits || strings.Trim(stamp, "0123456789") != "" {
		return time.Time{}, failf(Malformed, "%s is not a time in %s", s.whereTime(), unit)
	}
	if s.Unit == Milliseconds || s.Unit == Epoch && len(stamp) > 12 {
		return time.UnixMilli(n), nil
	}
	return time.Unix(n, 0), nil
}

func (s *Scheme) whereTime() string {
	switch {
	case s.TimeHeader != "":
		return s.TimeHeader
	case s.TimeField != "":
		return s.TimeField
	case s.TimeKey != "":
		return s.TimeKey + " in " + s.Header
	}
	return "the first entry of " + s.Header
}

// fresh checks the time of a request that the provider signed.
func (s *Scheme) fresh(sent, now time.Time) error {
	if !s.timed() || s.Tolerance == 0 {
		return nil
	}
	if age := now.Sub(sent); age > s.Tolerance {
		return failf(TooOld, "the timestamp is more than %v old", s.Tolerance)
	} else if age < -s.Tolerance {
		return failf(TooNew, "the timestamp is more than %v in the future", s.Tolerance)
	}
	return nil
}

// checkToken compares what was sent with every secret that counts.
func (p *pass) checkToken(keys []Key, now time.Time) error {
	s := p.s
	var sent [][]byte
	err := p.each(func(text string) error {
		token, ok := strings.CutPrefix(text, s.Label)
		if s.Algorithm == Basic {
			var b []byte
			scheme, encoded, _ := strings.Cut(text, " ")
			b, err := base64.StdEncoding.DecodeString(encoded)
			token, ok = string(b), err == nil && strings.EqualFold(scheme, "Basic")
		}
		if !ok || token == "" || len(text) > maxSignatureHeader {
			return failf(Malformed, "%s is not a credential of this provider", s.where())
		}
		sent = append(sent, []byte(token))
		return nil
	})
	if err != nil {
		return err
	}
	right, counted := false, false
	for i := range keys {
		if !keys[i].counts(now) {
			continue
		}
		if _, err := s.material(keys[i].Secret); err != nil {
			if err = ifAlone(s, err); err != nil {
				return err
			}
			continue
		}
		counted = true
		for _, token := range sent {
			right = equal(token, keys[i].Secret) || right
		}
	}
	switch {
	case right:
		return nil
	case !counted:
		return failf(NoSecret, "the source has no secret that counts at this time")
	}
	return failf(WrongSignature, "%s is not a secret of this source", s.where())
}

// equal compares in a time that depends on neither content nor length.
func equal(a, b []byte) bool {
	x, y := sha256.Sum256(a), sha256.Sum256(b)
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
