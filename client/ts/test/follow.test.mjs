// follow against a node that is made up: what it asks for, what it does with answers, and how long it waits.
import assert from "node:assert/strict";
import { test } from "node:test";
import { follow } from "../dist/index.js";

const limits = { answer: 100, quiet: 100, poll: 1000, better: 1e9, least: 4, most: 20, longest: 60 };

/** events is an event stream of [id, cursor] pairs and ready blocks. It stays open unless `end`. */
function events(parts, { end = true, signal } = {}) {
  const text = parts.map((p) => (typeof p === "string" ? p : `id: ${p[1]}\ndata: ${JSON.stringify({ id: p[0] })}\n\n`)).join("");
  const body = new ReadableStream({
    start(c) {
      c.enqueue(new TextEncoder().encode(text));
      if (end) c.close();
      else signal?.addEventListener("abort", () => c.error(signal.reason));
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
}
const opened = 'event: penstock.opened\nid: c0\ndata: {"heartbeat":15}\n\n';
const closing = 'event: penstock.closing\ndata: {"reason":"done"}\n\n';
const problem = (status, kind, more = {}, headers = {}) =>
  new Response(JSON.stringify({ type: "/problems/" + kind, status, ...more }), { status, headers: { "Content-Type": "application/problem+json", ...headers } });
const page = (items, next, more = {}) => Response.json({ items, next, ...more });
const html = (status = 200) => new Response("<html>", { status, headers: { "Content-Type": "text/html" } });

/** run follows answers, one after the other; the last one again and again. */
async function run(answers, options = {}, url = "http://node/v1/events?from=earliest") {
  const seen = { asked: [], got: [], cursors: [], notices: [], resets: [], error: undefined };
  const fetch = async (url, { headers, signal }) => {
    const answer = answers[Math.min(seen.asked.length, answers.length - 1)];
    seen.asked.push({ query: new URL(url).searchParams, headers });
    return answer({ signal, headers, query: new URL(url).searchParams });
  };
  try {
    await follow(url, {
      transport: "sse", fetch, onEvent: (e) => void seen.got.push(e.id), onCursor: (c) => void seen.cursors.push(c),
      onNotice: (n) => void seen.notices.push(n), onReset: (r) => void seen.resets.push(r), ...options, limits: { ...limits, ...options.limits },
    });
  } catch (error) {
    seen.error = error;
  }
  seen.lost = seen.notices.filter((n) => n.kind === "lost");
  return seen;
}

test("goes on after the last message that was handled, however slowly", async () => {
  const got = [];
  const seen = await run([() => events([opened, ["a", "c1"], ["b", "c2"]]), () => events([opened, ["c", "c3"], closing])], {
    onEvent: async (e) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      got.push(e.id);
    },
    onCursor: (c) => void got.push(c),
  });
  assert.equal(seen.error, undefined);
  assert.deepEqual(got, ["c0", "a", "c1", "b", "c2", "c", "c3"]);
  assert.equal(seen.asked[0].query.get("cursor"), null);
  assert.equal(seen.asked[1].query.get("cursor"), "c2");
  assert.equal(seen.asked[1].query.get("from"), null);
});

test("what a handler throws ends it, and the cursor stays before", async () => {
  const broken = new Error("full");
  for (const options of [{ onEvent: (e) => { if (e.id === "b") throw broken; } }, { onEvent: async (e) => { if (e.id === "b") throw broken; } }]) {
    const seen = await run([() => events([opened, ["a", "c1"], ["b", "c2"]])], options);
    assert.equal(seen.error, broken);
    assert.deepEqual(seen.cursors, ["c0", "c1"]);
    assert.equal(seen.asked.length, 1);
  }
  for (const name of ["onCursor", "onNotice"]) {
    assert.equal((await run([() => events([opened, ["a", "c1"]])], { [name]: () => { throw broken; } })).error, broken);
  }
});

test("a refusal that lasts rejects with its problem", async () => {
  const seen = await run([() => problem(410, "expired", { detail: "gone", earliest: "c9" })]);
  const { name, status, kind, detail, earliest } = seen.error;
  assert.deepEqual({ name, status, kind, detail, earliest }, { name: "Refused", status: 410, kind: "expired", detail: "gone", earliest: "c9" });
  assert.equal(seen.asked.length, 1);
});

test("waits are doubled up to a bound, from the beginning after a message, and never twice the same", async () => {
  const stop = new AbortController();
  const seen = await run([() => problem(503, "unavailable")], {
    signal: stop.signal, onNotice(n) { (this.all ??= []).push(n); if (this.all.length === 6) stop.abort(); },
  });
  assert.equal(seen.error, stop.signal.reason);
  const random = Math.random;
  for (const [r, want] of [[0, [2, 4, 8, 10, 10, 2]], [0.999999, [4, 8, 16, 20, 20, 4]]]) {
    Math.random = () => r;
    try {
      const waits = (await run([...Array(5).fill(() => problem(503, "unavailable")), () => events([opened, ["a", "c1"]]), () => events([opened, closing])])).lost.map((n) => Math.round(n.waitMs));
      assert.deepEqual(waits, want);
    } finally {
      Math.random = random;
    }
  }
});

test("the node's wish is obeyed, within a bound", async () => {
  const seen = await run([
    () => problem(429, "too-many-connections", {}, { "Retry-After": "9999" }), // 60 ms here
    () => events(["retry: 30\n\n", opened, ["a", "c1"]]),
    () => events(['event: penstock.closing\nretry: 25\ndata: {"reason":"too-many-connections"}\n\n']),
    () => events([opened, closing]),
  ]);
  const waits = seen.lost.map((n) => n.waitMs);
  for (const [i, [least, most]] of [[60, 72], [30, 36], [25, 30]].entries()) {
    assert.ok(waits[i] >= least && waits[i] <= most, `wait ${i}: ${waits[i]}`);
  }
  assert.equal(seen.error, undefined);
});

test("a token is asked for again after a 401, once", async () => {
  const tokens = ["old", "new", "new"];
  let seen = await run([() => problem(401, "unauthorized"), () => events([opened, closing])], { token: () => tokens.shift() });
  assert.equal(seen.error, undefined);
  assert.deepEqual(seen.asked.map((a) => a.headers.Authorization), ["Bearer old", "Bearer new"]);
  for (const token of [() => "same", () => String(Math.random())]) {
    seen = await run([() => problem(401, "unauthorized")], { token });
    assert.equal(seen.error.status, 401);
    assert.ok(seen.asked.length <= 2);
  }
  // Who hands tokens out may be away, or never answer.
  let n = 0;
  seen = await run([() => events([opened, closing])], { token: () => (++n === 1 ? Promise.reject(new Error("away")) : n === 2 ? new Promise(() => {}) : "t") });
  assert.equal(seen.error, undefined);
  assert.equal(seen.lost.length, 2);
});

test("silence is taken for death", async () => {
  const seen = await run([({ signal }) => events([opened, ["a", "c1"]], { end: false, signal }), () => events([opened, closing])]);
  assert.equal(seen.error, undefined);
  assert.match(seen.lost[0].error.message, /nothing is heard/);
  assert.equal(seen.asked[1].query.get("cursor"), "c1");
});

test("the signal ends it at any time, with its reason", async () => {
  const reason = new Error("enough");
  for (const when of ["before", "handling", "waiting", "pausing"]) {
    const stop = new AbortController();
    if (when === "before") stop.abort(reason);
    const answer = when === "pausing" ? () => problem(503, "unavailable") : ({ signal }) => events([opened, ["a", "c1"], ["b", "c2"]], { end: false, signal });
    const got = [];
    const seen = await run([answer], {
      signal: stop.signal, limits: { least: 1e6, most: 1e6, quiet: 1e6 },
      onNotice: (n) => n.kind === "lost" && stop.abort(reason),
      onEvent: (e) => { got.push(e.id); if (when === "handling" || e.id === "b") stop.abort(reason); },
    });
    assert.equal(seen.error, reason, when);
    assert.deepEqual(got, { before: [], handling: ["a"], waiting: ["a", "b"], pausing: [] }[when]);
  }
});

test("resets are told", async () => {
  const reset = (more) => `event: penstock.reset\nid: c7\ndata: ${JSON.stringify({ reason: "expired", ...more })}\n\n`;
  let seen = await run([() => events([opened, reset({ resumed: "earliest" }), ["a", "c8"], closing])], { cursor: "old", onGap: "earliest" });
  assert.equal(seen.error, undefined);
  assert.deepEqual(seen.resets, [{ reason: "expired", resumed: "earliest" }]);
  assert.deepEqual(seen.cursors, ["c7", "c8"]); // the one of "opened" lies beyond the gap
  assert.equal(seen.asked[0].query.get("on_gap"), "earliest");
  seen = await run([() => events([opened, ["a", "c1"], reset({ earliest: "c5" })])]);
  assert.deepEqual([seen.error.kind, seen.error.earliest], ["expired", "c5"]);
});

test("rows begin again where a snapshot was interrupted", async () => {
  const row = (key) => `data: ${JSON.stringify({ op: "upsert", key, row: {}, snapshot: true })}\n\n`;
  const begin = 'event: penstock.opened\ndata: {}\n\n';
  const said = [];
  const seen = await run([
    () => events([begin, row("x"), row("y")]),
    () => events([begin, row("x"), row("y"), "event: penstock.snapshot\nid: c1\ndata: {}\n\n"]),
    () => events([opened, closing]),
  ], { onEvent: (c) => void said.push(c.key), onReset: (r) => void said.push(r.reason), onSnapshot: () => void said.push("snapshot") },
  "http://node/v1/projections/p/changes?snapshot=true");
  assert.deepEqual(said, ["x", "y", "interrupted", "x", "y", "snapshot"]);
  assert.equal(seen.asked[2].query.get("cursor"), "c1");
});

test("limit holds over all connections", async () => {
  const seen = await run([() => events([opened, ["a", "c1"], ["b", "c2"]]), () => events([opened, ["c", "c3"], ["d", "c4"]])], {}, "http://node/v1/events?limit=3");
  assert.deepEqual(seen.got, ["a", "b", "c"]);
  assert.equal(seen.asked[0].query.get("limit"), null); // a node refuses it to an EventSource
});

test("pages: asked to wait only at the end, and from there", async () => {
  const seen = await run([
    () => page([{ id: "a" }, { id: "b" }], "c2"),
    () => page([], "c2"),
    () => page([{ id: "c" }], "c3"),
    () => page([], "c4", { end: true }),
  ], { transport: "long-poll" }, "http://node/v1/events");
  assert.deepEqual(seen.got, ["a", "b", "c"]);
  assert.deepEqual(seen.cursors, ["c2", "c3", "c4"]);
  assert.deepEqual(seen.asked.map((a) => [a.query.get("from"), a.query.get("cursor"), a.headers.Prefer]), [
    ["latest", null, undefined], [null, "c2", undefined], [null, "c2", "wait=1"], [null, "c3", "wait=1"]]);
});

test("where nobody is a node it ends", async () => {
  let seen = await run([() => html()], { transport: "auto" });
  assert.equal(seen.error.name, "Refused");
  seen = await run([() => html(404)], { transport: "auto" });
  assert.deepEqual([seen.error.name, seen.error.status], ["Refused", 404]);
});

test("where a gateway says that the node is away it waits, and stays with its transport", async () => {
  let asked = 0;
  const seen = await run([({ headers }) => {
    if (++asked < 20) return html(502);
    return headers.Accept === "text/event-stream" ? events([opened, closing]) : html(502);
  }], { transport: "auto", limits: { most: 4 } });
  assert.equal(seen.error, undefined);
  assert.ok(!seen.notices.some((n) => n.kind === "switched"), JSON.stringify(seen.notices));
});

test("an event stream that somebody else forbids gives way to pages", async () => {
  const seen = await run([({ headers }) => (headers.Accept === "text/event-stream" ? html(403) : page([{ id: "a" }], "c1", { end: true }))], { transport: "auto", WebSocket: undefined });
  assert.equal(seen.error, undefined);
  assert.deepEqual(seen.got, ["a"]);
});

test("what is no node's answer is waited out once it has worked", async () => {
  const seen = await run([() => events([opened, ["a", "c1"]]), () => html(), () => html(403), () => html(403), () => events([opened, closing])]);
  assert.equal(seen.error, undefined);
  assert.deepEqual(seen.got, ["a"]);
});

test("an event stream that is kept back gives way to pages, and is tried again where it had worked", async () => {
  let streams = 0;
  let pages = 0;
  const seen = await run([({ query, headers, signal }) => {
    if (headers.Accept === "text/event-stream") {
      if (++streams === 1) return events([opened, ["a", "c1"]]);
      return pages > 3 ? events([opened, closing]) : events([], { end: false, signal });
    }
    pages++;
    return page([], query.get("cursor"));
  }], { transport: "auto", WebSocket: undefined, limits: { better: 1, answer: 20 } });
  assert.equal(seen.error, undefined);
  const used = seen.notices.filter((n) => n.kind === "connected").map((n) => n.transport);
  assert.deepEqual(used.filter((u, i) => u !== used[i - 1]), ["sse", "long-poll", "sse"]);
});

/** sockets makes WebSockets that say what `say` gives for the n-th of them, at once; undefined is one that is not made. */
function sockets(say, urls = []) {
  return class {
    constructor(url, protocols) {
      const messages = say(urls.push([new URL(url), protocols]), new URL(url).searchParams.get("cursor"));
      setTimeout(() => {
        if (!messages) return this.onclose?.({ code: 1006, reason: "" });
        this.onopen?.();
        for (const m of messages) m.code ? this.onclose?.(m) : this.onmessage?.({ data: JSON.stringify(m) });
      });
    }
    close() {}
  };
}
const begin = { penstock: "opened", cursor: "c0" };

test("over a WebSocket nothing is lost where the node stops, or the handler is too slow", async () => {
  const urls = [];
  const log = [1, 2, 3, 4, 5, 6].map((n) => ({ cursor: "c" + n, id: "e" + n, pad: "x".repeat(100) }));
  const say = (n, cursor) => [begin, ...(n === 1 ? [log[0], { code: 1001, reason: "shutdown" }] : log.slice(Number(cursor.slice(1)))), { penstock: "closing", reason: "done" }];
  const handled = [];
  const seen = await run([], { transport: "websocket", WebSocket: sockets(say, urls), token: () => "tök?>", limits: { ahead: 300 },
    onEvent: async (e) => { await null; handled.push(e.id); } });
  assert.equal(seen.error, undefined);
  assert.deepEqual(handled, log.map((e) => e.id));
  assert.deepEqual(urls[0][1], ["penstock.v1", "penstock.bearer.dMO2az8-"]);
  assert.match(seen.lost[0].error.message, /shutdown/);
  assert.ok(seen.lost.length > 1 && seen.lost.slice(1).every((n) => /too slow/.test(n.error.message)), JSON.stringify(seen.lost));
});

test("codes of a WebSocket", async () => {
  const ended = async (code, reason) => (await run([], { transport: "websocket", WebSocket: sockets((n) => [begin, n === 1 ? { code, reason } : { code: 1000, reason: "" }]) }));
  assert.equal((await ended(1000, "")).error, undefined);
  assert.deepEqual([(await ended(4410, "expired")).error.kind, (await ended(4422, "filter-cost")).error.status], ["expired", 4422]);
  for (const [code, reason] of [[1013, "unavailable"], [4508, "slow"], [1006, ""]]) {
    const seen = await ended(code, reason);
    assert.deepEqual([seen.error, seen.lost.length], [undefined, 1], `code ${code}`);
  }
});

test("a WebSocket that is not made is asked about: refused by the node, kept off by others", async () => {
  let seen = await run([() => problem(422, "invalid", { field: "filter" })], { transport: "auto", WebSocket: sockets(() => undefined) });
  assert.deepEqual([seen.error.status, seen.error.field], [422, "filter"]);
  seen = await run([({ headers }) => (headers.Accept === "application/json" ? page([], "c1") : events([opened, closing]))], { transport: "auto", WebSocket: sockets(() => undefined) });
  assert.equal(seen.error, undefined);
  assert.deepEqual(seen.notices.map((n) => [n.kind, n.transport]), [["switched", "websocket"], ["connected", "sse"]]);
});
