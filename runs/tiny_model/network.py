"""The tiny model's forward pass for training: a Llama, written out so that one CPU core is enough.

Three things differ from the class in transformers. Attention is computed as plain matrix products,
which at a few hundred positions is a third faster here than the fused kernel. A row is a tree: a
shared prefix (the document) followed by branches (the conversations about it) that see the prefix
and themselves, each at the positions it would have alone; one document is read once for a dozen
conversations. And some heads can be told where to look (`looks`). `export` writes the same weights
in Hugging Face layout; a test compares the logits.

Shapes: B rows, T positions of a row, N supervised positions, D width, H heads, K head width,
V tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from looks import ROLES, Looks
from torch import Tensor, nn
from torch.nn import functional as F

CONSTANT = 4.0
"""Size of the one component that all embeddings begin with in common, against 1 for the others."""
NUM_FAST = 4
"""Rotary frequencies by which a head of the first layer finds its neighbour."""
NUM_TURNING = 6
"""Rotary frequencies that turn noticeably within a few hundred positions."""
SHARPNESS = 20.0
"""Largest attention logit of such a head at the start."""

LONG = 1000
"""Row length from which the fused attention kernel is the faster one."""
MATCH = 1.8
"""Scale of queries and keys in the heads that look something up."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    vocab: int
    width: int = 128
    layers: int = 5
    heads: int = 4
    hidden: int = 352
    theta: float = 1e7
    """Base of the rotary angles: large, so that half of them hardly turn within 2K positions and
    looking something up works across the distance."""


class Block(nn.Module):
    """One layer: attention, then a gated feed-forward part, each after a root-mean-square norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate = nn.Linear(width, shape.hidden, bias=False)
        self.up = nn.Linear(width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, width, bias=False)
        self.norm_attention = nn.Parameter(torch.ones(width))
        self.norm_feed = nn.Parameter(torch.ones(width))

    def forward(
        self,
        x_BTD: Tensor,
        cos_BTK: Tensor,
        sin_BTK: Tensor,
        mask_BTT: Tensor,
        looks: Sequence[tuple[Looks, tuple[int, ...]]] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the residual stream after this layer, and a loss for each of the `looks`."""
        b, t, width = x_BTD.shape
        y_BTD = F.rms_norm(x_BTD, (width,), self.norm_attention, 1e-5)

        def split(linear: nn.Linear) -> Tensor:
            return linear(y_BTD).view(b, t, self.heads, -1).transpose(1, 2)

        q_BHTK = rotate(split(self.q), cos_BTK, sin_BTK)
        k_BHTK = rotate(split(self.k), cos_BTK, sin_BTK)
        v_BHTK = split(self.v)
        mask_B1TT = mask_BTT[:, None].to(q_BHTK.dtype)
        losses: list[Tensor] = []
        if t > LONG and not looks:
            mixed_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, mask_B1TT)
        else:
            logits_BHTT = q_BHTK @ k_BHTK.transpose(-1, -2) * q_BHTK.shape[-1] ** -0.5
            logits_BHTT = logits_BHTT + mask_B1TT
            losses = [look.loss(logits_BHTT, heads) for look, heads in looks]
            mixed_BHTK = logits_BHTT.softmax(-1).to(q_BHTK.dtype) @ v_BHTK
        mixed_BTD = mixed_BHTK.transpose(1, 2).reshape(b, t, -1)
        x_BTD = x_BTD + self.o(mixed_BTD)
        y_BTD = F.rms_norm(x_BTD, (width,), self.norm_feed, 1e-5)
        return x_BTD + self.down(F.silu(self.gate(y_BTD)) * self.up(y_BTD)), losses


