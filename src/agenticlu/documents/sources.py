"""What users name as documents: files, folders, patterns, addresses; and which files these are.

A folder is walked in the order of its names, numbers by their value. Hidden files, caches, media
and links that lead out of it are passed over and counted; nothing is left out unsaid.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from urllib.parse import unquote

from agenticlu.core.errors import DocumentError, did_you_mean
from agenticlu.core.limits import ReadingLimits
from agenticlu.core.records import without_lone_surrogates

STANDARD_INPUT = "-"
RECORD_ENDING = ".cells.jsonl"
"""Of the file that keeps the cells of a table of answers, beside NAME.csv."""
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_CACHE_FOLDERS = frozenset(
    {"__pycache__", "node_modules", "__macosx", "venv", "site-packages", "$recycle.bin"}
)
_KINDS = {
    "image": "png jpg jpeg gif bmp tif tiff webp heic avif ico psd svg eps",
    "recording": "mp3 wav flac ogg oga opus m4a aac wma aiff mid",
    "video": "mp4 mkv mov avi webm wmv m4v mpg mpeg flv",
    "archive": "zip tar gz tgz bz2 xz zst 7z rar jar whl iso dmg deb rpm cab",
    "program": "exe dll so dylib o a obj class pyc pyo wasm bin msi apk",
    "font": "ttf otf woff woff2",
    "data file": "sqlite sqlite3 db parquet arrow feather npy npz pt pth safetensors gguf onnx "
    "pkl pickle h5 hdf5 mat",
    "backup": "bak tmp swp swo orig part crdownload",
}
_KIND_OF_ENDING = {
    f".{ending}": kind for kind, endings in _KINDS.items() for ending in endings.split()
}
"""Endings of files in folders that hold no text to read."""


@dataclass(frozen=True)
class Source:
    """One document to read."""

    address: str
    """A path, an http(s) address, or '-' for standard input."""
    name: str
    """What people are shown: short, and no other source's."""


