"""How a model's traces are trained: on a trie where that is exact, else one row after another.

The way is chosen by what the configuration says and confirmed by the probe at the start (probe.py),
which also finds classes that nobody has listed. What a trie cannot have at all, dropout, is
switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

UNSHARED = 1 << 62
"""`min_shared` under which no trace shares a token with another."""
LENGTH_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that depend on the length of the whole row."""
SPARSE_LAYERS = ("chunked", "indexed", "sparse", "compressed")
"""Parts of names of layer types whose mask is neither causal nor a window."""


@dataclass(frozen=True)
class Sharing:
    """The way to train a model's traces."""

    separate: bool = False
    """One row after another; else all traces of a document on one trie."""
    reason: str = ""
    """What keeps the traces apart; empty on a trie."""
    alone: bool = False
    """Separate rows run one at a time, because their length changes what the model computes."""

    def render(self, kind: str) -> str:
        """Renders the way for a line of the log; empty for a plain trie."""
        if not self.separate:
            return ""
        return (
            f"{kind}: {self.reason}: rows are trained one after another (exact; each reads its "
            "document anew)"
        )


def choose_sharing(config: Any) -> Sharing:
    """Returns the way that a transformers configuration allows.

    >>> from transformers import LlamaConfig
    >>> choose_sharing(LlamaConfig()).separate
    False
    """
    text = config.get_text_config()
    for kind in _rope_types(text):
        if kind in LENGTH_ROPE:
            return Sharing(True, f"{kind} rotary embeddings follow the length of a row", alone=True)
    for kind in getattr(text, "layer_types", None) or ():
        if any(part in kind for part in SPARSE_LAYERS):
            return Sharing(True, f"layers of the type {kind}")
    return Sharing()


def _rope_types(config: Any) -> Iterator[str]:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # Some classes have one set of parameters for each type of layer.
    for one in (rope, *(rope.values() if isinstance(rope, dict) else ())):
        if isinstance(one, dict) and "rope_type" in one:
            yield one["rope_type"]


def switch_dropout_off(config: Any) -> dict[str, float]:
    """Sets a configuration's dropout to 0: tokens that traces share cannot draw a mask for each.

    Returns:
        What was set, and to which value before.
    """
    before = {
        key: value
        for key, value in vars(config).items()
        if ("dropout" in key or key.endswith("pdrop") or key == "layerdrop")
        and isinstance(value, float)
        and value > 0
        and not ("classifier" in key or "summary" in key)
    }
    for key in before:
        setattr(config, key, 0.0)
    return before


def find_dropout(model: nn.Module) -> list[str]:
    """Switches off the dropout modules that are still on; returns their paths."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.p = 0.0
            found.append(path)
    return found


def switch_randomness_off(model: nn.Module) -> None:
    """Puts a model into training as far as that means checkpointing, and no further.

    Dropout is not all that a class draws when it trains: some experts' routers add noise.
    """
    model.eval()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.training = True


def count_windows(config: Any) -> int:
    """Returns how many layers of a model must name a window to their attention, at least."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return sum("sliding" in kind for kind in kinds)
    wanted = getattr(text, "use_sliding_window", True) and getattr(text, "sliding_window", None)
    return 1 if wanted else 0
