"""Sketches of texts against the sets that they sketch."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from agenticlu.data.shingles import find_alike, shingles_of, sign, words_of

WORDS = [f"w{i}" for i in range(5000)]


def made(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def true_share(one: list[str], other: list[str], size: int = 5) -> float:
    a, b = (
        {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} for words in (one, other)
    )
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("edits", [0, 10, 40, 120])
def test_signatures_estimate_the_share_of_common_shingles(edits: int):
    draw = random.Random(edits)
    one = made(1, 1500)
    other = list(one)
    for place in draw.sample(range(len(other)), edits):
        other[place] = "edited"
    signatures = [sign(shingles_of(" ".join(words), 5)) for words in (one, other)]
    estimate = float(np.mean(signatures[0] == signatures[1]))
    assert estimate == pytest.approx(true_share(one, other), abs=0.12)
    assert (edits == 0) == (estimate == 1.0)


def test_shingles_are_distinct_runs_of_words():
    words = made(2, 300)
    runs = {tuple(words[i : i + 5]) for i in range(296)}
    assert len(shingles_of(" ".join(words), 5)) == len(runs)
    assert len(shingles_of("a b c", 5)) == 1
    assert len(shingles_of(" - ", 5)) == 0
    same = [shingles_of(text, 2) for text in ("Ada's Horse.", "<para 3> ada S horse </para 3>")]
    assert np.array_equal(*same)
    assert not np.array_equal(shingles_of("a b", 2), shingles_of("b a", 2))


def test_hashes_are_those_of_every_process():
    code = (
        "from agenticlu.data.shingles import shingles_of, sign\n"
        "s = shingles_of('one two three four five six', 5)\n"
        "print(s.tolist(), sign(s)[:3].tolist())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_alike_texts_are_found_and_others_are_not():
    whole = made(3, 1000)
    edited = [*whole[:500], "x", *whole[501:]]
    texts = [whole, made(4, 1000), edited, whole[:600], made(5, 1000), whole[:300]]
    shingles = [shingles_of(" ".join(words), 5) for words in texts]
    pairs = set(find_alike([sign(s) for s in shingles], [len(s) for s in shingles]))
    assert (0, 2) in pairs, "edited"
    assert (0, 3) in pairs, "cut to three fifths: all of the shorter one"
    assert not {number for pair in pairs for number in pair} & {1, 4}


def test_texts_without_words_are_alike_to_nothing():
    empty = shingles_of("...", 5)
    assert list(find_alike([sign(empty)] * 2, [0, 0])) == []
    assert list(find_alike([], [])) == []
    assert words_of("...") == []
