"""Builds training rows from trees: traces for SFT, preference pairs for DPO.

A row is rendered by the dialogue itself over the *whole* marked document, so what training reads
is, message for message, what inference sends; the search only showed the model a shorter view.

| pairs | chosen and rejected |
|---|---|
| step | siblings: the same history, one decision apart |
| path | the best and the worst node of the tree, compared where their paths part |

Every node that gives no pair, every turn that gives no row is counted under a reason.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from agenticlu.core.records import Message, Node, Pair, Tree, Turn, TurnKind, content_id
from agenticlu.core.settings import Settings, Spelling
from agenticlu.data.tree_view import Flaw, Funnel, TreeView, Unfit, find_flaw, find_path_flaw
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.dialogue.steps import build_history
from agenticlu.judges import is_correct

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
    node, reason = find_best_node(view, drop_leaks=drop_leaks)
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
    row = trace_row(view, node, messages, _targets(view, node, len(messages)))
    return {**row, "has_check": has_check}


def cut_to_targets(trace: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a trace of which every reply may be learned, for trainers that know no `targets`.

    It ends before the first reply that is not a target, such as a wrong answer on the way to a
    right one; `cut` says whether anything was lost. None when no reply comes before that.
    """
    messages, targets = trace["messages"], set(trace["targets"])
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    whole = list(itertools.takewhile(targets.__contains__, replies))
    if not whole:
        return None
    is_cut = len(whole) < len(replies)
    return {
        **{name: value for name, value in trace.items() if name != "targets"},
        "messages": messages[: whole[-1] + 1],
        "has_check": trace["has_check"] and not is_cut,
        "cut": is_cut,
    }


def build_self_checks(
    view: TreeView, most: int, *, drop_leaks: bool = True
) -> list[dict[str, Any]]:
    """Returns conversations that end in a wrong answer and the self-check that says so, as rows.

    The self-check, which the model sampled and the judges confirm, is their only target: without
    them, nearly all self-checks in the traces say "yes", and a model that learns from traces alone
    stops doubting. A profile that keeps self-checks out of later turns has none.

    Args:
        view: The tree.
        most: Maximum rows; the earliest rounds come first.
        drop_leaks: Leave out paths with a clarification that holds the answer too early.
    """
    if view.profile.layout == "published":
        return []
    doubted = [node for node in view.tree.nodes if _is_doubted(view, node, drop_leaks)]
    rows = []
    for node in sorted(doubted, key=lambda node: node.depth)[:most]:
        messages = view.render(view.history(node))
        rows.append(trace_row(view, node, messages, targets=[len(messages) - 1]))
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


def trace_row(
    view: TreeView, node: Node, messages: Sequence[Message], targets: list[int]
) -> dict[str, Any]:
    """Returns a conversation as a row.

    Args:
        view: The tree.
        node: The end of the path.
        messages: The conversation.
        targets: Indices of the messages to learn.
    """
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


def find_best_node(view: TreeView, *, drop_leaks: bool) -> tuple[Node | None, TraceFate]:
    """Returns the end of a tree's best path, see `build_trace`; None with the reason why not."""
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


TURNS: tuple[TurnKind, ...] = ("clarify", "point", "sub_answer", "answer")
Unpaired = Literal["no partner", "tie", "below margin", "no near miss"]
"""Why a right answer found no wrong one."""
NodeFate = Literal[
    Flaw,
    Unfit,
    Unpaired,
    "chosen",
    "rejected",
    "all right",
    "all wrong",
    "enough pairs",
    "unpaired",
    "not an extreme",
    "unscored",
]
"""Fate of a node; `data.build` explains each one."""
RowFate = Literal[
    "written",
    "no such turn",
    "equal",
    "empty",
    "length ratio",
    "answers not told apart",
    "check against the judges",
]
"""Fate of a turn of a pair."""


