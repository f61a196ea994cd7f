"""HELMET's key points of books and cases, by id."""

from __future__ import annotations

from pathlib import Path

from agenticlu.core.errors import ConfigError
from agenticlu.evaluation.helmet.sources import read_rows

FILES = {
    "infbench_sum_eng": ("data/infbench/longbook_sum_eng_keypoints.jsonl", "keypoints"),
    "multi_lexsum": ("data/multi_lexsum/multi_lexsum_val.jsonl", "summary/short_keypoints"),
}


def load_key_points(root: Path, task: str) -> dict[str, tuple[str, ...]]:
    """Returns the key points of a summary task by row id.

    Raises:
        UsageError: The file is not below `root`.
        ConfigError: A row of it lacks its id or its key points.
    """
    path, column = FILES[task]
    found = {}
    for number, row in enumerate(read_rows(root / path), start=1):
        if "id" not in row or not isinstance(row.get(column), list):
            raise ConfigError(f"{str(root / path)!r}: row {number} lacks 'id' or {column!r}.")
        found[str(row["id"])] = tuple(map(str, row[column]))
    return found
