// Putting it together: what is opened, keys, sizes.
const stage = h("div", { class: "stage", "aria-live": "off" });
root.append(
  h("aside", { class: "picker panel", "aria-label": "Choose a tree" },
    h("div", { class: "picker-head" }, search, chips, countLine), list),
  stage,
);
let refocus = false;
let arriving = false;
let last = null;

function neighbour(id, step) {
  const found = matching().filter((entry) => entry.embedded);
  const at = found.findIndex((entry) => entry.id === id);
  return found[at + step] || null;
}
function pickNode(tree, wanted) {
  return tree.nodes.find((one) => one.id === wanted)
    || tree.nodes.find((one) => one.state === "right" && one.depth > 0)
    || tree.nodes[0];
}
function open() {
  const began = performance.now();
  const asked = readAddress();
  const found = asked.tree === null ? null : entryOf.get(asked.tree);
  const entry = found || (asked.tree === null ? entries.find((one) => one.embedded) : null);
  const tree = entry ? treeOf(entry.id) : null;
  if (!tree) {
    stage.replaceChildren(h("p", { class: "empty panel" }, entry
      ? "This tree is not in the page; the run's files hold it."
      : "There is no such tree in this report."));
    return;
  }
  if (!tree.nodes.length) {
    stage.replaceChildren(h("p", { class: "empty panel" }, `${tree.question} No answer is finished yet.`));
    return;
  }
  const node = pickNode(tree, asked.node);
  const against = tree.nodes.find((one) => one.id === asked.against) || null;
  const source = block(`document-${tree.document}`);
  const numPieces = source ? source.pieces.length : 0;
  const scroll = last && last.tree === tree.id ? stage.querySelector(".canvas") : null;
  const before = scroll ? [scroll.scrollLeft, scroll.scrollTop] : null;
  const canvas = h("div", { class: "canvas" });
  const [previous, next] = [neighbour(tree.id, -1), neighbour(tree.id, 1)];
  const shift = (to, name, text) => h("button", {
    type: "button", disabled: !to, "aria-label": name, title: name, onclick: () => to && go(to.id),
  }, text);
  stage.replaceChildren(
    h("section", { class: "asked panel", "aria-label": "Question and tree" },
      h("div", { class: "asked-row" }, h("h3", {}, tree.question),
        h("div", { class: "step" }, shift(previous, "Previous tree (k)", "↑"), shift(next, "Next tree (j)", "↓"))),
      h("dl", { class: "pairs" },
        h("dt", {}, "Gold answer"), h("dd", {}, tree.answers.join(" / ") || "unknown"),
        h("dt", {}, "Outcome"), h("dd", {}, outcomeBadge(entry)),
        h("dt", {}, "Whole tree"), h("dd", {}, `${whole(tree.nodes.length)} nodes; tokens: ${usageText(tree.usage)}`)),
      h("div", { class: "drawing" }, canvas,
        h("ul", { class: "cues" }, Object.keys(STATES).map((state) => h("li", {},
          s("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, s("g", { class: `node ${state}` }, shape(state, 6.2))), STATES[state])),
        pairsOf.has(tree.id) ? h("li", {}, s("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, s("g", { class: "node" }, s("circle", { class: "pairdot", r: 3.5 }))), "in a pair") : null,
        h("li", { class: "keys" }, h("kbd", {}, "←↑↓→"), " nodes ", h("kbd", {}, "j"), " ", h("kbd", {}, "k"), " trees ", h("kbd", {}, "/"), " search ", h("kbd", {}, "Shift"), " click compares")))),
    against ? renderComparison(tree, node, against) : "",
    h("div", { class: "reading" }, renderDetail(tree, node, numPieces), renderDocument(tree, node)),
  );
  canvas.append(draw(tree, node, against, canvas.clientWidth || stage.clientWidth - 40 || 700));
  const mark = canvas.querySelector("[aria-selected=true]");
  if (before) [canvas.scrollLeft, canvas.scrollTop] = before;
  if (mark && !before) {
    const box = mark.getBoundingClientRect();
    const frame = canvas.getBoundingClientRect();
    if (box.right > frame.right || box.left < frame.left) canvas.scrollLeft += box.left - frame.left - frame.width / 2;
    if (box.bottom > frame.bottom) canvas.scrollTop += box.top - frame.top - frame.height / 2;
  }
  if (refocus && mark) mark.focus({ preventScroll: true });
  refocus = false;
  const piece = node.kept.length ? node.kept[0] : (tree.gold || [])[0];
  if (piece !== undefined) jumpTo(piece);
  for (const link of list.querySelectorAll("a")) {
    if (link.getAttribute("href") === address(tree.id)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const current = list.querySelector("[aria-current=true]");
  if (current) list.scrollTop = Math.max(0, current.offsetTop - list.offsetTop - list.clientHeight / 2);
  last = { tree: tree.id, node: node.id };
  if (arriving && window.innerWidth <= 860) stage.scrollIntoView();
  arriving = false;
  // For benchmarks: this opening alone, and since the page began to load; both laid out.
  const now = performance.now();
  root.dataset.openMs = (now - began).toFixed(1);
  root.dataset.readyMs = now.toFixed(1);
  requestAnimationFrame(() => requestAnimationFrame(() => {
    root.dataset.paintMs = (performance.now() - began).toFixed(1);
  }));
}

window.addEventListener("hashchange", () => {
  if (readAddress().tree !== null || location.hash === "") open();
});
let resizing = 0;
let lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return;
  lastWidth = window.innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(open, 150);
});
window.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest && event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") { search.value = ""; renderList(); search.blur(); }
    return;
  }
  const to = event.key === "j" ? 1 : event.key === "k" ? -1 : 0;
  if (to && last) {
    const next = neighbour(last.tree, to);
    if (next) go(next.id);
  } else if (event.key === "/") {
    event.preventDefault();
    search.focus();
  }
});
root.hidden = false;
renderList();
open();
if (readAddress().tree !== null) document.getElementById("trees").scrollIntoView();
