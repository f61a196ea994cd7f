"""What a word is, in every script: the one place that search, scores and comparisons ask.

Where words stand apart, a word is a run of letters and digits with the marks on them (UAX #29, but
without punctuation). Chinese, Japanese, Thai, Lao, Khmer, Burmese and some of their neighbours are
written without spaces. Segmenters for them are large dictionaries that disagree with each other, so
there a word is the smallest part that can be one: a character, a run of katakana, or a consonant
with the vowels and marks written around it (a Thai character cluster, a Burmese syllable). A text
is said to hold a name when the name's parts follow each other; search looks for pairs of parts.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

UNSPACED = "".join(
    (
        # Thai, Lao, Burmese, Khmer, Tai Le to New Tai Lue, Tai Tham, Balinese
        *("\u0e01-\u0e3a", "\u0e40-\u0e4e", "\u0e81-\u0ece", "\u0edc-\u0edf"),
        *(
            "\u1000-\u103f",
            "\u1050-\u108f",
            "\u109a-\u109f",
            "\u1780-\u17d3",
            "\u17d7",
            "\u17dc\u17dd",
        ),
        *("\u1950-\u19cf", "\u1a20-\u1a7f", "\u1aa7", "\u1b00-\u1b4f"),
        # Han, kana, Bopomofo, Yi
        *("\u3005-\u3007", "\u3021-\u3029", "\u3031-\u3035", "\u3038-\u303c", "\u3041-\u3096"),
        *("\u3099-\u309f", "\u30a1-\u30fa", "\u30fc-\u312f", "\u31a0-\u31bf", "\u31f0-\u31ff"),
        *("\u3400-\u4dbf", "\u4e00-\ua48c", "\uf900-\ufaff", "\U0001b000-\U0001b16f"),
        "\U00020000-\U0003ffff",
        # Javanese, more Burmese, Tai Viet
        *("\ua980-\ua9c0", "\ua9cf", "\ua9e0-\ua9ef", "\ua9fa-\ua9fe", "\uaa60-\uaaa0"),
        *("\uaaa1-\uaadd", "\uaaf2-\uaaf6"),
    )
)
"""Letters and marks of scripts that are written without spaces between words."""
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_THAI = (
    "[\u0e40-\u0e44]?[\u0e01-\u0e2e][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*[\u0e30\u0e32\u0e33\u0e45]*"
)
_LAO = (
    "[\u0ec0-\u0ec4]?[\u0e81-\u0eae\u0edc-\u0edf]"
    "[\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece]*[\u0eb0\u0eb2\u0eb3\u0ebd]*"
)
_BURMESE_LETTER = "\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070"
_BURMESE_LETTER += "\u1075-\u1081\u108e\uaa60-\uaa76\uaa7a\uaa7e\uaa7f\ua9e0-\ua9e4\ua9e7-\ua9ef"
_KHMER_LETTER = "\u1780-\u17b3"
_PARTICLES = (
    "(?:들?(?:이라고|라고|이라는|라는|이며|이고|입니다|이다|이었다|였다|이에요|예요|에게서|에게|한테|께서"
    "|에서|에는|에도|에|으로부터|로부터|으로|로|까지|부터|마다|처럼|보다|이나|이란|이여|은|는|이|가|을|를|의"
    "|와|과|도|만|나|란|랑|이랑|께|야|아)){1,2}"
)
"""What Korean appends to a noun, without a space."""
_PLAIN_PARTICLES = (
    "(?:은|는|을|를|에|에서|에는|에게|으로|까지|부터|처럼|보다|입니다|이다|이라고|라고)"
)
"""Those that seldom end another word when they follow a single syllable."""
_ARABIC_PREFIX, _HEBREW_PREFIX = "[وف]?[بلك]?", "[ושהכלבמ]{0,2}"
"""And, with, to, like, the, that: what Arabic and Hebrew write as one with the next word."""
LEAST_STEM = 4
"""Letters of an Arabic or Hebrew word that may follow such a prefix; of shorter ones, the first
letter is too likely their own."""
READING_SIGNS = (
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u0652\u0656-\u065f"
    "\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u08d3-\u08e1\u08e3-\u08ff"
)
"""What Hebrew and Arabic add to a word's letters for readers, and the stroke that lengthens it."""
_ALIKE = str.maketrans("ıیک٫٬", "iيك.,")
"""Signs that keyboards, languages or changes of case put in each other's place."""


@functools.cache
def _ranges(kind: str) -> str:
    """Returns the characters of a general category, as the inside of a pattern's brackets."""
    codes = (*range(0x20000), *range(0xE0000, 0xE01F0))  # planes 4 to 13 are empty
    kinds = "".join(map(unicodedata.category, map(chr, codes)))
    return "".join(
        f"{chr(codes[run.start() // 2])}-{chr(codes[run.end() // 2 - 1])}"
        for run in re.finditer(f"(?:{kind})+", kinds)
    )


