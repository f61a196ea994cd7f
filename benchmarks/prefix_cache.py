"""Bringing what was read of a document back from disk, against computing it.

Two models: the bundled one, and a random Llama of the size of SmolLM2-135M (30 layers, 9 heads, 3
of keys). For each length of a prefix one engine reads it and stores it; a second engine brings it
back, as a second command would. Measured in one run, in seconds of the clock from the question to
its first token, so with finding, checking and copying. Prints a table; `--json FILE` writes a list
of {name, value, unit, target, met}.

    OMP_NUM_THREADS=1 python benchmarks/prefix_cache.py --tokens 1024,4096
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

FEWEST_TIMES = 2.0
"""Loading must be so many times as fast as computing."""


def save_llama(folder: Path) -> Path:
    """Writes a random Llama of 135 million parameters with the bundled tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from agenticlu.engines import BUNDLED_MODEL

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_view(model: Path, count: int) -> str:
    """Returns a text of about `count` tokens of a model."""
    from agenticlu.documents.tokens import load_tokenizer

    tokenizer = load_tokenizer(str(model))
    sentences = [f"Number {i}: Ada Yardley lives in Wexley, by the river." for i in range(count)]
    each = tokenizer.count(" ".join(sentences[:200])) / 200
    return " ".join(sentences[: int(count / each)])


async def ask(model: Path, view: str, folder: Path | None) -> tuple[float, float, Any]:
    """Asks one new engine for one token.

    Returns:
        Seconds until the token; seconds of closing, in which the prefix is written; the reply.
    """
    from agenticlu.core.records import Message
    from agenticlu.engines.base import Sampling, share_prefix
    from agenticlu.engines.local import HFEngine
    from agenticlu.engines.prefixes import PrefixFolder

    prefixes = None if folder is None else PrefixFolder(folder, 64 << 30)
    engine = HFEngine(model, device="cpu", prefixes=prefixes, cache_bytes=8 << 30)
    share_prefix(engine, view, "view.txt")
    messages = (Message(role="user", content=f"{view}\n\nQuestion: Where?"),)
    began = time.perf_counter()
    reply = await engine.sample(messages, Sampling(max_tokens=1))
    asked_s = time.perf_counter() - began
    began = time.perf_counter()
    await engine.close()
    return asked_s, time.perf_counter() - began, reply


def measure(name: str, model: Path, count: int, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Measures one model at one length; returns the rows."""
    view = write_view(model, count)
    off_s, _, plain = asyncio.run(ask(model, view, None))
    first_s, stored_s, first = asyncio.run(ask(model, view, folder))
    again = [asyncio.run(ask(model, view, folder)) for _ in range(repeats)]
    loaded_s = min(seconds for seconds, _, _ in again)
    last = again[-1][2]
    assert plain.completions == first.completions == last.completions, "the disk changed a reply"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    shutil.rmtree(folder, ignore_errors=True)
    what = f"{name}, {first.usage.prompt_tokens:,} tokens"
    faster = min(off_s, first_s) / loaded_s
    return [
        _row(f"{what}: first token, nothing kept", off_s, "s"),
        _row(f"{what}: first token, to be kept", first_s, "s"),
        _row(f"{what}: first token, from disk", loaded_s, "s"),
        _row(f"{what}: from disk against computed", faster, "times", FEWEST_TIMES),
        _row(f"{what}: tokens computed, from disk", last.usage.computed_tokens, "tokens"),
        _row(f"{what}: writing, after the reply", stored_s, "s"),
        _row(f"{what}: file", size / 2**20, "MiB"),
    ]


def _row(name: str, value: float, unit: str, target: float | None = None) -> dict[str, Any]:
    met = None if target is None else value >= target
    return {"name": name, "value": value, "unit": unit, "target": target, "met": met}


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="1024,4096", help="lengths, with commas between them")
    parser.add_argument("--models", default="bundled,135M", help="of these two")
    parser.add_argument("--repeats", type=int, default=3, help="loads, of which the fastest counts")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    options = parser.parse_args()
    from agenticlu.engines import BUNDLED_MODEL

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models.split(","):
            model = BUNDLED_MODEL
            if name != "bundled":
                model = save_llama(Path(scratch) / name)
            for count in map(int, options.tokens.split(",")):
                folder = Path(scratch) / "prefixes"
                rows += measure(name, model, count, folder, options.repeats)
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        target = "" if row["target"] is None else f"  target >= {row['target']:g}"
        verdict = {None: "", True: "  met", False: "  MISSED"}[row["met"]]
        print(f"{row['name']:<{width}}  {row['value']:>9.2f} {row['unit']}{target}{verdict}")
    print(f"{os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
