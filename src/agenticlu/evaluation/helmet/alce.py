"""ALCE's figures over a result file, as HELMET's eval_alce.py gives them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agenticlu import scoring
from agenticlu.errors import missing_dependency
from agenticlu.records import content_seed

NLI_MODEL = "google/t5_xxl_true_nli_mixture"
MIN_SENTENCE = 5
"""Sentences of fewer characters are dropped, as '1.' is taken for one."""
NUM_RESAMPLES = 1000

Row = Mapping[str, Any]


def split_sentences(text: str) -> list[str]:
    """Returns sentences by nltk's punkt, or by a plain rule where its data is not installed."""
    try:
        nltk = importlib.import_module("nltk")
        sentences: list[str] = nltk.sent_tokenize(text)
    except (ModuleNotFoundError, LookupError):
        sentences = [
            part for part in re.split(r"(?<=[.!?])\s+(?=[\"'“(\[]?[A-Z0-9])", text) if part
        ]
    return sentences


def num_shown(file_name: str) -> int | None:
    """Returns how many passages a result file's prompts had, from its name; None if it is silent.

    >>> num_shown("alce_asqa_30_v1_asqa_eval_gtr_top2000_in8192_size100.json")
    30
    """
    found = re.match(r"alce_[a-z]+_(\d+)_", file_name)
    return int(found[1]) if found else None


def score_rows(
    task: str,
    rows: Sequence[Row],
    entails: scoring.Entails | None = None,
    *,
    num_shown: int | None = None,
) -> dict[str, Any]:
    """Returns the averages (x 100 but for length and num_preds).

    Args:
        task: alce_asqa or alce_qampari.
        rows: With `output`, `docs` and the task's golds.
        entails: Inference model for citations; None leaves them out.
        num_shown: As in `scoring.citation_scores`; None keeps HELMET's rule.
    """
    import numpy as np

    raw = [scoring.clean_alce(row["output"]) for row in rows]
    plain = [scoring.remove_citations(text) for text in raw]
    result: dict[str, Any] = {"length": float(np.mean([len(text.split()) for text in plain]))}
    if task.startswith("alce_qampari"):
        found = [
            scoring.qampari_scores(text, row["answers"])
            for text, row in zip(plain, rows, strict=True)
        ]
        for name in found[0]:
            scale = 1 if name == "num_preds" else 100
            result[name] = scale * float(np.mean([scores[name] for scores in found]))
    else:
        pairs = [
            scoring.string_em(text, [pair["short_answers"] for pair in row["qa_pairs"]])
            for text, row in zip(plain, rows, strict=True)
        ]
        result["str_em"] = 100 * float(np.mean([share for share, _ in pairs]))
        result["str_hit"] = 100 * float(np.mean([hit for _, hit in pairs]))
        result["rougeLsum"] = 100 * _rouge(plain, rows)
    if entails is not None:
        result |= citation_averages(task, raw, rows, entails, num_shown)
    return result


def _rouge(texts: Sequence[str], rows: Sequence[Row]) -> float:
    """Returns the bootstrap median of the better of two long answers, from a fixed seed."""
    import numpy as np

    def lines(text: str) -> str:
        return "\n".join(split_sentences(text.lower()))

    values = []
    for text, row in zip(texts, rows, strict=True):
        golds = [a["long_answer"] for a in (row.get("annotations") or [])[:2]]
        golds = golds or [str(row.get("answer", ""))]
        values.append(max(scoring.rouge_lsum(lines(text), lines(gold)) for gold in golds))
    rng = np.random.default_rng(content_seed("alce rouge"))
    draws = rng.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    return float(np.percentile(np.array(values)[draws].mean(axis=1), 50))


def citation_averages(
    task: str,
    outputs: Sequence[str],
    rows: Sequence[Row],
    entails: scoring.Entails,
    num_shown: int | None = None,
) -> dict[str, Any]:
    """Returns citation_rec, citation_prec (x 100) and how often each position is cited."""
    import numpy as np

    recalls, precisions = [], []
    positions: dict[str, int] = {}
    for output, row in zip(outputs, rows, strict=True):
        if task.startswith("alce_qampari"):
            parts = output.rstrip().rstrip(".").rstrip(",").split(",")
            sentences = [f"{row['question']} {part.strip()}" for part in parts]
        else:
            sentences = [s for s in split_sentences(output) if len(s.strip()) >= MIN_SENTENCE]
        for found in re.findall(r"\[\d+", " ".join(sentences)):
            place = str(int(found[1:]) - 1)
            positions[place] = positions.get(place, 0) + 1
        scores = scoring.citation_scores(sentences, row["docs"], entails, num_shown=num_shown)
        if scores is not None:
            recalls.append(scores["citation_rec"])
            precisions.append(scores["citation_prec"])
    return {
        "citation_rec": 100 * float(np.mean(recalls)) if recalls else 0,
        "citation_prec": 100 * float(np.mean(precisions)) if precisions else 0,
        "citation_positions": positions,
    }


class T5Entails:
    """The inference model that ALCE uses, run here.

    Args:
        model: Folder or hub id of a T5 that answers `premise: ... hypothesis: ...` with 1 or 0.
    """

    def __init__(self, model: str = NLI_MODEL) -> None:
        try:
            transformers = importlib.import_module("transformers")
        except ModuleNotFoundError as error:
            raise missing_dependency("transformers", "local") from error
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self._model = transformers.AutoModelForSeq2SeqLM.from_pretrained(model)

    def __call__(self, premise: str, hypothesis: str) -> bool:
        """Returns whether the premise entails the hypothesis."""
        text = f"premise: {premise} hypothesis: {hypothesis}"
        inputs = self._tokenizer(text, return_tensors="pt").to(self._model.device)
        output = self._model.generate(**inputs, max_new_tokens=10)
        reply: str = self._tokenizer.decode(output[0], skip_special_tokens=True)
        return reply == "1"
