// The right half: the source, its parts, and the way to the words behind an answer.
import { find, frame, h, icon, iconButton, plural, whole } from "./elements.js";
import { currentDocument, on, room, say, tell } from "./events.js";
import { news, trying } from "./notices.js";
import { PagesView } from "./pages.js";
import { TextView } from "./text.js";

const ZOOMS = [0.5, 0.75, 1, 1.25, 1.5, 2, 3];
// Views that were open, by document and part: coming back to one finds it where it was.
const places = new Map();
let view = null;
let shown = null; // "document part" of the view
const NO_MARKS = { all: [], active: -1 };
const marksIn = new Map(); // by document
let marks = NO_MARKS;
let zoom = 1;

const bar = h("div", { class: "source-bar", role: "group", "aria-label": "Source" });
const box = h("div", { class: "source-box", id: "source-box", tabindex: 0, role: "region", "aria-label": "Text of the source" });
const told = h("p", { class: "source-note", role: "status", hidden: true });

const partOf = (info, index) => info.parts[index] || info.parts[0];
// Of several files, one that could not be read has no text once the others have theirs.
const isRead = (info, part) => info.status !== "ready" || info.parts.length === 1 || part.end > part.start;
function opensAt(info) {
  const read = info.parts.filter((part) => isRead(info, part));
  return (read.find((part) => part.kind === "pdf") || read[0] || { index: 0 }).index;
}

function message(title, text, extra = null) {
  view?.close();
  view = null;
  shown = null;
  bar.replaceChildren();
  box.replaceChildren(h("div", { class: "source-empty" }, h("h2", {}, title), text ? h("p", {}, text) : null, extra));
}
function renderBar(info, part) {
  const select = info.parts.length > 1 ? h("select", { "aria-label": "File", class: "part", onchange: () => show(info, Number(select.value)) },
    info.parts.map((one) => h("option", { value: one.index }, one.name))) : null;
  if (select) select.value = part.index;
  const numbers = view?.pages.length > 1 ? h("label", { class: "page-of" }, part.kind === "pdf" ? "Page" : "Part",
    h("input", {
      type: "text", inputmode: "numeric", size: 4, id: "page-number", "aria-label": `Page, of ${view.pages.length}`,
      onchange: (event) => { const n = Number(event.target.value); if (n >= 1 && n <= view.pages.length) view.goToPage(view.pages[n - 1].number); refreshNumber(); },
    }), h("span", {}, `of ${whole(view.pages.length)}`)) : null;
  const step = (by) => () => {
    const at = ZOOMS.findIndex((one) => one >= zoom - 0.01);
    zoom = ZOOMS[Math.max(0, Math.min(ZOOMS.length - 1, at + by))];
    view?.setZoom(zoom);
  };
  bar.replaceChildren(...[
    select || h("span", { class: "source-name", title: info.name }, part.name || info.name),
    numbers, h("span", { class: "space" }), facts(info),
    h("span", { class: "zoom" }, iconButton("minus", "Smaller", step(-1)), iconButton("plus", "Larger", step(1))),
  ].filter(Boolean));
  if (view) view.onmove = refreshNumber;
  refreshNumber();
}
// What is known of the document: its size, whether the model reads it whole, what was left out.
function facts(info) {
  if (info.status !== "ready") return h("span", { class: "quiet reading-state" }, `Reading… ${Math.round(100 * info.progress)}%`);
  const lines = [
    [info.pages ? plural(info.pages, "page") : null, info.tokens ? `${whole(info.tokens)} tokens` : `${whole(info.chars)} characters`,
      info.pieces ? plural(info.pieces, "piece") : null].filter(Boolean).join(" · "),
    info.fits === false ? "Longer than the model's window: for each question the pieces that bear on it are looked for." : null,
    info.fits === true ? "The model reads all of it." : null,
    ...info.notes,
  ].filter(Boolean);
  return h("details", { class: "facts" }, h("summary", { title: "About this document" }, info.notes.length ? icon("warn") : icon("help"),
    h("span", { class: "sr" }, "About this document")), h("ul", {}, lines.map((line) => h("li", {}, line))));
}
function refreshNumber() {
  const input = find("page-number");
  if (!input || !view || document.activeElement === input) return;
  const at = view.pages.findIndex((page) => page.number === view.number);
  input.value = at < 0 ? "" : String(at + 1);
}

