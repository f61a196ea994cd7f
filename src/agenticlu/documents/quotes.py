"""Quotes: found in a text word for word, whatever typography, layout and markup lie between.

A quote of a page differs from the page in things that are no words: line ends and hyphens at them,
white space, kinds of quotation marks and dashes, Unicode forms, ligatures, invisible characters,
Markdown's marks. `fold` takes these from both, and remembers where each character came from. What
stays must be equal: letters in their case, digits, signs, and the order of words.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape

from agenticlu.core.words import (
    READING_SIGNS,
    find_words,
    invisible,
    is_hangul,
    is_unspaced,
    marks,
)

MIN_QUOTE_WORDS = 3
"""Shorter statements do not count as quotes: 'in Vell' occurs everywhere."""
MOST_LEFT_OUT = 500
"""Characters that a quote may leave out at an ellipsis."""
MOST_TRIES = 1000
"""Occurrences inside longer words that are passed over before the search ends."""


@dataclass(frozen=True)
class Folded:
    """A text without the differences between a page and a quote of it."""

    text: str
    origins: array[int]
    """Character of the original for each folded one."""


@functools.cache
def _tokens() -> re.Pattern[str]:
    """Returns the pattern whose groups name how each stretch of a text is folded."""
    letter = rf"(?:[^\W\d_]|[{marks()}])"
    start = r"[^\W\d_⁰¹²³⁴-⁹¼-¾⅐-⅞]"
    attribute = r"""(?:\s{1,9}[a-z-]{1,20}\s{0,9}=\s{0,9}(?:"[^"<>\n]{0,300}"|'[^'<>\n]{0,300}'))"""
    return re.compile(
        "|".join(
            f"(?P<{name}>{pattern})"
            for name, pattern in {
                "plain": "[A-Za-z]+(?: [A-Za-z]+)*",
                "letters": rf"{start}(?:{start}+|[{marks()}]+)*+",
                "accent": f"[{marks()}]+",
                # A digit group: 41 000 with any space.
                "number": r"(?<![\d.,])\d{1,3}(?:[ \u00a0\u2007-\u2009\u202f]\d{3})+(?!\d)|\d+",
                "range": "(?<=\\d)[ \u00a0\u2009\u202f]*(?:--?|[\u2010-\u2015\u2212])"
                "(?:[ \t]*\r?\n[ \t]*|[ \u00a0\u2009\u202f]*)(?=\\d)",
                # A line end with what begins a Markdown line, or is a whole line of its marks.
                "line": r"(?:\A|\s*[\n\r\u2028\u2029])[ \t]*"
                r"(?:(?:(?:[-=*_]{3,}+|\|?[ \t]*+:?-{3,}+[-:|]*+(?:[ \t]++[-:|]++)*+)(?=\s|\Z)"
                r"|\#{1,6}(?=[ \t])|>|[-*+•‣◦▪](?=[ \t]))\s*+)*+",
                "space": r"\s+",
                "joined": f"(?<={letter})[-\u2010\u2011\u2212\u00ad]"
                rf"(?:[ \t]*\r?\n[ \t]*)?(?={letter})",
                # At a line's end beside a figure: COVID-19, 5-year.
                "divided": "(?<=[^\\W_])[-\u2010\u2011\u2212][ \t]*\r?\n[ \t]*(?=[^\\W_])",
                "dash": "[\u2012-\u2015]+|--+|(?<=\\s)-(?=\\s)",
                "hyphen": "[-\u2010\u2011\u2212]",
                "entity": r"&(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});",
                "tag": r"</?(?:[abiqsu]|em|strong|span|code|kbd|small|mark|cite|sub|del|ins|tt)"
                rf"{attribute}{{0,9}}\s{{0,9}}/?>|</sup>|<sup>(?![-+\d])",
                "block": rf"</?(?:br|p|div|td|th|tr|li|hr){attribute}{{0,9}}\s{{0,9}}/?>",
                "exponent": r"\^\{[-+]?\d{1,9}\}",
                "power": r"<sup>(?=[-+\d])|[⁰¹²³⁴-⁹⁺⁻]+",
                "escape": r"\\(?=[!-/:-@\[-`{-~])|\\(?=\n)",
                "note": r"\[\^[^\[\]\s]{1,40}\]",
                "target": r"\](?:\([^()\s]{0,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500})?"
                r"""(?:\s{1,9}(?:"[^"\n]{0,300}"|'[^'\n]{0,300}'))?\)|\[[^\[\]\n]{0,200}\])""",
                "bracket": r"!?\[|\]",
                "star": r"\*+",
                "underscore": "_+",
                "mark": "~~|[|`]",
                "double": "[\"“”„‟″«»‹›「」『』《》〈〉״]|''",
                "single": "['‘’‚‛′´׳]",
                "fraction": "[¼-¾⅐-⅞]",
                "nothing": f"[{invisible()}™®℠]+",
                "other": r"[\s\S]",
            }.items()
        )
    )


class _Folder:
    """Collects folded text; a space waits until it is known what follows it."""

    def __init__(self, text: str) -> None:
        self.source = text
        self.parts: list[str] = []
        self.origins = array("I")
        self.last = ""
        self.space: int | None = None

    def put(self, chars: str, at: int, *, spread: bool = False) -> None:
        """Adds characters that all stem from one place, or each from its own."""
        if not chars:
            return
        if self.space is not None:
            if self.last and not _swallows(self.last, chars[0]):
                self.parts.append(" ")
                self.origins.append(self.space)
            self.space = None
        self.parts.append(chars)
        self.origins.extend(range(at, at + len(chars)) if spread else [at] * len(chars))
        self.last = chars[-1]

    def gap(self, at: int) -> None:
        """Adds a space, unless the place has one already."""
        if self.space is None:
            self.space = at

    def accent(self, signs: str, at: int) -> None:
        """Composes combining marks with the character before them."""
        signs = _strip_signs(signs)
        if not self.parts or self.space is not None or not signs:
            self.put(signs, at)
            return
        base, origin = self.parts[-1][-1], self.origins[-1]
        self.parts[-1] = self.parts[-1][:-1]
        self.origins.pop()
        self.last = "".join(self.parts[-1:])[-1:]
        self.put(unicodedata.normalize("NFKC", base + signs), origin)


def _swallows(before: str, after: str) -> bool:
    """Whether no space counts between two characters: layouts and typists differ in it."""
    return (
        after in ",.;:!?)]}%"
        or before in "([{"
        or _needs_no_space(before)
        or _needs_no_space(after)
    )


def _needs_no_space(char: str) -> bool:
    return char > "\u0e00" and (is_unspaced(char) or is_hangul(char) or char in "。、「」")


@functools.cache
def _signs() -> re.Pattern[str]:
    return re.compile(f"[{READING_SIGNS}{invisible()}]")


def _strip_signs(text: str) -> str:
    return _signs().sub("", text).translate(_ALIKE)


_ALIKE = str.maketrans("یک⁄٫٬", "يك/.,")


@functools.cache
def _clusters() -> re.Pattern[str]:
    """Returns the pattern of a letter with its marks, or of a decomposed Korean syllable."""
    return re.compile(
        "[\u1100-\u115f]+[\u1160-\u11a7\ud7b0-\ud7c6]*[\u11a8-\u11ff\ud7cb-\ud7fb]*"
        f"|[\\s\\S][{marks()}]*"
    )


@functools.lru_cache(maxsize=1 << 14)
def _plain_cluster(letters: str) -> str:
    return _strip_signs(unicodedata.normalize("NFKC", letters))


def fold(text: str) -> Folded:
    r"""Folds a text for comparison.

    >>> fold("a well-\nknown   “ﬁsh” is **[here](x.html)**").text
    'a wellknown fish is here'
    """
    folder = _Folder(text)
    for match in _tokens().finditer(text):
        _RULES[match.lastgroup or ""](folder, match)
    return Folded("".join(folder.parts), folder.origins)


_Rule = Callable[[_Folder, "re.Match[str]"], None]


def _copy(folder: _Folder, match: re.Match[str]) -> None:
    folder.put(match[0], match.start(), spread=True)


def _gap(folder: _Folder, match: re.Match[str]) -> None:
    folder.gap(match.start())


def _drop(folder: _Folder, match: re.Match[str]) -> None:
    """Leaves a stretch out."""


def _number(folder: _Folder, match: re.Match[str]) -> None:
    start = match.start()
    for place, char in enumerate(match[0]):
        if not char.isspace():
            folder.put(str(unicodedata.decimal(char)), start + place)


def _letters(folder: _Folder, match: re.Match[str]) -> None:
    word, start = match[0], match.start()
    if unicodedata.is_normalized("NFKC", word) and not _signs().search(word):
        folder.put(word.translate(_ALIKE), start, spread=True)
        return
    begin = 0  # of what is as it was
    for part in _clusters().finditer(word):
        plain = _plain_cluster(part[0])
        if plain != part[0]:
            folder.put(word[begin : part.start()], start + begin, spread=True)
            folder.put(plain, start + part.start())
            begin = part.end()
    folder.put(word[begin:], start + begin, spread=True)


def _accent(folder: _Folder, match: re.Match[str]) -> None:
    folder.accent(match[0], match.start())


def _other(folder: _Folder, match: re.Match[str]) -> None:
    plain = unicodedata.normalize("NFKC", match[0]).translate(_ALIKE)
    if plain[:1] == " ":  # the spacing form of an accent
        folder.gap(match.start())
        plain = plain[1:]
    # A point or comma that begins a figure stays apart from the word before it.
    if plain in (",", ".") and folder.space is not None and _next(match).isdigit():
        folder.parts.append(" ")
        folder.origins.append(folder.space)
        folder.space = None
    folder.put(plain, match.start())


def _entity(folder: _Folder, match: re.Match[str]) -> None:
    plain = unescape(match[0])
    if plain == match[0]:
        _copy(folder, match)
    elif plain.isspace() or plain in "–—―":
        folder.gap(match.start())
    else:
        folder.put(fold(plain).text, match.start())


def _power(folder: _Folder, match: re.Match[str]) -> None:
    digits = "" if match[0][0] == "<" else unicodedata.normalize("NFKC", match[0])
    folder.put("^" + digits.replace("\u2212", "-"), match.start())


def _fraction(folder: _Folder, match: re.Match[str]) -> None:
    if folder.last.isdigit():
        folder.gap(match.start())
    _other(folder, match)


def _star(folder: _Folder, match: re.Match[str]) -> None:
    before, after = _previous(match), _next(match)
    if (before.isdigit() and after.isdigit()) or (before.isspace() and after.isspace()):
        _copy(folder, match)


def _underscore(folder: _Folder, match: re.Match[str]) -> None:
    if _stands_in_name(_previous(match)) and _stands_in_name(_next(match)):
        _copy(folder, match)


def _stands_in_name(char: str) -> bool:
    return char.isalnum() and not is_unspaced(char)


def _bracket(folder: _Folder, match: re.Match[str]) -> None:
    if _stands_in_name(_previous(match)) and _stands_in_name(_next(match)):
        folder.gap(match.start())  # 4[1] is not 41


def _mark(folder: _Folder, match: re.Match[str]) -> None:
    if match[0] == "|":
        folder.gap(match.start())


def _exponent(folder: _Folder, match: re.Match[str]) -> None:
    folder.put(re.sub("[{}]", "", match[0]), match.start())


def _hyphen(folder: _Folder, match: re.Match[str]) -> None:
    folder.put("-", match.start())


def _single(folder: _Folder, match: re.Match[str]) -> None:
    if folder.space is None and _stands_in_name(folder.last) and _stands_in_name(_next(match)):
        folder.put("'", match.start())


def _previous(match: re.Match[str]) -> str:
    at = match.start() - (match.string[max(match.start() - 1, 0)] == "\\")  # what is escaped
    return match.string[max(at - 1, 0) : max(at, 0)]


def _next(match: re.Match[str]) -> str:
    return match.string[match.end() : match.end() + 1]


_RULES: dict[str, _Rule] = {
    "plain": _copy,
    "number": _number,
    "line": _gap,
    "space": _gap,
    "joined": _drop,
    "range": _hyphen,
    "exponent": _exponent,
    "dash": _gap,
    "hyphen": _hyphen,
    "divided": _hyphen,
    "entity": _entity,
    "tag": _drop,
    "block": _gap,
    "power": _power,
    "escape": _drop,
    "note": _drop,
    "target": _drop,
    "bracket": _bracket,
    "star": _star,
    "underscore": _underscore,
    "mark": _mark,
    "double": _drop,
    "single": _single,
    "fraction": _fraction,
    "nothing": _drop,
    "letters": _letters,
    "accent": _accent,
    "other": _other,
}

# --- Finding ---

_ELLIPSIS = re.compile(r"[\[(]\s{0,9}(?:\.{3,}|…)\s{0,9}[\])]|\.{3,}|…")
ENDS = " .,;:!?…。、،؛؟।॥۔။៖។"
"""What may be missing at either end of a quote."""


_NOTE = re.compile(
    r"(?:(?<=[^\W\d_]{2})|(?<=[.,;:!?…。，)\]\"”'’»]))"
    r"(?:\[(?:\d{1,3}(?:[,–-]\s?\d{1,3}){0,5}|[a-z]|note \d{1,3}|citation needed)\]"
    r"|<sup>\[?(?:\d{1,3}|[a-z])\]?</sup>)"
    r"|(?:(?<=[^\W\d_]{4})|(?<=[.,;:!?…。，)\]\"”'’»]))[⁰¹²³⁴-⁹]{1,3}(?!\w)"
)
"""The mark of a note: [1] or a raised figure, right behind a word or a sign."""


@functools.lru_cache(maxsize=4)
def _fold_without_notes(text: str) -> Folded | None:
    blanked, count = _NOTE.subn(lambda found: "\u2060" * len(found[0]), text)
    return fold(blanked) if count else None


@functools.lru_cache(maxsize=4096)
def _wanted(statement: str) -> str:
    return fold(statement).text.strip(ENDS)


def find_quote(statement: str, folded: Folded, text: str) -> tuple[int, int] | None:
    """Returns the span of `text` where a statement occurs, or None.

    A statement with an ellipsis is found where its parts, each long enough for a quote, follow each
    other closely; the span then holds what it leaves out.

    Args:
        statement: What a model said; surrounding quotation marks and final punctuation are ignored.
        folded: `fold(text)`.
        text: The text to look in.
    """
    whole = _find(_wanted(statement), folded, text, 0)
    if whole is None and (without_notes := _fold_without_notes(text)):
        # A quote may leave out the marks of notes, but not name others.
        folded = without_notes
        whole = _find(_wanted(statement), folded, text, 0)
    if whole is None and _ELLIPSIS.search(statement):
        parts = [part for part in _ELLIPSIS.split(statement) if part.strip()]
        if len(parts) > 1 and all(map(is_long_enough, parts)):
            whole = _find_in_turn([_wanted(part) for part in parts], folded, text)
    if whole is None:
        return None
    first, last = folded.origins[whole[0]], folded.origins[whole[1] - 1] + 1
    closing = _closing().match(text, last)
    return first, closing.end() if closing else last


@functools.cache
def _closing() -> re.Pattern[str]:
    """Returns the pattern of what belongs to a quote behind its last letter."""
    return re.compile(
        rf"[{marks()}{invisible()}\u1160-\u11ff\ud7b0-\ud7fb]*(?:[*_`~]{{0,3}}\s?[.!?…。！？।॥؟۔။។])?[\"'”’»」』]?"
    )


def _find_in_turn(parts: list[str], folded: Folded, text: str) -> tuple[int, int] | None:
    begin = 0
    for _ in range(MOST_TRIES // 20):
        first = end = None
        for part in parts:
            span = _find(part, folded, text, begin if end is None else end)
            if span is None:
                return None
            if end is None:
                first = span[0]
            elif folded.origins[span[0]] - folded.origins[end - 1] > MOST_LEFT_OUT:
                break
            end = span[1]
        else:
            assert first is not None
            assert end is not None
            return first, end
        assert first is not None
        begin = first + 1
    return None


def _find(wanted: str, folded: Folded, text: str, begin: int) -> tuple[int, int] | None:
    """Returns where whole words stand in a folded text, from a place on."""
    if not wanted:
        return None
    at = folded.text.find(wanted, begin)
    for _ in range(MOST_TRIES):
        if at < 0:
            return None
        end = at + len(wanted)
        if not _cuts(at, folded, text) and not _cuts(end, folded, text):
            return at, end
        at = folded.text.find(wanted, at + 1)
    return None


def _cuts(at: int, folded: Folded, text: str) -> bool:
    """Whether a place in a folded text is inside a word."""
    if at == 0 or at == len(folded.text):
        return False
    before, after = folded.text[at - 1], folded.text[at]
    if unicodedata.category(after)[0] == "M":
        return True
    if not (after.isalnum() and (before.isalnum() or unicodedata.category(before)[0] == "M")):
        return False
    if is_unspaced(before) or is_unspaced(after):
        return False
    one, other = folded.origins[at - 1], folded.origins[at]
    return not any(map(str.isspace, text[one + 1 : other]))


# --- Statements ---

_SPOKEN = re.compile(r"[\"“«„「『]([^\"“”«»„「」『』]{4,})[\"”“»」』]")


def is_long_enough(statement: str) -> bool:
    """Whether a statement is long enough to be a quote."""
    words = find_words(statement)
    return sum(0.5 if is_unspaced(word[0]) else 1 for word in words) >= MIN_QUOTE_WORDS


def quoted(text: str) -> Iterator[str]:
    """Yields what stands between quotation marks."""
    for match in _SPOKEN.finditer(text):
        yield match[1].strip()
