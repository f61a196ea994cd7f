// Putting it together: what is open, which half is in sight, keys.
import * as api from "./api.js";
import { find, h, icon, iconButton } from "./elements.js";
import { on, room } from "./events.js";
import { failed, trying, wrong } from "./notices.js";
import { listenForDrops, openButton, renderWelcome } from "./opening.js";
import { openHelp, openHistory, openModel, refreshModel } from "./panels.js";
import { startSource } from "./source.js";
import { choose, setDocuments, startTabs } from "./tabs.js";
import { startThreads, stopNow } from "./thread.js";
import { listenForTour } from "./tour.js";

const THEMES = { auto: ["As the system: light or dark", "light"], light: ["Light", "dark"], dark: ["Dark", "auto"] };
const narrow = window.matchMedia("(max-width: 899px)");

function keep(name, value) {
  try { localStorage.setItem(name, value); } catch { /* no storage here: it holds until the page is left */ }
}
function kept(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}
function themeButton() {
  const now = () => document.documentElement.dataset.theme || "auto";
  const button = iconButton("auto", "", () => {
    const [, to] = THEMES[now()];
    if (to === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = to;
    keep("theme", to);
    refresh();
  }, { id: "theme" });
  const refresh = () => {
    const name = `Colours: ${THEMES[now()][0]}`;
    button.replaceChildren(icon(now()));
    button.setAttribute("aria-label", name);
    button.title = name;
  };
  refresh();
  return button;
}
// On a narrow window one half is in sight at a time.
function look(half) {
  find("room").dataset.half = half;
  for (const button of find("switch").children) button.setAttribute("aria-pressed", button.dataset.half === half);
}
function buildSwitch() {
  const button = (half, text) => h("button", { type: "button", "data-half": half, "aria-pressed": "false", onclick: () => look(half) }, text);
  find("switch").append(button("talk", "Answers"), button("source", "Source"));
  look("talk");
  on("source", () => {
    if (!narrow.matches) return;
    look("source");
    find("source-box").focus({ preventScroll: true });
  });
  on("asked", () => look("talk"));
}
function buildDivider() {
  const divider = find("divider");
  const set = (share) => {
    const percent = Math.round(Math.max(25, Math.min(75, share)));
    find("room").style.setProperty("--split", `${percent}%`);
    divider.setAttribute("aria-valuenow", percent);
    keep("split", percent);
  };
  if (kept("split")) set(Number(kept("split")));
  divider.addEventListener("pointerdown", (event) => {
    divider.setPointerCapture(event.pointerId);
    divider.onpointermove = (move) => set((100 * move.clientX) / window.innerWidth);
  });
  divider.addEventListener("pointerup", () => { divider.onpointermove = null; });
  divider.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -3, ArrowRight: 3 }[event.key];
    if (by) set(Number(divider.getAttribute("aria-valuenow")) + by);
  });
}
function buildTools() {
  find("tools").append(
    h("button", { type: "button", class: "model-button", id: "model", onclick: openModel, "aria-label": "Model in use" }, icon("chip"),
      h("span", {}, h("span", { class: "model-name" }, "…"), h("small", { class: "model-where" }))),
    iconButton("history", "History (h)", openHistory, { id: "open-history" }), themeButton(), iconButton("help", "Keys (?)", openHelp, { class: "icon-button wide-only" }));
  find("open-box").append(openButton());
}
function refreshWelcome() {
  const isEmpty = !room.documents.size;
  find("welcome").hidden = !isEmpty;
  find("room").hidden = isEmpty;
  find("switch").hidden = isEmpty;
  document.body.classList.toggle("empty", isEmpty);
}
// The marker before or after the one in focus, among those in the answers.
function stepMarker(by) {
  const all = [...document.querySelectorAll(".thread:not([hidden]) .marker")];
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const to = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, at + by));
  if (narrow.matches) look("talk");
  all[to].focus();
  all[to].click();
}
function onKey(event) {
  const isTyping = event.target.closest?.("input, textarea, select");
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    stopNow();
    return;
  }
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const act = {
    "/": () => { look("talk"); find("question")?.focus(); }, "[": () => stepMarker(-1), "]": () => stepMarker(1),
    "?": openHelp, h: openHistory, "\\": () => look(find("room").dataset.half === "talk" ? "source" : "talk"),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

const start = trying(async () => {
  buildTools();
  buildSwitch();
  buildDivider();
  startTabs();
  startSource();
  startThreads();
  listenForDrops();
  listenForTour();
  document.addEventListener("keydown", onKey);
  on("model", refreshModel);
  on("choose-model", openModel);
  on("document", refreshWelcome);
  on("closed", refreshWelcome);
  const state = await api.getState();
  Object.assign(room, {
    model: state.model, history: state.history, looked: state.looked, formats: state.formats,
    uploadBytes: state.limits.upload_bytes, version: state.version,
  });
  refreshModel();
  renderWelcome();
  setDocuments(state.documents);
  for (const { name, error } of state.unopened || []) wrong(`${name} was not opened. ${error.message}`, error.hint);
  refreshWelcome();
  let last = null;
  try { last = sessionStorage.getItem("document"); } catch { /* no storage: the first is opened */ }
  const ids = [...room.documents.keys()];
  if (ids.length) choose(ids.includes(last) ? last : ids[0]);
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
});
window.addEventListener("unhandledrejection", (event) => failed(event.reason));
window.addEventListener("error", (event) => wrong("Something on this page went wrong.", event.message));
start();
