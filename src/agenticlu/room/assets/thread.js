// The left half: of each document, what was asked and answered, and the box to ask in.
import * as api from "./api.js";
import { exportMenu, marksOf, renderEntry, renderQuestion } from "./answer.js";
import { find, h, icon, plural } from "./elements.js";
import { currentDocument, on, room, say, tell } from "./events.js";
import { trying } from "./notices.js";
import { clearMarks, prepare } from "./source.js";
import { LiveTrail, VERBS } from "./trail.js";

const threads = new Map(); // by document
let form = null;
const LABEL = /\b(final )?answer ?[:：] ?/i; // what models put before the answer itself

class Thread {
  constructor(id) {
    Object.assign(this, { id, conversation: null, entries: [], run: null, draft: "", loaded: false });
    this.head = h("div", { class: "thread-head" });
    this.list = h("div", { class: "entries" });
    this.element = h("div", { class: "thread", "data-document": id }, this.head, this.list);
    find("threads").append(this.element);
    this.refresh();
  }
  refresh() {
    const num = this.entries.length;
    this.head.replaceChildren(...(num ? [
      h("span", { class: "quiet" }, plural(num, "question")),
      h("button", { type: "button", class: "small-button", onclick: () => this.restart(), disabled: Boolean(this.run) }, icon("plus"), "New conversation"),
      exportMenu({ conversation: this.conversation }, "Export all"),
    ] : []));
    const card = this.list.querySelector(".hint-card");
    if (card || !this.list.childElementCount) this.list.replaceChildren(hint(room.documents.get(this.id)));
  }
  restart() {
    Object.assign(this, { conversation: null, entries: [] });
    this.list.replaceChildren();
    this.refresh();
    clearMarks();
    find("question").focus();
  }
  add(entry, element = null) {
    this.entries.push(entry);
    this.list.querySelector(".hint-card")?.remove();
    const made = renderEntry(entry);
    if (element) element.replaceWith(made); else this.list.append(made);
    this.refresh();
    return made;
  }
  remove(id) {
    this.entries = this.entries.filter((entry) => entry.id !== id);
    this.list.querySelector(`[data-entry="${CSS.escape(id)}"]`)?.remove();
    this.refresh();
  }
  // Shows the conversation that was last held about the document, or a given one.
  async load(conversation = null) {
    this.loaded = true;
    if (this.run) return;
    const { entries } = await api.listHistory({ document: this.id });
    const wanted = conversation || entries[0]?.conversation;
    if (!wanted || (this.entries.length && !conversation)) return;
    const chosen = entries.filter((entry) => entry.conversation === wanted).reverse();
    const whole = await Promise.all(chosen.map((entry) => api.getEntry(entry.id)));
    if (this.run) return;
    this.list.replaceChildren();
    Object.assign(this, { conversation: wanted, entries: [] });
    for (const entry of whole) this.add(entry);
    this.refresh();
    this.toEnd();
  }
  toEnd() {
    const box = find("threads");
    if (room.current === this.id) box.scrollTop = box.scrollHeight;
  }
}
function hint(info) {
  if (!info) return "";
  if (info.status === "failed") return h("div", { class: "hint-card wrong" }, h("p", {}, info.error?.message), h("p", { class: "quiet" }, info.error?.hint));
  return h("div", { class: "hint-card" }, h("h2", {}, "Ask anything about it"),
    h("p", {}, "Each sentence of the answer leads to the words it rests on. Questions that follow may refer to what was said before."),
    room.model && !room.model.bundled ? null : h("p", { class: "no-model" },
      room.model ? "No model was named, so the small bundled one answers. It knows only the invented world of the guided tour, not your documents. " : "No model was named yet. ",
      h("button", { type: "button", class: "link", onclick: () => tell("choose-model") }, "Choose a model")));
}
const threadOf = (id) => {
  if (!threads.has(id)) threads.set(id, new Thread(id));
  return threads.get(id);
};

