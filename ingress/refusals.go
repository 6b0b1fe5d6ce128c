package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
	"golang.org/x/time/rate"
)

const (
	defaultKept     = 100 // refusals of a source
	maxKeptRefusals = 10_000
	maxRefusalBytes = 256 << 10 // of memory, for all that a source keeps
	maxShownHeader  = 256       // bytes of a value
	maxShownHeaders = 64        // of a request
)

// Refusal is a request that was answered and not stored. It holds nothing of the body, and no secret.
type Refusal struct {
	Time       time.Time `json:"time"`
	Remote     string    `json:"remote" doc:"Address of the sender; empty if a proxy named none" example:"192.0.2.7"`
	Method     string    `json:"method" example:"POST"`
	Status     int       `json:"status" doc:"What it was answered with. 200 is a delivery that a rule dropped" example:"401"`
	Problem    string    `json:"problem,omitempty" doc:"type of the problem in the answer" example:"/problems/bad-signature"`
	Reason     string    `json:"reason" doc:"Why, in a word" example:"wrong-signature"`
	Detail     string    `json:"detail" doc:"Why, for people"`
	Hint       string    `json:"hint,omitempty" doc:"What was found out about it that the sender wasn't told" example:"the signature fits a secret that has expired"`
	Field      string    `json:"field,omitempty" doc:"Header or part of the body that is at fault" example:"repository.full_name"`
	Rule       string    `json:"rule,omitempty" doc:"The rule that dropped it" example:"main-branch"`
	DeliveryID string    `json:"delivery_id,omitempty" doc:"Id of the delivery, if its signature was right and it had one"`
	Type       string    `json:"type,omitempty" doc:"Type of the delivery, as for the id"`
	Size       int64     `json:"size" doc:"Bytes of the body that were read, else those announced, else -1"`
	// Headers are the request's, with secrets and signatures masked.
	Headers map[string]string `json:"headers" doc:"Headers of the request by lower-case name; secrets and signatures are masked"`
}

