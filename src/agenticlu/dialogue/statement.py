"""The statement of an answer: its prose, cut into sentences; may say that nothing is said."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from agenticlu.core.records import Question
from agenticlu.documents.sentences import sentences
from agenticlu.evaluation.scoring.final import after_label, without_marks

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