// A question while it is answered: its trail, the text as it comes, and how it ends.
class Run {
  constructor(thread, body) {
    Object.assign(this, { thread, body, id: null, stopped: false, controller: new AbortController() });
    this.trail = new LiveTrail();
    this.text = h("div", { class: "statement streaming", hidden: true });
    this.state = h("p", { class: "status working" }, h("span", { class: "spinner", "aria-hidden": "true" }), h("span", {}, "Reading the document"));
    this.element = h("article", { class: "entry running", "aria-label": "The answer under way", "aria-busy": "true" },
      renderQuestion(body.question, body.options), h("div", { class: "answered" }, this.state, this.trail.element, this.text));
    thread.list.querySelector(".hint-card")?.remove();
    thread.list.append(this.element);
  }
  tellState(text) {
    this.state.lastChild.textContent = text;
  }
  async go() {
    let ended = false;
    try {
      await api.ask(this.body, (name, data) => { ended = this.take(name, data) || ended; }, this.controller.signal);
      if (!ended) this.fail(new api.RoomError("The answer broke off.", "Ask once more."));
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    } finally {
      this.thread.run = null;
      this.thread.refresh();
      refreshForm();
    }
  }
  take(name, data) {
    const { thread } = this;
    if (name === "open") {
      this.id = data.run;
      thread.conversation = data.conversation;
      if (this.stopped) api.stopRun(this.id);
    } else if (name === "step") this.step(data);
    else if (name === "error") this.fail(new api.RoomError(data.message, data.hint));
    else if (name === "answer") this.finish(data);
    return name === "error" || name === "answer";
  }
  step(data) {
    const near = isNearEnd();
    this.trail.step(data);
    if (data.kind === "begin") {
      const verb = VERBS[data.turn_kind];
      this.tellState(`${verb}…`);
      if (room.current === this.thread.id) say(verb);
      this.said = "";
    }
    if (data.kind === "text" && ["answer", "direct"].includes(data.turn_kind)) {
      this.said += data.text;
      this.text.textContent = this.said.replace(LABEL, "");
      this.text.hidden = !this.text.textContent.trim();
    }
    if (near) this.thread.toEnd();
  }
  finish(entry) {
    const near = isNearEnd();
    const made = this.thread.add(entry, this.element);
    const marks = marksOf(entry);
    if (room.current === this.thread.id) {
      prepare(marks);
      say(`${made.querySelector(".status").textContent}. ${entry.answer.statement ?? entry.answer.answer}`);
      if (near) made.scrollIntoView({ block: made.offsetHeight > find("threads").clientHeight ? "start" : "nearest" });
    }
    tell("answered", entry);
  }
  fail(error) {
    this.element.removeAttribute("aria-busy");
    this.element.classList.remove("running");
    this.state.replaceWith(h("div", { class: "failure", role: "alert" }, h("p", {}, icon("warn"), error.message),
      error.hint ? h("p", { class: "quiet" }, error.hint) : null,
      h("button", { type: "button", class: "small-button", onclick: () => { this.element.remove(); startAsking(this.thread, this.body); } }, "Ask again")));
    this.text.classList.remove("streaming");
    for (const one of this.element.querySelectorAll(".now")) one.classList.remove("now");
  }
  async stop() {
    this.stopped = true;
    this.tellState("Stopping…");
    if (this.id) await api.stopRun(this.id);
  }
}
function isNearEnd() {
  const box = find("threads");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 120;
}
function startAsking(thread, body) {
  if (thread.run) return;
  thread.run = new Run(thread, { ...body, conversation: thread.conversation || undefined });
  thread.refresh();
  refreshForm();
  thread.toEnd();
  tell("asked", body);
  thread.run.go();
}

