package ingress

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// packed is body in an encoding, by its name in these tests.
func packed(t *testing.T, encoding string, body []byte) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zlib":
		w = zlib.NewWriter(&b)
	case "raw":
		var err error
		if w, err = flate.NewWriter(&b, flate.BestSpeed); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A compressed body is verified as it was sent, and kept as what it says.
func TestCompressedBodies(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Sources[0].MaxBody = 4 << 20 })
	body := []byte(`{"repository":{"full_name":"octo/hello"},"x":"` + strings.Repeat("0123456789", 100) + `"}`)
	for _, c := range []struct{ encoding, header string }{
		{"gzip", "gzip"}, {"gzip", "x-gzip"}, {"gzip", "GZIP"}, {"zlib", "deflate"}, {"raw", "deflate"},
	} {
		a := do(t, n.signed(t, "github", jsonType, packed(t, c.encoding, body), "Content-Encoding", c.header))
		e := n.last()
		if a.status != 202 || !bytes.Equal(e.Body, body) || e.Stream != "github/octo/hello" ||
			e.Verification != "github; body; sent as "+map[bool]string{true: "deflate", false: "gzip"}[c.header == "deflate"] {
			t.Errorf("%+v: %d %s, entry %+v", c, a.status, a.body, e)
		}
	}
	sent := n.signed(t, "github", jsonType, string(body))
	sent.Body = io.NopCloser(strings.NewReader(packed(t, "gzip", body)))
	sent.ContentLength = -1
	sent.Header.Set("Content-Encoding", "gzip")
	if a := do(t, sent); a.status != 401 {
		t.Errorf("signed before it was compressed: %d %s", a.status, a.body)
	}
	last, _, _ := n.handler.Refusals("github")
	if last[0].Reason != string(BodyChanged) || !strings.Contains(last[0].Hint, "before it was compressed") {
		t.Errorf("the operator isn't told: %+v", last[0])
	}
}

// A provider may sign before it compresses; then the bounds hold before the signature is checked.
func TestBodiesThatAreSignedBeforeTheyAreCompressed(t *testing.T) {
	row, err := NewProvider("acme", Custom{Header: "X-Acme", Inflated: true})
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) {
		c.Sources = []Source{{Name: "acme", Provider: "acme", Row: &row, Secrets: Keys(Secret("of acme"))}}
	})
	send := func(signed, sent string) answer {
		r, err := http.NewRequestWithContext(t.Context(), "POST", n.server.URL+"/hooks/acme", strings.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", jsonType)
		r.Header.Set("Content-Encoding", "gzip")
		if err := row.Scheme.Sign(&Request{Method: "POST", Header: r.Header, Body: []byte(signed)}, Secret("of acme"), time.Now()); err != nil {
			t.Fatal(err)
		}
		return do(t, r)
	}
	const body = `{"a":1}`
	if a := send(body, packed(t, "gzip", []byte(body))); a.status != 202 || string(n.last().Body) != body || n.last().Verification != row.Verification {
		t.Errorf("%d %s, %+v", a.status, a.body, n.last())
	}
	if a := send("x", packed(t, "gzip", []byte(body))); a.status != 401 {
		t.Errorf("forged: %d %s", a.status, a.body)
	}
	if a := send("x", packed(t, "gzip", []byte(strings.Repeat(" ", 1<<20)))); a.status != 413 {
		t.Errorf("a bomb: %d %s", a.status, a.body)
	}
}

