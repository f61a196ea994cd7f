"""Citations: passages behind an answer, with quotes verified word for word against the document."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agenticlu.core.records import Document, Piece, Record

MIN_QUOTE_WORDS = 3
"""Shorter statements do not count as quotes: 'in Vell' occurs everywhere."""


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
    text: str
    """The passage, as in the document."""
    quote: str | None = None
    """A sentence of the passage, as in the document; None if none is relevant."""
    quote_start: int | None = None
    """First character of the quote in the document's text."""
    quote_end: int | None = None
    verified: bool = False
    """Whether the model itself stated the quote, word for word. Otherwise the quote is merely the
    sentence of the passage closest to the answer."""


@dataclass(frozen=True)
class Folded:
    """Text without the differences between a page and a quote of it.

    These are Unicode forms, white space, hyphens and their line ends, typographic quotes.
    """

    text: str
    origins: tuple[int, ...]
    """Character of the original for each folded one."""


_HYPHENS = frozenset("-\u2010\u2011\u2212")
_DASHES = frozenset("\u2012\u2013\u2014\u2015")
_SINGLE_QUOTES = frozenset("‘’‚‛′`´")
_DOUBLE_QUOTES = frozenset("“”„‟″«»")
_JOINED = re.compile(r"(?:[ \t]*\r?\n[ \t]*)?(?=[^\W\d_])")
"""What follows a hyphen inside a word: optionally a line end, then a letter."""
_INVISIBLE = frozenset("\u200b\u200c\u200d\u2060\ufeff\u00ad")


def fold(text: str) -> Folded:
    r"""Folds a text for comparison.

    >>> fold("a well-\nknown   “ﬁsh”").text
    'a wellknown "fish"'
    """
    folded: list[str] = []
    origins: list[int] = []

    def put(chars: str, at: int) -> None:
        for char in chars:
            folded.append(char)
            origins.append(at)

    i = 0
    while i < len(text):
        char = text[i]
        before = text[i - 1 : i]
        if char in _INVISIBLE:
            pass
        elif char in _HYPHENS and before.isalpha() and (joined := _JOINED.match(text, i + 1)):
            i = joined.end()
            continue
        elif char in _HYPHENS or (char in _DASHES and before.isdigit()):
            put("-", i)
        elif char.isspace() or char in _DASHES:
            if folded and folded[-1] != " ":
                put(" ", i)
        elif char in _SINGLE_QUOTES:
            put("'", i)
        elif char in _DOUBLE_QUOTES:
            put('"', i)
        else:
            put(unicodedata.normalize("NFKD", char), i)
        i += 1
    while folded and folded[-1] == " ":
        folded.pop()
        origins.pop()
    return Folded("".join(folded), tuple(origins))


def find_quote(statement: str, folded: Folded, text: str) -> tuple[int, int] | None:
    """Returns the span of `text` where a statement occurs, or None.

    Args:
        statement: What a model said; surrounding quotation marks and final punctuation are ignored.
        folded: `fold(text)`.
        text: The text to look in.
    """
    wanted = fold(statement.strip().strip("\"'“”‘’«»*_").rstrip(".!?…,;: \"'”’»")).text
    if not wanted:
        return None
    at = folded.text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        starts_word = at == 0 or not (folded.text[at - 1].isalnum() and wanted[0].isalnum())
        ends_word = end == len(folded.text) or not (
            folded.text[end].isalnum() and wanted[-1].isalnum()
        )
        if starts_word and ends_word:
            first, last = folded.origins[at], folded.origins[end - 1] + 1
            closing = re.compile("[\u0300-\u036f]*[.!?…]?[\"'”’»]?").match(text, last)
            return first, closing.end() if closing else last
        at = folded.text.find(wanted, at + 1)
    return None


_SENTENCE_END = re.compile(
    r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？][」』”’)]*|\n(?=[ \t\r]*(?:\n|[-*•#|]))"
)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yields the (start, end) of each sentence, without the white space around it."""
    start = 0
    for end in (*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)):
        sentence = text[start:end]
        if stripped := sentence.strip():
            first = start + sentence.index(stripped)
            yield first, first + len(stripped)
        start = end


def statements(replies: Sequence[str]) -> list[str]:
    """Returns what may be a quote in a model's replies: quoted words, then sentences.

    Final answers after a label are left out, and so are statements too short to prove anything.
    """
    found: dict[str, None] = {}
    for reply in replies:
        for match in re.finditer(r"[\"“«]([^\"“”«»]{8,})[\"”»]", reply):
            found.setdefault(match.group(1).strip())
        unlabelled = re.sub(r"(?im)(?<!\W)\W*+\b(?:final\s+)?answer\s*:.*$", "", reply)
        for start, end in sentences(unlabelled):
            found.setdefault(unlabelled[start:end])
    return [statement for statement in found if _is_long_enough(statement)]


def _is_long_enough(statement: str) -> bool:
    words = re.findall(r"\w+", statement)
    wide = sum("\u2e80" <= char <= "\ud7ff" for char in statement)
    return len(words) >= MIN_QUOTE_WORDS or wide >= 2 * MIN_QUOTE_WORDS


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
    text = document.text[piece.start : piece.end]
    folded = fold(text)
    span = None
    for statement in said:
        if (span := find_quote(statement, folded, text)) is not None:
            break
    verified = span is not None
    span = span or _closest_sentence(text, hints)
    start = None if span is None else piece.start + span[0]
    end = None if span is None else piece.start + span[1]
    return Citation(
        piece=piece.index,
        start=piece.start,
        end=piece.end,
        page=piece.page if start is None else document.page_of(start),
        text=text.strip(),
        quote=None if start is None else document.text[start:end],
        quote_start=start,
        quote_end=end,
        verified=verified,
    )


def _closest_sentence(text: str, hints: Sequence[str]) -> tuple[int, int] | None:
    """Returns the sentence that shares most words with the hints; None if none shares any.

    A word counts twice as much as one of the next hint; long sentences count a little less.
    """
    wanted: dict[str, int] = {}
    for weight, hint in enumerate(reversed(hints)):
        wanted.update(dict.fromkeys(_words(hint), 2**weight))
    best: tuple[float, int, int] | None = None
    for start, end in sentences(text):
        words = _words(text[start:end])
        shared = sum(wanted.get(word, 0) for word in words) / max(len(words), 1) ** 0.25
        if shared and (best is None or shared > best[0]):
            best = (shared, start, end)
    return None if best is None else (best[1], best[2])


def _words(text: str) -> set[str]:
    return {
        word for word in re.findall(r"\w+", text.casefold()) if len(word) > 2 or not word.isascii()
    }
