"""Tiny random models of the classes that people run, one configuration each.

`make_model("qwen3_next")` builds the real transformers class with a few thousand parameters;
`save_model` writes it with the bundled tokenizer and its chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCAB_SIZE = 1909
"""Of the bundled tokenizer, so that every id it gives has a row."""
BASE: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    # Large, so that tokens differ by more than rounding and greedy replies are not one word.
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
HYBRID = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
MAMBA = {"n_groups": 1, "chunk_size": 16}
WINDOW = 16
"""Of sliding layers: a few tokens, so that any prompt is longer."""
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "llama (yarn)": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
        }
    },
    "llama (dynamic)": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "max_position_embeddings": 64,
    },
    "mistral": {"sliding_window": WINDOW},
    "ministral": {
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2": {},
    "qwen2 (sliding)": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, **EXPERTS},
    "qwen3_5_text": {**HYBRID, **DELTA},
    "qwen3_5_moe_text": {
        "num_experts": 4,
        "shared_expert_intermediate_size": 24,
        **HYBRID,
        **EXPERTS,
        **DELTA,
    },
    "qwen3_next": {
        "num_experts": 4,
        "shared_expert_intermediate_size": 24,
        **HYBRID,
        **EXPERTS,
        **DELTA,
    },
    "gemma": {},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    "gemma3_text": {
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gemma3n_text": {
        "sliding_window": WINDOW,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [48] * 4,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        "sliding_window": WINDOW,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "global_head_dim": 8,
        "num_kv_shared_layers": 0,
    },
    "olmo2": {},
    "olmo3": {
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "olmo_hybrid": {
        **HYBRID,
        "num_key_value_heads": 4,
        **DELTA,
        "linear_num_key_heads": 4,
    },
    "gpt_oss": {
        "sliding_window": WINDOW,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "phi3": {"sliding_window": None},
    "phi3 (longrope)": {
        "original_max_position_embeddings": 64,
        "rope_parameters": LONGROPE,
    },
    "lfm2": {
        "layer_types": ["conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False,
    },
    "granite": {},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 24,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
    "bamba": {
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "mlp"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "mamba2": {
        "num_heads": 8,
        "state_size": 8,
        "expand": 2,
        **MAMBA,
    },
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "use_mamba_kernels": False,
    },
    "recurrent_gemma": {"attention_window_size": WINDOW},
    "minimax": {
        "num_local_experts": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "block_size": 16,
    },
    "deepseek_v2": {
        "kv_lora_rank": 8,
        "q_lora_rank": None,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_key_value_heads": 4,
        "head_dim": None,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        **EXPERTS,
    },
    "deepseek_v3": {
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_key_value_heads": 4,
        "head_dim": None,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        **EXPERTS,
    },
    "cohere": {},
    "cohere2": {
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "glm": {},
    "glm4": {},
    "glm4_moe": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        **EXPERTS,
    },
    "llama4_text": {
        "attention_chunk_size": 16,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
    },
    "exaone4": {
        "sliding_window": WINDOW,
        "sliding_window_pattern": "LLG",
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "smollm3": {},
    "seed_oss": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": 4096},
    "gpt_neox": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None},
    "bloom": {"n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 4096},
    "starcoder2": {},
    "stablelm": {},
    "rwkv": {"attention_hidden_size": 32, "context_length": 4096},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba"],
        "n_mamba_heads": 8,
        "mamba_d_state": 8,
        "mamba_headdim": 8,
        "mamba_ngroups": 1,
        "num_mem_blocks": 1,
        "chunk_size": 16,
        "use_mem_rope": True,
        "adapter_rank": 4,
    },
    "kimi_linear": {
        **HYBRID,
        **EXPERTS,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
        "num_local_experts": 4,
        "head_dim": None,
    },
    "lfm3": {
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "layer_types": ["conv", "full_attention", "conv", "sliding_attention"],
    },
    "qwen3_5": {"text": "qwen3_5_text"},
    "gemma3": {
        "text": "gemma3_text",
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "tie_word_embeddings": False,
    },
    "mistral3": {"text": "ministral", "vision_config": {"model_type": "pixtral", **VISION}},
}
"""Name to the settings that differ from `BASE`; what follows a blank in a name tells two settings
of one class apart."""


def make_config(name: str, **changes: Any) -> Any:
    """Returns the configuration of a family.

    Args:
        name: A name in `FAMILIES`.
        **changes: Settings that differ; None leaves a setting to the class.
    """
    from transformers import AutoConfig

    settings = dict(FAMILIES[name])
    kind = name.split()[0]
    if text := settings.pop("text", None):
        return AutoConfig.for_model(
            kind, text_config=make_config(text, **changes).to_dict(), **settings
        )
    settings = {**BASE, **settings, **changes}
    return AutoConfig.for_model(kind, **{k: v for k, v in settings.items() if v is not None})


def make_model(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """Returns a random model of a family in fp32, ready to infer; the same for the same seed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = make_config(name, **changes)
    known = type(config) in AutoModelForCausalLM._model_mapping
    auto = AutoModelForCausalLM if known else AutoModelForImageTextToText
    torch.manual_seed(seed)
    return auto.from_config(config, dtype=torch.float32).eval()


