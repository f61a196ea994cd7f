"""What the settings file of a folder may decide, and which such files the user trusts.

A folder may come from anyone. Its `agenticlu.toml` decides nothing about where documents go, which
files are read and written or what code runs before the user has said so, once for a file as it
then stands. A key goes to no server of such a file, unless the user has allowed that, too.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError
from agenticlu.core.files import load_json_object, write_atomically

GUARDED: dict[str, str] = {
    "base_url": "where documents and questions are sent",
    "upstream": "where documents and questions are sent",
    "upstream_key_env": "which variable holds the key",
    "judge_base_url": "where questions and answers are sent",
    "api_key_env": "which variable holds the key",
    "judge_api_key_env": "which variable holds the judges' key",
    "seal": "where results are sent",
    "ray_address": "which cluster works on the corpus",
    "push_to_hub": "where the data set is published",
    "private": "who may see what is published",
    "log_to": "which trackers are sent the figures",
    "model": "which model is loaded",
    "judge_model": "which judging model is loaded",
    "tokenizer": "which tokenizer is loaded",
    "helmet_tokenizer": "which tokenizer is loaded",
    "ocr_languages": "which files of languages are loaded",
    "nli": "which inference model is loaded",
    "from": "which model is trained",
    "sft": "which model is trained",
    "trust_remote_code": "whether a model's code runs",
    "questions": "which file is read and sent",
    "haystack": "which file is read and sent",
    "corpus": "which file is read and sent",
    "helmet_data": "which folder is read and sent",
    "held_out": "which file is read and sent",
    "decontaminate": "which files are read",
    "like": "which folder is read",
    "run": "which folder is read",
    "stop_rule": "which file is read",
    "data": "which folder is read",
    "eval": "which folder is read",
    "train": "which folder is read",
    "prefix_cache": "where what was read of documents is kept, and taken from",
    "out": "where results are written",
    "into": "where results are written",
    "host": "who can reach the server",
    "files": "where uploaded files are kept",
    "keys": "whether keys are sent to servers of a folder's file",
    "allow_private": "whether addresses may lead into private networks",
    "allow_urls": "whether assistants may have addresses fetched",
    "token_env": "which variable holds the token that clients must send",
    "allowed_host": "who can reach the server",
    "allowed_origin": "which web pages read the server's replies",
}
"""Settings that a folder's file may decide only with the user's consent, and what they decide. A
test walks all settings, so that each new one is either here or found harmless there."""
SERVERS = {
    "base_url": "api_key_env",
    "judge_base_url": "judge_api_key_env",
    "upstream": "upstream_key_env",
}
"""Addresses that keys are sent to, and which setting names the key's variable."""
NAMES = {"model": "base_url", "judge_model": "judge_base_url"}
"""Settings that name what a server has, and load nothing, where it is given."""
TRUST_FILE = "trusted.json"
Confirm = Callable[[str], bool]
"""Puts a question to the user."""


@dataclass(frozen=True)
class ProjectFile:
    """A settings file of a folder, as it stands."""

    path: Path
    """Absolute, without links."""
    content: Mapping[str, Any]
    digest: str
    """SHA-256 of its bytes."""

    @classmethod
    def of(cls, path: Path, data: bytes, content: Mapping[str, Any]) -> ProjectFile:
        """Returns the file of these bytes, which hold that content."""
        return cls(path.resolve(), content, hashlib.sha256(data).hexdigest())

    def decisions(self) -> list[str]:
        """Returns a line about each guarded setting of any command."""
        return [
            f"{f'[{table}] ' if table else ''}{render(key, value)}: {GUARDED[key]}"
            for table, key, value in _walk(self.content)
        ]


@dataclass(frozen=True)
class Consent:
    """What the user allows a file."""

    file: bool = False
    """To decide the settings in `GUARDED`."""
    keys: bool = False
    """To have keys sent to its servers, or those that it names sent to others."""


