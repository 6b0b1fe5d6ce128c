// What a browser does, in a real Chromium, against real nodes.
//
// PENSTOCK is the node's binary (bin/penstock of this repository by default), CHROMIUM the browser's (chromium). With
// PENSTOCK_TEST_BROKERS nodes use that Kafka, else an embedded broker.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { Node, proxy, tunnel, until } from "./nodes.mjs";

process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0"; // the test's own certificates
const dist = new URL("../dist/", import.meta.url).pathname;
const kafka = process.env.PENSTOCK_TEST_BROKERS?.split(",") ?? [];

let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: execFileSync("sh", ["-c", "command -v ${CHROMIUM:-chromium}"], { encoding: "utf8" }).trim(), args: ["--no-sandbox"] });
});
after(() => browser.close());

/** page opens one of the node's own pages, so that feeds are of the same origin, with the client at /client/. */
async function page(t, url) {
  const context = await browser.newContext({ bypassCSP: true, ignoreHTTPSErrors: true });
  t.after(() => context.close());
  const p = await context.newPage();
  await p.route("**/client/*.js", (r) => r.fulfill({ contentType: "text/javascript", body: readFileSync(join(dist, new URL(r.request().url()).pathname.slice("/client/".length))) }));
  await p.addInitScript(() => {
    const versions = {};
    window.disorder = [];
    window.note = (e) => {
      window.got.push(e.id ?? e.key);
      if (!e.id) return;
      if (e.streamversion !== (versions[e.subject] ?? 0) + 1) window.disorder.push(`${e.subject} ${e.streamversion}`);
      versions[e.subject] = e.streamversion;
    };
  });
  await p.goto(url + "/healthz"); // needs no token
  return p;
}

/** whole demands that what a page got is the log: everything once, streams in order. */
async function whole(p, node) {
  const [got, disorder] = await p.evaluate(() => [window.got, window.disorder]);
  assert.equal(new Set(got).size, got.length, "something came twice");
  assert.deepEqual(disorder, []);
  assert.deepEqual([...got].sort(), (await node.log()).sort());
}

/** open follows with the browser's own EventSource. */
const open = (p, path) =>
  p.evaluate((path) => {
    window.got = [];
    window.opened = 0;
    window.source = new EventSource(path);
    window.source.onopen = () => window.opened++;
    window.source.onmessage = (m) => window.note(JSON.parse(m.data));
  }, path);

test("EventSource goes on where it was after the node was killed and started again", async (t) => {
  const node = await Node.start(t, { brokers: kafka });
  const p = await page(t, node.url);
  await open(p, "/v1/events?from=earliest");
  for (let i = 0; i < 40; i++) await node.grant(`c${i % 7}`, `before-${i}`);
  await until("some events", () => p.evaluate(() => window.got.length >= 40));
  await node.end("SIGKILL");
  await node.launch();
  for (let i = 0; i < 40; i++) await node.grant(`c${i % 7}`, `after-${i}`);
  await until("all events", () => p.evaluate(() => window.got.length >= 80));
  assert.ok((await p.evaluate(() => window.opened)) >= 2);
  await whole(p, node);
});

test("EventSource moves to another node with its Last-Event-ID", async (t) => {
  const prefix = "m" + Math.random().toString(36).slice(2, 10);
  const host = kafka.length ? undefined : await Node.start(t, {}); // lends its broker
  const brokers = kafka.length ? kafka : [host.kafka];
  const one = await Node.start(t, { brokers, prefix });
  const two = await Node.start(t, { brokers, prefix });
  const way = await tunnel(t, one.port);
  const p = await page(t, way.url);
  await open(p, "/v1/events?from=earliest");
  for (let i = 0, node = one; i < 6; i++, node = node === one ? two : one) {
    way.move(node.port);
    const last = i * 15 + 15;
    for (let n = i * 15; n < last; n++) await (n % 2 ? one : two).grant(`c${n % 7}`, `n-${n}`);
    await until(`events over node ${i % 2}`, () => p.evaluate((n) => window.got.length >= n, last));
  }
  await whole(p, two);
});

