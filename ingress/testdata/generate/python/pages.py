"""pages.py OUT.json MESSAGEBIRD.json: vectors that vendors publish, on their pages or in the tests of their own code.

MESSAGEBIRD.json is lib/testdata/webhook-signature-jwt-reference.json of npm messagebird.
"""

import base64
import datetime
import json
import sys

vectors = []


def published(provider, origin, secret, body, headers, *, at=None, url=None, note="", method="POST", valid=True, reason=None):
    when = datetime.datetime.fromtimestamp(at or 1768478400, datetime.timezone.utc)
    vectors.append({
        "provider": provider, "by": "page", "origin": origin, "note": note, "secret": secret, "method": method,
        "url": url or f"https://hooks.example.com/hooks/{provider}", "headers": headers,
        "body": base64.b64encode(body.encode()).decode(), "at": when.strftime("%Y-%m-%dT%H:%M:%S.000Z"), "valid": valid,
    } | ({"reason": reason} if reason else {}))


def changed(*args, **kwargs):
    """The same with an exclamation mark after the body, which nobody signed."""
    published(*args, **kwargs)
    provider, origin, secret, body, headers = args
    published(provider, origin, secret, body + "!", headers, **kwargs | {"note": "body changed", "valid": False, "reason": "wrong-signature"})


changed(
    "github", "https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries",
    "It's a Secret to Everybody", "Hello, World!",
    {"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
)
changed(
    "slack", "https://docs.slack.dev/authentication/verifying-requests-from-slack",
    "8f742231b10e8888abcd99yyyzzz85a5",
    "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
    "&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    "&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    "&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
    {
        "Content-Type": "application/x-www-form-urlencoded", "X-Slack-Request-Timestamp": "1531420618",
        "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    },
    at=1531420618,
)
for provider, prefix, page in [
    ("standard", "webhook", "https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries/go/webhook_test.go"),
    ("svix", "svix", "https://github.com/svix/svix-webhooks/blob/main/go/webhook_test.go"),
]:
    changed(
        provider, page, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", '{"test": 2432232314}',
        {
            "Content-Type": "application/json", f"{prefix}-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            f"{prefix}-timestamp": "1614265330", f"{prefix}-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        at=1614265330,
    )

TWILIO = "https://github.com/twilio/twilio-python/blob/main/tests/unit/test_request_validator.py"
app = "https://mycompany.com/myapp.php?foo=1&bar=2"
form = {"Content-Type": "application/x-www-form-urlencoded"}
changed(
    "twilio", TWILIO, "12345",
    "CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309",
    form | {"X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8="}, url=app, note="the values are signed decoded",
)
published(
    "twilio", TWILIO, "12345", "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234",
    form | {"X-Twilio-Signature": "IK+Dwps556ElfBT0I3Rgjkr1wJU="}, url=app,
    note="of a repeated name each value counts once, and they are sorted",
)
changed(
    "twilio", TWILIO, "12345", '{"property": "value", "boolean": true}',
    {"Content-Type": "application/json", "X-Twilio-Signature": "a9nBmqA0ju/hNViExpshrM61xv4="},
    url=app + "&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620", note="JSON",
)
changed(
    "square", "https://developer.squareup.com/docs/webhooks/step3validate", "asdf1234", '{"hello":"world"}',
    {"Content-Type": "application/json", "X-Square-HmacSha256-Signature": "2kRE5qRU2tR+tBGlDwMEw2avJ7QM4ikPYD/PJ3bd9Og="},
    url="https://example.com/webhook",
)
changed(
    "sendgrid", "https://github.com/sendgrid/sendgrid-nodejs/blob/main/packages/eventwebhook/src/eventwebhook.spec.js",
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==",
    '[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
    '"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
    '"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
    '"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n',
    {
        "Content-Type": "application/json", "X-Twilio-Email-Event-Webhook-Timestamp": "1600112502",
        "X-Twilio-Email-Event-Webhook-Signature":
            "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=",
    },
    at=1600112502, note="the body ends in a line break",
)

ADYEN = "https://github.com/Adyen/adyen-node-api-library/blob/main/src/__tests__/hmacValidator.spec.ts"


def adyen(event, signature):
    return json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": {
        "pspReference": "pspReference", "originalReference": "originalReference", "merchantAccountCode": "merchantAccount",
        "merchantReference": "reference", "amount": {"currency": "EUR", "value": 1000}, "eventCode": event,
        "success": "true", "additionalData": {"hmacSignature": signature},
    }}]})


