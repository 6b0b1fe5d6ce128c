package api

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// many has a row for each event of its own.
type many struct{}

func (many) Name() string { return "many" }
func (many) Version() int { return 1 }
func (many) Apply(tx *eventstore.Tx, e domain.Event) error {
	if e.Type != "many.row" {
		return nil
	}
	return tx.Put(e.ID, []byte(`{"n":1}`))
}

// tally is a declared read model of the counters, whose rows depend on one stream each.
func tally(t *testing.T) projections.Projection {
	t.Helper()
	p, problems := projections.Declare(projections.Declaration{
		Name: "tally", Types: []string{"counter.*"}, Key: "stream",
		Set: map[string]string{"total": "data.total", "name": `stream.substring(8) + ", it's \"" + string(size(stream)) + "\""`, "even": "data.total % 2 == 0", "none": "data.?nothing"},
		Sum: map[string]string{"sum": "data.by"}, Count: []string{"steps"}, Max: map[string]string{"last": "time"}, Append: map[string]projections.Appended{"bys": {Value: "data.by", Cap: 3}},
		Indexes: [][]string{{"total"}, {"even", "total"}}, Sample: json.RawMessage(`{"by":1,"total":1}`),
	})
	for _, problem := range problems {
		t.Fatal(problem)
	}
	return p
}

type rowsDocument struct {
	Items []struct {
		Key string
		Row struct{ Total int }
	}
	Next    string
	Missing []string
}

func (d rowsDocument) keys() (keys []string) {
	for _, item := range d.Items {
		keys = append(keys, strings.TrimPrefix(item.Key, "counter/"))
	}
	return keys
}

func (n *node) rowsOf(query string) rowsDocument {
	n.t.Helper()
	var d rowsDocument
	n.get("/v1/projections/tally/rows?" + query).is(200).into(&d)
	return d
}

func TestQueries(t *testing.T) {
	n := newNode(t, true)
	var first, last commandResult
	for i := range 6 {
		n.submit(fmt.Sprintf(`{"counter":"c%d","by":%d}`, i, i+1)).is(200).into(&last)
		if i == 0 {
			first = last
		}
	}
	n.submit(`{"counter":"c0","by":10}`).is(200).into(&last)
	n.settle()

	for query, want := range map[string]string{
		"":                                    "c0 c1 c2 c3 c4 c5",
		"order=desc&limit=2":                  "c5 c4",
		"gte=counter/c2&lt=counter/c4":        "c2 c3",
		"gt=counter/c4":                       "c5",
		"lte=counter/c0":                      "c0",
		"lt=":                                 "",
		"prefix=counter/c5":                   "c5",
		"index=total":                         "c1 c2 c3 c4 c5 c0",
		"index=total&eq=11":                   "c0",
		"index=total&gte=4&lte=6":             "c3 c4 c5",
		"index=total&gt=5&order=desc":         "c0 c5",
		"index=even,total&eq=true":            "c1 c3 c5",
		"index=even,total&eq=false&gt=5":      "c0",
		"index=even,total&order=desc&limit=1": "c5",
		"filter=" + "row.total>4%26%26!key.endsWith('c5')":              "c0 c4",
		"key=counter/c3&key=counter/none&key=counter/c1&key=counter/c3": "c3 c1",
	} {
		if got := strings.Join(n.rowsOf(query).keys(), " "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
		if strings.HasPrefix(query, "key=") || strings.Contains(query, "limit=") {
			continue
		}
		var c struct{ Count int }
		if n.get("/v1/projections/tally/count?" + query).is(200).into(&c); c.Count != len(strings.Fields(want)) {
			t.Errorf("%s: %d counted", query, c.Count)
		}
	}
	if d := n.rowsOf("key=counter/c3&key=counter/none"); !slices.Equal(d.Missing, []string{"counter/none"}) {
		t.Errorf("%+v", d)
	}

	// Page by page, by the cursor and by the link.
	target, got := "/v1/projections/tally/rows?index=even,total&eq=true&order=desc&limit=2&filter=row.sum>0", []string{}
	for target != "" {
		r := n.get(target).is(200)
		var d rowsDocument
		r.into(&d)
		got = append(got, d.keys()...)
		link, _, _ := strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">")
		if target = link; (d.Next == "") != (link == "") {
			t.Errorf("next %q, Link %q", d.Next, link)
		}
	}
	if want := []string{"c5", "c3", "c1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	for query, field := range map[string]string{
		"index=none": "index", "eq=1": "eq", "index=total&eq=x": "eq", "gte=a&gte=b": "gte", "gte=a&gt=b": "gt", "prefix=a&lt=b": "prefix", "order=up": "order",
		"filter=row.": "filter", "filter=1": "filter", "limit=0": "limit", "limit=1001": "limit", "key=a&index=total": "index", "key=a&filter=true": "filter",
		"eq=1&eq=2&eq=3&eq=4&eq=5": "eq", "sort=x": "sort", "index=total&index=total": "index",
		strings.TrimPrefix(strings.Repeat("&key=a", 201), "&"): "key",
	} {
		if p := n.get("/v1/projections/tally/rows?"+query).problem(422, "invalid"); p.Field != field || p.Detail == "" {
			t.Errorf("%.40s: %+v", query, p)
		}
	}
	page := n.rowsOf("limit=1")
	if p := n.get("/v1/projections/tally/rows?order=desc&cursor="+page.Next).problem(422, "invalid"); p.Field != "cursor" {
		t.Errorf("%+v", p)
	}
	n.get("/v1/projections/totals/rows?cursor="+page.Next).problem(409, "reset")
	n.get("/v1/projections/tally/rows?cursor=AAAA").problem(400, "bad-cursor")
	if p := n.get("/v1/projections/totals/rows?index=total").problem(422, "invalid"); !strings.Contains(p.Detail, "has no indexes") {
		t.Errorf("%+v", p)
	}

	for _, target := range []string{"/v1/projections/tally/rows?index=total", "/v1/projections/tally/count", "/v1/projections/tally/rows/counter/c1", "/v1/projections/tally/rows?key=counter/c1"} {
		r := n.get(target + joined(target) + "after=" + last.Position).is(200)
		if r.header.Get("Penstock-Position") == "" {
			t.Errorf("%s has no position", target)
		}
		n.get(target, "If-None-Match: "+r.header.Get("ETag")).is(304)
		n.get(target, `If-None-Match: "other"`).is(200)
	}
	t.Run("at", func(t *testing.T) { n.past(first, last) })
}

