"""Lists of paragraphs that a model names by itself, and the pairs that are made of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from made_trees import asked, load_trees, make_run, node, story, tree

from agenticlu.cli import group
from agenticlu.core.errors import EngineReplyError
from agenticlu.data.build import build_dataset, load_tree_views
from agenticlu.data.mark_lists import ListSummary, read_asking, read_lists, sample_mark_lists
from agenticlu.data.pairs import PairPolicy
from agenticlu.documents import render_marks
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.evaluation.scoring.answers import piece_f1
from agenticlu.report.sources import load_pairs
from agenticlu.search.caller import Caller
from agenticlu.search.store import Store

DOCUMENT = story(0)
LISTS = ("<para 1>", "<para 2>", "<para 2>", "<para 2>", "<para 1> <para 2>", "none", "<para 3>")


def make(folder: Path, *nodes: Any, question: Any = None) -> Path:
    made = tree(*nodes, question=question or asked(0), document=DOCUMENT)
    return make_run(folder, [(DOCUMENT, made)])


def engine_of(lists: Sequence[str] = LISTS, **changes: Any) -> ScriptedEngine:
    def reply(request: ScriptedRequest) -> str:
        return lists[request.ordinal % len(lists)]

    return ScriptedEngine(reply, **changes)


def sample(run: Path, engine: ScriptedEngine, samples: int = len(LISTS)) -> ListSummary:
    with Store(run) as store:
        views = (view for view, _ in load_tree_views(store, needed=True))
        return asyncio.run(sample_mark_lists(store, views, Caller(store, engine), samples, 1.0))


def rows_of(run: Path, folder: Path, **policy: Any) -> list[dict[str, Any]]:
    with Store(run, writable=False) as store:
        summary = build_dataset(store, folder, PairPolicy(validation=0, **policy))
    rows = [
        row
        for file in sorted((folder / "preference").glob("*.parquet"))
        for row in pyarrow.parquet.read_table(file).to_pylist()
    ]
    assert sum(row["pair_kind"] == "marks" for row in rows) == summary.num_list_pairs
    return [row for row in rows if row["pair_kind"] == "marks"]


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(named: set[int], needed: set[int]) -> None:
    found = piece_f1(named, needed)
    right = len(named & needed)
    if not right:
        assert found == 0
    else:
        precision, recall = right / len(named), right / len(needed)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))
        assert (found == 1) == (named == needed)


def test_the_model_is_asked_over_the_whole_document_up_to_the_turn_that_points(
    tmp_path: Path,
) -> None:
    run = make(tmp_path, node("a", 1.0, kept=(1,)), node("b", 0.0, ordinal=1))
    engine = engine_of()
    sample(run, engine)
    requests = {tuple(request.messages) for request in engine.requests}
    assert len(requests) == 1, "the wrong round is not asked about"
    (messages,) = requests
    with Store(run, writable=False) as store:
        pieces = store.pieces(DOCUMENT.id)
    assert all(f"<para {piece.index}> " in messages[1].content for piece in pieces)
    assert messages[-1].role == "user"
    assert messages[-1].content == "ask point"
    assert [message.content for message in messages if message.role == "assistant"] == [
        "What of a?"
    ]


def test_lists_are_scored_against_what_is_needed(tmp_path: Path) -> None:
    run = make(tmp_path, node("a", 1.0, kept=(1,)))
    summary = sample(run, engine_of()).as_dict()
    assert summary["rounds"] == 1
    assert summary["lists"] == 7
    assert summary["precision"] == pytest.approx(2 / 7, abs=1e-4), "two of seven pieces named"
    assert summary["recall"] == pytest.approx(2 / 7, abs=1e-4)
    assert summary["f1"] == pytest.approx((1 + 2 / 3) / 7, abs=1e-4)
    assert summary["exact"] == pytest.approx(1 / 7, abs=1e-4)
    with Store(run, writable=False) as store:
        asking = read_asking(store)
        assert asking is not None
        ((view, _),) = load_tree_views(store)
        lists = read_lists(store, view, view.find("a-q0"), asking)
    assert (lists[0].reply, lists[0].times) == ("<para 2>", 3)
    assert {one.reply for one in lists} == set(LISTS)


def test_pairs_prefer_the_exact_list_over_the_commonest_wrong_ones(tmp_path: Path) -> None:
    run = make(tmp_path / "run", node("a", 1.0, kept=(1,)))
    sample(run, engine_of())
    rows = rows_of(run, tmp_path / "data", mark_pairs=3)
    assert [row["rejected"][0]["content"] for row in rows] == [
        "<para 2>", "<para 1> <para 2>", "none",
    ]  # fmt: skip
    for row in rows:
        assert row["chosen"][0]["content"] == "<para 1>"
        assert row["turn_kind"] == "point"
        assert row["prompt"][-1]["content"] == "ask point"
        assert row["score_chosen"] - row["score_rejected"] == pytest.approx(row["margin"])
    assert [row["score_rejected"] for row in rows] == pytest.approx([0, 2 / 3, 0], abs=1e-6)


def test_where_no_list_is_exact_one_is_written(tmp_path: Path) -> None:
    run = make(tmp_path / "run", node("a", 1.0, kept=(1, 4)))
    sample(run, engine_of())
    rows = rows_of(run, tmp_path / "data", mark_pairs=9)
    assert {row["chosen"][0]["content"] for row in rows} == {render_marks((1, 4))}
    near = rows_of(run, tmp_path / "near", mark_pairs=9, margin=0.4)
    assert "<para 1>" not in {row["rejected"][0]["content"] for row in near}
    assert 0 < len(near) < len(rows)


def test_without_lists_or_wish_there_are_no_such_pairs(tmp_path: Path) -> None:
    run = make(tmp_path / "run", node("a", 1.0, kept=(1,)))
    assert rows_of(run, tmp_path / "before") == []
    sample(run, engine_of())
    assert rows_of(run, tmp_path / "none", mark_pairs=0) == []
    assert rows_of(run, tmp_path / "some") != []


def test_what_leaks_the_answer_teaches_no_pointing(tmp_path: Path) -> None:
    leaky = node("a", 1.0, kept=(1,))
    turns = [
        turn.model_copy(update={"reply": "Is it Brellin?"}) if turn.kind == "clarify" else turn
        for turn in leaky.turns
    ]
    sound = node("b", 1.0, ordinal=1, kept=(1,))
    run = make(tmp_path / "run", leaky.model_copy(update={"turns": tuple(turns)}), sound)
    sample(run, engine_of())
    assert {row["chosen_node"] for row in rows_of(run, tmp_path / "data")} == {"b-q0"}
    kept = rows_of(run, tmp_path / "kept", drop_leaks=False)
    assert {row["chosen_node"] for row in kept} == {"a-q0", "b-q0"}


def test_a_second_run_asks_nothing_and_a_failed_round_is_told(tmp_path: Path) -> None:
    rounds = [node(name, 1.0, ordinal=i, kept=(1,)) for i, name in enumerate("ab")]
    run = make(tmp_path, *rounds)

    def broken(request: ScriptedRequest) -> Exception | None:
        return EngineReplyError("too long") if "What of a?" in str(request.messages) else None

    summary = sample(run, engine_of(faults=broken))
    assert (summary.rounds, summary.failed, summary.lists) == (2, 1, 7)
    again = engine_of()
    assert sample(run, again).failed == 1
    assert not again.requests


def test_the_report_takes_them_for_no_pairs_of_nodes(tmp_path: Path) -> None:
    run = make(tmp_path / "run", node("a", 1.0, kept=(1,)), node("b", 0.0, ordinal=1))
    sample(run, engine_of())
    assert rows_of(run, tmp_path / "data")
    pairs = load_pairs([tmp_path / "data"], load_trees(run))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("a-q0", "b-q0")]


def test_the_command_samples_with_the_bundled_model_and_tells(tmp_path: Path) -> None:
    run = make(tmp_path / "run", node("a", 1.0, kept=(1,)))
    words = ["generate", "pointing", str(run), "--samples", "2", "--json", "--quiet"]
    found = CliRunner().invoke(group, words)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["lists"] == 2
    text = CliRunner().invoke(group, [*words[:-2], "--quiet"])
    assert "2 lists of 1 rounds" in text.stdout
    assert "agenticlu dataset build" in text.stdout
    built = CliRunner().invoke(
        group, ["dataset", "build", str(run), "--out", str(tmp_path / "data"), "--validation", "0"]
    )
    assert built.exit_code == 0, built.output
    card = (tmp_path / "data" / "README.md").read_text()
    assert "2 lists of 1 rounds" in card


def test_the_report_draws_how_right_the_targets_are(tmp_path: Path) -> None:
    run = make(tmp_path / "run", node("a", 1.0, kept=(1, 2)), question=asked(0, gold_pieces=(1, 3)))
    data, page = tmp_path / "data", tmp_path / "report.html"
    with Store(run, writable=False) as store:
        summary = build_dataset(store, data, PairPolicy(validation=0))
    (data / "summary.json").write_text(json.dumps({"build": summary.as_dict()}))
    words = ["report", "--run", str(run), "--data", str(data), "--out", str(page)]
    found = CliRunner().invoke(group, words)
    assert found.exit_code == 0, found.output
    text = page.read_text()
    assert "What is taught to point at: data" in text
    assert "depth 1, precision, as taught: 50% of 2" in text
    assert "depth 1, recall, as taught: 50% of 2" in text
