"use strict";

// Shows /openapi.json. Text from the document only ever becomes text nodes, never markup.

const node = (name, props = {}, ...children) => {
  const n = Object.assign(document.createElement(name), props);
  n.append(...children.filter((c) => c !== null && c !== undefined));
  return n;
};

// prose turns `code` into code elements and blank lines into paragraphs; nothing else of Markdown is used.
const prose = (text) => (text || "").split(/\n\s*\n/).filter(Boolean).map((paragraph) =>
  node("p", {}, ...inline(paragraph)));
const inline = (text) => (text || "").split("`").map((part, i) => (i % 2 ? node("code", {}, part) : part));

let spec;
const follow = (schema) => {
  while (schema && schema.$ref) schema = spec.components.schemas[schema.$ref.split("/").pop()];
  return schema || {};
};

const first = (type) => (Array.isArray(type) ? type.find((t) => t !== "null") : type);

const typeText = (schema) => {
  const s = follow(schema);
  if (s.anyOf) return s.anyOf.map(typeText).join(" or ");
  let text = first(s.type) || "any";
  if (text === "array") text = `list of ${typeText(s.items)}`;
  if (text === "object" && schema.$ref) text = schema.$ref.split("/").pop();
  if (s.format && s.format !== "int64" && s.format !== "int32") text += `, ${s.format}`;
  return text;
};

const limits = (schema) => {
  const s = follow(schema);
  const parts = [];
  if (s.enum) parts.push("one of " + s.enum.map((v) => JSON.stringify(v)).join(", "));
  if (s.minimum !== undefined) parts.push(`≥ ${s.minimum}`);
  if (s.maximum !== undefined) parts.push(`≤ ${s.maximum}`);
  if (s.minLength !== undefined) parts.push(`at least ${s.minLength} characters`);
  if (s.maxLength !== undefined) parts.push(`at most ${s.maxLength} characters`);
  if (s.pattern) parts.push(`matches ${s.pattern}`);
  if (s.default !== undefined) parts.push(`${JSON.stringify(s.default)} by default`);
  return parts.join("; ");
};

const line = (name, schema, required, description, depth = 0) => {
  const more = limits(schema);
  return node("tr", {},
    node("td", { className: `depth-${depth}` }, node("code", {}, name),
      required ? node("span", { className: "required" }, "required") : null),
    node("td", {}, typeText(schema)),
    node("td", {}, ...inline(description || follow(schema).description),
      more ? node("div", {}, node("small", {}, more)) : null));
};

const fields = (schema, depth = 0) => {
  const s = follow(schema);
  if (depth > 3) return [];
  if (s.anyOf) return s.anyOf.flatMap((one) => fields(one, depth));
  if (first(s.type) === "array") return fields(s.items, depth);
  return Object.entries(s.properties || {}).flatMap(([name, field]) =>
    [line(name, field, (s.required || []).includes(name), field.description, depth), ...fields(field, depth + 1)]);
};

const sample = (schema, depth = 0) => {
  const s = follow(schema);
  if (s.examples && s.examples.length) return s.examples[0];
  if (s.default !== undefined) return s.default;
  if (s.enum) return s.enum[0];
  if (depth > 4) return null;
  switch (first(s.type)) {
    case "object": {
      const out = {};
      for (const [name, field] of Object.entries(s.properties || {})) {
        if ((s.required || []).includes(name) || (field.examples && field.examples.length)) out[name] = sample(field, depth + 1);
      }
      return out;
    }
    case "array": return [sample(s.items, depth + 1)];
    case "integer": case "number": return s.minimum !== undefined ? Math.max(s.minimum, 1) : 1;
    case "boolean": return true;
    case "string": return s.format === "date-time" ? "2026-01-31T12:00:00Z" : "…";
  }
  return null;
};

const quote = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

