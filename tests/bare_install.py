"""Installs the package without extras into a new environment and runs every command there.

    python tests/bare_install.py

A command may do its work or say which extra it needs (exit code 7 and an install line); it may
never end in a traceback. `make bare` runs this; it needs a package index, so pytest does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDS_NOTHING = ("--version", "doctor", "prompts check default")
"""Commands that must succeed without any extra."""


def commands(folder: Path) -> list[list[str]]:
    """Returns one call of each command, with operands that exist."""
    document, corpus = folder / "document.txt", folder / "corpus.jsonl"
    document.write_text("The mill was built by Ada Larkin.\n")
    row = {"context": "Ada Larkin built the mill.", "question": "Who built it?", "answers": ["Ada"]}
    corpus.write_text(json.dumps(row) + "\n")
    nowhere = "http://127.0.0.1:9/v1"
    names = {"D": str(document), "C": str(corpus), "F": str(folder), "URL": nowhere}
    lines = (
        "--version",
        "doctor",
        "prompts check default",
        "ask D Who?",
        "ask D Who? --base-url URL --model played --timeout 2",
        "plan C",
        "generate C --out F/run",
        "generate merge F/run --out F/merged",
        "status F/run",
        "dataset build F/run --out F/data",
        "dataset import F --out F/imported",
        "train sft F/data --model F --out F/sft",
        "train dpo F/data --sft F/sft --out F/dpo",
        "train plan F/data --model F",
        "eval --task world --lengths 256 --limit 1 --out F/eval",
        "eval --task world --lengths 256 --limit 1 --out F/eval --dry-run",
        "eval score C",
        "report --run F/run --out F/report.html",
        "serve --model F --port 0",
        "mcp F",
        "demo --out F/demo",
    )

    def operand(word: str) -> str:
        first, slash, rest = word.partition("/")
        return names.get(first, first) + slash + rest

    return [[operand(word) for word in line.split()] for line in lines]


def check(command: list[str], done: subprocess.CompletedProcess[str]) -> str | None:
    """Returns what is wrong with how a command ended, or None."""
    if "Traceback" in done.stderr:
        return done.stderr
    if done.returncode == 7 and "pip install" not in done.stderr:
        return f"exit code 7 without an install line: {done.stderr}"
    if " ".join(command) in NEEDS_NOTHING and done.returncode != 0:
        return f"exit code {done.returncode}: {done.stderr}"
    return None


def main() -> None:
    """Runs all commands; exits with 1 if any of them fails the check."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        bin_ = folder / "venv" / "bin"
        pip = [bin_ / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", ROOT], check=True)
        wrong = 0
        for command in commands(folder):
            done = subprocess.run(
                [bin_ / "agenticlu", *command],
                capture_output=True,
                text=True,
                timeout=120,
                cwd=folder,
                check=False,
            )
            problem = check(command, done)
            wrong += problem is not None
            shown = " ".join(Path(word).name if "/" in word else word for word in command)
            print(f"{'WRONG' if problem else 'ok':6} exit {done.returncode:2}  {shown}", flush=True)
            if problem:
                print(problem)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
