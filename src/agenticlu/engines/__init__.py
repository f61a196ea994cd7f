"""Engines sample text: in process, from a server, or from a script; their limits and retries."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenticlu.core.errors import (
    AgenticluError,
    ConfigError,
    Registry,
    UsageError,
)
from agenticlu.core.limits import PrefixLimits
from agenticlu.core.secrets import BLANK, public_address
from agenticlu.documents.tokens import Tokenizer, load_tokenizer, read_model_hint
from agenticlu.engines.base import Engine
from agenticlu.engines.models import find_cached, find_model, is_hub_id, is_offline, read_window
from agenticlu.engines.prefixes import GIB, open_prefix_folder

if TYPE_CHECKING:
    from agenticlu.engines.retry import LimitedEngine, Limiter
    from agenticlu.engines.thinking import Thinking


ENGINES = Registry(
    "kind of address",
    dict.fromkeys(("http", "https"), "agenticlu.engines.http.openai:OpenAIEngine"),
)
"""Scheme of an address to the engine that asks there: called with address and model."""
BUNDLED_MODEL = Path(__file__).resolve().parent.parent / "demo" / "model"
"""The tiny model that the package carries."""
BUNDLED_NAME = "agenticlu-tiny"
ENDPOINT_REQUESTS = 16
"""Requests to endpoints in flight, where nothing else is said."""


def load_engine(
    model: str | None = None,
    base_url: tuple[str, ...] = (),
    api_key_env: str = "OPENAI_API_KEY",
    **options: Any,
) -> Engine:
    """Builds the engine that the arguments describe; nothing is sent before its first use.

    Without arguments: the bundled tiny model, in process. With `base_url`: the endpoint, or the
    pool of endpoints, and `model` is the name served there (found by asking when left out). With
    `model` alone: a folder in Hugging Face layout, a GGUF file or a hub id, in process.

    Args:
        model: A folder, a GGUF file, a hub id, or the name of a served model.
        base_url: Addresses of OpenAI-compatible endpoints, such as http://127.0.0.1:8000/v1.
        api_key_env: Environment variable that holds the key; local servers need none.
        **options: Passed to the engine: see `HFEngine`, `load_limited_engine`.

    Raises:
        ModelNotFoundError: There is no such model, or it cannot be fetched.
        UsageError: `base_url` is not an address.
        MissingDependencyError: The engine's packages are not installed.
    """
    if base_url:
        return load_limited_engine(model, base_url, api_key_env, **options)
    from agenticlu.engines.local import HFEngine

    if model is None or is_hub_id(model):
        options.setdefault("name", model or BUNDLED_NAME)
    return HFEngine(check_model_path(model, options.get("on_event")), **options)


def load_limited_engine(
    model: str | None,
    base_url: tuple[str, ...],
    api_key_env: str = "OPENAI_API_KEY",
    *,
    limiter: Limiter | None = None,
    on_event: Callable[[str], None] | None = None,
    thinking: Thinking | None = None,
    **options: Any,
) -> LimitedEngine:
    """Builds the engine of one or several endpoints, behind limits.

    Args:
        model: Name of the served model; None takes the only one served.
        base_url: Addresses.
        api_key_env: Environment variable that holds the key.
        limiter: Bounds and retries; None allows 16 requests at once and five tries for each.
        on_event: Called with a line for people when the engine waits or changes how it asks.
        thinking: How much the model may think before it replies; None: as it does by itself.
        **options: Passed to each engine, such as `OpenAIEngine`.

    Raises:
        UsageError: `base_url` is not an address, or holds one twice.
        MissingDependencyError: The engine's packages are not installed.
    """
    from agenticlu.engines.admission import Admission
    from agenticlu.engines.http.adaptation import Dialect
    from agenticlu.engines.pool import PoolEngine
    from agenticlu.engines.retry import LimitedEngine, Limiter
    from agenticlu.engines.thinking import Thinking, ThinkingRoom

    urls = tuple(check_base_url(url) for url in base_url)
    shown = tuple(map(public_address, urls))
    if len(set(urls)) != len(urls):
        raise UsageError(f"The same address was given twice: {', '.join(shown)}.")
    # One for all replicas: what one finds out, the others need not.
    room = ThinkingRoom(thinking or Thinking(), model or shown[0], hides=True, say=on_event)
    options |= {"api_key_env": api_key_env, "on_event": on_event, "thinking": room}
    options["dialect"] = Dialect()
    replicas = [
        (name, ENGINES.load(url.partition("://")[0])(url, model, **options))
        for name, url in zip(_names(shown), urls, strict=True)
    ]
    engine = replicas[0][1] if len(urls) == 1 else PoolEngine(replicas, on_event=on_event)
    return LimitedEngine(engine, limiter or Limiter(Admission(ENDPOINT_REQUESTS), say=on_event))


def _names(addresses: Sequence[str]) -> Iterator[str]:
    """Yields what replicas are called whose addresses may differ in their keys alone."""
    seen: Counter[str] = Counter()
    for name in addresses:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}"


def check_model_path(model: str | None, say: Callable[[str], None] | None = None) -> str:
    """Returns the folder or GGUF file of a model, downloaded if need be; see `find_model`."""
    return str(BUNDLED_MODEL if model is None else find_model(model, say=say))


def check_base_url(url: str) -> str:
    """Returns the address without a trailing slash, or says what is wrong with it."""
    from urllib.parse import unquote, urlsplit

    given = url.strip().rstrip("/")
    shown = public_address(given if "://" in given else f"http://{given}")
    if "://" not in given:
        hint = shown if re.search(r"/v\d+$", shown) else f"{shown}/v1"
        given = shown.removeprefix("http://")
        raise UsageError(f"{given!r} is not an address.", hint=f"Write {hint} instead.")
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError:
        raise UsageError(
            f"{shown!r} is not an address: its host or its port cannot be read."
        ) from None
    if parts.scheme not in ENGINES or not parts.netloc:
        raise UsageError(f"{shown!r} is not an address that begins with {' or '.join(ENGINES)}.")
    if BLANK in unquote(given):
        raise UsageError(
            f"{shown} lacks what was left out when it was stored: keys are kept nowhere.",
            hint="Give the address with its key again, or name the key's variable: --api-key-env.",
        )
    if parts.username or parts.password:
        raise ConfigError(
            "An address must not hold a password: it would be stored with the results.",
            hint="Put the key in the environment variable that --api-key-env names.",
        )
    return given


__all__ = [
    "BUNDLED_MODEL",
    "BUNDLED_NAME",
    "Engine",
    "check_base_url",
    "check_model_path",
    "load_engine",
    "load_limited_engine",
    "read_window",
]


DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ModelChoice:
    """A model, named the way people name it; nothing is loaded until `load`.

    >>> ModelChoice().bundled
    True
    """

    model: str | None = None
    """A folder in Hugging Face layout, a GGUF file, a hub id, or the name of a served model. None,
    and no server: the bundled tiny model."""
    base_url: tuple[str, ...] = ()
    """Addresses of OpenAI-compatible servers; several make a pool."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the servers' key."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Limit of one request to a server."""
    window_tokens: int | None = None
    """Longest prompt plus reply, where the server does not say it or says too much; None takes what
    it says. Of a model in process: at most its own."""
    thinking: Thinking | None = None
    """How much it may think before it replies; None: as it does by itself."""

    trust_remote_code: bool = False
    """Whether code that the model's folder brings may run, in process."""
    dtype: str | None = None
    """Number format in process; see `HFEngine`."""
    prefixes: PrefixLimits | None = None
    """Where a model in this process keeps what it has read; None keeps nothing on disk, and in
    memory as much as suits most."""

    def __post_init__(self) -> None:
        check_timeout(self.timeout_s)

    @property
    def bundled(self) -> bool:
        """Whether neither a model nor a server was named."""
        return self.model is None and not self.base_url

    @property
    def folder(self) -> Path | None:
        """Folder or GGUF file of a model in this process; None if it is served, or not here yet."""
        if self.bundled:
            return BUNDLED_MODEL
        if not self.model:
            return None
        path = Path(self.model).expanduser()
        if self.base_url and (path / "config.json").is_file():
            return path  # a name may be that of some other folder by chance
        if path.exists() and not self.base_url:
            return find_model(self.model)
        return None if self.base_url else find_cached(self.model)

    def check(self) -> None:
        """Refuses a model or a server that cannot be loaded, without loading it.

        Raises:
            ModelNotFoundError: There is no such model; whether the hub has one is not asked.
            UsageError: A server's address is malformed.
        """
        for url in self.base_url:
            check_base_url(url)
        if not self.base_url and not (self.model and is_hub_id(self.model) and not is_offline()):
            check_model_path(self.model)

    def load(self, on_event: Callable[[str], None] | None = None) -> Engine:
        """Builds the engine; nothing is sent before its first use.

        Args:
            on_event: Called with a line for people when a server keeps the engine waiting, or a
                model thinks before it replies.

        Raises:
            ModelNotFoundError: There is no such model, or it cannot be fetched.
            UsageError: A server's address is malformed.
            MissingDependencyError: The engine's packages are not installed.
        """
        options = self.engine_options | {"on_event": on_event}
        if self.base_url:
            options["timeout_s"] = self.timeout_s
        elif self.prefixes is not None:
            options["prefixes"] = open_prefix_folder(self.prefixes)
            options["cache"] = self.prefixes.memory_gib > 0
            options["cache_bytes"] = int(self.prefixes.memory_gib * GIB)
        return load_engine(self.model, self.base_url, self.api_key_env, **options)

    @property
    def engine_options(self) -> dict[str, Any]:
        """What every kind of engine is told of the choice; left out where nothing was chosen."""
        options: dict[str, Any] = {
            "context_tokens": self.window_tokens,
            "thinking": self.thinking,
            "dtype": self.dtype if not self.base_url else None,
            "trust_remote_code": self.trust_remote_code or None if not self.base_url else None,
        }
        return {name: value for name, value in options.items() if value is not None}

    def tokenizer(self, name: str | None = None) -> Tokenizer:
        """Returns the named tokenizer, else the model's own, else one that estimates.

        A served model's tokenizer is used where it is in the local cache; it is never downloaded
        unasked.

        Raises:
            ConfigError: The named tokenizer, or that in the model's folder, cannot be read.
        """
        if name is not None:
            return load_tokenizer(name)
        if self.folder is not None:
            return load_tokenizer(str(self.folder))
        if not self.base_url:
            if self.model and is_hub_id(self.model):
                with contextlib.suppress(ConfigError):
                    return load_tokenizer(self.model)  # an estimate needs no more of the model
            return load_tokenizer(check_model_path(self.model))
        try:
            return load_tokenizer(self.model, online=False)
        except AgenticluError:
            return load_tokenizer(None)

    def hint(self, key: str) -> int | None:
        """Returns what the model's folder says suits it (`agenticlu.json`), or None."""
        return None if self.folder is None else read_model_hint(self.folder, key)


def check_timeout(seconds: float) -> None:
    """Raises UsageError unless the value is a positive number of seconds."""
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"--timeout must be a number of seconds above 0, not {seconds:g}.",
            hint=f"Omit it for the default, {DEFAULT_TIMEOUT_S:.0f} s.",
        )
