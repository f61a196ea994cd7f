"""Claims: the sentences of an answer, each with the citations that carry it.

What carries a claim is looked for in this order: a quote that the model stated and that says the
same, another sentence of a cited passage that it stated, a quote that it did not state or a passage
with the claim's words, the paragraphs that it named in the sentence, a sentence with most of its
words, and last the passages that a round pointed to whose finding says it. Only the first two make
a claim verified. A claim that nothing carries has no citations.

"Says the same" is decided by words alone: the claim stands there word for word, or most of its
telling words do (of a short one all, and all its figures).
"""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Self

from agenticlu.core.records import Document, Piece, Turn
from agenticlu.core.words import find_words, search_terms
from agenticlu.dialogue.answer import Answer, Claim
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.dialogue.statement import split_claims
from agenticlu.documents.citations import (
    Citation,
    Quote,
    cite_quote,
    closest_quote,
    fold_once,
    stated_quotes,
)
from agenticlu.documents.quotes import find_quote, is_long_enough
from agenticlu.evaluation.scoring.canonical import canonical_tokens
from agenticlu.evaluation.scoring.final import after_label

SAME_SHARE = 0.6
"""Part of a claim's telling words that a text which says the same has at least."""
SHORT_TERMS = 4
"""Of a claim of so few telling words, all must be there: 'Ada Jane Yardley' has three."""
_UNTELLING = frozenset(
    (
        *("and", "are", "but", "for", "from", "had", "has", "have", "her", "his", "its", "not"),
        *("that", "the", "their", "there", "they", "this", "was", "were", "which", "who", "will"),
        *(
            "with",
            "been",
            "into",
            "also",
            "than",
            "then",
            "these",
            "those",
            "document",
            "according",
        ),
    )
)
"""English words that are in every text."""

_LEAD = re.compile(r"(?:[ \t]*+(?:[-*+•‣>]|#{1,6}|\(?(?:\d{1,3}|[A-Za-z])[.)])[ \t]++){1,3}")
"""What stands before the words of an item or a heading."""

# --- What carries a claim -------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What one round found."""

    text: str
    """The sub-answer."""
    pieces: tuple[int, ...]
    """That the round pointed to."""


def find_findings(
    turns: Iterable[Turn], named: Callable[[str], tuple[int, ...]]
) -> tuple[Finding, ...]:
    """Returns what each round of a dialogue found.

    Args:
        turns: Of the dialogue.
        named: Reads the pieces that a reply points to.
    """
    findings: list[Finding] = []
    pointed: tuple[int, ...] = ()
    for turn in turns:
        if turn.kind == "point":
            pointed = named(turn.reply)
        elif turn.kind == "sub_answer":
            findings.append(Finding(turn.reply, pointed))
    return tuple(findings)


_NAMING = re.compile(r"[<\[]\s?|\b(?:para|passage|piece)", re.IGNORECASE)


