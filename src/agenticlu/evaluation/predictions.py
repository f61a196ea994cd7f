"""Reads and appends predictions.jsonl, and refuses to mix results of different settings."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.core.files import Closing, DirectoryLock, write_atomically
from agenticlu.core.printing import echo, escape_json
from agenticlu.core.records import Prediction, content_id, without_lone_surrogates
from agenticlu.evaluation.config import CONFIG_NAME, RunSettings
from agenticlu.evaluation.methods import find_method, wordings_of

FILE_NAME = "predictions.jsonl"
LOCK_NAME = "eval.lock"
Conditions = dict[str, str | int | float | bool | None]
SHARED = (
    "temperature", "top_p", "seed", "max_tokens", "piece_tokens", "tokenizer", "as_published",
    "thinking",
)  # fmt: skip
"""Settings that all results of a folder have in common."""
OF_TASKS = (
    "questions_per_document", "shots", "templates", "chat", "haystack", "words",
    "helmet_tokenizer", "corpus", "corpus_split", "corpus_fill",
)  # fmt: skip
"""Settings that all results of a task have in common."""
OF_METHODS = ("rounds", "top_k", "retriever", "wording", "stop_rule")
"""Settings that all results of a method have in common."""
MODEL = ("weights", "profile")
"""What identifies the model under a label: the results of a later model replace those of an earlier
one, and results of different labels are compared."""
_FILES = ("templates", "haystack", "corpus")


def read_predictions(path: Path, *, warn: bool = True) -> dict[str, Prediction]:
    """Reads a file of predictions by id; of several lines with one id the last one counts.

    What killed runs leave is skipped with a warning: a torn last line, and lines with NUL bytes,
    which stand for parts that were not on the disk when the power failed.

    Raises:
        StoreError: Another line is not a prediction: the file is damaged, or of another kind.
        UsageError: The file does not exist.
    """
    if not path.is_file():
        raise UsageError(f"No predictions found: {path} does not exist.")
    found: dict[str, Prediction] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prediction = Prediction.model_validate_json(line)
        except ValidationError as error:
            # A complete file ends with a line end, so only a torn line can be the last one here.
            is_torn = number == len(lines)
            if is_torn or b"\0" in line:
                if warn:
                    which = "the last line is torn" if is_torn else f"line {number} is blank"
                    echo(f"{path}: {which} and was skipped; its item runs again.", err=True)
                continue
            first = error.errors()[0]
            raise StoreError(
                f"{path}, line {number}, is not a prediction: {first['msg']} at "
                f"{'.'.join(map(str, first['loc'])) or 'the top level'}.",
                hint="To score predictions of another origin: agenticlu eval score FILE",
            ) from error
        # The last line of an id also takes its place in the order, which decides what is current.
        found.pop(prediction.id, None)
        found[prediction.id] = prediction
    return found


class PredictionWriter(Closing):
    """Appends predictions; each is on the disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                _mend_last_line(path)
            # Without a buffer: what a full disk refused would be written again when it is closed.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise StoreError(f"Cannot write {str(path)!r}: {error.strerror}.") from error

    def append(self, *predictions: Prediction) -> None:
        """Appends a line for each and syncs them together.

        Raises:
            StoreError: The disk is full, or the file has become unwritable.
        """
        lines = "".join(
            f"{escape_json(prediction.model_dump_json())}\n" for prediction in predictions
        )
        try:
            rest = memoryview(lines.encode())
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"Cannot write {str(self._path)!r}: {error.strerror}.",
                hint="Free some space and run the same command again; finished items are kept.",
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _mend_last_line(path: Path) -> None:
    """Ends a last line without its line end, or removes it where it is torn.

    What is appended would become part of it.
    """
    data = path.read_bytes()
    if not data or data.endswith(b"\n"):
        return
    start = data.rfind(b"\n") + 1
    with path.open("r+b") as file:
        try:
            Prediction.model_validate_json(data[start:])
        except ValidationError:
            file.truncate(start)
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def replace_lone_surrogates(prediction: Prediction) -> Prediction:
    """Returns the prediction without half surrogate pairs, which UTF-8 cannot hold.

    A model that samples bytes may stop in the middle of a character.
    """
    text = json.dumps(prediction.model_dump(), ensure_ascii=False)
    whole = without_lone_surrogates(text)
    return prediction if whole == text else Prediction.model_validate_json(whole)


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def lock_results(path: Path) -> Iterator[None]:
    """Creates a folder of results and keeps other processes from writing to it.

    Where an error ends the run before its first result, a folder that it created is removed.

    Raises:
        StoreError: The folder cannot be written, or another process writes to it.
    """
    is_new = not path.exists()
    busy = StoreError(
        f"Another process is writing results to {str(path)!r}.",
        hint="Wait until it ends, or give another --out.",
    )
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(path / LOCK_NAME, busy=busy)
    except OSError as error:
        raise StoreError(
            f"Cannot write results to {str(path)!r}: {error.strerror}.",
            hint="Give another folder with --out.",
        ) from error
    with lock:
        try:
            yield
        except BaseException:
            file = path / FILE_NAME
            if is_new and not (file.is_file() and file.stat().st_size):
                with contextlib.suppress(OSError):
                    for name in (FILE_NAME, CONFIG_NAME, LOCK_NAME):
                        (path / name).unlink(missing_ok=True)
                    path.rmdir()
            raise


