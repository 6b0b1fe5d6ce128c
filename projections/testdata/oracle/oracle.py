"""Computes read models from the events topic, as somebody would who has never seen how Penstock does it.

    python oracle.py BROKERS TOPIC

It reads the committed records with deploy/kafka/reader.py, a Kafka client of another language, and prints one JSON
object: the rows of `balances` and of `stripe-revenue` by key, in a form to compare with. The rules are those of
projections/balances and development.yaml, written down a second time. Besides, every event of billing says what the
balance is after it; that must be the sum of what came before.
"""

import json
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(root / "deploy" / "kafka"))

import reader  # noqa: E402


def events(brokers, topic):
    lines = []
    reader.read(brokers, topic, 60, lines.append)
    for line in lines:
        record = json.loads(line)
        yield record["headers"], json.loads(record["value"])


FIELDS = ("credit", "captured", "refunded", "pending_refunds", "disputed")


def balances(log):
    rows = {}
    for headers, data in log:
        category, _, customer = headers["ce_subject"].partition("/")
        kind = headers["ce_type"]
        if category != "billing" or not kind.startswith("billing."):
            continue
        moves = {
            "billing.credit.granted": {"credit": "amount"},
            "billing.charge.captured": {"captured": "amount"},
            "billing.refund.requested": {"pending_refunds": "amount"},
            "billing.refund.completed": {"refunded": "amount", "pending_refunds": "-released"},
            "billing.charge.disputed": {"disputed": "amount"},
            "billing.dispute.closed": {"disputed": "-returned"},
            "billing.account.suspended": {},
            "billing.account.reopened": {},
        }.get(kind)
        if moves is None:
            continue
        row = rows.setdefault(customer, {"customer": customer, "status": "open", "balances": {}, "charges": 0})
        for field, source in moves.items():
            money = row["balances"].setdefault(data["currency"], dict.fromkeys(FIELDS, 0))
            money[field] += -data[source[1:]] if source[0] == "-" else data[source]
        if moves:
            money["balance"] = money["credit"] + money["captured"] - money["refunded"] - money["disputed"]
            if money["balance"] != data["balance"]:
                raise ValueError(f"{headers['ce_id']} says that the balance is {data['balance']}, the sum is {money['balance']}")
        if kind == "billing.charge.captured" and data["captured"] == data["amount"]:
            row["charges"] += 1
        row["status"] = {"billing.account.suspended": "suspended", "billing.account.reopened": "open"}.get(kind, row["status"])
        row["updated"], row["version"] = headers["ce_time"], int(headers["ce_streamversion"])
    return rows


def revenue(log):
    rows = {}
    for headers, data in log:
        kind = headers["ce_type"]
        if kind not in ("stripe.charge.succeeded", "stripe.charge.captured", "stripe.charge.refunded"):
            continue
        charge = data["data"]["object"]
        if not charge["captured"]:
            continue
        day, currency = headers["ce_time"][:10], charge["currency"]
        row = rows.setdefault(f"{day}/{currency}", dict.fromkeys(("charges", "refunds", "gross", "refunded", "net", "largest"), 0))
        row["currency"] = currency
        row["largest"] = max(row["largest"], charge["amount_captured"])
        if kind == "stripe.charge.refunded":
            refunded = charge["amount_refunded"] - data["data"].get("previous_attributes", {}).get("amount_refunded", 0)
            row["refunds"] += 1
            row["refunded"] += refunded
            row["net"] -= refunded
        else:
            row["charges"] += 1
            row["gross"] += charge["amount_captured"]
            row["net"] += charge["amount_captured"]
    return rows


def main():
    log = list(events(sys.argv[1], sys.argv[2]))
    json.dump({"balances": balances(log), "stripe-revenue": revenue(log)}, sys.stdout)


if __name__ == "__main__":
    main()