// Shows a part of a document; a PDF at once, other files once they are read.
async function show(info, index) {
  const part = partOf(info, index);
  const name = `${info.id} ${part?.index}`;
  if (shown === name && view) return view;
  if (shown) places.set(shown, box.scrollTop);
  if (info.status === "failed") {
    message("This document cannot be read", info.error?.message, info.error?.hint ? h("p", { class: "quiet" }, info.error.hint) : null);
    return null;
  }
  if (!part || (part.kind !== "pdf" && info.status !== "ready")) {
    message("Reading…", "Its text appears here as soon as it is read.", h("progress", { max: 1, value: info.progress, "aria-label": "Reading" }));
    return null;
  }
  view?.close();
  const Kind = part.kind === "pdf" ? PagesView : TextView;
  const next = new Kind(box, info, part.kind === "pdf" ? part.index : part);
  view = next;
  shown = name;
  box.className = `source-box ${part.kind}`;
  try {
    await next.open();
  } catch (error) {
    if (view === next) {
      message("This cannot be shown", error.message, error.hint ? h("p", { class: "quiet" }, error.hint) : null);
      if (info.parts.length > 1) renderBar(info, part); // its other files can be chosen
    }
    return null;
  }
  if (view !== next) return null;
  if (zoom !== 1) next.setZoom(zoom);
  renderBar(info, part);
  next.setMarks(ofPart(part.index), activeIn(part.index));
  box.scrollTop = places.get(name) || 0;
  return next;
}
const ofPart = (part) => marks.all.filter((mark) => mark.part === part);
const activeIn = (part) => ofPart(part).indexOf(marks.all[marks.active]);

// Marks the places of an answer or of a step, and goes to one of them.
export async function jump(all, active) {
  const began = performance.now();
  const info = currentDocument();
  const target = all[active];
  if (!info || !target) return;
  marks = { all, active };
  marksIn.set(info.id, marks);
  tell("source");
  const next = await show(info, target.part);
  if (!next) return;
  next.setMarks(ofPart(target.part), activeIn(target.part));
  const located = await next.reveal(target);
  renderTold(target, located);
  refreshNumber();
  await frame();
  box.dataset.jumpMs = String(Math.round(performance.now() - began));
  say(located ? `Source: ${nameOfPlace(target)}. ${target.quote || ""}` : told.textContent);
}
export function nameOfPlace(place) {
  const page = place.page_name || (place.page ? `page ${place.page}` : null);
  return [place.file || null, page || (place.piece === null || place.piece === undefined ? "the text" : `passage ${place.piece}`)].filter(Boolean).join(", ");
}
function renderTold(target, located) {
  told.hidden = located;
  if (!located) told.textContent = `These words could not be located on ${nameOfPlace(target)}, so nothing is marked.`;
}
export function clearMarks() {
  marks = NO_MARKS;
  marksIn.delete(room.current);
  told.hidden = true;
  view?.setMarks([], -1);
}
// Gets ready what a click on a marker will want.
export function prepare(all) {
  if (view) view.prepare(all.filter((mark) => shown === `${room.current} ${mark.part}`));
}

export function startSource() {
  find("source").append(bar, told, box);
  on("current", trying(async (info) => {
    marks = (info && marksIn.get(info.id)) || NO_MARKS;
    told.hidden = true;
    if (!info) return;
    const last = marks.all[marks.active];
    await show(info, last ? last.part : opensAt(info));
  }));
  on("document", trying(async (info) => {
    if (info.id !== room.current) return;
    if (view && shown.startsWith(`${info.id} `)) {
      if (info.status !== "reading") view.ready(info);
      // Not while it is being looked at.
      bar.querySelector(".reading-state, .facts:not([open])")?.replaceWith(facts(info));
      if (info.status === "failed") news(info.error?.message || "It cannot be read.", info.error?.hint);
    } else {
      await show(info, opensAt(info));
    }
  }));
  box.addEventListener("keydown", (event) => {
    if (!view || event.target !== box) return;
    const by = { PageDown: 1, PageUp: -1 }[event.key];
    if (by && event.altKey && view.pages.length > 1) {
      event.preventDefault();
      const at = view.pages.findIndex((page) => page.number === view.number) + by;
      if (view.pages[at]) view.goToPage(view.pages[at].number);
    }
  });
}
