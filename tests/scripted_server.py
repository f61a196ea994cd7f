"""A scripted model behind a real server in a process of its own; every request goes to a log.

    python tests/scripted_server.py CORPUS LOG LATENCY

Prints its address. The log has a line of JSON for each request when it arrives, with the question
that it is about and the tokens of its prompt, and one for each reply with its tokens.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from live_server import serving

from agenticlu.core.records import content_seed
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.server import Service

ASKED = re.compile(r"What colour is item\d+ of book \d+\?")


class Logged(ScriptedEngine):
    """Writes down each request when it arrives, and the tokens that it costs."""

    log: Path

    async def _begin(self, *arguments: Any, **options: Any) -> Any:
        text = " ".join(message.content for message in arguments[0])
        asked = ASKED.search(text)
        tokens = len(self._tokens(arguments[0])) + 1
        self._write({"question": asked.group() if asked else None, "tokens": tokens})
        return await super()._begin(*arguments, **options)

    def _count(self, *arguments: Any, **options: Any) -> Any:
        usage = super()._count(*arguments, **options)
        self._write({"tokens": usage.completion_tokens})
        return usage

    def _write(self, line: dict[str, Any]) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def serve(corpus: Path, log: Path, latency_s: float) -> None:
    """Serves until standard input ends."""
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    answers = {row["question"]: row["answers"][0] for row in rows}

    def reply(request: ScriptedRequest) -> str | None:
        asked = ASKED.search(" ".join(message.content for message in request.messages))
        if "Answer:" in request.last:
            lucky = asked and content_seed("lucky", request.key) % 100 < 8
            return f"Fact. Answer: {answers[asked.group()] if asked and lucky else 'grey'}"
        return "yes" if "yes or no" in request.last else None

    def weights(request: ScriptedRequest) -> str:
        return "yes" if content_seed("weigh", request.key) % 3 == 0 else "no"

    engine = Logged(reply, weights, latency_s=latency_s)
    engine.log = log
    with serving(Service(engine, "m")) as url:
        print(url, flush=True)
        sys.stdin.read()


@contextmanager
def scripted_server(corpus: Path, log: Path, latency_s: float) -> Iterator[str]:
    """Starts the process; yields its address, and ends it."""
    log.touch()
    command = [sys.executable, __file__, str(corpus), str(log), str(latency_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(60, process.kill)
    timer.daemon = True
    try:
        yield process.stdout.readline().strip()
    finally:
        timer.start()
        process.stdin.close()
        process.wait()
        timer.cancel()
        process.stdout.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
