"""HELMET's rubric: a model grades long answers and summaries, with strict schemas.

A reply that is not a verdict, lacks a key, is out of range or contradicts itself leaves its row
*unscored*, which is neither 0 nor absent; so does a row that lacks what is to be judged. The rubric
is HELMET's in substance; the wording is ours. Verdicts cost money: a judged file keeps those of a
run that ended early or left rows unscored, and the next run asks only for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from agenticlu.core.errors import (
    AgenticluError,
    BudgetExceededError,
    DocumentError,
    EngineError,
    EngineReplyError,
)
from agenticlu.core.records import Message, Record, Usage, Verdict, content_seed
from agenticlu.dialogue.replies import parse_last_object
from agenticlu.engines.base import Engine, Sampling, spent_on
from agenticlu.evaluation.scoring.helmet import parse_output
from agenticlu.evaluation.scoring.rules import LONG_ANSWER_METRIC, SUMMARY_METRIC

DETAIL_COLUMN = "gpt-4-scores"
"""Column of a judged file that holds a row's verdict; HELMET's name, whoever the judge is."""
NUM_ATTEMPTS = 3
LONG_ANSWER_TOKENS = 2048
SUMMARY_TOKENS = 4096


ZeroOrOne = Annotated[int, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Grade(Record):
    """Base of what a judge must write: whole numbers only, and no other keys."""

    model_config = ConfigDict(strict=True)


class LongAnswerGrade(Grade):
    """Grade of an answer to a question."""

    fluency: ZeroOrOne
    """1: coherent, complete, without repetition."""
    correctness: Annotated[int, Field(ge=0, le=3)]
    """0 disagrees with every accepted answer, 1 agrees in part, 2 agrees but adds irrelevant
    matter, 3 agrees and is relevant throughout."""

    @property
    def score(self) -> float:
        """In [0, 3]: 0 where the answer is not fluent."""
        return float(self.fluency * self.correctness)

    @property
    def share(self) -> float:
        """The score in [0, 1]."""
        return self.score / 3


class FluencyGrade(Grade):
    """Whether a summary reads well."""

    fluency: ZeroOrOne


class RecallGrade(Grade):
    """How many of the key points a summary supports."""

    recall: Count
    supported_key_points: list[int] | None = None
    """Their numbers, from 1, as asked for with books; None when they were not named."""

    def holds(self, num_points: int, *, named: bool) -> bool:
        """Whether it agrees with itself and with the number of key points.

        Args:
            num_points: Key points there are.
            named: Whether those supported had to be named.
        """
        points = self.supported_key_points
        if points is None:
            return not named and self.recall <= num_points
        valid = all(1 <= point <= num_points for point in points)
        return valid and len(points) == len(set(points)) == self.recall


class PrecisionGrade(Grade):
    """How many of a summary's sentences the expert's summary supports."""

    precision: Count
    sentence_count: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if self.precision > self.sentence_count:
            raise ValueError("more sentences are supported than there are")
        return self


class SummaryGrade(Record):
    """The three grades of one summary."""

    fluency: int
    """0 or 1."""
    recall: float
    """Share of key points supported, in [0, 1]."""
    precision: float
    """Share of sentences supported, in [0, 1]."""

    @property
    def f1(self) -> float:
        """Fluency times the harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return self.fluency * 2 * self.precision * self.recall / total if total else 0.0

    @property
    def share(self) -> float:
        """The score in [0, 1]."""
        return self.f1


class RowVerdict(Verdict):
    """The verdict on one row of a result file, or in `reason` why it has none."""

    row: str
    """Its index."""
    detail: dict[str, float] = Field(default_factory=dict)
    """The grade behind the value; empty when unscored."""


GradeT = TypeVar("GradeT", bound=Record)
Row = Mapping[str, Any]
_JSON_LAST = "Write your reasons first. End with one JSON object and nothing after it: "
_LONG_ANSWER = (
    "You grade an answer to a question about a text that you do not see. You are given answers "
    "that are known to be right.\n\n"
    "fluency: 0 if the answer is incoherent, repeats itself or breaks off; else 1.\n"
    "correctness: 0 if it agrees with none of the right answers; 1 if it agrees in part; 2 if it "
    "agrees but also says things that have nothing to do with the question; 3 if it agrees and "
    "everything in it bears on the question. Length alone costs nothing.\n\n"
    "Question: {question}\nRight answers: {golds}\nAnswer to grade: {answer}\n\n"
    + _JSON_LAST
    + '{{"fluency": 0 or 1, "correctness": 0, 1, 2 or 3}}'
)
_FLUENCY = (
    "Does this summary read well? 0 if it is incoherent, repeats sentences or is gibberish; else "
    "1. A last sentence that breaks off is forgiven.\n\nSummary:\n{summary}\n\n"
    + _JSON_LAST
    + '{{"fluency": 0 or 1}}'
)
_RECALL = (
    "Here are {num} key points and a summary. Count the key points that the summary supports, in "
    "whatever words.\n\nKey points:\n{points}\n\nSummary:\n{summary}\n\n"
    + _JSON_LAST
    + '{{"recall": how many}}'
)
_RECALL_BY_NUMBER = _RECALL.replace(
    '{{"recall": how many}}', '{{"supported_key_points": [their numbers], "recall": how many}}'
)
_PRECISION = (
    "Here are an expert's summary and another one of the same text. Count the sentences of the "
    "other summary, and how many of them the expert's summary supports.\n\n"
    "Expert's summary:\n{expert}\n\nOther summary:\n{summary}\n\n"
    + _JSON_LAST
    + '{{"precision": how many are supported, "sentence_count": how many there are}}'
)


