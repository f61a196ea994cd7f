"""How well a reply points back: cited pieces against gold ones."""

from __future__ import annotations

from collections.abc import Collection


def piece_scores(cited: Collection[int], gold: Collection[int]) -> dict[str, float]:
    """Returns precision, recall and full recall of cited pieces against gold ones.

    Precision of no citation is 0, as it found nothing that it could have found.
    """
    assert gold, "a question without gold pieces has no pointback score"
    hits = len(set(cited) & set(gold))
    return {
        "point_precision": hits / len(set(cited)) if cited else 0.0,
        "point_recall": hits / len(set(gold)),
        "point_complete": float(hits == len(set(gold))),
    }
