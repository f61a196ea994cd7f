// The tree viewer. The address says what is open: #tree=ID&node=ID&against=ID.
"use strict";
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const SVG = "http://www.w3.org/2000/svg";
  const LIST_STEP = 200;
  const KINDS = {
    direct: "Direct answer", clarify: "Clarification", point: "Points back", sub_answer: "Sub-answer",
    answer: "Answer", check: "Self-check",
  };
  const STATES = { right: "right", wrong: "wrong", unscored: "unscored", failed: "failed" };
  const OUTCOMES = {
    solved: ["right", "solved"], unsolved: ["wrong", "unsolved"], "too-easy": ["plain", "too easy"],
    failed: ["failed", "failed"], budget: ["plain", "budget reached"],
  };
  const GLYPHS = {
    right: "M-.48 .02L-.12 .38L.5 -.36", wrong: "M-.36 -.36L.36 .36M.36 -.36L-.36 .36",
    unscored: "M-.3 -.22C-.3 -.6 .32 -.6 .32 -.2C.32 .06 0 .02 0 .28M0 .52V.54",
    failed: "M0 -.5V.12M0 .46V.48",
  };

  // ---- small tools ------------------------------------------------------------------------
  const fill = (element, props, children) => {
    for (const [name, value] of Object.entries(props || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(3)) {
      if (child !== null && child !== undefined && child !== false) element.append(child);
    }
    return element;
  };
  const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
  const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);
  const whole = (n) => n.toLocaleString("en-US");
  const short = (n) => {
    for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
      if (n >= size) return `${(n / size).toFixed(n < 100 * size ? 1 : 0).replace(/\.0$/, "")}${letter}`;
    }
    return String(n);
  };
  const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text);
  const parsed = new Map();
  const block = (id) => {
    if (!parsed.has(id)) {
      const element = document.getElementById(id);
      parsed.set(id, element ? JSON.parse(element.textContent) : null);
    }
    return parsed.get(id);
  };
  // Offsets count characters; JavaScript counts UTF-16 units. They differ only past U+FFFF.
  const slicer = (text) => {
    if (!/[\ud800-\udfff]/.test(text)) return (from, to) => text.slice(from, to);
    const letters = Array.from(text);
    return (from, to) => letters.slice(from, to).join("");
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

  // ---- address ----------------------------------------------------------------------------
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

  // ---- the list ---------------------------------------------------------------------------
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

  // ---- drawing ----------------------------------------------------------------------------
  // Nodes stand in rows by depth. Where the leaves would not fit side by side they are stacked
  // under their parent, so that 512 of them take 64 columns.
  function place(tree, room) {
    const children = new Map(tree.nodes.map((node) => [node.id, []]));
    for (const node of tree.nodes) {
      if (node.parent !== null && children.has(node.parent)) children.get(node.parent).push(node);
    }
    for (const kids of children.values()) kids.sort((a, b) => a.ordinal - b.ordinal);
    const leavesOnly = (node) => {
      const kids = children.get(node.id);
      return kids.length > 1 && kids.every((kid) => !children.get(kid.id).length);
    };
    const measure = (node, stacked) => {
      const kids = children.get(node.id);
      if (!kids.length || (stacked && leavesOnly(node))) return 1;
      return kids.reduce((sum, kid) => sum + measure(kid, stacked), 0);
    };
    const first = tree.nodes[0];
    const margin = 66;
    const inner = Math.max(120, room - margin - 14);
    const stacked = measure(first, false) * 26 > inner;
    const columns = measure(first, stacked);
    const unit = Math.max(stacked ? 11 : 26, Math.min(64, inner / columns));
    const radius = Math.max(4.5, Math.min(11, unit * 0.4));
    const spots = new Map();
    const deepest = Math.max(...tree.nodes.map((node) => node.depth));
    const rise = Math.max(radius * 2 + 30, 52);
    let bottom = 0;
    const walk = (node, left) => {
      const width = measure(node, stacked);
      const kids = children.get(node.id);
      const y = 18 + node.depth * rise;
      let x = left + (width * unit) / 2;
      if (kids.length && !(stacked && leavesOnly(node))) {
        let at = left;
        for (const kid of kids) at += walk(kid, at);
        x = (spots.get(kids[0].id).x + spots.get(kids[kids.length - 1].id).x) / 2;
      } else {
        kids.forEach((kid, i) => {
          const down = y + rise + i * (radius * 2 + 4);
          spots.set(kid.id, { x, y: down, stacked: i > 0 });
          bottom = Math.max(bottom, down);
        });
      }
      spots.set(node.id, { x, y, stacked: false });
      bottom = Math.max(bottom, y);
      return width * unit;
    };
    walk(first, margin);
    return {
      children, spots, radius, rise, deepest, width: margin + columns * unit + 14, height: bottom + 24,
    };
  }

  function shape(state, radius, partial) {
    const body = state === "failed"
      ? s("rect", {
        class: "shape", x: -radius * 0.9, y: -radius * 0.9, width: radius * 1.8, height: radius * 1.8, rx: 1.5,
      })
      : s("circle", { class: "shape", r: radius });
    return [body, s("path", {
      class: "glyph", d: GLYPHS[state], transform: `scale(${radius})`, "vector-effect": "non-scaling-stroke",
      "stroke-dasharray": partial ? "2 2" : null,
    })];
  }
  const roundName = (node) => (node.depth === 0 ? "Direct answer" : `Round ${node.depth}, sample ${node.ordinal + 1}`);
  const describe = (node) => {
    const score = node.score === null ? "" : `, score ${node.score.toFixed(2)}`;
    const kept = node.kept.length ? `, ${node.kept.length} passages kept` : "";
    return `${roundName(node)}: ${STATES[node.state]}${score}${kept}${node.split ? ", judges disagree" : ""}`;
  };

  function draw(tree, node, against, room) {
    const plan = place(tree, room);
    const byId = new Map(tree.nodes.map((one) => [one.id, one]));
    const path = new Set();
    for (let one = node; one; one = byId.get(one.parent)) path.add(one.id);
    const paired = new Set((pairsOf.get(tree.id) || []).flatMap((pair) => [pair.chosen, pair.rejected]));
    const svg = s("svg", {
      class: "tree", width: Math.round(plan.width), height: Math.round(plan.height), role: "tree",
      viewBox: `0 0 ${Math.round(plan.width)} ${Math.round(plan.height)}`,
      "aria-label": `Tree of ${tree.nodes.length} nodes. Arrow keys move between them.`,
    });
    for (let depth = 0; depth <= plan.deepest; depth += 1) {
      const y = 18 + depth * plan.rise;
      svg.append(s("text", { class: "depth", x: 0, y: y + 4 }, depth === 0 ? "direct" : `round ${depth}`));
    }
    const edges = s("g", { "aria-hidden": "true" });
    const over = [];
    for (const one of tree.nodes) {
      const from = plan.spots.get(one.parent);
      const to = plan.spots.get(one.id);
      if (!from || !to) continue;
      const middle = (from.y + to.y) / 2;
      const line = to.stacked || from.x === to.x
        ? `M${from.x} ${from.y}V${to.y}`
        : `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`;
      const on = path.has(one.id);
      const edge = s("path", { class: on ? "edge on" : "edge", d: line });
      if (on) over.push(edge); else edges.append(edge);
    }
    edges.append(...over);
    svg.append(edges);
    for (const one of tree.nodes) {
      const spot = plan.spots.get(one.id);
      if (!spot) continue;
      svg.append(s("g", {
        class: `node ${one.state}${against && one.id === against.id ? " against" : ""}`,
        transform: `translate(${spot.x} ${spot.y})`, role: "treeitem", "data-node": one.id,
        "aria-label": describe(one), "aria-level": one.depth + 1,
        "aria-selected": one.id === node.id ? "true" : "false", tabindex: one.id === node.id ? 0 : -1,
      },
      s("title", {}, describe(one)),
      s("circle", { class: "ring", r: plan.radius + 3, "pointer-events": "all" }),
      shape(one.state, plan.radius),
      paired.has(one.id)
        ? s("circle", { class: "pairdot", cx: plan.radius * 0.8, cy: -plan.radius * 0.8, r: plan.radius * 0.38 })
        : null));
    }
    svg.addEventListener("click", (event) => {
      const hit = event.target.closest("[data-node]");
      if (!hit) return;
      refocus = true;
      if (event.shiftKey && hit.dataset.node !== node.id) go(tree.id, node.id, hit.dataset.node);
      else go(tree.id, hit.dataset.node);
    });
    svg.addEventListener("keydown", (event) => {
      const at = byId.get(event.target.dataset.node);
      if (!at) return;
      const siblings = at.parent === null ? [at] : plan.children.get(at.parent);
      const row = tree.nodes.filter((one) => one.depth === at.depth)
        .sort((a, b) => plan.spots.get(a.id).x - plan.spots.get(b.id).x || a.ordinal - b.ordinal);
      const kids = plan.children.get(at.id);
      const next = {
        ArrowUp: byId.get(at.parent), ArrowDown: kids[Math.floor((kids.length - 1) / 2)],
        ArrowLeft: row[row.indexOf(at) - 1], ArrowRight: row[row.indexOf(at) + 1],
        Home: siblings[0], End: siblings[siblings.length - 1],
      }[event.key];
      if (next) {
        event.preventDefault();
        refocus = true;
        go(tree.id, next.id);
      }
    });
    return svg;
  }

  // ---- one node ---------------------------------------------------------------------------
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

  // ---- the document -----------------------------------------------------------------------
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

  // ---- comparing two nodes ----------------------------------------------------------------
  function difference(left, right) {
    const a = left.match(/\s+|[^\s]+/g) || [];
    const b = right.match(/\s+|[^\s]+/g) || [];
    if (a.length * b.length > 4e6) return [[left], [right]];
    const width = b.length + 1;
    const best = new Uint32Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) {
        best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
      }
    }
    const sides = [[], []];
    const add = (side, text, tag) => {
      const last = sides[side][sides[side].length - 1];
      if (last && last[1] === tag) last[0] += text; else sides[side].push([text, tag]);
    };
    let i = 0;
    let j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) {
        add(0, a[i], null); add(1, b[j], null); i += 1; j += 1;
      } else if (j >= b.length || (i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) {
        add(0, a[i], "ins"); i += 1;
      } else { add(1, b[j], "del"); j += 1; }
    }
    return sides.map((parts) => parts.map(([text, tag]) => (tag ? h(tag, {}, text) : text)));
  }
  function renderComparison(tree, chosen, rejected) {
    const pair = (pairsOf.get(tree.id) || []).find((one) => one.chosen === chosen.id && one.rejected === rejected.id);
    const kinds = [...new Set([...chosen.turns, ...rejected.turns].map((turn) => turn.kind))];
    const reply = (node, kind) => node.turns.filter((turn) => turn.kind === kind).map((turn) => turn.reply).join("\n");
    const head = (name, node) => h("div", {}, h("h4", {}, `${name}: ${roundName(node)} `, badge(node)),
      h("p", { class: "request" }, `Passages ${node.kept.length ? node.kept.join(", ") : "none"} · answer: ${node.answer || "none"}`));
    return h("article", { class: "compare panel", id: "comparison", "aria-label": "Comparison" },
      h("div", { class: "compare-head" },
        h("h3", {}, pair ? `Chosen and rejected (${pair.kind} pair)` : "Two samples side by side"),
        h("button", { class: "small", type: "button", onclick: () => go(tree.id, chosen.id) }, "Close")),
      h("div", { class: "sides" }, head(pair ? "Chosen" : "Better", chosen), head(pair ? "Rejected" : "Other", rejected),
        kinds.map((kind) => {
          const [left, right] = [reply(chosen, kind), reply(rejected, kind)];
          const name = h("div", { class: "kind" }, KINDS[kind] || kind);
          if (left === right) return [name, h("div", { class: "same" }, `${left} (the same in both)`)];
          const [one, two] = difference(left, right);
          return [name, h("div", { class: "side" }, one.length ? one : "(no such turn)"),
            h("div", { class: "side" }, two.length ? two : "(no such turn)")];
        })));
  }

  // ---- putting it together ----------------------------------------------------------------
  const stage = h("div", { class: "stage", "aria-live": "off" });
  root.append(
    h("aside", { class: "picker panel", "aria-label": "Choose a tree" },
      h("div", { class: "picker-head" }, search, chips, countLine), list),
    stage,
  );
  let refocus = false;
  let arriving = false;
  let last = null;

  function neighbour(id, step) {
    const found = matching().filter((entry) => entry.embedded);
    const at = found.findIndex((entry) => entry.id === id);
    return found[at + step] || null;
  }
  function pickNode(tree, wanted) {
    return tree.nodes.find((one) => one.id === wanted)
      || tree.nodes.find((one) => one.state === "right" && one.depth > 0)
      || tree.nodes[0];
  }
  function open() {
    const began = performance.now();
    const asked = readAddress();
    const found = asked.tree === null ? null : entryOf.get(asked.tree);
    const entry = found || (asked.tree === null ? entries.find((one) => one.embedded) : null);
    const tree = entry ? treeOf(entry.id) : null;
    if (!tree) {
      stage.replaceChildren(h("p", { class: "empty panel" }, entry
        ? "This tree is not in the page; the run's files hold it."
        : "There is no such tree in this report."));
      return;
    }
    if (!tree.nodes.length) {
      stage.replaceChildren(h("p", { class: "empty panel" }, `${tree.question} No answer is finished yet.`));
      return;
    }
    const node = pickNode(tree, asked.node);
    const against = tree.nodes.find((one) => one.id === asked.against) || null;
    const source = block(`document-${tree.document}`);
    const numPieces = source ? source.pieces.length : 0;
    const scroll = last && last.tree === tree.id ? stage.querySelector(".canvas") : null;
    const before = scroll ? [scroll.scrollLeft, scroll.scrollTop] : null;
    const canvas = h("div", { class: "canvas" });
    const [previous, next] = [neighbour(tree.id, -1), neighbour(tree.id, 1)];
    const shift = (to, name, text) => h("button", {
      type: "button", disabled: !to, "aria-label": name, title: name, onclick: () => to && go(to.id),
    }, text);
    stage.replaceChildren(
      h("section", { class: "asked panel", "aria-label": "Question and tree" },
        h("div", { class: "asked-row" }, h("h3", {}, tree.question),
          h("div", { class: "step" }, shift(previous, "Previous tree (k)", "↑"), shift(next, "Next tree (j)", "↓"))),
        h("dl", { class: "pairs" },
          h("dt", {}, "Gold answer"), h("dd", {}, tree.answers.join(" / ") || "unknown"),
          h("dt", {}, "Outcome"), h("dd", {}, outcomeBadge(entry)),
          h("dt", {}, "Whole tree"), h("dd", {}, `${whole(tree.nodes.length)} nodes; tokens: ${usageText(tree.usage)}`)),
        h("div", { class: "drawing" }, canvas,
          h("ul", { class: "cues" }, Object.keys(STATES).map((state) => h("li", {},
            s("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, s("g", { class: `node ${state}` }, shape(state, 6.2))), STATES[state])),
          pairsOf.has(tree.id) ? h("li", {}, s("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, s("g", { class: "node" }, s("circle", { class: "pairdot", r: 3.5 }))), "in a pair") : null,
          h("li", { class: "keys" }, h("kbd", {}, "←↑↓→"), " nodes ", h("kbd", {}, "j"), " ", h("kbd", {}, "k"), " trees ", h("kbd", {}, "/"), " search ", h("kbd", {}, "Shift"), " click compares")))),
      against ? renderComparison(tree, node, against) : "",
      h("div", { class: "reading" }, renderDetail(tree, node, numPieces), renderDocument(tree, node)),
    );
    canvas.append(draw(tree, node, against, canvas.clientWidth || stage.clientWidth - 40 || 700));
    const mark = canvas.querySelector("[aria-selected=true]");
    if (before) [canvas.scrollLeft, canvas.scrollTop] = before;
    if (mark && !before) {
      const box = mark.getBoundingClientRect();
      const frame = canvas.getBoundingClientRect();
      if (box.right > frame.right || box.left < frame.left) canvas.scrollLeft += box.left - frame.left - frame.width / 2;
      if (box.bottom > frame.bottom) canvas.scrollTop += box.top - frame.top - frame.height / 2;
    }
    if (refocus && mark) mark.focus({ preventScroll: true });
    refocus = false;
    const piece = node.kept.length ? node.kept[0] : (tree.gold || [])[0];
    if (piece !== undefined) jumpTo(piece);
    for (const link of list.querySelectorAll("a")) {
      if (link.getAttribute("href") === address(tree.id)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const current = list.querySelector("[aria-current=true]");
    if (current) list.scrollTop = Math.max(0, current.offsetTop - list.offsetTop - list.clientHeight / 2);
    last = { tree: tree.id, node: node.id };
    if (arriving && window.innerWidth <= 860) stage.scrollIntoView();
    arriving = false;
    // For benchmarks: this opening alone, and since the page began to load; both laid out.
    const now = performance.now();
    root.dataset.openMs = (now - began).toFixed(1);
    root.dataset.readyMs = now.toFixed(1);
    requestAnimationFrame(() => requestAnimationFrame(() => {
      root.dataset.paintMs = (performance.now() - began).toFixed(1);
    }));
  }

  window.addEventListener("hashchange", () => {
    if (readAddress().tree !== null || location.hash === "") open();
  });
  let resizing = 0;
  let lastWidth = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === lastWidth) return;
    lastWidth = window.innerWidth;
    clearTimeout(resizing);
    resizing = setTimeout(open, 150);
  });
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest && event.target.closest("input, textarea, select")) {
      if (event.key === "Escape") { search.value = ""; renderList(); search.blur(); }
      return;
    }
    const to = event.key === "j" ? 1 : event.key === "k" ? -1 : 0;
    if (to && last) {
      const next = neighbour(last.tree, to);
      if (next) go(next.id);
    } else if (event.key === "/") {
      event.preventDefault();
      search.focus();
    }
  });
  root.hidden = false;
  renderList();
  open();
  if (readAddress().tree !== null) document.getElementById("trees").scrollIntoView();
})();
