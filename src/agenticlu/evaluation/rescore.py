"""Scores saved replies (rows, our predictions, HELMET's result files) by rules or by a judge."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from agenticlu.core.errors import ConfigError, DocumentError, UsageError
from agenticlu.core.files import Row, load_numbered_rows, plain_suffix, starts_array
from agenticlu.core.golds import is_absent, read_golds
from agenticlu.core.options import FROM_ONE, Options, find_option, find_options, option_letter
from agenticlu.core.records import Document, Prediction, Question, Record
from agenticlu.core.statistics import MeanEstimate, estimate_mean
from agenticlu.evaluation.helmet import SPECS
from agenticlu.evaluation.helmet.results import find_judged_path
from agenticlu.evaluation.helmet.sources import ResultFile, load_key_points, read_json, read_result
from agenticlu.evaluation.predictions import read_predictions, select_current, write_json
from agenticlu.evaluation.records import Item
from agenticlu.evaluation.scoring import rules
from agenticlu.evaluation.scoring.canonical import canonical_tokens
from agenticlu.evaluation.scoring.helmet import ranking_cuts
from agenticlu.evaluation.tables import percent, render_table
from agenticlu.judges.rubric import RowVerdict, RubricJudge, build_judged_file, find_kept_verdicts

REPLY_KEYS = ("prediction", "output", "raw", "response", "completion", "generated", "answer")
GOLD_KEYS = (
    *("answers", "golds", "gold", "references", "reference", "target", "targets", "answer"),
    *("ground_truth", "ground_truths", "correct_answer", "answerKey", "gold_label", "label"),
    *("output", "outputs"),
)
UNIT_KEYS = ("unit", "cluster", "document_id", "qid", "question_id")
MOST_LISTED = 10
_NOWHERE = Document.of("", "rescoring")


class _QaPair(BaseModel):
    """A part of ALCE's question, as its files have it; other columns are ignored."""

    short_answers: tuple[str, ...]


_QREL = TypeAdapter(list[tuple[str, int]])
_QA_PAIRS = TypeAdapter(list[_QaPair])


@dataclass(frozen=True)
class Reply:
    """One prediction with what it is scored against."""

    id: str
    place: str
    """Position in the file, such as 'line 3'; of our own predictions, what was run."""
    item: Item | None = None
    """None when there is nothing to score it against."""
    text: str | None = None
    """None when there is no prediction."""
    problem: str | None = None
    """Why it cannot be scored; None when it can."""


class ScoredRow(Record):
    """One row of the result."""

    id: str
    place: str
    """Position in the file, such as 'line 3'."""
    scores: dict[str, float] = Field(default_factory=dict)
    problem: str | None = None
    """Why it was not scored; None when it was."""


class ScoredFile(Record):
    """The scores of a file of predictions."""

    path: str
    kind: str
    """jsonl, helmet or predictions."""
    metrics: dict[str, MeanEstimate]
    """Over all rows."""
    groups: dict[str, dict[str, MeanEstimate]] = Field(default_factory=dict)
    """Of our own predictions, the metrics of each model, method, task and length; else empty."""
    num_scored: int
    num_unscored: int
    rows: tuple[ScoredRow, ...]


def score_file(path: Path, *, rule: str | None = None, with_rouge: bool = False) -> ScoredFile:
    """Scores a file; rows without a prediction, or without what their rule needs, are counted.

    Args:
        path: Rows of `prediction` and `answers` (optional: `options`, `id`, `document_id`) in a
            JSONL or JSON file, a `predictions.jsonl` of ours, or HELMET's result JSON.
        rule: Scoring rule of all rows; None takes the one that each row calls for.
        with_rouge: Compute ROUGE too.

    Raises:
        UsageError: The file does not exist or is empty, or the rule is unknown.
        ConfigError: It has another form.
    """
    if rule is not None:
        rules.find_rule(rule)
    kind, replies = read_replies(path, rule)
    rows = []
    scored: dict[str, list[tuple[ScoredRow, str]]] = {}
    for reply in replies:
        row, cluster = _scored(reply, with_rouge)
        rows.append(row)
        if cluster is not None:
            scored.setdefault(reply.place if kind == "predictions" else "", []).append(
                (row, cluster)
            )
    every = [pair for group in scored.values() for pair in group]
    return ScoredFile(
        path=str(path),
        kind=kind,
        metrics=_means(every),
        groups={place: _means(group) for place, group in scored.items() if place},
        num_scored=len(every),
        num_unscored=len(rows) - len(every),
        rows=tuple(rows),
    )


