"""Builds rows for distillation, for pointing alone and of direct answers: what else trees teach."""

from __future__ import annotations

from typing import Any

from agenticlu.data.pairs import find_best_node, trace_row
from agenticlu.data.tree_view import TreeView, find_flaw, find_path_flaw
from agenticlu.dialogue.guiding import ANSWER_LABEL
from agenticlu.judges import is_correct


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


def build_direct(view: TreeView, *, drop_leaks: bool = True) -> dict[str, Any] | None:
    """Returns the direct question with a right answer, as a row; None when the tree has none.

    The answer is the root's own where it is right, else what the best path found and answered.
    A model that learns dialogues alone comes to answer a direct question as if it were asked to
    clarify, and the comparison with it flatters the dialogue.

    Args:
        view: The tree.
        drop_leaks: See `build_lessons`.
    """
    root = view.tree.nodes[0] if view.tree.nodes else None
    if root is None or not root.turns or root.turns[0].kind != "direct":
        return None
    turn = root.turns[0]
    states_fact = not turn.reply.startswith(ANSWER_LABEL)
    if not is_correct(root.verdicts) or find_flaw(root) is not None or not states_fact:
        best, _ = find_best_node(view, drop_leaks=drop_leaks)
        if best is None:
            return None
        said = {one.kind: one.reply.strip() for one in best.turns}
        reply = said["answer"]
        if reply.startswith(ANSWER_LABEL) and said.get("sub_answer"):
            reply = f"{said['sub_answer']} {reply}"  # an answer alone states no fact
        turn = turn.model_copy(update={"reply": reply, "token_ids": None})
        root = best
    messages = view.render((turn,))
    return trace_row(view, root, messages, targets=[len(messages) - 1])


def build_point_rows(view: TreeView, *, drop_leaks: bool = True) -> list[dict[str, Any]]:
    """Returns the rounds of the best path, each up to its mark list, which alone is a target.

    In a whole conversation the number of a paragraph is one target among fifty or a hundred, most
    of them copied from the document, so pointing is learned last. In a row of its own it is one of
    half a dozen. Such a row costs a trie next to nothing: it is the beginning of the conversation.

    Args:
        view: The tree.
        drop_leaks: See `build_lessons`.
    """
    best, _ = find_best_node(view, drop_leaks=drop_leaks)
    if best is None:
        return []
    rows = []
    for node in view.tree.path(best.id)[1:]:
        turns = view.history(node)
        last = max((i for i, turn in enumerate(turns) if turn.kind == "point"), default=None)
        if last is None:
            continue
        messages = view.render(turns[: last + 1])
        rows.append(trace_row(view, node, messages, targets=[len(messages) - 1]))
    return rows
