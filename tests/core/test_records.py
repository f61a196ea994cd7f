from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agenticlu.core.records import (
    Document,
    Node,
    Page,
    Question,
    Record,
    Tree,
    Turn,
    Usage,
    Verdict,
    content_id,
    content_seed,
)


def tree() -> Tree:
    turn = Turn(kind="answer", wording="answer-1", request="?", reply="é", token_ids=(1, 2))
    nodes = (
        Node(id="r", parent=None, depth=0, ordinal=0, turns=(turn,)),
        Node(
            id="a",
            parent="r",
            depth=1,
            ordinal=0,
            turns=(),
            relevance=(0.25, 1.0),
            verdicts=(Verdict(judge="exact", value=None),),
        ),
        Node(id="b", parent="r", depth=1, ordinal=1, turns=(), status="failed", failure="refused"),
        Node(id="c", parent="a", depth=2, ordinal=0, turns=(), score=0.5),
    )
    return Tree(
        id="t",
        document_id="d",
        question=Question(id="q", text="Who?", answers=("Ada",)),
        system="s",
        profile="default@1",
        nodes=nodes,
    )


def test_json_round_trip() -> None:
    assert Tree.model_validate_json(tree().model_dump_json()) == tree()


def test_path_goes_from_root_to_node() -> None:
    assert [node.id for node in tree().path("c")] == ["r", "a", "c"]
    assert [node.id for node in tree().path("r")] == ["r"]


def test_records_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Usage(tokens=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Usage().requests = 1  # type: ignore[misc]


def test_every_field_of_every_record_survives_its_defaults() -> None:
    def children(base: type[Record]) -> list[type[Record]]:
        return [base, *(found for child in base.__subclasses__() for found in children(child))]

    for record in children(Record):
        assert record.model_config["frozen"]
        assert record.model_config["extra"] == "forbid"


def test_ids_do_not_depend_on_the_process() -> None:
    code = "from agenticlu.core.records import *; print(content_id('a', 'é'), content_seed('x'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{content_id('a', 'é')} {content_seed('x')}\n"}


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), min_size=1, max_size=4))
def test_ids_tell_parts_apart(a: list[str], b: list[str]) -> None:
    joined = "\x1f".join
    if joined(a) != joined(b):
        assert content_id(*a) != content_id(*b)
    assert 0 <= content_seed(*a) < 2**31


def test_ids_keep_parts_apart() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id("\ud800") != content_id("?")


def test_usage_adds_up() -> None:
    a = Usage(requests=1, prompt_tokens=10, cached_tokens=8, completion_tokens=3)
    total = a + a
    assert total == Usage(requests=2, prompt_tokens=20, cached_tokens=16, completion_tokens=6)
    assert total.computed_tokens == 10


def test_document_ids_follow_the_text_and_pages_hold_their_characters() -> None:
    ends = (0, 3, 3, 5)
    pages = tuple(Page(number=i, start=ends[i - 1], end=ends[i]) for i in (1, 2, 3))
    document = Document.of("abcde", "x", pages=pages)
    assert document.id == Document.of("abcde", "y").id != Document.of("abcdf", "x").id
    assert [document.page_of(i) for i in range(6)] == [1, 1, 1, 3, 3, None]
