"""Merges runs and segments: a union by content keys, whatever the order.

Where two parts hold the same key, the one that got further wins; of two equally far, the one whose
bytes sort first. So a merge is independent of the order and of duplicates. One thing has an order:
a shard that was started again under other settings sealed segments under both, and those of its
last settings tell what the run is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agenticlu.core.errors import StoreError
from agenticlu.search.shards.segments import (
    SUFFIX,
    Line,
    Manifest,
    SharedFolder,
    rows_of,
    settings_of,
)
from agenticlu.search.store import FILE_NAME, Store, unpack
from agenticlu.search.store.file import Statement

BATCH_ROWS = 500


@dataclass(frozen=True)
class MergeSummary:
    """What a merge brought together."""

    sources: int
    questions: int
    trees: int
    rows: int
    """Rows read, duplicates included."""


class Part(Protocol):
    """One source of a merge."""

    name: str
    manifest: Manifest | None
    """None for a run folder."""

    def lines(self) -> Iterator[Line]:
        """Yields the settings, then the rows."""
        ...


class RunPart:
    """A run's folder.

    Args:
        folder: May belong to a process that still writes.
    """

    def __init__(self, folder: str) -> None:
        self.name = folder
        self.manifest: Manifest | None = None
        Store(folder, writable=False).close()

    def lines(self) -> Iterator[Line]:
        """Yields the settings, then the rows; a damaged row is an error here, not later."""
        with Store(self.name, writable=False) as store, store.snapshot():
            yield {"settings": settings_of(store)}
            for line in rows_of(store):
                with store.decoding(f"a row of {line['t']}"):
                    _check(line)
                yield line


class SegmentPart:
    """A segment.

    Args:
        folder: Where it lies.
        manifest: Its manifest there.
    """

    def __init__(self, folder: SharedFolder, manifest: Manifest) -> None:
        self.name = f"{folder.address}/{manifest.name}"
        self.manifest: Manifest | None = manifest
        self._folder = folder
        self._of = manifest

    def lines(self) -> Iterator[Line]:
        """Yields the settings, then the rows."""
        return self._folder.lines(self._of)


def merge_runs(out: str | Path, sources: Sequence[str]) -> MergeSummary:
    """Merges runs and segments into one run folder.

    Args:
        out: Folder of the merged run; merging more into it later is fine.
        sources: Run folders, segment files, or folders or URLs of segments.

    Raises:
        StoreError: A source is torn or foreign, or was made under other settings.
    """
    parts = [part for source in sources for part in find_parts(source)]
    with Store(out) as store:
        rows = merge_parts(store, parts)
        counts = store.tree_counts()
    return MergeSummary(len(parts), counts["questions"], counts["done"] + counts["growing"], rows)


def find_parts(source: str) -> list[Part]:
    """Returns every run or segment that a source names.

    Raises:
        StoreError: It names none.
    """
    if (Path(source) / FILE_NAME).is_file():
        return [RunPart(source)]
    if source.endswith(SUFFIX):
        parent, _, name = source.rpartition("/")
        folder = SharedFolder(parent or ".")
        return [SegmentPart(folder, folder.manifest_of(name))]
    folder = SharedFolder(source)
    parts: list[Part] = [SegmentPart(folder, one) for one in folder.manifests()]
    if not parts:
        raise StoreError(
            f"{source} holds neither a run nor a segment.",
            hint="Give run folders, segment files, or folders or URLs of segments.",
        )
    return parts


def merge_parts(
    store: Store,
    parts: Sequence[Part],
    holds: Callable[[str], bool] | None = None,
    *,
    into_running: bool = False,
) -> int:
    """Merges parts into an open store and returns the number of rows read.

    Args:
        store: Open for writing; may hold a run already.
        parts: In any order.
        holds: See `Union`.
        into_running: See `Union`.

    Raises:
        StoreError: A part is damaged or was made under other settings. What was merged before it
            stays, and merging it again does no harm.
    """
    union = Union(store, holds, into_running=into_running)
    union.take(parts)
    union.finish()
    return union.rows


def _latest_settings(parts: Iterable[Part]) -> dict[str, str | None]:
    """Returns for each label the settings of its last segment."""
    latest: dict[str, Manifest] = {}
    for manifest in (part.manifest for part in parts):
        if manifest is None or manifest.label is None:
            continue
        known = latest.get(manifest.label)
        if known is None or _age(manifest) > _age(known):
            latest[manifest.label] = manifest
    return {label: manifest.settings for label, manifest in latest.items()}


def _age(manifest: Manifest) -> tuple[float, str]:
    return manifest.sealed_s, manifest.sha256


def _is_outdated(part: Part, latest: dict[str, str | None]) -> bool:
    manifest = part.manifest
    if manifest is None or manifest.label is None:
        return False
    return latest[manifest.label] != manifest.settings


def _take_settings(
    store: Store, settings: dict[str, Any], source: str, *, only_check: bool = False
) -> None:
    """Takes over a part's settings; a shard that had nothing to ask lacks some.

    Args:
        store: Open for writing.
        settings: The part's.
        source: Its name, for messages.
        only_check: Only what binds calls is of interest.
    """
    for name, value in settings.items():
        if value is None or (only_check and name != "bound"):
            continue
        known = store.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            differing = [n for n in known if n in value and known[n] != value[n]]
            if differing:
                words = ", ".join(f"{n} is {known[n]!r} and {value[n]!r}" for n in differing)
                raise _differ("settings" if name == "bound" else name, words, source)
            value = {**known, **value}
        elif known is not None and known != value:
            raise _differ(name, f"they are {known!r} and {value!r}", source)
        if known != value:
            store.put(**{name: value})


def _differ(name: str, words: str, source: str) -> StoreError:
    return StoreError(
        f"The runs differ in their {name}: {words[:300]} (in {source}).",
        hint="The parts of one search come from one command; give others another folder.",
    )


class Union:
    """A store that parts are merged into, at once or one after another.

    Args:
        store: Open for writing; may hold a run already.
        holds: Whether a document, by its id, belongs into the store; None takes all.
        into_running: The store belongs to a search that has settings of its own; only those that
            bind calls must agree.
        over_older: What the store holds may be of older settings than the parts, so that their
            finished trees take the place of its own.
    """

    def __init__(
        self,
        store: Store,
        holds: Callable[[str], bool] | None = None,
        *,
        into_running: bool = False,
        over_older: bool = False,
    ) -> None:
        self.rows = 0
        """Rows read."""
        self._store = store
        self._holds = holds or (lambda document_id: True)
        self._into_running = into_running
        self._columns = {name: store.columns(name) for name in ("call", "grounding", "judgement")}
        self._questions = {row[0]: (row[1], row[3]) for row in store.rows("question")}
        self._batch: list[Statement] = []
        self._pending: set[str] = set()
        """Trees in the batch."""
        self._outdated: set[str] = set()
        """Trees in the store that were grown under outdated settings."""
        if over_older:
            self._outdated = {row[0] for row in store.rows("tree")}

    def take(self, parts: Sequence[Part]) -> None:
        """Merges parts, those of outdated settings first."""
        latest = _latest_settings(parts)
        for part in sorted(parts, key=lambda part: not _is_outdated(part, latest)):
            is_outdated = _is_outdated(part, latest)
            lines = part.lines()
            settings = next(lines)["settings"]
            only_check = is_outdated or self._into_running
            _take_settings(self._store, settings, part.name, only_check=only_check)
            for line in lines:
                self._add(line, part.name, is_outdated)
            self._flush()

    def finish(self) -> None:
        """Drops calls of groundings that another part held whole."""
        self._batch.append(
            (
                "DELETE FROM call WHERE phase = 'ground' "
                "AND node_id IN (SELECT key FROM grounding)",
                (),
            )
        )
        self._flush()

    def _add(self, line: Line, source: str, is_outdated: bool) -> None:
        """Takes in a row."""
        self.rows += 1
        table, row = line["t"], tuple(line["r"])
        if not self._belongs(table, row):
            return
        if table == "tree":
            self._add_tree(row, [tuple(node) for node in line["nodes"]], is_outdated)
        elif table == "question":
            self._add_question(row, source)
        elif table == "document":
            self._batch.append((_DOCUMENT, row))
        else:
            self._batch.append((_upsert(table, self._columns[table]), row))
        if len(self._batch) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Commits what has gathered."""
        self._store.write(self._batch)
        self._batch = []
        self._pending = set()

    def _belongs(self, table: str, row: tuple[Any, ...]) -> bool:
        if table == "judgement":
            return True
        if table == "tree":
            return self._holds(json.loads(row[3])["document_id"])
        # The document stands first in its own row, third in a call's, second in the others.
        document_id = row[{"document": 0, "call": 2}.get(table, 1)]
        return not document_id or self._holds(document_id)

    def _add_question(self, row: tuple[Any, ...], source: str) -> None:
        meant = (row[1], row[3])
        if self._questions.setdefault(row[0], meant) != meant:
            raise StoreError(
                f"Question id {row[0]!r} stands for another question, or one about another "
                f"document, in {source}.",
                hint="Give every question of a corpus its own id, or leave ids out; runs of "
                "different corpora stay apart.",
            )
        self._batch.append((_QUESTION, row))

    def _add_tree(
        self, row: tuple[Any, ...], nodes: Sequence[tuple[Any, ...]], is_outdated: bool
    ) -> None:
        tree_id = row[0]
        if tree_id in self._pending:
            self._flush()
        known = self._store.tree_rows(tree_id)
        if known is not None:
            rank = _rank(*known, tree_id in self._outdated)
            if rank <= _rank(row, nodes, is_outdated):
                return
        self._pending.add(tree_id)
        self._outdated.discard(tree_id)
        if is_outdated:
            self._outdated.add(tree_id)
        self._batch += [
            ("DELETE FROM node WHERE tree_id = ?", (tree_id,)),
            ("INSERT OR REPLACE INTO tree VALUES (?, ?, ?, ?)", row),
            *(("INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?)", node) for node in nodes),
        ]