KEY = "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00"
JSON = {"Content-Type": "application/json"}
published("adyen", ADYEN, KEY, adyen("REPORT_AVAILABLE", "ZNBPtI+oDyyRrLyD1XirkKnQgIAlFc07Vj27TeHsDRE="), JSON)
published("adyen", ADYEN, KEY, adyen("EVENT", "ipnxGCaUZ4l8TUW75a71/ghd2Fe5ffvX0pV4TLTntIc="), JSON)
published(
    "adyen", ADYEN, KEY, adyen("CHARGEBACK", "ipnxGCaUZ4l8TUW75a71/ghd2Fe5ffvX0pV4TLTntIc="), JSON,
    note="event changed", valid=False, reason="wrong-signature",
)
for primary, secondary, key in [
    ("4KvFa5/unRL8aaqOlnbInTwkOmieZkn1ZVzsAJuRipE=", "A" * 43 + "=", "SamplePrimaryKey"),
    ("A" * 43 + "=", "yxxwBNk7tFyQSy95/VNKAf1o+j8WMPJuo/KcFc7OS0Q=", "SampleSecondaryKey"),
]:
    changed(
        "box", "https://developer.box.com/guides/webhooks/v2/signatures-v2", key,
        '{"webhook":{"id":"1234567890"},"trigger":"FILE.UPLOADED","source":{"id":"1234567890","type":"file","name":"Test.txt"}}',
        JSON | {
            "box-delivery-id": "f96bb54b-ee16-4fc5-aa65-8c2d9e5b546f", "box-delivery-timestamp": "2020-01-01T00:00:00-07:00",
            "box-signature-algorithm": "HmacSHA256", "box-signature-version": "1", "box-signature-primary": primary,
            "box-signature-secondary": secondary,
        },
        at=1577862000, note="a time zone that is not UTC",
    )

REASONS = {
    "invalid jwt: claim nbf is in the future": "too-new",
    "invalid jwt: claim exp is in the past": "too-old",
    "invalid jwt: signing method none is invalid": "malformed",
    "invalid jwt: claim payload_hash is not set but payload is present": "missing-header",
}
for provider, page in [
    ("jira", "https://developer.atlassian.com/cloud/jira/platform/webhooks/"),
    ("bitbucket", "https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/"),
]:
    changed(
        provider, page, "It's a Secret to Everybody", "Hello World!",
        {"X-Hub-Signature": "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"},
    )
for body, secret, signature in [
    ("hello world", "secret", "734cc62f32841568f45715aeb9f4d7891324e6d948e4c6c60c0621cdac48623a"),
    ("lalala", "another-secret", "daa220016c8f29a8b214fbfc3671aeec2145cfb1e6790184ffb38b6d0425fa00"),
    ("an-important-request-payload", "hunter123", "9be2242094a9a8c00c64306f382a7f9d691de910b4a266f67bd314ef18ac49fa"),
]:
    changed("circleci", "https://circleci.com/docs/outbound-webhooks/", secret, body, {"circleci-signature": f"v1={signature}"})
for body, secret, signature in [
    ('{"_id":"resume"}', "test", "t=1633519811129,v1=tLa470fx7qkLLEcMOcEUFuBbRSkGujyskxrNXcoh0N0"),
    ('{"title":"GROQ-Hooks are neat"}', "try-me", "t=1633518820676,v1=e7C9h2sfbFfc4V7TEz7PSOp4IoNzl0UdVsBV-1wgdeA"),
]:
    changed(
        "sanity", "https://github.com/sanity-io/webhook-toolkit/blob/main/test/signature.test.ts", secret, body,
        JSON | {"sanity-webhook-signature": signature}, at=int(signature[2:12]),
    )

cases = json.load(open(sys.argv[2]))
posted = {c["name"] for c in cases if c["method"] == "POST"}
for case in cases:
    # The same case stands there for every method. Of the algorithms only HS256 is taken: it is what the provider uses.
    if case["method"] not in ("POST", "GET") or "alg" in case["name"] and case["valid"]:
        continue
    if case["method"] == "GET" and case["name"].removesuffix("GET") + "POST" in posted:
        continue
    published(
        "messagebird", "npm messagebird@4.0.1, lib/testdata/webhook-signature-jwt-reference.json", case.get("secret", "unused"),
        case.get("payload", ""), JSON | {"MessageBird-Signature-JWT": case["token"]}, method=case["method"],
        at=int(datetime.datetime.fromisoformat(case["timestamp"]).timestamp()), url=case["url"], note=case["name"],
        valid=case["valid"], reason=None if case["valid"] else REASONS.get(case["reason"], "wrong-signature"),
    )

with open(sys.argv[1], "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in vectors) + "\n]\n")
print(f"{len(vectors)} vectors of {len({v['provider'] for v in vectors})} providers")
