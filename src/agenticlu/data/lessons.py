"""Builds rows for distillation: replies over whole documents, and the evidence to grade them by."""

from __future__ import annotations

from typing import Any

from agenticlu.data.pairs import find_best_node, trace_row
from agenticlu.data.tree_view import TreeView, find_path_flaw


def build_lessons(view: TreeView, most: int, *, drop_leaks: bool = True) -> list[dict[str, Any]]:
    """Returns conversations over the whole document, each with its evidence, as rows.

    The evidence is what the tree's best path kept: paragraphs that led to a right answer. The
    conversations are those of that tree, right and wrong ones, since a teacher that reads the
    evidence alone grades every token of them. Every reply is a target.

    Args:
        view: The tree.
        most: Maximum rows; the best path comes first, then the others in the order of sampling.
        drop_leaks: Leave out paths with a clarification that holds the answer too early.
    """
    best, _ = find_best_node(view, drop_leaks=drop_leaks)
    if best is None:
        return []
    evidence = {index for step in view.tree.path(best.id) for index in step.kept}
    others = [
        node
        for node in view.tree.nodes
        if node.parent is not None
        and node.id != best.id
        and find_path_flaw(view.tree, node) is None
        and not (drop_leaks and view.is_tainted(node))
    ]
    rows = []
    for node in [best, *others][:most]:
        turns = view.history(node)
        messages = view.render(turns)
        targets = [i for i, message in enumerate(messages) if message.role == "assistant"]
        opening = next(m for m in view.render(turns, only=evidence) if m.role == "user")
        rows.append({**trace_row(view, node, messages, targets), "evidence": opening.content})
    return rows