func TestWhatCompressedBodiesMayNot(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Sources[0].MaxBody = 2 << 20 })
	blanks := func(size int) []byte { return []byte("[" + strings.Repeat(" ", size) + "]") }
	whole := packed(t, "gzip", []byte(`{"a":1}`))
	for _, c := range []struct {
		name, sent, encoding string
		status               int
		kind                 string
	}{
		{"a bomb", packed(t, "gzip", blanks(1<<20)), "gzip", 413, "body-too-large"},
		{"beyond the cap", packed(t, "gzip", blanks(64<<20)), "gzip", 413, "body-too-large"},
		{"a bomb, deflated", packed(t, "zlib", blanks(1<<20)), "deflate", 413, "body-too-large"},
		{"small and thin is no bomb", packed(t, "gzip", blanks(firstRead-2)), "gzip", 202, ""},
		{"cut off", whole[:len(whole)-4], "gzip", 400, "unreadable-body"},
		{"wrong sum", whole[:len(whole)-8] + "xxxx" + whole[len(whole)-4:], "gzip", 400, "unreadable-body"},
		{"more behind it", whole + "x", "gzip", 400, "unreadable-body"},
		{"not deflate", "{}", "deflate", 400, "unreadable-body"},
		{"empty", "", "gzip", 400, "unreadable-body"},
		{"twice", packed(t, "gzip", []byte(whole)), "gzip, gzip", 415, "unsupported-media-type"},
		{"compress", "x", "compress", 415, "unsupported-media-type"},
	} {
		a := do(t, n.signed(t, "github", jsonType, c.sent, "Content-Encoding", c.encoding))
		if a.status != c.status || c.kind != "" && a.Type != "/problems/"+c.kind {
			t.Errorf("%s (%d bytes): %d %s", c.name, len(c.sent), a.status, a.body)
		}
		if c.status == 415 && a.header.Get("Accept-Encoding") != "gzip, deflate" {
			t.Errorf("%s: Accept-Encoding %q", c.name, a.header.Get("Accept-Encoding"))
		}
	}
	if got := n.stored(); len(got) != 1 {
		t.Errorf("%d are stored", len(got))
	}
}

// Whatever the content type, the bytes stay as they are, and a delivery has a type, an id and a stream.
func TestContentTypes(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.Sources[1].ContentTypes = []string{"application/json", "application/*", "text/*", "multipart/form-data"} // stripe
		c.Sources[1].When = []Rule{{"readable", `body != "drop"`}}
	})
	multipart := "--B\r\nContent-Disposition: form-data; name=\"type\"\r\n\r\nsent\r\n--B\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\nm_1\r\n" +
		"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\n\x00\xff\r\n--B--\r\n"
	for _, c := range []struct{ media, body, kind, id string }{
		{"application/json", `{"type":"paid","id":"j_1"}`, "stripe.paid", "j_1"},
		{"application/vnd.acme+json; charset=utf-8", `{"type":"paid","id":"j_2"}`, "stripe.paid", "j_2"},
		{"application/x-www-form-urlencoded", `type=paid&id=f_1&list[]=1&list[]=2`, "stripe.paid", "f_1"},
		{"multipart/form-data; boundary=B", multipart, "stripe.sent", "m_1"},
		{"application/xml", `<?xml version="1.0"?><a:Invoice xmlns:a="urn:x" id="7"><Line>1</Line><Line>2</Line></a:Invoice>`, "stripe.Invoice", ""},
		{"text/xml", "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><caf\xe9/>", "stripe.café", ""},
		{"text/plain", "héllo", "stripe.text", ""},
		{"text/plain", "h\xe9llo", "stripe.text", ""},
		{"application/x-ndjson", "{}\n{}\n", "stripe.text", ""},
		{"application/octet-stream", "\x00\x01\xff", "stripe.binary", ""},
	} {
		a := do(t, n.signed(t, "stripe", c.media, c.body))
		if strings.Contains(c.kind, "é") { // an event type is ASCII
			if a.status != 422 || a.Field != "type" {
				t.Errorf("%s: %d %s", c.media, a.status, a.body)
			}
			continue
		}
		e := n.last()
		if a.status != 202 || e.Type != c.kind || string(e.Body) != c.body || e.ContentType != c.media ||
			c.id != "" && e.ID != c.id || c.id == "" && !strings.HasPrefix(e.ID, "sha256-") || c.id == "" && string(e.Stream) != "stripe/"+e.ID {
			t.Errorf("%s: %d %s, entry %+v", c.media, a.status, a.body, e)
		}
	}
	if a := do(t, n.signed(t, "stripe", "text/plain", "drop")); a.status != 200 {
		t.Errorf("text is no string to a rule: %d %s", a.status, a.body)
	}
	before := len(n.stored())
	for _, c := range []struct {
		media, body string
		status      int
		field       string
	}{
		{"image/png", "x", 415, ""},
		{"application/xml", "<a>", 400, ""},
		{"application/xml", "<a></b>", 400, ""},
		{"application/xml", "<a/><b/>", 400, ""},
		{"application/xml", "<a/>text", 400, ""},
		{"application/xml", "", 400, ""},
		{"application/xml", "<a>\xff</a>", 400, ""},
		{"application/xml", `<a x="1" x="2"/>`, 400, ""},
		{"application/xml", `<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>`, 400, ""},
		{"application/xml", `<!DOCTYPE a><a/>`, 400, ""},
		{"application/xml", `<a ` + manyAttributes(maxAttributes+1) + `/>`, 400, ""},
		{"application/xml", `<a ` + manyAttributes(20) + ` n3=""/>`, 400, ""},
		{"application/xml", `<a>&b;</a>`, 400, ""},
		{"application/xml", `<?xml version="1.0" encoding="utf-7"?><a/>`, 400, ""},
		{"application/xml", strings.Repeat("<a>", maxElements+1) + strings.Repeat("</a>", maxElements+1), 400, ""},
		{"application/x-www-form-urlencoded", "type=a&id=1&type=b", 422, "type"},
		{"application/x-www-form-urlencoded", "type=a&id=%ff", 400, "id"},
		{"application/x-www-form-urlencoded", "type=a;id=1", 400, ""},
		{"application/x-www-form-urlencoded", `payload={"type":"a","id":"1","x":{"y":1,"y":2}}`, 422, "x.y"},
		{"multipart/form-data", multipart, 400, ""},
		{"multipart/form-data; boundary=C", multipart, 400, ""},
		{"multipart/form-data; boundary=B", strings.TrimSuffix(multipart, "--B--\r\n"), 400, ""},
		{"multipart/form-data; boundary=B", strings.ReplaceAll(multipart, `"id"`, `"type"`), 422, "type"},
	} {
		if a := do(t, n.signed(t, "stripe", c.media, c.body)); a.status != c.status || a.Field != c.field {
			t.Errorf("%s %.60q: %d %s", c.media, c.body, a.status, a.body)
		}
	}
	if got := len(n.stored()); got != before {
		t.Errorf("%d were stored although refused", got-before)
	}
}

