package projections

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// loneGeneration is a generation as far as folding needs one.
func loneGeneration(t testing.TB, p Projection) *generation {
	t.Helper()
	table, err := eventstore.OpenTable(filepath.Join(t.TempDir(), "t.db"), eventstore.TableMeta{Name: p.Name(), Version: 1, Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	if x, ok := p.(Indexed); ok {
		for _, x := range x.Indexes() {
			table.Keep(rowIndex+x.Name, x.Keys)
		}
	}
	table.Bulk()
	return &generation{projection: p, table: table}
}

func (g *generation) fold(records []*eventstore.Record, shared *member) error {
	defer shared.leave()
	_, err := g.table.Update("t", eventstore.Position{Next: []int64{records[len(records)-1].Offset + 1}}, func(tx *eventstore.Tx) error {
		return g.apply(tx, records, shared)
	})
	return err
}

func (g *generation) content(t *testing.T) (all string) {
	t.Helper()
	err := g.table.View(func(tx *eventstore.Tx) error {
		return tx.Scan("", func(k, row []byte) bool { all += fmt.Sprintf("%s=%s\n", k, row); return true })
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func declaredFor(t testing.TB, name string, change func(*Declaration)) *Declared {
	t.Helper()
	d := Declaration{Name: name, Types: []string{"shop.*"}, Key: "string(data.order.customer.id)", Count: []string{"orders"},
		Sum: map[string]string{"total": "data.order.total"}, Set: map[string]string{"last": "data.order.lines[0].sku", "state": "data.order.state"}, Max: map[string]string{"newest": "time"}}
	if change != nil {
		change(&d)
	}
	p, problems := Declare(d)
	for _, problem := range problems {
		t.Fatal(problem)
	}
	return p
}

func shopRecords(n int, r *rand.Rand, lines int) (records []*eventstore.Record) {
	for i := range n {
		line := fmt.Sprintf(`{"sku":"sku-%d","name":"A thing to buy, described at some length","price":{"amount":%d,"currency":"eur"},"quantity":2,"tags":["a","b","c"]}`, i%17, i)
		body := fmt.Sprintf(`{"id":"evt_%d","type":"order.paid","order":{"id":"o_%d","state":"paid","total":%d,"customer":{"id":%d,"name":"Mona"},"lines":[%s]}}`,
			i, i, r.IntN(1000), r.IntN(200), strings.TrimSuffix(strings.Repeat(line+",", lines), ","))
		if lines == 1 && r.IntN(50) == 0 {
			body = strings.Repeat(" ", r.IntN(stepBytes)) + body // steps of few records
		}
		e := &domain.Event{ID: fmt.Sprint(i), Type: "shop.order.paid", Stream: "shop/1", Version: uint64(i + 1), Time: time.Unix(int64(i), 0).UTC(), Data: []byte(body)}
		if r.IntN(10) == 0 {
			e.Type, e.Data = "other", []byte("not JSON")
		}
		records = append(records, &eventstore.Record{Offset: int64(i), Event: e})
	}
	return records
}

// TestFoldingTogetherIsFoldingAlone also when one of them fails in the middle of a batch.
func TestFoldingTogetherIsFoldingAlone(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	records := shopRecords(1200, r, 1)
	bad := 1 + r.IntN(len(records)-1)
	records[bad].Event.Type = "shop.bad"
	var ps []Projection
	for i := range 6 {
		ps = append(ps, declaredFor(t, fmt.Sprint("p", i), func(d *Declaration) {
			d.Types = [][]string{{"shop.*"}, {"shop.order.*"}, {"nothing"}}[i%3]
			d.Where = []string{"", "", "", "data.order.total > 500", "true", ""}[i]
			if i == 0 {
				d.Where = `type == "shop.bad" ? data.nowhere == 1 : true`
			}
		}))
	}
	members := foldTogether(ps, records)
	var wait sync.WaitGroup
	var together []*generation
	errs := make([]error, len(ps))
	for i, p := range ps {
		g := loneGeneration(t, p)
		together = append(together, g)
		if members[i] == nil {
			t.Fatalf("%s is not among them", p.Name())
		}
		wait.Go(func() { errs[i] = g.fold(records, members[i]) })
	}
	wait.Wait()
	for i, p := range ps {
		alone := loneGeneration(t, p)
		err := alone.fold(records, nil)
		if a, ok := errors.AsType[*failure](err); i == 0 && (!ok || a.index != bad) {
			t.Errorf("alone: %v, want a failure at %d", err, bad)
		}
		if fmt.Sprint(err) != fmt.Sprint(errs[i]) || alone.content(t) != together[i].content(t) {
			t.Errorf("%s: together %v, alone %v; rows\n%s\nand\n%s", p.Name(), errs[i], err, together[i].content(t), alone.content(t))
		}
	}
}

func TestOnlyWhoSharesSomethingFoldsTogether(t *testing.T) {
	records := shopRecords(3, rand.New(rand.NewPCG(1, 1)), 1)
	one, blind := declaredFor(t, "one", nil), declaredFor(t, "blind", func(d *Declaration) {
		d.Key, d.Sum, d.Set = "type", nil, nil
	})
	for _, m := range foldTogether([]Projection{one, blind, eventstore.StreamsFold{}, nil}, records) {
		if m != nil {
			t.Errorf("%s shares with nobody", m.projection.Name())
		}
	}
	members := foldTogether([]Projection{one, blind, declaredFor(t, "two", nil)}, records)
	if members[0] == nil || members[1] != nil || members[2] == nil {
		t.Errorf("%v", members)
	}
}

// BenchmarkTogether folds events of 2 KiB by one declared projection and by ten: what matters is the ratio.
func BenchmarkTogether(b *testing.B) {
	records := shopRecords(5000, rand.New(rand.NewPCG(1, 2)), 10)
	for _, n := range []int{1, 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var ps []Projection
			var gs []*generation
			for i := range n {
				ps = append(ps, declaredFor(b, fmt.Sprint("p", i), func(d *Declaration) { d.Sum["also"] = fmt.Sprint("data.order.total + ", i) }))
				gs = append(gs, loneGeneration(b, ps[i]))
			}
			for b.Loop() {
				members := foldTogether(ps, records)
				var wait sync.WaitGroup
				for i, g := range gs {
					wait.Go(func() {
						if err := g.fold(records, members[i]); err != nil {
							b.Error(err)
						}
					})
				}
				wait.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(records)), "ns/event")
		})
	}
}
