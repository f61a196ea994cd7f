"""`agenticlu serve`: an OpenAI-compatible server over a model in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field

from agenticlu.cli.options import BUNDLED_MODEL_NOTE, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.settings import Positive, Settings, Spelling


class ServeSettings(Settings):
    """Settings of `agenticlu serve`."""

    model: Annotated[str | None, Spelling(metavar="FOLDER")] = None
    """Model folder in Hugging Face layout. Default: the bundled tiny model."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    name: str | None = None
    """Name to list the model under. Default: the folder's."""
    device: str | None = None
    """cpu or cuda. Default: a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Data type of the weights. Default: float32 on a CPU."""
    max_batch: Positive = 64
    """Replies that decode together."""
    context_tokens: Positive | None = None
    """Longest prompt plus reply. Default: the model's own window."""
    cache_gib: float = Field(default=1.0, ge=0)
    """Memory of the prefix cache, which reads shared prefixes once; 0 caches nothing."""


@settings_command(ServeSettings, "serve")
def command(resolved: Resolved[ServeSettings]) -> None:
    """Serve a model to any OpenAI-compatible client.

    Prints the address when requests are accepted; pass it to other commands with --base-url. Stop
    the server with Ctrl-C.
    """
    from agenticlu.documents.tokens import read_model_hint
    from agenticlu.engines import BUNDLED_MODEL, load_engine
    from agenticlu.evaluation.config import fingerprint
    from agenticlu.server import open_listener, run_server

    settings = resolved.values
    if settings.model is None:
        click.echo(BUNDLED_MODEL_NOTE, err=True)
    listener = open_listener(settings.host, settings.port)
    named: dict[str, Any] = {} if settings.name is None else {"name": settings.name}
    engine = load_engine(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        max_batch=settings.max_batch,
        cache=settings.cache_gib > 0,
        cache_bytes=int(settings.cache_gib * (1 << 30)),
        context_tokens=settings.context_tokens,
        **named,
    )
    folder = Path(settings.model).expanduser() if settings.model else BUNDLED_MODEL
    details = {
        "root": str(folder.resolve()),
        "weights": fingerprint(folder),
        "piece_tokens": read_model_hint(folder, "piece_tokens"),
    }

    def ready(url: str) -> None:
        click.echo(f"agenticlu: serving {engine.name} at {url}")

    try:
        asyncio.run(run_server(engine, engine.name, listener, ready, details))
    except KeyboardInterrupt:
        click.echo("agenticlu: stopped.", err=True)
