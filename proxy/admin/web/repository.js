// One repository: what is kept of it, how it is asked for, and what can be done with it.

import {change, get} from "./api.js";
import {busy, button, el, facts, outcome, section, setName, setText, Table} from "./parts.js";
import {asked} from "./repositories.js";
import {ago, bytes, count, many, percent, when} from "./words.js";

const REFS = 100; // shown of those that were seen
const SHOWN_TO = {anonymous: "a client without a credential", client: "a client with its own credential",
  own: "pannier with its own credential"};

const short = (commit) => commit ? commit.slice(0, 12) : "–";

export function repository(main, me, id) {
  const path = `repositories/${id}`;
  const title = el("h1", {class: "repo"}, "Repository"), address = el("p", {class: "quiet repo"});
  const pinMark = el("span", {class: "mark", hidden: true}, "pinned");
  const told = outcome();
  const traffic = facts("Hit ratio", "By bytes", "Requests for packs", "Answered from here", "Sent in all");
  const here = facts("On disk", "Answers", "Mirror", "First kept", "Last access", "Accesses");
  const mirror = facts("Commit", "Size", "On disk", "Made", "Last used", "Path");
  const mirrorPart = section("Mirror", mirror.node);
  const answers = new Table("Answers", [
    {title: "Commit", text: (a) => short(a.commit)},
    {title: "Ref", text: (a) => a.ref ?? "–"},
    {title: "Size", number: true, text: (a) => bytes(a.size)},
    {title: "Objects", number: true, text: (a) => count(a.objects)},
    {title: "Accesses", number: true, text: (a) => count(a.accesses)},
    {title: "Made", text: (a) => ago(a.created)},
    {title: "Last access", text: (a) => ago(a.accessed)},
    {title: "Key", text: (a) => short(a.path?.split("/").pop())},
  ], {key: (a) => a.path, empty: "No answer is kept."});
  const refs = new Table("Refs seen", [
    {title: "Ref", text: (r) => r.name},
    {title: "Object", text: (r) => short(r.object)},
    {title: "Seen", text: (r) => ago(r.seen)},
    {title: "Shown to", text: (r) => SHOWN_TO[r.shown_to] ?? r.shown_to},
  ], {key: (r) => r.name, empty: "Upstream has shown none since the start."});
  const refsSaid = el("p", {class: "quiet"});
  const errors = new Table("Latest errors", [
    {title: "When", text: (e) => when(e.time)},
    {title: "What", text: (e) => e.event},
    {title: "Why", text: (e) => `${e.text} (${e.kind})`},
  ], {key: (e) => `${e.time} ${e.event} ${e.text}`, empty: "None since the start."});
  const body = el("div", {hidden: true},
    el("div", {class: "columns"}, section("Asked for", traffic.node), section("Kept", here.node)),
    mirrorPart, section("Answers", answers.node), section("Refs seen", refsSaid, refs.node),
    section("Latest errors", errors.node));
  let now = null;

  const refreshIt = button("Refresh", () => act(() => change("POST", `${path}/refresh`), (r) => {
    const what = r.made ? "The mirror was made" : "The mirror is up to date";
    return `${what}: ${many(r.tips, "tip")} at upstream, ${count(r.missing)} of them new.`;
  }, "Asking upstream…"));
  const pinIt = button("Pin", () => act(() => change(now.pinned ? "DELETE" : "POST", `${path}/pin`), (r) =>
    r.pinned ? "Pinned: what there is of it stays." : "No longer pinned."));
  const invalidateIt = button("Invalidate…", () => invalidation(path, now.repo, (text) => {
    told.done(text);
    view.refresh().catch(() => {});
  }), {class: "danger", "aria-haspopup": "dialog"});
  const actions = [refreshIt, pinIt, invalidateIt];

  function act(job, say, meanwhile = "") {
    told.say(meanwhile);
    busy(actions, job).then((r) => {
      told.done(say(r));
      return view.refresh();
    }).catch((problem) => told.failed(problem));
  }

  function showRefs(page) {
    const {seen} = page;
    const all = seen && `${seen.complete ? "" : "more than "}${many(seen.count, "ref")}`;
    refs.set(page.refs);
    setText(refsSaid, !seen ? "" : `Upstream has shown ${all}; some of them last ${ago(seen.listed)}, to ` +
      `${SHOWN_TO[seen.shown_to] ?? seen.shown_to}.${page.next ? ` The first ${REFS} are here.` : ""}`);
  }

  function show(r) {
    const t = r.traffic, m = r.mirror_entry;
    now = r;
    document.title = `${r.repo} – pannier`;
    setName(title, r.repo);
    setName(address, r.url);
    pinMark.hidden = !r.pinned;
    setText(pinIt, r.pinned ? "Unpin" : "Pin");
    traffic.set(percent(t.hit_ratio), percent(t.byte_hit_ratio),
      `${count(asked(t))}: ${many(t.hits, "hit")}, ${many(t.misses, "miss", "misses")}, ${count(t.passes)} passed on`,
      bytes(t.hit_bytes), bytes(t.bytes));
    here.set(bytes(r.stored_size), `${count(r.answers)}, ${bytes(r.answers_size)}`,
      r.mirror ? bytes(r.mirror_size) : "none", when(r.created), when(r.accessed), count(r.accesses));
    mirrorPart.hidden = !m;
    if (m) mirror.set(m.commit ?? "–", bytes(m.size), bytes(m.stored_size), when(m.created), when(m.accessed), m.path);
    answers.set(r.answer_entries);
    errors.set(r.errors);
  }

  const view = {
    every: 3000,
    async refresh() {
      try {
        const [r, seen] = await Promise.all([get(path), get(`${path}/refs?limit=${REFS}`)]);
        show(r);
        showRefs(seen);
        body.hidden = buttons.hidden = false;
      } catch (problem) {
        if (problem.status !== 404) throw problem;
        // Who has just made it go away still reads how that went.
        setText(address, "Nothing is kept of it here.");
        body.hidden = buttons.hidden = true;
        pinMark.hidden = true;
      }
    },
  };
  const buttons = el("div", {class: "row actions", hidden: true}, ...(me.scopes.includes("operate") ? actions
    : [el("p", {class: "quiet"}, "This token may look; to change something takes one with the scope operate.")]));

  main.append(
    el("p", {class: "back"}, el("a", {href: "#/repositories"}, "All repositories")),
    el("div", {class: "row heading"}, title, pinMark), address, buttons, told.node, body);
  return view;
}

