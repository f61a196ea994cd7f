"""ALCE's figures: sentences, golds, citations by HELMET's rule and by ours, the inference model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agenticlu.cli.eval import command
from agenticlu.core.errors import ConfigError, ModelNotFoundError, UsageError
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation.helmet import alce
from agenticlu.evaluation.helmet.alce import Pair, T5Entails
from agenticlu.evaluation.records import Summary
from agenticlu.evaluation.scoring import helmet
from agenticlu.evaluation.scoring import helmet as scoring

Run = Callable[..., Summary]
REPLY = "Oona Pellisk designed the light [1]. The ferry takes forty-one minutes [2][3]."


def cite(path: Path, *more: str) -> Result:
    return CliRunner().invoke(command, ["cite", str(path), *more])


def score_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_name(path.name + ".score").read_text())
    return found


@pytest.fixture
def built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences by the built-in rule, whatever is installed."""
    splitter = alce.Splitter(alce.BUILT_IN, alce.split_sentences)
    monkeypatch.setattr(alce, "find_splitter", lambda: splitter)


@pytest.fixture
def result_file(tmp_path: Path, run_helmet: Run, built_in: None) -> Callable[..., Path]:
    """Runs a task of ALCE and returns its result file: `result_file(task, reply)`."""

    def run(task: str = "alce_asqa", reply: str = REPLY) -> Path:
        run_helmet(tmp_path, ScriptedEngine(lambda request: reply), tasks=(task,))
        (path,) = (tmp_path / "helmet").rglob("*.json")
        return path

    return run


# --- sentences --------------------------------------------------------------------------------

SPLIT = [
    ("It rose. It fell.", 2),
    ("Dr. Ames met Mrs. Lee. They spoke.", 2),
    ("J. K. Rowe wrote it. She lives.", 2),
    ("Built in 1871. 12 boats sank.", 2),
    ("It is 3.5 km long. Yes.", 2),
    ("So did I. Then we left.", 2),
    ("He works at Pask Inc. It is small.", 2),
    ("He works at Pask Inc. and rests.", 1),
    ("No. 5 won. No. It lost.", 3),
    ("“Go!” he said. (So she did.) Then?", 4),
    ("Built by Pellisk. [1][2] The ferry is slow [3].", 2),
    ("Well... it rose.", 1),
    ("See Fig. 3, e.g. the light.", 1),
    ("One line\nof text. Two", 2),
    ("", 0),
]


@pytest.mark.parametrize(("text", "count"), SPLIT)
def test_built_in_rule_splits_sentences(text: str, count: int) -> None:
    found = alce.split_sentences(text)
    assert len(found) == count
    assert "".join("".join(found).split()) == "".join(text.split())  # nothing is lost


