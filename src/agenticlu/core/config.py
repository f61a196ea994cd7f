"""Resolves the settings of a command from flags, environment, files and presets, with origins.

A command describes its settings as a model (`Settings`). `resolve` fills it in; the first of
these that names a setting wins:

1. flags of the command line,
2. environment: `AGENTICLU_ASK_ROUNDS` for one command, `AGENTICLU_MODEL` for a shared key,
3. the file given with `--config`: the settings of this command, subcommands as tables,
4. `agenticlu.toml` in the working folder: shared keys at the top, a table for each command,
5. the user's file of the same form (`$XDG_CONFIG_HOME/agenticlu/config.toml`),
6. a preset, where the command has presets,
7. defaults.

What decides where documents go, what is read and written or what code runs is taken from the fourth
only where the user trusts it (`agenticlu.core.trust`).

A setting has one key: the flag `--piece-tokens`, the key `piece_tokens` and the variable
`AGENTICLU_ASK_PIECE_TOKENS` are the same. An unknown key or a wrong value is an error that names
where it was read and the closest known key.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal

from pydantic import ValidationError

from agenticlu.core import limits
from agenticlu.core.errors import ConfigError, UsageError, did_you_mean
from agenticlu.core.settings import (
    Setting,
    SettingsT,
    check_value,
    invalid_settings,
    public_value,
    settings_of,
    unknown_key,
)
from agenticlu.core.toml import parse_toml, read_toml
from agenticlu.core.trust import TRUST_FILE, Confirm, ProjectFile, TrustStore, judge_file

PROJECT_FILE = "agenticlu.toml"
ENVIRONMENT_PREFIX = "AGENTICLU_"
DEBUG_VARIABLE = "AGENTICLU_DEBUG"
"""Shows whole tracebacks; not a setting."""
NO_SETTINGS = frozenset((DEBUG_VARIABLE, *limits.VARIABLES.values()))
"""Variables of ours that no file and no flag can set."""
TABLES: dict[str, tuple[str, ...]] = {
    "ask": (),
    "show": (),
    "plan": (),
    "generate": ("merge", "replay", "controls", "necessity", "pointing", "stop-rule"),
    "status": (),
    "dataset": ("build", "import", "push"),
    "train": ("sft", "dpo", "distill", "plan"),
    "eval": ("table", "score", "collect", "judge", "cite", "recall", "rows"),
    "loop": (),
    "report": (),
    "demo": (),
    "read": (),
    "serve": (),
    "mcp": (),
    "prompts": ("extract", "check"),
    "doctor": (),
    "cache": ("clear",),
    "trust": (),
}
"""Tables of a project or user file, and the tables inside each: commands and subcommands."""
GROUPS = ("dataset", "prompts")
"""Tables that hold nothing but tables."""
SHARED = (
    "model", "base_url", "api_key_env", "profile", "piece_tokens", "tokenizer", "temperature",
    "thinking", "thinking_tokens", "prefix_cache", "prefix_cache_gib",
)  # fmt: skip
"""Keys allowed at the top of a file, or bare in the environment; they apply to every command that
has a setting of that name."""


@dataclass(frozen=True)
class Preset:
    """Values that one setting stands for."""

    origin: str
    """Shown as the origin of its values."""
    values: Mapping[str, object]
    beats: Literal["defaults", "files"] = "defaults"
    """files: they go before everything but flags."""


FindPreset = Callable[[Mapping[str, object]], Preset | None]
"""Returns the preset that the given settings (by key) name."""


@dataclass(frozen=True)
class Resolved(Generic[SettingsT]):
    """Settings and where each came from."""

    model: type[SettingsT]
    given: Mapping[str, object]
    """Key to value, of all that are not left at their defaults."""
    origins: Mapping[str, str]
    """Key to origin: 'flag', 'environment NAME', a file's path, a preset or 'default'."""
    section: str | None = None
    notes: tuple[str, ...] = ()
    """Lines about deprecated names that were used, and about what a folder's file decides."""

    @functools.cached_property
    def values(self) -> SettingsT:
        """The settings, checked as a whole.

        Raises:
            UsageError: A required setting is missing.
            ConfigError: Values that conflict.
        """
        settings = settings_of(self.model)
        missing = [s for s in settings.values() if s.required and s.key not in self.given]
        if missing:
            flag = f"--{missing[0].key.replace('_', '-')}"
            raise UsageError(f"Missing option {flag}.", hint=f"{flag}: {missing[0].help}")
        try:
            return self.model.model_validate(
                {settings[key].name: value for key, value in self.given.items()}
            )
        except ValidationError as error:
            raise invalid_settings(error, self.origins) from error

    def as_dict(self) -> dict[str, Any]:
        """Returns values and origins for JSON; never a key or a secret."""
        return {
            "command": self.section,
            "values": self._public(),
            "origins": dict(self.origins),
        }

    def describe(self) -> str:
        """Returns one line per setting: key, value, origin."""
        values = self._public()
        return "\n".join(
            f"{key} = {json.dumps(values[key], ensure_ascii=False)}  ({origin})"
            for key, origin in self.origins.items()
        )

    def _public(self) -> dict[str, Any]:
        settings = settings_of(self.model)
        return {
            key: public_value(key, self.given.get(key, settings[key].default))
            for key in self.origins
        }


