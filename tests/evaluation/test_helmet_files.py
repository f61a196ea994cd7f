"""HELMET's files beyond the plain ones: other forms of its tasks, other layouts, broken ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.evaluation.helmet import SPECS, dataset_name, find_file, render_msmarco, sampling
from agenticlu.evaluation.helmet.alce import score_rows
from agenticlu.evaluation.helmet.results import collect
from agenticlu.evaluation.helmet.rows import load_rows
from agenticlu.evaluation.helmet.sources import (
    OMISSION,
    Llama2,
    RowRequest,
    load_key_points,
    load_split,
    read_rows,
)
from agenticlu.evaluation.records import DoesNotFitError
from agenticlu.evaluation.tasks import TaskRequest, load_items

FIXTURES = Path(__file__).parent / "fixtures" / "helmet"
TOKENIZER = ApproximateTokenizer()
INFINITEBENCH = "xinrongzhang2022/infinitebench"


def load(name: str, root: Path, length: int = 8192, **options: Any) -> list[Any]:
    options["helmet_data"] = str(root)
    return load_items(TaskRequest(name, length, TOKENIZER, options=options))


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub data sets of long documents, one long document each."""
    root = tmp_path_factory.mktemp("books")
    for folder in ("allenai", "narrativeqa", "xinrongzhang2022", "meta-llama"):
        shutil.copytree(FIXTURES / folder, root / folder)
    for name, size in (
        ("allenai/multi_lexsum/validation", 66000),
        ("narrativeqa/test", 132000),
        (f"{INFINITEBENCH}/longbook_qa_eng", 66000),
    ):
        path = root / f"{name}.jsonl"
        row = rows_in(path)[0]
        if "sources" in row:
            row["sources"] = ["x" * size]
        elif "document" in row:
            row["document"]["text"] = "y" * size
        else:
            row["context"] = "z" * size
        write(path, [row])
    return root


# --- forms of a task --------------------------------------------------------------------------


def test_natural_labels_keep_their_names() -> None:
    (row, *_) = load_rows(RowRequest("icl_trec_coarse_natural_label", 8192, FIXTURES)).rows
    names = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
    assert row["answer"] == names[row["coarse_label"]]
    shown = [block.split("\nlabel: ")[1] for block in row["context"].split("\n\n")]
    assert len(shown) == 400
    assert set(shown[:6]) == set(names)  # balanced


def test_unbalanced_examples_are_drawn_without_regard_to_labels() -> None:
    row = load_rows(RowRequest("icl_trec_coarse_unbalanced", 8192, FIXTURES)).rows[0]
    train = read_rows(FIXTURES / "CogComp/trec/train.jsonl")
    seed = (sampling.text_seed(row["question"]) + 42) % 2**31
    first = train[int(np.random.RandomState(seed).permutation(len(train))[0])]
    assert row["context"].startswith(f"{first['text']}\nlabel: ")
    assert row["answer"] == str(sampling.renamed_labels(6, seed)[row["coarse_label"]])
    balanced = load_rows(RowRequest("icl_trec_coarse", 8192, FIXTURES)).rows[0]
    assert balanced["context"] != row["context"]


def test_label_names_that_are_not_known_are_an_error(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "CogComp", tmp_path / "CogComp")
    (tmp_path / "CogComp" / "trec" / "README.md").unlink()
    assert load_rows(RowRequest("icl_trec_coarse", 4096, tmp_path)).rows
    with pytest.raises(UsageError, match="Label names not found"):
        load_rows(RowRequest("icl_trec_coarse_natural_label", 4096, tmp_path))


@pytest.mark.parametrize("name", ["alce_asqa", "alce_qampari"])
def test_alce_without_citations(name: str) -> None:
    spec = SPECS[f"{name}_nocite"]
    assert (spec.gen_tokens, spec.shots, spec.chat) == (600, 0, True)
    cited, bare = load(name, FIXTURES), load(f"{name}_nocite", FIXTURES)
    assert [item.question.answers for item in bare] == [item.question.answers for item in cited]
    assert bare[0].document.text == cited[0].document.text
    assert bare[0].rule == cited[0].rule
    prompt = bare[0].prompt
    assert "[1]" not in prompt.user.replace("Document [1]", "")
    assert "cite" not in prompt.user.lower().replace(prompt.context.lower(), "")
    assert prompt.user.startswith("Instruction: ")
    shown = load(f"{name}_nocite", FIXTURES, shots=2)[0].prompt.fields["demo_text"]
    assert shown.count("Answer: ") == 2
    assert not [line for line in shown.splitlines() if line.startswith("Answer") and "[" in line]
    rows = [{**item.row, "docs": [], "output": "nothing"} for item in bare]
    assert score_rows(f"{name}_nocite", rows)[spec.headline] == 0.0


