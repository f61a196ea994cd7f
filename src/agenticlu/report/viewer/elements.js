// Elements, numbers and names.
const SVG = "http://www.w3.org/2000/svg";
const LIST_STEP = 200;
const NARROW = 860; // where the style sheet turns to one column, in pixels
const KINDS = {
  direct: "Direct answer", clarify: "Clarification", point: "Points back", sub_answer: "Sub-answer",
  answer: "Answer", check: "Self-check",
};
const STATES = { right: "right", wrong: "wrong", unscored: "unscored", failed: "failed" };
const OUTCOMES = {
  solved: ["right", "solved"], unsolved: ["wrong", "unsolved"], "too-easy": ["plain", "too easy"],
  failed: ["failed", "failed"], budget: ["plain", "budget reached"],
};
const GLYPHS = {
  right: "M-.48 .02L-.12 .38L.5 -.36", wrong: "M-.36 -.36L.36 .36M.36 -.36L-.36 .36",
  unscored: "M-.3 -.22C-.3 -.6 .32 -.6 .32 -.2C.32 .06 0 .02 0 .28M0 .52V.54",
  failed: "M0 -.5V.12M0 .46V.48",
};

const fill = (element, props, children) => {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
};
const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);
const whole = (n) => n.toLocaleString("en-US");
const short = (n) => {
  for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (n >= size) return `${(n / size).toFixed(n < 100 * size ? 1 : 0).replace(/\.0$/, "")}${letter}`;
  }
  return String(n);
};
const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text);
// Offsets count characters; JavaScript counts UTF-16 units. They differ only past U+FFFF.
const slicer = (text) => {
  if (!/[\ud800-\udfff]/.test(text)) return (from, to) => text.slice(from, to);
  const letters = Array.from(text);
  return (from, to) => letters.slice(from, to).join("");
};
