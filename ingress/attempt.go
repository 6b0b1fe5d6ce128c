package ingress

import (
	"net/http"
	"strconv"
)

// attempts are the headers in which providers count the tries of a delivery, with the number that the first one has.
var attempts = []struct {
	header string
	first  int
}{
	{"X-Slack-Retry-Num", 0}, // on retries alone: 1, 2, 3 (https://docs.slack.dev/apis/events-api/#retries)
	{"X-Attempt-Number", 1},  // Bitbucket Cloud (https://support.atlassian.com/bitbucket-cloud/docs/event-payloads/)
}

// maxAttempt bounds what is believed: no provider tries that often.
const maxAttempt = 1000

// attemptOf returns which try of the provider a request is, from 1, or 0 when its headers don't say. No signature covers
// them: it is good for counting, and for nothing else.
func attemptOf(header http.Header) int {
	for _, a := range attempts {
		values := header[a.header]
		if len(values) != 1 {
			continue
		}
		if n, err := strconv.Atoi(values[0]); err == nil && n >= a.first && n <= maxAttempt {
			return n - a.first + 1
		}
	}
	return 0
}
