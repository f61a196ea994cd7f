"""HELMET's key points of books and cases, by id."""

from __future__ import annotations

from pathlib import Path

from agenticlu.evaluation.helmet.sources import read_rows

FILES = {
    "infbench_sum_eng": ("data/infbench/longbook_sum_eng_keypoints.jsonl", "keypoints"),
    "multi_lexsum": ("data/multi_lexsum/multi_lexsum_val.jsonl", "summary/short_keypoints"),
}


def load_key_points(root: Path, task: str) -> dict[str, tuple[str, ...]]:
    """Returns the key points of a summary task by row id.

    Raises:
        UsageError: The file is not below `root`.
    """
    path, column = FILES[task]
    return {str(row["id"]): tuple(row[column]) for row in read_rows(root / path)}
