// The list of trees: search, filters and order. A tree is listed when it meets, in every group that
// has filters on, one of them, and holds every word that is searched for.
const someDepths = [...new Set(entries.map((e) => e.solved_depth).filter((d) => d !== null))].sort((a, b) => a - b);
const someHops = [...new Set(entries.map((e) => e.hops).filter(Boolean))].sort((a, b) => a - b);
const isScored = (e) => e.right + e.wrong > 0;
const GROUPS = [
  ["Solved", [
    ...someDepths.map((depth) => [`depth-${depth}`, depth ? `depth ${depth}` : "directly", (e) => e.solved_depth === depth]),
    ["unsolved", "never", (e) => e.solved_depth === null && isScored(e)],
    ["unknown", "no score", (e) => !isScored(e)],
  ]],
  ["Nodes", [
    ["unscored", "unscored", (e) => e.unscored > 0],
    ["failed", "failed", (e) => e.failed > 0 || e.outcome === "failed"],
    ["disagree", "judges disagree", (e) => e.disagreements > 0],
  ]],
  ["Tree", [
    ["too-easy", "too easy", (e) => e.outcome === "too-easy"],
    ["budget", "budget reached", (e) => e.outcome === "budget"],
    ["pairs", "with pairs", (e) => e.pairs > 0],
    ["no-pairs", "without pairs", (e) => data.pairs.length > 0 && !e.pairs],
  ]],
  ["Hops", someHops.length > 1 ? someHops.map((hops) => [`hops-${hops}`, String(hops), (e) => e.hops === hops]) : []],
].map(([name, filters]) => ({
  name,
  filters: filters.map(([id, label, test]) => ({ id, label, test })).filter(({ test }) => entries.some(test)),
})).filter(({ filters }) => filters.length);
// What a filter on nodes looks for, by its id.
const NODE_TESTS = {
  unscored: (node) => node.state === "unscored",
  failed: (node) => node.state === "failed",
  disagree: (node) => node.split,
};
// Nodes that the filters in use look for; without any, all that need a look.
function wantedNodes(tree) {
  const on = Object.keys(NODE_TESTS).filter((id) => view.filter.has(id));
  const tests = (on.length ? on : Object.keys(NODE_TESTS)).map((id) => NODE_TESTS[id]);
  return tree.nodes.filter((node) => tests.some((test) => test(node)));
}
const SORTS = {
  "": ["run order", null],
  tokens: ["most tokens", (e) => e.computed_tokens],
  nodes: ["most nodes", (e) => e.nodes],
  disagreements: ["most disputed", (e) => e.disagreements],
};

let shown = LIST_STEP;
const haystack = new Map(entries.map((e) => [e.id, [
  e.question, ...e.answers, e.id, data.documents[e.document_id] || e.document_id,
].join("\n").toLowerCase()]));

const passes = (group, entry) => {
  const on = group.filters.filter(({ id }) => view.filter.has(id));
  return !on.length || on.some(({ test }) => test(entry));
};
function matching(without = null) {
  const words = view.q.toLowerCase().split(/\s+/).filter(Boolean);
  const found = entries.filter((e) => words.every((word) => haystack.get(e.id).includes(word))
    && GROUPS.every((group) => group === without || passes(group, e)));
  const [, by] = SORTS[view.sort] || SORTS[""];
  return by ? found.sort((a, b) => by(b) - by(a)) : found;
}
const nameOf = (group, filter) => `${group.name} ${filter.label}`;

function changeList() {
  shown = LIST_STEP;
  renderList();
  refreshSteps();
  clearTimeout(changeList.later);
  changeList.later = setTimeout(keepAddress, 150); // browsers limit how often an address may change
}
const search = h("input", {
  type: "search", placeholder: "Search trees", title: "Questions, answers, documents, ids", "aria-label": "Search trees",
  oninput: () => { view.q = search.value; changeList(); },
});
const chips = new Map();
for (const group of GROUPS) {
  for (const filter of group.filters) {
    chips.set(filter.id, h("button", {
      class: "chip", type: "button", "data-filter": filter.id,
      onclick: () => {
        if (!view.filter.delete(filter.id)) view.filter.add(filter.id);
        changeList();
      },
    }, filter.label, h("span", {})));
  }
}
const filtersLine = h("summary", {});
const filters = h("details", { class: "filters", open: window.innerWidth > NARROW }, filtersLine, GROUPS.map((group) => h("div", {
  class: "chips", role: "group", "aria-label": `Filter: ${group.name}`,
}, h("b", {}, group.name), h("div", {}, group.filters.map(({ id }) => chips.get(id))))));
const sorter = h("select", {
  "aria-label": "Order of the trees", onchange: () => { view.sort = sorter.value; changeList(); },
}, Object.entries(SORTS).map(([id, [label]]) => h("option", { value: id }, label)));
const countLine = h("span", { class: "count", role: "status" });
const clear = h("button", {
  class: "plain", type: "button", onclick: () => { view.q = ""; view.filter.clear(); changeList(); search.focus(); },
}, "Clear");
const list = h("ol", { class: "list", "aria-label": "Trees" });

