"""Tokenizers: how many tokens a text has and which characters each covers, without a model.

Only the `tokenizers` package is needed (0.03 s to import), not torch or transformers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from agenticlu.core.errors import ConfigError, missing_dependency
from agenticlu.core.records import without_lone_surrogates
from agenticlu.documents.stretches import Spans, tokenise

if TYPE_CHECKING:
    import tokenizers


CHARACTERS_PER_TOKEN = 4
"""Characters of English a token, where nothing better is known."""
TEMPLATE_TOKENS = 4
"""Tokens that a chat template usually adds to a message: for estimates of cost."""
MAX_TEMPLATE_TOKENS = 12
"""Maximum tokens that a chat template adds to a message: for what must fit into a window."""


class Tokenizer(Protocol):
    """Cuts text into tokens."""

    name: str
    """Shown to people; says so where it only estimates."""

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Returns the (start, end) characters of every token, in order, no special tokens.

        A character made of several tokens yields several equal spans; characters that no token
        covers (a tokenizer may drop white space) are in none.
        """
        ...

    def count(self, text: str) -> int:
        """Returns the number of tokens, special tokens not included."""
        ...


LONG = 1 << 14
"""Characters of a text that takes so long that other threads would feel it."""


class ApproximateTokenizer:
    """Estimates tokens by a pattern, for endpoints whose tokenizer is unknown.

    About four characters of English a token; one token for each wide (Chinese, Japanese, Korean)
    character, two for each character outside the basic plane. Errs on the high side.

    >>> tokenizer = ApproximateTokenizer()
    >>> [("Ask it: 2026"[a:b]) for a, b in tokenizer.spans("Ask it: 2026")]
    ['Ask', ' it', ':', ' ', '202', '6']
    """

    name = "approximate (about four characters a token)"

    _PATTERN = re.compile(
        r" ?[A-Za-z]{1,6}"
        r"|[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef]"
        r"| ?[^\W\d_A-Za-z\u1100-\u11ff\u2e80-\ua4cf\uac00-\uffff\U00010000-\U0010ffff]{1,2}"
        r"|[0-9]{1,3}"
        r"|\n+| {1,8}|.",
        re.DOTALL,
    )

    def spans(self, text: str) -> Spans:
        """Returns estimated token spans; they cover the whole text."""
        spans = Spans()
        for match in self._PATTERN.finditer(text):
            spans.append(*match.span())
            if ord(text[match.end() - 1]) > 0xFFFF:
                spans.append(*match.span())
        return spans

    def count(self, text: str) -> int:
        """Returns the estimated number of tokens."""
        return sum(
            1 + (ord(text[match.end() - 1]) > 0xFFFF) for match in self._PATTERN.finditer(text)
        )


