package egress

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

func TestFilter(t *testing.T) {
	events := map[string]domain.Event{
		"issue":  {Type: "github.issues.opened", Source: "/sources/github", Stream: "github/octo/hello#12"},
		"push":   {Type: "github.push", Source: "/sources/github-2", Stream: "github/octo/hello"},
		"credit": {Type: "billing.credit.granted", Source: "/commands/GrantCredit", Stream: "billing/cus_9,a"},
	}
	for query, want := range map[string]string{
		"":                                          "issue push credit",
		"cursor=x&from=latest":                      "issue push credit",
		"type=github.push":                          "push",
		"type=github.*":                             "issue push",
		"type=*.opened,billing.*":                   "issue credit",
		"type=*.opened&type=billing.*":              "issue credit",
		"source=/sources/github":                    "issue",
		"source=/sources/github*":                   "issue push",
		"stream=github/octo/hello":                  "push",
		"stream=github/octo/hello*":                 "issue push",
		"stream=github/octo/hello%2312,billing/*":   "issue credit",
		"stream=billing/cus_9*":                     "credit",
		"type=github.*&stream=billing/*":            "",
		"type=*&source=/commands/*&stream=billing*": "credit",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseFilter(q)
		if err != nil {
			t.Errorf("%q: %v", query, err)
			continue
		}
		var got []string
		for _, name := range []string{"issue", "push", "credit"} {
			e := events[name]
			if yes, err := f.Match(&eventstore.Record{Event: &e}); err != nil {
				t.Errorf("%q: %v", query, err)
			} else if yes {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q matches %q, want %q", query, got, want)
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("a,", maxPatterns+1), ",")
	long := strings.Repeat("a", maxPatternLen+1)
	for _, c := range []struct{ field, value string }{
		{"type", ""}, {"type", "a,"}, {"type", many}, {"type", long}, {"type", "a\nb"}, {"type", "\xff"},
		{"source", ""}, {"source", many}, {"source", long},
		{"stream", ""}, {"stream", "billing"}, {"stream", "a/b,c"}, {"stream", long + "*"},
	} {
		_, err := ParseFilter(url.Values{c.field: {c.value}})
		if e, ok := errors.AsType[*domain.Error](err); !ok || e.Class != domain.Invalid || e.Field != c.field {
			t.Errorf("%s=%.20q: %v", c.field, c.value, err)
		}
	}
	if _, err := ParseFilter(url.Values{"type": {many[:len(many)-2]}}); err != nil {
		t.Errorf("%d patterns: %v", maxPatterns, err)
	}
}
