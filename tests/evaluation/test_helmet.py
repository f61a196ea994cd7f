"""HELMET's rows, demonstrations, layouts, result files and table against its written rules."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.core.records import Prediction
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.evaluation.config import EvaluationConfig, RunSettings
from agenticlu.evaluation.helmet import SPECS, dataset_name, find_file, load_templates, sampling
from agenticlu.evaluation.helmet.results import CATEGORIES, category_columns, collect
from agenticlu.evaluation.helmet.rows import load_rows
from agenticlu.evaluation.helmet.sources import OMISSION, Llama2, RowRequest
from agenticlu.evaluation.records import load_summary
from agenticlu.evaluation.rescore import score_file
from agenticlu.evaluation.run import run_evaluation
from agenticlu.evaluation.tasks import TaskRequest, load_items

TOKENIZER = ApproximateTokenizer()
IN_FIXTURES = {
    "kilt_nq": 8192,
    "kilt_triviaqa": 8192,
    "kilt_hotpotqa": 8192,
    "kilt_popqa_3": 8192,
    "json_kv": 4096,
    "msmarco_rerank_psg": 8192,
    "alce_asqa": 8192,
    "alce_qampari": 8192,
    "alce_asqa_nocite": 8192,
    "ruler_niah_mk_2": 8192,
    "ruler_niah_mk_3": 8192,
    "ruler_niah_mv": 8192,
    "ruler_vt": 8192,
    "ruler_cwe": 8192,
    "ruler_fwe": 8192,
    "ruler_qa_1": 8192,
    "icl_trec_coarse": 8192,
    "icl_trec_fine": 8192,
    "icl_trec_coarse_natural_label": 8192,
    "icl_trec_coarse_unbalanced": 8192,
    "narrativeqa": 8192,
    "infbench_qa_eng": 8192,
    "infbench_choice_eng": 8192,
    "infbench_sum_eng": 8192,
    "multi_lexsum": 8192,
}


def wanted(root: Path, name: str, **changes: Any) -> RowRequest:
    return RowRequest(**({"name": name, "length": IN_FIXTURES[name], "root": root} | changes))


def rows_in(root: Path, path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / path).read_text().splitlines()]


def seed_of(key: str) -> int:
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2**31


# --- draws ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_permutation_is_that_of_the_datasets_package(size: int) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"i": list(range(size))})
    assert sampling.permutation(size, 42) == rows.shuffle(seed=42)["i"][:]


def test_split_is_that_of_the_datasets_package() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"i": list(range(37))}).train_test_split(
        test_size=0.1, seed=42
    )
    train, test = sampling.train_test_split(list(range(37)), 0.1, 42)
    assert (train, test) == (rows["train"]["i"][:], rows["test"]["i"][:])


def test_balance_gives_every_label_a_place_in_every_round() -> None:
    rows = [(label, i) for i in range(3) for label in "abcd"] + [("e", 0)]
    drawn = sampling.balance(rows, lambda row: row[0], 12, 7)
    assert len(drawn) == 12
    for start in (0, 5):
        assert {label for label, _ in drawn[start : start + 5]} == set("abcde")
    assert [row for row in drawn if row[0] == "e"].count(("e", 0)) >= 2  # repeated when too few
    rng = Random(7)
    assert drawn[0][0] in "abcde"
    first = rng.sample(range(3), 3 % 3) + rng.sample(range(3), 3)
    assert [i for label, i in drawn if label == "a"] == first[
        : len([1 for x in drawn if x[0] == "a"])
    ]


def test_unbalanced_choice_follows_numpys_older_generator() -> None:
    rows = list(range(5))
    np.random.seed(3)
    expected = list(np.random.choice(rows, 5, replace=False))
    expected += list(np.random.choice(rows, 2, replace=False))
    assert sampling.choose_unbalanced(rows, 7, 3) == expected


# --- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", IN_FIXTURES)
def test_every_fixture_loads_as_items(root: Path, name: str, shots: int) -> None:
    options = {"helmet_data": str(root), "shots": shots}
    items = load_items(TaskRequest(name, IN_FIXTURES[name], TOKENIZER, options=options))
    assert items
    for item in items:
        assert item.prompt is not None
        assert item.document.text in item.prompt.user
        assert item.question.answers
        assert item.row is not None
        assert "ctxs" not in item.row


def test_kilt_rows_are_all_depths_of_the_sampled_questions_in_file_order(root: Path) -> None:
    name = "kilt_nq"
    every = rows_in(root, find_file(SPECS[name], 8192))
    questions = [row["question"] for row in every]
    drawn = Random(42).sample(sorted(set(questions)), 1)
    loaded = load_rows(wanted(root, name, num=1)).rows
    assert [row["question"] for row in loaded] == [q for q in questions if q in drawn]
    assert len({row["depth"] for row in loaded}) == len(loaded) == 2  # the guard: two depths
    items = load_items(
        TaskRequest(name, 8192, TOKENIZER, limit=2, options={"helmet_data": str(root)})
    )
    assert len(items) == 4
    assert [item.session for item in items[:2]] == [items[0].session] * 2
    assert (items[0].depth or 0) > (items[1].depth or 0)  # deepest first, to share its prefix


def test_kilt_demonstrations_and_layout(root: Path) -> None:
    row = load_rows(wanted(root, "kilt_nq")).rows[0]
    demos = rows_in(root, SPECS["kilt_nq"].demo_file)
    order = np.random.default_rng(seed_of(row["question"])).permutation(len(demos))
    chosen: dict[str, dict[str, Any]] = {}
    for i in order:
        chosen.setdefault(demos[i]["question"], demos[i])

    def passages(ctxs: list[dict[str, str]]) -> str:
        return "\n\n".join(f"Document (Title: {c['title']}): {c['text']}" for c in ctxs)

    expected = "".join(
        f"{passages(d['ctxs'])}\n\nQuestion: {d['question']}\nAnswer: {d['answers'][0]}\n\n"
        for d in list(chosen.values())[:2]
    )
    assert row["demos"] == expected
    assert row["context"] == passages(row["ctxs"])
    assert row["answer"] == row["answers"]


def test_popqa_keeps_the_unpopular_and_shows_no_demonstration_of_its_own(root: Path) -> None:
    loaded = load_rows(wanted(root, "kilt_popqa_3")).rows
    every = rows_in(root, find_file(SPECS["kilt_popqa_3"], 8192))
    assert 0 < len(loaded) < len(every)
    assert all(math.log10(row["s_pop"]) < 3 for row in loaded)
    for row in loaded:
        assert f"Question: {row['question']}" not in row["demos"]
        assert row["demos"]


def test_json_kv_rows_and_own_demonstrations(root: Path) -> None:
    every = rows_in(root, "data/json_kv/test_k50_dep6.jsonl")
    loaded = load_rows(wanted(root, "json_kv", num=2)).rows
    order = np.random.default_rng(42).permutation(len(every))[:2]
    assert [row["id"] for row in loaded] == [every[i]["id"] for i in order]
    key, value = loaded[0]["demos"].split("\n\n")[0].split("\n")
    assert [key, value] == [
        f"Key: {every[order[0]]['demos'][0][0]}",
        f"Corresponding value: {every[order[0]]['demos'][0][1]}",
    ]
    assert loaded[0]["demos"].endswith("\n\n")
    assert load_rows(wanted(root, "json_kv", shots=0)).rows[0]["demos"] == ""


def test_msmarco_ranks_by_label_and_keeps_equals_in_file_order(root: Path) -> None:
    loaded = load_rows(wanted(root, "msmarco_rerank_psg"))
    row = loaded.rows[0]
    labels = dict(row["qrel"])
    ids = [name for name, _ in row["qrel"]]
    ranked = row["answer"].split(" > ")
    assert [int(labels[i]) for i in ranked] == sorted(map(int, labels.values()), reverse=True)
    zeros = [i for i in ranked if labels[i] == "0"]
    assert zeros == [i for i in ids if labels[i] == "0"]
    assert len(zeros) > 1  # the guard: there are equals
    assert loaded.cuts == (1, 5)
    assert row["context"].startswith(f"[ID: {ids[0]}] Document: ")
    assert "query" not in row
    own = {d["query"] for d in rows_in(root, SPECS["msmarco_rerank_psg"].demo_file)}
    shown = [line[7:] for line in row["demos"].splitlines() if line.startswith("Query: ")]
    assert len(shown) == 2
    assert set(shown) <= own - {row["question"]}


def test_alce_demonstrations_come_from_one_generator_over_the_whole_file(root: Path) -> None:
    every = json.loads((root / "data/alce/asqa_eval_gtr_top2000.json").read_text())
    loaded = load_rows(wanted(root, "alce_asqa", num=2)).rows
    rng = Random(42)
    drawn = [rng.sample(range(4), 2) for _ in every]
    order = np.random.default_rng(42).permutation(len(every))[:2]
    assert [row["question"] for row in loaded] == [every[i]["question"] for i in order]
    bundled = Path(load_rows.__code__.co_filename).with_name("alce_demos.json")
    demos = json.loads(bundled.read_text())["asqa"]
    for row, i in zip(loaded, order, strict=True):
        shown = [line[10:] for line in row["demo_text"].splitlines() if line.startswith("Question")]
        assert shown == [demos[k]["question"] for k in drawn[i]]
        assert row["demo_text"].endswith("\n\n\n")


def test_helmets_own_alce_prompts_are_used_where_they_are(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(root / "data" / "alce", folder / "data" / "alce")
    demo = {"question": "Q?", "answer": "A.", "docs": [{"title": "T", "text": "x"}]}
    prompts = {
        "instruction": "INSTRUCTION",
        "demo_prompt": "{instruction}|{question}|{context}|{answer}",
        "doc_prompt": "<{ID}:{title}:{text}>",
        "demos": [demo] * 4,
    }
    (folder / "prompts").mkdir()
    (folder / "prompts" / "asqa_revised.json").write_text(json.dumps(prompts))
    row = load_rows(wanted(folder, "alce_asqa", shots=1)).rows[0]
    assert row["demo_text"] == "INSTRUCTION|Q?|<1:T:x>|A.\n\n\n"
    assert row["context"].startswith("<1:")


def test_documents_are_cut_to_the_tokens_kept(root: Path) -> None:
    llama = Llama2(root)
    for name, kept in (("narrativeqa", 7892), ("infbench_qa_eng", 7982), ("multi_lexsum", 7492)):
        for row in load_rows(wanted(root, name)).rows:
            assert row["context"].endswith(OMISSION)
            assert llama.count(row["context"]) == kept  # one token per character and the start


def test_short_documents_are_left_out(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(root, folder)
    for name, field in (
        ("narrativeqa/test", "document"),
        ("xinrongzhang2022/infinitebench/longbook_qa_eng", "context"),
    ):
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if field == "document":
            rows[0]["document"]["text"] = rows[0]["document"]["text"][:131071]
        else:
            rows[0]["context"] = rows[0]["context"][:65534]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_rows(wanted(folder, "narrativeqa")).rows) == 2
    assert len(load_rows(wanted(folder, "infbench_qa_eng")).rows) == 2


def test_infbench_choice_turns_the_answer_into_letter_and_option(root: Path) -> None:
    row = load_rows(wanted(root, "infbench_choice_eng")).rows[0]
    letter, spelled = row["answer"]
    option = row["_options"][ord(letter) - ord("A")]
    assert spelled == f"{letter}. {option}"
    assert row["options"].splitlines()[0] == f"A. {row['_options'][0]}"
    assert row["demo"].startswith("For example:\n\n[story text]\nQuestion: ")
    assert row["demo"].count("\nOptions:\nA. ") == 2


def test_demonstrations_helmet_leaves_to_chance_are_repeatable_here(root: Path) -> None:
    for name in ("narrativeqa", "multi_lexsum"):
        once, again = load_rows(wanted(root, name)).rows, load_rows(wanted(root, name)).rows
        assert [row["demo"] for row in once] == [row["demo"] for row in again]
        assert once[0]["demo"]


def test_icl_examples_and_renamed_labels(root: Path) -> None:
    row = load_rows(wanted(root, "icl_trec_coarse")).rows[0]
    seed = (int(hashlib.sha256(row["question"].encode()).hexdigest(), 16) + 42) % 2**31
    renamed = list(range(6))
    Random(seed).shuffle(renamed)
    assert row["answer"] == str(renamed[row["coarse_label"]])
    shown = row["context"].split("\n\n")
    assert len(shown) == 400
    train = {r["text"]: r["coarse_label"] for r in rows_in(root, "CogComp/trec/train.jsonl")}
    for block in shown[:12]:
        text, label = block.split("\nlabel: ")
        assert label == str(renamed[train[text]])
    assert len({block.split("label: ")[1] for block in shown[:6]}) == 6  # one round, every label


def test_ruler_label_restates_the_question(root: Path) -> None:
    options = {"helmet_data": str(root)}
    one = load_items(TaskRequest("ruler_niah_mk_2", 8192, TOKENIZER, options=options))[0]
    many = load_items(TaskRequest("ruler_niah_mv", 8192, TOKENIZER, options=options))[0]
    assert one.prompt is not None
    assert many.prompt is not None
    assert one.prompt.label.endswith(f"{one.row['query']} is")  # type: ignore[index]
    assert many.prompt.label.endswith(" are")
    assert one.prompt.text.endswith("\n" + one.prompt.label)
    assert one.gold_spans is not None
    start, end = one.gold_spans[0]
    assert one.document.text[start:end] == one.question.answers[0]


def test_absent_file_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"test_k105_dep6\.jsonl") as caught:
        load_rows(RowRequest("json_kv", 8192, tmp_path))
    assert "--helmet-data" in (caught.value.hint or "")


def test_too_few_demonstrations_are_an_error(root: Path) -> None:
    with pytest.raises(UsageError, match="demonstrations"):
        load_rows(wanted(root, "kilt_nq", shots=50))


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("icl_trec_fine", 65536, "icl_trec_fine_3200shot_balance"),
        ("infbench_sum_eng", 131072, "infbench_sum_eng_129672"),
        ("alce_asqa", 8192, "alce_asqa_30"),
        ("kilt_popqa_3", 8192, "kilt_popqa_3"),
        ("multi_lexsum", 16384, "multi_lexsum_15684"),
        ("alce_qampari_nocite", 131072, "alce_qampari_nocite_700"),
        ("icl_nlu_natural_label", 8192, "icl_nlu_510shot_balance_natural_label"),
        ("icl_banking77_unbalanced", 4096, "icl_banking77_180shot"),
        ("icl_trec_coarse", 262144, "icl_trec_coarse_13200shot_balance"),
    ],
)
def test_names_carry_helmets_numbers(name: str, length: int, expected: str) -> None:
    assert dataset_name(name, length) == expected


# --- templates --------------------------------------------------------------------------------


def test_own_wordings_replace_ours_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[kilt]\nuser = "MINE {demos}{context} ? {question}"\n')
    templates = load_templates(str(path))
    assert templates["kilt"].user == "MINE {demos}{context} ? {question}"
    assert templates["kilt"].label == "Answer:"
    assert templates["msmarco"] == load_templates()["msmarco"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[klit]\nuser = 'x'", "klit"),
        ("[kilt]\nusr = 'x'", "usr"),
        ("[kilt]\nswitch = 'x'", "Unknown key in .*: 'switch'"),
        ("[kilt", "TOML"),
        ("kilt = 'x'", "must be a table"),
        ("[kilt]\nuser = 5", "must be a string"),
        ("[kilt]\nlabel = ['Answer:']", "must be a string"),
        ("[kilt]\nuser = '{demos}{context}{query}'", r"Unknown field in .*: 'query'"),
        ("[kilt]\nuser = '{demos}{context}{question}{}'", r"Unknown field in .*: ''"),
        ("[kilt]\nuser = '{demos}{context}{question.text}'", "Unknown field"),
        ("[kilt]\nuser = '{demos}{context}{question} {'", "not a valid format string"),
        ("[kilt]\nuser = '{demos}{question}'", r"lacks \{context\}"),
        ("[kilt]\nuser = '{context}'", r"lacks \{demos\}, \{question\}"),
        ("[kilt]\nask = '{context}{question}'", r"Unknown field in .*: 'context'"),
        ("[niah]\nlabel = 'The {num_v} is'", r"Unknown field in .*: 'num_v'"),
    ],
)
def test_wrong_templates_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_templates(str(path))


def test_templates_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes("[kilt]\nuser = 'Grüße'".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        load_templates(str(path))
    with pytest.raises(ConfigError, match="Cannot read"):
        load_templates(str(tmp_path / "absent.toml"))


def test_every_bundled_template_could_be_given_as_ones_own(tmp_path: Path) -> None:
    """Wordings that fill the same fields, such as HELMET's, pass the checks."""
    bundled = Path(load_rows.__code__.co_filename).with_name("templates.toml")
    assert load_templates(str(bundled)) == load_templates()