def _means(rows: Sequence[tuple[ScoredRow, str]]) -> dict[str, MeanEstimate]:
    """Returns the mean of each metric over the rows that have it, each given with its cluster."""
    found = {}
    for name in dict.fromkeys(name for row, _ in rows for name in row.scores):
        having = [(row.scores[name], unit) for row, unit in rows if name in row.scores]
        mean = estimate_mean([value for value, _ in having], [unit for _, unit in having])
        assert mean is not None, "a name is taken from a row"
        found[name] = mean
    return found


def _scored(reply: Reply, with_rouge: bool) -> tuple[ScoredRow, str | None]:
    """Returns a row's scores with its cluster, or why there are none."""
    problem = reply.problem
    if reply.item is not None and reply.text is not None and problem is None:
        try:
            reference = rules.check_reference(reply.item)
        except UsageError as error:
            problem = error.message
        else:
            item = replace(reply.item, reference=reference)
            scores = rules.score(item, reply.text, with_rouge=with_rouge)
            return ScoredRow(id=reply.id, place=reply.place, scores=scores), item.unit or reply.id
    problem = problem or "nothing to score"
    return ScoredRow(id=reply.id, place=reply.place, problem=problem), None


def read_replies(path: Path, rule: str | None = None) -> tuple[str, list[Reply]]:
    """Reads a file of predictions; returns its kind and the replies.

    Of our own predictions, those that the tables show: each label's latest model.

    Raises:
        UsageError: The file does not exist or is empty.
        ConfigError: It has another form.
    """
    if not path.is_file():
        raise UsageError(f"File not found: {str(path)!r}.")
    is_array = starts_array(path)
    rows = load_numbered_rows(path, error=ConfigError)
    first = next(rows, None)
    if first is None and is_array:
        raise ConfigError(f"{path} has no rows.")
    if first is None:
        raise UsageError(f"The file {str(path)!r} is empty.")
    is_plain = plain_suffix(path) == path.suffix.lower()
    if not is_array and is_plain and _is_prediction(first[1]):
        shown, _ = select_current(read_predictions(path))
        return "predictions", [_from_prediction(p, rule) for p in shown]
    every = [first, *rows]
    if not is_array and len(every) == 1 and "data" in first[1]:
        return "helmet", _from_helmet(read_result(path), rule)
    unit = "row" if is_array else "line"
    return "jsonl", [_from_row(f"{unit} {number}", row, rule) for number, row in every]


def _is_prediction(row: Row) -> bool:
    try:
        Prediction.model_validate_json(json.dumps(row))
    except (ValidationError, TypeError, ValueError, RecursionError):
        return False  # rows of tables hold dates, too
    return True


def _first(row: Row, keys: Iterable[str], *, but: str | None = None) -> str | None:
    return next((key for key in keys if key in row and key != but), None)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)):
        return tuple(text for part in value for text in _texts(part))
    return () if value is None else (str(value),)


def _from_row(place: str, row: Row, rule: str | None) -> Reply:
    name = str(row.get("id", place))
    said = _first(row, REPLY_KEYS)
    text = _reply_text(row[said]) if said else None
    if text is None:
        problem = f"no prediction (one of {', '.join(REPLY_KEYS)})"
        return Reply(name, place, problem=problem)
    given = [key for key in GOLD_KEYS if key in row and key != said]
    known = next((key for key in given if not is_absent(row[key])), None)
    try:
        golds = read_golds(row[known], as_written=True) if known else ()
        options = find_options(row)
    except DocumentError as error:
        return Reply(name, place, problem=error.message)
    chosen = rule or row.get("rule") or ("choice" if options.texts else "open")
    if chosen not in rules.RULES:
        return Reply(name, place, problem=f"unknown scoring rule {chosen!r}")
    if rules.RULES[chosen].needs_answers:
        if not golds:
            return Reply(name, place, problem=f"no gold answer (one of {', '.join(GOLD_KEYS)})")
        if not any(map(canonical_tokens, golds)):
            return Reply(name, place, problem=f"the gold answer {golds[0]!r} has no word")
    letter = None
    if known:
        letter = find_letter((row[known], *golds), options, from_one=known in FROM_ONE)
    if chosen == "choice" and options.texts and known and not letter and "letter" not in row:
        return Reply(name, place, problem=f"no option is the gold answer {row[known]!r:.80}")
    more: dict[str, Any] = {}
    if options.labels != tuple(option_letter(number) for number in range(len(options.texts))):
        more["option_labels"] = options.labels
    unit = str(row[key]) if (key := _first(row, UNIT_KEYS)) else place
    item = _build_item(chosen, row, golds, options.texts, unit=unit, letter=letter, more=more)
    return Reply(name, place, item, text)


