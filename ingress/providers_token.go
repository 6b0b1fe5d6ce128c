package ingress

import "time"

// tokenRows are providers that sign nothing they report: they send a secret along, or sign other fields. Whoever sees one
// request can make any other.
var tokenRows = []Provider{
	{
		Name: "gitlab", Title: "GitLab, secret token", Confidence: VendorPage, Secret: "the webhook's secret token",
		Docs:   "https://docs.gitlab.com/user/project/integrations/webhooks/",
		Scheme: Scheme{Algorithm: Token, Header: "X-Gitlab-Token"},
		Type:   []Field{InHeader("X-Gitlab-Event"), InBody("object_kind"), InBody("event_name")},
		ID:     []Field{InHeader("Idempotency-Key"), InHeader("X-Gitlab-Event-UUID")},
		Subject: []Field{
			InBody("project.path_with_namespace"), InBody("project.id"), InBody("project_id"), InBody("group_id"),
		},
		Keep:    []string{"x-gitlab-instance", "x-gitlab-webhook-uuid"},
		MaxBody: 25 << 20, Budget: 10 * time.Second, Retry: "none; a webhook that fails 4 times in a row rests, ever longer",
		Sample: "Push Hook", Note: "Since GitLab 19.0 there are signatures: see gitlab-signed.",
	},
	{
		Name: "figma", Confidence: VendorPage, Secret: "the webhook's passcode",
		Docs:   "https://developers.figma.com/docs/rest-api/webhooks-security/",
		Scheme: Scheme{Algorithm: Token, Field: "passcode"},
		Type:   []Field{InBody("event_type")}, Subject: []Field{InBody("file_key"), InBody("webhook_id")},
		Retry: "3 times: after 5 minutes, 30 minutes, 3 hours", Sample: "FILE_UPDATE",
		Note: "The passcode in the body is replaced by asterisks before anything is stored.",
	},
	{
		Name: "okta", Title: "Okta event hooks", Confidence: VendorPage, Secret: "the value of the Authorization header",
		Docs:   "https://developer.okta.com/docs/concepts/event-hooks/",
		Scheme: Scheme{Algorithm: Token, Header: "Authorization"}, Split: splitOkta, ID: []Field{InBody("eventId")},
		Budget: 3 * time.Second, Retry: "once", Sample: "user.lifecycle.create",
		Note: "With another header than Authorization, write a row of your own.",
	},
	{
		Name: "microsoft-graph", Title: "Microsoft Graph", Confidence: VendorPage, Secret: "the subscription's clientState",
		Docs:   "https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks",
		Scheme: Scheme{Algorithm: Token, Each: "value", Field: "clientState"}, Split: splitGraph, Repeats: true,
		Budget: 3 * time.Second, Retry: "4 hours", Sample: "created",
		Note: "The clientState of every item must be right. It is replaced by asterisks before anything is stored. Items have ids; requests don't.",
	},
	{
		Name: "telegram", Confidence: ThirdParty, Secret: "the secret_token of setWebhook",
		Docs:   "https://core.telegram.org/bots/api#setwebhook",
		Scheme: Scheme{Algorithm: Token, Header: "X-Telegram-Bot-Api-Secret-Token"},
		Type: []Field{KeyOf(
			"message", "edited_message", "channel_post", "edited_channel_post", "business_connection", "business_message",
			"edited_business_message", "deleted_business_messages", "message_reaction", "message_reaction_count", "inline_query",
			"chosen_inline_result", "callback_query", "shipping_query", "pre_checkout_query", "purchased_paid_media", "poll",
			"poll_answer", "my_chat_member", "chat_member", "chat_join_request", "chat_boost", "removed_chat_boost",
		)},
		ID: []Field{InBody("update_id")},
		Subject: []Field{
			InBody("message.chat"), InBody("edited_message.chat"), InBody("channel_post.chat"), InBody("edited_channel_post.chat"),
			InBody("callback_query.message.chat"), InBody("callback_query.from"), InBody("inline_query.from"), InBody("my_chat_member.chat"),
		},
		Sample: "message",
	},
	{
		Name: "chargebee", Confidence: ThirdParty, Secret: "user:password of basic authentication",
		Docs:   "https://www.chargebee.com/docs/2.0/webhook_settings.html",
		Scheme: Scheme{Algorithm: Basic, Header: "Authorization"},
		Type:   []Field{InBody("event_type")}, ID: []Field{InBody("id")},
		Subject: []Field{InBody("content.customer.id"), InBody("content.subscription.customer_id"), InBody("content.subscription.id")},
		Budget:  20 * time.Second, Retry: "7 times in 2 days", Sample: "subscription_created",
	},
	{
		Name: "postmark", Confidence: ThirdParty, Secret: "user:password of basic authentication",
		Docs:   "https://postmarkapp.com/developer/webhooks/webhooks-overview",
		Scheme: Scheme{Algorithm: Basic, Header: "Authorization"},
		Type:   []Field{InBody("RecordType"), Fixed("Inbound")}, Subject: []Field{InBody("MessageID"), InBody("Recipient")},
		MaxBody: 25 << 20, Retry: "10 times in 10 hours", Sample: "Delivery", // inbound mail has its attachments in it
	},
	{
		Name: "sparkpost", Title: "SparkPost", Confidence: ThirdParty, Secret: "user:password of basic authentication",
		Docs:   "https://developers.sparkpost.com/api/webhooks/",
		Scheme: Scheme{Algorithm: Basic, Header: "Authorization"},
		Split:  splitSparkPost, ID: []Field{InHeader("X-MessageSystems-Batch-Id")}, MaxBody: 10 << 20,
		Budget: 10 * time.Second, Retry: "8 hours", Sample: "batch",
	},
	{
		Name: "mailgun", Confidence: VendorPage, Secret: "the webhook signing key",
		Docs: "https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks",
		Scheme: Scheme{
			Field: "signature.signature", TimeField: "signature.timestamp", Tolerance: 24 * time.Hour,
			Message: []Part{Timestamp(), JSONText("signature.token")},
		},
		Binding: MetadataSigned, Verification: "mailgun; timestamp+token",
		Type: []Field{InBody("event-data.event")},
		// The token is for one use, and signed; the event's id is not, so that it could be another one in every copy of a
		// request.
		ID:      []Field{InBody("signature.token")},
		Subject: []Field{InBody("event-data.message.headers.message-id"), InBody("event-data.recipient")},
		Retry:   "8 hours", Sample: "delivered",
		Note: "What is reported isn't signed. The delivery id is the token, so that a copy with another report in it is a duplicate.",
	},
	{
		Name: "adyen", Title: "Adyen, standard notifications", Confidence: ThirdParty, Secret: "the HMAC key, in hexadecimal",
		Docs: "https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures",
		Scheme: Scheme{
			Each: "notificationItems", Field: "NotificationRequestItem.additionalData.hmacSignature", Encoding: Base64, Key: HexKeys,
			Message: adyenMessage(func(p Part) Part { return p }), Or: [][]Part{adyenMessage(Escaped)},
		},
		Binding: MetadataSigned, Verification: "adyen; fields", Split: splitAdyen,
		Budget: 10 * time.Second, Retry: "30 days", Sample: "AUTHORISATION",
		Note: "Eight fields of each item are signed. Every item must be right. Values with backslashes or colons verify in both forms that are in use.",
	},
}

// adyenMessage is the eight fields of an item, joined by colons, as form has them.
func adyenMessage(form func(Part) Part) (message []Part) {
	for i, field := range []string{
		"pspReference", "originalReference", "merchantAccountCode", "merchantReference", "amount.value", "amount.currency",
		"eventCode", "success",
	} {
		if i > 0 {
			message = append(message, Literal(":"))
		}
		message = append(message, form(JSONText("NotificationRequestItem."+field)))
	}
	return message
}
