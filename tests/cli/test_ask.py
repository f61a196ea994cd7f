"""The command line: what is printed where, and with which exit code it ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import agenticlu.engines
from agenticlu import __version__
from agenticlu.cli import COMMANDS, group, main
from agenticlu.cli.options import BUNDLED_MODEL_NOTE
from agenticlu.core.errors import EngineUnreachableError
from agenticlu.dialogue import ask as asking
from agenticlu.documents.tokens import load_tokenizer
from agenticlu.engines.scripted import ScriptedEngine

TEXT = (
    "The snow lasted for nine days. Ada Yardley lives in Wexley.\n\n"
    "Bo Otis keeps a duck. The teacher of Bo Otis is Ada Yardley.\n\n"
)
ROUND = [
    "Who is the teacher of Bo Otis?",
    "<para 0>",
    "The teacher of Bo Otis is Ada Yardley.",
    "Ada Yardley lives in Wexley. Answer: Wexley",
    "Yes.",
]
ASKED = "Where does the teacher of Bo Otis live?"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the console command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def ran(*args: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agenticlu", *args])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return ran


@pytest.fixture
def town(tmp_path: Path) -> str:
    (tmp_path / "town.txt").write_text(TEXT)
    return "town.txt"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a script in place of every engine; records how it was asked for."""

    def install(replies: Any = ROUND, **options: Any) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def load(*args: Any, **kwargs: Any) -> ScriptedEngine:
            calls.append(args)
            return ScriptedEngine(replies, **options)

        monkeypatch.setattr(agenticlu.engines, "load_engine", load)
        return calls

    return install


