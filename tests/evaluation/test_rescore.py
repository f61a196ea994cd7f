"""Scoring saved replies: our own as the run did, anyone's with what is wrong told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agenticlu.cli.eval import command
from agenticlu.core.errors import AgenticluError, ConfigError, UsageError
from agenticlu.core.records import Prediction
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.evaluation.predictions import PredictionWriter, read_predictions
from agenticlu.evaluation.records import Item, Summary
from agenticlu.evaluation.rescore import find_letter, render_scores, score_file
from agenticlu.evaluation.scoring import rules
from agenticlu.evaluation.tasks import TaskRequest, load_items

Run = Callable[..., Summary]
TASKS = {
    "open": ("kilt_nq", "niah_single_1"),
    "long_answer": ("infbench_qa_eng",),
    "choice": ("infbench_choice_eng", "world-choice"),
    "all_of": ("ruler_niah_mv", "vt"),
    "label": ("icl_trec_coarse",),
    "ranking": ("msmarco_rerank_psg",),
    "summary": ("multi_lexsum", "infbench_sum_eng"),
    "string_em": ("alce_asqa",),
    "qampari": ("alce_qampari",),
    "set_f1": ("graph_walk",),
    "only_label": ("babi_qa3",),
    "recite": ("mrcr_2",),
}
LENGTHS = {
    "niah_single_1": 2048,
    "world-choice": 512,
    "vt": 2048,
    "graph_walk": 512,
    "babi_qa3": 2048,
    "mrcr_2": 512,
}
"""Of generators; HELMET's fixtures are files of one length."""


def half_right(item: Item) -> str:
    """A reply that scores something between nothing and all, where the rule has such values."""
    if item.rule == "choice":
        return f"Answer: {item.reference['letter']}"
    if item.rule == "ranking":
        return "Ranking: " + " > ".join(sorted(item.reference["labels"]))
    if item.rule == "set_f1":
        return f"Final Answer: [{item.reference['nodes'][0]}, other]"
    if item.rule == "recite":
        return item.question.answers[0][:-9] + "otherwise"
    if item.rule == "label":
        return f"label: {item.question.answers[0]}"
    if item.rule == "qampari":
        return f"{item.reference['groups'][0][0]}, someone else"
    return f"Answer: {item.question.answers[0]} and so on. {item.question.answers[-1]}"


@pytest.mark.parametrize("rouge", [False, True])
@pytest.mark.parametrize("rule", TASKS)
def test_rescoring_our_predictions_gives_the_runs_own_figures(
    root: Path, tmp_path: Path, run_helmet: Run, rule: str, rouge: bool
) -> None:
    for task in TASKS[rule]:
        length = LENGTHS.get(task, 8192)
        options = {"helmet_data": str(root), "shots": 1}
        tokenizer = ApproximateTokenizer()
        asked = {
            item.question.text: item
            for item in load_items(TaskRequest(task, length, tokenizer, limit=3, options=options))
        }
        assert {item.rule for item in asked.values()} <= {rule, "all_of"}

        def reply(request: ScriptedRequest, known: dict[str, Item] = asked) -> str:
            text = request.messages[-1].content
            return next(half_right(item) for q, item in known.items() if q in text)

        out = tmp_path / task
        run_helmet(
            out,
            ScriptedEngine(reply),
            tasks=(task,),
            methods=("direct",),
            lengths=(length,),
            limit=3,
            with_rouge=rouge,
            options=options,
            max_tokens=2000,
        )
        path = out / "predictions.jsonl"
        found = read_predictions(path)
        scored = score_file(path, with_rouge=rouge)
        assert (scored.kind, scored.num_unscored) == ("predictions", 0)
        assert {row.id: row.scores for row in scored.rows} == {
            p.id: p.scores for p in found.values()
        }
        assert any(max(row.scores.values()) > 0 for row in scored.rows), "the guard: not all zero"
        text = path.read_text()
        assert all(item.document.text[:80] not in text for item in asked.values())
        assert "passages" not in text


