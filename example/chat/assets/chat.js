"use strict";

const $ = (id) => document.getElementById(id);
const state = JSON.parse($("state").textContent);

// Processes: every pid gets a colour of its own, the same on all pages.

function paint(element, pid) {
  element.textContent = `pid ${pid}`;
  element.dataset.pid = pid;
  element.style.setProperty("--hue", (pid * 137.5) % 360);
}

// Chat

const VIA = { websocket: "", post: "by POST", worker: "runworker" };

const shown = new Map(); // id -> item of the log

function show(message) {
  if (shown.has(message.id)) return markLate(shown.get(message.id)); // it is part of the page
  const log = $("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const item = document.createElement("li");
  item.className = message.via;
  item.classList.toggle("mine", message.name === $("composer").elements.name.value);
  const add = (tag, className, text) => {
    const element = item.appendChild(document.createElement(tag));
    element.className = className;
    element.textContent = text;
    return element;
  };
  add("b", "name", message.name);
  paint(add("span", "pid", ""), message.pid);
  if (VIA[message.via]) add("span", "via", VIA[message.via]);
  const at = new Date(message.at);
  add("time", "", at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  add("p", "text", message.text);
  log.append(item);
  if (message.id) shown.set(message.id, item); // the worker's answers have none
  if (message.at < connectedAt) markLate(item);
  countMissed();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

// What was said while this page was away, and came when it was back.

function markLate(item) {
  if (item.classList.contains("late")) return;
  item.classList.add("late");
  $("late").textContent = Number($("late").textContent) + 1;
}

// What the database has since the first line of this page, and the page has not.

let expected = []; // ids

function countMissed() {
  const first = state.messages[0]?.id ?? 0;
  $("missed").textContent = expected.filter((id) => id >= first && !shown.has(id)).length;
}

function notice(text) {
  const item = document.createElement("li");
  item.className = "notice";
  item.textContent = text;
  $("log").append(item);
  $("log").scrollTop = $("log").scrollHeight;
}

// WebSocket

let socket;
let connectedAt = 0; // by the server's clock, which the messages go by

function connect() {
  // It comes back by itself, and goes on where it was, also when the page is opened again.
  socket = new ResumingSocket(`/ws/${state.room}/`, {
    positions: state.positions,
    storage: sessionStorage,
  });
  socket.onmessage = (message) => {
    if (message.type === "hello") greet(message);
    else if (message.type === "message") show(message);
    else if (message.type === "notice") notice(message.text);
    else if (message.type === "pong") measure(message);
  };
  socket.onclose = () => {
    $("socket").textContent = "offline";
    delete $("socket").dataset.pid;
  };
}

function greet(hello) {
  paint($("socket"), hello.pid);
  connectedAt = hello.at;
  setTimeout(() => {
    expected = hello.ids; // by now all that was missed has come
    countMissed();
  }, 1000);
}

$("reconnect").onclick = () => {
  socket.close();
  connect();
};

if ($("restart")) $("restart").onclick = () => socket.send({ type: "restart" });

$("go").onsubmit = (event) => {
  event.preventDefault();
  location.href = `/room/${$("room").value}/`;
};

$("composer").onsubmit = async (event) => {
  event.preventDefault();
  const form = event.target;
  const { name, text } = form.elements;
  if (event.submitter?.value === "post") {
    const answer = await fetch("post/", { method: "POST", body: new FormData(form) }).catch(() => 0);
    if (!answer.ok) return notice("The message was not posted.");
  } else if (!socket.send({ type: "say", name: name.value, text: text.value })) {
    return notice("Not connected; trying again.");
  }
  text.value = "";
  text.focus();
};

// Latency

const WINDOW = 30000; // ms of the plot
const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
const samples = { trip: [], own: [], other: [] }; // [when, ms]
const sent = new Map(); // id of a probe on its way -> when
let number = 0;

setInterval(() => {
  // Browsers slow down hidden tabs, which would show as latency of the layer.
  if (document.hidden) return;
  if (sent.size > 100) sent.clear(); // probes of connections that are gone
  const began = performance.now();
  if (socket.send({ type: "ping", id: ++number })) sent.set(number, began);
}, 500);

function measure(pong) {
  const now = performance.now();
  if (!pong.mine) {
    samples.other.push([now, pong.layer_ms]);
  } else if (sent.has(pong.id)) {
    samples.trip.push([now, now - sent.get(pong.id)]);
    samples.own.push([now, pong.layer_ms]);
    sent.delete(pong.id);
  }
  for (const [key, list] of Object.entries(samples)) {
    while (list.length && list[0][0] < now - WINDOW) list.shift();
    const sorted = list.map((sample) => sample[1]).sort((a, b) => a - b);
    $(key).textContent = sorted.length ? sorted[sorted.length >> 1].toFixed(2) : "–";
  }
  draw(now);
}

function draw(now) {
  const { width, height } = $("plot").getBoundingClientRect();
  const [left, right, top, bottom] = [34, width - 6, 8, height - 20];
  const all = Object.values(samples).flat().map((sample) => sample[1]);
  // Logarithmic: a busy moment of the machine must not flatten everything else.
  const from = TICKS.findLast((ms) => ms <= Math.min(1, ...all)) ?? TICKS[0];
  const to = TICKS.find((ms) => ms >= Math.max(10, ...all)) ?? TICKS.at(-1);
  const share = (ms) => Math.min(1, Math.max(0, Math.log(ms / from) / Math.log(to / from)));
  const x = (when) => (right - ((now - when) / WINDOW) * (right - left)).toFixed(1);
  const y = (ms) => (bottom - share(ms) * (bottom - top)).toFixed(1);

  let svg = "";
  for (const ms of TICKS.filter((ms) => ms >= from && ms <= to)) {
    svg += `<path class="grid" d="M${left} ${y(ms)}H${right}"/>`;
    svg += `<text x="${left - 6}" y="${y(ms)}" dy=".35em" text-anchor="end">${ms}</text>`;
  }
  for (const seconds of [30, 20, 10]) {
    const at = x(now - seconds * 1000);
    const anchor = seconds === 30 ? "start" : "middle";
    svg += `<text x="${at}" y="${height - 4}" text-anchor="${anchor}">−${seconds} s</text>`;
  }
  svg += `<text x="${right}" y="${height - 4}" text-anchor="end">now</text>`;
  for (const [when, ms] of samples.other) {
    svg += `<circle class="other" cx="${x(when)}" cy="${y(ms)}" r="2.5"/>`;
  }
  for (const key of ["trip", "own"]) {
    const points = samples[key].map(([when, ms]) => `${x(when)} ${y(ms)}`);
    if (points.length) svg += `<path class="${key}" d="M${points.join("L")}"/>`;
  }
  $("plot").innerHTML = svg; // numbers of our own only
}

// Start

const NAMES = ["Ada", "Blaise", "Edsger", "Grace", "Hedy", "Kurt", "Mary", "Niklaus"];
const nameInput = $("composer").elements.name;
nameInput.value =
  sessionStorage.getItem("name") || NAMES[Math.floor(Math.random() * NAMES.length)];
const keepName = () => sessionStorage.setItem("name", nameInput.value);
nameInput.onchange = keepName;
keepName();

for (const element of document.querySelectorAll(".pid[data-pid]")) {
  paint(element, Number(element.dataset.pid));
}
state.messages.forEach(show);
$("log").scrollTop = $("log").scrollHeight;
new ResizeObserver(() => draw(performance.now())).observe($("plot"));
connect();
