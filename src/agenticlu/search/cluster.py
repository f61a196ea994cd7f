"""A search over many machines, by Ray: one actor per worker, documents as its tasks.

Ray places the actors, starts them again when they die and repeats the task that died with them.
Each document is searched in a small store on the worker's own disk and sealed, when finished, to a
folder that all machines share; in the end the segments are merged. A document that is already
sealed is not searched again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from agenticlu.corpus import Item
from agenticlu.errors import AgenticluError, EngineError, missing_dependency
from agenticlu.judge import build_judges
from agenticlu.records import Document, Question, content_id
from agenticlu.search.config import SearchConfig
from agenticlu.search.merge import MergeSummary, merge_runs
from agenticlu.search.run import Limits, run_search
from agenticlu.search.segments import SharedFolder, seal_run
from agenticlu.search.setup import EngineChoice, JudgeChoice, build_panel
from agenticlu.store import Store

TASKS_PER_WORKER = 4
"""Documents that a worker has in hand at once."""


@dataclass(frozen=True)
class Job:
    """What every worker does; plain data, so that it travels."""

    config: SearchConfig
    engine: EngineChoice
    judges: JudgeChoice
    limits: Limits
    tokenizer: str | None
    sealed: str
    """Folder or URL of the segments; all machines see it."""
    scratch: str | None = None
    """Folder on each worker's own disk; None takes the system's."""


class Worker:
    """Searches documents one after another or several at once; becomes a Ray actor.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._engine = job.engine.load(job.limits.requests_in_flight)
        self._judges = job.judges.engines()
        self._tokenizer = job.engine.tokenizer(job.tokenizer)

    async def search(self, rows: list[dict[str, Any]]) -> str:
        """Searches one document's questions; returns the segment's address."""
        items = [_item(row) for row in rows]
        label = label_of(items)
        root = Path(self._job.scratch or tempfile.gettempdir()) / "agenticlu-workers"
        folder = root / content_id(self._job.sealed, label)
        with Store(folder) as store:
            panel = build_panel(self._judges, store, limits=self._job.limits)
            await run_search(
                items,
                self._engine,
                store,
                self._job.config,
                tokenizer=self._tokenizer,
                judges=build_judges(self._job.config.judges, panel),
                limits=self._job.limits,
            )
        address = seal_run(folder, self._job.sealed, label=label)
        shutil.rmtree(folder, ignore_errors=True)
        return address


def search_on_ray(
    corpus: Iterable[Item], out: Path, job: Job, num_workers: int, address: str | None = None
) -> MergeSummary:
    """Searches a corpus on Ray actors and merges what they sealed into a run folder.

    Args:
        corpus: Questions; those of one document must stand together.
        out: Folder of the merged run.
        job: What to do.
        num_workers: Actors.
        address: Of a Ray cluster; None starts Ray on this machine.

    Raises:
        MissingDependencyError: Ray is not installed.
        EngineError: A worker gave up; what was sealed before is kept and not done again.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_dependency("ray", "ray") from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    try:
        actor: Any = ray.remote(max_restarts=-1, max_task_retries=3)(Worker)
        workers = [actor.remote(job) for _ in range(num_workers)]
        done = {one.label for one in SharedFolder(job.sealed).manifests(may_miss=True)}
        running: dict[Any, int] = {}
        busy = dict.fromkeys(range(num_workers), 0)
        try:
            for rows, label in _tasks(corpus):
                if label in done:
                    continue
                if min(busy.values()) >= TASKS_PER_WORKER:
                    _collect(ray, running, busy)
                worker = min(busy, key=lambda name: busy[name])
                running[workers[worker].search.remote(rows)] = worker
                busy[worker] += 1
            while running:
                _collect(ray, running, busy)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, AgenticluError):
                raise cause from error
            raise EngineError(f"A Ray worker failed: {cause}") from error
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"Ray lost its workers: {error}",
                hint="Run the same command again: sealed documents are not searched again.",
            ) from error
    finally:
        if started:
            ray.shutdown()
    return merge_runs(out, [job.sealed])


def label_of(items: list[Item]) -> str:
    """Returns what a document's questions are sealed under."""
    return content_id(items[0].document.id, *(item.question.id for item in items))


def _tasks(corpus: Iterable[Item]) -> Iterator[tuple[list[dict[str, Any]], str]]:
    for _, group in groupby(corpus, key=lambda item: item.document.id):
        items = list(group)
        yield [_row(item) for item in items], label_of(items)


def _collect(ray: Any, running: dict[Any, int], busy: dict[int, int]) -> None:
    """Waits for one task; raises what it raised."""
    (finished, *_), _ = ray.wait(list(running), num_returns=1)
    busy[running.pop(finished)] -= 1
    ray.get(finished)


def _row(item: Item) -> dict[str, Any]:
    return {
        **asdict(item),
        "document": item.document.model_dump_json(),
        "question": item.question.model_dump_json(),
    }


def _item(row: dict[str, Any]) -> Item:
    spans = row["gold_spans"]
    return Item(
        position=row["position"],
        document=Document.model_validate(json.loads(row["document"])),
        question=Question.model_validate(json.loads(row["question"])),
        gold_spans=None if spans is None else tuple((a, b) for a, b in spans),
    )
