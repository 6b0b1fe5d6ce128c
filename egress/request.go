package egress

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Request is what a client asks of a feed, whatever the transport.
type Request struct {
	start    Start
	until    *Start
	filter   Filter
	onGap    string // earliest or latest; empty for refusing
	snapshot bool
	every    time.Duration
	limit    int
	query    string // as it was asked, for whoever looks at the feeds
}

// Kind is what a feed is of; it decides which parameters there are.
type Kind int

// The kinds of feeds.
const (
	OfEvents Kind = iota
	OfChanges
)

// Bounds of conflation.
const (
	minEvery = 50 * time.Millisecond
	maxEvery = time.Minute
)

// maxQuery bounds the query of a feed, which is kept while the feed is open.
const maxQuery = 16 << 10

// ParseRequest reads a feed's parameters:
//
//	cursor, from, and the header Last-Event-ID   where to begin; see ParseStart
//	until      where to end: a cursor, a time, or now
//	on_gap     fail, earliest or latest: what to do with a cursor that can't be honoured
//	filter     see ParseFilter; for events also type, source and stream
//	snapshot   true: changes begin with the rows as they are
//	every      a duration: of several changes of a row within it only the newest is sent
//	limit      end after so many messages
//
// Any other parameter is refused: a misspelt one would give the answer to another question. The error is of class
// Invalid and names the parameter.
func ParseRequest(h http.Header, q url.Values, kind Kind) (Request, error) {
	var r Request
	known := []string{"cursor", "lastEventId", "from", "until", "on_gap", "filter", "limit"}
	if kind == OfEvents {
		known = append(known, "type", "source", "stream")
	} else {
		known = append(known, "snapshot", "every")
	}
	for name := range q {
		if !slices.Contains(known, name) {
			return r, domain.Invalidf(name, "a feed has no parameter of this name")
		}
	}
	if r.query = q.Encode(); len(r.query) > maxQuery {
		return r, domain.Invalidf("filter", "all parameters together have at most %d bytes", maxQuery)
	}
	for _, name := range []string{"until", "on_gap", "snapshot", "every", "limit"} {
		if len(q[name]) > 1 {
			return r, domain.Invalidf(name, "more than one %s", name)
		}
	}
	var err error
	if r.start, err = ParseStart(h, q); err != nil {
		return r, err
	}
	if kind == OfEvents {
		r.filter, err = ParseFilter(q)
	} else {
		r.filter.predicate, err = predicateOf(q, ofChanges)
	}
	if err != nil {
		return r, err
	}
	return r, r.rest(q)
}

// rest reads the parameters that stand for themselves.
func (r *Request) rest(q url.Values) (err error) {
	if q.Has("until") {
		if r.until, err = parseUntil(q.Get("until")); err != nil {
			return err
		}
	}
	switch gap := q.Get("on_gap"); gap {
	case "earliest", "latest":
		r.onGap = gap
	case "fail":
	default:
		if q.Has("on_gap") {
			return domain.Invalidf("on_gap", "on_gap is fail, earliest or latest")
		}
	}
	if q.Has("snapshot") {
		if r.snapshot, err = strconv.ParseBool(q.Get("snapshot")); err != nil {
			return domain.Invalidf("snapshot", "snapshot is true or false")
		}
	}
	if q.Has("every") {
		if r.every, err = time.ParseDuration(q.Get("every")); err != nil || r.every < minEvery || r.every > maxEvery {
			return domain.Invalidf("every", "every is a duration from %s to %s, as in 500ms", minEvery, maxEvery)
		}
	}
	if q.Has("limit") {
		if r.limit, err = strconv.Atoi(q.Get("limit")); err != nil || r.limit < 1 {
			return domain.Invalidf("limit", "limit is a number from 1 on")
		}
	}
	return nil
}

func parseUntil(text string) (*Start, error) {
	switch text {
	case "now", "latest":
		return &Start{}, nil
	case "", "earliest":
		return nil, domain.Invalidf("until", "until is a cursor, a time as in 2006-01-02T15:04:05Z, or now")
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return &Start{kind: fromTime, time: t}, nil
	}
	s, err := startAt(text)
	if err != nil {
		return nil, domain.Invalidf("until", "until is a cursor, a time as in 2006-01-02T15:04:05Z, or now")
	}
	return &s, nil
}

// FromEarliest makes the request begin at the oldest event unless it says where to begin: a page reads history, a feed
// what comes.
func (r Request) FromEarliest() Request {
	if r.start.kind == fromLatest && !r.start.said {
		r.start.kind = fromEarliest
	}
	return r
}
