package ingress

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
)

// handshakes are the handshakes of each provider. Whoever isn't here has none: it sends webhooks at once.
var handshakes = map[string][]handshake{
	"slack": {{
		name: "url_verification", docs: "https://docs.slack.dev/reference/events/url_verification", method: http.MethodPost,
		when: []mark{{inBody, "type", "url_verification"}}, token: mark{in: inBody, name: "challenge"}, letters: wordLetters,
		proof: bySignature, answer: echo,
	}},
	"twitch": {{
		name: "webhook_callback_verification", docs: "https://dev.twitch.tv/docs/eventsub/handling-webhook-events/#responding-to-a-challenge-request",
		method: http.MethodPost, when: []mark{{inHeader, "Twitch-Eventsub-Message-Type", "webhook_callback_verification"}},
		token: mark{in: inBody, name: "challenge"}, letters: wordLetters, proof: bySignature, answer: echo,
	}},
	// Discord tries bad signatures as well, and registers only what answers them with 401.
	"discord": {
		{
			name: "webhook event PING", docs: "https://docs.discord.com/developers/events/webhook-events", method: http.MethodPost,
			when: []mark{{inBody, "type", "0"}}, proof: bySignature,
			answer: func(context.Context, *Handler, asked) (reply, error) { return reply{status: http.StatusNoContent}, nil },
		},
		{
			name: "interaction PING", docs: "https://docs.discord.com/developers/interactions/overview", method: http.MethodPost,
			when: []mark{{inBody, "type", "1"}, {inBody, "token", ""}}, proof: bySignature, // an event of type 1 has no token
			answer: func(context.Context, *Handler, asked) (reply, error) { return replyJSON(map[string]int{"type": 1}) },
		},
	},
	"zoom": {{
		name: "endpoint.url_validation", docs: "https://developers.zoom.us/docs/api/webhooks/#validate-your-webhook-endpoint",
		method: http.MethodPost, when: []mark{{inBody, "event", "endpoint.url_validation"}},
		token: mark{in: inBody, name: "payload.plainToken"}, letters: wordLetters, proof: byEither, needs: needsSecret,
		answer: func(_ context.Context, _ *Handler, a asked) (reply, error) {
			m := hmac.New(sha256.New, a.route.secret(a.at))
			m.Write([]byte(a.token))
			return replyJSON(map[string]string{"plainToken": a.token, "encryptedToken": hex.EncodeToString(m.Sum(nil))})
		},
	}},
	"x": {{
		name: "crc", docs: "https://docs.x.com/x-api/webhooks/quickstart", method: http.MethodGet,
		token: mark{in: inQuery, name: "crc_token"}, letters: wordLetters, proof: byWindow, needs: needsSecret,
		signs: func(body []byte) []byte { return body },
		answer: func(_ context.Context, _ *Handler, a asked) (reply, error) {
			m := hmac.New(sha256.New, a.route.secret(a.at))
			m.Write([]byte(a.token))
			return replyJSON(map[string]string{"response_token": "sha256=" + base64.StdEncoding.EncodeToString(m.Sum(nil))})
		},
	}},
	// The verify token is the public key, which stands before the MAC. Like Braintree's own libraries, only 20 to 32
	// hexadecimal digits are a challenge: what Braintree signs is the base64 of XML.
	"braintree": {{
		name: "bt_challenge", docs: "https://developer.paypal.com/braintree/docs/guides/webhooks/create", method: http.MethodGet,
		token: mark{in: inQuery, name: "bt_challenge"}, letters: hexLetters, max: 32, proof: byWindow, needs: needsSecret | needsVerifyToken,
		signs: func(body []byte) []byte {
			form, err := url.ParseQuery(string(body))
			if err != nil {
				return nil
			}
			return []byte(form.Get("bt_payload"))
		},
		answer: func(_ context.Context, _ *Handler, a asked) (reply, error) {
			key := sha1.Sum(a.route.secret(a.at))
			m := hmac.New(sha1.New, key[:])
			m.Write([]byte(a.token))
			return replyText(string(a.route.source.VerifyToken) + "|" + hex.EncodeToString(m.Sum(nil)))
		},
	}},
	// The verify token signs nothing else.
	"ebay": {{
		name: "challenge_code", docs: "https://developer.ebay.com/marketplace-account-deletion", method: http.MethodGet,
		token: mark{in: inQuery, name: "challenge_code"}, letters: wordLetters, proof: byWindow, needs: needsVerifyToken | needsPublicURL,
		answer: func(_ context.Context, _ *Handler, a asked) (reply, error) {
			d := sha256.New()
			for _, s := range []string{a.token, string(a.route.source.VerifyToken), a.route.source.PublicURL} {
				d.Write([]byte(s))
			}
			return replyJSON(map[string]string{"challengeResponse": hex.EncodeToString(d.Sum(nil))})
		},
	}},
	"meta": {{
		name: "hub.challenge", docs: "https://developers.facebook.com/docs/graph-api/webhooks/getting-started#verification-requests",
		method: http.MethodGet, when: []mark{{inQuery, "hub.mode", "subscribe"}}, token: mark{in: inQuery, name: "hub.challenge"},
		letters: wordLetters, proof: byToken, needs: needsVerifyToken, answer: echo,
	}},
	"dropbox": {{
		name: "challenge", docs: "https://www.dropbox.com/developers/reference/webhooks#documentation", method: http.MethodGet,
		token: mark{in: inQuery, name: "challenge"}, letters: wordLetters, proof: byWindow, answer: echo,
	}},
	"microsoft-graph": {{
		name: "validationToken", docs: "https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks#notificationurl-validation",
		method: http.MethodPost, token: mark{in: inQuery, name: "validationToken"}, letters: textLetters, max: 1024, proof: byWindow, answer: echo,
	}},
	"okta": {{
		name: "verification challenge", docs: "https://developer.okta.com/docs/concepts/event-hooks/#one-time-verification-request",
		method: http.MethodGet, token: mark{in: inHeader, name: "X-Okta-Verification-Challenge"}, letters: wordLetters, proof: byEither,
		answer: func(_ context.Context, _ *Handler, a asked) (reply, error) {
			return replyJSON(map[string]string{"verification": a.token})
		},
	}},
	// Whoever comes first teaches the secret, so there is no way to answer for good.
	"asana": {{
		name: "X-Hook-Secret", docs: "https://developers.asana.com/docs/webhooks-guide#the-webhook-handshake", method: http.MethodPost,
		token: mark{in: inHeader, name: "X-Hook-Secret"}, letters: wordLetters, proof: byWindow, learns: true,
		answer: func(_ context.Context, _ *Handler, a asked) (reply, error) {
			return reply{status: http.StatusOK, header: http.Header{"X-Hook-Secret": {a.token}}}, nil
		},
	}},
	"notion": {{
		name: "verification_token", docs: "https://developers.notion.com/reference/webhooks#step-2-verifying-the-subscription",
		method: http.MethodPost, when: []mark{{inBody, "verification_token", ""}}, token: mark{in: inBody, name: "verification_token"},
		letters: wordLetters, proof: byWindow, learns: true,
	}},
	"sns": {{
		name: "SubscriptionConfirmation", docs: "https://docs.aws.amazon.com/sns/latest/dg/SendMessageToHttp.prepare.html", method: http.MethodPost,
		when: []mark{{inBody, "Type", "SubscriptionConfirmation"}}, token: mark{in: inBody, name: "Token"}, letters: wordLetters, max: 1024,
		proof: bySignature, optIn: true, answer: confirmSubscription,
	}},
	"vercel": {{
		name: "x-vercel-verify", docs: "https://vercel.com/docs/drains/reference/logs", method: http.MethodGet, proof: byWindow, needs: needsVerifyToken,
	}},
	// They ask with HEAD whether the URL is there.
	"trello": {{
		name: "HEAD", docs: "https://developer.atlassian.com/cloud/trello/guides/rest-api/webhooks/", method: http.MethodHead, proof: byWindow,
	}},
	"mandrill": {{
		name: "HEAD", docs: "https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/", method: http.MethodHead, proof: byWindow,
	}},
}

func (p Provider) handshakes() []handshake { return handshakes[p.Name] }

// standing is the header that all answers of a provider's sources carry, with the verify token as its value. The value
// is no secret: it only says whose URL it is.
var standing = map[string]string{"vercel": "X-Vercel-Verify"}

func echo(_ context.Context, _ *Handler, a asked) (reply, error) { return replyText(a.token) }

func replyText(text string) (reply, error) {
	return reply{status: http.StatusOK, contentType: "text/plain; charset=utf-8", body: []byte(text)}, nil
}

func replyJSON(v any) (reply, error) {
	b, err := json.Marshal(v)
	return reply{status: http.StatusOK, contentType: jsonType, body: b}, err
}
