// The live page: one stream from /live, what it says put into tiles, charts and tables.

import { CELL, Charts } from "./charts.js";
import { Table, element, setText } from "./tables.js";
import * as format from "./format.js";

const SILENCE_MS = 5000; // without a sample for so long, the stream is opened again
const RETRY_MS = [500, 1000, 2000, 5000];
const TYPING_MS = 250;

const $ = (id) => document.getElementById(id);
const view = { paused: false };

// What is chosen is in the address, so that it lasts and can be passed on.
function read() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  view.bdev = chosen.get("bdev") ?? "";
  view.find = $("find").value = chosen.get("find") ?? "";
}
read();

// ---- tables

function badge(cell, text, kind, why = "") {
  if (!cell.firstChild) cell.append(element("span", { class: "badge" }), element("small"));
  const [mark, reason] = cell.children;
  setText(mark, text);
  mark.dataset.kind = kind;
  setText(reason, why);
}

function bdevButton(cell, row) {
  if (!cell.firstChild) {
    const button = element("button", { type: "button", class: "pick" });
    button.addEventListener("click", () => choose(button.textContent === view.bdev ? "" : button.textContent));
    cell.append(button);
  }
  const button = cell.firstChild;
  setText(button, row.name);
  button.setAttribute("aria-pressed", String(row.name === view.bdev));
  button.title = "Show this bdev in the charts";
}

function alarm(cell, text, on) {
  setText(cell, text);
  cell.classList.toggle("bad", on);
}

function queueDepths(cell, row) {
  const more = row.queue_count - row.queues.length;
  const parts = row.queues.map((queue) => `${queue.index}: ${queue.depth} of ${queue.size}`);
  setText(cell, `${parts.join(", ")}${more > 0 ? ` and ${more} more` : ""}`);
}

const MODES = ["busy", "idle", "sleep"];
function shares(cell, row) {
  if (!cell.firstChild) {
    cell.append(element("span", { class: "bar", "aria-hidden": "true" }, ...MODES.map((mode) => element("i", { class: mode }))), element("span"));
  }
  MODES.forEach((mode, index) => { cell.firstChild.children[index].style.width = `${100 * row[mode]}%`; });
  setText(cell.lastChild, MODES.map((mode) => `${mode} ${format.percent(row[mode])}`).join(", "));
}

function connections(cell, row) {
  setText(cell, `${row.connections} of ${row.max_connections}`);
  cell.title = row.clients;
}