class TrustStore:
    """The files that the user trusts, by path and content.

    Args:
        path: A file of the user's own; None where there is no home folder.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def find(self, file: ProjectFile) -> Consent:
        """Returns what a file is allowed as it stands; nothing after a change.

        Raises:
            ConfigError: The list of trusted files cannot be read.
        """
        entry = self._load().get(str(file.path))
        if not isinstance(entry, dict) or entry.get("sha256") != file.digest:
            return Consent()
        return Consent(file=True, keys=entry.get("keys") is True)

    def remember(self, file: ProjectFile, consent: Consent) -> None:
        """Notes what a file is allowed; nothing forgets it.

        Raises:
            ConfigError: The list of trusted files cannot be read, or there is no home folder.
            StoreError: It cannot be written.
        """
        if self.path is None:
            raise ConfigError(
                "There is no home folder to remember in that a file is trusted.",
                hint="Set HOME or XDG_CONFIG_HOME, or give the settings as flags.",
            )
        known = {name: entry for name, entry in self._load().items() if name != str(file.path)}
        if consent.file:
            known[str(file.path)] = {"sha256": file.digest, "keys": consent.keys}
        write_atomically(self.path, json.dumps(known, indent=2) + "\n")

    def _load(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            return load_json_object(self.path)
        except (ValueError, OSError) as error:
            raise ConfigError(f"Cannot read {str(self.path)!r}: {error}.") from error


@dataclass(frozen=True)
class Ruling:
    """What becomes of the settings that a folder's file has given."""

    withheld: tuple[str, ...] = ()
    """Settings that name a key's variable, whose key is not sent."""
    notes: tuple[str, ...] = ()
    """Lines to be said in every run."""


def judge_file(
    file: ProjectFile,
    given: Mapping[str, object],
    chosen: Collection[str],
    *,
    environ: Mapping[str, str],
    defaults: Mapping[str, object],
    store: TrustStore,
    confirm: Confirm | None,
) -> Ruling:
    """Decides whether a folder's file may decide what it has; asks the user where nobody has yet.

    Args:
        file: The file.
        given: All settings that were given anywhere, by key.
        chosen: Those whose value comes from the file.
        environ: Holds the keys.
        defaults: Every setting that the command has, by key.
        store: The files that are trusted.
        confirm: Asks the user; None where nobody can be asked.

    Raises:
        ConfigError: It may not.
    """
    guarded = [key for key in GUARDED if key in chosen and not _is_name(key, given)]
    if not guarded:
        return Ruling()
    consent = store.find(file)
    lent = [
        key for url, key in SERVERS.items() if url in defaults and not {url, key}.isdisjoint(chosen)
    ]
    variables = [str(given.get(key, defaults.get(key))) for key in lent]
    if not consent.file and confirm is not None:
        consent = _ask(file, [name for name in variables if environ.get(name)], confirm)
        if consent.file:
            store.remember(file, consent)
    if not consent.file:
        raise _refuse(file, given, guarded)
    said = "; ".join(render(key, given[key]) for key in guarded)
    keyless = lent and not consent.keys
    return Ruling(
        tuple(lent) if keyless else (),
        (f"{file.path} decides: {said}{' (no key is sent)' if keyless else ''}.",),
    )


def render(key: str, value: object) -> str:
    """Returns a setting as a file states it, in characters that hide nothing."""
    return f"{key} = {json.dumps(value, default=str)}"


def _ask(file: ProjectFile, variables: list[str], confirm: Confirm) -> Consent:
    decisions = "".join(f"  {line}\n" for line in file.decisions())
    if not confirm(f"{file.path} would decide\n{decisions}Trust this file until it changes?"):
        return Consent()
    names = " and ".join(f"${name}" for name in dict.fromkeys(variables))
    return Consent(True, bool(names) and confirm(f"Send the key in {names} as it says, too?"))


def _refuse(
    file: ProjectFile, given: Mapping[str, object], guarded: Collection[str]
) -> ConfigError:
    named = "; ".join(f"{render(key, given[key])} ({GUARDED[key]})" for key in guarded)
    flags = ", ".join(f"--{key.replace('_', '-')}" for key in guarded)
    where = shlex.quote(str(file.path.parent))
    return ConfigError(
        f"{file.path} is not trusted, and would decide {named}.",
        hint=f"If you know that file: agenticlu trust {where}. Else say it yourself: {flags}, an "
        "environment variable or your own configuration file.",
    )


def _is_name(key: str, given: Mapping[str, object]) -> bool:
    """Whether a setting names what a server has, rather than something to load."""
    return key in NAMES and bool(given.get(NAMES[key]))


def _walk(content: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yields table, key and value of each guarded setting."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{table}.{key}".removeprefix("."))
        elif key in GUARDED:
            yield table, key, value
