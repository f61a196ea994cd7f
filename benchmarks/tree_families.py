"""Trie against separate rows for one family of each kind: what sharing is worth there.

    python benchmarks/tree_families.py --json tree_families.json

Forward and backward of small random models, fp32, one thread, process time, the better of two;
both sides compute log-probabilities of supervised tokens only. `tokens` is the ratio of tokens;
what separate rows do at less than full speed, such as experts on few tokens, comes on top.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agenticlu.training.model import EdgeModel
from agenticlu.training.sharing import UNSHARED
from agenticlu.training.trie import TriePlan, build_plan

VOCABULARY = 1024
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 352,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 4,
}  # fmt: skip
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    },
    "gemma3_text": {"sliding_window": 256, **WINDOWS},
    "gemma2": {"sliding_window": 256, "query_pre_attn_scalar": 32},
    "gpt_oss": {
        "sliding_window": 128, "num_local_experts": 4, "num_experts_per_tok": 2, **WINDOWS,
    },
}  # fmt: skip


def build_model(family: str) -> Any:
    """Returns a small model with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **BASE, **FAMILIES[family])
    return AutoModelForCausalLM.from_config(config).train()


def time_plans(edges: EdgeModel, plans: list[TriePlan]) -> float:
    """Returns seconds of forward and backward."""

    def run() -> None:
        for plan in plans:
            edges.run(plan, "cpu").sum().backward()
        edges.zero_grad()

    return min(_time(run), _time(run))


def _time(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def measure(family: str, prefix: int, traces: int, tail: int) -> dict[str, Any]:
    """Measures one family."""
    generator = np.random.default_rng(0)
    root = generator.integers(3, VOCABULARY, prefix)
    rows = [np.concatenate((root, generator.integers(3, VOCABULARY, tail))) for _ in range(traces)]
    masks = [np.arange(len(row)) >= prefix for row in rows]
    edges = EdgeModel(build_model(family))
    shared = time_plans(edges, [build_plan(rows, masks)])
    edges.separate_rows(alone=False)
    plans = [
        build_plan([row], [mask], min_shared=UNSHARED)
        for row, mask in zip(rows, masks, strict=True)
    ]
    apart = time_plans(edges, plans)
    token_ratio = traces * (prefix + tail) / (prefix + traces * tail)
    return {
        "family": family, "prefix": prefix, "traces": traces, "tail": tail,
        "separate_s": apart, "trie_s": shared, "ratio": apart / shared, "token_ratio": token_ratio,
    }  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", dest="out", type=Path, metavar="FILE")
    parser.add_argument("--prefix", type=int, default=1024)
    parser.add_argument("--traces", type=int, default=8)
    parser.add_argument("--tail", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'family':14}{'separate s':>12}{'trie s':>9}{'ratio':>8}{'tokens':>8}")
    results = []
    for family in FAMILIES:
        line = measure(family, arguments.prefix, arguments.traces, arguments.tail)
        results.append(line)
        print(f"{family:14}{line['separate_s']:12.2f}{line['trie_s']:9.2f}{line['ratio']:8.2f}"
              f"{line['token_ratio']:8.2f}", flush=True)  # fmt: skip
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
