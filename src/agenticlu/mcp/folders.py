"""Which files a client may have read: those under folders that the user named, and no others."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from agenticlu.core.errors import DocumentError, UsageError
from agenticlu.documents.sources import STANDARD_INPUT, is_address, is_pattern

LONGEST_SHOWN = 200
"""Characters of a name that an error repeats."""


@dataclass(frozen=True)
class Folders:
    """Folders whose files may be read, and whether addresses may.

    Links that lead out of the folders are refused, and so are hidden files and folders below them.
    """

    roots: tuple[Path, ...]
    """Absolute, without links."""
    addresses: bool = False
    """Whether http(s) addresses may be read."""

    @classmethod
    def of(cls, named: Iterable[str | Path], *, addresses: bool = False) -> Folders:
        """Returns the folders of these names.

        Raises:
            UsageError: One does not exist, or is no folder.
        """
        roots = []
        for name in named:
            path = Path(name).expanduser()
            if not path.is_dir():
                what = "is no folder" if path.exists() else "does not exist"
                raise UsageError(
                    f"{str(name)!r} {what}.", hint="Name folders whose files may be read."
                )
            roots.append(path.resolve())
        return cls(tuple(dict.fromkeys(roots)), addresses)

    def resolve(self, given: Sequence[str]) -> list[str]:
        """Returns what documents of these names are read as: absolute paths, and addresses.

        Args:
            given: Paths, absolute or from one of the folders, patterns, folders, `file:` URLs and
                http(s) addresses.

        Raises:
            DocumentError: One may not be read, or does not exist.
        """
        if not given:
            raise DocumentError("No document was named.", hint="Name at least one.")
        return [self._resolve(one.strip()) for one in given]

    def name(self, path: str) -> str:
        """Returns the name by which a file below the folders can be asked for."""
        if len(self.roots) == 1 and _is_below(path, self.roots[0]):
            return os.path.relpath(path, self.roots[0])
        return path

    def _resolve(self, given: str) -> str:
        if not given or given == STANDARD_INPUT or "\0" in given:
            raise DocumentError(f"{_quote(given)} is no path of a document.")
        if is_address(given):
            if not self.addresses:
                raise DocumentError(
                    f"{_quote(given)} is an address, and addresses may not be read.",
                    hint="Whoever set the server up can allow it: agenticlu mcp --allow-urls",
                )
            return given
        if given.lower().startswith("file:"):
            given = url2pathname(urlsplit(given).path)
        try:
            path = self._find(os.path.expanduser(given))
            self._check(given, path)
        except (OSError, ValueError) as error:
            raise DocumentError(f"Cannot read {_quote(given)}: {error}.") from error
        return path

    def _find(self, given: str) -> str:
        """Returns the absolute path of a name; that of the first folder which has it."""
        candidates = [os.path.join(root, given) for root in self.roots]
        for path in candidates:
            if os.path.lexists(path) or (is_pattern(path) and _matches(path)):
                return os.path.normpath(path) if ".." not in PurePath(path).parts else path
        return candidates[0] if candidates else os.path.abspath(given)

    def _check(self, given: str, path: str) -> None:
        """Raises DocumentError for a path that may not be read, whether or not it exists."""
        base = path
        if is_pattern(path):
            # What a pattern matches stays below its beginning: links out are passed over.
            if ".." in PurePath(path).parts:
                raise DocumentError(f"The pattern {_quote(given)} must not hold '..'.")
            beginning, rest = _split(path)
            base = str(beginning)
            hidden = any(part.startswith(".") for part in rest.parts)
        else:
            hidden = False
        real = os.path.realpath(base)
        root = next((root for root in self.roots if _is_below(real, root)), None)
        if root is None:
            raise DocumentError(
                f"{_quote(given)} is not in a folder that may be read: {self._shown()}.",
                hint="Whoever set the server up can name more folders: agenticlu mcp FOLDER...",
            )
        inside = PurePath(os.path.relpath(real, root)).parts
        if hidden or any(part.startswith(".") and part != "." for part in inside):
            raise DocumentError(f"{_quote(given)} is hidden, and hidden files are not read.")
        if base is not path:
            return
        if not os.path.exists(real):
            raise DocumentError(
                f"{_quote(given)} does not exist.",
                hint="The tool list_documents says what there is.",
            )
        mode = os.stat(real).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DocumentError(f"{_quote(given)} is a device or a pipe.")

    def _shown(self) -> str:
        return ", ".join(map(str, self.roots)) or "none was named"


def default_folder() -> Path | None:
    """Returns the working folder; None where it is a whole disk or all that the user has."""
    here = Path.cwd().resolve()
    home = os.path.expanduser("~")
    return None if here == Path(here.anchor) or _is_below(os.path.realpath(home), here) else here


def _split(pattern: str) -> tuple[Path, PurePath]:
    """Returns the folder that a pattern begins with, and its rest."""
    parts = PurePath(pattern).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first]), PurePath(*parts[first:])


def _matches(pattern: str) -> bool:
    # Other than glob.glob, this walks in no circles of links, and not to the end.
    base, rest = _split(pattern)
    return any(True for _ in base.glob(str(rest)))


def _quote(given: str) -> str:
    return repr(given if len(given) <= LONGEST_SHOWN else f"{given[:LONGEST_SHOWN]}...")


def _is_below(path: str | Path, root: Path) -> bool:
    return Path(path) == root or root in Path(path).parents
