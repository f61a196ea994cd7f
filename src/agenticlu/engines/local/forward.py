"""Forward passes over a packed row of tokens.

`GenericForward` runs any model of transformers that takes its attention from the registry.
`LeanForward` runs Llama's layers (RMSNorm, rotary positions, gated MLP) from the same weights with
a tenth of the calls from Python: for a model of a few million parameters those calls are most of
the time.

Shapes: T tokens in the row, H and K heads, D head dimension, E model width, V vocabulary.
"""
# ruff: noqa: N803, N806  (shapes live in names: q_HTD)

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from agenticlu.engines.local.shared_prefix import Plan

LEAN_PARAMETERS = 300_000_000
"""Above this many parameters a forward pass costs far more than the calls that make it up."""


class Forward(Protocol):
    """A model's forward pass."""

    def __call__(self, ids_T: Tensor, positions_T: Tensor, plan: Plan, last: Tensor) -> Tensor:
        """Returns fp32 logits (rows, V) of the rows in `last`."""
        ...


class GenericForward:
    """The model's own forward pass, with attention left to the plan."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids_T: Tensor, positions_T: Tensor, plan: Plan, last: Tensor) -> Tensor:
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


class LeanForward:
    """Llama's layers from their weights, with few calls.

    Args:
        weights: By their names in a checkpoint; without `lm_head.weight` the embedding is used.
        num_heads: Of queries.
        num_key_heads: Of keys and values.
        eps: Of the norms.
        rotate: Given positions (1, P), returns cosines and sines (1, P, D).
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        num_heads: int,
        num_key_heads: int,
        eps: float,
        rotate: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        def joined(layer: int, part: str, *names: str) -> Tensor:
            found = [weights[f"model.layers.{layer}.{part}.{name}_proj.weight"] for name in names]
            return torch.cat(found) if len(found) > 1 else found[0].t()

        num_layers = sum(name.endswith(".input_layernorm.weight") for name in weights)
        self._layers = [
            (
                weights[f"model.layers.{layer}.input_layernorm.weight"],
                joined(layer, "self_attn", "q", "k", "v"),
                joined(layer, "self_attn", "o"),
                weights[f"model.layers.{layer}.post_attention_layernorm.weight"],
                joined(layer, "mlp", "gate", "up"),
                joined(layer, "mlp", "down"),
            )
            for layer in range(num_layers)
        ]
        self._num_heads = num_heads
        self._num_key_heads = num_key_heads
        self._dim = self._layers[0][1].shape[0] // (num_heads + 2 * num_key_heads)
        self._scale = self._dim**-0.5
        self._eps = eps
        self._embedding = weights["model.embed_tokens.weight"]
        self._norm = weights["model.norm.weight"]
        self._head = weights.get("lm_head.weight", self._embedding)
        self._rotate = rotate
        self._cos_PD = torch.empty(0)
        self._sin_PD = torch.empty(0)

    @classmethod
    def of(cls, model: Any) -> LeanForward:
        """Builds one from a `LlamaForCausalLM` in evaluation mode, which `fits`."""
        config = model.config
        embedding = model.model.embed_tokens.weight
        return cls(
            dict(model.named_parameters(remove_duplicate=False)),
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rms_norm_eps,
            lambda positions: model.model.rotary_emb(embedding[:1], positions),
        )

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model is one that these layers reproduce."""
        config = model.config
        linear = [one for one in model.modules() if hasattr(one, "in_features")]
        return bool(
            config.model_type == "llama"
            and config.hidden_act == "silu"
            and not config.attention_bias
            and not config.mlp_bias
            and config.rope_parameters["rope_type"] in ("default", "linear", "llama3")
            and all(type(one) is torch.nn.Linear for one in linear)
            and sum(p.numel() for p in model.parameters()) <= LEAN_PARAMETERS
        )

    def __call__(self, ids_T: Tensor, positions_T: Tensor, plan: Plan, last: Tensor) -> Tensor:
        """Returns fp32 logits (rows, V) of the rows in `last`."""
        num_rotated = self._num_heads + self._num_key_heads
        cos, sin = self._tables(positions_T)
        hidden = F.embedding(ids_T, self._embedding)
        width = (hidden.shape[-1],)
        for index, (norm, qkv, out, mlp_norm, gate_up, down) in enumerate(self._layers):
            normed = F.rms_norm(hidden, width, norm, self._eps)
            qkv_T = F.linear(normed, qkv).view(ids_T.shape[0], -1, self._dim)
            qk = qkv_T[:, :num_rotated]
            qk = torch.addcmul(qk * cos, torch.roll(qk, self._dim // 2, -1), sin).transpose(0, 1)
            attended = plan.attend(
                index,
                qk[: self._num_heads],
                qk[self._num_heads :],
                qkv_T[:, num_rotated:].transpose(0, 1),
                self._scale,
            )
            hidden = torch.addmm(hidden, attended.reshape(ids_T.shape[0], -1), out)
            normed = F.rms_norm(hidden, width, mlp_norm, self._eps)
            gate, up = F.linear(normed, gate_up).chunk(2, dim=-1)
            hidden = torch.addmm(hidden, F.silu(gate).mul_(up), down)
        hidden = F.rms_norm(hidden[last], width, self._norm, self._eps)
        return F.linear(hidden, self._head).float()

    def _tables(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (T, 1, D) of the positions."""
        needed = int(positions_T.max()) + 1
        if needed > self._cos_PD.shape[0]:
            length = max(needed, 2 * self._cos_PD.shape[0], 1024)
            every = torch.arange(length, device=positions_T.device)[None]
            cos, sin = self._rotate(every)
            half = self._dim // 2
            self._cos_PD = cos[0]
            self._sin_PD = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
        return self._cos_PD[positions_T, None], self._sin_PD[positions_T, None]