def _reply_text(value: Any) -> str | None:
    """Returns a reply's text, also of a number or of a list of one; None where there is none."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value
    is_plain = isinstance(value, bool | int | float) and not is_absent(value)
    return str(value) if is_plain else None


def find_letter(
    golds: Sequence[Any], options: Options | Sequence[str], *, from_one: bool = False
) -> str | None:
    """Returns the letter of the right option; see `find_option` for what golds may say.

    >>> find_letter(["A"], ["B", "A"]), find_letter(["b"], ["red", "blue"])
    ('B', 'B')
    """
    known = options if isinstance(options, Options) else Options(tuple(options))
    number = find_option(list(golds), known, from_one=from_one)
    return None if number is None else option_letter(number)


def _build_item(
    rule: str,
    row: Row,
    golds: tuple[str, ...],
    options: tuple[str, ...],
    *,
    unit: str,
    letter: str | None = None,
    cuts: tuple[int, ...] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Item:
    """Builds the item behind a row, with all that its columns give a rule to score by."""
    reference = _reference(row, cuts) | dict(more or {})
    letter = row.get("letter", letter or find_letter(golds, options))
    if options and letter is not None and "letter" not in reference:
        reference["letter"] = letter.upper() if isinstance(letter, str) else letter
    return Item(
        task="file",
        length=0,
        document=_NOWHERE,
        question=Question(id="", text=str(row.get("question", "")), answers=golds, options=options),
        rule=rule,
        cluster=unit,
        reference=reference,
    )


def _reference(row: Row, cuts: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Returns what a row has for rules that need more than answers, HELMET's columns included.

    What has another form is left out, so that the rule reports it as missing.
    """
    found: dict[str, Any] = {}
    if isinstance(row.get("qrel"), list):
        with contextlib.suppress(ValidationError):
            labels = dict(_QREL.validate_python(row["qrel"]))
            found |= {"labels": labels, "cuts": cuts or ranking_cuts(len(labels))}
    if isinstance(row.get("qa_pairs"), list):
        with contextlib.suppress(ValidationError):
            pairs = _QA_PAIRS.validate_python(row["qa_pairs"])
            found["groups"] = [pair.short_answers for pair in pairs]
    elif isinstance(row.get("answers"), list):
        found["groups"] = row["answers"]
    own = row.get("reference")
    return found | own if isinstance(own, dict) else found


def _from_prediction(prediction: Prediction, rule: str | None) -> Reply:
    place = f"{prediction.task}, {prediction.length} tokens, {prediction.method}"
    place = f"{prediction.engine}, {place}" if prediction.engine else place
    if prediction.error is not None:
        return Reply(prediction.id, place, problem=f"failed: {prediction.error}")
    chosen = rule or prediction.rule
    if chosen is None:
        problem = "written by an older version, without its rule; give one by --rule"
        return Reply(prediction.id, place, problem=problem)
    if chosen not in rules.RULES:
        return Reply(prediction.id, place, problem=f"unknown scoring rule {chosen!r}")
    row = {"question": prediction.question, "reference": prediction.reference}
    unit = prediction.unit or prediction.document_id
    item = _build_item(chosen, row, prediction.gold, prediction.options, unit=unit)
    return Reply(prediction.id, place, item, prediction.raw)


