"""Known names: one error for unknown ones, and tables of names whose targets load on use."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from agenticlu.core.errors import AgenticluError, ConfigError, did_you_mean, missing_dependency

EXTRA_OF_PACKAGE = {
    "datasets": "hub",
    "fsspec": "data",
    "huggingface_hub": "data",
    "peft": "train",
    "pyarrow": "data",
    "ray": "ray",
    "rouge_score": "evaluate",
    "safetensors": "local",
    "starlette": "serve",
    "torch": "local",
    "transformers": "local",
    "uvicorn": "serve",
    "zstandard": "data",
}
"""Which extra of agenticlu installs a package that it does not always need."""


def require_known(
    name: str,
    known: Iterable[str],
    *,
    kind: str,
    error: type[AgenticluError] = ConfigError,
    hint: str | None = None,
) -> str:
    """Returns the name if it is among those known.

    Args:
        name: What was given.
        known: What is allowed, in the order in which it is listed.
        kind: What the names stand for, in the singular; used in the message.
        error: Class of the error; it decides the exit code.
        hint: What to type next where no known name is close.

    Raises:
        AgenticluError: It is not; the message names what was given and what is allowed.
    """
    known = tuple(known)
    if name not in known:
        raise error(
            f"Unknown {kind} {name!r}. Allowed: {', '.join(known)}.",
            hint=did_you_mean(name, known) or hint,
        )
    return name


class Registry(Mapping[str, str]):
    """Names and where the things behind them live.

    Args:
        kind: What the names stand for, in the singular; used in messages.
        table: Name to 'module:attribute'.

    >>> paths = Registry("path function", {"join": "posixpath:join"})
    >>> paths.load("join")("a", "b")
    'a/b'
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)
        for name, target in self._table.items():
            assert target.count(":") == 1, f"{name}: {target!r} is not 'module:attribute'"

    def __getitem__(self, name: str) -> str:
        """Returns 'module:attribute' of a name.

        Raises:
            ConfigError: The name is unknown; the message lists those allowed.
        """
        return self._table[require_known(name, self._table, kind=self.kind)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def load(self, name: str) -> Any:
        """Imports what the name stands for.

        Raises:
            ConfigError: The name is unknown.
            MissingDependencyError: A package that it needs is not installed.
        """
        module, _, attribute = self[name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise_missing(error)


def raise_missing(error: ModuleNotFoundError, extra: str | None = None) -> NoReturn:
    """Raises an install line for an absent optional package, any other error as it is.

    Args:
        error: Raised by an import.
        extra: Extra that installs the package, where not the one that it is listed under.
    """
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        raise error
    raise missing_dependency(package, extra or EXTRA_OF_PACKAGE[package]) from error
