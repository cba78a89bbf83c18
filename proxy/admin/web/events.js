// What happens, as it happens: lines of the log.

import {listen} from "./api.js";
import {button, el, setText, Table} from "./parts.js";
import {clock} from "./words.js";

const SHOWN = 200, KEPT = 1000; // lines
const DRAW_MS = 250; // many may come at once

const FRAME = new Set(["time", "level", "event", "number"]);

const details = (e) => Object.entries(e).filter(([name]) => !FRAME.has(name))
  .map(([name, value]) => `${name}=${/[\s"]/.test(String(value)) ? JSON.stringify(value) : value}`).join(" ");

export function events(main) {
  const lines = []; // the latest first
  const table = new Table("Events", [
    {title: "Time", text: (e) => clock(e.time, true)},
    {title: "Level", text: (e) => e.level},
    {title: "Event", text: (e) => e.event},
    {title: "Details", text: details},
  ], {key: (e) => e.number, empty: "Nothing has happened since this view was opened."});
  const filter = el("input", {id: "filter", type: "search", placeholder: "a word", spellcheck: "false", oninput: () => draw()});
  const hold = button("Pause", () => {
    held = !held;
    hold.setAttribute("aria-pressed", held);
    draw();
  }, {"aria-pressed": "false"});
  const state = el("span", {class: "quiet", role: "status"});
  let stop = null, failure = null, held = false, number = 0, drawing = 0;

  function draw() {
    clearTimeout(drawing);
    drawing = 0;
    const word = filter.value.trim().toLowerCase();
    if (held) return;
    table.set(lines.filter((e) => !word || `${e.level} ${e.event} ${details(e)}`.toLowerCase().includes(word)).slice(0, SHOWN));
  }

  function heard(data, kind) {
    lines.unshift(kind === "missed"
      ? {number: number++, time: new Date().toISOString(), level: "warn", event: "missed", count: data.count}
      : {...data, number: number++});
    lines.length = Math.min(lines.length, KEPT);
    drawing ||= setTimeout(draw, DRAW_MS);
  }

  function begin() {
    const ending = new AbortController();
    stop = () => {
      ending.abort();
      stop = null;
    };
    listen("events", ending.signal, () => setText(state, "listening"), heard)
      .catch((problem) => {
        if (!ending.signal.aborted) failure = problem.status === undefined ? null : problem;
      })
      .finally(() => {
        if (ending.signal.aborted) return;
        stop = null;
        setText(state, "");
      });
  }

  // Few may listen at once: not who doesn't look.
  function onvisibility() {
    if (document.hidden) stop?.();
  }
  document.addEventListener("visibilitychange", onvisibility);

  async function refresh() {
    const problem = failure;
    failure = null;
    if (problem) throw problem;
    if (!stop) begin();
  }

  main.append(el("h1", {}, "Events"),
    el("form", {class: "row filters", role: "search", onsubmit: (e) => e.preventDefault()},
      el("label", {for: "filter"}, "Only with "), filter, hold, state),
    table.node);
  draw();
  return {refresh, every: 2000, close() {
    document.removeEventListener("visibilitychange", onvisibility);
    clearTimeout(drawing);
    stop?.();
  }};
}
