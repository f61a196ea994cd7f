"""What people are told of the documents that were read: what their text does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agenticlu.core.records import Document
    from agenticlu.documents.sources import Sources

SHOWN_AT_MOST = 5
"""Files of which each has a line of its own."""


def describe_reading(document: Document) -> Iterator[str]:
    """Yields lines about what the text of a document does not hold, and which files were read."""
    from agenticlu.documents.sources import render_counts

    if document.parts:
        number = len(document.parts)
        yield f"Read {number:,} file{'s' if number > 1 else ''} ({document.source})."
    yield from _at_most(
        [f"Not read: {name}: {reason}" for name, reason in document.unread.items()], "not read"
    )
    if document.parts and document.left_out:
        yield f"Passed over: {render_counts(document.left_out)}."
    holders = document.parts or (document,)
    named = [(getattr(one, "name", one.source), one.left_out) for one in holders if one.left_out]
    yield from _at_most(
        [f"Left out of {name}: {render_counts(counts)}." for name, counts in named],
        "with something left out",
    )


def describe_sources(sources: Sources, named: str) -> Iterator[str]:
    """Yields lines about files that were found, none of them read yet."""
    from agenticlu.documents.sources import render_counts

    number = len(sources.found)
    yield f"Found {number:,} document{'s' if number != 1 else ''} ({named})."
    yield from _at_most(
        [f"Not read: {name}: {reason}" for name, reason in sources.unread.items()], "not read"
    )
    if sources.passed_over:
        yield f"Passed over: {render_counts(sources.passed_over)}."


def _at_most(lines: list[str], what: str) -> Iterator[str]:
    yield from islice(lines, SHOWN_AT_MOST)
    if (more := len(lines) - SHOWN_AT_MOST) > 0:
        yield f"... and {more:,} more file{'s' if more > 1 else ''} {what}."
