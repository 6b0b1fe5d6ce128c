package ingress

import (
	"crypto/sha1"
	"time"
)

// publicKeyRows are providers that sign with a key that only they have, and those that send tokens (JWT).
var publicKeyRows = []Provider{
	{
		Name: "sendgrid", Title: "SendGrid Event Webhook", Confidence: VendorPage, Secret: "the verification key, in base64",
		Docs: "https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features",
		Scheme: Scheme{
			Algorithm: ECDSA, Header: "X-Twilio-Email-Event-Webhook-Signature", Encoding: Base64, Key: PublicKeys,
			TimeHeader: "X-Twilio-Email-Event-Webhook-Timestamp", Message: []Part{Timestamp(), Body()},
		},
		Split: splitSendGrid, Retry: "24 hours", Sample: "delivered",
		Note: "Signing has to be switched on. No window for the time is documented, so none is enforced.",
	},
	{
		Name: "discord", Title: "Discord (webhook events and interactions)", Confidence: VendorPage, Secret: "the application's public key, in hexadecimal",
		Docs: "https://docs.discord.com/developers/events/webhook-events",
		Scheme: Scheme{
			Algorithm: Ed25519, Header: "X-Signature-Ed25519", Key: PublicKeys, TimeHeader: "X-Signature-Timestamp",
			Message: []Part{Timestamp(), Body()},
		},
		Type: []Field{InBody("event.type"), Joined(".", Fixed("interaction"), InBody("type"))},
		ID:   []Field{InBody("id")}, Subject: []Field{InBody("event.data.user.id"), InBody("channel_id"), InBody("user.id"), InBody("application_id")},
		Budget: 3 * time.Second, Sample: "APPLICATION_AUTHORIZED",
		Note: "It sends wrong signatures on purpose, and wants 401 for them.",
	},
	{
		Name: "telnyx", Confidence: Known, Secret: "the public key, in base64",
		Docs: "https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks",
		Scheme: Scheme{
			Algorithm: Ed25519, Header: "Telnyx-Signature-Ed25519", Encoding: Base64, Key: PublicKeys,
			TimeHeader: "Telnyx-Timestamp", Tolerance: 5 * time.Minute, Message: []Part{Timestamp(), Literal("|"), Body()},
		},
		Type: []Field{InBody("data.event_type")}, ID: []Field{InBody("data.id")},
		Subject: []Field{InBody("data.payload.call_session_id"), InBody("data.payload.id")}, Budget: 2 * time.Second, Sample: "call.initiated",
	},
	{
		Name: "wise", Confidence: Known, Secret: "the public key, PEM",
		Docs:   "https://docs.wise.com/guides/developer/webhooks",
		Scheme: Scheme{Algorithm: RSA, Header: "X-Signature-Sha256", Encoding: Base64, Key: PublicKeys},
		Type:   []Field{InBody("event_type")}, ID: []Field{InHeader("X-Delivery-Id")}, Subject: []Field{InBody("data.resource.id")},
		Retry: "2 weeks, ever less often", Sample: "transfers#state-change",
	},
	{
		Name: "paypal", Title: "PayPal", Confidence: VendorPage, Secret: "the webhook's id",
		Docs: "https://developer.paypal.com/api/rest/webhooks/rest/",
		Scheme: Scheme{
			Algorithm: RSA, Header: "Paypal-Transmission-Sig", Encoding: Base64, Key: VendorPublicKey, Vendor: payPalCertificate,
			TimeHeader: "Paypal-Transmission-Time", Unit: ISO,
			Message: []Part{
				HeaderText("Paypal-Transmission-Id"), Literal("|"), Timestamp(), Literal("|"), SecretText(), Literal("|"), BodyCRC32(),
			},
		},
		Binding: MetadataSigned, Verification: "paypal; id+timestamp+crc32",
		Type: []Field{InBody("event_type")}, ID: []Field{InBody("id")}, Subject: []Field{InBody("resource.id")},
		Keep: []string{"paypal-*"}, Retry: "25 times in 3 days", Sample: "PAYMENT.CAPTURE.COMPLETED",
		Note: "Only a CRC-32 binds the body: whoever holds one valid request can make another body for it. Look up what matters.",
	},
	{
		Name: "sns", Title: "Amazon SNS", Confidence: VendorPage, Secret: "the topic's ARN",
		Docs: "https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html",
		Scheme: Scheme{
			Algorithm: RSA, Field: "Signature", Encoding: Base64, Key: VendorPublicKey, Vendor: snsCertificate, KeyField: "SigningCertURL",
			Digest: sha1.New, If: "SignatureVersion", Is: "1", Pinned: "TopicArn", Credential: aTopic, TimeField: "Timestamp", Unit: ISO, Tolerance: 2 * time.Hour,
			Message: snsMessage,
			Also: []Scheme{{
				Algorithm: RSA, Field: "Signature", Encoding: Base64, Key: VendorPublicKey, Vendor: snsCertificate, KeyField: "SigningCertURL",
				If: "SignatureVersion", Is: "2", Pinned: "TopicArn", Credential: aTopic, TimeField: "Timestamp", Unit: ISO, Tolerance: 2 * time.Hour,
				Message: snsMessage,
			}},
		},
		ContentTypes: []string{"text/plain", jsonType},
		Type:         []Field{InBody("Type")}, ID: []Field{InBody("MessageId")}, Subject: []Field{InBody("TopicArn")},
		Keep: []string{"x-amz-sns-*"}, Budget: 15 * time.Second, Retry: "50 times in an hour, unless the topic says otherwise", Sample: "Notification",
		Verification: "sns; timestamp+fields",
		Note:         "MessageAttributes and UnsubscribeURL are not signed. Raw message delivery isn't either, and is not accepted. The tolerance is Penstock's own: SNS keeps the first time in retries.",
	},
	plaid("plaid", "Plaid", "production.plaid.com"),
	plaid("plaid-sandbox", "Plaid, sandbox", "sandbox.plaid.com"),
	{
		Name: "ebay", Title: "eBay", Confidence: ThirdParty, Secret: "client_id:client_secret of the application, or the public key",
		Docs: "https://developer.ebay.com/api-docs/commerce/notification/overview.html",
		Scheme: Scheme{
			Algorithm: ECDSA, Digest: sha1.New, Header: "X-Ebay-Signature", Layout: Enveloped, Encoding: Base64,
			Key: VendorPublicKey, Vendor: (&eBayKeys{host: "api.ebay.com"}).find, Credential: aPairOrKey,
		},
		Type: []Field{InBody("metadata.topic")}, ID: []Field{InBody("notification.notificationId")},
		Subject: []Field{InBody("notification.data.userId")}, Budget: 3 * time.Second, Retry: "24 hours, for account deletions",
		Sample: "MARKETPLACE_ACCOUNT_DELETION",
	},
	{
		Name: "kinde", Confidence: ThirdParty, Secret: "the issuer, https://….kinde.com",
		Docs: "https://docs.kinde.com/integrate/webhooks/about-webhooks/",
		Scheme: Scheme{
			Algorithm: JWT, InBody: true, Key: VendorPublicKey, Vendor: issuerKey, Credential: anIssuer, Claims: &Claims{Algorithm: RS256},
		},
		Verification: "kinde; body", ContentTypes: []string{"application/jwt", "text/plain"},
		Type: []Field{InBody("type")}, ID: []Field{InBody("event_id")}, Subject: []Field{InBody("data.user.id"), InBody("data.organization.code")},
		Sample: "user.created", Note: "The body is a token. The event has it as it was sent; rules and streams see its claims.",
	},
	{
		Name: "vonage", Confidence: ThirdParty, Secret: "the signature secret",
		Docs: "https://developer.vonage.com/en/getting-started/concepts/webhooks",
		Scheme: Scheme{
			Algorithm: JWT, Header: "Authorization", Label: "Bearer ", Claims: &Claims{Algorithm: HS256, BodyHash: "payload_hash"},
		},
		Verification: "vonage; body",
		Type:         []Field{InBody("status"), InBody("message_type"), InBody("type")},
		Subject:      []Field{InBody("conversation_uuid"), InBody("message_uuid"), InBody("from")}, Sample: "delivered",
	},
	{
		Name: "netlify", Confidence: ThirdParty, Secret: "the JWS secret token of the notification",
		Docs: "https://docs.netlify.com/deploy/deploy-notifications/#payload-signature",
		Scheme: Scheme{
			Algorithm: JWT, Header: "X-Webhook-Signature", Claims: &Claims{Algorithm: HS256, Issuer: "netlify", BodyHash: "sha256"},
		},
		Verification: "netlify; body",
		Type:         []Field{InHeader("X-Netlify-Event"), InBody("state")}, Subject: []Field{InBody("site_id"), InBody("id")}, Sample: "deploy_created",
	},
	{
		Name: "messagebird", Title: "MessageBird", Confidence: ThirdParty, Secret: "the signing key",
		Docs: "https://developers.messagebird.com/api/#verifying-http-requests",
		Scheme: Scheme{
			Algorithm: JWT, Header: "Messagebird-Signature-Jwt",
			Claims: &Claims{Algorithm: HS256, Issuer: "MessageBird", BodyHash: "payload_hash", URLHash: "url_hash", Expiry: true},
		},
		Verification: "messagebird; url+body", ContentTypes: []string{jsonType, formType},
		Type: []Field{InBody("type"), InBody("status")}, Subject: []Field{InBody("message.id"), InBody("id")}, Sample: "message.created",
	},
}

