"""Merges runs and segments: a union by content keys, independent of order.

Where two parts hold the same key, the one that got further wins; of two equally far, the one whose
bytes sort first. So a merge is independent of the order and of duplicates. One thing has an order:
a shard that was started again under other settings sealed segments under both, and those of its
last settings decide what the run is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError, StoreError
from agenticlu.core.records import Usage
from agenticlu.core.secrets import public_address
from agenticlu.search.caller import decode_choice_probs, decode_sampled
from agenticlu.search.settings import read_settings
from agenticlu.search.shards import (
    ADAPTED,
    CARRIED,
    SUFFIX,
    Line,
    Manifest,
    SharedFolder,
    run_lines,
)
from agenticlu.search.store import Store
from agenticlu.search.store.file import FILE_NAME, Statement, unpack
from agenticlu.search.store.trees import DELETE_NODES, REPLACE_NODE, REPLACE_TREE

BATCH_ROWS = 500
_TRIAL = ".merge-"
"""Start of the name of a folder in which parts are tried."""
_SHAPES = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError,
    StopIteration, zlib.error,
)  # fmt: skip
"""What reading data of an unexpected shape raises."""


@dataclass(frozen=True)
class MergeSummary:
    """Counts of a merge."""

    sources: int
    questions: int
    trees: int
    rows: int
    """Rows read, duplicates included."""


@dataclass(frozen=True)
class Part:
    """One source of a merge: a run's folder, or a segment."""

    name: str
    lines: Callable[[], Iterator[Line]]
    """Opens it and yields its settings, then its rows."""
    manifest: Manifest | None = None
    """None for a run's folder."""


def run_part(folder: str) -> Part:
    """Returns a run's folder as a part; a process may still be writing to it.

    Raises:
        StoreError: It cannot be read.
    """
    Store(folder, writable=False).close()  # before anything is merged

    def lines() -> Iterator[Line]:
        with Store(folder, writable=False) as store, store.snapshot():
            for line in run_lines(store):
                with store.decoding(f"a row of {line['t']}"):
                    _check(line)
                yield line

    return Part(folder, lines)


