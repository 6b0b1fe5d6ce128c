package ingress

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// problem is a refusal: an RFC 9457 problem document, and what it carries beside it. It is an error.
type problem struct {
	Type   string `json:"type"` // "/problems/…", stable
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Reason Reason `json:"reason,omitempty"` // bad-signature
	Field  string `json:"field,omitempty"`  // invalid-delivery: the header or body field at fault

	allow  string        // 405: the methods there are
	accept string        // 415: the encodings that are taken
	retry  time.Duration // 429: when there will be room
	cause  error         // for the log alone
}

func (p *problem) Error() string {
	s := fmt.Sprintf("%d %s: %s", p.Status, p.Type, p.Detail)
	if p.cause != nil {
		s += ": " + p.cause.Error()
	}
	return s
}

func (p *problem) Unwrap() error { return p.cause }

func refuse(status int, kind, title, format string, args ...any) *problem {
	return &problem{Type: "/problems/" + kind, Title: title, Status: status, Detail: fmt.Sprintf(format, args...)}
}

func tooLarge(limit int64) *problem {
	return refuse(413, "body-too-large", "The body is too large", "this source takes bodies of up to %d bytes", limit)
}

func busy() *problem {
	return refuse(503, "busy", "Too much is being received at once", "nothing was stored; send it again later")
}

// problemOf says how an error is answered. What has no class is a defect of ours; its text stays in the log.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		p := refuse(401, "bad-signature", "The signature was not accepted", "%s", f.Detail)
		p.Reason = f.Reason
		return p
	}
	var p *problem
	e, ok := errors.AsType[*domain.Error](err)
	switch {
	case ok && e.Class == domain.Invalid:
		p = refuse(422, "invalid-delivery", "The delivery can't be filed", "%s", e.Message)
		p.Field = e.Field
	case ok && e.Class == domain.TooLarge:
		p = refuse(413, "body-too-large", "The body is too large", "%s", e.Message)
	case ok && e.Class == domain.Unavailable:
		p = refuse(503, "log-unavailable", "The log can't be written at the moment", "send it again later")
	default:
		p = refuse(500, "internal", "Something went wrong here", "the delivery was not accepted; send it again later")
	}
	p.cause = err
	return p
}

// write answers with the problem. Retry-After, for the refusals that are over by themselves, is spread over some
// seconds around 5 so that senders don't come back in step.
func (p *problem) write(w http.ResponseWriter) {
	body, _ := json.Marshal(p) // strings and an int
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.accept != "" {
		h.Set("Accept-Encoding", p.accept)
	}
	switch {
	case p.Status == http.StatusTooManyRequests && p.retry > 0:
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(p.retry.Seconds())), 10))
	case p.Status == http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(3+rand.IntN(6)))
	}
	w.WriteHeader(p.Status)
	w.Write(body) // the sender may be gone; there is nobody else to tell
}