def marks() -> str:
    """Returns all combining marks and vowel signs, as the inside of a pattern's brackets."""
    return _ranges("M[nce]")


def invisible() -> str:
    """Returns characters without a shape of their own (soft hyphens, bidi marks), as `marks`."""
    return _ranges("Cf") + "\ufe00-\ufe0f\u180b-\u180d\U000e0100-\U000e01ef"


@functools.cache
def _part() -> str:
    """Returns the pattern of the smallest parts of scripts without spaces."""
    mark, letter = f"[{marks()}]", _BURMESE_LETTER
    return (
        # The most frequent first; dakuten are composed with their kana.
        f"[\u3041-\u3096\u3400-\u9fff]|{_THAI}|{_LAO}"
        f"|[{letter}](?:\u1039[{letter}])*{mark}*(?:[{letter}][\u1037\u1038]?\u103a{mark}*)*"
        f"|[{_KHMER_LETTER}](?:\u17d2[{_KHMER_LETTER}]|{mark})*"
        f"|[{_KATAKANA}][{_KATAKANA}{marks()}]*"
        f"|[{UNSPACED}]{mark}*"
    )


@functools.cache
def _parts() -> re.Pattern[str]:
    return re.compile(_part())


@functools.cache
def _runs() -> re.Pattern[str]:
    return re.compile(f"[{UNSPACED}][{UNSPACED}{marks()}]*")


@functools.cache
def _simple_run() -> re.Pattern[str]:
    return re.compile("[\u3041-\u3096\u3400-\u9fff]+")


@functools.cache
def _words() -> re.Pattern[str]:
    letters = rf"[^\W_{UNSPACED}{_HANGUL}]"
    return re.compile(f"{_part()}|(?:{letters}++[{marks()}]*+)++|[{_HANGUL}][{_HANGUL}{marks()}]*")


@functools.cache
def _borders() -> re.Pattern[str]:
    other = rf"[^\W_{_HANGUL}]"
    return re.compile(f"(?<={other})(?=[{_HANGUL}])|(?<=[{_HANGUL}])(?={other})")


@functools.cache
def _optional() -> re.Pattern[str]:
    return re.compile(f"[{invisible()}{READING_SIGNS}]|(?<=i)\u0307")


def _is_simple(text: str) -> bool:
    """Whether every letter is Latin, Greek, Cyrillic or the like, without marks of its own."""
    return not text or max(text) < "\u0300"


def fold_letters(text: str) -> str:
    """Returns a text without differences of case and of writing that make no other word.

    These are composed and full-width forms, digits of other scripts, Arabic and Hebrew vowel
    signs, invisible characters, the Turkish i without its dot. Accents and the vowel signs of other
    scripts stay: they make other words.

    >>> fold_letters("İSTANBUL, Straße, ΛΌΓΟΣ, כּתָב, ４１")
    'istanbul, strasse, λόγοσ, כתב, 41'
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _optional().sub("", text).translate(_ALIKE)
    if "\u0e4d" in text or "\u0e40\u0e40" in text:  # Thai: two ways to type the same letters
        text = re.sub("\u0e4d([\u0e48-\u0e4b])(?=\u0e32)", "\\1\u0e4d", text)
        text = text.replace("\u0e40\u0e40", "\u0e41")
    return re.sub(r"[^\D0-9]", lambda found: str(unicodedata.digit(found[0])), text)


def find_words(text: str) -> list[str]:
    """Returns the words of a text, folded; see the module for scripts without spaces.

    >>> find_words("Ada's Fähre 3号は東京タワーへ")
    ['ada', 's', 'fähre', '3', '号', 'は', '東', '京', 'タワー', 'へ']
    >>> find_words("किताब ปีนี้")
    ['किताब', 'ปี', 'นี้']
    """
    folded = fold_letters(text)
    return (_SIMPLE_WORD if _is_simple(folded) else _words()).findall(folded)


_SIMPLE_WORD = re.compile(r"[^\W_]+")


def holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether words occur among others, in a row.

    In Korean, Arabic and Hebrew the first or last may carry what these write as one with it:
    particles, prepositions, 'and', the article.

    >>> holds(["the", "mill", "of", "vell"], ["mill", "of"]), holds(["know"], ["no"])
    (True, False)
    >>> holds(["서울에서"], ["서울"])
    True
    """
    if not wanted:
        return False
    text, core = f" {' '.join(words)} ", " ".join(wanted)
    if f" {core} " in text:
        return True
    before = after = ""
    if is_hangul(core[-1]):
        after = _PARTICLES if len(wanted[-1]) > 1 else _PLAIN_PARTICLES
    if len(wanted[0]) >= LEAST_STEM:
        if _is_in(core[0], "\u0620", "\u06ff"):
            before = _ARABIC_PREFIX
        elif _is_in(core[0], "\u05d0", "\u05ea"):
            before = _HEBREW_PREFIX
    if not before and not after:
        return False
    return re.search(f" {before}{re.escape(core)}{after} ", text) is not None


