package egress

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Bounds of one parameter of a filter.
const (
	maxPatterns   = 32
	maxPatternLen = domain.MaxStreamLen // bytes
)

// Filter selects events by type, source and stream, and events or changes by a predicate. Its zero value matches
// everything.
type Filter struct {
	types     []string // for domain.MatchType
	sources   []pattern
	streams   []pattern
	predicate *predicate
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
// meant whole, or as a beginning with a * after it; that is also how to name a stream that contains a comma. filter is an
// expression: see compile. The error is of class Invalid and names the parameter.
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
	f.predicate, err = predicateOf(q, ofEvents)
	return f, err
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

// Match reports whether the record, an event or a change, passes the filter. What a predicate can't be evaluated for
// doesn't pass; one that takes too long is an error, because leaving the record out would be a guess.
func (f Filter) Match(r *eventstore.Record) (bool, error) {
	if e := r.Event; e != nil && !(matchType(f.types, e.Type) && matchAny(f.sources, e.Source) && matchAny(f.streams, string(e.Stream))) {
		return false, nil
	}
	if f.predicate == nil {
		return true, nil
	}
	return f.predicate.match(r)
}

// Everything reports whether the filter passes all there is.
func (f Filter) Everything() bool {
	return f.predicate == nil && len(f.types) == 0 && len(f.sources) == 0 && len(f.streams) == 0
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
