"""Recall by depth and pass@k over the trees of a search, as in the paper's section 4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from agenticlu.core.records import Node, Record, Tree
from agenticlu.core.statistics import FEW_CLUSTERS, MeanEstimate, estimate_mean
from agenticlu.evaluation.tables import percent, render_table
from agenticlu.judges import is_correct

RIGHT = 0.5
"""A score from here on counts as right, where no verdicts are kept."""
MOST_LEFT_OUT = 0.5
"""The curve of pass@k ends when more than this share of its questions has too few samples."""


class DepthRecall(Record):
    """Recall down to one depth."""

    depth: int
    """0 is the direct answer."""
    recall: MeanEstimate
    """Share of the questions with a right answer at this depth or above it."""
    new_share: float | None
    """Of the questions unsolved before, the share first solved here; None when none was left."""


class PassAtK(Record):
    """pass@k of round 1."""

    k: int
    value: MeanEstimate | None
    """Expected share of questions with at least one right answer among k samples of round 1."""


class TreeRecall(Record):
    """Both curves of one set of trees."""

    by_depth: tuple[DepthRecall, ...]
    pass_at_k: tuple[PassAtK, ...]
    """Over the same questions at every k: those with enough samples for the largest."""
    num_trees: int
    """Finished trees."""
    num_unscored: int
    """Finished trees without any scored node, which are in none of the figures."""
    num_unfinished: int = 0
    """Trees still growing, which are in none of the figures."""
    num_sampled: int = 0
    """Questions with at least one scored answer of round 1."""
    num_sampled_enough: int = 0
    """Of these, the ones that pass@k is taken over."""


def is_right(node: Node) -> bool | None:
    """Whether a node's answer counts as right, as the data set has it; None when unscored.

    The judges decide. The score, which only orders answers, decides where no verdict is kept.
    """
    if node.verdicts:
        return is_correct(node.verdicts)
    return None if node.score is None else node.score >= RIGHT


def is_scored(tree: Tree) -> bool:
    """Whether any node of the tree is known to be right or wrong."""
    return any(is_right(node) is not None for node in tree.nodes)


def solved_depth(tree: Tree) -> int | None:
    """Returns the least depth of a right node; None without one."""
    return min((node.depth for node in tree.nodes if is_right(node)), default=None)


def tree_recall(trees: Iterable[Tree], *, num_unfinished: int = 0) -> TreeRecall:
    """Returns recall by depth and pass@k, with intervals clustered by document.

    An answer is right if the search took it to be: the verdicts decide, not the score.

    Args:
        trees: Finished trees of a search. Trees that stopped when solved count as solved further
            down.
        num_unfinished: Trees still growing.
    """
    every = list(trees)
    scored = [tree for tree in every if is_scored(tree)]
    clusters = [tree.document_id for tree in scored]
    firsts = [solved_depth(tree) for tree in scored]
    deepest = max((node.depth for tree in scored for node in tree.nodes), default=-1)
    by_depth = []
    for depth in range(deepest + 1):
        known = [float(first is not None and first <= depth) for first in firsts]
        left = sum(first is None or first >= depth for first in firsts)
        new = sum(first == depth for first in firsts)
        recall = estimate_mean(known, clusters)
        assert recall is not None, "there are scored trees"
        share = new / left if left else None
        by_depth.append(DepthRecall(depth=depth, recall=recall, new_share=share))
    sampled = [counts for tree in scored if (counts := _count_first_round(tree))[0]]
    most = _find_most_samples([num for num, _, _ in sampled])
    enough = [counts for counts in sampled if counts[0] >= most]
    return TreeRecall(
        by_depth=tuple(by_depth),
        pass_at_k=tuple(_compute_curve(enough, most)),
        num_trees=len(every),
        num_unscored=len(every) - len(scored),
        num_unfinished=num_unfinished,
        num_sampled=len(sampled),
        num_sampled_enough=len(enough),
    )


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Returns the unbiased estimate of Chen et al. (2021): 1 - C(n-c, k) / C(n, k).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    assert 1 <= k <= num_samples, "k samples out of n"
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def _count_first_round(tree: Tree) -> tuple[int, int, str]:
    """Returns the number of scored samples of round 1 and of right ones, and the document."""
    found = [is_right(node) for node in tree.nodes if node.depth == 1]
    return (
        sum(one is not None for one in found),
        sum(one is True for one in found),
        tree.document_id,
    )


def _find_most_samples(sizes: Sequence[int]) -> int:
    """Returns the largest power of two that enough questions have as many samples as; else 0."""
    most, k = 0, 1
    while sizes and sum(size < k for size in sizes) <= MOST_LEFT_OUT * len(sizes):
        most, k = k, 2 * k
    return most


def _compute_curve(counted: Sequence[tuple[int, int, str]], most: int) -> Iterable[PassAtK]:
    k = 1
    while k <= most:
        values = [pass_at_k(num, right, k) for num, right, _ in counted]
        yield PassAtK(k=k, value=estimate_mean(values, [unit for _, _, unit in counted]))
        k *= 2


def render_recall(found: TreeRecall) -> str:
    """Renders both curves with the questions and documents behind them."""
    rows = [
        [
            str(one.depth),
            percent(one.recall),
            "–" if one.new_share is None else f"{100 * one.new_share:.1f}",
            *_render_support(one.recall),
        ]
        for one in found.by_depth
    ]
    header = ["depth", "recall %", "solved of the rest %", "questions", "documents"]
    lines = [render_table(header, rows)]
    if found.pass_at_k:
        header = ["k", "pass@k of round 1 %", "questions", "documents"]
        rows = [
            [str(one.k), percent(one.value), *_render_support(one.value)] for one in found.pass_at_k
        ]
        lines += ["", render_table(header, rows), ""]
        lines.append(
            f"pass@k: the same {found.num_sampled_enough} questions at every k, those with at "
            f"least {found.pass_at_k[-1].k} scored answers of round 1, of {found.num_sampled} with "
            "any. The search dropped repeated clarifications: the k samples are all different."
        )
    lines += [
        "",
        f"{found.num_trees} finished questions, {found.num_unscored} of them unscored; "
        f"{found.num_unfinished} unfinished ones are not counted.",
    ]
    if found.by_depth and found.by_depth[0].recall.num_clusters < FEW_CLUSTERS:
        lines.append(f"Fewer than {FEW_CLUSTERS} documents: the intervals are rough.")
    return "\n".join(lines)


def _render_support(found: MeanEstimate | None) -> tuple[str, str]:
    """Returns the number of questions and documents behind a figure."""
    return (str(found.n), str(found.num_clusters)) if found else ("0", "0")
