"""LLM judges for long answers and summaries, with strict schemas.

A reply that is no verdict, lacks a key, is out of range or contradicts itself leaves the row
*unscored*: it is neither 0 nor absent. So does a row that lacks what is to be judged. The rubric is
HELMET's in substance; the wording is ours. Verdicts cost money: those of a run that ended early, or
that left rows unscored, are kept, and the next run asks for the others.
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
from agenticlu.core.records import Message, Record, content_seed
from agenticlu.engines.base import Engine, Sampling
from agenticlu.evaluation.scoring.helmet import parse_output

DETAIL_COLUMN = "gpt-4-scores"
"""Column of a judged file that holds a row's verdict; HELMET's name, whoever the judge is."""
ATTEMPTS = 3
LONG_ANSWER_TOKENS = 2048
SUMMARY_TOKENS = 4096


ZeroOrOne = Annotated[int, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class StrictVerdict(Record):
    """Base of what a judge must write: whole numbers, no truth values, texts or other keys."""

    model_config = ConfigDict(strict=True)


class LongAnswerVerdict(StrictVerdict):
    """What a judge finds about an answer to a question."""

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


class FluencyVerdict(StrictVerdict):
    """Whether a summary reads well."""

    fluency: ZeroOrOne


class RecallVerdict(StrictVerdict):
    """How many of the key points a summary supports."""

    recall: Count
    supported_key_points: list[int] | None = None
    """Their numbers, from 1, as asked for with books; None where they were not named."""

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


class PrecisionVerdict(StrictVerdict):
    """How many of a summary's sentences the expert's summary supports."""

    precision: Count
    sentence_count: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if self.precision > self.sentence_count:
            raise ValueError("more sentences are supported than there are")
        return self


class SummaryVerdict(Record):
    """The three findings about one summary."""

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


class Judged(Record):
    """One row's verdict, or why there is none."""

    id: str
    score: float | None
    """In [0, 1]; None when unscored."""
    detail: dict[str, float] = Field(default_factory=dict)
    problem: str | None = None


VerdictT = TypeVar("VerdictT", bound=Record)
Verdict = LongAnswerVerdict | SummaryVerdict
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


def parse_verdict_of(kind: type[VerdictT], text: str) -> VerdictT | None:
    """Returns the last JSON object of a reply as a verdict, or None if it is none.

    >>> parse_verdict_of(LongAnswerVerdict, 'So: {"fluency": 1, "correctness": 3}').score
    3.0
    >>> parse_verdict_of(LongAnswerVerdict, '{"fluency": 5, "correctness": 3}') is None
    True
    """
    start = text.rfind("{")
    while start >= 0:
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start:])
        except (json.JSONDecodeError, RecursionError):
            start = text.rfind("{", 0, start)
            continue
        try:
            return kind.model_validate(found)
        except ValidationError:
            return None
    return None


def stored_verdict(detail: Any) -> Verdict | None:
    """Returns a verdict as a judged file holds it; None where that is none."""
    if not isinstance(detail, dict):
        return None
    known = {name: int(value) if value == int(value) else value for name, value in detail.items()}
    for kind in (LongAnswerVerdict, SummaryVerdict):
        with contextlib.suppress(ValidationError):
            return kind.model_validate(known)
    return None


