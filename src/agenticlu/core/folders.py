"""Which command a folder of results belongs to, so that none writes among another's files."""

from __future__ import annotations

from pathlib import Path

from agenticlu.core.errors import UsageError

MARKS = {
    "generate": ("run.sqlite", "a search"),
    "dataset": ("croissant.json", "a data set"),
    "train": ("dropped.jsonl", "a training run"),
    "eval": ("predictions.jsonl", "an evaluation"),
}
"""Command to a file that it alone writes, and to what the folder then holds."""


def check_owner(out: Path, command: str) -> None:
    """Refuses a folder that holds another command's results.

    Several commands write `config.json`, `summary.json` or `metrics.jsonl`: in one folder the later
    one would replace what the earlier one reads again.

    Args:
        out: The folder wanted; need not exist.
        command: The one that wants to write, a key of `MARKS`.

    Raises:
        UsageError: Names what is there.
    """
    if (out / MARKS[command][0]).exists():
        return
    for name, (mark, what) in MARKS.items():
        if name != command and (out / mark).exists():
            raise UsageError(
                f"--out {out} holds {what} ({mark}) that agenticlu {command} would write over.",
                hint=f"Give another --out, for example {out.resolve().parent / command}",
            )