const HUNG_NS = 1e9; // an I/O that takes longer is worth red
const number = true;
const tables = {
  bdevs: new Table($("bdevs"), [
    { name: "Name", value: (row) => row.name, fill: bdevButton },
    { name: "Controller", value: (row) => row.controller, text: (row) => row.controller || "–" },
    { name: "Size", number, value: (row) => row.size, text: (row) => format.bytes(row.size) },
    { name: "IOPS", number, value: (row) => row.iops, text: (row) => format.count(row.iops) },
    { name: "Throughput", number, value: (row) => row.bytes, text: (row) => format.rate(row.bytes) },
    { name: "Depth", title: "Queue depth: I/Os in flight", number, value: (row) => row.depth, text: (row) => format.whole(row.depth) },
    { name: "Latency", title: "Mean latency", number, value: (row) => row.mean_ns, text: (row) => format.time(row.mean_ns) },
    { name: "p99", title: "p99 latency: 99 % of the I/Os took at most this long", number, value: (row) => row.p99_ns, text: (row) => format.time(row.p99_ns) },
    { name: "Oldest", title: "Age of the oldest I/O in flight", number, value: (row) => row.oldest_ns, fill: (cell, row) => alarm(cell, row.oldest_ns ? format.time(row.oldest_ns) : "–", row.oldest_ns > HUNG_NS) },
    { name: "Errors", title: "I/Os that failed since the bdev was created", number, value: (row) => row.errors, fill: (cell, row) => alarm(cell, format.whole(row.errors), row.failing) },
  ], { listed: "busiest first", empty: "No bdevs found. Run virtiod-rpc bdev_virtio_attach_controller to attach a disk." }),
  controllers: new Table($("controllers"), [
    { name: "Name", value: (row) => row.name },
    { name: "State", value: (row) => row.state, fill: (cell, row) => badge(cell, row.state, row.state === "up" ? "good" : "bad", row.why) },
    { name: "Type", value: (row) => row.type, text: (row) => `virtio-${row.type}, ${row.transport}` },
    { name: "Address", value: (row) => row.address, wide: true },
    { name: "Reconnects", title: "How often the controller came back after its device was lost", number, value: (row) => row.reconnects, text: (row) => format.whole(row.reconnects) },
    { name: "Timeouts", title: "I/Os that failed because the device did not answer in time", number, value: (row) => row.timeouts, text: (row) => format.whole(row.timeouts) },
    { name: "Depth", title: "Queue depth: I/Os in flight on all virtqueues", number, value: (row) => row.depth, text: (row) => format.whole(row.depth) },
    { name: "Queues", title: "Queue depth and queue size of each virtqueue", wide: true, value: (row) => row.queue_count, fill: queueDepths },
  ], { listed: "those that are down first", empty: "No controllers found. Run virtiod-rpc bdev_virtio_attach_controller to attach one." }),
  exports: new Table($("exports"), [
    { name: "Name", value: (row) => row.name },
    { name: "Kind", value: (row) => row.kind },
    { name: "Bdev", value: (row) => row.bdev, text: (row) => (row.read_only ? `${row.bdev}, read-only` : row.bdev) },
    { name: "Connections", title: "Client connections, and the most that are allowed", number, value: (row) => row.connections, fill: connections },
    { name: "Depth", title: "Queue depth: requests in flight", number, value: (row) => row.depth, text: (row) => format.whole(row.depth) },
    { name: "Requests", title: "Requests per second", number, value: (row) => row.requests, text: (row) => `${format.count(row.requests)}/s` },
    { name: "From clients", number, value: (row) => row.received, text: (row) => format.rate(row.received) },
    { name: "To clients", number, value: (row) => row.sent, text: (row) => format.rate(row.sent) },
    { name: "Errors", title: "Requests that failed since the export was created", number, value: (row) => row.errors, text: (row) => format.whole(row.errors) },
  ], { listed: "those with the most connections first", empty: "No exports found. Run virtiod-rpc nbd_create_export to export a bdev." }),
  pollers: new Table($("pollers"), [
    { name: "Name", value: (row) => row.name },
    { name: "Core", number, value: (row) => row.core, text: (row) => String(row.core) },
    { name: "Mode", value: (row) => row.mode },
    { name: "Depth", title: "Queue depth: I/Os in flight", number, value: (row) => row.depth, text: (row) => format.whole(row.depth) },
    { name: "Time", title: "Share of its time: busy (at work), idle (polling without work), sleep", wide: true, value: (row) => row.busy, fill: shares },
  ], { listed: "in the order of their numbers", empty: "No pollers found. The daemon has not started them yet." }),
};

// ---- tiles

const TILES = [
  ["IOPS", ({ cell }) => format.count(cell[CELL.reads] + cell[CELL.writes] + cell[CELL.others])],
  ["Throughput", ({ cell }) => format.rate(cell[CELL.readBytes] + cell[CELL.writtenBytes])],
  ["Queue depth", ({ cell }) => format.whole(cell[CELL.depth])],
  ["Mean latency", ({ cell }) => format.time(cell[CELL.mean])],
  ["p99 latency", ({ cell }) => format.time(cell[CELL.p99])],
  ["Errors per second", ({ cell }) => format.count(cell[CELL.errors]), ({ cell }) => cell[CELL.errors] > 0],
  ["Controllers up", ({ daemon }) => `${daemon.controllers_up} of ${daemon.controllers}`, ({ daemon }) => daemon.controllers_up < daemon.controllers],
  ["Oldest I/O", ({ daemon }) => (daemon.oldest_ns ? format.time(daemon.oldest_ns) : "–"), ({ daemon }) => daemon.oldest_ns > HUNG_NS],
];
const tiles = TILES.map(([name]) => {
  const value = element("dd", {}, "–");
  $("tiles").append(element("div", {}, element("dt", {}, name), value));
  return value;
});

// ---- what is shown

