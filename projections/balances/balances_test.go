package balances

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/domain/billing"
	"github.com/penstock-io/penstock/eventstore"
)

var start = time.Date(2026, 9, 18, 5, 43, 3, 0, time.UTC)

// stream numbers payloads as the events of one stream.
func stream(t testing.TB, s domain.Stream, payloads ...any) []domain.Event {
	t.Helper()
	var events []domain.Event
	for i, p := range payloads {
		e := domain.Fact(p)
		if err := billing.Types.Encode(&e); err != nil {
			t.Fatal(err)
		}
		e.ID, e.Stream, e.Version = fmt.Sprintf("e%d", i+1), s, uint64(i+1)
		e.Time = start.Add(time.Duration(i) * 1500 * time.Millisecond)
		e.Payload = nil // as it comes from the log
		events = append(events, e)
	}
	return events
}

func foldAll(t testing.TB, events []domain.Event) []byte {
	t.Helper()
	var row []byte
	for _, e := range events {
		next, err := fold(row, e.Stream.Key(), e)
		if err != nil {
			t.Fatal(err)
		}
		if next != nil {
			row = next
		}
	}
	return row
}

func TestRow(t *testing.T) {
	captured := billing.ChargeCaptured{Charge: "ch_1", Amount: 1000, Captured: 1000, Currency: "eur"}
	disputed := billing.ChargeDisputed{Dispute: "dp_1", Charge: "ch_1", Amount: 700, Currency: "eur"}
	for _, c := range []struct {
		name     string
		payloads []any
		want     string // between customer and updated
	}{
		{"credit", []any{billing.CreditGranted{Amount: 500, Currency: "eur"}},
			`"status":"open","balances":{"eur":{"balance":500,"credit":500,"captured":0,"refunded":0,"pending_refunds":0,"disputed":0}},"charges":0`},
		{"a suspended account without money", []any{billing.AccountSuspended{}}, `"status":"suspended","balances":{},"charges":0`},
		{"reopened", []any{billing.AccountSuspended{}, billing.AccountReopened{}}, `"status":"open","balances":{},"charges":0`},
		{"a charge captured in two parts, and another", []any{captured,
			billing.ChargeCaptured{Charge: "ch_1", Amount: 200, Captured: 1200, Currency: "eur"},
			billing.ChargeCaptured{Charge: "ch_2", Amount: 5, Captured: 5, Currency: "eur"}},
			`"status":"open","balances":{"eur":{"balance":1205,"credit":0,"captured":1205,"refunded":0,"pending_refunds":0,"disputed":0}},"charges":2`},
		{"refund requested", []any{captured, billing.RefundRequested{Amount: 300, Currency: "eur"}},
			`"status":"open","balances":{"eur":{"balance":1000,"credit":0,"captured":1000,"refunded":0,"pending_refunds":300,"disputed":0}},"charges":1`},
		{"refund completed", []any{captured, billing.RefundRequested{Amount: 300, Currency: "eur"},
			billing.RefundCompleted{Amount: 250, Released: 250, Currency: "eur"}},
			`"status":"open","balances":{"eur":{"balance":750,"credit":0,"captured":1000,"refunded":250,"pending_refunds":50,"disputed":0}},"charges":1`},
		{"dispute open", []any{disputed},
			`"status":"open","balances":{"eur":{"balance":-700,"credit":0,"captured":0,"refunded":0,"pending_refunds":0,"disputed":700}},"charges":0`},
		{"dispute lost", []any{captured, disputed, billing.DisputeClosed{Amount: 700, Currency: "eur", Status: "lost"}},
			`"status":"open","balances":{"eur":{"balance":300,"credit":0,"captured":1000,"refunded":0,"pending_refunds":0,"disputed":700}},"charges":1`},
		{"dispute won", []any{captured, disputed, billing.DisputeClosed{Amount: 700, Returned: 700, Currency: "eur", Status: "won"}},
			`"status":"open","balances":{"eur":{"balance":1000,"credit":0,"captured":1000,"refunded":0,"pending_refunds":0,"disputed":0}},"charges":1`},
		{"currencies in order", []any{billing.CreditGranted{Amount: 3, Currency: "usd"}, billing.CreditGranted{Amount: 1, Currency: "chf"},
			billing.CreditGranted{Amount: 2, Currency: "eur"}, billing.AccountSuspended{}},
			`"status":"suspended","balances":{` +
				`"chf":{"balance":1,"credit":1,"captured":0,"refunded":0,"pending_refunds":0,"disputed":0},` +
				`"eur":{"balance":2,"credit":2,"captured":0,"refunded":0,"pending_refunds":0,"disputed":0},` +
				`"usd":{"balance":3,"credit":3,"captured":0,"refunded":0,"pending_refunds":0,"disputed":0}},"charges":0`},
	} {
		events := stream(t, "billing/cus_9", c.payloads...)
		last := events[len(events)-1]
		want := fmt.Sprintf(`{"customer":"cus_9",%s,"updated":"%s","version":%d}`, c.want, last.Time.Format(time.RFC3339Nano), last.Version)
		if got := string(foldAll(t, events)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, want)
		}
	}
}

