"""What a run's trees become, read back from the files."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from made_trees import QUESTION, asked, make_run, node, story, tree

from agenticlu.core.errors import StoreError, TrainingError
from agenticlu.core.records import Document, Node
from agenticlu.data.build import build_dataset
from agenticlu.data.corpus import load_corpus
from agenticlu.data.dataset import COLUMNS
from agenticlu.data.pairs import PairPolicy
from agenticlu.search.store import Store
from agenticlu.search.store.file import FILE_NAME

MIXED = (node("a", 1.0), node("b", 0.0, ordinal=1, check="no"))


def build(run: Path, out: Path, **options: Any):
    with Store(run, writable=False) as store:
        return build_dataset(store, out, PairPolicy(**options))


def rows_of(folder: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    return {
        path.stem: pyarrow.parquet.read_table(path).to_pylist()
        for path in sorted((folder / kind).glob("*.parquet"))
    }


def text_of(row: dict[str, Any]) -> str:
    """The document as it stands in the conversation, without marks and white space."""
    opening = (row.get("messages") or row["prompt"])[1]["content"]
    marked = opening[: opening.rindex("</para")]
    return re.sub(r"</?para \d+>|\s", "", marked).casefold()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of three questions each; some texts come twice with other white space."""
    trees = []
    for number in range(40):
        document = story(number)
        for i in range(3):
            shown = document if i < 2 else Document.of(document.text.replace(". ", ".\n"), "made")
            trees.append((shown, tree(*MIXED, question=asked(3 * number + i), document=shown)))
    return make_run(tmp_path_factory.mktemp("many") / "run", trees)


def test_no_document_is_in_two_splits(many: Path, tmp_path: Path):
    build(many, tmp_path, validation=0.3)
    for kind in set(COLUMNS) - {"questions", "direct", "point"}:
        rows = rows_of(tmp_path, kind)
        assert set(rows) == {"train", "validation"}
        texts = {split: {text_of(row) for row in found} for split, found in rows.items()}
        assert not texts["train"] & texts["validation"]
        assert len(texts["train"] | texts["validation"]) == 40
        # Had trees been dealt out instead, hardly a document would be in one split alone.
        trees_of: dict[str, set[str]] = {}
        for row in (row for found in rows.values() for row in found):
            trees_of.setdefault(text_of(row), set()).add(row["tree_id"])
        assert {len(trees) for trees in trees_of.values()} == {3}


def test_rows_that_point_are_beginnings_of_conversations(many: Path, tmp_path: Path):
    summary = build(many, tmp_path, pointing=True)
    assert summary.rows["point"]["train"] >= summary.rows["sft"]["train"] > 0
    whole = {row["question_id"]: row for row in rows_of(tmp_path, "sft")["train"]}
    for row in rows_of(tmp_path, "point")["train"]:
        (target,) = row["targets"]
        assert target == len(row["messages"]) - 1
        assert re.fullmatch(r"(<para \d+>\s*)+", row["messages"][-1]["content"])
        assert row["messages"] == whole[row["question_id"]]["messages"][: target + 1]


def test_self_checks_stand_apart_from_conversations(many: Path, tmp_path: Path):
    summary = build(many, tmp_path / "with")
    assert summary.rows["self_check"] == summary.rows["sft"]
    for rows in rows_of(tmp_path / "with", "self_check").values():
        assert {row["messages"][-1]["content"] for row in rows} == {"no"}
        assert {tuple(row["targets"]) for row in rows} == {(len(rows[0]["messages"]) - 1,)}
    for rows in rows_of(tmp_path / "with", "sft").values():
        assert {row["score"] for row in rows} == {1.0}
    build(many, tmp_path / "without", self_checks=0)
    assert rows_of(tmp_path / "without", "self_check") == {}


