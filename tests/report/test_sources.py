from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from made_report import sample_report

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.core.records import Prediction, Usage
from agenticlu.evaluation.summary import summarise
from agenticlu.evaluation.tables import save_summary
from agenticlu.report import figures
from agenticlu.report.figures import ReportData
from agenticlu.report.page import build_report
from agenticlu.report.sources import load_evaluation, load_report, load_training
from agenticlu.search.store import CallId, Store


@pytest.fixture(scope="module")
def sample() -> ReportData:
    return sample_report(num_trees=6, num_questions=0)


@pytest.fixture(scope="module")
def run(sample: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generation run in a real store; its last tree is not finished."""
    folder = tmp_path_factory.mktemp("run")
    spent = {"ground": 500, "direct": 300, "closed_book": 40, "judge": 20}

    async def fill(store: Store) -> None:
        for tree in sample.trees[:-1]:
            await store.finish_tree(tree)
        last = sample.trees[-1]
        await store.put_nodes(last, last.nodes[:3])
        for phase, tokens in spent.items():
            call = CallId(key=phase, phase=phase, document_id=sample.documents[0].id)
            await store.intend(call)
            await store.finish(
                phase, {}, Usage(requests=1, prompt_tokens=tokens, cached_tokens=tokens // 2)
            )

    with Store(folder) as store:
        for document in sample.documents:
            store.add_document(document, sample.pieces[document.id])
        for position, tree in enumerate(sample.trees):
            store.add_question(tree.question, tree.document_id, position)
        store.put(config={"branching": 4, "judge": {"api_key": "hunter2-hunter2"}})
        asyncio.run(fill(store))
    return folder


def predictions(engine: str, method: str, right: int, num: int = 8) -> list[Prediction]:
    return [
        Prediction(
            id=f"{engine}-{method}-{i}",
            task="world",
            method=method,
            length=1024,
            document_id=f"d{i}",
            question_id=f"q{i}",
            question="Who?",
            gold=("x",),
            engine=engine,
            scores={"correct": float(i < right)},
            usage=Usage(requests=1, prompt_tokens=1000),
        )
        for i in range(num)
    ]


def write_predictions(folder: Path, items: list[Prediction], *, tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(item.model_dump_json() + "\n" for item in items)
    (folder / "predictions.jsonl").write_text(text + tail)
    return folder


def test_a_run_is_read_back_whole(run: Path, sample: ReportData) -> None:
    data = load_report(run)
    assert data.trees[:-1] == sample.trees[:-1]
    assert len(data.trees[-1].nodes) == 3
    assert data.documents == sample.documents
    assert data.pieces == sample.pieces
    assert {(s.group, s.name): s.usage.prompt_tokens for s in data.stages} == {
        ("search", "direct answer"): 300,
        ("search", "answers without the document"): 40,
        ("search", "grounding"): 500,
        ("judges", "judges"): 20,
    }
    assert any("1 of 6 questions are not finished" in error for error in data.errors)
    page = build_report(data)
    assert "hunter2" not in page
    assert data.trees[-1].id in page


def test_evaluation_shows_the_figures_that_it_wrote_itself(tmp_path: Path) -> None:
    items = predictions("base", "direct", 2) + predictions("trained", "direct", 4)
    items += predictions("trained", "clarify", 7)
    items[0] = items[0].model_copy(update={"error": "time-out", "scores": {}})
    folder = write_predictions(tmp_path / "eval", items)
    summary = summarise(items, {"seed": 1})
    save_summary(summary, folder)
    found = load_evaluation(None, folder)
    assert found.engines == ("base", "trained")
    for cell in summary.cells:
        (row,) = [r for r in found.cells if (r.engine, r.method) == (cell.engine, cell.method)]
        assert cell.score is not None
        assert row == cell
    (gain,) = figures.select_gains(found.differences, found.engines)
    theirs = [
        d for d in summary.differences
        if (d.baseline_engine, d.engine, d.method) == ("base", "trained", "clarify")
    ]  # fmt: skip
    assert gain.difference.mean == theirs[0].difference.mean
    assert gain.difference.low == theirs[0].difference.low
    assert "time-out" in found.errors[0]
    assert found.settings == {"seed": 1}


def test_predictions_without_a_summary_give_the_evaluations_own_intervals(tmp_path: Path) -> None:
    items = predictions("base", "direct", 2) + predictions("trained", "clarify", 7)
    found = load_evaluation(None, write_predictions(tmp_path / "eval", items))
    summary = summarise(items)
    assert found.cells == summary.cells
    (gain,), (theirs,) = (
        figures.select_gains(found.differences, found.engines),
        summary.differences[-1:],
    )
    assert (gain.difference.low, gain.difference.high) == (
        theirs.difference.low, theirs.difference.high,
    )  # fmt: skip


def test_accuracy_by_depth_is_drawn_for_the_longest_documents(tmp_path: Path) -> None:
    def at(length: int, right: int) -> list[Prediction]:
        return [
            item.model_copy(update={"length": length, "depth": (i % 4) / 5 + 0.1})
            for i, item in enumerate(predictions("base", "direct", right))
        ]

    folder = write_predictions(tmp_path / "eval", at(512, 8) + at(2048, 4))
    summary = summarise(at(512, 8) + at(2048, 4))
    save_summary(summary, folder)
    data = load_report(evaluations=(str(folder),))
    cell = summary.find("world", 2048, "direct")
    (row,) = [row for row in data.results if row.length == 2048]
    assert cell is not None
    assert {name: (m.mean, m.low, m.high, m.n) for name, m in row.by_depth.items()} == {
        name: (e.mean, e.low, e.high, e.n) for name, e in cell.by_depth.items()
    }
    page = build_report(data)
    assert "(2,048 tokens); a point is 2 questions" in page
    assert "direct, first fact at 20–40% of the document: 50%" in page  # all right at 512
    assert ">60–80<" in page
    assert "80–100" not in page  # no question there


def test_cost_alone_is_that_of_the_summary(tmp_path: Path) -> None:
    def reused(usage: Usage) -> Usage:
        return usage.model_copy(update={"cached_tokens": 990})

    first = predictions("base", "direct", 2)
    later = [
        item.model_copy(update={"usage": reused(item.usage)})
        for item in predictions("base", "retrieve", 2)
    ]
    folder = write_predictions(tmp_path / "eval", first + later)
    save_summary(summarise(first + later), folder)
    rows = load_evaluation(None, folder).cells
    assert [row.computed_tokens_per_item for row in rows] == [1000, 10]
    assert [row.alone_tokens_per_item for row in rows] == [1000, 1000]
    page = build_report(load_report(evaluations=(str(folder),)))
    assert "1,000 tokens a question asked alone (10 as run)" in page
    # What several requests have in common is not known without their turns.
    many = later[0].model_copy(update={"usage": Usage(requests=2, prompt_tokens=1000)})
    save_summary(summarise([*first, *later[1:], many]), folder)
    data = load_report(evaluations=(str(folder),))
    assert [row.alone_tokens_per_item for row in data.results] == [1000, None]
    assert "1 of 2 cells are left out" in build_report(data)


def test_unknown_depths_leave_the_chart_out(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "eval", predictions("base", "direct", 2))
    assert "Accuracy by depth" not in build_report(load_report(evaluations=(str(folder),)))


def test_two_folders_are_compared_by_their_labels(tmp_path: Path) -> None:
    before = write_predictions(tmp_path / "one", predictions("models/x", "direct", 2))
    after = write_predictions(tmp_path / "two", predictions("models/y/export", "clarify", 6))
    data = load_report(evaluations=[f"base={before}", f"trained={after}"])
    assert [(row.engine, row.method) for row in data.results] == [
        ("base", "direct"),
        ("trained", "clarify"),
    ]
    assert data.gains[0].difference.mean == 0.5
    assert [stage.name for stage in data.stages] == ["base, direct", "trained, clarify"]
    unnamed = load_report(evaluations=[str(before), str(after)])
    assert [row.engine for row in unnamed.results] == ["x", "y"]


def test_torn_last_line_is_skipped_and_another_one_is_an_error(tmp_path: Path) -> None:
    items = predictions("base", "direct", 2)
    torn = write_predictions(tmp_path / "torn", items, tail='{"id": "x", "ta')
    assert len(load_evaluation(None, torn).predictions["base"]) == 8
    broken = write_predictions(tmp_path / "broken", items, tail='{"id": 1}\n' + "{}\n")
    with pytest.raises(StoreError, match="line 9, is not a prediction"):
        load_evaluation(None, broken)


def test_training_curves_by_split_and_tokens_saved_by_sharing(tmp_path: Path) -> None:
    lines = [
        {"event": "start", "stage": "sft", "steps": 2},
        {"event": "step", "step": 0, "loss": 2.0, "trace_tokens": 100, "stored_tokens": 30},
        {"event": "step", "step": 1, "loss": None, "trace_tokens": 100, "stored_tokens": 30},
        {"event": "step", "step": 2, "loss": 1.0, "stage": "sft"},
        {"event": "validation", "step": 2, "loss": 1.5},
        {"event": "end", "steps": 2, "final_loss": 1.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    data = load_training(tmp_path, "sft")
    found = {(c.split, c.quantity): c.points for c in data.curves}
    assert found["training", "loss"] == ((0.0, 2.0), (2.0, 1.0))
    assert found["validation", "loss"] == ((2.0, 1.5),)
    assert data.stages[0].usage == Usage(requests=3, prompt_tokens=200, cached_tokens=140)


def test_pairs_come_from_the_data_set_and_only_of_known_nodes(
    run: Path, sample: ReportData, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    pair = next(p for p in sample.pairs if p.tree_id != sample.trees[-1].id)
    row = {
        "tree_id": pair.tree_id, "document_id": pair.document_id, "question_id": pair.question_id,
        "chosen_node": pair.chosen, "rejected_node": pair.rejected, "score_chosen": 1.0,
        "score_rejected": 0.0, "pair_id": pair.id, "pair_kind": "step", "turn_kind": "clarify",
    }  # fmt: skip
    rows = [row, {**row, "turn_kind": "answer"}, {**row, "chosen_node": "elsewhere"}]
    (tmp_path / "preference").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "preference" / "train.parquet")
    funnel = {"nodes": {"total": 5, "chosen": 2, "unscored": 3}, "pairs": 2}
    (tmp_path / "summary.json").write_text(json.dumps({"build": {"funnel": funnel}}))
    data = load_report(run, datasets=[tmp_path])
    assert data.pairs == (pair,)
    assert data.funnels == {"nodes": {"chosen": 2, "unscored": 3}}
    assert "unscored: 3 unscored" in build_report(data)


def test_a_data_set_without_pairs_is_one(run: Path, tmp_path: Path) -> None:
    """Where no expansion was mixed there are conversations alone."""
    with pytest.raises(UsageError, match="neither preference/ nor sft/"):
        load_report(run, datasets=[tmp_path])
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "train.parquet").touch()
    funnel = {"nodes": {"total": 5, "all right": 5}, "pairs": 0}
    (tmp_path / "summary.json").write_text(json.dumps({"build": {"funnel": funnel}}))
    data = load_report(run, datasets=[tmp_path])
    assert data.pairs == ()
    assert data.funnels == {"nodes": {"all right": 5}}
    assert build_report(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs at least one of --run"),
        ({"run": Path("missing")}, "--run 'missing' is not a folder"),
        ({"evaluations": ["base=missing"]}, "--eval 'missing' is not a folder"),
        ({"trainings": ["."]}, "holds no metrics.jsonl"),
    ],
)
def test_what_is_missing_is_named(
    options: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        load_report(**options)


def test_the_log_of_a_search_is_none_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").touch()
    (tmp_path / "metrics.jsonl").write_text('{"event": "tree"}\n')
    with pytest.raises(UsageError, match=r"holds no metrics\.jsonl of a training run"):
        load_report(trainings=[str(tmp_path)])


def test_empty_evaluation_and_foreign_summary_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither summary\.json nor predictions\.jsonl"):
        load_evaluation(None, tmp_path)
    (tmp_path / "summary.json").write_text('{"headline": "of a report"}')
    with pytest.raises(StoreError, match="not the summary of an evaluation"):
        load_evaluation(None, tmp_path)
