import type { Change, CloudEvent, Message, Notice, Reset, Transport } from "./messages.js";

/** Options of follow. Only `onEvent` is needed. */
export interface Options<T = CloudEvent | Change> {
  /**
   * Gets one event, change or row after the other, in the order of their partition. The next comes when it has returned
   * (its promise, if it returns one), and only then does the cursor move. What it throws ends follow.
   */
  onEvent(data: T, message: Message<T>): void | Promise<void>;
  /** Gets every place to go on from, once everything before it was handled: store it to resume there. */
  onCursor?(cursor: string): void | Promise<void>;
  /** There may be a gap between what came and what comes. */
  onReset?(reset: Reset): void | Promise<void>;
  /** All rows of a snapshot were given; what follows are changes. */
  onSnapshot?(): void | Promise<void>;
  /** Everything that the node knew of was given. */
  onCaughtUp?(): void | Promise<void>;
  /** A record of some other program, at `partition/offset`, can't be sent and is passed over. */
  onUnreadable?(place: string): void | Promise<void>;
  /** Hears of connections. */
  onNotice?(notice: Notice): void;

  /** Where to go on. It wins over one in the URL, and over `from`. */
  cursor?: string;
  /** Where to begin without a cursor: `earliest`, `latest` (the default), `-10` for the last ten, or a time. */
  from?: string;
  /** Where to go on when a cursor can't be honoured: by default nowhere, and follow rejects. */
  onGap?: "fail" | "earliest" | "latest";
  /** `auto` (the default) takes the first of WebSocket, Server-Sent Events and long-polling that gets through. */
  transport?: "auto" | Transport;
  /**
   * Returns a bearer token. It is asked before every connection, and once more after a 401. To a WebSocket, which
   * can't have headers in a browser, it goes as the subprotocol `penstock.bearer.‹base64url›`.
   */
  token?: () => string | Promise<string>;
  /** Further headers of requests. A WebSocket has none: with these, `auto` leaves WebSockets out. */
  headers?: Record<string, string>;
  /** Ends follow, which then rejects with its reason. */
  signal?: AbortSignal;
  /** Other implementations than the global ones. */
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
  /** Bounds, for tests above all. */
  limits?: Partial<Limits>;
}

/** Times are in milliseconds. */
export interface Limits {
  /** For a connection to be made, and for its first message: a proxy that gathers answers sends none. */
  answer: number;
  /** Without a byte, after which a connection counts as dead. A node speaks every 15 s. */
  quiet: number;
  /** That a page is asked to wait for a message. */
  poll: number;
  /** That pages go on where a better transport has worked. */
  better: number;
  /** Wait after the first failure, doubled with each further one … */
  least: number;
  /** … up to this. */
  most: number;
  /** That somebody else's Retry-After or retry is obeyed. */
  longest: number;
  /** Characters of a message, or of a page: an event's body has up to 25 MB, a third more in base64. */
  message: number;
  /** Characters that a WebSocket may bring ahead of the handler before it is cut and made anew from where that is. */
  ahead: number;
}

export const usual: Limits = {
  answer: 15_000, quiet: 50_000, poll: 25_000, better: 300_000, least: 1_000, most: 30_000, longest: 120_000,
  message: 64 * 2 ** 20, ahead: 16 * 2 ** 20,
};
