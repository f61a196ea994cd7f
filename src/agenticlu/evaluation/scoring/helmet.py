"""HELMET's and ALCE's metrics of texts, their output parsers and the rules built on both."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agenticlu.evaluation.scoring.answers import Golds, flat_golds
from agenticlu.evaluation.scoring.rouge import rouge

TEXT_METRICS = ("exact_match", "f1", "substring_exact_match")
"""Names that `text_metrics` gives besides ROUGE's."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED_ANSWERS = ("yes", "no", "noanswer")


def normalize(text: str) -> str:
    """Returns HELMET's normal form: lower case, no ASCII punctuation, no articles, single spaces.

    Punctuation is deleted, not replaced, so that words joined by a hyphen become one.

    >>> normalize("The well-known  Clock, an heirloom.")
    'wellknown clock heirloom'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Golds) -> bool:
    """Whether prediction and a gold are equal after `normalize` (HELMET)."""
    predicted = normalize(prediction)
    return any(predicted == normalize(gold) for gold in flat_golds(golds))


def substring_exact_match(prediction: str, golds: Golds) -> bool:
    """Whether a normalized gold is a character substring of the normalized prediction (HELMET).

    A gold that normalizes to nothing always matches, and short golds match inside words; see
    `word_match` for the corrected twin.
    """
    predicted = normalize(prediction)
    return any(normalize(gold) in predicted for gold in flat_golds(golds))


def f1(prediction: str, golds: Golds) -> float:
    """Returns the best bag-of-words F1 over the golds (HELMET)."""
    return max(_f1_of_one(prediction, gold) for gold in flat_golds(golds))


def _f1_of_one(prediction: str, gold: str) -> float:
    predicted, wanted = normalize(prediction), normalize(gold)
    if predicted != wanted and (predicted in _CLOSED_ANSWERS or wanted in _CLOSED_ANSWERS):
        return 0
    predicted_words, wanted_words = predicted.split(), wanted.split()
    num_shared = sum((Counter(predicted_words) & Counter(wanted_words)).values())
    if num_shared == 0:
        return 0
    precision = num_shared / len(predicted_words)
    recall = num_shared / len(wanted_words)
    return (2 * precision * recall) / (precision + recall)


def text_metrics(prediction: str, golds: Golds, *, with_rouge: bool = True) -> dict[str, float]:
    """Returns HELMET's `calculate_metrics`: exact_match, f1, substring_exact_match and ROUGE."""
    metrics: dict[str, float] = {
        "exact_match": exact_match(prediction, golds),
        "f1": f1(prediction, golds),
        "substring_exact_match": substring_exact_match(prediction, golds),
    }
    return metrics | (rouge(prediction, golds) if with_rouge else {})


def parse_output(text: str, prefix: str = "Answer:") -> str:
    r"""Returns what follows the *first* `prefix` on its line, or else the first line (HELMET).

    >>> parse_output("I think so. answer: Answer: the Sabel Strait.\nAnswer: no")
    'the Sabel Strait.'
    >>> parse_output("Answer:\nOona Pellisk")
    ''
    """
    found = re.search(f"(?:{prefix})(.*)(?:\n|$)", text, re.IGNORECASE)
    if found is None:
        found = re.search("^(.*)(?:\n|$)", text)
        assert found is not None
    return re.sub(f"^{re.escape(prefix)}", "", found[1].strip(), flags=re.IGNORECASE).strip()


_RANKING = re.compile(r"(\d+)(?:\s*>\s*(\d+))*")


def parse_rankings(text: str) -> dict[str, float]:
    """Returns passage id to score from a written ranking (HELMET): the longest `7 > 3 > 5`.

    >>> parse_rankings("Ranking: [ID7] > [ID3] > ID7 > 5, of 120")
    {'7': 4, '3': 3, '5': 1}
    """
    plain = re.sub(r"[\[\]:]", "", text).lower().replace("id", "")
    longest = ""
    for found in _RANKING.finditer(plain):
        if len(found.group(0)) > len(longest):
            longest = found.group(0)
    ids = [part.strip() for part in longest.split(">") if part.strip().isdigit()] if longest else []
    if not longest:
        ids = [plain]
    scores: dict[str, float] = {}
    for position, name in enumerate(ids):
        scores.setdefault(name, len(ids) - position)
    return scores


RANKING_CUTS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
RANKING_METRICS = (
    *(f"{name}@{cut}" for name in ("NDCG", "MAP", "Recall", "P") for cut in RANKING_CUTS),
    "MRR",
)
"""Names that `ranking_measures` gives at all cuts."""


