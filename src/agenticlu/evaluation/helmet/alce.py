"""ALCE's figures over a result file, as HELMET's eval_alce.py gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from agenticlu.core.records import content_seed
from agenticlu.evaluation.helmet.entailment import EntailsMany, Pair
from agenticlu.evaluation.helmet.sentences import find_splitter
from agenticlu.evaluation.rules import GROUPS
from agenticlu.evaluation.saved import Result
from agenticlu.evaluation.scoring import alce, rouge

MIN_SENTENCE = 5
"""Sentences of fewer characters are dropped, as '1.' is taken for one."""
NUM_RESAMPLES = 1000
SHOWN = "_shown"
"""Ending of the corrected citation figures: ids are valid from 1 to the passages shown."""

Row = Mapping[str, Any]


def num_shown(file_name: str) -> int | None:
    """Returns how many passages a result file's prompts had, from its name; None if it is silent.

    >>> num_shown("alce_asqa_30_v1_asqa_eval_gtr_top2000_in8192_size100.json")
    30
    """
    found = re.match(r"alce_[a-z]+_(\d+)_", file_name)
    return int(found[1]) if found else None


def check_rows(result: Result, task: str) -> None:
    """Raises ConfigError for a row that lacks what ALCE's figures need."""
    for index in range(len(result.rows)):
        result.value(index, "output", str)
        for passage in result.value(index, "docs", list):
            if not (isinstance(passage, dict) and {"title", "text"} <= set(passage)):
                result.refuse(index, "docs")
        if task.startswith("alce_qampari"):
            result.value(index, "question", str)
        for annotation in result.rows[index].get("annotations") or []:
            if not (isinstance(annotation, dict) and "long_answer" in annotation):
                result.refuse(index, "annotations")
        try:
            GROUPS.kind.validate_python(_groups(task, result.rows[index]))
        except (KeyError, TypeError, ValidationError):
            result.refuse(index, "answers" if task.startswith("alce_qampari") else "qa_pairs")


def _groups(task: str, row: Row) -> list[list[str]]:
    if task.startswith("alce_qampari"):
        return list(row["answers"])
    return [pair["short_answers"] for pair in row["qa_pairs"]]


def score_rows(
    task: str,
    rows: Sequence[Row],
    entails: EntailsMany | None = None,
    *,
    num_shown: int | None = None,
) -> dict[str, Any]:
    """Returns the averages (x 100 but for length and num_preds) and which sentences they rest on.

    Args:
        task: alce_asqa or alce_qampari.
        rows: With `output`, `docs` and the task's golds.
        entails: Inference model for citations; None leaves them out.
        num_shown: Passages of a prompt; None takes those of the row.
    """
    import numpy as np

    raw = [alce.clean_alce(row["output"]) for row in rows]
    plain = [alce.remove_citations(text) for text in raw]
    groups = [_groups(task, row) for row in rows]
    result: dict[str, Any] = {"length": float(np.mean([len(text.split()) for text in plain]))}
    if task.startswith("alce_qampari"):
        # HELMET's script looks for sub-questions, which these rows lack, and writes zeros.
        result |= {"str_em": 0.0, "str_hit": 0.0}
        lists = [alce.qampari_scores(*pair) for pair in zip(plain, groups, strict=True)]
        for name in lists[0]:
            scale = 1 if name == "num_preds" else 100
            result[name] = scale * float(np.mean([scores[name] for scores in lists]))
    else:
        pairs = [alce.string_em(*pair) for pair in zip(plain, groups, strict=True)]
        result["str_em"] = 100 * float(np.mean([share for share, _ in pairs]))
        result["str_hit"] = 100 * float(np.mean([hit for _, hit in pairs]))
        result["rougeLsum"] = 100 * _rouge(plain, rows)
        result["sentence_splitter"] = find_splitter().name
    if entails is not None:
        result |= citation_averages(task, raw, rows, entails, num_shown)
    return result


def _rouge(texts: Sequence[str], rows: Sequence[Row]) -> float:
    """Returns the bootstrap median of the better of two long answers, from a fixed seed."""
    import numpy as np

    def lines(text: str) -> str:
        return "\n".join(find_splitter().split(text.lower()))

    values = []
    for text, row in zip(texts, rows, strict=True):
        golds = [a["long_answer"] for a in (row.get("annotations") or [])[:2]]
        golds = golds or [str(row.get("answer", ""))]
        values.append(max(rouge.rouge_lsum(lines(text), lines(gold)) for gold in golds))
    rng = np.random.default_rng(content_seed("alce rouge"))
    draws = rng.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    return float(np.percentile(np.array(values)[draws].mean(axis=1), 50))


class _Verdicts:
    """Verdicts so far; what is not known yet counts as no and is asked in the next batch."""

    def __init__(self) -> None:
        self.known: dict[Pair, bool] = {}
        self.open: dict[Pair, None] = {}

    def __call__(self, premise: str, hypothesis: str) -> bool:
        pair = (premise, hypothesis)
        if pair not in self.known:
            self.open[pair] = None
        return self.known.get(pair, False)

    def settle(self, entails: EntailsMany) -> bool:
        """Asks for what is open; False where nothing is."""
        asked = list(self.open)
        if asked:
            self.known |= dict(zip(asked, entails(asked), strict=True))
        self.open.clear()
        return bool(asked)


def citation_averages(
    task: str,
    outputs: Sequence[str],
    rows: Sequence[Row],
    entails: EntailsMany,
    num_shown: int | None = None,
) -> dict[str, Any]:
    """Returns citation_rec and citation_prec (x 100), and how often each position is cited.

    HELMET's rule stands under HELMET's names. Beside them, with `_shown` at the end, stand the
    figures where only the ids 1 to K of the passages shown are valid.
    """
    import numpy as np

    sentences = [_sentences(task, text, row) for text, row in zip(outputs, rows, strict=True)]
    shown = [num_shown or len(row["docs"]) for row in rows]
    verdicts = _Verdicts()

    def averages(limits: Sequence[int | None]) -> tuple[float, float]:
        found = [
            alce.citation_scores(lines, row["docs"], verdicts, num_shown=limit)
            for lines, row, limit in zip(sentences, rows, limits, strict=True)
        ]
        scored = [one for one in found if one is not None]
        recall, precision = (
            100 * float(np.mean([one[name] for one in scored])) if scored else 0.0
            for name in ("citation_rec", "citation_prec")
        )
        return recall, precision

    while True:  # what is asked depends on earlier verdicts: three batches at most
        published, corrected = averages([None] * len(rows)), averages(shown)
        if not verdicts.settle(entails):
            break
    positions: dict[str, int] = {}
    for found in re.findall(r"\[\d+", " ".join(line for lines in sentences for line in lines)):
        place = str(int(found[1:]) - 1)
        positions[place] = positions.get(place, 0) + 1
    return {
        "citation_rec": published[0],
        "citation_prec": published[1],
        f"citation_rec{SHOWN}": corrected[0],
        f"citation_prec{SHOWN}": corrected[1],
        "citation_positions": positions,
        "sentence_splitter": find_splitter().name,
    }


def _sentences(task: str, output: str, row: Row) -> list[str]:
    """Returns what citations are counted in, citations still in."""
    if task.startswith("alce_qampari"):
        parts = output.rstrip().rstrip(".").rstrip(",").split(",")
        return [f"{row['question']} {part.strip()}" for part in parts]
    return [s for s in find_splitter().split(output) if len(s.strip()) >= MIN_SENTENCE]