def parse_grade(kind: type[GradeT], reply: str) -> GradeT | None:
    """Returns the last JSON object of a reply as a grade; None if it is not one.

    >>> parse_grade(LongAnswerGrade, 'So: {"fluency": 1, "correctness": 3}').score
    3.0
    >>> parse_grade(LongAnswerGrade, '{"fluency": 5, "correctness": 3}') is None
    True
    """
    try:
        return kind.model_validate(parse_last_object(reply))
    except ValidationError:
        return None


def parse_stored_grade(detail: Any) -> LongAnswerGrade | SummaryGrade | None:
    """Returns the grade in a row of a judged file; None when there is none."""
    if not isinstance(detail, dict):
        return None
    known = {name: int(value) if value == int(value) else value for name, value in detail.items()}
    for kind in (LongAnswerGrade, SummaryGrade):
        with contextlib.suppress(ValidationError):
            return kind.model_validate(known)
    return None


def find_kept_verdicts(before: Any, rows: Sequence[Row], judge: str) -> dict[int, RowVerdict]:
    """Returns the verdicts of an earlier run that still hold, by the position of their row.

    They are those of the same judge about the very same rows.

    Args:
        before: Content of a judged file.
        rows: To be judged now.
        judge: Name of the judge.
    """
    if not isinstance(before, dict) or before.get("judge") != judge:
        return {}

    def content(row: Row) -> str:
        return json.dumps({**row, DETAIL_COLUMN: None}, sort_keys=True)

    stored = {content(row): parse_stored_grade(row.get(DETAIL_COLUMN)) for row in before["data"]}
    found = {index: stored.get(content(row)) for index, row in enumerate(rows)}
    return {
        index: _build_verdict(judge, _name(rows[index], index), grade)
        for index, grade in found.items()
        if grade is not None
    }


def _name(row: Row, index: int) -> str:
    return str(row.get("index", index))


def _build_verdict(
    judge: str, row: str, grade: LongAnswerGrade | SummaryGrade, usage: Usage | None = None
) -> RowVerdict:
    detail = {key: float(value) for key, value in grade.model_dump().items()}
    return RowVerdict(judge=judge, row=row, value=grade.share, detail=detail, usage=usage)


