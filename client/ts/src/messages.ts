/** A way for a feed to travel. */
export type Transport = "websocket" | "sse" | "long-poll";

/** An event, as https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md has it. */
export interface CloudEvent<Data = unknown> {
  specversion: string;
  id: string;
  type: string;
  source: string;
  /** The stream. */
  subject: string;
  /** RFC 3339, UTC. */
  time: string;
  datacontenttype?: string;
  /** Place in its stream, from 1. */
  streamversion: number;
  correlationid?: string;
  causationid?: string;
  traceparent?: string;
  /** Of the webhook that it came with. */
  deliveryid?: string;
  verification?: string;
  replayof?: string;
  data?: Data;
  data_base64?: string;
}

/** A row that was written or deleted, or, with `snapshot`, a row as it is. */
export interface Change<Row = unknown> {
  op: "upsert" | "delete";
  key: string;
  row?: Row;
  row_base64?: string;
  /** With offset and index the change's identity, the same on every node. A row of a snapshot has none. */
  partition?: number;
  offset?: number;
  index?: number;
  snapshot?: true;
}

/** One event, change or row, with what came along. */
export interface Message<T> {
  /** Parsed. Integers beyond 2^53 lose digits in it; `text` has them all. */
  data: T;
  /** The JSON as it was sent. */
  text: string;
  /** Where to go on after it. Absent where there is no such place: within a page, and before all rows of a snapshot. */
  cursor?: string;
}

/** What came before may have a gap to what comes now. */
export interface Reset {
  /**
   * `expired`, `reset` or `future`: the cursor could not be honoured, and the feed goes on at `resumed`.
   * `interrupted`: the connection was lost before all rows of a snapshot had come; rows begin again: forget those so far.
   */
  reason: string;
  resumed?: string;
}

/** What becomes of the connections. */
export type Notice =
  | { kind: "connected"; transport: Transport }
  /** Also when it could not be made. */
  | { kind: "lost"; transport: Transport; error: unknown; waitMs: number }
  /** A transport doesn't get through. */
  | { kind: "switched"; transport: Transport; next: Transport; error: unknown };

/** What a feed says about itself; docs/feeds.md, "Messages". */
export interface Control {
  penstock: string;
  cursor?: string;
  reason?: string;
  earliest?: string;
  resumed?: string;
  /** Milliseconds to stay away. */
  retry?: number;
}

/** What a transport hands on: one thing that the feed is of, or one that it says about itself. */
export type Item = { text: string; cursor?: string } | { control: Control };

const cursorMember = /^\{"cursor":"([A-Za-z0-9_-]*)",/;

/** itemOf takes a message of the subprotocol penstock.v1 apart. A node writes `penstock` or `cursor` first. */
export function itemOf(text: string): Item {
  if (text.startsWith('{"penstock":')) {
    return { control: JSON.parse(text) as Control };
  }
  const m = cursorMember.exec(text);
  if (!m) {
    return { text };
  }
  return { text: "{" + text.slice(m[0].length), cursor: m[1]! };
}
