"""Rows load unchanged in TRL, and one step of each trainer runs on the bundled model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from made_trees import asked, make_run, node, story, tree

from agenticlu.data.build import build_dataset, collect_facts
from agenticlu.data.card import write_card
from agenticlu.data.corpus import build_item
from agenticlu.data.pairs import PairPolicy
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search import SearchConfig
from agenticlu.search.run import run_search
from agenticlu.search.store import Store

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rows")
    items = [
        build_item(
            {
                "context": f"Book {book}. Ada keeps a horse. Ben lives in town {book}.",
                "question": "What does Ada keep?",
                "answers": ["a horse"],
            },
            book,
            "made",
        )
        for book in range(3)
    ]

    def reply(request):
        if "Answer:" not in request.last:
            return None
        return f"Answer: {'a horse' if int(request.key, 16) % 2 else 'a dog'}"

    config = SearchConfig(branching=3, depth=1, piece_tokens=20)
    with Store(root / "run") as store:
        engine = ScriptedEngine(reply, lambda request: "yes")
        asyncio.run(run_search(items, engine, store, config, tokenizer=ApproximateTokenizer()))
        build_dataset(store, root / "data", PairPolicy())
    return root / "data"


def load(folder: Path, kind: str):
    files = str(folder / kind / "train.parquet")
    cache = str(folder.parent / "cache")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)


def test_the_card_leads_the_library_to_the_files(tmp_path: Path):
    """Also where one kind of rows is missing: an empty config would be refused."""
    both = tree(node("a", 1.0), node("b", 1.0, ordinal=1), question=asked(0), document=story(0))
    run = make_run(tmp_path / "run", [(story(0), both)])
    with Store(run, writable=False) as store:
        summary = build_dataset(store, tmp_path / "data", PairPolicy())
        write_card(tmp_path / "data", summary, None, run=collect_facts(store))
    loaded = datasets.load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert "targets" not in loaded["train"].column_names, "every reply is to be learned"
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 1}


def test_the_published_columns_come_first(folder: Path):
    rows = load(folder, "preference")
    published = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    assert rows.column_names[:5] == published
    assert rows.features["score_chosen"].dtype == "float64"
    for row in rows:
        assert [m["role"] for m in row["chosen"]] == ["assistant"]
        assert row["prompt"][-1]["role"] == "user"


def settings(tmp_path: Path) -> dict[str, object]:
    return {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "bf16": False,
        "disable_tqdm": True,
    }


def test_one_sft_step_in_trl(folder: Path, tmp_path: Path, tiny_model_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_path),
        args=trl.SFTConfig(**settings(tmp_path)),
        train_dataset=load(folder, "plain").select_columns(["messages"]),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_path),
    )
    assert trainer.train().training_loss > 0


def test_one_dpo_step_in_trl(folder: Path, tmp_path: Path, tiny_model_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_path),
        ref_model=AutoModelForCausalLM.from_pretrained(tiny_model_path),
        args=trl.DPOConfig(**settings(tmp_path)),
        train_dataset=load(folder, "preference").select_columns(["prompt", "chosen", "rejected"]),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_path),
    )
    assert trainer.train().training_loss == pytest.approx(0.693, abs=0.02)