def save_model(name: str, folder: Path, *, template: str | None = None, **changes: Any) -> Path:
    """Writes a random model of a family with the bundled tokenizer; returns the folder.

    Args:
        name: A name in `FAMILIES`.
        folder: To write into.
        template: Chat template; None keeps the bundled model's.
        **changes: Settings that differ.
    """
    from transformers import AutoTokenizer

    from agenticlu.engines import BUNDLED_MODEL

    model = make_model(name, **changes)
    model.generation_config.eos_token_id = BASE["eos_token_id"]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED_MODEL).save_pretrained(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Asked:
    """What asking a family in process came to."""

    way: Any
    """Which rung of the ladder runs it, and why no faster one."""
    difference: float
    """Largest difference of log-probabilities from a pass of transformers that reads each
    conversation alone, in nat."""
    greedy: bool
    """Whether every greedy token was that of transformers."""
    num_cached: int
    """Prompt tokens that an earlier prompt had read."""


def check_asking(name: str, *, num_tokens: int = 5) -> Asked:
    """Asks a random model the way the engine does: a conversation that grows, then others.

    All prompts share their first tokens; one has two replies. Every token that is decoded is
    compared with what transformers gives for that conversation alone.
    """
    import torch

    from agenticlu.engines.local.checkpoint import make_decoder
    from agenticlu.engines.local.ladder import choose_way

    model = make_model(name)
    forward, way = choose_way(model, name)
    stock = make_model(name)
    decoder = make_decoder(forward, torch.device("cpu"), torch.float32, 1 << 30)
    worst, same, num_cached = 0.0, True, 0

    def expect(ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits = stock(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        return torch.log_softmax(logits.float(), dim=-1)

    def ask(ids: list[int], count: int) -> list[int]:
        nonlocal worst, same, num_cached
        reading = decoder.read([ids])[0]
        num_cached += reading.num_cached
        branches = decoder.join([(reading, count)])[0]
        said, logits = list(ids), reading.logits_V[None]
        for _ in range(num_tokens):
            wanted = expect(said)
            found = torch.log_softmax(logits, dim=-1)
            worst = max(worst, float((found - wanted).abs().max()))
            same = same and {int(wanted.argmax())} == set(found.argmax(-1).tolist())
            said.append(int(wanted.argmax()))
            logits = decoder.step([said[-1]] * count)
        for branch in list(branches):
            decoder.leave(branch)
        return said

    ids = [(7 * i * i + 3 * i + 5) % 1500 + 3 for i in range(90)]
    document = ids[:48]
    said = ask(document + ids[48:53], 1)
    ask(said + ids[53:60], 1)
    ask(document + ids[60:66], 2)
    ask(document + ids[66:75], 1)
    return Asked(way, worst, same, num_cached)
