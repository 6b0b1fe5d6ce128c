package billing

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// Events that many cases start from.
var (
	captured  = ChargeCaptured{Customer: "cus_9", Charge: "ch_1", Amount: 1000, Captured: 1000, Currency: "eur", Balance: 1000}
	requested = RefundRequested{Customer: "cus_9", Charge: "ch_1", Amount: 300, Pending: 300, Currency: "eur", Balance: 1000}
	refunded  = RefundCompleted{Customer: "cus_9", Charge: "ch_1", Amount: 400, Refunded: 400, Currency: "eur", Balance: 600}
	disputed  = ChargeDisputed{Customer: "cus_9", Dispute: "dp_1", Charge: "ch_1", Amount: 1000, Currency: "eur"}
	won       = DisputeClosed{Customer: "cus_9", Dispute: "dp_1", Charge: "ch_1", Status: Won, Amount: 1000, Returned: 1000, Currency: "eur", Balance: 1000}
	lost      = DisputeClosed{Customer: "cus_9", Dispute: "dp_1", Charge: "ch_1", Status: Lost, Amount: 1000, Currency: "eur"}
	suspended = AccountSuspended{Customer: "cus_9"}
	reopened  = AccountReopened{Customer: "cus_9"}
)

func TestAccount(t *testing.T) {
	recordCharge := func(captured int64, currency string) RecordCharge {
		return RecordCharge{Customer: "cus_9", Charge: "ch_1", Captured: captured, Currency: currency}
	}
	recordRefund := func(captured, refunded int64) RecordRefund {
		return RecordRefund{Customer: "cus_9", Charge: "ch_1", Captured: captured, Refunded: refunded, Currency: "eur"}
	}
	request := func(charge string, amount int64, currency string) RequestRefund {
		return RequestRefund{Customer: "cus_9", Charge: charge, Amount: amount, Currency: currency}
	}
	closeDispute := func(status string) CloseDispute {
		return CloseDispute{Customer: "cus_9", Dispute: "dp_1", Charge: "ch_1", Amount: 1000, Currency: "eur", Status: status}
	}
	recordDispute := RecordDispute{Customer: "cus_9", Dispute: "dp_1", Charge: "ch_1", Amount: 1000, Currency: "eur"}
	big := CreditGranted{Customer: "cus_9", Amount: MaxTotal - 10, Currency: "eur", Balance: MaxTotal - 10}

	for _, c := range []struct {
		name  string
		given []any
		when  any
		then  []any
		rule  string
	}{
		{name: "credit adds to the balance", given: []any{captured},
			when: GrantCredit{Customer: "cus_9", Amount: 500, Currency: "eur", Reason: "late"},
			then: []any{CreditGranted{Customer: "cus_9", Amount: 500, Currency: "eur", Reason: "late", Balance: 1500}}},
		{name: "currencies are apart", given: []any{captured}, when: GrantCredit{Customer: "cus_9", Amount: 5, Currency: "usd"},
			then: []any{CreditGranted{Customer: "cus_9", Amount: 5, Currency: "usd", Balance: 5}}},
		{name: "no credit while suspended", given: []any{suspended},
			when: GrantCredit{Customer: "cus_9", Amount: 5, Currency: "eur"}, rule: "account-suspended"},
		{name: "credit after reopening", given: []any{suspended, reopened}, when: GrantCredit{Customer: "cus_9", Amount: 5, Currency: "eur"},
			then: []any{CreditGranted{Customer: "cus_9", Amount: 5, Currency: "eur", Balance: 5}}},
		{name: "credit up to the largest total", given: []any{big}, when: GrantCredit{Customer: "cus_9", Amount: 10, Currency: "eur"},
			then: []any{CreditGranted{Customer: "cus_9", Amount: 10, Currency: "eur", Balance: MaxTotal}}},
		{name: "no credit beyond the largest total", given: []any{big},
			when: GrantCredit{Customer: "cus_9", Amount: 11, Currency: "eur"}, rule: "total-too-large"},

		{name: "suspend", when: SuspendAccount{Customer: "cus_9", Reason: "r"}, then: []any{AccountSuspended{Customer: "cus_9", Reason: "r"}}},
		{name: "suspend twice", given: []any{suspended}, when: SuspendAccount{Customer: "cus_9"}, rule: "already-suspended"},
		{name: "reopen", given: []any{suspended}, when: ReopenAccount{Customer: "cus_9"}, then: []any{reopened}},
		{name: "reopen an open account", when: ReopenAccount{Customer: "cus_9"}, rule: "not-suspended"},

		{name: "charge captured", when: recordCharge(1000, "eur"), then: []any{captured}},
		{name: "charge captured while suspended", given: []any{suspended}, when: recordCharge(1000, "eur"), then: []any{captured}},
		{name: "the same charge again", given: []any{captured}, when: recordCharge(1000, "eur")},
		{name: "an older total of the same charge", given: []any{captured}, when: recordCharge(700, "eur")},
		{name: "a second capture adds the difference", given: []any{captured}, when: recordCharge(1500, "eur"),
			then: []any{ChargeCaptured{Customer: "cus_9", Charge: "ch_1", Amount: 500, Captured: 1500, Currency: "eur", Balance: 1500}}},
		{name: "a charge doesn't change its currency", given: []any{captured}, when: recordCharge(1500, "usd"), rule: "currency-mismatch"},

		{name: "refund request reserves", given: []any{captured}, when: request("ch_1", 300, "eur"), then: []any{requested}},
		{name: "refund request for all that is left", given: []any{captured, requested, refunded}, when: request("ch_1", 300, "eur"),
			then: []any{RefundRequested{Customer: "cus_9", Charge: "ch_1", Amount: 300, Pending: 600, Currency: "eur", Balance: 600}}},
		{name: "refund request above what is left", given: []any{captured, requested, refunded},
			when: request("ch_1", 301, "eur"), rule: "refund-exceeds-captured"},
		{name: "refund request while suspended", given: []any{captured, suspended}, when: request("ch_1", 300, "eur"), then: []any{requested}},
		{name: "refund request for an unknown charge", given: []any{captured}, when: request("ch_2", 1, "eur"), rule: "unknown-charge"},
		{name: "refund request for a charge known by its dispute alone", given: []any{disputed},
			when: request("ch_1", 1, "eur"), rule: "unknown-charge"},
		{name: "refund request in another currency", given: []any{captured}, when: request("ch_1", 1, "usd"), rule: "currency-mismatch"},
		{name: "refund request during a dispute", given: []any{captured, disputed}, when: request("ch_1", 1, "eur"), rule: "charge-disputed"},
		{name: "refund request after a lost dispute", given: []any{captured, disputed, lost},
			when: request("ch_1", 1, "eur"), rule: "charge-disputed"},
		{name: "refund request after a won dispute", given: []any{captured, disputed, won}, when: request("ch_1", 300, "eur"), then: []any{requested}},

		{name: "refund reported", given: []any{captured}, when: recordRefund(1000, 400), then: []any{refunded}},
		{name: "refund reported, using up a reservation", given: []any{captured, requested}, when: recordRefund(1000, 400),
			then: []any{RefundCompleted{Customer: "cus_9", Charge: "ch_1", Amount: 400, Refunded: 400, Released: 300, Currency: "eur", Balance: 600}}},
		{name: "refund reported, using up a part of a reservation", given: []any{captured, requested}, when: recordRefund(1000, 100),
			then: []any{RefundCompleted{Customer: "cus_9", Charge: "ch_1", Amount: 100, Refunded: 100, Released: 100, Currency: "eur", Balance: 900}}},
		{name: "the same refund again", given: []any{captured, refunded}, when: recordRefund(1000, 400)},
		{name: "an older refund total", given: []any{captured, refunded}, when: recordRefund(1000, 100)},
		{name: "a second refund adds the difference", given: []any{captured, refunded}, when: recordRefund(1000, 1000),
			then: []any{RefundCompleted{Customer: "cus_9", Charge: "ch_1", Amount: 600, Refunded: 1000, Currency: "eur", Balance: 0}}},
		{name: "refund before its charge", when: recordRefund(1000, 400), then: []any{captured, refunded}},

		{name: "dispute", given: []any{captured}, when: recordDispute, then: []any{disputed}},
		{name: "the same dispute again", given: []any{captured, disputed}, when: recordDispute},
		{name: "dispute won", given: []any{captured, disputed}, when: closeDispute(Won), then: []any{won}},
		{name: "dispute lost", given: []any{captured, disputed}, when: closeDispute(Lost), then: []any{lost}},
		{name: "dispute lost twice", given: []any{captured, disputed, lost}, when: closeDispute(Lost)},
		{name: "dispute begun after its end", given: []any{captured, disputed, lost}, when: recordDispute},
		{name: "dispute's end before its beginning", given: []any{captured}, when: closeDispute(Lost), then: []any{disputed, lost}},
		{name: "a win that the bank reverses", given: []any{captured, disputed, won}, when: closeDispute(Lost),
			then: []any{DisputeClosed{Customer: "cus_9", Dispute: "dp_1", Charge: "ch_1", Status: Lost, Amount: 1000, Returned: -1000, Currency: "eur"}}},
		{name: "a loss that the bank reverses", given: []any{captured, disputed, lost}, when: closeDispute(Won), then: []any{won}},
		{name: "dispute before its charge", when: recordDispute,
			then: []any{ChargeDisputed{Customer: "cus_9", Dispute: "dp_1", Charge: "ch_1", Amount: 1000, Currency: "eur", Balance: -1000}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := fold(c.given)
			before := dump(state)
			events, err := decide(state, domain.Ask(c.when))
			var refusal *domain.Error
			switch {
			case c.rule == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case c.rule != "" && (!errors.As(err, &refusal) || refusal.Class != domain.Rejected || refusal.Rule != c.rule):
				t.Fatalf("got %v, want the rule %s", err, c.rule)
			}
			if got := payloads(events); !slices.Equal(got, c.then) {
				t.Errorf("\n got %+v\nwant %+v", got, c.then)
			}
			if after := dump(state); after != before {
				t.Errorf("Decide changed the state it was given:\n%s\n%s", before, after)
			}
		})
	}
}

