"""All that one H100 or H200 can say about training and decoding, in eight minutes, no network.

    python benchmarks/gpu_table.py --json gpu.json --markdown gpu.md

Models have random weights in the shapes of Llama-3.1-8B and Qwen3-8B, made on the card; steps are
the trainer's own (LoRA of rank 64 on all linear layers, bf16, full checkpointing). Parts run in the
order of their worth, each in a process of its own that is stopped at its limit; every line is
written when it is measured, so what was done before remains. A line that could not be measured
says why.

- kernels: forward and backward over a trie, each kernel against the plain one.
- train: SFT and DPO steps over documents of 32K, 65K and 131K tokens with 8 traces of 512, as a
  trie and separate in turn. Separate traces of one length cost the same, so one is run and counted
  for all; so it is in DPO, whose reference is stored on both sides.
- decode: 8 branches after 65K tokens over one shared copy of keys and values, and over copies.

MFU counts what has to be computed once, causally: no recomputation, and no gradients of frozen
weights. Where there is no GPU the same runs at toy size (--toy), to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128_256, "max_position_embeddings": 262_144, "rms_norm_eps": 1e-5,
}  # fmt: skip
QWEN = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12_288,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151_936, "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6,
}  # fmt: skip
SHAPES = {"Llama-3.1-8B": LLAMA, "Qwen3-8B": QWEN}
TOY = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
}  # fmt: skip
MOST_REPEATED = 65_536
"""Steps over longer documents are run once: they take most of the time there is."""
SMALL_CARD_GIB = 100
"""Cards below this keep layer inputs in host memory."""
LEAST_MFU = 0.33
"""Of a step over a trie of 131K tokens, in docs/training.md's terms."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    contexts: tuple[int, ...] = (32_768, 65_536, 131_072)
    traces: int = 8
    length: int = 512
    """Tokens of a trace after the document, all of them targets."""
    kernel_prefix: int = 8_192
    decode_prefix: int = 65_536
    decode_tokens: int = 64
    rank: int = 64
    toy: bool = False


TOY_SIZES = Sizes((96, 192, 384), 8, 16, kernel_prefix=128, decode_prefix=192, decode_tokens=4,
                  rank=4, toy=True)  # fmt: skip
Line = dict[str, Any]


def make_line(
    name: str, value: float | None, unit: str, target: float | None = None, note: str = ""
) -> Line:
    """Returns one line of the results; a target is the least value wanted."""
    met = None if target is None or value is None else value >= target
    return {"name": name, "value": value, "unit": unit, "target": target, "met": met, "note": note}


def find_device() -> torch.device:
    """Returns the GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure(work: Callable[[], Any]) -> float:
    """Returns the seconds of a piece of work, to the end of what it started on the device."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def explain(error: BaseException) -> str:
    """Returns the first line of an error."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def build_model(shape: str, sizes: Sizes) -> Any:
    """Makes a model with random weights on the device, in bf16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {**SHAPES[shape], **(TOY if sizes.toy else {})}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config.use_cache = False
    torch.manual_seed(0)
    with find_device():
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


# Kernels.


def time_kernel(name: str, sizes: Sizes) -> tuple[float, list[torch.Tensor]]:
    """Returns the seconds of a forward and backward over a trie, and what they computed."""
    from agenticlu.attention.kernels import load_kernel
    from agenticlu.training.attention import backward_rectangles, forward_rectangles

    shape = {**LLAMA, **(TOY if sizes.toy else {})}
    heads, groups = shape["num_attention_heads"], shape["num_key_value_heads"]
    plan = build_case("sft", sizes.kernel_prefix, sizes, vocabulary=1000).tries[0].plan
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = (
        torch.randn(plan.num_rows, n, shape["head_dim"], generator=generator)
        .to(find_device(), torch.bfloat16)
        for n in (heads, groups, groups, heads)
    )  # fmt: skip
    flat, scale, kernel = tuple(plan.flat_rectangles), shape["head_dim"] ** -0.5, load_kernel(name)
    kept: list[torch.Tensor] = []

    def run() -> None:
        out, lse = forward_rectangles(q, k, v, flat, scale, kernel)
        kept[:] = [out, *backward_rectangles(dout, q, k, v, out, lse, flat, scale, kernel)]

    run()
    return min(measure(run) for _ in range(2 if name == "plain" else 5)), kept


