"""What is printed has no power over a terminal, and nothing prints by another way."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agenticlu
from agenticlu.core.files import write_atomically
from agenticlu.core.printing import echo, echo_json, encode_json, escape_json, harmless
from agenticlu.core.progress import Progress

SOURCE = Path(agenticlu.__file__).parent
POWERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
EVIL = {
    "title": "\x1b]0;pwned\x07", "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07", "hidden": "\x1b[8m",
    "cleared": "\x1b[2J", "types back": "\x1b[6n", "eight-bit": "\x9b6n", "hyperlink": "\x1b]8;;http://x\x1b\\",
    "device string": "\x90q\x9c", "over the line": "safe\rgone", "backspace": "no\b\byes",
    "override": "\u202etxt.exe", "isolate": "\u2067a\u2069", "delete": "\x7f", "shift out": "\x0e",
    "application": "\x1b_G\x1b\\", "separator": "a\u2028b", "next line": "a\x85b", "half": "\ud83d",
}  # fmt: skip
ORDINARY = (
    "naïve – “quoted”…\ta\nb", "שלום \u200f(עולם)", "می\u200cخواهم", "क्\u200dष",
    "👩\u200d👩\u200d👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "ไทย\u200bไทย",
    "日本語、中文", "e\u0301", "soft\u00adhyphen",
    "\ufeffmark", "\u00a0x", "␛[2J is how it is shown",
)  # fmt: skip


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_no_text_keeps_a_power(text: str) -> None:
    shown = harmless(text)
    assert not POWERS.search(shown)
    assert harmless(shown) == shown
    value = json.loads(encode_json({"a": text}))["a"]
    assert value == text
    assert not POWERS.search(encode_json({"a": text}, indent=2))
    assert json.loads(escape_json(json.dumps([text], ensure_ascii=False))) == [text]


@pytest.mark.parametrize("name", EVIL)
def test_each_power_is_met(name: str) -> None:
    assert POWERS.search(EVIL[name])
    assert harmless(EVIL[name]) != EVIL[name]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert harmless(text) == text
    assert json.loads(encode_json(text)) == text


def test_every_character_is_a_letter_of_a_script_or_is_met() -> None:
    """Whatever Unicode calls a control character is replaced, tab and newline aside."""
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") and chr(code) not in "\t\n":
            assert harmless(chr(code)) != chr(code), hex(code)


def test_styles_are_ours_alone(capsys: pytest.CaptureFixture[str]) -> None:
    echo("a\x1b[8mb", bold=True)
    echo(f"{EVIL['title']}", err=True)
    echo_json({"\x9b": EVIL["override"]})
    said = capsys.readouterr()
    assert not POWERS.search(said.out + said.err)
    assert json.loads(said.out.split("\n", 1)[1]) == {"\x9b": EVIL["override"]}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_notes_and_warnings_harmlessly(is_terminal: bool) -> None:
    evil = "".join(EVIL.values())
    ours = re.compile(r"\x1b\[(?:\?25[lh]|\d*[AKm]|\d+(?:;\d+)*m|2K|1A)|\r")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    stream = Terminal()
    with Progress(f"things{evil if not is_terminal else ''}", 3, stream=stream) as progress:
        progress.advance(note=f"note {evil}")
        progress.say(evil)
        progress.warn(evil)
        progress.advance(note=f"note {evil}")
    assert "pwned" in stream.getvalue()
    assert not POWERS.search(ours.sub("", stream.getvalue()))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".md", ".csv"])
def test_files_for_people_are_harmless_too(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    text = json.dumps({"a": "".join(EVIL.values())}, ensure_ascii=False)
    if suffix in (".md", ".csv"):
        text = "".join(EVIL.values())
    write_atomically(path, text)
    assert not POWERS.search(path.read_text(encoding="utf-8"))


def run_on_terminal(script: str) -> str:
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    reader = threading.Thread(target=process.wait)
    reader.start()
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:
            break
        if not part:
            break
        shown += part
    reader.join()
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


def test_what_python_prints_itself() -> None:
    """A warning, the traceback of a bug, click's words about arguments: all pass the same place."""
    for body in (
        "import warnings; warnings.warn(chr(27) + ']0;pwned')",
        "raise KeyError(chr(27) + ']0;pwned') from OSError(chr(0x9b) + 'pwned')",
    ):
        script = f"from agenticlu.core.printing import guard_streams; guard_streams()\n{body}"
        shown = run_on_terminal(script)
        assert "pwned" in shown
        assert not POWERS.search(re.sub(r"\x1b\[[\d;]*m", "", shown)), shown
    for words in (["ask", "\x1b]0;pwned", "b"], ["--\x9bpwned"], ["\x1b[2Jpwned"]):
        script = f"import sys; sys.argv[1:] = {words!r}\nfrom agenticlu.cli import main; main()"
        shown = run_on_terminal(script)
        assert "pwned" in shown
        assert not POWERS.search(shown), shown


def test_an_encoding_without_a_character_is_no_traceback() -> None:
    script = (
        "from agenticlu.core.printing import guard_streams, echo; guard_streams()\n"
        "echo('“a” 日本'); echo('“b”', err=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        encoding="latin-1",
        check=True,
    )
    assert done.stdout.startswith("\\u201ca")


# --- No other way ---------------------------------------------------------------------------------

PLACE = "core/printing.py"
RICH = {"core/printing.py", "core/progress.py"}
"""Modules that may use rich: `test_progress_...` and `redraw` see to what they are given."""


def ways_to_print(tree: ast.AST) -> list[str]:
    """Returns the ways to print that a module uses."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print" | "input" as name)):
                found.append(f"{name}, line {node.lineno}")
            case ast.Attribute(
                value=ast.Name(id="click"),
                attr="echo" | "secho" | "style" | "confirm" | "prompt" | "pause" as name,
            ):
                found.append(f"click.{name}, line {node.lineno}")
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr" as stream),
                attr="write" | "writelines" | "buffer" as name,
            ):
                found.append(f"sys.{stream}.{name}, line {node.lineno}")
            case ast.ImportFrom(module="click", names=names):
                found += [f"from click import {name.name}" for name in names]
            case ast.ImportFrom(module=str() as module) if module.split(".")[0] == "rich":
                found.append("rich")
            case ast.Import(names=names):
                found += ["rich" for name in names if name.name.split(".")[0] == "rich"]
            case ast.Attribute(value=ast.Name(id="traceback"), attr=name) if "print" in name:
                found.append(f"traceback.{name}, line {node.lineno}")
    return found


def test_nothing_prints_by_another_way() -> None:
    faults = {}
    seen = 0
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ways = [way for way in ways_to_print(tree) if not (way == "rich" and name in RICH)]
        if ways and name != PLACE:
            faults[name] = ways
        seen += any(
            isinstance(node, ast.Call) and ast.unparse(node.func).startswith("echo")
            for node in ast.walk(tree)
        )
    assert faults == {}
    assert seen > 12


@pytest.mark.parametrize(
    "line",
    [
        "print(x)", "click.echo(x)", "say = click.secho", "sys.stderr.write(x)",
        "sys.stdout.buffer.write(x)", "from click import echo", "from rich.console import Console",
        "traceback.print_exc()", "input('?')", "import rich.live",
    ],
)  # fmt: skip
def test_the_walk_sees_other_ways(line: str) -> None:
    assert ways_to_print(ast.parse(line))
