package projectiontest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/projections/balances"
)

// with is a projection made of a function.
type with struct {
	apply   func(tx *eventstore.Tx, e domain.Event) error
	indexes []projections.Index
}

func (with) Name() string                                      { return "with" }
func (with) Version() int                                      { return 1 }
func (w with) Apply(tx *eventstore.Tx, e domain.Event) error   { return w.apply(tx, e) }
func (w with) Indexes() []projections.Index                    { return w.indexes }
func count(tx *eventstore.Tx, key string) error                { return tx.Put(key, append(tx.Get(key), '|')) }
func perStream(tx *eventstore.Tx, e domain.Event) (key string) { return string(e.Stream) }
func onlySums(tx *eventstore.Tx, e domain.Event) (err error)   { return count(tx, e.Type) }
func byStream(tx *eventstore.Tx, e domain.Event) (err error)   { return tx.Put(perStream(tx, e), e.Data) }
func newest(tx *eventstore.Tx, e domain.Event) (err error)     { return tx.Put("newest", []byte(e.ID)) }
func clock(tx *eventstore.Tx, e domain.Event) (err error) {
	return tx.Put(e.ID, fmt.Append(nil, time.Now().Year()))
}
func random(tx *eventstore.Tx, e domain.Event) (err error) {
	return tx.Put(e.ID, fmt.Append(nil, rand.IntN(2)))
}
func offsets(tx *eventstore.Tx, e domain.Event) (err error) {
	return tx.Put(e.ID, fmt.Append(nil, tx.Offset()))
}
func overwrites(_ *eventstore.Tx, e domain.Event) (err error) { e.Data[0] = 'x'; return nil }
func refuses(_ *eventstore.Tx, e domain.Event) (err error)    { return errors.New("no way") }
func panics(_ *eventstore.Tx, e domain.Event) (err error)     { panic("at the disco") }
func indexOf(keys ...string) func(string, []byte) ([][]byte, error) {
	return func(string, []byte) (out [][]byte, _ error) {
		for _, k := range keys {
			out = append(out, []byte(k))
		}
		return out, nil
	}
}

func mapOrder(tx *eventstore.Tx, e domain.Event) error {
	m := map[string]int{"a": 1, "b": 2, "c": 3}
	text := ""
	for k := range m {
		text += k
	}
	return tx.Put(string(e.Stream), []byte(text))
}

// remembers keeps a count outside the table, which a restart loses and a rebuild doubles.
func remembers() func(*eventstore.Tx, domain.Event) error {
	n := 0
	return func(tx *eventstore.Tx, e domain.Event) error {
		n++
		return tx.Put(e.ID, fmt.Append(nil, n))
	}
}

// perBatch sees what a batch holds: a row of an earlier batch it takes for its own.
func perBatch() func(*eventstore.Tx, domain.Event) error {
	var last *eventstore.Tx
	return func(tx *eventstore.Tx, e domain.Event) error {
		if tx != last {
			last = tx
			return count(tx, "batches")
		}
		return nil
	}
}

func someHistory() (history []domain.Event) {
	for i := range 40 {
		history = append(history, domain.Event{Type: fmt.Sprint("t", i%3), Stream: domain.Stream(fmt.Sprintf("s/%d", i%7)), Data: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	return history
}

// TestBadProjectionsAreFound has one of each kind of mistake, and says what is found.
func TestBadProjectionsAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		p    with
		want string
	}{
		"a clock":                  {with{apply: clock}, "on another day"},
		"randomness":               {with{apply: random}, ""},
		"map order":                {with{apply: mapOrder}, ""},
		"order between streams":    {with{apply: newest}, "in another order: row \"newest\" is"},
		"memory of its own":        {with{apply: remembers()}, ""},
		"batches":                  {with{apply: perBatch()}, "instead of all at once: row \"batches\""},
		"offsets":                  {with{apply: offsets}, "in another order"},
		"an event that is changed": {with{apply: overwrites}, "data was changed by Apply"},
		"an error":                 {with{apply: refuses}, "event event-0 (t0, version 1 of s/0): no way"},
		"a panic":                  {with{apply: panics}, "panic: at the disco"},
		"a random index": {with{byStream, []projections.Index{{Name: "x", Keys: func(string, []byte) ([][]byte, error) {
			return [][]byte{fmt.Append(nil, rand.IntN(3))}, nil
		}}}}, "index"},
		"a zero byte in an index": {with{byStream, []projections.Index{{Name: "x", Keys: indexOf("a\x00b")}}}, "holds a zero byte"},
	} {
		err := check(t, c.p, someHistory(), 1)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, history := range map[string][]domain.Event{
		"no events":       nil,
		"no stream":       {{Type: "t"}},
		"no type":         {{Stream: "s/1"}},
		"a version apart": {{Type: "t", Stream: "s/1", Version: 1}, {Type: "t", Stream: "s/1", Version: 3}},
	} {
		if err := check(t, with{apply: byStream}, history, 1); err == nil {
			t.Errorf("a history with %s is taken", name)
		}
	}
}

// TestGoodProjectionsPass: rows of one stream, sums over all, indexes, and the one that the product brings.
func TestGoodProjectionsPass(t *testing.T) {
	Run(t, with{apply: byStream}, someHistory())
	Run(t, with{apply: onlySums}, someHistory())
	Run(t, with{byStream, []projections.Index{{Name: "both", Keys: indexOf("a", "b")}, {Name: "none", Keys: indexOf()}}}, someHistory())
	var billed []domain.Event
	for i := range 30 {
		data, err := json.Marshal(map[string]any{"charge": fmt.Sprint("ch_", i), "customer": fmt.Sprint("cus_", i%4), "amount": i + 1, "captured": i + 1, "currency": []string{"eur", "usd"}[i%2]})
		if err != nil {
			t.Fatal(err)
		}
		billed = append(billed, domain.Event{Type: "billing.charge.captured", Stream: domain.Stream(fmt.Sprint("billing/cus_", i%4)), Data: data})
	}
	Run(t, balances.New(), billed)
}

// TestTheExampleOfTheDocsCompiles finds the Go of docs/projections.md in example_test.go, word for word.
func TestTheExampleOfTheDocsCompiles(t *testing.T) {
	text, err := os.ReadFile("../../docs/projections.md")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```go\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("the page has no example")
	}
	for _, b := range blocks {
		b, _, _ = strings.Cut(b, "```")
		if !strings.Contains(string(code), strings.TrimSpace(b)) {
			t.Errorf("not in example_test.go:\n%s", b)
		}
	}
}
