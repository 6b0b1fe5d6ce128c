package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// accounts is a projection with a row for each customer of fillBilling, found by what was paid last.
const accounts = `projections:
  accounts:
    from: billing.charge.captured
    key: data.customer
    set: {paid: int(data.amount), currency: data.currency, charge: data.charge}
    indexes: [[paid], [currency, paid]]
    sample: {customer: cus_9, amount: 4200, currency: eur, charge: ch_1}
`

// questions are what is asked of rows, of a table with so many.
var questions = []struct {
	name string
	path func(rows int) string
}{
	{"one row", func(rows int) string { return "/" + customer(rows) }},
	{"twenty rows by key", func(rows int) string {
		q := url.Values{}
		for range 20 {
			q.Add("key", customer(rows))
		}
		return "?" + q.Encode()
	}},
	{"first page", func(int) string { return "?limit=100" }},
	{"last page", func(int) string { return "?limit=100&order=desc" }},
	{"page in the middle", func(rows int) string { return "?limit=100&gte=" + customer(rows) }},
	{"first page by index", func(int) string { return "?limit=100&index=currency,paid&eq=eur&order=desc" }},
	{"range of an index", func(int) string { return "?limit=100&index=paid&gte=" + strconv.Itoa(100+rand.IntN(900)) }},
	{"index and filter", func(int) string {
		return "?limit=20&index=paid&gte=" + strconv.Itoa(100+rand.IntN(800)) + "&filter=" + url.QueryEscape(`int(key.substring(4)) / 900 % 10 == 3`) // one of ten of each amount
	}},
}

func customer(rows int) string { return "cus_" + strconv.Itoa(rand.IntN(rows)) }

// query measures what a question costs in a large table, beside the same question in a small one.
func (b *bench) query(ctx context.Context) error {
	sizes := []int{10_000, or(b.events, 1_000_000)}
	var nodes []*process
	for _, rows := range sizes {
		p, err := b.accountsNode(ctx, rows)
		if err != nil {
			return fmt.Errorf("%d rows: %w", rows, err)
		}
		defer p.stop()
		nodes = append(nodes, p)
	}
	fmt.Fprintf(b.out, "\nqueries over HTTP, one after the other, of %d and of %d rows; embedded broker\n", sizes[0], sizes[1])
	t := newTable(b.out, "question", "small p50", "p99", "large p50", "p99", "× p50", "over the rounds")
	for _, q := range questions {
		times50 := []float64(nil)
		took := [2][]time.Duration{}
		for range or(b.rounds, 5) {
			var half [2]time.Duration
			for i, p := range nodes { // in turns: what else the machine does hits both
				some, err := p.questions(ctx, 200, func() string { return q.path(sizes[i]) })
				if err != nil {
					return fmt.Errorf("%s: %w", q.name, err)
				}
				half[i] = percentile(some, 0.5)
				took[i] = append(took[i], some...)
			}
			times50 = append(times50, float64(half[1])/float64(half[0]))
		}
		cells := []string{q.name}
		for i := range took {
			slices.Sort(took[i])
			cells = append(cells, ms(percentile(took[i], 0.5)), ms(percentile(took[i], 0.99)))
		}
		t.row(append(cells, times(median(times50)), extent(times50))...)
	}
	t.end()
	return nil
}

// accountsNode starts a node with a projection of so many rows and waits until they are there.
func (b *bench) accountsNode(ctx context.Context, rows int) (*process, error) {
	prefix := fmt.Sprintf("%s-%d", b.id, rows)
	dir, err := b.fillBilling(ctx, broker{replication: 1}, prefix, rows, rows)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "penstock.yaml")
	text := fmt.Sprintf("listen: 127.0.0.1:0\ndata: %s\nkafka: {embedded: 127.0.0.1:0, prefix: %s}\n%s", filepath.Join(dir, "data"), prefix, accounts)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := start(ctx, "penstock", b.node, "serve", "-c", file)
	if err != nil {
		return nil, err
	}
	if p, err = p.serving(ctx, broker{}, b.limit); err != nil { // ready is when the rows are there
		return nil, err
	}
	for ctx.Err() == nil {
		var v view
		if err := p.get(ctx, "/v1/projections/accounts", &v); err != nil {
			p.stop()
			return nil, err
		}
		if v.State == "live" && v.Lag == 0 && v.Rows == int64(rows) {
			break
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, p.quiet(ctx)
}

// questions asks n times and returns the times in order.
func (p *process) questions(ctx context.Context, n int, path func() string) (took []time.Duration, err error) {
	for range n {
		var answer any
		began := time.Now()
		if err := p.get(ctx, "/v1/projections/accounts/rows"+path(), &answer); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took, nil
}