def test_our_predictions_are_scored_apart_by_what_was_run(tmp_path: Path) -> None:
    def prediction(method: str, question: str, raw: str, weights: str = "new") -> Prediction:
        return Prediction(
            id=f"{method} {question} {weights}",
            engine="m",
            task="world",
            method=method,
            length=512,
            document_id=question,
            question_id=question,
            question="Who?",
            gold=("Oona",),
            rule="open",
            raw=raw,
            conditions={"weights": weights},
        )

    found = [prediction("direct", "q1", "Answer: Oona", "old")]
    found += [prediction("direct", name, "Answer: Mara") for name in ("q1", "q2")]
    found += [prediction("clarify", name, "Answer: Oona") for name in ("q1", "q2")]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(f"{one.model_dump_json()}\n" for one in found))
    scored = score_file(path)
    assert scored.num_scored == 4  # what older weights said is out of the tables, and of this
    means = {place: metrics["correct"].mean for place, metrics in scored.groups.items()}
    assert means == {
        "m, world, 512 tokens, direct": 0.0,
        "m, world, 512 tokens, clarify": 1.0,
    }
    lines = render_scores(scored).splitlines()
    assert any("direct" in line and "correct " in line and "0.0" in line for line in lines)
    assert not any("50.0" in line for line in lines)
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"prediction": "Oona", "answers": ["Oona"]}\n')
    assert score_file(plain).groups == {}


def test_every_rule_is_rescored_by_some_task() -> None:
    assert set(TASKS) == set(rules.RULES)


def saved(path: Path, **changes: Any) -> Path:
    known: dict[str, Any] = {
        "id": "p",
        "task": "t",
        "method": "direct",
        "length": 9,
        "document_id": "d",
        "question_id": "q",
        "question": "?",
        "gold": ("kite",),
        "raw": "Answer: kite",
    }
    with PredictionWriter(path) as writer:
        writer.append(Prediction.model_validate(known | changes))
    return path


def test_predictions_without_their_rule_are_not_guessed_at(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.jsonl")
    scored = score_file(path)
    assert "--rule" in (scored.rows[0].problem or "")
    assert score_file(path, rule="open").metrics["correct"].mean == 1.0
    assert "lone" in (score_file(saved(tmp_path / "x", rule="lone")).rows[0].problem or "")


def test_a_torn_last_line_of_our_own_file_is_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "p.jsonl", rule="open")
    path.write_bytes(path.read_bytes() + b'{"id": "q", "ta')
    assert score_file(path).num_scored == 1
    assert "torn" in capsys.readouterr().err


def test_the_right_letter_is_found_by_spelling_text_or_letter() -> None:
    assert find_letter(["A"], ["B", "A"]) == "B"
    assert find_letter(["C", "C. a lamp"], ["a kite", "C", "a lamp"]) == "C"
    assert find_letter(["b"], ["red", "blue"]) == "B"
    assert find_letter(["green"], ["red", "blue"]) is None


# --- rows of others ---------------------------------------------------------------------------


def score(path: Path, *more: str) -> Result:
    return CliRunner().invoke(command, ["score", str(path), *more])


def problems(path: Path, **options: Any) -> list[str | None]:
    return [row.problem for row in score_file(path, **options).rows]


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_line_separators_inside_a_row_do_not_end_it(tmp_path: Path) -> None:
    rows = [
        {"prediction": f"Answer: blue{mark}kite", "answers": [f"blue{mark}kite"]}
        for mark in ("\u2028", "\u2029", "\x85", "\x0c", "\x1e")
    ]
    path = write_rows(tmp_path / "rows.jsonl", *rows)
    assert len(path.read_text("utf-8").splitlines()) > 5  # the guard
    scored = score_file(path)
    assert (scored.num_scored, scored.num_unscored) == (5, 0)
    assert [row.place for row in scored.rows] == [f"line {i}" for i in range(1, 6)]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", UsageError, "empty"),
        (b" \n\n", UsageError, "empty"),
        (
            '{"prediction": "caf\xe9", "answers": ["x"]}\n'.encode("latin1"),
            ConfigError,
            "not UTF-8",
        ),
        (b'["a", "b"]', ConfigError, "Entry 1 of"),
        (b"[]", ConfigError, "no rows"),
        (b"[1]", ConfigError, "is a number, not a JSON object"),
        (b'{"prediction": "a", "answers": ["a"]}\n"text"\n', ConfigError, "Line 2 of"),
        (b'{"prediction": "a", "answers": ["a"]}\n{"pred\n', ConfigError, "is not JSON"),
        (b'{"args": {}, "data": []}', ConfigError, "no rows"),
        (b'{"args": {}, "data": 3}', ConfigError, "no list 'data'"),
        (b'{"args": [], "data": [{}]}', ConfigError, "'args'"),
        (b'{"args": {"datasets": "kilt_nq"}, "data": [{}, "x"]}', ConfigError, "Row 2 of"),
        (b'{"args": {"datasets": "other"}, "data": [{"output": "x"}]}', UsageError, "--rule"),
        (b"{broken", ConfigError, "not JSON"),
    ],
)
def test_what_is_no_file_of_predictions_is_told(
    tmp_path: Path, content: bytes, kind: type[AgenticluError], message: str
) -> None:
    path = tmp_path / "given.json"
    path.write_bytes(content)
    with pytest.raises(kind) as caught:
        score_file(path)
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert score(path).exit_code != 0


