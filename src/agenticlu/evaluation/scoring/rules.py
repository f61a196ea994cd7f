"""Scoring rules by name: from one raw reply to metrics in [0, 1].

Each rule gives HELMET's figures under HELMET's names and a corrected one, `correct` or another
name of ours, beside them. ROUGE is computed on request, and always by the rules whose headline it
is (`summary`, `long_answer`).

A rule declares what it needs of an item's reference, so that rows of other origin that lack it are
reported instead of scored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import Field, TypeAdapter, ValidationError

from agenticlu.core.errors import UsageError, require_known
from agenticlu.core.options import option_letter, option_number
from agenticlu.core.records import Question
from agenticlu.dialogue.thoughts import strip_thinking
from agenticlu.evaluation.scoring import answers, helmet, rouge
from agenticlu.evaluation.scoring.answers import Golds
from agenticlu.evaluation.scoring.final import after_label, parse_final_answer

LONG_ANSWER_METRIC = "gpt-4-score"
"""A judge's score of a long answer, in [0, 1] (HELMET's own is out of 3)."""
SUMMARY_METRIC = "gpt-4-f1"
"""A judge's score of a summary, in [0, 1]."""
JUDGED_METRICS = (LONG_ANSWER_METRIC, SUMMARY_METRIC)
"""Added to scores by `agenticlu eval judge`; shown first where present, as in HELMET."""

Metrics = dict[str, float]
_FINAL_LIST = re.compile(r"Final Answer:[*_\s]*\[([^\[\]]*)\]", re.IGNORECASE)
_ANY_LIST = re.compile(_FINAL_LIST.pattern.replace("Final ", ""), re.IGNORECASE)


class Scorable(Protocol):
    """The reference that a reply is scored against; an evaluation's `Item` is one."""

    @property
    def rule(self) -> str:
        """Name of the scoring rule."""

    @property
    def question(self) -> Question:
        """The question with its accepted answers and options."""

    @property
    def reference(self) -> Mapping[str, Any]:
        """Further data that the rule needs."""


@dataclass(frozen=True)
class Need:
    """A part of an item's reference."""

    kind: TypeAdapter[Any]
    description: str


@dataclass(frozen=True)
class Rule:
    """One way to score replies."""

    score: Callable[[Scorable, str, bool], Metrics]
    """Called with the item, the raw reply and whether ROUGE is wanted."""
    metrics: tuple[str, ...]
    """Names of all metrics that it gives, ROUGE included; the headline is one of them."""
    headline: str
    """Metric shown first."""
    published: str | None = None
    """The published headline metric (HELMET's, BABILong's, ...), where `headline` is ours."""
    needs: Mapping[str, Need] = field(default_factory=dict)
    """Keys of the reference without which it cannot score."""
    takes: Mapping[str, Need] = field(default_factory=dict)
    """Optional keys of the reference."""
    needs_answers: bool = True
    """Whether it scores against the accepted answers."""


