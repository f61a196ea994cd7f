// Elements, pictures and numbers. Text of documents and models reaches the page only as text nodes.
const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  plus: "M12 5v14M5 12h14", minus: "M5 12h14", close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6", stop: "M8 8h8v8H8z", search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14M20 20l-4-4",
  history: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4h4M12 8v4l3 2", trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12M10.5 11v5M13.5 11v5",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14", down: "M6 9l6 6 6-6", file: "M7 3h7l4 4v14H7zM14 3v4h4",
  folder: "M3 6h6l2 2h10v11H3z", check: "M5 12.5l4.5 4.5L19 7", warn: "M12 4L2.5 20h19zM12 10v4.5M12 17v.5",
  none: "M12 20a8 8 0 1 0 0-16 8 8 0 0 0 0 16M6.5 17.5l11-11", chip: "M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4",
  light: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8M12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  dark: "M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5z", auto: "M12 20a8 8 0 1 0 0-16 8 8 0 0 0 0 16M12 4v16",
  help: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18M9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 16.5v.5",
  clarify: "M9.5 9a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1 1-1.1 1.8v.5M12 17v.5", point: "M4 12h14M13 7l5 5-5 5",
  sub_answer: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14M20 20l-4-4", answer: "M5 6h14v9H11l-4 4v-4H5z", direct: "M5 6h14v9H11l-4 4v-4H5z",
  search_all: "M4 6h16M4 12h10M4 18h7", copy: "M9 9h10v11H9zM5 15V4h10", panes: "M4 5h16v14H4zM12 5v14", wide: "M4 8V4h4M20 8V4h-4M4 16v4h4M20 16v4h-4",
};

const fill = (element, props, children) => {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(4)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
};
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const icon = (name) => fill(document.createElementNS(SVG, "svg"), { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, [
  fill(document.createElementNS(SVG, "path"), { d: ICONS[name] || ICONS.file }, []),
]);
export const find = (id) => document.getElementById(id);
// A button with a picture; its name is read out and shown on hover.
export const iconButton = (picture, name, onclick, props = {}) => h("button", {
  type: "button", class: "icon-button", "aria-label": name, title: name, onclick, ...props,
}, icon(picture));

export const whole = (n) => n.toLocaleString("en-US");
export const plural = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;
export const short = (n) => {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (n >= size) return `${(n / size).toFixed(n < 100 * size ? 1 : 0).replace(/\.0$/, "")}${letter}`;
  }
  return String(n);
};
export const bytes = (n) => {
  for (const [size, unit] of [[2 ** 30, "GB"], [2 ** 20, "MB"], [2 ** 10, "KB"]]) {
    if (n >= size) return `${(n / size).toFixed(n < 10 * size ? 1 : 0).replace(/\.0$/, "")} ${unit}`;
  }
  return `${n} bytes`;
};
export const seconds = (s) => (s < 10 ? `${s.toFixed(1)} s` : s < 90 ? `${Math.round(s)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`);
export const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text);
// Offsets count characters; JavaScript counts UTF-16 units. They differ only past U+FFFF.
export const slicer = (text) => {
  if (!/[\ud800-\udfff]/.test(text)) return (from, to) => text.slice(from, to);
  const letters = Array.from(text);
  return (from, to) => letters.slice(from, to).join("");
};
export const length = (text) => (/[\ud800-\udfff]/.test(text) ? Array.from(text).length : text.length);
export const frame = () => new Promise((done) => requestAnimationFrame(() => done()));
// "Today 14:02", "12 March": when something was asked.
export function when(iso) {
  const then = new Date(iso);
  if (Number.isNaN(then.getTime())) return "";
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (then.toDateString() === new Date().toDateString()) return `Today ${time}`;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" })}, ${time}`;
}

// A menu that a button opens: closes on a choice, on Escape and on a click elsewhere.
export function menu(label, button, items) {
  const list = h("div", { class: "menu", role: "menu", "aria-label": label, hidden: true });
  const box = h("div", { class: "menu-box" }, button, list);
  const entries = () => [...list.querySelectorAll("[role=menuitem]")];
  const close = (back) => {
    if (list.hidden) return;
    list.hidden = true;
    button.setAttribute("aria-expanded", "false");
    if (back) button.focus();
  };
  button.setAttribute("aria-haspopup", "menu");
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    if (!list.hidden) return close(true);
    list.replaceChildren(...items().flat());
    list.hidden = false;
    button.setAttribute("aria-expanded", "true");
    entries()[0]?.focus();
    return undefined;
  });
  list.addEventListener("click", (event) => event.target.closest("[role=menuitem]") && close(true));
  box.addEventListener("focusout", (event) => event.relatedTarget && !box.contains(event.relatedTarget) && close(false));
  document.addEventListener("pointerdown", (event) => !box.contains(event.target) && close(false));
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" && !list.hidden) { event.stopPropagation(); close(true); }
    if (!step || list.hidden) return;
    event.preventDefault();
    const all = entries();
    all[(all.indexOf(document.activeElement) + step + all.length) % all.length]?.focus();
  });
  return box;
}
