"""Splits of documents: by hash, stable as a corpus grows, with near-copies on one side."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_trees import asked, make_run, node, story, tree

from agenticlu.cli import group
from agenticlu.core.records import Document
from agenticlu.core.words import find_words
from agenticlu.data.splits import Fingerprint, Splits, assign_splits


def text(seed: int, count: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(5000)}" for _ in range(count))


def assign(texts: dict[str, str], share: float, ids: dict[str, str] | None = None) -> Splits:
    ids = ids or {}
    return assign_splits([Fingerprint.of(n, t, ids.get(n)) for n, t in texts.items()], share)


MANY = {f"d{i}": text(i) for i in range(150)}


def test_the_share_is_about_what_was_asked_for():
    held_out = len(assign(MANY, 0.2).documents("validation"))
    assert 20 <= held_out <= 40
    assert assign(MANY, 0).documents("validation") == []


def test_a_document_stays_where_it_is_when_the_corpus_grows():
    few = dict(list(MANY.items())[:60])
    before, after = assign(few, 0.2), assign(MANY, 0.2)
    assert {name: after.of[name] for name in few} == before.of
    reversed_order = assign(dict(reversed(MANY.items())), 0.2)
    assert reversed_order.of == after.of


def test_what_is_held_out_stays_so_when_near_duplicates_join():
    few = dict(list(MANY.items())[:60])
    held_out = assign(few, 0.2).documents("validation")
    grown = dict(few)
    for i, name in enumerate(few):
        grown[f"edited{i}"] = f"{few[name]} and {i} more"
    after = assign(grown, 0.2)
    assert set(held_out) <= set(after.documents("validation"))
    assert after.num_groups == 60
    assert after.num_alike == 120
    hashes = {one: Fingerprint.of(one, words).position for one, words in grown.items()}
    said = {one: "validation" if place < 0.2 else "train" for one, place in hashes.items()}
    assert after.num_moved == sum(after.of[one] != said[one] for one in grown) > 0
    assert {after.of[f"edited{i}"] == after.of[n] for i, n in enumerate(few)} == {True}
    assert len(after.documents("validation")) > 2 * len(held_out), "the lower of two hashes decides"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t + "\n",
        lambda t: t.replace(" ", "  \n"),
        str.upper,
        lambda t: f"<para 0> {t[:100]} </para 0>\n<para 1> {t[100:]} </para 1>",
    ],
)
def test_white_space_case_and_marks_are_no_difference(change):
    repeated = {**MANY, **{f"{name}'": change(t) for name, t in MANY.items()}}
    splits = assign(repeated, 0.2)
    assert {splits.of[name] == splits.of[f"{name}'"] for name in MANY} == {True}
    assert splits.num_same == 300
    assert {name: splits.of[name] for name in MANY} == assign(MANY, 0.2).of
    assert len({*splits.of.values()}) == 2


def test_a_document_s_own_id_decides_and_holds_versions_together():
    ids = {name: f"book{i // 2}" for i, name in enumerate(MANY)}
    splits = assign(MANY, 0.2, ids)
    assert splits.num_groups == 75
    names = list(MANY)
    assert {splits.of[names[2 * i]] == splits.of[names[2 * i + 1]] for i in range(75)} == {True}
    revised = {name: text(1000 + i) for i, name in enumerate(MANY)}
    assert assign(revised, 0.2, ids).of == splits.of, "the text plays no part"
    assert splits.of != assign(MANY, 0.2).of


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_a_few_at_least_one_is_held_out_and_one_is_not(share: float, count: int):
    splits = assign(dict(list(MANY.items())[:count]), share)
    assert splits.documents("train")
    assert splits.documents("validation")


def test_one_document_and_one_group_are_not_parted():
    assert assign({"a": text(0)}, 0.5).documents("validation") == []
    assert assign({"a": text(0), "b": text(0) + " "}, 0.5).documents("validation") == []
    assert assign({}, 0.5).of == {}


def shingles(words: str) -> set[tuple[str, ...]]:
    found = find_words(words)
    return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}


def are_near_copies(one: str, other: str) -> bool:
    """Clearly so, by the sets themselves: signatures estimate the share up to 0.04."""
    a, b = shingles(one), shingles(other)
    return len(a & b) >= 0.9 * min(len(a), len(b))


def make_copies(seed: int) -> dict[str, str]:
    """Documents of which some are edited, cut or lengthened copies of others."""
    draw = random.Random(seed)
    texts = [text(1000 * seed + i, 200) for i in range(14)]
    for _ in range(26):
        copied = draw.choice(texts).split()
        for place in draw.sample(range(len(copied)), draw.randrange(3)):
            copied[place] = "edited"
        length = draw.randrange(int(0.7 * len(copied)), len(copied) + 1)
        texts.append(" ".join([*copied[:length], *["more"] * draw.randrange(2)]))
    draw.shuffle(texts)
    return {f"d{i}": one for i, one in enumerate(texts)}


@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_no_near_copies_lie_across_the_split(seed: int, share: float) -> None:
    texts = make_copies(seed)
    splits = assign(texts, share)
    near = [
        pair for pair in itertools.combinations(texts, 2) if are_near_copies(*map(texts.get, pair))
    ]
    assert [pair for pair in near if splits.of[pair[0]] != splits.of[pair[1]]] == []
    positions = {name: Fingerprint.of(name, words).position for name, words in texts.items()}
    parted = [p for p in near if (positions[p[0]] < share) != (positions[p[1]] < share)]
    assert parted, "by their hashes alone some would be"
    assert splits.num_moved > 0
    assert splits.documents("train")
    assert splits.documents("validation")


def test_of_near_copies_alone_all_are_trained_on_and_that_is_said(tmp_path: Path) -> None:
    copies = [Document.of(f"{story(0).text} Copy {n}.", "made") for n in range(4)]
    right = (node("a", 1.0), node("b", 0.0, ordinal=1))
    trees = [(one, tree(*right, question=asked(i), document=one)) for i, one in enumerate(copies)]
    run = make_run(tmp_path / "run", trees)
    done = CliRunner().invoke(
        group, ["dataset", "build", str(run), "--out", str(tmp_path / "data")]
    )
    assert done.exit_code == 0
    assert "No document is held out: all 4 are near-copies of each other" in done.stderr
    assert "documents: 4 train, 0 validation" in done.stdout
