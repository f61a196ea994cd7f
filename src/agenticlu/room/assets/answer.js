// An answer as people read it: sentences with markers, its sources, what it rests on and what it cost.
import * as api from "./api.js";
import { clip, h, icon, iconButton, menu, plural, seconds, short, slicer } from "./elements.js";
import { tell } from "./events.js";
import { news, trying } from "./notices.js";
import { jump, nameOfPlace } from "./source.js";
import { renderRounds } from "./trail.js";

const STATUS = {
  supported: ["check", "Supported by the document", "right"],
  said: ["warn", "Supported, says the model; no quoted words confirm it", "doubt"],
  unsupported: ["warn", "Not supported: no passage carries this answer", "doubt"],
  not_in_document: ["none", "Not in the document", "absent"],
};
// The places of the citations as the source marks them.
function marksOf(entry) {
  const { citations } = entry.answer;
  return entry.places.map((place, i) => {
    const one = citations[i] || {};
    const quoted = one.quote !== null && one.quote !== undefined;
    return {
      ...place, quote: one.quote, file: one.file?.name || null, kind: quoted && one.verified ? "quote" : "passage",
      start: one.quote_start ?? place.start, end: one.quote_end ?? place.end,
    };
  });
}
function marker(marks, index, citation) {
  const place = marks[index];
  const label = `Source ${index + 1}: ${place ? nameOfPlace(place) : "unknown"}${citation?.quote ? `. “${clip(citation.quote, 120)}”` : ""}`;
  return h("button", {
    type: "button", class: `marker${citation?.verified ? "" : " unsure"}`, "data-citation": index, title: label, "aria-label": label,
    onclick: () => jump(marks, index),
  }, String(index + 1));
}
const unverified = (claim) => h("span", {
  class: "doubt", title: claim.citations.length
    ? "The model quoted no words for this sentence; the marked passage is the one that it pointed to."
    : "The model quoted no words of the document for this sentence.",
}, "unverified");

