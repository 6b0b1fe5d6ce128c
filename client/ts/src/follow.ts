import { aborted, Connection, sleep, type Target } from "./connection.js";
import { better, overPages } from "./longpoll.js";
import type { Change, CloudEvent, Control, Item, Message, Notice, Transport } from "./messages.js";
import { usual, type Limits, type Options } from "./options.js";
import { Away, Closing, done, Foreign, Refused, Unfit } from "./refused.js";
import { overSSE } from "./sse.js";
import { overWebSocket } from "./websocket.js";

/**
 * follow follows the feed at url, which has the filter and other parameters in its query (docs/feeds.md), over any number
 * of connections: what breaks or falls silent is made anew from after the last message that was handled.
 *
 * It resolves when a finite feed (`until`, `limit`) is complete. It rejects with the signal's reason, with what a handler
 * threw, or with a {@link Refused}: an answer that asking again would not change. Everything else is waited out: 1 s,
 * 2 s … up to 30 s, or as long as the node asks for, up to two minutes, always with some jitter.
 *
 * Within one call nothing comes twice. A page that is closed between handling a message and storing its cursor gets that
 * message again.
 */
export async function follow<T = CloudEvent | Change>(url: string | URL, options: Options<T>): Promise<void> {
  try {
    await new Follower(url, options).run();
  } catch (error) {
    throw error instanceof Handler ? error.error : error;
  }
}

/** Handler marks what a handler threw, so that it isn't taken for the connection's. */
class Handler {
  constructor(readonly error: unknown) {}
}

class Follower<T> {
  private readonly limits: Limits;
  private readonly url: URL;
  private readonly query: URLSearchParams; // without where to begin
  private readonly ways: Transport[];

  private cursor: string; // after the last message that was handled
  private left: number | undefined; // messages until the end
  private rows = false; // rows were handled, and no cursor after them

  private at = 0; // in ways
  private switched = 0; // when it was changed last
  private proven = false; // it has worked
  private doubt = 0; // it has failed since, as if somebody stood in the way
  private worked = new Set<Transport>();

  private failures = 0; // connections in a row that brought nothing
  private hint = 0; // milliseconds that the node asked us to stay away
  private token = ""; // last used
  private denied: Refused | undefined; // the last answer, if it was a 401

  // Of the present connection.
  private opened = false;
  private useful = false;
  private fresh = true;

  constructor(url: string | URL, private readonly options: Options<T>) {
    const base = (globalThis as { location?: { href: string } }).location?.href;
    this.url = new URL(url, base);
    this.url.protocol = this.url.protocol.replace(/^ws/, "http");
    this.limits = { ...usual, ...options.limits };
    this.query = new URLSearchParams(this.url.search);
    this.url.search = "";
    this.url.hash = "";
    this.cursor = options.cursor || this.query.get("cursor") || this.query.get("lastEventId") || "";
    this.query.delete("cursor");
    this.query.delete("lastEventId");
    const limit = this.query.get("limit");
    if (limit !== null) {
      if (!/^[1-9]\d{0,14}$/.test(limit)) throw new TypeError(`limit is a number from 1 on, not "${limit}"`);
      this.left = Number(limit);
      this.query.delete("limit"); // of one connection, by the node; of all together, here
    }
    if (options.from) this.query.set("from", options.from);
    if (options.onGap) this.query.set("on_gap", options.onGap);
    const one = options.transport ?? "auto";
    const sockets = (options.WebSocket ?? globalThis.WebSocket) && Object.keys(options.headers ?? {}).length === 0;
    this.ways = one !== "auto" ? [one] : sockets ? ["websocket", "sse", "long-poll"] : ["sse", "long-poll"];
  }

  private get way(): Transport {
    return this.ways[this.at]!;
  }

