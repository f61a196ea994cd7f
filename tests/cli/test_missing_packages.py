"""Every command where the optional packages are not installed: an install line, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_trees import asked, make_run, node, story, tree

from agenticlu.core.errors import EXTRA_OF_PACKAGE

PROGRAM = """
import contextlib, importlib.abc, io, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

BLOCKED, commands = json.loads(sys.argv[1])
sys.meta_path.insert(0, Blocker())
from agenticlu.cli import main

found = []
for words in commands:
    sys.argv = ["agenticlu", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except BaseException as error:
            code = repr(error)
    found.append([code, err.getvalue()])
print(json.dumps(found))
"""
NEEDS_A_PACKAGE = (
    "ask a.txt Who?",
    "generate corpus.jsonl --out new",
    "generate corpus.jsonl --out new --ray 1",
    "generate corpus.jsonl --out new --seal memory://segments",
    "generate corpus.parquet --out new",
    "generate owner/name --out new",
    "generate controls RUN --judge-model MODEL",
    "generate necessity RUN",
    "generate replay RUN --judge llm --judge-model MODEL",
    "plan corpus.parquet",
    "dataset build RUN --out new",
    "dataset build RUN --out new --push-to-hub me/traces --license mit",
    "dataset import pairs.parquet --out new",
    "dataset import owner/name --out new",
    "train sft rows.jsonl --model MODEL --out new",
    "train sft rows.jsonl --model MODEL --dry-run",
    "train dpo rows.jsonl --from MODEL --out new",
    "train plan rows.jsonl --model MODEL",
    "eval --task world --lengths 256 --limit 1 --out new",
    "eval score predictions.jsonl --rouge",
    "eval rows --task niah_single_1 --lengths 1k --out new.jsonl",
    "demo --out demo",
    "serve --port 0",
    "mcp data",
    "prompts extract rows.parquet --out new.toml",
    "report --run RUN --data data --out new.html",
)
CANNOT_LOAD = (
    "generate corpus.jsonl --out new --model nowhere",
    "generate corpus.jsonl --out new --model nowhere --ray 1",
    "eval --lengths 256 --limit 1 --out new --model nowhere",
)
NEEDS_NONE = (
    "ask a.txt Who? --dry-run",
    "plan corpus.jsonl",
    "generate corpus.jsonl --dry-run",
    "status RUN",
    "eval --dry-run --lengths 256 --limit 1",
    "eval --dry-run --lengths 256 --limit 1 --rouge",
    "eval --list",
    "eval score predictions.jsonl",
    "eval recall RUN",
    "prompts check default",
    "report --run RUN --out page.html",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bare")


@pytest.fixture(scope="module")
def results(root: Path, tiny_model_path: Path) -> dict[str, tuple[object, str]]:
    """Runs all commands in one process without the packages."""
    make_run(root / "run", [(story(0), tree(node("a", 1.0), question=asked(0), document=story(0)))])
    (root / "a.txt").write_text("Ada lives in Wexley.")
    row = {"context": "Ada lives.", "question": "Who?", "answers": ["Ada"], "prediction": "Ada"}
    for name in ("corpus", "rows", "predictions"):
        (root / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("corpus", "rows", "pairs"):
        (root / f"{name}.parquet").write_bytes(b"PAR1")
    (root / "data" / "preference").mkdir(parents=True)
    (root / "data" / "preference" / "train.parquet").write_bytes(b"PAR1")
    named = {"RUN": "run", "MODEL": str(tiny_model_path)}
    lines = [*NEEDS_A_PACKAGE, *CANNOT_LOAD, *NEEDS_NONE]
    commands = [[named.get(word, word) for word in line.split()] for line in lines]
    blocked = [*EXTRA_OF_PACKAGE, "matplotlib", "wonderwords"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([blocked, commands])],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {line: (code, err) for line, (code, err) in zip(lines, found, strict=True)}


@pytest.mark.parametrize("line", NEEDS_A_PACKAGE)
def test_a_missing_package_is_an_install_line(line: str, results: dict[str, tuple[object, str]]):
    code, err = results[line]
    assert code == 7, err
    assert "pip install 'agenticlu[" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", CANNOT_LOAD)
def test_a_model_that_does_not_exist_is_an_engine_error(
    line: str, results: dict[str, tuple[object, str]]
):
    code, err = results[line]
    assert code == 5, err
    assert "'nowhere'" in err


@pytest.mark.parametrize("line", NEEDS_NONE)
def test_what_needs_no_package_works(line: str, results: dict[str, tuple[object, str]]):
    code, err = results[line]
    assert code == 0, err


def test_a_failed_start_leaves_nothing(results: object, root: Path):
    assert (root / "page.html").is_file()
    assert list(root.glob("new*")) == []
