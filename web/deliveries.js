"use strict";

// The delivery log: a page of rows, each opened on demand, and a form to have one replayed. Whatever comes from a
// delivery is set as text, never as markup.

const maxText = 256 * 1024; // characters of one body shown
const pageLimit = 50;
const emptyPages = 20; // asked for in a row before somebody has to ask again

const $ = (id) => document.getElementById(id);
let next; // cursor of the next page
let search = 0; // number of the newest search: answers to older ones are dropped

function filters() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData($("filter"))) {
    if (value !== "") {
      query.set(name, value);
    }
  }
  return query;
}

async function ask(url, options) {
  const answer = await fetch(url, options);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw new Error(body.detail || body.title || answer.status + " " + answer.statusText);
  }
  return body;
}

async function load(fresh) {
  const mine = fresh ? ++search : search;
  if (fresh) {
    next = undefined;
    $("rows").replaceChildren();
  }
  $("problem").hidden = $("empty").hidden = $("more").hidden = true;
  const query = filters();
  query.set("limit", pageLimit);
  try {
    for (let found = 0, pages = 0; found === 0 && pages < emptyPages; pages++) {
      if (next) {
        query.set("cursor", next);
      }
      const page = await ask("/v1/deliveries?" + query);
      if (mine !== search) {
        return;
      }
      $("rows").append(...page.items.map(row));
      found = page.items.length;
      next = page.next;
      if (!next) {
        break;
      }
    }
  } catch (e) {
    if (mine === search) {
      $("problem").textContent = "The list can't be read: " + e.message;
      $("problem").hidden = false;
    }
  }
  $("more").hidden = !next;
  $("empty").hidden = $("rows").childElementCount > 0 || Boolean(next) || !$("problem").hidden;
}

function path(delivery) {
  return "/v1/deliveries/" + encodeURIComponent(delivery.source) + "/" + encodeURIComponent(delivery.id);
}

function row(delivery) {
  const details = element("details");
  const summary = element("summary");
  const time = new Date(delivery.received);
  const outcome = delivery.status + (delivery.replay ? ", replay" : "");
  for (const [name, value] of [["time", time.toLocaleString([], { hour12: false })], ["type", delivery.type], ["stream", delivery.stream], [delivery.status, outcome]]) {
    const cell = element("span", name, value);
    cell.title = name === "time" ? delivery.received : value;
    summary.append(cell);
  }
  details.append(summary);
  details.addEventListener("toggle", () => open(details, delivery), { once: true });
  return details;
}

// open shows a delivery in full, the first time it is looked at.
async function open(details, delivery) {
  const box = element("div");
  details.append(box);
  try {
    const full = await ask(path(delivery));
    const links = element("p", "links");
    for (const url of [full.links.self, full.links.request, full.links.stream, full.links.parked, full.links.replay_of, full.links.last_replay, ...full.links.events]) {
      if (url) {
        const link = element("a", "", url);
        link.href = url;
        links.append(link);
      }
    }
    box.append(element("pre", "", JSON.stringify(full, null, 2)), links);
    if (full.status !== "parked") {
      box.append(replayForm(delivery));
    }
  } catch (e) {
    box.append(element("p", "", "It can't be read: " + e.message));
    return;
  }
  try {
    const request = await ask(path(delivery) + "/request");
    const headers = Object.entries(request.headers).map(([name, value]) => name + ": " + value);
    const body = request.body ?? "base64: " + request.body_base64;
    const text = [request.method + " " + request.path, ...headers, "", body].join("\n");
    box.append(element("pre", "", text.length > maxText ? text.slice(0, maxText) + "…" : text));
  } catch (e) {
    box.append(element("p", "", "The request is not shown: " + e.message));
  }
}

function replayForm(delivery) {
  const form = element("form", "form");
  const fields = {};
  for (const [name, text, length] of [["reason", "Why replay it?", 500], ["by", "Who?", 100]]) {
    const label = element("label", "", text + " ");
    const input = element("input");
    input.required = true;
    input.maxLength = length;
    label.append(input);
    form.append(label);
    fields[name] = input;
  }
  const button = element("button", "", "Replay");
  const said = element("output");
  form.append(button, said);
  // One key for one form: pressing it twice replays once.
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    said.textContent = "";
    try {
      const done = await ask(path(delivery) + "/replay", {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": key },
        body: JSON.stringify({ reason: fields.reason.value, by: fields.by.value }),
      });
      said.textContent = done.id + ": " + done.status;
    } catch (e) {
      said.textContent = "Not replayed: " + e.message;
      button.disabled = false;
    }
  });
  return form;
}

function element(name, className = "", text = "") {
  const e = document.createElement(name);
  e.className = className;
  e.textContent = text;
  return e;
}

$("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  load(true);
});
$("more").addEventListener("click", () => load(false));
load(true);
