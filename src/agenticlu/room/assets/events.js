// What the parts of the page tell each other, and what they all know.
const bus = new EventTarget();
export const tell = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));
export const on = (name, act) => bus.addEventListener(name, (event) => act(event.detail));

// `current` is the id of the document in sight, or null; `documents` keeps the order of the tabs.
export const room = {
  model: null, documents: new Map(), current: null, history: false, looked: false, formats: [],
  uploadBytes: Infinity, version: "",
};
export const currentDocument = () => room.documents.get(room.current) || null;

const live = document.getElementById("live");
// Says something to screen readers alone.
export function say(text) {
  live.textContent = "";
  setTimeout(() => { live.textContent = text; }, 30);
}
