// Real nodes, and what stands between them and a browser.
import { spawn } from "node:child_process";
import { createServer as createHTTP, request } from "node:http";
import { connect, createServer as createTCP } from "node:net";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const binary = process.env.PENSTOCK ?? new URL("../../../bin/penstock", import.meta.url).pathname;

/** until waits for a condition, up to half a minute. */
export async function until(what, condition) {
  for (const end = Date.now() + 30_000; Date.now() < end; ) {
    const value = await condition();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`waited in vain: ${what}`);
}

/** freePort is one that was free a moment ago. */
export function freePort() {
  return new Promise((resolve) => {
    const s = createTCP().listen(0, "127.0.0.1", () => {
      const { port } = s.address();
      s.close(() => resolve(port));
    });
  });
}

/** Node is a process of its own, which can be killed and started again where it was. */
export class Node {
  static async start(t, { brokers = [], prefix = "t" + Math.random().toString(36).slice(2, 10), more = "", env = {} } = {}) {
    const n = new Node();
    n.dir = mkdtempSync(join(tmpdir(), "penstock-browser-"));
    n.port = await freePort();
    n.kafka = `127.0.0.1:${await freePort()}`;
    n.scheme = more.includes("tls:") ? "https" : "http";
    n.url = `${n.scheme}://127.0.0.1:${n.port}`;
    n.env = env;
    n.config = join(n.dir, "penstock.yaml");
    const kafka = brokers.length ? `brokers: ${JSON.stringify(brokers)}` : `embedded: "${n.kafka}"`;
    writeFileSync(n.config, `listen: 127.0.0.1:${n.port}\ndata: ${n.dir}/data\nkafka: {${kafka}, prefix: ${prefix}, partitions: 4}\n${more}`);
    t.after(async () => {
      await n.end("SIGTERM");
      rmSync(n.dir, { recursive: true, force: true });
    });
    await n.launch();
    return n;
  }

  async launch() {
    this.said = "";
    this.process = spawn(binary, ["serve", "-c", this.config], { env: { ...process.env, ...this.env }, stdio: ["ignore", "ignore", "pipe"] });
    this.process.stderr.on("data", (b) => (this.said = (this.said + b).slice(-20_000)));
    this.ended = new Promise((resolve) => this.process.on("exit", resolve));
    await until(`a node is ready\n${this.said}`, async () => {
      if (this.process.exitCode !== null) throw new Error(`the node ended:\n${this.said}`);
      return (await fetch(this.url + "/readyz").catch(() => undefined))?.ok;
    });
  }

  async end(signal) {
    this.process.kill(signal);
    await this.ended;
  }

  /** grant makes one event in the stream billing/‹customer›, whatever happens to the node meanwhile. */
  async grant(customer, id, headers = {}) {
    await until(`command ${id}`, async () => {
      const answer = await fetch(this.url + "/v1/commands/GrantCredit", {
        method: "POST", headers: { "Content-Type": "application/json", "Idempotency-Key": id, ...headers },
        body: JSON.stringify({ customer, amount: 100, currency: "eur", reason: "a test" }),
      }).catch(() => undefined);
      if (answer && answer.status >= 400 && answer.status < 500) throw new Error(`${answer.status} ${await answer.text()}`);
      return answer?.status === 200;
    });
  }

  /** log is the ids of all events, by partition-independent means: one page after the other. */
  async log(headers = {}) {
    const ids = [];
    for (let cursor = ""; ; ) {
      const page = await (await fetch(`${this.url}/v1/events?limit=1000${cursor && "&cursor=" + cursor}`, { headers })).json();
      ids.push(...page.items.map((e) => e.id));
      cursor = page.next;
      if (page.items.length === 0) return ids;
    }
  }
}

/** tunnel passes bytes on to a port, which may change; then it cuts what is open. */
export async function tunnel(t, port) {
  const open = new Set();
  const server = createTCP((client) => {
    const node = connect(tunnel.to, "127.0.0.1");
    for (const [a, b] of [[client, node], [node, client]]) {
      open.add(a);
      a.on("error", () => b.destroy()).on("close", () => (open.delete(a), b.destroy()));
      a.pipe(b);
    }
  });
  const tunnel = { to: port, cut: () => open.forEach((s) => s.destroy()) };
  tunnel.move = (port) => ((tunnel.to = port), tunnel.cut());
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  tunnel.url = `http://127.0.0.1:${server.address().port}`;
  t.after(() => (server.close(), tunnel.cut()));
  return tunnel;
}

/** proxy is one that reads HTTP, and keeps from the browser what `blocked` says: "websocket", "sse". */
export async function proxy(t, port, ...blocked) {
  const seen = [];
  const open = new Set();
  const server = createHTTP((from, to) => {
    const sse = from.headers.accept === "text/event-stream";
    seen.push(sse ? "sse" : from.headers.prefer ? "long-poll" : "other");
    const r = request({ port, host: "127.0.0.1", path: from.url, method: from.method, headers: from.headers }, (answer) => {
      to.writeHead(answer.statusCode, answer.headers);
      if (sse && blocked.includes("sse")) return answer.resume(); // gathers until there is no end
      to.flushHeaders();
      answer.on("error", () => to.destroy()); // the node was killed
      answer.pipe(to);
    });
    r.on("error", () => to.destroy());
    to.on("close", () => r.destroy());
    from.pipe(r);
  });
  server.on("connection", (s) => open.add(s));
  server.on("upgrade", (from, socket, head) => {
    seen.push("websocket");
    if (blocked.includes("websocket")) return socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    const node = connect(port, "127.0.0.1", () => {
      node.write(`${from.method} ${from.url} HTTP/1.1\r\n` + from.rawHeaders.map((v, i) => v + (i % 2 ? "\r\n" : ": ")).join("") + "\r\n");
      node.write(head);
      node.pipe(socket).pipe(node);
    });
    open.add(node);
    node.on("error", () => socket.destroy()).on("close", () => socket.destroy());
    socket.on("error", () => node.destroy()).on("close", () => node.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.close(), open.forEach((s) => s.destroy())));
  return { url: `http://127.0.0.1:${server.address().port}`, seen };
}
