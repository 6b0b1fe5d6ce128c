package egress

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

var noon = time.Date(2026, 3, 1, 13, 0, 0, 123456000, time.FixedZone("", 3600))

func TestCloudEventGolden(t *testing.T) {
	full := domain.Event{
		ID: "01-9", Type: "github.issues.opened", Source: "/sources/github", Stream: "github/octo/hello#12", Version: 7, Time: noon,
		ContentType: "application/json; charset=utf-8", Data: []byte("{\r\n  \"a\": [1, 2.50, 1e3],\n  \"s\": \"x\\r\\n\"\n}\n"),
		Correlation: "d-1", Causation: "d-1", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		Delivery: "d-1", Verification: "github; body",
	}
	head := `{"specversion":"1.0","id":"1","type":"t","source":"/s","subject":"a/b","time":"2026-03-01T12:00:00.123456Z"`
	with := func(contentType, body string) domain.Event {
		return domain.Event{ID: "1", Type: "t", Source: "/s", Stream: "a/b", Version: 1, Time: noon, ContentType: contentType, Data: []byte(body)}
	}
	for name, c := range map[string]struct {
		event domain.Event
		want  string
	}{
		"everything": {full, `{"specversion":"1.0","id":"01-9","type":"github.issues.opened","source":"/sources/github",` +
			`"subject":"github/octo/hello#12","time":"2026-03-01T12:00:00.123456Z","datacontenttype":"application/json; charset=utf-8",` +
			`"streamversion":7,"correlationid":"d-1","causationid":"d-1","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",` +
			`"deliveryid":"d-1","verification":"github; body","data":{"a":[1,2.50,1e3],"s":"x\r\n"}}`},
		"no body":              {with("application/json", ""), head + `,"datacontenttype":"application/json","streamversion":1}`},
		"no content type":      {with("", `{"a": 1}`), head + `,"streamversion":1,"data":{"a":1}}`},
		"a JSON subtype":       {with("application/vnd.x+JSON", ` "x" `), head + `,"datacontenttype":"application/vnd.x+JSON","streamversion":1,"data":"x"}`},
		"broken JSON":          {with("application/json", `{"a":`), head + `,"datacontenttype":"application/json","streamversion":1,"data_base64":"eyJhIjo="}`},
		"two JSON texts":       {with("application/json", `{} {}`), head + `,"datacontenttype":"application/json","streamversion":1,"data_base64":"e30ge30="}`},
		"JSON that isn't text": {with("application/json", "\"\xff\""), head + `,"datacontenttype":"application/json","streamversion":1,"data_base64":"Iv8i"}`},
		"a form":               {with("application/x-www-form-urlencoded", "a=1&b=\"\n"), head + `,"datacontenttype":"application/x-www-form-urlencoded","streamversion":1,"data":"a=1&b=\"\n"}`},
		"text":                 {with("text/plain", "{}\u2028\x00é\\"), head + `,"datacontenttype":"text/plain","streamversion":1,"data":"{}\u2028\u0000é\\"}`},
		"text that isn't":      {with("text/plain", "a\xff"), head + `,"datacontenttype":"text/plain","streamversion":1,"data_base64":"Yf8="}`},
		"bytes":                {with("image/png", "text"), head + `,"datacontenttype":"image/png","streamversion":1,"data_base64":"dGV4dA=="}`},
	} {
		if got := string(AppendCloudEvent([]byte("x"), &c.event)); got != "x"+c.want {
			t.Errorf("%s:\n got %s\nwant x%s", name, got, c.want)
		}
	}
}

