"""Profiles: wordings of every request, with ids and versions.

A profile is a TOML file with a `name`, a `version` and, for each kind of request, a list of
paraphrases `{id, text}`. Which paraphrase is used follows from the ids of the document and the
question, so a run can be repeated and every trace of a document shares its system turn.
"""

from __future__ import annotations

import importlib.resources
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from agenticlu.core.errors import ConfigError
from agenticlu.core.records import Record, content_seed
from agenticlu.core.registry import require_known

KINDS = (
    "system",
    "direct",
    "clarify",
    "clarify_again",
    "point",
    "sub_answer",
    "answer",
    "check",
    "relevance",
)
"""Kinds of wording a profile must have."""

Layout = Literal["own", "published"]


class Wording(Record):
    """One paraphrase of one request."""

    id: str
    text: str


class Profile(Record):
    """All wordings of a run."""

    name: str
    version: int
    layout: Layout = "own"
    """How a conversation is put together. own: document, question and the first request open it
    together, and each round ends in its self-check. published: document and question open it
    alone and the reply to them, the base answer, stays in it; the self-check is asked aside and
    leaves no trace. The latter is the layout of the published data set."""
    system: tuple[Wording, ...]
    direct: tuple[Wording, ...]
    clarify: tuple[Wording, ...]
    clarify_again: tuple[Wording, ...]
    point: tuple[Wording, ...]
    sub_answer: tuple[Wording, ...]
    answer: tuple[Wording, ...]
    check: tuple[Wording, ...]
    relevance: tuple[Wording, ...]

    @property
    def label(self) -> str:
        """Name and version, as stored with every tree."""
        return f"{self.name}@{self.version}"

    def draw(self, kind: str, *seed_parts: str) -> Wording:
        """Returns the paraphrase of `kind` that the parts select; equal parts, equal wording."""
        wordings: tuple[Wording, ...] = getattr(self, kind)
        return wordings[content_seed(self.label, kind, *seed_parts) % len(wordings)]


def load_profile(name_or_path: str = "default") -> Profile:
    """Loads a bundled profile by name, or one from a TOML file.

    Raises:
        ConfigError: Unknown profile, or a file that does not hold one.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"Profile file not found: {name_or_path!r}.",
                hint="Give the path of a TOML file, or the name 'default'.",
            )
        text = path.read_text(encoding="utf-8")
    else:
        bundled = importlib.resources.files(__package__)
        names = sorted(p.name[:-5] for p in bundled.iterdir() if p.name.endswith(".toml"))
        require_known(name_or_path, names, kind="profile", hint="A path must end in .toml.")
        text = bundled.joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
    try:
        profile = Profile.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"Invalid profile {name_or_path!r}: {error}") from error
    empty = [kind for kind in KINDS if not getattr(profile, kind)]
    if empty:
        raise ConfigError(f"Profile {name_or_path!r} has no wording for: {', '.join(empty)}.")
    return profile