/** follow runs the client in the page. */
const follow = (p, path, options = {}) =>
  p.evaluate(
    async ({ path, options }) => {
      const { follow } = await import("/client/index.js");
      const { token, ...rest } = options;
      window.got = [];
      window.transports = [];
      window.cursors = [];
      window.stop = new AbortController();
      window.ended = follow(path, {
        ...rest,
        ...(token && { token: () => token }),
        signal: window.stop.signal,
        limits: { answer: 2000, least: 50, most: 200, poll: 2000, ...rest.limits },
        onEvent: (e) => window.note(e),
        onCursor: (c) => void window.cursors.push(c),
        onReset: (r) => void (window.reset = r),
        onNotice: (n) => n.kind === "connected" && window.transports.push(n.transport),
      }).then(() => "done", (e) => ({ name: e.name, status: e.status, kind: e.kind }));
    },
    { path, options },
  );

for (const [blocked, want] of [[[], "websocket"], [["websocket"], "sse"], [["websocket", "sse"], "long-poll"]]) {
  test(`the client takes ${want} where ${blocked.join(" and ") || "nothing"} is blocked`, async (t) => {
    const node = await Node.start(t, { brokers: kafka });
    const way = await proxy(t, node.port, ...blocked);
    const p = await page(t, way.url);
    for (let i = 0; i < 20; i++) await node.grant(`c${i % 3}`, `old-${i}`);
    await follow(p, "/v1/events?from=earliest");
    await until("the old events", () => p.evaluate(() => window.got.length >= 20));
    for (let i = 0; i < 20; i++) await node.grant(`c${i % 3}`, `new-${i}`);
    await node.end("SIGKILL");
    await node.launch();
    for (let i = 0; i < 20; i++) await node.grant(`c${i % 3}`, `newer-${i}`);
    await until("all events", () => p.evaluate(() => window.got.length >= 60));
    await whole(p, node);
    const used = await p.evaluate(() => window.transports);
    assert.deepEqual([...new Set(used)], [want]);
    // Who stores the last cursor gets nothing again.
    await p.evaluate(() => window.stop.abort());
    assert.equal((await p.evaluate(() => window.ended)).name, "AbortError");
    const cursor = await p.evaluate(() => window.cursors.at(-1));
    await node.grant("c1", "last");
    await follow(p, "/v1/events", { cursor });
    await until("the last event", () => p.evaluate(() => window.got.length > 0));
    assert.equal(await p.evaluate(() => window.got.length), 1);
  });
}

test("each transport carries a token, also a browser's WebSocket; without one the client ends", async (t) => {
  const token = "a-token+of/this=test?~";
  const node = await Node.start(t, { brokers: kafka, more: 'auth: {tokens: ["env:TOKEN"]}\n', env: { TOKEN: token } });
  const headers = { Authorization: "Bearer " + token };
  for (let i = 0; i < 5; i++) await node.grant("c1", `t-${i}`, headers);
  const p = await page(t, node.url);
  for (const transport of ["websocket", "sse", "long-poll"]) {
    await follow(p, "/v1/events?from=earliest&until=now", { token, transport });
    assert.equal(await p.evaluate(() => window.ended), "done");
    assert.equal(await p.evaluate(() => window.got.length), 5);
    assert.deepEqual(await p.evaluate(() => window.transports), [transport]);
  }
  for (const options of [{}, { token: "a wrong one" }]) {
    await follow(p, "/v1/events?from=earliest", options);
    assert.deepEqual(await p.evaluate(() => window.ended), { name: "Refused", status: 401, kind: "unauthorized" });
  }
  assert.ok(!node.said.includes("of/this"), "the token is in the log");
});

