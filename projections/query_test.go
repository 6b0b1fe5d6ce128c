package projections_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/penstock-io/penstock/projections"
)

// things is a read model of what the events say, with values of every type in its indexes.
func things(t *testing.T) *projections.Declared {
	return declare(t, projections.Declaration{
		Name: "things", Key: "data.id", Delete: "has(data.gone)",
		Set:     map[string]string{"any": "data.?any", "n": "int(data.n)", "name": "string(data.name)", "at": "timestamp(data.at)"},
		Indexes: [][]string{{"any", "n"}, {"n"}, {"name", "any"}, {"at", "name", "n"}},
	})
}

// author writes events of streams of its choice.
type author struct {
	t        *testing.T
	l        *eventstore.Log
	writers  []*eventstore.Writer
	versions map[domain.Stream]uint64
	n        int
}

func newAuthor(t *testing.T, l *eventstore.Log) *author {
	return &author{t: t, l: l, writers: newGenerator(t, l).ws, versions: map[domain.Stream]uint64{}}
}

// write commits an event for each body, in as few transactions as there are partitions.
func (a *author) write(stream func(i int) domain.Stream, bodies ...string) (at time.Time) {
	a.t.Helper()
	events := make([][]domain.Event, len(a.writers))
	for i, body := range bodies {
		s := stream(i)
		p := a.l.PartitionOf(s)
		a.versions[s]++
		a.n++
		at = time.Unix(int64(a.n), 0).UTC()
		events[p] = append(events[p], domain.Event{ID: fmt.Sprint("e", a.n), Type: "thing", Source: "/sources/test", Stream: s, Version: a.versions[s],
			Time: at, Delivery: fmt.Sprint("d", a.n), Causation: fmt.Sprint("d", a.n), ContentType: "application/json", Data: []byte(body)})
	}
	for p, list := range events {
		if len(list) == 0 {
			continue
		}
		if err := a.writers[p].Commit(eventstore.Commit{Events: list}); err != nil {
			a.t.Fatal(err)
		}
	}
	eventstoretest.Readable(a.t, a.l, a.writers...)
	return at
}

// seen waits until the view has everything that was written.
func (a *author) seen(v *projections.View) {
	a.t.Helper()
	end, err := a.l.End(a.t.Context(), a.l.Topics.Events)
	if err != nil {
		a.t.Fatal(err)
	}
	eventstoretest.Until(a.t, "the projection serves", func() bool { return v.Status().State == "live" })
	if err := v.Wait(a.t.Context(), end); err != nil {
		a.t.Fatal(err)
	}
}

func thingView(t *testing.T) (*projections.View, *author) {
	l := eventstoretest.Open(t, eventstoretest.Config(t))
	e := openEngine(t, l, t.TempDir(), things(t))
	running(t, e)
	v, _ := e.View("things")
	return v, newAuthor(t, l)
}

// thing is a row as these tests see it.
type thing struct {
	key  string
	any  any // nil, bool, json.Number or string
	n    int64
	name string
	at   string
}

func allThings(t *testing.T, v *projections.View) (list []thing) {
	for key, row := range rows(t, v) {
		var m struct {
			Any  any
			N    int64
			Name string
			At   string
		}
		d := json.NewDecoder(strings.NewReader(row))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		list = append(list, thing{key, m.Any, m.N, m.Name, m.At})
	}
	return list
}

// orderOf compares values as the documentation says that an index sorts them.
func orderOf(a, b any) int {
	rank := func(v any) int {
		switch v := v.(type) {
		case nil:
			return 0
		case bool:
			if v {
				return 2
			}
			return 1
		case json.Number, int64:
			return 3
		}
		return 4
	}
	if c := cmp.Compare(rank(a), rank(b)); c != 0 || rank(a) < 3 {
		return c
	}
	if rank(a) == 4 {
		return strings.Compare(a.(string), b.(string))
	}
	number := func(v any) (int64, float64) {
		if n, ok := v.(int64); ok {
			return n, float64(n)
		}
		n, err := v.(json.Number).Int64()
		f, _ := v.(json.Number).Float64()
		if err != nil {
			return int64(f), f
		}
		return n, f
	}
	n1, f1 := number(a)
	n2, f2 := number(b)
	return cmp.Or(cmp.Compare(f1, f2), cmp.Compare(n1, n2))
}

func (x thing) field(name string) any {
	return map[string]any{"any": x.any, "n": x.n, "name": x.name, "at": x.at}[name]
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return v
	}
	return fmt.Sprint(v)
}

var names = []string{"", "a", "ab", "abc", "b", "ö", "\x00", "a\x00b", "\x01", "\x02a", "12", strings.Repeat("z", 512)}

