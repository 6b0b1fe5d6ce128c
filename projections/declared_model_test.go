package projections

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// sale is what an event of these tests says.
type sale struct {
	ID     string  `json:"id"`
	Group  string  `json:"group"`
	Amount int64   `json:"amount"`
	Weight float64 `json:"weight"`
	Tag    *string `json:"tag,omitempty"`
	Gone   bool    `json:"gone"`
}

var salesDeclaration = Declaration{
	Name: "sales", Types: []string{"sale.*"}, Where: "data.amount != 13", Window: time.Hour, Key: `data.group + "@" + string(int(window))`,
	Set:   map[string]string{"group": "data.group", "tag": "data.?tag", "half": "has(row.weight) ? row.weight / 2.0 : 0.0", "hour": "window", "before": `has(row.orders) ? row.orders : -1`},
	Count: []string{"orders"}, Sum: map[string]string{"total": "data.amount", "weight": "double(data.weight)", "tagged": "has(data.tag) ? 1 : 0"},
	Min: map[string]string{"least": "data.amount", "first_tag": "data.?tag"}, Max: map[string]string{"most": "data.amount", "last": "time"},
	Append: map[string]Appended{"ids": {Value: "data.id", Cap: 3}, "tags": {Value: "data.?tag", Cap: 2}, "weights": {Value: "double(data.weight)", Cap: 2}},
	Delete: "data.gone", Indexes: [][]string{{"group", "total"}, {"first_tag"}, {"weight", "last"}},
}

// modelOf is what the declaration says, written down once more by hand.
func modelOf(events []domain.Event) map[string]map[string]any {
	rows := map[string]map[string]any{}
	for _, e := range events {
		var s sale
		if e.Type != "sale.made" || json.Unmarshal(e.Data, &s) != nil || s.Amount == 13 {
			continue
		}
		hour := e.Time.Truncate(time.Hour)
		key := fmt.Sprintf("%s@%d", s.Group, hour.Unix())
		if s.Gone {
			delete(rows, key)
			continue
		}
		old, had := rows[key]
		if !had {
			old = map[string]any{"orders": int64(0), "total": int64(0), "weight": 0.0, "tagged": int64(0), "ids": []any{}, "tags": []any{}, "weights": []any{},
				"least": s.Amount, "most": s.Amount, "first_tag": nil, "last": "", "half": 0.0, "before": int64(-1)}
		}
		row := maps.Clone(old)
		row["group"], row["hour"], row["tag"] = s.Group, hour.UTC().Format(fixedTime), nil
		if had {
			row["half"], row["before"] = old["weight"].(float64)/2, old["orders"]
		}
		row["orders"] = old["orders"].(int64) + 1
		row["total"] = old["total"].(int64) + s.Amount
		row["weight"] = old["weight"].(float64) + s.Weight
		row["least"], row["most"] = min(old["least"].(int64), s.Amount), max(old["most"].(int64), s.Amount)
		row["last"] = max(old["last"].(string), e.Time.UTC().Format(fixedTime))
		push := func(name string, v any, most int) {
			list := append(slices.Clone(old[name].([]any)), v)
			row[name] = list[max(0, len(list)-most):]
		}
		push("ids", s.ID, 3)
		push("weights", s.Weight, 2)
		if s.Tag != nil {
			row["tag"], row["tagged"] = *s.Tag, old["tagged"].(int64)+1
			push("tags", *s.Tag, 2)
			if first, ok := old["first_tag"].(string); !ok || *s.Tag < first {
				row["first_tag"] = *s.Tag
			}
		}
		rows[key] = row
	}
	return rows
}

