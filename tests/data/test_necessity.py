"""Which kept pieces a round needs, and what becomes of the others in a data set."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner
from made_trees import asked, make_run, node, story, tree

from agenticlu.cli import group
from agenticlu.core.errors import EngineReplyError, UsageError
from agenticlu.data.build import build_dataset, load_tree_views
from agenticlu.data.necessity import (
    NecessitySummary,
    find_needed_pieces,
    use_quoted_pieces,
)
from agenticlu.data.pairs import PairPolicy
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search.caller import Caller
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.store import Store

DOCUMENT = story(0)
GOLD = asked(0, gold_pieces=(1, 3))
KEPT = (0, 1, 2, 3)
Rule = Callable[[frozenset[int]], bool]


def shown_in(request: ScriptedRequest) -> frozenset[int]:
    opening = request.messages[1].content
    return frozenset(i for i in range(20) if f"<para {i}> " in opening)


def reads(is_enough: Rule) -> Callable[[ScriptedRequest, str], float]:
    """A model to whom what was said is likely where the pieces shown are enough."""
    return lambda request, reply: -1.0 if is_enough(shown_in(request)) else -9.0


def make(folder: Path, *nodes: Any, question: Any = GOLD) -> Path:
    """A run of one tree."""
    return make_run(folder, [(DOCUMENT, tree(*nodes, question=question, document=DOCUMENT))])


def measure(run: Path, engine: ScriptedEngine, fall: float = 2.0) -> NecessitySummary:
    with Store(run) as store:
        views = (view for view, _ in load_tree_views(store))
        return asyncio.run(find_needed_pieces(store, views, Caller(store, engine), fall))


def kept_in(run: Path, *, needed: bool = True) -> dict[str, tuple[int, ...]]:
    with Store(run, writable=False) as store:
        ((view, _),) = load_tree_views(store, needed=needed)
        return {one.id.partition("-")[0]: one.kept for one in view.tree.nodes}


@pytest.mark.parametrize(
    ("is_enough", "needed"),
    [
        (lambda shown: {1, 3} <= shown, (1, 3)),
        (lambda shown: 2 in shown, (2,)),
        (lambda shown: bool({1, 2} & shown), (1,)),  # two say the same: one of them stays
        (lambda shown: len(shown & set(KEPT)) >= 3, (0, 1, 2)),
        (lambda shown: set(KEPT) <= shown, KEPT),
        (lambda shown: True, KEPT),  # known by heart: nothing is told about the pieces
        (lambda shown: False, KEPT),
    ],
)
def test_what_is_left_is_enough_and_no_piece_of_it_can_be_spared(
    tmp_path: Path, is_enough: Rule, needed: tuple[int, ...]
):
    run = make(tmp_path, node("a", 1.0, kept=KEPT))
    summary = measure(run, ScriptedEngine(likelihood=reads(is_enough)))
    assert kept_in(run)["a"] == needed
    assert kept_in(run, needed=False)["a"] == KEPT
    assert (summary.rounds, summary.shortened) == (1, int(needed != KEPT))
    if needed != KEPT:
        assert is_enough(frozenset(needed))
        assert not any(is_enough(frozenset(needed) - {i}) for i in needed)


def test_prompts_hold_the_tried_pieces_and_name_them(tmp_path: Path):
    run = make(tmp_path, node("a", 1.0, kept=KEPT))
    engine = ScriptedEngine(likelihood=reads(lambda shown: {1, 3} <= shown))
    measure(run, engine)
    assert engine.requests
    for request in engine.requests:
        pointed = request.messages[4].content
        assert set(map(int, re.findall(r"<para (\d+)>", pointed))) == shown_in(request)
    assert {frozenset(), frozenset(KEPT), frozenset({0, 1, 2})} <= set(
        map(shown_in, engine.requests)
    )


def test_only_what_right_answers_rest_on_is_measured(tmp_path: Path):
    run = make(
        tmp_path,
        node("a", 0.0, kept=KEPT, check="no"),
        node("b", 1.0, parent="a", depth=2, kept=KEPT),
        node("c", 0.0, ordinal=1, kept=KEPT),
        node("d", 1.0, ordinal=2, kept=(1,)),
    )
    engine = ScriptedEngine(likelihood=reads(lambda shown: {1, 3} <= shown))
    summary = measure(run, engine)
    assert summary.rounds == 2, "a led on to a right answer, c did not, d kept one piece"
    assert kept_in(run) == {"root": (), "a": (1, 3), "b": (1, 3), "c": KEPT, "d": (1,)}
    assert not any("wrong a" in request.last for request in engine.requests)


def test_a_resumed_measurement_asks_for_what_is_missing_alone(tmp_path: Path):
    def enough(shown: frozenset[int]) -> bool:
        return {1, 3} <= shown

    class KilledError(BaseException):
        """Stands for the end of the process."""

    rounds = [node(name, 1.0, ordinal=i, kept=KEPT) for i, name in enumerate("abc")]
    whole, torn = make(tmp_path / "whole", *rounds), make(tmp_path / "torn", *rounds)
    engine = ScriptedEngine(likelihood=reads(enough))
    measure(whole, engine)
    num_calls = len(engine.requests)
    asked_in_all = 0
    for at in (5, 9, 11):
        dying = ScriptedEngine(likelihood=reads(enough), faults={at: KilledError()})
        with pytest.raises(KilledError):
            measure(torn, dying)
        assert kept_in(torn)["a"] == KEPT, "used only once all is done"
        asked_in_all += at
    last = ScriptedEngine(likelihood=reads(enough))
    measure(torn, last)
    assert 0 < len(last.requests) < num_calls
    assert kept_in(torn) == kept_in(whole) != kept_in(whole, needed=False)
    again = ScriptedEngine(likelihood=reads(enough))
    measure(torn, again)
    assert not again.requests


def test_measures_do_not_mix(tmp_path: Path):
    run = make(tmp_path, node("a", 1.0, kept=KEPT))
    measure(run, ScriptedEngine(likelihood=reads(lambda shown: 2 in shown)))
    measure(run, ScriptedEngine(likelihood=reads(lambda shown: 2 in shown)), fall=50.0)
    assert kept_in(run)["a"] == KEPT
    other = ScriptedEngine(likelihood=reads(lambda shown: 1 in shown), name="other")
    measure(run, other)
    assert kept_in(run)["a"] == (1,)


def test_a_failed_call_leaves_its_round_alone(tmp_path: Path):
    run = make(tmp_path, node("a", 1.0, kept=KEPT), node("b", 1.0, ordinal=1, kept=KEPT))
    engine = ScriptedEngine(
        likelihood=reads(lambda shown: 2 in shown),
        faults=lambda request: EngineReplyError("no") if "of a?" in str(request.messages) else None,
    )
    summary = measure(run, engine)
    assert (summary.failed, summary.shortened) == (1, 1)
    assert kept_in(run) == {"root": (), "a": KEPT, "b": (2,)}


def test_an_engine_that_scores_no_replies_is_named(tmp_path: Path):
    class Silent:
        name = "a server"

    run = make(tmp_path, node("a", 1.0, kept=KEPT))
    with pytest.raises(UsageError, match="a server cannot say how likely"):
        measure(run, Silent())  # type: ignore[arg-type]
    assert kept_in(run)["a"] == KEPT


def test_rows_and_card_show_what_is_taught(tmp_path: Path):
    nodes = (node("a", 1.0, kept=KEPT), node("b", 0.0, ordinal=1, kept=KEPT, check="no"))
    run = make(tmp_path / "run", *nodes)
    measure(run, ScriptedEngine(likelihood=reads(lambda shown: {1, 3} <= shown)))

    def build(out: str, *flags: str) -> tuple[str, dict[str, Any], str]:
        command = ["dataset", "build", str(run), "--out", str(tmp_path / out), "--validation", "0"]
        done = CliRunner().invoke(group, [*command, *flags], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        row = pyarrow.parquet.read_table(tmp_path / out / "sft/train.parquet").to_pylist()[0]
        pointed = row["messages"][4]["content"]
        lesson = pyarrow.parquet.read_table(tmp_path / out / "distill/train.parquet").to_pylist()
        summary = json.loads((tmp_path / out / "summary.json").read_text())
        assert [i in lesson[0]["evidence"] for i in ("<para 1>", "<para 0>")] == [
            True,
            bool(flags),
        ]
        return pointed, summary["build"]["pointing"], (tmp_path / out / "README.md").read_text()

    pointed, counts, card = build("needed")
    assert pointed == "<para 1> <para 3>"
    assert counts["by_depth"]["1"]["taught"] == {"named": 2, "right": 2, "found": 2}
    assert counts["by_depth"]["1"]["kept"] == {"named": 4, "right": 2, "found": 2}
    assert "| 1 | 1 | 100.0% | 100.0% | 50.0% | 100.0% |" in card
    assert "less than 2.0 nats, read by scripted" in card
    pointed, counts, card = build("all", "--all-kept")
    assert pointed == "<para 0>", "as the tree was grown"
    assert counts["shortened"] == 0
    assert "agenticlu generate necessity RUN" in card


def test_what_was_read_in_a_piece_left_out_is_no_leak(tmp_path: Path):
    """A later clarification may use a piece that the round before showed, needed or not."""
    said = "stone0"
    first = node("a", 0.0, kept=KEPT, check="no")
    second = node("b", 1.0, parent="a", depth=2)
    clarified = second.turns[0].model_copy(update={"reply": f"Is it {said}?"})
    second = second.model_copy(update={"turns": (clarified, *second.turns[1:])})
    run = make(tmp_path, first, second, question=asked(0, answers=(said,)))
    measure(run, ScriptedEngine(likelihood=reads(lambda shown: {1, 3} <= shown)))
    with Store(run, writable=False) as store:
        ((view, _),) = load_tree_views(store, needed=True)
    last = view.tree.nodes[-1]
    assert not view.leaks(last)
    assert replace(view, read={}).leaks(last), "the piece that was left out said it"


def test_the_tiny_model_tells_and_its_command_resumes(tmp_path: Path):
    run = make(tmp_path, node("a", 1.0, kept=KEPT))
    first = CliRunner().invoke(group, ["generate", "necessity", str(run), "--json", "--quiet"])
    assert first.exit_code == 0, first.output
    again = CliRunner().invoke(group, ["generate", "necessity", str(run), "--json", "--quiet"])
    assert json.loads(first.stdout) == json.loads(again.stdout)
    assert json.loads(first.stdout)["rounds"] == 1
    with Store(run, writable=False) as store:
        assert store.call_counts()["done"] > 6
        assert store.call_counts()["repeated"] == 0
        build_dataset(store, tmp_path / "data", PairPolicy(validation=0))


def test_needed_pieces_survive_a_merge(tmp_path: Path):
    run = make(tmp_path / "run", node("a", 1.0, kept=KEPT))
    measure(run, ScriptedEngine(likelihood=reads(lambda shown: {1, 3} <= shown)))
    merge_runs(tmp_path / "merged", [str(run)])
    assert kept_in(tmp_path / "merged")["a"] == kept_in(run)["a"] == (1, 3)


def test_a_round_that_quotes_a_piece_needs_that_piece(tmp_path: Path):
    quote = DOCUMENT.text.partition(".")[0] + "."
    quoting = node("a", 1.0, kept=KEPT)
    turns = tuple(
        turn.model_copy(update={"reply": quote}) if turn.kind == "sub_answer" else turn
        for turn in quoting.turns
    )
    run = make(tmp_path, quoting.model_copy(update={"turns": turns}), node("b", 1.0, kept=KEPT))
    with Store(run, writable=False) as store:
        ((view, _),) = load_tree_views(store, needed=False)
    quoted = use_quoted_pieces(view)
    first, other = (quoted.find(one.id) for one in view.tree.nodes[1:])
    assert first.kept == (0,)
    assert "<para 0>" in next(turn.reply for turn in first.turns if turn.kind == "point")
    assert quoted.read == {first.id: KEPT}
    assert other.kept == KEPT, "it quotes nothing"