# --- runs and result files --------------------------------------------------------------------


def evaluate(root: Path, out: Path, engine: ScriptedEngine, **changes: Any) -> None:
    base: dict[str, Any] = {
        "tasks": ("kilt_nq",),
        "methods": ("helmet",),
        "lengths": (8192,),
        "label": "scripted",
        "piece_tokens": 64,
        "options": {"helmet_data": str(root)},
    }
    config = EvaluationConfig.model_validate(base | changes)
    settings = RunSettings(config, load_profile(), TOKENIZER)
    asyncio.run(run_evaluation(settings, engine, out))


def right_answer(root: Path, name: str) -> Any:
    answers = {
        row["question"]: row["answers"][0]
        for row in rows_in(root, find_file(SPECS[name], IN_FIXTURES[name]))
    }

    def reply(request: ScriptedRequest) -> str:
        asked = next(q for q in answers if f"Question: {q}" in request.messages[-1].content[-400:])
        return answers[asked]

    return reply


def test_result_file_has_helmets_name_layout_and_figures(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path, ScriptedEngine(right_answer(root, "kilt_nq")))
    name = (
        "kilt_nq_v1_nq-dev-multikilt_1000_k50_dep6_in8192_size100_shots2_sampFalsemax20min0"
        "t0.0p1.0_chatFalse_42.json"
    )
    result = json.loads((tmp_path / "helmet" / "scripted" / name).read_text())
    assert set(result) >= {"args", "data", "metrics", "averaged_metrics", "throughput"}
    assert result["averaged_metrics"]["substring_exact_match"] == 100.0
    assert result["averaged_metrics"]["input_len"] == np.mean(result["metrics"]["input_len"])
    row = result["data"][0]
    assert row["output"] == "Answer:" + row["answer"][0]  # what continues the label, as it came
    assert {"question", "answer", "parsed_output", "output_len", "rougeL_f1"} <= set(row)
    assert not {"ctxs", "context"} & set(row)
    score = json.loads((tmp_path / "helmet" / "scripted" / f"{name}.score").read_text())
    assert score == result["averaged_metrics"]


