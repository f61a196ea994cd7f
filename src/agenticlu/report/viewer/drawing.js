// A tree as a drawing.
let refocus = false; // whether the drawing is in use, so that it gets the focus when drawn again
// Nodes stand in rows by depth. Where the leaves would not fit side by side they are stacked
// under their parent, so that 512 of them take 64 columns.
function place(tree, room) {
  const children = new Map(tree.nodes.map((node) => [node.id, []]));
  for (const node of tree.nodes) {
    if (node.parent !== null && children.has(node.parent)) children.get(node.parent).push(node);
  }
  for (const kids of children.values()) kids.sort((a, b) => a.ordinal - b.ordinal);
  const leavesOnly = (node) => {
    const kids = children.get(node.id);
    return kids.length > 1 && kids.every((kid) => !children.get(kid.id).length);
  };
  const measure = (node, stacked) => {
    const kids = children.get(node.id);
    if (!kids.length || (stacked && leavesOnly(node))) return 1;
    return kids.reduce((sum, kid) => sum + measure(kid, stacked), 0);
  };
  const first = tree.nodes[0];
  const margin = 66;
  const inner = Math.max(120, room - margin - 14);
  const stacked = measure(first, false) * 26 > inner;
  const columns = measure(first, stacked);
  const unit = Math.max(stacked ? 11 : 26, Math.min(64, inner / columns));
  const radius = Math.max(4.5, Math.min(11, unit * 0.4));
  const spots = new Map();
  const deepest = Math.max(...tree.nodes.map((node) => node.depth));
  const rise = Math.max(radius * 2 + 30, 52);
  let bottom = 0;
  const walk = (node, left) => {
    const width = measure(node, stacked);
    const kids = children.get(node.id);
    const y = 18 + node.depth * rise;
    let x = left + (width * unit) / 2;
    if (kids.length && !(stacked && leavesOnly(node))) {
      let at = left;
      for (const kid of kids) at += walk(kid, at);
      x = (spots.get(kids[0].id).x + spots.get(kids[kids.length - 1].id).x) / 2;
    } else {
      kids.forEach((kid, i) => {
        const down = y + rise + i * (radius * 2 + 4);
        spots.set(kid.id, { x, y: down, stacked: i > 0 });
        bottom = Math.max(bottom, down);
      });
    }
    spots.set(node.id, { x, y, stacked: false });
    bottom = Math.max(bottom, y);
    return width * unit;
  };
  walk(first, margin);
  return {
    children, spots, radius, rise, deepest, width: margin + columns * unit + 14, height: bottom + 24,
  };
}

function shape(state, radius) {
  const body = state === "failed"
    ? s("rect", {
      class: "shape", x: -radius * 0.9, y: -radius * 0.9, width: radius * 1.8, height: radius * 1.8, rx: 1.5,
    })
    : s("circle", { class: "shape", r: radius });
  return [body, s("path", {
    class: "glyph", d: GLYPHS[state], transform: `scale(${radius})`, "vector-effect": "non-scaling-stroke",
  })];
}
const pairMark = (radius) => s("circle", { class: "pairdot", cx: radius * 0.8, cy: -radius * 0.8, r: radius * 0.38 });
const splitMark = (radius) => s("path", {
  class: "splitmark", d: "M0 -1L1 0L0 1L-1 0Z", transform: `translate(${-radius * 0.85} ${-radius * 0.85}) scale(${radius * 0.5})`,
});
// A sample's number among its siblings, behind its parent's: 3.1 is the first below the third.
const sampleNumber = (node) => pathTo(node).slice(1).map((one) => one.ordinal + 1).join(".");
const roundName = (node) => (node.depth === 0 ? "Direct answer" : `Round ${node.depth}, sample ${sampleNumber(node)}`);
function describe(node) {
  const score = node.score === null ? "" : `, score ${node.score.toFixed(2)}`;
  const kept = node.kept.length ? `, ${node.kept.length} passage${node.kept.length === 1 ? "" : "s"} kept` : "";
  const reason = node.failure ? `, ${clip(node.failure, 160)}` : "";
  return `${roundName(node)}: ${STATES[node.state]}${reason}${score}${kept}${node.split ? ", judges disagree" : ""}`;
}

