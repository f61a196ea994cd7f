"""Chooses how a model is run: as fast as is exact for its class, and says why not faster.

1. `shared`: prompts and replies over one tree of keys and values (`Decoder`).
2. `cached`: over the model's own cache, copied where prompts part (`StateDecoder`).
3. `replies`: over its own cache, every prompt from its start.
4. `plain`: every token from the prompt's start.

What a class is decides, and a few tokens compared with the model's own pass confirm it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from agenticlu.attention.kernels import PLAIN_DEVICES
from agenticlu.core.errors import EngineError
from agenticlu.engines.local.decoder import Decoder, Forward
from agenticlu.engines.local.kvcache import AttentionPlan, PrefixCache, register
from agenticlu.engines.local.states import OwnForward, find_regime, fork
from agenticlu.engines.positions import find_window

Rung = Literal["shared", "cached", "replies", "plain"]
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of log-probabilities against the model's own pass over the same ids."""
STEP_TOLERANCE = {torch.float32: 2e-2, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Likewise of a class's own single steps, which some compute by another formula."""
REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)
"""Errors from trying a model of an unforeseen kind."""
PROBE_TOKENS = 24
LONGEST_PROBE = 600
"""A window up to this long is left by the probe."""
SLOWER: tuple[tuple[Rung, bool, bool], ...] = (
    ("cached", True, True),
    ("replies", True, False),
    ("plain", False, False),
)
"""Rungs below the first: whether a state is kept, and whether it may be continued."""
HOW: dict[Rung, str] = {
    "shared": "prompts and replies share one cache",
    "cached": "its own cache is used, copied where prompts part",
    "replies": "its own cache is used, but every prompt is read from its start",
    "plain": "every token is computed from the prompt's start, which is slow",
}


@dataclass(frozen=True)
class Way:
    """How a model is run."""

    rung: Rung
    kind: str
    """Type of the model, as transformers calls it."""
    reason: str
    """Why no faster way is exact; empty for `shared`."""
    difference: float
    """Largest difference of log-probabilities from the model's own pass, in nat."""

    def describe(self) -> str:
        """Returns one line for people."""
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.kind}: {HOW[self.rung]}{why}."


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


def choose_way(model: Any, source: str) -> tuple[Forward | OwnForward, Way]:
    """Returns the fastest exact way to run a model.

    Raises:
        EngineError: Not even the model's own pass runs.
    """
    kind = str(model.config.model_type)
    reason = find_obstacle(model)
    if not reason:
        forward, result = _try_shared(model)
        if forward is not None:
            return forward, Way("shared", kind, "", float(result))
        reason = str(result)
    for rung, cached, resumes in SLOWER:
        own = OwnForward(model, cached=cached, resumes=resumes)
        try:
            off = _own_difference(own)
        except REFUSALS as error:
            failure = _first_line(error)
            continue
        return own, Way(rung, kind, reason, off)
    raise EngineError(
        f"{source!r} ({kind}) cannot run in this process: {failure}.",
        hint="Serve it (for example with vLLM) and give its address with --base-url.",
    )


def find_obstacle(model: Any) -> str:
    """Returns why a model cannot decode over one shared prefix, from what its class is; or ''."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if "chunked_attention" in kinds:
        return "attention in chunks"
    if strange := kinds - {"full_attention", "sliding_attention", "attention"}:
        return f"layers of {_join(strange)}"
    if getattr(config, "attn_logit_softcapping", None):
        return "soft-capped attention scores"
    if find_regime(model.config)[1]:
        return "rotary positions that depend on the text's length"
    window, limit = find_sliding_window(config), find_window(config.to_dict())
    if window is not None and (limit is None or window < limit):
        return f"layers with a sliding window of {window} tokens"
    if not getattr(model, "_supports_attention_backend", False):
        return "attention of its own"
    return ""


def find_sliding_window(config: Any) -> int | None:
    """Returns the width of a model's narrow layers, or None if all see everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window or not getattr(config, "use_sliding_window", True):
        return None
    return int(window) if kinds is None or "sliding_attention" in kinds else None


def _join(kinds: set[str]) -> str:
    return " and ".join(sorted(kind.replace("_", " ") for kind in kinds))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__


def _weight(model: Any) -> Tensor:
    weight: Tensor = next(model.parameters())
    return weight


def _try_shared(model: Any) -> tuple[Forward | None, float | str]:
    """Returns the packed pass and how far it is off, or None and why it cannot be used."""
    own = model.config._attn_implementation
    weight = _weight(model)
    reason = ""
    for plain in [False] if weight.device.type == "cpu" else [False, True]:
        if plain:
            PLAIN_DEVICES.add(weight.device.type)
        try:
            reference = _reference_logprobs(model)
            model.set_attn_implementation(register())
            forward = GenericForward(model)
            off = float((_shared_logprobs(forward, model) - reference).abs().max())
            if off <= max(TOLERANCE[weight.dtype], _own_spread(model, reference)):
                return forward, off
            reason = f"its log-probabilities are off by {off:.2g} over a shared prefix"
        except REFUSALS as error:
            reason = _first_line(error)
    model.set_attn_implementation(own)
    return None, reason


