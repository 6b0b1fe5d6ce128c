"""main.py OUT.json CERTIFICATES: vectors by packages from PyPI."""

import base64
import hashlib
import hmac
import pathlib
import sys
import zlib
from urllib.parse import parse_qsl, urlencode

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from record import AT, JSON, change, record, write

SECRET = "penstock-test-secret"
RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


def mac(digest, text, secret=SECRET):
    return hmac.new(secret.encode(), text.encode(), digest)


def b64(m):
    return base64.b64encode(m.digest()).decode()


def vendors():
    import stripe

    body = '{"id":"evt_2","object":"event","type":"invoice.paid","data":{"object":{"id":"in_1","customer":"cus_9","number":"Ü-1"}}}'
    record(
        "stripe", "stripe", "WebhookSignature.verify_header", "an invoice", "whsec_penstock_test_secret", body,
        JSON | {"Stripe-Signature": f"t={AT},v1={mac('sha256', f'{AT}.{body}', 'whsec_penstock_test_secret').hexdigest()}"},
        lambda v: stripe.WebhookSignature.verify_header(v["body"], v["headers"]["Stripe-Signature"], v["secret"], 300),
        sig="Stripe-Signature", late=301,
    )

    from slack_sdk.signature import SignatureVerifier

    body = "payload=" + urlencode({"": '{"type":"block_actions","team":{"id":"T1"},"channel":{"id":"C1"},"text":"naïve"}'})[1:]
    record(
        "slack", "slack_sdk", "SignatureVerifier.generate_signature and is_valid", "an action", SECRET, body,
        {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Slack-Request-Timestamp": str(AT),
            "X-Slack-Signature": SignatureVerifier(SECRET).generate_signature(timestamp=str(AT), body=body),
        },
        lambda v: SignatureVerifier(v["secret"]).is_valid(
            v["body"], v["headers"]["X-Slack-Request-Timestamp"], v["headers"]["X-Slack-Signature"]
        ),
        sig="X-Slack-Signature", late=301,
    )

    from twilio.request_validator import RequestValidator

    url = "https://hooks.example.com/hooks/twilio"
    body = "CallSid=CA1&CallStatus=completed&From=%2B14158675310&To=%2B18005551212&CallerName=J%C3%BCrgen"
    record(
        "twilio", "twilio", "RequestValidator.compute_signature and validate", "a call", SECRET, body,
        {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Twilio-Signature": RequestValidator(SECRET).compute_signature(url, dict(parse_qsl(body))),
        },
        lambda v: RequestValidator(v["secret"]).validate(
            v["url"], dict(parse_qsl(v["body"])), v["headers"]["X-Twilio-Signature"]
        ),
        url=url, sig="X-Twilio-Signature",
    )

    from sendgrid.helpers.eventwebhook import EventWebhook

    key = ec.generate_private_key(ec.SECP256R1())
    public = base64.b64encode(
        key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).decode()
    body = '[{"email":"hello@example.com","event":"open","sg_event_id":"b3Blbi0x","timestamp":1768478400}]'
    record(
        "sendgrid", "sendgrid", "EventWebhook.verify_signature", "an open", public, body,
        JSON | {
            "X-Twilio-Email-Event-Webhook-Timestamp": str(AT),
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(
                key.sign(f"{AT}{body}".encode(), ec.ECDSA(hashes.SHA256()))
            ).decode(),
        },
        lambda v: EventWebhook(v["secret"]).verify_signature(
            v["body"], v["headers"]["X-Twilio-Email-Event-Webhook-Signature"], v["headers"]["X-Twilio-Email-Event-Webhook-Timestamp"]
        ),
        sig="X-Twilio-Email-Event-Webhook-Signature",
    )

    import discord_interactions

    signer = Ed25519PrivateKey.generate()
    body = '{"id":"845027738276462632","type":2,"application_id":"1","data":{"name":"größe"},"channel_id":"645027906669510667"}'
    record(
        "discord", "discord-interactions", "verify_key", "an interaction", signer.public_key().public_bytes(*RAW).hex(), body,
        JSON | {"X-Signature-Timestamp": str(AT), "X-Signature-Ed25519": signer.sign(f"{AT}{body}".encode()).hex()},
        lambda v: discord_interactions.verify_key(
            v["body"].encode(), v["headers"]["X-Signature-Ed25519"], v["headers"]["X-Signature-Timestamp"], v["secret"]
        ),
        sig="X-Signature-Ed25519",
    )