func TestUnknownCommandIsADefect(t *testing.T) {
	if _, err := decide(State{}, domain.Ask(42)); domain.ClassOf(err) != domain.Internal {
		t.Errorf("got %v, want an error without a class", err)
	}
	if _, err := decideCharge(ChargeState{}, domain.Ask(42)); domain.ClassOf(err) != domain.Internal {
		t.Errorf("got %v, want an error without a class", err)
	}
}

// TestRandomCommands runs random commands through the types table, as the writer does, and holds every step against
// what must always be true.
func TestRandomCommands(t *testing.T) {
	rnd := seeded(t)
	for range 100 {
		var state State
		var balance = map[string]int64{}
		var history []any
		for range 60 {
			c := domain.Ask(randomCommand(rnd))
			if err := Types.EncodeCommand(&c); err != nil {
				t.Fatal(err)
			}
			c = domain.Command{Type: c.Type, Data: c.Data}
			if err := Types.DecodeCommand(&c); err != nil {
				t.Fatal(err)
			}
			before := dump(state)
			events, err := decide(state, c)
			again, err2 := decide(state, c)
			if !reflect.DeepEqual(events, again) || !reflect.DeepEqual(err, err2) {
				t.Fatalf("%+v decided twice: %v, %v and %v, %v", c.Payload, events, err, again, err2)
			}
			if after := dump(state); after != before {
				t.Fatalf("deciding %+v changed the state:\n%s\n%s", c.Payload, before, after)
			}
			if err != nil && (domain.ClassOf(err) != domain.Rejected || len(events) > 0) {
				t.Fatalf("%+v: %v with %d events", c.Payload, err, len(events))
			}
			for _, e := range events {
				if err := Types.Encode(&e); err != nil {
					t.Fatal(err)
				}
				e.Payload = nil
				if err := Types.Decode(&e); err != nil {
					t.Fatal(err)
				}
				before := dump(state)
				next := evolve(state, e)
				if !reflect.DeepEqual(next, evolve(state, e)) {
					t.Fatalf("%+v evolved twice gives two states", e.Payload)
				}
				recorded := dump(next)
				evolve(state, domain.Fact(captured)) // another future of the same state
				if dump(state) != before || dump(next) != recorded {
					t.Fatalf("states share what evolving %+v changes", e.Payload)
				}
				state = next
				history = append(history, e.Payload)
				currency, change, after := movement(t, e.Payload)
				balance[currency] += change
				if currency != "" && (balance[currency] != after || state.Totals(currency).Balance() != after) {
					t.Fatalf("%+v says balance %d; its events sum up to %d, the state to %d", e.Payload, after,
						balance[currency], state.Totals(currency).Balance())
				}
			}
			checkInvariants(t, state)
		}
		if got, want := dump(fold(history)), dump(state); got != want {
			t.Fatalf("the history folds to\n%s\nnot\n%s", got, want)
		}
		kept, err := Account.EncodeAny(state)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Account.DecodeState(kept)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := dump(back.(State)), dump(state); got != want {
			t.Fatalf("a snapshot gives back\n%s\nnot\n%s", got, want)
		}
	}
}

