"""A search on many machines by Ray: one actor per worker, documents as its tasks.

Ray places the actors, restarts them when they die and repeats the task that died with them. Each
document is searched in a small store on the worker's own disk and sealed to a folder that all
machines share. The driver merges each segment into the run as it comes, so that the run can be
watched and continued like any other. A document that is sealed under the same settings is not
searched again; under others, or where it is unfinished, only missing calls are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict

from agenticlu.core.errors import (
    TERMINATED_EXIT_CODE,
    AgenticluError,
    EngineError,
    StoreError,
    missing_dependency,
)
from agenticlu.core.records import content_id
from agenticlu.core.secrets import public_address
from agenticlu.data.corpus import Item
from agenticlu.dialogue.steps import load_profile
from agenticlu.engines.base import Health
from agenticlu.judges import build_judges
from agenticlu.search import SearchConfig
from agenticlu.search.run import Limits, Listener, run_search
from agenticlu.search.settings import bind
from agenticlu.search.setup import EngineChoice, build_panel
from agenticlu.search.shards import Manifest, SharedFolder
from agenticlu.search.shards.merge import Merger, MergeSummary, segment_part
from agenticlu.search.shards.sealer import seal_run
from agenticlu.search.status import Heartbeat
from agenticlu.search.store import Store

TASKS_PER_WORKER = 4
"""Documents that a worker searches at once."""
POLL_S = 2.0
"""Seconds between polls of the workers' news."""
STOP_S = 60.0
"""Seconds that workers get to seal what they have when the search ends early."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Set unless set already: no usage statistics leave the machine, and workers run in this very
environment."""


@dataclass(frozen=True)
class RayJob:
    """The job of every worker; picklable, to be sent to it."""

    config: SearchConfig
    engine: EngineChoice
    judges: tuple[EngineChoice, ...]
    limits: Limits
    """Of each worker, over all documents that it searches at once; `max_tokens` is shared evenly
    among the workers."""
    tokenizer: str | None
    sealed: str
    """Folder or URL of the segments; all machines see it."""
    scratch: str | None = None
    """Folder on each worker's own disk; None takes the system's."""

    @property
    def settings(self) -> str:
        """Hash of what a document's trees follow from, besides its questions."""
        profile = load_profile(self.config.profile)
        model, servers = self.engine.model, self.engine.base_url
        served = (model,) if model else tuple(map(public_address, servers))
        parts = [
            self.config.model_dump(mode="json"),
            profile.model_dump(mode="json"),
            [served, self.tokenizer, [one.model for one in self.judges]],
        ]
        return content_id("job", json.dumps(parts, sort_keys=True))


class News(TypedDict):
    """Events at a worker since it was last asked."""

    notes: list[str]
    """Messages for people, each once."""
    in_flight: int
    replicas: list[Health]


class Worker(Listener):
    """Searches documents, several at once, and collects its news; becomes a Ray actor."""

    def __init__(self, job: RayJob) -> None:
        limits = job.limits
        self._job = job
        self._notes: dict[str, None] = {}
        self._engine = job.engine.load_limited(limits, self.say)
        self._judges = [one.load_judge(limits, self.say) for one in job.judges]
        self._tokenizer = job.engine.tokenizer(job.tokenizer)
        self._searching: set[asyncio.Task[Any]] = set()

    async def search(self, items: list[Item], settings: str, seeds: list[str]) -> str:
        """Searches one document's questions and seals them; returns the segment's name.

        Args:
            items: The questions, all about one document.
            settings: What the segment is sealed under; see `hash_task`.
            seeds: Names of segments that hold some of it already.
        """
        document_id = items[0].document.id
        root = Path(self._job.scratch or tempfile.gettempdir()) / "agenticlu-workers"
        folder = root / content_id(self._job.sealed, document_id, settings)
        task = asyncio.current_task()
        assert task is not None
        self._searching.add(task)
        try:
            await self._search(items, folder, seeds)
        except BaseException:
            # Whatever ended it, another machine can continue from what is sealed. The folder stays,
            # in case it is this machine again.
            with contextlib.suppress(StoreError):
                with Store(folder, writable=False) as store:
                    has_any = bool(store.progress_by_document())
                if has_any:
                    self._seal(folder, document_id, settings, finished=False)
            raise
        finally:
            self._searching.discard(task)
        name = self._seal(folder, document_id, settings, finished=True)
        # Only once it is sealed: until then the folder is the only place that has the results.
        shutil.rmtree(folder, ignore_errors=True)
        return name

    async def news(self) -> News:
        """Returns what happened since the last time."""
        notes, self._notes = list(self._notes), {}
        return {
            "notes": notes,
            "in_flight": self._engine.limiter.admission.requests,
            "replicas": self._engine.health(),
        }

    async def stop(self) -> None:
        """Ends all searches under way; each seals what it has."""
        for task in self._searching:
            task.cancel()

    async def _search(self, items: list[Item], folder: Path, seeds: list[str]) -> None:
        job = self._job
        with Store(folder) as store:
            if seeds:
                await self._reuse(seeds, store)
            panel = build_panel(self._judges, store, limits=job.limits, say=self.say)
            await run_search(
                items,
                self._engine,
                store,
                job.config,
                tokenizer=self._tokenizer,
                judges=build_judges(job.config.judges, panel),
                limits=replace(job.limits, max_tokens=None),
                progress=self,
            )

    async def _reuse(self, seeds: list[str], store: Store) -> None:
        """Merges segments whose calls would be found again."""
        # Calls are bound to the engine's name, which is known for sure only once it has answered.
        # Bound before they are merged, so that a segment of another engine is refused.
        await self._engine.capabilities()
        bind(
            store,
            self._job.config,
            load_profile(self._job.config.profile),
            tokenizer=self._tokenizer.name,
            engine=self._engine.name,
        )
        shared = SharedFolder(self._job.sealed)
        merger = Merger(store, into_running=True)
        for seed in seeds:
            try:
                merger.merge([segment_part(shared, shared.manifest_of(seed))])
            except StoreError as error:
                self.say(f"segment not reused: {error.message}")
        merger.finish()

    def _seal(self, folder: Path, document_id: str, settings: str, *, finished: bool) -> str:
        address = seal_run(
            folder, self._job.sealed, label=document_id, settings=settings, finished=finished
        )
        return address.rpartition("/")[2]

    def say(self, text: str) -> None:
        """Keeps a message for `news`."""
        self._notes[text] = None