class PairPolicy(Settings):
    """Settings that decide which pairs and rows are made."""

    pairs: Literal["step", "path"] = "step"
    """step: siblings; path: the best against the worst of a tree."""
    rejected: Literal["mean-2sd", "min", "near-miss"] = "mean-2sd"
    """Which wrong answer. mean-2sd: that whose score is nearest to two standard deviations below
    the mean; min: the lowest score; near-miss: one on a path that kept the right pieces."""
    margin: float = Field(default=0.25, ge=0, le=1)
    """Least difference of scores."""
    pairs_per_node: int = Field(default=2, ge=1)
    """Maximum pairs from one expansion; every node is used once."""
    turns: tuple[TurnKind, ...] = TURNS
    """Turns of a pair that become rows."""
    max_log_ratio: float = Field(default=1.5, ge=0)
    """Largest |log(length chosen / length rejected)| of a row, in characters."""
    drop_leaks: Annotated[bool, Spelling(flags=("--drop-leaks/--keep-leaks",))] = True
    """Learn from no path with a clarification that holds the answer before any piece gave it."""
    drop_closed_book: float | None = Field(default=None, ge=0, le=1)
    """Drop trees whose question was answered right without the document at least this often."""
    needed: Annotated[bool, Spelling(flags=("--needed/--all-kept",))] = True
    """Point only at pieces that rounds were found to need, where known; else at all kept."""
    mark_pairs: int = Field(default=2, ge=0)
    """Pairs of a round at most that teach pointing alone (agenticlu generate pointing)."""
    self_checks: int = Field(default=1, ge=0)
    """Rows of a question at most that teach the self-check alone: to doubt a wrong answer."""
    direct: bool = False
    """Also write solved questions as direct ones, with their right answers."""
    pointing: bool = False
    """Also write the best path's rounds up to their mark lists, which alone are targets."""
    lessons: int = Field(default=2, ge=0)
    """Rows of a question at most for distillation: replies, and the evidence to grade them by."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the documents kept for validation."""


def build_pairs(view: TreeView, policy: PairPolicy, funnel: Funnel | None = None) -> list[Pair]:
    """Returns the pairs of a tree; every node is counted in the funnel."""
    funnel = funnel or Funnel()
    fates: dict[str, NodeFate] = {}
    if policy.pairs == "path":
        pairs = _path_pairs(view, policy, fates)
    else:
        pairs = [
            pair
            for parent in view.tree.nodes
            for pair in _sibling_pairs(view, view.tree.children(parent.id), policy, fates)
        ]
    for node in view.tree.nodes:
        if node.parent is not None:
            funnel.nodes[fates[node.id]] += 1
    funnel.pairs += len(pairs)
    return pairs


def _sibling_pairs(
    view: TreeView, siblings: Sequence[Node], policy: PairPolicy, fates: dict[str, NodeFate]
) -> list[Pair]:
    chosen, rejected = _candidates(view, siblings, policy, fates)
    pairs: list[Pair] = []
    for best in chosen:
        if len(pairs) >= policy.pairs_per_node:
            fates[best.id] = "enough pairs"
            continue
        worst = _reject(view, best, rejected, siblings, policy)
        if worst is None:
            fates[best.id] = _unpaired(best, rejected, policy)
            continue
        rejected = [node for node in rejected if node.id != worst.id]
        fates[best.id], fates[worst.id] = "chosen", "rejected"
        pairs.append(_pair(view, best, worst, "step"))
    for node in rejected:
        if not chosen:
            fates[node.id] = "all wrong"
        elif len(pairs) == policy.pairs_per_node:
            fates[node.id] = "enough pairs"
        else:
            fates[node.id] = "no partner" if len(pairs) == len(chosen) else "unpaired"
    return pairs


