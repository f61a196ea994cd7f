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
      h("span", { title: turn.usage ? `Tokens: ${usageText(turn.usage)}${turn.kind === "clarify" ? ", shared by the samples of this round" : ""}` : null },
        turn.usage ? `${short(turn.usage[0])} computed · ${short(turn.usage[1])} cached · ${short(turn.usage[2])} sampled` : "from grounding")),
    h("p", { class: "request" }, turn.request),
    h("div", { class: "reply" }, replyParts(turn.reply, numPieces)),
    turn.finish === "length" ? h("p", { class: "request" }, "Cut at the token limit.") : null,
    turn.finish === "refused" ? h("p", { class: "request" }, "The model refused.") : null);
}
const badge = (node) => h("span", {
  class: `badge ${node.state}`, title: node.score === null ? null : "The judges decide; the score orders answers.",
}, STATES[node.state] + (node.score === null ? "" : ` · score ${node.score.toFixed(2)}`));

// What a node is best compared with: its partner in a pair, else a sibling judged otherwise.
function rival(tree, node) {
  for (const pair of pairsOf.get(tree.id) || []) {
    if (pair.chosen === node.id || pair.rejected === node.id) {
      return [pair.chosen, pair.rejected, "Compare the chosen and the rejected"];
    }
  }
  const wanted = { right: "wrong", wrong: "right" }[node.state];
  const others = tree.nodes.filter((one) => one.parent === node.parent && one.state === wanted);
  if (!others.length) return null;
  const far = others.reduce((a, b) => (Math.abs(b.score - node.score) > Math.abs(a.score - node.score) ? b : a));
  return [node.id, far.id, `Compare with a ${wanted} sibling`];
}
function renderVerdicts(node) {
  const found = (value) => {
    if (value !== null && value > 0 && value < 1) return value.toFixed(2);
    const state = value === null ? "unscored" : value ? "right" : "wrong";
    return h("span", { class: `badge ${state}` }, state);
  };
  const reasoned = node.verdicts.some(([, , reason]) => reason);
  return h("table", { class: "verdicts" },
    h("thead", {}, h("tr", {}, ["Judge", "Verdict", reasoned ? "Reason" : ""].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, node.verdicts.map(([judge, value, reason]) => h("tr", {},
      h("td", {}, judge), h("td", {}, found(value)), h("td", {}, explanation(reason))))));
}
// Models reply with an object, the explanation in it.
function explanation(reason) {
  try {
    return JSON.parse(reason).explanation || reason;
  } catch {
    return reason;
  }
}
const passageButtons = (indices, css = "para") => indices.map((index) => [h("button", {
  class: css, type: "button", "aria-label": `Show passage ${index}`, onclick: () => showPiece(index),
}, `¶ ${index}`), " "]);
function renderFacts(tree, node) {
  const rows = [
    ["Answer", node.answer || "none"],
    ["Passages", node.kept.length ? passageButtons(node.kept) : "none kept"],
  ];
  if (tree.gold && tree.gold.length) {
    const found = tree.gold.filter((index) => node.kept.includes(index)).length;
    rows.push(["Gold", [passageButtons(tree.gold, "para gold"), node.depth ? `${found} of ${tree.gold.length} kept` : null]]);
  }
  rows.push(["Tokens", usageText(sumUsage(node.turns))]);
  return h("dl", { class: "pairs" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
function renderButtons(tree, node) {
  const two = rival(tree, node);
  const pick = h("button", {
    class: "small", type: "button", "aria-pressed": "false",
    onclick: () => {
      picking = !picking;
      pick.setAttribute("aria-pressed", picking);
      if (picking) root.querySelector(".canvas").scrollIntoView({ block: "nearest" });
    },
  }, "Compare with the node I choose next");
  return h("div", { class: "buttons" },
    two ? h("button", { class: "small", type: "button", "data-hold": "compare", onclick: () => go(tree.id, two[0], two[1]) }, two[2]) : null,
    tree.nodes.length > 1 ? pick : null);
}
function renderOpening(tree) {
  const options = tree.options.map((option, i) => `\n${String.fromCharCode(65 + i)}. ${option}`).join("");
  return h("details", { class: "earlier" }, h("summary", {}, "How the conversation opens"),
    h("p", { class: "request" }, tree.system),
    h("p", { class: "request" }, "The marked document follows, then:"),
    h("p", { class: "request" }, `Question: ${tree.question}${options}`));
}
function renderDetail(tree, node, numPieces) {
  const before = pathTo(node).slice(1, -1);
  return h("article", { class: `detail panel ${node.state}`, id: "node-detail", "data-node": node.id, "aria-label": describe(node) },
    h("div", { class: "detail-head" }, h("h3", {}, roundName(node)), badge(node),
      node.split ? h("span", { class: "badge plain" }, "judges disagree") : null),
    renderFacts(tree, node),
    node.failure ? h("p", { class: "failure" }, `Failed: ${node.failure}`) : null,
    node.verdicts.length ? renderVerdicts(node) : null,
    renderButtons(tree, node),
    renderOpening(tree),
    before.map((one) => h("details", { class: "earlier" },
      h("summary", {}, `Round ${one.depth}: ${clip((one.turns[0] || { reply: "" }).reply, 80)} `, badge(one)),
      one.turns.map((turn) => renderTurn(turn, numPieces)))),
    node.turns.map((turn) => renderTurn(turn, numPieces)));
}
