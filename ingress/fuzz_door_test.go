package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// fuzzDoor is a handler with a source for each row that a text can be the secret of. Its requests come one at a time.
type fuzzDoor struct {
	hooks   *Handler
	rows    []Provider
	secrets map[string]Secret
	stored  []eventstore.Entry
	now     time.Time
}

func newFuzzDoor(f *testing.F) *fuzzDoor {
	d := &fuzzDoor{secrets: map[string]Secret{}, now: time.Unix(1_700_000_000, 0)}
	var sources []Source
	for _, p := range Providers {
		for _, secret := range []string{"a secret that the fuzzer does not know", "whsec_YSBzZWNyZXQgdGhhdCB0aGUgZnV6emVyIGRvZXMgbm90IGtub3c=", strings.Repeat("5f", 32)} {
			s := Source{Name: p.Name, Provider: p.Name, Secrets: Keys(Secret(secret)), MaxBody: 1 << 20, PublicURL: "http://127.0.0.1/hooks/" + p.Name}
			if _, err := New(Config{Sources: []Source{s}, Append: d.append}); err != nil {
				continue
			}
			sources, d.rows, d.secrets[p.Name] = append(sources, s), append(d.rows, p), Secret(secret)
			break
		}
	}
	if len(d.rows) < 4 {
		f.Fatalf("only %d rows have a source", len(d.rows))
	}
	var err error
	if d.hooks, err = New(Config{Sources: sources, Append: d.append, Clock: func() time.Time { return d.now }}); err != nil {
		f.Fatal(err)
	}
	return d
}

func (d *fuzzDoor) append(_ context.Context, e eventstore.Entry) (Durability, error) {
	d.stored = append(d.stored, e)
	return Logged, nil
}

// serve returns the answer, after looking at what no answer may be: an error of ours, or one with a secret in it.
func (d *fuzzDoor) serve(t *testing.T, p Provider, r *http.Request) *httptest.ResponseRecorder {
	d.stored = nil
	r.SetPathValue("source", p.Name)
	r.RemoteAddr = "203.0.113.9:4711"
	w := httptest.NewRecorder()
	d.hooks.ServeHTTP(w, r)
	if w.Code >= 500 && w.Code != 503 || w.Code < 200 {
		t.Fatalf("%s answers %d %s", p.Name, w.Code, w.Body)
	}
	for name, secret := range d.secrets {
		if strings.Contains(w.Body.String()+fmt.Sprint(w.Header()), string(secret)) {
			t.Fatalf("%s tells the secret of %s: %s", p.Name, name, w.Body)
		}
	}
	if w.Code >= 400 {
		var problem struct {
			Type   string
			Status int
		}
		if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil && r.Method != http.MethodHead || err == nil && (problem.Type == "" || problem.Status != w.Code) {
			t.Fatalf("%s answers %d %s: %v", p.Name, w.Code, w.Body, err)
		}
	}
	return w
}

// FuzzDoor knocks with arbitrary requests. Nothing but the record of a handshake is ever stored: no signature is right.
func FuzzDoor(f *testing.F) {
	d := newFuzzDoor(f)
	for i, p := range d.rows {
		f.Add(uint8(i), "POST", "", "Content-Type: application/json\n"+p.Scheme.Header+": sha256=00\nContent-Encoding: gzip", []byte(`{}`))
		f.Add(uint8(i), "GET", "challenge=abc&hub.mode=subscribe&hub.challenge=1&validationToken=x&crc_token=a", "X-Hook-Secret: abc\nX-Okta-Verification-Challenge: x", []byte{})
		f.Add(uint8(i), "POST", "validationToken=%3Cscript%3E", "Content-Type: application/x-www-form-urlencoded", []byte(`payload=%7B%7D&payload=1`))
		f.Add(uint8(i), "POST", "", "Content-Type: application/json", []byte(`{"type":"url_verification","challenge":"c","event":"endpoint.url_validation","payload":{"plainToken":"x"}}`))
	}
	f.Fuzz(func(t *testing.T, row uint8, method, query, headers string, body []byte) {
		p := d.rows[int(row)%len(d.rows)]
		r := &http.Request{
			Method: method, URL: &url.URL{Path: "/hooks/" + p.Name, RawQuery: query}, Header: http.Header{}, ContentLength: int64(len(body)),
			Body: io.NopCloser(bytes.NewReader(body)), ProtoMajor: 1, ProtoMinor: 1,
		}
		for line := range strings.SplitSeq(headers, "\n") {
			name, value, _ := strings.Cut(line, ":")
			r.Header.Add(name, strings.TrimSpace(value))
		}
		w := d.serve(t, p, r)
		for _, e := range d.stored {
			if !strings.HasSuffix(e.Type, ".handshake") {
				t.Fatalf("%s stores %+v", p.Name, e)
			}
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Fatalf("%s answers with a page: %s", p.Name, w.Body)
		}
	})
}

