"""Corpora whose rows name the files that hold their documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents.loading import load_document
from agenticlu.documents.sources import is_address

_LONGEST_NAME = 500
HINT = "Name files by their paths from the corpus's own folder, in it or below it."


def _folder_of(corpus: str) -> Path | None:
    path = Path(corpus)
    return path if path.is_dir() else path.parent if path.is_file() else None


def refuse_file_name(context: str, corpus: str, where: str) -> None:
    """Refuses a context that is but the name of a file: its questions would be asked of a name.

    Args:
        context: Of a row.
        corpus: Where its rows are.
        where: The row's place, for messages.

    Raises:
        DocumentError: There is such a file.
    """
    name = context.strip()
    if len(name) > _LONGEST_NAME or "\n" in name or not PurePath(name).suffix:
        return
    try:
        is_file = ((_folder_of(corpus) or Path()) / name).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return
    if is_file:
        raise DocumentError(
            f"{where}: its context is the name of a file, {name!r}, not a text.",
            hint="To read the files: --column context_file=NAME_OF_THAT_COLUMN",
        )


def load_context_files(value: object, corpus: str, where: str) -> Document:
    """Loads the documents that a row names; several are one reading.

    A corpus may come from anyone, so it names nothing outside its own folder, and no address.

    Args:
        value: A path or a list of paths, from the corpus's folder; of files or folders.
        corpus: Where its rows are: a file, a folder, or an id of the hub.
        where: The row's place, for messages.

    Raises:
        DocumentError: The paths are none, lead out of the folder, or cannot be read, all of them.
    """
    folder = _folder_of(corpus)
    names = [value] if isinstance(value, str) else value
    is_list = isinstance(names, Sequence) and names and all(isinstance(one, str) for one in names)
    if not is_list:
        raise DocumentError(
            f"{where}: context_file must be a path or a list of paths, not {value!r}"[:300],
            hint=HINT,
        )
    assert isinstance(names, Sequence)
    if folder is None:
        raise DocumentError(f"{where}: only a local corpus may have context_file.", hint=HINT)
    paths = [_find(name, folder, where) for name in names]
    try:
        document = load_document(paths)
    except DocumentError as error:
        raise DocumentError(f"{where}: {error.message}", hint=error.hint) from error
    if document.unread:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in document.unread.items())
        raise DocumentError(f"{where} names what cannot be read: {reasons}")
    return document


def _find(name: str, folder: Path, where: str) -> Path:
    path = folder / name
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL in it, or links in a ring
        is_inside = False
    if not is_inside or is_address(name) or not name.strip():
        raise DocumentError(f"{where}: context_file {name!r} leads out of {folder}.", hint=HINT)
    if not path.exists():
        raise DocumentError(f"{where}: there is no file {name!r} in {folder}.", hint=HINT)
    return path
