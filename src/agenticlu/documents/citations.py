"""Citations: passages behind an answer, with quotes verified word for word against the document."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agenticlu.core.records import Document, Piece, Record
from agenticlu.core.words import search_terms
from agenticlu.documents.quotes import Folded, find_quote, fold, is_long_enough, quoted
from agenticlu.documents.rectangles import Rectangle, rectangles_of
from agenticlu.documents.sentences import sentences


class Quote(NamedTuple):
    """A sentence of a document that is shown for a passage."""

    start: int
    """First character in the document's text."""
    end: int
    """One past the last character."""
    stated: bool
    """Whether the model stated it, word for word."""


class CitedFile(Record):
    """The file of a citation in a reading of several, with the places in that file's own text."""

    index: int
    """Which of the reading's parts it is, from 0."""
    name: str
    """As people and the model are shown it."""
    source: str
    """Its path or address."""
    title: str | None = None
    start: int
    """First character of the piece in the file's own text, as it is when loaded alone."""
    end: int
    """One past the last character."""
    quote_start: int | None = None
    """First character of the quote in the file's own text."""
    quote_end: int | None = None

    @classmethod
    def of(
        cls, document: Document, piece: Piece, quote: tuple[int, int] | None
    ) -> CitedFile | None:
        """Returns the file of a piece; None in a single document."""
        part = document.part_of(piece.start)
        if part is None:
            return None
        return cls(
            index=document.parts.index(part),
            name=part.name,
            source=part.source,
            title=part.title,
            start=piece.start - part.start,
            end=min(piece.end, part.end) - part.start,
            quote_start=None if quote is None else quote[0] - part.start,
            quote_end=None if quote is None else quote[1] - part.start,
        )


class Citation(Record):
    """A passage behind an answer."""

    piece: int
    """Index of the piece."""
    start: int
    """First character of the piece in the document's text."""
    end: int
    """One past the last character."""
    page: int | None = None
    """Page of the quote, or of the piece where nothing is quoted; None without pages."""
    page_name: str | None = None
    """What the source calls that page, such as 'slide 3'; None where it has but a number."""
    end_page: int | None = None
    """Page of the last character of the same; later than `page` where it runs over a break."""
    rectangles: tuple[Rectangle, ...] | None = None
    """Where the quote, or the piece where nothing is quoted, stands on its pages, line by line;
    None where the source has no such places (only PDFs do)."""
    text: str
    """The passage, as in the document."""
    quote: str | None = None
    """A sentence of the passage, as in the document; None if none is relevant."""
    quote_start: int | None = None
    """First character of the quote in the document's text."""
    quote_end: int | None = None
    verified: bool = False
    """Whether the model itself stated the quote, word for word but for typography, markup and what
    an ellipsis leaves out. Otherwise the quote is merely the sentence closest to the answer."""
    file: CitedFile | None = None
    """Which of several files it is from; None in a single document."""


_LONGEST_SENTENCE = 500
"""In characters; what is longer is hardly one."""
_ROW = re.compile(r"\t| \| ")
"""Between the cells of a row of a table."""
_ITEM_NUMBER = re.compile(r"\(?\w{1,3}[.)]")
"""What stands before an item or a heading: '4.' is no sentence."""
_LINE = re.compile(r"\S[^\n]*+")
ANSWER_LABEL = r"\b(?:final\s+)?answer\s*[:：]"


def statements(replies: Sequence[str], label: str = ANSWER_LABEL) -> list[str]:
    """Returns what may be a quote in a model's replies: quoted words, then sentences.

    Final answers after a label are left out, and so are statements too short to prove anything.

    Args:
        replies: Of a model.
        label: Pattern of what stands before a final answer.
    """
    found: dict[str, None] = {}
    labelled = re.compile(rf"(?<!\W)\W*+(?:{label}).*$", re.IGNORECASE | re.MULTILINE)
    for reply in replies:
        for said in quoted(reply):
            found.setdefault(said)
        unlabelled = labelled.sub("", reply)
        for start, end in sentences(unlabelled):
            found.setdefault(unlabelled[start:end])
    return [statement for statement in found if is_long_enough(statement)]


