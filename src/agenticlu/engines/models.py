"""Finds the model that a person named: a folder, a GGUF file, or one on the Hugging Face hub.

One place for all commands. A hub id is downloaded once, into the cache that all programs of Hugging
Face share; HF_HUB_OFFLINE and HF_HOME are honoured.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agenticlu.core.errors import ModelNotFoundError, UsageError, missing_dependency
from agenticlu.documents.tokens import pretrained_source
from agenticlu.engines.positions import find_window

HUB_ID = re.compile(
    r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(?:(?::(?P<kind>[\w.-]+))|/(?P<file>.+\.gguf))?"
)
"""owner/name, owner/name:Q4_K_M, or owner/name/FILE.gguf."""
PLAIN_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What a model's folder holds beside its weights."""
LEFT_OUT = ("original/*", "onnx/*", "*/*.gguf")
FORMS = (
    "Give a folder in Hugging Face layout (config.json, model.safetensors, tokenizer.json), a file"
    " FILE.gguf, a hub id such as Qwen/Qwen3-0.6B, or --base-url ADDRESS for a model that a server"
    " runs."
)


def is_hub_id(model: str) -> bool:
    """Whether a name that is no path here is one of the hub's.

    >>> [is_hub_id(one) for one in ("Qwen/Qwen3-0.6B", "a/b:Q4_K_M", "./model", "model", "a/b/c")]
    [True, True, False, False, False]
    """
    return HUB_ID.fullmatch(model) is not None and not Path(model).expanduser().exists()


def find_model(model: str, *, say: Callable[[str], None] | None = None) -> Path:
    """Returns the folder or the GGUF file of a model, downloaded if need be.

    Args:
        model: As a person named it.
        say: Called with a line for people before a download.

    Raises:
        ModelNotFoundError: There is no such model, or it cannot be fetched.
        UsageError: It is an address, or one of several files must be chosen.
    """
    if model.startswith(("http://", "https://")):
        raise UsageError(
            f"{model!r} is an address, not a model.", hint=f"Try --base-url {model} instead."
        )
    if is_hub_id(model):
        return find_cached(model) or _download(model, say)
    path = Path(model).expanduser()
    if not path.exists():
        raise ModelNotFoundError(
            f"Model {model!r} not found: {str(path)!r} does not exist.", hint=FORMS
        )
    return _check_files(path, model)


def find_cached(model: str) -> Path | None:
    """Returns the folder or file of a hub id whose download is complete, or None."""
    found = HUB_ID.fullmatch(model)
    if found is None:
        return None
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return None
    home = Path(constants.HF_HUB_CACHE) / f"models--{found['id'].replace('/', '--')}"
    try:
        commit = (home / "refs" / "main").read_text(encoding="utf-8").strip()
        folder = home / "snapshots" / commit
        path = _check_files(folder, model, found["kind"], found["file"])
    except (OSError, ModelNotFoundError, UsageError):
        return None
    return path if path.suffix == ".gguf" or has_weights(folder) else None


def has_weights(folder: Path) -> bool:
    """Whether a folder has all files of its weights."""
    for index in folder.glob("*.index.json"):
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            return False
        return all((folder / file).is_file() for file in files)
    return any(True for end in ("*.safetensors", "*.bin") for _ in folder.glob(end))


def _check_files(path: Path, given: str, kind: str | None = None, file: str | None = None) -> Path:
    """Returns the folder, or the GGUF file that it holds, or says what is wrong with it."""
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise ModelNotFoundError(f"{str(path)!r} is neither a folder nor a GGUF file.", hint=FORMS)
    if file is not None and (path / file).is_file():
        return path / file
    if (path / "config.json").is_file() and kind is None and file is None:
        return path
    names = sorted(str(one.relative_to(path)) for one in path.rglob("*.gguf"))
    if names:
        return path / _choose_file(names, given, kind, file)
    nested = sorted(one.parent.name for one in path.glob("*/config.json"))
    raise ModelNotFoundError(
        f"{str(path)!r} is not a model folder: no config.json.",
        hint=f"Did you mean {str(path / nested[0])!r}?" if nested else None,
    )


