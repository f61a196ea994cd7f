"""The check at the start of a run: a trie gives a model's own log-probabilities of its traces.

How far apart they may be follows from the model: its stock attentions, one trace at a time and all
in a batch, already differ by rounding, and a trie may differ by little more. What rounding hides
is decided in fp32.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from agenticlu.core.errors import TrainingError
from agenticlu.training.losses import FloatArray
from agenticlu.training.model import EdgeModel
from agenticlu.training.parallel import Ranks
from agenticlu.training.separate import set_attention
from agenticlu.training.sharing import UNSHARED, Sharing
from agenticlu.training.trie import TriePlan, TrieSegment, build_plan, build_rectangles

FACTOR = 2.0
"""A trie may differ by this many times what the model's own kernels differ by."""
FLOOR_NAT = 1e-5
"""Allowed in any case: two kernels may also agree to the last bit."""
MOST_CUT_NAT = 1e-3
"""A recurrence that is cut and gone on from differs by less, if only by rounding."""
ROOT_TOKENS = 24
OWN_ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class ProbeResult:
    """Differences from the traces one by one, as root mean squares over branch tokens, in nat."""

    trie_nat: float
    own_nat: float
    """Of the model's own kernels among each other: its rounding."""
    wrong_mask_nat: float
    """Of a trie whose traces see each other, on purpose."""
    wrong_positions_nat: float
    """Of a trie that counts positions through all branches, on purpose."""
    dtype: torch.dtype

    @property
    def allowed_nat(self) -> float:
        """Largest difference that passes for rounding."""
        return max(FACTOR * self.own_nat, FLOOR_NAT)

    @property
    def agrees(self) -> bool:
        """Whether the trie is right."""
        return self.trie_nat <= self.allowed_nat  # false for NaN, too

    @property
    def sees_mask(self) -> bool:
        """Whether a wrong mask would have been noticed."""
        return self.wrong_mask_nat > 2 * self.allowed_nat

    @property
    def sees_positions(self) -> bool:
        """Whether wrong positions would have been noticed."""
        return self.wrong_positions_nat > 2 * self.allowed_nat

    def render(self) -> str:
        """Renders the result for a line of the log."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.trie_nat:.0e} nat in {dtype} (its own kernels differ by {self.own_nat:.0e})"


def confirm_sharing(
    edges: EdgeModel, kernel: str, sharing: Sharing, ranks: Ranks
) -> tuple[Sharing, ProbeResult | None]:
    """Prepares a model for the way of training that was chosen for it, and checks it on one rank.

    Returns:
        The way, which is one row after another where a trie turned out not to be exact; and the
        difference, where it was measured.

    Raises:
        TrainingError: Separate rows are not what the model computes, either; or ranks are to share
            one.
    """
    result = None
    if ranks.first and not sharing.separate:
        try:
            result = probe_model(edges, kernel)
        except torch.OutOfMemoryError:
            raise
        # Layers that were never meant to see a plan fail in ways of their own.
        except (TrainingError, ArithmeticError, AttributeError, LookupError, RuntimeError,
                TypeError, ValueError) as error:  # fmt: skip
            reason = str(error).removeprefix(f"{type(edges.causal_lm()).__name__}: ").rstrip(".")
            sharing = Sharing(True, reason.splitlines()[0] if reason else type(error).__name__)
    sharing = ranks.same(sharing)
    if not sharing.separate:
        return sharing, result
    if ranks.context > 1:
        raise TrainingError(
            f"{sharing.render(type(edges.causal_lm()).__name__)}. Ranks cannot share a row.",
            hint="Use --context-parallel 1.",
        )
    edges.separate_rows(alone=sharing.alone)
    return sharing, probe_model(edges, kernel) if ranks.first else None


@torch.no_grad()
def probe_model(edges: EdgeModel, kernel: str) -> ProbeResult:
    """Compares a small trie with its traces one by one through the model's own attention.

    Raises:
        TrainingError: They differ by more than rounding, or a wrong plan would not be noticed.
    """
    model = edges.causal_lm()
    dtype = next(model.parameters()).dtype
    separate = edges.rows is not None
    sample = _Sample.draw(int(model.config.get_text_config().vocab_size), shared=not separate)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        result = _compare(edges, kernel, sample, dtype)
        sure = result.agrees and result.sees_mask and (separate or result.sees_positions)
        if dtype.itemsize < 4 and not sure:
            with contextlib.suppress(torch.OutOfMemoryError), _in_fp32(model):
                result = _compare(edges, "plain", sample, torch.float32)
    finally:
        for module, training in modes:
            module.training = training
    kind = type(model).__name__
    if not result.agrees:
        what = "training" if separate else "a trie"
        way = "it" if separate else "training on tries"
        raise TrainingError(
            f"{kind}: {what} gives log-probabilities {result.trie_nat:.1e} nat off those of its "
            f"traces one by one (allowed {result.allowed_nat:.0e}: the model's own kernels differ "
            f"by {result.own_nat:.0e}), so {way} would not be exact.",
            hint="This architecture cannot be trained" + ("." if separate else " on tries."),
        )
    if not result.sees_mask:
        raise TrainingError(
            f"{kind}: a wrong plan changes log-probabilities by {result.wrong_mask_nat:.1e} nat, "
            f"and {result.allowed_nat:.1e} is allowed, so this check of trie attention could not "
            "fail.",
            hint="Train in fp32 (--precision fp32).",
        )
    return result


@dataclass(frozen=True)
class _Sample:
    """A few traces with one root, and the trie of them."""

    traces: tuple[npt.NDArray[np.int64], ...]
    plan: TriePlan

    @classmethod
    def draw(cls, vocabulary: int, *, shared: bool) -> _Sample:
        generator = np.random.default_rng(11)

        def some(count: int) -> npt.NDArray[np.int64]:
            return generator.integers(0, vocabulary, count)

        # All branches go on with the same words: a trained model that sees another branch repeats
        # it, and a wrong mask shows above any rounding.
        root, said = some(ROOT_TOKENS), some(12)
        stems = [np.concatenate((root, some(n))) for n in (9, 9, 6, 6, 0)]
        stems[1], stems[3] = stems[0], stems[2]
        traces = tuple(
            np.concatenate((stem, some(1), said[:length]))
            for stem, length in zip(stems, (8, 12, 7, 10, 9), strict=True)
        )
        masks = [np.arange(len(ids)) > 0 for ids in traces]
        return cls(traces, build_plan(traces, masks, min_shared=1 if shared else UNSHARED))

    def off(self, a: FloatArray, b: FloatArray) -> float:
        """Returns the root mean square difference below the root, where a trie can go wrong."""
        branch = np.concatenate([np.arange(1, len(ids)) >= ROOT_TOKENS for ids in self.traces])
        return float(np.sqrt(np.square(a - b)[branch].mean()))


def _compare(edges: EdgeModel, kernel: str, sample: _Sample, dtype: torch.dtype) -> ProbeResult:
    plan, model = sample.plan, edges.causal_lm()
    rows = np.arange(plan.num_rows)
    whole = TrieSegment(0, plan.num_rows, plan.num_rows, 0, 0, None)
    seeing_all = dataclasses.replace(plan, rectangles=build_rectangles([whole]), segments=(whole,))
    counted_on = dataclasses.replace(plan, positions_S=rows)
    right, mask, positions = (
        edges.run(one, kernel).double().cpu().numpy()[plan.edge_of_K]
        for one in (plan, seeing_all, counted_on)
    )
    expected, *others = _own_logprobs(model, sample, recurrent=edges.recurrent_layers > 0)
    return ProbeResult(
        trie_nat=sample.off(right, expected),
        own_nat=max(sample.off(other, expected) for other in others),
        wrong_mask_nat=sample.off(mask, expected),
        wrong_positions_nat=sample.off(positions, expected),
        dtype=dtype,
    )


def _own_logprobs(model: Any, sample: _Sample, *, recurrent: bool) -> list[FloatArray]:
    """Returns the traces' log-probabilities one by one, then in other ways of transformers' own.

    These are a batch by each stock attention and, since a recurrence rounds by where it is cut, a
    root that is read first and gone on from.
    """
    found: list[FloatArray] = []
    traces, before = sample.traces, model.config._attn_implementation
    try:
        for name in OWN_ATTENTION:
            try:
                set_attention(model, name)
            except (ValueError, ImportError):  # the class has not got it
                continue
            if not found:
                found.append(np.concatenate([_run_batch(model, [ids]) for ids in traces]))
                if recurrent:
                    continued = _run_continued(model, traces)
                    # Some classes cannot go on from a cache by several tokens: not rounding.
                    if sample.off(continued, found[0]) < MOST_CUT_NAT:
                        found.append(continued)
            found.append(_run_batch(model, traces))
    finally:
        set_attention(model, before)
    return found


def _run_batch(model: Any, traces: Sequence[npt.NDArray[np.int64]]) -> FloatArray:
    """Returns the log-probabilities of the traces' tokens but the first, trace after trace."""
    ids = np.zeros((len(traces), max(map(len, traces))), np.int64)  # padded on the right
    for row, trace in enumerate(traces):
        ids[row, : len(trace)] = trace
    rows = torch.from_numpy(ids).to(next(model.parameters()).device)
    return _pick_logprobs(model(input_ids=rows, use_cache=False).logits, rows, traces)