@pytest.mark.parametrize("rule", rules.RULES)
def test_a_rule_on_rows_that_lack_what_it_needs_counts_them(tmp_path: Path, rule: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"prediction": "x"}, {"prediction": "y", "id": 7})
    found = score_file(path, rule=rule)
    assert (found.num_scored, found.num_unscored) == (0, 2)
    assert [row.place for row in found.rows] == ["line 1", "line 2"]
    result = score(path, "--rule", rule)
    assert type(result.exception).__name__ == "IncompleteRunError"
    assert "line 2 (7): " in result.output


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"answers": ["red"], "options": ["red", "blue"], "letter": "Z"},
            "'Z' is not one of A to B",
        ),
        ({"answers": ["green"], "options": ["red", "blue"]}, "no option is the gold answer"),
        ({"answers": ["red"], "options": 5}, "options must be a list of strings"),
        ({"answers": {"start_token": 3}}, "an object with 'start_token', which says no answer"),
        ({"answers": "…"}, "the gold answer '…' has no word"),
        ({"answers": float("nan")}, "no gold answer"),
        ({"answers": {"value": None, "aliases": []}}, "no gold answer"),
        ({"answers": ["red"], "prediction": None}, "no prediction"),
        ({"answers": ["red"], "prediction": ["a", "b"]}, "no prediction"),
        ({"answers": ["red"], "rule": "rogue"}, "'rogue'"),
        ({"answers": ["red"], "rule": "ranking", "reference": {"labels": [1]}}, "'labels'"),
        ({"answers": []}, "no gold answer"),
    ],
)
def test_rows_that_cannot_be_are_problems(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"prediction": "A", **row})
    (problem,) = problems(path)
    assert message in (problem or "")


