import { aborted, type Connection, type Target } from "./connection.js";
import { itemOf, type Item } from "./messages.js";
import { Closing, done, refusal, Refused, Unfit } from "./refused.js";

/** NotOpened is a WebSocket that was not made, and not because the node refuses the feed. */
export class NotOpened extends Unfit {}

/** why asks for a page of the same feed, because a browser doesn't tell how a WebSocket was refused. */
async function why(t: Target, c: Connection): Promise<Error> {
  const query = new URLSearchParams(t.query);
  for (const name of ["snapshot", "every"]) query.delete(name); // pages don't have these
  if (!query.has("cursor") && !query.has("from")) query.set("from", "latest");
  query.set("limit", "1");
  const url = new URL(t.url);
  url.search = query.toString();
  c.within(t.limits.answer);
  const answer = await t.fetch(url, {
    headers: { ...t.headers, Accept: "application/json" }, signal: c.signal, cache: "no-store", redirect: "error",
  });
  if (answer.ok) {
    await answer.body?.cancel();
    return new NotOpened("the WebSocket was not made, and a page would be given");
  }
  const error = await refusal(answer, Date.now());
  return error instanceof Refused && error.type ? error : new NotOpened("the WebSocket was not made: " + error.message);
}

/** overWebSocket follows the feed over a WebSocket (RFC 6455) with the subprotocol penstock.v1. */
export async function* overWebSocket(t: Target, c: Connection): AsyncGenerator<Item> {
  if (!t.WebSocket) throw new NotOpened("there are no WebSockets here");
  const url = new URL(t.url);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = t.query.toString();
  const protocols = ["penstock.v1"];
  if (t.token) protocols.push("penstock.bearer." + base64url(t.token));
  c.within(t.limits.answer);
  const ws = new t.WebSocket(url, protocols);
  const queue: string[] = [];
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
    if (typeof data !== "string") return stop(new Unfit("a message that is no text"));
    queue.push(data);
    queued += data.length;
    if (data.length > t.limits.message) return stop(new RangeError("a message of the feed is larger than all bounds"));
    // Nothing holds a WebSocket back. What is ahead of a slow handler would fill the memory; it can be had again.
    if (queued > t.limits.ahead) {
      stop(new Error("the handler is too slow for a WebSocket"));
      ws.close();
    }
    wake();
  };
  ws.onclose = ({ code, reason }: CloseEvent) => stop(open ? closed(code, reason) : new NotOpened("the WebSocket was not made"));
  const abort = aborted(c.signal);
  try {
    for (;;) {
      // What came before the end is still handled.
      for (let text = queue.shift(); text !== undefined; text = queue.shift()) {
        queued -= text.length;
        c.begun = true;
        c.atEase();
        yield itemOf(text);
        c.within(t.limits.quiet);
      }
      if (end) throw end.error instanceof NotOpened ? await why(t, c) : end.error;
      await Promise.race([new Promise<void>((resolve) => (wake = resolve)), abort.promise]);
    }
  } finally {
    abort.stop();
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
