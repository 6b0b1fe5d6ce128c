package ingress

import (
	"net/http"
	"testing"
)

func TestAttempt(t *testing.T) {
	for _, c := range []struct {
		header, value string
		want          int
	}{
		{"X-Slack-Retry-Num", "1", 2},
		{"X-Slack-Retry-Num", "0", 1},
		{"X-Slack-Retry-Num", "-1", 0},
		{"X-Slack-Retry-Num", "many", 0},
		{"X-Slack-Retry-Num", "99999999999999999999", 0},
		{"X-Attempt-Number", "1", 1},
		{"X-Attempt-Number", "3", 3},
		{"X-Attempt-Number", "0", 0},
		{"X-Attempt-Number", "1001", 0},
		{"X-Other", "3", 0},
	} {
		h := http.Header{}
		h.Set(c.header, c.value)
		if got := attemptOf(h); got != c.want {
			t.Errorf("%s: %s is attempt %d, want %d", c.header, c.value, got, c.want)
		}
		if h.Add(c.header, c.value); attemptOf(h) != 0 {
			t.Errorf("%s twice is believed", c.header)
		}
	}
}
