# ruff: noqa: N815 (shapes live in names)
"""Distillation from evidence: the model over the whole text learns from itself over the evidence.

The teacher is the model as training finds it, shown only the paragraphs that matter; the student
reads the whole document. At each token of a reply that the student has given, the reverse
divergence KL(student || teacher) is a loss (after arXiv 2504.17535). The teacher is kept by its k
likeliest tokens, computed once; all other tokens are one event, so nothing is cut off: with
P the student's and T the teacher's probabilities of these k + 1 events,

    loss = sum(P * log(P / T))            dloss / dlogit_v = p_v * (log(P / T) of v's event - loss)

A supervised token of a trace is one term, at whatever edge of the trie it lies, so sharing and
context parallelism change nothing.

Legend: S rows, C width, V vocabulary, E edges, K supervised tokens of all traces, k kept tokens.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agenticlu.core.errors import TrainingError
from agenticlu.training.losses import HeadGradients, compute_logits
from agenticlu.training.trie import IntArray, TriePlan

Kept = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Ids and log-probabilities of the teacher's likeliest tokens, (targets, k) each."""
SMALLEST = 1e-6
"""Least probability of what is not among the kept tokens; fp32 cannot tell smaller ones from 0."""


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of the supervised tokens of a trie."""

    sources_K: Tensor
    """Row whose hidden state predicts the token."""
    ids_Kk: Tensor
    """The teacher's likeliest tokens there."""
    logp_Kk: Tensor
    """Their log-probabilities."""


class _Divergences(torch.autograd.Function):
    """Divergences chunk by chunk; the logits are computed again in backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, lesson: Lesson,
        chunk: int, logit_scale: float, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(hidden, weight, bias, lesson.sources_K, lesson.ids_Kk, lesson.logp_Kk)
        ctx.chunk, ctx.logit_scale, ctx.softcap = chunk, logit_scale, softcap
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = len(lesson.sources_K)
        loss_K = torch.empty(total, dtype=wide, device=hidden.device)
        for start in range(0, total, chunk):
            part = slice(start, start + chunk)
            h = hidden[lesson.sources_K[part]]
            logits = compute_logits(h, weight, bias, logit_scale, softcap, wide)
            loss_K[part] = _compare(logits, lesson.ids_Kk[part], lesson.logp_Kk[part])[0]
        return loss_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_K,) = grads
        hidden, weight, bias, sources, ids, logp = ctx.saved_tensors
        wide = grad_K.dtype
        gathered = HeadGradients(ctx, hidden, weight, bias, wide)
        for start in range(0, len(sources), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            h = hidden[sources[part]]
            logits = compute_logits(h, weight, bias, ctx.logit_scale, ctx.softcap, wide)
            loss, gain_k, gain_rest = _compare(logits, ids[part], logp[part])
            dlogits = (gain_rest - loss).unsqueeze(1).expand_as(logits).clone()
            dlogits.scatter_(1, ids[part], gain_k - loss.unsqueeze(1))
            dlogits.mul_(logits.softmax(1)).mul_(grad_K[part].unsqueeze(1))
            gathered.add(sources[part], h, logits, dlogits)
        return (*gathered.finish(), None, None, None, None)


def _compare(logits: Tensor, ids: Tensor, taught: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the divergences, and log(P / T) of the kept tokens and of all others together."""
    smallest = SMALLEST if logits.dtype == torch.float32 else SMALLEST**2
    taught = taught.to(logits.dtype)
    said = logits.gather(1, ids) - logits.logsumexp(1, keepdim=True)
    rest, taught_rest = ((1.0 - one.exp().sum(1)).clamp_min(smallest) for one in (said, taught))
    gain_k, gain_rest = said - taught, rest.log() - taught_rest.log()
    return (said.exp() * gain_k).sum(1) + rest * gain_rest, gain_k, gain_rest


