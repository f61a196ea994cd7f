"""Building blocks of generated tasks: words, sentences, haystacks cut to length, items of rows."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Generic, TypeVar
from uuid import UUID

from agenticlu.core.errors import MissingDependencyError, UsageError, require_known
from agenticlu.core.records import Document, Question, content_id
from agenticlu.evaluation.records import DoesNotFitError, Item
from agenticlu.evaluation.tasks import TaskRequest

FILLER_LINE = "The hill is green. The lake is still. The wind is low. A door is shut. So it stays."
"""The line that simple haystacks repeat."""

_ADJECTIVES = (
    "amber brisk calm dusty early faint gentle hollow icy jolly keen lofty mellow narrow olive "
    "pale quiet rusty silent tidy upper vivid weary young zesty ashen bitter crisp dim eager "
    "fresh grand humble idle just kind light misty noble odd plain quick ripe slow tall usual "
    "vast warm yellow blue copper drowsy empty fluffy golden hasty iron jagged"
)
_NOUNS = (
    "anchor basket candle ditch engine fountain garden hammer island jacket kettle ladder mirror "
    "needle orchard pillow quarry ribbon saddle tunnel umbrella viaduct window yard zipper arrow "
    "barrel castle drum elbow feather gate harbour inkwell jar key lantern market nest oven "
    "parcel quilt river shutter table urn valley wagon axle bucket chimney door easel fence "
    "glove hinge ivy jetty kiln loom meadow nail oar pond quill rope spade thimble vault wheel"
)
_VERBS = "passed held found kept mended sold lifted washed carried painted hid borrowed"
_PLACES = "mill square bridge shore tower stable wood inn school road"
WORD_SOURCES = ("wonderwords", "own")
"""Sources of keys and counted words: the package that RULER uses, or the lists in this file."""


@functools.cache
def adjectives() -> tuple[str, ...]:
    """Returns adjectives of our own."""
    return tuple(_ADJECTIVES.split())


@functools.cache
def nouns() -> tuple[str, ...]:
    """Returns nouns of our own."""
    return tuple(_NOUNS.split())


def require_source(options: Mapping[str, Any]) -> str:
    """Returns the source of words that a task's options name, RULER's by default.

    Raises:
        UsageError: The source is unknown.
    """
    source = str(options.get("words") or WORD_SOURCES[0])
    return require_known(source, WORD_SOURCES, kind="word list", error=UsageError)


@functools.cache
def wonderwords(kind: str) -> tuple[str, ...]:
    """Returns the distinct words of one kind (noun, adjective, verb) of the package wonderwords.

    Raises:
        MissingDependencyError: wonderwords is not installed.
    """
    try:
        package = importlib.import_module("wonderwords")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "RULER's tasks take their words from the package 'wonderwords', which is not "
            "installed.",
            hint="pip install 'agenticlu[evaluate]', or use other words: --words own",
        ) from error
    lists = package.RandomWord(enhanced_prefixes=False)
    return tuple(sorted(set(lists.filter(include_categories=[kind]))))


@functools.cache
def words(source: str) -> tuple[str, ...]:
    """Returns distinct words to count: those of wonderwords, of all kinds, or invented ones."""
    if source == "wonderwords":
        kinds = ("noun", "adjective", "verb")
        return tuple(sorted({word for kind in kinds for word in wonderwords(kind)}))
    onsets, vowels = tuple("bdfgklmnprstvz"), "aeiou"
    syllables = [onset + vowel for onset, vowel in product(onsets, vowels)]
    ends = ("n", "l", "r", "sh", "m")
    return tuple(a + b + end for a, b in product(syllables, syllables) for end in ends)


def key_name(rng: Random, source: str) -> str:
    """Returns a key of an adjective and a noun, such as `humble-anchor`."""
    if source == "wonderwords":
        return f"{rng.choice(wonderwords('adjective'))}-{rng.choice(wonderwords('noun'))}"
    return f"{rng.choice(adjectives())}-{rng.choice(nouns())}"


def number(rng: Random) -> str:
    """Returns a 7-digit number."""
    return str(rng.randint(1_000_000, 9_999_999))


def uuid(rng: Random) -> str:
    """Returns a version 4 UUID of the generator's own bits."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def distinct(draw_one: Callable[[Random], str], rng: Random, num: int) -> list[str]:
    """Returns `num` different values of a drawing function.

    Raises:
        UsageError: The function has too few: a hundred times as many draws as values found brought
            no new one.
    """
    found: dict[str, None] = {}
    repeats = 0
    while len(found) < num:
        before = len(found)
        found[draw_one(rng)] = None
        repeats = 0 if len(found) > before else repeats + 1
        if repeats > 100 * before:
            raise UsageError(f"{num} different values are needed, but only {before} exist.")
    return list(found)


