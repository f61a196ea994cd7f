"""Scoring rules by name: from one raw reply to metrics in [0, 1].

Each rule gives HELMET's figures under HELMET's names and a corrected one, `correct` or another
name of ours, beside them. ROUGE is computed only when asked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agenticlu import scoring
from agenticlu.errors import UsageError, did_you_mean
from agenticlu.evaluation.items import Item

Metrics = dict[str, float]


@dataclass(frozen=True)
class Rule:
    """One way to score replies."""

    score: Callable[[Item, str, bool], Metrics]
    """Called with the item, the raw reply and whether ROUGE is wanted."""
    headline: str
    """Metric shown first."""
    helmet: str | None = None
    """HELMET's own headline metric, where it has one for such rows."""


def _open(item: Item, raw: str, with_rouge: bool) -> Metrics:
    golds = item.question.answers
    prefix = str(item.reference.get("prefix", "Answer:"))
    metrics, _ = scoring.score_default(raw, golds, prefix=prefix, with_rouge=with_rouge)
    final = scoring.parse_final_answer(raw)
    return {
        "correct": scoring.matches(final, golds),
        "word_match": scoring.word_match(final, golds),
        **metrics,
    }


def _choice(item: Item, raw: str, with_rouge: bool) -> Metrics:
    letter = str(item.reference["letter"])
    options = item.question.options
    metrics, _ = scoring.score_choice(
        raw, letter, options[ord(letter) - ord("A")], with_rouge=with_rouge
    )
    return {"correct": scoring.choice_match(raw, letter, options), **metrics}


def _all_of(item: Item, raw: str, with_rouge: bool) -> Metrics:
    """Several strings are wanted at once, as in RULER."""
    golds = item.question.answers
    found = [scoring.word_match(raw, [gold]) for gold in golds]
    return {
        "word_recall": sum(found) / len(found),
        "correct": float(all(found)),
        "ruler_recall": scoring.ruler_recall(raw, golds),
    }


def _label(item: Item, raw: str, with_rouge: bool) -> Metrics:
    gold = item.question.answers[0]
    metrics, _ = scoring.score_label(raw, gold, with_rouge=with_rouge)
    final = re.split(r"label\s*:", raw, flags=re.IGNORECASE)[-1].strip()
    said = final.splitlines()[0] if final else ""
    return {"correct": scoring.matches(scoring.parse_final_answer(said), [gold]), **metrics}


def _ranking(item: Item, raw: str, with_rouge: bool) -> Metrics:
    labels: Mapping[str, int] = item.reference["labels"]
    metrics, _ = scoring.score_ranking(raw, labels, item.reference["cuts"])
    metrics.pop("num_preds")
    return metrics


def _unicode(raw: str, golds: scoring.Golds) -> Metrics:
    return {f"unicode_{name}": value for name, value in scoring.unicode_rouge(raw, golds).items()}


def _summary(item: Item, raw: str, with_rouge: bool) -> Metrics:
    golds = item.question.answers
    prefix = str(item.reference.get("prefix", "Answer:"))
    metrics, _ = scoring.score_default(raw, golds, prefix=prefix, with_rouge=True)
    return {**metrics, **_unicode(raw, golds)}


def _long_answer(item: Item, raw: str, with_rouge: bool) -> Metrics:
    return {**_open(item, raw, with_rouge), **_unicode(raw, item.question.answers)}


def _string_em(item: Item, raw: str, with_rouge: bool) -> Metrics:
    output = scoring.remove_citations(scoring.clean_alce(raw))
    groups = item.reference["groups"]
    share, hit = scoring.string_em(output, groups)
    found = [scoring.word_match(output, group) for group in groups]
    return {"str_em": share, "str_hit": hit, "word_em": sum(found) / len(found)}


def _qampari(item: Item, raw: str, with_rouge: bool) -> Metrics:
    output = scoring.remove_citations(scoring.clean_alce(raw))
    metrics = scoring.qampari_scores(output, item.reference["groups"])
    metrics.pop("num_preds")
    return metrics


def _set_f1(item: Item, raw: str, with_rouge: bool) -> Metrics:
    """The last `[a, b]` of the reply against a set; an empty gold wants an empty list."""
    golds = set(item.reference["nodes"])
    lists = re.findall(r"\[([^\[\]]*)\]", raw)
    said = {part.strip().strip("'\"") for part in lists[-1].split(",")} - {""} if lists else None
    if said is None:
        return {"set_f1": 0.0, "correct": 0.0}
    if not golds or not said:
        value = float(golds == said)
    else:
        hits = len(said & golds)
        value = 0.0 if not hits else 2 * hits / (len(said) + len(golds))
    return {"set_f1": value, "correct": float(said == golds)}


def _only_label(item: Item, raw: str, with_rouge: bool) -> Metrics:
    """BABILong's rule: in the first sentence, the target is the only label not in the question."""
    labels: tuple[str, ...] = item.reference["labels"]
    target = item.question.answers[0].lower()
    asked = item.question.text.lower()
    first = re.split(r"[.\n]", raw.strip().lower(), maxsplit=1)[0]
    said = {label for label in labels if label in first and label not in asked}
    final = scoring.matches(scoring.parse_final_answer(raw), item.question.answers)
    return {"babilong": float(said == {target}), "correct": float(final)}


def _recite(item: Item, raw: str, with_rouge: bool) -> Metrics:
    """MRCR's rule: the prefix first, then the likeness of what follows."""
    prefix = str(item.reference["prefix"])
    wanted = item.question.answers[0].removeprefix(prefix)
    if not raw.startswith(prefix):
        return {"mrcr": 0.0, "correct": 0.0}
    said = raw.removeprefix(prefix)
    ratio = difflib.SequenceMatcher(None, said, wanted).ratio()
    return {"mrcr": ratio, "correct": float(said.strip() == wanted.strip())}


RULES: dict[str, Rule] = {
    "open": Rule(_open, "correct", "substring_exact_match"),
    "long_answer": Rule(_long_answer, "correct", "rougeL_f1"),
    "choice": Rule(_choice, "correct", "exact_match"),
    "all_of": Rule(_all_of, "word_recall", "ruler_recall"),
    "label": Rule(_label, "correct", "exact_match"),
    "ranking": Rule(_ranking, "NDCG@10", "NDCG@10"),
    "summary": Rule(_summary, "rougeLsum_f1", "rougeLsum_f1"),
    "string_em": Rule(_string_em, "str_em", "str_em"),
    "qampari": Rule(_qampari, "qampari_rec_top5", "qampari_rec_top5"),
    "set_f1": Rule(_set_f1, "set_f1"),
    "only_label": Rule(_only_label, "babilong"),
    "recite": Rule(_recite, "mrcr"),
}


def score(item: Item, raw: str, *, with_rouge: bool = False) -> Metrics:
    """Scores one raw reply by the item's rule; all values are floats in [0, 1]."""
    if item.rule not in RULES:
        raise UsageError(
            f"There is no scoring rule {item.rule!r}. Rules: {', '.join(RULES)}.",
            hint=did_you_mean(item.rule, RULES),
        )
    metrics = RULES[item.rule].score(item, raw, with_rouge)
    return {name: float(value) for name, value in metrics.items()}
