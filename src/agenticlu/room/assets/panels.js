// What opens over the page: earlier questions, the choice of a model, keys.
import * as api from "./api.js";
import { renderEntry } from "./answer.js";
import { clip, find, h, icon, iconButton, when, whole } from "./elements.js";
import { room, say, tell } from "./events.js";
import { failed, news, trying } from "./notices.js";
import { choose } from "./tabs.js";
import { openConversation } from "./thread.js";

const SEARCH_MS = 150;
const DOTS = { supported: "right", unsupported: "doubt", not_in_document: "absent" };

// A dialog over the page; the browser keeps the focus in it and gives it back afterwards.
function dialog(name, title, ...children) {
  find(name)?.remove();
  const element = h("dialog", { class: "dialog", id: name, "aria-labelledby": `${name}-title` },
    h("div", { class: "dialog-head" }, h("h2", { id: `${name}-title` }, title), iconButton("close", "Close", () => element.close())), children);
  element.addEventListener("close", () => element.remove());
  element.addEventListener("click", (event) => event.target === element && element.close());
  document.body.append(element);
  element.showModal();
  return element;
}

export const openHistory = trying(async () => {
  const list = h("div", { class: "history-list", "aria-live": "off" });
  const count = h("p", { class: "quiet", role: "status" });
  const search = h("input", { type: "search", placeholder: "Search questions, answers and documents", "aria-label": "Search what was asked", autofocus: true });
  const element = dialog("history", "History", search, count, list);
  element.classList.add("drawer");
  if (!room.history) count.before(h("p", { class: "quiet" }, "Started with --no-history: what is asked is forgotten when the room is closed."));
  let asked = 0;
  const refresh = async () => {
    asked += 1;
    const mine = asked;
    const { entries } = await api.listHistory({ q: search.value.trim() });
    if (mine !== asked) return; // a later search has been sent meanwhile
    count.textContent = entries.length ? `${whole(entries.length)} ${entries.length === 1 ? "question" : "questions"}` : search.value ? "Nothing matches." : "Nothing has been asked yet.";
    list.replaceChildren(...byDocument(entries).map((group) => renderGroup(group, element, refresh)));
  };
  let later = null;
  search.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(() => refresh().catch(failed), SEARCH_MS);
  });
  await refresh();
});
function byDocument(entries) {
  const groups = new Map();
  for (const entry of entries) groups.set(entry.document, [...(groups.get(entry.document) || []), entry]);
  return [...groups.values()];
}
const isOpen = (entry) => entry.open ?? room.documents.has(entry.document);
function renderGroup(entries, element, refresh) {
  const [{ document: id, document_name: name }] = entries;
  const remove = h("button", { type: "button", class: "small-button", onclick: trying(async () => {
    if (remove.dataset.sure !== "yes") {
      remove.dataset.sure = "yes";
      remove.lastChild.textContent = `Delete all ${entries.length}?`;
      return;
    }
    await api.deleteHistory(id);
    say(`Deleted all about ${name}.`);
    for (const entry of entries) tell("gone", entry);
    await refresh();
  }) }, icon("trash"), h("span", {}, "Delete all"));
  return h("section", { class: "history-group", "aria-label": name },
    h("div", { class: "history-head" }, h("h3", {}, name, isOpen(entries[0]) ? null : h("span", { class: "quiet" }, " · not open")), remove),
    h("ul", {}, entries.map((entry) => h("li", {},
      h("button", { type: "button", class: "history-line", onclick: trying(() => reopen(entry, element)) },
        h("span", { class: `dot ${DOTS[entry.status] || ""}`, title: (entry.status || "").replaceAll("_", " ") }),
        h("span", { class: "history-text" }, h("b", {}, entry.question), h("span", {}, clip(entry.statement || "no answer", 160)), h("small", {}, when(entry.asked_at)))),
      iconButton("trash", `Delete “${clip(entry.question, 60)}”`, trying(async () => {
        await api.deleteEntry(entry.id);
        tell("gone", entry);
        await refresh();
      }))))));
}
async function reopen(entry, element) {
  if (room.documents.has(entry.document)) {
    element.close();
    choose(entry.document);
    await openConversation(entry.document, entry.conversation, entry.id);
    return;
  }
  const kept = await api.getEntry(entry.id);
  const back = h("button", { type: "button", class: "small-button", onclick: () => { element.close(); openHistory(); } }, "Back to all");
  element.replaceChildren(element.firstChild, back,
    h("p", { class: "notice plain" }, `${entry.document_name} is not open. Open the file again to see the passages on its pages.`),
    renderEntry(kept));
  element.classList.add("without-source");
  back.focus();
}