// `most`: rounds, where they are not the ones chosen below the box.
export function askNow(question, most = null) {
  const info = currentDocument();
  const text = question.trim();
  const thread = info && threadOf(info.id);
  if (!info || info.status !== "ready" || thread.run || !text) return;
  const options = find("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const rounds = most || Number(find("rounds").value) || undefined;
  find("question").value = "";
  grow();
  startAsking(thread, { document: info.id, question: text, ...(options.length ? { options } : {}), ...(rounds ? { rounds } : {}) });
}
export const stopNow = trying(async () => {
  const run = room.current && threads.get(room.current)?.run;
  if (!run) return false;
  await run.stop();
  return true;
});
export async function openConversation(document, conversation, entry) {
  const thread = threadOf(document);
  await thread.load(conversation);
  const element = thread.list.querySelector(`[data-entry="${CSS.escape(entry)}"]`);
  element?.scrollIntoView({ block: "start" });
  element?.focus();
}

function grow() {
  const box = find("question");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 220)}px`;
}
function refreshForm() {
  const info = currentDocument();
  if (!info || !form) return;
  const { run } = threadOf(info.id);
  const box = find("question");
  const button = find("ask");
  const waiting = info.status === "reading";
  box.disabled = info.status === "failed";
  box.placeholder = waiting ? `Reading ${info.name}: ${Math.round(100 * info.progress)}%` : threadOf(info.id).entries.length ? "Ask a follow-up" : `Ask about ${info.name}`;
  button.disabled = !run && (info.status !== "ready");
  button.replaceChildren(icon(run ? "stop" : "send"), h("span", {}, run ? "Stop" : "Ask"));
  button.classList.toggle("stop", Boolean(run));
  button.title = run ? "Stop and take the best answer so far (Esc)" : waiting ? "The document is being read" : "Ask (Enter)";
}
function buildForm() {
  const question = h("textarea", {
    id: "question", rows: 1, "aria-label": "Question", enterkeyhint: "send", oninput: grow,
    onkeydown: (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      askNow(question.value);
    },
  });
  const rounds = h("select", { id: "rounds" }, h("option", { value: "" }, "as usual"), [1, 2, 3, 4, 5].map((n) => h("option", { value: n }, plural(n, "round"))));
  const choices = h("textarea", { id: "choices", rows: 3, placeholder: "One a line; empty for an open question" });
  form = h("form", { class: "ask", "aria-label": "Ask", onsubmit: (event) => { event.preventDefault(); if (threads.get(room.current)?.run) stopNow(); else askNow(question.value); } },
    h("div", { class: "ask-row" }, question, h("button", { id: "ask", class: "ask-button", type: "submit" }, icon("send"), h("span", {}, "Ask"))),
    h("details", { class: "ask-more" }, h("summary", {}, "Rounds and choices"),
      h("div", { class: "ask-options" }, h("label", {}, "Rounds of asking itself, at most", rounds), h("label", {}, "Choices to answer with", choices))));
  find("ask-box").replaceChildren(form);
}

export function startThreads() {
  buildForm();
  on("current", trying(async (info) => {
    for (const thread of threads.values()) thread.element.hidden = true;
    if (!info) return;
    const thread = threadOf(info.id);
    thread.element.hidden = false;
    refreshForm();
    if (!thread.loaded) await thread.load();
    thread.element.dataset.loaded = "yes";
    thread.toEnd();
  }));
  on("document", (info) => {
    if (info.id !== room.current) return;
    refreshForm();
    const thread = threadOf(info.id);
    if (info.status !== "reading") thread.refresh();
  });
  on("closed", (id) => {
    threads.get(id)?.run?.controller.abort();
    threads.get(id)?.element.remove();
    threads.delete(id);
  });
  on("model", () => threads.get(room.current)?.refresh());
  on("gone", (entry) => threads.get(entry.document)?.remove(entry.id));
  on("delete", trying(async (entry) => {
    await api.deleteEntry(entry.id);
    threads.get(entry.document)?.remove(entry.id);
  }));
}
