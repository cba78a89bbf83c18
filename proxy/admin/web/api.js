// The API, as the page asks it.  The token lives in this tab (sessionStorage): never in an address,
// and not beyond the tab's end.

const BASE = new URL("../api/v1/", import.meta.url);
const KEPT_AS = "pannier-token";
const PATIENCE_MS = 15_000; // for what only looks

// What went wrong, in the API's own words where it has any.  status 0: there was no answer.
export class Problem extends Error {
  constructor(status, title, detail, field) {
    super(detail || title);
    Object.assign(this, {status, title, detail, field});
  }
}

export function token() {
  return sessionStorage.getItem(KEPT_AS);
}

export function setToken(value) {
  if (value) sessionStorage.setItem(KEPT_AS, value);
  else sessionStorage.removeItem(KEPT_AS);
}

async function ask(method, path, body, signal) {
  const headers = {};
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, BASE), {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit", cache: "no-store", redirect: "error",
    });
  } catch (failure) {
    if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw signal.reason;
    throw new Problem(0, "No answer", "Pannier does not answer.");
  }
  if (response.ok) return response;
  let said = {};
  try {
    said = await response.json();
  } catch {
    // Something between here and pannier may answer in its own words.
  }
  throw new Problem(response.status, said.title ?? `Status ${response.status}`, said.detail ?? "", said.field);
}

async function document(response) {
  try {
    return await response.json();
  } catch {
    throw new Problem(0, "No answer", "Pannier stopped in the middle of its answer.");
  }
}

export async function get(path) {
  return document(await ask("GET", path, undefined, AbortSignal.timeout(PATIENCE_MS)));
}

// Takes as long as it takes: a refresh waits for upstream.
export async function change(method, path, body) {
  return document(await ask(method, path, body));
}

// Calls heard(data, kind) for each server-sent event until signal says so; EventSource could show no
// token.
export async function listen(path, signal, opened, heard) {
  const response = await ask("GET", path, undefined, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", kind = "message", data = [];
  opened();
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) data.push(line.slice(6));
      else if (line.startsWith("event: ")) kind = line.slice(7);
      else if (line === "") {
        if (data.length) heard(JSON.parse(data.join("\n")), kind);
        kind = "message";
        data = [];
      }
    }
  }
}