def test_every_fixture_runs_through_helmets_prompt_and_the_dialogue(
    root: Path, tmp_path: Path
) -> None:
    for name, length in IN_FIXTURES.items():
        engine = ScriptedEngine()
        evaluate(
            root,
            tmp_path / name,
            engine,
            tasks=(name,),
            lengths=(length,),
            methods=("helmet", "clarify"),
            limit=1,
            max_tokens=64,
        )
        summary = load_summary(tmp_path / name)
        assert summary.num_failed == 0, (name, summary.failures)
        assert {cell.method for cell in summary.cells} == {"helmet", "clarify"}
        files = list((tmp_path / name / "helmet").rglob("*.json"))
        assert len(files) == 2, name
        for path in files:
            content = json.loads(path.read_text())
            assert content["averaged_metrics"]
            scored = score_file(path)  # our reader reads it back
            assert scored.num_scored == len(content["data"])


def test_rescoring_a_result_file_gives_its_own_figures(root: Path, tmp_path: Path) -> None:
    replies = {"Rank": "Ranking: 1 > 2", "label": "label: 3"}
    for name in ("kilt_nq", "msmarco_rerank_psg", "ruler_vt", "icl_trec_coarse", "json_kv"):
        evaluate(
            root,
            tmp_path / name,
            ScriptedEngine(replies),
            tasks=(name,),
            lengths=(IN_FIXTURES[name],),
        )
        (path,) = (tmp_path / name / "helmet").rglob("*.json")
        averages = json.loads(path.read_text())["averaged_metrics"]
        for metric, found in score_file(path).metrics.items():
            if metric in averages:
                assert 100 * found.mean == pytest.approx(averages[metric], abs=1e-9)


