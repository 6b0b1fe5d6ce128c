package ingress

import (
	"crypto/sha1"
	"time"
)

// urlRows are providers whose signature covers the address that they called, or a part of it. Their sources need a
// public_url: behind a proxy the address of the request is another one, and forwarded headers can be sent by anybody.
var urlRows = []Provider{
	{
		Name: "twilio", Confidence: VendorPage, Secret: "the account's auth token",
		Docs: "https://www.twilio.com/docs/usage/webhooks/webhooks-security",
		Scheme: Scheme{
			Header: "X-Twilio-Signature", Digest: sha1.New, Encoding: Base64,
			Message: []Part{URL(), SortedFormOrHash("bodySHA256")},
			Or:      [][]Part{{URLOtherPort(), SortedFormOrHash("bodySHA256")}},
		},
		Verification: "twilio; url+body", ContentTypes: []string{formType, jsonType},
		Type: []Field{
			InBody("EventType"), Joined(".", Fixed("message"), InBody("MessageStatus")), Joined(".", Fixed("message"), InBody("SmsStatus")),
			Joined(".", Fixed("call"), InBody("CallStatus")), InBody("type"),
		},
		ID:      []Field{InHeader("I-Twilio-Idempotency-Token")},
		Subject: []Field{InBody("CallSid"), InBody("MessageSid"), InBody("ConversationSid"), InBody("AccountSid")},
		Budget:  15 * time.Second, Retry: "none, but as the URL's #rc= asks for", Sample: "message.delivered",
		Note: "Of a form all fields are signed, of any other body its SHA-256 in the query.",
	},
	{
		Name: "square", Confidence: VendorPage, Secret: "the subscription's signature key",
		Docs: "https://developer.squareup.com/docs/webhooks/step3validate",
		Scheme: Scheme{
			Header: "X-Square-Hmacsha256-Signature", Encoding: Base64, Message: []Part{URL(), Body()},
		},
		Type: []Field{InBody("type")}, ID: []Field{InBody("event_id")}, Subject: []Field{InBody("data.id")},
		Budget: 10 * time.Second, Retry: "24 hours", Sample: "payment.created",
		Note: "The public URL must be what is registered with Square, to the letter.",
	},
	{
		Name: "hubspot", Title: "HubSpot v3", Confidence: VendorPage, Secret: "the app's client secret",
		Docs: "https://developers.hubspot.com/docs/apps/legacy-apps/authentication/validating-requests",
		Scheme: Scheme{
			Header: "X-Hubspot-Signature-V3", Encoding: Base64,
			TimeHeader: "X-Hubspot-Request-Timestamp", Unit: Milliseconds, Tolerance: 5 * time.Minute,
			Message: []Part{Method(), URLDecoded(), Body(), Timestamp()},
		},
		Split: splitHubSpot, Budget: 5 * time.Second, Retry: "10 times in 24 hours", Sample: "contact.creation",
	},
	{
		Name: "trello", Confidence: ThirdParty, Secret: "the application's secret",
		Docs: "https://developer.atlassian.com/cloud/trello/guides/rest-api/webhooks/",
		Scheme: Scheme{
			Header: "X-Trello-Webhook", Digest: sha1.New, Encoding: Base64, Message: []Part{Body(), URL()},
		},
		Type: []Field{InBody("action.type")}, ID: []Field{InBody("action.id")},
		Subject: []Field{InBody("action.data.card.id"), InBody("model.id")}, Retry: "3 times: after 30, 60 and 120 s", Sample: "updateCard",
	},
	{
		Name: "mandrill", Title: "Mailchimp Transactional (Mandrill)", Confidence: ThirdParty, Secret: "the webhook's key",
		Docs: "https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/",
		Scheme: Scheme{
			Header: "X-Mandrill-Signature", Digest: sha1.New, Encoding: Base64, Message: []Part{URL(), SortedForm()},
		},
		Verification: "mandrill; url+body", ContentTypes: []string{formType}, Split: splitMandrill, Sample: "send",
	},
	{
		Name: "contentful", Confidence: VendorPage, Secret: "the request verification secret",
		Docs: "https://www.contentful.com/developers/docs/webhooks/request-verification/",
		Scheme: Scheme{
			Header: "X-Contentful-Signature", TimeHeader: "X-Contentful-Timestamp", Unit: Milliseconds, Tolerance: 30 * time.Second,
			Message: []Part{
				Method(), Literal("\n"), Path(), Literal("\n"), SignedHeaders("X-Contentful-Signed-Headers"), Literal("\n"), Body(),
			},
		},
		ContentTypes: []string{"application/vnd.contentful.management.v1+json", jsonType},
		Type:         []Field{InHeader("X-Contentful-Topic")}, Subject: []Field{InBody("sys.id")},
		Keep: []string{"x-contentful-*"}, Budget: 30 * time.Second, Sample: "ContentManagement.Entry.publish",
	},
	{
		Name: "mercadopago", Title: "Mercado Pago", Confidence: ThirdParty, Secret: "the application's secret signature",
		Docs: "https://www.mercadopago.com.br/developers/en/docs/your-integrations/notifications/webhooks",
		Scheme: Scheme{
			Header: "X-Signature", Layout: Pairs, Label: "v1", TimeKey: "ts", Unit: Epoch,
			Message: []Part{
				Optional("id:", Lower(QueryText("data.id")), ";"), Optional("request-id:", HeaderText("X-Request-Id"), ";"),
				Literal("ts:"), Timestamp(), Literal(";"),
			},
		},
		Binding: MetadataSigned,
		Type:    []Field{InBody("action"), Joined(".", InBody("type"), Fixed("notification")), InBody("topic")}, ID: []Field{InBody("id")},
		Subject: []Field{InBody("data.id")}, Budget: 22 * time.Second, Retry: "every 15 minutes, then less often", Sample: "payment.updated",
		Note: "The signature covers the id in the query and the time, nothing else. Fetch what the id stands for.",
	},
	{
		Name: "atlassian-connect", Title: "Atlassian Connect", Confidence: ThirdParty, Secret: "the shared secret of the installation",
		Docs: "https://developer.atlassian.com/cloud/jira/platform/understanding-jwt-for-connect-apps/",
		Scheme: Scheme{
			Algorithm: JWT, Header: "Authorization", Label: "JWT ", Claims: &Claims{Algorithm: HS256, QueryHash: "qsh", Expiry: true},
		},
		Binding: RequestSigned,
		Type:    []Field{InBody("webhookEvent"), InBody("event")}, Subject: []Field{InBody("issue.key"), InBody("issue.id"), InBody("page.id")},
		Sample: "jira:issue_created",
		Note:   "The token covers method, path and query, not the body. The base URL of the app's descriptor has no path.",
	},
}