def _from_helmet(result: ResultFile, rule: str | None) -> list[Reply]:
    try:
        spec = SPECS[result.find_task()]
    except UsageError:
        if rule is None:
            raise
        spec = None
    chosen = rule or (spec.rule if spec else "")
    more = {"prefix": spec.label} if spec and "prefix" in rules.RULES[chosen].takes else {}
    first = result.rows[0].get("qrel")
    cuts = ranking_cuts(len(first)) if isinstance(first, list) else None
    replies = []
    for number, row in enumerate(result.rows, start=1):
        name, place = str(row.get("index", number - 1)), f"row {number}"
        output = row.get("output")
        if not isinstance(output, str):
            replies.append(Reply(name, place, problem="no output"))
            continue
        golds = _texts(row.get("answer"))
        options: tuple[str, ...] = ()
        if isinstance(row.get("options"), str):
            lines = re.split(r"^[A-Z]\. ", row["options"], flags=re.MULTILINE)[1:]
            options = tuple(line.removesuffix("\n") for line in lines)
        elif isinstance(row.get("options"), list):
            options = _texts(row["options"])
        unit = next((str(row[key]) for key in ("qid", "question") if row.get(key)), str(number))
        item = _build_item(chosen, row, golds, options, unit=unit, cuts=cuts, more=more)
        replies.append(Reply(name, place, item, output))
    return replies


def render_scores(scored: ScoredFile) -> str:
    """Renders the metrics of a file, those of each group where it has several."""
    parts = scored.groups if len(scored.groups) > 1 else {"": scored.metrics}
    rows = [
        [*([place] if place else []), name, percent(found), str(found.n)]
        for place, metrics in parts.items()
        for name, found in metrics.items()
    ]
    header = ["predictions"] if len(scored.groups) > 1 else []
    table = render_table([*header, "metric", "mean [95% interval]", "n"], rows)
    unscored = [row for row in scored.rows if row.problem]
    lines = [
        f"{scored.path} ({scored.kind}): {scored.num_scored} scored, {len(unscored)} not",
        table,
    ]
    lines += [
        f"  {row.place}{f' ({row.id})' if row.id != row.place else ''}: {row.problem}"
        for row in unscored[:MOST_LISTED]
    ]
    if len(unscored) > MOST_LISTED:
        lines.append(f"  ... and {len(unscored) - MOST_LISTED} more; --out FILE lists all.")
    return "\n".join(lines)


JUDGED_FAMILIES = ("narrativeqa", "qasper", "infbench", "multi_lexsum")
"""Families of HELMET's tasks with long answers or summaries."""


class ResultJudging:
    """Judging the long answers or summaries of a result file by a model.

    Args:
        file: The result file; verdicts go to the judged file beside it, which may hold some of an
            earlier run.
        helmet_data: Folder of HELMET's key points, for summaries.

    Raises:
        UsageError: A file does not exist, or the task has nothing to judge.
        ConfigError: A file has another form.
    """

    def __init__(self, file: Path, helmet_data: Path) -> None:
        self.result = read_result(file)
        self.path = find_judged_path(file)
        task = self.result.find_task()
        spec = SPECS[task]
        self._is_summary = spec.rule == "summary"
        self._is_book = task == "infbench_sum_eng"
        if spec.family not in JUDGED_FAMILIES:
            raise UsageError(
                f"{task!r} has no long answers or summaries to judge: its metric is "
                f"{spec.headline}.",
                hint=f"agenticlu eval score {file}",
            )
        self._points = load_key_points(helmet_data, task) if self._is_summary else {}
        self._before = read_json(self.path) if self.path.is_file() else None
        self.metric = rules.SUMMARY_METRIC if self._is_summary else rules.LONG_ANSWER_METRIC

    def find_kept(self, judge: str) -> dict[int, RowVerdict]:
        """Returns the verdicts of an earlier run that still hold, by the position of their row."""
        return find_kept_verdicts(self._before, self.result.rows, judge)

    async def run(self, judge: RubricJudge) -> tuple[list[RowVerdict], float | None]:
        """Judges the rows and writes the judged file; returns the verdicts and their mean.

        Raises:
            AgenticluError: An error ended the asking before any row was scored.
        """
        rows = self.result.rows
        if self._is_summary:
            verdicts = await judge.judge_summaries(rows, self._points, by_number=self._is_book)
        else:
            verdicts = await judge.judge_long_answers(rows)
        if judge.ended is not None and all(one.value is None for one in verdicts):
            raise judge.ended
        content = build_judged_file(
            self.result.content, verdicts, summaries=self._is_summary, judge=judge.name
        )
        write_json(self.path, content)
        return verdicts, content["averaged_metrics"].get(self.metric)