const isHere = (where) => where === "in this process" || /^https?:\/\/(localhost|127\.|\[::1\])/.test(where || "");
export const openModel = trying(async () => {
  const list = h("div", { class: "models" });
  const look = h("button", { type: "button", class: "button", onclick: trying(async () => {
    look.disabled = true;
    look.textContent = "Looking…";
    try {
      fill(await api.lookForModels(), true);
    } finally {
      look.disabled = false;
      look.textContent = "Look again on this computer";
    }
  }) }, "Look for models on this computer");
  const address = h("input", { type: "url", name: "base_url", placeholder: "http://localhost:8000/v1", "aria-label": "Address of a server", required: true });
  const name = h("input", { type: "text", name: "model", placeholder: "Model, if it serves several", "aria-label": "Name of the model" });
  const element = dialog("models", "Model", list,
    h("div", { class: "actions" }, look),
    h("p", { class: "quiet" }, "Looks only when you click: at the usual ports of Ollama, LM Studio, llama.cpp and vLLM on this computer."),
    h("form", { class: "model-form", onsubmit: (event) => { event.preventDefault(); take({ base_url: address.value, model: name.value.trim() || null }); } },
      h("h3", {}, "Another server"), address, name,
      h("p", { class: "quiet" }, "Any OpenAI-compatible server. The text of your documents is sent to it when you ask."),
      h("button", { type: "submit", class: "button" }, "Use it")));
  const take = trying(async (body) => {
    room.model = await api.chooseModel(body);
    tell("model");
    news(`${room.model.name} answers from now on.`);
    element.close();
  });
  const line = (model, isCurrent) => h("button", {
    type: "button", class: "model-line", "aria-pressed": String(isCurrent),
    onclick: () => (isCurrent ? element.close() : take({ base_url: model.where === "in this process" ? null : model.where, model: model.name })),
  }, icon(isCurrent ? "check" : "chip"), h("span", {}, h("b", {}, model.name),
    h("small", {}, [model.where, model.window ? `window of ${whole(model.window)} tokens` : null, model.bundled ? "bundled: it knows only its own invented world" : null].filter(Boolean).join(" · "))));
  const fill = ({ current, found }, looked) => {
    const others = found.filter((one) => !current || one.name !== current.name || one.where !== current.where);
    list.replaceChildren(...(current ? [line(current, true)] : [h("p", {}, "No model is chosen.")]), ...others.map((one) => line(one, false)),
      ...(looked && !others.length ? [h("p", { class: "quiet", role: "status" }, "No other model answers on this computer. Start one, for example: ollama serve")] : []));
  };
  fill(await api.getModels(), room.looked);
});
// The model in use, always in sight.
export function refreshModel() {
  const button = find("model");
  const { model } = room;
  button.classList.toggle("unset", !model || model.bundled);
  button.title = model ? `Model: ${model.name}, ${model.where}` : "No model is chosen";
  button.querySelector(".model-name").textContent = model ? model.name : "Choose a model";
  button.querySelector(".model-where").textContent = !model ? "" : model.bundled ? "bundled" : isHere(model.where) ? "on this computer" : new URL(model.where, location.href).host;
}

const KEYS = [
  ["/", "Go to the question"], ["Enter", "Ask; on a marker, show its words in the source"], ["Shift + Enter", "New line in the question"],
  ["Esc", "Stop, and take the best answer so far"], ["[ and ]", "Previous and next marker of the answers"], ["← →", "Between documents, on their tabs"],
  ["Delete", "Close the document, on its tab"], ["Alt + PageUp and PageDown", "Previous and next page, in the source"], ["\\", "Between answers and source"], ["h", "History"], ["?", "This list"],
];
export function openHelp() {
  dialog("help", "Keys", h("dl", { class: "keys" }, KEYS.map(([keys, text]) => [h("dt", {}, keys.split(" ").map((one) => (/^(and|\+|,)$/.test(one) ? ` ${one} ` : h("kbd", {}, one)))), h("dd", {}, text)])),
    h("p", { class: "quiet" }, `agenticlu ${room.version}`));
}
