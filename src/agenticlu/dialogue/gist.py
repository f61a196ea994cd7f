"""What a question asks, without what makes no difference to it.

Two clarifications are the same only if what is left of them is: one word that tells (north or
south, not, before, a name, a year) asks something else, however long the rest is. What goes is a
short list: articles, politeness, frames ("could you tell me"), forms of the present auxiliary,
contractions, spellings of numbers and dates, the place of the question word. For languages other
than English little is taken away: there, endings and particles say who did it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass

from agenticlu.core.words import find_words, separate
from agenticlu.evaluation.scoring.canonical import canonical_tokens

_ASKING = frozenset(("what", "which", "who", "whom", "whose", "where", "when", "why", "how"))
_ENGLISH = _ASKING | {"does", "did", "is", "are", "the", "could", "please"}
"""Words of which every English question has one."""
_EMPTY = frozenset(
    (
        *("a", "an", "the", "of", "is", "are", "do", "does", "has", "have", "now", "so", "also"),
        *("please", "exactly", "precisely", "specifically", "actually", "really", "just", "simply"),
    )
)
"""English words without which a question asks the same."""
_TENSES = {"did": "did", "was": "was", "were": "was", "had": "had"}
"""Words whose place does not tell, but which tell that the past is meant."""
_OPENING = (
    r"(?:clarif(?:ication|ying question)|(?:sub-?)?question)(?: \d{1,2})?: ?"
    r"|(?:could|can|would|will) you (?:please )?(?:tell me|say|clarify|explain|specify) ?"
    r"|(?:please )?(?:tell me|clarify|specify|explain) ?|(?:i|we) (?:want|need) to know "
    r"|i(?:'d| would) like to know |do you know |and |so |well "
)
_FRAME = re.compile(rf"^(?:{_OPENING})+[,: ]*")
_SOURCE = re.compile(
    r",? ?\b(?:according to|based on|in) the (?:given |above |whole )?"
    r"(?:document|text|passage|article|story|paragraphs?|context|report)\b,?"
)
_CONTRACTIONS = (
    (re.compile(r"\bcan(?:'t|not)\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(who|what|where|when|how|why|that|there|it|he|she)'s\b"), r"\1 is"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'ll\b"), " will"),
)
MOST_TURNED = 200
"""Words of a question of which another order is looked for; longer texts are no questions."""
_POLITE = (
    (re.compile(r"^(?:请问|請問|请|請|那么|究竟|到底)[，,]?"), ""),
    (re.compile(r"(?:呢|吗|嗎)$"), ""),
    (re.compile(r"(?:なのでしょうか|でしょうか|なのですか|ですか|なのか|か)$"), ""),
    (re.compile(r"(?:입니까|인가요|일까요|인가|이에요|예요)$"), ""),
)
"""How questions of Chinese, Japanese and Korean begin and end, whatever they ask."""


@dataclass(frozen=True)
class Gist:
    """The words that tell what a question asks."""

    words: tuple[str, ...]
    """In their order, without those that say the past is meant."""
    tenses: frozenset[str]
    is_english: bool

    @property
    def is_plain(self) -> bool:
        """Whether no letter has an accent or another script's shape."""
        return all(map(str.isascii, self.words))

    def bare(self) -> tuple[str, ...]:
        """Returns the words without accents."""
        decomposed = (unicodedata.normalize("NFD", word) for word in self.words)
        return tuple(re.sub("[\u0300-\u036f]", "", word) for word in decomposed)


@functools.lru_cache(maxsize=4096)
def find_gist(text: str) -> Gist:
    """Returns what a question asks.

    >>> find_gist("Could you tell me what's the height of the north tower?").words
    ('what', 'height', 'north', 'tower')
    """
    text = unicodedata.normalize("NFKC", text.replace("’", "'"))
    text = " ".join(text.split()).rstrip("?!.。؟;") or text
    lowered = text.lower()
    is_english = not _ENGLISH.isdisjoint(re.findall("[a-z]+", lowered))
    if not is_english:
        for pattern, plain in _POLITE:
            text = pattern.sub(plain, text)
        kept = tuple(word for word in find_words(text) if word != "的")
        return Gist(kept or (text,), frozenset(), False)
    lowered = _SOURCE.sub(" ", _FRAME.sub("", lowered).strip())
    for pattern, plain in _CONTRACTIONS:
        lowered = pattern.sub(plain, lowered)
    words = canonical_tokens(separate(lowered))
    return Gist(
        tuple(word for word in words if word not in _EMPTY and word not in _TENSES) or (lowered,),
        frozenset(_TENSES[word] for word in words if word in _TENSES),
        True,
    )


def asks_same(one: Gist, other: Gist) -> bool:
    """Whether two questions ask the same, in the same words.

    In English the question word may stand at either end: "in which year was it built" asks what "it
    was built in which year" does.
    """
    if one.tenses != other.tenses:
        return False
    # Typed without its accents, a word is the same; with others, it is another.
    bare = one.is_plain != other.is_plain
    a, b = (one.bare(), other.bare()) if bare else (one.words, other.words)
    return a == b or (one.is_english and other.is_english and _is_turned(a, b))


def _is_turned(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Whether a block with the question word went from one end to the other."""
    if len(a) != len(b) or len(a) > MOST_TURNED or sorted(a) != sorted(b):
        return False
    turned = (place for place in range(1, len(a)) if a[place:] + a[:place] == b)
    return any(_ASKING.isdisjoint(a[:place]) != _ASKING.isdisjoint(a[place:]) for place in turned)