_DOCUMENT = (
    "INSERT INTO document VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
    "header = excluded.header WHERE excluded.header < document.header"
)
_QUESTION = (
    "INSERT INTO question VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
    "position = excluded.position WHERE excluded.position < question.position"
)


def _upsert(table: str, columns: Sequence[str]) -> str:
    """Returns the statement that lets the better of two rows stay.

    Of calls a finished one is better than a failed one ('done' sorts before 'failed'); what is left
    is decided by the bytes.
    """
    first = ["state"] if table == "call" else ["record"]
    order = [*first, *(name for name in columns if name not in ("key", *first))]
    marks = ",".join("?" * len(columns))
    sets = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "key")
    ours, theirs = (
        ", ".join(f"COALESCE({side}.{name}, '')" for name in order) for side in (table, "excluded")
    )
    return (
        f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT (key) DO UPDATE SET {sets} "
        f"WHERE ({theirs}) < ({ours})"
    )


def _rank(
    row: tuple[Any, ...], nodes: Iterable[tuple[Any, ...]], is_outdated: bool
) -> tuple[bool, bool, int, str]:
    """Sorts finished trees first, then those of the latest settings, larger ones, by content."""
    ordered = sorted(nodes)
    digest = hashlib.sha256(repr((row, ordered)).encode()).hexdigest()
    return (row[2] != "done", is_outdated, -len(ordered), digest)


def _check(line: Line) -> None:
    """Reads what is compressed or JSON in a row, so that damage does not spread."""
    table, row = line["t"], line["r"]
    if table == "tree":
        json.loads(row[3])
        for node in line["nodes"]:
            unpack(node[3])
    for value in row:
        if table in ("call", "grounding") and isinstance(value, bytes):
            unpack(value)
