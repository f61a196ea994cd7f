// Two nodes side by side.
function difference(left, right) {
  const a = left.match(/\s+|[^\s]+/g) || [];
  const b = right.match(/\s+|[^\s]+/g) || [];
  if (a.length * b.length > 4e6) return [[left], [right]];
  const width = b.length + 1;
  const best = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1
        : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  const sides = [[], []];
  const add = (side, text, tag) => {
    const last = sides[side][sides[side].length - 1];
    if (last && last[1] === tag) last[0] += text; else sides[side].push([text, tag]);
  };
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add(0, a[i], null); add(1, b[j], null); i += 1; j += 1;
    } else if (j >= b.length || (i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) {
      add(0, a[i], "ins"); i += 1;
    } else { add(1, b[j], "del"); j += 1; }
  }
  return sides.map((parts) => parts.map(([text, tag]) => (tag ? h(tag, {}, text) : text)));
}
function renderTurns(left, right, names) {
  const kinds = [...new Set([...left.turns, ...right.turns].map((turn) => turn.kind))];
  const reply = (node, kind) => node.turns.filter((turn) => turn.kind === kind)
    .map((turn) => turn.reply.replace(/<para\s*(\d+)\s*>/gi, "¶$1").replace(/<\/para>/gi, "")).join("\n");
  return kinds.map((kind) => {
    const [one, other] = [reply(left, kind), reply(right, kind)];
    const name = h("div", { class: "kind" }, KINDS[kind] || kind);
    if (one === other) return [name, h("div", { class: "same" }, `${one} (the same in both)`)];
    return [name, difference(one, other).map((parts, i) => h("div", { class: "side", "data-side": names[i] }, parts.length ? parts : "(no such turn)"))];
  });
}
// Rows of a path pair are made where the two paths part: there they are compared.
function renderComparison(tree, one, other) {
  const pair = (pairsOf.get(tree.id) || []).find(({ chosen, rejected }) => chosen === one.id && rejected === other.id);
  const parted = pair && pair.kind === "path" ? parting(one, other) : null;
  const [left, right] = parted || [one, other];
  const names = pair ? ["Chosen", "Rejected"] : [roundName(left), roundName(right)];
  const head = (name, node) => h("div", {}, h("h4", {}, `${name}${roundName(node)} `, badge(node)),
    h("p", { class: "request" }, `Passages ${node.kept.length ? node.kept.join(", ") : "none"} · answer: ${node.answer || "none"}`));
  const earlier = left !== one || right !== other;
  return h("article", { class: "compare panel", id: "comparison", "aria-label": "Comparison" },
    h("div", { class: "compare-head" },
      h("h3", {}, pair ? `Chosen and rejected (${pair.kind} pair)` : "Two samples side by side"),
      h("button", { class: "small", type: "button", "data-hold": "compare", onclick: () => go(tree.id, one.id) }, "Close")),
    h("div", { class: "sides" },
      head(pair ? "Chosen: " : "", one), head(pair ? "Rejected: " : "", other),
      earlier ? [
        h("p", { class: "note" }, "Compared where their paths part, as in the rows of the data set:"),
        head("", left), head("", right),
      ] : null,
      renderTurns(left, right, names)),
    earlier ? h("details", { class: "earlier" },
      h("summary", {}, "The two nodes themselves, side by side"),
      h("div", { class: "sides" }, renderTurns(one, other, names))) : null);
}
