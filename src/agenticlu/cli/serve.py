"""`agenticlu serve`: an OpenAI-compatible server over a model, which also reads documents."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agenticlu.cli.options import BUNDLED_MODEL_NOTE, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import UsageError
from agenticlu.core.limits import PrefixLimits
from agenticlu.core.printing import echo
from agenticlu.core.settings import Positive, PriceSettings, Seconds, Spelling
from agenticlu.server.limits import DIALOGUE_MODEL, MIB, Access, Limits, default_body_bytes

if TYPE_CHECKING:
    from agenticlu.documents.tokens import Tokenizer
    from agenticlu.engines import Engine
    from agenticlu.engines.prefixes import PrefixFolder
    from agenticlu.server.desk import Desk

OF_THIS_PROCESS = (
    *("device", "dtype", "max_batch", "prefill_tokens", "cache_gib", "trust_remote_code"),
    "keep_prefixes",
)
"""Settings of models that another server has to decide."""


class ServeSettings(PriceSettings):
    """Settings of `agenticlu serve`."""

    model: str | None = None
    """Model folder in Hugging Face layout, GGUF file or hub id (owner/name). Default: the bundled
    tiny model."""
    trust_remote_code: bool = False
    """Run code that the model's folder brings, for classes that transformers does not have."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    upstream: Annotated[tuple[str, ...], Spelling(metavar="URL")] = ()
    """Address of an OpenAI-compatible server whose model (--model NAME) is asked instead of one in
    this process; several make a pool."""
    upstream_key_env: Annotated[str, Spelling(metavar="NAME")] = "OPENAI_API_KEY"
    """Environment variable with the key of that server."""
    tokenizer: str | None = None
    """Folder or hub id of that model's tokenizer. Default: tokens are estimated."""
    name: str | None = None
    """Name to list the model under. Default: the folder's, without the path to it."""
    device: str | None = None
    """cpu or cuda. Default: a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Data type of the weights. Default: float32 on a CPU."""
    max_batch: Positive = 64
    """Replies that decode together."""
    prefill_tokens: Positive = 1024
    """Prompt tokens read in one step; replies under way wait for it."""
    context_tokens: Positive | None = None
    """Longest prompt plus reply. Default: the model's own window."""
    cache_gib: float = Field(default=1.0, ge=0)
    """Memory of the prefix cache, which reads shared prefixes once; 0 caches nothing. The prompts
    being answered stay in it, whatever they take."""
    profile: str = "default"
    """Wordings of the dialogue about documents: 'default' or a TOML file."""
    piece_tokens: Positive | None = None
    """Most tokens of a paragraph that is pointed to. Default: what suits the model, else 512."""
    sources: bool = False
    """Put the numbers of sources into the text of answers, and the sources below, for clients that
    show no annotations."""
    files: Path | None = None
    """Folder in which uploaded files stay. Default: a temporary one, deleted at the end."""
    max_file_mib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 128.0
    """Largest file that can be uploaded."""
    max_files_mib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2048.0
    """Room for all uploaded files."""
    keep_prefixes: bool = False
    """Keep the documents that the model `agenticlu` has read on disk, so that they need not be read
    again after a restart. Default: nothing is kept of what clients send."""
    prefix_cache: Annotated[Path | None, Spelling(metavar="FOLDER")] = None
    """Folder for that. Default: the user's own, ~/.cache/agenticlu/prefixes."""
    prefix_cache_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0
    """GiB that it may hold, the least recently used going first."""
    max_body_mib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest body of a request. Default: what a prompt as long as the window may take; 48 where it
    may hold files."""
    max_requests: Positive = Limits.requests
    """Requests under way, those that wait included; more are answered with status 503."""
    max_connections: Positive = Limits.connections
    """Open connections; the one that has waited longest for its client makes room."""
    client_timeout: Seconds = Limits.client_timeout_s
    """Seconds in which a client must send its headers, then its body, and take what it is sent."""
    shutdown_timeout: Seconds = Limits.shutdown_s
    """Seconds that requests under way are given when the server stops."""
    allowed_host: Annotated[tuple[str, ...], Spelling(metavar="NAME")] = ()
    """Host name that clients use for this server, beside localhost and addresses. On a loopback
    address others are refused, so that no web page reaches it; elsewhere once one is named."""
    allowed_origin: Annotated[tuple[str, ...], Spelling(metavar="ORIGIN")] = ()
    """Web page that may read replies (CORS), such as https://chat.example. Default: none."""
    api_key_env: Annotated[str | None, Spelling(metavar="NAME")] = None
    """Environment variable with the key that clients must send. Default: none is asked for."""


