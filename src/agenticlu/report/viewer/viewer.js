// Putting it together: what is opened, keys, sizes.
const stage = h("div", { class: "stage", "aria-live": "off" });
root.append(
  h("aside", { class: "picker panel", "aria-label": "Choose a tree" },
    h("div", { class: "picker-head" }, search, filters,
      h("div", { class: "count-row" }, countLine, clear, entries.length > 1 ? sorter : null)), list),
  stage,
);
let arriving = false; // whether a tree was chosen in the list, which may stand far above it
let last = null;

function pickNode(tree, wanted) {
  const isSought = Object.keys(NODE_TESTS).some((id) => view.filter.has(id));
  return tree.nodes.find((one) => one.id === wanted)
    || (isSought && wantedNodes(tree)[0])
    || tree.nodes.find((one) => one.state === "right" && one.depth > 0)
    || tree.nodes[0];
}
// Where the open tree stands in the list, and the ways to the next ones.
function renderSteps(id) {
  const found = matching().filter((one) => one.embedded);
  const at = found.findIndex((one) => one.id === id);
  const shift = (step, name, text) => {
    const to = neighbour(id, step);
    return h("button", {
      type: "button", disabled: !to, "aria-label": name, title: name, "data-hold": name, onclick: () => to && go(to.id),
    }, text);
  };
  return h("div", { class: "step" },
    h("span", {}, at < 0 ? "not in the list" : `${whole(at + 1)} of ${whole(found.length)}`),
    shift(-1, "Previous tree (k)", "↑"), shift(1, "Next tree (j)", "↓"));
}
function refreshSteps() {
  const steps = stage.querySelector(".step");
  if (steps) steps.replaceWith(renderSteps(view.tree));
}
function renderAsked(entry, tree, canvas) {
  const rows = [
    ["Gold answer", tree.answers.join(" / ") || "unknown"],
    ["Outcome", outcomeBadge(entry)],
    ["Whole tree", `${whole(tree.nodes.length)} nodes; tokens: ${usageText(tree.usage)}`],
  ];
  return h("section", { class: "asked panel", "aria-label": "Question and tree" },
    h("div", { class: "asked-row" }, h("h3", {}, tree.question), renderSteps(tree.id)),
    h("dl", { class: "pairs" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("div", { class: "drawing" }, canvas, renderCues(tree)));
}
// Keeps where the drawing was scrolled to; of a new one, shows the open node.
function scrollDrawing(canvas, mark, before) {
  if (before) {
    [canvas.scrollLeft, canvas.scrollTop] = before;
    return;
  }
  const [box, frame] = [mark.getBoundingClientRect(), canvas.getBoundingClientRect()];
  if (box.right > frame.right || box.left < frame.left) canvas.scrollLeft += box.left - frame.left - frame.width / 2;
  if (box.bottom > frame.bottom) canvas.scrollTop += box.top - frame.top - frame.height / 2;
}
function say(text) {
  stage.replaceChildren(h("p", { class: "empty panel" }, text));
}
function open() {
  const began = performance.now();
  view.tree ??= (matching().find((one) => one.embedded) || entries.find((one) => one.embedded) || { id: null }).id;
  const entry = entryOf.get(view.tree);
  if (view.tree === null) return say("No tree is in this page; --trees N puts some in.");
  const tree = entry ? treeOf(entry.id) : null;
  if (!tree) return say(entry ? "This tree is not in the page; the run's files hold it." : "There is no such tree in this report.");
  if (!tree.nodes.length) return say(`${tree.question} No answer is finished yet.`);
  const node = pickNode(tree, view.node);
  const against = tree.nodes.find((one) => one.id === view.against && one !== node) || null;
  const source = block(`document-${tree.document}`);
  const numPieces = source ? source.pieces.length : 0;
  const isNew = !last || last.tree !== tree.id;
  const old = isNew ? null : stage.querySelector(".canvas");
  const before = old ? [old.scrollLeft, old.scrollTop] : null;
  const active = stage.contains(document.activeElement) ? document.activeElement : null;
  const held = active && active.dataset.hold;
  const canvas = h("div", { class: "canvas" });
  picking = false;
  stage.replaceChildren(
    renderAsked(entry, tree, canvas),
    against ? renderComparison(tree, node, against) : "",
    h("div", { class: "reading" }, renderDetail(tree, node, numPieces), renderDocument(tree, node)),
  );
  canvas.append(draw(tree, node, against, canvas.clientWidth || stage.clientWidth - 40 || 700));
  const mark = canvas.querySelector("[aria-selected=true]");
  scrollDrawing(canvas, mark, before);
  if (active || refocus) {
    const same = held && stage.querySelector(`[data-hold="${held}"]:not(:disabled)`);
    (same || mark).focus({ preventScroll: true });
  }
  refocus = false;
  const piece = node.kept.length ? node.kept[0] : (tree.gold || [])[0];
  if (piece !== undefined) jumpTo(piece);
  markCurrent();
  const compared = against && (!last || last.against !== against.id || last.node !== node.id);
  if (compared && last) document.getElementById("comparison").scrollIntoView({ block: "nearest" });
  const above = last && isNew && stage.getBoundingClientRect().top < 0;
  if (above || (arriving && window.innerWidth <= NARROW)) stage.scrollIntoView();
  arriving = false;
  last = { tree: tree.id, node: node.id, against: against && against.id };
  // For benchmarks: this opening alone, and since the page began to load; both laid out.
  const now = performance.now();
  root.dataset.openMs = (now - began).toFixed(1);
  root.dataset.readyMs = now.toFixed(1);
  requestAnimationFrame(() => requestAnimationFrame(() => {
    root.dataset.paintMs = (performance.now() - began).toFixed(1);
  }));
}

window.addEventListener("hashchange", () => {
  const before = listAddress();
  if (!readAddress()) return;
  const isList = view.tree === null && location.hash !== "";
  if (listAddress() !== before) renderList();
  open();
  if (isList) document.getElementById("trees").scrollIntoView();
});
let resizing = 0;
let lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return;
  lastWidth = window.innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(open, 150);
});

