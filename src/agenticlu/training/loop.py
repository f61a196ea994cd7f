"""The training loop: SFT and DPO on tries, on one process or many.

In one optimizer step its tries are planned, dealt to ranks, and run one after another (forward,
weights of edges, backward); one clipped AdamW update follows. Losses are global sums with
denominators known before the step starts, so grouping, micro-batches and ranks change nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from agenticlu.core.errors import TrainingError, UsageError
from agenticlu.core.files import write_atomically
from agenticlu.core.printing import echo
from agenticlu.core.progress import (
    MetricsWriter,
    Progress,
    format_count,
    keep_metrics,
    open_mirrors,
)
from agenticlu.training import attention, budget, checkpoint, losses, parallel
from agenticlu.training.config import TrainConfig
from agenticlu.training.context import check_heads
from agenticlu.training.distill import TeacherStore
from agenticlu.training.encode import Encoder, Unit, load_units
from agenticlu.training.export import render_card, write_export
from agenticlu.training.model import (
    DTYPES,
    EdgeModel,
    add_adapter,
    find_stop_ids,
    load_config,
    load_model,
    load_shape,
    load_tokenizer,
    resolve_model,
)
from agenticlu.training.probe import confirm_sharing
from agenticlu.training.rows import find_rows
from agenticlu.training.sharing import UNSHARED, choose_sharing, switch_randomness_off
from agenticlu.training.step import TrieRunner, render_step
from agenticlu.training.trie import Step, Trie, build_schedule, build_trie, group_by_document
from agenticlu.training.zero import build_updates, load_deepspeed

MOST_TRIES_PLANNED = 500
"""A plan measures this many of the run's tries and extrapolates."""