def search_on_ray(
    corpus: Iterable[Item],
    out: Path,
    job: RayJob,
    num_workers: int,
    address: str | None = None,
    *,
    progress: Listener | None = None,
    num_questions: int | None = None,
) -> MergeSummary:
    """Searches a corpus on Ray actors and merges what they seal into a run folder.

    Args:
        corpus: Questions; those about one document must follow each other.
        out: Folder of the merged run; another process may read it meanwhile.
        job: What every worker does.
        num_workers: Actors.
        address: Of a Ray cluster; None starts Ray on this machine.
        progress: Receives events.
        num_questions: In the corpus, where it is known.

    Raises:
        MissingDependencyError: Ray is not installed.
        StoreError: The folder holds a run with other settings, or the segments cannot be written.
        EngineError: A worker gave up; what was sealed before is kept and not done again.
        BudgetExceededError: A worker has used up its share.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise missing_dependency("ray", "ray") from error
    SharedFolder(job.sealed).check()
    with Store(out) as store:
        if job.limits.max_tokens is not None:
            share = max(1, (job.limits.max_tokens - store.engine_tokens()) // num_workers)
            job = replace(job, limits=replace(job.limits, max_tokens=share))
        profile = load_profile(job.config.profile)
        tokenizer = job.engine.tokenizer(job.tokenizer)
        job = replace(job, config=bind(store, job.config, profile, tokenizer=tokenizer.name))
        store.put(judges=None, expected=num_questions)  # the judges come with the segments
        driver = _Driver(ray, store, job, progress or Listener())
        with _ray_running(ray, address), _exiting_on_sigterm():
            return driver.run(corpus, _start_workers(ray, job, num_workers))


class _Driver:
    """Hands out documents to workers and merges the segments that come back."""

    def __init__(self, ray: Any, store: Store, job: RayJob, progress: Listener) -> None:
        self._ray = ray
        self._store = store
        self._job = job
        self._progress = progress
        self._shared = SharedFolder(job.sealed)
        self._merger = Merger(store, over_older=True)
        self._sealed: dict[str | None, list[Manifest]] = {}
        for one in sorted(self._shared.manifests(may_miss=True), key=lambda one: one.sealed_s):
            self._sealed.setdefault(one.label, []).append(one)
        self._pulse = Heartbeat(store)
        self._polled = 0.0
        self._workers: list[Any] = []
        self._running: dict[Any, tuple[int, str]] = {}
        """Task to the number of its worker, and its document's id."""
        self._parts = 0

    def run(self, corpus: Iterable[Item], workers: list[Any]) -> MergeSummary:
        """Has every document searched that is not sealed yet, and merges all segments."""
        self._workers = workers
        settings = self._job.settings
        self._progress.start(self._store.get("expected") or 0)
        try:
            for document_id, group in groupby(corpus, key=lambda item: item.document.id):
                items = list(group)
                wanted = hash_task(settings, items)
                known = self._sealed.get(document_id, [])
                done = self._find_done(known, wanted)
                if done is not None:
                    self._take(document_id, done)
                    continue
                while len(self._running) >= TASKS_PER_WORKER * len(workers):
                    self._wait()
                worker = self._find_idlest()
                seeds = [one.name for one in known]
                task = workers[worker].search.remote(items, wanted, seeds)
                self._running[task] = (worker, document_id)
            while self._running:
                self._wait()
            self._poll_news()  # of the last documents
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, AgenticluError):
                raise error.cause from error
            raise EngineError(f"A Ray worker failed: {error.cause}") from error
        except self._ray.exceptions.RayError as error:
            raise EngineError(
                f"Ray lost its workers: {error}",
                hint="Run the same command again: sealed documents are kept.",
            ) from error
        finally:
            self._stop()
            self._merger.finish()
            with contextlib.suppress(StoreError):
                self._pulse.write(0, [], elsewhere=True)
        counts = self._store.tree_counts()
        trees = counts["done"] + counts["growing"]
        return MergeSummary(self._parts, counts["questions"], trees, self._merger.rows)

    def _find_done(self, known: Sequence[Manifest], wanted: str) -> Manifest | None:
        """Returns the last segment with all of a document, unless its failures are retried."""
        whole = [one for one in known if one.finished and one.settings == wanted]
        if not whole:
            return None
        failed = whole[-1].progress["calls"]["failed"]
        return None if failed and self._job.limits.retry_failed else whole[-1]

    def _find_idlest(self) -> int:
        """Returns the number of the worker with the fewest tasks."""
        busy = [number for number, _ in self._running.values()]
        return min(range(len(self._workers)), key=busy.count)

    def _wait(self) -> None:
        """Waits for a task, or for news; raises what a task raised."""
        finished, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
        for task in finished:
            _, document_id = self._running.pop(task)
            self._take(document_id, self._shared.manifest_of(self._ray.get(task)))
        if time.monotonic() - self._polled >= POLL_S:
            self._poll_news()

    def _take(self, document_id: str, manifest: Manifest) -> None:
        self._merger.merge([segment_part(self._shared, manifest)])
        self._parts += 1
        for tree in self._store.trees(document_id=document_id):
            for node in tree.nodes:
                self._progress.node(node)
            self._progress.tree(tree)

    def _poll_news(self) -> None:
        """Asks the workers for news; one that is being restarted has none."""
        replicas: list[Health] = []
        in_flight = 0
        asked = [worker.news.remote() for worker in self._workers]
        ready, _ = self._ray.wait(asked, num_returns=len(asked), timeout=POLL_S)
        for number, task in enumerate(asked):
            if task not in ready:
                continue
            with contextlib.suppress(self._ray.exceptions.RayError):
                news: News = self._ray.get(task)
                in_flight += news["in_flight"]
                for one in news["replicas"]:
                    replicas.append({**one, "address": f"worker {number}: {one['address']}"})
                for note in news["notes"]:
                    self._progress.say(f"worker {number}: {note}")
        self._pulse.write(in_flight, replicas, elsewhere=True)
        self._polled = time.monotonic()

    def _stop(self) -> None:
        """Lets the workers seal what they have, when the search ends early."""
        if not self._running:
            return
        for worker in self._workers:
            worker.stop.remote()
        tasks = list(self._running)
        self._ray.wait(tasks, num_returns=len(tasks), timeout=STOP_S)


