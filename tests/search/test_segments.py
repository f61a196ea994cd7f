from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest
from scripted_world import CONFIG, TOKENIZER, corpus, engine, plain

from agenticlu.dataset.build import build_dataset
from agenticlu.errors import StoreError
from agenticlu.pairs import PairPolicy
from agenticlu.search.run import Limits, Shard, replay, run_search
from agenticlu.search.segments import merge_runs, seal_run
from agenticlu.store import Store, load_trees

ITEMS = corpus(documents=5)


def search(folder: Path, shard: Shard | None = None, **options) -> None:
    with Store(folder) as store:
        asyncio.run(
            run_search(
                ITEMS, engine(ITEMS), store, CONFIG, tokenizer=TOKENIZER, shard=shard, **options
            )
        )


def export(run: Path, out: Path) -> dict[str, bytes]:
    with Store(run, writable=False) as store:
        build_dataset(store, out, PairPolicy())
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    search(root / "whole")
    for index in range(3):
        search(root / f"shard{index}", Shard(index, 3))
        seal_run(root / f"shard{index}", str(root / "sealed"))
    return root


def test_three_shards_merge_to_the_export_of_one_process(shards: Path, tmp_path: Path):
    sizes = [len(load_trees(shards / f"shard{index}")) for index in range(3)]
    assert sum(sizes) == len(ITEMS)
    assert sum(size > 0 for size in sizes) > 1, "the case must be split"
    merge_runs(tmp_path / "merged", [str(shards / "sealed")])
    assert plain(load_trees(tmp_path / "merged")) == plain(load_trees(shards / "whole"))
    wanted = export(shards / "whole", tmp_path / "a")
    assert export(tmp_path / "merged", tmp_path / "b") == wanted
    assert sum(map(len, wanted.values())) > 0


def test_merging_is_independent_of_order_and_of_duplicates(shards: Path, tmp_path: Path):
    sources = [str(shards / f"shard{index}") for index in range(3)]
    results = set()
    for number, order in enumerate(itertools.permutations(sources)):
        folder = tmp_path / str(number)
        merge_runs(folder, [*order, order[0], str(shards / "sealed")])
        results.add(json.dumps([tree.model_dump(mode="json") for tree in load_trees(folder)]))
        with Store(folder, writable=False) as store:
            results.add(json.dumps([sorted(map(repr, store.rows("call"))), 0]))
    assert len(results) == 2, "one set of trees, one set of calls"


def test_a_merged_run_is_replayed_and_goes_on(shards: Path, tmp_path: Path):
    merge_runs(tmp_path, [str(shards / "sealed")])
    with Store(tmp_path, writable=False) as store:
        trees, _ = asyncio.run(replay(store))
    assert trees == load_trees(tmp_path)
    sampler = engine(ITEMS)
    with Store(tmp_path) as store:
        asyncio.run(run_search(ITEMS, sampler, store, CONFIG, tokenizer=TOKENIZER))
    assert sampler.requests == []


def test_a_half_finished_part_gives_way_to_the_finished_one(shards: Path, tmp_path: Path):
    from agenticlu.errors import BudgetExceededError

    with pytest.raises(BudgetExceededError):
        search(tmp_path / "half", limits=Limits(max_tokens=15_000))
    seal_run(tmp_path / "half", str(tmp_path / "sealed"))
    for number, order in enumerate(((0, 1), (1, 0))):
        sources = [str(tmp_path / "sealed"), str(shards / "whole")]
        merge_runs(tmp_path / f"m{number}", [sources[i] for i in order])
        found = plain(load_trees(tmp_path / f"m{number}"))
        assert found == plain(load_trees(shards / "whole"))


def test_sealing_twice_writes_one_segment(shards: Path, tmp_path: Path):
    first = seal_run(shards / "shard0", str(tmp_path))
    assert seal_run(shards / "shard0", str(tmp_path)) == first
    assert len(list(tmp_path.glob("*.zst"))) == 1
    manifest = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert manifest["rows"] > 10


def test_a_damaged_segment_is_refused(shards: Path, tmp_path: Path):
    path = Path(seal_run(shards / "shard0", str(tmp_path / "s")))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="checksum"):
        merge_runs(tmp_path / "m", [str(path)])


def test_runs_of_other_settings_are_not_merged(shards: Path, tmp_path: Path):
    other = tmp_path / "other"
    with Store(other) as store:
        config = CONFIG.model_copy(update={"seed": 5})
        asyncio.run(run_search(ITEMS[:1], engine(ITEMS), store, config, tokenizer=TOKENIZER))
    with pytest.raises(StoreError, match="seed is 0 and 5"):
        merge_runs(tmp_path / "m", [str(shards / "shard0"), str(other)])


def test_nothing_to_merge_is_an_error(tmp_path: Path):
    with pytest.raises(StoreError, match="cannot be read"):
        merge_runs(tmp_path / "m", [str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="neither"):
        merge_runs(tmp_path / "m", [str(tmp_path / "empty")])


def test_every_document_is_in_exactly_one_shard():
    names = [f"d{i}" for i in range(100)]
    held = [[name for name in names if Shard(i, 7).holds(name)] for i in range(7)]
    assert sorted(itertools.chain(*held)) == sorted(names)
    assert all(held)
