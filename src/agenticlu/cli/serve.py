"""agenticlu serve: an OpenAI-compatible server over a model in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click


@click.command("serve")
@click.option("--model", metavar="FOLDER", help="Model folder; the bundled tiny model by default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option("--name", help="Name under which the model is listed; the folder's by default.")
@click.option("--device", help="cpu or cuda; a GPU where there is one by default.")
@click.option("--dtype", help="float32, bfloat16 or float16; on a CPU float32 by default.")
@click.option(
    "--max-batch",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Replies that decode together.",
)
@click.option(
    "--context-tokens", type=click.IntRange(1), help="Longest prompt plus reply; the model's own."
)
@click.option(
    "--cache-gib",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Memory for what was read, so that shared prefixes are read once; 0 keeps nothing.",
)
def command(
    model: str | None,
    host: str,
    port: int,
    name: str | None,
    device: str | None,
    dtype: str | None,
    max_batch: int,
    context_tokens: int | None,
    cache_gib: float,
) -> None:
    """Serve a model to any OpenAI-compatible client.

    Prints the address when requests are accepted; give it to other commands with --base-url. Stop
    the server with Ctrl-C.
    """
    from agenticlu.documents.tokens import read_model_hint
    from agenticlu.engines import BUNDLED_MODEL, load_engine
    from agenticlu.evaluation.config import fingerprint
    from agenticlu.server.app import open_listener, run_server

    listener = open_listener(host, port)
    options: dict[str, Any] = {} if name is None else {"name": name}
    engine = load_engine(
        model,
        device=device,
        dtype=dtype,
        max_batch=max_batch,
        cache=cache_gib > 0,
        cache_bytes=int(cache_gib * (1 << 30)),
        context_tokens=context_tokens,
        **options,
    )

    folder = Path(model).expanduser() if model else BUNDLED_MODEL
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
