// The address says what is shown, so that a view can be sent: what is open
// (#tree=ID&node=ID&against=ID) and which trees are listed (&q=WORDS&filter=A,B&sort=BY).
const view = { tree: null, node: null, against: null, q: "", filter: new Set(), sort: "" };

// Takes the view from the address; false where that names a section of the page instead.
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const known = ["tree", "q", "filter", "sort"].some((key) => found.has(key));
  if (!known && location.hash.length > 1) return false;
  view.tree = found.get("tree");
  view.node = found.get("node");
  view.against = found.get("against");
  view.q = found.get("q") || "";
  view.filter = new Set((found.get("filter") || "").split(",").filter(Boolean));
  view.sort = found.get("sort") || "";
  return true;
}
function addressOf(tree, node, against) {
  const parts = {
    tree, node, against, q: view.q.trim(), filter: [...view.filter].sort().join(","), sort: view.sort,
  };
  return `#${Object.entries(parts).filter(([, value]) => value)
    .map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&")}`;
}
const listAddress = () => addressOf(null); // the part that says what is listed
// Opening something is a step that the browser's Back undoes; changing the list is not.
function go(tree, node = null, against = null) {
  Object.assign(view, { tree, node, against });
  if (addressOf(tree, node, against) !== location.hash) history.pushState(null, "", addressOf(tree, node, against));
  open();
}
const keepAddress = () => history.replaceState(null, "", addressOf(view.tree, view.node, view.against));
