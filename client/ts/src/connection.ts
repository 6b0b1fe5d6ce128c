import type { Limits } from "./options.js";
import { Away, Foreign, refusal, Refused, Unfit } from "./refused.js";

/** What every transport needs to know of the feed, and of the connection that it is to make. */
export interface Target {
  /** Without a query; http or https. */
  url: URL;
  /** Where to go on is in it. */
  query: URLSearchParams;
  headers: Record<string, string>;
  token: string;
  fetch: typeof fetch;
  WebSocket: typeof WebSocket | undefined;
  limits: Limits;
}

/** Connection ends what a transport waits for when nothing comes any more, or when the caller gives up. */
export class Connection {
  private readonly control = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly forward: () => void;
  /** Something of the feed has come. */
  begun = false;

  constructor(private readonly outer: AbortSignal | undefined) {
    this.forward = () => this.control.abort(outer?.reason);
    if (outer?.aborted) this.forward();
    outer?.addEventListener("abort", this.forward);
  }

  get signal(): AbortSignal {
    return this.control.signal;
  }

  /** within gives what comes next so many milliseconds. A connection whose other end has vanished gives no error by itself. */
  within(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const text = "nothing is heard any more";
      this.control.abort(this.begun ? new Error(text) : new Unfit(text)); // somebody keeps it from us
    }, ms);
  }

  /** atEase stops the clock: nobody reads while messages are handled. */
  atEase(): void {
    clearTimeout(this.timer);
  }

  close(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.forward);
    this.control.abort(new Error("closed"));
  }
}

/** ask sends a request. What is not even answered says nothing of the transport. */
export async function ask(t: Target, c: Connection, query: URLSearchParams, headers: Record<string, string>): Promise<Response> {
  const url = new URL(t.url);
  url.search = query.toString();
  try {
    // Whoever redirects is not the node.
    return await t.fetch(url, { headers: { ...t.headers, ...headers }, signal: c.signal, cache: "no-store", redirect: "manual" });
  } catch (error) {
    throw c.signal.aborted ? error : new Away(error);
  }
}

/**
 * why asks for a page of the same feed, where a transport fails without a word of the node: a page that would be given says
 * that it is the transport, and an answer of the node what is wrong.
 */
export async function why(t: Target, c: Connection, failure: string): Promise<Error> {
  const query = new URLSearchParams(t.query);
  for (const name of ["snapshot", "every"]) query.delete(name); // pages don't have these
  if (!query.has("cursor") && !query.has("from")) query.set("from", "latest");
  query.set("limit", "1");
  c.within(t.limits.answer);
  const answer = await ask(t, c, query, { Accept: "application/json" });
  if (answer.ok && mediaType(answer) === "application/json") {
    await answer.body?.cancel();
    return new Unfit(failure + ", and a page would be given");
  }
  const error = await refusal(answer, Date.now());
  if (error instanceof Refused) return error.type || !error.temporary ? error : new Away(error);
  return new Foreign(`${failure}, and ${error.message}`);
}

export function mediaType(answer: Response): string | undefined {
  return answer.headers.get("Content-Type")?.split(";")[0]?.trim();
}

/** aborted rejects when signal does. */
export function aborted(signal: AbortSignal): { promise: Promise<never>; stop: () => void } {
  let stop = () => {};
  const promise = new Promise<never>((_, reject) => {
    const on = () => reject(signal.reason);
    if (signal.aborted) return on();
    signal.addEventListener("abort", on);
    stop = () => signal.removeEventListener("abort", on);
  });
  promise.catch(() => {}); // whoever races it hears of it
  return { promise, stop };
}

/** sleep resolves after ms, or rejects with the signal's reason. */
export async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", end);
      resolve();
    }, ms);
    signal?.addEventListener("abort", end, { once: true });
  });
}
