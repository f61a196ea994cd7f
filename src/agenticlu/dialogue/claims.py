"""Claims: the sentences of an answer, each with the citations that carry it.

What carries a claim is looked for in this order: a quote that the model stated and that says the
same, another sentence of a cited passage that it stated, a quote that it did not state or a passage
with the claim's words, and last the passages that a round pointed to whose finding says it. Only
the first two make a claim verified. A claim that nothing carries has no citations.

"Says the same" is decided by words alone: the claim stands there word for word, or most of its
telling words do (of a short one all, and all its figures).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Self

from agenticlu.core.records import Document, Piece, Question, Turn
from agenticlu.core.words import find_words
from agenticlu.dialogue.answer import Answer, Claim
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.documents.citations import (
    Citation,
    Quote,
    cite_quote,
    closest_quote,
    content_terms,
    stated_quotes,
)
from agenticlu.documents.quotes import find_quote, fold, is_long_enough
from agenticlu.documents.sentences import sentences
from agenticlu.evaluation.scoring.final import after_label, without_marks

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

# --- The statement --------------------------------------------------------------------------------

_TAGGED = re.compile(r"\\f?boxed\s*\{|<(?:(?:final_?|short_?)?answer|final|response)>|^\s*\{")


def state(reply: str, answer: str, question: Question) -> str:
    """Returns the prose of an answer: the option chosen, or the final answer with all its lines.

    Args:
        reply: The answer turn's.
        answer: As parsed from it.
        question: With its options.
    """
    if question.options:
        return question.options[ord(answer) - ord("A")] if answer else ""
    rest = without_marks(after_label(reply) or "").strip()
    if answer and len(rest.splitlines()) > 1 and not _TAGGED.search(rest):
        return rest
    # A final answer has no full stop; prose of several sentences keeps its own.
    whole = without_marks(reply).strip()
    if whole == f"{answer}." and len(list(sentences(answer))) > 1:
        return whole
    return answer


# --- Sentences ------------------------------------------------------------------------------------

_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_ROW = re.compile(r"[ \t]*\|")
_BREAK = re.compile(r"\n(?=[ \t]*+(?:\n|[-*+•‣#>]|\(?(?:\d{1,3}|[A-Za-z])[.)][ \t]))")
"""Where an item of a list, a heading or a paragraph begins: no sentence runs over it."""
_LEAD = re.compile(r"(?:[ \t]*+(?:[-*+•‣>]|#{1,6}|\(?(?:\d{1,3}|[A-Za-z])[.)])[ \t]++){1,3}")
_LEAD_ALONE = re.compile(r"(?:[-*+•‣>]|\(?(?:\d{1,3}|[A-Za-z])[.)]|#{1,6}\s[^\n]*)")


def split_claims(statement: str) -> Iterator[tuple[int, int]]:
    """Yields the (start, end) of each sentence of a statement, without white space around it.

    All that is no white space stands in one. An item of a list and a row of a table are one or
    more of their own, a block of code is one; numbers of items, headings and rules of tables belong
    to what follows or precedes them.

    >>> text = "It rose to 3.5. 1. Ada paid."
    >>> [text[start:end] for start, end in split_claims(text)]
    ['It rose to 3.5.', '1. Ada paid.']
    """
    spans = [span for block in _blocks(statement) for span in _sentences_of(statement, *block)]
    merged: list[tuple[int, int]] = []
    leads = False  # whether the last one is but the beginning of the next
    for start, end in spans:
        text = statement[start:end]
        wordless = not any(map(str.isalnum, text))
        if merged and (leads or wordless):
            merged[-1] = (merged[-1][0], end)
            leads = leads and (wordless or _LEAD_ALONE.fullmatch(text) is not None)
        else:
            merged.append((start, end))
            leads = wordless or _LEAD_ALONE.fullmatch(text) is not None
    yield from merged


def _blocks(statement: str) -> Iterator[tuple[int, int, bool]]:
    """Yields spans of a statement, together all of it, and whether each is one claim."""
    start = at = 0
    fenced = False
    for line in statement.splitlines(keepends=True):
        begin, at = at, at + len(line)
        if _FENCE.match(line):
            if not fenced:
                yield start, begin, False
                start = begin
            else:
                yield start, at, True
                start = at
            fenced = not fenced
        elif not fenced and _ROW.match(line):
            yield start, begin, False
            yield begin, at, True
            start = at
    yield start, len(statement), fenced


def _sentences_of(text: str, start: int, end: int, whole: bool) -> Iterator[tuple[int, int]]:
    if whole:
        cuts = [end]
    else:
        cuts = [*(match.start() for match in _BREAK.finditer(text, start, end)), end]
    for cut in cuts:
        part = text[start:cut]
        if whole and part.strip():
            first = start + len(part) - len(part.lstrip())
            yield first, first + len(part.strip())
        elif not whole:
            yield from ((start + a, start + b) for a, b in sentences(part))
        start = cut


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


def find_claims(
    statement: str,
    document: Document,
    pieces: Sequence[Piece],
    citations: Sequence[Citation],
    said: Sequence[str],
    findings: Sequence[Finding],
) -> tuple[tuple[Claim, ...], tuple[Citation, ...]]:
    """Cuts a statement into claims and finds what carries each.

    Args:
        statement: Of the answer.
        document: That was asked.
        pieces: All its pieces.
        citations: One for each piece that the model named, ascending.
        said: The model's statements, the most relevant first.
        findings: Of each round, in order.

    Returns:
        The claims, and the citations with those that claims need beside: of a passage that carries
        several, one for each sentence that is quoted.
    """
    search = _Search(document, pieces, list(citations), said, findings)
    found = []
    for start, end in split_claims(statement):
        cited, verified = search.carriers(statement[start:end])
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
        return cls(text.strip(), frozenset(content_terms(text) - _UNTELLING))

    def is_in(self, text: str) -> bool:
        """Whether it stands in a text word for word."""
        return find_quote(self.text, fold(text), text) is not None

    def share_in(self, text: str) -> float:
        """Returns the part of its telling words that a text has; 0 where a figure is missing."""
        missing = self.terms - content_terms(text)
        if not self.terms or any(any(map(str.isdigit, term)) for term in missing):
            return 0.0
        share = 1 - len(missing) / len(self.terms)
        least = 1.0 if len(self.terms) <= SHORT_TERMS else SAME_SHARE
        return share if share >= least else 0.0

    def is_said_by(self, text: str | None) -> bool:
        """Whether a text says the same."""
        return text is not None and (self.is_in(text) or self.share_in(text) > 0)


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

    def carriers(self, claim: str) -> tuple[list[int], bool]:
        """Returns the citations that carry a claim, and whether that verifies it."""
        wanted = _Wanted.of(claim)
        quoting = [i for i, one in enumerate(self.citations) if wanted.is_said_by(one.quote)]
        verified = [i for i in quoting if self.citations[i].verified] or self._quote(wanted)
        if verified:
            return verified, True
        found = quoting or self._passages(wanted) or self._round(wanted)
        by_verdict = bool(found) and _is_verdict(claim)
        return found, by_verdict and any(self.citations[i].verified for i in found)

    def _quote(self, wanted: _Wanted) -> list[int]:
        """Cites a further sentence of each named piece that the model stated and that says it."""
        found = []
        for piece in self.named:
            own = [wanted.text] if is_long_enough(wanted.text) else []
            stated = [
                *stated_quotes(self.document, self.pieces[piece], own),
                *self._stated_in(piece),
            ]
            for quote in stated:
                if wanted.is_said_by(self.document.text[quote.start : quote.end]):
                    found.append(self._cite(piece, quote))
                    break
        return found

    def _passages(self, wanted: _Wanted) -> list[int]:
        """Cites the sentence of each named piece that holds the claim's words."""
        found = []
        for piece in self.named:
            span = self.pieces[piece]
            if not wanted.is_in(self.document.text[span.start : span.end]):
                continue
            quote = closest_quote(self.document, span, [wanted.text])
            if quote is not None:
                found.append(self._cite(piece, quote))
        return found

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
        if best is None:
            return []
        first = {citation.piece: i for i, citation in reversed([*enumerate(self.citations)])}
        return [first[piece] for piece in best.pieces if piece in first]

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


