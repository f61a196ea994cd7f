// The guided tour: a bundled document, three questions, and a card that says what to do next.
import * as api from "./api.js";
import { find, h, iconButton } from "./elements.js";
import { on, room, tell } from "./events.js";
import { trying } from "./notices.js";
import { askNow } from "./thread.js";

const ROUNDS = 3; // questions of the tour follow up to three facts
let tour = null;

const entryBox = () => [...document.querySelectorAll(`.thread[data-document="${CSS.escape(tour.document)}"] .entry`)].at(-1);
const ask = (index) => h("button", { type: "button", class: "button main", "data-tour": index, disabled: room.documents.get(tour.document)?.status !== "ready", onclick: () => askNow(tour.questions[index], ROUNDS) }, tour.questions[index]);
const STEPS = [
  () => ["Ask something", "This is a bundled document about invented people. A small bundled model answers; it knows only this kind of text. Click to ask:", [ask(0)]],
  () => ["Watch it think", "It asks itself what it needs to know, points to the passages that say so, and answers from them.", []],
  () => ["See the words", "The number behind the sentence leads to the words it rests on.", [h("button", { type: "button", class: "button main", onclick: () => entryBox()?.querySelector(".marker, .source-line")?.click() }, "Show me")]],
  () => ["Look into the trail", "Every step is kept: what it asked itself, where it looked, what it found.", [h("button", { type: "button", class: "button main", onclick: () => { const trail = entryBox()?.querySelector("details.trail"); if (trail) { trail.open = true; trail.scrollIntoView({ block: "center" }); } next(4); } }, "Open the trail")]],
  () => ["Ask on", "The document has been read once; what follows is answered faster.", [ask(1), ask(2)]],
  () => ["That is all", "Drop a file of your own on the page, and choose the model at the top right. Answers can be exported with their sources.", [h("button", { type: "button", class: "button main", onclick: end }, "Done")]],
];
function next(step) {
  if (!tour || tour.step >= step) return;
  tour.step = step;
  render();
}
function end() {
  tour = null;
  find("tour")?.remove();
}
function render() {
  find("tour")?.remove();
  if (!tour || room.current !== tour.document) return;
  const [title, text, buttons] = STEPS[tour.step]();
  find("ask-box").before(h("aside", { class: "tour", id: "tour", "aria-label": "Guided tour" },
    h("div", { class: "tour-head" }, h("b", {}, title), h("span", { class: "quiet" }, `${tour.step + 1} of ${STEPS.length}`), iconButton("close", "End the tour", end)),
    h("p", {}, text), buttons.length ? h("div", { class: "actions" }, buttons) : null));
}
export function listenForTour() {
  on("tour", trying(async () => {
    const { document: info, questions } = await api.startTour();
    room.model = (await api.getModels()).current; // the bundled one answers now
    tell("model");
    tour = { document: info.id, questions, step: 0 };
    tell("opened", { info, look: true });
    render();
  }));
  on("current", () => render());
  on("document", (info) => tour && info.id === tour.document && tour.step === 0 && render());
  on("asked", (body) => {
    if (!tour || body.document !== tour.document) return;
    next(tour.step === 4 ? 5 : 1);
  });
  on("answered", (entry) => tour && entry.document === tour.document && next(2));
  on("source", () => tour && tour.step === 2 && next(3));
}
