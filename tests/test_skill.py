"""The skill tells the truth: its commands run as written, its fields and exit codes are ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import serving
from made_documents import make_docx
from made_pdf import PdfPage, make_pdf

import agenticlu
from agenticlu.core import errors
from agenticlu.dialogue.answer import Answer, Claim
from agenticlu.documents.citations import Citation
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.server import Service

SKILL = Path(__file__).parents[1] / "skills" / "agenticlu" / "SKILL.md"
TEXT = SKILL.read_text(encoding="utf-8")
SOURCE = str(Path(agenticlu.__file__).parent.parent)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]
ROUND = ("Who?", "<para 0>", "Page 1 says Ada signed it.", "Answer: Ada", "yes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name, and `agenticlu` on the path."""
    root = tmp_path_factory.mktemp("skill")
    text = "BT /F1 14 Tf 72 700 Td (Page {} says Ada signed it.) Tj ET"
    (root / "report.pdf").write_bytes(make_pdf([PdfPage(text.format(n)) for n in range(1, 4)]))
    (root / "contracts").mkdir()
    shutil.copy(root / "report.pdf", root / "contracts" / "first.pdf")
    (root / "contracts" / "second.txt").write_text("Bo Otis may end the contract in May.")
    (root / "extra.docx").write_bytes(make_docx())
    (root / "questions.csv").write_text("question\nWho signed?\nWhen does it end?\n")
    program = root / "bin" / "agenticlu"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom agenticlu.cli import main\nmain()\n")
    program.chmod(0o755)
    return root


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = ScriptedEngine(lambda request: ROUND[request.turn])
    with serving(Service(engine, "m")) as address:
        yield address


def run(line: str, folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120,
        env={"PATH": f"{folder}/bin:/usr/bin:/bin", "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1",
             "AGENTICLU_BASE_URL": url, "XDG_CONFIG_HOME": str(folder / "none"), "HOME": "/none"},
    )  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_runs_as_written(line: str, folder: Path, url: str) -> None:
    done = run(line, folder, url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "--out" in line
    if "--json" in line and " ask " in line:
        assert json.loads(done.stdout)["statement"] == "Ada"


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 7


def test_the_head_is_as_the_format_wants_it() -> None:
    head = TEXT.split("---\n")[1]
    values = dict(line.split(": ", 1) for line in head.splitlines())
    assert values.keys() <= {"name", "description", "license", "compatibility"}
    assert values["name"] == SKILL.parent.name
    assert 0 < len(values["description"]) <= 1024
    assert len(values["compatibility"]) <= 500
    assert len(TEXT.splitlines()) < 500


def rows(title: str) -> list[list[str]]:
    section = TEXT.split(f". {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_its_fields_are_those_of_the_record() -> None:
    fields: dict[str, Any] = {
        **Answer.model_fields, **Claim.model_fields, **Citation.model_fields,
    }  # fmt: skip
    named = {
        name.split(".")[0]
        for row in rows("Read the JSON")
        for cell in row
        for name in re.findall(r"`([a-z_.]+)`", cell)
    }
    assert {"statement", "claims", "citations", "status"} <= named
    statuses = {"supported", "unsupported", "not_in_document"}
    assert named - statuses - fields.keys() == set()


def test_its_exit_codes_are_ours() -> None:
    known = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.AgenticluError)
    }
    codes = {int(code) for row in rows("Exit codes") for code in row[0].split(", ")}
    assert {4, 5, 7, 10} <= codes
    assert codes - known == {0}