def test_every_reply_of_a_plain_conversation_is_a_target(tmp_path: Path):
    """A trainer that learns all replies learns no wrong answer from it."""
    trees = []
    for number, replies in enumerate(([0.0, 1.0], [0.0, 0.0, 1.0], [1.0])):
        path: list[Node] = []
        for depth, score in enumerate(replies, start=1):
            parent = path[-1].id if path else "root"
            made = node(
                f"n{depth}", score, parent=parent, depth=depth, check="no" if not score else "yes"
            )
            path.append(made)
        document = story(number)
        trees.append((document, tree(*path, question=asked(number), document=document)))
    build(make_run(tmp_path / "run", trees), tmp_path / "data", validation=0)
    plain, sft = (
        {r["tree_id"]: r for r in rows_of(tmp_path / "data", kind)["train"]}
        for kind in ("plain", "sft")
    )
    assert plain.keys() == sft.keys()
    assert sorted(row["cut"] for row in plain.values()) == [False, True, True]
    for key, row in plain.items():
        whole, learned = sft[key]["messages"], row["messages"]
        assert learned == whole[: len(learned)]
        assert {i for i, m in enumerate(learned) if m["role"] == "assistant"} <= set(
            sft[key]["targets"]
        )
        assert learned[-1]["role"] == "assistant"
        # The longest such beginning: the next reply is one that must not be learned.
        assert row["cut"] == (len(learned) < len(whole))
        assert not row["cut"] or len(learned) + 1 not in sft[key]["targets"]
        assert row["has_check"] == (sft[key]["has_check"] and not row["cut"])


def test_lessons_show_the_evidence_of_the_right_path(many: Path, tmp_path: Path):
    """Right and wrong conversations alike, over the document and beside it the evidence alone."""
    build(many, tmp_path / "two", validation=0)
    rows = rows_of(tmp_path / "two", "distill")["train"]
    assert Counter(row["question_id"] for row in rows).most_common()[-1][1] == 2
    assert {row["score"] for row in rows} == {0.0, 1.0}
    for row in rows:
        replies = [i for i, m in enumerate(row["messages"]) if m["role"] == "assistant"]
        assert row["targets"] == replies
        opening = next(m["content"] for m in row["messages"] if m["role"] == "user")
        shown = re.findall(r"<para (\d+)>.*?</para \1>", row["evidence"], re.DOTALL)
        assert shown == ["1"], "what the right path kept"
        evidence, rest = row["evidence"].split("</para 1>")
        assert evidence in opening
        assert opening.endswith(rest), "the question and the request are the same"
    build(many, tmp_path / "none", lessons=0)
    assert rows_of(tmp_path / "none", "distill") == {}
    wrong = tree(node("a", 0.0), question=asked(0), document=story(0))
    right = tree(node("a", 1.0), question=asked(1), document=story(0))
    run = make_run(tmp_path / "run", [(story(0), wrong), (story(0), right)])
    build(run, tmp_path / "wrong")
    found = rows_of(tmp_path / "wrong", "distill")["train"]
    assert [row["question_id"] for row in found] == ["q1"], "no right path, no evidence"


def test_every_question_about_held_out_documents_is_a_corpus(many: Path, tmp_path: Path):
    """Also those that were not answered right: an evaluation without them would flatter."""
    build(many, tmp_path, validation=0.3)
    items = list(load_corpus(str(tmp_path / "questions"), split="validation"))
    with Store(many, writable=False) as store:
        asked = {question.id: (question, i) for question, i in store.questions()}
        seen = {text_of(r) for r in rows_of(tmp_path, "sft")["validation"]}
        wanted = {
            key
            for key, (_, i) in asked.items()
            if re.sub(r"\s", "", store.document(i).text).casefold() in seen
        }
    assert {item.question.id for item in items} == wanted
    for item in items:
        question, document_id = asked[item.question.id]
        assert (item.question.text, item.question.answers) == (question.text, question.answers)
        assert item.document.id == document_id


def test_columns_and_types(many: Path, tmp_path: Path):
    build(many, tmp_path)
    preference = pyarrow.parquet.read_schema(tmp_path / "preference" / "train.parquet")
    published = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    assert preference.names[:5] == published
    assert preference.names == list(COLUMNS["preference"])
    assert str(preference.field("score_chosen").type) == "double"
    sft = pyarrow.parquet.read_schema(tmp_path / "sft" / "train.parquet")
    assert sft.names == list(COLUMNS["sft"])


