"""ALCE's measures of cited answers, as HELMET runs them, and corrected ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from agenticlu.evaluation.scoring.helmet import normalize


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
        cited = [int(found[1:]) - 1 for found in re.findall(r"\[\d+", sentence)]
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
