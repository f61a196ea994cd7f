"""Each family of models is asked and trained exactly, by the ways that docs/models.md says.

`python tests/test_families.py` measures again and writes the table.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB_SIZE, check_asking, make_config, make_model
from trie_gradients import Sample, backward_plan, gradients, separate, wide_floats, worst

from agenticlu.training import attention
from agenticlu.training.model import EdgeModel
from agenticlu.training.parallel import Ranks
from agenticlu.training.probe import confirm_sharing
from agenticlu.training.sharing import (
    UNSHARED,
    Sharing,
    choose_sharing,
    find_dropout,
    switch_dropout_off,
)
from agenticlu.training.trie import TriePlan, build_plan

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
HEAD = "| family | asked | nat | trained | nat | gradients | resumed |"
ASKED = {
    "shared": "one shared cache",
    "cached": "its cache, copied",
    "replies": "its cache, from the start",
    "plain": "no cache",
}
ALONE = Ranks(0, 1, torch.device("cpu"), 1)


@dataclass(frozen=True)
class Row:
    """What was measured for a family."""

    family: str
    asked: str
    asked_nat: float
    """Largest difference of a log-probability from reading each conversation alone, in fp32."""
    greedy: bool
    """Whether every greedy token was the same."""
    way: str
    nat: float
    """Root mean square difference of a token's log-probability from its row alone, in fp32."""
    gradients: float
    """Largest difference of a gradient from that of separate rows, over the largest, in fp64."""
    resumed: bool
    """Whether a run that was stopped and resumed ends in the same bits."""

    def render(self) -> str:
        resumed = "same bits" if self.resumed else "no"
        return (
            f"| `{self.family}` | {self.asked} | {bound(self.asked_nat, 1e-4)} | {self.way} "
            f"| {bound(self.nat, 1e-5)} | {bound(self.gradients, 1e-12)} | {resumed} |"
        )


def bound(value: float, least: float) -> str:
    """The next power of ten, at least `least`: the last digits depend on the machine."""
    return f"< 1e{max(math.floor(math.log10(value)) + 1, round(math.log10(least)))}"


def draw_sample() -> Sample:
    """Traces longer than any window, on both sides of the length at which longrope switches."""
    generator = np.random.default_rng(5)
    root, stem, *leaves = (generator.integers(3, VOCAB_SIZE, n) for n in (40, 9, 5, 6, 20, 1))
    traces = [
        np.concatenate((root, stem, leaves[0])), np.concatenate((root, stem, leaves[1])),
        np.concatenate((root, leaves[2], leaves[0])), np.concatenate((root, stem, leaves[3])),
    ]  # fmt: skip
    return Sample(traces, [np.arange(len(ids)) >= 36 for ids in traces])


def prepare(family: str, dtype: torch.dtype, sharing: Sharing | None = None) -> EdgeModel:
    """Returns a new model of the family; with `sharing`, ready to be trained that way."""
    off = dict.fromkeys(switch_dropout_off(make_config(family)), 0.0)
    model = make_model(family, **off).to(dtype)
    find_dropout(model)
    if dtype == torch.float64 and model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    edges = EdgeModel(model)
    if sharing is not None and sharing.separate:
        edges.separate_rows(alone=sharing.alone)
    return edges.train()


def plan_of(sample: Sample, sharing: Sharing) -> TriePlan:
    return build_plan(sample.traces, sample.masks, min_shared=UNSHARED if sharing.separate else 1)


def measure_gradients(family: str, sharing: Sharing) -> float:
    sample = draw_sample()
    with wide_floats():
        edges = prepare(family, torch.float64, sharing)
        loss = backward_plan(edges, plan_of(sample, sharing), len(sample.traces))
        got = gradients(edges.model)
        expected_loss = separate(edges.model, sample)
        return max(worst(got, gradients(edges.model)), abs(loss - expected_loss) / expected_loss)


def run_step(edges: EdgeModel, optimizer: torch.optim.Optimizer, plan: TriePlan) -> None:
    backward_plan(edges, plan, plan.num_traces)
    optimizer.step()
    optimizer.zero_grad()


def measure_resumption(family: str, sharing: Sharing) -> bool:
    sample, saved, ends = draw_sample(), io.BytesIO(), []
    for resumed in (False, True):
        edges = prepare(family, torch.float32, sharing)
        optimizer = torch.optim.AdamW(edges.parameters(), lr=1e-3)
        plan = plan_of(sample, sharing)
        if not resumed:
            run_step(edges, optimizer, plan)
            torch.save((edges.state_dict(), optimizer.state_dict()), saved)
        else:
            saved.seek(0)
            weights, state = torch.load(saved)
            edges.load_state_dict(weights)
            optimizer.load_state_dict(state)
        run_step(edges, optimizer, plan)
        ends.append(edges.state_dict())
    return all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def measure(family: str) -> Row:
    before = attention.counter.path_calls
    edges = prepare(family, torch.float32)
    sharing, probe = confirm_sharing(edges, "cpu", choose_sharing(edges.model.config), ALONE)
    assert probe is not None
    way = "trie"
    if sharing.separate:
        way = f"row after row: {sharing.reason}"
    else:
        if edges.recurrent_layers:
            way += ", recurrent states branch"
        if attention.counter.path_calls > before:
            way += ", attention along paths"
    asked = check_asking(family)
    return Row(
        family, ASKED[asked.way.rung], asked.difference, asked.greedy, way, probe.trie_nat,
        measure_gradients(family, sharing), measure_resumption(family, sharing),
    )  # fmt: skip


def documented() -> dict[str, str]:
    block = re.search(r"<!-- families -->\n(.*?)<!-- /families -->", PAGE.read_text(), re.DOTALL)
    assert block
    lines = block.group(1).strip().splitlines()
    assert lines[0] == HEAD
    return {line.split("`")[1]: line for line in lines[2:]}


def test_the_table_has_every_family() -> None:
    assert list(documented()) == list(FAMILIES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_asked_and_trained_as_documented(family) -> None:
    torch.set_num_threads(1)
    row = measure(family)
    assert row.greedy
    assert row.nat < 3e-5
    assert row.gradients < 1e-9
    assert row.resumed
    _, asked, asked_nat, way, nat, gradient, _ = documented()[family].strip("| ").split(" | ")
    assert (row.asked, row.way) == (asked, way), "run: python tests/test_families.py"
    measured = ((row.asked_nat, asked_nat), (row.nat, nat), (row.gradients, gradient))
    for value, cell in measured:
        assert value < 10 * float(cell.strip(" <")), "run: python tests/test_families.py"


def render_table() -> str:
    torch.set_num_threads(1)
    lines = [
        HEAD,
        "|---|---|---|---|---|---|---|",
        *(measure(family).render() for family in FAMILIES),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    begin = text.index("<!-- families -->\n") + len("<!-- families -->\n")
    PAGE.write_text(text[:begin] + render_table() + text[text.index("<!-- /families -->") :])