func TestOddCustomersStayJSON(t *testing.T) {
	for _, customer := range []string{`a"b`, `a\b`, `a\\"`, "<a&b>", "Zoë", "a/b", "{}"} {
		events := stream(t, domain.Stream("billing/"+customer), billing.CreditGranted{Amount: 1, Currency: "eur"},
			billing.CreditGranted{Amount: 2, Currency: `e"\`}, billing.AccountSuspended{})
		row := foldAll(t, events)
		var got struct {
			Customer string
			Status   string
			Balances map[string]struct{ Balance int64 }
		}
		if err := json.Unmarshal(row, &got); err != nil || got.Customer != customer || got.Status != "suspended" ||
			got.Balances["eur"].Balance != 1 || got.Balances[`e"\`].Balance != 2 {
			t.Errorf("%q: %s: %+v, %v", customer, row, got, err)
		}
	}
}

// TestReadRowRefusesWhatItDidNotWrite cuts and damages a row everywhere it is read.
func TestReadRowRefusesWhatItDidNotWrite(t *testing.T) {
	row := foldAll(t, stream(t, "billing/cus_9", billing.CreditGranted{Amount: 500, Currency: "eur"}, billing.CreditGranted{Amount: 5, Currency: "usd"}))
	end := bytes.Index(row, []byte(`"updated":`)) + len(`"updated":`)
	for i := range end {
		if _, err := readRow(row[:i:i], "cus_9"); domain.ClassOf(err) != domain.Corrupt {
			t.Errorf("cut to %s: %v", row[:i], err)
		}
		damaged := bytes.Clone(row)
		damaged[i] = 0 // what JSON allows nowhere
		if _, err := readRow(damaged, "cus_9"); domain.ClassOf(err) != domain.Corrupt {
			t.Errorf("damaged to %q: %v", damaged, err)
		}
	}
}

// TestReadFactAgreesWithEncodingJSON: the quick reader may refuse a form, never read it otherwise.
func TestReadFactAgreesWithEncodingJSON(t *testing.T) {
	for _, data := range []string{
		`{"customer":"cus_9","amount":500,"currency":"eur","reason":"a \"b\" \\","balance":-500}`,
		`{"charge":"ch_1","amount":1,"captured":2,"released":3,"returned":-4,"currency":"eur"}`,
		`{"amount":1,"amount":2,"currency":"e\u0075r"}`,
		` { "amount" : 7 , "currency" : "eur" } `,
		`{"amount":1,"more":{"amount":2},"currency":"eur"}`,
		`{"amount":1,"list":[1,2],"yes":true,"nothing":null}`,
		`{"amount":null,"currency":null}`,
		`{"amount":9223372036854775807}`,
		`{"amount":92233720368547758070}`,
		`{"amount":1.5}`, `{"amount":1e3}`, `{"amount":"1"}`, `{"currency":1}`, `{}`, `{"amount":1}x`, `{"amount":1`, `{"amount":}`, `{"amount":1,}`, ``, `[]`, `null`,
	} {
		var want fact
		wantErr := json.Unmarshal([]byte(data), &want)
		got, err := readFact([]byte(data))
		if (err == nil) != (wantErr == nil) || err == nil && got != want {
			t.Errorf("%s: %+v, %v, want %+v, %v", data, got, err, want, wantErr)
		}
	}
}

func TestApply(t *testing.T) {
	table, err := eventstore.OpenTable(filepath.Join(t.TempDir(), "balances.db"), eventstore.TableMeta{Name: "balances", Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	p := New()
	events := stream(t, "billing/cus_9", billing.CreditGranted{Amount: 500, Currency: "eur"}, billing.CreditGranted{Amount: 20, Currency: "eur"})
	events = append(events,
		domain.Event{Type: "github.push", Stream: "github/octo/hello", Data: []byte("not JSON")},
		domain.Event{Type: "billing.unheard.of", Stream: "billing/cus_9", Data: []byte("not JSON")},
		domain.Event{Type: "billing.credit.granted", Stream: "hooks/cus_9", Data: []byte("not JSON")})
	changes, err := table.Update("events", eventstore.Position{Next: []int64{5}}, func(tx *eventstore.Tx) error {
		for i, e := range events {
			tx.At(0, int64(i))
			if err := p.Apply(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 2 || changes[1].Key != "cus_9" || !bytes.Equal(changes[1].Row, foldAll(t, events[:2])) {
		t.Errorf("changes: %+v", changes)
	}
	_, err = table.Update("events", eventstore.Position{Next: []int64{6}}, func(tx *eventstore.Tx) error {
		return p.Apply(tx, domain.Event{Type: "billing.credit.granted", Stream: "billing/cus_9", Data: []byte("not JSON")})
	})
	if domain.ClassOf(err) != domain.Corrupt {
		t.Errorf("an event that isn't JSON: %v, want Corrupt", err)
	}
}

// TestAgreesWithTheAccount runs random commands and holds the row against the account's own state: the read side and
// the write side must tell the same balance.
func TestAgreesWithTheAccount(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PENSTOCK_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PENSTOCK_TEST_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	type amounts struct {
		Balance, Credit, Captured, Refunded, Disputed int64
		Pending                                       int64 `json:"pending_refunds"`
	}
	for range 100 {
		state := billing.Account.Initial()
		var payloads []any
		for range 60 {
			events, err := billing.Account.Decide(state, domain.Ask(randomCommand(rnd)))
			if err != nil && domain.ClassOf(err) != domain.Rejected {
				t.Fatal(err)
			}
			for _, e := range events {
				state = billing.Account.Evolve(state, e)
				payloads = append(payloads, e.Payload)
			}
		}
		row := foldAll(t, stream(t, "billing/cus_9", payloads...))
		var got struct {
			Status   string
			Balances map[string]amounts
			Version  int
		}
		if err := json.Unmarshal(row, &got); err != nil {
			t.Fatal(err)
		}
		if (got.Status == "suspended") != state.Suspended() || got.Version != len(payloads) {
			t.Fatalf("%s: suspended %v, %d events", row, state.Suspended(), len(payloads))
		}
		for _, code := range []string{"eur", "usd"} {
			w := state.Totals(code)
			if want := (amounts{w.Balance(), w.Credit, w.Captured, w.Refunded, w.Disputed, w.Pending}); got.Balances[code] != want {
				t.Fatalf("%s: %+v, want %+v", code, got.Balances[code], want)
			}
		}
	}
}

func randomCommand(rnd *rand.Rand) any {
	amount := 1 + rnd.Int64N(1000)
	currency := []string{"eur", "usd"}[rnd.IntN(2)]
	charge, id := fmt.Sprintf("ch_%d", rnd.IntN(4)), fmt.Sprintf("dp_%d", rnd.IntN(6))
	switch rnd.IntN(9) {
	case 0:
		return billing.GrantCredit{Customer: "cus_9", Amount: amount, Currency: currency}
	case 1:
		return billing.SuspendAccount{Customer: "cus_9"}
	case 2:
		return billing.ReopenAccount{Customer: "cus_9"}
	case 3:
		return billing.RecordCharge{Customer: "cus_9", Charge: charge, Captured: amount, Currency: currency}
	case 4:
		return billing.RecordRefund{Customer: "cus_9", Charge: charge, Captured: amount, Refunded: 1 + rnd.Int64N(amount), Currency: currency}
	case 5:
		return billing.RecordDispute{Customer: "cus_9", Dispute: id, Charge: charge, Amount: amount, Currency: currency}
	case 6:
		return billing.CloseDispute{Customer: "cus_9", Dispute: id, Charge: charge, Amount: amount, Currency: currency,
			Status: []string{"won", "lost"}[rnd.IntN(2)]}
	default:
		return billing.RequestRefund{Customer: "cus_9", Charge: charge, Amount: 1 + rnd.Int64N(300), Currency: currency}
	}
}

func BenchmarkFold(b *testing.B) {
	events := stream(b, "billing/cus_9", billing.CreditGranted{Customer: "cus_9", Amount: 500, Currency: "eur", Reason: "late delivery", Balance: 500},
		billing.CreditGranted{Customer: "cus_9", Amount: 7, Currency: "usd", Balance: 7},
		billing.ChargeCaptured{Customer: "cus_9", Charge: "ch_3Qabcdefghijklmnopqrstuv", Amount: 1000, Captured: 1000, Currency: "eur", Balance: 1500})
	row := foldAll(b, events)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := fold(row, "cus_9", events[2]); err != nil {
			b.Fatal(err)
		}
	}
}
