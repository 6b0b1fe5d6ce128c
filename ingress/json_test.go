package ingress

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
)

func TestFind(t *testing.T) {
	w := wanted("a", "b.c", "b.d.e", "id", "id.id")
	for _, c := range []struct{ body, a, c, e, id string }{
		{`{"a":"x","b":{"c":"y","d":{"e":"z"}},"id":"i"}`, "x", "y", "z", "i"},
		{" {\n\t\"a\" : \"x\" ,\r\n \"b\" : { \"d\" : { \"e\" : \"z\" } , \"c\" : \"y\" } } ", "x", "y", "z", ""},
		{`{"b":{"d":{"e":"z","f":{}},"c":"y"},"a":"x"}`, "x", "y", "z", ""}, // back on the way after leaving it
		{`{"x":{},"y":[1,{}],"z":{"w":[{},[2]]},"a":"x","b":{"x":[[]],"c":"y"}}`, "x", "y", "", ""},
		{`{"\u0061":"x","\u0062":{"\u0063":"y"}}`, "x", "y", "", ""},
		{`{"A":"x","B":{"c":"y"},"b":{"C":"y"}}`, "", "", "", ""}, // case and all
		{`{"a\u0000":"x","b.c":"y","aa":"x","":"x"}`, "", "", "", ""},
		{`{"b":[{"c":"y"}],"x":{"a":"x","b":{"c":"y"}}}`, "", "", "", ""},
		{`[{"a":"x"}]`, "", "", "", ""},
		{`"a"`, "", "", "", ""},
		{`{"a":1,"b":"c","id":true}`, "", "", "", ""},
		{`{"a":null,"b":{"c":{"c":"y"},"d":null},"id":null}`, "", "", "", ""},
		{`{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}`, "\"\\/\b\f\n\r\té😀", "", "", ""},
		{`{"a":"\ud800","b":{"c":"\udc00\ud800x"}}`, "\ufffd", "\ufffd\ufffdx", "", ""},
		{`{"a":"` + strings.Repeat("0123456789", 9) + `\n"}`, strings.Repeat("0123456789", 9) + "\n", "", "", ""},
		{`{"id":12345678901234567890}`, "", "", "", "12345678901234567890"},
		{`{"id":-1.50e+300}`, "", "", "", "-1.50e+300"},
		{`{"id":{"x":[],"id":7}}`, "", "", "", "7"},
		{`{"id":{"id":{"id":"i"}}}`, "", "", "", ""},
	} {
		if !json.Valid([]byte(c.body)) {
			t.Errorf("%s is no JSON", c.body)
		}
		v, err := w.find([]byte(c.body))
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		if a, c_, e, id := v.text("a"), v.text("b.c"), v.text("b.d.e"), v.ref("id"); a != c.a || c_ != c.c || e != c.e || id != c.id {
			t.Errorf("%s\n got %q %q %q %q\nwant %q %q %q %q", c.body, a, c_, e, id, c.a, c.c, c.e, c.id)
		}
	}
}

func TestWholeNumbers(t *testing.T) {
	w := wanted("n")
	for text, want := range map[string]int64{
		"7": 7, "-7": -7, "0": 0, "9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63,
		"9007199254740993": 1<<53 + 1, "9223372036854775808": 0, "7.0": 0, "7e0": 0, `"7"`: 0, "null": 0, "[7]": 0, "true": 0,
	} {
		if v, err := w.find([]byte(`{"n":` + text + `}`)); err != nil || v.whole("n") != want {
			t.Errorf("%s: %v, want %d", text, err, want)
		}
	}
}