  async run(): Promise<void> {
    const { signal } = this.options;
    for (;;) {
      const error = await this.connect();
      if (error instanceof Handler) throw error;
      if (error === done) return;
      signal?.throwIfAborted();
      // What comes without a problem document is not the node's word: once it has spoken, it may do so again.
      if (error instanceof Refused && !error.temporary && (error.type || error.status === 401 || this.worked.size === 0)) {
        if (error.status !== 401 || !this.options.token || this.denied) throw error;
        this.denied = error;
        continue;
      }
      if (error instanceof Refused && error.waitMs > 0) this.hint = Math.min(error.waitMs, this.limits.longest);
      if (error instanceof RangeError) throw error; // larger than all bounds: it would be again
      const used = this.way;
      if (error === better) {
        this.turn(0);
        continue;
      }
      if (this.opened) {
        this.doubt = 0;
        // A better one may get through by now.
        if (this.at > 0 && Date.now() - this.switched > this.limits.better) this.turn(0);
      } else if (this.judge(error)) {
        this.notify({ kind: "switched", transport: used, next: this.way, error });
        if (this.at > 0) continue; // after the last one, a pause
      }
      await this.pause(used, error);
    }
  }

  /** judge decides whether a failure is the transport's fault, and moves on to the next one then. */
  private judge(error: unknown): boolean {
    if (error instanceof Away || error instanceof Closing || error instanceof Refused) return false; // the node is not there, or has answered
    this.doubt += error instanceof Unfit ? 3 : 2;
    if (this.doubt < (this.proven ? 6 : 3)) return false;
    const last = this.at + 1 === this.ways.length;
    if (last && this.worked.size === 0 && error instanceof Foreign) throw new Refused(0, { title: error.message }); // nobody here is a node
    if (this.ways.length === 1) return false;
    this.turn(last ? 0 : this.at + 1);
    return true;
  }

  private notify(notice: Notice): void {
    try {
      this.options.onNotice?.(notice);
    } catch (error) {
      throw new Handler(error);
    }
  }

  private turn(at: number): void {
    this.at = at;
    this.switched = Date.now();
    this.proven = this.worked.has(this.way);
    this.doubt = 0;
  }

  /** pause waits until the next connection, never in step with other clients. */
  private async pause(transport: Transport, error: unknown): Promise<void> {
    if (this.useful) this.failures = 0;
    const { least, most } = this.limits;
    const wait = Math.min(least * 2 ** Math.min(this.failures, 10), most);
    let waitMs = wait / 2 + (Math.random() * wait) / 2;
    this.failures++;
    if (this.hint > 0) waitMs = Math.max(waitMs, this.hint * (1 + Math.random() / 5));
    this.hint = 0;
    this.notify({ kind: "lost", transport, error, waitMs });
    await sleep(waitMs, this.options.signal);
  }

  /** connect makes one connection and follows it to its end, which it returns. */
  private async connect(): Promise<unknown> {
    this.opened = this.useful = false;
    this.fresh = true;
    const c = new Connection(this.options.signal);
    try {
      const target = await this.target(c);
      for await (const item of this.feed(target, c)) {
        this.options.signal?.throwIfAborted(); // much may have come ahead
        if ("control" in item) await this.hear(item.control);
        else await this.data(item);
      }
      return new Error("the connection ends");
    } catch (error) {
      if (error instanceof Handler || error instanceof Refused || error instanceof Away || error === done || error === better) return error;
      return c.signal.aborted ? c.signal.reason : error;
    } finally {
      c.close();
    }
  }

  private feed(target: Target, c: Connection): AsyncGenerator<Item> {
    switch (this.way) {
      case "websocket":
        return overWebSocket(target, c);
      case "sse":
        return overSSE(target, c);
      case "long-poll": {
        const above = this.ways.slice(0, this.at).some((w) => this.worked.has(w));
        return overPages(target, c, () => this.left, above ? Date.now() + this.limits.better : undefined);
      }
    }
  }

