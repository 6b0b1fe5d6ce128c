package billing

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/domain"
)

func TestTypesTable(t *testing.T) {
	if err := Types.Check(); err != nil {
		t.Error(err)
	}
	for _, d := range []domain.AnyDecider{Account, Charge} {
		if err := d.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestCommandBodies(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, c := range []struct{ command, body, want string }{
		{"GrantCredit", `{"customer":"cus_9","amount":500,"currency":"eur","reason":"late"}`, "billing/cus_9"},
		{"GrantCredit", `{"customer":"cus_9","amount":999999999999,"currency":"eur"}`, "billing/cus_9"},
		{"GrantCredit", `{"amount":500,"currency":"eur"}`, "customer"},
		{"GrantCredit", `{"customer":"a/b","amount":500,"currency":"eur"}`, "customer"},
		{"GrantCredit", `{"customer":"a\"b","amount":500,"currency":"eur"}`, "customer"},
		{"GrantCredit", `{"customer":"` + long + `","amount":500,"currency":"eur"}`, "customer"},
		{"GrantCredit", `{"customer":"cus_9","amount":0,"currency":"eur"}`, "amount"},
		{"GrantCredit", `{"customer":"cus_9","amount":-1,"currency":"eur"}`, "amount"},
		{"GrantCredit", `{"customer":"cus_9","amount":1000000000000,"currency":"eur"}`, "amount"},
		{"GrantCredit", `{"customer":"cus_9","amount":"500","currency":"eur"}`, "amount"},
		{"GrantCredit", `{"customer":"cus_9","amount":500.5,"currency":"eur"}`, "amount"},
		{"GrantCredit", `{"customer":"cus_9","amount":5,"currency":"EUR"}`, "currency"},
		{"GrantCredit", `{"customer":"cus_9","amount":5,"currency":"euro"}`, "currency"},
		{"GrantCredit", `{"customer":"cus_9","amount":5}`, "currency"},
		{"GrantCredit", `{"customer":"cus_9","amount":5,"currency":"eur","reason":"` + strings.Repeat("é", 500) + `"}`, "billing/cus_9"},
		{"GrantCredit", `{"customer":"cus_9","amount":5,"currency":"eur","reason":"` + strings.Repeat("é", 501) + `"}`, "reason"},
		{"RequestRefund", `{"customer":"cus_9","charge":"ch_1","amount":5,"currency":"eur"}`, "billing/cus_9"},
		{"RequestRefund", `{"customer":"cus_9","amount":5,"currency":"eur"}`, "charge"},
		{"SuspendAccount", `{"customer":"cus_9","reason":"r"}`, "billing/cus_9"},
		{"ReopenAccount", `{"customer":"","reason":"r"}`, "customer"},
		{"RecordRefund", `{"customer":"cus_9","charge":"ch_1","captured":5,"refunded":6,"currency":"eur"}`, "refunded"},
		{"CloseDispute", `{"customer":"cus_9","dispute":"dp_1","charge":"ch_1","amount":5,"currency":"eur","status":"open"}`, "status"},
		{"LinkCharge", `{"customer":"cus_9","charge":"ch_1"}`, "charge/ch_1"},
	} {
		cmd := domain.Command{Type: c.command, Data: []byte(c.body)}
		err := Types.DecodeCommand(&cmd)
		got := string(cmd.Stream)
		var de *domain.Error
		if errors.As(err, &de) && de.Class == domain.Invalid {
			got = de.Field
		}
		if got != c.want {
			t.Errorf("%s %s: %q, %v, want %q", c.command, c.body, got, err, c.want)
		}
	}
}

func TestFromStripe(t *testing.T) {
	for _, c := range []struct {
		name, eventType, body string
		fromStripe, disputes  any // what either policy asks for
		class                 domain.Class
	}{
		{name: "captured at once", eventType: "charge.succeeded",
			body:       `{"id":"ch_1","customer":"cus_9","amount":1000,"amount_captured":1000,"captured":true,"currency":"eur"}`,
			fromStripe: RecordCharge{"cus_9", "ch_1", 1000, "eur"}},
		{name: "authorised only", eventType: "charge.succeeded",
			body: `{"id":"ch_1","customer":"cus_9","amount":1000,"amount_captured":0,"captured":false,"currency":"eur"}`},
		{name: "captured in part", eventType: "charge.captured",
			body:       `{"id":"ch_1","customer":"cus_9","amount":1000,"amount_captured":700,"captured":true,"currency":"eur"}`,
			fromStripe: RecordCharge{"cus_9", "ch_1", 700, "eur"}},
		{name: "a body from before amount_captured", eventType: "charge.succeeded",
			body:       `{"id":"ch_1","customer":"cus_9","amount":1000,"captured":true,"currency":"eur"}`,
			fromStripe: RecordCharge{"cus_9", "ch_1", 1000, "eur"}},
		{name: "expanded customer", eventType: "charge.succeeded",
			body:       `{"id":"ch_1","customer":{"id":"cus_9","object":"customer"},"amount":1000,"captured":true,"currency":"eur"}`,
			fromStripe: RecordCharge{"cus_9", "ch_1", 1000, "eur"}},
		{name: "no customer", eventType: "charge.succeeded",
			body: `{"id":"ch_1","customer":null,"amount":1000,"amount_captured":1000,"captured":true,"currency":"eur"}`},
		{name: "nothing in it", eventType: "charge.succeeded", body: `{}`},
		{name: "an amount that is none", eventType: "charge.succeeded", body: `{"amount":"ten"}`, class: domain.Invalid},
		{name: "no JSON", eventType: "charge.refunded", body: `{`, class: domain.Invalid},

		{name: "refunded in part", eventType: "charge.refunded",
			body:       `{"id":"ch_1","customer":"cus_9","amount":1000,"amount_captured":1000,"amount_refunded":400,"captured":true,"currency":"eur"}`,
			fromStripe: RecordRefund{"cus_9", "ch_1", 1000, 400, "eur"}},
		{name: "authorisation let go", eventType: "charge.refunded",
			body: `{"id":"ch_1","customer":"cus_9","amount":1000,"amount_captured":0,"amount_refunded":1000,"captured":false,"currency":"eur"}`},

		{name: "plain dispute", eventType: "charge.dispute.created",
			body:     `{"id":"dp_1","charge":"ch_1","amount":1000,"currency":"eur","status":"needs_response","metadata":{}}`,
			disputes: LocateDispute{"ch_1", "dp_1", 1000, "eur", Open}},
		{name: "dispute with an expanded charge", eventType: "charge.dispute.created",
			body:       `{"id":"dp_1","charge":{"id":"ch_1","customer":"cus_9"},"amount":1000,"currency":"eur","status":"needs_response"}`,
			fromStripe: RecordDispute{"cus_9", "dp_1", "ch_1", 1000, "eur"}},
		{name: "dispute with a customer in its metadata", eventType: "charge.dispute.closed",
			body:       `{"id":"dp_1","charge":"ch_1","amount":1000,"currency":"eur","status":"won","metadata":{"customer":"cus_9"}}`,
			fromStripe: CloseDispute{"cus_9", "dp_1", "ch_1", 1000, "eur", Won}},
		{name: "dispute with an empty list as metadata", eventType: "charge.dispute.closed",
			body:     `{"id":"dp_1","charge":"ch_1","amount":1000,"currency":"eur","status":"lost","metadata":[]}`,
			disputes: LocateDispute{"ch_1", "dp_1", 1000, "eur", Lost}},
		{name: "inquiry", eventType: "charge.dispute.created",
			body: `{"id":"dp_1","charge":"ch_1","amount":1000,"currency":"eur","status":"warning_needs_response"}`},
		{name: "inquiry that became a dispute", eventType: "charge.dispute.funds_withdrawn",
			body:     `{"id":"dp_1","charge":"ch_1","amount":1000,"currency":"eur","status":"needs_response"}`,
			disputes: LocateDispute{"ch_1", "dp_1", 1000, "eur", Open}},
		{name: "inquiry closed", eventType: "charge.dispute.closed",
			body: `{"id":"dp_1","charge":"ch_1","amount":1000,"currency":"eur","status":"warning_closed"}`},
		{name: "dispute that ended neither won nor lost", eventType: "charge.dispute.closed",
			body: `{"id":"dp_1","charge":"ch_1","amount":1000,"currency":"eur","status":"prevented"}`},
		{name: "dispute without a charge", eventType: "charge.dispute.created", body: `{"id":"dp_1","amount":1000,"currency":"eur"}`},
		{name: "dispute that isn't JSON", eventType: "charge.dispute.closed", body: `nope`, class: domain.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := stripe(c.eventType, "", c.body)
			check := func(p domain.Policy, want any) {
				t.Helper()
				if !p.Wants(e.Type) {
					if p.Name == FromStripe.Name {
						t.Errorf("%s doesn't want %s", p.Name, e.Type)
					}
					return
				}
				got, err := p.React(e)
				if c.class != "" {
					if domain.ClassOf(err) != c.class || got != nil {
						t.Errorf("%s: %v, %v, want class %s", p.Name, got, err, c.class)
					}
					return
				}
				var list []any
				if want != nil {
					list = []any{want}
				}
				if asked := asks(t, got); err != nil || !slices.Equal(asked, list) {
					t.Errorf("%s: %+v, %v, want %+v", p.Name, asked, err, list)
				}
			}
			check(FromStripe, c.fromStripe)
			check(Disputes, c.disputes)
		})
	}
}

// TestPartialCaptureOfOldAPIVersions: before 2025-03-31 a partial capture counted its remainder as refunded, and
// told so in charge.refunded. Taken at its word, it would take the remainder off the balance twice.
func TestPartialCaptureOfOldAPIVersions(t *testing.T) {
	for _, c := range []struct {
		version  string
		reported string
		want     any
	}{
		{"2024-06-20", "300", nil},
		{"2024-06-20", "500", RecordRefund{"cus_9", "ch_1", 700, 200, "eur"}},
		{"2025-03-31.basil", "200", RecordRefund{"cus_9", "ch_1", 700, 200, "eur"}},
	} {
		got, err := FromStripe.React(stripe("charge.refunded", c.version, `{"id":"ch_1","customer":"cus_9","amount":1000,
			"amount_captured":700,"amount_refunded":`+c.reported+`,"captured":true,"currency":"eur"}`))
		var want []any
		if c.want != nil {
			want = []any{c.want}
		}
		if asked := asks(t, got); err != nil || !slices.Equal(asked, want) {
			t.Errorf("%s with %s refunded: %+v, %v, want %+v", c.version, c.reported, asked, err, want)
		}
	}
}

// TestDisputesFindTheirAccount runs both policies and both deciders until nothing is left to do. A plain dispute names
// no customer, and may come before the charge that leads to one.
func TestDisputesFindTheirAccount(t *testing.T) {
	charge := stripe("charge.succeeded", "", `{"id":"ch_1","customer":"cus_9","amount":1000,"amount_captured":1000,"captured":true,"currency":"eur"}`)
	opened := stripe("charge.dispute.created", "", `{"id":"dp_1","charge":"ch_1","amount":800,"currency":"eur","status":"needs_response"}`)
	closed := stripe("charge.dispute.closed", "", `{"id":"dp_1","charge":"ch_1","amount":800,"currency":"eur","status":"lost"}`)
	for _, order := range [][]domain.Event{
		{charge, opened, closed},
		{opened, charge, closed},
		{opened, opened, closed, charge, charge},
		{closed, charge, opened},
	} {
		states := map[domain.Stream]any{}
		queue := slices.Clone(order)
		for len(queue) > 0 {
			e := queue[0]
			queue = queue[1:]
			for _, p := range []domain.Policy{FromStripe, Disputes} {
				if !p.Wants(e.Type) {
					continue
				}
				commands, err := p.React(e)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range commands {
					if err := Types.EncodeCommand(&c); err != nil {
						t.Fatal(err)
					}
					var d domain.AnyDecider = Account
					if c.Stream.Category() == Charge.Category {
						d = Charge
					}
					if states[c.Stream] == nil {
						states[c.Stream] = d.NewState()
					}
					events, err := d.DecideAny(states[c.Stream], c)
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range events {
						if err := Types.Encode(&e); err != nil {
							t.Fatal(err)
						}
						states[c.Stream] = d.EvolveAny(states[c.Stream], e)
						e.Payload = nil // a policy may see an event as it stands in the log
						queue = append(queue, e)
					}
				}
			}
		}
		want := Totals{Captured: 1000, Disputed: 800}
		if got := states["billing/cus_9"].(State).Totals("eur"); got != want {
			t.Errorf("%v: %+v, want %+v", typesOf(order), got, want)
		}
		if got := states["charge/ch_1"]; !reflect.DeepEqual(got, ChargeState{customer: "cus_9"}) {
			t.Errorf("%v: the charge is left as %+v", typesOf(order), got)
		}
	}
}

func TestChargeStaysWithItsCustomer(t *testing.T) {
	s := evolveCharge(ChargeState{}, domain.Fact(ChargeLinked{"ch_1", "cus_9"}))
	_, err := decideCharge(s, domain.Ask(LinkCharge{"ch_1", "cus_8"}))
	var de *domain.Error
	if !errors.As(err, &de) || de.Rule != "charge-linked" {
		t.Errorf("got %v, want charge-linked", err)
	}
	if events, err := decideCharge(s, domain.Ask(LinkCharge{"ch_1", "cus_9"})); err != nil || len(events) != 0 {
		t.Errorf("linked again: %v, %v", events, err)
	}
}

// TestWaitingDisputesFork: two futures of one state must not write into the same memory.
func TestWaitingDisputesFork(t *testing.T) {
	var s ChargeState
	for _, id := range []string{"dp_1", "dp_2", "dp_3"} {
		s = evolveCharge(s, domain.Fact(DisputeWaiting{Charge: "ch_1", Dispute: id}))
	}
	one := evolveCharge(s, domain.Fact(DisputeWaiting{Charge: "ch_1", Dispute: "one"}))
	evolveCharge(s, domain.Fact(DisputeWaiting{Charge: "ch_1", Dispute: "two"}))
	if got := one.waiting[3].Dispute; got != "one" {
		t.Errorf("the first future now waits for %q", got)
	}
}

func stripe(eventType, version, object string) domain.Event {
	body := `{"id":"evt_1","object":"event","api_version":null,"type":"` + eventType + `","data":{"object":` + object + `}}`
	if version != "" {
		body = strings.Replace(body, "null", `"`+version+`"`, 1)
	}
	return domain.Event{ID: "e1", Type: "stripe." + eventType, Data: []byte(body)}
}

// asks returns what the commands ask for, after the types table has accepted them.
func asks(t *testing.T, commands []domain.Command) []any {
	t.Helper()
	var list []any
	for _, c := range commands {
		if err := Types.EncodeCommand(&c); err != nil {
			t.Errorf("%+v: %v", c.Payload, err)
		}
		list = append(list, c.Payload)
	}
	return list
}

func typesOf(events []domain.Event) []string {
	var list []string
	for _, e := range events {
		list = append(list, e.Type)
	}
	return list
}