def kept_verdicts(before: Any, rows: Sequence[Row], judge: str) -> dict[int, Judged]:
    """Returns the verdicts of an earlier run that still hold, by the place of their row.

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

    stored = {content(row): stored_verdict(row.get(DETAIL_COLUMN)) for row in before["data"]}
    found = {index: stored.get(content(row)) for index, row in enumerate(rows)}
    return {
        index: _judged(str(rows[index].get("index", index)), verdict)
        for index, verdict in found.items()
        if verdict is not None
    }


def _judged(name: str, verdict: Verdict) -> Judged:
    detail = {key: float(value) for key, value in verdict.model_dump().items()}
    return Judged(id=name, score=verdict.share, detail=detail)


class RowJudge:
    """Asks a model for verdicts.

    Where an error ends the asking, such as a server that is gone, the rows that are left stay
    unscored: `ended` then holds the error.

    Args:
        engine: The judge.
        temperature: HELMET judges at 0.1.
        concurrency: Rows judged at a time.
        kept: Verdicts by the place of their row, which are not asked for again.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        temperature: float = 0.1,
        concurrency: int = 8,
        kept: Mapping[int, Judged] | None = None,
    ) -> None:
        self.ended: AgenticluError | None = None
        self._engine = engine
        self._temperature = temperature
        self._slots = asyncio.Semaphore(concurrency)
        self._kept = kept or {}

    async def long_answers(self, rows: Sequence[Row]) -> list[Judged]:
        """Judges rows with `question`, `answer` and `output`; scores are thirds."""
        return await self._each(rows, self._long_answer)

    async def summaries(
        self,
        rows: Sequence[Row],
        key_points: Mapping[str, Sequence[str]],
        *,
        by_number: bool = False,
    ) -> list[Judged]:
        """Judges rows with `id`, `answer` (or `summary/long`) and `output` by the key points.

        Args:
            rows: To be judged.
            key_points: By id.
            by_number: Ask for the numbers of the key points supported, as HELMET does with books.
        """
        return await self._each(
            rows, lambda name, row: self._summary(name, row, key_points, by_number)
        )

    async def _each(
        self, rows: Sequence[Row], judge: Callable[[str, Row], Awaitable[Judged]]
    ) -> list[Judged]:
        async def one(index: int, row: Row) -> Judged:
            if index in self._kept:
                return self._kept[index]
            return await judge(str(row.get("index", index)), row)

        return list(await asyncio.gather(*(one(i, row) for i, row in enumerate(rows))))

    async def _long_answer(self, name: str, row: Row) -> Judged:
        golds = _texts(row.get("answer"))
        if not golds or not _are_texts(row, "question", "output"):
            return Judged(id=name, score=None, problem="it lacks question, answer or output")
        text = _LONG_ANSWER.format(
            question=row["question"],
            golds=" | ".join(golds),
            answer=parse_output(row["output"].replace("\n", " ")),
        )
        verdict, problem = await self._ask(LongAnswerVerdict, text, LONG_ANSWER_TOKENS)
        if verdict is None:
            return Judged(id=name, score=None, problem=problem)
        return _judged(name, verdict)

    async def _summary(
        self,
        name: str,
        row: Row,
        key_points: Mapping[str, Sequence[str]],
        by_number: bool,
    ) -> Judged:
        points = key_points.get(str(row.get("id")))
        if not points:
            return Judged(id=name, score=None, problem=f"no key points for id {row.get('id')!r}")
        experts = _texts(row.get("summary/long") or row.get("answer"))
        if not experts or not _are_texts(row, "output"):
            return Judged(id=name, score=None, problem="it lacks answer or output")
        summary, expert = row["output"], experts[0]
        listed = "\n".join(f"{i}. {point}" for i, point in enumerate(points, 1))
        (fluency, first), (recall, second), (precision, third) = await asyncio.gather(
            self._ask(FluencyVerdict, _FLUENCY.format(summary=summary), SUMMARY_TOKENS),
            self._ask(
                RecallVerdict,
                (_RECALL_BY_NUMBER if by_number else _RECALL).format(
                    num=len(points), points=listed, summary=summary
                ),
                SUMMARY_TOKENS,
                check=lambda found: found.holds(len(points), named=by_number),
            ),
            self._ask(
                PrecisionVerdict,
                _PRECISION.format(expert=expert, summary=summary),
                SUMMARY_TOKENS,
            ),
        )
        if fluency is None or recall is None or precision is None:
            return Judged(id=name, score=None, problem=first or second or third)
        verdict = SummaryVerdict(
            fluency=fluency.fluency,
            recall=recall.recall / len(points),
            precision=precision.precision / precision.sentence_count,
        )
        return _judged(name, verdict)

    async def _ask(
        self,
        kind: type[VerdictT],
        text: str,
        max_tokens: int,
        *,
        check: Callable[[VerdictT], bool] = lambda found: True,
    ) -> tuple[VerdictT | None, str | None]:
        """Returns a verdict in range, or None and why there is none."""
        problem = "no reply"
        for attempt in range(ATTEMPTS):
            sampling = Sampling(
                temperature=self._temperature,
                top_p=0.9,
                max_tokens=max_tokens,
                seed=content_seed("judge", text, str(attempt)),
            )
            async with self._slots:
                if self.ended is not None:
                    return None, self.ended.message
                try:
                    sampled = await self._engine.sample(
                        [Message(role="user", content=text)], sampling
                    )
                except EngineReplyError as error:
                    problem = error.message
                    continue
                except DocumentError as error:
                    return None, error.message
                except (EngineError, BudgetExceededError) as error:
                    self.ended = error  # every other row would meet it, too
                    return None, error.message
            reply = sampled.completions[0].text
            verdict = parse_verdict_of(kind, reply)
            if verdict is not None and check(verdict):
                return verdict, None
            problem = f"unreadable verdict: {reply[-200:]}"
        return None, problem


def _texts(value: Any) -> list[str] | None:
    """Returns a column of one text or several; None where it is something else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    return None


def _are_texts(row: Mapping[str, Any], *columns: str) -> bool:
    return all(isinstance(row.get(column), str) for column in columns)


def judged_file(
    result: Mapping[str, Any], judged: Sequence[Judged], *, summaries: bool, judge: str = ""
) -> dict[str, Any]:
    """Returns a result file's content with verdicts, as HELMET's `-gpt4eval_o.json`.

    Unscored rows are counted under `num_unscored`; means are over the scored ones. The judge's
    name stands under `judge`.
    """
    scored = [one for one in judged if one.score is not None]
    averages = dict(result.get("averaged_metrics") or {})
    if scored:
        if summaries:
            for name in ("recall", "precision", "fluency"):
                averages[f"gpt-4-{name}"] = sum(one.detail[name] for one in scored) / len(scored)
            averages["gpt-4-f1"] = sum(one.score or 0 for one in scored) / len(scored)
        else:
            averages["gpt-4-score"] = 3 * sum(one.score or 0 for one in scored) / len(scored)
    rows = [
        {**row, DETAIL_COLUMN: one.detail or None}
        for row, one in zip(result["data"], judged, strict=True)
    ]
    return {
        **result,
        "data": rows,
        "averaged_metrics": averages,
        "num_unscored": len(judged) - len(scored),
        "judge": judge,
    }
