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
function renderComparison(tree, chosen, rejected) {
  const pair = (pairsOf.get(tree.id) || []).find((one) => one.chosen === chosen.id && one.rejected === rejected.id);
  const kinds = [...new Set([...chosen.turns, ...rejected.turns].map((turn) => turn.kind))];
  const reply = (node, kind) => node.turns.filter((turn) => turn.kind === kind).map((turn) => turn.reply).join("\n");
  const head = (name, node) => h("div", {}, h("h4", {}, `${name}: ${roundName(node)} `, badge(node)),
    h("p", { class: "request" }, `Passages ${node.kept.length ? node.kept.join(", ") : "none"} · answer: ${node.answer || "none"}`));
  return h("article", { class: "compare panel", id: "comparison", "aria-label": "Comparison" },
    h("div", { class: "compare-head" },
      h("h3", {}, pair ? `Chosen and rejected (${pair.kind} pair)` : "Two samples side by side"),
      h("button", { class: "small", type: "button", onclick: () => go(tree.id, chosen.id) }, "Close")),
    h("div", { class: "sides" }, head(pair ? "Chosen" : "Better", chosen), head(pair ? "Rejected" : "Other", rejected),
      kinds.map((kind) => {
        const [left, right] = [reply(chosen, kind), reply(rejected, kind)];
        const name = h("div", { class: "kind" }, KINDS[kind] || kind);
        if (left === right) return [name, h("div", { class: "same" }, `${left} (the same in both)`)];
        const [one, two] = difference(left, right);
        return [name, h("div", { class: "side" }, one.length ? one : "(no such turn)"),
          h("div", { class: "side" }, two.length ? two : "(no such turn)")];
      })));
}