def test_helmets_own_prompts_without_citations_are_used(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "data" / "alce", tmp_path / "data" / "alce")
    path = tmp_path / "prompts" / "asqa_nocite.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"instruction": "PLAIN", "demos": []}))
    row = load_rows(RowRequest("alce_asqa_nocite", 8192, tmp_path)).rows[0]
    assert row["instruction"] == "PLAIN"
    with pytest.raises(UsageError, match="only 0 can be drawn"):
        load_rows(RowRequest("alce_asqa_nocite", 8192, tmp_path, shots=1))
    path.write_text('["PLAIN"]')
    with pytest.raises(ConfigError, match="'instruction' and 'demos'"):
        load_rows(RowRequest("alce_asqa_nocite", 8192, tmp_path))


def test_other_forms_stay_out_of_helmets_table(tmp_path: Path) -> None:
    names = ("icl_trec_coarse", "icl_trec_coarse_natural_label", "icl_trec_coarse_unbalanced")
    for i, name in enumerate((*names, "alce_asqa", "alce_asqa_nocite")):
        stem = f"{dataset_name(name, 8192)}_v1_x_in8192_size100_shots2.json"
        averages = {"exact_match": float(i), "str_em": float(i)}
        (tmp_path / stem).write_text(json.dumps({"averaged_metrics": averages}))
    (row,) = collect([tmp_path])
    expected = {"trec_coarse exact_match": 0.0, "alce_asqa str_em": 3.0}
    assert row.values == {**expected, "alce_asqa_nocite str_em": 4.0}
    assert "alce_asqa_nocite str_em" not in row.missing


# --- longer than the ladder -------------------------------------------------------------------


def test_longer_lengths_say_which_file_they_want(tmp_path: Path) -> None:
    small = FIXTURES / find_file(SPECS["kilt_nq"], 8192)
    folder = tmp_path / "data" / "kilt"
    folder.mkdir(parents=True)
    shutil.copy(small, folder)
    with pytest.raises(UsageError, match=r"nq-dev-multikilt_1000_k2000_dep6\.jsonl") as caught:
        load("kilt_nq", tmp_path, 262144, shots=0)
    assert f"Similar files there: {small.name}." in caught.value.message
    shutil.copy(small, folder / "nq-dev-multikilt_1000_k2000_dep6.jsonl")
    assert load("kilt_nq", tmp_path, 262144, shots=0)
    with pytest.raises(UsageError, match="then doubling"):
        load("kilt_nq", tmp_path, 200000)


def test_alce_shows_no_fewer_passages_than_a_longer_length_wants() -> None:
    with pytest.raises(UsageError, match="needs 1400 passages"):
        load("alce_asqa", FIXTURES, 262144)


# --- demonstrations ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alce_asqa", "json_kv", "msmarco_rerank_psg"])
def test_more_demonstrations_than_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"only \d+ can be drawn") as caught:
        load(name, FIXTURES, 4096 if name == "json_kv" else 8192, shots=9)
    assert (caught.value.hint or "").startswith("Try --shots ")


@pytest.mark.parametrize("name", ["narrativeqa", "multi_lexsum", "infbench_qa_eng"])
def test_books_show_all_demonstrations_or_say_so(name: str, books: Path) -> None:
    with pytest.raises(UsageError, match=r"only \d+ can be drawn"):
        load(name, books, shots=9)
    assert load(name, books, shots=0)


@pytest.mark.parametrize("name", ["narrativeqa", "multi_lexsum"])
def test_repeatable_demonstrations_come_with_their_seed(name: str, books: Path) -> None:
    train = "narrativeqa" if name == "narrativeqa" else "allenai/multi_lexsum"
    for row in load_rows(RowRequest(name, 8192, books, shots=1)).rows:
        first = sampling.shuffled(read_rows(books / train / "train.jsonl"), row["seed"])[0]
        question = first.get("question")
        assert (question["text"] if question else first["summary/short"]) in row["demo"]


def test_titles_of_demonstrations_follow_the_question() -> None:
    passages = [{"id": "1", "text": "x", "title": "T"}]
    assert render_msmarco(passages, titled=False) == "[ID: 1] Document: x"
    assert render_msmarco(passages, titled=True) == "[ID: 1] Document (Title: T): x"


