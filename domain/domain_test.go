package domain

import (
	"errors"
	"fmt"
	"testing"
)

func TestParseStream(t *testing.T) {
	for _, ok := range []string{"billing/cus_9", "github/octo/hello#12", "a/b/"} {
		if s, err := ParseStream(ok); err != nil || s.Category()+"/"+s.Key() != ok {
			t.Errorf("%q: %v, %v", ok, s, err)
		}
	}
	for _, bad := range []string{"", "/", "a/", "/b", "billing", "a b/c", "a/b\n", "a/\xff", "a/" + string(make([]byte, MaxStreamLen))} {
		if _, err := ParseStream(bad); ClassOf(err) != Invalid {
			t.Errorf("%q: %v, want Invalid", bad, err)
		}
	}
}

func TestMatchType(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"stripe.charge.succeeded", "stripe.charge.succeeded", true},
		{"stripe.charge.*", "stripe.charge.succeeded", true},
		{"stripe.charge.*", "stripe.chargeback", false},
		{"*", "", true},
		{"*.opened", "github.issues.opened", true},
		{"a*b*c", "aXbYc", true},
		{"a*b*c", "aXcYb", false},
		{"ab*ba", "aba", false},
	} {
		if got := MatchType(c.pattern, c.text); got != c.want {
			t.Errorf("MatchType(%q, %q) = %v", c.pattern, c.text, got)
		}
	}
}

type opened struct {
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
}

func TestTypes(t *testing.T) {
	types := Types{
		Events:   []EventType{EventOf[opened]("opened")},
		Commands: []CommandType{CommandOf("Open", func(o opened) (Stream, error) { return NewStream("x", o.Customer) })},
	}
	if err := types.Check(); err != nil {
		t.Fatal(err)
	}
	e := Fact(opened{Customer: "c", Amount: 5})
	if err := types.Encode(&e); err != nil || e.Type != "opened" {
		t.Fatal(err, e)
	}
	back := Event{Type: "opened", Data: e.Data}
	if err := types.Decode(&back); err != nil || back.Payload != e.Payload {
		t.Fatal(err, back)
	}
	c := Command{Type: "Open", Data: []byte(`{"customer":"c","amount":"five"}`)}
	var de *Error
	if err := types.DecodeCommand(&c); !errors.As(err, &de) || de.Class != Invalid || de.Field != "amount" {
		t.Errorf("wrong type of a field: %v", err)
	}
	c = Command{Type: "Nope"}
	if err := types.DecodeCommand(&c); ClassOf(fmt.Errorf("wrapped: %w", err)) != NotFound {
		t.Errorf("unknown command: %v", err)
	}
	types.Events = append(types.Events, EventOf[opened]("again"))
	if types.Check() == nil {
		t.Error("a Go type under two names must be refused")
	}
}
