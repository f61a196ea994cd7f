// What the page holds as JSON, unpacked when it is opened.
const parsed = new Map();
const block = (id) => {
  if (!parsed.has(id)) {
    const element = document.getElementById(id);
    parsed.set(id, element ? JSON.parse(element.textContent) : null);
  }
  return parsed.get(id);
};

// Unpacks what `compact_tree` packed.
const trees = new Map();
function treeOf(id) {
  if (!trees.has(id)) {
    const tree = block(`tree-${id}`);
    const byId = new Map((tree ? tree.nodes : []).map((node) => [node.id, node]));
    for (const node of tree ? tree.nodes : []) {
      node.parent ??= null;
      node.above = byId.get(node.parent) || null;
      node.score ??= null;
      node.turns = node.turns.map(([index, reply, computed, cached, sampled, finish]) => ({
        kind: tree.requests[index][0], request: tree.requests[index][2], reply, finish: finish || "stop",
        usage: computed === null ? null : [computed, cached, sampled],
      }));
    }
    trees.set(id, tree);
  }
  return trees.get(id);
}

// From the root to a node, both included.
const pathTo = (node) => (node.above ? [...pathTo(node.above), node] : [node]);
// The first nodes in which two paths differ; null where one path holds the other.
function parting(one, other) {
  const [left, right] = [pathTo(one), pathTo(other)];
  const at = left.findIndex((node, i) => node !== right[i]);
  return at < 0 || !right[at] ? null : [left[at], right[at]];
}

const data = block("report-data");
const entries = data.trees;
const entryOf = new Map(entries.map((entry) => [entry.id, entry]));
const pairsOf = new Map();
for (const [tree, chosen, rejected, kind] of data.pairs) {
  if (!pairsOf.has(tree)) pairsOf.set(tree, []);
  pairsOf.get(tree).push({ chosen, rejected, kind });
}
