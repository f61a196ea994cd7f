"""Words and prose for the generators: RULER's word lists, our own, sentences of a file."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from agenticlu.core.errors import MissingDependencyError, UsageError
from agenticlu.core.registry import require_known

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