// The number on a chip: trees listed if it were the only one of its group that is on.
function renderChips() {
  for (const group of GROUPS) {
    const left = matching(group);
    for (const filter of group.filters) {
      const chip = chips.get(filter.id);
      const number = left.filter(filter.test).length;
      chip.setAttribute("aria-pressed", view.filter.has(filter.id));
      chip.setAttribute("aria-label", `${nameOf(group, filter)}, ${number} tree${number === 1 ? "" : "s"}`);
      chip.classList.toggle("none", !number);
      chip.lastChild.textContent = whole(number);
    }
  }
}
function outcomeBadge(entry) {
  const unknown = !isScored(entry) && entry.outcome === "unsolved";
  const [css, text] = unknown ? ["unscored", "no score yet"] : OUTCOMES[entry.outcome] || ["plain", entry.outcome];
  const depth = entry.outcome === "solved" && entry.solved_depth !== null
    ? ` ${entry.solved_depth ? `at depth ${entry.solved_depth}` : "directly"}` : "";
  return h("span", { class: `badge ${css}` }, text + depth);
}
function renderEntry(entry) {
  const told = (number, what) => (number ? h("span", {}, `${whole(number)} ${what}`) : null);
  return h("li", {}, h(entry.embedded ? "a" : "div", {
    href: entry.embedded ? addressOf(entry.id) : null,
    onclick: () => { arriving = true; },
    class: entry.embedded ? null : "gone", "data-tree": entry.id,
    "aria-current": entry.id === view.tree ? "true" : null,
  },
  clip(entry.question, 140),
  h("span", { class: "meta" }, outcomeBadge(entry),
    h("span", {}, entry.right ? `${whole(entry.right)} of ${whole(entry.nodes)} nodes right` : `${whole(entry.nodes)} node${entry.nodes === 1 ? "" : "s"}`),
    h("span", {}, `${short(entry.computed_tokens)} tokens`),
    entry.hops ? told(entry.hops, entry.hops === 1 ? "hop" : "hops") : null,
    entry.failed ? h("span", { class: "badge wrong" }, `${whole(entry.failed)} failed`) : null,
    told(entry.unscored, "unscored"),
    entry.disagreements ? h("span", {}, `judges disagree${entry.disagreements > 1 ? ` on ${whole(entry.disagreements)}` : ""}`) : null,
    entry.embedded ? null : h("span", {}, "not in this page"))));
}
function renderList() {
  for (const id of view.filter) if (!chips.has(id)) view.filter.delete(id);
  const found = matching();
  const narrowed = view.q.trim() || view.filter.size;
  countLine.textContent = narrowed
    ? `${whole(found.length)} of ${whole(entries.length)} trees` : `${whole(entries.length)} tree${entries.length === 1 ? "" : "s"}`;
  clear.hidden = !narrowed;
  filtersLine.textContent = view.filter.size ? `Filters: ${view.filter.size} on` : "Filters";
  if (search.value.trim() !== view.q.trim()) search.value = view.q;
  sorter.value = SORTS[view.sort] ? view.sort : "";
  renderChips();
  shown = Math.max(shown, found.findIndex((entry) => entry.id === view.tree) + 1);
  list.replaceChildren(...found.slice(0, shown).map(renderEntry));
  if (found.length > shown) {
    list.append(h("li", {}, h("button", {
      class: "more", type: "button", onclick: () => { shown += LIST_STEP; renderList(); },
    }, `Show ${Math.min(LIST_STEP, found.length - shown)} more`)));
  }
  if (!found.length) list.append(h("li", { class: "empty" }, "No tree matches. Filters of one group widen, of several groups narrow."));
}
// Marks the open tree in the list and brings it into sight.
function markCurrent() {
  if (matching().findIndex((entry) => entry.id === view.tree) >= shown) renderList();
  for (const link of list.querySelectorAll("[data-tree]")) {
    const isOpen = link.dataset.tree === view.tree;
    if (isOpen) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    if (isOpen) list.scrollTop = Math.max(0, link.offsetTop - list.offsetTop - list.clientHeight / 2);
  }
}
// The embedded tree so many places further down the list; from outside the list, its first or last.
function neighbour(id, step) {
  const found = matching().filter((entry) => entry.embedded);
  const at = found.findIndex((entry) => entry.id === id);
  return (at < 0 ? found.at(step > 0 ? 0 : -1) : found[at + step]) || null;
}
