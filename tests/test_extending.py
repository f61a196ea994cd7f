"""What docs/extending.md promises: one row of a table, and a new thing works in every command."""

import asyncio
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

import agenticlu
from agenticlu import documents, engines, judges
from agenticlu.cli import group
from agenticlu.core.records import Question, Verdict
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation import methods


def test_a_document_format_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("made_format")
    module.parse = (
        lambda data, source: documents.formats.Parsed(  # type: ignore[attr-defined]
            data[4:].decode()[::-1], "Made"
        )
    )
    monkeypatch.setitem(sys.modules, "made_format", module)
    # A module of this process alone: another process could not import it.
    matches = lambda data, _: data.startswith(b"MADE")  # noqa: E731
    row = documents.formats.Format("made", matches, "made_format", confined=False)
    monkeypatch.setattr(documents.formats, "FORMATS", (row, *documents.formats.FORMATS))
    path = tmp_path / "one.made"
    path.write_bytes(b"MADE.llim eht tliub adA")
    document = agenticlu.load_document(str(path))
    assert (document.text, document.title) == ("Ada built the mill.", "Made")


def test_a_judge_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class PrefixJudge:
        name = "prefix"
        is_free = True
        correct_from = 1.0

        async def judge(self, question: Question, answer: str) -> Verdict:
            right = any(answer.startswith(gold) for gold in question.answers)
            return Verdict(judge=self.name, value=float(right))

    monkeypatch.setitem(judges.BUILT_IN, "prefix", PrefixJudge)
    (judge,) = judges.build_judges(["prefix"])
    question = Question(id="q", text="Who?", answers=("Ada",))
    verdicts = [asyncio.run(judge.judge(question, answer)) for answer in ("Ada did", "Bo did")]
    assert [judges.is_correct([verdict]) for verdict in verdicts] == [True, False]
    assert [judges.combine([verdict]) for verdict in verdicts] == [1.0, 0.0]


def test_an_engine_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def build(base_url: str, model: str | None, **options: object) -> ScriptedEngine:
        asked.append((base_url, model))
        return ScriptedEngine(lambda one: "<para 0>" if "marker" in one.last else "Answer: Ada")

    module = types.ModuleType("made_engine")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_engine", module)
    table = {
        **{name: engines.ENGINES[name] for name in engines.ENGINES},
        "mine": "made_engine:build",
    }
    monkeypatch.setattr(engines, "ENGINES", type(engines.ENGINES)("kind of address", table))
    path = tmp_path / "doc.txt"
    path.write_text("Ada built the mill.")
    words = ["ask", str(path), "Who built it?", "--base-url", "mine://host", "--model", "m"]
    done = CliRunner().invoke(group, words)
    assert (done.exit_code, asked) == (0, [("mine://host", "m")]), done.output
    assert done.stdout.startswith("Ada")


def test_a_method_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = methods.Method(("point", "answer"), note="made")
    monkeypatch.setitem(methods.METHODS, "made", row)
    listed = CliRunner().invoke(group, ["eval", "--list"])
    assert "made" in listed.output
    assert methods.find_method("made") is row
