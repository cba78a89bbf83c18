// How it goes: numbers, the last day, what is under way.

import {get} from "./api.js";
import {Chart} from "./chart.js";
import {button, el, section, setText, Table} from "./parts.js";
import {bytes, count, duration, many, percent} from "./words.js";

// step and bucket in seconds: so much is one sample, and so much one point of a chart.
const RANGES = [
  {title: "15 min", name: "quarter of an hour", span: 900, step: 5, bucket: 15},
  {title: "3 h", name: "three hours", span: 3 * 3600, step: 60, bucket: 180},
  {title: "24 h", name: "day", span: 24 * 3600, step: 60, bucket: 1200},
];
const POINTS_LEAST = 24; // a chart is never narrower in time than so many

export const SERVICES = {
  "upload-pack-refs": "refs", "upload-pack": "fetch", "receive-pack-refs": "refs, to push",
  "receive-pack": "push", "lfs": "LFS", "dumb": "dumb",
};

// Samples by step.  They outlive the view, so that only news are asked for.
const kept = {5: [], 60: []};
let range = RANGES[0];

async function moreHistory(step) {
  const known = kept[step], since = known.at(-1)?.time ?? 0;
  const more = await get(`history?step=${step}&since=${since}`);
  // Asked for twice at once, the same may come twice.
  known.push(...more.samples.filter((s) => s.time > (known.at(-1)?.time ?? 0)));
  const oldest = Date.now() / 1000 - Math.max(...RANGES.filter((r) => r.step === step).map((r) => r.span)) - 60;
  while (known.length && known[0].time < oldest) known.shift();
}

const sum = (object) => Object.values(object).reduce((a, b) => a + b, 0);

// Samples gathered into buckets of the range, without gaps.
function gather(samples, {bucket, span, step}) {
  const to = Math.floor(Date.now() / 1000 / bucket) * bucket + bucket;
  const first = samples.find((s) => s.time > to - span)?.time ?? to;
  const begin = Math.floor((first - step) / bucket) * bucket;
  const from = Math.max(to - span, Math.min(begin, to - POINTS_LEAST * bucket));
  const points = [];
  for (let at = from; at < to; at += bucket)
    points.push({from: at, to: at + bucket, hits: 0, asked: 0, saved: 0, client: 0, upstream: 0});
  for (const s of samples) {
    const p = points[Math.floor((s.time - 1 - from) / bucket)];
    if (!p) continue;
    p.hits += sum(s.hits);
    p.asked += sum(s.hits) + sum(s.misses);
    p.saved += s.saved_bytes;
    p.client += s.client_bytes;
    p.upstream += s.upstream_bytes;
  }
  return {points, from, to};
}

function drawCharts(ratio, saved) {
  const {points, from, to} = gather(kept[range.step], range);
  const all = (name) => points.reduce((n, p) => n + p[name], 0);
  const asked = all("asked"), hits = all("hits"), total = asked ? hits / asked : null;
  const said = asked ? `${percent(total)}, ${hits} of ${many(asked, "request")} for packs` : "nothing was asked";
  const flow = `${bytes(all("client"))} were sent to clients, ${bytes(all("upstream"))} came from upstream`;
  ratio.set(points.map((p) => ({...p, value: p.asked ? p.hits / p.asked : null,
    note: p.asked ? `${p.hits} of ${many(p.asked, "request")} for packs` : ""})), from, to, percent(total),
  `Hit ratio over the last ${range.name}: ${said}.`);
  saved.set(points.map((p) => ({...p, value: p.saved,
    note: `${bytes(p.client)} sent, ${bytes(p.upstream)} from upstream`})), from, to, bytes(all("saved")),
  `Bytes saved over the last ${range.name}: ${bytes(all("saved"))}; ${flow}.`);
}

function figure(title) {
  const value = el("span", {class: "figure-value"}), more = el("span", {class: "quiet"});
  const node = el("div", {class: "figure"}, el("span", {class: "figure-title"}, title), value, more);
  return {node, set(text, rest) {
    setText(value, text);
    setText(more, rest);
  }};
}

function chooser(chosen) {
  const buttons = RANGES.map((r) => button(r.title, () => {
    range = r;
    press();
    chosen();
  }));
  const press = () => buttons.forEach((b, i) => b.setAttribute("aria-pressed", RANGES[i] === range));
  press();
  return el("div", {class: "choice", role: "group", "aria-label": "Time that the charts show"}, ...buttons);
}

export function overview(main) {
  const hit = figure("Hit ratio"), saved = figure("Saved"), flight = figure("In flight"), disk = figure("On disk");
  const meter = el("meter", {min: 0, max: 1, high: 0.9, "aria-label": "Share of the disk's limit"});
  disk.node.append(meter);
  const ratioChart = new Chart({title: "Hit ratio", kind: "line", top: 1, format: percent});
  const savedChart = new Chart({title: "Saved bytes", kind: "bars", format: bytes});
  const requests = new Table("Requests under way", [
    {title: "Repository", text: (r) => r.repo ?? "–", link: (r) => r.repository && `#/repositories/${r.repository}`},
    {title: "Asks for", text: (r) => SERVICES[r.service] ?? r.method},
    {title: "Client", text: (r) => r.as ? `${r.as}, ${r.client}` : r.client},
    {title: "Answer", text: (r) => r.result ?? r.state},
    {title: "Sent", number: true, text: (r) => bytes(r.bytes)},
    {title: "For", number: true, text: (r) => duration(r.age_ms)},
  ], {key: (r) => r.id, empty: "No request is under way."});
  const more = el("p", {class: "quiet"});

  async function refresh() {
    const [stats, now] = await Promise.all([get("stats"), get("requests"), moreHistory(range.step)]);
    const t = stats.traffic, l = stats.local;
    const hits = sum(t.hits), all = many(hits + sum(t.misses), "request");
    hit.set(percent(t.hit_ratio), `${count(hits)} of ${all} for packs since the start`);
    saved.set(bytes(t.saved_bytes), `${bytes(t.client_bytes)} sent, ${bytes(t.upstream_bytes)} from upstream`);
    flight.set(count(stats.in_flight), many(stats.pools.background, "mirror") + " being made");
    const entries = `${many(l.entries.answers, "answer")}, ${many(l.entries.mirrors, "mirror")}`;
    disk.set(bytes(l.total), l.limit === null ? entries : `of ${bytes(l.limit)}; ${entries}`);
    meter.value = l.limit ? l.total / l.limit : 0;
    meter.hidden = l.limit === null;
    requests.set(now.requests);
    setText(more, now.complete ? "" : "There are more; these are the oldest.");
    drawCharts(ratioChart, savedChart);
  }

  main.append(
    el("h1", {class: "visually-hidden"}, "Overview"),
    el("div", {class: "figures"}, hit.node, saved.node, flight.node, disk.node),
    el("section", {"aria-labelledby": "s-time"},
      el("div", {class: "row"}, el("h2", {id: "s-time"}, "Over time"),
        chooser(() => {
          drawCharts(ratioChart, savedChart); // with what is known, and then all of it
          moreHistory(range.step).then(() => drawCharts(ratioChart, savedChart), () => {});
        })),
      el("div", {class: "charts"}, ratioChart.node, savedChart.node)),
    section("In flight now", requests.node, more));
  return {refresh, every: 2000};
}