  private async target(c: Connection): Promise<Target> {
    const headers = { ...this.options.headers };
    if (this.options.token) {
      const token = await this.ask(this.options.token, c);
      if (this.denied && token === this.token) throw this.denied;
      this.token = token;
      headers["Authorization"] = "Bearer " + token;
    }
    const query = new URLSearchParams(this.query);
    if (this.cursor) {
      query.delete("from");
      query.set("cursor", this.cursor);
    }
    return {
      url: this.url, query, headers, token: this.token, limits: this.limits,
      fetch: this.options.fetch ?? ((...a) => globalThis.fetch(...a)), // a browser's wants its own "this"
      WebSocket: this.options.WebSocket ?? globalThis.WebSocket,
    };
  }

  /** ask gets the token. Who hands tokens out may be away, as a node may, or never answer. */
  private async ask(token: () => string | Promise<string>, c: Connection): Promise<string> {
    c.within(this.limits.answer);
    const end = aborted(c.signal);
    try {
      return await Promise.race([token(), end.promise]);
    } catch (error) {
      throw this.options.signal?.aborted ? error : new Away(error);
    } finally {
      end.stop();
      c.atEase();
    }
  }

  /** hear takes what a feed says about itself. */
  private async hear(c: Control): Promise<void> {
    if (c.retry) this.hint = Math.min(c.retry, this.limits.longest);
    const { options } = this;
    // The cursor of "opened" is ours, or lies beyond a gap that is told with the next message.
    const cursor = c.penstock === "opened" && this.cursor ? undefined : c.cursor;
    if (c.penstock !== "opened" && c.penstock !== "closing") this.useful = true;
    switch (c.penstock) {
      case "opened":
        this.open();
        return this.handled(cursor, () => {});
      case "caught-up":
        return this.handled(cursor, () => options.onCaughtUp?.());
      case "snapshot":
        return this.handled(cursor, () => options.onSnapshot?.());
      case "unreadable":
        return this.handled(cursor, () => options.onUnreadable?.(c.reason ?? ""));
      case "reset": {
        const { reason = "reset", resumed } = c;
        if (!resumed) {
          throw new Refused(0, { type: "/problems/" + reason, title: "The feed can't go on from its cursor", earliest: c.earliest });
        }
        return this.handled(cursor, () => options.onReset?.({ reason, resumed }));
      }
      case "closing":
        await this.handled(cursor, () => {});
        if (c.reason === "done") throw done;
        if (c.reason === "protocol") throw new Refused(0, { type: "/problems/protocol", title: "The node takes what was sent for a message" });
        throw new Closing(c.reason ?? "");
      default:
        return this.handled(cursor, () => {});
    }
  }

  /** open notes that the transport works. */
  private open(): void {
    if (this.opened) return;
    this.opened = this.proven = true;
    this.worked.add(this.way);
    this.denied = undefined;
    this.notify({ kind: "connected", transport: this.way });
  }

  private async data(item: { text: string; cursor?: string }): Promise<void> {
    let data: T;
    try {
      data = JSON.parse(item.text) as T;
    } catch {
      throw new Unfit("a message that is no JSON");
    }
    const message: Message<T> = { data, ...item };
    if (this.fresh && this.rows && !this.cursor) {
      this.rows = false;
      await this.handled(undefined, () => this.options.onReset?.({ reason: "interrupted" }));
    }
    this.fresh = false;
    await this.handled(item.cursor, () => this.options.onEvent(data, message));
    if (!item.cursor && (data as { snapshot?: unknown }).snapshot === true) this.rows = true;
    this.useful = true;
    if (this.left !== undefined && --this.left === 0) throw done;
  }

  /** handled has the application handle something, and moves the cursor once that is done. */
  private async handled(cursor: string | undefined, handle: () => unknown): Promise<void> {
    try {
      await handle();
      if (cursor && cursor !== this.cursor) {
        this.cursor = cursor;
        this.rows = false;
        await this.options.onCursor?.(cursor);
      }
    } catch (error) {
      throw new Handler(error);
    }
  }
}