// ---- making something go away ----

const KINDS = [
  {name: "refs", title: "What is known of its refs", help: "and of who may read it: upstream is asked anew",
    body: () => ({refs: true})},
  {name: "ref", title: "One ref", help: "the same; nothing lies on the disk by the name of a ref",
    input: "refs/heads/main", body: (text) => ({ref: text})},
  {name: "object", title: "An object", help: "the mirror if it has it, and every answer",
    input: "40 or 64 hex digits", body: (text) => ({object: text})},
  {name: "everything", title: "Everything", help: "all that is kept of this repository",
    body: () => ({everything: true})},
];

function amount(said) {
  const parts = said.nodes.map((n) => n.entries
    ? `${many(n.entries, "entry", "entries")} on ${n.name}${n.mirror ? ", the mirror among them" : ""}, ${bytes(n.stored_bytes)}`
    : `nothing on the disk of ${n.name}`);
  if (said.shared) parts.push(`${many(said.shared.objects, "object")} in the shared tier, ${bytes(said.shared.bytes)}`);
  return parts.join("; ");
}

// Asks what is to go, shows what that would be, and only then does it; done(text) when it has.
function invalidation(path, repo, done) {
  const told = outcome();
  const choices = KINDS.map((kind, i) => {
    const radio = el("input", {type: "radio", name: "kind", id: `kind-${kind.name}`, value: kind.name, checked: i === 0,
      "aria-describedby": `help-${kind.name}`});
    const input = kind.input && el("input", {type: "text", placeholder: kind.input, spellcheck: "false",
      autocomplete: "off", "aria-label": kind.title, onfocus: () => {
        radio.checked = true;
        changed();
      }});
    const node = el("div", {class: "kind"}, radio, el("div", {},
      el("label", {for: radio.id}, kind.title), el("span", {class: "quiet", id: `help-${kind.name}`}, ` ${kind.help}`), input));
    return {kind, radio, input, node};
  });
  const reason = el("input", {type: "text", id: "reason", maxlength: "1024", autocomplete: "off"});
  const look = el("button", {type: "submit"}, "See what would go");
  const doIt = button("Invalidate", carryOut, {class: "danger", hidden: true});
  const cancel = button("Cancel", () => dialog.close());
  const form = el("form", {onsubmit(event) {
    event.preventDefault();
    if (doIt.hidden) dryRun();
    else carryOut();
  }, oninput: changed},
  el("h2", {id: "dialog-title"}, "Invalidate"),
  el("p", {class: "repo"}, repo),
  el("fieldset", {}, el("legend", {}, "What is to go, on all nodes and in the shared tier"), ...choices.map((c) => c.node)),
  el("label", {for: "reason"}, "Reason, for the log (optional)"), reason,
  told.node, el("div", {class: "row actions"}, look, doIt, cancel));
  const dialog = el("dialog", {"aria-labelledby": "dialog-title", onclose: () => dialog.remove()}, form);

  // What was shown is not what would go any more.
  function changed() {
    doIt.hidden = true;
    look.hidden = false;
    told.say("");
  }

  function request(dry) {
    const {kind, input} = choices.find((c) => c.radio.checked);
    const body = {...kind.body(input?.value.trim()), dry_run: dry};
    if (reason.value.trim()) body.reason = reason.value.trim();
    return busy([look, doIt], () => change("POST", `${path}/invalidate`, body));
  }

  function dryRun() {
    request(true).then((said) => {
      told.say(`Would go: what is known of its refs, and ${amount(said)}.`);
      look.hidden = true;
      doIt.hidden = false;
      doIt.focus();
    }, (problem) => told.failed(problem));
  }

  function carryOut() {
    request(false).then((said) => {
      dialog.close();
      const late = said.acknowledged ? "in force on all nodes" : `not yet applied by ${said.late.join(", ")}`;
      done(`Invalidated, ${late}: ${amount(said)}.`);
    }, (problem) => told.failed(problem));
  }

  document.body.append(dialog);
  dialog.showModal();
  choices[0].radio.focus();
}