func joined(target string) string {
	if strings.Contains(target, "?") {
		return "&"
	}
	return "?"
}

// past asks for rows as they were between two commands to the same counter.
func (n *node) past(first, last commandResult) {
	t := n.t
	total := func(at string) any {
		t.Helper()
		return n.get("/v1/projections/tally/rows/counter/c0?at=" + at).is(200).fields()["total"]
	}
	if got := total(first.Position); got != 1.0 {
		t.Errorf("after the first command: %v", got)
	}
	if got := total(last.Position); got != 11.0 {
		t.Errorf("after the last command: %v", got)
	}
	now := n.get("/v1/projections/tally/rows/counter/c0").is(200)
	if got := n.get("/v1/projections/tally/rows/counter/c0?at=" + now.header.Get("Penstock-Position")).is(200); !bytes.Equal(got.body, now.body) {
		t.Errorf("at the position of the row itself: %s, and not %s", got.body, now.body)
	}
	var events struct{ Items []struct{ Time string } }
	n.get("/v1/streams/counter/c0?events=true").is(200).into(&events)
	if got := total(events.Items[0].Time); got != 1.0 && events.Items[0].Time != events.Items[1].Time {
		t.Errorf("at the time of the first event: %v", got)
	}
	if got := total(events.Items[1].Time); got != 11.0 {
		t.Errorf("at the time of the last event: %v", got)
	}
	n.get("/v1/projections/tally/rows/counter/c0?at=2020-01-01T00:00:00Z").problem(404, "not-found")
	for at, text := range map[string]string{"2999-01-01T00:00:00Z": "future", "yesterday": "neither a time"} {
		if p := n.get("/v1/projections/tally/rows/counter/c0?at="+at).problem(422, "invalid"); p.Field != "at" || !strings.Contains(p.Detail, text) {
			t.Errorf("%+v", p)
		}
	}
	if p := n.get("/v1/projections/totals/rows/c0?at=2020-01-01T00:00:00Z").problem(422, "invalid"); p.Field != "at" || !strings.Contains(p.Detail, "more than one stream") {
		t.Errorf("%+v", p)
	}
}

func TestExports(t *testing.T) {
	n := newNode(t, true)
	for i := range 5 {
		n.submit(fmt.Sprintf(`{"counter":"c%d","by":%d}`, i, i+1)).is(200)
	}
	n.settle()
	lines := func(r reply) (keys []string) {
		for s := bufio.NewScanner(bytes.NewReader(r.body)); s.Scan(); {
			var row struct {
				Key string
				Row struct{ Total int }
			}
			if err := json.Unmarshal(s.Bytes(), &row); err != nil || row.Row.Total == 0 {
				t.Errorf("%s: %v", s.Bytes(), err)
			}
			keys = append(keys, strings.TrimPrefix(row.Key, "counter/"))
		}
		return keys
	}
	r := n.get("/v1/projections/tally/rows?index=total&order=desc&filter=row.total!=2", "Accept: application/x-ndjson").is(200)
	if got := lines(r); !slices.Equal(got, []string{"c4", "c3", "c2", "c0"}) || r.header.Get("Content-Type") != "application/x-ndjson" || r.header.Get("Penstock-Position") == "" {
		t.Errorf("%q, %v", got, r.header)
	}
	if got := lines(n.get("/v1/projections/tally/rows?limit=2", "Accept: application/x-ndjson")); len(got) != 2 {
		t.Errorf("%q", got)
	}

	r = n.get("/v1/projections/tally/rows?gte=counter/c1&lte=counter/c1", "Accept: text/csv;q=0.9, application/json;q=0.1").is(200)
	table, err := csv.NewReader(bytes.NewReader(r.body)).ReadAll()
	if err != nil || len(table) != 2 {
		t.Fatalf("%v, %s", err, r.body)
	}
	want := [][]string{{"key", "bys", "even", "last", "name", "none", "steps", "sum", "total"}, {"counter/c1", "[2]", "true", table[1][3], `c1, it's "10"`, "", "1", "2", "2"}}
	if fmt.Sprint(table) != fmt.Sprint(want) || !strings.HasPrefix(table[1][3], "20") || !strings.HasPrefix(r.header.Get("Content-Type"), "text/csv") {
		t.Errorf("%q, want %q", table, want)
	}
	// Rows of which nobody knows the fields stand whole in one column.
	r = n.get("/v1/projections/totals/rows?limit=1", "Accept: text/csv").is(200)
	if string(r.body) != "key,row\r\nc0,\"{\"\"by\"\":1,\"\"total\"\":1}\"\r\n" {
		t.Errorf("%q", r.body)
	}
	for accept, want := range map[string]string{"": formatJSON, "*/*": formatJSON, "text/html": formatJSON, "text/csv;q=0": formatJSON, "text/csv;q=x": formatJSON,
		"application/json, text/csv": formatJSON, "application/json;q=0.5, text/csv": formatCSV, "APPLICATION/X-NDJSON": formatNDJSON} {
		if got := formatOf(accept); got != want {
			t.Errorf("Accept %q: %s", accept, got)
		}
	}
	if p := n.get("/v1/projections/tally/rows?filter=row.", "Accept: text/csv").problem(422, "invalid"); p.Field != "filter" {
		t.Errorf("%+v", p)
	}
}

