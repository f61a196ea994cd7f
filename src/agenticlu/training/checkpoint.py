"""Files of a training run: checkpoints, identity, summary, and the reference model's cache.

Checkpoints are sharded and can be resumed on another number of ranks.
torch.distributed.checkpoint writes into `step-N.part`, which is renamed to `step-N` once its
manifest is in place, so a folder named `step-N` is complete. A killed or failed write leaves the
previous checkpoint untouched. Nothing outside the run's folder is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed.checkpoint.state_dict_loader as loader
import torch.distributed.checkpoint.state_dict_saver as saver
from torch.distributed.checkpoint.api import CheckpointException

from agenticlu.core.errors import StoreError, TrainingError
from agenticlu.core.files import (
    Closing,
    DirectoryLock,
    load_json_object,
    load_rows,
    sync_directory,
    write_atomically,
)
from agenticlu.core.progress import read_metrics
from agenticlu.training.config import TrainConfig
from agenticlu.training.encode import Unit
from agenticlu.training.parallel import Ranks
from agenticlu.training.updates import State, Updates

VERSION = 1
MANIFEST = "manifest.json"
LOCK_NAME = "train.lock"
MAY_CHANGE = frozenset({
    "out", "threads", "save_every", "keep_checkpoints", "eval_every", "log_to", "timeout_s",
    "context_parallel", "context_mode", "checkpointing", "offload", "attention_kernel",
    "edge_chunk", "compile", "shard", "validation_rows", "leaf_groups_tokens", "lora_merge",
    "bad_rows",
})  # fmt: skip
"""Settings that do not affect what is learnt; a run may be resumed with other values."""
_FACTS: dict[str, type] = {"step": int, "model": dict, "config": dict, "data_hash": str}
"""What every manifest says."""
_FAILURES = (OSError, RuntimeError, CheckpointException)


class DamagedError(TrainingError):
    """A checkpoint is not what was written."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, ranks: Ranks, *, keep: int) -> None:
        self.folder = folder
        self.ranks = ranks
        self.keep = keep
        self._pending: tuple[Any, Path, dict[str, Any]] | None = None
        if ranks.first:
            for part in folder.glob("step-*.part"):
                shutil.rmtree(part)

    def steps(self) -> list[int]:
        """Returns the steps of complete checkpoints, ascending."""
        return sorted(
            int(path.parent.name.removeprefix("step-"))
            for path in self.folder.glob(f"step-*/{MANIFEST}")
            if path.parent.suffix != ".part"
        )

    def newest(self, say: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
        """Returns step and manifest of the newest checkpoint that is as it was written, if any.

        Args:
            say: Told of those that are passed over because they are damaged.

        Raises:
            TrainingError: All are damaged, or a newer version of agenticlu wrote one.
        """
        steps: list[int] = self.ranks.same(self.steps())
        problem = ""
        for step in reversed(steps):
            problem = self._find_damage(step)
            if not problem:
                return step, self.manifest(step)
            say(f"{problem}; the checkpoint before it is looked for")
        if problem:
            raise TrainingError(
                f"No checkpoint in {self.folder} is whole: {problem}.",
                hint=_start_afresh(self.folder.parent),
            )
        return None

    def _find_damage(self, step: int) -> str:
        """Returns what is wrong with a checkpoint; empty where nothing is. Ranks share the work."""
        folder, problem = self.folder / f"step-{step}", ""
        try:
            files = sorted(self.manifest(step).get("files", {}).items())
            for name, digest in files[self.ranks.rank :: self.ranks.world]:
                if _hash_file(folder / name) != digest:
                    problem = f"{folder / name} is damaged: its checksum is not that written"
        except DamagedError as error:
            problem = error.message
        except OSError as error:
            problem = f"{folder} cannot be read: {error.strerror}"
        if not self.ranks.max(float(bool(problem))):
            return ""
        return problem or f"{folder} is damaged"

    def manifest(self, step: int) -> dict[str, Any]:
        """Reads a checkpoint's manifest.

        Raises:
            TrainingError: It is damaged (`DamagedError`), or of a newer version of agenticlu.
        """
        path = self.folder / f"step-{step}" / MANIFEST
        try:
            values = json.loads(path.read_bytes())
            version = values["version"]
            if version > VERSION:
                raise TrainingError(
                    f"{path.parent} was written by a newer agenticlu (format {version}).",
                    hint="Update agenticlu, or give another --out.",
                )
            of_kind = all(isinstance(values[key], kind) for key, kind in _FACTS.items())
            if not of_kind or values.get("sha256", _hash_values(values)) != _hash_values(values):
                raise ValueError("it is not what was written")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(
                f"{path} is damaged ({error})", hint="Delete its folder to go on without it."
            ) from error
        found: dict[str, Any] = values
        return found

    def save(self, step: int, updates: Updates, facts: Mapping[str, Any]) -> None:
        """Saves a checkpoint; on several ranks it is written while training continues.

        Raises:
            TrainingError: It cannot be written; the last complete one remains.
        """
        self.finish()
        part = self.folder / f"step-{step}.part"
        manifest = {"version": VERSION, "step": step, **facts}
        if self.ranks.first:
            with self._write_errors(part):
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
        self.ranks.barrier()
        state = updates.save_state()
        if self.ranks.world > 1:
            future = saver.async_save(
                state, checkpoint_id=part, process_group=self.ranks.checkpoint_group
            )
            self._pending = (future, part, manifest)
            return
        with self._write_errors(part):
            with _quiet():
                saver.save(state, checkpoint_id=part, no_dist=True)
            self._publish(part, manifest)

    def finish(self) -> None:
        """Waits for the checkpoint being written, if any, and publishes it."""
        if self._pending is None:
            return
        future, part, manifest = self._pending
        self._pending = None
        with self._write_errors(part):
            future.result()
            if self.ranks.first:
                self._publish(part, manifest)
        self.ranks.barrier()

    def _publish(self, part: Path, manifest: dict[str, Any]) -> None:
        files = sorted(path for path in part.rglob("*") if path.is_file())
        manifest["files"] = {str(path.relative_to(part)): _hash_file(path) for path in files}
        manifest["sha256"] = _hash_values(manifest)
        write_atomically(part / MANIFEST, json.dumps(manifest, indent=2))
        complete = part.with_suffix("")
        shutil.rmtree(complete, ignore_errors=True)
        part.rename(complete)
        # Before older ones go: a power failure must leave either.
        sync_directory(self.folder)
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{step}")

    @contextlib.contextmanager
    def _write_errors(self, part: Path) -> Iterator[None]:
        try:
            yield
        except (*_FAILURES, StoreError) as error:
            shutil.rmtree(part, ignore_errors=True)
            good = self.steps()
            kept = (
                f"the checkpoint of step {good[-1]} remains" if good else "there is no earlier one"
            )
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = lines[-1] if lines else type(error).__name__
            raise TrainingError(
                f"Could not write the checkpoint {part.with_suffix('')} ({reason}); {kept}.",
                hint="Free space and run the same command again; it resumes from there.",
            ) from error

    def load(self, step: int, updates: Updates) -> None:
        """Loads a checkpoint, whatever number of ranks wrote it, and under whichever engine."""
        folder = self.folder / f"step-{step}"

        def read(state: State) -> None:
            with _quiet():
                loader.load(state, checkpoint_id=folder, no_dist=self.ranks.world == 1)

        try:
            updates.load_state(read)
        except _FAILURES as error:
            raise TrainingError(
                f"Could not read the checkpoint {folder}: {str(error).strip().splitlines()[0]}",
                hint="Delete it to resume from the one before, or from the start.",
            ) from error


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_values(values: Mapping[str, Any]) -> str:
    """Returns the checksum of a manifest, by its values; its own aside."""
    own = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def lock_run(out: Path, ranks: Ranks) -> Closing:
    """Creates the folder of a run and keeps other processes from training into it.

    Raises:
        StoreError: Another process trains into it, or it cannot be written; on every rank.
    """
    lock, problem = Closing(), None
    if ranks.first:
        busy = StoreError(
            f"Another process is training into {out}.",
            hint="Wait until it ends, or give another --out.",
        )
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = DirectoryLock(out / LOCK_NAME, busy=busy)
        except StoreError as error:
            problem = error
        except OSError as error:
            problem = StoreError(f"Cannot write to {out}: {error.strerror}.")
    problem = ranks.same(problem)
    if problem is not None:
        raise problem
    return lock


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides torch's warning that a single process is not distributed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Lists the settings that affect learning and differ; empty when none does."""
    return "; ".join(
        f"{key} was {before.get(key)!r}, now {value!r}"
        for key, value in now.items()
        if key not in MAY_CHANGE and before.get(key) != value
    )


def check_same_run(manifest: dict[str, Any], facts: dict[str, Any], out: Path) -> None:
    """Refuses to resume a checkpoint of another run.

    Raises:
        TrainingError: Model, settings or rows differ; names what does.
    """
    model = [key for key, value in facts["model"].items() if manifest["model"][key] != value]
    changes = _find_changes(manifest["config"], facts["config"])
    if model:
        problem = f"is of another model: {', '.join(model)} differ"
    elif changes:
        problem = f"was made with other settings: {changes}"
    elif manifest["data_hash"] != facts["data_hash"]:
        problem = f"was trained on other rows than those of {facts['config']['dataset']}"
    else:
        return
    raise TrainingError(f"The checkpoint in {out} {problem}.", hint=_start_afresh(out))


def _start_afresh(out: Path) -> str:
    return f"Give another --out, or delete {out} to start afresh."


def load_finished_summary(config: TrainConfig) -> dict[str, Any] | None:
    """Loads the summary of a folder in which this very run has finished; None if it has not.

    Raises:
        TrainingError: Another run has finished there.
    """
    out = Path(config.out)
    if not (out / "summary.json").is_file() or not (out / "export").is_dir():
        return None
    before = load_json_object(out / "config.json")
    if changes := _find_changes(before, config.model_dump(mode="json")):
        raise TrainingError(
            f"{out} holds another finished run: {changes}.", hint=_start_afresh(out)
        )
    return load_json_object(out / "summary.json") or None


def summarise_metrics(path: Path) -> dict[str, Any]:
    """Sums up a run's metrics.jsonl, including the steps before a resume."""
    events = list(read_metrics(path))
    steps = [event for event in events if event["event"] == "step"]
    stored = sum(event["stored_tokens"] for event in steps)
    traces = sum(event["trace_tokens"] for event in steps)
    summary: dict[str, Any] = {
        "steps": len(steps),
        "trace_tokens": traces,
        "stored_tokens": stored,
        "sharing": traces / max(stored, 1),
        "steps_s": sum(event["step_s"] for event in steps),
        "final_loss": steps[-1]["loss"] if steps else None,
    }
    validation = [event for event in events if event["event"] == "validation"]
    if validation:
        summary["validation_before"], summary["validation_after"] = validation[0], validation[-1]
    return summary


def hash_units(units: Sequence[Unit]) -> str:
    """Returns a hash of the rows trained on, in order."""
    digest = hashlib.blake2b(digest_size=16)
    known: dict[int, bytes] = {}  # a document is one piece of many traces: read once
    for unit in units:
        digest.update(f"{unit.id}|{unit.document_id}".encode())
        read = () if unit.evidence is None else (unit.evidence,)
        for trace in (*unit.traces, *read):
            digest.update(repr(trace.spans).encode())
            for piece in trace.pieces:
                if id(piece) not in known:
                    known[id(piece)] = hashlib.blake2b(piece.tobytes(), digest_size=16).digest()
                digest.update(known[id(piece)])
    return digest.hexdigest()


def hash_model(folder_or_name: str, *parts: str) -> str:
    """Returns a hash of a model's weights and configuration, and of further parts."""
    digest = hashlib.blake2b(digest_size=16)
    model = Path(folder_or_name)
    if model.exists():
        for path in sorted(model.iterdir()) if model.is_dir() else [model]:
            is_config = path.name in ("config.json", "adapter_config.json")
            if path == model or is_config or path.suffix in (".safetensors", ".bin"):
                digest.update(path.name.encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 22):
                        digest.update(block)
    else:
        digest.update(folder_or_name.encode())
    for part in parts:
        digest.update(b"|" + part.encode())
    return digest.hexdigest()


class ReferenceStore(Mapping[bytes, float]):
    """Log-probability of each trace's targets under one DPO reference, kept on disk.

    A folder per reference model (hash of its weights, adapter and dtype) holds one append-only
    JSONL file per rank. Traces are found by `Trace.digest`, whatever batch or pair they are in;
    changed ids, targets, weights or dtypes have another digest or folder.
    """

    def __init__(self, folder: Path, model_hash: str, *, rank: int = 0) -> None:
        self.folder = folder / model_hash
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own_file = self.folder / f"rank-{rank}.jsonl"
        self._logp: dict[bytes, float] = {}
        self.computed = 0
        """Records added by this process."""
        self.reload()

    def reload(self) -> None:
        """Reads the records of all ranks; a torn one is skipped with a warning."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for row in load_rows(path, error=TrainingError, skip_torn=True):
                self._logp[bytes.fromhex(row["trace"])] = row["logp"]

    def add(self, records: Iterable[tuple[bytes, float]]) -> None:
        """Appends the records that are not stored yet."""
        new = {digest: float(logp) for digest, logp in records if digest not in self}
        self._logp |= new
        self.computed += len(new)
        lines = [json.dumps({"trace": digest.hex(), "logp": logp}) for digest, logp in new.items()]
        with self._own_file.open("a", encoding="utf-8") as file:
            file.writelines(f"\n{line}" for line in lines)  # ends a torn line first

    def sums(self, digests: Iterable[bytes]) -> npt.NDArray[np.float64]:
        """Returns the log-probabilities of some traces."""
        return np.array([self[digest] for digest in digests])

    def __getitem__(self, digest: bytes) -> float:
        return self._logp[digest]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._logp)

    def __len__(self) -> int:
        return len(self._logp)
