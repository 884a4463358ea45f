// The live page: one event per second, drawn as it comes.
"use strict";

(() => {
  const page = document.getElementById("live");
  const state = document.getElementById("live-state");
  const line = document.querySelector("#live-plot polyline");
  const KEPT = 120;
  const latencies = [];
  let last = null;

  const bytes = (count) =>
    count >= 1e6 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e3).toFixed(0)} kB`;

  const tile = (name, text) => {
    page.querySelector(`[data-tile="${name}"]`).textContent = text;
  };

  const fill = (name, rows) => {
    const body = page.querySelector(`[data-table="${name}"] tbody`);
    body.replaceChildren(
      ...(rows.length ? rows : [["–"]]).map((cells) => {
        const row = document.createElement("tr");
        for (const cell of cells) {
          row.insertCell().textContent = cell;
        }
        return row;
      }),
    );
  };

  const rate = (now, before, seconds) =>
    before === undefined ? "–" : (Math.max(0, now - before) / seconds).toFixed(0);

  // Rows that came and went since the last event, by channel.
  const channelRow = (channel, seconds) => {
    const { name, waiting, oldest, added } = channel;
    const waited = last?.channels.find((each) => each.name === name)?.waiting ?? 0;
    const moved = last ? [rate(added, 0, seconds), rate(waited + added, waiting, seconds)] : ["–", "–"];
    return [name, waiting, `${oldest.toFixed(1)} s`, ...moved];
  };

  const plot = () => {
    const highest = Math.max(...latencies, 0.001);
    tile("highest", `${(1000 * highest).toFixed(2)} ms`);
    const step = 600 / (KEPT - 1);
    line.setAttribute(
      "points",
      latencies.map((seconds, i) => `${i * step},${115 - (110 * seconds) / highest}`).join(" "),
    );
  };

  const draw = (taken) => {
    const seconds = last ? taken.at - last.at : 1;
    const alive = taken.processes.filter((each) => each.is_alive);
    tile("waiting", taken.waiting);
    tile("stored", rate(taken.stored, last?.stored, seconds));
    tile("received", alive.reduce((sum, each) => sum + each.rate, 0).toFixed(0));
    tile("missed", taken.processes.reduce((sum, each) => sum + each.full, 0));
    tile("processes", alive.length);
    tile("memberships", taken.memberships);
    tile("size", bytes(taken.size));
    tile("log_size", bytes(taken.log_size));
    const relays = alive.filter((each) => each.relay);
    page.querySelector("[data-relay]").hidden = !taken.relay;
    if (taken.relay) {
      tile("node", `${taken.node || "?"}, ${taken.relay}`);
    }
    fill(
      "relays",
      relays.map(({ pid, relay, token }) => [
        pid ?? "?",
        relay.reason || `${relay.engine}, ${(1000 * relay.round_trip).toFixed(1)} ms`,
        relay.groups,
        relay.sent,
        relay.received,
        relay.missed,
        token.slice(0, 8),
      ]),
    );
    tile("latency", `${(1000 * taken.latency).toFixed(2)} ms`);
    if (last) {
      // The first message finds everything cold: it would flatten all others.
      latencies.push(taken.latency);
      latencies.splice(0, latencies.length - KEPT);
      plot();
    }
    fill("channels", taken.channels.map((channel) => channelRow(channel, seconds)));
    fill("groups", taken.groups.map((group) => [group.name, group.members]));
    fill(
      "processes",
      taken.processes.map((process) => [
        process.is_alive ? (process.pid ?? "?") : "killed",
        process.received,
        process.rate.toFixed(0),
        process.full,
        process.channels.join(", "),
        process.token.slice(0, 8),
      ]),
    );
    last = taken;
  };

  const say = (text, isWrong) => {
    state.textContent = text;
    page.classList.toggle("is-wrong", isWrong);
  };

  say("Connecting ...", false);
  const source = new EventSource(page.dataset.stream);
  source.onmessage = (event) => {
    const taken = JSON.parse(event.data);
    if (taken.error) {
      say(taken.error, true);
    } else {
      say(`${taken.database}: ${taken.path.split("/").pop()}`, false);
      draw(taken);
    }
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      say("The connection was refused; load the page again.", true);
    }
  };
})();
