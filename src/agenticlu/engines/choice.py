"""Which model answers: one record for every command, the Python API and workers elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from agenticlu.core.errors import AgenticluError, UsageError
from agenticlu.documents.tokens import Tokenizer, load_tokenizer, read_model_hint
from agenticlu.engines import BUNDLED_MODEL, check_base_url, check_model_path, load_engine
from agenticlu.engines.base import Engine

DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ModelChoice:
    """A model, named the way people name it; nothing is loaded until `load`.

    >>> ModelChoice().bundled
    True
    """

    model: str | None = None
    """A folder in Hugging Face layout, or the name of a served model. None, and no server: the
    bundled tiny model."""
    base_url: tuple[str, ...] = ()
    """Addresses of OpenAI-compatible servers; several make a pool."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the servers' key."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Limit of one request to a server."""

    def __post_init__(self) -> None:
        check_timeout(self.timeout_s)

    @property
    def bundled(self) -> bool:
        """Whether neither a model nor a server was named."""
        return self.model is None and not self.base_url

    @property
    def folder(self) -> Path | None:
        """Folder of a model in this process; None for a served one."""
        if self.bundled:
            return BUNDLED_MODEL
        path = Path(self.model).expanduser() if self.model else None
        return path if path is not None and path.is_dir() else None

    def check(self) -> None:
        """Refuses a model or a server that cannot be loaded, without loading it.

        Raises:
            ModelNotFoundError: The model's folder does not exist.
            UsageError: A server's address is malformed.
        """
        for url in self.base_url:
            check_base_url(url)
        if not self.base_url:
            check_model_path(self.model)

    def load(self) -> Engine:
        """Builds the engine; nothing is sent before its first use.

        Raises:
            ModelNotFoundError: The model's folder does not exist.
            UsageError: A server's address is malformed.
            MissingDependencyError: The engine's packages are not installed.
        """
        options = {"timeout_s": self.timeout_s} if self.base_url else {}
        return load_engine(self.model, self.base_url, self.api_key_env, **options)

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
        try:
            return load_tokenizer(self.model, online=False)
        except AgenticluError:
            return load_tokenizer(None)

    def hint(self, key: str) -> int | None:
        """Returns what the model's folder says suits it (`agenticlu.json`), or None."""
        return None if self.folder is None else read_model_hint(self.folder, key)


def check_timeout(seconds: float) -> None:
    """Raises UsageError unless it is a positive number of seconds."""
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"--timeout must be a number of seconds above 0, not {seconds:g}.",
            hint=f"Leave it out for {DEFAULT_TIMEOUT_S:.0f} s.",
        )