# --- cutting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["narrativeqa", "multi_lexsum", "infbench_qa_eng"])
def test_lengths_with_no_room_for_a_document_are_refused(name: str, books: Path) -> None:
    marker = Llama2(books).count(OMISSION)
    reserved = 8192 - int(dataset_name(name, 8192).rpartition("_")[2])
    for length in (200, reserved, reserved + marker):
        with pytest.raises(DoesNotFitError):
            load(name, books, length, shots=0)
    (item, *_) = load(name, books, reserved + marker + 1, shots=0)
    assert item.document.text[1:] == OMISSION  # one token of the book


# --- reading ----------------------------------------------------------------------------------


def test_infinitebench_is_read_by_the_datasets_package_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a JSON file per split in sight: one folder of data files, as some mirrors have it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / INFINITEBENCH
    folder.mkdir(parents=True)
    for kind in ("qa", "choice", "sum"):
        split = f"longbook_{kind}_eng"
        shutil.copy(FIXTURES / INFINITEBENCH / f"{split}.jsonl", folder / f"{split}-0.jsonl")
    lines = [
        f"  - split: longbook_{kind}_eng\n    path: longbook_{kind}_eng-*\n"
        for kind in ("qa", "choice", "sum")
    ]
    head = f"---\nconfigs:\n- config_name: default\n  data_files:\n{''.join(lines)}---\n"
    (folder / "README.md").write_text(head)
    with pytest.raises(datasets.exceptions.DatasetGenerationError):  # the guard: guessing fails
        datasets.load_dataset(str(folder), split="longbook_qa_eng")
    rows = load_split(tmp_path, INFINITEBENCH, "longbook_qa_eng")
    expected = rows_in(FIXTURES / INFINITEBENCH / "longbook_qa_eng.jsonl")
    assert [(row["id"], row["answer"]) for row in rows] == [
        (row["id"], row["answer"]) for row in expected
    ]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "empty cache")
    torn = tmp_path / "torn"
    shutil.copytree(folder, torn / INFINITEBENCH)
    (torn / INFINITEBENCH / "longbook_qa_eng-0.jsonl").write_text("{torn\n")
    with pytest.raises(UsageError, match="Cannot find the split 'longbook_qa_eng'") as caught:
        load_split(torn, INFINITEBENCH, "longbook_qa_eng")
    assert "one JSONL file per split" in (caught.value.hint or "")


def test_a_data_set_that_is_nowhere_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(UsageError, match="split 'train' of the data set 'PolyAI/banking77'"):
        load("icl_banking77", tmp_path)


def test_the_split_of_the_right_configuration_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "clinc_oos"
    for name in ("small", "plus"):
        write(folder / f"{name}.jsonl", [{"text": name, "intent": 0}])
    head = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.jsonl\n"
        for name in ("small", "plus")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{head}---\n")
    assert load_split(tmp_path, "clinc_oos", "train", "plus")[0]["text"] == "plus"
    assert load_split(tmp_path, "clinc_oos", "train", "small")[0]["text"] == "small"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"{broken\n", r"Line 1 of .* is not JSON"),
        (b"[1]\n", "Entry 1 of .* is a number, not a JSON object"),
        ('{"question": "Grüße"}'.encode("latin-1"), "not UTF-8"),
        (b'{"question": "q"}\n', "lacks the column 'demos'"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / find_file(SPECS["json_kv"], 4096)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load("json_kv", tmp_path, 4096)
    assert path.name in caught.value.message


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"data": 1}'])
def test_broken_lists_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"list\.json"):
        read_rows(path)


def test_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a tokenizer file"):
        Llama2(tmp_path, str(tmp_path))


def test_key_points_without_their_column_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data" / "infbench" / "longbook_sum_eng_keypoints.jsonl"
    write(path, [{"id": 1}])
    with pytest.raises(ConfigError, match="'keypoints'"):
        load_key_points(tmp_path, "infbench_sum_eng")


# --- what fits --------------------------------------------------------------------------------


def test_dry_run_tells_what_does_not_fit() -> None:
    arguments = ["--dry-run", "--task", "cwe,niah_single_1", "--lengths", "512,2k", "--limit", "2"]
    arguments += ["--model", str(BUNDLED_MODEL), "--methods", "direct"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "cwe does not fit into 512 tokens. It would be left out." in result.output
    shown = [line.split("|")[1:3] for line in result.output.splitlines() if "| direct" in line]
    cells = [(task.strip(), int(length)) for task, length in shown]
    assert cells == [("cwe", 2048), ("niah_single_1", 512), ("niah_single_1", 2048)]
    result = CliRunner().invoke(command, [*arguments, "--json"])
    assert len(json.loads(result.output)["left_out"]) == 1
    assert math.isclose(json.loads(result.output)["rows"][0]["num_items"], 2)