def _choose_file(names: Sequence[str], given: str, kind: str | None, file: str | None) -> str:
    """Returns the GGUF file that was meant.

    >>> _choose_file(["m-Q4_K_M.gguf", "m-Q8_0.gguf"], "a/m", "q8_0", None)
    'm-Q8_0.gguf'
    >>> _choose_file(["m-BF16.gguf", "m-F16.gguf"], "a/m", "F16", None)
    'm-F16.gguf'
    """
    if file is not None and file in names:
        return file
    wanted = (kind or file or "").lower()
    # 'F16' is a part of 'BF16', and a whole word of the file that is meant.
    word = re.compile(rf"(?<![a-z0-9_]){re.escape(wanted)}(?![a-z0-9_])")
    fitting = [name for name in names if wanted and word.search(name.lower())]
    fitting = fitting or [name for name in names if wanted in name.lower()]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join((fitting or names)[:8])
    problem = "several GGUF files" if len(fitting) > 1 else f"no GGUF file {kind or file!r}"
    example = (fitting or names)[0]
    raise UsageError(
        f"{given!r} has {problem}: {shown}.",
        hint=f"Name one: --model {Path(given.partition(':')[0]) / example!s}.",
    )


def _download(model: str, say: Callable[[str], None] | None) -> Path:
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError as error:
        raise missing_dependency("huggingface-hub", "local") from error
    found = HUB_ID.fullmatch(model)
    assert found is not None
    name = found["id"]
    if is_offline():
        raise ModelNotFoundError(
            f"Model {model!r} is neither a folder here nor in the local Hugging Face cache, and"
            " HF_HUB_OFFLINE forbids downloading it.",
            hint=f"Fetch it once: HF_HUB_OFFLINE=0 hf download {name}",
        )
    with _hub_errors(model, name):
        info = hub.HfApi().model_info(name, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        weights = _choose_weights(sizes, model, found["kind"], found["file"])
        if say is not None:
            total = sum(sizes[one] for one in weights)
            say(f"Downloading {model} ({total / 1e9:.2f} GB) into the Hugging Face cache.")
        folder = Path(
            hub.snapshot_download(
                name,
                revision=info.sha,
                allow_patterns=[*weights, *PLAIN_FILES],
                ignore_patterns=list(LEFT_OUT),
            )
        )
        # Under its branch's name too, so that it is found again without a connection.
        reference = folder.parent.parent / "refs" / "main"
        if not reference.is_file() and info.sha:
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(info.sha, encoding="utf-8")
    return _check_files(folder, model, found["kind"], found["file"])


def _choose_weights(
    sizes: dict[str, int], model: str, kind: str | None, file: str | None
) -> list[str]:
    """Returns the files of a repository that hold its weights, in the best format there is."""
    names = [name for name in sizes if "/" not in name or name.endswith(".gguf")]
    if kind is None and file is None:
        for form in (r"model.*\.safetensors", r".*\.safetensors", r"pytorch_model.*\.bin"):
            if found := [name for name in names if re.fullmatch(form, name)]:
                return found
    files = [name for name in names if name.endswith(".gguf")]
    if not files:
        raise ModelNotFoundError(
            f"{model!r} on the hub has no weights that can be loaded.",
            hint="Its files must be .safetensors, .bin or .gguf.",
        )
    return [_choose_file(files, model, kind, file)]


@contextmanager
def _hub_errors(model: str, name: str) -> Iterator[None]:
    """Turns the hub's errors into ours, which say why there is no model."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"Model {model!r} is gated: its owner shares it only with those who accept the terms.",
            hint=f"Accept them at https://huggingface.co/{name}, then: hf auth login",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelNotFoundError(
            f"Model {model!r} is neither a folder here nor a public model on the Hugging Face hub.",
            hint="Check the spelling; a private model needs: hf auth login. " + FORMS,
        ) from error
    except (ModelNotFoundError, UsageError):
        raise
    except Exception as error:  # of the hub's client, or of whichever HTTP library it is built on
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelNotFoundError(
            f"Model {model!r} is not here, and the Hugging Face hub cannot be reached: {reason}",
            hint="Check the connection, or give a folder.",
        ) from error


def is_offline() -> bool:
    """Whether the user forbids asking the hub."""
    words = {"1", "true", "yes", "on"}
    return any(
        os.environ.get(name, "").lower() in words
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def read_window(path: Path) -> int | None:
    """Returns the window in tokens that a model's files state; None if they state none."""
    if path.suffix == ".gguf":
        return _read_gguf_window(path)
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return find_window(found) if isinstance(found, dict) else None


def _read_gguf_window(path: Path) -> int | None:
    try:
        from transformers import AutoConfig
    except ModuleNotFoundError as error:
        raise missing_dependency("transformers", "local") from error
    try:
        with pretrained_source(path) as (source, options):
            return find_window(AutoConfig.from_pretrained(source, **options).to_dict())
    except (OSError, ValueError, KeyError, TypeError):
        return None
