"""How prompts are sent: as chat or as text to continue, and what happens where they do not fit."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.core.errors import DocumentTooLongError, UsageError
from agenticlu.core.records import Document, Question, Usage
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.base import Sampled, Sampling
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation.config import EvaluationConfig, RunSettings
from agenticlu.evaluation.methods import Outcome, View, answer
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.records import (
    CHAT_TOKENS,
    PLAIN_TOKENS,
    SAMPLE,
    Item,
    Prompt,
    Summary,
    load_summary,
    measure_framing,
)
from agenticlu.evaluation.run import summarise_folder
from agenticlu.evaluation.scoring.helmet import score_label

Run = Callable[..., Summary]
TOKENIZER = ApproximateTokenizer()
LENGTH = 8192


def result_in(out: Path) -> tuple[str, dict[str, Any]]:
    """Name and content of the only result file."""
    (path,) = (out / "helmet").rglob("*.json")
    return path.name, json.loads(path.read_text())


# --- chat or completion -----------------------------------------------------------------------


def test_completion_tasks_are_sent_as_text_and_chat_tasks_as_chat(
    tmp_path: Path, run_helmet: Run
) -> None:
    plain, chat = ScriptedEngine({"": " Oona Pellisk"}), ScriptedEngine({"": " Oona Pellisk"})
    run_helmet(tmp_path / "a", plain, tasks=("kilt_nq",))
    run_helmet(tmp_path / "b", chat, tasks=("narrativeqa",))
    assert plain.requests
    assert all(one.plain and one.last.endswith("\nAnswer:") for one in plain.requests)
    assert chat.requests
    assert not any(one.plain or "\nAnswer:" in one.last[-20:] for one in chat.requests)
    name, result = result_in(tmp_path / "a")
    assert "_chatFalse_" in name
    assert {row["output"] for row in result["data"]} == {"Answer: Oona Pellisk"}
    name, result = result_in(tmp_path / "b")
    assert "_chatTrue_" in name
    assert {row["output"] for row in result["data"]} == {"Oona Pellisk"}


def test_a_label_on_the_next_line_is_parsed_as_in_helmet(tmp_path: Path, run_helmet: Run) -> None:
    """HELMET's parser wants the label on its own line's rest; the corrected one looks further."""
    run_helmet(tmp_path, ScriptedEngine({"": "\n5"}), tasks=("icl_trec_coarse",), limit=12)
    _, result = result_in(tmp_path)
    assert {row["output"] for row in result["data"]} == {"label:\n5"}
    assert {row["parsed_output"] for row in result["data"]} == {""}
    assert result["averaged_metrics"]["exact_match"] == 0.0
    found = read_predictions(tmp_path / "predictions.jsonl").values()
    right = [p for p in found if p.gold == ("5",)]
    assert right, "the guard: five is right for one of them"
    assert all(p.scores["correct"] == 1.0 for p in right)
    assert score_label("label: 5", "5", with_rouge=False)[0]["exact_match"]


@pytest.mark.parametrize("chat", [True, False])
def test_the_form_can_be_chosen_for_all(tmp_path: Path, run_helmet: Run, chat: bool) -> None:
    for task in ("kilt_nq", "narrativeqa"):
        engine = ScriptedEngine({"": "Oona"})
        run_helmet(tmp_path / task, engine, tasks=(task,), chat=chat)
        assert {one.plain for one in engine.requests} == {not chat}
        name, result = result_in(tmp_path / task)
        assert f"_chat{chat}_" in name
        assert result["args"]["use_chat_template"] == chat
        assert result["data"][0]["output"] == ("Oona" if chat else "Answer:Oona")


def test_other_methods_are_always_named_as_chat(tmp_path: Path, run_helmet: Run) -> None:
    run_helmet(tmp_path, ScriptedEngine(), methods=("direct",), chat=False)
    assert "_shots0_" in result_in(tmp_path)[0]  # the dialogue shows no demonstrations
    assert "_chatTrue_" in result_in(tmp_path)[0]


def test_without_a_route_for_text_what_is_sent_is_what_is_named(
    tmp_path: Path, run_helmet: Run
) -> None:
    def engine() -> ScriptedEngine:
        return ScriptedEngine({"": "Oona"}, completes=False, name="server")

    asked = engine()
    summary = run_helmet(tmp_path, asked)
    assert asked.requests
    assert not any(one.plain for one in asked.requests)
    name, result = result_in(tmp_path)
    assert "_chatTrue_" in name
    assert {row["output"] for row in result["data"]} == {"Oona"}
    assert "server cannot continue plain text" in summary.notes[0]
    assert load_summary(tmp_path).notes == summary.notes
    assert summarise_folder(tmp_path).notes == summary.notes, "kept where tables are made again"
    assert summary.notes[0] in (tmp_path / "results.md").read_text()
    with pytest.raises(UsageError, match="--no-chat"):
        run_helmet(tmp_path / "no", engine(), chat=False)
    # Chat tasks, and methods with a layout of their own, do not ask for it.
    assert not run_helmet(tmp_path / "b", engine(), tasks=("narrativeqa",)).run_notes
    assert not run_helmet(tmp_path / "c", engine(), methods=("direct",)).run_notes


@pytest.mark.parametrize(
    ("flags", "shown"), [([], "chat = null"), (["--chat"], "true"), (["--no-chat"], "false")]
)
def test_the_command_line_knows_three_ways(flags: list[str], shown: str) -> None:
    result = CliRunner().invoke(command, [*flags, "--show-config"])
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("chat"))
    assert shown.split()[-1] in line.lower().replace("none", "null")


# --- prompts that do not fit ------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixtures with passages so long that prompts exceed their nominal length."""
    folder = tmp_path_factory.mktemp("long") / "data"
    shutil.copytree(root / "data", folder / "data")
    path = folder / "data/kilt/nq-dev-multikilt_1000_k50_dep6.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    for row in rows:
        gold = {passage["text"] for passage in row["positive_ctxs"]}
        for passage in row["ctxs"]:
            if passage["text"] not in gold:
                passage["text"] += " The ferry left the quay at noon and came back." * 300
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("chat", [True, False])
def test_cut_end_leaves_exactly_the_nominal_length(
    tmp_path: Path, run_helmet: Run, long_root: Path, chat: bool
) -> None:
    """Start token and chat template are counted, as HELMET counts what the model reads."""
    engine = ScriptedEngine({"": " Oona Pellisk"}, tokenizer=TOKENIZER)
    options = {"helmet_data": str(long_root), "shots": 1}
    summary = run_helmet(tmp_path, engine, chat=chat, overlong="cut-end", options=options)
    assert (summary.num_failed, summary.cells[0].num_truncated) == (0, 4)
    assert result_in(tmp_path)[1]["num_truncated"] == 4
    found = list(read_predictions(tmp_path / "predictions.jsonl").values())
    assert {p.usage.prompt_tokens + 20 for p in found} == {LENGTH}
    texts = {one.last for one in engine.requests if SAMPLE not in one.last}
    assert len(texts) == 4
    assert all("Question: " in text[-200:] for text in texts)  # the end of the context went
    assert {p.gold_present for p in found} == {True, False}  # deep gold is lost, and told
    assert summary.cells[0].gold_present not in (None, 0.0, 1.0)


