package penstock_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// verify compares the journal, the log and the read model.
func (c *crash) verify() {
	t := c.t
	t.Helper()
	events := readTopic(t, c.brokers, c.prefix+".events")
	t.Logf("%d requests acknowledged, %d sent again, %d events", c.acknowledged.Load(), c.retries.Load(), len(events))
	if c.retries.Load() == 0 {
		t.Error("no request was interrupted: the test did not test")
	}

	ids, versions := map[string]bool{}, map[string]uint64{}
	byCause := map[string][]*kgo.Record{} // delivery or command
	captures, links := map[string]int{}, map[string]int{}
	for _, r := range events {
		id, stream, kind := header(r, "ce_id"), header(r, "ce_subject"), header(r, "ce_type")
		if ids[id] {
			t.Errorf("event %s of %s stands twice", id, stream)
		}
		ids[id] = true
		if versions[stream]++; header(r, "ce_streamversion") != strconv.FormatUint(versions[stream], 10) {
			t.Errorf("%s has version %s at place %d", stream, header(r, "ce_streamversion"), versions[stream])
		}
		if r.Partition != javaPartition(stream, 4) || string(r.Key) != stream {
			t.Errorf("event %s of %s stands in partition %d under key %q", id, stream, r.Partition, r.Key)
		}
		source, delivered := strings.CutPrefix(header(r, "ce_source"), "/sources/")
		switch {
		case delivered:
			byCause[source+"/"+header(r, "ce_deliveryid")] = append(byCause[source+"/"+header(r, "ce_deliveryid")], r)
		case kind == "charge.linked":
			links[strings.TrimPrefix(stream, "charge/")]++
		case kind == "billing.charge.captured":
			var f struct{ Charge string }
			if err := json.Unmarshal(r.Value, &f); err != nil {
				t.Fatal(err)
			}
			captures[f.Charge]++
		case kind == "billing.refund.completed":
		default:
			byCause["/"+header(r, "ce_causationid")] = append(byCause["/"+header(r, "ce_causationid")], r)
		}
	}

	want := map[string]*balanceRow{} // what the journal says
	for _, r := range c.journal {
		cause := r.source + "/" + r.id
		stand := byCause[cause]
		delete(byCause, cause)
		if r.refused {
			if len(stand) != 0 {
				t.Errorf("%s was refused and stands %d times", cause, len(stand))
			}
			continue
		}
		if len(stand) != 1 {
			t.Errorf("%s was acknowledged and stands %d times; its outcomes are %q", cause, len(stand), c.outcomes[cause])
			continue
		}
		if r.source == "" && (header(stand[0], "ce_id") != r.events[0].ID || header(stand[0], "ce_type") != r.events[0].Type) {
			t.Errorf("%s was answered with %+v and stands as %s %s", cause, r.events, header(stand[0], "ce_type"), header(stand[0], "ce_id"))
		}
		if r.moved.Captured > 0 && (captures[r.charge] != 1 || links[r.charge] != 1) {
			t.Errorf("charge %s was captured %d times and linked %d times", r.charge, captures[r.charge], links[r.charge])
		}
		if r.customer == "" {
			continue
		}
		row := rowOf(want, r.customer)
		row.add("eur", r.moved)
		if r.moved.Captured > 0 {
			row.Charges++
		}
	}
	for cause, stand := range byCause {
		t.Errorf("%s stands %d times and was never acknowledged", cause, len(stand))
	}

	// The fold of the log gives the rest, and must not differ from the journal in what both know.
	folded := fold(t, events)
	for customer, row := range folded {
		if w := rowOf(want, customer); !reflect.DeepEqual(w.Balances, row.Balances) || w.Charges != row.Charges {
			t.Errorf("%s: the log makes it %+v, the journal %+v", customer, *row, *w)
		}
	}
	if len(want) != len(folded) {
		t.Errorf("the journal knows %d customers, the log %d", len(want), len(folded))
	}
	var rows map[string]*balanceRow
	equal := func() bool {
		rows = allRows(t, c.url.Load().(string))
		return reflect.DeepEqual(rows, folded)
	}
	for deadline := time.Now().Add(20 * time.Second); !equal(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			for _, customer := range slices.Sorted(maps.Keys(folded)) {
				if !reflect.DeepEqual(rows[customer], folded[customer]) {
					t.Errorf("balances has %+v, the fold of the log is %+v", rows[customer], *folded[customer])
				}
			}
			t.Fatalf("balances has %d rows and doesn't become the fold of the log, %d rows", len(rows), len(folded))
		}
	}
}

// allRows are all rows of the projection balances, page by page.
func allRows(t *testing.T, url string) map[string]*balanceRow {
	t.Helper()
	rows := map[string]*balanceRow{}
	for cursor := ""; ; {
		var page struct {
			Items []struct {
				Key string
				Row balanceRow
			}
			Next string
		}
		a := get(t, url+"/v1/projections/balances/rows?limit=5&cursor="+cursor)
		if a.status != 200 {
			t.Fatalf("rows: %s", a)
		}
		a.into(t, &page)
		for _, item := range page.Items {
			if rows[item.Key] != nil {
				t.Errorf("row %s came on two pages", item.Key)
			}
			rows[item.Key] = &item.Row
		}
		if cursor = page.Next; cursor == "" {
			return rows
		}
	}
}

func rowOf(rows map[string]*balanceRow, customer string) *balanceRow {
	if rows[customer] == nil {
		rows[customer] = &balanceRow{Customer: customer, Status: "open", Balances: map[string]currencyRow{}}
	}
	return rows[customer]
}

func (r *balanceRow) add(currency string, d currencyRow) {
	if d == (currencyRow{}) {
		return
	}
	s := r.Balances[currency]
	s.Credit += d.Credit
	s.Captured += d.Captured
	s.Refunded += d.Refunded
	s.Pending += d.Pending
	s.Disputed += d.Disputed
	s.Balance = s.Credit + s.Captured - s.Refunded - s.Disputed
	r.Balances[currency] = s
}

// fold makes the balances anew, by other code than the projection's. Events of a stream must be in order.
func fold(t *testing.T, events []*kgo.Record) map[string]*balanceRow {
	rows := map[string]*balanceRow{}
	for _, e := range events {
		customer, ok := strings.CutPrefix(string(e.Key), "billing/")
		if !ok {
			continue
		}
		var f struct {
			Amount, Captured, Released int64
			Currency                   string
		}
		if err := json.Unmarshal(e.Value, &f); err != nil {
			t.Fatal(err)
		}
		row := rowOf(rows, customer)
		row.Version++
		switch header(e, "ce_type") {
		case "billing.credit.granted":
			row.add(f.Currency, currencyRow{Credit: f.Amount})
		case "billing.charge.captured":
			row.add(f.Currency, currencyRow{Captured: f.Amount})
			if f.Amount == f.Captured {
				row.Charges++
			}
		case "billing.refund.completed":
			row.add(f.Currency, currencyRow{Refunded: f.Amount, Pending: -f.Released})
		case "billing.account.suspended":
			row.Status = "suspended"
		case "billing.account.reopened":
			row.Status = "open"
		default:
			t.Fatalf("an event of type %s", header(e, "ce_type"))
		}
	}
	return rows
}