const curl = (method, path, operation) => {
  const parameters = operation.parameters || [];
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => {
    const p = parameters.find((q) => q.name === name && q.in === "path");
    const value = p && (p.example ?? (p.schema.examples || [])[0]);
    return value === undefined ? `‹${name}›` : encodeURIComponent(value).replaceAll("%2F", "/");
  });
  const lines = [`curl -sS ${quote(location.origin + filled)}`];
  const media = Object.keys(((operation.responses || {})["200"] || {}).content || {});
  if (media.length === 1 && media[0] === "text/event-stream") lines[0] = lines[0].replace("-sS", "-sSN -H 'Accept: text/event-stream'");
  const body = operation.requestBody && operation.requestBody.content["application/json"];
  if (method === "POST") lines[0] = lines[0].replace("curl -sS", "curl -sS -X POST");
  if (body) {
    if (parameters.some((p) => p.name === "Idempotency-Key")) lines.push("-H 'Idempotency-Key: ‹an id of your own›'");
    lines.push("-H 'Content-Type: application/json'");
    lines.push("-d " + quote(JSON.stringify(sample(body.schema) ?? {})));
  }
  return lines.join(" \\\n  ");
};

const copyable = (text) => {
  const button = node("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it"; // the clipboard is only for pages on https or localhost
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return node("div", { className: "code" }, node("pre", {}, node("code", {}, text)), button);
};

const table = (rows) => (rows.length ? node("table", {}, node("tbody", {}, ...rows)) : null);

const titled = (title, ...content) => {
  const shown = content.filter(Boolean);
  return shown.length ? [node("h4", {}, title), ...shown] : [];
};

const article = (method, path, operation) => {
  const parameters = (operation.parameters || []).map((p) =>
    line(p.name, p.schema, p.required, p.description || p.schema.description));
  parameters.forEach((row, i) => row.cells[1].append(` in ${operation.parameters[i].in}`));
  const body = operation.requestBody && operation.requestBody.content["application/json"];
  const answers = Object.entries(operation.responses || {}).sort(([a], [b]) => a.localeCompare(b)).map(([status, response]) =>
    node("tr", {}, node("td", {}, node("code", {}, status)),
      node("td", {}, Object.keys(response.content || {}).join(", ")),
      node("td", {}, response.description)));
  const good = ((operation.responses || {})["200"] || {}).content || {};
  const shape = good["application/json"] && fields(good["application/json"].schema);
  return node("article", { id: operation.operationId },
    node("h3", {},
      node("span", { className: `method ${method}` }, method),
      node("a", { className: "path", href: `#${operation.operationId}` }, path),
      node("span", { className: "what" }, operation.summary || "")),
    node("div", {},
      ...prose(operation.description),
      ...titled("Parameters", table(parameters)),
      ...titled("Body", body && table(fields(body.schema))),
      ...titled("Try it", copyable(curl(method, path, operation))),
      ...titled("Answer", shape && table(shape)),
      ...titled("Statuses", table(answers))));
};

const show = () => {
  document.title = `${spec.info.title}: HTTP reference`;
  document.getElementById("title").textContent = `${spec.info.title}: HTTP reference`;
  document.getElementById("version").textContent = spec.info.version;
  const main = document.getElementById("main");
  const index = document.getElementById("index");
  const entries = [];
  main.replaceChildren(...prose(spec.info.description));
  for (const tag of spec.tags || []) {
    const operations = Object.entries(spec.paths).flatMap(([path, methods]) => Object.entries(methods)
      .filter(([, operation]) => operation.operationId && (operation.tags || []).includes(tag.name))
      .map(([method, operation]) => [method.toUpperCase(), path, operation]));
    if (!operations.length) continue;
    const heading = node("h2", {}, tag.name);
    const above = [heading, node("p", {}, tag.description || "")];
    const links = node("div", {}, node("h2", {}, tag.name));
    main.append(...above);
    for (const [method, path, operation] of operations) {
      const section = article(method, path, operation);
      const link = node("a", { href: `#${operation.operationId}`, title: `${method} ${path}` }, operation.summary || path);
      main.append(section);
      links.append(link);
      entries.push({ text: `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase(), section, link });
    }
    index.append(links);
  }
  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const entry of entries) {
      entry.section.hidden = entry.link.hidden = !wanted.every((word) => entry.text.includes(word));
    }
  });
  if (location.hash) {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) target.scrollIntoView();
  }
};

fetch("/openapi.json")
  .then((response) => {
    if (!response.ok) throw new Error(`the server says ${response.status}`);
    return response.json();
  })
  .then((loaded) => { spec = loaded; show(); })
  .catch((error) => { document.getElementById("state").textContent = `The OpenAPI document can't be shown: ${error.message}`; });
