from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import scripted_world
from click.testing import CliRunner
from made_trees import load_trees
from scripted_world import TOKENIZER, corpus, engine, export, plain, write_corpus

from agenticlu.cli import group
from agenticlu.core.errors import (
    BudgetExceededError,
    EngineBusyError,
    EngineError,
    EngineReplyError,
    StoreError,
)
from agenticlu.engines.base import Engine, Health
from agenticlu.engines.retry import LimitedEngine
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search import SearchConfig, setup
from agenticlu.search.run import Limits, Listener, run_search
from agenticlu.search.setup import EngineChoice
from agenticlu.search.shards import SharedFolder
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.shards.ray import (
    RayJob,
    Worker,
    _exiting_on_sigterm,
    hash_task,
    search_on_ray,
)
from agenticlu.search.status import Heartbeat, load_status
from agenticlu.search.store import Store

ITEMS = corpus(4, 2)
CONFIG = SearchConfig(branching=2, depth=1, piece_tokens=48)


@dataclass(frozen=True)
class Scripted(EngineChoice):
    """Chooses the scripted engine; keeps those that were made."""

    made: list[ScriptedEngine] = field(default_factory=list)
    faults: Callable[[ScriptedRequest], BaseException | None] | None = None

    def load_limited(self, limits: Limits, say: Any) -> LimitedEngine:
        self.made.append(engine(ITEMS, right_share=0.3, faults=self.faults))
        return LimitedEngine(self.made[-1], limits.build_limiter(say))

    def tokenizer(self, name: str | None = None) -> Any:
        return TOKENIZER

    @property
    def asked(self) -> int:
        return sum(len(one.requests) for one in self.made)


class TaskError(Exception):
    """Ray's wrapping of what a task raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class RayError(Exception):
    """Base of what Ray itself raises."""


class Remote:
    """An actor in this process: a call runs at once, to its end."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> tuple[Any, BaseException | None]:
            try:
                return asyncio.run(getattr(self._target, name)(*arguments)), None
            except Exception as error:
                return None, error

        return types.SimpleNamespace(remote=lambda *arguments: Ref(remote(*arguments)))