class Network(nn.Module):
    """The whole model, with tied embeddings initialised at 1/sqrt(width)."""

    def __init__(self, shape: Shape, marker: int | None = None) -> None:
        """Builds the network; `marker` is the token that opens a paragraph marker."""
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=shape.width**-0.5)
        if marker is not None:
            self._structure(marker)

    @torch.no_grad()
    def _structure(self, marker: int) -> None:
        """Gives attention a head start; from noise alone looking something up did not form here.

        Training is from scratch, but not from white noise. The heads of the first layer begin by
        looking one to four tokens back, so that a token carries its neighbours along. Half of the
        heads of the second begin by comparing what stands one to three tokens before the asking
        token with what stood two to four before the token asked: they find what followed the same
        words earlier, and copy it. A third looks for the latest number after `marker`, so that a
        token knows its paragraph. (Induction heads, arXiv 2209.11895, in outline; for structured
        starts see arXiv 2305.09828.) All else is noise; other heads begin with no output.
        """
        width, head = self.shape.width, self.shape.width // self.shape.heads
        self.embed.weight[:, 0] = CONSTANT * width**-0.5
        fast = self.shape.theta ** (-torch.arange(0, head, 2) / head)[:NUM_FAST]
        gain = (SHARPNESS * head**0.5 / NUM_FAST) ** 0.5 / CONSTANT
        first, second = self.blocks[0], self.blocks[1]
        for block in self.blocks:
            nn.init.zeros_(block.down.weight)
            nn.init.zeros_(block.o.weight)
        seen = torch.linalg.qr(torch.randn(width, head)).Q.T  # one view of a token for all heads
        carried = torch.linalg.qr(torch.randn(width, width)).Q.split(head, 1)
        first.q.weight.mul_(0.1)
        first.k.weight.mul_(0.1)
        for h in range(self.shape.heads):
            rows = slice(h * head, (h + 1) * head)
            quick = slice(rows.start, rows.start + NUM_FAST)
            shifted = slice(quick.start + head // 2, quick.stop + head // 2)
            first.q.weight[quick, 0] = gain
            first.k.weight[quick, 0] = gain * (fast * (1 + h)).cos()
            first.k.weight[shifted, 0] = gain * (fast * (1 + h)).sin()
            first.v.weight[rows] = seen
            first.o.weight[:, rows] = carried[h]
        for h in range(self.shape.heads // 2):
            rows = slice(h * head, (h + 1) * head)
            second.q.weight[rows] = 0
            second.k.weight[rows] = 0
            for back in range(self.shape.heads - 1):
                turn = torch.linalg.qr(torch.randn(head, head)).Q
                second.q.weight[rows] += MATCH * turn @ carried[back].T
                second.k.weight[rows] += MATCH * turn @ carried[back + 1].T
            for part in range(2):  # what turns fast would compare positions, not words
                quick = rows.start + part * head // 2
                second.q.weight[quick : quick + NUM_TURNING] = 0
                second.k.weight[quick : quick + NUM_TURNING] = 0
            second.v.weight[rows] = torch.linalg.qr(torch.randn(width, head)).Q.T
            second.o.weight[:, rows] = second.v.weight[rows].T
        start = (self.shape.heads // 2) * head
        rows = slice(start, start + head)
        near = slice(start + NUM_FAST, start + NUM_TURNING)  # falls off over a paragraph or two
        opened = carried[0] @ (seen @ self.embed.weight[marker])
        second.q.weight[rows] = 0
        second.k.weight[rows] = 0
        second.q.weight[near, 0] = 2.5
        second.k.weight[near] = 1.5 * opened / opened.norm()
        second.v.weight[rows] = seen
        second.o.weight[:, rows] = 0.5 * torch.linalg.qr(torch.randn(width, head)).Q

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        mask_BTT: Tensor,
        at_N: Tensor,
        looks: Mapping[str, Looks] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the logits (N, V) at the flat positions `at_N` of the rows.

        With them comes the loss of each role in `looks`: how far the heads of that role are from
        looking where they should.
        """
        cos_BTK, sin_BTK = angles(positions_BT, self.shape)
        x_BTD = self.embed(ids_BT)
        looked: dict[str, Tensor] = {}
        for number, block in enumerate(self.blocks):
            here = [role for role in looks or () if ROLES[role][0] == number]
            wanted = [(looks[role], ROLES[role][1]) for role in here] if looks else []
            x_BTD, losses = block(x_BTD, cos_BTK, sin_BTK, mask_BTT, wanted)
            looked |= dict(zip(here, losses, strict=True))
        y_ND = F.rms_norm(x_BTD, (self.shape.width,), self.norm, 1e-5).flatten(0, 1)[at_N]
        return F.linear(y_ND, self.embed.weight), looked


def angles(positions_BT: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines of the rotary angles, as transformers' Llama lays them out."""
    width = shape.width // shape.heads
    rates = shape.theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    turned = positions_BT[..., None].float() * rates
    both = torch.cat((turned, turned), -1)[:, None]
    return both.cos(), both.sin()


def rotate(x_BHTK: Tensor, cos_BTK: Tensor, sin_BTK: Tensor) -> Tensor:
    """Turns queries or keys by their positions."""
    first, second = x_BHTK.chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    return (x_BHTK * cos_BTK + turned * sin_BTK).to(x_BHTK.dtype)


def build_mask(segments_BT: Tensor) -> Tensor:
    """Returns the additive mask of a batch of trees.

    A position sees what stands before it in the prefix (segment 0) and in its own branch.
    """
    t = segments_BT.shape[1]
    same = (segments_BT[:, :, None] == segments_BT[:, None]) | (segments_BT[:, None] == 0)
    seen = same & torch.ones(t, t, dtype=torch.bool).tril()
    return torch.zeros(seen.shape).masked_fill_(~seen, -1e4).bfloat16()


def export(
    network: Network, folder: Path, max_positions: int, bos: int, end: int, pad: int
) -> None:
    """Writes config.json, generation_config.json and model.safetensors in fp32.

    transformers 5 computes in the stored type unless told otherwise, and half precision is slow on
    most CPUs, so 5 MB of fp32 are the safe choice.
    """
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    shape = network.shape
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=end,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(llama_names(network), strict=False)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        bos_token_id=bos,
        eos_token_id=end,
        pad_token_id=pad,
    )
    model.save_pretrained(folder)


def llama_names(network: Network) -> dict[str, Tensor]:
    """Returns the weights under the names that transformers' Llama uses."""
    names = {
        "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight",
        "v": "self_attn.v_proj.weight",
        "o": "self_attn.o_proj.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
    }
    weights = {"model.embed_tokens.weight": network.embed.weight, "model.norm.weight": network.norm}
    for i, block in enumerate(network.blocks):
        for ours, theirs in names.items():
            weights[f"model.layers.{i}.{theirs}"] = getattr(block, ours).weight
        weights[f"model.layers.{i}.input_layernorm.weight"] = block.norm_attention
        weights[f"model.layers.{i}.post_attention_layernorm.weight"] = block.norm_feed
    return {name: weight.detach().clone() for name, weight in weights.items()}


def save_checkpoint(network: Network, path: Path) -> None:
    """Saves the network for continuing or exporting."""
    torch.save({"shape": asdict(network.shape), "weights": network.state_dict()}, path)


def load_checkpoint(path: Path) -> Network:
    """Loads a saved network."""
    saved = torch.load(path, weights_only=True)
    network = Network(Shape(**saved["shape"]))
    network.load_state_dict(saved["weights"])
    return network