def _path_pairs(view: TreeView, policy: PairPolicy, fates: dict[str, NodeFate]) -> list[Pair]:
    """Pairs the best with the worst node of the tree, as published, but for degenerate ones."""
    rounds = [node for node in view.tree.nodes if node.parent is not None]
    chosen, rejected = _candidates(view, rounds, policy, fates)
    for node in (*chosen, *rejected):
        fates[node.id] = "not an extreme" if chosen else "all wrong"
    for best in chosen:
        # Where one path holds the other there is no turn at which they part.
        apart = [node for node in rejected if not _are_in_line(view.tree, node, best)]
        worst = _reject(view, best, apart, rounds, policy)
        if worst is not None:
            fates[best.id], fates[worst.id] = "chosen", "rejected"
            return [_pair(view, best, worst, "path")]
        fates[best.id] = _unpaired(best, apart, policy)
    return []


def _candidates(
    view: TreeView, nodes: Sequence[Node], policy: PairPolicy, fates: dict[str, NodeFate]
) -> tuple[list[Node], list[Node]]:
    """Sorts nodes into right ones, best first, and wrong ones; names the fate of the others.

    The rows of a path pair are of the round where the paths part, so all of a path must be sound.
    """
    right: list[Node] = []
    wrong: list[Node] = []
    for node in nodes:
        correct = is_correct(node.verdicts)
        flaw = find_path_flaw(view.tree, node) if policy.pairs == "path" else find_flaw(node)
        if flaw is not None:
            fates[node.id] = flaw
        elif correct is None or node.score is None:
            fates[node.id] = "unscored"
        elif not correct:
            wrong.append(node)
        elif (unfit := view.find_unfit(node, drop_leaks=policy.drop_leaks)) is not None:
            fates[node.id] = unfit
        else:
            right.append(node)
    if right and not wrong:
        for node in right:
            fates[node.id] = "all right"
        return [], []
    return sorted(right, key=_score, reverse=True), wrong


def _reject(
    view: TreeView,
    best: Node,
    rejected: Sequence[Node],
    candidates: Sequence[Node],
    policy: PairPolicy,
) -> Node | None:
    far = [node for node in rejected if _score(best) - _score(node) >= max(policy.margin, 1e-9)]
    if policy.rejected == "near-miss":
        far = [node for node in far if _has_right_pieces(view.tree, best, node)]
    if not far:
        return None
    scores = [node.score for node in candidates if node.score is not None]
    mean, spread = statistics.fmean(scores), statistics.pstdev(scores)
    target = mean - 2 * spread if policy.rejected == "mean-2sd" else 0.0

    def distance(node: Node) -> tuple[float, float]:
        # Rounded: whether two scores are equally far must not depend on the last bit. Of those, the
        # reply of the nearest length, so that a model learns no preference for long ones.
        length = abs(log_ratio(_last_reply(best), _last_reply(node)))
        return round(abs(_score(node) - target), 9), length

    return min(far, key=distance)


def _unpaired(best: Node, rejected: Sequence[Node], policy: PairPolicy) -> Unpaired:
    if not rejected:
        return "no partner"
    gap = _score(best) - min(map(_score, rejected))
    if gap <= 0:
        return "tie"
    return "below margin" if gap < policy.margin else "no near miss"


def _has_right_pieces(tree: Tree, best: Node, node: Node) -> bool:
    """Whether a path kept the gold pieces; where none are known, what the best one kept."""
    wanted = set(tree.question.gold_pieces or _kept_until(tree, best))
    return bool(wanted) and wanted <= _kept_until(tree, node)


def _kept_until(tree: Tree, node: Node) -> set[int]:
    """Returns the pieces that the rounds up to a node point at: what its answer could know."""
    return {piece for step in tree.path(node.id)[1:] for piece in step.kept}


def _are_in_line(tree: Tree, one: Node, other: Node) -> bool:
    """Whether one of the nodes is an ancestor of the other."""
    upper, lower = sorted((one, other), key=lambda node: node.depth)
    return any(step.id == upper.id for step in tree.path(lower.id))


def _pair(view: TreeView, best: Node, worst: Node, kind: Literal["step", "path"]) -> Pair:
    return Pair(
        id=content_id("pair", view.tree.id, best.id, worst.id),
        tree_id=view.tree.id,
        document_id=view.document.id,
        question_id=view.tree.question.id,
        kind=kind,
        chosen=best.id,
        rejected=worst.id,
        score_chosen=_score(best),
        score_rejected=_score(worst),
    )