// TestFactsInAnyOrder: Stripe promises no order and no single delivery, so that every order of the same facts, some
// of them repeated, must end in the same totals.
func TestFactsInAnyOrder(t *testing.T) {
	rnd := seeded(t)
	facts := []any{
		RecordCharge{"cus_9", "ch_1", 700, "eur"},
		RecordCharge{"cus_9", "ch_1", 1000, "eur"},
		RecordRefund{"cus_9", "ch_1", 1000, 200, "eur"},
		RecordRefund{"cus_9", "ch_1", 1000, 450, "eur"},
		RecordCharge{"cus_9", "ch_2", 90, "usd"},
		RecordDispute{"cus_9", "dp_1", "ch_1", 550, "eur"},
		CloseDispute{"cus_9", "dp_1", "ch_1", 550, "eur", Won},
		RecordDispute{"cus_9", "dp_2", "ch_2", 90, "usd"},
		CloseDispute{"cus_9", "dp_2", "ch_2", 90, "usd", Lost},
	}
	wantEUR := Totals{Captured: 1000, Refunded: 450}
	wantUSD := Totals{Captured: 90, Disputed: 90}
	for range 500 {
		order := append(slices.Clone(facts), facts[rnd.IntN(len(facts))], facts[rnd.IntN(len(facts))])
		rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		var s State
		for _, f := range order {
			events, err := decide(s, domain.Ask(f))
			if err != nil {
				t.Fatalf("%+v in %+v: %v", f, order, err)
			}
			for _, e := range events {
				s = evolve(s, e)
			}
			checkInvariants(t, s)
		}
		if s.Totals("eur") != wantEUR || s.Totals("usd") != wantUSD {
			t.Fatalf("%+v gives %+v and %+v", order, s.Totals("eur"), s.Totals("usd"))
		}
	}
}

