/**
 * An answer that says no: a problem document (RFC 9457), a bare status, or the code that a WebSocket was closed with. As
 * what follow rejects with, it is one that asking again would not change.
 */
export class Refused extends Error {
  override readonly name = "Refused";
  /** Of HTTP, or a WebSocket's code; 0 for a feed that ends with a reset. */
  readonly status: number;
  /** As in /problems/expired; empty without a problem document. */
  readonly type: string;
  readonly detail: string;
  readonly rule: string;
  /** Parameter or header at fault. */
  readonly field: string;
  /** Of `expired`: cursor of the oldest events there are. */
  readonly earliest: string;
  /** Over by itself. */
  readonly temporary: boolean;
  /** Milliseconds, as asked for; 0 if not. */
  readonly waitMs: number;

  constructor(status: number, problem: Record<string, unknown>, more: { temporary?: boolean; waitMs?: number } = {}) {
    const text = (name: string) => (typeof problem[name] === "string" ? (problem[name] as string).slice(0, 1000) : "");
    super(text("detail") || text("title") || `answered ${status}`);
    this.status = status;
    this.type = text("type");
    this.detail = text("detail");
    this.rule = text("rule");
    this.field = text("field");
    this.earliest = text("earliest");
    this.temporary = more.temporary ?? false;
    this.waitMs = more.waitMs ?? 0;
  }

  /** The last part of the type: expired, reset, future, unauthorized, invalid … */
  get kind(): string {
    return this.type.slice(this.type.lastIndexOf("/") + 1);
  }
}

/** Somebody stands between, who doesn't let this transport through. */
export class Unfit extends Error {
  override readonly name: string = "Unfit";
}

/** What answers is no node, or none for this transport. */
export class Foreign extends Unfit {
  override readonly name = "Foreign";
}

/** The node isn't there, or can't be asked: no transport's fault. */
export class Away extends Error {
  override readonly name = "Away";
  constructor(cause: unknown) {
    super("the node is not reached: " + (cause instanceof Error ? cause.message : String(cause)), { cause });
  }
}

/** The end of a connection that the node announced; the feed goes on with the next one. */
export class Closing extends Error {
  override readonly name = "Closing";
  constructor(readonly reason: string) {
    super(`the node closes the feed (${reason.slice(0, 100)})`);
  }
}

/** The feed is complete. Internal. */
export const done = Symbol("done");

/** problemLimit bounds the text of an answer that says no, in characters. */
const problemLimit = 64 * 2 ** 10;

/** refusal sorts an answer that is not the feed. */
export async function refusal(answer: Response, now: number): Promise<Error> {
  const { status } = answer;
  if (status < 400) { // 0 is a redirect, in a browser
    await answer.body?.cancel();
    return new Foreign(`the answer is no feed but ${status || "a redirect"} ${answer.headers.get("Content-Type") ?? ""}`.slice(0, 200));
  }
  let problem: Record<string, unknown> = {};
  try {
    const parsed: unknown = JSON.parse(await textOf(answer, problemLimit));
    if (typeof parsed === "object" && parsed !== null) problem = parsed as Record<string, unknown>;
  } catch {
    // no problem document, then
  }
  const temporary = status >= 500 || status === 408 || status === 425 || status === 429;
  return new Refused(status, problem, { temporary, waitMs: retryAfter(answer.headers.get("Retry-After"), now) });
}

/** textOf reads an answer of at most limit characters, and tells heard of each piece. It throws RangeError for a longer one. */
export async function textOf(answer: Response, limit: number, heard = () => {}): Promise<string> {
  if (!answer.body) return "";
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  const pieces: string[] = [];
  try {
    for (let length = 0; ; ) {
      const { done: ended, value } = await reader.read();
      heard();
      const piece = ended ? decoder.decode() : decoder.decode(value, { stream: true });
      pieces.push(piece);
      length += piece.length;
      if (length > limit) throw new RangeError("an answer is larger than all bounds");
      if (ended) return pieces.join("");
    }
  } finally {
    reader.cancel().catch(() => {}); // it has ended, or does now
  }
}

/** retryAfter reads the header (RFC 9110, section 10.2.3), in milliseconds. */
export function retryAfter(text: string | null, now: number): number {
  if (!text) return 0;
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? 0 : Math.max(0, at - now);
}
