"""The inner steps on stderr: line by line into a pipe, word by word into a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agenticlu.cli.ask.printing import Steps
from agenticlu.core.records import Turn, TurnKind
from agenticlu.dialogue.answer import Event
from agenticlu.engines import BUNDLED_MODEL

CLI = (sys.executable, "-c", "from agenticlu.cli import main; main()")
TEXT = "Ada Yardley lives in Wexley. Bo Otis keeps a duck. The teacher of Bo Otis is Ada Yardley.\n"
needs_model = pytest.mark.skipif(
    not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
)


class Terminal(io.StringIO):
    """Remembers what was written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.parts.append(text)
        return super().write(text)


def turn(kind: TurnKind, reply: str) -> Turn:
    return Turn(kind=kind, wording="w", request="?", reply=reply)


def play(steps: Steps, kind: TurnKind, parts: list[str], reply: str, pieces: tuple[int, ...] = ()):
    steps(Event("begin", 1, turn_kind=kind))
    for part in parts:
        steps(Event("text", 1, turn_kind=kind, text=part))
    steps(Event("turn", 1, turn(kind, reply), pieces))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_lines_grow_in_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    if not is_terminal:
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    steps = Steps(None, quiet=False)
    play(steps, "direct", ["no", " one sees"], "no one sees")
    play(steps, "clarify", ["Who ", "is\n", "\tit", "?"], "Who is\n\tit?")
    play(steps, "point", ["<para ", "3>"], "<para 3>", (3,))
    play(steps, "sub_answer", ["So it is", " Ada"], "Ben")
    play(steps, "answer", [], "")
    steps(Event("begin", 1, turn_kind="check"))
    steps(Event("text", 1, turn_kind="check", text="ye"))
    steps.close()
    shown = terminal.getvalue().splitlines()
    grown = [
        line for line in shown if line not in ("  finds       So it is Ada", "  checks      ye")
    ]
    assert grown == [
        "Round 1",
        "  asks itself Who is it?",
        "  points to   paragraph 3",
        "  finds       Ben",
        "  answers     ",
    ]
    assert (len(shown) > len(grown)) == is_terminal
    assert ("Who" in terminal.parts) == is_terminal, "as it comes"
    assert terminal.getvalue().endswith("\n")


@needs_model
def test_a_terminal_gets_the_lines_of_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "town.txt").write_text(TEXT)
    command = [*CLI, "ask", "town.txt", "Where does Ada Yardley live?"]
    piped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    master, slave = pty.openpty()
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 1 << 16)
        except OSError:  # its end
            break
    out = process.communicate(timeout=60)[0].decode()
    os.close(master)
    assert process.returncode == piped.returncode
    assert shown.decode().replace("\r\n", "\n") == piped.stderr
    assert "  finds       " in piped.stderr
    seconds = re.compile(r"\d+\.\d s;")
    assert seconds.sub("", out) == seconds.sub("", piped.stdout)