// ---- keys -----------------------------------------------------------------------------------
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    view.q = "";
    changeList();
    search.blur();
  } else if (event.key === "Enter") {
    const first = matching().find((entry) => entry.embedded);
    if (first) go(first.id);
  } else if (event.key === "ArrowDown") {
    event.preventDefault();
    const first = list.querySelector("a");
    if (first) first.focus();
  }
});
list.addEventListener("keydown", (event) => {
  const links = [...list.querySelectorAll("a, .more")];
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const to = step && links[links.indexOf(event.target) + step];
  if (to) {
    event.preventDefault();
    to.focus();
  } else if (event.key === "ArrowUp") search.focus();
});
window.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest && event.target.closest("input, textarea, select")) return;
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (!last) {
    return;
  } else if (event.key === "j" || event.key === "k") {
    const next = neighbour(last.tree, event.key === "j" ? 1 : -1);
    if (next) go(next.id);
  } else if (event.key === "n" || event.key === "p") {
    const tree = treeOf(last.tree);
    const found = wantedNodes(tree).map((one) => tree.nodes.indexOf(one));
    const at = tree.nodes.findIndex((one) => one.id === last.node);
    const next = event.key === "n" ? found.find((i) => i > at) ?? found[0] : found.findLast((i) => i < at) ?? found.at(-1);
    if (next !== undefined) go(tree.id, tree.nodes[next].id);
  } else if (event.key === "c" || (event.key === "Escape" && view.against)) {
    const tree = treeOf(last.tree);
    const two = view.against ? [last.node] : rival(tree, tree.nodes.find((one) => one.id === last.node));
    if (two) go(tree.id, two[0], two[1]);
  }
});
const isNamed = readAddress() && location.hash.length > 1;
root.hidden = false;
renderList();
open();
if (isNamed) document.getElementById("trees").scrollIntoView();