@pytest.mark.parametrize("chat", [True, False])
def test_fit_keeps_the_evidence_and_the_window(
    tmp_path: Path, run_helmet: Run, long_root: Path, chat: bool
) -> None:
    engine = ScriptedEngine({"": " Oona"}, tokenizer=TOKENIZER, context_tokens=4000)
    options = {"helmet_data": str(long_root), "shots": 1}
    summary = run_helmet(tmp_path, engine, chat=chat, overlong="fit", options=options)
    assert (summary.num_failed, summary.cells[0].num_truncated) == (0, 4)
    assert summary.cells[0].gold_present == 1.0
    found = list(read_predictions(tmp_path / "predictions.jsonl").values())
    assert max(p.usage.prompt_tokens for p in found) + 20 <= 4000
    assert min(p.usage.prompt_tokens for p in found) > 4000 - 20 - 2 * 64  # no more than need be
    golds = [
        passage["text"]
        for line in (long_root / "data/kilt/nq-dev-multikilt_1000_k50_dep6.jsonl")
        .read_text()
        .split("\n")
        if line
        for passage in json.loads(line)["positive_ctxs"]
    ]
    texts = [one.last for one in engine.requests if SAMPLE not in one.last]
    assert all(sum(gold in text for gold in set(golds)) for text in texts)


