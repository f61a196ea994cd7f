"""The text of a reply and the annotations on it: with or without the sources in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from agenticlu.dialogue import claims
from agenticlu.dialogue.answer import Answer


class Shown(NamedTuple):
    """What a client is shown."""

    parts: tuple[str, ...]
    """Of the text, a claim each, then sources and notes; together they are all of it."""
    annotations: tuple[dict[str, Any], ...]
    """On the whole text."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.parts)


def show(answer: Answer, file_ids: Sequence[str], *, sources: bool = False) -> Shown:
    """Returns the text of an answer with its annotations.

    Args:
        answer: The answer.
        file_ids: Of the documents, in their order.
        sources: Put the numbers of citations behind each claim, and a list of them at the end, for
            clients that show no annotations.
    """
    statement = answer.statement
    parts: list[str] = []
    places = {}  # of a claim's end in the text
    at = length = 0
    for claim in answer.claims:
        said = statement[at : claim.end]
        numbers = "".join(f"[{index + 1}]" for index in claim.citations) if sources else ""
        parts.append(f"{said} {numbers}" if numbers else said)
        places[claim.end] = length + len(said)
        length += len(parts[-1])
        at = claim.end
    if statement[at:]:
        parts.append(statement[at:])
    end = sum(map(len, parts))
    if sources:
        parts += _render_sources(answer)
    found = claims.annotations(answer, file_ids)
    return Shown(
        tuple(parts), tuple({**one, "index": places.get(one["index"], end)} for one in found)
    )


def _render_sources(answer: Answer) -> list[str]:
    """Returns the list of sources, and the notes; each where there are such."""
    lines = ["\n\nSources:"] if answer.citations else []
    for number, citation in enumerate(answer.citations, start=1):
        place = claims.name_of(answer, citation)
        if citation.page is not None:
            place = f"{place}, {citation.page_name or f'page {citation.page}'}"
        quote = " ".join((citation.quote or "").split())
        if citation.verified:
            place = f"{place}: “{quote}”"
        elif quote:
            place = f"{place}, closest sentence: {quote}"
        lines.append(f"\n[{number}] {place}")
    found = ["".join(lines)] if lines else []
    if answer.notes:
        found.append("\n" + "".join(f"\nNote: {note}" for note in answer.notes))
    return found