// A body that means two things isn't filed by one of them.
func TestAKeyThatStandsTwice(t *testing.T) {
	w := wanted("a", "b.c", "b.d.e")
	many := make([]string, 3*few)
	for i := range many {
		many[i] = `"key-` + strconv.Itoa(i) + `":0`
	}
	most := make([]string, 3000)
	for i := range most {
		most[i] = `"key-` + strconv.Itoa(i) + `":0`
	}
	long := strings.Repeat("x", 2*maxPath)
	for body, path := range map[string]string{
		`{"a":"x","a":"y"}`:                                     "a",
		`{"a":"x","a":"x"}`:                                     "a",
		`{"a":null,"x":{},"a":"x"}`:                             "a",
		`{"a":"x","\u0061":"y"}`:                                "a",
		`{"\u0061":"x","a":"y"}`:                                "a",
		`{"b":{"c":1,"c":2}}`:                                   "b.c",
		`{"b":{"c":1},"b":{"c":1}}`:                             "b",
		`{"b":{"c":1},"b":7}`:                                   "b",
		`{"b":{},"b":{"d":{}}}`:                                 "b",
		`{"b":{"d":{"e":1,"x":{"e":1},"e":2}}}`:                 "b.d.e",
		`{"a":"x","A":"y"}`:                                     "",
		`{"x":1,"x":2,"b":{"a":1,"a":2}}`:                       "x",
		`{"b":[{"c":1,"c":2}],"a":{"a":1}}`:                     "b[0].c",
		`{"b":[{"c":1},[{"c":1,"d":[],"c":2}]]}`:                "b[1][0].c",
		`[{"a":1,"a":2}]`:                                       "[0].a",
		`{"":1,"":2}`:                                           "body",
		`{"x":{"":1,"":2}}`:                                     "x.",
		`{"\ud800":1,"\ud801":2}`:                               "\ufffd", // most readers make the same of both
		`{"a\u0000":1,"a":2,"a\u0000\u0000":3}`:                 "",
		`{"12345678":1,"123456789":2,"1234567":3,"":4}`:         "",
		`{"1234567812345678":1,"1234567812345678":2}`:           "1234567812345678",
		`{"` + long + `":1,"` + long + `":2}`:                   long[:maxPath] + "…",
		`{` + strings.Join(many, ",") + `}`:                     "",
		`{` + strings.Join(most, ",") + `}`:                     "",
		`{` + strings.Join(append(most, most[1234]), ",") + `}`: "key-1234",
		`{` + strings.Join(append(many, many[7]), ",") + `}`:    "key-7",
		`{"x":{` + strings.Join(many, ",") + `},"y":{` + strings.Join(many, ",") + `}}`: "",
	} {
		_, err := w.find([]byte(body))
		e, ok := errors.AsType[*domain.Error](err)
		if path == "" && err != nil || path != "" && (!ok || e.Class != domain.Invalid || e.Field != path) {
			t.Errorf("%.99s: %v, want a refusal of %q", body, err, path)
		}
	}
	if _, err := w.find([]byte(`{"a":1,"a":2`)); err != errNotJSON {
		t.Errorf("what isn't JSON is refused as that: %v", err)
	}
	n := newNode(t, nil)
	a := do(t, n.signed(t, "github", jsonType, `{"repository":{"full_name":"octo/a","full_name":"octo/b"}}`))
	if a.status != 422 || a.Type != "/problems/invalid-delivery" || a.Field != "repository.full_name" || len(n.stored()) != 0 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Strings are read in steps of eight bytes: what ends one is found wherever it stands, whatever stands around it.
func TestStringsEndWhereverTheyEnd(t *testing.T) {
	w := wanted("a")
	for before := range 10 {
		for after := range 10 {
			for c := range 256 {
				text := []byte(`"` + strings.Repeat("é", before/2) + strings.Repeat("x", before%2) + string([]byte{byte(c)}) +
					strings.Repeat("!", after) + `"`)
				if _, err := w.find(text); (err == nil) != (json.Valid(text) && utf8.Valid(text)) {
					t.Fatalf("%q: %v", text, err)
				}
			}
		}
	}
}

func TestNesting(t *testing.T) {
	for _, levels := range []int{1, 63, 64, 65, 128, maxNesting, maxNesting + 1} {
		for _, pair := range []string{"[]", `{"a":}`, `[{"b":}]`} {
			open, closing := pair[:len(pair)/2], pair[len(pair)/2:]
			if i := strings.IndexByte(pair, ':'); i > 0 {
				open, closing = pair[:i+1], pair[i+1:]
			}
			n := levels / len(closing)
			body := []byte(strings.Repeat(open, n) + "1" + strings.Repeat(closing, n))
			_, err := wanted("a.a.a", "b").find(body)
			if deep := n*len(closing) > maxNesting; json.Valid(body) == deep || deep != (err == errTooDeep) || !deep && err != nil {
				t.Errorf("%d of %s: %v", n, pair, err)
			}
			check(t, body[:len(body)-1])
			check(t, append(body, closing[0]))
			check(t, append(body[:len(body)-1], "]}"[levels%2]))
		}
	}
}

// everyPath has the paths of all rows in one tree, and the familiar rows have theirs.
var everyPath = sync.OnceValue(func() (all []*wants) {
	var paths []string
	for i, p := range Providers {
		paths = append(paths, p.wants.paths[1:]...)
		if i < 4 {
			all = append(all, p.wants)
		}
	}
	return append(all, wanted(paths...))
})

// check compares find with encoding/json on one document. It returns whether it is JSON.
func check(t *testing.T, body []byte) bool {
	t.Helper()
	valid := json.Valid(body)
	text := utf8.Valid(body)
	again, root := "", any(nil)
	if valid && text {
		again = twice(t, body)
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		if err := d.Decode(&root); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range everyPath() {
		v, err := w.find(body)
		switch {
		case !valid && err != errNotJSON && err != errTooDeep:
			t.Fatalf("%q: %v, but it is not JSON", body, err)
		case valid && !text && (err == nil || problemOf(err).Status != 400 || problemOf(err).Field == ""):
			t.Fatalf("%q: %v, but it is not UTF-8", body, err)
		}
		if !valid || !text {
			continue
		}
		if again != "" {
			if e, ok := errors.AsType[*domain.Error](err); !ok || e.Class != domain.Invalid || e.Field != again {
				t.Fatalf("%q: %v, but %q stands twice", body, err, again)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		for _, path := range w.paths[1:] {
			var text, digits string
			switch at := reach(root, path).(type) {
			case string:
				text = at
			case json.Number:
				digits = at.String()
			}
			whole, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				whole = 0
			}
			if v.text(path) != text || v.digits(path) != digits || v.whole(path) != whole {
				t.Fatalf("%q: %s is %q, %q, %d, want %q, %q, %d", body, path,
					v.text(path), v.digits(path), v.whole(path), text, digits, whole)
			}
		}
	}
	return valid
}

func reach(at any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		o, _ := at.(map[string]any)
		at = o[name]
	}
	return at
}

// twice returns the path of the first key that stands twice in its object.
func twice(t *testing.T, body []byte) (found string) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // a float64 wouldn't hold every number
	next := func() json.Token {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		return token
	}
	var at place
	var value func()
	value = func() {
		last := len(at)
		switch next() {
		case json.Delim('['):
			for i := 0; d.More(); i++ {
				at = append(at[:last], rung{index: i})
				value()
			}
			next()
		case json.Delim('{'):
			seen := map[string]bool{}
			for d.More() {
				name := next().(string)
				at = append(at[:last], rung{object: true, key: name})
				if seen[name] && found == "" {
					found = at.String()
				}
				seen[name] = true
				value()
			}
			next()
		}
	}
	value()
	return found
}

var documents = []string{
	`{"a":{},"b":[1,{"c":[]}],"d":{"e":[2,{}],"f":"g"}}`,
	``, ` `, `{}`, `[]`, `""`, `0`, `-0`, `-`, `01`, `1.`, `.1`, `1.0`, `1e`, `1E+`, `1e-05`, `-1.5E+300`, `+1`, `0x1`, `1 2`,
	`true`, `false`, `null`, `tru`, `nulll`, `True`, `NaN`, "\ufeff{}", "{}\x00", "\v{}", "{}\n", `{`, `}`, `[`, `]`, `[}`, `{]`,
	`[,]`, `[1,]`, `[1 2]`, `[1],`, `{,}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a" 1}`, `{a:1}`, `{'a':1}`, `{1:1}`, `{"a":1 "b":2}`,
	`"`, `"\`, `"\"`, `"\u`, `"\u00`, `"\u00g0"`, `"\x"`, `"\ud83d\ude00"`, `"\ud800"`, `"\uDC00\uD800"`, "\"\xff\"", "\"\x1f\"",
	"\"\x7f\"", "\"\n\"", "\"\u2028\"", `"12345678\"1234567"`, `"1234567\"`, `["[","{","]","}",":",","]`,
	`{"action":"opened","number":12345678901234567890,"issue":{"number":7},"repository":{"full_name":"octo/hello"}}`,
	`{"\u0061ction":"opened","repository":{"full\u005fname":"octo\/hello"}}`, `{"action":"a","action":"b"}`,
	`{"action":"a","\u0061ction":"b"}`, `{"issue":{"number":1},"issue":{"number":2}}`, `{"hook_id":{"id":1,"id":1}}`,
	`{"id":"evt_1","type":"t","data":{"object":{"id":"ch_1","customer":{"id":"cus_1"},"charge":1e400}},"related_object":null}`,
	`{"type":"event_callback","event":{"type":"m","channel":"C1","item":{"channel":{"id":"C2"}}},"team":{"id":"T1"},"team_id":1}`,
	`{"data":{"id":{"id":18446744073709551616}}}`, `{"data":[{"id":1,"id":2}]}`, `{"data.id":1,"data":{"":{"id":2},"id":3}}`,
}

func FuzzFind(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d))
	}
	for _, levels := range []int{70, 700} { // deeper ones are slow to mutate: TestNesting has them
		f.Add([]byte(strings.Repeat("[", levels) + strings.Repeat("]", levels)))
		f.Add([]byte(strings.Repeat(`{"id":`, levels) + "1" + strings.Repeat("}", levels)))
	}
	f.Fuzz(func(t *testing.T, body []byte) { check(t, body) })
}