def _open(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    golds = item.question.answers
    prefix = str(item.reference.get("prefix", "Answer:"))
    metrics, _ = helmet.score_default(raw, golds, prefix=prefix, with_rouge=with_rouge)
    final = parse_final_answer(raw)
    return {
        "correct": answers.matches(final, golds),
        "word_match": answers.word_match(final, golds),
        **metrics,
    }


def _choice(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    letter = str(item.reference["letter"])
    options = item.question.options
    metrics, _ = helmet.score_choice(
        raw, letter, options[option_number(letter)], with_rouge=with_rouge
    )
    labels = item.reference.get("option_labels")
    return {"correct": answers.choice_match(raw, letter, options, labels), **metrics}


def _all_of(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    """RULER's rule: several strings are wanted at once."""
    golds = item.question.answers
    found = [answers.word_match(raw, [gold]) for gold in golds]
    return {
        "word_recall": sum(found) / len(found),
        "correct": float(all(found)),
        "ruler_recall": helmet.ruler_recall(raw, golds),
    }


def _label(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    gold = item.question.answers[0]
    metrics, _ = helmet.score_label(raw, gold, with_rouge=with_rouge)
    final = re.split(r"label\s*:", raw, flags=re.IGNORECASE)[-1].strip()
    said = final.splitlines()[0] if final else ""
    return {"correct": answers.matches(parse_final_answer(said), [gold]), **metrics}


def _ranking(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    labels: Mapping[str, int] = item.reference["labels"]
    metrics, _ = helmet.score_ranking(raw, labels, item.reference["cuts"])
    metrics.pop("num_preds")
    return metrics


def _unicode(raw: str, golds: Golds) -> Metrics:
    return {f"unicode_{name}": value for name, value in rouge.unicode_rouge(raw, golds).items()}


def _summary(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    golds = item.question.answers
    prefix = str(item.reference.get("prefix", "Answer:"))
    metrics, _ = helmet.score_default(raw, golds, prefix=prefix, with_rouge=True)
    return {**metrics, **_unicode(raw, golds)}


def _long_answer(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    return {**_open(item, raw, True), **_unicode(raw, item.question.answers)}


def _string_em(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    output = helmet.remove_citations(helmet.clean_alce(raw))
    groups = item.reference["groups"]
    share, hit = helmet.string_em(output, groups)
    found = [bool(group) and answers.word_match(output, group) for group in groups]
    return {"str_em": share, "str_hit": hit, "word_em": sum(found) / len(found)}


def _qampari(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    output = helmet.remove_citations(helmet.clean_alce(raw))
    metrics = helmet.qampari_scores(output, item.reference["groups"])
    metrics.pop("num_preds")
    return metrics


def _set_f1(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    """GraphWalks' rule: the reply ends in `Final Answer: [a, b]`, a set against a set.

    A reply whose last line holds no such list names no set and scores 0. Where the right set is
    empty, a reply that names an empty one scores 1, and so does an empty reply. Corrected, the last
    list after any `Answer:` counts, on any line, and an empty set must be written out.
    """
    golds = set(item.reference["nodes"])
    said = _listed_nodes(_FINAL_LIST, (raw.rstrip().splitlines() or [""])[-1])
    empty = not golds and not raw.strip()
    final = _listed_nodes(_ANY_LIST, raw)
    return {
        "final_f1": _f1_of_sets(final, golds),
        "correct": float(final == golds),
        "set_f1": float(empty) if said is None else _f1_of_sets(said, golds),
    }


def _listed_nodes(form: re.Pattern[str], text: str) -> set[str] | None:
    """Returns the entries of the last list of a form; None without one."""
    lists = form.findall(text)
    return {part.strip().strip("'\"`") for part in lists[-1].split(",")} - {""} if lists else None


def _f1_of_sets(said: set[str] | None, golds: set[str]) -> float:
    if said is None or not (said and golds):
        return float(said == golds)
    return 2 * len(said & golds) / (len(said) + len(golds))


def _only_label(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    """BABILong's rule: in the first sentence, the target is the only label not in the question.

    Only a full stop ends a sentence; of it, what precedes the mark of an example counts.
    """
    labels = [str(label).lower() for label in item.reference["labels"]]
    target = item.question.answers[0].lower()
    asked = item.question.text.lower()
    first = raw.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    said = {label for label in labels if label in first and label not in asked}
    final = answers.matches(parse_final_answer(raw), item.question.answers)
    return {"correct": float(final), "babilong": float(said == {target})}


def _recite(item: Scorable, raw: str, with_rouge: bool) -> Metrics:
    """MRCR's rule: the similarity of what follows the prefix; 0 for a reply without the prefix.

    Corrected, the prefix may follow an `Answer:`, where all methods but `helmet` are asked to write
    it.
    """
    prefix = str(item.reference["prefix"])
    wanted = item.question.answers[0].removeprefix(prefix)
    final = (after_label(raw) or raw).strip(" \t\r\n*_`\"'")
    is_recited = final.removeprefix(prefix).strip() == wanted.strip()
    return {
        "final_ratio": _similarity(final, prefix, wanted),
        "correct": float(final.startswith(prefix) and is_recited),
        "mrcr": _similarity(raw, prefix, wanted),
    }


def _similarity(text: str, prefix: str, wanted: str) -> float:
    if not text.startswith(prefix):
        return 0.0
    return difflib.SequenceMatcher(None, text.removeprefix(prefix), wanted).ratio()


_TEXTS = Annotated[tuple[str, ...], Field(min_length=1)]
_PREFIX = {"prefix": Need(TypeAdapter(str), "the answer's label")}
GROUPS = Need(
    TypeAdapter(Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)]),
    "lists of equivalent answers; in HELMET's files from qa_pairs or answers",
)
_GROUPS = {"groups": GROUPS}
_TEXT = (*helmet.TEXT_METRICS, *rouge.METRICS)
_OPEN = ("correct", "word_match", *_TEXT)
_UNICODE = tuple(f"unicode_{name}" for name in rouge.METRICS)

RULES: dict[str, Rule] = {
    "open": Rule(_open, _OPEN, "correct", "substring_exact_match", takes=_PREFIX),
    "long_answer": Rule(_long_answer, (*_OPEN, *_UNICODE), "correct", "rougeL_f1", takes=_PREFIX),
    "choice": Rule(
        _choice,
        ("correct", *_TEXT),
        "correct",
        "exact_match",
        needs={"letter": Need(TypeAdapter(str), "the right option's letter, with options")},
        takes={"option_labels": Need(TypeAdapter(_TEXTS), "what the options were called")},
        needs_answers=False,
    ),
    "all_of": Rule(
        _all_of, ("word_recall", "correct", "ruler_recall"), "word_recall", "ruler_recall"
    ),
    "label": Rule(_label, ("correct", *_TEXT), "correct", "exact_match"),
    "ranking": Rule(
        _ranking,
        helmet.RANKING_METRICS,
        "NDCG@10",
        "NDCG@10",
        needs={
            "labels": Need(TypeAdapter(dict[str, int]), "passage ids to labels; HELMET's qrel"),
            "cuts": Need(TypeAdapter(tuple[int, ...]), "the ranks to measure at"),
        },
        needs_answers=False,
    ),
    "summary": Rule(_summary, (*_TEXT, *_UNICODE), "rougeLsum_f1", "rougeLsum_f1", takes=_PREFIX),
    "string_em": Rule(
        _string_em,
        ("str_em", "str_hit", "word_em"),
        "str_em",
        "str_em",
        needs=_GROUPS,
        needs_answers=False,
    ),
    "qampari": Rule(
        _qampari,
        helmet.QAMPARI_METRICS,
        "qampari_rec_top5",
        "qampari_rec_top5",
        needs=_GROUPS,
        needs_answers=False,
    ),
    "set_f1": Rule(
        _set_f1,
        ("final_f1", "correct", "set_f1"),
        "final_f1",
        "set_f1",
        needs={"nodes": Need(TypeAdapter(tuple[str, ...]), "the right set")},
        needs_answers=False,
    ),
    "only_label": Rule(
        _only_label,
        ("correct", "babilong"),
        "correct",
        "babilong",
        needs={"labels": Need(TypeAdapter(_TEXTS), "every possible label")},
    ),
    "recite": Rule(
        _recite,
        ("final_ratio", "correct", "mrcr"),
        "final_ratio",
        "mrcr",
        needs={"prefix": Need(TypeAdapter(str), "what the reply starts with")},
    ),
}


def metric_names() -> tuple[str, ...]:
    """Returns the names of all metrics that scoring rules and judges give, in rule order."""
    names = dict.fromkeys(name for rule in RULES.values() for name in rule.metrics)
    return (*names, *JUDGED_METRICS)


def find_rule(name: str) -> Rule:
    """Returns a rule by name.

    Raises:
        UsageError: The rule is unknown.
    """
    return RULES[require_known(name, RULES, kind="scoring rule", error=UsageError)]


def stored_reference(item: Scorable) -> dict[str, Any]:
    """Returns the part of an item's reference that its rule looks at: never a passage."""
    rule = find_rule(item.rule)
    return {key: item.reference[key] for key in (*rule.needs, *rule.takes) if key in item.reference}


def check_reference(item: Scorable) -> dict[str, Any]:
    """Returns what the rule of an item of other origin looks at, in the right types.

    Raises:
        UsageError: Something that the rule needs is missing or of the wrong type.
    """
    rule = find_rule(item.rule)
    if rule.needs_answers and not item.question.answers:
        raise UsageError(f"the rule {item.rule} needs a gold answer")
    reference: dict[str, Any] = {}
    for key, need in {**rule.needs, **rule.takes}.items():
        if key in item.reference:
            try:
                reference[key] = need.kind.validate_python(item.reference[key])
            except ValidationError:
                raise UsageError(f"{key!r} cannot be read as {need.description}") from None
        elif key in rule.needs:
            raise UsageError(f"the rule {item.rule} needs {key!r} ({need.description})")
    if item.rule == "choice":
        letters = [option_letter(number) for number in range(len(item.question.options))]
        if not letters:
            raise UsageError("the rule choice needs options")
        if reference["letter"] not in letters:
            known = f"{letters[0]} to {letters[-1]}"
            raise UsageError(f"the letter {reference['letter']!r} is not one of {known}")
    return reference


def score(item: Scorable, raw: str, *, with_rouge: bool = False) -> Metrics:
    """Scores one raw reply by the item's rule; all values are floats in [0, 1].

    Thinking is stripped first; a reply that is nothing but thinking has no answer.
    """
    metrics = find_rule(item.rule).score(item, strip_thinking(raw), with_rouge)
    return {name: float(value) for name, value in metrics.items()}
