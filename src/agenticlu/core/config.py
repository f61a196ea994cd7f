"""Strict typed configuration, each value with its origin.

A command describes its settings as a model (`Settings`); `resolve` fills it from, first wins:

1. flags of the command line,
2. environment: `AGENTICLU_ASK_ROUNDS` for one command, `AGENTICLU_MODEL` for what they share,
3. the file named with `--config` (the settings of this command alone),
4. `agenticlu.toml` in the working folder: shared keys at the top, one table per command,
5. the user's file of the same form (`$XDG_CONFIG_HOME/agenticlu/config.toml`),
6. defaults.

An unknown key or a wrong type is an error that names the file and the closest known key.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from agenticlu import __version__
from agenticlu.core.errors import ConfigError, did_you_mean
from agenticlu.core.output_dir import write_atomically

PROJECT_FILE = "agenticlu.toml"
ENVIRONMENT_PREFIX = "AGENTICLU_"
DEBUG_VARIABLE = "AGENTICLU_DEBUG"
"""Shows whole tracebacks; no setting."""
SECTIONS = (
    "ask",
    "chat",
    "plan",
    "generate",
    "dataset",
    "train",
    "eval",
    "report",
    "serve",
    "doctor",
    "demo",
)
"""Tables that a project or user file may have: the commands."""
SHARED = ("model", "base_url", "api_key_env", "profile", "piece_tokens", "tokenizer", "temperature")
"""Keys that may stand at the top of a file, or bare in the environment; they apply to every
command that has a setting of that name."""

_SECTION_STARTS = tuple(f"{section}_" for section in SECTIONS)
_SECRET_NAME = re.compile(r"(?:^|_)(?:api_?key|access_?token|auth_?token|secret|password)$")
_URL_SECRET = re.compile(
    r"(?<=://)[^/@\s]+@|(?<=[?&])(?:api_?key|key|token)=[^&\s]+", re.IGNORECASE
)


class Settings(BaseModel):
    """Base of all settings: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Resolved(Generic[SettingsT]):
    """Settings and where each came from."""

    values: SettingsT
    origins: Mapping[str, str]
    """Dotted key to origin: 'flag', 'environment NAME', a file's path or 'default'."""
    section: str | None = None

    def save_resolved(self, path: str | Path) -> None:
        """Writes values and origins as JSON, all or nothing; never a key or a secret."""
        document = {
            "version": 1,
            "agenticlu": __version__,
            "command": self.section,
            "values": public_values(self.values),
            "origins": dict(self.origins),
        }
        write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def describe(self) -> str:
        """Returns one line per setting: key, value, origin."""
        values = dict(_flatten(public_values(self.values), set(self.origins)))
        return "\n".join(
            f"{key} = {json.dumps(values.get(key), ensure_ascii=False)}  ({origin})"
            for key, origin in self.origins.items()
        )