// Documents made of the very keys that are wanted, whole and with a byte changed, cut off or put in.
func TestFindOnRandomDocuments(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	names := []string{"x", "", "Action", `\u0069d`, `i\u0064`, `typ\u0065`, `a\"b`}
	for _, p := range Providers {
		for _, path := range p.wants.paths[1:] {
			names = append(names, path[strings.LastIndexByte(path, '.')+1:])
		}
	}
	scalars := []string{`"x"`, `""`, `"\ud83d\ude00"`, `"\ud83d"`, "\"\xff\"", `"é\n"`, `"a longer string, \"quoted\""`,
		"0", "-1", "12", "1e9", "12345678901234567890", "9007199254740993", "-0.5", "true", "false", "null"}
	spaces := []string{"", "", "", " ", "\n\t", "\r\n "}
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	gap := func() string { return pick(spaces) }
	var value func(depth int) string
	value = func(depth int) string {
		object := depth == 0 || r.IntN(2) == 0
		if depth > 4 || depth > 0 && r.IntN(2) == 0 {
			return pick(scalars)
		}
		var parts []string
		for range r.IntN(8) {
			part := gap() + value(depth+1) + gap()
			if object {
				part = gap() + `"` + pick(names) + `"` + gap() + ":" + part
			}
			parts = append(parts, part)
		}
		if object {
			return "{" + gap() + strings.Join(parts, ",") + "}"
		}
		return "[" + gap() + strings.Join(parts, ",") + "]"
	}
	valid, invalid, refused := 0, 0, 0
	for range 2000 {
		body := []byte(gap() + value(0) + gap())
		if !check(t, body) {
			t.Fatalf("made %q", body)
		}
		if _, err := Providers[0].wants.find(body); err != nil {
			refused++ // for a key that is there twice
		}
		for range 4 {
			changed, at := bytes.Clone(body), r.IntN(len(body))
			switch c := `"\{}[]:,0e.-tu `[r.IntN(15)]; r.IntN(3) {
			case 0:
				changed[at] = c
			case 1:
				changed = changed[:at]
			case 2:
				changed = append(changed[:at], append([]byte{c}, body[at:]...)...)
			}
			if check(t, changed) {
				valid++
			} else {
				invalid++
			}
		}
	}
	t.Logf("%d with a key twice; changed: %d valid, %d not", refused, valid, invalid)
	if refused == 0 || refused == 2000 || valid == 0 || invalid == 0 {
		t.Error("the documents are too much alike to tell anything")
	}
}
