"""The append-only file of results: one finished item a line, whatever happens next."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.core.output_dir import write_atomically
from agenticlu.core.records import Prediction, content_id, without_lone_surrogates
from agenticlu.evaluation.config import CONFIG_NAME, RunSettings, hash_tokenizer
from agenticlu.evaluation.methods import find_method, wordings_of

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


LOCK_NAME = "eval.lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class ResultsFolder:
    """Holds the writer's lock of a folder; made where there is none.

    Where an error ends a run before its first result, what the run itself made is removed.

    Args:
        path: The folder.

    Raises:
        StoreError: It cannot be made or written, or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_new = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(
                f"Results cannot be written to {str(path)!r}: {error.strerror}.",
                hint="Give another folder by --out.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(self._lock)
                raise StoreError(
                    f"Another process is writing results to {str(path)!r}.",
                    hint="Wait until it ends, or give another folder by --out.",
                ) from error
            # A file system without locks: one writer is then the user's own care.

    def __enter__(self) -> ResultsFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._is_new and not self._has_results():
            self._remove()
        os.close(self._lock)

    def _has_results(self) -> bool:
        path = self.path / FILE_NAME
        return path.is_file() and path.stat().st_size > 0

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            for name in (FILE_NAME, CONFIG_NAME, LOCK_NAME):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()


Conditions = dict[str, str | int | float | bool | None]

SHARED = (
    "temperature",
    "top_p",
    "seed",
    "max_tokens",
    "piece_tokens",
    "tokenizer",
    "as_published",
)
"""RunSettings that all results of a folder have in common."""
OF_TASKS = (
    "questions_per_document",
    "shots",
    "templates",
    "chat",
    "haystack",
    "words",
    "helmet_tokenizer",
)
"""RunSettings that all results of a task have in common."""
OF_METHODS = ("rounds", "top_k", "retriever", "wording")
"""RunSettings that all results of a method have in common."""
MODEL = ("weights", "profile")
"""What tells one model under a label from another: the later one's results replace the earlier's,
and those of different labels are what is compared."""
_FILES = ("templates", "haystack")


def build_conditions(settings: RunSettings, method: str, rounds: int | None = None) -> Conditions:
    """Returns what the predictions of a method are asked under.

    Args:
        settings: Of the run.
        method: Its name, without a number of rounds.
        rounds: Where the method has several.
    """
    config = settings.config
    options = {name: config.options.get(name) for name in OF_TASKS} | {"chat": config.chat}
    found: Conditions = {
        **{name: getattr(config, name) for name in SHARED},
        "tokenizer": hash_tokenizer(settings.tokenizer),
        **{name: _file(value) if name in _FILES else value for name, value in options.items()},
        "questions_per_document": config.questions_per_document,
        "weights": config.model_fingerprint,
        "profile": hash_profile(settings),
    }
    if rounds is not None:
        found["rounds"] = rounds
    if find_method(method).retrieves:
        found |= {"top_k": config.top_k, "retriever": config.retriever}
    if texts := wordings_of(find_method(method)):
        found["wording"] = content_id(*texts)
    return found


def hash_profile(settings: RunSettings) -> str:
    """Returns a hash of the wordings."""
    return content_id(settings.profile.model_dump_json())


def refuse_mixing(
    found: Iterable[Prediction],
    wanted: Mapping[str, Conditions],
    tasks: Iterable[str],
    folder: Path,
) -> None:
    """Raises UsageError where a folder's results and those of a run could not be compared.

    Args:
        found: What the folder holds.
        wanted: Method to what the run asks under.
        tasks: Of the run.
        folder: For the message.
    """
    tasks = frozenset(tasks)
    common = next(iter(wanted.values()))
    for prediction in found:
        known = prediction.conditions
        if not known:
            continue
        names = [*SHARED, *(OF_TASKS if prediction.task in tasks else ())]
        differing = {
            name: (known.get(name), common[name])
            for name in names
            if known.get(name) != common[name]
        }
        own = wanted.get(prediction.method, {})
        differing |= {
            name: (known[name], own[name])
            for name in OF_METHODS
            if name in known and name in own and known[name] != own[name]
        }
        if differing:
            raise _mixing(prediction, differing, folder)


def _mixing(
    prediction: Prediction, differing: Mapping[str, tuple[Any, Any]], folder: Path
) -> UsageError:
    said = [
        "its lengths were counted by another tokenizer"
        if name == "tokenizer"
        else f"{name} was {_shown(there)} and is now {_shown(now)}"
        for name, (there, now) in differing.items()
    ]
    again = " ".join(_flag(name, there) for name, (there, _) in differing.items())
    hint = f"Use another --out, or the setting of before: {again}."
    if "rounds" in differing:
        hint = "Use another --out, or --rounds 1,2,... for several numbers side by side."
    return UsageError(
        f"{str(folder)!r} holds results ({prediction.method} on {prediction.task}) that cannot be "
        f"compared with this run's: {'; '.join(said)}.",
        hint=hint,
    )


def _flag(name: str, value: Any) -> str:
    """Returns what was typed for a value, as far as it can be told."""
    flag = f"--{name.replace('_', '-')}"
    if name == "chat" and value is False:
        return "--no-chat"
    if value is None or value is False:
        return f"no {flag}"
    if value is True:
        return flag
    return f"{flag} {'...' if name in ('tokenizer', 'wording', *_FILES) else value}"


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _file(value: Any) -> str | None:
    """Returns a file's name with a hash of what it holds, so that a changed file is noticed."""
    if value is None:
        return None
    path = Path(str(value))
    if not path.is_file():
        return path.name
    return f"{path.name} ({content_id(path.read_bytes().decode('latin-1'))[:8]})"


def current(
    found: Mapping[str, Prediction], known: Mapping[str, Conditions] | None = None
) -> tuple[list[Prediction], dict[str, int]]:
    """Returns the predictions to be shown, and how many of each label are left out.

    A label stands for one model: of several weights or wordings under one label, those of its last
    prediction are shown. Of several predictions of one question the last one is.

    Args:
        found: A folder's predictions by id, the last ones last.
        known: Label to the conditions of its present model, where a run knows them.
    """
    models = {p.engine: _model_of(p.conditions) for p in found.values()}
    models |= {label: _model_of(conditions) for label, conditions in (known or {}).items()}
    shown: dict[tuple[str, str, str, int, str, str], Prediction] = {}
    left_out: dict[str, int] = {}
    for p in found.values():
        if _model_of(p.conditions) == models[p.engine]:
            shown[(p.engine, p.method, p.task, p.length, p.document_id, p.question_id)] = p
        else:
            left_out[p.engine] = left_out.get(p.engine, 0) + 1
    return list(shown.values()), left_out


def _model_of(conditions: Conditions) -> tuple[str | int | float | bool | None, ...]:
    return tuple(conditions.get(name) for name in MODEL)
