// One node: its turns, verdicts and cost.
const usageText = (usage) => `${whole(usage[0])} computed, ${whole(usage[1])} cached, ${whole(usage[2])} sampled`;
const sumUsage = (turns) => turns.reduce(
  (sum, turn) => (turn.usage ? sum.map((value, i) => value + turn.usage[i]) : sum), [0, 0, 0],
);
function replyParts(text, numPieces) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(/<\/?para\s*(\d*)\s*>|((?:final\s+)?answer:)/gi)) {
    parts.push(text.slice(end, found.index));
    end = found.index + found[0].length;
    const index = found[1] ? Number(found[1]) : null;
    if (found[2]) parts.push(h("span", { class: "label" }, found[0]));
    else if (index === null) parts.push("");
    else if (numPieces && index >= numPieces) {
      parts.push(h("span", { class: "para broken", title: "There is no such passage" }, `¶ ${index}`));
    } else {
      parts.push(h("button", {
        class: "para", type: "button", "aria-label": `Show passage ${index}`, onclick: () => showPiece(index),
      }, `¶ ${index}`));
    }
  }
  parts.push(text.slice(end));
  return parts;
}
function renderTurn(turn, numPieces) {
  return h("div", { class: `turn ${turn.kind}` },
    h("h4", {}, KINDS[turn.kind] || turn.kind,
      h("span", { title: turn.usage ? `Tokens: ${usageText(turn.usage)}` : null }, turn.usage ? `${short(turn.usage[0])} + ${short(turn.usage[1])} cached + ${short(turn.usage[2])}` : "from grounding")),
    h("p", { class: "request" }, turn.request),
    h("div", { class: "reply" }, replyParts(turn.reply, numPieces)),
    turn.finish === "length" ? h("p", { class: "request" }, "Cut at the token limit.") : null,
    turn.finish === "refused" ? h("p", { class: "request" }, "The model refused.") : null);
}
const badge = (node) => h("span", { class: `badge ${node.state}` }, STATES[node.state]
  + (node.score === null ? "" : ` · ${node.score.toFixed(2)}`));

function rival(tree, node) {
  for (const pair of pairsOf.get(tree.id) || []) {
    if (pair.chosen === node.id) return [node.id, pair.rejected, "pair"];
    if (pair.rejected === node.id) return [pair.chosen, node.id, "pair"];
  }
  const others = tree.nodes.filter((one) => one.id !== node.id && one.parent === node.parent
    && one.score !== null && node.score !== null && one.score !== node.score);
  if (!others.length) return null;
  const far = others.reduce((a, b) => (Math.abs(b.score - node.score) > Math.abs(a.score - node.score) ? b : a));
  return far.score < node.score ? [node.id, far.id, "siblings"] : [far.id, node.id, "siblings"];
}

function renderDetail(tree, node, numPieces) {
  const byId = new Map(tree.nodes.map((one) => [one.id, one]));
  const before = [];
  for (let one = byId.get(node.parent); one; one = byId.get(one.parent)) before.unshift(one);
  const cost = sumUsage(node.turns);
  const two = rival(tree, node);
  return h("article", { class: `detail panel ${node.state}`, id: "node-detail", "data-node": node.id, "aria-label": describe(node) },
    h("div", { class: "detail-head" }, h("h3", {}, roundName(node)), badge(node),
      node.split ? h("span", { class: "badge plain" }, "judges disagree") : null),
    h("dl", { class: "pairs" },
      h("dt", {}, "Answer"), h("dd", {}, node.answer || "none"),
      h("dt", {}, "Passages"), h("dd", {}, node.kept.length
        ? node.kept.map((index) => [h("button", {
          class: "para", type: "button", "aria-label": `Show passage ${index}`, onclick: () => showPiece(index),
        }, `¶ ${index}`), " "]) : "none kept"),
      h("dt", {}, "Tokens"), h("dd", {}, usageText(cost))),
    node.failure ? h("p", { class: "failure" }, `Failed: ${node.failure}`) : null,
    node.verdicts.length ? h("table", { class: "verdicts" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Judge"), h("th", { scope: "col" }, "Verdict"), h("th", { scope: "col" }, "Reason"))),
      h("tbody", {}, node.verdicts.map(([judge, value, reason]) => h("tr", {},
        h("td", {}, judge), h("td", { class: "num" }, value === null ? "unscored" : value.toFixed(2)), h("td", {}, reason))))) : null,
    two ? h("div", { class: "buttons" }, h("button", {
      class: "small", type: "button", onclick: () => go(tree.id, two[0], two[1]),
    }, two[2] === "pair" ? "Compare the chosen and the rejected" : "Compare with the most different sibling")) : null,
    h("details", { class: "earlier" }, h("summary", {}, "How the conversation opens"),
      h("p", { class: "request" }, tree.system),
      h("p", { class: "request" }, "The marked document follows, then:"),
      h("p", { class: "request" }, `Question: ${tree.question}${tree.options.map((o, i) => `\n${String.fromCharCode(65 + i)}. ${o}`).join("")}`)),
    before.filter((one) => one.depth > 0).map((one) => h("details", { class: "earlier" },
      h("summary", {}, `Round ${one.depth}: ${clip((one.turns[0] || { reply: "" }).reply, 80)} `, badge(one)),
      one.turns.map((turn) => renderTurn(turn, numPieces)))),
    node.turns.map((turn) => renderTurn(turn, numPieces)));
}
