// The pure parts. The rest is tried in a browser, against real nodes: browser.test.mjs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Blocks } from "../dist/blocks.js";
import { itemsOf } from "../dist/longpoll.js";
import { itemOf } from "../dist/messages.js";
import { Refused, Unfit, refusal, retryAfter } from "../dist/refused.js";
import { itemOfBlock } from "../dist/sse.js";
import { closed } from "../dist/websocket.js";

const stream =
  "\ufeff: a comment\r\nretry: 1500\r\nid: c0\r\n\r\n" +
  "id: c1\rdata: {\"a\":\rdata:1}\r\r" +
  "event: penstock.caught-up\ndata: {}\n\n" +
  "data\n\n" + // an empty line of data
  "id: a\0b\ndata: x\n\n" + // no id
  "retry: soon\nnothing: at all\n\n" +
  "data: é€😀\nid\n\n" +
  "data: never ended";
const want = [
  { id: "c0", event: "", data: "", retry: 1500 },
  { id: "c1", event: "", data: '{"a":\n1}', retry: 0 },
  { id: "", event: "penstock.caught-up", data: "{}", retry: 0 },
  { id: "", event: "", data: "", retry: 0 },
  { id: "", event: "", data: "x", retry: 0 },
  { id: "", event: "", data: "é€😀", retry: 0 },
];

test("an event stream means the same wherever it is cut", () => {
  const bytes = new TextEncoder().encode(stream);
  const read = (cuts) => {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const blocks = new Blocks(1e6);
    const out = [];
    let from = 0;
    for (const to of [...cuts, bytes.length]) {
      out.push(...blocks.push(decoder.decode(bytes.subarray(from, to), { stream: true })));
      from = to;
    }
    return out;
  };
  for (let i = 0; i <= bytes.length; i++) assert.deepEqual(read([i]), want, `cut at ${i}`);
  assert.deepEqual(read([...bytes.keys()]), want, "byte by byte");
});

test("a block has a bound", () => {
  assert.throws(() => new Blocks(100).push("data: " + "x".repeat(200)), RangeError);
  assert.throws(() => new Blocks(100).push("data: xxxxxxxxxxxxxxxxxxxx\n".repeat(20)), RangeError);
});

test("blocks are sorted", () => {
  const of = (b) => itemOfBlock({ id: "", event: "", data: "", retry: 0, ...b });
  assert.deepEqual(of({ id: "c", data: "{}" }), { text: "{}", cursor: "c" });
  assert.deepEqual(of({ data: "{}" }), { text: "{}" });
  assert.deepEqual(of({ id: "c" }), { control: { penstock: "progress", cursor: "c" } });
  assert.deepEqual(of({ event: "penstock.closing", data: '{"reason":"done"}', retry: 5 }), { control: { penstock: "closing", reason: "done", retry: 5 } });
  assert.deepEqual(of({ event: "of somebody else", data: "x" }), { control: { penstock: "progress" } });
  assert.throws(() => of({ event: "penstock.reset", data: "<html>" }), Unfit);
});

test("messages are taken apart without losing digits", () => {
  assert.deepEqual(itemOf('{"cursor":"AbC_-1","id":"x","n":12345678901234567890}'), { text: '{"id":"x","n":12345678901234567890}', cursor: "AbC_-1" });
  assert.deepEqual(itemOf('{"op":"upsert","key":"k"}'), { text: '{"op":"upsert","key":"k"}' });
  assert.deepEqual(itemOf('{"penstock":"closing","reason":"done","cursor":"c"}'), { control: { penstock: "closing", reason: "done", cursor: "c" } });
});

test("the items of a page are cut out as they are", () => {
  const items = ['{"a":"]}\\"{","n":1.50}', '{"b":[[{}],{"c":[]}]}', '{}'];
  assert.deepEqual(itemsOf(`{"items":[${items.join(",\n ")}],"next":"[{"}`), items);
  assert.deepEqual(itemsOf('{"items":[],"next":"c"}'), []);
});

test("answers that are no feed are sorted", async () => {
  const answer = (status, body, headers) => refusal(new Response(body, { status, headers }), 0);
  const problem = JSON.stringify({ type: "/problems/expired", detail: "too old", earliest: "c" });
  const no = await answer(410, problem);
  assert.ok(no instanceof Refused && no.kind === "expired" && no.earliest === "c" && !no.temporary);
  assert.ok((await answer(503, "<html>", { "Retry-After": "7" })).waitMs === 7000);
  assert.ok((await answer(429, problem)).temporary);
  assert.ok((await answer(200, "<html>", { "Content-Type": "text/html" })) instanceof Unfit);
  assert.equal((await answer(404, "not JSON")).type, "");
  assert.equal(retryAfter("Thu, 01 Jan 1970 00:00:10 GMT", 4000), 6000);
  assert.equal(retryAfter("later", 0), 0);
  assert.ok(closed(4410, "expired").kind === "expired");
  assert.ok(closed(4508, "slow").reason === "slow" && closed(1006, "") instanceof Error);
});