def segment_part(folder: SharedFolder, manifest: Manifest) -> Part:
    """Returns a segment in a folder as a part."""
    name = f"{folder.address}/{manifest.name}"
    return Part(name, lambda: folder.lines(manifest), manifest)


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
        return [run_part(source)]
    if source.endswith(SUFFIX):
        parent, _, name = source.rpartition("/")
        folder = SharedFolder(parent or ".")
        return [segment_part(folder, folder.manifest_of(name))]
    folder = SharedFolder(source)
    parts = [segment_part(folder, one) for one in folder.manifests()]
    if not parts:
        raise StoreError(
            f"{public_address(source)} contains neither a run nor a segment.",
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
        holds: See `Merger`.
        into_running: See `Merger`.

    Raises:
        StoreError: A part is damaged, holds what is no row of a run, or was made under other
            settings. Nothing is merged then.
    """
    merger = Merger(store, holds, into_running=into_running)
    merger.merge(parts)
    merger.finish()
    return merger.rows


class Merger:
    """Merges parts into a store, at once or one after another.

    Args:
        store: Open for writing; may hold a run already.
        holds: Whether a document, by its id, belongs in the store; None takes all.
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
        columns = {name: store.columns(name) for name in ("call", "grounding", "judgement")}
        self._upserts = {"document": _DOCUMENT, "question": _QUESTION} | {
            name: _upsert(name, found) for name, found in columns.items()
        }
        self._lengths = {name: len(found) for name, found in columns.items()}
        self._questions = {row[0]: (row[1], row[3]) for row in store.rows("question")}
        self._batch: list[Statement] = []
        self._pending: set[str] = set()
        """Trees in the batch: not in the store yet, so not to be compared with."""
        self._outdated: set[str] = set()
        """Trees in the store that were grown under outdated settings."""
        if over_older:
            self._outdated = {row[0] for row in store.rows("tree")}

    def merge(self, parts: Sequence[Part]) -> None:
        """Merges parts, those of outdated settings first: the settings of the last one stay."""
        ordered = _sort_parts(parts)
        self._prove(ordered)
        for is_outdated, part in ordered:
            self._take(part, is_outdated)

    def _take(self, part: Part, is_outdated: bool) -> None:
        lines = part.lines()
        settings = next(lines)["settings"]
        only_bound = is_outdated or self._into_running
        self._merge_settings(settings, part.name, only_bound=only_bound)
        for line in lines:
            self._add(line, part.name, is_outdated)
        self._flush()

    def _prove(self, ordered: Sequence[tuple[bool, Part]]) -> None:
        """Merges parts into a store that is thrown away, and reads that as whoever uses a run does.

        A segment may come from anyone who can write to the shared folder: a row that is of no use
        to a run would spoil all that is in it. Conflicts are met here, too, so that nothing is
        merged where not everything can be.

        Raises:
            StoreError: Names the part that is wrong.
        """
        for left_over in self._store.folder.glob(f"{_TRIAL}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with (
            tempfile.TemporaryDirectory(prefix=_TRIAL, dir=self._store.folder) as folder,
            Store(folder) as store,
        ):
            trial = Merger(store, self._holds, into_running=self._into_running)
            trial._questions = dict(self._questions)
            known = {name: self._store.get(name) for name in CARRIED}
            store.put(**{name: value for name, value in known.items() if value is not None})
            for is_outdated, part in ordered:
                with _blaming(part.name, store):
                    trial._take(part, is_outdated)
            names = [part.name for _, part in ordered]
            with _blaming(names[0] if len(names) == 1 else f"One of {len(names)} parts", store):
                read_everything(store)

    def _merge_settings(self, settings: dict[str, Any], source: str, *, only_bound: bool) -> None:
        """Takes over a part's settings; a shard that had nothing to ask lacks some.

        Args:
            settings: The part's.
            source: Its name, for messages.
            only_bound: Only those that calls follow from.
        """
        for name, value in settings.items():
            if value is None or (only_bound and name != "bound"):
                continue
            known = self._store.get(name)
            if name == ADAPTED:
                value = sorted({*value, *(known or ())})
            elif isinstance(known, dict) and isinstance(value, dict):
                differing = [n for n in known if n in value and known[n] != value[n]]
                if differing:
                    values = ", ".join(f"{n} is {known[n]!r} and {value[n]!r}" for n in differing)
                    raise _differ("settings" if name == "bound" else name, values, source)
                value = {**known, **value}
            elif known is not None and known != value:
                raise _differ(name, f"they are {known!r} and {value!r}", source)
            if known != value:
                self._store.put(**{name: value})

    def finish(self) -> None:
        """Drops calls of groundings that another part held whole: they are counted in those."""
        half = "phase = 'ground' AND node_id IN (SELECT key FROM grounding)"
        self._batch.append((f"DELETE FROM call WHERE {half}", ()))
        self._flush()

    def _add(self, line: Line, source: str, is_outdated: bool) -> None:
        self.rows += 1
        table, row = line["t"], tuple(line["r"])
        if not self._belongs(table, row):
            return
        if table == "tree":
            self._add_tree(row, [tuple(node) for node in line["nodes"]], is_outdated)
        else:
            if table == "question":
                self._check_question(row, source)
            missing = self._lengths.get(table, len(row)) - len(row)  # counts newer than the part
            self._batch.append((self._upserts[table], row + (0,) * missing))
        if len(self._batch) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Commits the batch."""
        self._store.write(self._batch)
        self._batch = []
        self._pending = set()

    def _belongs(self, table: str, row: tuple[Any, ...]) -> bool:
        if table == "judgement":
            return True
        if table == "tree":
            return self._holds(json.loads(row[3])["document_id"])
        document_id = row[{"document": 0, "call": 2}.get(table, 1)]  # the column's place
        return not document_id or self._holds(document_id)

    def _check_question(self, row: tuple[Any, ...], source: str) -> None:
        meant = (row[1], row[3])
        if self._questions.setdefault(row[0], meant) != meant:
            raise StoreError(
                f"Question id {row[0]!r} means another question, or one about another document, in "
                f"{source}.",
                hint="Give every question of a corpus its own id, or leave ids out. Do not merge "
                "runs of different corpora.",
            )

    def _add_tree(
        self, row: tuple[Any, ...], nodes: Sequence[tuple[Any, ...]], is_outdated: bool
    ) -> None:
        tree_id = row[0]
        if tree_id in self._pending:
            self._flush()  # to compare with the better of all seen so far, not with an older one
        known = self._store.tree_rows(tree_id)
        if known is not None:
            own_rank = _rank(*known, tree_id in self._outdated)
            if own_rank <= _rank(row, nodes, is_outdated):
                return
        self._pending.add(tree_id)
        self._outdated.discard(tree_id)
        if is_outdated:
            self._outdated.add(tree_id)
        self._batch += [
            (DELETE_NODES, (tree_id,)),
            (REPLACE_TREE, row),
            *((REPLACE_NODE, node) for node in nodes),
        ]


def _sort_parts(parts: Sequence[Part]) -> list[tuple[bool, Part]]:
    """Pairs parts with whether their settings are outdated; those that are come first.

    A part is outdated if its label sealed a later segment under other settings.
    """
    labelled = [one for one in (part.manifest for part in parts) if one and one.label is not None]
    latest: dict[str | None, Manifest] = {}
    for manifest in sorted(labelled, key=lambda one: (one.sealed_s, one.sha256)):
        latest[manifest.label] = manifest

    def is_outdated(manifest: Manifest | None) -> bool:
        last = None if manifest is None else latest.get(manifest.label)
        return manifest is not None and last is not None and last.settings != manifest.settings

    pairs = [(is_outdated(part.manifest), part) for part in parts]
    return sorted(pairs, key=lambda pair: not pair[0])


def _differ(name: str, values: str, source: str) -> StoreError:
    return StoreError(
        f"The runs differ in their {name}: {values[:300]} (in {source}).",
        hint="Merge only parts of one search; merge others into another folder.",
    )


# Where headers or positions differ, the least one stays: the same whatever the order of merging.
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
    # A NULL would make the comparison NULL, and the row that came first would stay.
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


@contextlib.contextmanager
def _blaming(name: str, trial: Store) -> Iterator[None]:
    """Says of a part what is wrong with rows that were read from it."""
    try:
        yield
    except (StoreError, ConfigError, *_SHAPES) as error:
        shown = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, StoreError) and str(trial.folder) not in shown:
            raise
        shown = shown.replace(str(trial.path), "it").replace(str(trial.folder), "it")
        raise StoreError(
            f"{name} holds what is no row of a run ({shown[:300]}); nothing was merged.",
            hint="Copy it again from where it was sealed, or leave it out.",
        ) from error


def read_everything(store: Store) -> None:
    """Reads every row of a store the way that its users do.

    Raises:
        StoreError: One is damaged.
        ValueError: One says what cannot be; or any other error of a wrong shape.
    """
    for document_id in store.document_ids():
        length = len(store.document(document_id).text)
        if any(not 0 <= one.start <= one.end <= length for one in store.pieces(document_id)):
            raise ValueError(f"pieces of document {document_id} lie outside it")
    store.questions()
    for _ in store.trees():
        pass
    for key, *_ in store.rows("call"):
        call = store.find_call(key)
        if call is not None and call.state == "done":
            _check_reply(call.reply)
    for key, *_ in store.rows("grounding"):
        store.find_grounding(key)
    for key, *_ in store.rows("judgement"):
        store.find_judgement(key)
    store.total_usage()
    if store.get("config") is not None and store.get("profile") is not None:
        read_settings(store)


def _check_reply(data: Any) -> None:
    """Checks that a call's reply is one that a search reads; see `search.caller`."""
    if len(data) == 3 and isinstance(data[0], dict):
        found = decode_choice_probs(data, Usage())
        numbers = (*found.probabilities.values(), found.label_mass)
        is_right = all(isinstance(one, int | float) for one in numbers)
    else:
        replies = decode_sampled(data, Usage()).completions
        is_right = all(
            isinstance(one.text, str)
            and all(isinstance(token, int) for token in one.token_ids or ())
            for one in replies
        )
    if not is_right:
        raise ValueError("the reply of a call has no shape of a reply")


def _check(line: Line) -> None:
    """Decodes what is compressed or JSON in a row, so that damage does not spread."""
    table, row = line["t"], line.get("r", ())
    if table == "tree":
        json.loads(row[3])
        for node in line["nodes"]:
            unpack(node[3])
    for value in row:
        if table in ("call", "grounding") and isinstance(value, bytes):
            unpack(value)