// RefusalCount is how many requests were answered in one way since the node started.
type RefusalCount struct {
	Status  int       `json:"status" example:"401"`
	Problem string    `json:"problem,omitempty" example:"/problems/bad-signature"`
	Reason  string    `json:"reason" example:"wrong-signature"`
	Rule    string    `json:"rule,omitempty"`
	Count   uint64    `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// reasonDropped is the reason of what a rule drops.
const reasonDropped = "dropped"

// kindOf is what refusals are counted by. It is made of our own words only, so there is a bounded number of them.
type kindOf struct {
	status                int
	problem, reason, rule string
}

func (r *Refusal) kind() kindOf { return kindOf{r.Status, r.Problem, r.Reason, r.Rule} }

// bytes is about how much memory it takes.
func (r *Refusal) bytes() int {
	n := 512 + len(r.Detail) + len(r.Hint) + len(r.Field) + len(r.DeliveryID) + len(r.Type)
	for name, value := range r.Headers {
		n += 64 + len(name) + len(value)
	}
	return n
}

// refusals keeps the last of a source's, and the counts of all.
type refusals struct {
	keep int

	mu     sync.Mutex
	last   []*Refusal // oldest first
	bytes  int
	per    map[kindOf]int // how many of each kind are among the last
	counts map[kindOf]*RefusalCount
}

func newRefusals(keep int) *refusals {
	return &refusals{keep: keep, per: map[kindOf]int{}, counts: map[kindOf]*RefusalCount{}}
}

// add keeps a refusal. When there are too many, the oldest one of the most frequent kind goes: a flood of forgeries
// doesn't wash out the one delivery that a mistake of ours refuses.
func (s *refusals) add(r *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := r.kind()
	c := s.counts[k]
	if c == nil {
		c = &RefusalCount{Status: r.Status, Problem: r.Problem, Reason: r.Reason, Rule: r.Rule, First: r.Time}
		s.counts[k] = c
	}
	c.Count++
	c.Last = r.Time
	s.last = append(s.last, r)
	s.per[k]++
	s.bytes += r.bytes()
	for len(s.last) > s.keep || s.bytes > maxRefusalBytes {
		var most kindOf
		for k, n := range s.per {
			if n > s.per[most] || n == s.per[most] && k.status < most.status {
				most = k
			}
		}
		i := slices.IndexFunc(s.last, func(r *Refusal) bool { return r.kind() == most })
		if s.per[most]--; s.per[most] == 0 {
			delete(s.per, most)
		}
		s.bytes -= s.last[i].bytes()
		s.last = slices.Delete(s.last, i, i+1)
	}
}

// list returns what is kept, newest first, and the counts, the latest first.
func (s *refusals) list() ([]Refusal, []RefusalCount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := make([]Refusal, 0, len(s.last))
	for _, r := range slices.Backward(s.last) {
		last = append(last, *r)
	}
	counts := make([]RefusalCount, 0, len(s.counts))
	for _, c := range s.counts {
		counts = append(counts, *c)
	}
	slices.SortFunc(counts, func(a, b RefusalCount) int { return b.Last.Compare(a.Last) })
	return last, counts
}

// shown are the headers that are kept of a request: all names, and the values that are no secret. They are copies: a part
// of a header would keep all of it in memory.
func shown(p Provider, header http.Header) map[string]string {
	m := make(map[string]string, min(len(header), maxShownHeaders+1))
	for name, values := range header {
		if len(m) == maxShownHeaders {
			m["…"] = fmt.Sprintf("and %d more", len(header)-maxShownHeaders)
			break
		}
		key, value := strings.ToLower(shortened(name)), strings.Join(values, ", ")
		if name == p.Scheme.Header || credential(name) || signature(name) || !harmless(p, key) {
			m[key] = fmt.Sprintf("(%d bytes)", len(value))
		} else {
			m[key] = shortened(value)
		}
	}
	return m
}

// shortened copies a text, bounded and as UTF-8.
func shortened(s string) string {
	if len(s) > maxShownHeader {
		return strings.ToValidUTF8(s[:maxShownHeader], "") + "…"
	}
	return strings.Clone(strings.ToValidUTF8(s, "\ufffd"))
}

// harmless says whether a header's value may be shown: those of HTTP itself, and those that the provider's row records.
func harmless(p Provider, name string) bool {
	switch name {
	case "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "date", "expect",
		"forwarded", "host", "traceparent", "transfer-encoding", "user-agent", "via", "x-forwarded-for", "x-forwarded-host",
		"x-forwarded-proto", "x-real-ip", "x-request-id":
		return true
	}
	return slices.ContainsFunc(p.Keep, func(pattern string) bool { return domain.MatchType(pattern, name) })
}

// credential says whether the name of a header, in any case, is that of a secret that was sent as it is.
func credential(name string) bool {
	return hasWord(name, "authorization", "cookie", "token", "secret", "password", "passwd", "credential", "api-key", "apikey", "auth-key", "session")
}

// signature says whether it is that of a signature. Nobody can sign with one, but it says what the secret isn't.
func signature(name string) bool {
	return hasWord(name, "signature", "hmac", "digest", "-sig", "-sign", "-jwt")
}

func hasWord(name string, words ...string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(name, w) })
}

// refusal is what is kept of a request.
func (in *incoming) refusal(status int) *Refusal {
	r := &Refusal{
		Time: in.at, Method: shortened(in.Method), Status: status, DeliveryID: strings.Clone(in.id), Type: in.kind,
		Size: in.size, Headers: shown(in.route.provider, in.Header), Hint: in.hint,
	}
	if in.remote.IsValid() {
		r.Remote = in.remote.String()
	}
	return r
}

// refused counts, keeps and logs a request that is not stored.
func (h *Handler) refused(in *incoming, p *problem) {
	rt := in.route
	reason := first(in.reason, p.Reason)
	if p.Reason != "" {
		h.metrics.failures.WithLabelValues(rt.source.Name, string(reason)).Inc()
	}
	r := in.refusal(p.Status)
	r.Problem, r.Detail, r.Field = p.Type, shortened(p.Detail), p.Field
	if r.Reason = string(reason); r.Reason == "" {
		r.Reason = strings.TrimPrefix(p.Type, "/problems/")
	}
	if rule, ok := strings.CutPrefix(p.Field, "when."); ok && slices.ContainsFunc(rt.rules, func(c condition) bool { return c.name == rule }) {
		r.Rule = rule
	}
	rt.refused.add(r)
	level := slog.LevelInfo
	if p.Status >= 500 {
		level = slog.LevelWarn
	}
	rt.logged.log(h.log, in.at, level, "webhook refused", "source", rt.source.Name, "status", p.Status,
		"problem", p.Type, "reason", r.Reason, "field", p.Field, "remote", r.Remote, "hint", in.hint, "error", p)
}

// dropped counts and keeps a delivery that a rule drops.
func (h *Handler) dropped(in *incoming, rule string) {
	h.metrics.dropped.WithLabelValues(in.route.source.Name, rule).Inc()
	r := in.refusal(http.StatusOK)
	r.Reason, r.Rule, r.Detail = reasonDropped, rule, "the rule "+rule+" of the source's when is not fulfilled"
	in.route.refused.add(r)
}

// logLine lets a source write so many lines about refusals, and then a few a second: an attacker must not fill a disk.
// Everything is counted by the metrics.
type logLine struct {
	allowed *rate.Limiter
	missing atomic.Int64 // lines that were left out since the last one
}

func newLogLine() *logLine { return &logLine{allowed: rate.NewLimiter(10, 100)} }

func (l *logLine) log(to *slog.Logger, now time.Time, level slog.Level, message string, args ...any) {
	if !l.allowed.AllowN(now, 1) {
		l.missing.Add(1)
		return
	}
	if n := l.missing.Swap(0); n > 0 {
		args = append(args, "left_out_before", n)
	}
	to.Log(context.Background(), level, message, args...)
}
