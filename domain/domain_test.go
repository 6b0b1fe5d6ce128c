package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
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

func TestOldEventsAreLiftedToThePresentForm(t *testing.T) {
	// Version 1 had dollars, version 2 has cents, version 3 calls the customer by its present name.
	cents := func(old []byte) ([]byte, error) {
		var v struct {
			Who     string
			Dollars int
		}
		if err := json.Unmarshal(old, &v); err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{"who": v.Who, "amount": v.Dollars * 100})
	}
	renamed := func(old []byte) ([]byte, error) {
		return bytes.Replace(old, []byte(`"who"`), []byte(`"customer"`), 1), nil
	}
	types := Types{Events: []EventType{EventOf[opened]("opened", cents, renamed)}}
	for _, e := range []Event{
		{Data: []byte(`{"who":"c","dollars":5}`)},
		{Schema: 1, Data: []byte(`{"who":"c","dollars":5}`)},
		{Schema: 2, Data: []byte(`{"who":"c","amount":500}`)},
		{Schema: 3, Data: []byte(`{"customer":"c","amount":500}`)},
	} {
		e.Type = "opened"
		if err := types.Decode(&e); err != nil || e.Payload != (opened{"c", 500}) {
			t.Errorf("schema %d: %+v, %v", e.Schema, e.Payload, err)
		}
	}
	e := Fact(opened{"c", 500})
	if err := types.Encode(&e); err != nil || e.Schema != 3 {
		t.Errorf("new events have schema %d: %v", e.Schema, err)
	}
	e = Event{Type: "opened", Schema: 4, Data: []byte(`{}`)}
	if err := types.Decode(&e); ClassOf(err) != Corrupt {
		t.Errorf("an event from the future: %v", err)
	}
	e = Event{Type: "opened", Schema: 1, Data: []byte(`[`)}
	if err := types.Decode(&e); ClassOf(err) != Corrupt {
		t.Errorf("a damaged old event: %v", err)
	}
}

func TestDecodeJSONKeepsNumbersExact(t *testing.T) {
	got, err := DecodeJSON([]byte(`{"id":9007199254740993,"list":[1.5,-0,1e3,123456789012345678901,1e999],"null":null}`))
	want := map[string]any{"id": int64(9007199254740993), "list": []any{1.5, int64(0), 1000.0, 123456789012345678901.0, "1e999"}, "null": nil}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%#v, %v", got, err)
	}
	for _, bad := range []string{"", "{", "1 2", "{} x", "nul"} {
		if v, err := DecodeJSON([]byte(bad)); err == nil {
			t.Errorf("%q was read as %v", bad, v)
		}
	}
}
