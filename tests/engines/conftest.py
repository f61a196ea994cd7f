"""A tiny random checkpoint, and a real server on loopback that behaves as it is told."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from streamed_events import Events

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|> '"
    " + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SENTENCES = (
    "The mill at Dunmore was built by Ada Larkin in the spring of 1911.",
    "Who built the mill? yes maybe no. Answer: the heron crossed the river.",
    "A careful reader uses only facts that the document states.",
)


def make_checkpoint(folder: Path, *, seed: int = 0, **config: object) -> Path:
    """Writes a random Llama with its own small tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        # Wide enough that the likeliest token wins by far more than rounding.
        "initializer_range": 0.5,
    }
    model = LlamaForCausalLM(LlamaConfig(**(settings | config)))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama with grouped heads and a window of 2,048 tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def biased_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with biases in its attention, which only transformers' own forward pass runs."""
    return make_checkpoint(tmp_path_factory.mktemp("biased"), seed=3, attention_bias=True)


Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@dataclass
class Endpoint:
    """A server on loopback whose completions come from a function."""

    answer: Callable[[dict[str, Any], int], Answer]
    """Given the body and the number of the request: status, body and perhaps headers."""
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "m", "object": "model"}])
    plain: Callable[[dict[str, Any], int], Answer] | None = None
    """Answers the route for plain text; None: there is no such route."""
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def app(self) -> Any:
        import asyncio

        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, Response, StreamingResponse
        from starlette.routing import Route

        def route(function: Callable[[dict[str, Any], int], Answer]) -> Any:
            return functools.partial(complete, function=function)

        async def complete(request: Any, function: Callable[[dict[str, Any], int], Answer]) -> Any:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            try:
                asked = json.loads(await request.body())
                number = len(self.bodies)
                self.bodies.append(asked)
                self.headers.append(dict(request.headers))
                await asyncio.sleep(0.002)
                status, body, *more = function(asked, number)
            finally:
                self.running -= 1
            headers = more[0] if more else {}
            if isinstance(body, Events):
                return StreamingResponse(body.body(), status, media_type="text/event-stream")
            if isinstance(body, str):
                return Response(body, status, headers)
            return JSONResponse(body, status, headers)

        async def models(request: Any) -> Any:
            if not self.models:
                return JSONResponse({"error": {"message": "no such route"}}, 404)
            return JSONResponse({"object": "list", "data": self.models})

        routes = [
            Route("/v1/chat/completions", route(self.answer), methods=["POST"]),
            Route("/v1/models", models),
        ]
        if self.plain is not None:
            routes.append(Route("/v1/completions", route(self.plain), methods=["POST"]))
        return Starlette(routes=routes)


def reply(*texts: str, prompt: int = 10, cached: int = 0, **choice: Any) -> dict[str, Any]:
    """A chat completion in OpenAI's form."""
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                **choice,
            }
            for i, text in enumerate(texts)
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": len(texts),
            "total_tokens": prompt + len(texts),
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


@contextlib.contextmanager
def listening(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Runs an endpoint in a thread while the block lasts."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(
        endpoint.app(), log_level="error", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    endpoint.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        yield endpoint
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    """Starts endpoints: `serve(answer, models=...)`; they stop with the test."""
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[dict[str, Any], int], Answer], **options: Any) -> Endpoint:
            return stack.enter_context(listening(Endpoint(answer, **options)))

        yield start


@pytest.fixture
def chat_reply() -> Callable[..., dict[str, Any]]:
    """Builds a chat completion: `chat_reply("text", ...)`."""
    return reply
