"""Runs as older versions wrote them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agenticlu.search.store.file import ADDED, FILE_NAME


def make_older(folder: Path, version: int) -> None:
    """Turns a run's file into one of an older version, which lacked some counts."""
    connection = sqlite3.connect(folder / FILE_NAME)
    for newer in range(version, max(ADDED) + 1):
        for table, names in ADDED[newer].items():
            for name in names:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()