def resolve(
    model: type[SettingsT],
    *,
    section: str | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
    project_file: str | Path | None = PROJECT_FILE,
    user_file: str | Path | None = None,
) -> Resolved[SettingsT]:
    """Fills settings from all sources.

    Args:
        model: The settings wanted.
        section: Command whose table and variables apply; None uses the shared keys alone.
        flags: Dotted key to value; None values count as not given.
        environ: Defaults to the process's environment.
        config_file: TOML file of this command's settings alone; must exist.
        project_file: Used where it exists; None for none.
        user_file: Used where it exists; None for the user's standard one.

    Raises:
        ConfigError: An unknown key, a wrong type, or a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    fields = dict(_leaves(model))
    merged: dict[str, object] = {}
    origins: dict[str, str] = dict.fromkeys(fields, "default")

    def take(values: Mapping[str, object], origin: str, *, strict: bool) -> None:
        for key, value in values.items():
            if key not in fields:
                raise _unknown_key(key, fields, origin)
            merged[key] = _checked(fields[key], key, value, origin, strict=strict)
            origins[key] = origin

    user = Path(user_file) if user_file is not None else user_config_path(environ)
    for path in (user, Path(project_file) if project_file is not None else None):
        if path is not None and path.is_file():
            take(_section_values(path, model, fields, section), str(path), strict=True)
    if config_file is not None:
        take(dict(_flatten(load_toml(config_file), set(fields))), str(config_file), strict=True)
    for name, key, text in _environment(environ, fields, section):
        take({key: _parse_text(text, fields[key])}, f"environment {name}", strict=False)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    take(given, "flag", strict=False)
    try:
        values = model.model_validate(_nest(merged))
    except ValidationError as error:
        raise _invalid(error, origins) from error
    return Resolved(values=values, origins=origins, section=section)


def change(settings: SettingsT, changes: Mapping[str, object]) -> SettingsT:
    """Returns settings with some of them changed, checked as a whole.

    Raises:
        ConfigError: An unknown key, or a value that cannot be.
    """
    try:
        return type(settings).model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        raise _invalid(error, dict.fromkeys(changes, "flag")) from error


def parse_overrides(overrides: Iterable[str]) -> dict[str, object]:
    """Reads 'key=value' words of a command line; values as in TOML, else plain text.

    >>> parse_overrides(["optimizer.lr=1e-4", "name=tiny", "lengths=[256, 512]"])
    {'optimizer.lr': 0.0001, 'name': 'tiny', 'lengths': [256, 512]}
    """
    values: dict[str, object] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{override!r} is not of the form key=value.")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text.strip()}")["value"]
        except (tomllib.TOMLDecodeError, KeyError):
            values[key.strip()] = text.strip()
    return values


def load_toml(path: str | Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        ConfigError: There is no such file, or it is not TOML.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no configuration file {str(path)!r}.", hint="Check the path."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}.") from error


def user_config_path(environ: Mapping[str, str]) -> Path | None:
    """Returns the user's configuration file, or None where there is no home folder."""
    if base := environ.get("XDG_CONFIG_HOME"):
        return Path(base) / "agenticlu" / "config.toml"
    if home := environ.get("HOME"):
        return Path(home) / ".config" / "agenticlu" / "config.toml"
    return None