class FileTokenizer:
    """The tokenizer of a `tokenizer.json` file.

    Args:
        tokenizer: The loaded file.
        name: Shown to people.

    Attributes:
        controls: What the model reads as control tokens, such as '<|im_end|>'; longest first.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, name: str) -> None:
        added = tokenizer.get_added_tokens_decoder().values()
        self.name = name
        self.controls = tuple(
            sorted((t.content for t in added if t.special), key=lambda text: (-len(text), text))
        )
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # in a document they are plain text

    def spans(self, text: str) -> Spans:
        """Returns the characters of every token."""
        spans = Spans()
        for tokens in tokenise(self._encode, text):
            spans.starts.extend(tokens.spans.starts)
            spans.ends.extend(tokens.spans.ends)
        return spans

    def count(self, text: str) -> int:
        """Returns the number of tokens."""
        return sum(map(len, tokenise(self._encode, text)))

    def ids(self, text: str) -> list[int]:
        """Returns the token ids, no special tokens added."""
        return [token for tokens in tokenise(self._encode, text) for token in tokens.ids]

    def _encode(self, text: str) -> tokenizers.Encoding:
        # Half a surrogate pair cannot be UTF-8; one character for one keeps the offsets exact.
        whole = without_lone_surrogates(text)
        if len(whole) < LONG:
            return self._tokenizer.encode(whole, add_special_tokens=False)
        # Only a batch lets other threads run meanwhile.
        return self._tokenizer.encode_batch([whole], add_special_tokens=False)[0]


def load_tokenizer(name_or_path: str | None = None, *, online: bool = True) -> Tokenizer:
    """Loads the tokenizer of a model.

    Args:
        name_or_path: A folder with `tokenizer.json`, that file itself, a model's GGUF file, or a
            Hugging Face Hub id. None gives an `ApproximateTokenizer`.
        online: Whether a hub id that is not in the local cache may be downloaded.

    Raises:
        ConfigError: The tokenizer does not exist, or its file is not a tokenizer file.
    """
    if name_or_path is None:
        return ApproximateTokenizer()
    path = Path(name_or_path)
    if path.is_dir():
        return _read(path / "tokenizer.json", name_or_path)
    if path.is_file() and path.suffix == ".gguf":
        return _read_gguf(path)
    if path.is_file() or path.suffix == ".json":
        return _read(path, name_or_path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_path):
        raise ConfigError(
            f"Tokenizer {name_or_path!r} is neither a directory with tokenizer.json nor a Hugging "
            "Face id (owner/name).",
            hint="Give the model's directory, or omit the tokenizer to estimate tokens.",
        )
    return _read(_fetch(name_or_path, online=online), name_or_path)


def _read(path: Path, given: str) -> FileTokenizer:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise missing_dependency("tokenizers", "local") from error
    if not path.is_file():
        raise ConfigError(
            f"{given!r} has no tokenizer.json.",
            hint="Save the tokenizer in the model's directory, in Hugging Face layout.",
        )
    try:
        loaded = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception for every malformed file
        raise ConfigError(f"{str(path)!r} is not a tokenizer file: {error}") from error
    return FileTokenizer(loaded, given)


def _read_gguf(path: Path) -> FileTokenizer:
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise missing_dependency("transformers", "local") from error
    try:
        with pretrained_source(path) as (source, options):
            loaded = AutoTokenizer.from_pretrained(source, **options)
        return FileTokenizer(loaded.backend_tokenizer, str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"The tokenizer in {str(path)!r} cannot be read: {reason}") from error


def _fetch(hub_id: str, *, online: bool) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise missing_dependency("huggingface-hub", "data") from error
    offline = not online or os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes"}
    try:
        return Path(hf_hub_download(hub_id, "tokenizer.json", local_files_only=True))
    except LocalEntryNotFoundError as error:
        if offline:
            raise ConfigError(
                f"The tokenizer of {hub_id!r} is not in the local Hugging Face cache.",
                hint=f"hf download {hub_id} tokenizer.json",
            ) from error
    except ValueError as error:  # an id that the hub would not accept, such as './model'
        raise ConfigError(
            f"No tokenizer {hub_id!r}: neither a folder nor a Hugging Face id.",
            hint="Give the folder of the model, or an id of the form owner/name.",
        ) from error
    try:
        return Path(hf_hub_download(hub_id, "tokenizer.json"))
    except Exception as error:  # of the hub's client, or of whichever HTTP library it is built on
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"Cannot download the tokenizer of {hub_id!r}: {reason}",
            hint="Check the id and the connection, or give a local directory.",
        ) from error


@contextmanager
def pretrained_source(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields what transformers' `from_pretrained` takes for a folder, hub id or GGUF file.

    A GGUF file says all of a model by itself; transformers would mix it with whatever else lies
    in its folder, so it is shown in a folder of its own.

    Raises:
        MissingDependencyError: The file is a GGUF file, and its reader is not installed.
    """
    path = Path(path)
    if path.suffix != ".gguf":
        yield str(path), {}
        return
    for package in ("gguf", "accelerate"):
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            raise missing_dependency(package, "gguf") from error
    with TemporaryDirectory(prefix="agenticlu-gguf-") as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        yield folder, {"gguf_file": path.name}


def read_model_hint(model: str | Path, key: str) -> int | None:
    """Returns an integer from `agenticlu.json` in a model's directory, or None if there is none.

    The file holds settings that suit the model, such as ``{"piece_tokens": 64}``.

    Raises:
        ConfigError: The file is not a JSON object, or the value is not an integer.
    """
    path = Path(model) / "agenticlu.json"
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get(key)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{str(path)!r} must hold one JSON object: {error}") from error
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ConfigError(f"{key!r} in {str(path)!r} must be a whole number, not {value!r}.")
    return value