const charts = new Charts($("charts"));
const states = new Map();

function show(sample) {
  const { daemon } = sample;
  setText($("host"), daemon.host);
  document.title = `virtiod ${daemon.host}`;
  setText($("about"), `Version ${daemon.version}, up ${format.span(daemon.uptime_s)}, ${format.bytes(daemon.memory_used)} of ${format.bytes(daemon.memory)} DMA memory in use`);
  charts.add(sample.cell);
  TILES.forEach(([, text, bad], index) => {
    setText(tiles[index], text(sample));
    tiles[index].classList.toggle("bad", Boolean(bad?.(sample)));
  });
  for (const [name, table] of Object.entries(tables)) table.update(sample[name]);
  options(sample);
  trouble(sample);
}

// The chosen bdev stays a choice when it is not among the rows, or gone.
function options({ bdevs }) {
  const names = bdevs.rows.map((row) => row.name);
  if (view.bdev && !names.includes(view.bdev)) names.push(view.bdev);
  names.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const list = $("bdev");
  if (document.activeElement === list && list.options.length > 1) return; // it may be open
  if (names.join("\n") !== [...list.options].slice(1).map((option) => option.value).join("\n")) {
    list.replaceChildren(list.options[0], ...names.map((name) => new Option(name, name)));
  }
  list.value = view.bdev;
}

function trouble({ daemon, controllers, gone }) {
  const down = daemon.controllers - daemon.controllers_up;
  const texts = [];
  if (daemon.problem) texts.push(`Not healthy: ${daemon.problem}.`);
  if (down) texts.push(`${down} of ${daemon.controllers} controllers ${down === 1 ? "is" : "are"} down.`);
  if (gone) texts.push(`Bdev ${view.bdev} does not exist.`);
  setText($("trouble"), texts.join(" "));
  $("trouble").hidden = !texts.length;
  for (const { name, state, why } of controllers.rows) {
    if (states.has(name) && states.get(name) !== state) announce(`Controller ${name}: ${state}${why ? `, ${why}` : ""}`);
    states.set(name, state);
  }
}

function announce(text) {
  setText($("announce"), text);
}

// ---- the stream

let source = null;
let timer = 0;
let failures = 0;

const LINKS = { live: "Live", connecting: "Connecting", lost: "No connection", paused: "Paused" };
function link(state) {
  const where = $("link");
  if (where.dataset.state === state && where.textContent === LINKS[state]) return;
  if (state === "lost" || where.dataset.state === "lost") announce(LINKS[state]);
  where.dataset.state = state;
  setText(where, LINKS[state]);
}

function stop() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function start() {
  stop();
  if (view.paused || document.hidden) return;
  const query = new URLSearchParams(Object.entries({ bdev: view.bdev, find: view.find }).filter(([, value]) => value));
  history.replaceState(null, "", query.size ? `#${query}` : location.pathname);
  source = new EventSource(`/live?${query}`);
  source.addEventListener("history", (message) => charts.set(JSON.parse(message.data)));
  source.addEventListener("sample", (message) => {
    failures = 0;
    link("live");
    expect();
    show(JSON.parse(message.data));
  });
  source.addEventListener("error", again);
  expect();
}

function expect() {
  clearTimeout(timer);
  timer = setTimeout(again, SILENCE_MS);
}

function again() {
  stop();
  link("lost");
  timer = setTimeout(start, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
  failures += 1;
}

function choose(bdev) {
  view.bdev = bdev;
  $("bdev").value = bdev;
  start();
}

$("bdev").addEventListener("change", (event) => choose(event.target.value));
let typing = 0;
$("find").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    view.find = event.target.value.trim();
    start();
  }, TYPING_MS);
});
$("choice").addEventListener("submit", (event) => event.preventDefault());
$("pause").addEventListener("click", () => {
  view.paused = !view.paused;
  $("pause").setAttribute("aria-pressed", String(view.paused));
  setText($("pause"), view.paused ? "Resume" : "Pause");
  if (view.paused) {
    stop();
    link("paused");
  } else {
    link("connecting");
    start();
  }
});
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
addEventListener("pagehide", stop);
addEventListener("hashchange", () => {
  read();
  start();
});
start();