def test_a_timeout_reaches_the_server_alone(
    run: Run, town: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def load(*args: Any, **options: Any) -> ScriptedEngine:
        given.append(options.get("timeout_s"))
        return ScriptedEngine(ROUND)

    monkeypatch.setattr(agenticlu.engines, "load_engine", load)
    monkeypatch.setattr(
        "agenticlu.evaluation.config.read_served_model", lambda *args, **options: None
    )
    served = ("--base-url", "http://a/v1", "--model", "m", "--timeout", "7.5")
    assert run("ask", town, ASKED, *served)[0] == 0
    assert run("ask", town, ASKED, "--timeout", "7.5")[0] == 0
    short = ("--lengths", "256", "--limit", "1", "--methods", "direct", "--piece-tokens", "64")
    assert run("eval", *short, *served, "--out", "e")[0] == 0
    assert given == [7.5, None, 7.5]
    code, _, err = run("ask", town, ASKED, *served[:-1], "0")
    assert (code, "--timeout 0: must be greater than 0" in err) == (2, True)


def test_a_question_without_words_is_refused(run: Run, town: str, engine: Any) -> None:
    calls = engine()
    for nothing in ("", " \n"):
        code, _, err = run("ask", town, nothing)
        assert (code, "The question is empty." in err) == (2, True)
    assert calls == []


def test_a_served_models_name_may_be_that_of_any_folder(
    run: Run, town: str, engine: Any, tmp_path: Path
) -> None:
    engine()
    (tmp_path / "m").mkdir()
    assert run("ask", town, ASKED, "--base-url", "http://a/v1", "--model", "m")[0] == 0


# --- The group ------------------------------------------------------------------------------------


def test_help_lists_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name, line in COMMANDS.items():
        assert f"  {name}" in out
        assert line.split()[0] in out
    assert run("-h")[1] == out


def test_every_listed_command_loads_and_helps() -> None:
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        assert command.help or command.short_help
    assert group.get_command(context, "nothing") is None


def test_version(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert __version__ in out


def test_unknown_command_and_option(run: Run) -> None:
    code, _, err = run("asc", "a.txt", "b")
    assert code == 2
    assert "Did you mean ask?" in err
    code, _, err = run("ask", "--roundz", "2")
    assert code == 2
    assert "--rounds" in err


def test_an_interrupt_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = types.ModuleType("agenticlu.cli.ask")

    @click.command("ask")
    def command() -> None:
        raise KeyboardInterrupt

    stub.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "agenticlu.cli.ask", stub)
    code, _, err = run("ask")
    assert code == 130
    assert "interrupted" in err


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    monkeypatch.setattr(sys, "argv", ["agenticlu", "--debug", "ask", "nowhere.txt", "Who?"])
    with pytest.raises(agenticlu.core.errors.DocumentError):
        main()
    monkeypatch.setenv("AGENTICLU_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["agenticlu", "ask", "nowhere.txt", "Who?"])
    with pytest.raises(agenticlu.core.errors.DocumentError):
        main()


# --- ask ------------------------------------------------------------------------------------------


def test_the_answer_comes_first_then_sources_then_cost(run: Run, town: str, engine: Any) -> None:
    engine()
    code, out, err = run("ask", town, ASKED)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Wexley [1]"
    assert lines[2] == "Sources"
    assert lines[3].startswith("[1] paragraph 0, characters 0-")
    assert lines[4] == "    “The teacher of Bo Otis is Ada Yardley.”" or lines[4].startswith(
        "    “Ada Yardley lives"
    )
    assert re.search(r"1 round, 5 requests; tokens: [\d,]+ computed, [\d,]+ cached, ", lines[-1])
    assert "its own invented world" in " ".join(err.split())
    for step in (
        "asks itself Who is the teacher",
        "points to   paragraph 0",
        "answers ",
        "checks ",
    ):
        assert step in err
    assert "asks itself" not in out


def test_a_price_makes_a_cost(run: Run, town: str, engine: Any) -> None:
    engine()
    prices = ("--price-in", "1000", "--price-out", "2000")
    code, out, _ = run("ask", town, ASKED, "--quiet", "--json", *prices)
    assert code == 0
    found = json.loads(out)
    usage = found["usage"]
    expected = (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1000
    assert found["cost"] == pytest.approx(expected)
    _, out, _ = run("ask", town, ASKED, "--quiet", *prices)
    assert "; price 0." in out.splitlines()[-1]
    _, out, _ = run("ask", town, ASKED, "--quiet", "--json")
    assert json.loads(out)["cost"] is None


def test_quiet_and_json(run: Run, town: str, engine: Any) -> None:
    engine()
    code, out, err = run("ask", town, ASKED, "--quiet", "--json")
    assert code == 0
    assert err == f"{BUNDLED_MODEL_NOTE}\n", "a toy's answer is never taken for a model's"
    found = json.loads(out)
    assert found["answer"] == "Wexley"
    assert found["supported"] is True
    (citation,) = found["citations"]
    assert TEXT[citation["quote_start"] : citation["quote_end"]] == citation["quote"]
    assert found["usage"]["requests"] == 5
    assert found["turns"][0]["kind"] == "clarify"


def test_nothing_supports_it(run: Run, town: str, engine: Any) -> None:
    engine(["Who?", "No paragraph helps.", "Nothing.", "Answer: unknown", "no"])
    code, out, err = run("ask", town, "What is the lamp made of?")
    assert code == 10
    assert out.splitlines()[0] == "unknown"
    assert "No sources." in out
    assert "does not support an answer" in err


def test_several_questions_give_json_lines(run: Run, town: str, engine: Any) -> None:
    calls = engine(lambda request: ROUND[request.turn])
    code, out, err = run("ask", town, "-q", ASKED, "-q", "Who keeps a duck?")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["question"] for row in rows] == [ASKED, "Who keeps a duck?"]
    assert all(row["error"] is None for row in rows)
    assert len(calls) == 1, "one engine, so that the document is read once"
    assert "questions: 2/2" in err


def test_a_bad_row_does_not_stop_the_file(run: Run, town: str, engine: Any, tmp_path: Path) -> None:
    engine(lambda request: ROUND[request.turn])
    rows = [
        '{"id": 7, "question": "Where does Ada live?", "options": ["Vell", "Wexley"]}',
        '{"id": 8, "question": ',
        '{"id": 9, "answer": "x"}',
        "",
        "A plain line?",
        '{"id": 10, "question": "Who?", "options": "A|B"}',
        '{"id": 11, "question": "Who?", "options": ["one"]}',
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    code, out, err = run("ask", town, "--questions", "q.jsonl")
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 6
    assert code == 9
    assert "4 of 6 questions failed" in err
    assert [bool(row["error"]) for row in found] == [False, True, True, False, True, True]
    assert "two choices or more" in found[5]["error"]
    assert found[0]["id"] == 7
    assert found[0]["options"] == ["Vell", "Wexley"]
    assert "line 2 is not JSON" in found[1]["error"]


def test_questions_from_standard_input_and_document_too(run: Run, town: str, engine: Any) -> None:
    engine(lambda request: ROUND[request.turn])
    code, out, _ = run("ask", town, "--questions", "-", stdin=b"Who?\nWhere?\n")
    assert code == 0
    assert len(out.splitlines()) == 2
    code, out, _ = run("ask", "-", ASKED, stdin=TEXT.encode())
    assert code == 0
    assert out.startswith("Wexley [1]\n")
    code, _, err = run("ask", "-", "--questions", "-", stdin=b"x")
    assert code == 2
    assert "cannot both" in err


def test_multiple_choice(run: Run, town: str, engine: Any) -> None:
    engine([*ROUND[:3], "It is Wexley. Answer: B", "yes"])
    for choice in (["--options", "Vell | Wexley"], ["--option", "Vell", "--option", "Wexley"]):
        code, out, _ = run("ask", town, ASKED, *choice, "--piece-tokens", "64")
        assert code == 0
        assert out.splitlines()[0] == "B. Wexley [2] (unverified)"
    code, _, err = run("ask", town, ASKED, "--option", "Vell")
    assert code == 2
    assert "at least two choices" in err


def test_dry_run_asks_nothing(run: Run, town: str, engine: Any) -> None:
    calls = engine()
    code, out, _ = run("ask", town, ASKED, "--dry-run", "--rounds", "2")
    assert code == 0
    assert calls == []
    assert "at most: 10 requests" in out
    assert "fits the window" in out
    code, out, _ = run("ask", town, ASKED, "--dry-run", "--base-url", "http://a/v1", "--json")
    assert code == 0
    assert json.loads(out)["fits"] is None
    code, out, _ = run("ask", town, ASKED, "--dry-run", "--base-url", "http://a/v1", "--model", "m")
    assert "about" in out


def test_a_document_too_long(run: Run, town: str, engine: Any, tiny_model_path: Path) -> None:
    engine(context_tokens=500, tokenizer=load_tokenizer(str(tiny_model_path)))
    code, out, err = run("ask", town, ASKED)
    assert code == 4
    assert out == ""
    assert "too many" in err
    assert "--spans" in err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nowhere.txt", "Who?"], 4, "File 'nowhere.txt' does not exist"),
        (["empty.txt", "Who?"], 4, "is empty"),
        (["binary.txt", "Who?"], 4, "binary"),
        (["bare", "Who?"], 4, "Folder 'bare' holds nothing to read"),
        (["town.txt"], 2, "No question"),
        (["town.txt", "Who?", "--rounds", "0"], 2, "--rounds 0: must be greater than"),
        (["town.txt", "Who?", "--profile", "defualt"], 3, "Did you mean default?"),
        (["town.txt", "Who?", "--config", "bad.toml"], 3, "ronds"),
        (["town.txt", "Who?", "--config", "none.toml"], 3, "No such configuration file"),
        (["town.txt", "--questions", "none.txt"], 2, "Cannot read"),
        (["town.txt", "--questions", "empty.txt"], 2, "no questions"),
        (["town.txt", "Who?", "--model", "no-such-folder"], 5, "no-such-folder"),
        (["town.txt", "Who?", "--model", "."], 5, "no config.json"),
        (["town.txt", "Who?", "--tokenizer", "nope"], 3, "nope"),
        (["town.txt", "Who?", "--base-url", "127.0.0.1:9"], 2, "http://127.0.0.1:9/v1"),
        (["town.txt", "Who?", "--base-url", "http://127.0.0.1:9/v1"], 5, "127.0.0.1:9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_with_a_code(
    run: Run, town: str, tmp_path: Path, args: list[str], code: int, words: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "bad.toml").write_text("ronds = 2")
    (tmp_path / "bare").mkdir()
    before = sorted(tmp_path.iterdir())
    found, out, err = run("ask", *args)
    assert found == code, err
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 8
    assert sorted(tmp_path.iterdir()) == before


def test_an_engine_error_ends_one_question_and_is_a_row_of_many(
    run: Run, town: str, engine: Any
) -> None:
    engine(faults=lambda request: EngineUnreachableError("Gone.", hint="Start it."))
    code, out, err = run("ask", town, ASKED)
    assert code == 5
    assert out == ""
    assert "Gone." in err
    assert "Start it." in err
    code, out, _ = run("ask", town, "-q", "a?", "-q", "b?")
    assert code == 9
    assert [json.loads(line)["error"] for line in out.splitlines()] == ["Gone.", "Gone."]


def test_settings_come_from_environment_and_files(
    run: Run, town: str, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = engine(lambda request: ROUND[request.turn % 5])
    (tmp_path / "agenticlu.toml").write_text('model = "from-file"\n[ask]\nrounds = 2\n')
    monkeypatch.setenv("AGENTICLU_BASE_URL", "http://a/v1")
    assert run("ask", town, ASKED)[0] == 0
    assert calls[-1] == ("from-file", ("http://a/v1",), "OPENAI_API_KEY")
    monkeypatch.setenv("AGENTICLU_MODEL", "from-environment")
    run("ask", town, ASKED)
    assert calls[-1][0] == "from-environment"
    run("ask", town, ASKED, "--model", "from-flag", "--base-url", "http://b/v1")
    assert calls[-1][:2] == ("from-flag", ("http://b/v1",))
    _, out, _ = run("ask", town, ASKED, "--show-config", "--temperature", "0.5")
    assert 'model = "from-environment"  (environment AGENTICLU_MODEL)' in out
    assert "rounds = 2  (agenticlu.toml)" in out
    assert "temperature = 0.5  (flag)" in out
    assert "spans = false  (default)" in out


def test_the_key_is_never_shown(
    run: Run, town: str, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sesame")
    engine()
    for args in (["--json"], ["--show-config"], ["--dry-run"], []):
        _, out, err = run("ask", town, ASKED, *args)
        assert "sesame" not in out + err


@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="needs signals")
def test_one_interrupt_answers_and_two_abort(run: Run, town: str, engine: Any) -> None:
    def interrupted(times: int) -> Any:
        def reply(request: Any) -> str:
            if request.turn == 4:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            if request.turn % 5 == 0:
                return f"Where does Person{request.turn} live?"
            return "no" if request.turn % 5 == 4 else ROUND[request.turn % 5]

        return reply

    engine(interrupted(1), latency_s=0.01)
    code, out, err = run("ask", town, ASKED, "--rounds", "4")
    assert code == 0
    assert out.startswith("Wexley [1]\n")
    assert "as requested" in out
    assert "Ctrl-C again" in err

    def at_once(request: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return ROUND[request.turn]

    engine(at_once)
    code, out, err = run("ask", town, ASKED)
    assert (code, out.splitlines()[0]) == (130, "(no answer)")
    assert "Stopped" in out
    assert "interrupted" in err

    def twice(request: Any) -> float:
        return 0.05 if request.turn >= 4 else 0.0

    calls = iter(range(99))

    def fault(request: Any) -> None:
        if request.turn >= 4 and next(calls) < 2:
            os.kill(os.getpid(), signal.SIGINT)

    engine(lambda request: "no" if request.turn % 5 == 4 else ROUND[request.turn % 5],
           latency_s=twice, faults=fault)  # fmt: skip
    code, out, err = run("ask", town, "-q", "a?", "-q", "b?", "-q", "c?")
    assert code == 130
    assert len(out.splitlines()) < 3
    assert "interrupted" in err


# --- The bundled model, in process and through a server -------------------------------------------

PAGE = f"<html><body><main>{''.join(f'<p>{p}</p>' for p in TEXT.split(chr(10) * 2))}</main></body>"


def write_pdf(path: Path) -> None:
    """Two lines of Helvetica, by hand."""
    lines = "".join(f"({line}) Tj T* " for line in TEXT.split("\n") if line)
    stream = f"BT /F1 10 Tf 14 TL 40 720 Td {lines}ET".encode()
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources "
        b"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 5\n0000000000 65535 f \n"
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start
    path.write_bytes(out)


@pytest.fixture
def three_files(tmp_path: Path, town: str) -> list[str]:
    (tmp_path / "town.html").write_text(PAGE)
    write_pdf(tmp_path / "town.pdf")
    return [town, "town.html", "town.pdf"]


def test_the_bundled_model_answers_from_text_html_and_pdf_in_process_and_through_a_server(
    run: Run,
    three_files: list[str],
    server_url: str,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "MAX_TOKENS", dict.fromkeys(asking.MAX_TOKENS, 24))
    asked = ("Where does Ada Yardley live?", "--json", "--piece-tokens", "64")
    served = ("--base-url", server_url, "--tokenizer", str(tiny_model_path))
    for file in three_files:
        found = []
        for where in ((), served):
            code, out, err = run("ask", file, *asked, *where)
            assert code in {0, 10}, err
            answer = json.loads(out)
            assert answer["usage"]["requests"] == 5
            assert answer["num_pieces"] == 1
            assert all(turn["reply"] is not None for turn in answer["turns"])
            assert ("its own invented" in err) == (not where)
            found.append(answer)
        in_process, over_http = found
        assert in_process["usage"]["cached_tokens"] > 0, "the document is read once"
        replies = [[turn["reply"] for turn in answer["turns"]] for answer in found]
        assert replies[0] == replies[1], "greedy text does not depend on the way"
        if file.endswith(".pdf"):
            assert all(citation["page"] == 1 for citation in over_http["citations"])


def test_doctor_finds_bundled_model_and_server(run: Run, server_url: str) -> None:
    code, out, _ = run("doctor", "--json")
    assert code == 0
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["bundled model"]["status"] == "ok"
    code, out, _ = run("doctor", "--base-url", server_url)
    assert code == 0
    assert re.search(rf"ok +endpoint {re.escape(server_url)}", out)
    code, out, _ = run("doctor", "--base-url", "http://127.0.0.1:9/v1", "--timeout", "5")
    assert code == 5
    assert "BROKEN" in out
