// How an answer was found, turn by turn: it asks itself, points to passages, finds, answers, checks.
import { h, icon, plural } from "./elements.js";
import { jump, nameOfPlace } from "./source.js";

export const VERBS = {
  search: "Looks through the document", scan: "Looks through the document", clarify: "Asks itself", point: "Points to",
  sub_answer: "Finds", answer: "Answers", direct: "Answers", check: "Checks itself",
};
const MOST_PLACES = 12;

const asMarks = (places) => places.map((place) => ({ ...place, kind: "passage" }));
function placeButtons(places) {
  const marks = asMarks(places);
  const buttons = marks.slice(0, MOST_PLACES).map((place, i) => h("button", {
    type: "button", class: "place", onclick: () => jump(marks, i), "aria-label": `Show ${nameOfPlace(place)}`,
  }, nameOfPlace(place)));
  const rest = marks.length - buttons.length;
  return h("span", { class: "place-list" }, buttons, rest > 0 ? h("span", { class: "quiet" }, `and ${plural(rest, "more passage", "more passages")}`) : null);
}
// A reply without its markers of passages, which the buttons stand for.
const plainReply = (text) => text.replace(/<\/?para\s*\d*\s*>/gi, " ").replace(/[ \t]{2,}/g, " ").trim();

export function renderStep({ kind, reply, places = [] }) {
  const text = kind === "point" && places.length ? "" : plainReply(reply || "");
  const body = h("p", { class: "step-text" }, text || (places.length ? null : h("span", { class: "quiet" }, kind === "point" ? "no passage" : "nothing")));
  return h("li", { class: `step ${kind}` }, h("span", { class: "step-icon" }, icon(kind === "search" || kind === "scan" ? "search_all" : kind)),
    h("div", { class: "step-body" }, h("b", {}, VERBS[kind] || kind), places.length ? placeButtons(places) : null, body));
}
export function renderRounds(steps) {
  const rounds = new Map();
  for (const step of steps) rounds.set(step.round, [...(rounds.get(step.round) || []), step]);
  return [...rounds].map(([round, inRound]) => h("section", { class: "round", "aria-label": `Round ${round}` },
    rounds.size > 1 ? h("h4", {}, `Round ${round}`) : null, h("ol", {}, inRound.map(renderStep))));
}

// The trail while it grows.
export class LiveTrail {
  constructor() {
    this.element = h("div", { class: "trail live" });
    this.rounds = new Map();
    this.open = null;
    this.scan = null;
  }
  list(round) {
    if (!this.rounds.has(round)) {
      const list = h("ol", {});
      this.rounds.set(round, list);
      this.element.append(h("section", { class: "round", "aria-label": `Round ${round}` },
        round > 1 ? h("h4", {}, `Round ${round}`) : null, list));
    }
    return this.rounds.get(round);
  }
  put(round, kind) {
    this.open?.item.classList.remove("now");
    const item = renderStep({ kind, reply: ["answer", "direct"].includes(kind) ? " " : "…" });
    item.classList.add("now");
    this.list(round).append(item);
    this.open = { item, kind, text: "", round };
    return this.open;
  }
  step(data) {
    const { kind, round } = data;
    if (kind === "begin") this.put(round, data.turn_kind);
    else if (kind === "text") this.grow(data);
    else if (kind === "turn") this.finish(data);
    else this.look(data);
  }
  grow({ round, turn_kind: kind, text }) {
    if (!this.open || this.open.kind !== kind) this.put(round, kind);
    this.open.text += text;
    if (["answer", "direct"].includes(kind)) return; // it is shown large, below
    this.open.item.querySelector(".step-text").textContent = plainReply(this.open.text) || "…";
  }
  finish({ round, turn_kind: kind, reply, places }) {
    if (!this.open || this.open.kind !== kind) this.put(round, kind);
    const item = renderStep({ kind, reply: reply ?? this.open.text, places: places || [] });
    this.open.item.replaceWith(item);
    this.open = null;
  }
  // Scoring of the pieces of a long document: how far it is.
  look({ kind, round, done, total, places }) {
    if (!this.open || !["search", "scan"].includes(this.open.kind)) this.put(round, kind);
    const line = this.open.item.querySelector(".step-text");
    if (total) line.textContent = `${done} of ${plural(total, "piece")}`;
    if (places?.length) this.finish({ round, turn_kind: this.open.kind, reply: total ? `${done} of ${plural(total, "piece")}` : "", places });
  }
}
