// The nodes that share a Redis, as this one knows them; alone it knows itself.

import {get} from "./api.js";
import {el, setText, Table} from "./parts.js";
import {ago, bytes, count, duration} from "./words.js";

const state = (n) => n.silent_ms ? `silent for ${duration(n.silent_ms)}` : n.state;

const disk = (n) => n.disk_used && n.disk_limit ? `${bytes(n.disk_used)} of ${bytes(n.disk_limit)}` : bytes(n.disk_used);

export function nodes(main) {
  const table = new Table("Nodes", [
    {title: "Node", text: (n) => n.self ? `${n.name} (this one)` : n.name},
    {title: "State", text: state},
    {title: "Requests", number: true, text: (n) => count(n.requests)},
    {title: "On disk", number: true, text: disk},
    {title: "Address", text: (n) => n.address ?? n.peer_address ?? "–"},
    {title: "Version", text: (n) => n.version ?? "–"},
    {title: "Started", text: (n) => n.started ? ago(n.started) : "–"},
  ], {key: (n) => n.name, empty: "No node is known."});
  const more = el("p", {class: "quiet", role: "status"});

  async function refresh() {
    const said = await get("nodes");
    table.set(said.nodes);
    setText(more, said.reason ? `Others can't be asked for: ${said.reason}`
      : !said.complete ? "There may be more." : said.alone ? "It serves alone: redis is not configured." : "");
  }

  main.append(el("h1", {}, "Nodes"), table.node, more);
  return {refresh, every: 2000};
}
