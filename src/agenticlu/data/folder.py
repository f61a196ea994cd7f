"""The folder of a data set: what is ours in it, and how it appears whole or not at all.

`summary.json` names every file with size and hash. What it does not name is somebody else's: never
overwritten, never removed, never uploaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.data.rows import COLUMNS, SPLITS, writing

SUMMARY = "summary.json"
CARD = "README.md"
CROISSANT = "croissant.json"
FORMAT = "agenticlu-dataset"
VERSION = 1
NAMES = frozenset(
    {CARD, CROISSANT, *(f"{kind}/{split}.parquet" for kind in COLUMNS for split in SPLITS)}
)
"""What a summary may name: nothing outside the folder, whoever wrote it."""
PART = ".agenticlu-part"
"""Folder inside the data set's where it is written before it takes its place."""


def check_out(out: Path, *sources: Path) -> None:
    """Refuses a folder that a data set must not be written into.

    Args:
        out: The folder wanted.
        sources: What the data set is made from.

    Raises:
        UsageError: It is a file, holds something else or a card that was edited, or is (inside)
            a source.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, not a folder.", hint="Give another --out.")
    resolved = out.resolve()
    for source in sources:
        if not source.exists():
            continue
        inside = source.resolve()
        if inside == resolved or inside in resolved.parents or resolved in inside.parents:
            raise UsageError(
                f"--out {out} and {source} lie in one another; a data set has its own folder.",
                hint=f"For example --out {source.resolve().parent / 'data'}",
            )
    if not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if path.name != PART)
    record = _read_record(out)
    if others and record is None:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(
            f"--out {out} is not empty and no data set of ours: it holds {shown}.",
            hint="Give another --out, or empty the folder.",
        )
    card = out / CARD
    if record and card.is_file() and _is_changed(card, record["files"].get(CARD)):
        raise UsageError(
            f"{card} was edited since it was written; it would be overwritten.",
            hint="Move it away, or give another --out.",
        )


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yields a folder to write a data set into; it takes its place when the block ends well.

    Args:
        out: The data set's folder; see `check_out`.

    Raises:
        StoreError: It cannot be written.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    part = out / PART
    with writing(out):
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
    try:
        yield part
        with writing(out):
            _publish(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):  # only folders that stayed empty go
                path.rmdir()


def _publish(part: Path, out: Path) -> None:
    """Moves files into place, the summary last; files of the earlier data set go."""
    before = set((_read_record(out) or {"files": {}})["files"])
    names = [path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()]
    names.sort(key=lambda name: (name == SUMMARY, name == CARD, name))
    for name in names:
        (out / name).parent.mkdir(exist_ok=True)
        (part / name).replace(out / name)
    for name in before - set(names):
        (out / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (out / name).parent.rmdir()


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns each file's size and SHA-256 by its name in the folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMMARY)
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in files
    }


def load_record(folder: Path) -> dict[str, Any]:
    """Returns the summary of a data set, after a look at its files.

    The card may have been edited; everything else must be as it was written.

    Raises:
        UsageError: The folder is no data set of ours.
        StoreError: A file is missing or was changed.
    """
    record = _read_record(folder)
    if record is None:
        raise UsageError(
            f"{folder} is no data set: it holds no {SUMMARY} of ours.",
            hint="Give the folder that `agenticlu dataset build --out` wrote.",
        )
    for name, known in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{folder} lacks {name}.", hint="Build the data set again.")
        if name != CARD and _is_changed(path, known):
            raise StoreError(
                f"{path} is not what was built: its size or hash differs.",
                hint="Build the data set again.",
            )
    return record


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_changed(path: Path, known: dict[str, Any] | None) -> bool:
    return known is None or (
        path.stat().st_size != known["bytes"] or file_digest(path) != known["sha256"]
    )


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    files = record.get("files")
    return record if isinstance(files, dict) and NAMES.issuperset(files) else None