@settings_command(ServeSettings, "serve")
def command(resolved: Resolved[ServeSettings]) -> None:
    """Serve a model to any OpenAI-compatible client.

    Prints the address when requests are accepted; pass it to other commands with --base-url. Stop
    the server with Ctrl-C.
    """
    from agenticlu.server import Service, open_listener, run_server

    settings = resolved.values
    access = _read_access(settings)
    listener = open_listener(settings.host, settings.port)
    say = functools.partial(echo, err=True)
    asked = _load_upstream(settings, say) if settings.upstream else _load_model(settings, say)
    name = asked.name
    service = Service(
        asked.engine,
        name,
        asked.details,
        _read_limits(settings, getattr(asked.engine, "context_tokens", None)),
        access,
        hidden=asked.hidden,
        desk=_open_desk(settings, asked),
    )

    def ready(url: str) -> None:
        echo(f"agenticlu: serving {name}, and {DIALOGUE_MODEL} for documents, at {url}")

    # uvicorn repeats a signal once it is done; SIGTERM would then cut off whoever is told to go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(run_server(service, listener, ready))
    except KeyboardInterrupt:
        echo("agenticlu: stopped.", err=True)


@dataclass(frozen=True)
class _Asked:
    """The model that is asked."""

    engine: Engine
    name: str
    tokenizer: Tokenizer
    piece_tokens: int | None
    """That suit it."""
    details: dict[str, Any]
    folder: Path | None = None
    """Of the model, where it is of this process."""
    hidden: tuple[str, ...] = ()


def _load_model(settings: ServeSettings, say: Callable[[str], None]) -> _Asked:
    """Loads the model of this process."""
    from agenticlu.documents.tokens import load_tokenizer, read_model_hint
    from agenticlu.engines import check_model_path, load_engine
    from agenticlu.evaluation.config import fingerprint

    if settings.model is None:
        echo(BUNDLED_MODEL_NOTE.replace("--base-url", "--upstream"), err=True)
    folder = Path(check_model_path(settings.model, say))
    # The name tells clients nothing about where the model lies.
    name = _check_name(settings.name or _name_model(settings.model, folder))
    engine = load_engine(
        settings.model,
        on_event=say,
        trust_remote_code=settings.trust_remote_code,
        device=settings.device,
        dtype=settings.dtype,
        max_batch=settings.max_batch,
        prefill_tokens=settings.prefill_tokens,
        cache=settings.cache_gib > 0,
        cache_bytes=int(settings.cache_gib * (1 << 30)),
        context_tokens=settings.context_tokens,
        prefixes=_open_prefixes(settings),
        name=name,
    )
    hint = read_model_hint(folder, "piece_tokens")
    return _Asked(
        engine,
        name,
        load_tokenizer(str(folder)),
        hint,
        {"weights": fingerprint(folder), "piece_tokens": hint},
        folder,
        (str(folder.resolve()), str(folder)),
    )


