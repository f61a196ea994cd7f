"""The append-only file of results: one finished item a line, whatever happens next."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.core.files import write_atomically
from agenticlu.core.records import Prediction, without_lone_surrogates

FILE_NAME = "predictions.jsonl"


def read_predictions(path: Path, *, warn: bool = True) -> dict[str, Prediction]:
    """Reads a file of predictions by id; of several lines with one id the last one counts.

    A torn last line, as a kill leaves it, is skipped with a warning.

    Raises:
        StoreError: Another line is no prediction: the file is damaged or something else.
        UsageError: There is no such file.
    """
    if not path.is_file():
        raise UsageError(f"There is no file of predictions {str(path)!r}.")
    found: dict[str, Prediction] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prediction = Prediction.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                if warn:
                    print(
                        f"{path}: the last line is torn and was skipped; its item runs again.",
                        file=sys.stderr,
                    )
                continue
            first = error.errors()[0]
            raise StoreError(
                f"{path}, line {number}, is not a prediction: {first['msg']} at "
                f"{'.'.join(map(str, first['loc'])) or 'the top'}.",
                hint="To score predictions of another origin: agenticlu eval score FILE",
            ) from error
        found.pop(prediction.id, None)
        found[prediction.id] = prediction
    return found


class PredictionWriter:
    """Appends predictions; each is on the disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torn = path.is_file() and path.stat().st_size > 0 and not _ends_line(path)
            if torn:
                _drop_last_line(path)
            self._file = path.open("ab")
        except OSError as error:
            raise StoreError(f"Cannot write {str(path)!r}: {error.strerror}.") from error

    def append(self, *predictions: Prediction) -> None:
        """Appends a line for each and syncs them together.

        Raises:
            StoreError: The disk is full, or the file has become unwritable.
        """
        lines = "".join(f"{prediction.model_dump_json()}\n" for prediction in predictions)
        try:
            self._file.write(lines.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"Cannot write {str(self._path)!r}: {error.strerror}.",
                hint="Make room and run the same command again; finished items are kept.",
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def writable(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Returns the predictions with half surrogate pairs, which no file can hold, replaced.

    A model that samples bytes may stop in the middle of a character.
    """
    found = []
    for prediction in predictions:
        text = json.dumps(prediction.model_dump(), ensure_ascii=False)
        whole = without_lone_surrogates(text)
        if whole != text:
            prediction = Prediction.model_validate_json(whole)
        found.append(prediction)
    return found


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _drop_last_line(path: Path) -> None:
    """Removes a line that a kill left without its end."""
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(data.rfind(b"\n") + 1)


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def failures(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Returns the predictions that failed."""
    return [prediction for prediction in predictions if prediction.error is not None]
