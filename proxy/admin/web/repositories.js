// All repositories of which something is kept.

import {get} from "./api.js";
import {button, el, setText, Table} from "./parts.js";
import {ago, bytes, count, many, percent} from "./words.js";

const PAGE = 50;
const TYPING_MS = 250; // a pause in it starts the search

// What was chosen outlives the view: who comes back from a repository finds the list as it was.
const chosen = {sort: "-accessed", q: "", pinned: false, cursors: [null]};

export function asked(t) {
  return t.hits + t.misses + t.passes;
}

const kept = (r) => [many(r.answers, "answer"), r.mirror && "mirror", r.pinned && "pinned"].filter(Boolean).join(", ");

export function repositories(main) {
  const table = new Table("Repositories", [
    {title: "Repository", sort: "name", text: (r) => r.repo, link: (r) => `#/repositories/${r.id}`},
    {title: "Hit ratio", number: true, sort: "hit_ratio", text: (r) => percent(r.traffic.hit_ratio)},
    {title: "Requests", number: true, sort: "requests", text: (r) => count(asked(r.traffic))},
    {title: "From here", number: true, sort: "hit_bytes", text: (r) => bytes(r.traffic.hit_bytes)},
    {title: "On disk", number: true, sort: "stored_size", text: (r) => bytes(r.stored_size)},
    {title: "Kept", text: kept},
    {title: "Accesses", number: true, sort: "accesses", text: (r) => count(r.accesses)},
    {title: "Last access", sort: "accessed", text: (r) => ago(r.accessed)},
  ], {key: (r) => r.id, empty: "No repository is kept that fits.", onsort: sort});
  const q = el("input", {id: "q", type: "search", value: chosen.q, placeholder: "part of a name", spellcheck: "false"});
  const pinned = el("input", {id: "pinned", type: "checkbox"});
  const order = el("select", {id: "order"}, ...Object.entries({
    "name": "name", "-accessed": "last access", "-stored_size": "size on disk", "-accesses": "accesses",
    "-requests": "requests", "-hit_ratio": "best hit ratio", "hit_ratio": "worst hit ratio",
    "-hit_bytes": "bytes from here",
  }).map(([value, title]) => el("option", {value}, title)));
  const back = button("Previous", () => turn(-1)), on = button("Next", () => turn(1));
  const place = el("span", {class: "quiet", role: "status"});
  let next = null, typing = 0;
  pinned.checked = chosen.pinned;

  q.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({q: q.value.trim()}), TYPING_MS);
  });
  pinned.addEventListener("change", () => choose({pinned: pinned.checked}));
  order.addEventListener("change", () => choose({sort: order.value}));

  // By names only one way: whoever looks for one has the search.
  function sort(name) {
    const descending = name === "name" ? name : `-${name}`;
    choose({sort: chosen.sort === descending && name !== "name" ? name : descending});
  }

  function choose(what) {
    Object.assign(chosen, what, {cursors: [null]});
    show();
  }

  function turn(by) {
    if (by > 0) chosen.cursors.push(next);
    else chosen.cursors.pop();
    show();
  }

  // What somebody has chosen doesn't wait for the next beat, and what fails then is told by it.
  function show() {
    refresh().catch(() => {});
  }

  async function refresh() {
    const query = new URLSearchParams({limit: PAGE, sort: chosen.sort});
    const cursor = chosen.cursors.at(-1);
    if (cursor) query.set("cursor", cursor);
    if (chosen.q) query.set("q", chosen.q);
    if (chosen.pinned) query.set("pinned", "true");
    const text = query.toString();
    wanted = text;
    const page = await get(`repositories?${text}`);
    if (wanted !== text) return; // something else was chosen meanwhile
    next = page.next;
    table.set(page.repositories);
    table.sorted(chosen.sort.replace("-", ""), chosen.sort.startsWith("-"));
    order.value = chosen.sort;
    const number = chosen.cursors.length;
    back.disabled = number === 1;
    on.disabled = !next;
    const where = number === 1 && !next ? many(page.repositories.length, "repository", "repositories") : `Page ${number}`;
    setText(place, page.complete ? where : `${where}; the folder is still being read`);
  }
  let wanted = "";

  main.append(
    el("h1", {}, "Repositories"),
    el("form", {class: "row filters", role: "search", onsubmit: (e) => e.preventDefault()},
      el("label", {for: "q"}, "Find "), q,
      el("label", {for: "order"}, "Order by "), order,
      el("span", {}, pinned, el("label", {for: "pinned"}, " only pinned"))),
    table.node,
    el("div", {class: "row pager"}, back, place, on));
  return {refresh, every: 5000, close: () => clearTimeout(typing)};
}