@pytest.mark.parametrize(
    "row",
    [
        {"prediction": "Ada", "answers": {"text": ["Ada"], "answer_start": [1]}},
        {"prediction": "Ada", "answers": {"value": "A. Larkin", "aliases": ["Ada"]}},
        {"prediction": "Ada", "output": [{"answer": "Ada", "provenance": []}]},
        {"prediction": "Ada", "answers": '["Ada", "Bo"]'},
        {"prediction": "Ada", "answers": None, "answer": "Ada"},
        {"prediction": ["Ada"], "answers": [["Ada"]]},
        {"prediction": 3, "answers": 3.0},
        {"prediction": "Yes.", "answers": True},
        {"prediction": "False", "answers": False},
        {"prediction": "<think>Bo? Answer: Bo</think>Ada", "answers": ["Ada"]},
        {"prediction": "Answer: Ada [3]", "answers": ["Ada"]},
        {"prediction": "C++", "answers": ["C++"]},
        {"prediction": "B", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"},
        {"prediction": "2", "choices": {"label": ["1", "2"], "text": ["x", "y"]}, "answerKey": "2"},
        {"prediction": "B", "options": ["x", "y"], "answer": 1, "reference": 1},
        {"prediction": "B", "options": ["x", "y"], "gold_label": 2},
        {"prediction": "y", "options": ["x", "y"], "answers": "b"},
        {"prediction": "AB", "options": [f"o{n}" for n in range(30)], "answers": "o27"},
        {"prediction": "B", "choice_A": "x", "choice_B": "y", "answers": "B"},
        {"prediction": "B", "options": "A. x\nB. y", "answers": "B. y"},
    ],
)
def test_answers_and_options_are_read_as_data_sets_have_them(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    found = score_file(write_rows(tmp_path / "rows.jsonl", row))
    assert [one.problem for one in found.rows] == [None]
    assert found.metrics["correct"].mean == 1.0


def test_published_figures_are_those_of_the_answers_as_they_are_written(tmp_path: Path) -> None:
    row = {"prediction": "12 and no other", "answers": ["12", "12", "9"], "rule": "all_of"}
    found = score_file(write_rows(tmp_path / "rows.jsonl", row))
    assert found.metrics["ruler_recall"].mean == pytest.approx(2 / 3), "of three, not of two"


def test_rows_of_any_rule_can_be_scored_from_outside(tmp_path: Path) -> None:
    rows = [
        {"prediction": "2 > 1", "rule": "ranking", "qrel": [["1", "0"], ["2", "1"]]},
        {"prediction": "Ada, Cy", "rule": "qampari", "answers": [["Ada"], ["Ben"]]},
        {"prediction": "office", "rule": "only_label", "answers": ["office"],
         "reference": {"labels": ["office", "kitchen"]}},
        {"prediction": "(b)", "answers": ["blue"], "options": ["red", "blue"], "letter": "b"},
    ]  # fmt: skip
    scored = score_file(write_rows(tmp_path / "rows.jsonl", *rows))
    assert [row.problem for row in scored.rows] == [None] * 4
    assert scored.metrics["NDCG@1"].mean == 1.0
    assert scored.metrics["qampari_rec"].mean == 0.5
    assert scored.metrics["babilong"].mean == 1.0
    assert scored.rows[3].scores["correct"] == 1.0


HELMET_ROWS: dict[str, dict[str, Any]] = {
    "msmarco_rerank_psg": {"output": "1 > 2", "answer": "1 > 2", "qrel": [["1", "1"], ["2", "0"]]},
    "alce_asqa": {"output": "red", "answer": "x", "qa_pairs": [{"short_answers": ["red"]}]},
    "alce_qampari": {"output": "red", "answer": "x", "answers": [["red"]]},
    "infbench_choice_eng": {
        "output": "B",
        "answer": ["B", "B. blue"],
        "options": "A. red\nB. blue\nC. c\nD. d",
    },
}
RULE_OF = {"alce_asqa": "string_em", "alce_qampari": "qampari", "infbench_choice_eng": "choice"}


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("msmarco_rerank_psg", {"qrel": None}),
        ("msmarco_rerank_psg", {"qrel": [["1"]]}),
        ("msmarco_rerank_psg", {"qrel": [["1", "high"]]}),
        ("alce_asqa", {"qa_pairs": None}),
        ("alce_asqa", {"qa_pairs": ["red"]}),
        ("alce_asqa", {"qa_pairs": [{"answers": ["red"]}]}),
        ("alce_qampari", {"answers": ["red"]}),
        ("infbench_choice_eng", {"options": None}),
        ("infbench_choice_eng", {"options": "none"}),
        ("infbench_choice_eng", {"answer": ["E", "E. else"]}),
        ("infbench_choice_eng", {"answer": None}),
        ("infbench_choice_eng", {"output": 3}),
    ],
)
def test_rows_of_helmets_files_that_lack_a_column_are_counted(
    tmp_path: Path, task: str, change: dict[str, Any]
) -> None:
    path = tmp_path / f"{task}_v1_x_in8192_size2.json"
    rows = [HELMET_ROWS[task], {**HELMET_ROWS[task], **change}]
    path.write_text(json.dumps({"args": {"datasets": task}, "data": rows}))
    scored = score_file(path)
    assert (scored.num_scored, scored.num_unscored) == (1, 1)
    assert scored.rows[1].place == "row 2"
    headline = rules.RULES[RULE_OF[task]].headline if task in RULE_OF else "NDCG@1"
    assert scored.rows[0].scores[headline] == 1.0
    result = score(path)
    assert type(result.exception).__name__ == "IncompleteRunError"
    assert "row 2" in result.output


def test_a_rule_can_be_put_on_an_unknown_result_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    rows = [{"output": "Answer: kite", "answer": ["kite"]}, {"output": "x"}]
    path.write_text(json.dumps({"data": rows}))
    scored = score_file(path, rule="open")
    assert (scored.num_scored, scored.num_unscored) == (1, 1)
    assert scored.metrics["correct"].mean == 1.0


def test_a_run_of_a_changed_rule_is_told_from_the_stored_one(tmp_path: Path) -> None:
    """The guard of the comparison above: scores do depend on the reference that is stored."""
    item = replace(load_items(TaskRequest("world-choice", 512, ApproximateTokenizer(), limit=1))[0])
    wrong = "ABCD".replace(str(item.reference["letter"]), "")[0]
    path = saved(
        tmp_path / "p",
        rule="choice",
        raw=half_right(item),
        gold=item.question.answers,
        options=item.question.options,
        reference={"letter": wrong},
    )
    assert score_file(path).metrics["correct"].mean == 0.0
