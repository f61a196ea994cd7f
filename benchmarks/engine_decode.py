"""Branches of one long prefix: one copy of its keys and values against a copy per branch.

Everything is measured in one run on one model with random weights, in processor seconds of the
process (so that a busy machine does not distort the ratios), and every way must produce the same
greedy tokens. Prints a table; `--json FILE` writes a list of {name, value, unit, target, met}.

    OMP_NUM_THREADS=1 python benchmarks/engine_decode.py --prefix-tokens 8192
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SEED = 7


def build_model(layers: int, width: int, positions: int) -> Any:
    """A random Llama: wide initialisation, so that greedy tokens do not hang on rounding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        initializer_range=0.08,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Returns processor seconds and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def decode(decoder: Any, prompt: list[int], firsts: list[int], num_tokens: int) -> list[list[int]]:
    """Decodes branches that differ in their first token, greedily."""
    reading = decoder.read([prompt])[0]
    branches = decoder.join([(reading, len(firsts))])[0]
    rows = [[token] for token in firsts]
    for _ in range(num_tokens):
        logits = decoder.step([row[-1] for row in rows])
        for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
            row.append(token)
    for branch in list(branches):
        decoder.leave(branch)
    return [row[1:] for row in rows]


def generate_copied(model: Any, prompt: list[int], firsts: list[int], num_tokens: int) -> Any:
    """Transformers' own way: one cache, repeated for every branch, then generate."""
    from transformers import DynamicCache

    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        model(torch.tensor([prompt]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        start = time.process_time()
        cache.batch_repeat_interleave(len(firsts))
        ids = torch.tensor([[*prompt, first] for first in firsts])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        seconds = time.process_time() - start
    return seconds, out[:, ids.shape[1] :].tolist()


def generate_paged(model: Any, prompt: list[int], firsts: list[int], num_tokens: int) -> Any:
    """The continuous batching of transformers: pages of keys and values, shared where equal."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    pages = (len(prompt) + num_tokens) * len(firsts) // 256 + 2 * len(firsts)
    found = model.generate_batch(
        inputs=[[*prompt, first] for first in firsts],
        generation_config=GenerationConfig(
            max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=pages, page_size=256),
        progress_bar=False,
    )
    return [found[f"req_{i}"].generated_tokens for i in range(len(firsts))]


def talk(
    decoder: Any, prompt: list[int], turns: int, grow: int, num_tokens: int
) -> list[list[int]]:
    """A conversation: each turn adds `grow` tokens and decodes a reply."""
    ids, replies = list(prompt), []
    for turn in range(turns):
        ids = [*ids, *((turn * 31 + i * 7) % 2000 for i in range(grow))]
        reading = decoder.read([ids])[0]
        branch = decoder.join([(reading, 1)])[0][0]
        token = int(reading.logits_V.argmax())
        reply = [token]
        for _ in range(num_tokens - 1):
            token = int(decoder.step([token])[0].argmax())
            reply.append(token)
        decoder.leave(branch)
        ids = [*ids, *reply]
        replies.append(reply)
    return replies


def scan(decoder: Any, passages: list[list[int]], questions: list[list[int]], batch: int) -> Any:
    """Scores every question against every passage, `batch` prompts to a pass."""
    prompts = [[*passage, *question] for passage in passages for question in questions]
    found = []
    for start in range(0, len(prompts), batch):
        found += [int(r.logits_V.argmax()) for r in decoder.read(prompts[start : start + batch])]
    return found


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs every way and returns the rows."""
    from agenticlu.demo.small_llama import LeanForward
    from agenticlu.engines.local.decoder import Decoder
    from agenticlu.engines.local.kvcache import PrefixCache, register

    register()
    model = build_model(options.layers, options.width, options.prefix_tokens + 4096)
    device, dtype = torch.device("cpu"), torch.float32
    prompt = [(i * 17 + i // 5) % 2000 for i in range(options.prefix_tokens)]
    firsts = [100 + 13 * i for i in range(options.branches)]

    def make(cache: bool = True, share: bool = True) -> Any:
        kept = PrefixCache(8 << 30) if cache else None
        forward = LeanForward(
            dict(model.named_parameters(remove_duplicate=False)),
            model.config.num_attention_heads,
            model.config.num_key_value_heads,
            model.config.rms_norm_eps,
            lambda positions: model.model.rotary_emb(model.lm_head.weight[:1], positions),
        )
        return Decoder(forward, kept, device, dtype, share=share)

    rows: list[dict[str, Any]] = []

    def add(name: str, value: float, unit: str, target: float | None = None) -> None:
        met = None if target is None else value >= target
        rows.append({"name": name, "value": value, "unit": unit, "target": target, "met": met})

    sharing, copying = make(), make(share=False)
    read_s, _ = timed(lambda: sharing.read([prompt]))
    copying.read([prompt])
    shared_s, shared = timed(lambda: decode(sharing, prompt, firsts, options.tokens))
    copied_s, copied = timed(lambda: decode(copying, prompt, firsts, options.tokens))
    serial = make()
    serial.read([prompt])
    serial_s, one_by_one = timed(
        lambda: [decode(serial, prompt, [first], options.tokens)[0] for first in firsts]
    )
    library_s, library = generate_copied(model, prompt, firsts, options.tokens)
    assert shared == copied == one_by_one, "the ways disagree"
    same = sum(a == b for a, b in zip(shared, library, strict=True))
    assert len({tuple(row) for row in shared}) > 1, "the branches must differ"
    assert sharing.cache is not None
    prefix_bytes = sharing.cache.match(prompt).chain[0][0].num_bytes
    what = f"{options.branches} x {options.tokens} tokens after {options.prefix_tokens}"
    add(f"reading the prefix ({options.prefix_tokens} tokens)", read_s, "s")
    add(f"one shared copy: {what}", shared_s, "s")
    add("a copy per branch, own loop", copied_s, "s")
    add("one branch after another", serial_s, "s")
    add("a copy per branch, transformers generate", library_s, "s")
    add("greedy replies equal to transformers generate", same, f"of {options.branches}")
    add("shared copy against own loop with copies", copied_s / shared_s, "times", 2.0)
    add("shared copy against one after another", serial_s / shared_s, "times", 2.0)
    add("shared copy against transformers generate", library_s / shared_s, "times", 4.0)
    add("prefix keys and values, shared", prefix_bytes / 2**20, "MiB")
    add("prefix keys and values, copied", prefix_bytes * options.branches / 2**20, "MiB")

    if options.continuous_batching:
        paged_s, paged = timed(lambda: generate_paged(model, prompt, firsts, options.tokens))
        same = sum(a == b for a, b in zip(shared, paged, strict=True))
        add("continuous batching of transformers, reading included", paged_s, "s")
        add("greedy replies equal to continuous batching", same, f"of {options.branches}")
        whole_s = read_s + shared_s
        add("reading and one shared copy against it", paged_s / whole_s, "times", 2.0)
    turns = 5
    keeping, rereading = make(), make(cache=False)
    kept_s, kept = timed(lambda: talk(keeping, prompt, turns, 64, 16))
    reread_s, reread = timed(lambda: talk(rereading, prompt, turns, 64, 16))
    assert kept == reread, "the cache changed a reply"
    add(f"{turns} turns, cache continued", kept_s, "s")
    add(f"{turns} turns, re-read each time", reread_s, "s")
    add("continuing against re-reading", reread_s / kept_s, "times", 2.5)

    passages = [[(i * 29 + j * 3) % 2000 for j in range(512)] for i in range(options.passages)]
    questions = [[(q * 53 + j * 11) % 2000 for j in range(20)] for q in range(8)]
    together, apart = make(), make(cache=False)
    scan_s, found = timed(lambda: scan(together, passages, questions, 32))
    alone_s, found_alone = timed(lambda: scan(apart, passages, questions, 1))
    again_s, found_again = timed(lambda: scan(together, passages, questions, 32))
    assert found == found_alone == found_again, "batching changed a verdict"
    count = len(passages) * len(questions)
    add(
        f"score {count} (passage, question) pairs, passages shared", 1e3 * scan_s / count, "ms each"
    )
    add("the same, each prompt alone and uncached", 1e3 * alone_s / count, "ms each")
    add("the same, passages cached", 1e3 * again_s / count, "ms each")
    add("shared passages against each prompt alone", alone_s / scan_s, "times", 3.0)
    return rows


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefix-tokens", type=int, default=8192)
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--passages", type=int, default=12)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument(
        "--continuous-batching", action="store_true", help="also time that of transformers (slow)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    options = parser.parse_args()
    rows = measure(options)
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        target = "" if row["target"] is None else f"  target >= {row['target']:g}"
        verdict = {None: "", True: "  met", False: "  MISSED"}[row["met"]]
        print(f"{row['name']:<{width}}  {row['value']:>9.2f} {row['unit']}{target}{verdict}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
