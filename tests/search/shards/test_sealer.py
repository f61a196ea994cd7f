from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_trees import load_trees
from scripted_world import CONFIG as WORLD
from scripted_world import TOKENIZER, corpus, engine, export, plain, write_corpus

from agenticlu.cli import group
from agenticlu.core.errors import BudgetExceededError, StoreError
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search import SearchConfig, setup
from agenticlu.search.run import Limits, Shard, run_search
from agenticlu.search.shards import SharedFolder
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.shards.sealer import Sealer
from agenticlu.search.store import Store

ITEMS = corpus(5, 1)
CONFIG = WORLD.model_copy(update={"deepen": 2})
FLAGS = ("--branching", "3", "--depth", "2", "--piece-tokens", "48", "--top-k", "4", "--quiet")


def search(
    folder: Path,
    sealer: Sealer | None = None,
    config: SearchConfig = CONFIG,
    **options: object,
) -> ScriptedEngine:
    """Searches, taking up and sealing; returns the engine that was asked."""
    sampler = engine(ITEMS)
    with Store(folder) as store:
        if sealer is not None:
            sealer.take_up(store)
        asyncio.run(run_search(ITEMS, sampler, store, config, tokenizer=TOKENIZER, **options))
    return sampler


def done_calls(run: Path) -> int:
    with Store(run, writable=False) as store:
        return store.call_counts()["done"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    search(folder)
    return folder


def test_segments_hold_what_is_new_and_together_the_run(whole: Path, tmp_path: Path):
    sealed = str(tmp_path / "sealed")
    sealer = Sealer(tmp_path / "run", sealed)
    rows = []
    for budget in (2500, 5000, 7500, None):
        try:
            limits = Limits(parallel=1, max_tokens=budget)
            search(tmp_path / "run", sealer if not rows else None, limits=limits)
        except BudgetExceededError:
            assert budget is not None
        sealer.seal()
        rows = [one.rows for one in SharedFolder(sealed).manifests()]
    assert len(rows) == 4
    assert sealer.seal() is None, "nothing is new"
    with Store(whole, writable=False) as store:
        total = sum(1 for table in ("call", "grounding", "tree") for _ in store.rows(table))
    assert sum(rows) < 1.6 * total, "what was sealed is not sealed again and again"
    merge_runs(tmp_path / "merged", [sealed])
    assert plain(load_trees(tmp_path / "merged")) == plain(load_trees(whole))
    assert done_calls(tmp_path / "merged") == done_calls(whole)
    merge_runs(tmp_path / "merged", [sealed])
    assert done_calls(tmp_path / "merged") == done_calls(whole)


def test_another_machine_goes_on_where_this_one_was_sealed(whole: Path, tmp_path: Path):
    sealed = str(tmp_path / "sealed")
    first = Sealer(tmp_path / "a", sealed)
    with pytest.raises(BudgetExceededError):
        search(tmp_path / "a", first, limits=Limits(parallel=1, max_tokens=5000))
    first.seal()
    second = Sealer(tmp_path / "b", sealed)
    asked = search(tmp_path / "b", second)
    lost = done_calls(whole) - done_calls(tmp_path / "a")
    assert 0 < lost < done_calls(whole)
    assert len(asked.requests) == lost
    second.seal()
    rows = [one.rows for one in SharedFolder(sealed).manifests()]
    with Store(tmp_path / "b", writable=False) as store:
        assert max(rows) < sum(1 for name in ("call", "grounding") for _ in store.rows(name))
    merge_runs(tmp_path / "merged", [sealed])
    assert export(tmp_path / "merged", tmp_path / "x") == export(whole, tmp_path / "y")


def test_a_shard_takes_up_its_own_and_what_other_counts_hold_of_it(tmp_path: Path):
    sealed = str(tmp_path / "sealed")
    own = []
    for index in range(3):
        sealer = Sealer(tmp_path / f"{index}of3", sealed, Shard(index, 3))
        search(tmp_path / f"{index}of3", sealer, shard=Shard(index, 3))
        sealer.seal()
        own.append(len(load_trees(tmp_path / f"{index}of3")))
    assert sum(number > 0 for number in own) > 1, "the case must be split"
    index = own.index(max(own))
    again = Sealer(tmp_path / "again", sealed, Shard(index, 3))
    asked = search(tmp_path / "again", again, shard=Shard(index, 3))
    assert len(load_trees(tmp_path / "again")) == own[index], "not the other shards'"
    assert asked.requests == []
    for index in range(2):
        sealer = Sealer(tmp_path / f"{index}of2", sealed, Shard(index, 2))
        assert search(tmp_path / f"{index}of2", sealer, shard=Shard(index, 2)).requests == []
    assert sum(len(load_trees(tmp_path / f"{index}of2")) for index in range(2)) == sum(own)


@pytest.mark.parametrize("first", [1, 2])
def test_a_shard_goes_on_under_other_settings_and_its_last_ones_count(tmp_path: Path, first: int):
    sealed = str(tmp_path / "sealed")
    for number, depth in enumerate((first, 3 - first)):
        config = CONFIG.model_copy(update={"depth": depth, "growth": "full"})
        sealer = Sealer(tmp_path / str(number), sealed)
        asked = search(tmp_path / str(number), sealer, config)
        sealer.seal()
    search(tmp_path / "plain", None, config)
    fresh = done_calls(tmp_path / "plain")
    assert len(asked.requests) == (0 if first == 2 else fresh - done_calls(tmp_path / "0")) < fresh
    merge_runs(tmp_path / "merged", [sealed])
    assert plain(load_trees(tmp_path / "merged")) == plain(load_trees(tmp_path / "plain"))
    with Store(tmp_path / "merged", writable=False) as store:
        assert store.get("config")["depth"] == 3 - first


def test_a_target_of_another_search_is_refused_before_anything_is_asked(
    whole: Path, tmp_path: Path, scripted: ScriptedEngine
):
    sealed = str(tmp_path / "sealed")
    sealer = Sealer(whole, sealed)
    with Store(whole) as store:
        sealer.take_up(store)
    sealer.seal()
    done = generate(tmp_path, "run", sealed, "--seed", "5")
    assert isinstance(done.exception, StoreError)
    assert "seed is 5 and 0" in done.exception.message
    assert scripted.requests == []


def test_a_target_that_cannot_be_written_ends_the_run_before_it_begins(
    tmp_path: Path, scripted: ScriptedEngine
):
    done = generate(tmp_path, "run", "nosuch://bucket/segments")
    assert isinstance(done.exception, StoreError)
    assert "nosuch" in done.exception.message
    assert scripted.requests == []
    assert not (tmp_path / "run").exists()


def test_a_target_that_is_away_for_a_while_is_said_and_tried_again(tmp_path: Path, monkeypatch):
    said: list[str] = []
    sealer = Sealer(tmp_path / "run", str(tmp_path / "sealed"), say=said.append)
    search(tmp_path / "run", sealer)
    write, tries = SharedFolder.write, []

    def away_once(self: SharedFolder, *arguments: object) -> str:
        tries.append(len(said))
        if len(tries) == 1:
            raise StoreError("gone")
        return write(self, *arguments)  # type: ignore[arg-type]

    async def work() -> None:
        async with sealer.every(0.001):
            while len(tries) < 2:
                await asyncio.sleep(0.001)

    monkeypatch.setattr(SharedFolder, "write", away_once)
    asyncio.run(work())
    sealer.end(None, None, None)
    assert said == ["not sealed for now: gone"]
    assert len(SharedFolder(str(tmp_path / "sealed")).manifests()) == 1


def test_an_end_that_cannot_seal_never_hides_what_went_wrong(tmp_path: Path, monkeypatch):
    said: list[str] = []
    sealer = Sealer(tmp_path / "run", str(tmp_path / "sealed"), say=said.append)
    sealer.end(None, None, None)  # nothing was begun
    search(tmp_path / "run", sealer)

    def refuse(self: SharedFolder, *arguments: object) -> str:
        raise StoreError("gone")

    monkeypatch.setattr(SharedFolder, "write", refuse)
    sealer.end(ValueError, ValueError("first"), None)
    assert len(said) == 1
    assert said[0].startswith("gone The run itself is complete in")
    with pytest.raises(StoreError, match="gone"):
        sealer.end(None, None, None)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEngine]:
    one = engine(ITEMS)
    monkeypatch.setattr(setup, "load_engine", lambda *args, **options: one)
    monkeypatch.setattr("agenticlu.engines.load_tokenizer", lambda *_, **__: TOKENIZER)
    return one


