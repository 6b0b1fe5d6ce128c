package egress

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// FuzzFeedRequest asks for feeds with arbitrary parameters. What is refused is the client's mistake and names the
// parameter; what is not can be asked of any record.
func FuzzFeedRequest(f *testing.F) {
	position := eventstore.Position{Topic: [16]byte{1}, Next: []int64{0, 3, 1 << 40}}.String()
	for _, q := range []string{
		"", "from=earliest&until=now&limit=3", "cursor=" + position, "from=-10&type=a.*&type=b&source=/x&stream=a/*", "until=2026-01-01T00:00:00Z&on_gap=latest",
		"filter=" + url.QueryEscape(`data.amount > 10 && type.startsWith("a") || has(data.x.y)`), "filter=" + url.QueryEscape(`stream.matches("(a+)+b")`),
		"filter=" + url.QueryEscape("[1,2,3].all(x, [1,2].all(y, x > y))"), "every=50ms&snapshot=true&limit=1", "from=earliest&from=latest", "nonsense=1", "filter=%ff",
	} {
		f.Add(position, q)
		f.Add("", q)
	}
	records := []*eventstore.Record{
		{Event: &domain.Event{ID: "1", Type: "a.b", Source: "/x", Stream: "a/1", Version: 1, Time: time.Unix(1, 0), ContentType: "application/json", Data: []byte(`{"amount":12,"x":{"y":[1,"é"]}}`)}},
		{Event: &domain.Event{ID: "2", Type: "c", Source: "/y", Stream: "b/1", Version: 1, Time: time.Unix(2, 0), ContentType: "text/plain", Data: []byte("\xff no JSON")}},
	}
	f.Fuzz(func(t *testing.T, id, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, kind := range []Kind{OfEvents, OfChanges} {
			h := http.Header{}
			if id != "" {
				h.Set("Last-Event-ID", id)
			}
			r, err := ParseRequest(h, q, kind)
			if err != nil {
				if domain.ClassOf(err) != domain.Invalid {
					t.Fatalf("%q %q: %v", id, query, err)
				}
				continue
			}
			if r.limit < 0 || r.every < 0 || r.every > maxEvery || len(r.query) > maxQuery {
				t.Fatalf("%q: %+v", query, r)
			}
			if kind == OfEvents {
				for _, record := range records {
					if _, err := r.filter.Match(record); err != nil && strings.Contains(err.Error(), "panic") {
						t.Fatalf("%q: %v", query, err)
					}
				}
			}
		}
	})
}
