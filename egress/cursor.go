package egress

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Start is where a client wants a feed to begin. Its zero value is the latest position: only what comes from now on.
type Start struct {
	kind   startKind
	cursor eventstore.Position
	time   time.Time
	last   int
	said   bool // the client has said so
}

type startKind int

const (
	fromLatest startKind = iota
	fromEarliest
	fromTime
	fromCursor
	fromLast
)

// maxLast bounds how far back "the last n" goes.
const maxLast = 1000

// ParseStart reads where to begin, from the first of these that is there: the header Last-Event-ID, which a browser
// sends when it reconnects; the parameter lastEventId, by which EventSource polyfills do the same; the parameter
// cursor; and from, which is earliest, latest, a time in RFC 3339, or -n for the last n. With none of them it is latest.
//
// The header wins because the URL of a reconnecting EventSource is still that of its first connection. A cursor that
// can't be read is ErrBadPosition, never the next in the list: beginning elsewhere would skip or repeat silently.
func ParseStart(h http.Header, q url.Values) (Start, error) {
	if id := h.Get("Last-Event-ID"); id != "" {
		return startAt(id)
	}
	if id := q.Get("lastEventId"); id != "" {
		return startAt(id)
	}
	if q.Has("cursor") {
		if len(q["cursor"]) > 1 {
			return Start{}, domain.Invalidf("cursor", "more than one cursor")
		}
		return startAt(q.Get("cursor"))
	}
	if !q.Has("from") {
		return Start{}, nil
	}
	if len(q["from"]) > 1 {
		return Start{}, domain.Invalidf("from", "more than one from")
	}
	return startFrom("from", q.Get("from"))
}

func startFrom(name, text string) (Start, error) {
	switch text {
	case "latest":
		return Start{said: true}, nil
	case "earliest":
		return Start{kind: fromEarliest}, nil
	}
	if digits, ok := strings.CutPrefix(text, "-"); ok {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > maxLast || digits[0] < '1' {
			return Start{}, domain.Invalidf(name, "the last events are asked for as -1 to -%d", maxLast)
		}
		return Start{kind: fromLast, last: n}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return Start{}, domain.Invalidf(name, "%s is earliest, latest, -n or a time as in 2006-01-02T15:04:05Z", name)
	}
	return Start{kind: fromTime, time: t}, nil
}

func startAt(cursor string) (Start, error) {
	p, err := eventstore.ParsePosition(cursor)
	if err != nil {
		return Start{}, err
	}
	return Start{kind: fromCursor, cursor: p}, nil
}

// In resolves s in a topic of the log. A cursor of a changes feed is ErrReset; whether the log still reaches a cursor
// of its own is for Log.Follow to say. A time is a lower bound: see Log.At. The last n are those that the filter passes,
// among as many as Log.Last looks at.
func (s Start) In(ctx context.Context, log *eventstore.Log, topic string, f Filter) (eventstore.Position, error) {
	switch s.kind {
	case fromCursor:
		if s.cursor.Scope != 0 {
			return eventstore.Position{}, fmt.Errorf("%w: the cursor is of a changes feed", eventstore.ErrReset)
		}
		return grown(s.cursor, log.TailEnd(topic)), nil
	case fromEarliest:
		return log.Start(ctx, topic)
	case fromTime:
		return timeIn(ctx, log, topic, s.time)
	case fromLast:
		return log.Last(ctx, topic, s.last, f.Match)
	}
	return log.End(ctx, topic)
}

// grown is a cursor of a topic that has got more partitions since. They did not exist when it was made, so that all that
// is in them came later.
func grown(cursor, end eventstore.Position) eventstore.Position {
	if missing := len(end.Next) - len(cursor.Next); missing > 0 && cursor.Topic == end.Topic {
		cursor.Next = append(slices.Clone(cursor.Next), make([]int64, missing)...)
	}
	return cursor
}

func timeIn(ctx context.Context, log *eventstore.Log, topic string, t time.Time) (eventstore.Position, error) {
	if t.UnixMilli() < 0 {
		// Kafka takes the milliseconds -1 and -2 for the end and the beginning of a partition.
		return log.Start(ctx, topic)
	}
	at, err := log.At(ctx, topic, t)
	if err != nil {
		return at, err
	}
	// A partition with nothing that late answers with its end, undecided records included; a position beyond the
	// last stable offset would be refused as one from the future.
	stable, err := log.End(ctx, topic)
	if err != nil {
		return at, err
	}
	for p, next := range stable.Next {
		at.Next[p] = min(at.Next[p], next)
	}
	return at, nil
}

// InView resolves s in the changes of a projection that stands at position at, which has its scope. A cursor of
// another projection, generation or topic, or of the log itself, is ErrReset. There is no earliest change and no change
// by time: a row's history is in the events.
func (s Start) InView(at eventstore.Position) (eventstore.Position, error) {
	switch s.kind {
	case fromCursor:
		if s.cursor.Scope != at.Scope {
			return eventstore.Position{}, fmt.Errorf("%w: the cursor is of another projection or generation", eventstore.ErrReset)
		}
		if err := at.SameLog(s.cursor); err != nil {
			return eventstore.Position{}, err
		}
		return s.cursor, nil
	case fromLatest:
		return at, nil
	}
	return eventstore.Position{}, domain.Invalidf("from", "changes begin at a cursor or at latest; snapshot=true sends the rows first")
}
