// The server's routes. What goes wrong is a RoomError with words for people.
export class RoomError extends Error {
  constructor(message, hint = null, status = 0) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}
const GONE = ["The reading room does not answer.", "Perhaps it was closed. Start “agenticlu read” again, then open the address that it prints."];

async function refusal(reply) {
  try {
    const { error } = await reply.json();
    return new RoomError(error.message, error.hint, reply.status);
  } catch {
    return new RoomError(`The reading room replied with an error (${reply.status}).`, "Load this page again.", reply.status);
  }
}
async function send(path, options) {
  let reply;
  try {
    reply = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RoomError(...GONE);
  }
  if (!reply.ok) throw await refusal(reply);
  return reply;
}
async function call(path, options) {
  const reply = await send(path, options);
  return reply.status === 204 ? null : reply.json();
}
const post = (path, body) => call(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}),
});
const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== ""));
const documentPath = (id, rest = "") => `/api/documents/${encodeURIComponent(id)}${rest}`;

export const getState = () => call("/api/state");
export const getDocument = (id) => call(documentPath(id));
export const closeDocument = (id) => call(documentPath(id), { method: "DELETE" });
export const getLayout = (id, part) => call(documentPath(id, `/layout?part=${part}`));
export const getText = (id, start, end) => call(documentPath(id, `/text?start=${start}&end=${end}`));
export const getWords = (id, part, page) => call(documentPath(id, `/words?part=${part}&page=${page}`));
export const pictureOf = (id, part, page, scale) => documentPath(id, `/page.png?part=${part}&page=${page}&scale=${scale}`);
export const stopRun = (run) => post(`/api/ask/${encodeURIComponent(run)}/stop`);
export const listHistory = (values) => call(`/api/history?${query(values)}`);
export const getEntry = (id) => call(`/api/history/${encodeURIComponent(id)}`);
export const deleteEntry = (id) => call(`/api/history/${encodeURIComponent(id)}`, { method: "DELETE" });
export const deleteHistory = (id) => call(`/api/history?${query({ document: id })}`, { method: "DELETE" });
// What is exported: its content, and the name to save it under.
export async function getExport(values) {
  const reply = await send(`/api/export?${query(values)}`);
  const name = /filename="?([^";]+)/.exec(reply.headers.get("Content-Disposition") || "");
  return { content: await reply.blob(), name: name ? name[1] : `answer.${values.format}` };
}
export const getModels = () => call("/api/models");
export const lookForModels = () => post("/api/models/look");
export const chooseModel = (body) => post("/api/model", body);
export const startTour = () => post("/api/tour");

// Sends files; each is [file, path]. Tells the share that is sent, from 0 to 1.
export function upload(files, name, onProgress) {
  const form = new FormData();
  if (name) form.append("name", name);
  for (const [file, path] of files) form.append("files", file, path);
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
    request.addEventListener("load", () => {
      const reply = new Response(request.responseText, { status: request.status });
      if (request.status === 201 || request.status === 200) reply.json().then(resolve, reject);
      else refusal(reply).then(reject);
    });
    request.addEventListener("error", () => reject(new RoomError(
      "The upload broke off.", "Perhaps a file changed or is a folder, or the reading room was closed. Try it again.",
    )));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    request.open("POST", "/api/documents");
    request.send(form);
  });
  return { done, cancel: () => request.abort() };
}

// Asks; tells each event of the stream as (name, data) and returns once the stream has ended.
export async function ask(body, onEvent, signal) {
  const reply = await send("/api/ask", {
    method: "POST", headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(body), signal,
  });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new RoomError(...GONE);
    }
    if (step.done) return;
    rest += step.value;
    for (let end = rest.search(/\r?\n\r?\n/); end >= 0; end = rest.search(/\r?\n\r?\n/)) {
      tellBlock(rest.slice(0, end), onEvent);
      rest = rest.slice(end).replace(/^\r?\n\r?\n/, "");
    }
  }
}
function tellBlock(block, onEvent) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  if (data.length) onEvent(name, JSON.parse(data.join("\n")));
}