def test_refused_prompts_are_counted(tmp_path: Path, run_helmet: Run, long_root: Path) -> None:
    engine = ScriptedEngine(tokenizer=TOKENIZER, context_tokens=4000)
    summary = run_helmet(tmp_path, engine, options={"helmet_data": str(long_root), "shots": 1})
    assert summary.num_failed == result_in(tmp_path)[1]["num_failed"] == 4
    assert "DocumentTooLongError" in summary.failures[0].error
    assert [one.last for one in engine.requests] == [SAMPLE]


WINDOW = ("context_tokens", "framing_tokens")


def numbered(num: int, length: int, gold: int | None, **settings: Any) -> Outcome:
    """Asks about a context of numbered lines; line `gold` is the evidence."""
    lines = [f"Line {i} of the log." for i in range(num)]
    text = "\n".join(lines)
    start = 0 if gold is None else text.index(lines[gold])
    item = Item(
        task="t",
        length=length,
        document=Document.of(text, "t"),
        question=Question(id="q", text="Which?", answers=("x",)),
        gold_spans=None if gold is None else ((start, start + len(lines[gold])),),
        max_tokens=10,
        prompt=Prompt("{context}\nQ: {question}", {"question": "Which?"}, text, "A:", "\n", False),
    )
    window = {name: settings.pop(name) for name in WINDOW if name in settings}
    config = EvaluationConfig(piece_tokens=8, **settings)
    own = RunSettings(config, load_profile(), TOKENIZER, **window)
    return asyncio.run(answer("helmet", item, View(item, own), ScriptedEngine(), own))


@pytest.mark.parametrize("gold", [0, 25, 49, None])
def test_fit_leaves_out_the_middle_but_for_the_evidence(gold: int | None) -> None:
    outcome = numbered(50, 999, gold, overlong="fit", context_tokens=150, framing_tokens=1)
    assert outcome.truncated
    assert outcome.left is not None
    assert TOKENIZER.count(outcome.left) < 150 - 10
    for line in (0, 49, *(() if gold is None else (gold,))):
        assert f"Line {line} of the log." in outcome.left
    assert "Line 24 of" not in outcome.left


def test_a_prompt_that_fits_is_sent_whole_and_framing_can_decide() -> None:
    size = TOKENIZER.count(
        "\n".join(f"Line {i} of the log." for i in range(50)) + "\nQ: Which?\nA:"
    )
    whole = numbered(50, 999, 25, overlong="fit", context_tokens=size + 11, framing_tokens=1)
    assert not whole.truncated
    cut = numbered(50, 999, 25, overlong="fit", context_tokens=size + 11, framing_tokens=2)
    assert cut.truncated
    with pytest.raises(DocumentTooLongError, match="in the window by 1"):
        numbered(50, 999, 25, context_tokens=size + 11, framing_tokens=2)


def test_what_must_stay_may_be_too_long_alone() -> None:
    with pytest.raises(DocumentTooLongError, match="gold facts"):
        numbered(50, 999, 25, overlong="fit", context_tokens=20, framing_tokens=1)
    with pytest.raises(DocumentTooLongError, match="fill the window"):
        numbered(50, 12, 25, overlong="cut-end", framing_tokens=1)


@pytest.mark.parametrize("chat", [True, False])
def test_framing_is_measured_or_reckoned(chat: bool) -> None:
    class Silent(ScriptedEngine):
        async def sample(self, *given: Any, **more: Any) -> Sampled:
            return Sampled((await super().sample(*given, **more)).completions, Usage())

        async def complete(self, text: str, sampling: Sampling, **more: Any) -> Sampled:
            return Sampled((await super().complete(text, sampling, **more)).completions, Usage())

    def measured(engine: ScriptedEngine) -> int:
        return asyncio.run(measure_framing(engine, TOKENIZER, chat=chat))

    told = ScriptedEngine(tokenizer=TOKENIZER)
    assert measured(told) == (3 if chat else 1)
    assert [one.plain for one in told.requests] == [not chat]
    assert measured(Silent(tokenizer=TOKENIZER)) == (CHAT_TOKENS if chat else PLAIN_TOKENS)