def _probe_ids(model: Any, count: int = PROBE_TOKENS) -> list[int]:
    size = min(model.config.get_text_config().vocab_size, 1000)
    return [(7 * i * i + 3 * i + 5) % size for i in range(count)]


@torch.inference_mode()
def _reference_logprobs(model: Any) -> Tensor:
    """The model's own pass with stock attention, log-probabilities after the last token."""
    model.set_attn_implementation("eager")
    ids = torch.tensor([_probe_ids(model)], device=_weight(model).device)
    logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    return torch.log_softmax(logits, dim=-1)


@torch.inference_mode()
def _own_spread(model: Any, reference: Tensor) -> float:
    """Returns how far the model's own kernels are apart, in nat; 0 in fp32, where they agree.

    In half precision a deep model's rounding is of its own making: SmolLM2's eager and fused
    attention differ by 0.37 in bf16, more than the shared pass from either.
    """
    if _weight(model).dtype not in (torch.bfloat16, torch.float16):
        return 0.0
    now = model.config._attn_implementation
    try:
        model.set_attn_implementation("sdpa")
        ids = torch.tensor([_probe_ids(model)], device=_weight(model).device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    except REFUSALS:
        return 0.0
    finally:
        model.set_attn_implementation(now)
    return float((torch.log_softmax(logits, dim=-1) - reference).abs().max())


def _shared_logprobs(forward: Forward, model: Any) -> Tensor:
    """The same, read in three goes: a prompt, one that parts from it, and decoded branches."""
    weight = _weight(model)
    decoder = Decoder(forward, PrefixCache(1 << 30), weight.device, weight.dtype)
    ids = _probe_ids(model)
    decoder.read([ids[:9] + ids[3:5]])
    reading = decoder.read([ids[:16], ids[:-2]])[1]
    decoder.join([(reading, 2)])
    decoder.step([ids[-2], ids[-3]])
    logits = decoder.step([ids[-1], ids[-4]])[0]
    return torch.log_softmax(logits, dim=-1)


@torch.inference_mode()
def _own_difference(own: OwnForward) -> float:
    """Compares states that are continued, copied and batched with the model's own passes.

    Returns:
        Largest difference of log-probabilities from one pass over all tokens, in nat.

    Raises:
        ArithmeticError: The state does not do what its class does without copies.
    """
    model = own.model
    dtype = _weight(model).dtype
    length = _probe_length(own)
    ids = torch.tensor([_probe_ids(model, length)], device=_weight(model).device)
    whole = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)
    if not own.cached:
        return _gap(own.feed(ids, None)[0], whole[-1])
    # Decoding as its class does it, whose single steps may differ a little from one pass.
    middle, third = length - 3, length // 3
    found, cache = own.feed(ids[:, :middle], None)
    expected = [found]
    for at in range(middle, length):
        found, cache = own.feed(ids[:, at : at + 1], cache, at)
        expected.append(found)
    steps = max(_gap(found, whole[middle - 1 + i]) for i, found in enumerate(expected))
    if not steps <= STEP_TOLERANCE[dtype]:
        raise ArithmeticError(f"its cached steps are off by {steps:.2g}")
    found, cache = own.feed(ids[:, : third if own.resumes else middle], None)
    if own.resumes:
        spare = fork(cache)
        own.feed(ids[:, :4], spare, third)  # a copy that goes elsewhere must not be noticed
        found, cache = own.feed(ids[:, third:middle], cache, third)
    cache.reorder_cache(torch.tensor([0, 0], device=ids.device))
    off = _gap(found, expected[0])
    for i, at in enumerate(range(middle, length)):
        rows = torch.cat([ids[:, at : at + 1], ids[:, :1]])
        found, cache = own.feed(rows, cache, at)
        off = max(off, _gap(found, expected[i + 1]))
    if not off <= TOLERANCE[dtype]:
        raise ArithmeticError(f"a state that is continued is off by {off:.2g}")
    return max(steps, off)


def _probe_length(own: OwnForward) -> int:
    """Returns how many tokens a probe has: more than a narrow layer sees, where that is few."""
    config = own.model.config.get_text_config()
    window = find_sliding_window(config) or getattr(config, "attention_chunk_size", None) or 0
    length = window + 8 if PROBE_TOKENS - 8 < window < LONGEST_PROBE else PROBE_TOKENS
    while own.regime(length) != own.regime(1):  # a state serves one regime
        length -= 1
    return length


def _gap(logits_BV: Tensor, expected: Tensor) -> float:
    """Largest difference of log-probabilities in the first row."""
    rows = expected.reshape(-1, expected.shape[-1])
    found, wanted = (torch.log_softmax(one[0], dim=-1) for one in (logits_BV, rows))
    return float((found - wanted).abs().max())
