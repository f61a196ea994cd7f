"""The table of GPU figures, at toy size on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_table.py"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("gpu_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sizes(table):
    return table.Sizes((48,), 4, 8, kernel_prefix=64, decode_prefix=40, decode_tokens=2, rank=2,
                       toy=True)  # fmt: skip


def values(lines) -> dict[str, float]:
    found = {}
    for line in lines:
        assert set(line) == {"name", "value", "unit", "target", "met", "note"}
        assert line["value"] is not None, line["note"]
        assert line["value"] > 0
        assert line["name"] not in found
        found[line["name"]] = line["value"]
    return found


def test_kernels_are_compared_with_the_plain_one(table, sizes) -> None:
    found = values(table.run_kernels(sizes))
    assert found["kernel cpu: off plain, largest of out, dq, dk, dv"] < 0.03
    assert "kernel cpu: faster than plain" in found


def test_a_kernel_that_is_not_here_says_why(table, sizes, monkeypatch) -> None:
    monkeypatch.setattr(
        "agenticlu.attention.kernels.candidates", lambda *_: ("flash", "cpu", "plain")
    )
    lines = {line["name"]: line for line in table.run_kernels(sizes)}
    absent = lines["kernel flash: faster than plain"]
    assert absent["value"] is None
    assert "Error" in absent["note"]
    assert lines["kernel cpu: faster than plain"]["value"] > 0


def test_steps_as_a_trie_and_separate(table, sizes) -> None:
    found = values(table.run_steps("Qwen3-8B", sizes))
    for stage in ("SFT", "DPO"):
        name = f"Qwen3-8B {stage}, 48 tokens + 4 x 8"
        stored, effective = (found[f"{name}: trie, {kind}"] for kind in ("stored", "effective"))
        assert effective / stored == pytest.approx(4 * (48 + 8) / (48 + 4 * 8))
        ratio = found[f"{name}: separate"] / found[f"{name}: trie"]
        assert found[f"{name}: trie faster"] == pytest.approx(ratio)


def test_branches_are_decoded_over_one_copy_and_over_many(table, sizes) -> None:
    found = values(table.run_decoding("Llama-3.1-8B", sizes))
    assert any("sharing faster" in name for name in found)


@pytest.mark.parametrize(("name", "billions"), [("Llama-3.1-8B", 8.03), ("Qwen3-8B", 8.19)])
def test_shapes_have_as_many_weights_as_their_models(table, name, billions) -> None:
    from transformers import AutoConfig

    from agenticlu.training.budget import ModelShape

    values = dict(table.SHAPES[name])
    shape = ModelShape.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    assert shape.total_weights / 1e9 == pytest.approx(billions, abs=0.005)


def test_a_part_is_stopped_at_its_limit_and_keeps_what_it_had(table, tmp_path, monkeypatch) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time, json; path = sys.argv[sys.argv.index('--json') + 1]\n"
        "line = dict(name='a', value=1.0, unit='s', target=None, met=None, note='')\n"
        "open(path, 'w').write(json.dumps(line) + '\\n'); time.sleep(60)\n"
    )
    monkeypatch.setattr(table, "__file__", str(script))
    lines = table.start_part("kernels", 5.0, True, tmp_path / "part")
    assert [line["name"] for line in lines] == ["a", "kernels: not finished"]
    assert lines[1]["note"] == "stopped after 5 s"
    script.write_text("raise SystemExit('no such card')")
    (line,) = table.start_part("kernels", 20.0, True, tmp_path / "part")
    assert line["note"] == "no such card"


def test_json_and_markdown_are_written(tmp_path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--toy", "--only", "kernels", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(out.read_text())
    assert {"name", "value", "unit", "target", "met", "device", "torch"} <= set(rows[0])
    assert "toy size" in rows[0]["device"]
    markdown = out.with_suffix(".md").read_text()
    assert markdown in done.stdout
    assert all(f"| {row['name']} |" in markdown for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
