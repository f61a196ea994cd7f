// The open documents: a tab for each, their reading followed until it is done.
import * as api from "./api.js";
import { clip, find, h, icon, iconButton, menu } from "./elements.js";
import { currentDocument, on, room, say, tell } from "./events.js";
import { failed, trying, wrong } from "./notices.js";

const POLL_MS = 300;
const MOST_COUNTS = 25; // a model without a tokenizer counts nothing
const FEW = 5; // documents whose tabs are overlooked at once
const tabOf = new Map();
let polling = null;

function build(info) {
  const tab = h("button", {
    type: "button", role: "tab", class: "tab", id: `tab-${info.id}`, "aria-controls": "room", title: info.name,
    onclick: () => choose(info.id),
  }, icon(info.kind === "folder" ? "folder" : "file"), h("span", { class: "tab-name" }, info.name), h("span", { class: "tab-state" }));
  const close = iconButton("close", `Close ${info.name}`, () => closeTab(info.id), { tabindex: -1 });
  const box = h("div", { class: "tab-box", role: "presentation" }, tab, close);
  tabOf.set(info.id, box);
  find("tabs").append(box);
  return box;
}
function refresh(info) {
  const box = tabOf.get(info.id) || build(info);
  const isCurrent = info.id === room.current;
  const tab = box.firstChild;
  tab.setAttribute("aria-selected", isCurrent);
  tab.tabIndex = isCurrent ? 0 : -1;
  box.classList.toggle("on", isCurrent);
  const state = { reading: `${Math.round(100 * info.progress)}%`, failed: "cannot be read", ready: "" }[info.status];
  const mark = tab.querySelector(".tab-state");
  if (mark.textContent !== state) mark.textContent = state;
  mark.classList.toggle("wrong", info.status === "failed");
}

// Puts what the server says of a document in place of what was known.
function learn(info) {
  const before = room.documents.get(info.id);
  room.documents.set(info.id, info);
  refresh(info);
  tell("document", info);
  if (before && before.status === "reading" && info.status !== "reading") {
    say(info.status === "ready" ? `${info.name} is read.` : `${info.name} cannot be read.`);
    tell("read", info);
  }
}
export function setDocuments(infos) {
  const known = new Set(infos.map((info) => info.id));
  for (const id of [...room.documents.keys()]) if (!known.has(id)) forget(id);
  infos.forEach(learn);
  follow();
}
export function choose(id) {
  room.current = id;
  for (const info of room.documents.values()) refresh(info);
  const name = currentDocument()?.name;
  document.title = name ? `${name} – agenticlu` : "agenticlu";
  if (id) tabOf.get(id).scrollIntoView({ block: "nearest", inline: "nearest" });
  try { sessionStorage.setItem("document", id || ""); } catch { /* no storage: the first is opened */ }
  tell("current", currentDocument());
}
function forget(id) {
  tabOf.get(id)?.remove();
  tabOf.delete(id);
  room.documents.delete(id);
  tell("closed", id);
}
const closeTab = trying(async (id) => {
  const order = [...room.documents.keys()];
  const next = order[order.indexOf(id) + 1] || order[order.indexOf(id) - 1] || null;
  try {
    await api.closeDocument(id);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  forget(id);
  if (room.current === id) choose(next);
  tabOf.get(room.current)?.firstChild.focus();
});

// Documents of which something is still to come: their text, then how many tokens the model counts.
const uncounted = new Map(); // how often a document was asked for its tokens
function pending() {
  return [...room.documents.values()].filter((info) => info.status === "reading"
    || (info.status === "ready" && info.tokens === null && room.model && (uncounted.get(info.id) || 0) < MOST_COUNTS));
}
// Asks how far the reading is, all documents in one request where there are several.
async function poll() {
  polling = null;
  const waiting = pending();
  if (!waiting.length) return;
  for (const info of waiting) if (info.status === "ready") uncounted.set(info.id, (uncounted.get(info.id) || 0) + 1);
  try {
    if (waiting.length === 1) learn(await api.getDocument(waiting[0].id));
    else setDocuments((await api.getState()).documents);
  } catch (error) {
    if (error.status === 404) forget(waiting[0].id);
    else {
      failed(error);
      return;
    }
  }
  follow();
}
function follow() {
  if (polling !== null) return;
  const waiting = pending();
  if (waiting.length) polling = setTimeout(poll, waiting.some((info) => info.status === "reading") ? POLL_MS : 4 * POLL_MS);
}

// Of many documents, all by their names.
function listButton() {
  const button = iconButton("down", "All documents", () => {});
  const box = menu("All documents", button, () => [...room.documents.values()].map((info) => h("button", {
    type: "button", role: "menuitem", onclick: () => choose(info.id),
  }, icon(info.kind === "folder" ? "folder" : "file"), clip(info.name, 60))));
  const refresh = () => { box.hidden = room.documents.size <= FEW; };
  on("document", refresh);
  on("closed", refresh);
  refresh();
  return box;
}
export function startTabs() {
  find("tabs").after(listButton());
  find("tabs").addEventListener("wheel", (event) => {
    if (!event.deltaX) find("tabs").scrollLeft += event.deltaY;
  }, { passive: true });
  find("tabs").addEventListener("keydown", (event) => {
    const order = [...room.documents.keys()];
    const at = order.indexOf(room.current);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (event.key === "Delete" && room.current) closeTab(room.current);
    else if (to !== undefined && order.length) {
      event.preventDefault();
      choose(order[(to + order.length) % order.length]);
      tabOf.get(room.current).firstChild.focus();
    }
  });
  on("opened", ({ info, look }) => {
    learn(info);
    if (look || !room.current) choose(info.id);
    follow();
    if (info.status === "failed" && info.error) wrong(info.error.message, info.error.hint);
  });
}
