// The document of a tree, with its passages marked.
let textBox = null;
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
  if (hidden && getComputedStyle(hidden).display === "none") textBox.classList.remove("only");
  const piece = jumpTo(index);
  if (!piece) return;
  if (window.innerWidth <= 860) textBox.scrollIntoView({ block: "center" });
  piece.classList.remove("found");
  void piece.offsetWidth;
  piece.classList.add("found");
}
function highlighted(text, answers) {
  const wanted = answers.filter((answer) => answer.trim().length > 1)
    .map((answer) => answer.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!wanted.length) return [text];
  return text.split(new RegExp(`(${wanted.join("|")})`, "i"))
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
    type: "checkbox", onchange: (event) => textBox.classList.toggle("only", event.target.checked),
  });
  const strip = h("div", { class: "strip", role: "group", "aria-label": "Relevance of each passage" },
    pieces.map(([index]) => {
      const share = relevance(index) ?? (kept.has(index) ? 1 : 0);
      const bar = h("i", {});
      bar.style.height = `${Math.round(100 * share)}%`;
      return h("button", {
        type: "button", tabindex: kept.has(index) || gold.has(index) ? 0 : -1, title: told(index), "aria-label": told(index),
        class: [kept.has(index) ? "kept" : "", gold.has(index) ? "gold" : ""].join(" ").trim() || null,
        onclick: () => showPiece(index),
      }, bar);
    }));
  textBox = h("div", { class: "text", tabindex: 0, role: "region", "aria-label": "Text of the document" },
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
