"""Tables of answers: documents by questions, resumable, failures named."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import agenticlu.engines
from agenticlu.cli import group
from agenticlu.cli.ask.questions import read_questions
from agenticlu.cli.ask.table import render_cell
from agenticlu.core.errors import AgenticluError, EngineUnreachableError, StoreError, UsageError
from agenticlu.core.files import DirectoryLock
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest

QUESTIONS = ("Where does the person live?", "What is it, then?")
ROUND = ("Who is it?", "<para 0>", "They live there.", "", "Yes.")


def reply(request: ScriptedRequest) -> str:
    """Reads the answer off the document: 'Ada lives in Town1.' gives 'Town1'."""
    if request.turn % 5 == 3:
        text = request.messages[1].content
        sentence = text.partition("> ")[2].partition(" </para")[0]
        return f"{sentence} Answer: Town{text[text.index('Town') + 4]}"
    return ROUND[request.turn % 5]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(1, 4):
        (docs / f"{number}.txt").write_text(f"Ada lives in Town{number}.")
    (tmp_path / "q.csv").write_text(f'id,question\n1,{QUESTIONS[0]}\n2,"{QUESTIONS[1]}"\n')
    return docs


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[ScriptedEngine]]:
    def install(replies: Any = reply, **options: Any) -> list[ScriptedEngine]:
        made: list[ScriptedEngine] = []

        def load(*args: Any, **kwargs: Any) -> ScriptedEngine:
            made.append(ScriptedEngine(replies, **options))
            return made[-1]

        monkeypatch.setattr(agenticlu.engines, "load_engine", load)
        return made

    return install


def ask(*words: str, out: str = "t.csv") -> Result:
    return CliRunner().invoke(
        group, ("ask", "docs", "--questions", "q.csv", "--out", out, "--quiet", *words)
    )


def table(name: str = "t.csv") -> list[list[str]]:
    return list(csv.reader(io.StringIO(Path(name).read_text())))


def test_a_line_a_document_a_column_a_question(engine: Any) -> None:
    made = engine()
    done = ask()
    assert done.exit_code == 0, (done.output, done.exception)
    quote = "“Ada lives in Town{}.”"
    assert table() == [
        ["document", *QUESTIONS],
        *([f"{i}.txt", *[f"Town{i} [paragraph 0: {quote.format(i)}]"] * 2] for i in (1, 2, 3)),
    ]
    assert "t.csv: 6 cells; 6 answered now" in done.stdout
    assert "tokens: " in done.stdout
    assert len(made[0].requests) == 30
    assert not list(Path().glob(".*.lock"))


def test_lines_of_json_hold_whole_answers(engine: Any) -> None:
    engine()
    done = ask("--json", "--price-in", "1", "--price-out", "2", out="t.jsonl")
    told = json.loads(done.stdout)
    assert (told["answered"], told["failed"], told["cells"]) == (6, 0, 6)
    assert told["price"] > 0
    rows = [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
    assert [(row["document"], row["question"]) for row in rows] == [
        (f"{i}.txt", question) for i in (1, 2, 3) for question in QUESTIONS
    ]
    assert rows[0]["source"] == "docs/1.txt"
    assert rows[0]["citations"][0]["quote"] == "Ada lives in Town1."
    assert len(rows[0]["turns"]) == 5


@pytest.mark.parametrize("out", ["t.csv", "t.jsonl"])
def test_what_is_finished_is_not_asked_again(engine: Any, folder: Path, out: str) -> None:
    engine()
    assert ask(out=out).exit_code == 0
    before = Path(out).read_bytes()
    again = engine()
    assert ask(out=out).exit_code == 0
    assert again[0].requests == []
    assert Path(out).read_bytes() == before
    (folder / "2.txt").write_text("Ada lives in Town9.")
    (folder / "4.txt").write_text("Ada lives in Town4.")
    assert "4 answered now" in ask(out=out).stdout
    assert len(again[1].requests) == 20, "the changed document and the new one"
    text = Path(out).read_text()
    assert "Town9" in text
    assert "Town4" in text
    assert "Town2" not in text


def test_failed_cells_are_named_and_asked_again(engine: Any, folder: Path) -> None:
    (folder / "2.txt").write_bytes(b"\x00\x01" * 99)

    def fault(request: ScriptedRequest) -> Any:
        is_third = "Town3" in request.messages[1].content and QUESTIONS[1] in (
            request.messages[1].content
        )
        return EngineUnreachableError("Gone.") if is_third else None

    engine(faults=fault)
    done = ask()
    assert isinstance(done.exception, AgenticluError)
    assert done.exception.exit_code == 9
    assert "3 of 6 cells failed" in done.exception.message
    lines = table()
    assert lines[2][1].startswith("FAILED: Document 'docs/2.txt' is binary")
    assert lines[3][1:] == ["Town3 [paragraph 0: “Ada lives in Town3.”]", "FAILED: Gone."]
    made = engine()
    (folder / "2.txt").write_text("Ada lives in Town2.")
    assert ask().exit_code == 0
    assert len(made[0].requests) == 15
    assert "FAILED" not in Path("t.csv").read_text()
    assert Path("t.cells.jsonl").read_text().count("\n") == 6


def test_other_settings_another_table(engine: Any) -> None:
    engine()
    ask()
    before = Path("t.cells.jsonl").read_bytes()
    done = ask("--rounds", "2")
    assert isinstance(done.exception, UsageError)
    assert "rounds was 1, and is 2 now" in done.exception.message
    assert Path("t.cells.jsonl").read_bytes() == before
    for out, words in (("t.xlsx", "ends in .csv or .jsonl"), ("q.jsonl", "no table of answers")):
        Path("q.jsonl").write_text('{"question": "Who?"}\n')
        done = ask(out=out)
        assert isinstance(done.exception, AgenticluError)
        assert words in done.exception.message


def test_one_process_fills_a_table(engine: Any) -> None:
    engine()
    with DirectoryLock(Path(".t.csv.lock"), busy=StoreError("busy")):
        done = ask()
    assert isinstance(done.exception, StoreError)
    assert "Another process is filling t.csv" in done.exception.message


def test_the_table_is_no_document_of_its_folder(engine: Any, folder: Path) -> None:
    engine()
    for _ in range(2):
        assert ask(out="docs/t.csv").exit_code == 0
        assert [line[0] for line in table("docs/t.csv")] == ["document", "1.txt", "2.txt", "3.txt"]


def test_an_estimate_asks_nothing(engine: Any) -> None:
    made = engine()
    done = ask("--dry-run")
    assert "6 cells; at most: 30 requests" in done.stdout
    assert json.loads(ask("--dry-run", "--json").stdout)["cells"] == 6
    assert made == []
    assert not Path("t.csv").exists()


def test_a_torn_cell_is_asked_again_and_a_whole_one_kept(engine: Any) -> None:
    engine()
    ask()
    record = Path("t.cells.jsonl")
    whole = record.read_bytes()
    record.write_bytes(whole[:-40])
    made = engine()
    with pytest.warns(UserWarning, match="torn"):
        assert ask().exit_code == 0
    assert len(made[0].requests) == 5
    record.write_bytes(whole[:-1])
    made = engine()
    ask()
    assert made[0].requests == []


def test_a_spreadsheet_computes_nothing_of_it(engine: Any, folder: Path) -> None:
    (folder / "=cmd.txt").write_text("Ada lives in Town5.")
    engine(lambda request: "Answer: =HYPERLINK(1)" if request.turn % 5 == 3 else reply(request))
    ask()
    cells = [cell for line in table() for cell in line]
    assert "'=cmd.txt" in cells
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@")]
    row = {"answer": "-3", "supported": False, "options": []}
    assert render_cell(row) == "-3 [not supported by the document]"
    assert render_cell(None) == ""


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import agenticlu.engines
from test_ask_table import reply
from agenticlu.engines.scripted import ScriptedEngine
def load(*args, **options):
    return ScriptedEngine(reply, latency_s=0.02)
agenticlu.engines.load_engine = load
sys.argv = "agenticlu ask docs --questions q.csv --out t.csv --quiet".split()
from agenticlu.cli import main
main()
"""