def cite(
    document: Document,
    pieces: Sequence[Piece],
    indices: Sequence[int],
    said: Sequence[str],
    hints: Sequence[str],
) -> tuple[Citation, ...]:
    """Builds the citations of an answer.

    Args:
        document: The document.
        pieces: All its pieces.
        indices: Pieces that the model named.
        said: Its statements, the most relevant first.
        hints: Answer, reply and question, the most relevant first; they select the closest
            sentence where nothing was quoted.
    """
    return tuple(_cite_piece(document, pieces[index], said, hints) for index in indices)


def _cite_piece(
    document: Document, piece: Piece, said: Sequence[str], hints: Sequence[str]
) -> Citation:
    quote = next(stated_quotes(document, piece, said), None)
    return cite_quote(document, piece, quote or closest_quote(document, piece, hints))


def stated_quotes(document: Document, piece: Piece, said: Sequence[str]) -> Iterator[Quote]:
    """Yields where statements of the model stand in a piece word for word, in their order."""
    text = document.text[piece.start : piece.end]
    folded = fold_once(text)
    for statement in said:
        if (span := find_quote(statement, folded, text)) is not None:
            yield Quote(piece.start + span[0], piece.start + span[1], stated=True)


@functools.lru_cache(maxsize=256)
def fold_once(text: str) -> Folded:
    """Returns `fold(text)`, kept for the next statement that is looked for in it."""
    return fold(text)


def closest_quote(document: Document, piece: Piece, hints: Sequence[str]) -> Quote | None:
    """Returns the sentence of a piece that shares most words with the hints; None if none does."""
    span = _closest_sentence(document.text[piece.start : piece.end], hints)
    return None if span is None else Quote(piece.start + span[0], piece.start + span[1], False)


def cite_quote(document: Document, piece: Piece, quote: Quote | None) -> Citation:
    """Builds the citation of a piece, with the quote that is shown for it."""
    start, end = (piece.start, piece.end) if quote is None else (quote.start, quote.end)
    page = document.page_at(start)
    last = _last_character(document.text, start, end)
    return Citation(
        piece=piece.index,
        start=piece.start,
        end=piece.end,
        page=None if page is None else page.number,
        page_name=None if page is None else page.name,
        end_page=document.page_of(last),
        rectangles=rectangles_of(document, start, end) or None,
        text=document.text[piece.start : piece.end].strip(),
        quote=None if quote is None else document.text[start:end],
        quote_start=None if quote is None else start,
        quote_end=None if quote is None else end,
        verified=quote is not None and quote.stated,
        file=CitedFile.of(document, piece, None if quote is None else (start, end)),
    )


def _last_character(text: str, start: int, end: int) -> int:
    """Returns the last character of a span that is no white space."""
    return start + max(0, len(text[start:end].rstrip()) - 1)


def _closest_sentence(text: str, hints: Sequence[str]) -> tuple[int, int] | None:
    """Returns the sentence that shares most words with the hints; None if none shares any.

    A word counts twice as much as one of the next hint; long sentences count a little less.
    """
    wanted: dict[str, int] = {}
    for weight, hint in enumerate(reversed(hints)):
        wanted.update(dict.fromkeys(content_terms(hint), 2**weight))
    best: tuple[float, int, int] | None = None
    for start, end in _sentences_and_rows(text):
        if _ITEM_NUMBER.fullmatch(text, start, end):
            continue
        words = content_terms(text[start:end])
        shared = sum(wanted.get(word, 0) for word in words) / max(len(words), 1) ** 0.25
        if shared and (best is None or shared > best[0]):
            best = (shared, start, end)
    return None if best is None else (best[1], best[2])


def _sentences_and_rows(text: str) -> Iterator[tuple[int, int]]:
    """Yields the sentences of a text; of tables, lists and code, which have none, the lines."""
    for start, end in sentences(text):
        if end - start > _LONGEST_SENTENCE or _ROW.search(text, start, end):
            for line in _LINE.finditer(text, start, end):
                yield line.start(), line.start() + len(line[0].rstrip())
        else:
            yield start, end


def content_terms(text: str) -> set[str]:
    """Returns the search terms of a text that may tell what it is about: no short words."""
    return {
        term for term in search_terms(text) if len(term) > 2 or term.isdigit() or not term.isascii()
    }
