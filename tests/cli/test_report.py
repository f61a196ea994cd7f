from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agenticlu.cli.report import command
from agenticlu.core.errors import UsageError
from agenticlu.core.records import Prediction


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = tmp_path / "eval"
    folder.mkdir()
    lines = [
        Prediction(
            id=f"{method}{i}", task="world", method=method, length=512, document_id=f"d{i}",
            question_id=f"q{i}", question="Who?", gold=("x",), engine="base",
            scores={"correct": float(i < (3 if method == "clarify" else 1))},
        ).model_dump_json()
        for method in ("direct", "clarify")
        for i in range(4)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_writes_page_and_summary_with_the_same_headline(evaluation: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = CliRunner().invoke(
        command, ["--eval", str(evaluation), "--out", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert done.stdout.strip() == str(out)
    summary = json.loads((tmp_path / "report.json").read_text())
    assert "+50 points" in summary["headline"]
    assert summary["headline"].split(" (")[0] in out.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "eval", "report.html", "report.json",
    ]  # fmt: skip


def test_json_alone_writes_no_file(evaluation: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, ["--eval", "eval", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["counts"]["evaluated"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["eval"]


def test_out_with_the_ending_json_writes_only_json(evaluation: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(
        command, ["--eval", str(evaluation), "--out", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert json.loads(out.read_text())["results"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval", "figures.json"]


@pytest.mark.parametrize("out", ["missing/report.html", "eval"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    evaluation: Path, tmp_path: Path, out: str
) -> None:
    with pytest.raises(UsageError):
        CliRunner().invoke(
            command,
            ["--eval", str(evaluation), "--out", str(tmp_path / out)],
            catch_exceptions=False,
        )


@pytest.mark.parametrize("out", ["summary.html", "summary.json", "notes.html"])
def test_a_file_of_another_kind_is_not_overwritten(
    evaluation: Path, tmp_path: Path, out: str
) -> None:
    foreign = {"summary.json": '{"version": 1, "build": {}}', "notes.html": "<title>mine</title>"}
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="is not a report"):
        CliRunner().invoke(
            command,
            ["--eval", str(evaluation), "--out", str(tmp_path / out)],
            catch_exceptions=False,
        )
    for name, text in foreign.items():
        assert (tmp_path / name).read_text() == text


def test_a_report_is_written_again_and_a_summary_beside_it_stays(
    evaluation: Path, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.json"
    summary.write_text('{"version": 1, "build": {}}')
    out = tmp_path / "report.html"
    for _ in range(2):
        done = CliRunner().invoke(
            command, ["--eval", str(evaluation), "--out", str(out)], catch_exceptions=False
        )
        assert done.exit_code == 0
    assert summary.read_text() == '{"version": 1, "build": {}}'