def run_kernels(sizes: Sizes) -> Iterator[Line]:
    """Compares every kernel of this device with the plain one."""
    from agenticlu.attention.kernels import candidates

    device = find_device()
    plain_s, expected = time_kernel("plain", sizes)
    what = f"{sizes.kernel_prefix:,} tokens + {sizes.traces} x {sizes.length}"
    yield make_line(f"kernel plain: forward and backward, {what}", plain_s * 1e3, "ms")
    # Backwards: fa3 and fa4 replace what the name before them runs.
    for name in reversed(candidates(device.type, torch.bfloat16)):
        if name == "plain":
            continue
        try:
            seconds, got = time_kernel(name, sizes)
        except Exception as error:  # a kernel that is not here may raise anything
            yield make_line(f"kernel {name}: faster than plain", None, "times", note=explain(error))
            continue
        off = max(
            float((a.float() - b.float()).norm() / b.float().norm())
            for a, b in zip(got, expected, strict=True)
        )
        yield make_line(f"kernel {name}: forward and backward, {what}", seconds * 1e3, "ms")
        yield make_line(f"kernel {name}: off plain, largest of out, dq, dk, dv", off, "relative")
        yield make_line(f"kernel {name}: faster than plain", plain_s / seconds, "times", 1.0)


# Training.


@dataclass(frozen=True)
class Case:
    """The tries of one step, and how much of the whole step they are."""

    tries: tuple[Any, ...]
    step_size: tuple[int, int]
    """Traces or pairs, and targets, of the whole step."""
    share: int = 1
    """Whole steps are this many times the tries given."""


def build_case(
    stage: str, context: int, sizes: Sizes, *, vocabulary: int, separate: bool = False
) -> Case:
    """Draws a document and its traces, as one trie, or the first of the traces alone."""
    from agenticlu.training.encode import Trace, Unit
    from agenticlu.training.trie import build_trie

    generator = np.random.default_rng(0)
    document = generator.integers(0, vocabulary, context, dtype=np.int32)
    traces = tuple(
        Trace(
            (document, generator.integers(0, vocabulary, sizes.length, dtype=np.int32)),
            ((context, context + sizes.length),),
        )
        for _ in range(sizes.traces)
    )
    each = 1 if stage == "sft" else 2
    units = [
        Unit(str(at), "document", traces[at : at + each]) for at in range(0, sizes.traces, each)
    ]
    step_size = (len(units), sizes.traces * sizes.length)
    if not separate:
        return Case((build_trie(units, min_shared=16),), step_size)
    alone = build_trie([Unit("0", "document", traces[:1])], min_shared=16)
    return Case((alone,), (sizes.traces, step_size[1]), sizes.traces)


class NoReference:
    """A reference of DPO that finds all traces equally likely; the work is the same."""

    def sums(self, digests: Sequence[bytes]) -> Any:
        """Returns zeros."""
        return np.zeros(len(digests))


