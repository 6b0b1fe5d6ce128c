package ingress

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
)

// recorded is a request together with the verdict of somebody else's code or page on it: testdata/generate has made it.
type recorded struct {
	Provider string
	By       string // vendor: the provider's own code; other: somebody else's; page: published by the provider
	Origin   string // the package with its version and the function, or the page
	Note     string
	Secret   string
	Settings struct {
		Fetched map[string]string // what the provider publishes, by URL
		Root    string            // PEM: the authority of the certificates in it
	}
	Method  string
	URL     string
	Headers map[string]string
	Body    []byte
	At      time.Time
	Valid   bool
	Reason  Reason
}

func recordedVectors(t *testing.T) (all []recorded) {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var some []recorded
		if err := json.Unmarshal(b, &some); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, some...)
	}
	return all
}

func (v recorded) name(i int) string { return fmt.Sprintf("%s/%d %s", v.Provider, i, v.Note) }

func (v recorded) header() http.Header {
	h := http.Header{}
	for name, value := range v.Headers {
		h.Set(name, value)
	}
	return h
}

// keys is an empty store of keys that finds on its internet what the vector says is published, and nothing else.
func (v recorded) keys(t *testing.T, internet *vendors) *VendorKeys {
	t.Helper()
	internet.answer = func(w http.ResponseWriter, r *http.Request) bool {
		doc, ok := v.Settings.Fetched["https://"+r.Host+r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		io.WriteString(w, doc)
		return true
	}
	keys := internet.keys()
	keys.now = func() time.Time { return v.At }
	if v.Settings.Root != "" {
		keys.roots = x509.NewCertPool()
		if !keys.roots.AppendCertsFromPEM([]byte(v.Settings.Root)) {
			t.Fatal("the vector's root can't be read")
		}
	}
	return keys
}

// TestRecordedVectors demands of every row the verdict of the code, or of the page, that a vector is from.
func TestRecordedVectors(t *testing.T) {
	internet := newVendors(t)
	for i, v := range recordedVectors(t) {
		t.Run(v.name(i), func(t *testing.T) {
			p, ok := ProviderNamed(v.Provider)
			if !ok {
				t.Fatalf("there is no row for a vector by %s", v.Origin)
			}
			r := &Request{Method: v.Method, URL: v.URL, Header: v.header(), Body: v.Body, Vendor: v.keys(t, internet)}
			err := p.Scheme.Verify(t.Context(), r, Keys(Secret(v.Secret)), v.At)
			if v.Valid {
				if err != nil {
					t.Errorf("%s accepts it, the row doesn't: %v", v.Origin, err)
				}
				return
			}
			if f, ok := errors.AsType[*Failure](err); !ok || f.Reason != v.Reason {
				t.Errorf("%s refuses it; the row says %v, want a refusal with %s", v.Origin, err, v.Reason)
			}
		})
	}
}

// filedAs are the types of some deliveries that are easily filed wrong, by provider and note.
var filedAs = map[string]string{
	"discord an interaction": "discord.interaction.2", // commands have names in any script
	"etsy an order":          "etsy.order.paid",
	"stytch an event":        "stytch.DIRECT.user.CREATE",
	"twilio a call":          "twilio.call.completed",
	"twilio a message":       "twilio.message.received",
	"zendesk an event":       "zendesk.zen_event-type_ticket.created",
}

// TestRecordedDeliveries sends what somebody else's code has signed to a source, and finds it stored as it came, under
// a type of its provider. What was changed is answered with 401 and stored nowhere.
func TestRecordedDeliveries(t *testing.T) {
	internet, all := newVendors(t), recordedVectors(t)
	for name := range filedAs {
		if !slices.ContainsFunc(all, func(v recorded) bool { return v.Valid && v.Provider+" "+v.Note == name }) {
			t.Errorf("%s is not among the vectors", name)
		}
	}
	for i, v := range all {
		if v.By == "page" { // most of them sign something that is no event
			continue
		}
		t.Run(v.name(i), func(t *testing.T) {
			var stored []eventstore.Entry
			address, _, _ := strings.Cut(v.URL, "?")
			h, err := New(Config{
				Sources: []Source{{Name: "source", Provider: v.Provider, Secrets: Keys(Secret(v.Secret)), PublicURL: address}},
				Append: func(_ context.Context, e eventstore.Entry) (Durability, error) {
					stored = append(stored, e)
					return Logged, nil
				},
				Clock:  func() time.Time { return v.At },
				Vendor: v.keys(t, internet),
			})
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(v.Method, v.URL, bytes.NewReader(v.Body))
			r.Header = v.header()
			r.SetPathValue("source", "source")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if !v.Valid {
				var p problem
				if json.Unmarshal(w.Body.Bytes(), &p) != nil || w.Code != http.StatusUnauthorized || p.Reason != v.Reason || len(stored) > 0 {
					t.Errorf("answered %d %s, %d stored; want 401 with %s", w.Code, w.Body, len(stored), v.Reason)
				}
				return
			}
			if len(stored) != 1 || w.Code/100 != 2 {
				t.Fatalf("answered %d %s, %d stored", w.Code, w.Body, len(stored))
			}
			e := stored[0]
			p, _ := ProviderNamed(v.Provider)
			if !bytes.Equal(e.Body, p.masked(v.Body)) || !strings.HasPrefix(e.Type, v.Provider+".") || e.Stream.Category() != "source" || e.ID == "" {
				t.Errorf("stored %s of %s on %s: %s", e.ID, e.Type, e.Stream, e.Body)
			}
			if want := filedAs[v.Provider+" "+v.Note]; want != "" && e.Type != want {
				t.Errorf("filed as %s, want %s", e.Type, want)
			}
		})
	}
}

// verificationPage is where readers find out what each row rests on; the test below writes what is between the markers.
const (
	verificationPage  = "../docs/verification.md"
	verificationBegin = "<!-- rows: written by TestVerificationPage, with PENSTOCK_WRITE_DOCS=1 -->\n"
	verificationEnd   = "<!-- end of rows -->\n"
)

// TestVerificationPage keeps the page in step with the rows and the vectors.
func TestVerificationPage(t *testing.T) {
	b, err := os.ReadFile(verificationPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), verificationBegin)
	_, after, ok2 := strings.Cut(rest, verificationEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has lost its markers", verificationPage)
	}
	want := before + verificationBegin + verificationTable(t) + verificationEnd + after
	if want == string(b) {
		return
	}
	if os.Getenv("PENSTOCK_WRITE_DOCS") == "" {
		t.Fatalf("%s is not what the rows and vectors say; PENSTOCK_WRITE_DOCS=1 go test ./ingress -run %s writes it", verificationPage, t.Name())
	}
	if err := os.WriteFile(verificationPage, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// verificationTable has a line for each row: by whom its vectors are, and how many there are to accept and to refuse.
func verificationTable(t *testing.T) string {
	t.Helper()
	type column map[string]bool // distinct origins
	type line struct {
		by             map[string]column
		accept, refuse int
	}
	lines := map[string]line{}
	for _, v := range recordedVectors(t) {
		l, ok := lines[v.Provider]
		if !ok {
			l.by = map[string]column{"vendor": {}, "other": {}, "page": {}}
		}
		if l.by[v.By] == nil {
			t.Fatalf("a vector of %s is by %q", v.Provider, v.By)
		}
		origin, _, _ := strings.Cut(v.Origin, ", ") // without the function
		if strings.HasPrefix(origin, "https://") {
			site, _, _ := strings.Cut(strings.TrimPrefix(origin, "https://"), "/")
			origin = "[" + strings.TrimPrefix(site, "www.") + "](" + origin + ")"
		}
		l.by[v.By][origin] = true
		if v.Valid {
			l.accept++
		} else {
			l.refuse++
		}
		lines[v.Provider] = l
	}
	var out strings.Builder
	counts := map[string]int{}
	out.WriteString("| provider | vector by the vendor's code | by another's code | by the vendor's page | accepted, refused |\n|---|---|---|---|---|\n")
	for _, p := range slices.SortedFunc(slices.Values(Providers), func(a, b Provider) int { return cmp.Compare(a.Name, b.Name) }) {
		if p.Scheme.Algorithm == None {
			continue
		}
		l := lines[p.Name]
		cell := func(by string) string { return strings.Join(slices.Sorted(maps.Keys(l.by[by])), "<br>") }
		if l.accept == 0 {
			counts["us"]++
			fmt.Fprintf(&out, "| `%s` | only by us | | | |\n", p.Name)
			continue
		}
		for _, by := range []string{"vendor", "other", "page"} {
			if len(l.by[by]) > 0 {
				counts[by]++
			}
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %d, %d |\n", p.Name, cell("vendor"), cell("other"), cell("page"), l.accept, l.refuse)
	}
	return fmt.Sprintf("%d rows have vectors by the vendor's code, %d by another's, %d by the vendor's page; %d are checked only by us.\n\n",
		counts["vendor"], counts["other"], counts["page"], counts["us"]) + out.String()
}
