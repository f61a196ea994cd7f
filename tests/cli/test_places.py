"""What commands say where they may not read or write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534


def run(script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs the command after a script."""
    code = f"{script}\nfrom agenticlu.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_folder_for_temporary_files_is_told_in_words() -> None:
    nowhere = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc']"
    done = run(nowhere, "doctor")  # loads PyTorch, as training does
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "export TMPDIR=FOLDER" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser can become another")
def test_places_that_may_not_be_entered_are_told_in_words(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    (locked / "a.html").write_text("<p>Ada built the mill.")
    imported = (
        "import agenticlu.cli.show, agenticlu.cli.status, agenticlu.documents.loading, "
        "agenticlu.search.status, agenticlu.documents.described"
    )
    another = f"{imported}, os; os.chdir('/'); os.seteuid({NOBODY})"
    home = {"HOME": str(locked), "XDG_CONFIG_HOME": ""}
    done = run(another, "show", "/etc/passwd", **home)
    assert done.returncode == 0, done.stderr
    for given in (["show", str(locked / "a.html")], ["status", str(locked / "run")]):
        done = run(another, *given, **home)
        assert done.returncode in (4, 6), done.stderr
        assert "Traceback" not in done.stderr
        assert "ermission denied" in done.stderr