class Run:
    """One training run: its model, rows, optimizer and files."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if torch.cuda.is_available() else "fp32"
        self.dtype = DTYPES[precision]
        """Of the computation."""
        self.master = torch.float32 if precision == "bf16" else self.dtype
        """Of the weights that the optimizer updates, unless an adapter is trained."""
        if config.shard != "fsdp":
            load_deepspeed()
        mixed = self.master != self.dtype and not config.lora_rank
        self.ranks = parallel.start_ranks(
            config.context_parallel,
            shard_alone=mixed or config.shard != "fsdp",
            timeout_s=config.timeout_s,
        )
        self.device = self.ranks.device
        self.source = resolve_model(config.model, trust=config.trust_remote_code, say=self.say)
        if config.threads is not None and self.device.type == "cpu":
            parallel.limit_threads(config.threads)
        torch.manual_seed(config.seed)

    def say(self, text: str) -> None:
        """Prints a line on stderr, from one rank."""
        if self.ranks.first:
            echo(text, err=True)

    # Rows.

    def load_rows(self) -> None:
        """Encodes both splits and draws the schedule."""
        config = self.config
        self.tokenizer = load_tokenizer(self.source, trust=config.trust_remote_code)
        stop_ids = find_stop_ids(self.source, self.tokenizer)
        encoder = Encoder(self.tokenizer, turns=config.turns, stop_ids=stop_ids)
        self.units, self.report = load_units(
            config.dataset, encoder, config.stage, "train", max_tokens=config.max_tokens,
            refuse_bad_rows=config.bad_rows == "refuse", self_checks=config.self_checks,
        )  # fmt: skip
        self.say(f"train: {self.report.summary()}")
        self.validation: list[Unit] = []
        if config.validation_rows and find_rows(config.dataset, config.stage, "validation"):
            self.validation, report = load_units(
                config.dataset, encoder, config.stage, "validation",
                max_tokens=config.max_tokens, limit=config.validation_rows,
                self_checks=config.self_checks,
            )  # fmt: skip
            self.say(f"validation: {report.summary()}")
        self.documents = group_by_document(self.units)
        self.sharing = choose_sharing(load_config(self.source, trust=config.trust_remote_code))
        self._draw_schedule()

    def _draw_schedule(self) -> None:
        config = self.config
        self.per_trie = 1 if self.sharing.separate else config.traces_per_trie
        self.min_shared = UNSHARED if self.sharing.separate else config.min_shared
        self.schedule: list[Step] = build_schedule(
            self.documents,
            batch=config.batch,
            per_trie=self.per_trie,
            seed=config.seed,
            epochs=config.epochs,
            max_steps=config.max_steps,
            questions=[unit.question_id for unit in self.units],
        )

    def build_trie(self, numbers: Sequence[int]) -> Trie:
        """Plans units of the training split."""
        return build_trie([self.units[n] for n in numbers], min_shared=self.min_shared)

    def validation_groups(self) -> list[list[Unit]]:
        """Returns the units of each trie of the validation split."""
        size = self.per_trie
        return [
            [self.validation[number] for number in document[start : start + size]]
            for document in group_by_document(self.validation)
            for start in range(0, len(document), size)
        ]

    # Plan.

    def plan(
        self,
        *,
        world: int | None = None,
        memory_gib: float | None = None,
        device: str | None = None,
    ) -> dict[str, Any]:
        """Predicts what the run will cost; rows must be loaded.

        Args:
            world: Ranks; None takes those running now.
            memory_gib: Memory of one rank; None asks the device.
            device: Name of the accelerator, for a predicted time; None asks the device.
        """
        world = self.ranks.world if world is None else world
        if memory_gib is None:
            memory = budget.available_memory(self.device, world)
        else:
            memory = int(memory_gib * budget.GIB)
        if device is None:
            device = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        groups = [group for step in self.schedule for group in step]
        sizes = [
            budget.TrieSizes.of(self.build_trie(group).plan)
            for group in groups[:MOST_TRIES_PLANNED]
        ]
        settings = budget.MemorySettings.of_run(
            self.config, compute_bytes=self.dtype.itemsize, master_bytes=self.master.itemsize,
            shards=world,
        )  # fmt: skip
        return {
            "stage": self.config.stage,
            "rows": len(self.units),
            "dropped": dict(self.report.reasons),
            "documents": len(self.documents),
            "separate": self.sharing.reason,
            "steps": len(self.schedule),
            **budget.forecast(
                load_shape(self.source, trust=self.config.trust_remote_code), sizes,
                num_tries=len(groups),
                first_step=len(self.schedule[0]), settings=settings, memory=memory, device=device,
            ),
        }  # fmt: skip

    def check_plan(self) -> None:
        """Prints the plan in a line and refuses a run that does not fit.

        Raises:
            TrainingError: It does not fit; suggests a change.
        """
        plan = self.plan()
        self.say(f"plan: {plan['steps']} steps, {budget.render_forecast(plan)}")
        budget.refuse_too_large(plan)

    # Model.

    def load_model(self) -> None:
        """Loads the model, chooses the kernel, probes both, shards, builds the optimizer."""
        config, ranks = self.config, self.ranks
        sharded = ranks.mesh is not None
        # Sharding moves a layer at a time: the whole model need not fit on one device.
        home = torch.device("cpu") if sharded else self.device
        # A frozen base alone on its device stays in the computing dtype (PEFT keeps the adapter in
        # fp32); sharded groups need one dtype, and an adapter in bf16 would not move.
        trained = self.dtype if config.lora_rank and not sharded else self.master
        loaded = load_model(
            self.source,
            self.dtype if self.device.type == "cuda" else trained,
            home,
            trust=config.trust_remote_code,
        )
        for note in loaded.notes:
            self.say(note)
        model = loaded.model
        self.shape = budget.ModelShape.from_config(model.config)  # of what is really loaded
        self._choose_kernel()
        switch_randomness_off(model)
        self.edges = EdgeModel(model, edge_chunk=config.edge_chunk, changed=loaded.changed)
        # Before sharding, for then one rank alone could not run the model.
        self._confirm_sharing(self.kernel if home.type == self.device.type else "cpu")
        if config.lora_rank:
            self.edges.model = add_adapter(model, config, self.source)
        parallel.checkpoint_layers(model, config.checkpointing, offload=config.offload)
        if config.compile:
            for layer in parallel.decoder_layers(model):
                layer.compile()
        self.updates = build_updates(
            config, self.edges, ranks, dtype=self.dtype, trained=trained, kernel=self.kernel
        )
        self.optimizer = self.updates.optimizer
        self.say(
            f"model: {self.source}, {format_count(self.shape.total_weights)} weights, "
            f"{str(self.dtype).removeprefix('torch.')}, {ranks.world} {self.device.type} rank(s), "
            + (
                f"attention kernel {self.kernel}"
                if self.edges.rows is None
                else "its own attention"
            )
        )
        self.runner = TrieRunner(
            config, ranks, self.edges, self.kernel, self.shape, self.min_shared, self.updates
        )

    def _confirm_sharing(self, kernel: str) -> None:
        """Probes the model, and gives tries up where they are not exact."""
        before = self.sharing
        self.sharing, self.probe = confirm_sharing(self.edges, kernel, before, self.ranks)
        if self.sharing.separate:
            self.say(self.sharing.render(self.edges.causal_lm().config.model_type))
        if self.probe is not None:
            way = "rows" if self.sharing.separate else "trie"
            self.say(f"{way} against separate: {self.probe.render()}")
        if self.sharing != before:  # the plan was drawn for tries
            self._draw_schedule()
            self.check_plan()

    def _choose_kernel(self) -> None:
        config, shape = self.config, self.shape
        self.kernel, self.kernels_rejected = "plain", dict[str, str]()
        if not shape.heads:
            return
        check_heads(config.context_mode, config.context_parallel, shape.heads, shape.groups)
        choice = attention.choose_kernel(
            config.attention_kernel, shape.heads, shape.groups, shape.head_dim, self.dtype,
            self.device,
        )  # fmt: skip
        self.kernel, self.kernels_rejected = choice.name, dict(choice.rejected)
        for name, reason in choice.rejected:
            self.say(f"attention kernel {name} not used: {reason}")

    def load_reference(self) -> None:
        """Computes what the reference or the teacher says and is not stored yet."""
        ranks = self.ranks
        model_hash = ranks.same(
            checkpoint.hash_model(
                self.source, str(self.dtype), "own" if self.sharing.separate else self.kernel
            )
            if ranks.first
            else None
        )
        groups = [[[self.units[n] for n in group] for group in step] for step in self.schedule]
        groups += [[group] for group in self.validation_groups()]
        if self.config.stage == "distill":
            self.say(f"student = teacher = {self.source}; the teacher reads the evidence alone")
            folder = self.out / "cache" / "teacher"
            name = f"{model_hash}-{self.config.teacher_tokens}"
            self.runner.load_teacher(TeacherStore(folder, name, rank=ranks.rank), groups)
        else:
            base = " (a base model, not an SFT result)" if self.config.from_base else ""
            self.say(f"policy = reference = {self.source}{base}")
            folder = self.out / "cache" / "reference"
            store = checkpoint.ReferenceStore(folder, model_hash, rank=ranks.rank)
            self.runner.load_reference(store, groups)

    # Steps.

    def run_step(self, index: int) -> dict[str, Any]:
        """Runs one optimizer step and returns its metrics."""
        config = self.config
        started = time.monotonic()
        tries = [self.build_trie(group) for group in self.schedule[index]]
        units = [self.units[number] for group in self.schedule[index] for number in group]
        totals = self.runner.run(tries, losses.count_targets(units), learn=True)
        # The loss is a sum over all ranks, so all of them raise, or none.
        if not math.isfinite(totals.loss):
            raise TrainingError(
                f"The loss of step {index + 1} is {totals.loss}.",
                hint="Lower --lr, or train in fp32 (--precision fp32).",
            )
        if index == 0 and config.stage == "dpo":
            losses.check_first_step(config, totals, self.dtype)
        rate = losses.learning_rate(
            index, len(self.schedule), peak=config.lr, warmup=config.warmup, floor=config.lr_floor
        )
        norm = self.updates.step(rate)
        step_s = time.monotonic() - started
        return {
            "step": index + 1,
            "loss": totals.loss,
            "grad_norm": norm,
            "lr": rate,
            "step_s": step_s,
            "tries": len(tries),
            **self.runner.measure_speed(totals, step_s),
            **totals.averages(),
        }

    def evaluate(self, step: int) -> dict[str, Any]:
        """Runs the validation split without gradients."""
        tries = [
            build_trie(units, min_shared=self.min_shared) for units in self.validation_groups()
        ]
        step_size = losses.count_targets(self.validation)
        totals = self.runner.run(tries, step_size, learn=False)
        values: dict[str, Any] = {"step": step, "loss": totals.loss, "rows": step_size[0]}
        values |= totals.averages()
        if self.config.stage == "dpo":
            values["pair_accuracy"] = values.pop("pairs_ordered_share")
            values["chosen_more_likely_share"] = totals.preferred / totals.pairs
        return values

    # Files.

    def export(self) -> None:
        """Writes the trained model."""
        weights = self.updates.gather_weights()
        if self.ranks.first:
            card = render_card(self.config, self.source, len(self.units), len(self.schedule))
            write_export(
                self.edges, weights, self.source, self.tokenizer, self.config,
                dtype=self.dtype, card=card,
            )  # fmt: skip
        self.ranks.barrier()

    def facts(self) -> dict[str, Any]:
        """Returns the facts that a checkpoint must agree with to be resumed."""
        return {
            "config": self.config.model_dump(mode="json"),
            "data_hash": checkpoint.hash_units(self.units),
            "model": dataclasses.asdict(self.shape),
            "world": self.ranks.world,
        }

    def resume(self) -> int:
        """Loads the newest checkpoint of this run; returns the number of steps it has done.

        Raises:
            TrainingError: The folder holds another run; says what differs.
        """
        self.checkpoints = checkpoint.Checkpoints(
            self.out / "checkpoints", self.ranks, keep=self.config.keep_checkpoints
        )
        newest = self.checkpoints.newest(self.say)
        if newest is None:
            return 0
        done, manifest = newest
        checkpoint.check_same_run(manifest, self.facts(), self.out)
        self.checkpoints.load(done, self.updates)
        self.say(f"resumed after step {done}/{len(self.schedule)}")
        return done

    def open_metrics(self, done: int) -> MetricsWriter:
        """Writes the settings and opens the log, without what follows the step resumed from."""
        config = self.config
        if not self.ranks.first:
            return MetricsWriter(os.devnull)
        write_atomically(self.out / "config.json", config.model_dump_json(indent=2) + "\n")
        dropped = "".join(
            json.dumps({"row": row, "reason": reason}) + "\n" for row, reason in self.report.dropped
        )
        write_atomically(self.out / "dropped.jsonl", dropped)
        path = self.out / "metrics.jsonl"
        last = len(self.schedule)
        # The validation after the last step is made again, as is the end.
        is_between = bool(config.eval_every) and last % max(config.eval_every, 1) == 0
        again = [("end", 0)] if is_between else [("end", 0), ("validation", last)]
        keep_metrics(
            path,
            lambda e: (
                0 < done >= e.get("step", 0) and (e.get("event"), e.get("step", 0)) not in again
            ),
        )
        mirrors = open_mirrors(config.log_to, self.out, config.model_dump())
        metrics = MetricsWriter(path, mirrors=mirrors)
        metrics.write(
            event="resume" if done else "start",
            stage=config.stage,
            kernel=self.kernel,
            kernels_rejected=self.kernels_rejected,
            rows=len(self.units),
            steps=len(self.schedule),
            probe_nat=self.probe.trie_nat if self.probe else None,
            probe_own_nat=self.probe.own_nat if self.probe else None,
            world=self.ranks.world,
            step=done,
        )
        return metrics

    def run(self) -> dict[str, Any]:
        """Trains; returns a summary. The same call on a finished folder returns its summary."""
        config = self.config
        finished = checkpoint.load_finished_summary(config)
        if finished is not None:
            self.say(f"{self.out} is finished; nothing to do")
            return finished
        with checkpoint.lock_run(self.out, self.ranks):
            return self._run()

    def _run(self) -> dict[str, Any]:
        config, began = self.config, time.monotonic()
        self.load_rows()
        self.check_plan()
        self.load_model()
        if config.stage != "sft":
            self.load_reference()
        # After the reference, which is computed from the weights that training starts from.
        done = self.resume()
        with self.open_metrics(done) as metrics:
            if not done:
                self._validate(0, metrics, "before")
            self.run_steps(done, metrics)
            self.checkpoints.finish()
            self._validate(len(self.schedule), metrics, "after")
            self.export()
            summary = {
                "stage": config.stage,
                "rows": len(self.units),
                **(checkpoint.summarise_metrics(metrics.path) if self.ranks.first else {}),
                "total_s": time.monotonic() - began,
                "export": str(self.out / "export"),
            }
            metrics.write(event="end", **summary)
        if self.ranks.first:
            write_atomically(self.out / "summary.json", json.dumps(summary, indent=2) + "\n")
        self.say(f"exported to {summary['export']}")
        return summary

    def _validate(self, step: int, metrics: MetricsWriter, when: str) -> None:
        if not self.validation:
            return
        values = self.evaluate(step)
        metrics.write(event="validation", **values)
        text = f"loss {values['loss']:.4f}"
        if "pair_accuracy" in values:
            text += f", pair accuracy {values['pair_accuracy']:.0%}"
        self.say(f"validation {when}: {text} ({values['rows']} rows)")

    def run_steps(self, done: int, metrics: MetricsWriter) -> None:
        """Runs the remaining steps."""
        config, total = self.config, len(self.schedule)
        with Progress(f"{config.stage} steps", total, done=done, quiet=not self.ranks.first) as bar:
            for step in range(done + 1, total + 1):
                values = self.run_step(step - 1)
                metrics.write(event="step", **values)
                bar.update(step, note=render_step(values))
                if config.eval_every and self.validation and step % config.eval_every == 0:
                    metrics.write(event="validation", **self.evaluate(step))
                if config.save_every and step % config.save_every == 0:
                    # What is learnt is not learnt again, so its figures must be there, too.
                    metrics.sync()
                    self.checkpoints.save(step, self.updates, self.facts())


def train(config: TrainConfig) -> dict[str, Any]:
    """Runs SFT, DPO or distillation and returns a summary of the run.

    Raises:
        TrainingError: The rows, the model or the settings do not allow it; says what would.
        ModelNotFoundError: There is no such model.
    """
    if not config.dataset or not config.model or not config.out:
        raise UsageError("Training needs a data set, a model and an output folder.")
    try:
        return Run(config).run()
    finally:
        parallel.stop_ranks()
