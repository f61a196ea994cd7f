"""Tests judges with controls: candidates known to be right or wrong.

An accepted answer must be judged right; the answer to another question, or a wrong option, wrong.
A judge that errs on these also errs in the trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.errors import ConfigError
from agenticlu.core.options import option_letter
from agenticlu.core.records import Question, Verdict, content_id, content_seed
from agenticlu.evaluation.scoring.answers import matches, word_match
from agenticlu.judges import BUILT_IN, Judge, LlmJudge, build_judges, is_correct, judgement_key
from agenticlu.search.caller import together
from agenticlu.search.store import Store

TOGETHER = "all together"
"""Names the joint decision in the results."""


@dataclass(frozen=True)
class Control:
    """A candidate answer, known to be right or wrong."""

    question: Question
    candidate: str
    is_right: bool


def choose_controls(questions: Sequence[tuple[Question, str]], limit: int) -> list[Control]:
    """Returns a right and a wrong candidate for each of some questions.

    Args:
        questions: Questions with the ids of their documents.
        limit: Most questions; chosen by the hash of their ids.
    """
    known = [(question, document_id) for question, document_id in questions if question.answers]
    chosen = sorted(known, key=lambda one: content_id("control", one[0].id))[:limit]
    by_document: dict[str, list[str]] = {}
    for question, document_id in known:
        by_document.setdefault(document_id, []).append(question.answers[0])
    everywhere = [question.answers[0] for question, _ in known]
    controls = []
    for question, document_id in chosen:
        answers = question.answers
        gold = answers[content_seed("control", question.id) % len(answers)]
        controls.append(Control(question, gold, is_right=True))
        pools = (question.options, by_document[document_id], everywhere)
        wrong = next(filter(None, (_find_wrong(question, pool) for pool in pools)), None)
        if wrong is not None:
            controls.append(Control(question, wrong, is_right=False))
    return controls


def _find_wrong(question: Question, pool: Sequence[str]) -> str | None:
    """Returns a text of the pool that shares no accepted answer, not even in part."""
    accepted = _list_accepted(question)
    start = content_seed("wrong control", question.id) % len(pool) if pool else 0
    for text in (*pool[start:], *pool[:start]):
        near = word_match(text, accepted) or any(word_match(one, [text]) for one in accepted)
        if text.strip() and not near and not matches(text, accepted):
            return text
    return None


def _list_accepted(question: Question) -> list[str]:
    """Returns the accepted answers; those of a multiple-choice question as letters and as texts."""
    accepted = list(question.answers)
    for number, option in enumerate(question.options):
        letter = option_letter(number)
        if matches(option, question.answers) or letter in question.answers:
            accepted += [option, letter]
    return accepted


def find_run_judges(store: Store, panel: Sequence[LlmJudge]) -> tuple[Judge, ...]:
    """Returns the judges of a run.

    Args:
        store: The run.
        panel: The models available.

    Raises:
        ConfigError: A model of the run is not available, or one is that is not the run's.
    """
    names = list(store.get("judges") or ())
    models = {judge.name: judge for judge in panel}
    for name in names:
        if name not in BUILT_IN and name not in models:
            raise ConfigError(
                f"{store.folder} was judged by {', '.join(names)}; {name} is missing.",
                hint=f"Add --judge-model {name.partition(':')[2]} and, for a server, "
                "--judge-base-url.",
            )
    for name in models:
        if name not in names:
            raise ConfigError(
                f"{store.folder} was judged by {', '.join(names)}, not by {name}.",
                hint="Leave it out, or judge with it first: agenticlu generate replay RUN "
                "--judge llm --judge-model NAME",
            )
    return tuple(models.get(name) or build_judges([name])[0] for name in names)


async def run_controls(
    store: Store, judges: Sequence[Judge], controls: Sequence[Control]
) -> dict[str, Any]:
    """Judges the controls; stores verdicts that cost something, and the result, with the run.

    Returns:
        Judge to {right, wrong} to {n, correct, unscored}; an unscored one is not correct.
    """
    judged = await together(
        together([_judge(store, judge, control) for judge in judges]) for control in controls
    )
    results: dict[str, dict[str, dict[str, int]]] = {}
    for control, verdicts in zip(controls, judged, strict=True):
        found = {
            verdict.judge: None if verdict.value is None else verdict.value >= 0.5
            for verdict in verdicts
        }
        if len(judges) > 1:
            found[TOGETHER] = is_correct(verdicts)
        for name, said in found.items():
            empty = {"n": 0, "correct": 0, "unscored": 0}
            sides = results.setdefault(name, {"right": dict(empty), "wrong": dict(empty)})
            counts = sides["right" if control.is_right else "wrong"]
            counts["n"] += 1
            counts["correct"] += said is control.is_right
            counts["unscored"] += said is None
    store.put(controls=results)
    return results


async def _judge(store: Store, judge: Judge, control: Control) -> Verdict:
    if judge.is_free:
        return await judge.judge(control.question, control.candidate)
    key = judgement_key(judge.name, control.question, control.candidate)
    verdict = store.find_judgement(key, only_scored=True)
    if verdict is None:
        verdict = await judge.judge(control.question, control.candidate)
        await store.add_judgement(key, verdict)
    return verdict