def resolve(
    model: type[SettingsT],
    *,
    section: str | None = None,
    inherits: Sequence[str] = (),
    without: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
    project_file: str | Path | None = PROJECT_FILE,
    user_file: str | Path | None = None,
    find_preset: FindPreset | None = None,
    confirm: Confirm | None = None,
    unchecked: bool = False,
) -> Resolved[SettingsT]:
    """Fills settings from all sources; each value is checked, but not yet all together.

    Args:
        model: The settings wanted.
        section: Table of the command, such as 'train.sft'; None uses the shared keys alone.
        inherits: Tables that apply where the command's own says nothing, weakest first.
        without: Keys that this command does not have, although a table it inherits may.
        flags: Key to value; None values count as not given.
        environ: Defaults to the process's environment.
        config_file: TOML file of this command's settings alone; must exist.
        project_file: Used where it exists; None for none.
        user_file: Used where it exists; None for the user's standard one.
        find_preset: Expands a setting that stands for others.
        confirm: Asks the user whether the project file is trusted; None where nobody can be asked.
        unchecked: Leaves out whether it is trusted: the settings are only to be looked at.

    Raises:
        ConfigError: An unknown key, a wrong value, a file that cannot be read, or a project file
            that decides what only a trusted one may.
        UsageError: A wrong value of a flag.
    """
    environ = os.environ if environ is None else environ
    sections = _Sections(section, tuple(inherits))
    taken = _Taken(settings_of(model), frozenset(without))
    user = Path(user_file) if user_file is not None else user_config_path(environ)
    # A home that cannot be entered is another user's: there are no settings in it for this one.
    if user is not None and os.path.isfile(user):
        for own, values in sections.read_tables(load_toml(user), str(user), taken):
            taken.take(values, str(user), own=own)
    project = load_project(project_file)
    if project is not None:
        for own, values in sections.read_tables(project.content, str(project_file), taken):
            taken.take(values, str(project_file), own=own, project=True)
    if config_file is not None:
        for own, values in sections.read_config(load_toml(config_file)):
            taken.take(values, str(config_file), own=own)
    for own, name, key, text in sections.read_variables(environ, taken):
        taken.take({key: text}, f"environment {name}", own=own)
    taken.take({k: v for k, v in (flags or {}).items() if v is not None}, "flag")
    preset = None if find_preset is None else find_preset(taken.values)
    if preset is not None:
        taken.take_preset(preset)
    if project is not None and not unchecked:
        taken.heed(project, environ, confirm)
    return Resolved(model, taken.values, taken.origins, section, tuple(taken.notes))


