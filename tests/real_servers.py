"""Real servers with a real model: llama.cpp's and transformers', each started once.

`make test-servers MODEL=FOLDER` builds their environments and names them in AGENTICLU_SERVERS; the
folder holds a small instruct model in Hugging Face layout and, for llama.cpp, a GGUF file of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WINDOW = 2048
"""Of llama.cpp's server, which lists none."""
STARTS_WITHIN_S = 180
COMMAND_S = 900
ENVIRONMENTS = os.environ.get("AGENTICLU_SERVERS")
MODEL = os.environ.get("AGENTICLU_SERVERS_MODEL")


@dataclass(frozen=True)
class Server:
    """A running server, and what is true of it."""

    name: str
    url: str
    model: str | None
    """As it must be named; None where its list says it."""
    folder: Path
    window: int | None
    """None: as long as the model's."""
    logprobs: bool
    completes: bool

    @property
    def options(self) -> list[str]:
        """What every command is told of it."""
        named = ["--model", self.model] if self.model else []
        return ["--base-url", self.url, *named]

    def run(self, *words: str, code: int | tuple[int, ...] = 0) -> tuple[str, str]:
        """Runs a command; returns its two outputs."""
        done = subprocess.run(
            [Path(sys.executable).with_name("agenticlu"), *words, *self.options],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        codes = code if isinstance(code, tuple) else (code,)
        assert done.returncode in codes, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def ask(self, *words: str) -> dict[str, Any]:
        """Asks, whether the answer is supported or not; returns it."""
        tokenizer = ["--tokenizer", str(self.folder)]
        found: dict[str, Any] = json.loads(
            self.run("ask", *words, *tokenizer, "--json", code=(0, 10))[0]
        )
        return found


def find_model() -> Path:
    """Returns the folder of the model, or skips the test."""
    if not ENVIRONMENTS or not MODEL:
        pytest.skip("run: make test-servers MODEL=FOLDER")
    return Path(MODEL).resolve()


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


class Running:
    """Starts a server and stops it at the end."""

    def __init__(self, name: str, words: list[str], port: int, scratch: Path) -> None:
        assert ENVIRONMENTS
        python = Path(ENVIRONMENTS).absolute() / name / "bin" / "python"
        (scratch / "hub").mkdir()
        environment = {**os.environ, "HF_HOME": str(scratch), "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        self._log = (scratch / "log.txt").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), *words],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=scratch,
        )
        self._url = f"http://127.0.0.1:{port}/v1"

    def __enter__(self) -> str:
        until = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self._url}/models", timeout=5):
                    return self._url
            except OSError:
                time.sleep(0.5)
        self._log.seek(0)
        pytest.fail(f"the server did not start:\n{self._log.read()[-3000:]}")

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
