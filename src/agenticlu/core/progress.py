"""Progress of a job: a bar or plain lines on stderr for people, metrics.jsonl for programs."""

from __future__ import annotations

import importlib
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from agenticlu.core.errors import MissingDependencyError, StoreError
from agenticlu.core.files import Closing, load_rows, write_atomically
from agenticlu.core.printing import echo, encode_json, harmless

if TYPE_CHECKING:
    import rich.progress

PLAIN_INTERVAL_S = 10.0
"""Shortest time between two plain lines."""
Mirror = Callable[[Mapping[str, float], int], object]
"""Another place for the numbers of a step, such as TensorBoard: called with values and step."""


class MetricsWriter(Closing):
    """Appends one JSON object per line; keys name their units, as in `elapsed_s`.

    Every line is a single write to a file opened for appending: readers see whole lines, and a
    kill loses at most the line being written. Numbers that are not finite become null.

    Args:
        path: The file; its folder must exist. A torn last line is ended first.
        mirrors: Also receive the numbers of each line that has a `step`, keyed `event/name`.
    """

    def __init__(self, path: str | Path, *, mirrors: Sequence[Mirror] = ()) -> None:
        self.path = Path(path)
        self._mirrors = mirrors
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise StoreError(
                f"Cannot open the metrics file {str(path)!r}: {error.strerror}."
            ) from error
        size = os.lseek(self._file, 0, os.SEEK_END)
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def write(self, **values: object) -> None:
        """Appends one object."""
        line = encode_json(_finite(values)) + "\n"
        rest = memoryview(line.encode("utf-8", "backslashreplace"))
        try:
            while rest:  # a disk that becomes full takes a part, and refuses what follows
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise self._refused(error) from error
        step = values.get("step")
        if self._mirrors and isinstance(step, int):
            numbers = {
                f"{values.get('event', 'metrics')}/{key}": float(value)
                for key, value in values.items()
                if isinstance(value, int | float) and key != "step"
            }
            for mirror in self._mirrors:
                mirror(numbers, step)

    def sync(self) -> None:
        """Returns when the disk has all lines, so that a power failure keeps them.

        A log that is no file on a disk, such as the null device of other ranks, has none to wait
        for.

        Raises:
            StoreError: It cannot take them.
        """
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"Cannot write metrics to {str(self.path)!r}: {error.strerror}.",
            hint="Free some space, then run the same command again.",
        )


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a metrics file; a torn line is skipped with a warning."""
    return load_rows(path, error=StoreError, skip_torn=True)


def keep_metrics(path: str | Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a metrics file without the lines for which `keep` is false; none need exist."""
    if Path(path).exists():
        kept = [encode_json(value) for value in read_metrics(path) if keep(value)]
        write_atomically(path, "".join(f"{line}\n" for line in kept))


def open_mirrors(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> list[Mirror]:
    """Opens experiment trackers: tensorboard, or any module with wandb's `init` and `log`.

    Args:
        names: Which ones.
        folder: Where they keep their files.
        settings: The job's settings, recorded with it.

    Raises:
        MissingDependencyError: One is not installed.
    """
    mirrors: list[Mirror] = []
    for name in names:
        try:
            if name == "tensorboard":
                mirrors.append(_open_tensorboard(folder))
            else:
                mirrors.append(_open_tracker(name, folder, settings))
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"Logging to {name} needs the package {name!r}, which is not installed.",
                hint=f"pip install {name}",
            ) from error
    return mirrors


def _open_tensorboard(folder: Path) -> Mirror:
    from torch.utils.tensorboard.writer import SummaryWriter

    writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def mirror(values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return mirror


def _open_tracker(name: str, folder: Path, settings: Mapping[str, Any]) -> Mirror:
    tracker: Any = importlib.import_module(name)
    tracker.init(project="agenticlu", dir=str(folder), config=dict(settings))
    return lambda values, step: tracker.log(dict(values), step=step)


class Progress:
    """Shows on stderr how far a job has come.

    A bar where stderr is a terminal; otherwise a plain line at the start, at the end and at most
    every ten seconds in between; with `quiet`, only warnings.

        with Progress("questions", total=40) as progress:
            for question in questions:
                ...
                progress.advance(note=f"{solved} solved")

    Args:
        what: What is counted, in the plural.
        total: How many there are; None when unknown.
        done: How many an earlier, interrupted call has done.
        quiet: Shows only warnings.
        stream: Where to write; stderr unless given.
        clock: Seconds, monotonic; for tests.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        done: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.total = total
        self.done = self._done_before = done
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

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif not self._quiet:
            self._line(ended="stopped" if kind else "done")

    def advance(self, num: int = 1, *, note: str | None = None) -> None:
        """Counts `num` more; `note` replaces the text behind the bar."""
        self.update(self.done + num, note=note)

    def update(self, done: int, *, total: int | None = None, note: str | None = None) -> None:
        """Sets the count, and the total once it is known."""
        self.done = done
        self.total = self.total if total is None else total
        self._note = self._note if note is None else harmless(note)
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
            self._bar.console.print(harmless(text), markup=False, highlight=False)
        else:
            echo(text, file=self._stream)

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
        self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, note="")
        self._bar.start()

    def _line(self, ended: str = "") -> None:
        self._said = self._clock()
        elapsed_s = self._said - self._began
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.what}: {self.done}{of}", f"{elapsed_s:.0f} s"]
        new = self.done - self._done_before
        if not ended and self.total and new > 0 and self.done < self.total:
            parts.append(f"about {elapsed_s / new * (self.total - self.done):.0f} s left")
        parts += [part for part in (self._note, ended) if part]
        echo(", ".join(parts), file=self._stream)


def format_count(number: float) -> str:
    """Renders a number in three digits with a unit.

    >>> format_count(950), format_count(12_340), format_count(7_300_000)
    ('950', '12.3K', '7.30M')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            value = number / limit
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{digits}f}{unit}"
    return f"{number:.0f}"


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