def load_toml(path: str | Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        ConfigError: There is no such file, or it is not TOML.
    """
    return _read_toml(Path(path))[1]


def load_project(path: str | Path | None = PROJECT_FILE) -> ProjectFile | None:
    """Reads the settings file of a folder; None where there is none.

    Raises:
        ConfigError: It cannot be read, or is not TOML.
    """
    if path is None or not os.path.isfile(path):
        return None
    data, content = _read_toml(Path(path))
    return ProjectFile.of(Path(path), data, content)


def _read_toml(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        data = read_toml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"No such configuration file: {str(path)!r}.") from error
    except OSError as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    return data, parse_toml(data, repr(str(path)))


def trust_store(environ: Mapping[str, str]) -> TrustStore:
    """Returns the list of the project files that the user trusts, beside the user's own file."""
    own = user_config_path(environ)
    return TrustStore(None if own is None else own.with_name(TRUST_FILE))


def user_config_path(environ: Mapping[str, str]) -> Path | None:
    """Returns the user's configuration file, or None where there is no home folder.

    Relative folders are passed over, as the XDG specification has it: the working folder may come
    from anyone.
    """
    if (base := Path(environ.get("XDG_CONFIG_HOME", ""))).is_absolute():
        return base / "agenticlu" / "config.toml"
    if (home := Path(environ.get("HOME", ""))).is_absolute():
        return home / ".config" / "agenticlu" / "config.toml"
    return None


@dataclass
class _Taken:
    """Values collected so far, each checked when it is taken."""

    settings: Mapping[str, Setting]
    without: frozenset[str]
    values: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.origins = {key: "default" for key in self.settings if key not in self.without}
        self._from_project: set[str] = set()
        self._aliases = {
            alias: key for key, one in self.settings.items() for alias in one.spelling.aliases
        }

    def find(self, key: str) -> str | None:
        """Returns the setting that a key, perhaps a former one, stands for."""
        key = self._aliases.get(key, key)
        return key if key in self.settings else None

    def has(self, key: str) -> bool:
        """Whether the command has a setting of that key."""
        return key in self.origins

    def take(
        self,
        values: Mapping[str, object],
        origin: str,
        *,
        own: bool = True,
        project: bool = False,
    ) -> None:
        """Adds the values of one source, over those of sources before it.

        Args:
            values: Key to value; a text from the environment is parsed.
            origin: Where they were read.
            own: Whether they are this command's; keys of an inherited table may not apply.
            project: Whether they were read from the folder's file.
        """
        for given, value in values.items():
            key = self.find(given)
            if key is None or (own and key in self.without):
                raise unknown_key(given, self.origins, origin)
            if key in self.without:
                continue
            if key != given:
                self.notes.append(f"{given} is now {key} ({origin}).")
            self.values[key] = check_value(self.settings[key], value, origin)
            self.origins[key] = origin
            (self._from_project.add if project else self._from_project.discard)(key)

    def heed(self, file: ProjectFile, environ: Mapping[str, str], confirm: Confirm | None) -> None:
        """Refuses what the folder's file may not decide, and withholds the keys that it may not."""
        ruling = judge_file(
            file,
            self.values,
            self._from_project,
            environ=environ,
            defaults={key: self.settings[key].default for key in self.origins},
            store=trust_store(environ),
            confirm=confirm,
        )
        for key in ruling.withheld:
            self.values[key], self.origins[key] = "", f"withheld: {file.path} is not given keys"
        self.notes += ruling.notes

    def take_preset(self, preset: Preset) -> None:
        """Adds a preset's values where they go before what is there."""
        for given, value in preset.values.items():
            key = self._aliases.get(given, given)
            origin = self.origins.get(key, "flag")
            if origin == "default" or (preset.beats == "files" and origin != "flag"):
                self.take({key: value}, preset.origin)


# --- Sources --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sections:
    """The tables that one command reads."""

    own: str | None
    inherits: tuple[str, ...]

    @property
    def chain(self) -> tuple[str, ...]:
        """All tables, weakest first."""
        return self.inherits if self.own is None else (*self.inherits, self.own)

    def read_tables(
        self, content: Mapping[str, Any], path: str, taken: _Taken
    ) -> Iterator[tuple[bool, dict[str, Any]]]:
        """Yields what a project or user file says: whether a table is the command's own; values."""
        tables = {name: table for name, table in content.items() if isinstance(table, dict)}
        for key in content.keys() - tables.keys():
            if key not in SHARED:
                raise unknown_key(key, (*SHARED, *(f"[{name}]" for name in TABLES)), path)
        for name, inside in tables.items():
            if name not in TABLES:
                raise _unknown_table(name, TABLES, path)
            if name in GROUPS:
                for inner in inside:
                    if inner not in TABLES[name]:
                        raise _unknown_table(
                            f"{name}.{inner}", [f"{name}.{one}" for one in TABLES[name]], path
                        )
        yield False, {k: content[k] for k in SHARED if k in content and taken.has(k)}
        for section in self.chain:
            table: Any = content
            for part in section.split("."):
                table = table.get(part, {})
                if not isinstance(table, dict):
                    raise ConfigError(f"{section!r} must be a table: [{section}] ({path}).")
            yield section == self.own, _without_subcommands(table, section)

    def read_config(self, content: Mapping[str, Any]) -> Iterator[tuple[bool, dict[str, Any]]]:
        """Yields what a file given with --config says; its tables are named for subcommands."""
        command, _, subcommand = (self.own or "").partition(".")
        yield not subcommand, _without_subcommands(content, command)
        for section in self.chain:
            inner = section.partition(".")[2]
            if inner and isinstance(content.get(inner), dict):
                yield section == self.own, content[inner]

    def read_variables(
        self, environ: Mapping[str, str], taken: _Taken
    ) -> Iterator[tuple[bool, str, str, str]]:
        """Yields (own, variable, key, text): shared variables first, the command's own last."""
        shared = {f"{ENVIRONMENT_PREFIX}{key.upper()}": key for key in SHARED}
        for name, key in shared.items():
            if environ.get(name) and taken.has(key):
                yield False, name, key, environ[name]
        found = []
        for name in sorted(environ):
            if not name.startswith(ENVIRONMENT_PREFIX) or name in {*shared, *NO_SETTINGS}:
                continue
            sections = _sections_of_variable(name)
            if not sections:
                raise self._unknown_variable(name, shared, taken)
            # TRAIN_PLAN_ONLY may be a key of [train] or of [train.plan]: the more specific wins.
            own = [section for section in sections if section in self.chain]
            known = [one for one in own if taken.find(_key_of_variable(name, one))]
            if known and environ[name] != "":
                found.append((self.chain.index(known[0]), name, known[0]))
            elif sections[0] in self.chain and not known:
                raise self._unknown_variable(name, shared, taken)
        for _, name, section in sorted(found):
            yield section == self.own, name, _key_of_variable(name, section), environ[name]

    def _unknown_variable(self, name: str, shared: Mapping[str, str], taken: _Taken) -> ConfigError:
        prefix = ENVIRONMENT_PREFIX if self.own is None else _prefix(self.own)
        bare = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        close = difflib.get_close_matches(bare, SHARED, n=1, cutoff=0.75)
        if _sections_of_variable(name):
            hint = did_you_mean(name, [f"{prefix}{key.upper()}" for key in taken.origins])
        elif taken.has(bare):
            hint = f"Did you mean {prefix}{bare.upper()}?"
        else:
            hint = f"Did you mean {ENVIRONMENT_PREFIX}{close[0].upper()}?" if close else None
        return ConfigError(
            f"Unknown environment variable {name}.",
            hint=hint
            or f"All commands share {', '.join(shared)}; others carry the command's name, such as "
            f"{ENVIRONMENT_PREFIX}ASK_ROUNDS.",
        )


def _without_subcommands(table: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Returns a table without the tables of its subcommands; a setting may have the same name."""
    inner = TABLES.get(section, ())
    return {k: v for k, v in table.items() if not (k in inner and isinstance(v, dict))}


def _prefix(section: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{section.replace('.', '_').upper()}_"


def _key_of_variable(name: str, section: str) -> str:
    return name.removeprefix(_prefix(section)).lower()


def _sections_of_variable(name: str) -> list[str]:
    """Returns the tables whose variables begin as this one does, the most specific first."""
    sections = [f"{outer}.{inner}" for outer, names in TABLES.items() for inner in names]
    return [one for one in (*sections, *TABLES) if name.startswith(_prefix(one))]


def _unknown_table(name: str, known: Iterable[str], path: str) -> ConfigError:
    known = list(known)
    return ConfigError(
        f"Unknown table [{name}] ({path}).",
        hint=did_you_mean(name, known) or f"Known tables: {', '.join(known)}.",
    )