func TestXMLAsExpressionsSeeIt(t *testing.T) {
	n := newNode(t, nil)
	for body, want := range map[string]string{
		`<a/>`:                                             `{"a":""}`,
		`<a>x<!-- not this --><![CDATA[y]]></a>`:           `{"a":"xy"}`,
		`<a id="7" xml:lang="en">x</a>`:                    `{"a":{"#text":"x","@id":"7","@lang":"en"}}`,
		` <a> <b>1</b> <c/> <b>2</b> <b>3</b> </a> `:       `{"a":{"b":["1","2","3"],"c":""}}`,
		`<s:a xmlns:s="u"><s:b xmlns="v">&lt;</s:b></s:a>`: `{"a":{"b":"<"}}`,
	} {
		hold := hold{from: n.handler.inFlight}
		d, err := documentOf([]byte(body), content{format: asXML}, &hold)
		hold.release()
		var got, wanted any
		if err == nil {
			err = json.Unmarshal(d.json, &got)
		}
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(wanted)
		if err != nil || !bytes.Equal(a, b) || d.kind != "a" {
			t.Errorf("%s: %s, %q, %v, want %s", body, d.json, d.kind, err, want)
		}
	}
}

func TestContentTypesOfASource(t *testing.T) {
	for pattern, ok := range map[string]bool{
		"application/json": true, "text/*": true, "*/*": true, "application/vnd.x+json": true,
		"json": false, "": false, "*": false, "*/json": false, "text/p*": false, "te*/plain": false, "Text/plain": false,
		"text/plain; charset=utf-8": false, "text/ plain": false,
	} {
		if err := checkMedia(pattern); (err == nil) != ok {
			t.Errorf("%q: %v", pattern, err)
		}
	}
	if !matchesMedia("*/*", "a/b") || !matchesMedia("a/*", "a/b") || matchesMedia("a/*", "ab/c") || matchesMedia("a/b", "a/c") {
		t.Error("matches")
	}
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `n%d="" `, i)
	}
	return b.String()
}