// Where the last word begins: its markers stay on its line.
function lastWord(text) {
  const at = Math.max(text.lastIndexOf(" "), text.lastIndexOf("\n")) + 1;
  return text.length - at > 30 ? text.length - [...text.slice(-2)].at(-1).length : at;
}
// The sentences, each with its markers; what stands between them stays.
function renderStatement(entry, marks) {
  const { answer } = entry;
  const statement = answer.statement ?? answer.answer;
  const slice = slicer(statement);
  const nodes = [];
  let last = 0;
  for (const claim of answer.claims || []) {
    const text = slice(claim.start, claim.end);
    const at = lastWord(text);
    nodes.push(slice(last, claim.start));
    nodes.push(h("span", { class: `claim${claim.verified ? "" : " unverified"}`, "data-claim": claim.start }, text.slice(0, at),
      h("span", { class: "tail" }, text.slice(at), claim.citations.map((index) => marker(marks, index, answer.citations[index])),
        claim.verified ? null : unverified(claim))));
    last = claim.end;
  }
  nodes.push(slice(last));
  return h("div", { class: "statement" }, nodes);
}
function renderSources(entry, marks) {
  const { citations } = entry.answer;
  if (!citations.length) return null;
  return h("ol", { class: "sources", "aria-label": "Sources" }, citations.map((one, i) => h("li", {},
    h("button", { type: "button", class: "source-line", "data-source": i, onclick: () => jump(marks, i) },
      h("span", { class: `number${one.verified ? "" : " unsure"}` }, String(i + 1)),
      h("span", { class: "source-text" },
        h("span", { class: "where" }, marks[i] ? nameOfPlace(marks[i]) : "passage", " · ",
          one.verified ? "quoted word for word" : one.quote ? "closest sentence" : "passage"),
        h("span", { class: "said" }, one.quote ? `“${one.quote}”` : clip(one.text.trim(), 240)))))));
}
function renderCost({ usage, seconds: spent, engine, rounds, cost, currency }) {
  const read = usage.prompt_tokens - usage.cached_tokens;
  const parts = [
    engine, plural(rounds, "round"), seconds(spent), `${short(read)} tokens computed`,
    usage.cached_tokens ? `${short(usage.cached_tokens)} cached` : null, `${short(usage.completion_tokens)} sampled`,
    cost !== null && cost !== undefined ? `price ${Number(cost.toPrecision(4))} ${currency || ""}`.trim() : null,
  ].filter(Boolean);
  return h("p", { class: "cost" }, parts.flatMap((part, i) => [i ? " · " : "", h("span", {}, part)]));
}
// Names of the ways out of the page, for an answer or for a whole conversation.
export function exportMenu(values, label) {
  const button = h("button", { type: "button", class: "small-button" }, icon("download"), label);
  const item = (format, text) => h("button", {
    type: "button", role: "menuitem", onclick: trying(async () => {
      const { content, name } = await api.getExport({ ...values, format });
      const address = URL.createObjectURL(content);
      h("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    }),
  }, text);
  return menu("Export", button, () => [
    item("html", "Web page, works offline (HTML)"), item("md", "Markdown with footnotes"), item("json", "Data (JSON)"),
  ]);
}
function withMarkers(answer) {
  const statement = answer.statement ?? answer.answer;
  const slice = slicer(statement);
  let last = 0;
  let text = "";
  for (const claim of answer.claims || []) {
    text += slice(last, claim.end) + claim.citations.map((index) => ` [${index + 1}]`).join("");
    last = claim.end;
  }
  text += slice(last);
  const sources = answer.citations.map((one, i) => `[${i + 1}] ${one.file ? `${one.file.name}, ` : ""}${one.page_name || (one.page ? `page ${one.page}` : "passage")}: “${one.quote || clip(one.text, 200)}”`);
  return [text, ...sources].join("\n");
}
function renderTools(entry) {
  return h("div", { class: "entry-tools" },
    h("button", { type: "button", class: "small-button", onclick: trying(async () => {
      await navigator.clipboard.writeText(withMarkers(entry.answer));
      news("Copied, with its sources.");
    }) }, icon("copy"), "Copy"),
    exportMenu({ entry: entry.id }, "Export"),
    iconButton("trash", "Delete this answer", () => tell("delete", entry)));
}

export function renderQuestion(question, options = []) {
  return h("div", { class: "asked" }, h("p", {}, question),
    options.length ? h("ol", { class: "options", type: "A" }, options.map((one) => h("li", {}, one))) : null);
}
export function renderStatus(answer) {
  const status = answer.status || (answer.supported ? "supported" : "unsupported");
  const isQuoted = !answer.claims || answer.claims.some((claim) => claim.verified);
  const [picture, text, css] = STATUS[status === "supported" && !isQuoted ? "said" : status];
  return h("p", { class: `status ${css}` }, icon(picture), text,
    answer.stopped ? h("span", { class: "stopped" }, " · stopped early: the best answer so far") : null);
}
// The whole of an entry.
export function renderEntry(entry) {
  const marks = marksOf(entry);
  const { answer, trail } = entry;
  const empty = !(answer.statement ?? answer.answer).trim();
  const letter = answer.options?.length && answer.answer ? h("span", { class: "letter" }, answer.answer) : null;
  return h("article", { class: "entry", "data-entry": entry.id, tabindex: -1, "aria-label": `Answer to: ${clip(entry.question, 80)}` },
    renderQuestion(entry.question, answer.options),
    h("div", { class: "answered" },
      renderStatus(answer),
      empty ? h("p", { class: "statement empty" }, "There is no answer.") : h("div", { class: "statement-row" }, letter, renderStatement(entry, marks)),
      renderSources(entry, marks),
      answer.notes.length ? h("ul", { class: "notes", "aria-label": "Notes" }, answer.notes.map((note) => h("li", {}, note))) : null,
      trail.length ? h("details", { class: "trail" }, h("summary", {}, `How it got there: ${plural(trail.length, "step")}`), renderRounds(trail)) : null,
      h("div", { class: "entry-foot" }, renderCost(answer), renderTools(entry))));
}
export { marksOf };