def test_a_kill_loses_at_most_the_cell_in_flight(engine: Any, folder: Path) -> None:
    for number in range(4, 9):
        (folder / f"{number}.txt").write_text(f"Ada lives in Town{number}.")
    program = KILLED.format(tests=str(Path(__file__).parent))
    record = Path("t.cells.jsonl")
    finished: list[str] = []
    for wanted in (2, 5):
        process = subprocess.Popen([sys.executable, "-c", program])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if record.exists() and record.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = [line for line in record.read_text().splitlines(True) if line.endswith("\n")]
        assert len(lines) >= wanted
        assert lines[: len(finished)] == finished, "nothing that was finished is lost"
        finished = lines
    assert len(finished) < 16
    made = engine()
    assert ask().exit_code == 0
    assert len(made[0].requests) == 5 * (16 - len(finished))
    killed = Path("t.csv").read_bytes()
    engine()
    ask(out="whole.csv")
    assert Path("whole.csv").read_bytes() == killed


def test_an_interrupt_ends_after_the_cell(engine: Any, folder: Path) -> None:
    def interrupting(request: ScriptedRequest) -> str:
        if len(made[0].requests) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return reply(request)

    made = engine(interrupting, latency_s=0.01)
    done = ask()
    assert done.exit_code != 0
    assert "2 answered now" in done.stdout
    assert len(made[0].requests) == 10, "a cell that was begun is not cut short"
    assert len(table()) == 2
    made = engine()
    assert ask().exit_code == 0
    assert len(made[0].requests) == 20


