from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from made_older import make_older
from made_trees import load_trees
from scripted_world import CONFIG, TOKENIZER, corpus, engine, export, plain

from agenticlu.core.errors import BudgetExceededError, EngineAuthError, StoreError
from agenticlu.core.records import Usage
from agenticlu.data.corpus import build_item
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.judges import build_judges
from agenticlu.search.run import Limits, Shard, replay, run_search
from agenticlu.search.setup import build_panel
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.shards.sealer import seal_run
from agenticlu.search.status import load_status
from agenticlu.search.store import CallId, Store

ITEMS = corpus(documents=5)


def search(folder: Path, shard: Shard | None = None, **options) -> None:
    with Store(folder) as store:
        asyncio.run(
            run_search(
                ITEMS, engine(ITEMS), store, CONFIG, tokenizer=TOKENIZER, shard=shard, **options
            )
        )


def search_one_by_one(folder: Path, refused: int | None = None) -> ScriptedEngine:
    """Searches two documents, a request at a time; refuses the key from some request on."""

    def fault(request: ScriptedRequest) -> EngineAuthError | None:
        return EngineAuthError("bad key") if request.call == refused else None

    sampler = engine(ITEMS, faults=fault)
    limits = Limits(parallel=1, requests_in_flight=1)
    with Store(folder) as store:
        asyncio.run(
            run_search(ITEMS[:2], sampler, store, CONFIG, tokenizer=TOKENIZER, limits=limits)
        )
    return sampler


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
    with pytest.raises(BudgetExceededError):
        search(tmp_path / "half", limits=Limits(max_tokens=15_000))
    seal_run(tmp_path / "half", str(tmp_path / "sealed"))
    for number, order in enumerate(((0, 1), (1, 0))):
        sources = [str(tmp_path / "sealed"), str(shards / "whole")]
        merge_runs(tmp_path / f"m{number}", [sources[i] for i in order])
        found = plain(load_trees(tmp_path / f"m{number}"))
        assert found == plain(load_trees(shards / "whole"))


def test_what_servers_made_necessary_comes_with_each_part(shards: Path, tmp_path: Path):
    sources = []
    for index, words in enumerate((["no seed"], ["no temperature", "no seed"], None)):
        part = tmp_path / f"part{index}"
        shutil.copytree(shards / f"shard{index}", part)
        with Store(part) as store:
            store.put(adapted=words)
        seal_run(part, str(tmp_path / f"sealed{index}"))
        sources.append(str(tmp_path / f"sealed{index}"))
    merge_runs(tmp_path / "m", sources)
    with Store(tmp_path / "m", writable=False) as store:
        assert store.get("adapted") == ["no seed", "no temperature"]


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


def test_a_question_id_must_mean_one_question_in_all_parts(tmp_path: Path):
    for name, thing in (("a", "horse"), ("b", "dog")):
        row = {
            "context": f"Ada has a {thing}. " * 5,
            "question": "What has Ada?",
            "answers": [f"a {thing}"],
            "id": "1",
        }
        items = [build_item(row, 0, "made")]
        with Store(tmp_path / name) as store:
            asyncio.run(run_search(items, engine(items), store, CONFIG, tokenizer=TOKENIZER))
    for order in (("a", "b"), ("b", "a")):
        with pytest.raises(StoreError, match="Question id '1' means another"):
            merge_runs(tmp_path / "".join(order), [str(tmp_path / name) for name in order])


def test_a_merged_run_with_a_model_as_judge_is_replayed(tmp_path: Path):
    critic = ScriptedEngine(lambda request: '{"verdict": "no"}', name="critic")
    config = CONFIG.model_copy(update={"judges": ("exact", "llm")})
    with Store(tmp_path / "run") as store:
        judges = build_judges(config.judges, build_panel([("critic", critic)], store))
        asyncio.run(
            run_search(
                ITEMS[:2],
                engine(ITEMS),
                store,
                config,
                tokenizer=TOKENIZER,
                judges=judges,
            )
        )
    seal_run(tmp_path / "run", str(tmp_path / "sealed"))
    merge_runs(tmp_path / "merged", [str(tmp_path / "sealed")])
    with Store(tmp_path / "merged", writable=False) as store:
        trees, _ = asyncio.run(replay(store))
    assert trees == load_trees(tmp_path / "run")
    assert trees[0].nodes[0].verdicts[1].judge == "llm:critic"


def test_what_differs_only_in_its_source_merges_alike_in_any_order(shards: Path, tmp_path: Path):
    for name, ahead in (("plain", 0), ("moved", 7)):
        items = [replace(item, position=item.position + ahead) for item in ITEMS[:2]]
        source = [
            replace(item, document=item.document.model_copy(update={"source": name}))
            for item in items
        ]
        with Store(tmp_path / name) as store:
            asyncio.run(run_search(source, engine(ITEMS), store, CONFIG, tokenizer=TOKENIZER))
    found = []
    for order in (("plain", "moved"), ("moved", "plain")):
        merge_runs(tmp_path / "-".join(order), [str(tmp_path / name) for name in order])
        with Store(tmp_path / "-".join(order), writable=False) as store:
            tables = ("document", "question", "call", "grounding", "tree", "node")
            found.append({table: list(store.rows(table)) for table in tables})
    assert found[0] == found[1]
    assert len(found[0]["question"]) == 2


