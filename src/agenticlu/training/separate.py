"""Rows one after another: the exact way for models that cannot share tokens on a trie.

The model runs as transformers runs it, with its own attention, on each trace by itself. Traces of
one plan (the two sides of a pair) run side by side, padded on the right, which no token before
sees; one at a time where the length of a row changes what the model computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agenticlu.training.trie import TrieSegment

ROTARY_STATE = ("inv_freq", "attention_scaling", "max_seq_len_cached")
"""What rotary embeddings that depend on the length of a row remember of the row before."""


def use_own_attention(model: Any) -> None:
    """Lets a model compute attention as transformers does where nothing else is asked for."""
    set_attention(model, "sdpa" if model._supports_sdpa else "eager")


def set_attention(model: Any, name: str) -> None:
    """Names the attention that a model's layers call; classes with one of their own keep it."""
    if model._can_set_attn_implementation():
        model.set_attn_implementation(name)


class SeparateRows:
    """Computes hidden states of a plan whose traces share nothing."""

    def __init__(self, model: nn.Module, *, alone: bool) -> None:
        """Remembers the model's rotary embeddings as they are now, before any row.

        Args:
            model: A transformers model.
            alone: Run one row at a time.
        """
        self.alone = alone
        self._fresh: list[tuple[nn.Module, str, Any]] = []
        for module in model.modules() if alone else ():
            for name, value in (*vars(module).items(), *module.named_buffers(recurse=False)):
                if name.endswith(ROTARY_STATE):
                    kept = value.clone() if isinstance(value, Tensor) else value
                    self._fresh.append((module, name, kept))

    def run(self, decoder: Any, ids_S: Tensor, segments: Sequence[TrieSegment]) -> Tensor:
        """Returns the last hidden state of each row of the plan, (S, width)."""
        assert all(segment.parent is None for segment in segments), "the traces share tokens"
        lengths = [segment.end - segment.start for segment in segments]
        traces = torch.split(ids_S, lengths)
        if not self.alone:
            return self._run_batch(decoder, traces)
        return torch.cat([self._run_batch(decoder, [trace]) for trace in traces])

    def _run_batch(self, decoder: Any, traces: Sequence[Tensor]) -> Tensor:
        self._forget_rows()
        rows_BN = nn.utils.rnn.pad_sequence(list(traces), batch_first=True)
        hidden_BNC = decoder(input_ids=rows_BN, use_cache=False).last_hidden_state
        return torch.cat([row[: len(ids)] for row, ids in zip(hidden_BNC, traces, strict=True)])

    @torch.no_grad()
    def _forget_rows(self) -> None:
        for module, name, value in self._fresh:
            current = getattr(module, name)
            if isinstance(current, Tensor):
                current.copy_(value)
            else:
                setattr(module, name, value)
