// The list of trees: search and filters.
const FILTERS = [];
const depths = [...new Set(entries.map((e) => e.solved_depth).filter((d) => d !== null))];
for (const depth of depths.sort((a, b) => a - b)) {
  FILTERS.push([`depth-${depth}`, `Solved at depth ${depth}`, (e) => e.solved_depth === depth]);
}
FILTERS.push(
  ["unsolved", "Unsolved", (e) => e.solved_depth === null && e.outcome !== "failed"],
  ["too-easy", "Too easy", (e) => e.outcome === "too-easy"],
  ["unscored", "Unscored", (e) => e.unscored > 0],
  ["failed", "Failed", (e) => e.failed > 0 || e.outcome === "failed"],
  ["disagree", "Judges disagree", (e) => e.disagreements > 0],
  ["pairs", "With pairs", (e) => e.pairs > 0],
);
const active = new Set();
let shown = LIST_STEP;
const haystack = new Map(entries.map((e) => [e.id, [
  e.question, ...e.answers, e.id, data.documents[e.document_id] || e.document_id,
].join("\n").toLowerCase()]));

const search = h("input", {
  type: "search", placeholder: "Search questions, answers, documents", "aria-label": "Search trees",
  oninput: () => { shown = LIST_STEP; renderList(); },
});
const chips = h("div", { class: "chips", role: "group", "aria-label": "Filter trees" });
for (const [id, name, test] of FILTERS) {
  const total = entries.filter(test).length;
  if (!total) continue;
  chips.append(h("button", {
    class: "chip", type: "button", "aria-pressed": "false", "data-filter": id,
    onclick: (event) => {
      if (active.has(id)) active.delete(id); else active.add(id);
      event.currentTarget.setAttribute("aria-pressed", active.has(id));
      shown = LIST_STEP;
      renderList();
    },
  }, name, h("span", {}, whole(total))));
}
const countLine = h("p", { class: "count", "aria-live": "polite" });
const list = h("ol", { class: "list", "aria-label": "Trees" });
const matching = () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = FILTERS.filter(([id]) => active.has(id)).map(([, , test]) => test);
  return entries.filter((e) => (!tests.length || tests.some((test) => test(e)))
    && words.every((word) => haystack.get(e.id).includes(word)));
};
const outcomeBadge = (entry) => {
  const [css, text] = OUTCOMES[entry.outcome] || ["plain", entry.outcome];
  const depth = entry.outcome === "solved" && entry.solved_depth !== null
    ? ` at depth ${entry.solved_depth}` : "";
  return h("span", { class: `badge ${css}` }, text + depth);
};
function renderList() {
  const found = matching();
  const open = readAddress().tree;
  countLine.textContent = found.length === entries.length
    ? `${whole(entries.length)} trees`
    : `${whole(found.length)} of ${whole(entries.length)} trees`;
  list.replaceChildren(...found.slice(0, shown).map((entry) => h("li", {},
    h(entry.embedded ? "a" : "div", {
      href: entry.embedded ? address(entry.id) : null,
      onclick: () => { arriving = true; },
      class: entry.embedded ? null : "gone",
      "aria-current": entry.id === open ? "true" : null,
    },
    clip(entry.question, 140),
    h("span", { class: "meta" }, outcomeBadge(entry),
      h("span", {}, `${whole(entry.nodes)} node${entry.nodes === 1 ? "" : "s"}`),
      h("span", {}, `${short(entry.computed_tokens)} tokens`),
      entry.hops ? h("span", {}, `${entry.hops} hop${entry.hops === 1 ? "" : "s"}`) : null,
      entry.failed ? h("span", { class: "badge wrong" }, `${entry.failed} failed`) : null,
      entry.disagreements ? h("span", {}, "judges disagree") : null,
      entry.embedded ? null : h("span", {}, "not in this page"))))));
  if (found.length > shown) {
    list.append(h("li", {}, h("button", {
      class: "more", type: "button", onclick: () => { shown += LIST_STEP; renderList(); },
    }, `Show ${Math.min(LIST_STEP, found.length - shown)} more`)));
  }
  if (!found.length) list.append(h("li", { class: "empty" }, "No tree matches."));
}