class RubricJudge:
    """Asks a model for grades.

    When an error ends the asking, such as a server that is gone, the remaining rows stay unscored
    and `ended` holds the error.

    Args:
        engine: Asks the model.
        name: Stored with every verdict.
        temperature: HELMET judges at 0.1.
        concurrency: Requests in flight.
        kept: Verdicts by the position of their row, which are not asked for again.
    """

    def __init__(
        self,
        engine: Engine,
        name: str = "",
        *,
        temperature: float = 0.1,
        concurrency: int = 8,
        kept: Mapping[int, RowVerdict] | None = None,
    ) -> None:
        self.name = name
        self.ended: AgenticluError | None = None
        self._engine = engine
        self._temperature = temperature
        self._slots = asyncio.Semaphore(concurrency)
        self._kept = kept or {}

    async def judge_long_answers(self, rows: Sequence[Row]) -> list[RowVerdict]:
        """Judges rows with `question`, `answer` and `output`; values are thirds."""
        return await self._judge_each(rows, self._judge_long_answer)

    async def judge_summaries(
        self,
        rows: Sequence[Row],
        key_points: Mapping[str, Sequence[str]],
        *,
        by_number: bool = False,
    ) -> list[RowVerdict]:
        """Judges rows with `id`, `answer` (or `summary/long`) and `output` by the key points.

        Args:
            rows: To be judged.
            key_points: By id.
            by_number: Ask for the numbers of the key points supported, as HELMET does with books.
        """

        async def judge(name: str, row: Row) -> RowVerdict:
            return await self._judge_summary(name, row, key_points, by_number)

        return await self._judge_each(rows, judge)

    async def _judge_each(
        self, rows: Sequence[Row], judge: Callable[[str, Row], Awaitable[RowVerdict]]
    ) -> list[RowVerdict]:
        async def one(index: int, row: Row) -> RowVerdict:
            return self._kept[index] if index in self._kept else await judge(_name(row, index), row)

        return list(await asyncio.gather(*(one(i, row) for i, row in enumerate(rows))))

    def _leave_unscored(self, row: str, reason: str, usage: Usage | None = None) -> RowVerdict:
        return RowVerdict(judge=self.name, row=row, value=None, reason=reason, usage=usage)

    async def _judge_long_answer(self, name: str, row: Row) -> RowVerdict:
        golds = _texts(row.get("answer"))
        if not golds or not _are_texts(row, "question", "output"):
            return self._leave_unscored(name, "it lacks question, answer or output")
        text = _LONG_ANSWER.format(
            question=row["question"],
            golds=" | ".join(golds),
            answer=parse_output(row["output"].replace("\n", " ")),
        )
        grade, reason, usage = await self._ask(LongAnswerGrade, text, LONG_ANSWER_TOKENS)
        if grade is None:
            return self._leave_unscored(name, reason, usage)
        return _build_verdict(self.name, name, grade, usage)

    async def _judge_summary(
        self, name: str, row: Row, key_points: Mapping[str, Sequence[str]], by_number: bool
    ) -> RowVerdict:
        points = key_points.get(str(row.get("id")))
        if not points:
            return self._leave_unscored(name, f"no key points for id {row.get('id')!r}")
        experts = _texts(row.get("summary/long") or row.get("answer"))
        if not experts or not _are_texts(row, "output"):
            return self._leave_unscored(name, "it lacks answer or output")
        summary = row["output"]
        listed = "\n".join(f"{i}. {point}" for i, point in enumerate(points, 1))
        recall_form = _RECALL_BY_NUMBER if by_number else _RECALL
        asked = await asyncio.gather(
            self._ask(FluencyGrade, _FLUENCY.format(summary=summary), SUMMARY_TOKENS),
            self._ask(
                RecallGrade,
                recall_form.format(num=len(points), points=listed, summary=summary),
                SUMMARY_TOKENS,
                check=lambda found: found.holds(len(points), named=by_number),
            ),
            self._ask(
                PrecisionGrade,
                _PRECISION.format(expert=experts[0], summary=summary),
                SUMMARY_TOKENS,
            ),
        )
        (fluency, first, _), (recall, second, _), (precision, third, _) = asked
        usage = sum((used for _, _, used in asked), Usage())
        if fluency is None or recall is None or precision is None:
            return self._leave_unscored(name, first or second or third, usage)
        grade = SummaryGrade(
            fluency=fluency.fluency,
            recall=recall.recall / len(points),
            precision=precision.precision / precision.sentence_count,
        )
        return _build_verdict(self.name, name, grade, usage)

    async def _ask(
        self,
        kind: type[GradeT],
        text: str,
        max_tokens: int,
        *,
        check: Callable[[GradeT], bool] = lambda found: True,
    ) -> tuple[GradeT | None, str, Usage]:
        """Returns a grade in range, or None and the reason, and what was spent."""
        reason, usage = "no reply", Usage()
        for attempt in range(NUM_ATTEMPTS):
            sampling = Sampling(
                temperature=self._temperature,
                top_p=0.9,
                max_tokens=max_tokens,
                seed=content_seed("judge", text, str(attempt)),
            )
            async with self._slots:
                if self.ended is not None:
                    return None, self.ended.message, usage
                try:
                    sampled = await self._engine.sample(
                        [Message(role="user", content=text)], sampling
                    )
                except EngineReplyError as error:
                    reason, usage = error.message, usage + spent_on(error)
                    continue
                except DocumentError as error:
                    return None, error.message, usage
                except (EngineError, BudgetExceededError) as error:
                    self.ended = error  # every other row would meet it, too
                    return None, error.message, usage
            usage = usage + sampled.usage
            reply = sampled.completions[0].text
            grade = parse_grade(kind, reply)
            if grade is not None and check(grade):
                return grade, "", usage
            reason = f"unreadable verdict: {reply[-200:]}"
        return None, reason, usage


def _texts(value: Any) -> list[str] | None:
    """Returns a column of one text or several as a list; None when it is something else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    return None


def _are_texts(row: Mapping[str, Any], *columns: str) -> bool:
    return all(isinstance(row.get(column), str) for column in columns)


def build_judged_file(
    content: Mapping[str, Any], verdicts: Sequence[RowVerdict], *, summaries: bool, judge: str = ""
) -> dict[str, Any]:
    """Returns a result file's content with verdicts, as HELMET's `-gpt4eval_o.json`.

    Unscored rows are counted under `num_unscored`; means are over the scored ones. The judge's
    name is stored under `judge`.
    """
    scored = [one for one in verdicts if one.value is not None]
    averages = dict(content.get("averaged_metrics") or {})
    if scored:
        total = sum(one.value or 0 for one in scored)
        if summaries:
            for name in ("recall", "precision", "fluency"):
                averages[f"gpt-4-{name}"] = sum(one.detail[name] for one in scored) / len(scored)
            averages[SUMMARY_METRIC] = total / len(scored)
        else:
            averages[LONG_ANSWER_METRIC] = 3 * total / len(scored)
    return {
        **content,
        "data": [
            {**row, DETAIL_COLUMN: one.detail or None}
            for row, one in zip(content["data"], verdicts, strict=True)
        ],
        "averaged_metrics": averages,
        "num_unscored": len(verdicts) - len(scored),
        "judge": judge,
    }
