"""Stages: commands that run one after another, each skipped once it has finished."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError, TrainingError, UsageError
from agenticlu.core.files import write_atomically

RECORD_NAME = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One command of a loop."""

    title: str
    argv: Callable[[], tuple[str, ...]]
    """Returns the arguments of `agenticlu`, once the stages before have finished."""
    produces: str
    """The file, under the loop's folder, that people will want to open."""
    check: Callable[[], None] = lambda: None
    """Raises TrainingError where what the stage made is of no use to those after it."""
    reopens: tuple[str, ...] = ()
    """Titles of stages before it that may have other settings once it raised TrainingError."""
    advice: str = ""
    """Added to the hint of such an error."""


def run_stages(
    out: Path,
    stages: Sequence[Stage],
    invoke: Callable[[Sequence[str]], Any],
    say: Callable[..., None],
) -> dict[str, float]:
    """Runs stages in order and returns the seconds that each has taken, by title.

    Each command can be killed and goes on when it is run again; what has finished is noted in
    `stages.json` and not run again. A stage that finds nothing to learn from does not count as
    finished, nor do those that it reopens: they go on from what they have kept.

    Args:
        out: Folder of the loop.
        stages: Its stages; titles are unique.
        invoke: Runs one `agenticlu` command, given its arguments.
        say: Prints one line, `bold` or `dim`.

    Raises:
        UsageError: The folder holds stages of other settings.
        StoreError: The record of finished stages is damaged.
        TrainingError: A stage found nothing to learn from.
    """
    done = _read_record(out)
    for number, stage in enumerate(stages, 1):
        say(f"\n[{number}/{len(stages)}] {stage.title}", bold=True)
        if stage.title in done:
            _check_same(out, stage, done[stage.title]["argv"])
            say(f"  {out / stage.produces}  (finished before)")
            continue
        argv = stage.argv()
        say(f"  $ agenticlu {shlex.join(argv)}", dim=True)
        began = time.monotonic()
        try:
            invoke(argv)
            stage.check()
        except TrainingError as error:
            _save_record(out, {t: one for t, one in done.items() if t not in stage.reopens})
            hint = f"{error.hint or ''} {stage.advice}".strip()
            raise TrainingError(error.message, hint=hint or None) from error
        seconds = round(time.monotonic() - began, 1)
        done[stage.title] = {"argv": list(argv), "seconds": seconds}
        _save_record(out, done)
        say(f"  {out / stage.produces}  ({seconds:.0f} s)")
    return {title: float(one["seconds"]) for title, one in done.items()}


def _read_record(out: Path) -> dict[str, Any]:
    path = out / RECORD_NAME
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {str(title): {"argv": one["argv"], "seconds": one["seconds"]}
                for title, one in record.items()}  # fmt: skip
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise StoreError(
            f"{path} is damaged: {error}",
            hint="Remove it: every stage is looked at again, and finished work is kept.",
        ) from error


def _save_record(out: Path, record: dict[str, Any]) -> None:
    write_atomically(out / RECORD_NAME, json.dumps(record, indent=2) + "\n")


def _check_same(out: Path, stage: Stage, before: Sequence[str]) -> None:
    now = list(stage.argv())
    if before != now:
        differing = sorted(set(before) ^ set(now))
        raise UsageError(
            f"{out} holds the stage {stage.title!r} with other settings: "
            f"{', '.join(differing) or 'another order'}.",
            hint="Give another --out, or the settings of before.",
        )