// written has doubles stand as they do in rows.
func written(v any) any {
	switch v := v.(type) {
	case float64:
		b, _ := json.Marshal(v)
		if !bytes.ContainsAny(b, ".e") {
			b = append(b, ".0"...)
		}
		return writtenDouble(b)
	case []any:
		out := []any{}
		for _, item := range v {
			out = append(out, written(item))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for name, item := range v {
			out[name] = written(item)
		}
		return out
	}
	return v
}

type writtenDouble string

func (d writtenDouble) MarshalJSON() ([]byte, error) { return []byte(d), nil }

func randomSale(r *rand.Rand, i int) domain.Event {
	s := sale{ID: fmt.Sprint("o", i), Group: fmt.Sprint("g", r.IntN(3)), Amount: []int64{13, -5, 0, 9007199254740993, int64(r.IntN(100))}[r.IntN(5)],
		Weight: []float64{0, 0.5, 1, 2.5, 1e21, -3}[r.IntN(6)], Gone: r.IntN(25) == 0}
	if r.IntN(2) == 0 {
		tag := string(rune('a' + r.IntN(4)))
		s.Tag = &tag
	}
	body, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	e := domain.Event{ID: s.ID, Type: "sale.made", Stream: "shop/1", Version: uint64(i + 1), Data: body, Time: time.Date(2026, 1, 1, 0, r.IntN(180), r.IntN(60), r.IntN(1e9), time.UTC)}
	if r.IntN(10) == 0 {
		e.Type = "other"
	}
	return e
}

// TestADeclaredProjectionIsItsModel folds random events in random batches, alone and together with another, and compares
// rows and indexes with a model, and with one fold of everything.
func TestADeclaredProjectionIsItsModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p, problems := Declare(salesDeclaration)
	for _, problem := range problems {
		t.Fatal(problem)
	}
	for range 6 {
		var events []domain.Event
		var records []*eventstore.Record
		for i := range 300 {
			events = append(events, randomSale(r, i))
			records = append(records, &eventstore.Record{Offset: int64(i), Event: &events[i]})
		}
		// The events have moved while the slice grew.
		for i := range records {
			records[i].Event = &events[i]
		}
		g, whole, pair := loneGeneration(t, p), loneGeneration(t, p), []*generation{loneGeneration(t, p), loneGeneration(t, p)}
		if err := whole.fold(records, nil); err != nil {
			t.Fatal(err)
		}
		for rest := records; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(40))
			if err := g.fold(rest[:n], nil); err != nil {
				t.Fatal(err)
			}
			members := foldTogether([]Projection{p, p}, rest[:n])
			done := make(chan error)
			for i := range pair {
				go func() { done <- pair[i].fold(rest[:n], members[i]) }()
			}
			for range pair {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			rest = rest[n:]
		}
		want := modelOf(events)
		var text bytes.Buffer
		for _, key := range slices.Sorted(maps.Keys(want)) {
			b, err := json.Marshal(written(want[key]))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "%s=%s\n", key, b)
		}
		for name, g := range map[string]*generation{"in batches": g, "at once": whole, "in a pair": pair[0], "in a pair too": pair[1]} {
			if got := g.content(t); got != text.String() {
				t.Fatalf("%s:\n got %s\nwant %s", name, got, text.String())
			}
			checkIndexes(t, g, p)
		}
	}
}

// checkIndexes compares the entries of a table's indexes with those that its rows must have.
func checkIndexes(t *testing.T, g *generation, p Indexed) {
	t.Helper()
	err := g.table.View(func(tx *eventstore.Tx) error {
		for _, x := range p.Indexes() {
			want := map[string]string{}
			err := tx.Scan("", func(k, row []byte) bool {
				keys, err := x.Keys(string(k), row)
				if err != nil {
					t.Error(err)
				}
				for _, key := range keys {
					want[string(eventstore.RowIndexEntry(key, k))] = string(k)
				}
				return true
			})
			if err != nil {
				return err
			}
			index, err := tx.Index(rowIndex + x.Name)
			if err != nil {
				return err
			}
			got := map[string]string{}
			index.Scan(nil, func(k, v []byte) bool { got[string(k)] = string(v); return true })
			if !maps.Equal(got, want) {
				t.Errorf("index %s: %q, want %q", x.Name, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