@functools.lru_cache(maxsize=4)
def load_prose(path: str) -> tuple[str, ...]:
    """Returns the sentences of a local text file.

    Raises:
        UsageError: The file does not exist, cannot be read, is not UTF-8 text or is empty.
    """
    hint = "Give a plain text file in UTF-8, or omit --haystack for invented prose."
    if not Path(path).is_file():
        raise UsageError(f"Haystack file not found: {path!r}.", hint=hint)
    try:
        text = " ".join(Path(path).read_text(encoding="utf-8-sig").split())
    except OSError as error:
        message = f"Cannot read the haystack file {path!r}: {error.strerror}."
        raise UsageError(message, hint=hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The haystack file {path!r} is not UTF-8 text.", hint=hint) from error
    found = tuple(part for part in re.split(r"(?<=[.!?])\s+", text) if part)
    if not found:
        raise UsageError(f"The haystack file {path!r} is empty.", hint=hint)
    return found


def sentences(rng: Random, path: str | None = None) -> Iterator[str]:
    """Yields sentences without end: a local file's, starting at a random one, or invented ones."""
    if path is not None:
        found = load_prose(path)
        start = rng.randrange(len(found))
        while True:
            yield found[start]
            start = (start + 1) % len(found)
    while True:
        one, other = rng.sample(nouns(), 2)
        yield (
            f"The {rng.choice(adjectives())} {one} near the {rng.choice(_PLACES.split())} was "
            f"{rng.choice(_VERBS.split())} by someone who left the {other} there before "
            f"{rng.choice(('noon', 'dusk', 'dawn', 'supper', 'winter', 'market day'))}."
        )


T = TypeVar("T")
ANSWER_MARGIN = 16
"""Tokens of a reply beside the answer itself, such as 'Final Answer: '."""


def largest_fit(
    fits: Callable[[int], bool], step: int, *, start: int = 0, most: int | None = None
) -> int:
    """Returns the largest of start, start + step, ... that fits, in logarithmically many tries.

    Args:
        fits: Whether a size fits; once a size does not, no larger one is assumed to.
        step: Distance between sizes.
        start: First size; 0 always fits.
        most: Largest size, whether or not it is a whole number of steps away.

    Returns:
        The size; `start - step` when not even `start` fits.

    >>> largest_fit(lambda n: n <= 130, 25)
    125
    """

    def size(steps: int) -> int:
        grown = start + steps * step
        return grown if most is None else min(grown, most)

    if start and not fits(size(0)):
        return start - step
    low, high = 0, 1
    while fits(size(high)):
        if size(high) == most:
            return most
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if fits(size(middle)):
            low = middle
        else:
            high = middle
    return size(low)


@dataclass(eq=False)
class Fitter(Generic[T]):
    """Makes the rows of one task as long as one length allows.

    The haystack of the first row grows step by step while the row fits. The others start from its
    size and shrink step by step where they are still too long. When not even one step fits, single
    units (lines, words, pairs) are tried, so that short lengths work wherever they can.
    """

    request: TaskRequest
    """The task and its length."""
    step: int
    """By how much the haystack grows and shrinks."""
    start: int = 0
    """Size that growing starts from."""
    least: int = 1
    """Smallest size that makes a row."""
    most: int | None = None
    """Largest size available."""
    usable: Callable[[int], bool] = lambda size: True
    """Whether a size may be used, however long its row is."""
    room: int | None = None
    """Most tokens of a row; None takes the request's length."""
    _size: int | None = field(default=None, init=False)
    """Of the haystack of the last row."""

    def rows(
        self, build: Callable[[Random, int], T], tokens: Callable[[T], int]
    ) -> Iterator[tuple[int, T]]:
        """Yields the index and the row of each item requested.

        Args:
            build: Makes a row with a haystack of the given size; every draw comes from the
                generator.
            tokens: Counts a row with its prompt, answer and reply.

        Raises:
            DoesNotFitError: The shortest form of a row is too long.
        """
        for index in range(self.request.num_items):
            seed = self.request.row_seed(index)

            def sized(size: int, seed: int = seed) -> T:
                return build(Random(seed), size)

            yield index, self.row(sized, tokens)

    def row(self, build: Callable[[int], T], tokens: Callable[[T], int]) -> T:
        """Returns the next row.

        Args:
            build: Makes the row with a haystack of the given size; the same row for the same size.
            tokens: Counts a row with its prompt, answer and reply.

        Raises:
            DoesNotFitError: Its shortest form is too long.
        """
        room = self.request.length if self.room is None else self.room

        def fits(size: int) -> bool:
            return tokens(build(size)) <= room

        if self._size is None:
            grown = largest_fit(fits, self.step, start=self.start, most=self.most)
            self._size = size = self._settle(grown, fits)
        else:
            size = self._settle(self._size, fits)
        return build(size)

    def _settle(self, size: int, fits: Callable[[int], bool]) -> int:
        """Returns the first size from `size` downwards that fits and may be used."""
        for top, step in ((size, self.step), (self._below(size + self.step), 1)):
            found = self._shrink(top, step, fits)
            while found >= self.least and not self.usable(found):
                found -= step
            if found >= self.least:
                return found
        raise DoesNotFitError(self.request.task, self.request.length)

    def _below(self, size: int) -> int:
        return size - 1 if self.most is None else min(size - 1, self.most)

    def _shrink(self, size: int, step: int, fits: Callable[[int], bool]) -> int:
        """Returns the first of size, size - step, ... that fits, or one below the least."""
        most_steps = (size - self.least) // step + 1
        # `low` steps are too few; `high` is the smallest number known to be enough, if any is.
        low, high = -1, 0
        while high < most_steps and not fits(size - high * step):
            low, high = high, 2 * high + 1
        high = min(high, most_steps)
        while high - low > 1:
            middle = (low + high) // 2
            if fits(size - middle * step):
                high = middle
            else:
                low = middle
        return size - high * step


@dataclass(frozen=True)
class Asked:
    """A generated text with a question about it and the accepted answer."""

    text: str
    question: str
    answer: str
    spans: tuple[tuple[int, int], ...] | None = None
    """Characters of the text that hold the evidence; None where all of it does."""
    reference: Mapping[str, Any] = field(default_factory=dict)


def fit_items(
    request: TaskRequest,
    build: Callable[[Random, int], Asked],
    fitter: Fitter[Asked],
    gen_tokens: int,
    rule: str,
) -> Iterator[Item]:
    """Yields items whose text, question, answer and reply fit the length.

    Args:
        request: The task and its length.
        build: Makes a text of the given size and its question.
        fitter: Finds the size of the text.
        gen_tokens: Reserved for the reply: at most a quarter of the length, and at least what the
            answer takes.
        rule: Scoring rule.
    """
    count = request.tokenizer.count

    def reply_tokens(asked: Asked) -> int:
        return max(min(gen_tokens, request.length // 4), count(asked.answer) + ANSWER_MARGIN)

    def tokens(asked: Asked) -> int:
        return count(f"{asked.text}\n\n{asked.question} {asked.answer}") + reply_tokens(asked)

    for index, asked in fitter.rows(build, tokens):
        yield build_item(request, index, asked, rule, reply_tokens(asked))


def build_item(request: TaskRequest, index: int, asked: Asked, rule: str, max_tokens: int) -> Item:
    """Returns the item of a question."""
    seed = request.row_seed(index)
    name = content_id(request.task, str(seed))
    return Item(
        task=request.task,
        length=request.length,
        document=Document.of(asked.text, f"{request.task}:{request.seed}:{index}"),
        question=Question(id=name, text=asked.question, answers=(asked.answer,)),
        rule=rule,
        gold_spans=asked.spans or None,
        max_tokens=max_tokens,
        reference=asked.reference,
        row={
            "index": index,
            "id": name,
            "question": asked.question,
            "answers": [asked.answer],
            "gold_spans": asked.spans,
            "length": request.length,
            "seed": seed,
        },
    )
