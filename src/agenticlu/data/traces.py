"""Conversations for supervised fine-tuning, made from trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from agenticlu.core.records import Message, Node
from agenticlu.data.tree_view import Flaw, Funnel, TreeView, Unfit, find_path_flaw
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.dialogue.steps import build_history
from agenticlu.judges.panel import is_correct

TraceFate = Literal[Flaw, Unfit, "written", "no right answer", "unscored"]
"""Fate of a tree."""


def build_trace(
    view: TreeView, funnel: Funnel | None = None, *, drop_leaks: bool = True
) -> dict[str, Any] | None:
    """Returns the conversation of a tree's best path as a row; None when it has none.

    The best path is the shortest that ends in a right answer; of several, the one whose
    clarifications hold no answer, then the best score, then the first sample. The last self-check
    stays only when it agrees with the judges.
    """
    funnel = funnel or Funnel()
    node, reason = _best_node(view, drop_leaks)
    funnel.traces[reason] += 1
    if node is None:
        return None
    turns = list(node.turns)
    if turns[-1].kind == "check" and (
        view.profile.layout == "published" or parse_verdict(turns[-1].reply, ("yes", "no")) != "yes"
    ):
        turns.pop()
    messages = view.render((*view.before(node), *turns))
    has_check = turns[-1].kind == "check"
    row = _row(view, node, messages, _targets(view, node, len(messages)))
    return {**row, "has_check": has_check}


def build_self_checks(
    view: TreeView, most: int, *, drop_leaks: bool = True
) -> list[dict[str, Any]]:
    """Returns conversations that end in a wrong answer and the self-check that says so, as rows.

    The self-check, which the model sampled and the judges confirm, is their only target: without
    them, nearly all self-checks in the traces say "yes", and a model that learns from traces alone
    stops doubting. A profile whose self-checks stand aside has none.

    Args:
        view: The tree.
        most: Rows at most; the earliest rounds come first.
        drop_leaks: Leave out paths with a clarification that holds the answer too early.
    """
    if view.profile.layout == "published":
        return []
    doubted = [node for node in view.tree.nodes if _is_doubted(view, node, drop_leaks)]
    rows = []
    for node in sorted(doubted, key=lambda node: node.depth)[:most]:
        messages = view.render(view.history(node))
        rows.append(_row(view, node, messages, targets=[len(messages) - 1]))
    return rows


def _is_doubted(view: TreeView, node: Node, drop_leaks: bool) -> bool:
    """Whether a sound round answered wrongly and its self-check says so."""
    return (
        node.parent is not None
        and is_correct(node.verdicts) is False
        and find_path_flaw(view.tree, node) is None
        and node.turns[-1].kind == "check"
        and parse_verdict(node.turns[-1].reply, ("yes", "no")) == "no"
        and not (drop_leaks and view.is_tainted(node))
    )


def _row(
    view: TreeView, node: Node, messages: Sequence[Message], targets: list[int]
) -> dict[str, Any]:
    return {
        "messages": [message.model_dump() for message in messages],
        "targets": targets,
        "score": node.score,
        "depth": node.depth,
        "node_id": node.id,
        **view.provenance(node),
    }


def _targets(view: TreeView, node: Node, num_messages: int) -> list[int]:
    """Returns the indices of the messages to learn: all replies but wrong ones on the way.

    An early round may have answered wrongly: that answer stays in the conversation as context and
    is not a target. Its self-check says "no" and is a target, unless the answer was right. A
    clarification that leaks the answer is not a target either.
    """
    targets: list[int] = []
    path = view.tree.path(node.id)
    # After the system message, the opening and the first request.
    index = 2 + 2 * len(build_history(path[:1], view.profile))
    for step in path[1:]:
        right, is_last = bool(is_correct(step.verdicts)), step.id == node.id
        for turn in step.turns:
            if turn.kind == "check" and view.profile.layout == "published":
                continue
            misleads = not is_last and turn.kind == ("check" if right else "answer")
            leaks = turn.kind == "clarify" and view.leaks(step)
            if index < num_messages and not misleads and not leaks:
                targets.append(index)
            index += 2
    return targets


def _best_node(view: TreeView, drop_leaks: bool) -> tuple[Node | None, TraceFate]:
    tree = view.tree
    if not tree.nodes or tree.nodes[0].status == "failed":
        return None, "failed"
    rounds = [node for node in tree.nodes if node.parent is not None]
    right = [node for node in rounds if is_correct(node.verdicts)]
    if not right:
        scored = any(node.score is not None for node in tree.nodes)
        return None, "no right answer" if scored else "unscored"
    flaws = [
        find_path_flaw(tree, node) or view.find_unfit(node, drop_leaks=drop_leaks) for node in right
    ]
    sound = [node for node, flaw in zip(right, flaws, strict=True) if flaw is None]
    if not sound:
        assert flaws[0] is not None
        return None, flaws[0]
    # Of equals, `min` takes the first: the nodes are in the order in which they were sampled.
    best = min(sound, key=lambda node: (node.depth, view.is_tainted(node), -(node.score or 0.0)))
    return best, "written"
