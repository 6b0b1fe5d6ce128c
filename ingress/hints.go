package ingress

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/time/rate"
)

// The reasons that only operators are told: a sender who learns them learns how near it came.
const (
	BodyChanged  Reason = "body-changed"   // the signature fits the body as it may have been when it was sent
	OtherSource  Reason = "other-source"   // it fits a secret of another source
	SecretNotNow Reason = "secret-not-now" // it fits a secret of the source that has expired, or doesn't count yet
)

// suspicions bounds how many refused signatures a second are looked into: each look computes further ones, over copies of
// the body, which therefore has at most maxSuspect bytes.
const (
	suspicions = 5
	maxSuspect = 256 << 10
	maxOthers  = 16 // sources whose secrets are tried
)

func newSuspicion() *rate.Limiter { return rate.NewLimiter(suspicions, suspicions) }

// investigate looks for what an operator can mend about a signature that is not right, and leaves it in the request.
// The sender's answer is the same whatever it finds.
func (h *Handler) investigate(in *incoming, sent []byte, says content, failed error) {
	f, ok := errors.AsType[*Failure](failed)
	if !ok || len(sent) > maxSuspect || !h.suspicion.AllowN(in.at, 1) {
		return
	}
	switch f.Reason {
	case TooOld, TooNew:
		in.hint = "the signature is right; if this goes on, compare the clock of this machine (" + in.at.UTC().Format("2006-01-02T15:04:05Z") + ")"
	case MissingHeader:
		in.hint = h.otherProvider(in)
	case WrongSignature, NoSecret:
		if in.route.provider.Scheme.Vendor != nil {
			return // a stranger must not have keys fetched more than once
		}
		fits := func(rt *route, body []byte, keys ...Key) bool {
			err := h.verifyWith(keys, rt, in.Request, body, in.at)
			f, ok := errors.AsType[*Failure](err)
			return err == nil || ok && (f.Reason == TooOld || f.Reason == TooNew)
		}
		for _, k := range in.route.source.Secrets {
			if !k.counts(in.at) && fits(in.route, sent, Key{Secret: k.Secret}) {
				in.reason, in.hint = SecretNotNow, "the signature fits a secret that counts "+k.span()
				return
			}
		}
		own := h.keys(in.route)
		for name, body := range changed(sent, says, in.route.maxBody) {
			if fits(in.route, body, own...) {
				in.reason, in.hint = BodyChanged, "the signature fits the body "+name+": something between the sender and here changes bodies"
				return
			}
		}
		others := 0
		for name, rt := range *h.routes.Load() {
			if rt == in.route || rt.provider.Name != in.route.provider.Name || others == maxOthers {
				continue
			}
			others++
			if fits(rt, sent, h.keys(rt)...) {
				in.reason, in.hint = OtherSource, fmt.Sprintf("the signature fits a secret of the source %s: which URL was the provider given?", name)
				return
			}
		}
	}
}

// span is the time in which a secret counts, in words.
func (k Key) span() string {
	const day = "2006-01-02T15:04:05Z"
	switch {
	case k.Until.IsZero():
		return "only from " + k.From.UTC().Format(day)
	case k.From.IsZero():
		return "only until " + k.Until.UTC().Format(day)
	}
	return "only from " + k.From.UTC().Format(day) + " until " + k.Until.UTC().Format(day)
}

// changed yields what a body may have been before a proxy, a framework or a shell got hold of it.
func changed(sent []byte, says content, limit int64) func(yield func(string, []byte) bool) {
	return func(yield func(string, []byte) bool) {
		trimmed := bytes.TrimRight(sent, "\r\n")
		unix := bytes.ReplaceAll(sent, []byte("\r\n"), []byte("\n"))
		for _, c := range []struct {
			name string
			body []byte
		}{
			{"without the line break at its end", trimmed},
			{"with a line break at its end", append(slices.Clip(trimmed), '\n')},
			{"with line breaks as Unix has them", unix},
			{"with line breaks as Windows has them", bytes.ReplaceAll(unix, []byte("\n"), []byte("\r\n"))},
			{"without the byte order mark before it", bytes.TrimPrefix(sent, []byte("\ufeff"))},
		} {
			if !bytes.Equal(c.body, sent) && !yield(c.name, c.body) {
				return
			}
		}
		if says.encoding != "" {
			alone := hold{from: &allowance{limit: limit}}
			if body, err := inflate(sent, says.encoding, limit, &alone); err == nil {
				yield("before it was compressed", body)
			}
		}
	}
}

// otherProvider names the provider whose signature a request without ours has.
func (h *Handler) otherProvider(in *incoming) string {
	var names []string
	for _, p := range Providers {
		if name := p.Scheme.Header; name != "" && p.Name != in.route.provider.Name && len(in.Header[name]) > 0 {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 || len(names) > 5 {
		return ""
	}
	return "its headers are those of " + strings.Join(names, " or ") + ": is the source's provider right?"
}
