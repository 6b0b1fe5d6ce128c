"""Reads a Kafka topic from its beginning to its end as other teams would, and prints one JSON line per record.

    python reader.py [--timeout 60] BROKERS TOPIC

This is the Kafka client of another language (librdkafka, by confluent-kafka) for tests that must not rest on the
client that wrote the records. The end is each partition's last stable offset when the program starts, so it stops
before a transaction that is still open. A line is

    {"partition":0,"offset":7,"key":"k","headers":{"ce_id":"1"},"value":"{}"}

with a key, a header or a value as text where it is UTF-8, as {"base64":"…"} where it is not, and as null where there is
none; the line itself is ASCII. Lines of one partition are in offset order; partitions mix.

Exit codes: 0 all read, 1 anything else: no such topic, brokers that do not answer, not at the end when the timeout
(seconds) is over, a header that stands twice in a record.
"""

import argparse
import base64
import json
import sys
import time

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec


def text(data):
    if data is None:
        return None
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def line(message):
    headers = {}
    for name, value in message.headers() or []:
        if name in headers:
            raise ValueError(f"header {name} stands twice at {message.partition()}/{message.offset()}")
        headers[name] = text(value)
    return json.dumps(
        {
            "partition": message.partition(),
            "offset": message.offset(),
            "key": text(message.key()),
            "headers": headers,
            "value": text(message.value()),
        },
        separators=(",", ":"),
    )


def ends(brokers, topic, timeout):
    """The last stable offset of each partition."""
    admin = AdminClient({"bootstrap.servers": brokers, "log_level": 2})
    found = admin.list_topics(timeout=timeout).topics.get(topic)  # all: asking for one by name can create it
    if found is None:
        raise ValueError(f"no topic {topic}")
    if found.error is not None:
        raise KafkaException(found.error)
    asked = {TopicPartition(topic, p): OffsetSpec.latest() for p in found.partitions}
    answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout)
    return {tp.partition: answer.result(timeout).offset for tp, answer in answers.items()}


def read(brokers, topic, timeout, write):
    deadline = time.monotonic() + timeout
    left = {p: end for p, end in ends(brokers, topic, timeout).items() if end > 0}
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "log_level": 2,
            "group.id": "reader",  # required by the client; partitions are assigned and nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            # The end of a partition can be a marker or an aborted record, which no message tells of.
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 32 << 20,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in left])
        while left:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not at the end of partitions (partition: end) {left} after {timeout} s")
            message = consumer.poll(0.1)
            if message is None:
                continue
            error, partition = message.error(), message.partition()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if error.retriable() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                    continue  # the client goes on by itself; the deadline bounds it
                raise KafkaException(error)
            if partition not in left:
                continue  # written after the start
            if error is None and message.offset() < left[partition]:
                write(line(message) + "\n")
            if message.offset() >= left[partition] - (error is None):
                del left[partition]
    finally:
        consumer.close()


def main():
    parser = argparse.ArgumentParser(description="prints the committed records of a Kafka topic as JSON lines")
    parser.add_argument("brokers", help="host:port[,host:port…]")
    parser.add_argument("topic")
    parser.add_argument("--timeout", type=float, default=60, help="seconds, 60 if not given")
    arguments = parser.parse_args()
    try:
        read(arguments.brokers, arguments.topic, arguments.timeout, sys.stdout.write)
        sys.stdout.flush()
    except (KafkaException, ValueError, TimeoutError) as error:
        sys.exit(f"reader: {error}")


if __name__ == "__main__":
    main()