def generate(root: Path, out: str, sealed: str, *more: str) -> Result:
    items = write_corpus(ITEMS, root / "corpus.jsonl")
    arguments = ["generate", str(items), "--out", str(root / out), "--seal", sealed]
    return CliRunner().invoke(group, [*arguments, *FLAGS, *more])


_DOOMED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from scripted_world import TOKENIZER, corpus, engine
import agenticlu.engines
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search import setup

class Doomed(ScriptedEngine):
    async def _begin(self, *arguments):
        if len(self.requests) >= 150 and os.path.isdir({sealed!r}) and (
            {number} == signal.SIGTERM or any(n.endswith(".json") for n in os.listdir({sealed!r}))
        ):
            os.kill(os.getpid(), {number})
        return await super()._begin(*arguments)

one = engine(corpus(5, 1), kind=Doomed, latency_s=0.002)
setup.load_engine = lambda *args, **options: one
agenticlu.engines.load_tokenizer = lambda *_, **__: TOKENIZER
from agenticlu.cli import main
sys.argv = ["agenticlu", *{arguments!r}]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_after_a_signal_a_fresh_disk_goes_on_with_what_was_sealed(
    whole: Path, tmp_path: Path, scripted: ScriptedEngine, number: signal.Signals
):
    sealed = str(tmp_path / "sealed")
    arguments = ["generate", str(write_corpus(ITEMS, tmp_path / "c.jsonl"))]
    arguments += ["--out", str(tmp_path / "first"), "--seal", sealed, *FLAGS]
    arguments += ["--seal-every", "0.0005" if number == signal.SIGKILL else "10"]
    here = str(Path(__file__).parent)
    script = _DOOMED.format(here=here, sealed=sealed, number=int(number), arguments=arguments)
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=_ENV
    )
    assert child.returncode == (143 if number == signal.SIGTERM else -9), child.stderr
    merge_runs(tmp_path / "survived", [sealed])
    survived = done_calls(tmp_path / "survived")
    assert 0 < survived < done_calls(whole), "the case must be cut in the middle"
    if number == signal.SIGTERM:
        assert survived == done_calls(tmp_path / "first"), "nothing finished is lost"
        assert "terminated" in child.stderr
    done = generate(tmp_path, "second", sealed)
    assert done.exit_code == 0, done.output
    assert len(scripted.requests) == done_calls(whole) - survived
    merge_runs(tmp_path / "merged", [sealed])
    assert export(tmp_path / "merged", tmp_path / "x") == export(whole, tmp_path / "y")


_ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