def test_damage_does_not_spread_into_a_merge(shards: Path, tmp_path: Path):
    shutil.copytree(shards / "whole", tmp_path / "torn")
    with sqlite3.connect(tmp_path / "torn" / "run.sqlite") as connection:
        connection.execute("UPDATE node SET record = SUBSTR(record, 1, LENGTH(record) / 2)")
    with pytest.raises(StoreError, match="damaged: a row of tree"):
        merge_runs(tmp_path / "merged", [str(tmp_path / "torn")])


def test_half_a_grounding_is_kept_and_never_counted_twice(shards: Path, tmp_path: Path):
    cut, whole = tmp_path / "cut", shards / "whole"
    # The key is refused in the middle of the last grounding.
    refused = [r.call for r in search_one_by_one(tmp_path / "one").requests if r.choices][-3]
    with pytest.raises(EngineAuthError):
        search_one_by_one(cut, refused)
    with Store(cut, writable=False) as store:
        half = sum(row[1] == "ground" and row[5] == "done" for row in store.rows("call"))
    assert half > 1
    sealed = tmp_path / "sealed"
    seal_run(cut, str(sealed))
    merge_runs(tmp_path / "alone", [str(sealed)])
    with Store(cut, writable=False) as before, Store(tmp_path / "alone", writable=False) as after:
        assert after.call_counts()["done"] == before.call_counts()["done"]
    seal_run(whole, str(sealed))
    for name, sources in (("a", [str(sealed)]), ("b", [str(whole), str(cut)])):
        merge_runs(tmp_path / name, sources)
        with Store(whole, writable=False) as one, Store(tmp_path / name, writable=False) as many:
            assert many.call_counts()["done"] == one.call_counts()["done"]


@pytest.mark.parametrize("version", [1, 2])
def test_a_part_of_an_older_version_merges_without_what_it_did_not_count(
    shards: Path, tmp_path: Path, version: int
):
    older = tmp_path / "older"
    shutil.copytree(shards / "shard0", older)
    make_older(older, version)
    merge_runs(tmp_path / "merged", [str(older)])
    with (
        Store(tmp_path / "merged", writable=False) as merged,
        Store(shards / "shard0", writable=False) as whole,
    ):
        for table in ("call", "grounding"):
            known = [not name.startswith("most_") for name in whole.columns(table)]
            found, wanted = (
                [list(itertools.compress(row, known)) for row in rows]
                for rows in (merged.rows(table), whole.rows(table))
            )
            assert found == wanted
        assert list(merged.rows("call")), "else nothing was merged"


def test_what_cut_calls_cost_at_most_is_sealed_and_merged(shards: Path, tmp_path: Path):
    cut, sealed = tmp_path / "cut", tmp_path / "sealed"
    shutil.copytree(shards / "shard0", cut)

    async def lose_calls(store: Store) -> None:
        await store.intend(CallId("lost", "answer", "d"), Usage(prompt_tokens=70))
        await store.intend(CallId("tried twice", "check", "d"), Usage(completion_tokens=8))
        await store.intend(CallId("tried twice", "check", "d"), Usage(completion_tokens=9))
        await store.finish("tried twice", [["yes", "stop", None]], Usage(requests=1))

    with Store(cut) as store:
        asyncio.run(lose_calls(store))
    wanted = {"answer": Usage(prompt_tokens=70), "check": Usage(completion_tokens=8)}
    seal_run(cut, str(sealed))
    assert load_status(str(sealed)).cut == wanted
    for name, sources in (("a", [str(sealed)]), ("b", [str(cut), str(sealed), str(cut)])):
        merge_runs(tmp_path / name, sources)
        with Store(tmp_path / name, writable=False) as merged:
            assert merged.cut_by_phase() == wanted


def test_a_call_that_another_part_finished_is_cut_no_more(shards: Path, tmp_path: Path):
    cut = tmp_path / "cut"
    shutil.copytree(shards / "shard0", cut)
    connection = sqlite3.connect(cut / "run.sqlite")
    changed = connection.execute("UPDATE call SET state = 'intent' WHERE phase != 'ground'")
    assert changed.rowcount
    connection.commit()
    connection.close()
    with Store(cut, writable=False) as store:
        assert store.cut_by_phase()
    merge_runs(tmp_path / "merged", [str(cut), str(shards / "shard0")])
    with Store(tmp_path / "merged", writable=False) as merged:
        assert not merged.cut_by_phase()
        assert merged.call_counts()["intent"] == 0
