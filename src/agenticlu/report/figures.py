"""Figures of a run, computed from its records: pure, no input or output."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from agenticlu.core.records import Node, Pair, Prediction, Record, Tree, TurnKind, Usage
from agenticlu.core.statistics import MeanEstimate, estimate_difference, estimate_mean
from agenticlu.judges import panel as judge
from agenticlu.report.data import Change, Gain, Measure, ReportData, ResultRow, Stage

RIGHT = 0.5
"""An answer counts as right from this score on, where no verdicts are kept."""

KIND_NAMES: dict[TurnKind, str] = {
    "direct": "direct answer",
    "clarify": "clarification",
    "point": "pointing back",
    "sub_answer": "sub-answer",
    "answer": "answer",
    "check": "self-check",
}


class DepthFigure(Record):
    """Share of trees with a right answer at this depth or above."""

    depth: int
    recall: Measure


class Counts(Record):
    """How many of everything; nothing that failed is left out."""

    documents: int = 0
    trees: int = 0
    nodes: int = 0
    pairs: int = 0
    right_nodes: int = 0
    wrong_nodes: int = 0
    unscored_nodes: int = 0
    failed_nodes: int = 0
    unscored_trees: int = 0
    """Trees in which no node has a score."""
    disagreements: int = 0
    """Nodes about which two judges disagree."""
    outcomes: dict[str, int] = Field(default_factory=dict)
    evaluated: int = 0
    """Items of the evaluation that were scored."""
    evaluation_failed: int = 0
    evaluation_truncated: int = 0
    evaluation_cut_off: int = 0


class TreeEntry(Record):
    """A tree in the list: what search and filters look at."""

    id: str
    document_id: str
    question: str
    answers: tuple[str, ...]
    outcome: str
    solved_depth: int | None
    """Least depth of a right node; None when there is none."""
    depth: int
    nodes: int
    right: int
    wrong: int
    failed: int
    unscored: int
    disagreements: int
    pairs: int
    hops: int | None
    computed_tokens: int
    embedded: bool = True
    """Whether the page holds the tree itself."""


class Overview(Record):
    """The figures of a report: what its JSON holds and the page shows above its trees."""

    format: Literal["agenticlu report"] = "agenticlu report"
    """Comes first, so that a report's file is told from another's."""
    version: int
    title: str
    created: str | None
    headline: str
    counts: Counts
    results: tuple[ResultRow, ...]
    gains: tuple[Gain, ...]
    changes: tuple[Change, ...]
    recall_by_depth: tuple[DepthFigure, ...]
    funnels: dict[str, dict[str, int]]
    stages: tuple[Stage, ...]
    curves: tuple[dict[str, object], ...]
    trees: tuple[TreeEntry, ...]
    config: dict[str, dict[str, object]]
    errors: tuple[str, ...]


def is_right(node: Node) -> bool | None:
    """Whether a node's answer counts as right, as the data set has it; None when unscored.

    The judges decide. The score, which only orders answers, decides where no verdict is kept.
    """
    if node.verdicts:
        return judge.is_correct(node.verdicts)
    return None if node.score is None else node.score >= RIGHT


def node_state(node: Node) -> str:
    """Returns 'failed', 'unscored', 'right' or 'wrong'."""
    if node.status == "failed":
        return "failed"
    return {None: "unscored", True: "right", False: "wrong"}[is_right(node)]


def solved_depth(tree: Tree) -> int | None:
    """Returns the least depth of a right node, or None."""
    by_score = [n.depth for n in tree.nodes if not n.verdicts and node_state(n) == "right"]
    depths = (judge.solved_depth(tree), *by_score)
    return min((depth for depth in depths if depth is not None), default=None)


def is_scored(tree: Tree) -> bool:
    """Whether any node of the tree has a score."""
    return any(node_state(node) in ("right", "wrong") for node in tree.nodes)


def measure(values: Sequence[tuple[str, float]]) -> Measure:
    """Returns the mean of (cluster, value in [0, 1]) with a 95% interval, as an evaluation has it.

    >>> measure([("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 1.0)]).mean
    0.75
    """
    return _measure(estimate_mean([value for _, value in values], [unit for unit, _ in values]))


def paired_difference(pairs: Sequence[tuple[str, float, float]]) -> Measure:
    """Returns the mean of contender - baseline over (cluster, baseline, contender)."""
    gains = [after - before for _, before, after in pairs]
    return _measure(estimate_difference(gains, [unit for unit, _, _ in pairs]))


def _measure(found: MeanEstimate | None) -> Measure:
    if found is None:
        return Measure(mean=0.0, n=0)
    return Measure(mean=found.mean, low=found.low, high=found.high, n=found.n)


def recall_by_depth(trees: Sequence[Tree]) -> tuple[DepthFigure, ...]:
    """Returns, per depth d, the share of scored trees with a right node at depth d or above.

    Trees without any score are left out, and counted in `Counts.unscored_trees`.
    """
    scored = [tree for tree in trees if is_scored(tree)]
    if not scored:
        return ()
    deepest = max(node.depth for tree in scored for node in tree.nodes)
    found = [(tree.document_id, solved_depth(tree)) for tree in scored]
    return tuple(
        DepthFigure(
            depth=depth,
            recall=measure([(doc, float(at is not None and at <= depth)) for doc, at in found]),
        )
        for depth in range(deepest + 1)
    )


def tree_stages(trees: Iterable[Tree]) -> tuple[Stage, ...]:
    """Splits the cost of the trees by turn kind.

    The cost of a request stands on each of its sibling samples, so clarifications that share one
    are counted once. What a tree paid beyond its turns (grounding, retries, merged duplicates) is
    its own row.
    """
    spent: dict[str, Usage] = {}
    judges = Usage()

    def add(name: str, usage: Usage) -> None:
        spent[name] = spent.get(name, Usage()) + usage

    for tree in trees:
        turns = Usage()
        seen: set[tuple[object, ...]] = set()
        for node in tree.nodes:
            for i, turn in enumerate(node.turns):
                if turn.usage is None:
                    continue
                if turn.kind == "clarify":
                    key = (node.parent, i, *turn.usage.model_dump().values())
                    if key in seen:
                        continue
                    seen.add(key)
                add(KIND_NAMES[turn.kind], turn.usage)
                turns = turns + turn.usage
            for verdict in node.verdicts:
                judges = judges + (verdict.usage or Usage())
        rest = Usage(
            requests=max(0, tree.usage.requests - turns.requests),
            prompt_tokens=max(0, tree.usage.prompt_tokens - turns.prompt_tokens),
            cached_tokens=max(0, tree.usage.cached_tokens - turns.cached_tokens),
            completion_tokens=max(0, tree.usage.completion_tokens - turns.completion_tokens),
        )
        if rest.cached_tokens > rest.prompt_tokens:  # turns counted otherwise than the tree
            rest = rest.model_copy(update={"cached_tokens": rest.prompt_tokens})
        if rest != Usage():
            add("grounding", rest)
    order = ["direct answer", "clarification", "grounding", *KIND_NAMES.values()]
    stages = [
        Stage(group="search", name=name, usage=spent[name])
        for name in dict.fromkeys(order)
        if name in spent
    ]
    if judges != Usage():
        stages.append(Stage(group="judges", name="judges", usage=judges))
    return tuple(stages)


def count(data: ReportData) -> Counts:
    """Counts everything, the failed and the unscored by name."""
    states = Counter(node_state(node) for tree in data.trees for node in tree.nodes)
    return Counts(
        documents=len(data.documents) or len({tree.document_id for tree in data.trees}),
        trees=len(data.trees),
        nodes=sum(states.values()),
        pairs=len(data.pairs),
        right_nodes=states["right"],
        wrong_nodes=states["wrong"],
        unscored_nodes=states["unscored"],
        failed_nodes=states["failed"],
        unscored_trees=sum(not is_scored(tree) for tree in data.trees),
        disagreements=sum(
            judge.disagrees(node.verdicts) for tree in data.trees for node in tree.nodes
        ),
        outcomes=dict(sorted(Counter(tree.outcome for tree in data.trees).items())),
        evaluated=sum(row.score.n for row in data.results),
        evaluation_failed=sum(row.num_failed for row in data.results),
        evaluation_truncated=sum(row.num_truncated for row in data.results),
        evaluation_cut_off=sum(row.num_cut_off for row in data.results),
    )


def tree_entries(trees: Sequence[Tree], pairs: Sequence[Pair]) -> tuple[TreeEntry, ...]:
    """Returns the list of trees in their order."""
    per_tree = Counter(pair.tree_id for pair in pairs)
    entries = []
    for tree in trees:
        states = Counter(node_state(node) for node in tree.nodes)
        entries.append(
            TreeEntry(
                id=tree.id,
                document_id=tree.document_id,
                question=tree.question.text,
                answers=tree.question.answers,
                outcome=tree.outcome,
                solved_depth=solved_depth(tree),
                depth=max((node.depth for node in tree.nodes), default=0),
                nodes=len(tree.nodes),
                right=states["right"],
                wrong=states["wrong"],
                failed=states["failed"],
                unscored=states["unscored"],
                disagreements=sum(judge.disagrees(node.verdicts) for node in tree.nodes),
                pairs=per_tree[tree.id],
                hops=tree.question.hops,
                computed_tokens=tree.usage.computed_tokens,
            )
        )
    return tuple(entries)


METRICS = ("correct", "match", "accuracy", "exact_match")
"""Which score of a prediction is shown when nothing else is said: the first that it has."""
METHOD_WORDS = {"direct": "answering directly", "clarify": "with clarifications"}


SHARES = (*METRICS, "word_match", "substring_exact_match", "babilong", "str_hit")
"""Metrics that are 1 for a right answer and 0 for another."""


def quantity(metric: str) -> str:
    """Returns what the mean of a metric is.

    >>> quantity("correct"), quantity("rougeL_f1")
    ('Share of right answers', 'Mean rougeL_f1')
    """
    return "Share of right answers" if metric in SHARES else f"Mean {metric}"


def primary_metric(predictions: Iterable[Prediction]) -> str:
    """Returns the metric that the predictions share: the best known one, else the first by name."""
    names = {name for prediction in predictions for name in prediction.scores}
    for name in METRICS:
        if name in names:
            return name
    return min(names, default="correct")


def result_rows(
    predictions: Sequence[Prediction], system: str, metric: str | None = None
) -> tuple[ResultRow, ...]:
    """Aggregates predictions into one row per method, task and length, clustered by document."""
    metric = metric or primary_metric(predictions)
    cells: dict[tuple[str, str, int], list[Prediction]] = {}
    for prediction in predictions:
        key = (prediction.task, prediction.method, prediction.length)
        cells.setdefault(key, []).append(prediction)
    rows = []
    for (task, method, length), items in cells.items():
        scored = [p for p in items if p.error is None and metric in p.scores]
        rows.append(
            ResultRow(
                system=system,
                method=method,
                task=task,
                length=length,
                metric=metric,
                score=measure([(p.unit or p.document_id, p.scores[metric]) for p in scored]),
                num_failed=len(items) - len(scored),
                num_truncated=sum(p.truncated for p in scored),
                usage=sum((p.usage for p in scored), Usage()),
                lone_tokens_per_item=lone_tokens_per_item(scored),
                seconds=sum(p.seconds for p in scored),
            )
        )
    return tuple(rows)


def lone_tokens(prediction: Prediction) -> int | None:
    """Returns the tokens computed for a prediction that shares nothing with other items.

    That is the whole prompt of its first request; of every later one what the item's own earlier
    requests have not left in the cache; and all that is sampled. An item asked after another one on
    the same document reports less, because it reuses the other's reading. Requests that are not
    turns (retrieval by the model) count in full. None for several requests without their turns.
    """
    spent = [turn.usage for turn in prediction.turns if turn.usage is not None]
    if not spent and prediction.usage.requests > 1:
        return None
    own = reused = 0
    for usage in spent:
        reused += min(usage.cached_tokens, own)
        own = max(own, usage.prompt_tokens + usage.completion_tokens)
    return prediction.usage.prompt_tokens - reused + prediction.usage.completion_tokens


def lone_tokens_per_item(predictions: Sequence[Prediction]) -> float | None:
    """Returns the mean of `lone_tokens`; None where one is not known, or there is none."""
    known = [tokens for p in predictions if (tokens := lone_tokens(p)) is not None]
    return sum(known) / len(known) if known and len(known) == len(predictions) else None


def in_words(system: str, method: str) -> str:
    """Returns a system and method as part of a sentence.

    >>> in_words("trained", "clarify")
    'trained model with clarifications'
    """
    name = system if system.endswith("model") else f"{system} model"
    return f"{name} {METHOD_WORDS.get(method, f'with {method}')}"


def contest(systems: Sequence[str]) -> tuple[str, str]:
    """Returns whose direct answer is compared with whose dialogue: base and trained, or the ends.

    Fixed by name and order, never picked by outcome.
    """
    base = "base" if "base" in systems else systems[0]
    return base, "trained" if "trained" in systems else systems[-1]


def main_gains(systems: Mapping[str, Sequence[Prediction]]) -> tuple[Gain, ...]:
    """Compares, per task and length, one system's dialogue with another's direct answer.

    The longest length comes first, so it makes the headline. Questions that either side failed
    are left out.

    Args:
        systems: Predictions by system; see `contest` for which are compared.
    """
    gains = []
    for (task, length), metric, shared in _contested(systems):
        values = [
            (one.unit or one.document_id, one.scores[metric], other.scores[metric])
            for one, other in shared
        ]
        base, last = contest(list(systems))
        gains.append(
            Gain(
                task=task,
                length=length,
                baseline=in_words(base, "direct"),
                contender=in_words(last, "clarify"),
                metric=metric,
                baseline_mean=sum(value for _, value, _ in values) / len(values),
                contender_mean=sum(value for _, _, value in values) / len(values),
                difference=paired_difference(values),
            )
        )
    return tuple(gains)


MOST_CHANGES = 12
"""Questions listed per task, length and direction."""


def main_changes(systems: Mapping[str, Sequence[Prediction]]) -> tuple[Change, ...]:
    """Returns the questions behind `main_gains`: some of those gained, and of those lost."""
    changes = []
    for (task, length), metric, shared in _contested(systems):
        for gained in (True, False):
            changed = [
                Change(
                    task=task,
                    length=length,
                    question=one.question,
                    gold=one.gold,
                    before=one.answer,
                    after=other.answer,
                    gained=gained,
                )
                for one, other in shared
                if (one.scores[metric] >= RIGHT, other.scores[metric] >= RIGHT)
                == (not gained, gained)
            ]
            changes += changed[:MOST_CHANGES]
    return tuple(changes)


def _contested(
    systems: Mapping[str, Sequence[Prediction]],
) -> list[tuple[tuple[str, int], str, list[tuple[Prediction, Prediction]]]]:
    """Returns (task, length), the metric, and the predictions on questions that both scored."""
    if not systems:
        return []
    base, last = contest(list(systems))
    metric = primary_metric(p for items in systems.values() for p in items)
    before, after = _cells(systems[base], "direct"), _cells(systems[last], "clarify")
    found = []
    for cell in sorted(before.keys() & after.keys(), key=lambda at: (-at[1], at[0])):
        one, other = before[cell], after[cell]
        shared = [
            (one[key], other[key])
            for key in sorted(one.keys() & other.keys())
            if all(p.error is None and metric in p.scores for p in (one[key], other[key]))
        ]
        if shared:
            found.append((cell, metric, shared))
    return found


def _cells(
    items: Iterable[Prediction], method: str
) -> dict[tuple[str, int], dict[tuple[str, str], Prediction]]:
    """Returns one method's predictions by (task, length) and by (document, question)."""
    cells: dict[tuple[str, int], dict[tuple[str, str], Prediction]] = {}
    for p in items:
        if p.method == method:
            cells.setdefault((p.task, p.length), {})[p.document_id, p.question_id] = p
    return cells


def percent(value: float) -> str:
    """Returns a share as a whole percentage.

    >>> percent(0.815)
    '82%'
    """
    return f"{math.floor(100 * value + 0.5):d}%"


def signed(points: float) -> str:
    """Returns a whole number with its sign, with a true minus.

    >>> signed(-3.2)
    '−3'
    """
    return f"{points:+.0f}".replace("-", "−")


def headline(data: ReportData, depths: Sequence[DepthFigure]) -> str:
    """Says in one sentence what came out, with its interval."""
    if data.gains:
        gain = data.gains[0]
        before, after = percent(gain.baseline_mean), percent(gain.contender_mean)
        sentence = f"At {gain.length:,} tokens, the {gain.contender} "
        if gain.metric in SHARES:
            sentence += f"is right on {after} of the questions, the {gain.baseline} on {before}"
        else:
            sentence += f"reaches a mean {gain.metric} of {after}, the {gain.baseline} {before}"
        sentence += f": {signed(100 * gain.difference.mean)} points"
        low, high = gain.difference.low, gain.difference.high
        if low is not None and high is not None:
            sentence += f" (95% interval {signed(100 * low)} to {signed(100 * high)})"
        return sentence + "."
    if depths:
        first, last = depths[0].recall, depths[-1].recall
        sentence = (
            f"The search found a right answer to {percent(last.mean)} of {last.n:,} questions"
        )
        if last.low is not None and last.high is not None:
            sentence += f" (95% interval {percent(last.low)} to {percent(last.high)})"
        if len(depths) > 1:
            sentence += f"; the direct answer was right for {percent(first.mean)}"
        return sentence + "."
    if data.results:
        best = max(data.results, key=lambda row: row.length)
        mean = percent(best.score.mean)
        is_share = best.metric in SHARES
        found = (
            f"is right on {mean} of" if is_share else f"reaches a mean {best.metric} of {mean} over"
        )
        return (
            f"At {best.length:,} tokens, the {in_words(best.system, best.method)} {found} "
            f"{best.score.n:,} questions."
        )
    if data.curves:
        runs = sorted({curve.run for curve in data.curves})
        return f"Training curves of {', '.join(runs)}."
    if data.trees:
        return f"{len(data.trees):,} trees; none has a score yet."
    return "Nothing to show yet: neither trees, nor results, nor training curves."