def ranking_cuts(num_passages: int) -> tuple[int, ...]:
    """Returns the cuts k that HELMET reports for a file whose first row has `num_passages`."""
    return tuple(k for k in RANKING_CUTS if k <= num_passages)


def ranking_measures(
    scores: Mapping[str, float], labels: Mapping[str, int], cuts: Sequence[int] = RANKING_CUTS
) -> dict[str, float]:
    """Returns NDCG, MAP, Recall and P at each cut, and MRR, of one row, as trec_eval does.

    Order: score descending, then id descending as a string. Gain is linear in the label. Values
    are rounded to 5 decimals, as HELMET rounds each row's.

    >>> ranking_measures({"7": 2, "3": 1}, {"3": 2, "7": 0, "9": 1}, cuts=[1, 5])["NDCG@5"]
    0.47962
    """
    order = sorted(scores, key=lambda name: (scores[name], name), reverse=True)
    gains = [max(labels.get(name, 0), 0) for name in order]
    ideal = sorted((label for label in labels.values() if label > 0), reverse=True)
    num_relevant = len(ideal)
    measures: dict[str, float] = {}

    def discounted(values: Sequence[int], cut: int) -> float:
        total = 0.0
        for rank, value in enumerate(values[:cut], start=1):
            total += value / math.log2(rank + 1)
        return total

    for name in ("NDCG", "MAP", "Recall", "P"):
        for cut in cuts:
            if num_relevant == 0:
                value = 0.0
            elif name == "NDCG":
                value = discounted(gains, cut) / discounted(ideal, cut)
            elif name == "MAP":
                value = _sum_of_precisions(gains[:cut]) / num_relevant
            else:
                num_hits = sum(gain > 0 for gain in gains[:cut])
                value = num_hits / (num_relevant if name == "Recall" else cut)
            measures[f"{name}@{cut}"] = round(value, 5)
    first = next((rank for rank, gain in enumerate(gains, start=1) if gain > 0), None)
    measures["MRR"] = round(1 / first, 5) if first and num_relevant else 0.0
    return measures


def _sum_of_precisions(gains: Sequence[int]) -> float:
    total, num_hits = 0.0, 0
    for rank, gain in enumerate(gains, start=1):
        if gain > 0:
            num_hits += 1
            total += num_hits / rank
    return total


def ruler_recall(prediction: str, golds: Sequence[str]) -> float:
    """Returns the share of golds that occur in the prediction, in any case (HELMET, RULER)."""
    golds = flat_golds(golds)
    lowered = prediction.lower()
    return sum(gold.lower() in lowered for gold in golds) / len(golds)


Scored = tuple[dict[str, float], Any]
"""Metric to value, and what was parsed from the output."""