@dataclass
class Sources:
    """The documents that were named."""

    found: list[Source] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Entries of folders that are no documents, by kind in the singular."""
    unread: dict[str, str] = field(default_factory=dict)
    """Folders that could not be listed, and why."""


def is_address(text: str) -> bool:
    """Whether a text is an http(s) address."""
    return bool(_ADDRESS.match(text))


def is_pattern(text: str) -> bool:
    """Whether a text that names no file is a pattern for names, such as 'reports/*.pdf'."""
    return not is_address(text) and glob.has_magic(text) and not os.path.lexists(text)


def names_one(given: str) -> bool:
    """Whether a text names one document, rather than a folder or a pattern."""
    return given == STANDARD_INPUT or is_address(given) or not (_is_dir(given) or is_pattern(given))


def find_sources(given: Sequence[str], limits: ReadingLimits) -> Sources:
    """Finds the documents that users mean.

    A file that is named twice, or by way of a folder once more, is read once.

    Args:
        given: Files, folders, patterns, addresses, or '-'.
        limits: Most files and bytes.

    Raises:
        DocumentError: A file does not exist, a folder or pattern has nothing to read, or there is
            too much.
    """
    sources = Sources()
    seen: set[object] = set()
    num_bytes = 0
    for one in given:
        if len(given) > 1 and _may_be_endless(one):
            sources.unread[one] = "It is a device or a pipe."
            continue
        try:
            for address, name in _expand(one, sources):
                key, size = _identify(address)
                if key in seen:
                    continue
                seen.add(key)
                sources.found.append(Source(address, name))
                num_bytes += size
                limits.check(num_files=len(sources.found), num_bytes=num_bytes)
        except _NothingError as error:
            # Of several arguments a shell's pattern may have made some; ours would be a slip.
            if len(given) == 1 or is_pattern(one):
                raise
            sources.unread[one] = error.message
    if not sources.found:
        raise _NothingError("There is nothing to read.", hint="Name documents.")
    sources.found = _make_unique(sources.found)
    return sources


class _NothingError(DocumentError):
    """A folder or pattern without a document."""


def _may_be_endless(given: str) -> bool:
    """Whether reading a file may wait for ever; pipes that a shell makes, <(...), are meant."""
    try:
        mode = os.stat(given).st_mode
    except (OSError, ValueError):
        return False
    is_plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return not is_plain and not given.startswith(("/dev/fd/", "/proc/self/fd/"))


def _expand(given: str, sources: Sources) -> Iterator[tuple[str, str]]:
    """Yields (address, name) of what one argument means."""
    if given == STANDARD_INPUT:
        yield given, "standard input"
    elif is_address(given):
        yield given, given
    elif _is_dir(given):
        what = f"Folder {given!r} holds nothing to read"
        hint = "Name the documents themselves, or another folder."
        yield from _require(_walk(given, sources), what, sources, hint)
    elif is_pattern(given):
        what, hint = f"No document matches {given!r}", "Name the documents themselves, or a folder."
        if " " in given and given.endswith("?"):
            hint = f"Is it a question? Several are given by -q: -q {shlex.quote(given)} -q ..."
        yield from _require(_match(given, sources), what, sources, hint)
    else:
        require_file(given)
        yield given, PurePath(given).name


def _match(pattern: str, sources: Sources) -> Iterator[tuple[str, str]]:
    """Yields (path, name) of the documents that a pattern matches, also in folders that it matches.

    Hidden ones count only where the pattern spells their dot. `glob.glob` follows links to folders
    in '**', so that two of them that lead upwards take it for ever; `Path.glob` does not.
    """
    parts = [
        part if part == "**" else re.sub(r"\*{2,}", "*", part) for part in PurePath(pattern).parts
    ]
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:first])
    root = os.path.realpath(base)
    spells_dot = any(part.startswith(".") for part in parts[first:])
    matched = [str(path) for path in base.glob("/".join(parts[first:]))]
    for path in sorted(matched, key=natural_order):
        folders = PurePath(os.path.relpath(path, base)).parts
        if any(name.lower() in _CACHE_FOLDERS for name in folders):
            continue
        if not spells_dot and any(name.startswith(".") for name in folders if name != "."):
            continue
        if _is_dir(path):
            if kind := _kind_of_link(path, root):
                sources.passed_over[kind] += 1
            else:
                yield from _walk(path, sources)
        elif (kind := _kind_of_file(path, root)) and not (spells_dot and kind == "hidden file"):
            sources.passed_over[kind] += 1
        else:
            yield path, PurePath(path).name


def _require(
    found: Iterable[tuple[str, str]], what: str, sources: Sources, hint: str
) -> Iterator[tuple[str, str]]:
    num_unread, before = len(sources.unread), sources.passed_over.copy()
    is_empty = True
    for one in found:
        is_empty = False
        yield one
    if is_empty:
        unread = list(sources.unread.items())[num_unread:]
        reasons = [f"{name}: {reason}" for name, reason in unread]
        if over := render_counts(sources.passed_over - before):
            reasons.append(f"passed over: {over}")
        raise _NothingError(
            what + (f" ({'; '.join(reasons[:3])})." if reasons else "."),
            hint=hint,
        )


def require_file(source: str) -> None:
    """Raises DocumentError where there is no file of this name."""
    path = Path(source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise DocumentError(
                f"File {source!r} is a link to {os.readlink(path)!r}, which does not exist."
            ) from error
        raise DocumentError(
            f"File {source!r} does not exist.",
            hint=_suggest_address(source)
            or _suggest_file(path)
            or "Give the path of a document, or - for standard input.",
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(f"Cannot read {source!r}: {reason}.") from error


def _suggest_address(source: str) -> str | None:
    """Suggests how to write what looks like an address of another kind."""
    scheme, found, rest = source.partition("://")
    if found and scheme.lower() == "file":
        return f"Give its path: {shlex.quote(unquote(rest))}"
    if found:
        return "Of addresses only those with http:// and https:// are read."
    if re.match(r"(?:www\.|localhost[:/]|[0-9]+(?:\.[0-9]+){3}[:/])|[\w.-]+\.\w+:[0-9]+/", source):
        return f"If it is an address: https://{source}"
    return None


def _suggest_file(path: Path) -> str | None:
    try:
        names = [str(path.parent / other.name) for other in path.parent.iterdir()]
    except (OSError, ValueError):
        return None
    return did_you_mean(str(path), names)


def _is_dir(path: str) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:  # a NUL in it
        return False


# --- Folders --------------------------------------------------------------------------------------


def _walk(folder: str, sources: Sources) -> Iterator[tuple[str, str]]:
    """Yields (path, name) of the documents below a folder."""
    root = os.path.realpath(folder)

    def failed(error: OSError) -> None:
        sources.unread[_relative(str(error.filename), folder)] = error.strerror or str(error)

    # Links to folders are not followed: what they lead to inside is met anyway, and a loop never.
    for where, folders, files in os.walk(folder, onerror=failed):
        kept = []
        for name in sorted(folders, key=natural_order):
            kind = _kind_of_folder(os.path.join(where, name), root)
            if kind:
                sources.passed_over[kind] += 1
            else:
                kept.append(name)
        folders[:] = kept
        for name in sorted(files, key=natural_order):
            path = os.path.join(where, name)
            if os.path.islink(path) and _is_met(os.path.realpath(path), root):
                continue
            kind = _kind_of_file(path, root)
            if kind:
                sources.passed_over[kind] += 1
            else:
                yield path, _relative(path, folder)


def _kind_of_folder(path: str, root: str) -> str | None:
    name = os.path.basename(path).lower()
    if os.path.islink(path):
        return None if _is_inside(os.path.realpath(path), root) else "link elsewhere"
    if name in _CACHE_FOLDERS:
        return "folder of caches or packages"
    return "hidden folder" if name.startswith(".") else None


def _kind_of_file(path: str, root: str) -> str | None:
    """Returns why a file of a folder is passed over, as a noun; None for one to read."""
    name = os.path.basename(path).lower()
    if name.startswith("."):
        return "hidden file"
    if name.startswith("~$") or name in {"thumbs.db", "desktop.ini"}:
        return "system file"
    real = os.path.realpath(path)
    if kind := _kind_of_link(path, root):
        return kind
    try:
        status = os.stat(real)
    except OSError:
        return "broken link" if os.path.islink(path) else None
    if not stat.S_ISREG(status.st_mode):
        return "device or pipe"
    if status.st_size == 0:
        return "empty file"
    if name.endswith("~"):
        return "backup"
    # What a model said is no document to ask about.
    stem, ending = os.path.splitext(path)
    if name.endswith(RECORD_ENDING) or (ending == ".csv" and os.path.exists(stem + RECORD_ENDING)):
        return "table of answers"
    return _KIND_OF_ENDING.get(PurePath(name).suffix)


def _kind_of_link(path: str, root: str) -> str | None:
    """Returns where a path leads that is not to be read, as a noun: by itself or by its folders."""
    real = os.path.realpath(path)
    if not _is_inside(real, root):
        return "link elsewhere"
    inside, spelt = PurePath(os.path.relpath(real, root)).parts, PurePath(path).parts
    is_kept_by_annex = inside[:2] == (".git", "annex")  # its files are all links there
    hidden = [one for one in inside if one.startswith(".") and one not in (".", *spelt)]
    return "link to what is hidden" if hidden and not is_kept_by_annex else None


def _is_met(path: str, root: str) -> bool:
    """Whether a walk comes by a file itself; it does not where git-annex keeps them, say."""
    if not _is_inside(path, root) or not os.path.isfile(path):
        return False
    folders = PurePath(os.path.relpath(path, root)).parts
    return not any(name.startswith(".") or name.lower() in _CACHE_FOLDERS for name in folders)


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(os.path.join(root, ""))


def _relative(path: str, folder: str) -> str:
    return PurePath(os.path.relpath(path, folder)).as_posix()


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a key that sorts names as people do: numbers by their value.

    >>> sorted(["page 10", "page 9", "Page 1"], key=natural_order)
    ['Page 1', 'page 9', 'page 10']
    """
    words = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    key = [
        (0, len(word.lstrip("0")), word.lstrip("0")) if word[0].isdecimal() else (1, 0, word)
        for word in words
    ]
    return (*key, (-1, 0, name))


