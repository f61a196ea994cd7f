"""Loads documents: one, or several as one reading whose parts know where they are from."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agenticlu.core.errors import DocumentError
from agenticlu.core.limits import DocumentLimits, ReadingLimits
from agenticlu.core.records import Document, Part, content_id, without_lone_surrogates
from agenticlu.documents.formats import name_of, parse
from agenticlu.documents.rectangles import Places
from agenticlu.documents.sources import (
    STANDARD_INPUT,
    Source,
    find_sources,
    is_address,
    names_one,
    require_file,
)

Given = str | os.PathLike[str]
NAMED_IN_FULL = 3
"""Sources that the name of a reading of several lists."""


def load_document(
    source: Given | Sequence[Given], *, limits: ReadingLimits | None = None
) -> Document:
    """Loads a document, or several as one reading.

    Of one document the format is recognised by the content, then by the file's ending. A folder, a
    pattern and a list give one document whose `parts` are what was read; what could not be read is
    in its `unread`, what was passed over in its `left_out`.

    Args:
        source: A path, an http(s) address, '-' for standard input, a folder, a pattern such as
            'reports/*.pdf', or a list of these.
        limits: Most files and bytes, where addresses may lead, and whether pages that are pictures
            are recognised; None for the default.

    Raises:
        DocumentError: A file is missing, empty, binary, encrypted or broken, in no known encoding,
            a PDF without a text layer, or over a limit (`agenticlu.core.limits`); an address cannot
            be read; of several, none can be read.
    """
    limits = limits or ReadingLimits()
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    names = [os.fspath(one) for one in given]
    if len(names) == 1 and names_one(names[0]):
        return load_source(names[0], limits)
    found = find_sources(names, limits)
    documents: list[tuple[Source, Document]] = []
    unread = dict(found.unread)
    for one, loaded in load_each(found.found, limits):
        if isinstance(loaded, Document):
            documents.append((one, loaded))
        else:
            unread[one.name] = loaded.advice
    if not documents:
        reasons = "; ".join(list(unread.values())[:NAMED_IN_FULL])
        raise DocumentError(f"None of {len(unread)} files can be read. {reasons}")
    return join_documents(
        documents, name_several(names), left_out=dict(found.passed_over), unread=unread
    )


def load_each(
    sources: Sequence[Source], limits: ReadingLimits
) -> Iterator[tuple[Source, Document | DocumentError]]:
    """Yields each source with its document, or with why it cannot be read."""
    num_characters = 0
    for source in sources:
        try:
            document = load_source(source.address, limits)
        except DocumentError as error:
            yield source, error
            continue
        num_characters += len(document.text)
        limits.check(num_bytes=num_characters)
        yield source, document


def load_source(source: str, limits: ReadingLimits) -> Document:
    """Loads a single document; see `load_document`."""
    if is_address(source):
        from agenticlu.documents.addresses import fetch

        fetched = fetch(source, allow_private=limits.allow_private)
        data, shown, source = fetched.data, fetched.file_name, fetched.address
    else:
        data, shown = _read_bytes(source), source
    return read_document(data, shown, source, ocr=limits.ocr)


def read_document(
    data: bytes,
    name: str,
    source: str | None = None,
    *,
    ocr: str = "",
    on_progress: Callable[[float], None] | None = None,
) -> Document:
    """Reads a document whose bytes are here already.

    Args:
        data: The file.
        name: Its name; the ending helps to tell the format.
        source: What it is called in the document; None: its name.
        ocr: Languages in which pages are recognised that are pictures; empty: not at all.
        on_progress: Called with the share that is read, where that takes a while.

    Raises:
        DocumentError: See `load_document`.
    """
    if not data.strip(b" \t\r\n\f\v\x00"):
        raise DocumentError(f"{name_of(name)} is empty.", hint="Give a document with text in it.")
    parsed = parse(data, name, ocr, on_progress)
    if not parsed.text.strip():
        raise DocumentError(f"{name_of(name)} contains no text.")
    return Document.of(
        parsed.text,
        without_lone_surrogates(source or name),
        title=parsed.title,
        pages=parsed.pages,
        left_out=dict(parsed.left_out),
        places=parsed.places,
    )


def _read_bytes(source: str) -> bytes:
    limits = DocumentLimits.read()
    if source == STANDARD_INPUT:
        return limits.read_all(sys.stdin.buffer, name_of(source))
    require_file(source)
    try:
        with Path(source).open("rb") as file:
            return limits.read_all(file, name_of(source))
    except IsADirectoryError as error:
        raise DocumentError(f"{source!r} is a folder, not a document.") from error
    except OSError as error:
        raise DocumentError(f"Cannot read {source!r}: {error.strerror or error}.") from error


def join_documents(
    documents: Sequence[tuple[Source, Document]],
    source: str,
    *,
    left_out: dict[str, int] | None = None,
    unread: dict[str, str] | None = None,
) -> Document:
    """Joins documents to one, with a blank line between two.

    Args:
        documents: With what each is called.
        source: Name of the whole.
        left_out: What was passed over beside them, counted by kind.
        unread: What could not be read, and why.
    """
    texts: list[str] = []
    parts: list[Part] = []
    places: list[tuple[Places, int]] = []
    length = 0
    for named, document in documents:
        text, start = document.text, length
        if isinstance(document.places, Places):
            places.append((document.places, start))
        end = start + len(text)
        pages = tuple(
            page.model_copy(update={"start": page.start + start, "end": page.end + start})
            for page in document.pages
        )
        parts.append(
            Part(
                source=document.source,
                name=named.name,
                start=start,
                end=end,
                title=document.title,
                pages=pages,
                left_out=document.left_out,
            )
        )
        blank = "" if text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
        texts += [text, blank]
        length = end + len(blank)
    text = "".join(texts)
    return Document(
        # What is shown depends on the names, too.
        id=content_id(text, *(part.name for part in parts)),
        text=text,
        source=without_lone_surrogates(source),
        left_out=left_out or {},
        parts=tuple(parts),
        unread=unread or {},
    ).with_places(Places.joined(places) if places else None)


def name_several(names: Sequence[str]) -> str:
    """Names what several arguments give together.

    >>> name_several(["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"])
    'a.txt, b.txt, c.txt and 2 more'
    """
    shown, more = list(names[:NAMED_IN_FULL]), len(names) - NAMED_IN_FULL
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
