"""Records requests together with the verdict of somebody else's verifier on each of them."""

import base64
import importlib.metadata
import json
import time
from datetime import datetime, timezone

AT = int(datetime(2026, 1, 15, 12, tzinfo=timezone.utc).timestamp())
JSON = {"Content-Type": "application/json"}
vectors = []
clock = AT
time.time = lambda: clock  # verifiers ask the clock, so the clock is the vector's


def change(text, start=None):
    """Another character of the same kind in the second half, so that JSON, a form, hex and base64 stay what they are."""
    for i in range(len(text) // 2 if start is None else start, len(text)):
        c = text[i]
        if c.isascii() and (c.isdigit() or c.islower()) and text[i - 1] not in "\\u%":
            return text[:i] + (str((int(c) + 1) % 10) if c.isdigit() else "c" if c == "b" else "b") + text[i + 1 :]
    raise ValueError("nothing to change")


def accepted(v, verify):
    global clock
    clock = v["at"]
    try:
        return verify(v) is not False
    except Exception:
        return False
    finally:
        clock = AT


def record(provider, package, function, note, secret, body, headers, verify, *, by="vendor", url=None, at=AT, sig=None,
           late=0, unsigned=False, settings=None, alter=()):
    """Has verify confirm a signed request and refuse it with the body, the signature, the secret and the time changed.

    verify answers False or raises when it refuses. alter has further changes {"note": …, "reason": …, …}.
    """
    good = {
        "provider": provider,
        "by": by,
        "origin": f"PyPI {package}@{importlib.metadata.version(package)}, {function}",
        "note": note,
        "secret": secret,
        "settings": settings,
        "method": "POST",
        "url": url or f"https://hooks.example.com/hooks/{provider}",
        "headers": headers,
        "body": body,
        "at": at,
        "valid": True,
    }
    if not accepted(good, verify):
        raise SystemExit(f"{provider}: {package} refuses the good request")
    vectors.append(good)
    bad = list(alter)
    if not unsigned:
        bad.append({"note": "body changed", "reason": "wrong-signature", "body": change(body)})
    if sig:
        bad.append({"note": "no signature", "reason": "missing-header", "headers": {k: v for k, v in headers.items() if k != sig}})
        bad.append({"note": "signature changed", "reason": "wrong-signature", "headers": headers | {sig: change(headers[sig])}})
    if late:
        bad.append({"note": f"{late} s late", "reason": "too-old", "at": at + late})
    for changes in bad:
        v = good | changes | {"valid": False}
        if accepted(v, verify):
            raise SystemExit(f"{provider}: {package} accepts \"{changes['note']}\"")
        vectors.append(v)


def write(path):
    lines = []
    for v in vectors:
        v = {k: x for k, x in v.items() if x is not None}
        v["body"] = base64.b64encode(v["body"].encode()).decode()
        v["at"] = datetime.fromtimestamp(v["at"], timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        lines.append(json.dumps(v, ensure_ascii=False, separators=(",", ":")))
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(vectors)} vectors of {len({v['provider'] for v in vectors})} providers")
    vectors.clear()