def varied() -> list[tuple[Document, Any]]:
    failed = tree(question=asked(100), document=story(0))
    root = failed.nodes[0].model_copy(update={"status": "failed", "failure": "x", "score": None})
    shapes: list[tuple[Node, ...]] = [
        MIXED,
        (node("a", 1.0), node("b", 1.0, ordinal=1)),
        (node("a", 0.0), node("b", 0.0, ordinal=1), node("c", 1.0, parent="a", depth=2)),
        (node("a", None),),
        (node("a", 1.0), node("b", 0.0, ordinal=1, status="failed", failure="x")),
    ]
    trees = [
        (story(i), tree(*shape, question=asked(i), document=story(i)))
        for i, shape in enumerate(shapes)
    ]
    return [*trees, (story(0), failed.model_copy(update={"nodes": (root,), "outcome": "failed"}))]


def test_every_question_and_node_of_the_store_is_counted_once(tmp_path: Path):
    growing = (story(7), tree(node("a", 0.0), question=asked(7), document=story(7)))
    run = make_run(
        tmp_path / "run",
        varied(),
        growing=[growing],
        unstarted=[(story(7), asked(8)), (story(9), asked(9))],
    )
    summary = build(run, tmp_path / "out")
    with sqlite3.connect(run / FILE_NAME) as database:
        (questions,) = database.execute("SELECT COUNT(*) FROM question").fetchone()
        (rounds,) = database.execute("SELECT COUNT(*) FROM node WHERE depth > 0").fetchone()
    funnel = summary.as_dict()["funnel"]
    assert funnel["traces"]["total"] == questions == 9
    assert funnel["nodes"]["total"] == rounds == 11
    assert funnel["traces"]["unfinished"] == 3
    assert funnel["nodes"]["unfinished"] == 1
    assert funnel["traces"]["failed"] == 1
    for name in ("nodes", "rows", "traces"):
        counter = dict(funnel[name])
        assert counter.pop("total") == sum(counter.values())
    warnings = " ".join(summary.warnings(0.1))
    assert "3 of 9 questions are not finished" in warnings
    assert "1 of 9 questions failed" in warnings


def test_a_lost_node_is_noticed(tmp_path: Path):
    """A node whose parent is gone cannot be reached from the root."""
    run = make_run(tmp_path / "run", varied())
    with sqlite3.connect(run / FILE_NAME) as database:
        database.execute("DELETE FROM node WHERE id = 'a-q2'")
    with pytest.raises(AssertionError, match="a node was lost"):
        build(run, tmp_path / "out")


def test_a_build_sees_one_state_of_a_run_that_is_being_written(tmp_path: Path):
    run = make_run(tmp_path / "run", varied())
    with Store(run) as writer, Store(run, writable=False) as store:
        with store.snapshot():
            before = store.tree_counts()
            writer.add_question(asked(50), story(0).id, 50)
            with store.snapshot():
                assert store.tree_counts() == before
            assert store.tree_counts() == before
        assert store.tree_counts()["questions"] == before["questions"] + 1


def test_no_rows_make_no_file(tmp_path: Path):
    """Two right answers give a conversation, but no pair."""
    both = tree(node("a", 1.0), node("b", 1.0, ordinal=1), question=asked(0), document=story(0))
    run = make_run(tmp_path / "run", [(story(0), both)])
    summary = build(run, tmp_path / "out")
    assert summary.rows["preference"] == {"train": 0, "validation": 0}
    files = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")]
    assert sorted(files) == [f"{kind}/train.parquet" for kind in ("distill", "plain", "sft")]
    held_out, lack = summary.warnings(0.1)
    assert held_out == "No document is held out: there is one document."
    assert "no preference pairs" in lack