def find_marked(
    reply: str, statement: str, named: Callable[[str], tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Returns the pieces that the model named within each sentence of its final answer.

    Empty where its sentences, with their marks, are not those of the statement.

    Args:
        reply: The answer turn's, with its marks.
        statement: Without them.
        named: Reads the pieces that a text names.
    """
    if not _NAMING.search(reply):
        return ()
    raw = after_label(reply) or reply
    marked = [raw[start:end] for start, end in split_claims(raw)]
    if len(marked) != len(list(split_claims(statement))):
        return ()
    return tuple(named(one) if _NAMING.search(one) else () for one in marked)


def find_claims(
    statement: str,
    document: Document,
    pieces: Sequence[Piece],
    citations: Sequence[Citation],
    said: Sequence[str],
    findings: Sequence[Finding],
    marked: Sequence[tuple[int, ...]] = (),
) -> tuple[tuple[Claim, ...], tuple[Citation, ...]]:
    """Cuts a statement into claims and finds what carries each.

    Args:
        statement: Of the answer.
        document: That was asked.
        pieces: All its pieces.
        citations: One for each piece that the model named, ascending.
        said: The model's statements, the most relevant first.
        findings: Of each round, in order.
        marked: Pieces that the model named in each sentence; see `find_marked`.

    Returns:
        The claims, and the citations with those that claims need beside: of a passage that carries
        several, one for each sentence that is quoted.
    """
    search = _Search(document, pieces, list(citations), said, findings)
    found = []
    spans = list(split_claims(statement))
    named = marked if len(marked) == len(spans) else ((),) * len(spans)
    for (start, end), pointed in zip(spans, named, strict=True):
        cited, verified = search.carriers(statement[start:end], pointed)
        found.append((start, end, cited, verified))
    # What was added stands behind the first citation of its piece.
    order = sorted(range(len(search.citations)), key=lambda i: search.citations[i].piece)
    place = {index: number for number, index in enumerate(order)}
    claims = tuple(
        Claim(
            text=statement[start:end],
            start=start,
            end=end,
            citations=tuple(sorted({place[index] for index in cited})),
            verified=verified,
        )
        for start, end, cited, verified in found
    )
    return claims, tuple(search.citations[index] for index in order)


@dataclass(frozen=True)
class _Wanted:
    """A claim as it is looked for."""

    text: str
    terms: frozenset[str]

    @classmethod
    def of(cls, claim: str) -> Self:
        lead = _LEAD.match(claim)
        text = claim[lead.end() :] if lead else claim
        # The word "one" is seldom a figure.
        untelling = _UNTELLING if "1" in find_words(text) else _UNTELLING | {"1"}
        return cls(text.strip(), _terms_of(text) - untelling)

    def is_in(self, text: str) -> bool:
        """Whether it stands in a text word for word."""
        return self.missing_in(text) <= 0.5 and self._stands_in(text)

    def missing_in(self, text: str) -> float:
        """Returns the part of its telling words that a text does not have."""
        return len(self.terms - _terms_of(text)) / max(1, len(self.terms))

    def _stands_in(self, text: str) -> bool:
        return find_quote(self.text, fold_once(text), text) is not None

    def share_in(self, text: str) -> float:
        """Returns the part of its telling words that a text has; 0 where a figure is missing."""
        missing = self.terms - _terms_of(text)
        if not self.terms or any(any(map(str.isdigit, term)) for term in missing):
            return 0.0
        share = 1 - len(missing) / len(self.terms)
        least = 1.0 if len(self.terms) <= SHORT_TERMS else SAME_SHARE
        return share if share >= least else 0.0

    def is_said_by(self, text: str | None) -> bool:
        """Whether a text says the same."""
        return text is not None and (self.is_in(text) or self.share_in(text) > 0)


@functools.lru_cache(maxsize=1024)
def _terms_of(text: str) -> frozenset[str]:
    """Returns the words of a text that may tell something; thirty is 30, days are a day."""
    return frozenset(
        term
        for term in search_terms(text, canonical_tokens)
        if len(term) > 2 or term.isdigit() or not term.isascii()
    )


@dataclass
class _Search:
    """Looks for what carries claims; adds citations where it takes another quote."""

    document: Document
    pieces: Sequence[Piece]
    citations: list[Citation]
    said: Sequence[str]
    findings: Sequence[Finding]
    _stated: dict[int, list[Quote]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.named = tuple(citation.piece for citation in self.citations)

    def carriers(self, claim: str, pointed: tuple[int, ...]) -> tuple[list[int], bool]:
        """Returns the citations that carry a claim, and whether that verifies it."""
        wanted = _Wanted.of(claim)
        quoting = [i for i, one in enumerate(self.citations) if wanted.is_said_by(one.quote)]
        verified = [i for i in quoting if self.citations[i].verified] or self._quote(wanted)
        if verified:
            return verified, True
        found = quoting or self._passages(wanted) or self._of(pointed)
        found = found or self._closest(wanted) or self._round(wanted)
        by_verdict = bool(found) and _is_verdict(claim)
        return found, by_verdict and any(self.citations[i].verified for i in found)

    def _quote(self, wanted: _Wanted) -> list[int]:
        """Cites a further sentence of each named piece that the model stated and that says it."""
        found = []
        for piece in self.named:
            is_quote = is_long_enough(wanted.text) and wanted.missing_in(self._text(piece)) <= 0.5
            own = [wanted.text] if is_quote else []
            stated = stated_quotes(self.document, self.pieces[piece], own)
            for quote in (*stated, *self._stated_in(piece)):
                if wanted.is_said_by(self.document.text[quote.start : quote.end]):
                    found.append(self._cite(piece, quote))
                    break
        return found

    def _passages(self, wanted: _Wanted) -> list[int]:
        """Cites the sentence of each named piece that holds the claim's words."""
        found = []
        for piece in self.named:
            quote = None
            if wanted.is_in(self._text(piece)):
                quote = closest_quote(self.document, self.pieces[piece], [wanted.text])
            if quote is not None:
                found.append(self._cite(piece, quote))
        return found

    def _closest(self, wanted: _Wanted) -> list[int]:
        """Cites sentences of named pieces that are about the same, be it with other figures."""
        found = []
        for piece in self.named:
            if len(wanted.terms) <= SHORT_TERMS or wanted.missing_in(self._text(piece)) > 0.4:
                continue
            quote = closest_quote(self.document, self.pieces[piece], [wanted.text])
            if quote is None:
                continue
            if wanted.missing_in(self.document.text[quote.start : quote.end]) <= 1 - SAME_SHARE:
                found.append(self._cite(piece, quote))
        return found

    def _text(self, piece: int) -> str:
        span = self.pieces[piece]
        return self.document.text[span.start : span.end]

    def _round(self, wanted: _Wanted) -> list[int]:
        """Returns the citations of the round whose finding says it; of several, the last best one.

        A bare yes or no says nothing by itself: it rests on what was found last.
        """
        if _is_verdict(wanted.text):
            best = next((one for one in reversed(self.findings) if one.pieces), None)
        else:
            shares = [wanted.share_in(one.text) or wanted.is_in(one.text) for one in self.findings]
            top = max(shares, default=0)
            best = self.findings[len(shares) - 1 - shares[::-1].index(top)] if top else None
        return [] if best is None else self._of(best.pieces)

    def _of(self, pieces: tuple[int, ...]) -> list[int]:
        """Returns the first citation of each piece that has one."""
        first = {citation.piece: i for i, citation in reversed([*enumerate(self.citations)])}
        return [first[piece] for piece in pieces if piece in first]

    def _stated_in(self, piece: int) -> list[Quote]:
        if piece not in self._stated:
            quotes = stated_quotes(self.document, self.pieces[piece], self.said)
            self._stated[piece] = list(quotes)
        return self._stated[piece]

    def _cite(self, piece: int, quote: Quote) -> int:
        """Returns the index of a citation with this quote, made where there is none."""
        for i, one in enumerate(self.citations):
            if (one.piece, one.quote_start, one.quote_end) == (piece, quote.start, quote.end):
                return i
        self.citations.append(cite_quote(self.document, self.pieces[piece], quote))
        return len(self.citations) - 1


def _is_verdict(text: str) -> bool:
    """Whether a text is a bare yes or no."""
    return len(find_words(text)) <= 2 and parse_verdict(text, ("yes", "no")) is not None


# --- What clients parse ---------------------------------------------------------------------------


def citation_locations(answer: Answer) -> list[dict[str, Any]]:
    """Returns an answer's citations as locations, by the field names that clients know.

    Each is a `page_location` (pages from 1, the end exclusive; with `rectangles` in points where
    the page is known) or a `char_location` (characters of the cited file's own text), with
    `cited_text`, `document_index` and `document_title`.
    """
    return [_location(answer, citation) for citation in answer.citations]


def _location(answer: Answer, citation: Citation) -> dict[str, Any]:
    quoted = citation.quote is not None
    located: dict[str, Any] = {
        "type": "char_location" if citation.page is None else "page_location",
        "cited_text": citation.quote if quoted else citation.text,
        "document_index": citation.file.index if citation.file else 0,
        "document_title": name_of(answer, citation),
    }
    if citation.page is None:
        start, end = _place(citation)
        return {**located, "start_char_index": start, "end_char_index": end}
    last = citation.page if citation.end_page is None else citation.end_page
    located |= {"start_page_number": citation.page, "end_page_number": last + 1}
    if citation.rectangles:
        located["rectangles"] = [one.model_dump(mode="json") for one in citation.rectangles]
    return located


def annotations(answer: Answer, file_ids: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns an answer's citations as annotations on its statement, in OpenAI's form.

    A `file_citation` stands for each citation of each claim, its `index` the end of the claim;
    those of no claim follow, at the end of the statement. Clients that know no more ignore the
    field `agenticlu`: the citation's index, what is quoted, page, characters of the file's own
    text, rectangles, whether the quote was verified.

    Args:
        answer: The answer.
        file_ids: Ids of the documents, in their order; a document without one goes by its name.
    """
    placed = [(index, claim.end) for claim in answer.claims for index in claim.citations]
    carried = {index for index, _ in placed}
    rest = [i for i in range(len(answer.citations)) if i not in carried]
    placed += [(index, len(answer.statement)) for index in rest]
    return [_annotation(answer, index, at, file_ids) for index, at in placed]


def _annotation(answer: Answer, index: int, at: int, file_ids: Sequence[str]) -> dict[str, Any]:
    citation = answer.citations[index]
    number = citation.file.index if citation.file else 0
    name = name_of(answer, citation)
    start, end = _place(citation)
    return {
        "type": "file_citation",
        "index": at,
        "file_id": file_ids[number] if number < len(file_ids) else name,
        "filename": name,
        "agenticlu": {
            "citation": index,
            "quote": citation.quote,
            "verified": citation.verified,
            "page": citation.page,
            "page_name": citation.page_name,
            "end_page": citation.end_page,
            "start": start,
            "end": end,
            "rectangles": [one.model_dump(mode="json") for one in citation.rectangles or ()],
        },
    }


def name_of(answer: Answer, citation: Citation) -> str:
    """Returns the name of a citation's document: without the path to it."""
    if citation.file is not None:
        return citation.file.name
    return PurePath(answer.source.replace("\\", "/")).name or answer.source


def _place(citation: Citation) -> tuple[int, int]:
    """Returns the characters of what is quoted, else of the passage, in the file's own text."""
    at = citation.file or citation
    if at.quote_start is None or at.quote_end is None:
        return at.start, at.end
    return at.quote_start, at.quote_end


def number_claims(claims: Iterable[Claim], statement: str) -> str:
    """Returns a statement with the numbers of its claims' citations behind them.

    A claim that no quote says is marked so, but for what only leads to a list.

    >>> claim = Claim(text="Nine.", start=0, end=5, citations=(0, 2), verified=True)
    >>> number_claims([claim], "Nine. Ten.")
    'Nine. [1][3] Ten.'
    """
    parts, at = [], 0
    for claim in claims:
        marks = "".join(f"[{index + 1}]" for index in claim.citations)
        is_doubtful = not claim.verified and (marks or not claim.text.endswith((":", "：")))
        shown = (marks, "(unverified)" if is_doubtful else "")
        parts += [statement[at : claim.end], *(f" {one}" for one in shown if one)]
        at = claim.end
    return "".join([*parts, statement[at:]])