@contextlib.contextmanager
def _ray_running(ray: Any, address: str | None) -> Iterator[None]:
    """Joins a cluster, or starts Ray on this machine; a Ray that already runs is left as it is."""
    started = not ray.is_initialized()
    if started:
        where = {"_node_ip_address": "127.0.0.1"} if address is None else {"address": address}
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR", **where)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def _exiting_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM end the search as Ctrl-C does: Ray installs a handler of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED_EXIT_CODE))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_workers(ray: Any, job: RayJob, num_workers: int) -> list[Any]:
    # As many as were asked for, whatever the cores; on as many machines as there are.
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
    # A worker that dies is always replaced, but a document that kills its worker four times ends
    # the search.
    options |= {"max_restarts": -1, "max_task_retries": 3}
    gpus = 0 if job.engine.base_url else ray.cluster_resources().get("GPU", 0)
    if gpus:  # Ray hides them from actors that ask for none
        options["num_gpus"] = min(1.0, gpus / num_workers)
    actor: Any = ray.remote(**options)(Worker)
    return [actor.remote(job) for _ in range(num_workers)]


def hash_task(settings: str, items: Sequence[Item]) -> str:
    """Returns the settings that a document's questions are sealed under, as a hash."""
    return content_id(settings, *(item.question.model_dump_json() for item in items))
