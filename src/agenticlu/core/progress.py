"""Progress: a bar for people, plain lines where there is no terminal, JSON lines for machines."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from agenticlu.core.errors import StoreError

if TYPE_CHECKING:
    import rich.progress

PLAIN_INTERVAL_S = 10.0
"""Least seconds between two plain lines."""


class MetricsWriter:
    """Appends one JSON object a line; units stand in the keys, as in `elapsed_s`.

    Every line is one write to a file opened for appending, so that a reader meets whole lines and
    a kill loses at most the line in flight. Numbers that are not finite become null.

    Args:
        path: The file; its folder must exist. A torn last line is ended first.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise StoreError(
                f"The metrics file {str(path)!r} cannot be opened: {error.strerror}."
            ) from error
        size = os.lseek(self._file, 0, os.SEEK_END)
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def write(self, **values: object) -> None:
        """Appends one object."""
        line = json.dumps(_finite(values), ensure_ascii=False, separators=(", ", ": ")) + "\n"
        try:
            os.write(self._file, line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise StoreError(
                f"Metrics cannot be written to {str(self.path)!r}: {error.strerror}.",
                hint="Free some space, then run the same command again.",
            ) from error

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a metrics file; a torn line is skipped with a warning."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(line)
            except ValueError:
                if line.strip():
                    warnings.warn(f"{path}: line {number} is torn, skipped", stacklevel=2)
                continue
            if isinstance(value, dict):
                yield value


class Progress:
    """Tells people on stderr how far a job is.

    A bar where stderr is a terminal; else a plain line at the start, at the end and at most every
    ten seconds between; nothing but warnings with `quiet`.

        with Progress("questions", total=40) as progress:
            for question in questions:
                ...
                progress.advance(note=f"{solved} solved")

    Args:
        what: What is counted, in the plural.
        total: How many there are; None when unknown.
        quiet: Shows nothing but warnings.
        stream: Where to write; stderr unless given.
        clock: Seconds, monotonic; for tests.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._note = ""
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._began = self._said = clock()
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Self:
        self._began = self._said = self._clock()
        if self._quiet:
            return self
        if self._stream.isatty():
            self._open_bar()
        else:
            self._line()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif not self._quiet:
            self._line(ended="stopped" if kind else "done")

    def advance(self, num: int = 1, *, note: str | None = None) -> None:
        """Counts `num` more; `note` replaces the words after the bar."""
        self.update(self.done + num, note=note)

    def update(self, done: int, *, total: int | None = None, note: str | None = None) -> None:
        """Sets the count, and the total where it has become known."""
        self.done = done
        self.total = self.total if total is None else total
        self._note = self._note if note is None else note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self.total, note=self._note)
        elif not self._quiet and self._clock() - self._said >= PLAIN_INTERVAL_S:
            self._line()

    def say(self, text: str) -> None:
        """Writes a line above the bar."""
        if not self._quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """Writes a line above the bar, quiet or not."""
        self._write(f"warning: {text}")

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=self._stream),
            transient=False,
        )
        self._task = self._bar.add_task(self.what, total=self.total, note="")
        self._bar.start()

    def _line(self, ended: str = "") -> None:
        self._said = self._clock()
        elapsed_s = self._said - self._began
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.what}: {self.done}{of}", f"{elapsed_s:.0f} s"]
        if not ended and self.total and 0 < self.done < self.total:
            parts.append(f"about {elapsed_s / self.done * (self.total - self.done):.0f} s left")
        parts += [part for part in (self._note, ended) if part]
        print(", ".join(parts), file=self._stream, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
