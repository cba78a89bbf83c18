// Numbers and times, as people write them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

// As the command line has it: 1023 B, 1.5 KiB, 12.0 GiB.
export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const sign = n < 0 ? "−" : "";
  let value = Math.abs(n), unit = 0;
  while (value >= (unit ? 1023.95 : 1024) && unit + 1 < UNITS.length) {
    value /= 1024;
    unit++;
  }
  return `${sign}${unit ? value.toFixed(1) : value} ${UNITS[unit]}`;
}

export function count(n) {
  return n === null || n === undefined ? "–" : n.toLocaleString("en");
}

// "1 answer", "2 answers".
export function many(n, one, more = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : more}`;
}

// Not 100 % before it is all of it.
export function percent(ratio) {
  if (ratio === null || ratio === undefined) return "–";
  const p = ratio * 100;
  if (p > 99.9 && p < 100) return "99.9 %";
  return `${p >= 10 || p === 0 ? Math.round(p * 10) / 10 : p.toFixed(1)} %`;
}

export function duration(ms) {
  const s = ms / 1000;
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// Of seconds since 1970, or of what Date reads; 0 and null are "never".
export function when(time) {
  const date = dateOf(time);
  return date ? date.toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "medium"}) : "never";
}

export function ago(time, now = Date.now()) {
  const date = dateOf(time);
  if (!date) return "never";
  const s = Math.max(0, (now - date.getTime()) / 1000);
  if (s < 60) return "just now";
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  if (s < 90 * 86400) return `${Math.floor(s / 86400)} d ago`;
  return when(time);
}

export function clock(time, seconds = false) {
  const how = {hour: "2-digit", minute: "2-digit"};
  if (seconds) how.second = "2-digit";
  return dateOf(time).toLocaleTimeString("en-GB", how);
}

function dateOf(time) {
  if (!time) return null;
  const date = new Date(typeof time === "number" ? time * 1000 : time);
  return Number.isNaN(date.getTime()) ? null : date;
}
