"""How `agenticlu ask` shows steps, answers and estimates."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agenticlu.core.printing import echo, echo_json

if TYPE_CHECKING:
    from agenticlu.core.progress import Progress
    from agenticlu.dialogue.answer import Answer, Event
    from agenticlu.dialogue.estimate import AskEstimate


LABELS = {
    "clarify": "  asks itself ",
    "point": "  points to   ",
    "sub_answer": "  finds       ",
    "answer": "  answers     ",
    "check": "  checks      ",
}
"""What is said of each kind of turn; of others nothing."""


class Steps:
    """Shows the inner steps on stderr as they happen; in a terminal their text as it comes.

    Args:
        progress: Has a bar on the screen, which lines go above of; None: there is none.
        quiet: Show nothing.
    """

    def __init__(self, progress: Progress | None, *, quiet: bool) -> None:
        self._progress = progress
        self._quiet = quiet
        self._grows = progress is None and not quiet and sys.stderr.isatty()
        self._scan: Progress | None = None
        self._round = 0
        self._line: str | None = None
        """Text of the line that grows, without its label."""
        self._told = ""

    def __call__(self, event: Event) -> None:
        """Shows one step."""
        if event.kind == "scan":
            self._show_scan(event)
        elif self._quiet:
            pass
        elif event.kind == "search":
            self._say(f"Searching {event.total:,} paragraphs by words")
        elif event.kind in ("begin", "text"):
            if self._grows:
                self._grow(event)
        elif event.turn is not None:
            self._show_turn(event)

    def close(self) -> None:
        """Ends a bar or a line that is still open."""
        self.end_line()
        if self._scan is not None:
            self._scan.__exit__(None, None, None)
            self._scan = None

    def end_line(self) -> None:
        """Ends a line that is still growing."""
        if self._line is not None:
            echo(err=True)
        self._line = None

    def _show_scan(self, event: Event) -> None:
        from agenticlu.core.progress import Progress

        if self._scan is None:
            self._scan = Progress("pieces scored", event.total, quiet=self._quiet)
            self._scan.__enter__()
        self._scan.update(event.done)
        if event.pieces:
            self.close()
            if not self._quiet:
                self._say(f"  kept        {_list_pieces(event.pieces)}")

    def _grow(self, event: Event) -> None:
        """Shows more of a turn's reply; not of marks, which are shown as numbers at its end."""
        if event.turn_kind is None or event.turn_kind not in LABELS or event.turn_kind == "point":
            return
        if event.kind == "begin":
            self._show_round(event)
            self._line, self._told = "", ""
            echo(LABELS[event.turn_kind], err=True, nl=False)
        elif self._line is not None:
            self._told += event.text
            line = " ".join(self._told.split())
            echo(line[len(self._line) :], err=True, nl=False)
            self._line = line

    def _show_round(self, event: Event) -> None:
        if event.round != self._round:
            self._round = event.round
            self._say(f"Round {event.round}")

    def _show_turn(self, event: Event) -> None:
        assert event.turn is not None
        self._show_round(event)
        if event.turn.kind not in LABELS:
            return
        text = " ".join(event.turn.reply.split())
        if event.turn.kind == "point":
            text = _list_pieces(event.pieces) if event.pieces else text or "-"
        if self._line is not None and text.startswith(self._line):
            echo(text[len(self._line) :], err=True)
            self._line = None
            return
        self.end_line()  # it turned out to be another text than was told
        self._say(f"{LABELS[event.turn.kind]}{text}")

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.say(text)
        else:
            echo(text, err=True)


def _list_pieces(pieces: Sequence[int]) -> str:
    shown = ", ".join(map(str, pieces[:12])) + (", ..." if len(pieces) > 12 else "")
    return f"paragraph{'s' if len(pieces) > 1 else ''} {shown}"


class AnswerText:
    """An answer for people."""

    def answer(self, row: Mapping[str, Any], answer: Answer) -> None:
        """Prints an answer."""
        from agenticlu.dialogue.rendering import render_answer

        echo(render_answer(answer))

    def failure(self, row: Mapping[str, Any], error: Exception) -> None:
        """Tells of a question that failed."""
        raise error


class AnswerJson(AnswerText):
    """An answer as one JSON object."""

    def answer(self, row: Mapping[str, Any], answer: Answer) -> None:
        """Prints an answer."""
        echo_json(answer.model_dump(mode="json"))


class AnswerLines(AnswerText):
    """Answers as JSON lines; each row keeps its own fields."""

    def answer(self, row: Mapping[str, Any], answer: Answer) -> None:
        """Prints an answer."""
        self._line({**row, **answer.model_dump(mode="json"), "error": None})

    def failure(self, row: Mapping[str, Any], error: Exception) -> None:
        """Tells of a question that failed."""
        self._line({**row, "answer": None, "error": getattr(error, "message", str(error))})

    def _line(self, value: Mapping[str, Any]) -> None:
        echo_json(value, indent=None)


def show_estimate(question: str, cost: AskEstimate, *, as_json: bool) -> None:
    """Prints what a question would cost."""
    if as_json:
        echo_json({"question": question, **asdict(cost)}, indent=None)
    else:
        echo(_render_estimate(cost))


def _render_estimate(cost: AskEstimate) -> str:
    about = "about " if cost.approximate else ""
    fits = {
        True: f"fits the window of {cost.window_tokens or 0:,}",
        False: f"does not fit the window of {cost.window_tokens or 0:,}: use --spans",
        None: "the window is not known before a server is asked",
    }[cost.fits]
    return (
        f"document: {about}{cost.document_tokens:,} tokens in {cost.num_pieces} paragraphs; "
        f"needs {about}{cost.needed_tokens:,}, {fits}\n"
        f"at most: {cost.requests} requests; {about}"
        f"{cost.prompt_tokens - cost.cached_tokens:,} prompt tokens computed and "
        f"{cost.cached_tokens:,} cached where the engine keeps a cache "
        f"({cost.prompt_tokens:,} where it does not), {cost.completion_tokens:,} sampled"
        + (f"; {cost.thinking_tokens:,} more if it thinks first" if cost.thinking_tokens else "")
    )