func randomThing(r *rand.Rand) string {
	id := fmt.Sprintf("k%d", r.IntN(60))
	if r.IntN(8) == 0 {
		return fmt.Sprintf(`{"id":%q,"gone":true}`, id)
	}
	anys := []string{"", `"any":null,`, `"any":true,`, `"any":false,`, `"any":1.5,`, `"any":-3,`, `"any":9007199254740993,`, `"any":9007199254740992,`, `"any":"x",`, `"any":"xy",`}
	numbers := []int64{0, 1, -1, 7, 9007199254740993, 9007199254740992, -9223372036854775808, 9223372036854775807, int64(r.IntN(20))}
	name, _ := json.Marshal(names[r.IntN(len(names))])
	return fmt.Sprintf(`{"id":%q,%s"n":%d,"name":%s,"at":"2026-01-%02dT00:00:00Z"}`, id, anys[r.IntN(len(anys))], numbers[r.IntN(len(numbers))], name, r.IntN(20)+1)
}

// TestIndexQueriesAreWhatAScanFinds compares pages and counts with a naive search over all rows, after each of several
// random batches of changes.
func TestIndexQueriesAreWhatAScanFinds(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	v, a := thingView(t)
	for range 4 {
		var bodies []string
		for range 60 {
			bodies = append(bodies, randomThing(r))
		}
		// Each thing has a stream, so that its changes stay in order.
		a.write(func(i int) domain.Stream {
			id, _, _ := strings.Cut(strings.TrimPrefix(bodies[i], `{"id":"`), `"`)
			return domain.Stream("thing/" + id)
		}, bodies...)
		a.seen(v)
		all := allThings(t, v)
		for range 60 {
			q, want := randomQuery(r, v.Indexes(), all)
			got := keysOf(t, v, q, r.IntN(9)+1)
			if !slices.Equal(got, want) {
				t.Fatalf("%s:\n got %q\nwant %q", show(q), got, want)
			}
			n, _, err := v.Count(t.Context(), q)
			if err != nil || n != int64(len(want)) {
				t.Fatalf("%s: %d counted, want %d, %v", show(q), n, len(want), err)
			}
		}
	}
}

func show(q projections.Query) string {
	b, _ := json.Marshal(q)
	return string(b)
}

// keysOf reads a query page by page.
func keysOf(t *testing.T, v *projections.View, q projections.Query, limit int) (keys []string) {
	t.Helper()
	for q.Limit = limit; ; {
		p, err := v.Query(t.Context(), q)
		if err != nil {
			t.Fatalf("%s: %v", show(q), err)
		}
		for _, row := range p.Rows {
			keys = append(keys, row.Key)
		}
		if p.Next == "" {
			return keys
		}
		if len(p.Rows) != limit {
			t.Fatalf("%s: a page of %d rows that isn't the last", show(q), len(p.Rows))
		}
		q.Cursor = p.Next
	}
}

// randomQuery returns a query and the keys that it must find.
func randomQuery(r *rand.Rand, indexes []string, all []thing) (q projections.Query, keys []string) {
	q.Desc = r.IntN(2) == 0
	var fields []string
	tests := []func(thing) bool{}
	if i := r.IntN(len(indexes) + 1); i < len(indexes) {
		q.Index = indexes[i]
		fields = strings.Split(q.Index, ",")
	}
	some := all[r.IntN(len(all))]
	value := func(x thing, i int) any {
		if fields == nil {
			return x.key
		}
		return x.field(fields[i])
	}
	used := 0
	if fields != nil {
		used = r.IntN(len(fields) + 1)
	}
	for i := range used {
		want := value(some, i)
		q.Eq = append(q.Eq, text(want))
		tests = append(tests, func(x thing) bool { return orderOf(value(x, i), want) == 0 })
	}
	if used < max(1, len(fields)) {
		sameKind := func(x, y any) bool {
			_, text1 := x.(string)
			_, text2 := y.(string)
			_, bool1 := x.(bool)
			_, bool2 := y.(bool)
			return (x == nil) == (y == nil) && text1 == text2 && bool1 == bool2
		}
		bound := value(all[r.IntN(len(all))], used)
		s := text(bound)
		test := func(in func(c int) bool) {
			tests = append(tests, func(x thing) bool { return sameKind(value(x, used), bound) && in(orderOf(value(x, used), bound)) })
		}
		begin, isText := bound.(string)
		switch r.IntN(7) {
		case 0:
			q.Gte = &s
			test(func(c int) bool { return c >= 0 })
		case 1:
			q.Gt = &s
			test(func(c int) bool { return c > 0 })
		case 2:
			q.Lte = &s
			test(func(c int) bool { return c <= 0 })
		case 3:
			q.Lt = &s
			test(func(c int) bool { return c < 0 })
		case 4:
			q.Gte, q.Lte = &s, &s
			test(func(c int) bool { return c == 0 })
		case 5:
			if !isText || fields != nil && fields[used] == "at" {
				break
			}
			begin = begin[:min(len(begin), r.IntN(2)+1)]
			q.Prefix = &begin
			tests = append(tests, func(x thing) bool { v, ok := value(x, used).(string); return ok && strings.HasPrefix(v, begin) })
		}
	}
	if r.IntN(3) == 0 {
		q.Filter = `row.n > 3 && key != "k7"`
		tests = append(tests, func(x thing) bool { return x.n > 3 && x.key != "k7" })
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b thing) int {
		for i := range fields {
			if c := orderOf(value(a, i), value(b, i)); c != 0 {
				return c
			}
		}
		return strings.Compare(a.key, b.key)
	})
	if q.Desc {
		slices.Reverse(all)
	}
	for _, x := range all {
		if !slices.ContainsFunc(tests, func(ok func(thing) bool) bool { return !ok(x) }) {
			keys = append(keys, x.key)
		}
	}
	return q, keys
}

