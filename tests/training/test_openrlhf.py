"""runs/train_openrlhf.sh against OpenRLHF's own parsers and loaders, whose source is read."""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_config import resolve_config

from agenticlu.training.encode import Encoder, load_units

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "build" / "openrlhf" / "openrlhf"
SCRIPT = ROOT / "runs" / "train_openrlhf.sh"

pytestmark = pytest.mark.skipif(
    not SOURCE.is_dir(), reason="OpenRLHF is not in build/openrlhf; `make venv` downloads it"
)


def run_statements(path: Path, wanted: Any) -> dict[str, Any]:
    """Runs some statements of a file, whose imports are not installed here."""
    names: dict[str, Any] = {"argparse": argparse, "datetime": datetime.datetime, "Any": Any}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = [statement for statement in ast.walk(tree) if wanted(statement)]
    module = ast.Module(statements, type_ignores=[])
    exec(compile(module, str(path), "exec"), names)
    return names


def builds_parser(statement: ast.AST) -> bool:
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement) == "parser = argparse.ArgumentParser()"
    return isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("parser.add_")


def load_parser(module: str) -> argparse.ArgumentParser:
    path = SOURCE.parent / Path(*module.split(".")).with_suffix(".py")
    parser = run_statements(path, builds_parser)["parser"]
    parser.allow_abbrev = False
    return parser


def load_function(file: str, name: str) -> Any:
    def is_it(statement: ast.AST) -> bool:
        return isinstance(statement, ast.FunctionDef) and statement.name == name

    return run_statements(SOURCE / "datasets" / file, is_it)[name]


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    """What the script starts, by a `deepspeed` that only writes down its arguments."""
    log = tmp_path / "calls.jsonl"
    stub = tmp_path / "bin" / "deepspeed"
    stub.parent.mkdir()
    stub.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    stub.chmod(0o755)
    path = f"{stub.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "DATA": "my data", "OUT": "my run"}
    subprocess.run(["bash", str(SCRIPT)], env=env, check=True)
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_openrlhf_knows_every_option_of_the_script(commands, capsys) -> None:
    parsed = {}
    for flag, module, *options in commands:
        assert flag == "--module"
        parser = load_parser(module)
        parsed[module] = vars(parser.parse_args(options))
        with pytest.raises(SystemExit):
            parser.parse_args([*options, "--max_len", "5"])  # as the options were called before
        assert "unrecognized arguments" in capsys.readouterr().err
    sft, dpo = parsed["openrlhf.cli.train_sft"], parsed["openrlhf.cli.train_dpo"]
    assert sft["data.dataset"] == dpo["data.dataset"] == "my data/preference"
    assert (sft["data.input_key"], sft["data.output_key"]) == ("prompt", "chosen")
    assert dpo["data.prompt_key"] == "prompt"
    assert dpo["model.model_name_or_path"] == dpo["ref.model_name_or_path"]
    assert dpo["model.model_name_or_path"] == sft["ckpt.output_dir"] == "my run/sft"


def test_the_recipe_is_the_published_one(commands) -> None:
    for (_, module, *options), stage in zip(commands, ("sft", "dpo"), strict=True):
        ours = resolve_config(stage, preset="paper-strict")
        theirs = vars(load_parser(module).parse_args(options))
        assert theirs["train.batch_size"] == ours.batch
        assert theirs["train.max_epochs"] == ours.epochs
        assert theirs["adam.lr"] == ours.lr
        assert tuple(theirs["adam.betas"]) == (ours.beta1, ours.beta2)
        assert theirs["adam.weight_decay"] == ours.weight_decay
        assert theirs["max_norm"] == ours.clip
        assert (theirs["lr_warmup_ratio"], theirs["min_lr_ratio"]) == (ours.warmup, ours.lr_floor)
        assert theirs["data.max_len"] == ours.max_tokens
        assert theirs["ds.param_dtype"] == ours.precision
        if stage == "dpo":
            assert theirs["model.beta"] == ours.beta
            assert theirs["model.label_smoothing"] == ours.label_smoothing


def test_openrlhfs_loader_cuts_our_rows_where_we_do(rows, tokenizer) -> None:
    of_pairs = load_function("reward_dataset.py", "preprocess_data")
    of_pairs.__globals__["exist_and_not_none"] = load_function("utils.py", "exist_and_not_none")
    of_replies = load_function("sft_dataset.py", "preprocess_data")
    lines = (rows / "preference" / "train.jsonl").read_text().splitlines()
    units, _ = load_units(rows, Encoder(tokenizer), "dpo", "train", max_tokens=4000)
    render = tokenizer.apply_chat_template
    for line, unit in zip(lines, units, strict=True):
        row = json.loads(line)
        prompt, chosen, rejected, _ = of_pairs(
            row, prompt_key="prompt", apply_chat_template=render, is_dpo=True
        )
        assert of_replies(row, None, "prompt", "chosen", render) == (prompt, chosen)
        for reply, trace in zip((chosen, rejected), unit.traces, strict=True):
            ids = tokenizer(prompt + reply, add_special_tokens=False)["input_ids"]
            assert ids[: len(trace)] == trace.ids.tolist()
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            assert start == trace.spans[0][0]
        assert chosen != rejected
