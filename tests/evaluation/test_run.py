"""Runs survive, repeat nothing, share prefixes, and count what failed."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from agenticlu.cli.eval import command
from agenticlu.core.errors import (
    EngineAuthError,
    EngineRefusedError,
    EngineUnreachableError,
    StoreError,
    UsageError,
)
from agenticlu.core.records import Document, Prediction
from agenticlu.demo.world import World
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.base import Completion
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.evaluation.config import EvaluationConfig, RunSettings, as_published_config
from agenticlu.evaluation.methods import METHODS
from agenticlu.evaluation.plan import build_plan, load_run_items
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.records import Summary, load_summary
from agenticlu.evaluation.run import run_evaluation
from agenticlu.evaluation.runner import is_gold_present

TOKENIZER = ApproximateTokenizer()
SETTINGS = RunSettings(EvaluationConfig(), load_profile(), TOKENIZER)
ALL = tuple(name for name in METHODS if name != "helmet")


def config(**changes: object) -> EvaluationConfig:
    base = {
        "methods": ("direct", "clarify"),
        "lengths": (300,),
        "limit": 8,
        "piece_tokens": 64,
        "label": "scripted",
        "stop_rule": {"weights": {"says_yes": 4}, "bias": -2, "threshold": 0.5},
    }
    return EvaluationConfig.model_validate(base | changes)


def answers_of_world(length: int = 300, num: int = 4) -> dict[str, str]:
    """Question text to right answer, for the documents that the runs below ask about."""
    world = World(0)
    found = {}
    for index in range(8):
        made = world.document("test", index, length, TOKENIZER.count, num_questions=num)
        found |= {question.text: question.answer for question in made.questions}
    return found


def knowing(known: dict[str, str]) -> Callable[[ScriptedRequest], str]:
    """Plays a model that answers right at the end of a dialogue only, and points to piece 1."""

    def reply(request: ScriptedRequest) -> str:
        asked = re.search(r"Question: (.*)", request.messages[1].content)
        assert asked is not None
        if "Reply yes or no" in request.last:
            return "yes"
        if "marker" in request.last:
            return "<para 1>"
        right = f"Fact. Answer: {known[asked[1]]}"
        return right if request.turn else "Answer: nothing of the kind"

    return reply


def run(cfg: EvaluationConfig, engine: ScriptedEngine, out: Path, **more: Any) -> Summary:
    return asyncio.run(
        run_evaluation(replace(SETTINGS, config=cfg), engine, out, **({"patience_s": 0} | more))
    )


def test_every_method_runs_and_the_dialogue_beats_direct(tmp_path: Path) -> None:
    engine = ScriptedEngine(knowing(answers_of_world()), tokenizer=TOKENIZER)
    run(config(methods=ALL), engine, tmp_path)
    summary = load_summary(tmp_path)
    assert {cell.method for cell in summary.cells} == set(ALL)
    assert all(cell.num_scored == 8 and cell.num_failed == 0 for cell in summary.cells)
    direct, clarify = summary.find("world", 300, "direct"), summary.find("world", 300, "clarify")
    assert direct is not None
    assert clarify is not None
    assert direct.score is not None
    assert clarify.score is not None
    assert (direct.score.mean, clarify.score.mean) == (0.0, 1.0)
    gain = next(d for d in summary.differences if d.method == "clarify")
    assert gain.difference.mean == 1.0
    assert clarify.point_recall is not None
    assert (tmp_path / "results.md").read_text().count("| world |") >= len(ALL)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert len(rows) > len(ALL)
    assert len({row.count(",") for row in rows}) == 1


def test_a_document_is_read_once_over_all_methods_and_questions(tmp_path: Path) -> None:
    engine = ScriptedEngine(knowing(answers_of_world()), tokenizer=TOKENIZER)
    methods = ("direct", "clarify", "clarify-no-pointback", "step-by-step")
    run(config(methods=methods, questions_per_document=4), engine, tmp_path)
    predictions = list(read_predictions(tmp_path / "predictions.jsonl").values())
    first_of_document = {p.document_id: p for p in reversed(predictions)}
    assert len(first_of_document) == 2
    for p in predictions:
        uncached = p.usage.prompt_tokens - p.usage.cached_tokens
        if p.id == first_of_document[p.document_id].id:
            assert uncached > 300  # the guard: somebody did read it
        else:
            assert uncached < 300


def test_second_run_asks_nothing(tmp_path: Path) -> None:
    run(config(), ScriptedEngine(knowing(answers_of_world())), tmp_path)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    again = ScriptedEngine()
    run(config(), again, tmp_path)
    assert again.requests == []
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_resume_repeats_only_what_was_lost(tmp_path: Path, cut: int) -> None:
    """Cuts the file in the middle of a line, as a kill does, and runs the command again."""
    known = answers_of_world()
    run(config(), ScriptedEngine(knowing(known)), tmp_path / "whole")
    whole = read_predictions(tmp_path / "whole" / "predictions.jsonl")
    run(config(), ScriptedEngine(knowing(known)), tmp_path / "cut")
    path = tmp_path / "cut" / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:cut])
    engine = ScriptedEngine(knowing(known))
    run(config(), engine, tmp_path / "cut")
    resumed = read_predictions(path)
    assert set(resumed) == set(whole)
    kept = {json.loads(line)["id"] for line in lines[:5]}
    repeated = len(engine.requests)
    expected = sum(1 if p.method == "direct" else 5 for p in whole.values() if p.id not in kept)
    assert repeated == expected > 0
    strip = {"usage", "seconds", "turns"}
    assert {i: p.model_dump(exclude=strip) for i, p in resumed.items()} == {
        i: p.model_dump(exclude=strip) for i, p in whole.items()
    }
    counts = Counter(json.loads(line)["id"] for line in path.read_text().splitlines())
    assert set(counts.values()) == {1}


def test_failed_items_are_counted_kept_and_retried(tmp_path: Path) -> None:
    known = answers_of_world()
    broken = EngineRefusedError("no sense")
    engine = ScriptedEngine(knowing(known), faults={3: broken})
    run(config(), engine, tmp_path)
    summary = load_summary(tmp_path)
    assert summary.num_failed == 1
    assert "EngineRefusedError: no sense" in summary.failures[0].error
    assert sum(cell.num_scored for cell in summary.cells) == 15
    calm = ScriptedEngine(knowing(known))
    run(config(), calm, tmp_path)
    assert calm.requests == []  # not silently retried
    run(config(), calm, tmp_path, retry_failed=True)
    assert 1 <= len(calm.requests) <= 5
    assert load_summary(tmp_path).num_failed == 0


def test_a_refused_key_ends_the_run_and_keeps_finished_items(tmp_path: Path) -> None:
    engine = ScriptedEngine(knowing(answers_of_world()), faults={9: EngineAuthError("bad key")})
    with pytest.raises(EngineAuthError):
        run(config(), engine, tmp_path)
    assert read_predictions(tmp_path / "predictions.jsonl")


def test_an_absent_server_ends_the_run_after_a_few_items(tmp_path: Path) -> None:
    engine = ScriptedEngine(faults=lambda request: EngineUnreachableError("nobody there"))
    with pytest.raises(EngineUnreachableError):
        run(config(limit=40), engine, tmp_path)
    assert len(engine.requests) < 40


def test_settings_that_change_results_make_other_items(tmp_path: Path) -> None:
    def ids(cfg: EvaluationConfig, where: str) -> set[str]:
        run(cfg, ScriptedEngine(), tmp_path / where)
        return set(read_predictions(tmp_path / where / "predictions.jsonl"))

    base = ids(config(methods=("direct",)), "a")
    assert ids(config(methods=("direct",), rounds=3, concurrency=1), "b") == base
    for i, change in enumerate(
        [{"seed": 1}, {"max_tokens": 9}, {"model_fingerprint": "x"}, {"piece_tokens": 32}]
    ):
        assert not base & ids(config(methods=("direct",), **change), f"c{i}")


def test_document_longer_than_the_window_is_refused_or_fitted(tmp_path: Path) -> None:
    engine = ScriptedEngine(tokenizer=TOKENIZER, context_tokens=1400)
    cfg = config(lengths=(1500,), limit=4, methods=("direct",), max_tokens=50)
    run(cfg, engine, tmp_path / "refuse")
    refused = load_summary(tmp_path / "refuse")
    assert refused.num_failed == 4
    assert "DocumentTooLongError" in refused.failures[0].error
    run(cfg.model_copy(update={"overlong": "fit"}), engine, tmp_path / "fit")
    fitted = load_summary(tmp_path / "fit")
    assert fitted.num_failed == 0
    assert fitted.cells[0].num_truncated == 4
    gold = {
        p.question_id: p.gold_pieces
        for p in read_predictions(tmp_path / "fit" / "predictions.jsonl").values()
    }
    for request in engine.requests:
        shown = set(map(int, re.findall(r"<para (\d+)>", request.messages[1].content)))
        question = next(
            item.question.id
            for item in load_run_items(replace(SETTINGS, config=cfg), "world", 1500)
            if f"Question: {item.question.text}\n" in request.messages[1].content
        )
        assert set(gold[question] or ()) <= shown


def test_multiple_choice_reads_letters(tmp_path: Path) -> None:
    letters: dict[str, str] = {}
    cfg = config(tasks=("world-choice",), methods=("direct",))
    for item in load_run_items(replace(SETTINGS, config=cfg), "world-choice", 300):
        letters[item.question.text] = item.reference["letter"]

    def reply(request: ScriptedRequest) -> str:
        asked = re.search(r"Question: (.*)\nA\. ", request.messages[1].content)
        assert asked is not None
        return f"Everything points to ({letters[asked[1]]})."

    run(cfg, ScriptedEngine(reply), tmp_path)
    cell = load_summary(tmp_path).cells[0]
    assert cell.metrics["correct"].mean == 1.0
    assert cell.metrics["exact_match"].mean == 0.0  # HELMET's rule reads no sentence


def test_two_engines_share_a_folder_and_are_compared(tmp_path: Path) -> None:
    run(config(label="base"), ScriptedEngine(), tmp_path)
    run(config(label="trained"), ScriptedEngine(knowing(answers_of_world())), tmp_path)
    summary = load_summary(tmp_path)
    assert {cell.engine for cell in summary.cells} == {"base", "trained"}
    gain = [d for d in summary.differences if (d.engine, d.method) == ("trained", "clarify")]
    assert {(d.baseline_engine, d.baseline_method) for d in gain} == {
        ("base", "direct"),
        ("trained", "direct"),
    }
    assert all(d.difference.mean == 1.0 for d in gain)


def test_a_reply_cut_at_the_limit_is_counted(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request: Completion("Answer: on and", "length"))
    run(config(methods=("direct",)), engine, tmp_path)
    assert load_summary(tmp_path).cells[0].num_cut_off == 8


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    run(config(methods=("direct",)), ScriptedEngine(), tmp_path)
    path = tmp_path / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"broken": \n' + b"".join(lines[1:]))
    with pytest.raises(StoreError, match="line 2"):
        read_predictions(path)


@pytest.mark.parametrize(
    "change",
    [
        {"methods": ("dirct",)},
        {"tasks": ("wrld",)},
        {"lengths": ()},
        {"rounds": 0},
    ],
)
def test_what_cannot_be_is_refused_before_any_request(
    tmp_path: Path, change: dict[str, object]
) -> None:
    engine = ScriptedEngine()
    with pytest.raises(UsageError):
        run(config(**change), engine, tmp_path)
    assert engine.requests == []


def test_a_limit_is_at_least_one() -> None:
    with pytest.raises(ValidationError, match="limit"):
        config(limit=0)


def test_rounds_stop_when_the_self_check_is_satisfied(tmp_path: Path) -> None:
    def never_sure(request: ScriptedRequest) -> str:
        return "no" if "Reply yes or no" in request.last else f"Answer: x {len(request.messages)}"

    cfg = config(methods=("clarify",), limit=1, rounds=3)
    doubting, sure = ScriptedEngine(never_sure), ScriptedEngine(knowing(answers_of_world()))
    run(cfg, doubting, tmp_path / "a")
    run(cfg, sure, tmp_path / "b")
    assert (len(doubting.requests), len(sure.requests)) == (15, 5)


def test_a_stop_rule_ends_the_dialogue_in_place_of_the_self_check(tmp_path: Path) -> None:
    def rounds(name: str, bias: float) -> int:
        rule = {"weights": {}, "bias": bias, "threshold": 0.5}
        cfg = config(methods=("clarify-stop-rule",), limit=1, rounds=2, stop_rule=rule)
        engine = ScriptedEngine(
            lambda request: (
                f"It is {len(request.messages)}? Answer: x"
                if "Reply yes or no" not in request.last
                else name
            )
        )
        run(cfg, engine, tmp_path / f"{name}{bias}")
        return len(engine.requests) // 5

    assert (rounds("yes", -9), rounds("no", 9)) == (2, 1)


def test_results_of_another_stop_rule_are_not_mixed_in(tmp_path: Path) -> None:
    def ask(bias: float) -> int:
        rule = {"weights": {}, "bias": bias, "threshold": 0.5}
        engine = ScriptedEngine()
        cfg = config(methods=("clarify-stop-rule",), limit=1, rounds=2, stop_rule=rule)
        run(cfg, engine, tmp_path)
        return len(engine.requests)

    assert ask(9) > 0
    assert ask(9) == 0
    with pytest.raises(UsageError, match="stop"):
        ask(-9)


def test_a_missing_rule_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    cfg = config(methods=("direct", "clarify-stop-rule"), limit=1, stop_rule=None)
    with pytest.raises(UsageError, match="needs a stop rule"):
        run(cfg, engine, tmp_path)
    assert not engine.requests


def test_regrounding_shows_the_cited_pieces_alone(tmp_path: Path) -> None:
    engine = ScriptedEngine(knowing(answers_of_world()))
    run(config(methods=("clarify-reground",), limit=1), engine, tmp_path)
    shown = [len(re.findall(r"<para \d+>", r.messages[1].content)) for r in engine.requests]
    assert shown[0] == shown[1] > 1
    assert shown[2:4] == [1, 1]


def test_predictions_hold_no_document_text(tmp_path: Path) -> None:
    run(config(methods=ALL), ScriptedEngine(), tmp_path)
    items = load_run_items(replace(SETTINGS, config=config()), "world", 300)
    text = (tmp_path / "predictions.jsonl").read_text()
    assert all(item.document.text[:60] not in text for item in items)
    assert all(
        isinstance(p, Prediction) for p in read_predictions(tmp_path / "predictions.jsonl").values()
    )


# --- command line -----------------------------------------------------------------------------


def test_dry_run_prints_bounds_and_asks_nothing(tmp_path: Path) -> None:
    arguments = ["--lengths", "300", "--limit", "4", "--dry-run", "--json", "--rounds", "2"]
    result = CliRunner().invoke(command, [*arguments, "--price-in", "1", "--price-out", "2"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    by_method = {row["method"]: row for row in plan["rows"]}
    assert by_method["direct"]["num_requests"] == 4
    assert by_method["clarify"]["num_requests"] == 4 * 5 * 2
    assert plan["price"] > 0


@pytest.mark.parametrize(("text", "lengths"), [("8k,300", [8192, 300]), ("300,300", [300])])
def test_lengths_may_be_written_in_thousands(text: str, lengths: list[int]) -> None:
    arguments = ["--lengths", text, "--limit", "1", "--dry-run", "--json", "--methods", "direct"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert [row["length"] for row in json.loads(result.stdout)["rows"]] == lengths


def test_out_is_asked_for() -> None:
    result = CliRunner().invoke(command, ["--limit", "1"])
    assert isinstance(result.exception, UsageError)


def test_published_arms_differ_in_temperature_and_length(tmp_path: Path) -> None:
    engine = ScriptedEngine(knowing(answers_of_world()))
    cfg = as_published_config(config(methods=("direct", "clarify", "step-by-step"), limit=1))
    run(cfg, engine, tmp_path)
    found = [
        (r.turn, r.sampling.temperature, r.sampling.max_tokens)
        for r in engine.requests
        if r.sampling
    ]
    assert sorted(found[:1]) == [(0, 0.6, 1024)]
    assert {t for turn, t, _ in found if turn} == {0.6}
    assert [t for turn, t, _ in found if not turn].count(0.0) == 1
    assert {limit for _, _, limit in found} == {1024}
    cell = load_summary(tmp_path).cells[0]
    assert cell.headline == "substring_exact_match"


def test_helmets_layout_without_a_task_that_has_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="helmet"):
        run(config(methods=("helmet",)), ScriptedEngine(), tmp_path)


def test_a_length_that_a_task_exceeds_is_left_out_and_told(tmp_path: Path) -> None:
    cfg = config(tasks=("cwe", "niah_single_1"), lengths=(400,), methods=("direct",), limit=2)
    run(cfg, ScriptedEngine(), tmp_path)
    summary = load_summary(tmp_path)
    assert [cell.task for cell in summary.cells] == ["niah_single_1"]
    assert summary.left_out == ("cwe does not fit into 400 tokens.",)
    assert summary.left_out[0] in (tmp_path / "results.md").read_text()
    with pytest.raises(UsageError, match="cwe does not fit"):
        run(cfg.model_copy(update={"tasks": ("cwe",)}), ScriptedEngine(), tmp_path / "none")


def test_gold_in_the_document_is_told(tmp_path: Path) -> None:
    run(config(methods=("direct",)), ScriptedEngine(), tmp_path)
    assert load_summary(tmp_path).cells[0].gold_present == 1.0
    item = load_run_items(replace(SETTINGS, config=config()), "world", 300)[0]
    cut = replace(item, document=Document.of("Nothing here.", "test"))
    assert is_gold_present(cut) is False
    assert is_gold_present(replace(item, rule="all_of")) is None


def test_plan_bounds_what_a_run_asks(tmp_path: Path) -> None:
    def never_sure(request: ScriptedRequest) -> str:
        return "no" if "Reply yes or no" in request.last else f"Answer: x {len(request.messages)}"

    cfg = config(methods=tuple(m for m in ALL if m != "clarify-reground"), rounds=2, max_tokens=40)
    engine = ScriptedEngine(never_sure, tokenizer=TOKENIZER)
    run(cfg, engine, tmp_path)
    plan = build_plan(replace(SETTINGS, config=cfg))
    for row in plan.rows:
        cell = load_summary(tmp_path).find("world", 300, row.method)
        assert cell is not None
        assert row.num_requests == cell.usage.requests
        assert row.completion_tokens >= cell.usage.completion_tokens
        asked = cell.usage.prompt_tokens
        assert (
            0.9 * asked <= row.prompt_tokens <= 2.5 * asked
        )  # replies are reckoned at their limit
