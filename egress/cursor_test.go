package egress

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
)

func at(next ...int64) eventstore.Position {
	return eventstore.Position{Topic: [16]byte{7}, Next: next}
}

func TestStartOrder(t *testing.T) {
	a, b, c := at(1, 0).String(), at(2, 0).String(), at(3, 0).String()
	for _, tc := range []struct {
		name, header, query string
		kind                startKind
		cursor              string
	}{
		{"nothing", "", "", fromLatest, ""},
		{"header first", a, "lastEventId=" + b + "&cursor=" + c + "&from=earliest", fromCursor, a},
		{"header over a damaged cursor", a, "cursor=x", fromCursor, a},
		{"polyfill", "", "lastEventId=" + b + "&cursor=" + c, fromCursor, b},
		{"polyfill's first connection", "", "lastEventId=&cursor=" + c, fromCursor, c},
		{"cursor over from", "", "cursor=" + c + "&from=earliest", fromCursor, c},
		{"earliest", "", "from=earliest", fromEarliest, ""},
		{"the last", "", "from=-10", fromLast, ""},
		{"latest", "", "from=latest", fromLatest, ""},
		{"time", "", "from=2026-03-01T13:00:00.5%2B01:00", fromTime, ""},
	} {
		q, _ := url.ParseQuery(tc.query)
		h := http.Header{}
		if tc.header != "" {
			h.Set("Last-Event-ID", tc.header)
		}
		s, err := ParseStart(h, q)
		if err != nil || s.kind != tc.kind || (tc.cursor != "" && s.cursor.String() != tc.cursor) {
			t.Errorf("%s: %+v, %v", tc.name, s, err)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	good := at(1).String()
	for _, tc := range []struct{ header, query, field string }{
		{"x", "", "cursor"}, {"x", "cursor=" + good, "cursor"}, {"", "cursor=", "cursor"}, {"", "cursor=x", "cursor"},
		{"", "lastEventId=x&cursor=" + good, "cursor"}, {"", "cursor=" + good + "&cursor=" + good, "cursor"},
		{"", "from=", "from"}, {"", "from=now", "from"}, {"", "from=2026-03-01", "from"}, {"", "from=latest&from=earliest", "from"},
		{"", "from=-", "from"}, {"", "from=-0", "from"}, {"", "from=-1001", "from"}, {"", "from=-%2B1", "from"}, {"", "from=--1", "from"},
	} {
		q, _ := url.ParseQuery(tc.query)
		_, err := ParseStart(http.Header{"Last-Event-Id": {tc.header}}, q)
		if e, ok := errors.AsType[*domain.Error](err); !ok || e.Class != domain.Invalid || e.Field != tc.field {
			t.Errorf("%q %q: %v", tc.header, tc.query, err)
		}
	}
}

func TestStartInView(t *testing.T) {
	view := at(5, 5)
	view.Scope = 9
	own, otherScope, otherTopic := at(1, 2), at(1, 2), at(1, 2)
	own.Scope, otherScope.Scope, otherTopic.Scope = 9, 8, 9
	otherTopic.Topic = [16]byte{8}
	if p, err := (Start{kind: fromCursor, cursor: own}).InView(view); err != nil || p.String() != own.String() {
		t.Errorf("own cursor: %v, %v", p, err)
	}
	if p, err := (Start{}).InView(view); err != nil || p.String() != view.String() {
		t.Errorf("latest: %v, %v", p, err)
	}
	for name, cursor := range map[string]eventstore.Position{"generation": otherScope, "topic": otherTopic, "log": at(1, 2)} {
		if _, err := (Start{kind: fromCursor, cursor: cursor}).InView(view); !errors.Is(err, eventstore.ErrReset) {
			t.Errorf("cursor of another %s: %v", name, err)
		}
	}
	for _, kind := range []startKind{fromEarliest, fromTime, fromLast} {
		if _, err := (Start{kind: kind}).InView(view); domain.ClassOf(err) != domain.Invalid {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

func TestStartInLog(t *testing.T) {
	log := eventstoretest.Open(t, eventstoretest.Config(t))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w, err := log.OpenWriter(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range 3 {
		e := domain.Event{ID: string(rune('a' + i)), Type: "t", Source: "/s", Stream: "a/b", Version: uint64(i + 1), Time: noon}
		if err := w.Commit(eventstore.Commit{Events: []domain.Event{e}}); err != nil {
			t.Fatal(err)
		}
	}
	topic := log.Topics.Events
	end, err := log.End(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	start := end.Clone()
	clear(start.Next)
	for query, want := range map[string]eventstore.Position{
		"":                                    end,
		"from=latest":                         end,
		"from=earliest":                       start,
		"from=2001-01-01T00:00:00Z":           start,
		"from=1969-12-31T23:59:59.999Z":       start, // −1 in Kafka's milliseconds, which there means the end
		"from=1969-12-31T23:59:59.998Z":       start,
		"from=9999-01-01T00:00:00Z":           end,
		"cursor=" + end.String() + "&from=x":  end,
		"lastEventId=" + start.String() + "&": start,
	} {
		q, _ := url.ParseQuery(query)
		s, err := ParseStart(http.Header{}, q)
		if err != nil {
			t.Fatal(query, err)
		}
		got, err := s.In(ctx, log, topic, Filter{})
		if err != nil || got.String() != want.String() {
			t.Errorf("%q begins at %v (%v), want %v", query, got.Next, err, want.Next)
			continue
		}
		if _, err := log.Follow(ctx, topic, got); err != nil {
			t.Errorf("%q can't be followed: %v", query, err)
		}
	}
	foreign := end.Clone()
	foreign.Scope = 1
	if _, err := (Start{kind: fromCursor, cursor: foreign}).In(ctx, log, topic, Filter{}); !errors.Is(err, eventstore.ErrReset) {
		t.Errorf("a changes feed's cursor: %v", err)
	}
}