def build_conditions(settings: RunSettings, method: str, rounds: int | None = None) -> Conditions:
    """Returns the conditions under which a method's predictions are made.

    Args:
        settings: Of the run.
        method: Its name, without a number of rounds.
        rounds: Where the method has several.
    """
    config = settings.config
    options = {name: config.options.get(name) for name in OF_TASKS} | {"chat": config.chat}
    found: Conditions = {
        **{name: getattr(config, name) for name in SHARED},
        "tokenizer": settings.tokenizer_hash,
        **{
            name: _identify_file(value) if name in _FILES else value
            for name, value in options.items()
        },
        "questions_per_document": config.questions_per_document,
        "weights": config.model_fingerprint,
        "profile": settings.profile_hash,
    }
    if rounds is not None:
        found["rounds"] = rounds
    if find_method(method).ruled:
        found["stop_rule"] = content_id(settings.required_rule.model_dump_json())
    if find_method(method).retrieves:
        found |= {"top_k": config.top_k, "retriever": config.retriever}
    if texts := wordings_of(find_method(method)):
        found["wording"] = content_id(*texts)
    return found


def _identify_file(value: Any) -> str | None:
    """Returns a file's name with a hash of its content, so that a changed file is another one."""
    if value is None:
        return None
    path = Path(str(value))
    if not path.is_file():
        return path.name
    return f"{path.name} ({content_id(path.read_bytes().decode('latin-1'))[:8]})"


def refuse_mixing(
    found: Iterable[Prediction],
    wanted: Mapping[str, Conditions],
    tasks: Iterable[str],
    folder: Path,
) -> None:
    """Refuses to add results to a folder whose results they could not be compared with.

    Args:
        found: What the folder holds.
        wanted: Method to the conditions of the run.
        tasks: Of the run.
        folder: For the message.

    Raises:
        UsageError: Names the settings that differ.
    """
    tasks = frozenset(tasks)
    common = next(iter(wanted.values()))
    for prediction in found:
        known = prediction.conditions
        if not known:
            continue
        own = wanted.get(prediction.method, {})
        names = [*SHARED, *(OF_TASKS if prediction.task in tasks else ())]
        compared = {name: (known.get(name), common[name]) for name in names}
        compared |= {
            name: (known[name], own[name]) for name in OF_METHODS if name in known and name in own
        }
        differing = {name: both for name, both in compared.items() if both[0] != both[1]}
        if differing:
            place = f"{prediction.method} on {prediction.task}"
            raise _build_mixing_error(place, differing, folder)


def _build_mixing_error(
    place: str, differing: Mapping[str, tuple[Any, Any]], folder: Path
) -> UsageError:
    def show(value: Any) -> str:
        return "not set" if value is None else str(value)

    changes = [
        "its lengths were counted by another tokenizer"
        if name == "tokenizer"
        else f"{name} was {show(before)} and is now {show(now)}"
        for name, (before, now) in differing.items()
    ]
    flags = " ".join(_render_flag(name, before) for name, (before, _) in differing.items())
    hint = f"Use another --out, or the earlier settings: {flags}."
    if "rounds" in differing:
        hint = "Use another --out, or --rounds 1,2,... for several numbers side by side."
    return UsageError(
        f"{str(folder)!r} holds results ({place}) that cannot be compared with this run's: "
        f"{'; '.join(changes)}.",
        hint=hint,
    )


def _render_flag(name: str, value: Any) -> str:
    """Returns the flag that sets a value, as far as the stored conditions show it."""
    flag = f"--{name.replace('_', '-')}"
    if name == "chat" and value is False:
        return "--no-chat"
    if value is None or value is False:
        return f"no {flag}"
    if value is True:
        return flag
    return f"{flag} {'...' if name in ('tokenizer', 'wording', *_FILES) else value}"


def select_current(
    found: Mapping[str, Prediction], known: Mapping[str, Conditions] | None = None
) -> tuple[list[Prediction], dict[str, int]]:
    """Returns the predictions to show, and how many of each label are left out.

    A label stands for one model: of several weights or wordings under one label, those of its last
    prediction are shown. Of several predictions of one question the last one is.

    Args:
        found: A folder's predictions by id, the last ones last.
        known: Label to the conditions of its present model, where a run knows them.
    """

    def identify(conditions: Conditions) -> tuple[str | int | float | bool | None, ...]:
        return tuple(conditions.get(name) for name in MODEL)

    models = {p.engine: identify(p.conditions) for p in found.values()}
    models |= {label: identify(conditions) for label, conditions in (known or {}).items()}
    shown: dict[tuple[str, str, str, int, str, str], Prediction] = {}
    left_out: dict[str, int] = {}
    for p in found.values():
        if identify(p.conditions) == models[p.engine]:
            shown[(p.engine, p.method, p.task, p.length, p.document_id, p.question_id)] = p
        else:
            left_out[p.engine] = left_out.get(p.engine, 0) + 1
    return list(shown.values()), left_out
