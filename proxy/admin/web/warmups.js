// Fetching ahead: what was, what is, what comes, and to begin it.

import {change, get} from "./api.js";
import {busy, el, outcome, section, setText, Table} from "./parts.js";
import {ago, count, when} from "./words.js";

const MOST = 10; // of those that are asked for most, unless told otherwise

const BY = {api: "the API", schedule: "the schedule", command: "a command"};

function progress(w, old) {
  const bar = old?.tagName === "DIV" ? old.firstChild : el("progress", {});
  const node = old?.tagName === "DIV" ? old : el("div", {class: "progress"}, bar, el("span"));
  const ended = w.done + w.failed;
  bar.max = Math.max(1, w.total);
  bar.value = w.total ? ended : 1;
  const text = `${count(ended)} of ${count(w.total)}${w.failed ? `, ${count(w.failed)} failed` : ""}`;
  bar.setAttribute("aria-label", text);
  setText(node.lastChild, text);
  return node;
}

const columns = [
  {title: "Began", text: (w) => when(w.started), link: (w) => `#/warmups/${encodeURIComponent(w.id)}`},
  {title: "By", text: (w) => BY[w.by] ?? w.by ?? "–"},
  {title: "Progress", node: progress},
  {title: "Ended", text: (w) => w.ended ? ago(w.ended) : "under way"},
];

export function warmups(main, me, id) {
  return id ? one(main, id) : all(main, me);
}

function all(main, me) {
  const table = new Table("Warm-ups", columns, {key: (w) => w.id, empty: "Nothing was fetched ahead yet."});
  const next = el("p", {class: "quiet", role: "status"});
  const may = me.scopes.includes("operate");
  const body = el("div", {hidden: true}, ...(may ? [section("Begin one", begin((id) => {
    location.hash = `#/warmups/${encodeURIComponent(id)}`;
  }))] : []), section("Lately", table.node));

  async function refresh() {
    try {
      const said = await get("warmups");
      table.set(said.warmups);
      setText(next, said.next ? `The schedule's next one: ${when(said.next)}.` : "");
      body.hidden = false;
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      setText(next, "This pannier keeps no list of warm-ups; see pannier warm.");
      body.hidden = true;
    }
  }

  main.append(el("h1", {}, "Warm-ups"), next, body);
  return {refresh, every: 2000};
}

function begin(begun) {
  const told = outcome();
  const name = el("input", {type: "text", id: "warm-name", placeholder: "github.com/owner/name", spellcheck: "false",
    autocomplete: "off"});
  const most = el("input", {type: "number", id: "warm-most", min: "1", max: "1000", value: MOST});
  const buttons = ["Fetch it", "Fetch them"].map((text) => el("button", {type: "submit"}, text));

  function form(body, ...children) {
    return el("form", {class: "row", onsubmit(event) {
      event.preventDefault();
      told.say("");
      busy(buttons, () => change("POST", "warmups", body()))
        .then((w) => begun(w.id), (problem) => told.failed(problem));
    }}, ...children);
  }

  return el("div", {},
    form(() => ({repositories: [name.value.trim()]}),
      el("label", {for: "warm-name"}, "One repository"), name, buttons[0]),
    form(() => ({most_used: Number(most.value)}),
      el("label", {for: "warm-most"}, "Those that are asked for most, so many"), most, buttons[1]),
    told.node);
}

function one(main, id) {
  const table = new Table("This warm-up", columns, {key: (w) => w.id});
  const repositories = new Table("Its repositories", [
    {title: "Repository", text: (r) => r.repository},
    {title: "State", text: (r) => r.state},
    {title: "Details", text: (r) => [r.detail, r.error].filter(Boolean).join("; ")},
  ], {key: (r) => r.repository, empty: "None."});
  const more = el("p", {class: "quiet", role: "status"});

  async function refresh() {
    try {
      const w = await get(`warmups/${id}`);
      table.set([w]);
      repositories.set(w.repositories);
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      setText(more, "Nothing is known of this one any more.");
    }
  }

  main.append(el("p", {class: "back"}, el("a", {href: "#/warmups"}, "All warm-ups")), el("h1", {}, "Warm-up"),
    more, table.node, section("Repositories", repositories.node));
  return {refresh, every: 1000};
}