# --- aggregation ------------------------------------------------------------------------------


def test_collected_table_shows_what_is_missing(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path, ScriptedEngine(right_answer(root, "kilt_nq")))
    (row,) = collect([tmp_path / "helmet" / "scripted"])
    assert row.values == {"nq substring_exact_match": 100.0}
    assert row.categories["RAG"] is None
    assert row.average is None
    assert "hotpotqa substring_exact_match" in row.missing


def test_category_means_and_ours(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    names = {
        "json_kv": "json_kv",
        "nq": "kilt_nq",
        "hotpotqa": "kilt_hotpotqa",
        "popqa": "kilt_popqa_3",
        "triviaqa": "kilt_triviaqa",
        "narrativeqa": "narrativeqa_130772",
        "infbench_qa": "infbench_qa_eng_130862",
        "infbench_choice": "infbench_choice_eng_130862",
        "infbench_sum": "infbench_sum_eng_129672",
        "multi_lexsum": "multi_lexsum_130372",
    }
    value = 0.0
    expected: dict[str, list[float]] = {}
    scales = {"gpt-4-score": 100 / 3, "gpt-4-f1": 100}
    for category in CATEGORIES:
        for column in category_columns(category):
            dataset, metric = column.rsplit(" ", 1)
            value += 1
            stem = f"{names.get(dataset, dataset)}_v1__in131072_size100_shots2.json"
            path = folder / stem
            averages = json.loads(path.read_text())["averaged_metrics"] if path.exists() else {}
            averages[metric] = value
            path.write_text(json.dumps({"averaged_metrics": averages}))
            expected.setdefault(category, []).append(value * scales.get(metric, 1))
    (row,) = collect([folder])
    assert row.missing == ()
    means = {name: sum(found) / len(found) for name, found in expected.items()}
    assert row.categories == pytest.approx(means)
    assert row.average == pytest.approx(sum(means.values()) / 7)


def test_judged_and_score_files_go_first_and_doubles_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    stem = "narrativeqa_7892_v1__in8192_size100_x"
    plain = {"averaged_metrics": {"gpt-4-score": 1.0}}
    (folder / f"{stem}.json").write_text(json.dumps(plain))
    judged = {"averaged_metrics": {"gpt-4-score": 3.0}}
    (folder / f"{stem}-gpt4eval_o.json").write_text(json.dumps(judged))
    (row,) = collect([folder])
    assert row.values["narrativeqa gpt-4-score"] == pytest.approx(100.0)
    (folder / "narrativeqa_7892_v2__in8192_size50_x.json").write_text(json.dumps(plain))
    with pytest.raises(UsageError, match="Two files") as caught:
        collect([folder])
    assert "Move one of them away" in (caught.value.hint or "")
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / f"{stem}.json").write_text(json.dumps(plain))
    (folder / "narrativeqa_7892_v2__in8192_size50_x.json").unlink()
    with pytest.raises(UsageError, match="Two files") as caught:
        collect([tmp_path])  # the folder above those of two models
    assert str(tmp_path / "n") in (caught.value.hint or "")