class Ref:
    """What a call will have come to."""

    def __init__(self, ended: tuple[Any, BaseException | None]) -> None:
        self.ended = ended


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stands for Ray with the calls that the package makes."""

    def get(ref: Ref) -> Any:
        value, error = ref.ended
        if error is not None:
            raise TaskError(error)
        return value

    ray = types.ModuleType("ray")
    ray.is_initialized = lambda: True  # type: ignore[attr-defined]
    ray.remote = lambda **options: (  # type: ignore[attr-defined]
        lambda kind: types.SimpleNamespace(remote=lambda *args: Remote(kind(*args)))
    )
    ray.wait = (
        lambda refs, num_returns, timeout: (  # type: ignore[attr-defined]
            refs[:num_returns],
            refs[num_returns:],
        )
    )
    ray.get = get  # type: ignore[attr-defined]
    ray.exceptions = types.SimpleNamespace(  # type: ignore[attr-defined]
        RayTaskError=TaskError, RayError=RayError
    )
    ray.cluster_resources = lambda: {"GPU": 0}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def job(root: Path, choice: EngineChoice, config: SearchConfig = CONFIG, **limits: Any) -> RayJob:
    return RayJob(
        config=config,
        engine=choice,
        judges=(),
        limits=Limits(**limits),
        tokenizer=None,
        sealed=str(root / "sealed"),
        scratch=str(root / "scratch"),
    )


def in_one_process(folder: Path, config: SearchConfig = CONFIG) -> Path:
    sampler = engine(ITEMS, right_share=0.3)
    with Store(folder) as store:
        asyncio.run(run_search(ITEMS, sampler, store, config, tokenizer=TOKENIZER))
    return folder


def test_a_question_travels_whole():
    assert pickle.loads(pickle.dumps(ITEMS)) == ITEMS
    assert len({hash_task("s", [item]) for item in ITEMS}) == len(ITEMS)


def test_what_is_sealed_is_not_searched_again(fake_ray, tmp_path: Path):
    first, second = Scripted(), Scripted()
    merged = search_on_ray(ITEMS, tmp_path / "a", job(tmp_path, first), 2)
    assert (merged.trees, merged.sources) == (len(ITEMS), 4)
    assert first.asked > 0
    again = search_on_ray(ITEMS, tmp_path / "b", job(tmp_path, second), 3)
    assert second.asked == 0
    assert again == merged
    alone = in_one_process(tmp_path / "alone")
    for name in ("a", "b"):
        assert plain(load_trees(tmp_path / name)) == plain(load_trees(alone))
    assert not list((tmp_path / "scratch" / "agenticlu-workers").iterdir())


@pytest.mark.parametrize("depths", [(1, 2), (2, 1)])
def test_other_settings_are_searched_and_ask_only_what_is_missing(
    fake_ray, tmp_path: Path, depths: tuple[int, int]
):
    asked = []
    for depth in depths:
        choice = Scripted()
        config = CONFIG.model_copy(update={"depth": depth, "growth": "full"})
        search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, choice, config), 2)
        asked.append(choice.asked)
    alone = in_one_process(tmp_path / "alone", config)
    wanted = plain(load_trees(alone))
    assert plain(load_trees(tmp_path / "run")) == wanted
    with Store(alone, writable=False) as store:
        assert asked[1] == max(0, store.call_counts()["done"] - asked[0])
    merge_runs(tmp_path / "merged", [str(tmp_path / "sealed")])
    assert plain(load_trees(tmp_path / "merged")) == wanted


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, config=CONFIG.model_copy(update={"judges": ("exact", "rouge-l")})),
        lambda one: replace(one, config=CONFIG.model_copy(update={"threshold": 0.9})),
        lambda one: replace(one, engine=replace(one.engine, model="another")),
        lambda one: replace(one, engine=replace(one.engine, base_url=("http://a",))),
        lambda one: replace(one, judges=(EngineChoice("critic"),)),
        lambda one: replace(one, tokenizer="words"),
    ],
)
def test_every_setting_that_changes_trees_changes_what_they_are_sealed_under(
    tmp_path: Path, change: Callable[[RayJob], RayJob]
):
    one = job(tmp_path, Scripted())
    assert change(one).settings != one.settings
    same = replace(one, limits=Limits(parallel=3), sealed="elsewhere", scratch=None)
    assert same.settings == one.settings, "what changes no tree does not count"


def test_failed_documents_are_tried_again_when_asked_to(fake_ray, tmp_path: Path):
    def fault(request: ScriptedRequest) -> BaseException | None:
        return EngineReplyError("400") if "book 1" in str(request.messages) else None

    search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, Scripted(faults=fault)), 2)
    assert sum(tree.outcome == "failed" for tree in load_trees(tmp_path / "run")) == 2
    idle, busy, late = Scripted(), Scripted(), Scripted()
    search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, idle), 2)
    assert idle.asked == 0, "only when asked to"
    search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, busy, retry_failed=True), 2)
    assert plain(load_trees(tmp_path / "run")) == plain(
        load_trees(in_one_process(tmp_path / "alone"))
    )
    with Store(tmp_path / "alone", writable=False) as store:
        assert 0 < busy.asked < store.call_counts()["done"] / 2, "the others stay as they are"
    search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, late, retry_failed=True), 2)
    assert late.asked == 0, "nothing is failed any more"


def test_a_budget_is_shared_out_and_what_it_bought_is_kept(fake_ray, tmp_path: Path):
    poor, rich = Scripted(), Scripted()
    with pytest.raises(BudgetExceededError, match="limit of 1500"):
        search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, poor, max_tokens=3000), 2)
    spent = sum(one.usage.computed_tokens for one in poor.made)
    assert 1500 <= spent < 2 * (1500 + 1000)
    sealed = SharedFolder(str(tmp_path / "sealed")).manifests()
    assert any(not one.finished for one in sealed)
    for folder in (tmp_path / "scratch" / "agenticlu-workers").iterdir():
        folder.rename(folder.with_name(f"lost-{folder.name}"))  # the machine is gone
    search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, rich), 2)
    with Store(in_one_process(tmp_path / "alone"), writable=False) as store:
        assert poor.asked + rich.asked == store.call_counts()["done"]


def test_the_folder_of_another_engine_is_refused(fake_ray, tmp_path: Path):
    in_one_process(tmp_path / "run", CONFIG.model_copy(update={"seed": 3}))
    choice = Scripted()
    with pytest.raises(StoreError, match="was started with seed = 3"):
        search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, choice), 2)
    assert choice.asked == 0


def test_segments_of_another_engine_are_left_alone(fake_ray, tmp_path: Path):
    class Renamed(Scripted):
        def load_limited(self, limits: Limits, say: Any) -> LimitedEngine:
            self.made.append(engine(ITEMS, name="another"))
            return LimitedEngine(self.made[-1], limits.build_limiter(say))

    search_on_ray(ITEMS, tmp_path / "a", job(tmp_path, Scripted()), 2)
    heard = Heard()
    other = Renamed("another")
    search_on_ray(ITEMS, tmp_path / "b", job(tmp_path, other), 2, progress=heard)
    assert other.asked > 0
    assert any("not reused" in text and "engine" in text for text in heard.said)


class Heard(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.trees: list[str] = []
        self.nodes = 0
        self.states: list[Any] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def node(self, node: Any) -> None:
        self.nodes += 1

    def tree(self, tree: Any) -> None:
        self.trees.append(tree.question.id)


def test_a_search_tells_of_its_trees_pauses_and_replicas(
    fake_ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("agenticlu.search.shards.ray.POLL_S", 0.0)
    monkeypatch.setattr("agenticlu.engines.retry.sleep", lambda seconds: asyncio.sleep(0))

    def fault(request: ScriptedRequest) -> BaseException | None:
        return EngineBusyError("429") if 5 <= request.call < 25 else None

    def health(self: ScriptedEngine) -> list[Health]:
        return [
            {
                "address": "http://a",
                "state": "stalled",
                "in_flight": 3,
                "failures": 0,
                "resting_s": 0.0,
                "last_answer_s": 130.0,
            }
        ]

    monkeypatch.setattr(ScriptedEngine, "health", health, raising=False)
    heard = Heard()
    states = []

    def tree(tree: Any) -> None:
        heard.trees.append(tree.question.id)
        states.append(load_status(tmp_path / "run"))

    monkeypatch.setattr(heard, "tree", tree)
    search_on_ray(
        ITEMS,
        tmp_path / "run",
        job(tmp_path, Scripted(faults=fault)),
        1,
        progress=heard,
        num_questions=len(ITEMS),
    )
    assert sorted(heard.trees) == sorted(item.question.id for item in ITEMS)
    with Store(tmp_path / "run", writable=False) as store:
        assert heard.nodes == sum(len(tree.nodes) for tree in store.trees()) > len(ITEMS)
    assert any(text.startswith("worker 0: paused for") for text in heard.said)
    assert all(state.running and state.questions == len(ITEMS) for state in states)
    assert 0 < states[0].done < len(ITEMS)
    assert "worker 0: http://a stalled: 3 requests" in states[-1].render()
    with Store(tmp_path / "run") as store:
        beating = Heartbeat(store)
        beating.write(5, [], elsewhere=True)
        assert "5 in flight, 0 failed" in load_status(tmp_path / "run").render()


def test_a_worker_that_breaks_is_an_error_in_words(fake_ray, tmp_path: Path):
    class Broken(Scripted):
        def load_limited(self, *arguments: Any) -> Engine:
            return engine(ITEMS, faults=lambda request: ZeroDivisionError("by zero"))

    with pytest.raises(EngineError, match="A Ray worker failed: by zero"):
        search_on_ray(ITEMS, tmp_path / "run", job(tmp_path, Broken()), 2)


def test_a_worker_that_is_told_to_stop_seals_what_it_has(tmp_path: Path):
    worker = Worker(job(tmp_path, Scripted()))
    items = ITEMS[:2]

    async def work() -> None:
        task = asyncio.create_task(worker.search(items, "settings", []))
        while worker._engine.usage.requests < 20:
            await asyncio.sleep(0.001)
        await worker.stop()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    (sealed,) = SharedFolder(str(tmp_path / "sealed")).manifests()
    assert not sealed.finished
    assert sealed.progress["calls"]["done"] >= 15


def test_sigterm_ends_the_search_in_order_though_ray_has_taken_the_signal():
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with pytest.raises(SystemExit) as ended, _exiting_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 143
        signal.raise_signal(signal.SIGTERM)  # as it was before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_share_of_the_documents_can_be_searched_on_ray(
    fake_ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(setup, "load_engine", lambda *args, **options: engine(ITEMS))
    monkeypatch.setattr("agenticlu.engines.load_tokenizer", lambda *_, **__: TOKENIZER)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = str(write_corpus(ITEMS, tmp_path / "corpus.jsonl"))
    found: list[str] = []
    for index in range(3):
        out = tmp_path / str(index)
        arguments = ["generate", rows, "--out", str(out), "--ray", "2", "--shard", f"{index}/3"]
        done = CliRunner().invoke(group, [*arguments, "--depth", "1", "--quiet", "--json"])
        assert done.exit_code == 0, done.output
        trees = [tree.question.text for tree in load_trees(out)]
        assert json.loads(done.stdout)["questions"] == len(trees) < len(ITEMS)
        events = (out / "metrics.jsonl").read_text().splitlines()
        assert sum(json.loads(line)["event"] == "tree" for line in events) == len(trees)
        found += trees
    assert sorted(found) == sorted(item.question.text for item in ITEMS)


def test_three_ray_workers_export_what_one_process_does(tmp_path: Path):
    ray = pytest.importorskip("ray")
    for module in (sys.modules[__name__], scripted_world):
        ray.cloudpickle.register_pickle_by_value(module)
    out = tmp_path / "run"
    merged = search_on_ray(ITEMS, out, job(tmp_path, Scripted()), 3)
    assert (merged.trees, merged.sources) == (len(ITEMS), 4)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    wanted = export(in_one_process(tmp_path / "alone"), tmp_path / "a")
    assert sum(map(len, wanted.values())) > 0
    assert any("preference" in name for name in wanted)
    assert export(out, tmp_path / "b") == wanted
