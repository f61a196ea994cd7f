"""One bad item is nobody else's trouble; every place has work; unlike results never mix."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agenticlu.core.errors import (
    AgenticluError,
    ContentRefusedError,
    DocumentTooLongError,
    EngineBusyError,
    EngineError,
    EngineRefusedError,
    EngineReplyError,
    EngineUnreachableError,
    MissingDependencyError,
    StoreError,
    UsageError,
)
from agenticlu.core.records import Message, Prediction
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer, load_tokenizer
from agenticlu.engines import retry as limits
from agenticlu.engines.base import ChoiceProbs, Completion, Sampling
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.evaluation.config import EvaluationConfig, RunSettings
from agenticlu.evaluation.predictions import LOCK_NAME, lock_results, read_predictions
from agenticlu.evaluation.records import Summary, load_summary
from agenticlu.evaluation.run import run_evaluation, summarise_folder
from agenticlu.evaluation.runner import MOST_IN_A_ROW, round_ends

SETTINGS = RunSettings(EvaluationConfig(), load_profile(), ApproximateTokenizer())


def config(**changes: object) -> EvaluationConfig:
    base = {
        "methods": ("direct",),
        "lengths": (300,),
        "limit": 8,
        "piece_tokens": 64,
        "label": "scripted",
    }
    return EvaluationConfig.model_validate(base | changes)


def run(cfg: EvaluationConfig, engine: Any, out: Path, **more: Any) -> Summary:
    settings = more.pop("settings", SETTINGS)
    return asyncio.run(
        run_evaluation(replace(settings, config=cfg), engine, out, **({"patience_s": 0} | more))
    )


def kept(out: Path) -> list[Prediction]:
    return list(read_predictions(out / "predictions.jsonl").values())


def unsure(request: ScriptedRequest) -> str:
    """Plays a model whose answer tells the round and whose self-check never says yes."""
    if "Reply yes or no" in request.last:
        return "no"
    return f"Answer: round {1 + request.turn // 5}"


# --- bad items --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [RuntimeError("out of memory"), KeyError("x"), OSError("gone"), EngineRefusedError("bad stop")],
)
def test_one_bad_item_fails_alone(tmp_path: Path, error: Exception) -> None:
    summary = run(config(), ScriptedEngine(faults={3: error}), tmp_path)
    assert (summary.num_items, summary.num_failed) == (8, 1)
    reason = summary.failures[0].error
    assert reason.startswith(type(error).__name__)
    calm = ScriptedEngine()
    assert run(config(), calm, tmp_path, retry_failed=True).num_failed == 0
    assert len(calm.requests) == 1


def test_many_bad_items_in_a_row_end_the_run(tmp_path: Path) -> None:
    engine = ScriptedEngine(faults=lambda request: RuntimeError("broken for good"))
    with pytest.raises(EngineError, match=r"10 items in a row failed.*broken for good") as caught:
        run(config(limit=40), engine, tmp_path)
    assert "--retry-failed" in (caught.value.hint or "")
    assert MOST_IN_A_ROW <= len(engine.requests) <= MOST_IN_A_ROW + 8
    assert len(kept(tmp_path)) >= MOST_IN_A_ROW
    assert load_summary(tmp_path).num_failed >= MOST_IN_A_ROW


@pytest.mark.parametrize("error", [DocumentTooLongError, ContentRefusedError])
def test_documents_too_long_and_moderation_do_not_end_the_run(
    tmp_path: Path, error: type[AgenticluError]
) -> None:
    engine = ScriptedEngine(faults=lambda request: error("not this one"))
    summary = run(config(limit=3 * MOST_IN_A_ROW), engine, tmp_path)
    assert summary.num_failed == 3 * MOST_IN_A_ROW


def test_half_a_character_is_kept_as_a_mark(tmp_path: Path) -> None:
    """A reply may end in the middle of a character: no file can hold half a surrogate pair."""
    engine = ScriptedEngine(lambda request: Completion("Answer: \ud83d x", "stop"))
    summary = run(config(methods=("clarify",), limit=2), engine, tmp_path)
    assert summary.num_failed == 0
    assert {p.raw for p in kept(tmp_path)} == {"Answer: \ufffd x"}
    assert all(turn.reply == "Answer: \ufffd x" for p in kept(tmp_path) for turn in p.turns)


def test_turns_and_tokens_of_a_failed_item_are_kept(tmp_path: Path) -> None:
    def fault(request: ScriptedRequest) -> Exception | None:
        return EngineReplyError("no sense") if request.turn == 3 else None

    summary = run(config(methods=("clarify",), limit=1), ScriptedEngine(faults=fault), tmp_path)
    (found,) = kept(tmp_path)
    assert [turn.kind for turn in found.turns] == ["clarify", "point", "sub_answer"]
    assert found.usage.requests == 3
    assert summary.usage.prompt_tokens == found.usage.prompt_tokens > 0
    assert summary.cells[0].failed_usage == found.usage
    assert "Failed items, not counted here" in (tmp_path / "results.md").read_text()


# --- servers that come and go -----------------------------------------------------------------


def test_a_pause_of_the_server_fails_no_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "sleep", lambda seconds: asyncio.sleep(0))
    away = {n: EngineUnreachableError("away") for n in range(3, 9)}
    lines: list[str] = []
    engine = ScriptedEngine(faults=away)
    summary = run(config(), engine, tmp_path, patience_s=30, report=lines.append)
    assert summary.num_failed == 0
    assert len(engine.requests) == 8 + len(away)
    assert any("paused" in line for line in lines)


def test_a_dead_server_ends_the_run_and_marks_nothing_failed(tmp_path: Path) -> None:
    def fault(request: ScriptedRequest) -> Exception | None:
        return EngineUnreachableError("gone") if request.call >= 4 else None

    with pytest.raises(EngineUnreachableError):
        run(config(concurrency=1), ScriptedEngine(faults=fault), tmp_path)
    assert [p.error for p in kept(tmp_path)] == [None] * 4
    summary = load_summary(tmp_path)
    assert summary.cells[0].num_scored == 4
    assert "ended early: gone" in summary.notes[0]
    again = ScriptedEngine()
    assert not any("ended early" in note for note in run(config(), again, tmp_path).notes)
    assert len(again.requests) == 4


def test_a_request_that_the_server_cannot_answer_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "sleep", lambda seconds: asyncio.sleep(0))
    poisoned: list[str] = []

    def fault(request: ScriptedRequest) -> Exception | None:
        text = request.messages[-1].content
        if request.call == 3:
            poisoned.append(text)
        if text not in poisoned:
            return None
        error = EngineBusyError("inner error")
        error.is_fault = True
        return error

    engine = ScriptedEngine(faults=fault, latency_s=0.002)
    lines: list[str] = []
    cfg = config(limit=120, questions_per_document=1)
    summary = run(cfg, engine, tmp_path, patience_s=30, report=lines.append)
    assert summary.num_failed == 1
    assert "inner error" in summary.failures[0].error
    sent = [r for r in engine.requests if r.messages[-1].content in poisoned]
    assert limits.RetryPolicy().tries <= len(sent) <= limits.RetryPolicy().tries + 2


# --- work for every place ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "questions", "concurrency"),
    [("babi_qa1", 1, 8), ("babi_qa1", 1, 16), ("babi_qa1", 1, 1), ("world", 4, 8), ("world", 2, 8)],
)
def test_documents_are_opened_while_places_are_free(
    tmp_path: Path, task: str, questions: int, concurrency: int
) -> None:
    engine = ScriptedEngine(latency_s=0.001)
    shape = {"tasks": (task,), "lengths": (400,), "limit": 40, "questions_per_document": questions}
    run(config(**shape, concurrency=concurrency), engine, tmp_path)
    assert engine.most_concurrent == concurrency


def test_no_more_documents_are_open_than_there_is_work_for(tmp_path: Path) -> None:
    """Documents that wait for their turn would push each other out of the cache."""
    methods = ("direct", "retrieve", "step-by-step", "plan-and-solve", "fact-and-reflect")
    open_now: set[str] = set()
    left: dict[str, int] = {}
    most = 0

    class Watching(ScriptedEngine):
        async def sample(self, messages: Sequence[Message], sampling: Sampling, **rest: Any) -> Any:
            nonlocal most
            name = rest["session"]
            left.setdefault(name, 4 * len(methods))
            open_now.add(name)
            most = max(most, len(open_now))
            reply = await super().sample(messages, sampling, **rest)
            left[name] -= 1
            if not left[name]:
                open_now.discard(name)
            return reply

    cfg = config(methods=methods, limit=32, concurrency=8)
    run(cfg, Watching(latency_s=0.001), tmp_path)
    assert len(left) == 8
    assert 2 <= most <= 3


# --- what may be compared ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 1.5}, "temperature was 0.0 and is now 1.5"),
        ({"max_tokens": 9}, "max_tokens was 256 and is now 9"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"piece_tokens": 32}, "piece_tokens was 64 and is now 32"),
        ({"questions_per_document": 2}, "questions_per_document was 4 and is now 2"),
        ({"methods": ("clarify",), "rounds": 2}, "rounds was 1 and is now 2"),
        ({"methods": ("retrieve",), "top_k": 2}, "top_k was 4 and is now 2"),
    ],
)
def test_results_of_other_settings_are_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    cfg = config(methods=("direct", "clarify", "retrieve"), limit=2)
    run(cfg, ScriptedEngine(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    engine = ScriptedEngine()
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        run(cfg.model_copy(update=change), engine, tmp_path)
    assert "another --out" in (caught.value.hint or "")
    assert engine.requests == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 4},
        {"concurrency": 1},
        {"lengths": (300, 350)},
        {"metric": "f1"},
        {"methods": ("direct",), "rounds": 3},
        {"tasks": ("niah_single_1",), "questions_per_document": 2},
        {"label": "other", "model_fingerprint": "x"},
    ],
)
def test_what_bears_on_no_comparison_is_not_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run(config(limit=2), ScriptedEngine(), tmp_path)
    run(config(limit=2, **change) if "limit" not in change else config(**change),
        ScriptedEngine(), tmp_path)  # fmt: skip


def test_another_tokenizer_is_refused_and_a_copy_of_it_is_not(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    own = replace(SETTINGS, tokenizer=load_tokenizer(str(tiny_model_path)))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "tokenizer.json").write_bytes((tiny_model_path / "tokenizer.json").read_bytes())
    copied = replace(SETTINGS, tokenizer=load_tokenizer(str(copy)))
    run(config(), ScriptedEngine(), tmp_path / "out", settings=own)
    engine = ScriptedEngine()
    run(config(), engine, tmp_path / "out", settings=copied)
    assert engine.requests == []
    with pytest.raises(UsageError, match="another tokenizer"):
        run(config(), engine, tmp_path / "out")


def test_a_label_shows_its_latest_weights_only(tmp_path: Path) -> None:
    old, new = config(model_fingerprint="old"), config(model_fingerprint="new", limit=4)
    run(old, ScriptedEngine(lambda request: "Answer: x"), tmp_path)
    summary = run(new, ScriptedEngine(lambda request: "Answer: y"), tmp_path)
    assert [cell.num_scored for cell in summary.cells] == [4]
    assert any("8 results of other weights" in note for note in summary.notes)
    assert run(old, ScriptedEngine(), tmp_path).cells[0].num_scored == 8
    assert summarise_folder(tmp_path).cells[0].num_scored == 8  # as the last run left it


def test_two_systems_without_a_question_in_common_are_told_apart(tmp_path: Path) -> None:
    run(config(label="a"), ScriptedEngine(), tmp_path)
    path = tmp_path / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(p | {"document_id": f"cut-{p['document_id']}"}) + "\n" for p in lines)
    )
    summary = run(config(label="b"), ScriptedEngine(), tmp_path)
    assert not [d for d in summary.differences if d.engine != d.baseline_engine]
    assert any("Nothing can be compared between b and a" in note for note in summary.notes)


# --- rounds side by side ----------------------------------------------------------------------


def test_numbers_of_rounds_stand_side_by_side_and_are_asked_once(tmp_path: Path) -> None:
    engine = ScriptedEngine(unsure)
    cfg = config(methods=("direct", "clarify"), rounds=(1, 2, 3), limit=2)
    summary = run(cfg, engine, tmp_path)
    assert len(engine.requests) == 2 * (1 + 3 * 5)
    assert [cell.method for cell in summary.cells] == [
        "direct",
        "clarify@1",
        "clarify@2",
        "clarify@3",
    ]
    for p in kept(tmp_path):
        if p.method != "direct":
            rounds = int(p.method[-1])
            assert p.answer == f"round {rounds}"
            assert p.usage.requests == len(p.turns) == 5 * rounds
            assert p.conditions["rounds"] == rounds
    asked = sum(cell.usage.requests for cell in summary.cells if cell.method[-1] in "3t")
    assert summary.usage.requests == asked == len(engine.requests)  # shared turns are paid once
    again = ScriptedEngine()
    run(cfg, again, tmp_path)
    assert again.requests == []


def test_rounds_side_by_side_are_what_each_would_be_alone(tmp_path: Path) -> None:
    def some_sure(request: ScriptedRequest) -> str | None:
        """Is satisfied after one round for some questions, after two for others."""
        if "Reply yes or no" in request.last:
            asked = len(request.messages[1].content) % 3
            return "yes" if 1 + request.turn // 5 > asked else "no"
        return None

    cfg = config(methods=("clarify",), rounds=(1, 2, 3))
    run(cfg, ScriptedEngine(some_sure), tmp_path / "together")
    rounds_needed = set()
    for rounds in (1, 2, 3):
        alone = cfg.model_copy(update={"rounds": rounds})
        run(alone, ScriptedEngine(some_sure), tmp_path / str(rounds))
        together = {
            p.question_id: (p.raw, p.cited, len(p.turns), p.scores)
            for p in kept(tmp_path / "together")
            if p.method == f"clarify@{rounds}"
        }
        found = kept(tmp_path / str(rounds))
        assert together == {p.question_id: (p.raw, p.cited, len(p.turns), p.scores) for p in found}
        rounds_needed |= {len(p.turns) // 5 for p in found}
    assert rounds_needed == {1, 2, 3}  # the guard: some dialogues ended early


def test_rounds_that_were_over_count_although_a_later_one_failed(tmp_path: Path) -> None:
    def fault(request: ScriptedRequest) -> Exception | None:
        return EngineReplyError("no sense") if request.turn == 7 else None

    cfg = config(methods=("clarify",), rounds=(1, 2), limit=1)
    run(cfg, ScriptedEngine(unsure, faults=fault), tmp_path)
    assert {p.method: p.error is None for p in kept(tmp_path)} == {
        "clarify@1": True,
        "clarify@2": False,
    }
    engine = ScriptedEngine(unsure)
    summary = run(cfg, engine, tmp_path, retry_failed=True)
    assert summary.num_failed == 0
    assert len(engine.requests) == 10
    ids = [
        json.loads(line)["id"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()
    ]
    assert len(ids) == 3  # round 1 was not written again


def test_rounds_end_after_their_self_check() -> None:
    from agenticlu.core.records import Turn

    def turns(*kinds: str) -> list[Turn]:
        return [
            Turn.model_validate({"kind": k, "wording": "w", "request": "", "reply": ""})
            for k in kinds
        ]

    full = ("clarify", "point", "sub_answer", "answer", "check")
    assert round_ends(turns(*full, *full)) == [5, 10]
    assert round_ends(turns("direct", *full)) == [6]
    assert round_ends(turns(*full, "clarify")) == [5]
    assert round_ends(turns("clarify", "answer")) == [2]


# --- documents longer than the window ---------------------------------------------------------


def test_another_way_with_long_documents_asks_only_those_again(tmp_path: Path) -> None:
    engine = ScriptedEngine(tokenizer=SETTINGS.tokenizer, context_tokens=1400)
    cfg = config(lengths=(300, 1500), limit=4, max_tokens=50)
    assert run(cfg, engine, tmp_path).num_failed == 4
    asked = len(engine.requests)
    assert asked == 4
    fitted = cfg.model_copy(update={"overlong": "fit"})
    summary = run(fitted, engine, tmp_path)
    assert summary.num_failed == 0
    assert len(engine.requests) - asked == 4  # the short ones fit anyway
    wider = ScriptedEngine(tokenizer=SETTINGS.tokenizer, context_tokens=4000)
    summary = run(fitted, wider, tmp_path)
    assert len(wider.requests) == 4  # nothing has to be cut now
    assert all(cell.num_truncated == 0 for cell in summary.cells)


# --- the folder -------------------------------------------------------------------------------


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with lock_results(tmp_path):
        engine = ScriptedEngine()
        with pytest.raises(StoreError, match="Another process is writing"):
            run(config(), engine, tmp_path)
        assert engine.requests == []
    run(config(), ScriptedEngine(), tmp_path)


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    gone = ScriptedEngine(faults=lambda request: EngineUnreachableError("gone"))
    with pytest.raises(EngineUnreachableError):
        run(config(), gone, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError):
        run(config(methods=("helmet",)), ScriptedEngine(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineUnreachableError):
        run(config(), gone, tmp_path / "empty")
    assert (tmp_path / "empty").is_dir()  # somebody made it
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(EngineUnreachableError):
        run(config(), gone, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="Cannot write results"):
        run(config(), ScriptedEngine(), tmp_path / "file" / "out")
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        with pytest.raises(StoreError, match="Cannot write results"):
            run(config(), ScriptedEngine(), locked)


def test_the_lock_is_no_result(tmp_path: Path) -> None:
    run(config(), ScriptedEngine(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        LOCK_NAME,
        "config.json",
        "differences.csv",
        "predictions.jsonl",
        "results.csv",
        "results.md",
        "summary.json",
    }


# --- what is checked before anything is asked -------------------------------------------------


def test_missing_files_of_any_task_are_told_before_the_first_is_asked(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    cfg = config(
        tasks=("world", "kilt_nq", "kilt_hotpotqa"),
        lengths=(8192,),
        options={"helmet_data": str(tmp_path)},
    )
    with pytest.raises(UsageError, match=r"4 HELMET files are missing.*nq-dev.*hotpotqa-train"):
        run(cfg, engine, tmp_path / "out")
    without = cfg.model_copy(update={"options": {**cfg.options, "shots": 0}})
    with pytest.raises(UsageError, match="2 HELMET files are missing"):
        run(without, engine, tmp_path / "out")
    with pytest.raises(UsageError, match=r"nowhere\.txt. does not exist"):
        run(config(options={"haystack": "nowhere.txt"}), engine, tmp_path / "out")
    assert engine.requests == []
    assert not (tmp_path / "out").exists()


def test_an_absent_rouge_package_is_told_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {name for name in sys.modules if name.startswith("rouge_score")} | {"rouge_score"}:
        monkeypatch.setitem(sys.modules, name, None)
    engine = ScriptedEngine()
    for changes in ({"with_rouge": True}, {"tasks": ("kilt_nq",), "lengths": (8192,)}):
        with pytest.raises(MissingDependencyError, match="rouge-score"):
            run(config(**changes), engine, tmp_path / "out")
    assert engine.requests == []
    run(config(), engine, tmp_path / "out")
    assert engine.requests


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Unknown metric .corect.") as caught:
        run(config(metric="corect"), ScriptedEngine(), tmp_path / "out")
    assert caught.value.hint == "Did you mean correct?"
    assert run(config(metric="f1", limit=1), ScriptedEngine(), tmp_path).cells[0].headline == "f1"


def test_patience_covers_score_choices() -> None:
    """The engine that scores passages for retrieval is as patient as the one that samples."""
    engine = ScriptedEngine(faults={0: EngineUnreachableError("away")})

    async def score() -> ChoiceProbs:
        patient = limits.with_patience(engine, 30.0)
        return await patient.score_choices([Message(role="user", content="x")], ("yes", "no"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "sleep", lambda seconds: asyncio.sleep(0))
        assert sum(asyncio.run(score()).probabilities.values()) == pytest.approx(1)
    assert isinstance(EngineUnreachableError("x"), AgenticluError)
