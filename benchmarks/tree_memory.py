"""Peak memory of a step: it grows with supervised tokens, not with prefix x vocabulary.

    python benchmarks/tree_memory.py --json tree_memory.json

Each line is one forward and backward in a process of its own, forked after the imports; the number
is the growth of its peak resident memory. `edges` computes the log-probabilities
of supervised tokens only; `all logits` is what a plain trainer does. Beside it stands what
`agenticlu train plan` predicts.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agenticlu.training import attention
from agenticlu.training.budget import MemorySettings, ModelShape, memory_table
from agenticlu.training.model import EdgeModel
from agenticlu.training.trie import TriePlan, build_plan

MIB = 2**20
CASES = [
    (prefix, vocabulary, supervised, full)
    for prefix in (2048, 8192)
    for vocabulary in (1024, 32_000)
    for supervised in (256, 2048)
    for full in (False, True)
    if not (full and supervised == 2048)
]


def status(field: str) -> int:
    """Returns a field of this process's memory status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def build_model(vocabulary: int) -> Any:
    """Returns a small Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=352, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32_768,
        use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    attention.use_trie_attention(model)
    return model.train()


def step(model: Any, plan: TriePlan, full: bool) -> None:
    """One forward and backward."""
    edges = EdgeModel(model, edge_chunk=512)
    if not full:
        edges.run(plan, "cpu").sum().backward()
        return
    hidden = edges.hidden_states(
        torch.from_numpy(plan.ids_S), torch.from_numpy(plan.positions_S),
        attention.TrieMask.of(plan, "cpu"),
    )  # fmt: skip
    logp = model.get_output_embeddings()(hidden).log_softmax(-1)
    logp[torch.from_numpy(plan.sources_E), torch.from_numpy(plan.targets_E)].sum().backward()


def measure(prefix: int, vocabulary: int, supervised: int, full: bool) -> dict[str, Any]:
    """Runs a case in a child process; returns its line."""
    generator = np.random.default_rng(0)
    root = generator.integers(0, vocabulary, prefix)
    tails = [generator.integers(0, vocabulary, supervised // 8) for _ in range(8)]
    traces = [np.concatenate((root, tail)) for tail in tails]
    plan = build_plan(traces, [np.arange(len(trace)) >= prefix for trace in traces])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        model = build_model(vocabulary)
        step(model, build_plan([np.arange(16)], [np.arange(16) > 0]), full=False)  # gradients exist
        before = status("VmRSS:")
        Path("/proc/self/clear_refs").write_text("5")
        step(model, plan, full)
        os.write(write, json.dumps(status("VmHWM:") - before).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        grown = int(json.loads(pipe.read()))
    os.waitpid(child, 0)
    shape = ModelShape.from_config(build_model(vocabulary).config)
    settings = MemorySettings(4, 4, 1, 1, edge_chunk=512)
    table = memory_table(shape, plan.num_rows, len(plan.sources_E), settings)
    predicted = sum(
        value for key, value in table.items() if key not in ("weights", "gradients", "optimizer")
    )
    return {
        "prefix": prefix, "vocabulary": vocabulary, "supervised": supervised,
        "mode": "all logits" if full else "edges", "peak_mib": grown / MIB,
        "predicted_mib": None if full else predicted / MIB,
    }  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", dest="out", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'prefix':>8}{'vocabulary':>12}{'supervised':>12}  {'mode':12}{'peak MiB':>10}"
          f"{'predicted':>11}")  # fmt: skip
    results = []
    for case in CASES:
        line = measure(*case)
        results.append(line)
        predicted = "" if line["predicted_mib"] is None else f"{line['predicted_mib']:11.0f}"
        print(
            f"{line['prefix']:8}{line['vocabulary']:12}{line['supervised']:12}  "
            f"{line['mode']:12}{line['peak_mib']:10.0f}{predicted}", flush=True,
        )  # fmt: skip
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "name": f"prefix {one['prefix']}, vocabulary {one['vocabulary']}, "
                f"supervised {one['supervised']}, {one['mode']}: peak",
                "value": one["peak_mib"],
                "unit": "MiB",
                "target": None,
                "met": None,
                "predicted": one["predicted_mib"],
            }
            for one in results
        ]
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