// What the shapes and marks of this tree mean.
function renderCues(tree) {
  const cue = (drawing, name) => h("li", {}, s("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, drawing), name);
  const key = (...names) => names.map((name) => [h("kbd", {}, name), " "]);
  return h("ul", { class: "cues" },
    Object.keys(STATES).map((state) => cue(s("g", { class: `node ${state}` }, shape(state, 6.2)), STATES[state])),
    pairsOf.has(tree.id) ? cue(s("g", { class: "node", transform: "translate(-5 5)" }, pairMark(6.2)), "in a pair") : null,
    tree.nodes.some((one) => one.split) ? cue(s("g", { class: "node", transform: "translate(5 5)" }, splitMark(6.2)), "judges disagree") : null,
    h("li", { class: "keys" }, key("←↑↓→"), "nodes ", key("j", "k"), "trees ", key("n", "p"), "nodes to look at ", key("c"), "compare ", key("/"), "search"));
}

let picking = false; // whether the next node clicked is compared instead of opened
function draw(tree, node, against, room) {
  const plan = place(tree, room);
  const byId = new Map(tree.nodes.map((one) => [one.id, one]));
  const [path, rivals] = [new Set(pathTo(node)), new Set(against ? pathTo(against) : [])];
  const paired = new Set((pairsOf.get(tree.id) || []).flatMap((pair) => [pair.chosen, pair.rejected]));
  const svg = s("svg", {
    class: "tree", width: Math.round(plan.width), height: Math.round(plan.height), role: "tree",
    viewBox: `0 0 ${Math.round(plan.width)} ${Math.round(plan.height)}`,
    "aria-label": `Tree of ${tree.nodes.length} nodes. Arrow keys move between them.`,
  });
  for (let depth = 0; depth <= plan.deepest; depth += 1) {
    const y = 18 + depth * plan.rise;
    svg.append(s("text", { class: "depth", x: 0, y: y + 4 }, depth === 0 ? "direct" : `round ${depth}`));
  }
  const edges = s("g", { "aria-hidden": "true" });
  const over = [];
  for (const one of tree.nodes) {
    const from = plan.spots.get(one.parent);
    const to = plan.spots.get(one.id);
    if (!from || !to) continue;
    const middle = (from.y + to.y) / 2;
    const line = to.stacked || from.x === to.x
      ? `M${from.x} ${from.y}V${to.y}`
      : `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`;
    const css = path.has(one) ? " on" : rivals.has(one) ? " off" : "";
    const edge = s("path", { class: `edge${css}`, d: line });
    if (css) over.push(edge); else edges.append(edge);
  }
  edges.append(...over);
  svg.append(edges);
  for (const one of tree.nodes) {
    const spot = plan.spots.get(one.id);
    if (!spot) continue;
    svg.append(s("g", {
      class: `node ${one.state}${against && one.id === against.id ? " against" : ""}`,
      transform: `translate(${spot.x} ${spot.y})`, role: "treeitem", "data-node": one.id,
      "aria-label": describe(one), "aria-level": one.depth + 1,
      "aria-selected": one.id === node.id ? "true" : "false", tabindex: one.id === node.id ? 0 : -1,
    },
    s("title", {}, describe(one)),
    s("circle", { class: "ring", r: plan.radius + 3, "pointer-events": "all" }),
    shape(one.state, plan.radius),
    paired.has(one.id) ? pairMark(plan.radius) : null,
    one.split ? splitMark(plan.radius) : null));
  }
  svg.addEventListener("click", (event) => {
    const hit = event.target.closest("[data-node]");
    if (!hit) return;
    refocus = true;
    if ((event.shiftKey || picking) && hit.dataset.node !== node.id) go(tree.id, node.id, hit.dataset.node);
    else go(tree.id, hit.dataset.node);
  });
  svg.addEventListener("keydown", (event) => {
    const at = byId.get(event.target.dataset.node);
    if (!at) return;
    const siblings = at.parent === null ? [at] : plan.children.get(at.parent);
    const row = tree.nodes.filter((one) => one.depth === at.depth)
      .sort((a, b) => plan.spots.get(a.id).x - plan.spots.get(b.id).x || a.ordinal - b.ordinal);
    const kids = plan.children.get(at.id);
    const next = {
      ArrowUp: byId.get(at.parent), ArrowDown: kids[Math.floor((kids.length - 1) / 2)],
      ArrowLeft: row[row.indexOf(at) - 1], ArrowRight: row[row.indexOf(at) + 1],
      Home: siblings[0], End: siblings[siblings.length - 1],
    }[event.key];
    if (next) {
      event.preventDefault();
      refocus = true;
      go(tree.id, next.id);
    }
  });
  return svg;
}