def test_collected_rows_that_stand_behind_no_mean_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    stem = "narrativeqa_7892_v1__in8192_size100_x"
    rows: list[dict[str, Any]] = [{"output": "a"}, {"output": "b"}, {"output": "c"}]
    result = {"data": rows, "averaged_metrics": {"gpt-4-score": 1.0}}
    (folder / f"{stem}.json").write_text(json.dumps(result))
    (row,) = collect([folder])
    assert row.losses == ()
    verdicts = [{**rows[0], "gpt-4-scores": {"fluency": 1.0, "correctness": 3.0}}]
    judged = {**result, "data": [*verdicts, {**rows[1], "gpt-4-scores": None}]}
    (folder / f"{stem}-gpt4eval_o.json").write_text(json.dumps(judged))
    lossy = {**result, "num_failed": 2, "num_truncated": 1}
    (folder / f"{stem}.json").write_text(json.dumps(lossy))
    (row,) = collect([folder])
    assert row.losses == ("narrativeqa: of 5 rows 2 failed, 1 truncated, 2 without a verdict",)
    shown = CliRunner().invoke(command, ["collect", str(folder)])
    assert "m at 8192, narrativeqa: of 5 rows 2 failed" in shown.stdout


def test_collect_command_prints_the_table(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path, ScriptedEngine(right_answer(root, "kilt_nq")))
    arguments = ["collect", str(tmp_path / "helmet" / "scripted"), "--every"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "nq substring_exact_match" in result.output
    assert "100.0" in result.output


# --- scoring saved replies --------------------------------------------------------------------


def test_score_command_on_plain_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"prediction": "Answer: Paris", "answers": ["paris"], "document_id": "a"},
        {"prediction": "I know", "answers": ["no"], "document_id": "a"},
        {"output": "The answer is (B).", "answers": ["blue"], "options": ["red", "blue"]},
        {"output": "no gold"},
        {"answers": ["no prediction"], "id": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = score_file(path)
    assert (scored.num_scored, scored.num_unscored) == (3, 2)
    assert scored.metrics["correct"].mean == pytest.approx(2 / 3)
    assert scored.metrics["substring_exact_match"].mean == pytest.approx(2 / 3)
    assert scored.metrics["word_match"].mean == 0.5
    result = CliRunner().invoke(command, ["score", str(path), "--out", str(tmp_path / "rows")])
    assert type(result.exception).__name__ == "IncompleteRunError"
    assert "line 4: no gold answer" in result.output
    assert "line 5 (x): no prediction" in result.output
    assert len((tmp_path / "rows").read_text().splitlines()) == 5


def test_score_reads_our_own_predictions(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path, ScriptedEngine(right_answer(root, "kilt_nq")), methods=("direct",))
    path = tmp_path / "predictions.jsonl"
    scored = score_file(path)
    assert scored.kind == "predictions"
    line = Prediction.model_validate_json(path.read_text().splitlines()[0])
    assert scored.rows[0].scores["substring_exact_match"] == line.scores["substring_exact_match"]


@pytest.mark.parametrize(("content", "kind"), [("", UsageError), ("{broken\n", ConfigError)])
def test_score_refuses_what_is_no_file_of_predictions(
    tmp_path: Path, content: str, kind: type[Exception]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(kind):
        score_file(path)
