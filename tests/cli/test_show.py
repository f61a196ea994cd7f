"""`agenticlu show`, and what `agenticlu ask` takes for documents and says about them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import agenticlu.engines
from agenticlu.cli import group, main
from agenticlu.cli.ask.operands import parse_operands
from agenticlu.core.errors import AgenticluError, UsageError
from agenticlu.core.records import Document, Page, Part
from agenticlu.documents import load_document, mark, split
from agenticlu.documents.described import describe_reading
from agenticlu.documents.tokens import load_tokenizer
from agenticlu.engines.scripted import ScriptedEngine

TEXTS = {
    "a.txt": "The snow lasted for nine days. Ada Yardley lives in Wexley.\n",
    "b.md": "# Ducks\n\nBo Otis keeps a duck. The teacher of Bo Otis is Ada Yardley.\n",
}
ASKED = "Where does the teacher of Bo Otis live?"
WHOLE = ("--piece-tokens", "64")
"""Each file is one paragraph, whatever the bundled model prefers."""
ROUND = [
    "Who is the teacher of Bo Otis?",
    "<para 1> <para 0>",
    "The teacher of Bo Otis is Ada Yardley.",
    "Ada Yardley lives in Wexley. Answer: Wexley",
    "Yes.",
]


@pytest.fixture(autouse=True)
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two documents, a broken one and an image, in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    (folder / "c.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (folder / "d.png").write_bytes(b"\x89PNG")
    return folder


def call(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(group, words, input=stdin)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[ScriptedEngine]]:
    def install(replies: Any = ROUND) -> list[ScriptedEngine]:
        made: list[ScriptedEngine] = []

        def load(*args: Any, **options: Any) -> ScriptedEngine:
            made.append(ScriptedEngine(replies))
            return made[-1]

        monkeypatch.setattr(agenticlu.engines, "load_engine", load)
        return made

    return install


# --- show -----------------------------------------------------------------------------------------


def test_show_prints_what_the_model_is_shown(tiny_model_path: Path) -> None:
    done = call("show", "docs", "--model", str(tiny_model_path), "--piece-tokens", "16")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    told = [line for line in lines if line.startswith("# ") and line != "# Ducks"]
    assert re.fullmatch(r"# docs: \d+ paragraphs, \d+ tokens", told[0])
    assert told[1] == "# Read 2 files (docs)."
    assert told[2].startswith("# Not read: c.pdf: PDF")
    assert told[3] == "# Passed over: 1 image."
    document = load_document("docs")
    view = mark(document, split(document, load_tokenizer(str(tiny_model_path)), 16))
    shown = [line for line in lines if line not in told]
    assert [line for line in shown if line] == [line for line in view.split("\n") if line]


def test_show_as_json_has_texts_and_places() -> None:
    found = json.loads(call("show", "docs/b.md", "docs/a.txt", "--json", *WHOLE).stdout)
    assert [one["name"] for one in found["files"]] == ["b.md", "a.txt"]
    assert [one["file"] for one in found["pieces"]] == ["b.md", "a.txt"]
    assert "".join(one["text"] for one in found["pieces"]).startswith(TEXTS["b.md"])
    assert found["num_tokens"] == sum(one["num_tokens"] for one in found["pieces"])
    whole = json.loads(call("show", "docs", "--json").stdout)
    assert whole["left_out"] == {"docs": {"image": 1}}
    assert list(whole["unread"]) == ["c.pdf"]


def test_show_reads_standard_input_and_a_reader_may_leave() -> None:
    assert "<para 0> From a pipe. </para 0>" in call("show", "-", stdin="From a pipe.").stdout
    Path("long.txt").write_text("A sentence of a long text.\n" * 20_000)
    command = f"{sys.executable} -c 'from agenticlu.cli import main; main()' show long.txt"
    done = subprocess.run(f"{command} | head -n 1", shell=True, capture_output=True, timeout=60)
    assert done.stdout.startswith(b"# long.txt: ")
    assert done.stderr == b""


def paged() -> Document:
    pages = [Page(number=1, start=0, end=60), Page(number=2, start=60, end=60)]
    pages.append(Page(number=3, start=60, end=130, name="slide 3"))
    text = "".join(TEXTS.values())
    parts = Part(source="x.pdf", name="x.pdf", start=0, end=len(text), pages=tuple(pages))
    return Document.of(text, "x", parts=(parts,))


def test_pages_are_told_and_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agenticlu.documents.load_document", lambda *args, **options: paged())
    shown = call("show", "x.pdf", "--piece-tokens", "8").stdout
    told = [line for line in shown.splitlines() if line.startswith("# ") and line != "# Ducks"]
    assert told[-2:] == ["# page 1", "# slide 3"]
    third = call("show", "x.pdf", "--piece-tokens", "8", "--page", "3", "--json")
    pieces = json.loads(third.stdout)["pieces"]
    assert pieces[0]["page_names"][-1] == "slide 3"
    assert all(3 in piece["pages"] for piece in pieces)
    blank = call("show", "x.pdf", "--page", "2")
    assert isinstance(blank.exception, AgenticluError)
    assert "no text on page 2" in blank.exception.message
    assert "1 to 3" in str(blank.exception.hint)


def test_what_was_left_out_is_told_in_a_few_lines() -> None:
    parts = tuple(
        Part(source=f"{i}.docx", name=f"{i}.docx", start=i, end=i + 1, left_out={"chart": i})
        for i in range(9)
    )
    document = Document.of("x" * 9, "all", parts=parts, unread={"z": "It is broken."})
    assert list(describe_reading(document)) == [
        "Read 9 files (all).",
        "Not read: z: It is broken.",
        "Left out of 0.docx: 0 charts.",
        "Left out of 1.docx: 1 chart.",
        *(f"Left out of {i}.docx: {i} charts." for i in (2, 3, 4)),
        "... and 4 more files with something left out.",
    ]
    single = Document.of("x", "report.docx", left_out={"image": 3, "chart": 1})
    assert list(describe_reading(single)) == ["Left out of report.docx: 3 images, 1 chart."]
    assert list(describe_reading(Document.of("x", "a.txt"))) == []


# --- ask ------------------------------------------------------------------------------------------


def test_a_folder_is_asked_as_one_document(engine: Any) -> None:
    made = engine()
    done = call("ask", "docs", ASKED, *WHOLE)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "Wexley [1]"
    assert "[1] a.txt, paragraph 0, characters 0-60" in lines
    assert f"[2] b.md, paragraph 1, characters 0-{len(TEXTS['b.md'])}" in lines
    assert "    “The teacher of Bo Otis is Ada Yardley.”" in lines
    assert "Note: 1 of 3 files were not read: c.pdf." in lines
    assert "Not read: c.pdf: PDF" in done.stderr
    assert "Passed over: 1 image." in done.stderr
    first = made[0].requests[0].messages[1].content
    assert first.startswith("File: a.txt\n<para 0> The snow")
    assert "\nFile: b.md (Ducks)\n<para 1> # Ducks" in first


def test_json_names_the_file_and_what_is_missing(engine: Any) -> None:
    engine()
    done = call("ask", "docs/*.md", "docs/a.txt", ASKED, "--json", "--quiet", *WHOLE)
    assert done.stderr.count("\n") == 1, "the bundled model is named"
    found = json.loads(done.stdout)
    second = found["citations"][1]["file"]
    assert (second["name"], second["source"]) == ("a.txt", "docs/a.txt")
    assert (
        TEXTS["a.txt"][second["quote_start"] : second["quote_end"]]
        == (found["citations"][1]["quote"])
    )
    engine()
    found = json.loads(call("ask", "docs", ASKED, "--json").stdout)
    assert found["left_out"] == {"docs": {"image": 1}}
    assert "broken" in found["unread"]["c.pdf"]


def test_several_questions_over_several_documents(engine: Any) -> None:
    engine(lambda request: ROUND[request.turn % 5])
    done = call("ask", "docs/a.txt", "docs/b.md", "-q", ASKED, "-q", "Who keeps a duck?")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("operands", "has_questions", "found"),
    [
        (["docs/a.txt", "Who?"], False, (("docs/a.txt",), "Who?")),
        (["docs/a.txt", "docs", "Who?"], False, (("docs/a.txt", "docs"), "Who?")),
        (["-", "Who?"], False, (("-",), "Who?")),
        (["https://h/a", "Who is it"], False, (("https://h/a",), "Who is it")),
        (["docs/a.txt", "docs"], True, (("docs/a.txt", "docs"), None)),
        (["no-such.txt"], True, (("no-such.txt",), None)),
        (["docs", ""], False, (("docs",), "")),
        (["docs/a.txt"], False, "No question was given."),
        (["no-such.txt"], False, "No question was given."),
        (["docs/a.txt", "docs/b.md"], False, "The last operand, 'docs/b.md', is a document."),
        (["docs/a.txt", "https://h/a"], False, "The last operand, 'https://h/a', is a document."),
        (["Who is it?"], False, "No document was given."),
        (["Who is it?", "docs/a.txt"], False, "The question comes after the documents."),
        (["docs/a.txt", "Who is it?"], True, "all operands are documents"),
    ],
)
def test_operands(operands: list[str], has_questions: bool, found: Any) -> None:
    if isinstance(found, tuple):
        assert parse_operands(operands, has_questions=has_questions) == found
        return
    with pytest.raises(UsageError) as caught:
        parse_operands(operands, has_questions=has_questions)
    assert found in caught.value.message
    assert caught.value.hint


def test_settings_of_ask_that_show_has_no_use_for_are_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("agenticlu.toml").write_text("[ask]\nrounds = 3\nquiet = true\npiece_tokens = 9\n")
    monkeypatch.setenv("AGENTICLU_ASK_SPANS", "true")
    done = call("show", "docs/a.txt", "--json")
    assert json.loads(done.stdout)["num_pieces"] > 1, "those that decide what is shown hold"
    Path("agenticlu.toml").write_text("[show]\nrounds = 3\n")
    assert "Unknown key 'rounds'" in str(call("show", "docs/a.txt").exception)


@pytest.mark.parametrize(("words", "resumes"), [((), False), (("--out", "t.csv"), True)])
def test_only_what_can_be_gone_on_with_says_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    resumes: bool,
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["agenticlu", "ask", "docs", "Who?", *words])
    monkeypatch.setattr(group, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert ("to resume" in capsys.readouterr().err) is resumes