def public_values(settings: BaseModel) -> dict[str, Any]:
    """Returns settings as JSON values without secrets.

    Left out are secret fields and fields named like a key; credentials in addresses are masked.
    """

    def clean(name: str, value: Any) -> Any:
        if isinstance(value, SecretStr) or (value is not None and _SECRET_NAME.search(name)):
            return "(not saved)"
        if isinstance(value, BaseModel):
            return {key: clean(key, item) for key, item in value}
        if isinstance(value, Mapping):
            return {str(key): clean(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
            return [clean("", item) for item in items]
        if isinstance(value, str):
            return _URL_SECRET.sub("***", value)
        if isinstance(value, bool | int | None):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        return str(value)

    return {key: clean(key, value) for key, value in settings}


# --- Fields ---------------------------------------------------------------------------------------


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted key and type of every setting; models nest, everything else is a leaf."""
    for name, info in model.model_fields.items():
        inner = _inner_model(info.annotation)
        if inner is not None:
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            annotation: Any = info.annotation
            if info.metadata:  # limits such as ge=1
                annotation = Annotated[(annotation, *info.metadata)]
            yield f"{prefix}{name}", annotation


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _flatten(
    values: Mapping[str, Any], leaves: set[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields dotted keys; tables are opened unless the table itself is a setting."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in leaves:
            yield from _flatten(value, leaves, f"{key}.")
        else:
            yield key, value


def _nest(flat: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, name = key.split(".")
        table = nested
        for part in outer:
            table = table.setdefault(part, {})
        table[name] = value
    return nested


def _checked(annotation: Any, key: str, value: object, origin: str, *, strict: bool) -> object:
    try:
        adapter: TypeAdapter[object] = TypeAdapter(annotation)
        if strict:  # by JSON: a TOML array is a tuple's JSON form, but "3" is no number
            return adapter.validate_json(json.dumps(value), strict=True)
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"{key} = {_shown(key, value)} ({origin}) cannot be used: {problem['msg']}."
        ) from error
    except TypeError as error:
        raise ConfigError(f"{key} ({origin}) cannot be a {type(value).__name__}.") from error


def _shown(key: str, value: object) -> str:
    return "(not shown)" if _SECRET_NAME.search(key) else _URL_SECRET.sub("***", repr(value))


def _unknown_key(key: str, allowed: Iterable[str], origin: str) -> ConfigError:
    allowed = list(allowed)
    last_parts = {name.rsplit(".", 1)[-1]: name for name in allowed}
    hint = did_you_mean(key, allowed)
    if hint is None and key.rsplit(".", 1)[-1] in last_parts:
        hint = f"Did you mean {last_parts[key.rsplit('.', 1)[-1]]}?"
    return ConfigError(
        f"Unknown key {key!r} ({origin}).",
        hint=hint or f"Known keys: {', '.join(allowed)}.",
    )


def _invalid(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    lines = []
    for problem in error.errors(include_input=False):
        key = ".".join(str(part) for part in problem["loc"])
        origin = f" ({origins[key]})" if key in origins else ""
        lines.append(f"{key}{origin}: {problem['msg']}" if key else problem["msg"])
    return ConfigError("The configuration cannot be used: " + "; ".join(lines) + ".")


# --- Sources --------------------------------------------------------------------------------------


def _section_values(
    path: Path, model: type[BaseModel], fields: Mapping[str, Any], section: str | None
) -> dict[str, object]:
    """Returns what a project or user file says about one command's settings."""
    content = load_toml(path)
    shared = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    for key in shared:
        if key not in SHARED:
            raise _unknown_key(key, (*SHARED, *(f"[{name}]" for name in SECTIONS)), str(path))
    for name in tables:
        if name not in SECTIONS:
            raise ConfigError(
                f"Unknown table [{name}] ({path}).",
                hint=did_you_mean(name, SECTIONS) or f"Known tables: {', '.join(SECTIONS)}.",
            )
    values: dict[str, object] = {key: value for key, value in shared.items() if key in fields}
    if section is not None:
        values.update(_flatten(tables.get(section, {}), set(fields)))
    return values


def _environment(
    environ: Mapping[str, str], fields: Mapping[str, Any], section: str | None
) -> list[tuple[str, str, str]]:
    """Returns (variable, key, text): shared variables first, so that a command's own one wins."""
    by_name = {key.replace(".", "__").upper(): key for key in fields}
    shared = {f"{ENVIRONMENT_PREFIX}{key.upper()}": key for key in SHARED}
    found = [(name, key, environ[name]) for name, key in shared.items() if name in environ]
    for name in sorted(environ):
        given = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name in shared or given == name.lower() or given.startswith(_SECTION_STARTS):
            continue
        if name == DEBUG_VARIABLE:
            continue
        if section is not None and name.removeprefix(ENVIRONMENT_PREFIX) in by_name:
            meant = f"Did you mean {ENVIRONMENT_PREFIX}{section.upper()}_{given.upper()}?"
        elif close := difflib.get_close_matches(given, SHARED, n=1, cutoff=0.75):
            meant = f"Did you mean {ENVIRONMENT_PREFIX}{close[0].upper()}?"
        else:
            meant = (
                f"All commands share {', '.join(shared)}; others carry the command's name, such as "
                f"{ENVIRONMENT_PREFIX}ASK_ROUNDS."
            )
        raise ConfigError(f"Unknown environment variable {name}.", hint=meant)
    known = [(name, key, text) for name, key, text in found if key in fields and text != ""]
    if section is None:
        return known
    prefix = f"{ENVIRONMENT_PREFIX}{section.upper()}_"
    for name in sorted(environ):
        if not name.startswith(prefix) or environ[name] == "":
            continue
        if (key := by_name.get(name.removeprefix(prefix))) is None:
            raise ConfigError(
                f"Unknown environment variable {name}.",
                hint=did_you_mean(name, [prefix + known_name for known_name in by_name]),
            )
        known.append((name, key, environ[name]))
    return known


def _parse_text(text: str, annotation: Any) -> object:
    """Reads a variable's text: JSON for lists and tables, commas for lists of plain words."""
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except ValueError:
            return text
    if _is_sequence(annotation):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in {list, tuple, set, frozenset, Sequence}:
        return True
    return any(_is_sequence(part) for part in get_args(annotation) if origin is not dict)
