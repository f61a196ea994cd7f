"""Loads a checkpoint: weights, chat format, and a forward pass tried on packed rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from agenticlu.core.errors import (
    EngineError,
    ModelNotFoundError,
    Registry,
    StoreError,
    UsageError,
    missing_dependency,
    require_known,
)
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.engines.local.decoder import AnyDecoder, Decoder, Forward
from agenticlu.engines.local.kvcache import PrefixCache
from agenticlu.engines.local.ladder import Way, choose_way
from agenticlu.engines.local.states import OwnForward, StateDecoder
from agenticlu.engines.positions import find_window

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TORN = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StoreError)
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


def load_checkpoint(path: Path, device: str | None, dtype: str | None) -> Checkpoint:
    """Loads model and tokenizer from a folder.

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
    if place.type == "cpu" and dtype in (None, "float32"):
        try:
            small = FAST_LOADERS.load("llama")(path)
        except TORN as error:
            raise _torn(path, error) from error
    return small or _load_with_transformers(path, place, dtype)


def _load_with_transformers(path: Path, place: torch.device, dtype: str | None) -> Checkpoint:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_dependency("transformers", "local") from error
    from transformers.utils import logging

    for quieten in (logging.disable_progress_bar, logging.set_verbosity_error):
        call: Callable[[], None] = quieten
        call()
    wanted = DTYPES[dtype] if dtype else (torch.float32 if place.type == "cpu" else "auto")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
        model: Any = _model_class(path).from_pretrained(str(path), dtype=wanted)
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
    )


def _model_class(path: Path) -> Any:
    """Returns the class that loads a model: for text, or for images too if it has no other."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(str(path))
    known = type(config) in AutoModelForCausalLM._model_mapping
    more = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if more and not known else AutoModelForCausalLM


def _torn(path: Path, error: Exception) -> EngineError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return EngineError(
        f"{str(path)!r} could not be loaded: {reason}",
        hint="A file in it may be truncated or in another format: copy or export the model again.",
    )


def check_folder(path: Path) -> None:
    """Raises if the folder lacks what a model needs."""
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
