"""Run by test_parallel.py, once per rank: the checks that need a process group."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from made_interruption import interrupt_after

from agenticlu.attention.kernels import load_kernel
from agenticlu.training import zero
from agenticlu.training.attention import forward_rectangles, tree_attention
from agenticlu.training.context import MODES, Exchange, clip, rows_in
from agenticlu.training.parallel import start_ranks, stop_ranks
from agenticlu.training.trie import build_plan, count_pairs

spec = importlib.util.spec_from_file_location("shared", Path(__file__).with_name("conftest.py"))
assert spec is not None
assert spec.loader is not None
shared = importlib.util.module_from_spec(spec)
sys.modules["shared"] = shared
spec.loader.exec_module(shared)


def worst(got, expected) -> float:
    pairs = zip(got, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


def check_attention() -> None:
    """Every mode equals one rank; branches stay isolated; a lost piece is noticed."""
    world = dist.get_world_size()
    for seed in range(2):
        sample = shared.draw_tries(seed, num_traces=8, root=60)
        plan = build_plan(sample.traces, sample.masks)
        generator = torch.Generator().manual_seed(seed)
        q, k, v, dout = (
            torch.randn(plan.num_rows, n, 8, generator=generator, dtype=torch.float64)
            for n in (4, 2, 2, 4)
        )
        whole = [x.clone().requires_grad_() for x in (q, k, v)]
        out, _ = tree_attention(*whole, plan.flat_rectangles, 0.3, "cpu")
        expected = [out.detach(), *torch.autograd.grad(out, whole, dout)]
        exchange = Exchange(plan, dist.group.WORLD, "cpu", torch.device("cpu"))
        areas = [sum(map(count_pairs, clip(plan.rectangles, r))) for r in exchange.ranges]
        assert min(areas) > 0
        assert sum(areas) == plan.area
        rows = rows_in(exchange.ranges[exchange.rank])
        for name, mode in MODES.items():
            own = [x[rows].clone().requires_grad_() for x in (q, k, v)]
            attend = mode(exchange)
            out = attend(*own, 0.3)
            got = [out.detach(), *torch.autograd.grad(out, own, dout[rows])]
            own_expected = [x[rows] for x in expected]
            if name == "ulysses" and world <= k.shape[1]:
                assert all(map(torch.equal, got, own_expected)), name
            else:
                assert worst(got, own_expected) < 1e-12, name
            changed = [x.clone() for x in (q, k, v)]
            leaf = plan.segments[-1]
            for x in changed:
                x[leaf.start] += 1.0
            moved = attend(*(x[rows] for x in changed), 0.3) - out.detach()
            inside = (rows >= leaf.start) & (rows < leaf.end)
            assert float(moved[~inside].abs().max()) == 0.0, name
            if inside.any():
                assert float(moved[inside].abs().max()) > 0.0, name
        gather = MODES["gather"](exchange)
        k_all, v_all = exchange.gather_rows(k[rows]), exchange.gather_rows(v[rows])
        assert torch.equal(k_all, k)
        lost = gather.flat[:-5]
        if lost:
            wrong, _ = forward_rectangles(q[rows], k_all, v_all, lost, 0.3, load_kernel("cpu"))
            assert not torch.equal(wrong, expected[0][rows])


def run_config(text: str, folder: Path, number: int) -> None:
    """One training run; with `gradient`, only the first step's gradient is kept.

    With `resumes`, it goes on with what that finished run had after its second step.
    """
    from agenticlu.training.config import TrainConfig
    from agenticlu.training.loop import Run

    given = json.loads(text)
    gradient = given.pop("gradient", False)
    if (resumes := given.pop("resumes", None)) and dist.get_rank() == 0:
        interrupt_after(2, Path(resumes), Path(given["out"]))
    dist.barrier()
    run = Run(TrainConfig.model_validate(given))
    if not gradient:
        run.run()
        return
    run.load_rows()
    run.load_model()
    if run.config.stage != "sft":
        run.load_reference()
    kept = {}

    def keep() -> None:
        for name, parameter in run.edges.named_parameters():
            assert parameter.grad is not None
            kept[name] = parameter.grad.full_tensor()

    run.optimizer.step = keep
    run.run_step(0)
    if run.ranks.first:
        torch.save(kept, folder / f"gradient-{number}.pt")


def main() -> None:
    torch.set_num_threads(1)
    zero.PERSISTENT_ELEMENTS = 0  # weights this small would not be sharded
    folder = Path(sys.argv[1])
    start_ranks(1, timeout_s=60)
    for number, text in enumerate(sys.argv[2:]):
        if text == "attention":
            check_attention()
        else:
            run_config(text, folder, number)
        if dist.get_rank() == 0:
            (folder / f"done-{number}").touch()
    stop_ranks()


if __name__ == "__main__":
    main()