# --- Questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "questions"),
    [
        ("q.txt", "Who?\n\n  Where?  \r\n", ["Who?", "Where?"]),
        (
            "q.csv",
            '\ufeffid,Question\r\n1,Who?\r\n2,"Where, and\nwhy?"\r\n',
            ["Who?", "Where, and\nwhy?"],
        ),
        ("q.csv", "id;question\n1;Who?\n", ["Who?"]),
        ("q.tsv", "question\tid\nWho, then?\t1\n\n", ["Who, then?"]),
        ("q.jsonl", '{"question": " Who? "}\nWhere?\n', ["Who?", "Where?"]),
    ],
)
def test_questions_are_lines_objects_or_a_column(
    name: str, content: str, questions: list[str]
) -> None:
    Path(name).write_bytes(content.encode())
    assert [row["question"] for row in read_questions(name)] == questions


def test_options_and_other_columns_of_questions() -> None:
    Path("q.csv").write_text(
        'id,question,options\n7,Who?,Ada | Bo\n8,Who?,"[""A|B"", ""C""]"\n9,Who?,\n'
    )
    rows = read_questions("q.csv")
    assert [row.get("options") for row in rows] == [["Ada", "Bo"], ["A|B", "C"], None]
    assert [row["id"] for row in rows] == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.csv", b"id,frage\n1,Wer?\n", "no column 'question'; its columns: id, frage"),
        ("q.csv", b"", "no column 'question'"),
        ("q.csv", b"question\n", "contains no questions"),
        ("q.csv", b"question\n" + b"x" * 200_000, "field larger than"),
        ("q.txt", b"caf\xe9", "is not UTF-8"),
        ("none.csv", None, "Cannot read"),
    ],
)
def test_questions_that_cannot_be_read(name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_questions(name)


def test_broken_rows_are_told_before_anything_is_asked(engine: Any) -> None:
    made = engine()
    Path("q.csv").write_text("id,question\n1,\n2,Who?\n")
    done = ask()
    assert isinstance(done.exception, UsageError)
    assert "line 2 has no 'question'" in done.exception.message
    deep = "[" * 100_000
    Path("deep.jsonl").write_text('{"question": ' + deep + "\n")
    assert "error" in read_questions("deep.jsonl")[0]
    assert made == []


def test_a_document_that_cannot_be_read_is_told_once(engine: Any, folder: Path) -> None:
    (folder / "2.txt").write_bytes(b"\x00\x01" * 99)
    engine()
    words = ("ask", "docs", "--questions", "q.csv", "--out", "t.csv")
    done = CliRunner().invoke(group, words)
    assert done.stderr.count("Not read: 2.txt") == done.stderr.count("'docs/2.txt'") == 1
    assert "1 document cannot be read" in str(done.exception)
    assert "Mend or remove" in str(getattr(done.exception, "hint", ""))
    assert "Supported formats" in table()[2][2]


def test_an_estimate_has_a_price(engine: Any, folder: Path) -> None:
    done = ask("--dry-run", "--json", "--price-in", "2", "--price-out", "8")
    told = json.loads(done.stdout)
    assert told["price"] == pytest.approx(
        (2 * told["prompt_tokens"] + 8 * told["completion_tokens"]) / 1e6
    )


def test_asking_side_by_side_needs_a_table(folder: Path) -> None:
    with pytest.raises(UsageError, match="--concurrency is for a table"):
        CliRunner().invoke(
            group, ("ask", "docs", "Where?", "--concurrency", "2"), catch_exceptions=False
        )