class Trainer:
    """The trainer's own step over a model with random weights."""

    def __init__(self, shape: str, sizes: Sizes) -> None:
        from agenticlu.training.attention import choose_kernel
        from agenticlu.training.budget import ModelShape
        from agenticlu.training.config import PRESETS, TrainConfig
        from agenticlu.training.model import EdgeModel, add_adapter
        from agenticlu.training.parallel import Ranks, checkpoint_layers
        from agenticlu.training.updates import AdamUpdates

        recipe = {k: v for k, v in PRESETS["lora"].items() if "." not in k}
        changes = {"lora_rank": sizes.rank, "lora_alpha": 2 * sizes.rank}
        self.config = TrainConfig.model_validate({**recipe, **changes})
        self.device = find_device()
        model = build_model(shape, sizes)
        self.shape = ModelShape.from_config(model.config)
        choice = choose_kernel(
            "auto", self.shape.heads, self.shape.groups, self.shape.head_dim, torch.bfloat16,
            self.device,
        )  # fmt: skip
        self.kernel = choice.name
        self.edges = EdgeModel(model.train())
        self.edges.model = add_adapter(model, self.config, shape)
        self.offload = False
        if self.device.type == "cuda":
            memory = torch.cuda.get_device_properties(self.device).total_memory
            self.offload = memory < SMALL_CARD_GIB * 2**30
        checkpoint_layers(model, "full", offload=self.offload)
        self.updates = AdamUpdates(self.config, self.edges, sharded=False)
        self.ranks = Ranks(0, 1, self.device, 1)

    def run(self, stage: str, case: Case) -> float:
        """Returns the seconds of a whole step."""
        from agenticlu.training.step import TrieRunner

        config = self.config.model_copy(update={"stage": stage})
        runner = TrieRunner(
            config, self.ranks, self.edges, self.kernel, self.shape, config.min_shared, self.updates
        )
        if stage == "dpo":
            runner.reference = NoReference()  # type: ignore[assignment]

        def work() -> None:
            totals = runner.run(case.tries, case.step_size, learn=True)
            assert np.isfinite(totals.loss), "the loss is not finite"
            self.updates.step(1e-6)

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return measure(work) * case.share

    def count_flop(self, plan: Any) -> int:
        """Returns the FLOP of a step that MFU counts: the frozen weights get no gradients."""
        frozen = self.shape.layer_weights * plan.num_rows
        frozen += self.shape.head_weights * len(plan.sources_E)
        return self.shape.count_trie_flop(plan) - 2 * frozen

    def peak_gib(self) -> float:
        """Returns the largest memory of the last step."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run_steps(shape: str, sizes: Sizes) -> Iterator[Line]:
    """Steps of both stages over every length, trie and separate in turn."""
    trainer = Trainer(shape, sizes)
    vocabulary = int(trainer.edges.causal_lm().config.vocab_size)
    note = f"attention kernel {trainer.kernel}"
    note += ", layer inputs in host memory" if trainer.offload else ""
    yield make_line(f"{shape}: weights", trainer.shape.total_weights / 1e9, "billion", note=note)
    smallest = sizes.contexts[0] // 8
    trainer.run("sft", build_case("sft", smallest, sizes, vocabulary=vocabulary))  # warms caches
    for context in sizes.contexts:
        for stage in ("sft", "dpo"):
            name = f"{shape} {stage.upper()}, {context:,} tokens + {sizes.traces} x {sizes.length}"
            try:
                yield from compare_step(trainer, stage, context, sizes, vocabulary, name)
            except torch.OutOfMemoryError as error:
                yield make_line(f"{name}: trie", None, "s", note=explain(error))
            trainer.edges.zero_grad(set_to_none=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def compare_step(
    trainer: Trainer, stage: str, context: int, sizes: Sizes, vocabulary: int, name: str
) -> Iterator[Line]:
    """One step as a trie, and separate."""
    from agenticlu.training.budget import peak_flop_per_s

    together = build_case(stage, context, sizes, vocabulary=vocabulary)
    plan = together.tries[0].plan
    # The first run of a length also chooses kernels and makes room.
    runs = 2 if context <= MOST_REPEATED else 1
    trie_s = min(trainer.run(stage, together) for _ in range(runs))
    trie_gib = trainer.peak_gib()
    yield make_line(f"{name}: trie", trie_s, "s")
    yield make_line(f"{name}: trie, stored", plan.num_rows / trie_s, "tokens/s")
    yield make_line(f"{name}: trie, effective", plan.trace_tokens / trie_s, "tokens/s")
    device = torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu"
    peak = peak_flop_per_s(device)
    if peak is not None:
        target = LEAST_MFU if context >= 131_072 else None
        yield make_line(
            f"{name}: trie, MFU", trainer.count_flop(plan) / trie_s / peak, "share", target
        )
    yield make_line(f"{name}: trie, peak memory", trie_gib, "GiB")
    apart = build_case(stage, context, sizes, vocabulary=vocabulary, separate=True)
    alone_s = trainer.run("sft", apart)
    yield make_line(
        f"{name}: separate", alone_s, "s", note=f"one of {apart.share}, counted for all"
    )
    yield make_line(f"{name}: separate, peak memory", trainer.peak_gib(), "GiB")
    alone = apart.tries[0].plan
    bound = trainer.count_flop(alone) * apart.share / trainer.count_flop(plan)
    target = None if sizes.toy else 0.9 * bound
    yield make_line(
        f"{name}: trie faster", alone_s / trie_s, "times", target, f"FLOP allow {bound:.2f}"
    )


# Decoding.


def run_decoding(shape: str, sizes: Sizes) -> Iterator[Line]:
    """Decodes branches of one long prompt over one shared copy of it, and over copies."""
    from agenticlu.engines.local.checkpoint import make_decoder
    from agenticlu.engines.local.ladder import choose_way

    model = build_model(shape, sizes).eval()
    forward, way = choose_way(model, shape)
    what = f"{sizes.traces} branches after {sizes.decode_prefix:,} tokens"
    vocabulary = int(model.config.vocab_size)
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, vocabulary, sizes.decode_prefix).tolist()
    speeds = {}
    for share, kind in ((True, "one shared copy"), (False, "a copy per branch")):
        decoder = make_decoder(forward, find_device(), torch.bfloat16, 1 << 40, share=share)
        if share:
            read_s = measure(lambda decoder=decoder: decoder.read([prompt]))
            speed = sizes.decode_prefix / read_s
            name = f"{shape}: reading {sizes.decode_prefix:,} tokens"
            yield make_line(name, speed, "tokens/s", note=way.describe())
        try:
            speeds[kind] = decode(decoder, prompt, sizes)
        except torch.OutOfMemoryError as error:
            yield make_line(f"{shape}: {what}, {kind}", None, "tokens/s", note=explain(error))
            continue
        yield make_line(f"{shape}: {what}, {kind}", speeds[kind], "tokens/s")
    if len(speeds) == 2:
        ratio = speeds["one shared copy"] / speeds["a copy per branch"]
        target = None if sizes.toy else 1.5
        yield make_line(f"{shape}: {what}, sharing faster", ratio, "times", target)


@torch.inference_mode()
def decode(decoder: Any, prompt: list[int], sizes: Sizes) -> float:
    """Returns the tokens per second of all branches together, greedily."""
    reading = decoder.read([prompt])[0]
    decoder.join([(reading, sizes.traces)])
    tokens = [7 + 13 * branch for branch in range(sizes.traces)]
    for _ in range(2):
        tokens = decoder.step(tokens).argmax(-1).tolist()

    def run() -> None:
        nonlocal tokens
        for _ in range(sizes.decode_tokens):
            tokens = decoder.step(tokens).argmax(-1).tolist()

    return sizes.traces * sizes.decode_tokens / measure(run)


# Parts.

PARTS: dict[str, tuple[float, Callable[[Sizes], Iterable[Line]]]] = {
    "kernels": (60, run_kernels),
    "train-llama": (190, lambda sizes: run_steps("Llama-3.1-8B", sizes)),
    "decode-llama": (60, lambda sizes: run_decoding("Llama-3.1-8B", sizes)),
    "train-qwen": (190, lambda sizes: run_steps("Qwen3-8B", sizes)),
    "decode-qwen": (60, lambda sizes: run_decoding("Qwen3-8B", sizes)),
}
"""In the order of their worth: the most seconds that each may take, and what it runs."""


def run_part(name: str, sizes: Sizes, path: Path) -> None:
    """Runs one part in this process, and appends every line when it is measured."""
    with path.open("a", encoding="utf-8") as file:
        for line in PARTS[name][1](sizes):
            file.write(json.dumps(line) + "\n")
            file.flush()


def start_part(name: str, limit_s: float, toy: bool, path: Path) -> list[Line]:
    """Runs one part in a process of its own; returns its lines, and one if it did not end well."""
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", name, "--json", str(path)]
    problem = ""
    try:
        done = subprocess.run(
            [*command, *(["--toy"] if toy else [])], timeout=limit_s, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        if done.returncode:
            problem = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
    except subprocess.TimeoutExpired:
        problem = f"stopped after {limit_s:.0f} s"
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    lines: list[Line] = [json.loads(text) for text in texts]
    return lines + ([make_line(f"{name}: not finished", None, "", note=problem)] if problem else [])


def render_table(lines: Sequence[Line], facts: dict[str, Any]) -> str:
    """Renders the lines as a Markdown table."""
    head = ", ".join(f"{key} {value}" for key, value in facts.items())
    rows = ["| what | value | unit | target | note |", "|---|---|---|---|---|"]
    for line in lines:
        value = "–" if line["value"] is None else f"{line['value']:,.4g}"
        verdict = {None: "", True: " (met)", False: " (missed)"}[line["met"]]
        target = "" if line["target"] is None else f"{line['target']:.3g}{verdict}"
        rows.append(f"| {line['name']} | {value} | {line['unit']} | {target} | {line['note']} |")
    return f"{head}\n\n" + "\n".join(rows) + "\n"


def main() -> None:
    """Runs the parts, and writes the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("gpu_table.json"), metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--limit-s", type=float, default=480, help="most seconds of all parts")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="parts to run")
    parser.add_argument("--toy", action="store_true", help="tiny sizes; always where no GPU is")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    toy = options.toy or not torch.cuda.is_available()
    if options.part:
        torch.set_num_threads(1 if toy else torch.get_num_threads())
        run_part(options.part, TOY_SIZES if toy else Sizes(), options.json)
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    device += " at toy size" if toy else ""
    facts = {"device": device, "torch": torch.__version__, "machine": platform.machine()}
    markdown = options.markdown or options.json.with_suffix(".md")
    ends, lines = time.monotonic() + options.limit_s, []
    for name in options.only or PARTS:
        left = ends - time.monotonic()
        if left < 10:
            lines.append(make_line(f"{name}: not started", None, "", note="no time left"))
        else:
            limit_s = min(PARTS[name][0], left)
            lines += start_part(name, limit_s, toy, options.json.with_suffix(f".{name}.part"))
        rows = [{**line, **facts} for line in lines]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        markdown.write_text(render_table(lines, facts), encoding="utf-8")
        print(f"{name}: {len(lines)} lines in {markdown}", flush=True)
    print(markdown.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
