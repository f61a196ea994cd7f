"""Two epochs of one export train on the same bytes, in another order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from made_trees import asked, make_run, node, story, tree

from agenticlu.data.build import build_dataset
from agenticlu.data.pairs import PairPolicy
from agenticlu.search.store import Store
from agenticlu.training.encode import Encoder, Unit, load_units
from agenticlu.training.trie import build_epoch, group_by_document


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("epochs")
    mixed = (node("a", 1.0), node("b", 0.0, ordinal=1))
    run = make_run(
        root / "run",
        [
            (story(i), tree(*mixed, question=asked(3 * i + j), document=story(i)))
            for i in range(5)
            for j in range(3)
        ],
    )
    with Store(run, writable=False) as store:
        build_dataset(store, root / "data", PairPolicy(validation=0.2))
    return root / "data"


def epoch_bytes(data: Path, stage: str, tokenizer: Any, epoch: int) -> list[bytes]:
    """Every unit in the order in which an epoch meets it: ids and targets, read anew."""
    encoder = Encoder(tokenizer)
    units, report = load_units(data, encoder, stage, "train", max_tokens=8000)  # type: ignore[arg-type]
    assert report.dropped == []
    steps = build_epoch(group_by_document(units), batch=4, per_trie=3, seed=7, epoch=epoch)
    return [content(units[number]) for step in steps for trie in step for number in trie]


def content(unit: Unit) -> bytes:
    return b"|".join(trace.ids.tobytes() + trace.mask.tobytes() for trace in unit.traces)


@pytest.mark.parametrize(("stage", "kind"), [("sft", "sft"), ("dpo", "preference")])
def test_two_epochs_of_one_export_are_byte_equal(data, tokenizer, stage, kind):
    first, second = (epoch_bytes(data, stage, tokenizer, epoch) for epoch in (0, 1))
    rows = pyarrow.parquet.read_table(data / kind / "train.parquet").num_rows
    assert len(first) == rows > 8
    assert Counter(first) == Counter(second)
    assert first != second, "the order is another"
    assert first == epoch_bytes(data, stage, tokenizer, 0)
    assert len(set(first)) == rows, "rows must be told apart for this to say something"
