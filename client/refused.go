package client

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Refused is an answer that says no: a problem document (RFC 9457), a bare status, or the code that a WebSocket was closed
// with. As the error of Follow it is one that asking again would not change.
type Refused struct {
	Status   int    `json:"status"` // of HTTP, or a WebSocket's code (RFC 6455, section 7.4); 0 for a feed that ends with a reset
	Type     string `json:"type"`   // as in /problems/expired; empty without a problem document
	Title    string `json:"title"`
	Detail   string `json:"detail"`
	Rule     string `json:"rule"`
	Field    string `json:"field"`    // parameter or header at fault
	Earliest string `json:"earliest"` // expired: cursor of the oldest events there are
	ID       string `json:"id"`

	temporary bool          // over by itself
	wait      time.Duration // as asked for; 0 if not
}

// Kind is the last part of the type: expired, reset, future, unauthorized, invalid …
func (e *Refused) Kind() string { return e.Type[strings.LastIndexByte(e.Type, '/')+1:] }

// Error is one line. What others wrote is quoted where it could steer a terminal.
func (e *Refused) Error() string {
	text := printable(cmp.Or(e.Detail, e.Title, http.StatusText(e.Status), "no reason was given"), 500)
	if kind := cmp.Or(e.Rule, e.Kind()); kind != "" {
		return fmt.Sprintf("%s (%s)", text, printable(kind, 100))
	}
	return fmt.Sprintf("answered %d: %s", e.Status, text)
}

// printable bounds a text that others wrote, and quotes one that could steer a terminal.
func printable(text string, bytes int) string {
	if len(text) > bytes {
		text = strings.ToValidUTF8(text[:bytes], "") + "…"
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// Closing is the end of a connection that the node announced; the feed goes on with the next one.
type Closing struct{ Reason string } // shutdown, lifetime, slow, unavailable, disconnected

func (e *Closing) Error() string {
	return "the node closes the feed (" + printable(e.Reason, 100) + ")"
}

// foreign is an answer from somebody who is no node.
type foreign struct {
	status int
	media  string
}

func (e *foreign) Error() string {
	return fmt.Sprintf("the answer is no feed but %d %.100q", e.status, e.media)
}

const (
	maxProblem = 64 << 10  // bytes of an answer that says no
	maxRetry   = 1_000_000 // milliseconds, and in a header seconds, that are read at all
)

// sorted sorts the answers to a request for a feed: nil for one whose body is the feed.
func sorted(t Transport, resp *http.Response, want string) error {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusOK && want != "" && media == want:
		return nil
	case resp.StatusCode == http.StatusNoContent && t == SSE:
		return errDone
	case resp.StatusCode/100 == 2:
		return &unfit{&foreign{resp.StatusCode, media}}
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil {
		return fmt.Errorf("an answer of %d breaks off: %w", resp.StatusCode, err)
	}
	r := &Refused{wait: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if json.Unmarshal(answer, r) != nil || r.Type == "" {
		*r = Refused{wait: r.wait}
	}
	switch r.Status = resp.StatusCode; r.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		r.temporary = true
	default: // also a node that starts, or a proxy whose node is away
		r.temporary = r.Status >= 500
	}
	// Who stands between may let everything through but the upgrade; a node says no in a problem document.
	if t == WebSocket && r.Type == "" && (!r.temporary || r.Status == http.StatusNotImplemented || r.Status == http.StatusHTTPVersionNotSupported) {
		return &unfit{r}
	}
	return r
}

// retryAfter reads the header (RFC 9110, section 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(min(n, maxRetry)) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), maxRetry*time.Second)
	}
	return 0
}