func TestTable(t *testing.T) {
	rnd := seeded(t)
	var tab table[int]
	model := map[string]int{}
	keep, kept := tab, 0
	for i := range 5000 {
		key := strconv.Itoa(rnd.IntN(3000))
		tab, model[key] = tab.with(key, i), i
		if i == 2000 {
			keep, kept = tab, len(model)
		}
	}
	got := map[string]int{}
	each(tab.root, func(k string, v int) { got[k] = v })
	if !reflect.DeepEqual(got, model) {
		t.Errorf("the table has %d entries, the map %d", len(got), len(model))
	}
	for key, want := range model {
		if v, ok := tab.get(key); !ok || v != want {
			t.Fatalf("%s: %d, %v, want %d", key, v, ok, want)
		}
	}
	if _, ok := tab.get("nobody"); ok {
		t.Error("found a key that isn't there")
	}
	n := 0
	each(keep.root, func(_ string, v int) {
		n++
		if v > 2000 {
			t.Fatalf("an older table shows a later value %d", v)
		}
	})
	if n != kept {
		t.Errorf("an older table has %d entries, had %d", n, kept)
	}
}

func randomCommand(rnd *rand.Rand) any {
	amount := 1 + rnd.Int64N(1000)
	currency := []string{"eur", "usd"}[rnd.IntN(2)]
	charge := fmt.Sprintf("ch_%d", rnd.IntN(5))
	id := fmt.Sprintf("dp_%d", rnd.IntN(8))
	switch rnd.IntN(12) {
	case 0:
		return GrantCredit{"cus_9", amount, currency, "grace"}
	case 1:
		return SuspendAccount{"cus_9", ""}
	case 2, 3:
		return ReopenAccount{"cus_9", ""}
	case 4, 5:
		return RecordCharge{"cus_9", charge, amount, currency}
	case 6, 7:
		return RecordRefund{"cus_9", charge, amount, 1 + rnd.Int64N(amount), currency}
	case 8:
		return RecordDispute{"cus_9", id, charge, amount, currency}
	case 9:
		return CloseDispute{"cus_9", id, charge, amount, currency, []string{Won, Lost}[rnd.IntN(2)]}
	default:
		return RequestRefund{"cus_9", charge, 1 + rnd.Int64N(400), currency}
	}
}

