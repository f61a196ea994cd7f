"""The trail to an answer for clients that show a model's reasoning: a headed part for each turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agenticlu.core.records import Turn, TurnKind
from agenticlu.dialogue.answer import Answer, Event
from agenticlu.documents import parse_marks

_TITLES: dict[TurnKind, str] = {
    "direct": "Answers",
    "clarify": "Asks itself",
    "point": "Points to",
    "sub_answer": "Finds",
    "answer": "Answers",
    "check": "Checks",
}


@dataclass(frozen=True)
class Step:
    """News of a part."""

    kind: Literal["begin", "text", "end"]
    text: str = ""
    """More of the part's text; at its end the whole of it."""


def render_turn(turn: Turn, num_pieces: int) -> str:
    """Returns the part of a turn."""
    return _head(turn.kind) + _said(turn, num_pieces)


def render_trail(answer: Answer) -> list[str]:
    """Returns the parts of all turns."""
    return [render_turn(turn, answer.num_pieces) for turn in answer.turns]


def _head(kind: TurnKind) -> str:
    return f"**{_TITLES[kind]}**\n\n"


def _said(turn: Turn, num_pieces: int) -> str:
    if turn.kind != "point":
        return turn.reply.strip()
    valid = parse_marks(turn.reply, num_pieces).valid
    if not valid:
        return "no paragraph"
    return f"paragraph{'s' if len(valid) > 1 else ''} {', '.join(map(str, valid))}"


class TrailParts:
    """Turns events into parts that grow while a turn is sampled.

    Args:
        num_pieces: Of the document.
    """

    def __init__(self, num_pieces: int) -> None:
        self._num_pieces = num_pieces
        self._told: str | None = None
        """Of the part that is open."""

    def feed(self, event: Event) -> Iterator[Step]:
        """Takes an event; yields what is new."""
        if event.kind == "begin" and event.turn_kind is not None:
            yield from self._open(event.turn_kind)
        elif event.kind == "text" and event.turn_kind not in (None, "point"):
            yield from self._tell(event.text)
        elif event.kind == "turn" and event.turn is not None:
            if self._told is None:
                yield from self._open(event.turn.kind)
            whole = render_turn(event.turn, self._num_pieces)
            told = self._told or ""
            # A reply that was begun anew cannot take back what was told: the end says it whole.
            if whole.startswith(told):
                yield from self._tell(whole[len(told) :])
            self._told = None
            yield Step("end", whole)

    def _open(self, kind: TurnKind) -> Iterator[Step]:
        if self._told is not None:
            yield Step("end", self._told)
        self._told = ""
        yield Step("begin")
        yield from self._tell(_head(kind))

    def _tell(self, text: str) -> Iterator[Step]:
        if text:
            self._told = (self._told or "") + text
            yield Step("text", text)
