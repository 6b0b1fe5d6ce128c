package ingress

import (
	"strings"

	"github.com/penstock-io/penstock/domain"
)

// maxChallenge bounds what is echoed to a provider; Slack's challenges have about 52 bytes.
const maxChallenge = 256

// challengeReply answers the challenge of a request whose signature was verified. A challenge is letters, digits and
// "-_.=" and nothing else: text of that kind is no script for a browser, and it can't be the message of a signature
// that someone would like to have made for them.
//
// Slack: https://docs.slack.dev/reference/events/url_verification
func challengeReply(challenge string) (reply, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.="
	if challenge == "" || len(challenge) > maxChallenge || strings.Trim(challenge, letters) != "" {
		return reply{}, domain.Invalidf("challenge", "a challenge is 1 to %d letters, digits and -_.=", maxChallenge)
	}
	return reply{status: 200, contentType: "text/plain; charset=utf-8", body: []byte(challenge)}, nil
}
