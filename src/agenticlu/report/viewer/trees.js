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
    for (const node of tree ? tree.nodes : []) {
      node.parent ??= null;
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

const data = block("report-data");
const entries = data.trees;
const entryOf = new Map(entries.map((entry) => [entry.id, entry]));
const pairsOf = new Map();
for (const [tree, chosen, rejected, kind] of data.pairs) {
  if (!pairsOf.has(tree)) pairsOf.set(tree, []);
  pairsOf.get(tree).push({ chosen, rejected, kind });
}