def test_a_full_disk_is_said(tmp_path: Path, many: Path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "train.parquet").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="Cannot write"):
        build(many, tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_questions_that_need_no_document_can_be_dropped(tmp_path: Path):
    known = tree(*MIXED, question=asked(0), document=story(0))
    known = known.model_copy(update={"closed_book": 0.5})
    run = make_run(tmp_path / "run", [(story(0), known)])
    with pytest.raises(TrainingError, match="1 answerable without document"):
        build(run, tmp_path / "a", drop_closed_book=0.5)
    assert build(run, tmp_path / "b", drop_closed_book=0.6).funnel.traces["written"] == 1
    both = make_run(
        tmp_path / "both",
        [(story(0), known), (story(1), tree(*MIXED, question=asked(1), document=story(1)))],
    )
    strict = build(both, tmp_path / "c", drop_closed_book=0.5)
    assert strict.funnel.nodes["answerable without document"] == 2


def test_no_row_at_all_is_an_error_and_leaves_nothing(tmp_path: Path):
    wrong = tree(node("a", 0.0), question=QUESTION, document=story(0))
    run = make_run(tmp_path / "run", [(story(0), wrong)])
    with pytest.raises(TrainingError, match="no rows"):
        build(run, tmp_path / "out")
    assert not list(tmp_path.rglob("*.parquet*"))


def test_lengths_are_those_of_the_rows(many: Path, tmp_path: Path):
    import math
    import statistics

    summary = build(many, tmp_path)
    rows = [row for found in rows_of(tmp_path, "preference").values() for row in found]
    told = json.loads(json.dumps(summary.as_dict()))["characters"]
    for name in ("chosen", "rejected", "prompt"):
        lengths = sorted(sum(len(m["content"]) for m in row[name]) for row in rows)
        cuts = statistics.quantiles(lengths, n=20, method="inclusive")
        assert told[name]["n"] == len(lengths)
        assert told[name]["mean"] == pytest.approx(statistics.fmean(lengths), abs=0.01)
        wanted = (cuts[0], cuts[4], cuts[9], cuts[14], cuts[18])
        found = [told[name][f"p{p}"] for p in (5, 25, 50, 75, 95)]
        assert found == pytest.approx(wanted, abs=0.01)
    for row in rows:
        one, other = (len(row[name][0]["content"]) for name in ("chosen", "rejected"))
        assert row["log_length_ratio"] == pytest.approx(math.log(one / other), abs=1e-4)
    traces = [row for found in rows_of(tmp_path, "sft").values() for row in found]
    lengths = [sum(len(m["content"]) for m in row["messages"]) for row in traces]
    assert told["conversation"]["p50"] == statistics.median(lengths)
    assert summary.as_dict()["turn_kinds"] == {
        kind: sum(row["turn_kind"] == kind for row in rows)
        for kind in ("answer", "clarify", "sub_answer")
    }


def test_doubts_alone_are_no_data_set(tmp_path: Path):
    document = story(0)
    doubted = tree(node("a", 0.0, check="no"), question=asked(0), document=document)
    run = make_run(tmp_path / "run", [(document, doubted)])
    with pytest.raises(TrainingError, match="the trees yield no rows"):
        build(run, tmp_path / "data")


def test_a_folder_where_no_search_began_is_refused_and_nothing_is_written(tmp_path: Path):
    Store(tmp_path / "run").close()
    with pytest.raises(StoreError, match="holds no search") as caught:
        build(tmp_path / "run", tmp_path / "out")
    assert "agenticlu generate" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_unreadable_settings_are_a_damaged_run_not_a_crash(tmp_path: Path):
    run = make_run(tmp_path / "run", [(story(0), tree(*MIXED))])
    with Store(run) as store:
        store.put(profile={"name": 3})
    with pytest.raises(StoreError, match="cannot be read"):
        build(run, tmp_path / "out")


def test_a_search_that_grew_nothing_gives_no_data_set(tmp_path: Path):
    asked_only = [(story(0), asked(0))]
    for unstarted in ([], asked_only):
        run = make_run(tmp_path / f"run{len(unstarted)}", [], unstarted=unstarted)
        with pytest.raises(TrainingError, match="yield no rows"):
            build(run, tmp_path / "out")