def build_rows(
    view: TreeView, pair: Pair, policy: PairPolicy, funnel: Funnel | None = None
) -> list[dict[str, Any]]:
    """Returns one preference row per turn in which the two differ.

    The prompt of each row is the history of the *chosen* one up to the turn's request; both
    replies answer that same request. Where the pair is not of siblings, they are compared where
    their paths part.
    """
    funnel = funnel or Funnel()
    best, worst = _parting(view.tree, pair)
    replies = {turn.kind: turn for turn in worst.turns}
    rows: list[dict[str, Any]] = []
    before = list(view.before(best))
    for turn in best.turns:
        aside = turn.kind == "check" and view.profile.layout == "published"
        if turn.kind in policy.turns and not aside:
            other = replies.get(turn.kind)
            reason = _label_flaw(best, worst, turn, other) or _row_flaw(turn, other, policy)
            funnel.rows[reason or "written"] += 1
            if reason is None and other is not None:
                rows.append(_row(view, pair, best, before, turn, other))
        before.append(turn)
    return rows


def _parting(tree: Tree, pair: Pair) -> tuple[Node, Node]:
    """Returns the first nodes in which the two paths differ."""
    best, worst = tree.path(pair.chosen), tree.path(pair.rejected)
    # There is one: where one path holds the other, no pair is made.
    return next(both for both in zip(best, worst, strict=False) if both[0].id != both[1].id)


def _row_flaw(turn: Turn, other: Turn | None, policy: PairPolicy) -> RowFate | None:
    if other is None:
        return "no such turn"
    if turn.reply.strip() == other.reply.strip():
        return "equal"
    if not turn.reply.strip() or not other.reply.strip():
        return "empty"
    if abs(log_ratio(turn.reply, other.reply)) > policy.max_log_ratio:
        return "length ratio"
    return None


def _label_flaw(best: Node, worst: Node, turn: Turn, other: Turn | None) -> RowFate | None:
    """Returns why the chosen reply must not be labelled the better one.

    Where the paths of a pair part, both rounds may have answered wrongly, or the rejected one
    rightly: then the outcome separates what leads on, not what they answered. A self-check is right
    when it agrees with the judges, here about the chosen answer.
    """
    if turn.kind not in ("answer", "check"):
        return None
    if not is_correct(best.verdicts) or is_correct(worst.verdicts) is not False:
        return "answers not told apart"
    if turn.kind == "check" and other is not None:
        said = [parse_verdict(one.reply, ("yes", "no")) for one in (turn, other)]
        return None if said == ["yes", "no"] else "check against the judges"
    return None


def _row(
    view: TreeView, pair: Pair, best: Node, before: Sequence[Turn], turn: Turn, other: Turn
) -> dict[str, Any]:
    *prompt, chosen = view.render((*before, turn))
    return {
        "prompt": [message.model_dump() for message in prompt],
        "chosen": [chosen.model_dump()],
        "rejected": [{"role": "assistant", "content": other.reply}],
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
        **view.provenance(view.tree.path(pair.chosen)[-1]),
        "depth": best.depth,
        "turn_kind": turn.kind,
        "chosen_node": pair.chosen,
        "rejected_node": pair.rejected,
        "pair_id": pair.id,
        "pair_kind": pair.kind,
        "margin": round(pair.score_chosen - pair.score_rejected, 6),
        "log_length_ratio": round(log_ratio(turn.reply, other.reply), 4),
    }


def _score(node: Node) -> float:
    """Returns the score of a candidate; nodes without one are not candidates."""
    assert node.score is not None
    return node.score


def _last_reply(node: Node) -> str:
    return next((turn.reply for turn in reversed(node.turns) if turn.kind == "answer"), "")


def log_ratio(chosen: str, rejected: str) -> float:
    """Returns the logarithm of the ratio of two lengths, in characters."""
    return math.log(max(1, len(chosen)) / max(1, len(rejected)))
