"""Fixtures of all tests: the bundled model, a clean environment, a real server on loopback.

Modules of this folder that hold no tests (`made_trees`) can be imported by all tests.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # no test relies on time: a busy machine is no fault


sys.path.insert(0, str(Path(__file__).resolve().parent))
PACKAGE = Path(__file__).resolve().parent.parent / "src" / "agenticlu"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the pauses before an engine is asked again."""
    from agenticlu.engines import retry as limits

    monkeypatch.setattr(limits, "sleep", lambda seconds: asyncio.sleep(seconds / 500))


@pytest.fixture(scope="session")
def tiny_model_path() -> Path:
    """Folder of the bundled model."""
    return PACKAGE / "demo" / "model"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """Keeps the settings of whoever runs the tests, and the network's names, out of them."""
    for name in list(os.environ):
        if name.startswith("AGENTICLU_") or name == "OPENAI_API_KEY":
            monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / "no-config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "caches"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def unwritable() -> Iterator[Callable[[Path], None]]:
    """Makes a folder one that this process cannot write, though it may be the superuser's."""

    def lock(folder: Path) -> None:
        for path in (*folder.rglob("*"), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.seteuid(65534)

    yield lock
    os.seteuid(os.getuid())


@pytest.fixture(scope="session")
def server_url(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real `agenticlu serve` process that runs the bundled model."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-u", "-c", "from agenticlu.cli import main; main()", "serve"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--model", str(tiny_model_path), "--host", "127.0.0.1", "--port", "0"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield _wait_until_ready(process, log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Returns the address that the server prints once it accepts requests."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()}")
        if found := re.search(r"serving .* at (http://\S+)\n", log.read_text()):
            address = found[1].rstrip("/")
            return address if address.endswith("/v1") else f"{address}/v1"
        time.sleep(0.1)
    pytest.fail(f"the server did not start within 120 s:\n{log.read_text()}")
