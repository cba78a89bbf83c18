// What views are put together from.  Text is only ever put in as text: repositories may be called
// anything.

export function el(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

export function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

// Changes nothing that is so already: what has the focus or is selected stays so.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// The same, for what may be broken behind each of its slashes.
export function setName(node, name) {
  if (node.textContent === name) return;
  node.replaceChildren(...name.split(/(?<=\/)/).flatMap((part) => [part, document.createElement("wbr")]));
}

// Said to those who don't see it.
export function tell(text) {
  setText(document.getElementById("told"), text);
}

export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/\W+/g, "-")}`;
  return el("section", {"aria-labelledby": id}, el("h2", {id}, title), ...children);
}

export function button(text, onclick, properties = {}) {
  return el("button", {type: "button", onclick, ...properties}, text);
}

// Pairs of a term and what it is; set(values) fills in: strings, or nodes.
export function facts(...terms) {
  const values = terms.map(() => el("dd"));
  const node = el("dl", {class: "facts"}, ...terms.map((t, i) => el("div", {}, el("dt", {}, t), values[i])));
  return {node, set(...given) {
    given.forEach((v, i) => typeof v === "string" ? setText(values[i], v) : values[i].replaceChildren(v));
  }};
}

// columns: {title, text(item), number, link(item), node(item, old), sort: "name", descends}
// Rows stay while their key does, so that the focus in them stays.
export class Table {
  constructor(caption, columns, {key, empty = "Nothing.", onsort = null}) {
    Object.assign(this, {columns, key, rows: new Map()});
    this.body = el("tbody", {role: "rowgroup"});
    this.heads = columns.map((c) => this.head(c, onsort));
    this.table = el("table", {role: "table"},
      el("caption", {class: "visually-hidden"}, caption),
      el("thead", {role: "rowgroup"}, el("tr", {role: "row"}, ...this.heads)), this.body);
    this.empty = el("p", {class: "quiet", hidden: true}, empty);
    this.node = el("div", {class: "table"}, this.table, this.empty);
  }

  head(column, onsort) {
    const inside = column.sort && onsort
      ? button(column.title, () => onsort(column.sort), {class: "sort"}) : column.title;
    return el("th", {role: "columnheader", scope: "col", class: column.number ? "number" : null}, inside);
  }

  // Which column the rows are sorted by.
  sorted(name, descending) {
    this.columns.forEach((c, i) => {
      if (c.sort === name) this.heads[i].setAttribute("aria-sort", descending ? "descending" : "ascending");
      else this.heads[i].removeAttribute("aria-sort");
    });
  }

  row(item) {
    const cells = this.columns.map((c) => el("td", {
      role: "cell", "data-label": c.title, class: c.number ? "number" : null}));
    return el("tr", {role: "row"}, ...cells);
  }

  set(items) {
    const keys = new Set(items.map(this.key));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    let at = this.body.firstChild;
    for (const item of items) {
      const key = this.key(item);
      let row = this.rows.get(key);
      if (!row) this.rows.set(key, row = this.row(item));
      this.columns.forEach((c, i) => show(row.children[i], c, item));
      if (row === at) at = at.nextSibling;
      else this.body.insertBefore(row, at);
    }
    this.table.hidden = items.length === 0;
    this.empty.hidden = items.length !== 0;
  }
}

function show(cell, column, item) {
  if (column.node) {
    const node = column.node(item, cell.firstChild);
    if (node !== cell.firstChild) cell.replaceChildren(node);
    return;
  }
  const href = column.link?.(item);
  if (!href) {
    setText(cell, column.text(item));
    return;
  }
  let link = cell.firstElementChild;
  if (!link) cell.replaceChildren(link = el("a", {}));
  if (link.getAttribute("href") !== href) link.setAttribute("href", href);
  setName(link, column.text(item));
}

// How something that was asked for went, where it was asked for.
export function outcome() {
  const node = el("p", {class: "outcome", role: "status", "aria-live": "polite"});
  return {
    node,
    say(text) {
      node.className = "outcome";
      setText(node, text);
    },
    done(text) {
      node.className = "outcome good";
      setText(node, text);
    },
    failed(problem) {
      node.className = "outcome bad";
      setText(node, words(problem));
    },
  };
}

export function words(problem) {
  if (!problem.title) return String(problem.message ?? problem);
  const where = problem.field ? ` (${problem.field})` : "";
  return problem.detail ? `${problem.title}: ${problem.detail}${where}` : problem.title;
}

// While it goes on the buttons can't be pressed again.
export async function busy(buttons, job) {
  const had = document.activeElement;
  for (const b of buttons) b.disabled = true;
  try {
    return await job();
  } finally {
    for (const b of buttons) b.disabled = false;
    if (buttons.includes(had) && document.activeElement === document.body) had.focus();
  }
}