// snsMessage is what is signed of any type of message. A notification has no SubscribeURL and no Token, a confirmation
// no Subject; the type stands last, so that none can be taken for another.
var snsMessage = []Part{
	JSONLines("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}

func plaid(name, title, host string) Provider {
	return Provider{
		Name: name, Title: title, Confidence: ThirdParty, Secret: "client_id:secret, to ask for the key",
		Docs: "https://plaid.com/docs/api/webhooks/webhook-verification/",
		Scheme: Scheme{
			Algorithm: JWT, Header: "Plaid-Verification", Key: VendorPublicKey, Vendor: plaidKey(host), Credential: aPairOrKey, Tolerance: 5 * time.Minute,
			Claims: &Claims{Algorithm: ES256, BodyHash: "request_body_sha256", IssuedAt: true},
		},
		Verification: name + "; timestamp+body",
		Type:         []Field{Joined(".", InBody("webhook_type"), InBody("webhook_code"))}, Subject: []Field{InBody("item_id")}, Repeats: true,
		Budget: 10 * time.Second, Retry: "24 hours", Sample: "TRANSACTIONS.SYNC_UPDATES_AVAILABLE",
		Note: "Its requests have no id, and the same body whenever the same happens again: each is a delivery of its own, also one sent again.",
	}
}
