// The address says what is open: #tree=ID&node=ID&against=ID.
const readAddress = () => {
  const found = new URLSearchParams(location.hash.slice(1));
  return { tree: found.get("tree"), node: found.get("node"), against: found.get("against") };
};
const address = (tree, node, against) => {
  let text = `#tree=${encodeURIComponent(tree)}`;
  if (node) text += `&node=${encodeURIComponent(node)}`;
  if (against) text += `&against=${encodeURIComponent(against)}`;
  return text;
};
const go = (tree, node, against) => { location.hash = address(tree, node, against); };
