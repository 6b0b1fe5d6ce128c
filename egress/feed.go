// Package egress is where events leave: feeds that clients follow live and resume without a loss.
package egress

import (
	"context"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Reader is what a feed pulls from: an *eventstore.Follower for the events of the log, or the changes of a projection.
// A feed calls it from one goroutine.
type Reader interface {
	// Next returns the next batch. It waits for one until ctx ends; at least about every five seconds it returns
	// an empty batch, which a feed uses as its clock. The feed calls Done on every batch. An error ends the feed: ErrReset, ErrExpired and ErrFuture of
	// package eventstore are told to the client as such.
	Next(ctx context.Context) (*eventstore.Batch, error)
	// Position is the position after everything given out so far. What it returned stays as it is when Next moves
	// the reader on. The caller must not change it.
	Position() eventstore.Position
	// CaughtUp reports whether everything that this node knows of was given out. Until then Next doesn't wait.
	CaughtUp() bool
}

// Subscription is one client's feed.
type Subscription struct {
	Reader Reader
	Filter Filter // of events; changes pass it
	// Earliest says where the log begins now. It is asked when an established feed can't go on, so that the client
	// learns from where it could. Nil where a feed has no earliest position.
	Earliest func(context.Context) (eventstore.Position, error)
}

// wants reports whether the record is for this client. Records that some other program wrote are for nobody.
func (s *Subscription) wants(r *eventstore.Record) bool {
	if r.Event != nil {
		return s.Filter.Match(r.Event)
	}
	return r.Change != nil
}

// Bounds of one parameter of a filter.
const (
	maxPatterns   = 32
	maxPatternLen = domain.MaxStreamLen // bytes
)

// Filter selects events by type, source and stream. Its zero value matches every event.
type Filter struct {
	types   []string // for domain.MatchType
	sources []pattern
	streams []pattern
}

// pattern is a text, or the beginning of one.
type pattern struct {
	text   string
	prefix bool
}

func (p pattern) match(s string) bool {
	if p.prefix {
		return strings.HasPrefix(s, p.text)
	}
	return p.text == s
}

// ParseFilter reads the query parameters type, source and stream; others are not its business. Each may be given
// several times or as a list with commas, at most 32 patterns of at most 512 bytes, and any of them may match; an event
// must match all parameters that are given. In a type every * stands for any run of characters. A source or stream is
// meant whole, or as a beginning with a * after it; that is also how to name a stream that contains a comma.
// The error is of class Invalid and names the parameter.
func ParseFilter(q url.Values) (Filter, error) {
	var f Filter
	var err error
	if f.types, err = patterns(q, "type"); err != nil {
		return Filter{}, err
	}
	sources, err := patterns(q, "source")
	if err != nil {
		return Filter{}, err
	}
	for _, s := range sources {
		f.sources = append(f.sources, patternOf(s))
	}
	streams, err := patterns(q, "stream")
	if err != nil {
		return Filter{}, err
	}
	for _, s := range streams {
		p := patternOf(s)
		if !p.prefix {
			// A text that can't be a stream would never match, and silently.
			if _, err := domain.ParseStream(s); err != nil {
				return Filter{}, err
			}
		}
		f.streams = append(f.streams, p)
	}
	return f, nil
}

func patternOf(s string) pattern {
	text, prefix := strings.CutSuffix(s, "*")
	return pattern{text, prefix}
}

func patterns(q url.Values, name string) ([]string, error) {
	var all []string
	for _, list := range q[name] {
		for s := range strings.SplitSeq(list, ",") {
			switch {
			case s == "":
				return nil, domain.Invalidf(name, "an empty pattern; leave %s out to match everything", name)
			case len(s) > maxPatternLen:
				return nil, domain.Invalidf(name, "a pattern is at most %d bytes, got %d", maxPatternLen, len(s))
			case !utf8.ValidString(s) || strings.IndexFunc(s, unicode.IsControl) >= 0:
				return nil, domain.Invalidf(name, "a pattern is valid UTF-8 without control characters")
			case len(all) == maxPatterns:
				return nil, domain.Invalidf(name, "at most %d patterns", maxPatterns)
			}
			all = append(all, s)
		}
	}
	return all, nil
}

// Match reports whether e passes the filter.
func (f Filter) Match(e *domain.Event) bool {
	return matchType(f.types, e.Type) && matchAny(f.sources, e.Source) && matchAny(f.streams, string(e.Stream))
}

func matchType(patterns []string, t string) bool {
	for _, p := range patterns {
		if domain.MatchType(p, t) {
			return true
		}
	}
	return len(patterns) == 0
}

func matchAny(patterns []pattern, s string) bool {
	for _, p := range patterns {
		if p.match(s) {
			return true
		}
	}
	return len(patterns) == 0
}