def paypal(certificates):
    from OpenSSL import crypto
    from paypalrestsdk.notifications import WebhookEvent

    read = {p.name: p.read_bytes() for p in pathlib.Path(certificates).iterdir()}
    certificate = crypto.load_certificate(crypto.FILETYPE_PEM, read["paypal.pem"])
    store = crypto.X509Store()
    store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, read["root.pem"]))
    WebhookEvent._get_cert = staticmethod(lambda url: certificate)
    WebhookEvent._get_certificate_store = classmethod(lambda cls: store)
    key = serialization.load_pem_private_key(read["paypal.key"], None)
    url = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77"
    hook = "4JH86294D6297924G"
    body = '{"id":"WH-0G2756385H040842W","event_type":"PAYMENT.SALE.COMPLETED","resource":{"id":"4EU7004268015634R","note":"Größe"}}'
    head = {
        "PAYPAL-TRANSMISSION-ID": "dfb3be50-fd74-11e4-8bf3-77339302725b",
        "PAYPAL-TRANSMISSION-TIME": "2026-01-15T12:00:00Z",
        "PAYPAL-CERT-URL": url,
        "PAYPAL-AUTH-ALGO": "SHA256withRSA",
    }
    text = "|".join([head["PAYPAL-TRANSMISSION-ID"], head["PAYPAL-TRANSMISSION-TIME"], hook, str(zlib.crc32(body.encode()))])
    signature = base64.b64encode(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()
    record(
        "paypal", "paypalrestsdk", "WebhookEvent.verify", "the certificate is fetched", hook, body,
        JSON | head | {"PAYPAL-TRANSMISSION-SIG": signature},
        lambda v: WebhookEvent.verify(
            v["headers"]["PAYPAL-TRANSMISSION-ID"], v["headers"]["PAYPAL-TRANSMISSION-TIME"], v["secret"], v["body"],
            v["headers"]["PAYPAL-CERT-URL"], v["headers"]["PAYPAL-TRANSMISSION-SIG"], v["headers"]["PAYPAL-AUTH-ALGO"],
        ),
        sig="PAYPAL-TRANSMISSION-SIG",
        settings={"fetched": {url: read["paypal.pem"].decode()}, "root": read["root.pem"].decode()},
        alter=[{"note": "of another webhook", "reason": "wrong-signature", "secret": "4JH86294D6297924H"}],
    )


def anymail():
    """Mandrill, Postmark and SparkPost by django-anymail, whose views are given requests of Django's own making."""
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"], SECRET_KEY="x", USE_TZ=True, DEFAULT_CHARSET="utf-8", TIME_ZONE="UTC",
        SECURE_PROXY_SSL_HEADER=None, INSTALLED_APPS=["anymail"],
    )
    django.setup()
    from anymail.webhooks.mandrill import MandrillCombinedWebhookView
    from anymail.webhooks.postmark import PostmarkTrackingWebhookView
    from anymail.webhooks.sparkpost import SparkPostTrackingWebhookView
    from django.test import RequestFactory

    def view(cls, v, **options):
        request = RequestFactory().generic(
            v["method"], v["url"].removeprefix("https://hooks.example.com"), v["body"].encode(), secure=True,
            content_type=v["headers"]["Content-Type"], headers=v["headers"] | {"Host": "hooks.example.com"},
        )
        return cls.as_view(**options)(request).status_code == 200

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    events = '[{"event":"open","ts":1768478400,"_id":"b47d2","msg":{"_id":"b47d2","email":"zoë@example.com","state":"sent"}}]'
    body = urlencode({"mandrill_events": events})
    url = "https://hooks.example.com/hooks/mandrill"
    record(
        "mandrill", "django-anymail", "MandrillCombinedWebhookView", "an open", SECRET, body,
        form | {"X-Mandrill-Signature": b64(mac("sha1", url + "mandrill_events" + events))},
        lambda v: view(MandrillCombinedWebhookView, v, webhook_key=v["secret"]),
        by="other", url=url, sig="X-Mandrill-Signature",
        alter=[{"note": "another URL", "reason": "wrong-signature", "url": url + "s"}],
    )
    basic = "hook:s3cret"
    head = JSON | {"Authorization": "Basic " + base64.b64encode(basic.encode()).decode()}
    postmark = (
        '{"RecordType":"Delivery","MessageID":"883953f4-6105-42a2-a16a-77a8eac79483","Recipient":"j@example.com",'
        '"DeliveredAt":"2026-01-15T12:00:00Z","Details":"OK"}'
    )
    sparkpost = (
        '[{"msys":{"message_event":{"type":"delivery","event_id":"92356927693813856","message_id":"000443ee14578172be22",'
        '"timestamp":"1768478400","rcpt_to":"j@example.com"}}}]'
    )
    for provider, cls, body in [
        ("postmark", PostmarkTrackingWebhookView, postmark),
        ("sparkpost", SparkPostTrackingWebhookView, sparkpost),
    ]:
        record(
            provider, "django-anymail", cls.__name__, "nothing is signed", basic, body, head,
            lambda v, cls=cls: view(cls, v, basic_auth=[v["secret"]]),
            by="other", unsigned=True, sig="Authorization",
            alter=[{"note": "another secret", "reason": "wrong-signature", "secret": change(basic)}],
        )


def airtable():
    from pyairtable.models import WebhookNotification

    secret = base64.b64encode(b"penstock test secret, 32 bytes!!").decode()
    body = '{"base":{"id":"app00000000000000"},"webhook":{"id":"ach00000000000000"},"timestamp":"2026-01-15T12:00:00.000Z"}'
    signature = hmac.new(base64.b64decode(secret), body.encode(), "sha256").hexdigest()
    record(
        "airtable", "pyairtable", "WebhookNotification.from_request", "a ping without content", secret, body,
        JSON | {"X-Airtable-Content-MAC": f"hmac-sha256={signature}"},
        lambda v: WebhookNotification.from_request(v["body"], v["headers"]["X-Airtable-Content-MAC"], v["secret"]) is not None,
        by="other", sig="X-Airtable-Content-MAC",
    )


vendors()
airtable()
paypal(sys.argv[2])
anymail()
write(sys.argv[1])
