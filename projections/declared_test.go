package projections_test

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

func declare(t *testing.T, d projections.Declaration) *projections.Declared {
	t.Helper()
	p, problems := projections.Declare(d)
	for _, problem := range problems {
		t.Error(problem)
	}
	if t.Failed() {
		t.FailNow()
	}
	return p
}

// foldInto applies events to a fresh table and returns its rows.
func foldInto(t *testing.T, p projections.Projection, events ...domain.Event) (map[string]string, error) {
	t.Helper()
	table, err := eventstore.OpenTable(filepath.Join(t.TempDir(), "t.db"), eventstore.TableMeta{Name: p.Name(), Version: 1, Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	_, err = table.Update("t", eventstore.Position{Next: []int64{int64(len(events))}}, func(tx *eventstore.Tx) error {
		for i, e := range events {
			tx.At(0, int64(i))
			if err := p.Apply(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	err = table.View(func(tx *eventstore.Tx) error {
		return tx.Scan("", func(k, row []byte) bool { all[string(k)] = string(row); return true })
	})
	return all, err
}

func payment(n int, at, currency string, amount int64) domain.Event {
	when, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	return domain.Event{ID: fmt.Sprint("e", n), Type: "stripe.charge.succeeded", Source: "/sources/stripe", Stream: "stripe/cus_1", Version: uint64(n), Time: when,
		Data: fmt.Appendf(nil, `{"data":{"object":{"amount":%d,"currency":%q,"paid":true}}}`, amount, currency)}
}

func TestADeclaredProjectionFolds(t *testing.T) {
	revenue := declare(t, projections.Declaration{
		Name: "revenue", Types: []string{"stripe.charge.*"}, Sources: []string{"stripe"}, Where: "data.data.object.paid",
		Window: 24 * time.Hour, Key: `string(window).substring(0, 10) + "/" + data.data.object.currency`,
		Set:   map[string]string{"currency": "data.data.object.currency", "day": "window"},
		Count: []string{"charges"}, Sum: map[string]string{"amount": "data.data.object.amount"},
		Min: map[string]string{"least": "data.data.object.amount"}, Max: map[string]string{"most": "data.data.object.amount", "last": "time"},
		Append: map[string]projections.Appended{"ids": {Value: "id", Cap: 2}},
		Delete: `data.data.object.amount == -1`, Indexes: [][]string{{"currency", "day"}},
	})
	other := payment(9, "2026-03-01T10:00:00Z", "eur", 5)
	other.Type = "stripe.refund.created"
	unpaid := payment(10, "2026-03-01T10:00:00Z", "eur", 5)
	unpaid.Data = []byte(`{"data":{"object":{"paid":false}}}`)
	events := []domain.Event{
		payment(1, "2026-03-01T23:59:59Z", "eur", 9007199254740993), payment(2, "2026-03-01T00:00:00Z", "eur", 2), other, unpaid,
		payment(3, "2026-03-02T00:00:00Z", "eur", 7), payment(4, "2026-03-01T12:00:00+02:00", "eur", 1), payment(5, "2026-03-01T01:00:00Z", "usd", 3),
		payment(6, "2026-03-01T01:00:00Z", "usd", -1),
	}
	got, err := foldInto(t, revenue, events...)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"2026-03-01/eur": `{"amount":9007199254740996,"charges":3,"currency":"eur","day":"2026-03-01T00:00:00.000000000Z","ids":["e2","e4"],` +
			`"last":"2026-03-01T23:59:59.000000000Z","least":1,"most":9007199254740993}`,
		"2026-03-02/eur": `{"amount":7,"charges":1,"currency":"eur","day":"2026-03-02T00:00:00.000000000Z","ids":["e3"],` +
			`"last":"2026-03-02T00:00:00.000000000Z","least":7,"most":7}`,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("\n got %v\nwant %v", got, want)
	}
}

func TestADeclaredProjectionHaltsRatherThanGuess(t *testing.T) {
	for what, d := range map[string]projections.Declaration{
		"a member that isn't there": {Key: "data.nothing", Count: []string{"n"}},
		"a key that is no text":     {Key: "data.data.object.amount", Count: []string{"n"}},
		"an empty key":              {Key: `""`, Count: []string{"n"}},
		"a sum beyond 64 bits":      {Key: `"k"`, Sum: map[string]string{"n": "9223372036854775807"}},
		"a sum of texts":            {Key: `"k"`, Sum: map[string]string{"n": "data.data.object.currency"}},
		"an order of bools":         {Key: `"k"`, Max: map[string]string{"n": "data.data.object.paid"}},
		"too much work":             {Key: `"k"`, Set: map[string]string{"n": strings.Repeat("[1,2,3,4,5,6,7,8,9].map(x, ", 6) + "x" + strings.Repeat(")", 6)}},
	} {
		d.Name = "bad"
		p := declare(t, d)
		if rows, err := foldInto(t, p, payment(1, "2026-03-01T00:00:00Z", "eur", 1), payment(2, "2026-03-01T00:00:00Z", "eur", 1)); err == nil {
			t.Errorf("%s: %v", what, rows)
		}
	}
	// What may be absent can be asked for, and a body that is no JSON is null.
	p := declare(t, projections.Declaration{Name: "good", Key: `has(data.x) ? "x" : "none"`, Where: "data != null", Count: []string{"n"},
		Set: map[string]string{"v": `data.?y.orValue("-")`}})
	text := payment(3, "2026-03-01T00:00:00Z", "eur", 1)
	text.Data = []byte("plain text")
	rows, err := foldInto(t, p, payment(1, "2026-03-01T00:00:00Z", "eur", 1), text)
	if err != nil || rows["none"] != `{"n":1,"v":"-"}` || len(rows) != 1 {
		t.Error(rows, err)
	}
}

func TestDeclareReportsEveryProblemWithItsPlace(t *testing.T) {
	_, problems := projections.Declare(projections.Declaration{
		Name: "Bad", Where: "data.", Key: "1 + 1", Window: time.Millisecond, Sum: map[string]string{"a": `"x"`, "Total": "1"},
		Set: map[string]string{"a": "nothing + 1"}, Append: map[string]projections.Appended{"l": {Value: "id", Cap: 100_000}},
		Indexes: [][]string{{"nope"}}, Sample: json.RawMessage("{"),
	})
	var all []string
	for _, p := range problems {
		all = append(all, p.Error())
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{
		"from.where: line 1, column 6: Syntax error", "key: line 1, column 1: the expression gives a int, not a string", "window: whole seconds",
		"sum.a: line 1, column 1: the expression gives a string, not a int or double", "set.a: line 1, column 1: undeclared reference to 'nothing'",
		"append.l.cap: between 1 and 1000", `indexes[0]: the row has no field "nope"`, "sample: not JSON", "sum.a: the field is declared twice",
		"sum.Total: a field's name", `"Bad": a name has`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q in\n%s", want, text)
		}
	}
}

// TestASampleFindsWhatWouldHalt in every expression, not only in those that make the row.
func TestASampleFindsWhatWouldHalt(t *testing.T) {
	_, problems := projections.Declare(projections.Declaration{
		Name: "a", Where: `data.acton == "opened"`, Key: "data.nobody", Set: map[string]string{"v": "data.a.b"}, Delete: "row.v == 1",
		Sample: json.RawMessage(`{"action":"opened","a":{}}`),
	})
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
		if !strings.Contains(p.Error(), "with the sample: no such key") {
			t.Error(p)
		}
	}
	if fmt.Sprint(keys) != "[delete_when from.where key set.v]" {
		t.Error(keys)
	}
}

func TestADefinitionIsWhatIsFolded(t *testing.T) {
	base := projections.Declaration{Name: "a", Key: "id", Count: []string{"n"}}
	with := func(change func(*projections.Declaration)) string {
		d := base
		change(&d)
		return declare(t, d).Definition()
	}
	same := with(func(*projections.Declaration) {})
	if with(func(d *projections.Declaration) { d.Sample = json.RawMessage("{}") }) != same {
		t.Error("a sample changes the definition")
	}
	for what, other := range map[string]string{
		"key":    with(func(d *projections.Declaration) { d.Key = "type" }),
		"index":  with(func(d *projections.Declaration) { d.Indexes = [][]string{{"n"}} }),
		"window": with(func(d *projections.Declaration) { d.Window = time.Hour }),
	} {
		if other == same {
			t.Errorf("another %s is the same definition", what)
		}
	}
}

// TestIndexKeysSortAsValuesDo over every pair of a list in order.
func TestIndexKeysSortAsValuesDo(t *testing.T) {
	values := []any{nil, false, true, -1e300, int64(math.MinInt64), int64(math.MinInt64 + 1), int64(-5), -0.5, int64(0), 0.5, int64(1), 1.5, int64(2), int64(1 << 53), int64(1<<53 + 1), float64(1<<53 + 2), int64(math.MaxInt64 - 1), int64(math.MaxInt64), 1e300,
		"", "\x00", "\x00a", "\x01", "\x02", "\x02\x01", "a", "a\x00", "a\x00b", "ab", "b", strings.Repeat("c", 512), strings.Repeat("c", 513), "d", "ö"}
	for i := range values {
		for j := range values {
			a, b := string(projections.AppendIndexKey(nil, values[i])), string(projections.AppendIndexKey(nil, values[j]))
			if strings.Compare(a, b) != map[bool]int{true: 1}[i > j]-map[bool]int{true: 1}[i < j] {
				t.Errorf("%#v and %#v sort the wrong way: %x, %x", values[i], values[j], a, b)
			}
			if strings.Contains(a, "\x00") {
				t.Errorf("%#v has a zero byte: %x", values[i], a)
			}
		}
	}
}
