import { Blocks, type Block } from "./blocks.js";
import type { Connection, Target } from "./connection.js";
import type { Control, Item } from "./messages.js";
import { done, refusal, Unfit } from "./refused.js";

/** overSSE follows the feed as Server-Sent Events, through fetch: an EventSource can't have headers, or say why it fails. */
export async function* overSSE(t: Target, c: Connection): AsyncGenerator<Item> {
  const url = new URL(t.url);
  // The cursor goes in the query: a node takes who sends Last-Event-ID for an EventSource, which only understands 200.
  url.search = t.query.toString();
  c.within(t.limits.answer);
  const answer = await t.fetch(url, {
    headers: { ...t.headers, Accept: "text/event-stream" }, signal: c.signal, cache: "no-store", redirect: "error",
  });
  if (answer.status === 204) throw done;
  const media = answer.headers.get("Content-Type")?.split(";")[0]?.trim();
  if (answer.status !== 200 || media !== "text/event-stream" || !answer.body) throw await refusal(answer, Date.now());
  c.within(t.limits.answer);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const blocks = new Blocks(t.limits.message);
  try {
    for (;;) {
      const { done: ended, value } = await reader.read();
      if (ended) throw new Error("the connection ends");
      for (const block of blocks.push(decoder.decode(value, { stream: true }))) {
        c.begun = true;
        c.atEase();
        yield itemOfBlock(block);
      }
      if (c.begun) c.within(t.limits.quiet);
    }
  } finally {
    reader.cancel().catch(() => {}); // it has ended, or does now
  }
}

/** itemOfBlock sorts a block of an event stream. */
export function itemOfBlock(b: Block): Item {
  const { id, retry } = b;
  const more: Partial<Control> = { ...(id && { cursor: id }), ...(retry && { retry }) };
  if (b.event.startsWith("penstock.")) {
    let said: Partial<Control> = {};
    if (b.data) {
      try {
        said = JSON.parse(b.data) as Partial<Control>;
      } catch {
        throw new Unfit("a block that is no JSON");
      }
    }
    return { control: { ...said, ...more, penstock: b.event.slice("penstock.".length) } };
  }
  if (b.event || !b.data) return { control: { ...more, penstock: "progress" } };
  return { text: b.data, ...(id && { cursor: id }) };
}
