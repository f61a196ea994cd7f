"""Licences as the hub names them in a card; asked for, never assumed."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from agenticlu.core.errors import UsageError, did_you_mean

IDENTIFIERS = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0
    epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0
    gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1
    llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0
    openrail openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
    """.split()  # noqa: SIM905
)
"""https://huggingface.co/docs/hub/repositories-licenses, without `other`."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.+_-]{0,94}[a-z0-9+])?")
_LINK = re.compile(r"https?://[^\s\"'<>]+")


@dataclass(frozen=True)
class Licence:
    """What a data set may be used for."""

    identifier: str
    """One of the hub's, or `other`."""
    name: str | None = None
    """Of another licence; None for one of the hub's."""
    link: str | None = None
    """Address of another licence's text; None when there is none."""

    def header(self) -> list[str]:
        """Returns the lines of a card's header."""
        lines = [f"license: {self.identifier}"]
        if self.name is not None:
            lines.append(f"license_name: {self.name}")
        if self.link is not None:
            lines.append(f'license_link: "{self.link}"')
        return lines

    def __str__(self) -> str:
        return self.link or self.name or self.identifier

    def as_dict(self) -> dict[str, str | None]:
        """Returns JSON data."""
        return asdict(self)


def parse_licence(identifier: str | None, name: str | None, link: str | None) -> Licence | None:
    """Returns the licence that a person named, or None when nobody named one.

    >>> parse_licence("MIT", None, None)
    Licence(identifier='mit', name=None, link=None)

    Raises:
        UsageError: The hub does not know it, or `other` has no name.
    """
    if identifier is None:
        if name is not None or link is not None:
            raise UsageError(
                "A licence's name or link was given, but no licence.", hint="Add --license other"
            )
        return None
    known = identifier.strip().lower()
    if known in IDENTIFIERS:
        if name is not None or link is not None:
            raise UsageError(
                f"The licence {known!r} has a name; --license-name and --license-link are for "
                "others.",
                hint="Leave them out, or give --license other.",
            )
        return Licence(known)
    if known != "other":
        raise UsageError(
            f"The hub knows no licence {identifier!r}. It knows mit, apache-2.0, cc-by-4.0, "
            f"cc-by-nc-4.0, odc-by and {len(IDENTIFIERS) - 5} more "
            "(huggingface.co/docs/hub/repositories-licenses), and `other`.",
            hint=did_you_mean(known, IDENTIFIERS)
            or "For another one: --license other --license-name NAME --license-link URL",
        )
    if name is None or not _NAME.fullmatch(name):
        raise UsageError(
            f"The licence `other` needs a name of small letters, digits and . + - _, not {name!r}.",
            hint="For example --license other --license-name my-licence-1.0 --license-link URL",
        )
    if link is not None and not _LINK.fullmatch(link):
        raise UsageError(
            f"{link!r} is no address of a licence.", hint="Give https://... or leave it out."
        )
    return Licence("other", name, link)
