"""Loads a checkpoint: weights, chat format, and a forward pass tried on packed rows."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from agenticlu.core.errors import (
    EngineError,
    ModelNotFoundError,
    Registry,
    StoreError,
    UsageError,
    missing_dependency,
    require_known,
)
from agenticlu.core.files import load_json_object
from agenticlu.documents.tokens import pretrained_source
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.engines.local.decoder import AnyDecoder, Decoder, Forward
from agenticlu.engines.local.kvcache import PrefixCache
from agenticlu.engines.local.ladder import Way, choose_way
from agenticlu.engines.local.shelf import hash_model
from agenticlu.engines.local.states import OwnForward, StateDecoder
from agenticlu.engines.positions import find_window

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TORN = (
    *(OSError, ValueError, KeyError, RuntimeError, SafetensorError, StoreError),
    *(pickle.UnpicklingError, EOFError),
)
"""Errors from reading a truncated file or one in another format."""
FAST_LOADERS = Registry("fast loader", {"llama": "agenticlu.demo.small_llama:load_small_llama"})
"""Loaders that are tried before transformers, on a CPU in fp32; None means: not mine."""
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Checkpoint:
    """A model that is ready to run."""

    forward: Forward | OwnForward
    chat: ChatFormat
    device: torch.device
    dtype: torch.dtype
    end_ids: frozenset[int]
    context_tokens: int | None
    way: Way
    """How `forward` runs it."""
    config: Mapping[str, Any]
    """As in the model's config.json."""
    weights: Callable[[], Iterable[tuple[str, Tensor]]]
    """Returns the weights by name."""

    def hash(self) -> str:
        """Returns a hash of all that the keys and values of a text depend on."""
        how = (self.way.rung, type(self.forward).__name__, str(self.dtype), self.device.type)
        return hash_model(self.weights(), self.config, *how)

    def make_decoder(self, cache_bytes: int | None, *, share: bool = True) -> AnyDecoder:
        """Returns what reads prompts and decodes replies.

        Args:
            cache_bytes: Limit of what is kept between prompts; None keeps nothing.
            share: False copies a prompt's keys and values for every branch, to compare.
        """
        return make_decoder(self.forward, self.device, self.dtype, cache_bytes, share=share)


def make_decoder(
    forward: Forward | OwnForward,
    device: torch.device,
    dtype: torch.dtype,
    cache_bytes: int | None,
    *,
    share: bool = True,
) -> AnyDecoder:
    """Returns the decoder of a forward pass; see `Checkpoint.make_decoder`."""
    if isinstance(forward, OwnForward):
        return StateDecoder(forward, cache_bytes, device)
    cache = None if cache_bytes is None else PrefixCache(cache_bytes)
    return Decoder(forward, cache, device, dtype, share=share)


def load_checkpoint(
    path: Path, device: str | None, dtype: str | None, *, trust_remote_code: bool = False
) -> Checkpoint:
    """Loads model and tokenizer from a folder or a GGUF file.

    Args:
        path: The folder or file.
        device: Such as 'cpu'; None takes a GPU where there is one.
        dtype: A name in `DTYPES`; None: float32 on a CPU, else the checkpoint's own.
        trust_remote_code: Whether code in the folder may run.

    Raises:
        ModelNotFoundError: The folder has no model.
        UsageError: Unknown device or dtype.
        EngineError: The model does not run here.
    """
    check_folder(path)
    place = _choose_device(device)
    if dtype is not None:
        require_known(dtype, DTYPES, kind="dtype", error=UsageError)
    small: Checkpoint | None = None
    if place.type == "cpu" and dtype in (None, "float32") and path.is_dir():
        try:
            small = FAST_LOADERS.load("llama")(path)
        except TORN as error:
            raise _torn(path, error) from error
    return small or _load_with_transformers(path, place, dtype, trust_remote_code)


