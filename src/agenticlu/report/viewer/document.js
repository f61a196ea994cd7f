// The document of a tree, with its passages marked.
const MOST_BARS = 160; // bars in the strip above the text; of a longer document, some passages share one
let textBox = null;
let onlyMarked = false;
// Heights of passages out of sight are guesses until they are drawn: aim again once they are.
function jumpTo(index, again = 2) {
  const box = textBox;
  const piece = box && box.querySelector(`[data-piece="${index}"]`);
  if (!piece) return null;
  box.scrollTop += piece.getBoundingClientRect().top - box.getBoundingClientRect().top - 8;
  if (again) requestAnimationFrame(() => box === textBox && jumpTo(index, again - 1));
  return piece;
}
function showPiece(index) {
  const hidden = textBox && textBox.querySelector(`[data-piece="${index}"]`);
  if (hidden && getComputedStyle(hidden).display === "none") root.querySelector(".source input").click();
  const piece = jumpTo(index);
  if (!piece) return;
  if (window.innerWidth <= NARROW) textBox.scrollIntoView({ block: "center" });
  piece.classList.remove("found");
  void piece.offsetWidth;
  piece.classList.add("found");
}
function highlighted(text, answers) {
  const wanted = answers.map((answer) => answer.trim()).filter(Boolean).sort((a, b) => b.length - a.length)
    .map((answer) => answer.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!wanted.length) return [text];
  return text.split(new RegExp(`(?<![\\p{L}\\p{N}])(${wanted.join("|")})(?![\\p{L}\\p{N}])`, "iu"))
    .map((part, i) => (i % 2 ? h("mark", { title: "a gold answer" }, part) : part));
}
function renderDocument(tree, node) {
  const source = block(`document-${tree.document}`);
  if (!source) {
    return h("article", { class: "source panel" }, h("h3", {}, "Document"),
      h("p", { class: "sub" }, `${tree.document}: its text is not in this page.`));
  }
  const slice = slicer(source.text);
  const pieces = source.pieces.length ? source.pieces : [[0, 0, Infinity, 0, null]];
  const kept = new Set(node.kept);
  const gold = new Set(tree.gold || []);
  const relevance = (index) => {
    const value = parseInt((node.relevance || "").slice(2 * index, 2 * index + 2), 36);
    return value <= 1000 ? value / 1000 : null;
  };
  const told = (index) => [
    `passage ${index}`, kept.has(index) ? "kept" : null, gold.has(index) ? "gold" : null,
    relevance(index) === null ? null : `relevance ${relevance(index).toFixed(2)}`,
  ].filter(Boolean).join(", ");
  const only = h("input", {
    type: "checkbox", onchange: () => {
      onlyMarked = only.checked;
      textBox.classList.toggle("only", onlyMarked);
    },
  });
  only.checked = onlyMarked;
  const height = (index) => relevance(index) ?? (kept.has(index) ? 1 : 0);
  const size = Math.ceil(pieces.length / MOST_BARS);
  const bars = [];
  for (let i = 0; i < pieces.length; i += size) {
    const indices = pieces.slice(i, i + size).map(([index]) => index);
    // Of several passages the one to look at stands for them: a kept one, a gold one, the likeliest.
    const rank = (index) => 4 * kept.has(index) + 2 * gold.has(index) + height(index);
    const index = indices.reduce((best, one) => (rank(one) > rank(best) ? one : best));
    bars.push([index, indices.some((one) => kept.has(one)), indices.some((one) => gold.has(one))]);
  }
  const strip = h("div", { class: "strip", role: "group", "aria-label": "Relevance of each passage" },
    bars.map(([index, isKept, isGold]) => {
      const bar = h("i", {});
      bar.style.height = `${Math.round(100 * height(index))}%`;
      return h("button", {
        type: "button", tabindex: isKept || isGold ? 0 : -1, title: told(index), "aria-label": told(index),
        class: [isKept ? "kept" : "", isGold ? "gold" : ""].join(" ").trim() || null,
        onclick: () => showPiece(index),
      }, bar);
    }));
  textBox = h("div", { class: onlyMarked ? "text only" : "text", tabindex: 0, role: "region", "aria-label": "Text of the document" },
    pieces.map(([index, from, to, , page]) => {
      const marked = kept.has(index) || gold.has(index);
      const text = slice(from, to).trim();
      const section = h("section", {
        class: `piece${kept.has(index) ? " kept" : ""}${gold.has(index) ? " gold" : ""}`,
        "data-piece": index, "aria-label": told(index),
      },
      h("div", { class: "no" }, index, page === null ? null : h("small", {}, `p. ${page}`),
        kept.has(index) ? h("small", {}, "kept") : null, gold.has(index) ? h("small", {}, "gold") : null),
      h("div", { class: "body" }, marked ? highlighted(text, tree.answers) : text));
      section.style.containIntrinsicSize = `auto ${10 + 26 * Math.ceil(text.length / 55)}px`;
      return section;
    }));
  return h("article", { class: "source panel", "aria-label": "Document" },
    h("h3", {}, source.title || source.source),
    h("p", { class: "sub" }, [source.title ? source.source : null, `${whole(pieces.length)} passages`,
      `${whole(source.text.length)} characters`].filter(Boolean).join(" · ")),
    strip,
    h("div", { class: "row" },
      h("span", {}, h("span", { class: "swatch kept" }), "kept ", h("span", { class: "swatch gold" }),
        tree.gold ? "gold" : "gold (unknown here)"),
      h("label", {}, only, "Only these")),
    textBox);
}
