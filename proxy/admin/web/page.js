// The frame around the views: which one is shown, who looks, whether pannier answers.

import {get, setToken, token} from "./api.js";
import {button, el, setText, tell, words} from "./parts.js";
import {overview} from "./overview.js";
import {repositories} from "./repositories.js";
import {repository} from "./repository.js";
import {nodes} from "./nodes.js";
import {warmups} from "./warmups.js";
import {events} from "./events.js";

// A view is open(main, me, rest) -> {refresh(): promise, every: ms, close()}; the last one is optional.
const VIEWS = [
  {name: "", title: "Overview", open: overview},
  {name: "repositories", title: "Repositories", open: repositories, one: repository},
  {name: "nodes", title: "Nodes", open: nodes},
  {name: "warmups", title: "Warm-ups", open: warmups, one: warmups},
  {name: "events", title: "Events", open: events},
];
const RETRY_MS = 2000;

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const links = new Map(VIEWS.map((v) => [v, el("a", {href: `#/${v.name}`}, v.title)]));
document.getElementById("views").append(...links.values());

let me = null; // what whoami said; null: not asked yet, or to be asked again
let known = null; // the same as text, as the view that is open knows it
let view = null;
let timer = 0, running = false;

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const found = VIEWS.find((v) => v.name === name) ?? VIEWS[0];
  // It becomes a part of a path of the API: nothing that leads out of there.
  return {found, rest: rest.length === 1 && /^(?!\.+$)[\w%:.-]+$/.test(rest[0]) ? rest[0] : ""};
}

function close() {
  view?.close?.();
  view = null;
  main.replaceChildren();
}

function open() {
  const {found, rest} = route();
  close();
  for (const [v, link] of links) {
    if (v === found) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = found === VIEWS[0] ? "pannier" : `${found.title} – pannier`;
  view = rest && found.one ? found.one(main, me, rest) : found.open(main, me, rest);
}

// ---- who looks ----

function showWho() {
  const who = document.getElementById("who");
  if (!me?.name) { // no token is wanted
    who.replaceChildren();
    return;
  }
  const may = me.scopes.includes("operate") ? "may change things" : "may look";
  who.replaceChildren(el("span", {}, `${me.name} ${may}`), button("Sign out", () => leave("")));
}

function leave(why) {
  setToken(null);
  me = known = null;
  showWho();
  signIn(why);
}

function signIn(why) {
  close();
  const input = el("input", {id: "token", type: "password", autocomplete: "off", required: true,
    spellcheck: "false", "aria-describedby": "token-help"});
  const form = el("form", {class: "sign-in", onsubmit(event) {
    event.preventDefault();
    setToken(input.value.trim());
    setText(banner, "");
    beat();
  }},
  el("h1", {}, "Sign in"),
  el("label", {for: "token"}, "Token"), input,
  el("p", {class: "quiet", id: "token-help"},
    "One from admin.tokens_file. It stays in this tab and is forgotten when the tab is closed."),
  el("p", {class: "outcome bad", role: "alert"}, why),
  el("button", {type: "submit", class: "main"}, "Sign in"));
  main.append(form);
  input.focus();
}

async function meet() {
  me = await get("whoami");
  showWho();
  const text = JSON.stringify(me);
  if (known !== text || !view) {
    known = text;
    open();
  }
}

// ---- the heartbeat: only while somebody looks, and no two at once ----

async function beat() {
  clearTimeout(timer);
  if (document.hidden || running) return;
  running = true;
  const asked = view;
  let wait = RETRY_MS;
  try {
    if (!me) await meet();
    const shown = view;
    await shown.refresh();
    wait = view === shown ? shown.every : 0;
    setText(banner, "");
  } catch (problem) {
    wait = failed(problem, asked);
  } finally {
    running = false;
  }
  if (wait !== null) timer = setTimeout(beat, wait);
}

// How long until the next try; null: when somebody has signed in.
function failed(problem, asked) {
  if (problem.status === 401) {
    leave(token() ? "This token is not known." : "");
    return null;
  }
  if (view !== asked) return 0; // somebody has gone on meanwhile
  if (problem.status === 0) me = null; // after a restart other tokens may hold
  if (problem.status === undefined) console.error(problem);
  setText(banner, problem.status === 0 ? `${problem.detail} Trying again.` : words(problem));
  return RETRY_MS;
}

document.addEventListener("visibilitychange", beat);
window.addEventListener("hashchange", () => {
  if (location.hash === "#main") return; // the link that skips
  if (!known) return;
  open();
  tell(document.title);
  main.focus();
  window.scrollTo(0, 0);
  beat();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view it is
  main.focus();
});
beat();