def edge_divergences(
    hidden_SC: Tensor,
    weight_VC: Tensor,
    lesson: Lesson,
    *,
    bias_V: Tensor | None = None,
    chunk: int = 2048,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Returns KL(student || teacher) of each supervised token, in nat; see the module."""
    result: Tensor = _Divergences.apply(  # type: ignore[no-untyped-call]
        hidden_SC, weight_VC, bias_V, lesson, chunk, logit_scale, softcap
    )
    return result


@torch.no_grad()
def likeliest_tokens(
    hidden_SC: Tensor,
    weight_VC: Tensor,
    sources_E: Tensor,
    most: int,
    *,
    bias_V: Tensor | None = None,
    chunk: int = 2048,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns ids_Ek and logp_Ek of the `most` likeliest tokens after each source."""
    wide = torch.promote_types(hidden_SC.dtype, torch.float32)
    most = min(most, len(weight_VC))
    ids = torch.empty((len(sources_E), most), dtype=torch.int64, device=hidden_SC.device)
    logp = torch.empty((len(sources_E), most), dtype=wide, device=hidden_SC.device)
    for start in range(0, len(sources_E), chunk):
        part = slice(start, start + chunk)
        h = hidden_SC[sources_E[part]]
        logits = compute_logits(h, weight_VC, bias_V, logit_scale, softcap, wide)
        values, ids[part] = logits.topk(most, dim=1)
        logp[part] = values - logits.logsumexp(1, keepdim=True)
    return ids, logp


def build_lesson(
    plan: TriePlan, own_edges: IntArray, sources_e: Tensor, kept: Kept
) -> tuple[Lesson, IntArray]:
    """Returns what is taught at this rank's edges, and the numbers K of these tokens.

    Args:
        plan: The trie of the students' traces.
        own_edges: Numbers of this rank's edges in the plan, ascending.
        sources_e: This rank's row of the source of each.
        kept: The teacher's tokens, in the order of the trie's supervised tokens.
    """
    ids_Kk, logp_Kk = kept
    own_K = np.flatnonzero(np.isin(plan.edge_of_K, own_edges))
    edges = np.searchsorted(own_edges, plan.edge_of_K[own_K])
    device = sources_e.device
    places, ids, logp = (
        torch.from_numpy(array).to(device)
        for array in (edges, ids_Kk[own_K].astype(np.int64), logp_Kk[own_K])
    )
    return Lesson(sources_e[places], ids, logp), own_K


def split_by_trace(plan: TriePlan, ids_E: Any, logp_E: Any) -> Iterator[Kept]:
    """Yields the rows of each trace's supervised tokens."""
    for trace in range(plan.num_traces):
        edges = plan.edge_of_K[plan.trace_of_K == trace]
        yield ids_E[edges].astype(np.int32), logp_E[edges].astype(np.float32)


class TeacherStore:
    """What one teacher says of each trace, kept on disk and read when it is needed.

    A folder per teacher (hash of its weights, dtype and k) holds one SQLite file per rank, which
    that rank alone writes. Traces are found by `Trace.digest` of what the teacher read.
    """

    def __init__(self, folder: Path, model_hash: str, *, rank: int = 0) -> None:
        self.folder = folder / model_hash
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own_file = self.folder / f"rank-{rank}.sqlite"
        with self._writing():
            self._own = sqlite3.connect(self._own_file)
            self._own.execute(
                "CREATE TABLE IF NOT EXISTS taught (trace BLOB PRIMARY KEY, k INT, ids BLOB, "
                "logp BLOB)"
            )
        self._readers: list[sqlite3.Connection] = []
        self._where: dict[bytes, sqlite3.Connection] = {}
        self.reload()

    def reload(self) -> None:
        """Looks at the files of all ranks."""
        for reader in self._readers:
            reader.close()
        self._readers, self._where = [], {}
        for path in sorted(self.folder.glob("*.sqlite")):
            try:
                reader = sqlite3.connect(path)
                found = reader.execute("SELECT trace FROM taught").fetchall()
            except sqlite3.Error as error:
                raise TrainingError(
                    f"{path} cannot be read: {error}", hint="Delete it; it is computed again."
                ) from error
            self._readers.append(reader)
            self._where |= {bytes(trace): reader for (trace,) in found}

    def __contains__(self, digest: object) -> bool:
        return digest in self._where

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def add(self, records: Iterable[tuple[bytes, Kept]]) -> None:
        """Stores what the teacher says of some traces."""
        with self._writing(), self._own:
            for digest, (ids, logp) in records:
                self._own.execute(
                    "INSERT OR IGNORE INTO taught VALUES (?, ?, ?, ?)",
                    (
                        digest,
                        ids.shape[1],
                        ids.astype("<i4").tobytes(),
                        logp.astype("<f4").tobytes(),
                    ),
                )
                self._where.setdefault(digest, self._own)

    def read(self, digests: Sequence[bytes]) -> Kept:
        """Returns what the teacher says of traces, one after another."""
        found = [self._read(digest) for digest in digests]
        ids, logp = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(logp)

    def _read(self, digest: bytes) -> Kept:
        k, ids, logp = (
            self._where[digest]
            .execute("SELECT k, ids, logp FROM taught WHERE trace = ?", (digest,))
            .fetchone()
        )
        return (
            np.frombuffer(ids, "<i4").reshape(-1, k),
            np.frombuffer(logp, "<f4").reshape(-1, k),
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise TrainingError(
                f"Cannot write {self._own_file}: {error}", hint="Free some space, then run again."
            ) from error
