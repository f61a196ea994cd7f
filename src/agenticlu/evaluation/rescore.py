"""Scores anyone's predictions without a model: JSONL rows, our own results, or HELMET's files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agenticlu.errors import ConfigError, UsageError, did_you_mean
from agenticlu.evaluation import rules
from agenticlu.evaluation.helmet.specs import SPECS
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.tables import percent, render_table
from agenticlu.records import Document, Prediction, Question, Record
from agenticlu.scoring import ranking_cuts
from agenticlu.statistics import Estimate, estimate_mean

REPLY_KEYS = ("prediction", "output", "raw", "response", "completion", "generated", "answer")
GOLD_KEYS = ("answers", "golds", "gold", "references", "reference", "target", "targets", "answer")
UNIT_KEYS = ("unit", "cluster", "document_id", "qid", "question_id")
_NOWHERE = Document.of("", "rescoring")


@dataclass(frozen=True)
class Reply:
    """One prediction with what it is scored against."""

    id: str
    item: Item | None
    """None when there is nothing to score it against."""
    text: str | None
    """None when there is no prediction."""
    problem: str | None = None


class ScoredRow(Record):
    """One row of the result."""

    id: str
    scores: dict[str, float] = Field(default_factory=dict)
    problem: str | None = None
    """Why it was not scored; None when it was."""


class ScoredFile(Record):
    """What a file of predictions scores."""

    path: str
    kind: str
    """jsonl, helmet or predictions."""
    metrics: dict[str, Estimate]
    num_scored: int
    num_unscored: int
    rows: tuple[ScoredRow, ...]


def score_file(path: Path, *, rule: str | None = None, with_rouge: bool = False) -> ScoredFile:
    """Scores a file; rows without prediction or gold are counted, never scored 0.

    Args:
        path: JSONL of `prediction` and `answers` (and perhaps `options`, `id`, `document_id`), a
            `predictions.jsonl` of ours, or HELMET's result JSON.
        rule: Scoring rule for all rows; None takes what each row calls for.
        with_rouge: Compute ROUGE too.
    """
    if rule is not None and rule not in rules.RULES:
        raise UsageError(
            f"There is no scoring rule {rule!r}. Rules: {', '.join(rules.RULES)}.",
            hint=did_you_mean(rule, rules.RULES),
        )
    kind, replies = read_replies(path, rule)
    rows = []
    clusters: list[str] = []
    for reply in replies:
        if reply.item is None or reply.text is None:
            rows.append(ScoredRow(id=reply.id, problem=reply.problem or "nothing to score"))
            continue
        scores = rules.score(reply.item, reply.text, with_rouge=with_rouge)
        rows.append(ScoredRow(id=reply.id, scores=scores))
        clusters.append(reply.item.unit or reply.id)
    scored = [row for row in rows if row.problem is None]
    metrics = {}
    for name in dict.fromkeys(name for row in scored for name in row.scores):
        pairs = [
            (row.scores[name], cluster)
            for row, cluster in zip(scored, clusters, strict=True)
            if name in row.scores
        ]
        found = estimate_mean([v for v, _ in pairs], [c for _, c in pairs])
        if found is not None:
            metrics[name] = found
    return ScoredFile(
        path=str(path),
        kind=kind,
        metrics=metrics,
        num_scored=len(scored),
        num_unscored=len(rows) - len(scored),
        rows=tuple(rows),
    )


def read_replies(path: Path, rule: str | None = None) -> tuple[str, list[Reply]]:
    """Reads a file of predictions and tells which kind it is."""
    if not path.is_file():
        raise UsageError(f"There is no file {str(path)!r}.")
    head = path.read_text(encoding="utf-8-sig", errors="replace")
    if not head.strip():
        raise UsageError(f"The file {str(path)!r} is empty.")
    try:
        whole = json.loads(head)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        return "helmet", _from_helmet(path, whole, rule)
    if isinstance(whole, list):
        return "jsonl", [_from_row(i, row, rule) for i, row in enumerate(whole)]
    rows = _json_lines(path, head)
    try:
        Prediction.model_validate(rows[0])
    except ValidationError:
        return "jsonl", [_from_row(i, row, rule) for i, row in enumerate(rows)]
    found = read_predictions(path)
    return "predictions", [_from_prediction(p, rule) for p in found.values()]


def _json_lines(path: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{path}, line {number}, is not JSON: {error.msg}.",
                hint='Each line is an object such as {"prediction": "...", "answers": ["..."]}.',
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}, is no JSON object.")
        rows.append(row)
    return rows


def _first(row: Mapping[str, Any], keys: Iterable[str], *, but: str | None = None) -> str | None:
    return next((key for key in keys if key in row and key != but), None)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)):
        return tuple(text for part in value for text in _texts(part))
    return () if value is None else (str(value),)


def _from_row(index: int, row: Mapping[str, Any], rule: str | None) -> Reply:
    name = str(row.get("id", index))
    said = _first(row, REPLY_KEYS)
    known = _first(row, GOLD_KEYS, but=said)
    if said is None or not isinstance(row[said], str):
        return Reply(name, None, None, f"no prediction (one of {', '.join(REPLY_KEYS)})")
    golds = _texts(row[known]) if known else ()
    if not golds:
        return Reply(name, None, row[said], f"no gold answer (one of {', '.join(GOLD_KEYS)})")
    options = _texts(row.get("options") or row.get("choices") or ())
    unit = _first(row, UNIT_KEYS)
    item = _item(golds, options, rule, str(row[unit]) if unit else f"row {index}", row)
    return Reply(name, item, row[said])


def _letter(golds: Sequence[str], options: Sequence[str]) -> str | None:
    for i, option in enumerate(options):
        letter = chr(ord("A") + i)
        if any(gold in (option, letter, f"{letter}. {option}") for gold in golds):
            return letter
    return None


def _item(
    golds: tuple[str, ...],
    options: tuple[str, ...],
    rule: str | None,
    unit: str,
    row: Mapping[str, Any],
) -> Item:
    letter = row.get("letter") or _letter(golds, options)
    reference = {**row.get("reference", {})} if isinstance(row.get("reference"), dict) else {}
    if options and letter:
        reference["letter"] = letter
    return Item(
        task="file",
        length=0,
        document=_NOWHERE,
        question=Question(id="", text=str(row.get("question", "")), answers=golds, options=options),
        rule=rule or ("choice" if options and letter else str(row.get("rule", "open"))),
        cluster=unit,
        reference=reference,
    )


def _from_prediction(prediction: Prediction, rule: str | None) -> Reply:
    if prediction.error is not None:
        return Reply(prediction.id, None, None, f"failed: {prediction.error}")
    if rule is None and "word_recall" in prediction.scores:
        rule = "all_of"
    unit = prediction.unit or prediction.document_id
    row = {"question": prediction.question}
    item = _item(prediction.gold, prediction.options, rule, unit, row)
    return Reply(prediction.id, item, prediction.raw)


def helmet_task(path: Path, args: Mapping[str, Any]) -> str:
    """Returns the task of a HELMET result file, from its arguments or its name.

    Raises:
        UsageError: It is none that is known here.
    """
    options = args.get("dataset_options") or {}
    given = args.get("datasets") or options.get("datasets") or path.name
    name = given if isinstance(given, str) else given[0]
    aliases = {"kilt_popqa_3": "popqa", "kilt_nq": "nq", "kilt_hotpotqa": "hotpotqa"}
    aliases["kilt_triviaqa"] = "triviaqa"
    for task in sorted(SPECS, key=len, reverse=True):
        if task in name:
            return task
    for task, short in aliases.items():
        if short in name:
            return task
    raise UsageError(
        f"{str(path)!r}: {name!r} is none of HELMET's data sets known here.",
        hint="Give the scoring rule by --rule, for example --rule open.",
    )


def _from_helmet(path: Path, whole: Mapping[str, Any], rule: str | None) -> list[Reply]:
    rows: list[dict[str, Any]] = whole["data"]
    task = helmet_task(path, whole.get("args", {})) if rule is None else ""
    replies = []
    for index, row in enumerate(rows):
        name = str(row.get("index", index))
        output = row.get("output")
        if not isinstance(output, str):
            replies.append(Reply(name, None, None, "no output"))
            continue
        item = helmet_item(task, row, index, rows) if rule is None else None
        if item is None:
            golds = _texts(row.get("answer"))
            item = _item(golds, (), rule, str(index), {}) if golds else None
        replies.append(Reply(name, item, output, None if item else "no answer"))
    return replies


def helmet_item(
    task: str, row: Mapping[str, Any], index: int, rows: Sequence[Mapping[str, Any]]
) -> Item | None:
    """Returns the item behind a row of a HELMET result file; None without an answer."""
    family = SPECS[task].family
    golds = _texts(row.get("answer"))
    rule, reference, options = "open", dict[str, Any](), tuple[str, ...]()
    if family == "msmarco":
        labels = {name: int(label) for name, label in row["qrel"]}
        rule = "ranking"
        reference = {"labels": labels, "cuts": ranking_cuts(len(rows[0]["qrel"]))}
    elif family == "ruler" and "qa_" not in task:
        rule = "all_of"
    elif family == "icl":
        rule = "label"
    elif task == "infbench_choice_eng":
        lines = re.split(r"^[A-Z]\. ", str(row["options"]), flags=re.MULTILINE)[1:]
        options = tuple(line.removesuffix("\n") for line in lines)
        rule, reference = "choice", {"letter": golds[0]}
    elif task in ("infbench_sum_eng", "multi_lexsum"):
        rule = "summary"
        reference = {"prefix": "Summary:" if task == "multi_lexsum" else "Answer:"}
    elif task == "infbench_qa_eng":
        rule = "long_answer"
    elif family == "json_kv":
        reference = {"prefix": "corresponding value:"}
    elif task == "alce_asqa":
        rule = "string_em"
        reference = {"groups": [pair["short_answers"] for pair in row["qa_pairs"]]}
        golds = golds or ("",)
    elif task == "alce_qampari":
        rule, reference = "qampari", {"groups": row["answers"]}
        golds = golds or ("",)
    if not golds:
        return None
    unit = next((str(row[key]) for key in ("qid", "question") if row.get(key)), str(index))
    return Item(
        task=task,
        length=0,
        document=_NOWHERE,
        question=Question(id="", text=str(row.get("question", "")), answers=golds, options=options),
        rule=rule,
        cluster=unit,
        reference=reference,
    )


def render_scores(scored: ScoredFile) -> str:
    """Renders the metrics of a file for people."""
    rows = [[name, percent(found), str(found.n)] for name, found in scored.metrics.items()]
    table = render_table(["metric", "mean [95% interval]", "n"], rows)
    unscored = [row for row in scored.rows if row.problem]
    lines = [
        f"{scored.path} ({scored.kind}): {scored.num_scored} scored, {len(unscored)} not",
        table,
    ]
    lines += [f"  row {row.id}: {row.problem}" for row in unscored[:10]]
    return "\n".join(lines)
