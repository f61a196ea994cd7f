"""A model that thinks before it replies, as a server shows it; and its plain twin."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agenticlu.core.records import Message, content_seed
from agenticlu.engines.base import Sampling
from agenticlu.engines.scripted import ScriptedEngine

FORMS = {
    "reasoning_content": ("", ""),
    "reasoning": ("", ""),
    "parts": ("", ""),
    "hidden": ("", ""),
    "think": ("<think>\n", "\n</think>\n\n"),
    "opened": ("", "\n</think>\n\n"),
    "mistral": ("[THINK]", "[/THINK]"),
    "thought": ("<thought>", "</thought>"),
    "harmony": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
}
"""Where servers put a thought: in a field of its own, nowhere, or between tags (these ones)."""
CHOICES = ("yes", "maybe", "no")
_BESIDE = ThreadPoolExecutor(1)


def _wait(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a script's coroutine beside the event loop of the server."""
    return _BESIDE.submit(asyncio.run, work).result()


@dataclass
class ThinkingModel:
    """Answers bodies of chat completions with the replies of a script. A word is a token."""

    script: ScriptedEngine
    form: str = "reasoning_content"
    """See `FORMS`."""
    thinks: bool = True
    """False: the plain twin."""
    obeys: bool = False
    """Whether the template's switch turns thinking off."""
    longest: int = 40
    """Words of a usual thought, at most."""
    very_long: int = 0
    """Words of the thought before every fourth prompt's reply; 0 for a usual one."""
    reports: bool = True
    """Whether the usage says how many tokens were thought."""
    logprobs: bool = True
    """Whether it gives log-probabilities."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    cut: int = 0
    """Replies that were cut inside a thought."""

    def __call__(self, body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        """Returns status and reply."""
        self.bodies.append(body)
        messages = [Message.model_validate(one) for one in body["messages"]]
        switch = body.get("chat_template_kwargs", {}).get("enable_thinking", True)
        thought = self.thought(messages) if self.thinks and (switch or not self.obeys) else ""
        limit = body.get("max_tokens", 10**6)
        if body.get("logprobs") and self.logprobs:
            return 200, self._score(messages, thought)
        sampling = Sampling(
            temperature=body["temperature"],
            n=body.get("n", 1),
            seed=body.get("seed"),
            max_tokens=10**6,
        )
        found = _wait(self.script.sample(messages, sampling))
        choices, sampled, thoughts = [], 0, 0
        for index, one in enumerate(found.completions):
            choice, length, thinking = self._choice(thought.split(), one.text.split(" "), limit)
            choices.append({"index": index, **choice})
            sampled, thoughts = sampled + length, thoughts + thinking
        details = {"reasoning_tokens": thoughts} if self.reports else {}
        usage = {
            "prompt_tokens": sum(len(one.content.split()) for one in messages),
            "completion_tokens": sampled,
            "completion_tokens_details": details,
        }
        return 200, {"object": "chat.completion", "choices": choices, "usage": usage}

    def thought(self, messages: list[Message]) -> str:
        """Words that would mislead whoever took them for a reply."""
        number = content_seed(*(one.content for one in messages))
        words = 5 + number % self.longest
        if self.very_long and number % 4 == 0:
            words = self.very_long
        return " ".join(["Okay, <para 3> Answer: no grey yes"] + ["hmm"] * words)

    def _choice(
        self, thought: list[str], words: list[str], limit: int
    ) -> tuple[dict[str, Any], int, int]:
        length = min(len(thought) + len(words), limit)
        ended = len(thought) + len(words) <= limit
        thought, left = thought[:limit], max(0, limit - len(thought))
        said = " ".join(words[:left])
        self.cut += bool(thought) and not left
        before, after = FORMS[self.form]
        if not thought or self.form in ("reasoning_content", "reasoning", "parts", "hidden"):
            content: Any = said
        else:
            content = f"{before}{' '.join(thought)}{after if left else ''}{said}"
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thought and self.form in ("reasoning_content", "reasoning"):
            message[self.form] = " ".join(thought)
            message["content"] = said or None
        elif thought and self.form == "parts":
            parts = [{"type": "thinking", "thinking": [{"type": "text", "text": thought[0]}]}]
            message["content"] = parts + ([{"type": "text", "text": said}] if said else [])
        reason = "stop" if ended else "length"
        return {"message": message, "finish_reason": reason}, length, len(thought)

    def _score(self, messages: list[Message], thought: str) -> dict[str, Any]:
        found = _wait(self.script.score_choices(messages, CHOICES))
        masses = {one: p * found.label_mass for one, p in found.probabilities.items()}
        masses["Well"] = 1 - sum(masses.values())
        if thought:  # a thought may begin with 'no', rarely
            masses = {"Okay": 0.99, "no": 0.001}
        top = [{"token": token, "logprob": math.log(p)} for token, p in masses.items() if p > 0]
        first = max(top, key=lambda one: one["logprob"])
        choice, _, _ = self._choice(thought.split(), ["yes"], 1)
        choice["logprobs"] = {"content": [{**first, "top_logprobs": top}]}
        usage = {"prompt_tokens": 9, "completion_tokens": 1}
        return {"object": "chat.completion", "choices": [{"index": 0, **choice}], "usage": usage}


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """Serves chat completions on loopback while the block lasts; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "played", "max_model_len": 32768}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/chat/completions"):
                self._send(*answer(body, 0))
            else:
                self._send(404, {"error": {"message": "no such route"}})

        def _send(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

        def handle_error(self, request: object, address: object) -> None:
            pass  # a client that left

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
