package ingress

import "time"

// timedRows are providers that sign a time with the body, in a header of its own or in that of the signature.
var timedRows = []Provider{
	{
		Name: "zoom", Confidence: VendorPage, Secret: "the app's secret token",
		Docs: "https://developers.zoom.us/docs/api/webhooks/#verify-webhook-events",
		Scheme: Scheme{
			Header: "X-Zm-Signature", Label: "v0=", TimeHeader: "X-Zm-Request-Timestamp", Tolerance: 5 * time.Minute,
			Message: []Part{Literal("v0:"), Timestamp(), Literal(":"), Body()},
		},
		Type: []Field{InBody("event")}, Subject: []Field{InBody("payload.object.id"), InBody("payload.account_id")},
		Budget: 3 * time.Second, Retry: "3 times: after 5, 30 and 90 minutes", Sample: "meeting.started",
		Note: "The tolerance is Penstock's own.",
	},
	{
		Name: "paddle", Title: "Paddle Billing", Confidence: VendorPage, Secret: "the notification destination's secret key",
		Docs: "https://developer.paddle.com/webhooks/signature-verification",
		Scheme: Scheme{
			Header: "Paddle-Signature", Layout: Pairs, Label: "h1", Separator: ";", TimeKey: "ts", Tolerance: 5 * time.Second,
			Message: []Part{Timestamp(), Literal(":"), Body()},
		},
		Type: []Field{InBody("event_type")}, ID: []Field{InBody("event_id")},
		Subject: []Field{InBody("data.customer_id"), InBody("data.id")},
		Budget:  5 * time.Second, Retry: "3 days", Sample: "transaction.completed",
		Note: "5 s is what Paddle recommends; a clock that is off by more refuses everything. Widen it with tolerance.",
	},
	{
		Name: "calendly", Confidence: VendorPage, Secret: "the subscription's signing key",
		Docs: "https://developer.calendly.com/api-docs/4c305798a61d3-webhook-signatures",
		Scheme: Scheme{
			Header: "Calendly-Webhook-Signature", Layout: Pairs, Label: "v1", TimeKey: "t", Tolerance: 3 * time.Minute,
			Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Type: []Field{InBody("event")}, Subject: []Field{InBody("payload.uri")}, Retry: "24 hours", Sample: "invitee.created",
	},
	{
		Name: "twitch", Title: "Twitch EventSub", Confidence: VendorPage, Secret: "the subscription's secret",
		Docs: "https://dev.twitch.tv/docs/eventsub/handling-webhook-events/#verifying-the-event-message",
		Scheme: Scheme{
			Header: "Twitch-Eventsub-Message-Signature", Label: "sha256=",
			TimeHeader: "Twitch-Eventsub-Message-Timestamp", Unit: ISO, Tolerance: 10 * time.Minute,
			Message: []Part{HeaderText("Twitch-Eventsub-Message-Id"), Timestamp(), Body()},
		},
		Type:    []Field{InHeader("Twitch-Eventsub-Subscription-Type"), InHeader("Twitch-Eventsub-Message-Type")},
		ID:      []Field{InHeader("Twitch-Eventsub-Message-Id")},
		Subject: []Field{InBody("event.broadcaster_user_id"), InBody("subscription.id")},
		Keep:    []string{"twitch-eventsub-*"}, Budget: 3 * time.Second, Sample: "channel.follow",
	},
	{
		Name: "zendesk", Confidence: VendorPage, Secret: "the webhook's signing secret",
		Docs: "https://developer.zendesk.com/documentation/webhooks/verifying/",
		Scheme: Scheme{
			Header: "X-Zendesk-Webhook-Signature", Encoding: Base64,
			TimeHeader: "X-Zendesk-Webhook-Signature-Timestamp", Unit: ISO, Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Body()},
		},
		Type: []Field{InBody("type")}, ID: []Field{InHeader("X-Zendesk-Webhook-Invocation-Id")},
		Subject: []Field{InBody("detail.id"), InBody("subject")}, Keep: []string{"x-zendesk-*"},
		Budget: 12 * time.Second, Retry: "3 times for 409, and for 429 and 503 with Retry-After", Sample: "zen:event-type:ticket.created",
	},
	{
		Name: "airwallex", Confidence: ThirdParty, Secret: "the webhook's secret",
		Docs: "https://www.airwallex.com/docs/developer-tools__listen-for-webhook-events",
		Scheme: Scheme{
			Header: "X-Signature", TimeHeader: "X-Timestamp", Unit: Milliseconds, Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Body()},
		},
		Type: []Field{InBody("name")}, ID: []Field{InBody("id")}, Subject: []Field{InBody("data.object.id")}, Sample: "payment_intent.succeeded",
	},
	{
		Name: "buildkite", Confidence: ThirdParty, Secret: "the webhook's token",
		Docs: "https://buildkite.com/docs/apis/webhooks/pipelines#webhook-signature",
		Scheme: Scheme{
			Header: "X-Buildkite-Signature", Layout: Pairs, Label: "signature", TimeKey: "timestamp", Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Type: []Field{InBody("event"), InHeader("X-Buildkite-Event")}, ID: []Field{InHeader("X-Buildkite-Request")},
		Subject: []Field{InBody("build.id")}, Sample: "build.finished",
	},
	{
		Name: "box", Confidence: ThirdParty, Secret: "the primary or the secondary signature key",
		Docs: "https://developer.box.com/guides/webhooks/v2/signatures-v2/",
		Scheme: Scheme{
			Header: "Box-Signature-Primary", Headers: []string{"Box-Signature-Secondary"}, Encoding: Base64,
			TimeHeader: "Box-Delivery-Timestamp", Unit: ISO, Tolerance: 10 * time.Minute,
			Message: []Part{Body(), Timestamp()},
		},
		Type: []Field{InBody("trigger")}, ID: []Field{InBody("id"), InHeader("Box-Delivery-Id")}, Subject: []Field{InBody("source.id")},
		Keep: []string{"box-*"}, Budget: 30 * time.Second, Retry: "10 times", Sample: "FILE.UPLOADED",
	},
	{
		Name: "workos", Title: "WorkOS", Confidence: ThirdParty, Secret: "the endpoint's secret",
		Docs: "https://workos.com/docs/events/data-syncing/webhooks",
		Scheme: Scheme{
			Header: "Workos-Signature", Layout: Pairs, Label: "v1", TimeKey: "t", Unit: Milliseconds, Tolerance: 3 * time.Minute,
			Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Type: []Field{InBody("event")}, ID: []Field{InBody("id")}, Subject: []Field{InBody("data.id")}, Retry: "3 days", Sample: "user.created",
	},
	{
		Name: "front", Confidence: ThirdParty, Secret: "the app's signing key",
		Docs: "https://dev.frontapp.com/docs/webhooks-1",
		Scheme: Scheme{
			Header: "X-Front-Signature", Encoding: Base64, TimeHeader: "X-Front-Request-Timestamp", Unit: Milliseconds,
			Tolerance: 5 * time.Minute, Message: []Part{Timestamp(), Literal(":"), Body()},
		},
		Type: []Field{InBody("type")}, ID: []Field{InBody("payload.id"), InBody("id")},
		Subject: []Field{InBody("payload.conversation.id"), InBody("conversation.id")}, Sample: "inbound_received",
	},
	{
		Name: "klaviyo", Confidence: ThirdParty, Secret: "the webhook's secret key",
		Docs: "https://developers.klaviyo.com/en/docs/working_with_system_webhooks",
		Scheme: Scheme{
			Header: "Klaviyo-Signature", TimeHeader: "Klaviyo-Timestamp", Unit: Epoch,
			Message: []Part{Body(), Timestamp()},
		},
		Split: splitKlaviyo, Keep: []string{"klaviyo-webhook-id"}, Sample: "event:klaviyo.sent_sms",
	},
	{
		Name: "webflow", Confidence: ThirdParty, Secret: "the webhook's secret key, or the client secret",
		Docs: "https://developers.webflow.com/data/docs/working-with-webhooks",
		Scheme: Scheme{
			Header: "X-Webflow-Signature", TimeHeader: "X-Webflow-Timestamp", Unit: Milliseconds, Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Literal(":"), Body()},
		},
		Type: []Field{InBody("triggerType")}, Subject: []Field{InBody("payload.id"), InBody("payload.siteId")},
		Sample: "form_submission",
	},
	{
		Name: "customerio", Title: "Customer.io", Confidence: ThirdParty, Secret: "the webhook's signing key",
		Docs: "https://docs.customer.io/journeys/webhooks/",
		Scheme: Scheme{
			Header: "X-Cio-Signature", TimeHeader: "X-Cio-Timestamp", Tolerance: 5 * time.Minute,
			Message: []Part{Literal("v0:"), Timestamp(), Literal(":"), Body()},
		},
		Type: []Field{Joined(".", InBody("object_type"), InBody("metric"))}, ID: []Field{InBody("event_id")},
		Subject: []Field{InBody("data.customer_id"), InBody("data.identifiers.cio_id")}, Budget: 4 * time.Second, Sample: "email.opened",
	},
	stamped("mux", "Mux", "Mux-Signature", "v1", "https://www.mux.com/docs/core/verify-webhook-signatures", "the webhook's signing secret",
		"video.asset.ready", []Field{InBody("type")}, []Field{InBody("id")}, []Field{InBody("object.id")}),
	stamped("shippo", "Shippo", "Shippo-Auth-Signature", "v1", "https://docs.goshippo.com/docs/tracking/webhooksecurity/", "the HMAC token",
		"track_updated", []Field{InBody("event")}, nil, []Field{InBody("data.tracking_number"), InBody("data.object_id")}),
	stamped("tiktok", "TikTok", "Tiktok-Signature", "s", "https://developers.tiktok.com/doc/webhooks-verification/", "the app's client secret",
		"video.publish.completed", []Field{InBody("event")}, nil, []Field{InBody("user_openid")}),
	{
		Name: "persona", Confidence: ThirdParty, Secret: "the webhook's secret",
		Docs: "https://docs.withpersona.com/webhooks-best-practices",
		Scheme: Scheme{
			Header: "Persona-Signature", Layout: Pairs, Label: "v1", TimeKey: "t", Groups: " ", Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Type: []Field{InBody("data.attributes.name")}, ID: []Field{InBody("data.id")},
		Subject: []Field{InBody("data.attributes.payload.data.id")}, Sample: "inquiry.completed",
	},
	{
		Name: "recurly", Confidence: ThirdParty, Secret: "the endpoint's secret",
		Docs: "https://docs.recurly.com/recurly-subscriptions/docs/webhooks",
		Scheme: Scheme{
			Header: "Recurly-Signature", Layout: Positional, Unit: Epoch, Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Type:    []Field{Joined(".", InBody("object_type"), InBody("event_type"))},
		Subject: []Field{InBody("uuid"), InBody("id")}, Retry: "10 times", Sample: "account.created",
	},
	{
		Name: "sanity", Confidence: ThirdParty, Secret: "the webhook's secret",
		Docs: "https://www.sanity.io/docs/webhooks",
		Scheme: Scheme{
			Header: "Sanity-Webhook-Signature", Layout: Pairs, Label: "v1", TimeKey: "t", Encoding: Base64URL,
			Unit: Milliseconds, Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Type: []Field{InHeader("Sanity-Operation"), InBody("_type")}, ID: []Field{InHeader("Idempotency-Key")},
		Subject: []Field{InHeader("Sanity-Document-Id"), InBody("_id")}, Keep: []string{"sanity-*"}, Sample: "update",
	},
}

// stamped is the row of a provider that does as Stripe does, with other names.
func stamped(name, title, header, label, docs, secret, sample string, kind, id, subject []Field) Provider {
	return Provider{
		Name: name, Title: title, Confidence: ThirdParty, Secret: secret, Docs: docs,
		Scheme: Scheme{
			Header: header, Layout: Pairs, Label: label, TimeKey: "t", Tolerance: 5 * time.Minute,
			Message: []Part{Timestamp(), Literal("."), Body()},
		},
		Type: kind, ID: id, Subject: subject, Sample: sample,
	}
}