func TestChangeGolden(t *testing.T) {
	for _, c := range []struct {
		change eventstore.Change
		want   string
	}{
		{eventstore.Change{Partition: 2, Offset: 9, Index: 1, Key: "a\n", Row: []byte(`{"n": 1}`)},
			`{"op":"upsert","key":"a\n","row":{"n":1},"partition":2,"offset":9,"index":1}`},
		{eventstore.Change{Key: "a"}, `{"op":"delete","key":"a","partition":0,"offset":0,"index":0}`},
		{eventstore.Change{Key: "a", Row: []byte("\xff")}, `{"op":"upsert","key":"a","row_base64":"/w==","partition":0,"offset":0,"index":0}`},
		{eventstore.Change{Key: "a", Row: []byte("{\n")}, `{"op":"upsert","key":"a","row_base64":"ewo=","partition":0,"offset":0,"index":0}`},
	} {
		if got := string(AppendChange(nil, &c.change)); got != c.want {
			t.Errorf("got %s\nwant %s", got, c.want)
		}
	}
}

// The encoder writes by hand what encoding/json must read back: whatever the attributes and the body hold.
func FuzzCloudEvent(f *testing.F) {
	f.Add("1", "a.b", "/s", "a/b", "application/json", []byte(`{"a": 1}`))
	f.Add("\x00\x1f\x7f", "\r\n\n", "\"\\", "\u2028\u2029\ufffd", "text/plain", []byte("a\r\nb\x00\xc3"))
	f.Add("\xff\xc3\x28", "\xe2\x80", "\xf0\x9f\x98\x80", "\xed\xa0\x80", "", []byte("[\n1,\r\"\u2029\"]"))
	f.Add("", "", "", "", "application/json", []byte("\xef\xbb\xbf{}"))
	f.Fuzz(func(t *testing.T, id, typ, source, stream, contentType string, body []byte) {
		e := domain.Event{ID: id, Type: typ, Source: source, Stream: domain.Stream(stream), Version: 1, Time: noon, ContentType: contentType, Data: body}
		b := AppendCloudEvent(nil, &e)
		if !utf8.Valid(b) || bytes.ContainsAny(b, "\r\n\x00") {
			t.Fatalf("not one line of text: %q", b)
		}
		var got struct {
			ID, Type, Source, Subject, DataContentType string
			Time                                       time.Time
			Data                                       json.RawMessage
			Base64                                     *string `json:"data_base64"`
		}
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		for _, s := range [][2]string{{got.ID, id}, {got.Type, typ}, {got.Source, source}, {got.Subject, stream}, {got.DataContentType, contentType}} {
			if want := replaced(s[1]); s[0] != want {
				t.Errorf("got %q, want %q", s[0], want)
			}
		}
		if !got.Time.Equal(noon) {
			t.Errorf("time %v", got.Time)
		}
		switch {
		case got.Base64 != nil:
			back, err := base64.StdEncoding.DecodeString(*got.Base64)
			if err != nil || !bytes.Equal(back, body) || got.Data != nil {
				t.Errorf("data_base64 %q of %q: %v", *got.Base64, body, err)
			}
		case got.Data == nil:
			if len(body) != 0 {
				t.Errorf("the body %q is gone", body)
			}
		case formOf(contentType) == formText:
			var back string
			if err := json.Unmarshal(got.Data, &back); err != nil || back != string(body) {
				t.Errorf("data %s of %q: %v", got.Data, body, err)
			}
		default:
			var want bytes.Buffer
			if err := json.Compact(&want, body); err != nil || want.String() != string(got.Data) {
				t.Errorf("data %s of %q: %v", got.Data, body, err)
			}
		}
	})
}

// replaced puts U+FFFD for each byte that is not part of UTF-8, as encoding/json does.
func replaced(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteRune(r)
	}
	return b.String()
}

func BenchmarkCloudEvent(b *testing.B) {
	for name, n := range map[string]int{"300B": 10, "2KiB": 72} {
		e := domain.Event{ID: "0198a7f2-0000-7000-8000-000000000001", Type: "github.issues.opened", Source: "/sources/github",
			Stream: "github/octo/hello#12", Version: 7, Time: noon, ContentType: "application/json", Correlation: "d-1", Causation: "d-1",
			Delivery: "d-1", Verification: "github; body",
			Data: []byte(`{"items":[` + strings.TrimSuffix(strings.Repeat(`{"name":"widget","count":7},`, n), ",") + `]}`)}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst = AppendCloudEvent(dst[:0], &e)
			}
		})
	}
}
