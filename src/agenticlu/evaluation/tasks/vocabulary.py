"""Words and plain prose for the generators, made up so that nothing has to be downloaded."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random

from agenticlu.errors import UsageError, missing_dependency

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


@functools.cache
def adjectives() -> tuple[str, ...]:
    """Returns adjectives for keys."""
    return tuple(_ADJECTIVES.split())


@functools.cache
def nouns() -> tuple[str, ...]:
    """Returns nouns for keys."""
    return tuple(_NOUNS.split())


@functools.cache
def words(source: str = "own") -> tuple[str, ...]:
    """Returns distinct words: invented ones, or those of the package wonderwords as RULER has them.

    Raises:
        UsageError: There is no such source.
        MissingDependencyError: wonderwords is not installed.
    """
    if source == "own":
        onsets, vowels = tuple("bdfgklmnprstvz"), "aeiou"
        syllables = [onset + vowel for onset, vowel in product(onsets, vowels)]
        ends = ("n", "l", "r", "sh", "m")
        return tuple(a + b + end for a, b in product(syllables, syllables) for end in ends)
    if source != "wonderwords":
        raise UsageError(f"There is no word list {source!r}; use own or wonderwords.")
    try:
        wonder = importlib.import_module("wonderwords")
    except ModuleNotFoundError as error:
        raise missing_dependency("wonderwords", "evaluate") from error
    generator = wonder.random_word.RandomWord()
    lists = [generator.filter(include_categories=[kind]) for kind in ("noun", "adjective", "verb")]
    return tuple(sorted({word for found in lists for word in found if " " not in word}))


def key_name(rng: Random) -> str:
    """Returns a key such as `humble-anchor`."""
    return f"{rng.choice(adjectives())}-{rng.choice(nouns())}"


def number(rng: Random) -> str:
    """Returns a 7-digit number."""
    return str(rng.randint(1_000_000, 9_999_999))


def uuid(rng: Random) -> str:
    """Returns a version 4 UUID built from the generator's own bits."""
    bits = rng.getrandbits(128)
    bits = bits & ~(0xF000 << 64) | (4 << 76)
    bits = bits & ~(0xC000 << 48) | (0x8000 << 48)
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def distinct(draw_one: object, rng: Random, num: int) -> list[str]:
    """Returns `num` different values of a drawing function."""
    assert callable(draw_one)
    found: dict[str, None] = {}
    while len(found) < num:
        found[draw_one(rng)] = None
    return list(found)


@functools.lru_cache(maxsize=4)
def prose_of(path: str) -> tuple[str, ...]:
    """Returns the sentences of a local text file."""
    if not Path(path).is_file():
        raise UsageError(f"There is no haystack file {path!r}.")
    text = " ".join(Path(path).read_text(encoding="utf-8").split())
    return tuple(part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip())


def sentences(rng: Random, path: str | None = None) -> Iterator[str]:
    """Yields sentences without end: of a local file, from a random place on, or invented."""
    if path is not None:
        found = prose_of(path)
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
