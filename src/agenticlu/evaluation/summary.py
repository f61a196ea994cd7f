"""Summarises predictions: cells, paired differences, costs, effective lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from agenticlu.core.records import Prediction, Usage
from agenticlu.core.statistics import FEW_CLUSTERS, MeanEstimate, estimate_difference, estimate_mean
from agenticlu.evaluation.methods import METHODS
from agenticlu.evaluation.records import (
    Cell,
    Difference,
    EffectiveLength,
    Failure,
    Overhead,
    Summary,
)
from agenticlu.evaluation.scoring.answers import piece_scores
from agenticlu.evaluation.scoring.rules import JUDGED_METRICS, RULES

BASELINE = "direct"
EFFECTIVE_SHARE = 0.85
"""A length is effective while the score keeps this share of the score at the shortest one."""
SHORT_TOKENS = 1024
"""Lengths up to here count as short; the best of them is what longer ones are held against."""
NUM_DEPTH_BINS = 5
MOST_LISTED_FAILURES = 100
_Part = TypeVar("_Part", int, str)


def summarise(
    predictions: Iterable[Prediction],
    settings: Mapping[str, Any] | None = None,
    *,
    metric: str | None = None,
) -> Summary:
    """Builds the summary of predictions.

    Engines and tasks are ordered by their first prediction, methods as `METHODS` lists them, with
    'clarify@2' beside 'clarify', and those that it does not list by name.

    Args:
        predictions: Any number of engines, methods, tasks and lengths, asked under one set of
            conditions.
        settings: Kept as they are.
        metric: Shown first where items have it; None takes each task's own.
    """
    every = list(predictions)
    engines = list(dict.fromkeys(p.engine for p in every))
    methods = list(METHODS)
    tasks = list(dict.fromkeys(p.task for p in every))
    groups: dict[tuple[str, str, str, int], list[Prediction]] = defaultdict(list)
    for p in every:
        groups[(p.engine, p.method, p.task, p.length)].append(p)

    def rank(key: tuple[str, str, str, int]) -> tuple[int, int, int, int, str, int]:
        engine, method, task, length = key
        name, _, rounds = method.partition("@")
        place = methods.index(name) if name in methods else len(methods)
        number = int(rounds) if rounds.isdigit() else 0
        return (tasks.index(task), length, engines.index(engine), place, name, number)

    keys = sorted(groups, key=rank)
    cells = [
        _build_cell(key, groups[key], groups.get((key[0], BASELINE, *key[2:])), metric)
        for key in keys
    ]
    failed = [p for p in every if p.error is not None]
    listed = failed[:MOST_LISTED_FAILURES]
    differences = tuple(_differences(groups, keys, engines, metric))
    return Summary(
        settings=dict(settings or {}),
        cells=tuple(cells),
        differences=differences,
        effective_lengths=tuple(compute_effective_lengths(cells)),
        failures=tuple(Failure(**{f: getattr(p, f) for f in Failure.model_fields}) for p in listed),
        num_items=len(every),
        num_failed=len(failed),
        notes=(*_warn_few_clusters(cells), *_unpaired(groups, engines, differences)),
        # Requests that several predictions share are counted once.
        usage=sum((p.usage for p in every if not p.part_of), Usage()),
    )


def choose_headline(scores: Iterable[str], metric: str | None = None) -> str:
    """Returns the metric shown first for rows with these metrics; `metric` if they have it."""
    scores = list(scores)
    for name in (metric, *JUDGED_METRICS):
        if name is not None and name in scores:
            return name
    for rule in RULES.values():
        if rule.headline in scores and (rule.published is None or rule.published in scores):
            return rule.headline
    return scores[0] if scores else "correct"


def _warn_few_clusters(cells: Iterable[Cell]) -> list[str]:
    """Returns a warning where intervals rest on few independent units; else nothing."""
    few = sorted(
        {
            (cell.task, cell.length, cell.score.num_clusters)
            for cell in cells
            if cell.score is not None and cell.score.num_clusters < FEW_CLUSTERS
        }
    )
    if not few:
        return []
    places = "; ".join(f"{task} at {length}: {number}" for task, length, number in few)
    return [
        f"Fewer than {FEW_CLUSTERS} clusters (documents, or what else is independent): {places}. "
        "Intervals from so few are wide and rough; more documents help, more questions do not."
    ]


def _unpaired(
    groups: Mapping[tuple[str, str, str, int], Sequence[Prediction]],
    engines: Sequence[str],
    differences: Iterable[Difference],
) -> list[str]:
    """Returns a warning where two engines answered a task at a length, but no question in common.

    Documents are made, or cut, to a length that a tokenizer counts; with another one they are other
    documents.
    """
    paired = {(d.task, d.length, d.engine) for d in differences if d.engine != d.baseline_engine}
    alone = [
        f"{engine} and {engines[0]} on {task} at {length}"
        for engine, method, task, length in groups
        if method == BASELINE
        and engine != engines[0]
        and (engines[0], BASELINE, task, length) in groups
        and (task, length, engine) not in paired
    ]
    if not alone:
        return []
    return [
        f"Nothing can be compared between {'; '.join(alone)}: they answered no question in common. "
        "Ask both about the same documents, with one --tokenizer and one --seed."
    ]


def _metric(name: str) -> Callable[[Prediction], float | None]:
    return lambda prediction: prediction.scores.get(name)


def _unit(prediction: Prediction) -> str:
    return prediction.unit or prediction.document_id


def _scored(predictions: Iterable[Prediction]) -> list[Prediction]:
    return [p for p in predictions if p.error is None]


def _estimate(
    predictions: Iterable[Prediction], value: Callable[[Prediction], float | None]
) -> MeanEstimate | None:
    pairs = [(v, _unit(p)) for p in predictions if (v := value(p)) is not None]
    return estimate_mean([v for v, _ in pairs], [u for _, u in pairs])


def _estimate_parts(
    scored: Iterable[Prediction], metric: str, part: Callable[[Prediction], _Part | None]
) -> dict[_Part, MeanEstimate]:
    """Returns the mean of a metric by the part of the items that each belongs to."""
    groups: dict[_Part, list[Prediction]] = defaultdict(list)
    for p in scored:
        if (name := part(p)) is not None:
            groups[name].append(p)
    found = {name: _estimate(groups[name], _metric(metric)) for name in sorted(groups)}
    return {name: one for name, one in found.items() if one is not None}


def _build_cell(
    key: tuple[str, str, str, int],
    predictions: Sequence[Prediction],
    baseline: Sequence[Prediction] | None,
    metric: str | None = None,
) -> Cell:
    engine, method, task, length = key
    scored = _scored(predictions)
    names = list(dict.fromkeys(name for p in scored for name in p.scores))
    headline = choose_headline(names, metric) if names else metric or "correct"
    means = {name: _estimate(scored, _metric(name)) for name in names}
    # An item that could point but did not has a recall of 0, and no precision.
    pointing = [
        p
        for p in scored
        if p.gold_pieces and (p.cited or any(turn.kind == "point" for turn in p.turns))
    ]

    def point(name: str) -> MeanEstimate | None:
        def value(p: Prediction) -> float | None:
            if not p.gold_pieces or (name == "point_precision" and not p.cited):
                return None
            return piece_scores(p.cited, p.gold_pieces)[name]

        return _estimate(pointing, value)

    return Cell(
        engine=engine,
        method=method,
        task=task,
        length=length,
        headline=headline,
        metrics={name: found for name, found in means.items() if found is not None},
        num_scored=len(scored),
        num_failed=len(predictions) - len(scored),
        num_truncated=sum(p.truncated for p in scored),
        num_cut_off=sum(_is_cut_off(p) for p in scored),
        usage=sum((p.usage for p in scored), Usage()),
        alone_tokens=sum_alone_tokens(scored),
        failed_usage=sum((p.usage for p in predictions if p.error is not None), Usage()),
        seconds=round(sum(p.seconds for p in scored), 3),
        overhead=_overhead(baseline, predictions) if baseline else None,
        point_precision=point("point_precision"),
        point_recall=point("point_recall"),
        gold_present=_share([p.gold_present for p in scored]),
        by_hops=_estimate_parts(scored, headline, lambda p: p.hops),
        by_depth=_estimate_parts(scored, headline, _name_depth),
    )


def _share(values: Sequence[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _is_cut_off(prediction: Prediction) -> bool:
    replies = [turn for turn in prediction.turns if turn.kind in ("direct", "answer")]
    return bool(replies) and replies[-1].finish_reason == "length"


def _name_depth(prediction: Prediction) -> str | None:
    """Returns the fifth of the document where the first gold fact is, such as '0.2-0.4'."""
    if prediction.depth is None:
        return None
    i = min(int(prediction.depth * NUM_DEPTH_BINS), NUM_DEPTH_BINS - 1)
    return f"{i / NUM_DEPTH_BINS:.1f}-{(i + 1) / NUM_DEPTH_BINS:.1f}"


def _differences(
    groups: Mapping[tuple[str, str, str, int], Sequence[Prediction]],
    keys: Sequence[tuple[str, str, str, int]],
    engines: Sequence[str],
    metric: str | None = None,
) -> Iterable[Difference]:
    for key in keys:
        engine, method, task, length = key
        sides = []
        if method != BASELINE:
            sides.append(engine)
        if engine != engines[0]:
            sides.append(engines[0])
        for side in sides:
            baseline = groups.get((side, BASELINE, task, length))
            if baseline and (found := compare(baseline, groups[key], metric)) is not None:
                yield found


def compare(
    baseline: Sequence[Prediction], contender: Sequence[Prediction], metric: str | None = None
) -> Difference | None:
    """Returns the paired difference on shared questions, or None when they share none."""
    pairs = pair_scored(baseline, contender)
    if not pairs:
        return None
    both = [name for before, after in pairs for name in after.scores if name in before.scores]
    name = choose_headline(dict.fromkeys(both), metric)
    values = [
        (before.scores[name], after.scores[name], _unit(after))
        for before, after in pairs
        if name in before.scores and name in after.scores
    ]
    gains = [after - before for before, after, _ in values]
    difference = estimate_difference(gains, [unit for _, _, unit in values])
    if difference is None:
        return None
    one, other = baseline[0], contender[0]
    return Difference(
        task=other.task,
        length=other.length,
        metric=name,
        baseline_engine=one.engine,
        baseline_method=one.method,
        engine=other.engine,
        method=other.method,
        baseline_mean=sum(before for before, _, _ in values) / len(values),
        mean=sum(after for _, after, _ in values) / len(values),
        difference=difference,
    )


def compute_effective_lengths(cells: Iterable[Cell]) -> list[EffectiveLength]:
    """Returns, per engine, method and task, the length up to which the score holds.

    The base is the best score at lengths up to 1024 tokens, or at the shortest one if all are
    longer. A length counts only if all shorter ones above the base hold too: those at which this
    method has no result, although others were asked there, do not hold, and failed items count
    as wrong.
    """
    series: dict[tuple[str, str, str], dict[int, Cell]] = defaultdict(dict)
    lengths: dict[str, set[int]] = defaultdict(set)
    for cell in cells:
        lengths[cell.task].add(cell.length)
        series[(cell.engine, cell.method, cell.task)][cell.length] = cell
    result = []
    for (engine, method, task), found in series.items():
        scored = [cell for _, cell in sorted(found.items()) if cell.score is not None]
        if not scored:
            continue
        short = [cell for cell in scored if cell.length <= SHORT_TOKENS] or scored[:1]
        base = max(short, key=lambda cell: cell.score.mean if cell.score else 0.0)
        base_score = base.score.mean if base.score else 0.0
        reached = unknown = None
        for length in sorted(length for length in lengths[task] if length >= base.length):
            if not base_score:
                break
            here = found.get(length)
            if here is None or here.score is None:
                unknown = length
                break
            answered = here.num_scored / (here.num_scored + here.num_failed)
            if length > base.length and here.score.mean * answered < EFFECTIVE_SHARE * base_score:
                unknown = length if here.score.mean >= EFFECTIVE_SHARE * base_score else None
                break
            reached = length
        result.append(
            EffectiveLength(
                engine=engine,
                method=method,
                task=task,
                metric=base.headline,
                base_length=base.length,
                base_score=base_score,
                effective_length=reached,
                unknown_from=unknown,
            )
        )
    return result


def count_alone_tokens(prediction: Prediction) -> int | None:
    """Returns the prompt tokens that an item computes by itself, with a cache that begins empty.

    Methods of a run read each document together: whichever asks first pays for it, so what an
    item computed as run depends on the order. Alone, its first turn is read whole; a later turn
    reuses at most the longest prompt and reply that an earlier turn of its own has left in the
    cache, and what else it found there came from other items. Retrieval by the engine is not a
    turn and counts in full. None where several requests were made and their turns are not kept.

    >>> turn = lambda prompt, cached: {"kind": "direct", "wording": "", "request": "", "reply": "",
    ...     "usage": Usage(prompt_tokens=prompt, cached_tokens=cached)}
    >>> count_alone_tokens(Prediction(id="", task="", method="", length=1, document_id="", gold=(),
    ...     question_id="", question="", turns=(turn(80, 70), turn(40, 20), turn(100, 80)),
    ...     usage=Usage(prompt_tokens=220, cached_tokens=170)))
    120
    """
    turns = [turn.usage for turn in prediction.turns if turn.usage is not None]
    if not turns and prediction.usage.requests > 1:
        return None
    held = reused = 0
    for usage in turns:
        reused += min(usage.cached_tokens, held)
        # A turn that shows the cited pieces alone does not evict the document read before it.
        # One that was asked again has read its prompt as often; thoughts are never shown again.
        said = usage.completion_tokens - usage.thinking_tokens
        held = max(held, usage.prompt_tokens // max(1, usage.requests) + said)
    return prediction.usage.prompt_tokens - reused


def sum_alone_tokens(predictions: Iterable[Prediction]) -> int | None:
    """Returns what items compute alone together; None where one of them is not known."""
    counts = [count_alone_tokens(prediction) for prediction in predictions]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def pair_scored(
    baseline: Iterable[Prediction], contender: Iterable[Prediction]
) -> list[tuple[Prediction, Prediction]]:
    """Returns the predictions of both sides about the questions that both have a reply to."""
    after = {(p.document_id, p.question_id): p for p in contender if p.error is None}
    return [
        (p, after[key])
        for p in baseline
        if p.error is None and (key := (p.document_id, p.question_id)) in after
    ]


def _overhead(baseline: Sequence[Prediction], contender: Sequence[Prediction]) -> Overhead:
    """Returns the cost as a multiple of the baseline's, on the items that both have."""
    pairs = pair_scored(baseline, contender)
    before, after = [one for one, _ in pairs], [other for _, other in pairs]

    def ratio(cost: Callable[[Sequence[Prediction]], float | None]) -> float | None:
        base, own = cost(before), cost(after)
        return round(own / base, 4) if base and own is not None else None

    return Overhead(
        prompt_tokens=ratio(lambda items: sum(p.usage.prompt_tokens for p in items)),
        alone_tokens=ratio(sum_alone_tokens),
        completion_tokens=ratio(lambda items: sum(p.usage.completion_tokens for p in items)),
        seconds=ratio(lambda items: sum(p.seconds for p in items)),
    )