def _load_upstream(settings: ServeSettings, say: Callable[[str], None]) -> _Asked:
    """Returns the model of another server.

    Raises:
        UsageError: A setting is of models in this process.
    """
    from agenticlu.engines import ModelChoice

    fields = type(settings).model_fields
    for key in OF_THIS_PROCESS:
        if getattr(settings, key) != fields[key].default:
            shown = key.replace("_", "-")
            raise UsageError(
                f"--{shown} is about a model in this process; --upstream asks a server's.",
                hint=f"Leave out --{shown} or --upstream.",
            )
    choice = ModelChoice(
        settings.model,
        settings.upstream,
        settings.upstream_key_env,
        window_tokens=settings.context_tokens,
    )
    choice.check()
    name = _check_name(settings.name or settings.model or "upstream")
    return _Asked(
        choice.load(say),
        name,
        choice.tokenizer(settings.tokenizer),
        choice.hint("piece_tokens"),
        {"piece_tokens": choice.hint("piece_tokens")},
    )


def _check_name(name: str) -> str:
    if name == DIALOGUE_MODEL:
        raise UsageError(
            f"{name!r} is what the dialogue about documents is listed as.",
            hint="Try another --name.",
        )
    return name


def _open_desk(settings: ServeSettings, asked: _Asked) -> Desk:
    """Returns where documents are read: with the tokenizer of the model that is asked."""
    from agenticlu.dialogue.steps import load_profile
    from agenticlu.dialogue.stopping import find_rule
    from agenticlu.documents import DEFAULT_PIECE_TOKENS
    from agenticlu.server.desk import Desk
    from agenticlu.server.uploads import FileStore

    return Desk(
        asked.tokenizer,
        load_profile(settings.profile),
        settings.piece_tokens or asked.piece_tokens or DEFAULT_PIECE_TOKENS,
        FileStore(
            settings.files,
            file_bytes=int(settings.max_file_mib * MIB),
            total_bytes=int(settings.max_files_mib * MIB),
        ),
        sources=settings.sources,
        rule=find_rule(asked.folder),
        prices=settings.prices(),
    )


def _open_prefixes(settings: ServeSettings) -> PrefixFolder | None:
    from agenticlu.engines.prefixes import open_prefix_folder

    if not settings.keep_prefixes:
        return None
    folder = None if settings.prefix_cache is None else str(settings.prefix_cache)
    return open_prefix_folder(PrefixLimits(folder, settings.prefix_cache_gib, settings.cache_gib))


def _name_model(model: str | None, path: Path) -> str:
    from agenticlu.engines import BUNDLED_NAME
    from agenticlu.engines.models import is_hub_id

    if model is None:
        return BUNDLED_NAME
    if is_hub_id(model):
        return model
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _read_access(settings: ServeSettings) -> Access:
    """Returns who may ask.

    Raises:
        UsageError: The variable that should hold the key is not set.
    """
    key = ""
    if settings.api_key_env is not None:
        key = os.environ.get(settings.api_key_env, "").strip()
        if not key:
            raise UsageError(
                f"--api-key-env names {settings.api_key_env}, which is not set.",
                hint=f"export {settings.api_key_env}=... with the key that clients must send.",
            )
    local = is_loopback(settings.host)
    if not local and not key:
        echo(
            f"Anyone who reaches {settings.host} may ask this model: no key is asked for"
            " (--api-key-env).",
            err=True,
        )
    named = {name.lower() for name in (*settings.allowed_host, settings.host)}
    checked = local or bool(settings.allowed_host)
    return Access(frozenset(named) if checked else None, settings.allowed_origin, key)


def _read_limits(settings: ServeSettings, window: int | None) -> Limits:
    """Returns what clients may take."""
    given = settings.max_body_mib
    body_bytes = default_body_bytes(window) if given is None else int(given * MIB)
    return Limits(
        body_bytes=body_bytes,
        inline_bytes=max(Limits.inline_bytes, body_bytes) if given is None else body_bytes,
        bodies_bytes=max(Limits.bodies_bytes, 4 * body_bytes, 4 * Limits.inline_bytes),
        requests=settings.max_requests,
        connections=settings.max_connections,
        client_timeout_s=settings.client_timeout,
        shutdown_s=settings.shutdown_timeout,
    )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
