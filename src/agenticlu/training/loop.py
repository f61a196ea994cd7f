"""The training loop: SFT and DPO on tries, on one process or many.

One optimizer step: its tries are planned, dealt to ranks, run one after another (forward, weights
of edges, backward), then one clipped AdamW update. Losses are global sums with denominators known
before the step starts, so grouping, microbatching and ranks change nothing.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agenticlu.core.errors import TrainingError, UsageError
from agenticlu.core.output_dir import write_atomically
from agenticlu.training import attention as attention
from agenticlu.training.budget import (
    GIB,
    MemorySettings,
    ModelShape,
    TrieSizes,
    available_memory,
    forecast,
    peak_flop_per_s,
)
from agenticlu.training.checkpoint import Checkpoints, full_weights
from agenticlu.training.config import TrainConfig
from agenticlu.training.encode import Encoder, Unit, find_rows, group_by_document, load_units
from agenticlu.training.folder import (
    check_same_run,
    finished_summary,
    hash_units,
    summarise,
)
from agenticlu.training.losses import FloatArray, learning_rate
from agenticlu.training.metrics import MetricsLog, ProgressLine, clock, describe, short, step_line
from agenticlu.training.model import (
    DTYPES,
    EdgeModel,
    adapter_off,
    add_adapter,
    checkpoint_layers,
    find_base_model,
    find_stop_ids,
    head_shape,
    load_model,
    load_tokenizer,
    model_shape,
    probe_model,
    resolve_model,
    stored_dtype,
    write_export,
)
from agenticlu.training.optimizer import clip_gradients, make_optimizer
from agenticlu.training.parallel import (
    RankPlan,
    check_heads,
    collect_edges,
    decoder_layers,
    rank_plan,
    shard,
    start_ranks,
    stop_ranks,
)
from agenticlu.training.reference import ReferenceStore, hash_model
from agenticlu.training.sampler import Step, build_schedule, check_lockstep, idle_share, place
from agenticlu.training.trie import dummy_plan
from agenticlu.training.tries import Totals, Trie, build_trie, denominators, weigh

LN2 = math.log(2.0)


class Run:
    """One training run: its model, rows, optimizer and files."""

    def __init__(self, config: TrainConfig, *, progress: ProgressLine | None = None) -> None:
        self.config = config
        self.out = Path(config.out)
        cuda = torch.cuda.is_available()
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if cuda else "fp32"
        self.dtype = DTYPES[precision]
        """Of the computation."""
        self.master = torch.float32 if precision == "bf16" else self.dtype
        """Of the weights that the optimizer updates, unless an adapter is trained."""
        mixed = self.master != self.dtype and not config.lora_rank
        self.ranks = start_ranks(
            config.context_parallel, shard_alone=mixed, timeout_s=config.timeout_s
        )
        self.device = self.ranks.device
        self.progress = progress or ProgressLine()
        if not self.ranks.first:
            self.progress = ProgressLine(io.StringIO())
        self.source = resolve_model(config.model)
        self._set_threads()
        torch.manual_seed(config.seed)

    def _set_threads(self) -> None:
        if self.config.threads is None or self.device.type != "cpu":
            return
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        allowed = min(allowed, int(os.environ.get("OMP_NUM_THREADS", allowed)))
        torch.set_num_threads(max(1, min(self.config.threads, allowed)))

    # Rows.

    def load_rows(self) -> None:
        """Encodes both splits and draws the schedule."""
        config = self.config
        self.tokenizer = load_tokenizer(self.source)
        stop_ids = find_stop_ids(self.source, self.tokenizer)
        encoder = Encoder(self.tokenizer, turns=config.turns, stop_ids=stop_ids)
        self.units, self.report = load_units(
            config.dataset, encoder, config.stage, "train", max_tokens=config.max_tokens,
            refuse_bad_rows=config.bad_rows == "refuse", self_checks=config.self_checks,
        )  # fmt: skip
        self.progress.say(f"train: {self.report.summary()}")
        self.validation: list[Unit] = []
        if config.validation_rows and find_rows(config.dataset, config.stage, "validation"):
            units, report = load_units(
                config.dataset, encoder, config.stage, "validation",
                max_tokens=config.max_tokens, limit=config.validation_rows,
                self_checks=config.self_checks,
            )  # fmt: skip
            self.validation = units
            self.progress.say(f"validation: {report.summary()}")
        self.schedule: list[Step] = build_schedule(
            group_by_document(self.units),
            batch=config.batch,
            per_trie=config.traces_per_trie,
            seed=config.seed,
            epochs=config.epochs,
            max_steps=config.max_steps,
        )

    def trie_of(self, numbers: Sequence[int]) -> Trie:
        """Plans units of the training split."""
        return build_trie(
            [self.units[number] for number in numbers], min_shared=self.config.min_shared
        )

    def validation_groups(self) -> list[list[Unit]]:
        """Returns the units of each trie of the validation split."""
        size = self.config.traces_per_trie
        return [
            [self.validation[number] for number in document[start : start + size]]
            for document in group_by_document(self.validation)
            for start in range(0, len(document), size)
        ]

    # Plan.

    def trie_sizes(self, most: int = 500) -> tuple[list[TrieSizes], float]:
        """Returns the sizes of the schedule's first tries, and how many tries each stands for."""
        groups = [group for step in self.schedule for group in step]
        sizes = []
        for group in groups[:most]:
            plan = self.trie_of(group).plan
            sizes.append(
                TrieSizes(
                    plan.num_rows, plan.area, len(plan.sources_E), plan.depth_levels,
                    plan.num_traces, plan.trace_tokens, plan.trace_pairs,
                )
            )  # fmt: skip
        return sizes, len(groups) / len(sizes)

    def plan(
        self,
        *,
        world: int | None = None,
        memory_gib: float | None = None,
        device: str | None = None,
    ) -> dict[str, Any]:
        """Returns what the run will cost; rows must be loaded.

        Args:
            world: Ranks; None takes those that run now.
            memory_gib: Memory of one rank; None asks the device.
            device: Name of the accelerator, for a predicted time; None asks the device.
        """
        config = self.config
        self.shape = model_shape(self.source)
        world = self.ranks.world if world is None else world
        if memory_gib is None:
            memory = available_memory(self.device, world)
        else:
            memory = int(memory_gib * GIB)
        if device is None:
            device = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        settings = MemorySettings(
            compute_bytes=self.dtype.itemsize,
            master_bytes=4 if config.lora_rank else self.master.itemsize,
            shards=world,
            context=config.context_parallel,
            checkpointing=config.checkpointing,
            offload=config.offload,
            lora_rank=config.lora_rank,
            moments_bytes=2 if config.optimizer == "adamw8bit" else 2 * self.master.itemsize,
            edge_chunk=config.edge_chunk,
        )
        sizes, each = self.trie_sizes()
        first = sizes[: len(self.schedule[0])]
        costs = [float(self.shape.model_flop(s.tokens, s.pairs, s.edges)) for s in first]
        return {
            "stage": config.stage,
            "rows": len(self.units),
            "dropped": dict(self.report.reasons),
            "documents": len(group_by_document(self.units)),
            "steps": len(self.schedule),
            "world": world,
            "idle_share": idle_share(costs, place(costs, max(world // config.context_parallel, 1))),
            **forecast(self.shape, sizes, each, settings, world, memory, device),
        }

    def check_plan(self) -> None:
        """Prints the plan in a line and refuses a run that cannot fit.

        Raises:
            TrainingError: It does not fit; says what would.
        """
        plan = self.plan()
        self.progress.say(
            f"plan: {plan['steps']} steps, {short(plan['tokens_in'])} tokens in, "
            f"{short(plan['tokens_stored'])} stored ({plan['sharing']:.1f}x), FLOP "
            f"{plan['flop_ratio']:.1f}x less than separate; about "
            f"{plan['memory_total_gib']:.1f} GiB of memory"
        )
        if not plan["fits"]:
            raise TrainingError(
                f"The largest trie ({plan['largest_trie']['tokens']} stored tokens) needs about "
                f"{plan['memory_total_gib']:.1f} GiB of the "
                f"{plan['memory_available_gib']:.1f} GiB that a rank has.",
                hint=f"This would do: {plan['would_fit']}.",
            )

    # Model.

    def load_model(self) -> None:
        """Loads the model, chooses the kernel, probes both, shards, makes the optimizer."""
        config, ranks = self.config, self.ranks
        sharded = ranks.mesh is not None
        home = torch.device("cpu") if sharded else self.device
        # A frozen base alone on its device stays in the computing dtype (PEFT keeps the adapter in
        # fp32); sharded groups need one dtype, and an adapter in bf16 would not move.
        trained = self.dtype if config.lora_rank and not sharded else self.master
        model = load_model(self.source, self.dtype if self.device.type == "cuda" else trained, home)
        heads, groups, width = head_shape(model.config)
        check_heads(config.context_mode, config.context_parallel, heads, groups)
        choice = attention.choose_kernel(
            config.attention_kernel, heads, groups, width, self.dtype, self.device
        )
        self.kernel, self.kernels_rejected = choice.name, dict(choice.rejected)
        for name, reason in choice.rejected:
            self.progress.say(f"attention kernel {name} not used: {reason}")
        self.shape = ModelShape.of(model.config)  # of what is really loaded
        model.train()
        self.edges = EdgeModel(model, edge_chunk=config.edge_chunk)
        self.probe_nat = 0.0
        if ranks.first:
            probe_kernel = self.kernel if home.type == self.device.type else "cpu"
            self.probe_nat = probe_model(self.edges, probe_kernel, next(model.parameters()).dtype)
        if config.lora_rank:
            self.edges.model = add_adapter(
                model,
                config.lora_rank,
                config.lora_alpha,
                seed=config.seed,
                source=self.source,
            )
        checkpoint_layers(model, config.checkpointing, offload=config.offload)
        if config.compile:
            for layer in decoder_layers(model):
                layer.compile()
        if sharded:
            shard(
                self.edges, ranks.mesh, master=trained,
                param_dtype=None if trained == self.dtype else self.dtype,
            )  # fmt: skip
        self.progress.say(
            f"model: {self.source}, {short(self.shape.total_weights)} weights, "
            f"{str(self.dtype).removeprefix('torch.')}, {ranks.world} {self.device.type} rank(s), "
            f"attention kernel {self.kernel}, trie against separate: {self.probe_nat:.0e} nat"
        )
        self.optimizer = make_optimizer(config, self.edges)

    def micro_steps(self, tries: Sequence[Trie]) -> Iterator[tuple[Trie | None, RankPlan]]:
        """Yields what this rank runs, in lockstep with the others; None is a dummy."""
        costs = [
            float(self.shape.model_flop(t.plan.num_rows, t.plan.area, len(t.plan.sources_E)))
            for t in tries
        ]
        rows = place(costs, self.ranks.data_ranks)
        check_lockstep(rows, self.ranks.data_ranks)
        self.idle_share = idle_share(costs, rows)
        mode = self.config.context_mode
        for row in rows:
            number = row[self.ranks.data_rank]
            trie = None if number is None else tries[number]
            plan = dummy_plan() if trie is None else trie.plan
            yield trie, rank_plan(plan, self.ranks, mode, self.kernel)

    def forward(self, share: RankPlan) -> Tensor:
        """Returns the log-probabilities of this rank's edges of a trie."""
        logp_e: Tensor = self.edges(
            share.ids_N, share.positions_N, share.tree_plan, share.sources_e, share.targets_e
        )
        return logp_e

    # Reference.

    def load_reference(self) -> None:
        """Computes what the store lacks of the reference's log-probabilities."""
        ranks = self.ranks
        model_hash = ranks.same(
            hash_model(self.source, str(self.dtype), self.kernel) if ranks.first else None
        )
        folder = self.out / "cache" / "reference"
        self.reference = ReferenceStore(folder, model_hash, rank=ranks.rank)
        ranks.barrier()  # all have read the same before anyone writes
        start = time.monotonic()
        known = set(self.reference.digests())
        before = len(known)
        groups = [[[self.units[n] for n in group] for group in step] for step in self.schedule]
        groups += [[group] for group in self.validation_groups()]
        for number, step in enumerate(groups, 1):
            todo = []
            for units in step:
                digests = {trace.digest() for unit in units for trace in unit.traces}
                if not digests <= known:
                    todo.append(build_trie(units, min_shared=self.config.min_shared))
                    known |= digests
            self.run_reference(todo)
            left = (time.monotonic() - start) / number * (len(groups) - number)
            if todo:
                self.progress.show(f"reference: step {number}/{len(groups)}, ETA {clock(left)}")
        ranks.barrier()
        self.reference.reload()
        self.progress.show(
            f"reference: {len(known)} traces known, {len(known) - before} of them computed in "
            f"{time.monotonic() - start:.1f} s", last=True,
        )  # fmt: skip

    @torch.no_grad()
    def run_reference(self, tries: Sequence[Trie]) -> None:
        """Stores the log-probabilities of some tries under the reference."""
        for trie, share in self.micro_steps(tries):
            with adapter_off(self.edges):
                logp_e = self.forward(share)
            if trie is None:
                continue
            plan = trie.plan
            logp_E = collect_edges(logp_e, share, len(plan.sources_E), self.ranks)
            per_trace = np.split(logp_E[plan.edge_of_K], np.cumsum(plan.trace_targets)[:-1])
            if self.ranks.context_rank == 0:
                self.reference.add(zip(trie.digests, per_trace, strict=True))

    def reference_of(self, trie: Trie) -> FloatArray | None:
        """Returns the reference's sum per trace; None in SFT."""
        return self.reference.sums(trie.digests) if self.config.stage == "dpo" else None

    # Steps.

    def run_step(self, index: int) -> dict[str, Any]:
        """Runs one optimizer step and returns its metrics."""
        config, ranks = self.config, self.ranks
        started = time.monotonic()
        tries = [self.trie_of(group) for group in self.schedule[index]]
        units = [self.units[number] for group in self.schedule[index] for number in group]
        num_units, num_targets = denominators(units)
        totals = Totals()
        for trie, share in self.micro_steps(tries):
            if trie is not None and self.splits(trie):
                self.run_in_groups(trie, num_units, num_targets, totals)
                continue
            logp_e = self.forward(share)
            weights = torch.zeros_like(logp_e)
            if trie is not None:
                logp_E = collect_edges(logp_e, share, len(trie.plan.sources_E), ranks)
                weight_E = weigh(
                    config, trie, logp_E, self.reference_of(trie), num_units, num_targets, totals
                )
                weights = torch.from_numpy(weight_E[share.own_edges]).to(logp_e)
            (-(logp_e * weights).sum()).backward()  # type: ignore[no-untyped-call]
        totals = totals.over(ranks)
        if not math.isfinite(totals.loss):
            raise TrainingError(
                f"The loss of step {index + 1} is {totals.loss}.",
                hint="Lower --lr, or train in fp32 (--precision fp32).",
            )
        if index == 0 and config.stage == "dpo":
            self.check_first_step(totals)
        norm = clip_gradients(self.edges, config.clip)
        rate = learning_rate(
            index, len(self.schedule), peak=config.lr, warmup=config.warmup, floor=config.lr_floor
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.step_values(index, totals, norm, rate, time.monotonic() - started, len(tries))

    def splits(self, trie: Trie) -> bool:
        """Whether a trie is larger than the limit and runs in groups of leaves."""
        limit = self.config.leaf_groups_tokens
        plan = trie.plan
        one_root = plan.segments[0].last == plan.num_rows
        return (
            limit is not None
            and self.ranks.mesh is None
            and one_root
            and (plan.num_rows > limit and plan.num_traces > 1)
        )

    def run_in_groups(self, trie: Trie, num_units: int, num_targets: int, totals: Totals) -> None:
        """Forward and backward of a large trie, a few branches at a time (TRAINING 2.7)."""
        from agenticlu.training.groups import run_groups

        limit = self.config.leaf_groups_tokens
        assert limit is not None

        def weights_of(logp_E: FloatArray) -> FloatArray:
            return weigh(
                self.config, trie, logp_E, self.reference_of(trie), num_units, num_targets, totals
            )

        run_groups(self.edges, trie.plan, self.kernel, limit, weights_of)

    def step_values(
        self, index: int, totals: Totals, norm: float, rate: float, step_s: float, tries: int
    ) -> dict[str, Any]:
        """Returns the metrics of a step; units are in the keys."""
        flop = self.shape.model_flop(totals.stored_tokens, totals.area, totals.edges)
        values: dict[str, Any] = {
            "step": index + 1,
            "loss": totals.loss,
            "grad_norm": norm,
            "lr": rate,
            "step_s": step_s,
            "tries": tries,
            "traces": totals.traces,
            "stored_tokens": totals.stored_tokens,
            "trace_tokens": totals.trace_tokens,
            "stored_tokens_per_s": totals.stored_tokens / step_s,
            "effective_tokens_per_s": totals.trace_tokens / step_s,
            "model_tflop_per_s": flop / step_s / 1e12,
            "idle_share": self.idle_share,
        }
        if self.device.type == "cuda":
            values["peak_device_bytes"] = torch.cuda.max_memory_allocated()
            peak = peak_flop_per_s(torch.cuda.get_device_name())
            if peak is not None:
                values["mfu_causal"] = flop / step_s / (peak * self.ranks.world)
        if self.config.stage == "dpo":
            values |= {
                "margin_mean": totals.margin / totals.pairs,
                "pairs_ordered_share": totals.ordered / totals.pairs,
                "nll_chosen_nat": totals.nll / totals.targets,
            }
        else:
            values["nll_nat"] = totals.nll / totals.targets
        return values

    def check_first_step(self, totals: Totals) -> None:
        """Asserts that policy and reference are the same before the first update.

        Raises:
            TrainingError: They are not.
        """
        allowed = {torch.float64: 1e-9, torch.float32: 1e-2}.get(self.dtype, 2.0)
        expected = LN2 if self.config.dpo_loss == "sigmoid" else (0.5 / self.config.beta) ** 2
        loss = totals.loss if not self.config.nll_weight else expected
        if totals.largest_log_ratio > allowed or abs(loss - expected) > allowed * max(
            self.config.beta, 1 / self.config.beta
        ):
            raise TrainingError(
                "Before the first step policy and reference differ by "
                f"{totals.largest_log_ratio:.2e} nat on one pair (allowed {allowed:.0e}); the "
                f"loss is {totals.loss:.6f}, not {expected:.6f}.",
                hint=f"Delete {self.out / 'cache'} and start again.",
            )

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, Any]:
        """Runs the validation split without gradients."""
        num_units, num_targets = denominators(self.validation)
        totals = Totals()
        tries = [
            build_trie(units, min_shared=self.config.min_shared)
            for units in self.validation_groups()
        ]
        for trie, share in self.micro_steps(tries):
            logp_e = self.forward(share)
            if trie is not None:
                logp_E = collect_edges(logp_e, share, len(trie.plan.sources_E), self.ranks)
                weigh(
                    self.config, trie, logp_E, self.reference_of(trie), num_units, num_targets,
                    totals,
                )  # fmt: skip
        totals = totals.over(self.ranks)
        values: dict[str, Any] = {"step": step, "loss": totals.loss, "rows": num_units}
        if self.config.stage == "dpo":
            values |= {
                "pair_accuracy": totals.ordered / totals.pairs,
                "chosen_more_likely_share": totals.preferred / totals.pairs,
                "margin_mean": totals.margin / totals.pairs,
                "nll_chosen_nat": totals.nll / totals.targets,
            }
        else:
            values["nll_nat"] = totals.nll / totals.targets
        return values

    # Files.

    def export(self) -> Path:
        """Writes the trained model."""
        folder = self.out / "export"
        weights = full_weights(self.edges) if self.ranks.mesh is not None else None
        if self.ranks.first:
            write_export(
                self.edges, weights, self.source, self.tokenizer, folder,
                dtype=self.export_dtype(), card=self.card(),
                merge=(self.config.lora_rank, self.config.lora_alpha, self.config.seed)
                if self.merges() else None,
            )  # fmt: skip
        self.ranks.barrier()
        return folder

    def merges(self) -> bool:
        """Whether the adapter is merged: when asked for, and when its base is on no disk.

        The base of a second adapter is the first one's model with that adapter merged.
        """
        config = self.config
        on_adapter = find_base_model(self.source) != self.source
        return bool(config.lora_rank) and (config.lora_merge or on_adapter)

    def export_dtype(self) -> torch.dtype:
        """fp32 stays fp32; bf16 training writes the dtype that the source is stored in."""
        if self.config.lora_rank and not self.merges():
            return self.master
        if self.dtype != torch.bfloat16:
            return self.dtype
        return stored_dtype(self.source) or self.dtype

    def card(self) -> str:
        """Returns the export's README."""
        config = self.config
        start = f"Started from `{self.source}`"
        if config.stage == "dpo":
            kind = "a base model, not an SFT result" if config.from_base else "the SFT result"
            start += f" ({kind}), which is also the reference"
        return (
            f"# Trained with agenticlu: {config.stage}\n\n{start}.\n\n"
            f"{len(self.units)} rows of `{config.dataset}`, {len(self.schedule)} steps.\n\n"
            f"```json\n{config.model_dump_json(indent=2)}\n```\n"
        )

    def facts(self) -> dict[str, Any]:
        """Returns what a checkpoint must agree with to be continued."""
        return {
            "config": self.config.model_dump(mode="json"),
            "data_hash": hash_units(self.units),
            "model": dataclasses.asdict(self.shape),
            "world": self.ranks.world,
        }

    def resume(self) -> int:
        """Loads the newest checkpoint of this run; returns the steps it has done.

        Raises:
            TrainingError: The folder holds another run; says what differs.
        """
        self.checkpoints = Checkpoints(
            self.out / "checkpoints", self.ranks, keep=self.config.keep_checkpoints
        )
        steps = self.checkpoints.steps()
        if not steps:
            return 0
        manifest = self.checkpoints.manifest(steps[-1])
        check_same_run(manifest, self.facts(), self.out)
        self.checkpoints.load(steps[-1], self.edges, self.optimizer)
        self.progress.say(f"resumed after step {steps[-1]}/{len(self.schedule)}")
        return steps[-1]

    def start_files(self, done: int) -> MetricsLog:
        """Writes the settings and opens the log."""
        config = self.config
        if not self.ranks.first:
            return MetricsLog(Path(os.devnull))
        write_atomically(self.out / "config.json", config.model_dump_json(indent=2) + "\n")
        dropped = "".join(
            json.dumps({"row": row, "reason": reason}) + "\n" for row, reason in self.report.dropped
        )
        write_atomically(self.out / "dropped.jsonl", dropped)
        log = MetricsLog(self.out / "metrics.jsonl", keep_steps=done or None)
        log.mirror_to(config.log_to, self.out, config.model_dump())
        log.write(
            "resume" if done else "start",
            stage=config.stage,
            kernel=self.kernel,
            kernels_rejected=self.kernels_rejected,
            rows=len(self.units),
            steps=len(self.schedule),
            probe_nat=self.probe_nat,
            world=self.ranks.world,
            step=done,
        )
        return log

    def run(self) -> dict[str, Any]:
        """Trains; returns a summary. The same call on a finished folder returns its summary."""
        config = self.config
        finished = finished_summary(config)
        if finished is not None:
            self.progress.say(f"{self.out} is finished; nothing to do")
            return finished
        began = time.monotonic()
        if self.ranks.first:
            self.out.mkdir(parents=True, exist_ok=True)
        self.load_rows()
        self.check_plan()
        self.load_model()
        if config.stage == "dpo":
            base = " (a base model, not an SFT result)" if config.from_base else ""
            self.progress.say(f"policy = reference = {self.source}{base}")
            self.load_reference()
        done = self.resume()
        log = self.start_files(done)
        summary: dict[str, Any] = {"stage": config.stage, "rows": len(self.units)}
        if self.validation and not done:
            first = self.evaluate(0)
            log.write("validation", **first)
            self.progress.say(f"validation before: {describe(first)}")
        values = self.run_steps(done, log)
        self.checkpoints.finish()
        if self.validation:
            final = self.evaluate(len(self.schedule))
            log.write("validation", **final)
            self.progress.say(f"validation after: {describe(final)}")
        folder = self.export()
        summary |= summarise(self.out / "metrics.jsonl") if self.ranks.first else {}
        summary |= {
            "final_loss": values.get("loss"),
            "total_s": time.monotonic() - began,
            "export": str(folder),
        }
        log.write("end", **summary)
        log.close()
        if self.ranks.first:
            write_atomically(self.out / "summary.json", json.dumps(summary, indent=2) + "\n")
            self.progress.say(f"exported to {folder}")
        return summary

    def run_steps(self, done: int, log: MetricsLog) -> dict[str, Any]:
        """Runs the steps that are left; returns the metrics of the last."""
        config, total = self.config, len(self.schedule)
        durations: list[float] = []
        values: dict[str, Any] = {}
        for index in range(done, total):
            values = self.run_step(index)
            log.write("step", **values)
            durations.append(values["step_s"])
            left = sum(durations) / len(durations) * (total - index - 1)
            self.progress.show(
                step_line(config.stage, values, total, left), last=index + 1 == total
            )
            if config.eval_every and self.validation and (index + 1) % config.eval_every == 0:
                log.write("validation", **self.evaluate(index + 1))
            if config.save_every and (index + 1) % config.save_every == 0:
                self.checkpoints.save(index + 1, self.edges, self.optimizer, self.facts())
        return values


def plan_run(
    config: TrainConfig,
    *,
    world: int | None = None,
    memory_gib: float | None = None,
    device: str | None = None,
    progress: ProgressLine | None = None,
) -> dict[str, Any]:
    """Returns what a run will cost, without loading the model's weights.

    Raises:
        TrainingError: The rows cannot be trained on.
        ModelNotFoundError: There is no such model.
    """
    run = Run(config, progress=progress)
    run.load_rows()
    return run.plan(world=world, memory_gib=memory_gib, device=device)


def train(config: TrainConfig, *, progress: ProgressLine | None = None) -> dict[str, Any]:
    """Runs SFT or DPO and returns a summary of the run.

    Raises:
        TrainingError: The rows, the model or the settings do not allow it; says what would.
        ModelNotFoundError: There is no such model.
    """
    if not config.dataset or not config.model or not config.out:
        raise UsageError("Training needs a data set, a model and a folder to write to.")
    try:
        return Run(config, progress=progress).run()
    finally:
        stop_ranks()
