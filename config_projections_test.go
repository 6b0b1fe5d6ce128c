package penstock

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/projections"
)

// load writes text as a file and reads it; the path is taken out of the problems.
func load(t *testing.T, text string) (Config, []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "penstock.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path, nil)
	if err == nil {
		return c, nil
	}
	return c, strings.Split(strings.ReplaceAll(err.Error(), path, ""), "\n")
}

func TestDeclaredProjectionsComeFromTheFile(t *testing.T) {
	c, problems := load(t, `
projections:
  orders:
    from:
      types: [shop.order.*, shop.refund.created]
      sources: shop
      streams: shop/*
      where: has(data.total)
    key: data.customer
    window: 2d
    set:
      last: data.id
      one: 1
      yes: true
    count: orders
    sum: {total: data.total}
    min: {least: data.total}
    max: {most: data.total}
    append:
      ids: data.id
      few: {value: data.id, cap: 3}
    delete_when: data.gone == true
    indexes: [total, [last, total], "most, least"]
    sample: {customer: c1, id: o1, total: 5, gone: false}
  text-sample:
    from: [a, b]
    key: id
    count: [n]
    sample: '{"a": [1, 2]}'
`)
	if problems != nil {
		t.Fatalf("%q", problems)
	}
	got := c.Projections["orders"].Declaration
	want := projections.Declaration{
		Types: []string{"shop.order.*", "shop.refund.created"}, Sources: []string{"shop"}, Streams: []string{"shop/*"}, Where: "has(data.total)",
		Key: "data.customer", Window: 48 * time.Hour, Set: map[string]string{"last": "data.id", "one": "1", "yes": "true"}, Count: []string{"orders"},
		Sum: map[string]string{"total": "data.total"}, Min: map[string]string{"least": "data.total"}, Max: map[string]string{"most": "data.total"},
		Append: map[string]projections.Appended{"ids": {Value: "data.id"}, "few": {Value: "data.id", Cap: 3}}, Delete: "data.gone == true",
		Indexes: [][]string{{"total"}, {"last", "total"}, {"most", "least"}}, Sample: []byte(`{"customer":"c1","gone":false,"id":"o1","total":5}`),
	}
	if digest(t, got) != digest(t, want) || string(got.Sample) != string(want.Sample) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if other := c.Projections["text-sample"]; string(other.Sample) != `{"a": [1, 2]}` || !slices.Equal(other.Types, []string{"a", "b"}) {
		t.Errorf("%+v", other.Declaration)
	}
	if n := len(c.declared()); n != 2 {
		t.Errorf("%d declared", n)
	}
}

func digest(t *testing.T, d projections.Declaration) string {
	t.Helper()
	d.Name = "x"
	p, problems := projections.Declare(d)
	for _, problem := range problems {
		t.Fatal(problem)
	}
	return p.Definition()
}

// TestProblemsOfDeclaredProjectionsHaveTheirPlace compares with what a reader of the file is told, all at once.
func TestProblemsOfDeclaredProjectionsHaveTheirPlace(t *testing.T) {
	_, got := load(t, `projections:
  orders:
    from: {types: a, where: "data.x =="}
    key: 1 + 1
    windw: 1h
    count: n
  places:
    from:
      whre: "true"
    key: id
    window: soon
    set: [a]
    count: {a: b}
    append: {list: {value: id, cap: 0, of: 1}}
  texts:
    key: id
    set:
      plain: nothing + 1
      single: 'size(id) + nope'
      double: "x1"
      literal: |
        size(id) +
          missing
      folded: >
        size(id) +
        gone
      Upper: id
    append:
      short: unknown
      long: {value: strange, cap: 3}
    indexes: [plain, [nowhere]]
    sample: '{'
  Name: {key: id, count: n}
  nothing:
  number: 7
`)
	want := []string{
		":33: projections.Name: \"Name\": a name has lower-case letters, digits and '-', and begins with a letter",
		":34: projections.nothing.key: an expression for the key of the row is needed",
		":34: projections.nothing: a row has 1 to 100 fields, not 0",
		":35: projections.number: a projection has from, key and fields",
		":5: projections.orders.windw: no such key; a projection has from, key, window, set, count, sum, min, max, append, delete_when, indexes and sample",
		":14: projections.places.append.list.cap: a whole number from 1 on, not 0",
		":14: projections.places.append.list.of: no such key; it has value and cap",
		":13: projections.places.count: a text, or a list of them",
		":9: projections.places.from.whre: no such key; from has types, sources, streams and where",
		":12: projections.places.set: a field and its expression on each line",
		":11: projections.places.window: a length of time such as 15m, 1h or 1d, not soon",
		":30:21: projections.texts.append.long.value: undeclared reference to 'strange' (did you mean 'string'?)",
		":29:14: projections.texts.append.short.value: undeclared reference to 'unknown'",
		":31: projections.texts.indexes[1]: the row has no field \"nowhere\"",
		":32: projections.texts.sample: not JSON",
		":20:16: projections.texts.set.double: undeclared reference to 'x1'",
		":24:15: projections.texts.set.folded: line 1, column 12: undeclared reference to 'gone'",
		":23:11: projections.texts.set.literal: undeclared reference to 'missing'",
		":18:14: projections.texts.set.plain: undeclared reference to 'nothing'",
		":19:27: projections.texts.set.single: undeclared reference to 'nope'",
		":27: projections.texts.set.Upper: a field's name has lower-case letters, digits and '_', and begins with a letter",
	}
	sorted := func(list []string) string {
		list = slices.Clone(list)
		slices.Sort(list)
		return strings.Join(list, "\n")
	}
	if sorted(got) != sorted(want) {
		t.Errorf("got:\n%s\nwant:\n%s", sorted(got), sorted(want))
	}
	_, got = load(t, "projections:\n  orders:\n    from: {types: a, where: \"data.x ==\"}\n    key: 1 + 1\n    count: n\n")
	want = []string{
		`:3:39: projections.orders.from.where: Syntax error: mismatched input '<EOF>'`,
		":4:10: projections.orders.key: the expression gives a int, not a string",
	}
	if len(got) != 2 || !strings.HasPrefix(got[0], want[0]) || got[1] != want[1] {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestADeclaredProjectionCannotTakeANameOfTheProgram(t *testing.T) {
	c := DefaultConfig()
	c.Projections = map[string]ProjectionConfig{"deliveries": {Declaration: projections.Declaration{Key: "id", Count: []string{"n"}}}}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	if err := c.besides(App{}); err == nil || !strings.Contains(err.Error(), "projections.deliveries") {
		t.Errorf("%v", err)
	}
}