# --- Names and limits -----------------------------------------------------------------------------


def _identify(address: str) -> tuple[object, int]:
    """Returns what tells one source from others, and its bytes as far as they are known."""
    if address == STANDARD_INPUT or is_address(address):
        return address, 0
    try:
        status = os.stat(address)
    except (OSError, ValueError):
        return address, 0
    return (status.st_dev, status.st_ino), status.st_size if stat.S_ISREG(status.st_mode) else 0


def _make_unique(found: list[Source]) -> list[Source]:
    """Names sources by their whole address where a short name is another's, too."""
    counts = Counter(source.name.casefold() for source in found)
    return [
        Source(
            source.address,
            without_lone_surrogates(
                source.name if counts[source.name.casefold()] == 1 else source.address
            ),
        )
        for source in found
    ]


def render_counts(counts: Mapping[str, int]) -> str:
    """Renders counts of things that are named in the singular.

    >>> render_counts({"image": 3, "text box": 1, "embedded entry": 2})
    '3 images, 1 text box, 2 embedded entries'
    """
    return ", ".join(
        f"{count:,} {_plural(kind) if count != 1 else kind}" for kind, count in counts.items()
    )


def _plural(noun: str) -> str:
    """Returns the plural of an English noun, also where more follows it: 'link elsewhere'."""
    first, between, rest = _split_noun(noun)
    if re.search(r"[^aeiou]y$", first):
        first = f"{first[:-1]}ies"
    else:
        first += "es" if re.search(r"(?:[sx]|sh|ch)$", first) else "s"
    return f"{first}{between}{rest}"


def _split_noun(noun: str) -> tuple[str, str, str]:
    """Splits a noun with what follows it: 'link elsewhere' is no kind of elsewhere."""
    found = re.match(r"(.+?)( (?:elsewhere|of|or|in|with|without|that|to|from|on|by) ?)(.*)$", noun)
    return (found[1], found[2], found[3]) if found else (noun, "", "")