// FuzzSigned sends arbitrary bodies that are signed as they should be: whatever a provider's own users can make it send.
// What is stored can be handled, has the body's exact bytes, and splits or says why not.
func FuzzSigned(f *testing.F) {
	d := newFuzzDoor(f)
	types := []string{"", "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "application/xml", "text/plain", "application/octet-stream", "application/json; charset=utf-16"}
	for i := range d.rows {
		f.Add(uint8(i), uint8(1), "", "X-Github-Event: push\nX-Github-Delivery: 1\nWebhook-Id: m", []byte(`{"id":"evt_1","type":"t","action":"a","data":{"object":{"id":1}},"event":{"type":"message","channel":"C"}}`))
		f.Add(uint8(i), uint8(2), "", "X-Github-Event: push\nX-Github-Delivery: 1\nWebhook-Id: m", []byte(`payload=%7B%22type%22%3A%22x%22%7D`))
		f.Add(uint8(i), uint8(3), "", "", []byte("--b\r\nContent-Disposition: form-data; name=\"payload\"\r\n\r\n{}\r\n--b--\r\n"))
		f.Add(uint8(i), uint8(4), "gzip", "", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
		f.Add(uint8(i), uint8(1), "", "Webhook-Id: a.b\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", []byte(`[{"sg_event_id":"1","event":"open"}]`))
	}
	f.Fuzz(func(t *testing.T, row, media uint8, encoding, headers string, body []byte) {
		p := d.rows[int(row)%len(d.rows)]
		delivery := Delivery{Provider: p, Header: http.Header{}, Body: body}
		for line := range strings.SplitSeq(headers, "\n") {
			name, value, _ := strings.Cut(line, ":")
			delivery.Header.Add(name, strings.TrimSpace(value))
		}
		delivery.Header.Set("Content-Type", types[int(media)%len(types)])
		if encoding != "" {
			delivery.Header.Set("Content-Encoding", encoding)
		}
		r, err := delivery.Request(t.Context(), "http://127.0.0.1", p.Name, d.secrets[p.Name], d.now)
		if err != nil {
			return // a part of the signed message is missing
		}
		if body, err = io.ReadAll(r.Body); err != nil { // with the signature in it, where that is its place
			t.Fatal(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		w := d.serve(t, p, r)
		if w.Code >= 300 && len(d.stored) > 0 {
			t.Fatalf("%s answers %d and stores %+v", p.Name, w.Code, d.stored)
		}
		for _, e := range d.stored {
			_, bad := domain.ParseStream(string(e.Stream))
			if bad != nil || e.ID == "" || !strings.HasPrefix(e.Type, p.Name+".") || e.Source != p.Name || e.Kind != eventstore.KindDelivery || e.Verification == "" {
				t.Fatalf("%s stores %+v", p.Name, e)
			}
			if !strings.HasSuffix(e.Type, ".handshake") && encoding == "" && !bytes.Equal(e.Body, p.masked(body)) {
				t.Fatalf("%s stores %q for %q", p.Name, e.Body, body)
			}
			children, err := d.hooks.Split(e)
			if err != nil && domain.ClassOf(err) != domain.Invalid {
				t.Fatalf("%s: %v", p.Name, err)
			}
			if (p.Split == nil || strings.HasSuffix(e.Type, ".handshake")) && len(children) > 0 {
				t.Fatalf("%s makes %d deliveries of one", p.Name, len(children))
			}
		}
	})
}