# --- Not in the document --------------------------------------------------------------------------

_TEXT = r"(?:documents?|texts?|passages?|paragraphs?|context|sources?|files?|excerpts?|article)"
_TOLD = (
    r"(?:state[ds]?|mention(?:ed|s)?|sa(?:y|ys|id)|give[ns]?|specif(?:y|ies|ied)|provide[ds]?"
    r"|disclose[ds]?|tells?|told|contain(?:s|ed)?|indicate[ds]?|include[ds]?|addresse[ds]|stipulated"
    r"|found|known|available|determined|answer(?:ed)?)"
)
_ABSENT = re.compile(
    rf"(?:the |this |these |that )?{_TEXT} (?:do(?:es)? not|do(?:es)?n't|did not)"
    rf" (?:\w+ )?{_TOLD}\b"
    rf"|(?:(?:it|this|that|the answer|the information) (?:is|was) )?not (?:\w+ )?{_TOLD}"
    rf"(?: (?:anywhere|at all))?(?: (?:in|by|from) (?:the |this )?{_TEXT})?[.!]?$"
    rf"|(?:it|this|that|the answer|the information)? ?(?:cannot|can not|can't|could not) be"
    rf" (?:\w+ )?{_TOLD}\b"
    rf"|(?:it |this |that |the answer )?(?:is )?not (?:to be found )?in (?:the |this ){_TEXT}"
    r"|(?:there is |there's )?no (?:mention|information|answer|such information|data)\b"
    rf"|none of the {_TEXT} |unknown[.!]?$|unanswerable\b|n/a[.!]?$|not enough information"
    r"|(?:das |der |im )?(?:dokument|text) (?:wird|sagt|nennt|enthält)"
    r".{0,60}\b(?:nicht|keine?)\b"
    r"|(?:wird )?(?:im (?:dokument|text) )?nicht (?:angegeben|erwähnt|genannt)"
    r"|le (?:document|texte) ne .{1,40} pas\b|(?:ce )?n'est pas (?:mentionné|indiqué|précisé)"
    r"|el (?:documento|texto) no (?:lo )?(?:menciona|dice|indica|especifica)"
    r"|no se (?:menciona|indica)"
    r"|(?:文[档件本中]|文章|原文)?.{0,4}(?:没有提到|未提及|没有说明|未说明|没有提及|未提到)"
    r"|.{0,20}(?:記載されていません|書かれていません|言及されていません)"
    r"|.{0,20}(?:언급되지 않|나와 있지 않|명시되지 않)"
)


def says_absent(statement: str) -> bool:
    """Whether an answer says that the document does not tell.

    >>> says_absent("The document does not say."), says_absent("Not mentioned")
    (True, True)
    >>> says_absent("The contract does not mention a fee."), says_absent("Not Ada")
    (False, False)
    """
    text = unicodedata.normalize("NFKC", statement).replace("’", "'").lower()
    first = next((text[start:end] for start, end in sentences(text)), "")
    return _ABSENT.match(first.lstrip("*_\"' ")) is not None


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

    >>> claim = Claim(text="Nine.", start=0, end=5, citations=(0, 2), verified=True)
    >>> number_claims([claim], "Nine. Ten.")
    'Nine. [1][3] Ten.'
    """
    parts, at = [], 0
    for claim in claims:
        marks = "".join(f"[{index + 1}]" for index in claim.citations)
        shown = (marks, "" if claim.verified else "(unverified)")
        parts += [statement[at : claim.end], *(f" {one}" for one in shown if one)]
        at = claim.end
    return "".join([*parts, statement[at:]])
