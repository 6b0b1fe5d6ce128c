import { Blocks, type Block } from "./blocks.js";
import { ask, mediaType, why, type Connection, type Target } from "./connection.js";
import type { Control, Item } from "./messages.js";
import { Away, done, refusal, Refused, Unfit } from "./refused.js";

/** overSSE follows the feed as Server-Sent Events, through fetch: an EventSource can't have headers, or say why it fails. */
export async function* overSSE(t: Target, c: Connection): AsyncGenerator<Item> {
  c.within(t.limits.answer);
  let answer: Response;
  try {
    // The cursor goes in the query: a node takes who sends Last-Event-ID for an EventSource, which only understands 200.
    answer = await ask(t, c, t.query, { Accept: "text/event-stream" });
  } catch (error) {
    throw error instanceof Away ? await why(t, c, "the event stream is not answered") : error;
  }
  if (answer.status === 204) throw done;
  if (answer.status !== 200 || mediaType(answer) !== "text/event-stream" || !answer.body) {
    const error = await refusal(answer, Date.now());
    throw error instanceof Refused && !error.type ? await why(t, c, "the event stream is " + error.message) : error;
  }
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