def _best_of(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {name: max(value, second[name]) for name, value in first.items()}


def score_default(
    output: str, golds: Golds, *, prefix: str = "Answer:", with_rouge: bool = True
) -> Scored:
    """Scores as HELMET's default post-processing: the best of raw and parsed, per metric."""
    parsed = parse_output(output, prefix)
    raw = text_metrics(output, golds, with_rouge=with_rouge)
    if parsed == output:
        return raw, parsed
    return _best_of(raw, text_metrics(parsed, golds, with_rouge=with_rouge)), parsed


def score_label(output: str, gold: str, *, with_rouge: bool = True) -> Scored:
    """Scores an in-context-learning row: what follows `label:`, and nothing else (HELMET)."""
    parsed = parse_output(output, "label:")
    return text_metrics(parsed, gold, with_rouge=with_rouge), parsed


def score_ruler(output: str, golds: Sequence[str]) -> Scored:
    """Scores a RULER row: `ruler_recall` of the raw output, the only metric (HELMET)."""
    return {"ruler_recall": ruler_recall(output, golds)}, output


def score_choice(output: str, letter: str, option: str, *, with_rouge: bool = True) -> Scored:
    """Scores a multiple choice row by HELMET's rule.

    Golds are the letter and `{letter}. {option}`; only the second may also match as a substring,
    in the raw output and without normalizing.
    """
    spelled = f"{letter}. {option}"
    metrics, parsed = score_default(output, [letter, spelled], with_rouge=with_rouge)
    metrics["substring_exact_match"] = spelled.lower() in output.lower()
    if metrics["substring_exact_match"]:
        metrics["exact_match"] = True
    return metrics, parsed


def score_ranking(output: str, labels: Mapping[str, int], cuts: Sequence[int]) -> Scored:
    """Scores a re-ranking row: trec measures and `num_preds` (HELMET)."""
    parsed = parse_rankings(output)
    return {**ranking_measures(parsed, labels, cuts), "num_preds": len(parsed)}, parsed


class Entails(Protocol):
    """A natural language inference model."""

    def __call__(self, premise: str, hypothesis: str) -> bool:
        """Returns whether the premise entails the hypothesis."""
        ...


def clean_alce(output: str) -> str:
    """Returns an ALCE output as HELMET scores it: line ends to one space, chat marks removed."""
    return re.sub(r"\n+", " ", output).replace("<|im_end|>", "")


def remove_citations(text: str) -> str:
    """Removes `[1][2]` citations as ALCE does.

    >>> remove_citations("It ended in 1871 [1][12].")
    'It ended in 1871.'
    """
    without = re.sub(r"\[\d+", "", re.sub(r" \[\d+", "", text))
    return without.replace(" |", "").replace("]", "")


def string_em(output: str, groups: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Returns ALCE's (str_em, str_hit) of one citation-free output, in [0, 1].

    Args:
        output: The text, citations removed.
        groups: Short answers per sub-question.
    """
    import numpy as np

    plain = normalize(output)
    present = [any(normalize(answer) in plain for answer in group) for group in groups]
    share = float(np.mean(present))
    return share, float(share == 1)


QAMPARI_METRICS = (
    "qampari_prec",
    "qampari_rec",
    "qampari_rec_top5",
    "qampari_f1",
    "qampari_f1_top5",
)
"""Names that `qampari_scores` gives besides num_preds."""


def qampari_scores(output: str, groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns ALCE's list measures of one citation-free output, in [0, 1], and num_preds.

    Args:
        output: Comma-separated answers.
        groups: Aliases per gold answer.
    """
    parts = output.rstrip().rstrip(".").rstrip(",").split(",")
    predicted = [name for name in (normalize(part.strip()) for part in parts) if name]
    wanted = [[normalize(alias) for alias in group] for group in groups]
    aliases = {alias for group in wanted for alias in group}
    num_hits = sum(any(alias in predicted for alias in group) for group in wanted)
    precision = sum(name in aliases for name in predicted) / len(predicted) if predicted else 0
    recall = num_hits / len(wanted)
    recall_top5 = min(5, num_hits) / min(5, len(wanted))

    def harmonic(p: float, r: float) -> float:
        return 0 if p + r == 0 else 2 * p * r / (p + r)

    return {
        "num_preds": len(predicted),
        "qampari_prec": precision,
        "qampari_rec": recall,
        "qampari_rec_top5": recall_top5,
        "qampari_f1": harmonic(precision, recall),
        "qampari_f1_top5": harmonic(precision, recall_top5),
    }


def citation_scores(
    sentences: Sequence[str],
    passages: Sequence[Mapping[str, str]],
    entails: Entails,
    *,
    num_shown: int | None = None,
    at_most: int = 3,
) -> dict[str, float] | None:
    """Returns ALCE's citation recall and precision of one row, or None without a sentence.

    Args:
        sentences: Of the raw output, citations still in; for lists, question and item joined.
        passages: `title` and `text` of each passage of the row.
        entails: The inference model, called with premise and hypothesis.
        num_shown: Passages the model saw. None keeps HELMET's rule (defects: `[0]` silently means
            the last passage, and ids beyond those shown pass); a number makes 1..num_shown the
            only valid ids.
        at_most: Citations of a sentence that count.
    """
    if not sentences:
        return None
    num_entailed = num_useful = num_cited = 0

    def premise(ids: Sequence[int]) -> str:
        return "\n".join(f"Title: {passages[i]['title']}\n{passages[i]['text']}" for i in ids)

    for sentence in sentences:
        claim = remove_citations(sentence).strip()
        cited = [int(found[1:]) - 1 for found in re.findall(r"\[\d{1,9}", sentence)]
        if num_shown is None:
            valid = bool(cited) and all(i < len(passages) for i in cited)
        else:
            valid = bool(cited) and all(0 <= i < min(num_shown, len(passages)) for i in cited)
        if not valid:
            continue
        cited = cited[:at_most]
        num_cited += len(cited)
        joint = entails(premise(cited), claim)
        num_entailed += joint
        if not joint or len(cited) == 1:
            num_useful += joint
            continue
        for i in cited:
            rest = list(cited)
            rest.remove(i)
            num_useful += entails(premise([i]), claim) or not entails(premise(rest), claim)
    return {
        "citation_rec": num_entailed / len(sentences),
        "citation_prec": num_useful / num_cited if num_cited else 0,
    }
