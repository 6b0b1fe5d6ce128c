"use strict";

// The newest events on top, by nothing but an EventSource: it reconnects by itself and tells the node the last id it
// saw, so nothing is missed between. Whatever comes from an event is set as text, never as markup.

const maxRows = 200;
const maxText = 256 * 1024; // characters of one event kept for display

const $ = (id) => document.getElementById(id);
let source;
let received = 0;
let lastNote; // since the last event
let waiting = []; // newest last; drawn once per frame, so that a burst doesn't block the page

function connect() {
  $("again").hidden = true;
  $("problem").hidden = true;
  show("connecting", "connecting");
  source = new EventSource("/v1/events");
  source.onopen = () => show("live", "live");
  source.onmessage = (m) => {
    received++;
    lastNote = undefined;
    enqueue({ text: m.data });
  };
  source.onerror = () => {
    $("caught-up").hidden = true;
    if (source.readyState === EventSource.CLOSED) {
      closed();
    } else {
      show("connecting", "reconnecting");
    }
  };
  source.addEventListener("penstock.caught-up", () => { $("caught-up").hidden = false; });
  source.addEventListener("penstock.closing", (m) => note("The node ends this feed: " + parse(m.data).reason + ". It goes on where it was."));
  source.addEventListener("penstock.reset", (m) => note("The feed can't go on where it was: " + parse(m.data).reason + ". Events may be missing here."));
}

// closed asks why: an EventSource doesn't tell.
async function closed() {
  show("closed", "closed");
  $("again").hidden = false;
  let why = "the node can't be reached";
  try {
    const answer = await fetch("/v1/events?limit=1", { headers: { Accept: "application/json" } });
    const problem = answer.ok ? {} : await answer.json().catch(() => ({}));
    why = answer.ok ? "the last position can't be resumed" : answer.status + " " + (problem.title || answer.statusText);
  } catch {}
  $("problem").textContent = "The feed was refused: " + why + ".";
  $("problem").hidden = false;
}

function show(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

// note says something once, however often a reconnecting feed hears it.
function note(text) {
  if (lastNote !== text) {
    enqueue({ note: text });
  }
  lastNote = text;
}

function enqueue(item) {
  if (waiting.length === 0) {
    requestAnimationFrame(draw);
  }
  waiting.push(item);
  if (waiting.length > maxRows) {
    waiting.shift();
  }
}

function draw() {
  const rows = document.createDocumentFragment();
  for (const item of waiting.reverse()) {
    rows.append(item.note ? element("p", "note", item.note) : row(item.text));
  }
  waiting = [];
  $("events").prepend(rows);
  while ($("events").childElementCount > maxRows) {
    $("events").lastElementChild.remove();
  }
  $("empty").hidden = true;
  $("counter").textContent = received.toLocaleString();
}

function row(text) {
  const event = parse(text);
  const time = new Date(event.time);
  const details = element("details");
  const summary = element("summary");
  const clock = isNaN(time) ? "" : time.toLocaleTimeString([], { hour12: false }) + "." + String(time.getMilliseconds()).padStart(3, "0");
  for (const [name, value] of [["time", clock], ["type", event.type], ["stream", event.subject], ["version", event.streamversion]]) {
    const cell = element("span", name, value ?? "");
    cell.title = name === "time" ? event.time ?? "" : cell.textContent;
    summary.append(cell);
  }
  details.append(summary);
  const kept = text.length > maxText ? text.slice(0, maxText) + "…" : text;
  details.addEventListener("toggle", () => open(details, kept, event.id), { once: true });
  return details;
}

// open writes the event under its row, the first time it is looked at.
function open(details, text, id) {
  const box = element("div");
  let pretty = text;
  try {
    pretty = JSON.stringify(JSON.parse(text), null, 2);
  } catch {} // cut off
  box.append(element("pre", "", pretty));
  if (id) {
    const link = element("a", "", "/v1/events/" + id);
    link.href = "/v1/events/" + encodeURIComponent(id);
    box.append(link);
  }
  details.append(box);
}

function element(name, className = "", text = "") {
  const e = document.createElement(name);
  e.className = className;
  e.textContent = text;
  return e;
}

$("again").addEventListener("click", connect);
connect();
