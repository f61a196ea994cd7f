"""A small OpenAI-compatible server with a fixed latency and scripted faults; no model behind it.

    python benchmarks/slow_server.py --latency 0.05 --fault 10-40:429 --fault 50-50:500

Prints its address. Kinds of faults, by number of the request: 429, 500, hang, truncate, badjson,
die. Replies follow from a hash of the prompt, so that they are the same in every process.
`GET /stats` tells how busy it was; `POST /fault` adds a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import time
from typing import Any

STATUS = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 500: "Server Error"}


class Server:
    """Answers chat completions after a while.

    Args:
        latency_s: Seconds per request.
        faults: (first, last, kind), by number of the request from 0.
    """

    def __init__(self, latency_s: float, faults: list[tuple[int, int, str]]) -> None:
        self.latency_s = latency_s
        self.faults = faults
        self.requests = 0
        self.refused = 0
        self.running = 0
        self.began: float | None = None
        self.ended = 0.0
        self.changes: list[tuple[float, int]] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until it ends."""
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                lines = head.decode("latin-1").split("\r\n")
                method, path, _ = lines[0].split(" ", 2)
                length = next(
                    (int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length")),
                    0,
                )
                body = await reader.readexactly(length) if length else b""
                if not await self.answer(method, path, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(
        self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Answers one request; False ends the connection."""
        if path.endswith("/models"):
            reply(writer, 200, {"data": [{"id": "slow", "max_model_len": 32768}]})
            return True
        if path.endswith("/stats"):
            reply(writer, 200, self.stats())
            return True
        if path.endswith("/fault"):
            self.faults.append(parse_fault(body.decode()))
            reply(writer, 200, {})
            return True
        if method != "POST" or not path.endswith("/chat/completions"):
            reply(writer, 404, {"error": {"message": "no such path"}})
            return True
        number, self.requests = self.requests, self.requests + 1
        self.change(1)
        try:
            return await self.complete(number, json.loads(body), writer)
        finally:
            self.change(-1)

    async def complete(
        self, number: int, asked: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        """Plays a fault or a completion."""
        kind = next((k for a, b, k in self.faults if a <= number <= b), "")
        if kind == "die":
            os._exit(1)
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind in ("429", "500"):
            self.refused += 1
            headers = {"retry-after": "0"} if kind == "429" else {}
            reply(writer, int(kind), {"error": {"message": f"scripted {kind}"}}, headers)
            return True
        await asyncio.sleep(self.latency_s)
        data = json.dumps(complete(asked)).encode()
        if kind == "truncate":
            head = (
                f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
            )
            writer.write(head.encode() + b"\r\n\r\n" + data[: len(data) // 2])
            await writer.drain()
            return False
        if kind == "badjson":
            reply(writer, 200, {"choices": "none"})
            return True
        reply(writer, 200, data)
        return True

    def change(self, by: int) -> None:
        """Notes that a request began or ended."""
        now = time.monotonic()
        if self.began is None:
            self.began = now
        self.running += by
        self.ended = now
        self.changes.append((now - self.began, self.running))

    def stats(self, from_s: float = 2.0) -> dict[str, Any]:
        """Returns how busy the server was from the second second to its last request."""
        busy = weighted = 0.0
        whole = (self.ended - self.began) if self.began is not None else 0.0
        for (at, running), (after, _) in zip(self.changes, self.changes[1:], strict=False):
            span = max(0.0, after - max(at, from_s))
            busy += span * (running > 0)
            weighted += span * running
        window = max(1e-9, whole - from_s)
        return {
            "requests": self.requests,
            "refused": self.refused,
            "seconds": whole,
            "busy_share": busy / window,
            "mean_in_flight": weighted / window,
            "most_in_flight": max((running for _, running in self.changes), default=0),
        }


def complete(asked: dict[str, Any]) -> dict[str, Any]:
    """Returns a chat completion made of a hash of the request."""
    prompt = json.dumps(asked["messages"], sort_keys=True)
    last = asked["messages"][-1]["content"]
    choices = []
    for ordinal in range(asked.get("n") or 1):
        seed = asked.get("seed") if asked.get("temperature") else 0
        digest = hashlib.sha256(f"{prompt}{seed}{ordinal}".encode()).hexdigest()
        text = f"Fact {digest[:8]}. Answer: {digest[8:12]}" if "Answer:" in last else digest[:12]
        yes = 0.8 if int(digest[:2], 16) < 40 else 0.1
        words = {"yes": yes, "maybe": 0.05, "no": 0.95 - yes}
        tops = [
            {"token": word, "logprob": math.log(p), "bytes": list(word.encode())}
            for word, p in words.items()
        ]
        choice: dict[str, Any] = {
            "index": ordinal,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        if asked.get("logprobs"):
            word = max(words, key=lambda name: words[name])
            choice["message"]["content"] = word
            top = {"token": word, "logprob": math.log(words[word]), "top_logprobs": tops}
            choice["logprobs"] = {"content": [top]}
        choices.append(choice)
    tokens = len(prompt) // 4
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "slow",
        "choices": choices,
        "usage": {
            "prompt_tokens": tokens,
            "completion_tokens": 4 * len(choices),
            "total_tokens": tokens + 4 * len(choices),
        },
    }


def reply(
    writer: asyncio.StreamWriter,
    status: int,
    data: dict[str, Any] | bytes,
    headers: dict[str, str] | None = None,
) -> None:
    """Writes a JSON response."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    head = f"HTTP/1.1 {status} {STATUS[status]}\r\ncontent-type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def serve(port: int, latency_s: float, faults: list[tuple[int, int, str]]) -> None:
    """Serves until killed."""
    server = await asyncio.start_server(
        Server(latency_s, faults).handle, "127.0.0.1", port, limit=1 << 24
    )
    address = server.sockets[0].getsockname()
    print(f"http://127.0.0.1:{address[1]}/v1", flush=True)
    async with server:
        await server.serve_forever()


def parse_fault(text: str) -> tuple[int, int, str]:
    """Reads first-last:kind."""
    span, _, kind = text.partition(":")
    first, _, last = span.partition("-")
    return int(first), int(last or first), kind


def main() -> None:
    """Parses arguments and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--fault", action="append", type=parse_fault, default=[])
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.latency, given.fault))


if __name__ == "__main__":
    main()