// TestExportsAreReadPieceByPiece, and only so many at once.
func TestExportsAreReadPieceByPiece(t *testing.T) {
	n := newNode(t, false)
	stream := domain.Stream("counter/all")
	w, err := n.log.OpenWriter(t.Context(), n.log.PartitionOf(stream))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var events []domain.Event
	for i := range exportRows + 1 {
		events = append(events, domain.Event{ID: fmt.Sprint("e", i), Type: "many.row", Source: "/sources/x", Stream: stream, Version: uint64(i + 1), Data: []byte("{}")})
	}
	if err := w.Commit(eventstore.Commit{Events: events}); err != nil {
		t.Fatal(err)
	}
	n.settle()
	server := httptest.NewServer(n.mux)
	defer server.Close()
	export := func() (*http.Response, int) {
		t.Helper()
		r, _ := http.NewRequest("GET", server.URL+"/v1/projections/many/rows", nil)
		r.Header.Set("Accept", "application/x-ndjson")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp, resp.StatusCode
	}
	for range exportsAtOnce + 1 { // one after the other they are all served
		resp, status := export()
		rows := 0
		s := bufio.NewScanner(resp.Body)
		for ; s.Scan(); rows++ {
		}
		if resp.Body.Close(); status != 200 || rows != exportRows+1 || s.Err() != nil {
			t.Errorf("%d: %d rows, %v", status, rows, s.Err())
		}
	}
}

func TestEachProjectionIsDocumentedWithItsRows(t *testing.T) {
	n := newNode(t, false)
	doc := n.get("/openapi.json").is(200).fields()
	at := func(v any, path ...string) any {
		for _, name := range path {
			m, ok := v.(map[string]any)
			if !ok || m[name] == nil {
				t.Fatalf("no %s in %v", name, v)
			}
			v = m[name]
		}
		return v
	}
	schema := at(doc, "components", "schemas", "TallyRow")
	b, _ := json.Marshal(at(schema, "properties"))
	want := `{"bys":{"items":{"format":"int64","type":"integer"},"type":"array"},"even":{"type":"boolean"},"last":{"format":"date-time","type":"string"},` +
		`"name":{"type":"string"},"none":{},"steps":{"format":"int64","type":"integer"},"sum":{"format":"int64","type":"integer"},"total":{"format":"int64","type":"integer"}}`
	if string(b) != want || len(at(schema, "required").([]any)) != 8 || at(schema, "examples") == nil {
		t.Errorf("\n got %s\nwant %s", b, want)
	}
	list := at(doc, "paths", "/v1/projections/tally/rows", "get")
	if ref := at(list, "responses", "200", "content", "application/json", "schema", "properties", "items", "items", "properties", "row", "$ref"); ref != "#/components/schemas/TallyRow" {
		t.Errorf("%v", ref)
	}
	names := map[string]any{}
	for _, p := range at(list, "parameters").([]any) {
		names[at(p, "name").(string)] = at(p, "schema")
	}
	if fmt.Sprint(at(names["index"], "enum")) != "[total even,total]" || names["name"] != nil || names["gte"] == nil {
		t.Errorf("%v", names)
	}
	one := at(doc, "paths", "/v1/projections/tally/rows/{key}", "get", "responses", "200", "content", "application/json", "schema", "$ref")
	if one != "#/components/schemas/TallyRow" {
		t.Errorf("%v", one)
	}
	if _, there := at(doc, "paths").(map[string]any)["/v1/projections/totals/rows"]; there {
		t.Error("rows of which nothing is known are documented")
	}
}