// TestPagesAreStableUnderWrites: between two pages other rows come, go and move; those that stay are seen once each.
func TestPagesAreStableUnderWrites(t *testing.T) {
	v, a := thingView(t)
	row := func(id string, n int) string {
		return fmt.Sprintf(`{"id":%q,"n":%d,"name":"x","at":"2026-01-01T00:00:00Z"}`, id, n)
	}
	var bodies, stable []string
	for i := range 30 {
		stable = append(stable, fmt.Sprintf("s%02d", i))
		bodies = append(bodies, row(stable[i], 10*i))
	}
	a.write(func(int) domain.Stream { return "thing/all" }, bodies...)
	a.seen(v)
	for _, q := range []projections.Query{{}, {Desc: true}, {Index: "n"}, {Index: "n", Desc: true}, {Index: "n", Filter: "row.n >= 0"}} {
		var got []string
		for i := 0; ; i++ {
			q.Limit = 4
			p, err := v.Query(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range p.Rows {
				if r.Key[0] == 's' {
					got = append(got, r.Key)
				}
			}
			if q.Cursor = p.Next; p.Next == "" {
				break
			}
			a.write(func(int) domain.Stream { return "thing/all" }, row(fmt.Sprintf("s%02dm", i), 35*i%300), row("m", 300-i*40), row(fmt.Sprintf("a%d", i), i),
				fmt.Sprintf(`{"id":"s%02dm","gone":true}`, i-2))
			a.seen(v)
		}
		got = slices.DeleteFunc(got, func(k string) bool { return strings.HasSuffix(k, "m") })
		if q.Desc {
			slices.Reverse(got)
		}
		if !slices.Equal(got, stable) {
			t.Errorf("index %q, desc %v: %q", q.Index, q.Desc, got)
		}
	}
}

func TestQueriesSayWhatIsWrong(t *testing.T) {
	v, a := thingView(t)
	a.write(func(int) domain.Stream { return "thing/x" }, `{"id":"x","n":1,"name":"x","at":"2026-01-01T00:00:00Z"}`, `{"id":"y","n":2,"name":"x","at":"2026-01-01T00:00:00Z"}`)
	a.seen(v)
	p := func(s string) *string { return &s }
	long := strings.Repeat("x", 513)
	for _, c := range []struct {
		field, text string
		q           projections.Query
	}{
		{"index", `no index "nope"; there are any,n and n and name,any and at,name,n`, projections.Query{Index: "nope"}},
		{"eq", "eq is for an index", projections.Query{Eq: []string{"1"}}},
		{"eq", "1 fields, and 2 values", projections.Query{Index: "n", Eq: []string{"1", "2"}}},
		{"eq", `the field is a integer, and "many" is none`, projections.Query{Index: "n", Eq: []string{"many"}}},
		{"eq", "is none", projections.Query{Index: "n", Eq: []string{"1 2"}}},
		{"gte", "a time such as", projections.Query{Index: "at,name,n", Gte: p("yesterday")}},
		{"gt", "there is none left to bound", projections.Query{Index: "n", Eq: []string{"1"}, Gt: p("1")}},
		{"gt", "either gte or gt", projections.Query{Gte: p("a"), Gt: p("a")}},
		{"lt", "either lte or lt", projections.Query{Lte: p("a"), Lt: p("a")}},
		{"lte", "of different types", projections.Query{Index: "any,n", Gte: p("1"), Lte: p("x")}},
		{"prefix", "by itself", projections.Query{Prefix: p("a"), Lt: p("a")}},
		{"prefix", "no text", projections.Query{Index: "n", Prefix: p("1")}},
		{"prefix", "at most 512 bytes", projections.Query{Index: "name,any", Prefix: &long}},
		{"eq", "at most 512 bytes", projections.Query{Index: "name,any", Eq: []string{long}}},
		{"filter", "line 1, column 8", projections.Query{Filter: "row.n +"}},
		{"filter", "gives a int", projections.Query{Filter: "1"}},
		{"filter", "at most 2048 bytes", projections.Query{Filter: "true" + strings.Repeat(" ", 2048)}},
		{"filter", "takes too long", projections.Query{Filter: strings.Repeat("[1,2,3,4,5,6,7,8,9].all(x, ", 6) + "x > 0" + strings.Repeat(")", 6)}},
	} {
		c.q.Limit = 10
		_, err := v.Query(t.Context(), c.q)
		e, ok := errors.AsType[*domain.Error](err)
		if !ok || e.Class != domain.Invalid || e.Field != c.field || !strings.Contains(e.Message, c.text) {
			t.Errorf("%s: %v, want %s: …%s…", show(c.q), err, c.field, c.text)
		}
	}
	first, err := v.Query(t.Context(), projections.Query{Index: "n", Limit: 1})
	if err != nil || first.Next == "" {
		t.Fatal(first, err)
	}
	_, err = v.Query(t.Context(), projections.Query{Index: "n", Desc: true, Limit: 1, Cursor: first.Next})
	if e, ok := errors.AsType[*domain.Error](err); !ok || e.Field != "cursor" || e.Class != domain.Invalid {
		t.Errorf("a cursor of another query: %v", err)
	}
	for _, bad := range []string{"x", first.Next[1:], first.Next + "A", strings.Repeat("A", projections.MaxCursor+1)} {
		if _, err = v.Query(t.Context(), projections.Query{Index: "n", Limit: 1, Cursor: bad}); !errors.Is(err, eventstore.ErrBadPosition) {
			t.Errorf("cursor %.20q: %v", bad, err)
		}
	}
	if _, _, _, err := v.Many(make([]string, projections.MaxQueryKeys+1)); domain.ClassOf(err) != domain.Invalid {
		t.Errorf("too many keys: %v", err)
	}
	found, missing, _, err := v.Many([]string{"y", "no", "x", "y"})
	if err != nil || len(found) != 2 || found[0].Key != "y" || found[1].Key != "x" || !slices.Equal(missing, []string{"no"}) {
		t.Errorf("%v, %v, %v", found, missing, err)
	}
}

// TestAFilterLooksAtABoundedNumberOfRows and says how many, unless whoever asks can take pages that are short.
func TestAFilterLooksAtABoundedNumberOfRows(t *testing.T) {
	v, a := thingView(t)
	bodies := make([]string, 20_001)
	for i := range bodies {
		bodies[i] = fmt.Sprintf(`{"id":"k%05d","n":%d,"name":"x","at":"2026-01-01T00:00:00Z"}`, i, i)
	}
	for part := range slices.Chunk(bodies, 5000) {
		a.write(func(int) domain.Stream { return "thing/all" }, part...)
	}
	a.seen(v)
	q := projections.Query{Filter: "row.n == 20000", Limit: 1}
	_, err := v.Query(t.Context(), q)
	e, ok := errors.AsType[*domain.Error](err)
	if !ok || e.Rule != "scan-limit" || e.Field != "filter" || !strings.Contains(e.Message, "looked at 20000 rows and found 0 of the 1") || !strings.Contains(e.Message, "any,n") {
		t.Errorf("%v", err)
	}
	if _, _, err := v.Count(t.Context(), q); !errors.As(err, &e) || e.Rule != "scan-limit" {
		t.Errorf("count: %v", err)
	}
	q.Partial = true
	p, err := v.Query(t.Context(), q)
	if err != nil || len(p.Rows) != 0 || p.Next == "" {
		t.Fatalf("%v, %v", p, err)
	}
	q.Cursor = p.Next
	if p, err = v.Query(t.Context(), q); err != nil || len(p.Rows) != 1 || p.Rows[0].Key != "k20000" || p.Next != "" {
		t.Errorf("%v, %v", p, err)
	}
	low := "19990"
	if p, err = v.Query(t.Context(), projections.Query{Index: "n", Gte: &low, Filter: "row.n == 20000", Limit: 1}); err != nil || len(p.Rows) != 1 {
		t.Errorf("%v, %v", p, err)
	}
	if n, _, err := v.Count(t.Context(), projections.Query{}); err != nil || n != 20_001 {
		t.Errorf("%d, %v", n, err)
	}
}