def _run_continued(model: Any, traces: Sequence[npt.NDArray[np.int64]]) -> FloatArray:
    """Like `_run_batch` for one trace at a time, whose root is read first and then gone on from."""
    found = []
    for trace in traces:
        row = torch.from_numpy(trace[None]).to(next(model.parameters()).device)
        start = model(input_ids=row[:, :ROOT_TOKENS], use_cache=True)
        name = "past_key_values" if hasattr(start, "past_key_values") else "cache_params"
        rest = model(input_ids=row[:, ROOT_TOKENS:], use_cache=True, **{name: start[name]})
        found.append(_pick_logprobs(torch.cat((start.logits, rest.logits), 1), row, [trace]))
    return np.concatenate(found)


def _pick_logprobs(
    logits: Tensor, rows: Tensor, traces: Sequence[npt.NDArray[np.int64]]
) -> FloatArray:
    found = []
    for row, (trace, words) in enumerate(zip(traces, rows, strict=True)):
        logp = logits[row, : len(trace) - 1].double().log_softmax(-1)
        found.append(logp.gather(1, words[1 : len(trace), None]).squeeze(1).cpu().numpy())
    return np.concatenate(found)


@contextlib.contextmanager
def _in_fp32(model: nn.Module) -> Iterator[None]:
    """Widens the weights and narrows them again, which loses nothing.

    Not by `Module.to`: it would narrow buffers that are always wide, such as those of rotary
    embeddings.
    """
    before = [(parameter, parameter.dtype) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.data = parameter.data.float()
        yield
    finally:
        for parameter, dtype in before:
            parameter.data = parameter.data.to(dtype)