// movement restates, apart from evolve, what each event does to the balance.
func movement(t *testing.T, payload any) (currency string, change, after int64) {
	switch e := payload.(type) {
	case CreditGranted:
		return e.Currency, e.Amount, e.Balance
	case ChargeCaptured:
		return e.Currency, e.Amount, e.Balance
	case RefundRequested:
		return e.Currency, 0, e.Balance
	case RefundCompleted:
		return e.Currency, -e.Amount, e.Balance
	case ChargeDisputed:
		return e.Currency, -e.Amount, e.Balance
	case DisputeClosed:
		return e.Currency, e.Returned, e.Balance
	case AccountSuspended, AccountReopened:
		return "", 0, 0
	}
	t.Fatalf("no movement known for %T", payload)
	return "", 0, 0
}

func checkInvariants(t *testing.T, s State) {
	t.Helper()
	sums := map[string]Totals{}
	held := map[string]int{}
	each(s.disputes.root, func(_ string, d dispute) {
		sum := sums[d.currency]
		if d.status != Won {
			held[d.charge]++
			sum.Disputed += d.amount
		}
		sums[d.currency] = sum
	})
	each(s.charges.root, func(id string, c charge) {
		if c.refunded < 0 || c.reserved < 0 || c.refunded+c.reserved > c.captured || c.disputes != held[id] {
			t.Fatalf("charge %s: %+v, held by %d disputes", id, c, held[id])
		}
		sum := sums[c.currency]
		sum.Captured, sum.Refunded, sum.Pending = sum.Captured+c.captured, sum.Refunded+c.refunded, sum.Pending+c.reserved
		sums[c.currency] = sum
	})
	each(s.totals.root, func(currency string, got Totals) {
		want := sums[currency]
		want.Credit = got.Credit
		if got != want {
			t.Fatalf("%s: totals %+v, the charges and disputes sum up to %+v", currency, got, want)
		}
	})
}

func fold(given []any) State {
	var s State
	for _, p := range given {
		s = evolve(s, domain.Fact(p))
	}
	return s
}

func payloads(events []domain.Event) []any {
	var list []any
	for _, e := range events {
		list = append(list, e.Payload)
	}
	return list
}

// dump writes a state out in full, so that a change anywhere in it shows.
func dump(s State) string {
	lines := []string{fmt.Sprint("suspended ", s.suspended)}
	each(s.totals.root, func(k string, v Totals) { lines = append(lines, fmt.Sprintf("%s %+v", k, v)) })
	each(s.charges.root, func(k string, v charge) { lines = append(lines, fmt.Sprintf("%s %+v", k, v)) })
	each(s.disputes.root, func(k string, v dispute) { lines = append(lines, fmt.Sprintf("%s %+v", k, v)) })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func each[V any](n *node[V], f func(string, V)) {
	if n == nil {
		return
	}
	for _, e := range n.entries {
		f(e.key, e.value)
	}
	if n.kids != nil {
		for _, kid := range n.kids {
			each(kid, f)
		}
	}
}

// seeded returns a source of randomness whose seed is printed with a failure; PENSTOCK_TEST_SEED repeats one.
func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PENSTOCK_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("PENSTOCK_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