def _load_with_transformers(
    path: Path, place: torch.device, dtype: str | None, trust_remote_code: bool = False
) -> Checkpoint:
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError as error:
        raise missing_dependency("transformers", "local") from error
    from transformers.utils import logging

    for quieten in (logging.disable_progress_bar, logging.set_verbosity_error):
        call: Callable[[], None] = quieten
        call()
    check_remote_code(path, trust_remote_code)
    wanted = DTYPES[dtype] if dtype else (torch.float32 if place.type == "cpu" else "auto")
    try:
        with pretrained_source(path) as (source, options):
            options["trust_remote_code"] = trust_remote_code
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            config = AutoConfig.from_pretrained(source, **options)
            loader = find_auto_class(config)
            model: Any = loader.from_pretrained(source, dtype=wanted, **options)
    except TORN as error:
        raise _torn(path, error) from error
    model = model.to(place).eval()
    model.requires_grad_(False)
    forward, way = choose_way(model, str(path))
    return Checkpoint(
        forward=forward,
        chat=ChatFormat(tokenizer, str(path)),
        device=place,
        dtype=next(model.parameters()).dtype,
        end_ids=find_end_ids(getattr(model, "generation_config", None), model.config, tokenizer),
        context_tokens=find_window(model.config.to_dict()),
        way=way,
        config=model.config.to_dict(),
        weights=lambda: model.state_dict().items(),
    )


def find_auto_class(config: Any) -> Any:
    """Returns transformers' loader for a configuration; some classes read images as well."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    text, images = (
        auto._model_mapping for auto in (AutoModelForCausalLM, AutoModelForImageTextToText)
    )
    both = type(config) not in text and type(config) in images
    return AutoModelForImageTextToText if both else AutoModelForCausalLM


def check_remote_code(path: Path, trusted: bool) -> None:
    """Refuses a model whose classes are code in its folder, unless that is trusted.

    Where transformers has the class, its own is taken, and nothing of the folder runs.

    Raises:
        EngineError: Names the files and the flag.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if trusted or not path.is_dir():
        return
    config = load_json_object(path / "config.json")
    wanted = config.get("auto_map")
    if not isinstance(wanted, dict) or config.get("model_type") in CONFIG_MAPPING:
        return
    names = (str(one).rpartition("--")[2].partition(".")[0] for one in wanted.values())
    files = ", ".join(dict.fromkeys(f"{name}.py" for name in names))
    raise EngineError(
        f"{str(path)!r} is run by code of its own ({files}), which is not run unasked.",
        hint="Read that code; if you trust it, add --trust-remote-code.",
    )


def _torn(path: Path, error: Exception) -> EngineError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return EngineError(
        f"{str(path)!r} could not be loaded: {reason}",
        hint="A file in it may be truncated or in another format: copy or export the model again.",
    )


def check_folder(path: Path) -> None:
    """Raises if the folder lacks what a model needs."""
    if path.is_file() and path.suffix == ".gguf":
        return
    if not path.is_dir():
        raise ModelNotFoundError(f"Model folder {str(path)!r} does not exist.")
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(f"{str(path)!r} is not a model folder: no config.json.")
    if not any(found for pattern in WEIGHTS for found in path.glob(pattern)):
        raise ModelNotFoundError(
            f"{str(path)!r} has no weights (model.safetensors).",
            hint="An adapter alone does not run: merge it into its base model first."
            if (path / "adapter_config.json").is_file()
            else None,
        )


def find_end_ids(*sources: Any) -> frozenset[int]:
    """Returns every token that ends a reply.

    Args:
        sources: What may have an `eos_token_id` (one, several or None): generation settings, a
            model's configuration, a tokenizer.
    """
    found: set[int] = set()
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


def _choose_device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"Unknown device {device!r}.", hint="Try 'cpu', 'cuda' or 'cuda:0'."
        ) from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("No GPU is visible to torch.", hint="Try the device 'cpu'.")
    return place