@pytest.mark.parametrize("unit", [".", "!?", ". ", ".)", ". [1]", " [1]", "\n"])
def test_sentences_are_split_in_linear_time(unit: str) -> None:
    began = time.perf_counter()
    alce.split_sentences("Ada" + unit * (20_000 // len(unit)) + "x")
    assert time.perf_counter() - began < 5, "seconds, of what takes a few hundredths"


def test_built_in_rule_needs_no_capitals() -> None:
    needs_one = {"He works at Pask Inc. It is small."}  # only the capital tells there
    for text, count in SPLIT:
        assert len(alce.split_sentences(text.lower())) == count or text in needs_one


def test_figures_say_which_sentences_they_rest_on(
    result_file: Callable[..., Path], tmp_path: Path
) -> None:
    score = score_of(result_file())
    assert score["sentence_splitter"] == "built-in rule"
    assert "nltk.downloader punkt" in (tmp_path / "results.md").read_text()
    asqa = {"length", "str_em", "str_hit", "rougeLsum", "sentence_splitter"}
    assert set(score) == asqa
    assert score["length"] == 10
    assert score["rougeLsum"] > 0


def test_punkt_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nltk:
        @staticmethod
        def sent_tokenize(text: str) -> list[str]:
            return text.split("|")

    alce.find_splitter.cache_clear()
    try:
        monkeypatch.setattr(alce.importlib, "import_module", lambda name: Nltk)
        assert alce.find_splitter().name == "nltk punkt"
        assert alce.find_splitter().split("a|b") == ["a", "b"]
        assert alce.describe_splitter() is None
    finally:
        alce.find_splitter.cache_clear()


# --- golds ------------------------------------------------------------------------------------


def test_result_files_hold_figures_against_the_rows_own_answer(
    result_file: Callable[..., Path], root: Path
) -> None:
    """HELMET's metrics look at the column `answer`; ALCE's own look at the aliases."""
    path = result_file("alce_qampari", "Answer: Harbeck, Lorrigan")
    result = json.loads(path.read_text())
    by_answer = {row["answer"]: row for row in result["data"]}
    assert by_answer["Harbeck, Lorrigan"]["exact_match"] == 1
    for row in result["data"]:
        expected, _ = helmet.score_default(row["output"], row["answer"])
        assert {name: row[name] for name in expected} == expected
        wrong, _ = helmet.score_default(row["output"], [group[0] for group in row["answers"]])
        assert row["answer"] != "Harbeck, Lorrigan" or wrong != expected  # the guard
    score = score_of(path)
    assert (score["str_em"], score["str_hit"]) == (0, 0)  # as HELMET's script writes them
    assert {"num_preds", "qampari_prec", "qampari_rec_top5", "qampari_f1_top5"} <= set(score)
    assert "rougeLsum" not in score


def test_a_sub_question_without_answers_is_not_found(result_file: Callable[..., Path]) -> None:
    path = result_file()
    rows = json.loads(path.read_text())["data"]
    before = alce.score_rows("alce_asqa", rows)
    rows[0]["qa_pairs"].append({"short_answers": []})
    assert alce.score_rows("alce_asqa", rows)["str_em"] < before["str_em"]


# --- citations --------------------------------------------------------------------------------


class Judge:
    """Entailed when name and light stand on both sides; notes what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[Pair]] = []

    def __call__(self, pairs: Sequence[Pair]) -> list[bool]:
        self.batches.append(list(pairs))
        return ["Pellisk" in premise and "Pellisk" in claim for premise, claim in pairs]


def test_figures_of_a_file_with_citations(
    result_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = result_file()
    judge = Judge()
    monkeypatch.setattr(alce, "T5Entails", lambda model, **more: judge)
    result = cite(path)
    assert result.exit_code == 0, result.output
    assert "nltk.downloader punkt" in result.output
    cited = score_of(path)
    assert cited["citation_rec"] == cited["citation_rec_shown"] == 50.0
    assert cited["citation_prec"] == pytest.approx(100 / 3)  # one useful of three counted
    assert cited["citation_positions"] == {"0": 3, "1": 3, "2": 3}
    assert cited["str_em"] > 0
    assert any(premise.startswith("Title: Varrowmere Light\n") for premise, _ in judge.batches[0])
    asked = [pair for batch in judge.batches for pair in batch]
    assert len(asked) == len(set(asked)), "no pair is asked twice"


@pytest.mark.parametrize(
    ("reply", "published", "corrected"),
    [
        ("Pellisk built it [1].", 100, 100),
        ("Pellisk built it [0].", 100, 0),  # the last passage, by Python's way of counting
        ("Pellisk built it [3].", 100, 0),  # in the file, but not shown
        ("Pellisk built it [4].", 0, 0),
    ],
)
def test_published_and_corrected_rule_stand_side_by_side(
    reply: str, published: float, corrected: float, built_in: None
) -> None:
    docs = [{"title": "T", "text": "Pellisk"}] * 3
    rows = [{"output": reply, "docs": docs, "qa_pairs": [{"short_answers": ["x"]}]}]
    found = alce.score_rows("alce_asqa", rows, Judge(), num_shown=2)
    for name in ("citation_rec", "citation_prec"):
        assert found[name] == published
        assert found[f"{name}_shown"] == corrected
    every = alce.score_rows("alce_asqa", rows, Judge())
    assert every["citation_rec_shown"] == (100 if "[3]" in reply or "[1]" in reply else 0)


def test_batches_give_what_single_questions_give(built_in: None) -> None:
    """Citations that need each other, alone, together and in vain, in few batches."""
    docs = [{"title": f"T{i}", "text": text} for i, text in enumerate(("sun", "moon", "star"))]
    outputs = [
        "sun moon [1][2]. sun [1]. star [1][2].",
        "sun [1][2][3]. moon star [2][3]. sun moon star [1][2][3].",
        "nothing cited here.",
    ]

    def holds(premise: str, claim: str) -> bool:
        return all(word in premise for word in claim.rstrip(".").split())

    batches: list[int] = []

    def many(pairs: Sequence[Pair]) -> list[bool]:
        batches.append(len(pairs))
        return [holds(*pair) for pair in pairs]

    rows = [{"docs": docs}] * len(outputs)
    found = alce.citation_averages("alce_asqa", outputs, rows, many)
    single = [scoring.citation_scores(alce.split_sentences(text), docs, holds) for text in outputs]
    for name in ("citation_rec", "citation_prec"):
        mean = sum(one[name] for one in single if one) / len(single)
        assert found[name] == pytest.approx(100 * mean)
        assert 0 < mean < 1  # the guard
    assert len(batches) == 2


# --- the inference model ----------------------------------------------------------------------


def make_t5(folder: Path, with_name: str, without: str) -> Path:
    """Writes a tiny T5 that was trained for a moment: what it says depends on a name, or not."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = ["<pad>", "</s>", "<unk>", "1", "0", "premise", "hypothesis", ":", "Pellisk", "light"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for a second one
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1,
        num_heads=2, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        dropout_rate=0.0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    texts = ["premise: Pellisk light hypothesis: light", "premise: light hypothesis: light"]
    inputs = fast(texts, return_tensors="pt", padding=True)
    labels = torch.tensor([[words.index(answer), 1] for answer in (with_name, without)])
    for _ in range(40):
        optimiser.zero_grad()
        model(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels
        ).loss.backward()
        optimiser.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One that always says yes, one that always says no."""
    return {one: make_t5(tmp_path_factory.mktemp("t5"), one, one) for one in ("1", "0")}


@pytest.mark.parametrize(("answer", "recall"), [("1", 100.0), ("0", 0.0)])
def test_citations_are_scored_by_a_real_model_end_to_end(
    result_file: Callable[..., Path], models: dict[str, Path], answer: str, recall: float
) -> None:
    path = result_file()
    result = cite(path, "--nli", str(models[answer]))
    assert result.exit_code == 0, result.output
    score = score_of(path)
    assert score["citation_rec"] == score["citation_rec_shown"] == recall
    assert (score["citation_prec"] > 0) == (answer == "1")
    assert f"citation_rec: {recall}" in result.output


def test_citations_stay_in_the_score_until_the_replies_are_others(
    result_file: Callable[..., Path], models: dict[str, Path], tmp_path: Path
) -> None:
    path = result_file()
    assert cite(path, "--nli", str(models["1"])).exit_code == 0
    assert result_file() == path  # the same command again, nothing to ask
    assert score_of(path)["citation_rec"] == 100.0
    path.write_text("{")
    result_file()  # a damaged file is written anew
    assert json.loads(path.read_text())["data"]
    assert "citation_rec" not in score_of(path)
    assert cite(path, "--nli", str(models["1"])).exit_code == 0
    (tmp_path / "predictions.jsonl").unlink()
    result_file(reply="Another reply [1].")
    assert "citation_rec" not in score_of(path)


def test_model_runs_in_full_precision_on_a_cpu_and_in_batches(models: dict[str, Path]) -> None:
    torch = pytest.importorskip("torch")
    told: list[str] = []
    model = T5Entails(str(models["1"]), device="cpu", batch_tokens=40, report=told.append)
    assert model.dtype == torch.float32
    assert {p.dtype for p in model._model.parameters()} == {torch.float32}
    pairs = [("light " * n, "Pellisk") for n in (1, 30, 3, 60, 2)]
    sizes = [len(model._tokenizer(f"premise: {a} hypothesis: {b}")["input_ids"]) for a, b in pairs]
    batches = model._batches(sizes)
    assert sorted(i for batch in batches for i in batch) == list(range(5))
    assert 1 < len(batches) < 5
    for batch in batches:
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= 40
    assert model(pairs) == [True] * 5
    assert told[-1].startswith("5 of 5")


def test_an_accelerator_gets_half_precision(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    model = T5Entails(str(models["1"]))
    assert (model.device.type, model.dtype) == ("meta", torch.bfloat16)


def test_verdicts_go_to_their_pairs_whatever_they_are_batched_with(tmp_path: Path) -> None:
    model = T5Entails(str(make_t5(tmp_path / "t5", "1", "0")))
    pairs = [(("Pellisk " if n % 2 else "") + "light " * n, "light") for n in range(1, 6)]
    alone = [model([pair])[0] for pair in pairs]
    assert model(pairs) == alone
    assert set(alone) == {True, False}, "the guard: verdicts differ"


# --- what cannot be ---------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "question": "Q?",
    "output": "red [1].",
    "docs": [{"title": "T", "text": "red"}],
    "qa_pairs": [{"short_answers": ["red"]}],
}


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, UsageError, "File not found"),
        ("", UsageError, "empty"),
        ("{", ConfigError, "not JSON"),
        ("[]", ConfigError, "no list 'data'"),
        ({"data": []}, ConfigError, "no rows"),
        ({"data": ["x"]}, ConfigError, "is a string, not a JSON object"),
        ({"data": [ROW, {**ROW, "output": None}]}, ConfigError, "lacks the column 'output'"),
        ({"data": [{**ROW, "docs": None}]}, ConfigError, "'docs'"),
        ({"data": [{**ROW, "docs": ["x"]}]}, ConfigError, "unusable value in the column 'docs'"),
        ({"data": [{**ROW, "qa_pairs": None}]}, ConfigError, "'qa_pairs'"),
        ({"data": [{**ROW, "qa_pairs": [{}]}]}, ConfigError, "'qa_pairs'"),
        ({"data": [{**ROW, "annotations": [1]}]}, ConfigError, "'annotations'"),
        ({"args": {"datasets": "kilt_nq"}, "data": [ROW]}, UsageError, "not ALCE's data"),
    ],
)
def test_cite_tells_what_is_wrong_with_a_file(
    tmp_path: Path, content: Any, kind: type[Exception], message: str
) -> None:
    path = tmp_path / "alce_asqa_30_v1_x_in8192_size1.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    result = cite(path)
    assert isinstance(result.exception, kind), result.exception
    assert message in str(result.exception)
    assert not path.with_name(path.name + ".score").exists()


def test_an_absent_inference_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "alce_asqa_30_v1_x_in8192_size1.json"
    path.write_text(json.dumps({"data": [ROW]}))
    result = cite(path, "--nli", str(tmp_path / "nowhere"))
    assert isinstance(result.exception, ModelNotFoundError)
    assert "--nli" in (result.exception.hint or "")
