"""HELMET's key points of books and cases, by id."""

from __future__ import annotations

from pathlib import Path

from agenticlu.errors import ConfigError
from agenticlu.evaluation.helmet.sources import read_rows

FILES = {
    "infbench_sum_eng": ("data/infbench/longbook_sum_eng_keypoints.jsonl", "keypoints"),
    "multi_lexsum": ("data/multi_lexsum/multi_lexsum_val.jsonl", "summary/short_keypoints"),
}


def load_key_points(root: Path, task: str) -> dict[str, tuple[str, ...]]:
    """Returns the key points of a summary task by row id.

    Raises:
        UsageError: The file is not below `root`.
        ConfigError: A row of it has no id or no key points.
    """
    path, column = FILES[task]
    rows = read_rows(root / path)
    if not all({"id", column} <= set(row) for row in rows):
        raise ConfigError(f"A row of {str(root / path)!r} lacks the column 'id' or {column!r}.")
    return {str(row["id"]): tuple(row[column]) for row in rows}
