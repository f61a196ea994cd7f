"""One rule for what is held out."""

from __future__ import annotations

import random

import pytest

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
