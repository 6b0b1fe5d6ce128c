import { ask, mediaType, sleep, type Connection, type Target } from "./connection.js";
import type { Item } from "./messages.js";
import { Away, done, Foreign, refusal, Refused, textOf } from "./refused.js";

/** pageItems is how many messages are asked for at a time. None of them has a cursor but the last one. */
const pageItems = 100;

/** better ends pages that a better transport may take over. */
export const better = Symbol("better");

interface Page {
  items: unknown[];
  next: string;
  end?: boolean;
  reset?: { reason: string; resumed: string };
}

/**
 * overPages follows the feed page by page (RFC 6202). Only when a page was empty is the next one asked to wait: then there
 * is a cursor, and nothing that comes in between two requests is missed.
 *
 * @param left messages until the end, undefined for no limit
 * @param until when to give way to a better transport; undefined for never
 */
export async function* overPages(t: Target, c: Connection, left: () => number | undefined, until: number | undefined): AsyncGenerator<Item> {
  const query = new URLSearchParams(t.query);
  if (!query.has("cursor") && query.get("snapshot") === "true") {
    throw new Foreign("pages have no snapshot; it takes a WebSocket or Server-Sent Events");
  }
  if (!query.has("cursor") && !query.has("from")) query.set("from", "latest"); // as a feed; a page would begin at the earliest
  for (let caughtUp = false, opened = false; ; ) {
    query.set("limit", String(Math.min(pageItems, left() ?? pageItems)));
    const began = Date.now();
    c.within(t.limits.answer + (caughtUp ? t.limits.poll : 0));
    const headers: Record<string, string> = { Accept: "application/json" };
    if (caughtUp) headers["Prefer"] = `wait=${Math.max(1, Math.floor(t.limits.poll / 1000))}`;
    const answer = await ask(t, c, query, headers);
    if (answer.status !== 200 || mediaType(answer) !== "application/json") {
      const error = await refusal(answer, Date.now());
      throw error instanceof Refused && !error.type && error.temporary ? new Away(error) : error; // a gateway's
    }
    const text = await textOf(answer, t.limits.message, () => c.within(t.limits.quiet));
    const page = pageOf(text);
    c.begun = true;
    c.atEase();
    if (!opened) yield { control: { penstock: "opened" } };
    opened = true;
    if (page.reset) yield { control: { penstock: "reset", ...page.reset } };
    const texts = page.items.length > 0 ? itemsOf(text) : [];
    for (const [i, item] of texts.entries()) {
      yield i + 1 === texts.length ? { text: item, cursor: page.next } : { text: item };
    }
    if (page.items.length === 0) {
      yield { control: { penstock: caughtUp || page.end ? "progress" : "caught-up", cursor: page.next } };
    }
    if (page.end) throw done;
    query.delete("from");
    query.set("cursor", page.next);
    // Who answers at once although asked to wait would be asked without a pause.
    if (caughtUp && page.items.length === 0 && Date.now() - began < t.limits.least) await sleep(t.limits.least, c.signal);
    if (until !== undefined && Date.now() > until) throw better;
    caughtUp ||= page.items.length === 0;
  }
}

function pageOf(text: string): Page {
  try {
    const page = JSON.parse(text) as Partial<Page>;
    if (Array.isArray(page.items) && page.next) return page as Page;
  } catch {
    // no page, then
  }
  throw new Foreign("the answer is JSON that is no page");
}

/** itemsOf cuts the texts of a page's items out, so that they are what every other transport sends. */
export function itemsOf(text: string): string[] {
  const out: string[] = [];
  let depth = 0;
  let inString = false;
  let from = -1;
  for (let i = text.indexOf('"items":[') + '"items":'.length; i < text.length; i++) {
    const c = text[i];
    if (inString) {
      if (c === "\\") i++;
      else if (c === '"') inString = false;
      continue;
    }
    if (c === '"') inString = true;
    else if (c === "{" || c === "[") {
      if (++depth === 2) from = i;
    } else if (c === "}" || c === "]") {
      if (--depth === 1) out.push(text.slice(from, i + 1));
      else if (depth === 0) break;
    }
  }
  return out;
}
