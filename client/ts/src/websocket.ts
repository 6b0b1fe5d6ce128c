import { why, type Connection, type Target } from "./connection.js";
import { itemOf, type Item } from "./messages.js";
import { Closing, done, Refused, Unfit } from "./refused.js";

/** shut is a WebSocket that was not made. A browser doesn't tell why. */
const shut = Symbol("shut");

/** overWebSocket follows the feed over a WebSocket (RFC 6455) with the subprotocol penstock.v1. */
export async function* overWebSocket(t: Target, c: Connection): AsyncGenerator<Item> {
  if (!t.WebSocket) throw new Unfit("there are no WebSockets here");
  const url = new URL(t.url);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = t.query.toString();
  const protocols = ["penstock.v1"];
  if (t.token) protocols.push("penstock.bearer." + base64url(t.token));
  c.within(t.limits.answer);
  const ws = new t.WebSocket(url, protocols);
  let queue: string[] = [];
  let queued = 0;
  let open = false;
  let end: { error: unknown } | undefined;
  let wake = () => {};
  const stop = (error: unknown) => {
    end ??= { error };
    wake();
  };
  ws.onopen = () => {
    open = true;
  };
  ws.onmessage = ({ data }: MessageEvent) => {
    if (end) return;
    if (typeof data !== "string") return stop(new Unfit("a message that is no text"));
    if (data.length > t.limits.message) return stop(new RangeError("a message of the feed is larger than all bounds"));
    queue.push(data);
    queued += data.length;
    // Nothing holds a WebSocket back. What is ahead of a slow handler would fill the memory; it can be had again.
    if (queued > t.limits.ahead && queued > data.length) {
      stop(new Error("the handler is too slow for a WebSocket"));
      ws.close();
    }
    wake();
  };
  ws.onclose = ({ code, reason }: CloseEvent) => stop(open ? closed(code, reason) : shut);
  const gone = () => stop(c.signal.reason);
  c.signal.addEventListener("abort", gone);
  try {
    for (;;) {
      // What came before the end is still handled.
      while (queue.length > 0) {
        const some = queue;
        queue = [];
        c.begun = true;
        c.atEase();
        for (const text of some) {
          yield itemOf(text);
          queued -= text.length;
        }
        c.within(t.limits.quiet);
      }
      if (end) throw end.error === shut ? await why(t, c, "the WebSocket is not made") : end.error;
      await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    c.signal.removeEventListener("abort", gone);
    ws.onopen = ws.onmessage = ws.onclose = null;
    ws.close();
  }
}

/** closed says what the end of a WebSocket means where the feed has not said it in a message. */
export function closed(code: number, reason: string): unknown {
  if (code === 1000) return done;
  if (code === 1008 || code === 1009 || (code >= 4400 && code < 4500)) {
    return new Refused(code, { type: "/problems/" + reason, title: "the node closes the WebSocket: " + reason });
  }
  return reason ? new Closing(reason) : new Error(`the WebSocket is closed with ${code}`);
}

function base64url(text: string): string {
  let binary = "";
  for (const byte of new TextEncoder().encode(text)) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
