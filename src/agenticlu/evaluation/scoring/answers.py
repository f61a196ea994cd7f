"""Corrected scoring: final answers, letters chosen and pieces cited, and what matches a gold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from agenticlu.core.errors import UsageError
from agenticlu.core.options import option_letter
from agenticlu.core.words import holds
from agenticlu.evaluation.scoring.canonical import CURRENCIES, canonical_tokens
from agenticlu.evaluation.scoring.final import parse_final_answer, without_marks
from agenticlu.evaluation.scoring.letters import AMBIGUOUS, settled_label, settled_letter

Golds = str | Sequence[str] | Sequence[Sequence[str]]
"""One gold answer, several, or several groups of aliases."""


def flat_golds(golds: Golds) -> list[str]:
    """Returns golds as a flat list, whatever their nesting.

    Raises:
        UsageError: There are none: a row without gold answers has no score.
    """
    if isinstance(golds, str):
        return [golds]
    flat: list[str] = []
    for gold in golds:
        flat.extend([gold] if isinstance(gold, str) else gold)
    if not flat:
        raise UsageError("A row without gold answers cannot be scored.")
    return flat


def matches(answer: str, golds: Golds) -> bool:
    """Whether an answer is one of the golds, up to case, articles, punctuation, numbers, dates.

    The whole answer must match: no part of it. Where only one of the two names a currency, the
    figures decide. A gold of no words never matches.

    >>> matches("Forty-one minutes.", ["41 minutes"]), matches("know", ["no"]), matches("", ["A"])
    (True, False, False)
    """
    said = canonical_tokens(answer)
    wanted = [canonical_tokens(gold) for gold in flat_golds(golds)]
    if not said:
        return False
    bare = _without_currency(said)
    parted = _parted(said)
    return any(
        said == gold or bare == gold or said == _without_currency(gold) or parted == _parted(gold)
        for gold in wanted
    )


def _without_currency(words: Sequence[str]) -> tuple[str, ...]:
    kept = tuple(word for word in words if word not in CURRENCIES)
    if len(kept) == 2 and kept[1] == "degree":  # an angle's figure
        kept = kept[:1]
    return kept or tuple(words)


def _parted(words: Sequence[str]) -> tuple[str, ...]:
    """Returns words with their figures apart: B12 is B 12, and COVID-19 COVID19."""
    return tuple(part for word in words for part in _LETTERS_FIGURE.sub(" ", word).split())


_LETTERS_FIGURE = re.compile(r"(?<=[^\W\d_])(?=\d)")


def word_match(text: str, golds: Golds) -> bool:
    """Whether a gold occurs in the text as whole words: `substring_exact_match`, corrected.

    What is written as one with a name does not hide it (`core.words.holds`), nor does what an
    apostrophe joins to it.

    >>> word_match("They know it.", ["no"]), word_match("Over the Sabel Strait.", ["sabel strait"])
    (False, True)
    >>> word_match("Ada's boat", ["Ada"]), word_match("Ankara'da", ["Ankara"])
    (True, True)
    """
    said = canonical_tokens(text)
    parted = _JOINING.sub(" ", text)
    loose = canonical_tokens(parted) if parted != text else said
    for gold in flat_golds(golds):
        wanted = canonical_tokens(gold)
        if holds(said, wanted) or (min(map(len, wanted), default=0) > 1 and holds(loose, wanted)):
            return True
    return False


_JOINING = re.compile(r"(?<=\w)['’](?=\w)(?!(?<=n.)t\b)", re.IGNORECASE)
"""An apostrophe inside a word; not that of "don't"."""


def parse_choice(
    text: str, options: Sequence[str], labels: Sequence[str] | None = None
) -> str | None:
    r"""Returns the letter that a reply settles on, or None.

    Read in this order, the last statement of the first kind that occurs: a labelled letter
    (`Answer: (B)`, `the best choice would be b`), a decision (`I would go with C`, `B is right`,
    `not A but B`), a letter alone on its line, a bracketed one, one that opens a line (`B. blue`);
    then an option given by its text. Letters that are denied do not count, nor do
    articles, and a statement that leaves it open (`B or C`) settles on none.

    Args:
        text: A reply.
        options: Their texts; after the 26th, letters go on with AA.
        labels: What the options were called instead of A, B and on.

    >>> parse_choice("(A) is tempting, but the answer is **b**.", ["red", "blue"])
    'B'
    >>> parse_choice("It was a blue one. Answer:\nblue", ["red", "blue"])
    'B'
    >>> parse_choice("Answer: A or B", ["red", "blue"]) is None
    True
    >>> parse_choice("Answer: 2", ["red", "blue"], labels=["1", "2"])
    'B'
    """
    plain = unicodedata.normalize("NFKC", without_marks(text))
    plain = re.sub(r"\\f?boxed\s*\{", "<answer>", plain)
    plain = re.sub(r"[*_`$]+|\\text\s*\{|\}|\\(?=[()])|^[ \t]*#+ ", "", plain, flags=re.MULTILINE)
    plain = re.sub(r"(?<=[A-Za-z])(?=[가-힣ぁ-ヿก-๛])", " ", plain)
    letters = [option_letter(number) for number in range(len(options))]
    called = [label.strip() for label in labels or letters]
    if called != letters or len(letters) > 26:
        exact = _option_said(parse_final_answer(plain), options, (matches,))
        number = settled_label(plain, called) if exact is None else exact
        if number is not None:
            return letters[number]
    if len(letters) <= 26 and (settled := settled_letter(plain, "".join(letters), options)):
        return None if settled == AMBIGUOUS else settled
    number = _option_said(parse_final_answer(plain), options, (matches, word_match))
    return None if number is None else letters[number]


def _option_said(
    final: str, options: Sequence[str], tests: Sequence[Callable[[str, Golds], bool]]
) -> int | None:
    """Returns the number of the only option that an answer gives by its text."""
    if not re.search(r"\w", final):
        return None
    for test in tests:
        hits = [number for number, option in enumerate(options) if test(final, option)]
        if len(hits) == 1:
            return hits[0]
    return None


def choice_match(
    text: str, letter: str, options: Sequence[str], labels: Sequence[str] | None = None
) -> bool:
    """Whether a reply settles on the letter: `helmet.score_choice`, corrected."""
    return parse_choice(text, options, labels) == letter.upper()


def piece_f1(named: Collection[int], needed: Collection[int]) -> float:
    """Returns the harmonic mean of precision and recall of a list of pieces.

    >>> piece_f1({1, 2}, {2})
    0.6666666666666666
    >>> piece_f1((), {2})
    0.0
    """
    right = len(set(named) & set(needed))
    return 2 * right / (len(set(named)) + len(set(needed))) if right else 0.0


def piece_scores(cited: Collection[int], gold: Collection[int]) -> dict[str, float]:
    """Returns precision, recall and full recall of cited pieces against gold ones.

    Precision of no citation is 0, as it found nothing that it could have found.
    """
    assert gold, "a question without gold pieces has no pointback score"
    hits = len(set(cited) & set(gold))
    return {
        "point_precision": hits / len(set(cited)) if cited else 0.0,
        "point_recall": hits / len(set(gold)),
        "point_complete": float(hits == len(set(gold))),
    }