def whole_words(texts: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern that finds any of the texts as whole words, whatever their case.

    >>> bool(whole_words(["no"]).search("know")), bool(whole_words(["北京"]).search("他住在北京。"))
    (False, True)
    """
    letter = rf"[\w{marks()}]"
    return re.compile(
        "|".join(
            ("" if is_unspaced(text[0]) else f"(?<!{letter})")
            + re.escape(text)
            + (
                f"(?![{marks()}])"
                if is_unspaced(text[-1]) or is_hangul(text[-1])
                else f"(?!{letter})"
            )
            for text in texts
        ),
        re.IGNORECASE,
    )


def search_terms(text: str, words: Callable[[str], Iterable[str]] = find_words) -> list[str]:
    """Returns the terms by which search finds a text's words, however inflected or written.

    Neighbouring parts of scripts without spaces become pairs, and Han characters stand for
    themselves, too. Korean words become pairs of syllables, accents go, and Arabic and Hebrew words
    are terms without their prefixes, too.

    Args:
        text: Any text.
        words: Finds the words that stand apart.

    >>> search_terms("The café: 水坝由")
    ['水', '坝', '由', '水坝', '坝由', 'the', 'cafe']
    """
    terms: list[str] = []
    if not _is_simple(text):
        text = fold_letters(text)
        for run in _runs().findall(text):
            terms += _pairs(run if _simple_run().fullmatch(run) else _run_parts(run))
        text = _runs().sub(" ", text)
    for word in words(text):
        terms += _forms(word)
    return terms


def _run_parts(run: str) -> list[str]:
    """Returns the parts of a text without spaces; katakana may be several words."""
    parts = _parts().findall(run)
    return [one for part in parts for one in (part if "\u30a0" <= part[0] <= "\u30ff" else [part])]


def _pairs(parts: Sequence[str]) -> list[str]:
    if len(parts) == 1:
        return list(parts)
    alone = [part for part in parts if "\u3400" <= part <= "\u9fff" or part >= "\U00020000"]
    return [*alone, *map("".join, itertools.pairwise(parts))]


def _forms(word: str) -> list[str]:
    if word.isascii():
        return [word]
    if is_hangul(word[0]):
        stem = re.sub(f"(?<=.){_PARTICLES}$", "", word)
        return [*(_pairs(word) if len(word) > 2 else [word]), *([stem] if len(stem) < 3 else [])]
    if _is_in(word[0], "\u0620", "\u06ff"):
        word = word.translate(_ARABIC_ALIKE)
        stem = re.sub("^(?:[وف]?(?:[بك]?ال|لل)|[وفبلك])(?=.{3})", "", word)
        return list(dict.fromkeys([word, stem]))
    if _is_in(word[0], "\u05d0", "\u05ea"):
        return list(dict.fromkeys([word, re.sub("^[ושהכלבמ]{1,2}(?=.{3})", "", word)]))
    if word[0] < "\u0590" or "\u1e00" <= word[0] < "\u2000":
        plain = unicodedata.normalize("NFD", word)
        return [re.sub("[\u0300-\u036f]", "", plain)]
    return [word]


_ARABIC_ALIKE = str.maketrans("أإآٱىة", "اااايه")


def is_hangul(char: str) -> bool:
    """Whether a character is a composed syllable of Korean."""
    return _is_in(char, "\uac00", "\ud7a3")


def _is_in(char: str, first: str, last: str) -> bool:
    return first <= char <= last


def is_unspaced(char: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    return char > "\u0e00" and _unspaced().match(char) is not None


def splits_word(text: str, at: int) -> bool:
    """Whether a place in a text is inside a word; next to a script without spaces, inside a letter.

    >>> [at for at in range(1, 6) if not splits_word("a kite", at)], splits_word("北京", 1)
    ([1, 2], False)
    """
    if at <= 0 or at >= len(text):
        return False
    before, after = text[at - 1], text[at]
    if unicodedata.category(after)[0] == "M":
        return True
    if is_unspaced(before) or is_unspaced(after):
        return False
    return not before.isspace() and not after.isspace()


@functools.cache
def _unspaced() -> re.Pattern[str]:
    return re.compile(f"[{UNSPACED}]")


def separate(text: str) -> str:
    """Puts spaces around the parts of scripts without spaces, and where Hangul meets others.

    >>> separate("他住在Vell。").split()
    ['他', '住', '在', 'Vell。']
    """
    if _is_simple(text):
        return text
    return _borders().sub(" ", _parts().sub(r" \g<0> ", text))
