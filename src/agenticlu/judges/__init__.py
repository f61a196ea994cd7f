"""Judges, which decide whether an answer is right: exact match, ROUGE, models, HELMET's rubric."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Protocol

from agenticlu.core.errors import (
    ConfigError,
    DocumentTooLongError,
    EngineReplyError,
    require_known,
)
from agenticlu.core.options import option_number
from agenticlu.core.records import (
    Message,
    Question,
    Tree,
    Usage,
    Verdict,
    content_id,
    content_seed,
)
from agenticlu.dialogue.replies import parse_judgement
from agenticlu.engines.base import Engine, Sampling, spent_on
from agenticlu.evaluation.scoring.answers import matches, parse_choice, piece_f1
from agenticlu.evaluation.scoring.canonical import canonical_tokens
from agenticlu.evaluation.scoring.rouge import unicode_rouge

LLM_PREFIX = "llm:"
"""With ROUGE-L as the only judge, an answer at least this close counts as right."""
SPARED = "not asked: an exact match is right"
"""Reason of a verdict without a value that was not needed."""
POINTING = "pointing"
"""Stands among the verdicts of an answer for the pieces that it rests on; see `judge_pointing`."""
JUDGE_ATTEMPTS = 3
JUDGE_TOKENS = 256
LONG_JUDGE_TOKENS = 2048
"""Allowed after a reply was cut off, mostly that of a model that reasons in its reply."""
PROMPT_VERSION = 1
_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "explanation": {"type": "string"},
            "verdict": {"type": "string", "enum": ["yes", "no"]},
        },
        "required": ["explanation", "verdict"],
        "additionalProperties": False,
    }
)
_SYSTEM = (
    "You grade answers. You are given a question, the accepted answers, and one candidate answer. "
    "The candidate is right if it means the same as an accepted answer, in whatever words; it is "
    "wrong if it contradicts them, is missing, or hedges between several answers."
)
_REQUEST = (
    "Question: {question}\nAccepted answers: {golds}\nCandidate answer: {answer}\n\n"
    'Reply with one JSON object: {{"explanation": "one short sentence", "verdict": "yes" or "no"}}'
)


class Judge(Protocol):
    """Decides whether an answer is right."""

    name: str
    """Stored with every verdict."""
    is_free: bool
    """Whether a verdict costs nothing, so that it need not be stored."""

    async def judge(self, question: Question, answer: str) -> Verdict:
        """Returns a verdict; raises only engine errors."""
        ...


class FreeJudge(Judge, Protocol):
    """A judge that needs no model."""

    correct_from: float
    """Least value that counts as right where this judge decides."""


class Recorded(Protocol):
    """Recorded calls of an earlier run."""

    def holds(self, messages: Sequence[Message], sampling: Sampling) -> bool:
        """Whether a call was answered before."""
        ...


class ExactJudge:
    """Equality after normalisation; for multiple choice, the chosen option."""

    name = "exact"
    is_free = True
    correct_from = 1.0

    async def judge(self, question: Question, answer: str) -> Verdict:
        """Returns 1.0 or 0.0; unscored when no answer is known, or none that has a word."""
        if not question.answers:
            return Verdict(judge=self.name, value=None, reason="no accepted answer is known")
        if not any(map(canonical_tokens, question.answers)):
            return Verdict(judge=self.name, value=None, reason="no accepted answer has a word")
        right = matches(answer, question.answers)
        if not right and question.options:
            letter = parse_choice(answer, question.options)
            if letter is not None:
                option = question.options[option_number(letter)]
                right = matches(option, question.answers) or matches(letter, question.answers)
        return Verdict(judge=self.name, value=float(right))


class RougeJudge:
    """ROUGE-L F1 against the nearest accepted answer."""

    name = "rouge-l"
    is_free = True
    correct_from = 0.5

    async def judge(self, question: Question, answer: str) -> Verdict:
        """Returns a value in [0, 1]; unscored when no answer is known."""
        if not question.answers:
            return Verdict(judge=self.name, value=None, reason="no accepted answer is known")
        found = unicode_rouge(answer, list(question.answers))
        value = next(value for name, value in found.items() if name.endswith("rougeL_f1"))
        return Verdict(judge=self.name, value=round(value, 4))


class LlmJudge:
    """A model that is shown the accepted answers.

    Args:
        engine: Asks the model.
        name: Unique in a panel; the verdicts' `judge` is 'llm:NAME'.
        attempts: How often to ask while the verdict cannot be read.
        recorded: The calls that were answered before. Reading such an answer again does not count
            as an attempt: what could not be read then is asked anew, with other seeds.
    """

    is_free = False

    def __init__(
        self,
        engine: Engine,
        name: str,
        attempts: int = JUDGE_ATTEMPTS,
        *,
        recorded: Recorded | None = None,
    ) -> None:
        self.name = f"{LLM_PREFIX}{name}"
        self._engine = engine
        self._attempts = attempts
        self._recorded = recorded

    async def close(self) -> None:
        """Closes the engine."""
        await self._engine.close()

    async def judge(self, question: Question, answer: str) -> Verdict:
        """Returns 1.0 or 0.0; unscored when no reply could be read, or the answer is too long."""
        if not answer.strip():
            return Verdict(judge=self.name, value=0.0, reason="empty answer")
        messages = render_judgement(question, answer)
        usage, reason = Usage(), "no verdict"
        max_tokens = JUDGE_TOKENS
        attempt = made = 0
        while made < self._attempts:
            sampling = Sampling(
                temperature=0.0 if attempt == 0 else 0.7,
                max_tokens=max_tokens,
                seed=content_seed(self.name, question.text, answer, str(attempt)),
                # Guided decoding itself may be what fails, so only the first attempt uses it.
                schema=_SCHEMA if attempt == 0 else None,
            )
            known = self._recorded is not None and self._recorded.holds(messages, sampling)
            attempt, made = attempt + 1, made + (not known)
            try:
                sampled = await self._engine.sample(messages, sampling)
            except EngineReplyError as error:
                reason, usage = error.message, usage + spent_on(error)
                continue
            except DocumentTooLongError as error:  # and would be as long the next time
                reason = error.message
                break
            usage = usage + sampled.usage
            completion = sampled.completions[0]
            value = parse_judgement(completion.text, completion.finish_reason)
            if value is not None:
                return Verdict(
                    judge=self.name, value=value, reason=completion.text[:500], usage=usage
                )
            cut = completion.finish_reason == "length"
            max_tokens = LONG_JUDGE_TOKENS if cut else max_tokens
            reason = f"{'cut off' if cut else 'unreadable'}: {completion.text[:200]}"
        return Verdict(judge=self.name, value=None, reason=reason, usage=usage)


class RecordedJudge:
    """A judge whose verdicts are only looked up.

    Args:
        name: As stored with the verdicts.
    """

    is_free = False

    def __init__(self, name: str) -> None:
        self.name = name

    async def judge(self, question: Question, answer: str) -> Verdict:
        """Returns an unscored verdict: the answer was never judged."""
        return Verdict(judge=self.name, value=None, reason="not recorded")


async def is_settled(judges: Sequence[Judge], question: Question, answer: str) -> bool:
    """Whether an exact judge finds the answer right, so that no model needs to be asked."""
    found = [await one.judge(question, answer) for one in judges if one.name == ExactJudge.name]
    return any(verdict.value == 1.0 for verdict in found)


def render_judgement(question: Question, answer: str) -> tuple[Message, ...]:
    """Returns the request that an LLM judge sends."""
    golds = " | ".join(question.answers)
    asked = _REQUEST.format(question=question.text, golds=golds, answer=answer)
    return (Message(role="system", content=_SYSTEM), Message(role="user", content=asked))


def judgement_key(judge: str, question: Question, answer: str) -> str:
    """Returns the cache key of a judgement: judge, question, accepted answers, answer."""
    golds = "\x1e".join(question.answers)
    return content_id(
        "judgement", str(PROMPT_VERSION), judge, question.text, golds, answer, length=32
    )


def _scored_votes(verdicts: Sequence[Verdict]) -> list[float]:
    """Returns the scored votes of a panel of models."""
    return [
        verdict.value
        for verdict in verdicts
        if verdict.judge.startswith(LLM_PREFIX) and verdict.value is not None
    ]


def is_correct(verdicts: Sequence[Verdict]) -> bool | None:
    """Whether an answer counts as right; None when no judge scored it.

    An exact match is right. Else the majority of the models decides (a tie is wrong); without
    models, the first judge of `BUILT_IN` that scored the answer.
    """
    values = {verdict.judge: verdict.value for verdict in verdicts}
    if values.get(ExactJudge.name) == 1.0:
        return True
    votes = _scored_votes(verdicts)
    if votes:
        return sum(vote >= 0.5 for vote in votes) * 2 > len(votes)
    if any(verdict.judge.startswith(LLM_PREFIX) for verdict in verdicts):
        return None
    for name, judge in BUILT_IN.items():
        if (value := values.get(name)) is not None:
            return value >= judge.correct_from
    return None


def judge_pointing(kept: Collection[int], gold: Collection[int]) -> Verdict:
    """Returns the F1 of the pieces that an answer rests on against those that hold the facts.

    It says nothing about the answer, so no verdict on right and wrong counts it. The F-score of the
    chosen evidence is a reward of its own in LongRLVR (arXiv 2603.02146).
    """
    right = len(set(kept) & set(gold))
    reason = f"{right} of {len(set(gold))} gold pieces kept, and {len(set(kept)) - right} others"
    value = round(piece_f1(kept, gold), 6)
    return Verdict(judge=POINTING, value=value, reason=reason)


def combine(verdicts: Sequence[Verdict], pointing_weight: float = 0.0) -> float | None:
    """Returns the score of an answer in [0, 1]; None when no judge scored it.

    1 for an exact match; else the mean over the judges that scored, the panel's votes averaged
    first. The score orders answers; `is_correct` decides.

    Args:
        verdicts: Of the answer.
        pointing_weight: Share of the score that the F1 of the pieces has, where it is known.
    """
    judged = _combine_judges(verdicts)
    found = [verdict.value for verdict in verdicts if verdict.judge == POINTING]
    if judged is None or not found or found[0] is None:
        return judged
    return round((1 - pointing_weight) * judged + pointing_weight * found[0], 6)


def _combine_judges(verdicts: Sequence[Verdict]) -> float | None:
    if is_correct(verdicts) is None:
        return None
    values = {verdict.judge: verdict.value for verdict in verdicts}
    if values.get(ExactJudge.name) == 1.0:
        return 1.0
    parts = [value for name in BUILT_IN if (value := values.get(name)) is not None]
    votes = _scored_votes(verdicts)
    if votes:
        parts.append(sum(votes) / len(votes))
    return round(sum(parts) / len(parts), 6)


def scores_of_judges(verdicts: Sequence[Verdict]) -> list[float]:
    """Returns what the judges that scored an answer made of it."""
    return [one.value for one in verdicts if one.value is not None and one.judge != POINTING]


def disagrees(verdicts: Sequence[Verdict]) -> bool:
    """Whether scored judges differ on right and wrong."""
    return len({value >= 0.5 for value in scores_of_judges(verdicts)}) > 1


def solved_depth(tree: Tree) -> int | None:
    """Returns the depth of the first right answer; None when there is none."""
    depths = [node.depth for node in tree.nodes if is_correct(node.verdicts)]
    return min(depths, default=None)


BUILT_IN: dict[str, type[FreeJudge]] = {"exact": ExactJudge, "rouge-l": RougeJudge}
"""Judges without a model; the first of them that scored an answer decides."""


def list_judges() -> tuple[str, ...]:
    """Returns the names that a search accepts."""
    return (*BUILT_IN, "llm")


def build_judges(names: Sequence[str], models: Sequence[LlmJudge] = ()) -> tuple[Judge, ...]:
    """Returns the judges in the order of their cost.

    Args:
        names: 'exact', 'rouge-l', or 'llm' for the models.
        models: The panel.

    Raises:
        ConfigError: Unknown name, no judge at all, or 'llm' without a model.
    """
    judges: list[Judge] = []
    for name in dict.fromkeys(names):
        require_known(name, list_judges(), kind="judge")
        if name == "llm":
            if not models:
                raise ConfigError(
                    "The judge 'llm' needs a model.",
                    hint="Add --judge-model FOLDER; or its name and --judge-base-url ADDRESS.",
                )
            judges += models
        else:
            judges.append(BUILT_IN[name]())
    if not judges:
        raise ConfigError("At least one judge is needed.", hint="Try --judge exact.")
    return tuple(judges)
