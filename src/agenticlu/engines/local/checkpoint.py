"""Loads a checkpoint: weights, chat format, and a forward pass tried on packed rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from agenticlu.attention.kernels import PLAIN_DEVICES
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
from agenticlu.engines.local.decoder import Decoder, Forward
from agenticlu.engines.local.kvcache import AttentionPlan, PrefixCache, register

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of log-probabilities against the model's own pass over the same ids."""
REFUSALS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""Errors from trying a model of an unforeseen kind."""
TORN = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StoreError)
"""Errors from reading a truncated file or one in another format."""
FAST_LOADERS = Registry("fast loader", {"llama": "agenticlu.demo.small_llama:load_small_llama"})
"""Loaders that are tried before transformers, on a CPU in fp32; None means: not mine."""
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Checkpoint:
    """A model that is ready to run."""

    forward: Forward
    chat: ChatFormat
    device: torch.device
    dtype: torch.dtype
    end_ids: frozenset[int]
    context_tokens: int | None


class GenericForward:
    """The model's own forward pass, with attention left to the plan."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(
        self, ids_T: Tensor, positions_T: Tensor, plan: AttentionPlan, last: Tensor
    ) -> Tensor:
        """Returns fp32 logits (rows, V) of the rows in `last`."""
        output = self._model(
            input_ids=ids_T[None],
            position_ids=positions_T[None],
            use_cache=False,
            logits_to_keep=last,
            agenticlu_plan=plan,
        )
        logits: Tensor = output.logits[0].float()
        return logits


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
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise missing_dependency("transformers", "local") from error
    from transformers.utils import logging

    quieten: Callable[[], None] = logging.disable_progress_bar
    quieten()
    wanted = DTYPES[dtype] if dtype else (torch.float32 if place.type == "cpu" else "auto")
    attention = register()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=wanted, attn_implementation=attention
        )
    except TORN as error:
        raise _torn(path, error) from error
    model = model.to(place).eval()
    model.requires_grad_(False)
    numbers = next(model.parameters()).dtype
    return Checkpoint(
        forward=choose_forward(model, attention, str(path)),
        chat=ChatFormat(tokenizer, str(path)),
        device=place,
        dtype=numbers,
        end_ids=find_end_ids(getattr(model, "generation_config", None), model.config, tokenizer),
        context_tokens=find_context_tokens(model.config),
    )


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


def choose_forward(model: Any, attention: str, source: str) -> Forward:
    """Returns the packed forward pass, if it agrees with the model's own.

    Raises:
        EngineError: It does not agree, so the architecture cannot run in process.
    """
    weight = next(model.parameters())
    kernels = [False] if weight.device.type == "cpu" else [False, True]
    reason = ""
    for plain in kernels:
        if plain:
            PLAIN_DEVICES.add(weight.device.type)
        try:
            reference = _reference_logprobs(model, attention)
            forward = GenericForward(model)
            off = float((_own_logprobs(forward, model) - reference).abs().max())
            if off <= TOLERANCE[weight.dtype]:
                return forward
            reason = f"its log-probabilities are off by {off:.2g}"
        except REFUSALS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise EngineError(
        f"{source!r} ({model.config.model_type}) cannot run in this process: {reason}.",
        hint="Serve it (for example with vLLM) and give its address with --base-url.",
    )


def _probe_ids(model: Any) -> list[int]:
    size = min(model.config.get_text_config().vocab_size, 1000)
    return [(7 * i * i + 3 * i + 5) % size for i in range(24)]


@torch.inference_mode()
def _reference_logprobs(model: Any, attention: str) -> Tensor:
    """The model's own pass with stock attention, log-probabilities after the last token."""
    device = next(model.parameters()).device
    model.set_attn_implementation("eager")
    try:
        ids = torch.tensor([_probe_ids(model)], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    finally:
        model.set_attn_implementation(attention)
    return torch.log_softmax(logits, dim=-1)


def _own_logprobs(forward: Forward, model: Any) -> Tensor:
    """The same, read in three goes: a prompt, one that parts from it, and decoded branches."""
    weight = next(model.parameters())
    decoder = Decoder(forward, PrefixCache(1 << 30), weight.device, weight.dtype)
    ids = _probe_ids(model)
    decoder.read([ids[:9] + ids[3:5]])
    reading = decoder.read([ids[:16], ids[:-2]])[1]
    decoder.join([(reading, 2)])
    decoder.step([ids[-2], ids[-3]])
    logits = decoder.step([ids[-1], ids[-4]])[0]
    return torch.log_softmax(logits, dim=-1)


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


def find_context_tokens(config: Any) -> int | None:
    """Returns the model's window: its positions, or a narrower sliding window."""
    text = config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None)]
    if getattr(text, "use_sliding_window", True):
        limits.append(getattr(text, "sliding_window", None))
    known = [one for one in limits if one]
    return min(known) if known else None


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