test("a page of another origin follows where it was named, with a token of its own, and nowhere else", async (t) => {
  const token = "a-token+of/this=test?~";
  const shop = await Node.start(t, { brokers: kafka }); // whose pages they are
  const origins = [`127.0.0.1:${shop.port}`];
  const node = await Node.start(t, { brokers: kafka, more: `auth: {tokens: ["env:TOKEN"]}\nfeeds: {origins: ${JSON.stringify(origins)}}\n`, env: { TOKEN: token } });
  const open = await Node.start(t, { brokers: kafka, more: `feeds: {origins: ${JSON.stringify(origins)}}\n` });
  const shut = await Node.start(t, { brokers: kafka });
  const headers = { Authorization: "Bearer " + token };
  for (let i = 0; i < 5; i++) await node.grant("c1", `o-${i}`, headers);
  for (const n of [open, shut]) await n.grant("c1", "o");
  const p = await page(t, shop.url);
  for (const transport of ["websocket", "sse", "long-poll"]) {
    await follow(p, node.url + "/v1/events?from=earliest&until=now", { token, transport });
    assert.equal(await p.evaluate(() => window.ended), "done", transport);
    assert.equal(await p.evaluate(() => window.got.length), 5);
  }
  const row = (url, headers) => p.evaluate(async ([url, headers]) => {
    const a = await fetch(url + "/v1/projections/balances/rows/c1", { headers }).catch((e) => e);
    return a instanceof Error ? a.name : [a.status, !!a.headers.get("ETag")];
  }, [url, headers]);
  await until("the row", async () => (await row(node.url, headers))[0] === 200);
  assert.deepEqual(await row(node.url, headers), [200, true]);
  assert.deepEqual((await row(node.url, {}))[0], 401); // which the page may read
  assert.equal(await row(shut.url, {}), "TypeError");
  const source = (url) => p.evaluate((url) => new Promise((resolve) => {
    const s = new EventSource(url + "/v1/events?from=earliest");
    s.onmessage = () => (s.close(), resolve("a message"));
    s.onerror = () => (s.close(), resolve("an error"));
  }), url);
  assert.equal(await source(open.url), "a message");
  assert.equal(await source(shut.url), "an error");
});

test("rows, a cursor of another log, and a finite feed", async (t) => {
  const node = await Node.start(t, { brokers: kafka });
  const other = await Node.start(t, { brokers: kafka });
  for (let i = 0; i < 9; i++) await node.grant(`c${i}`, `r-${i}`);
  await other.grant("c", "x");
  const foreign = (await (await fetch(other.url + "/v1/events")).json()).next;
  const p = await page(t, node.url);
  for (const transport of ["websocket", "sse", "long-poll"]) {
    await follow(p, "/v1/events?from=earliest&limit=7", { transport });
    assert.equal(await p.evaluate(() => window.ended), "done");
    assert.equal(await p.evaluate(() => window.got.length), 7);
    await follow(p, "/v1/events", { transport, cursor: foreign });
    const refused = await p.evaluate(() => window.ended);
    assert.ok(refused.name === "Refused" && refused.kind === "reset", `${transport}: ${JSON.stringify(refused)}`);
    await follow(p, "/v1/events?until=now", { transport, cursor: foreign, onGap: "earliest" });
    assert.equal(await p.evaluate(() => window.ended), "done");
    assert.equal(await p.evaluate(() => window.got.length), 9);
    assert.deepEqual(await p.evaluate(() => window.reset), { reason: "reset", resumed: "earliest" });
  }
  await follow(p, "/v1/projections/balances/changes?snapshot=true");
  await until("the rows", () => p.evaluate(() => window.got.length >= 9));
  await node.grant("c3", "again");
  await until("a change", () => p.evaluate(() => window.got.length >= 10));
  assert.equal(await p.evaluate(() => window.got.at(-1)), "c3");
});

test("over HTTP/2 more feeds than six share a connection", async (t) => {
  const dir = (await Node.start(t, { brokers: kafka })).dir;
  execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", join(dir, "key.pem"), "-out", join(dir, "cert.pem")], { stdio: "ignore" });
  const node = await Node.start(t, { brokers: kafka, more: `tls: {cert: ${dir}/cert.pem, key: ${dir}/key.pem}\n` });
  const p = await page(t, node.url);
  await p.evaluate(() => {
    window.feeds = Array.from({ length: 20 }, () => {
      const feed = { got: [], source: new EventSource("/v1/events?from=earliest") };
      feed.source.onmessage = (m) => feed.got.push(JSON.parse(m.data).id);
      return feed;
    });
  });
  for (let i = 0; i < 10; i++) await node.grant(`c${i}`, `h-${i}`);
  await until("all feeds have everything", () => p.evaluate(() => window.feeds.every((f) => f.got.length >= 10)));
  const log = (await node.log()).sort();
  for (const got of await p.evaluate(() => window.feeds.map((f) => f.got))) assert.deepEqual(got.sort(), log);
  const protocol = await p.evaluate(async () => {
    await (await fetch("/v1/status")).text();
    await new Promise((resolve) => setTimeout(resolve)); // the entry is made after it
    return performance.getEntriesByType("resource").find((e) => e.name.endsWith("/v1/status")).nextHopProtocol;
  });
  assert.equal(protocol, "h2");
});
