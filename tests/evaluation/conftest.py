"""HELMET's files as they lie on a disk, and a run over them."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.base import Engine
from agenticlu.evaluation.config import EvaluationConfig, RunSettings
from agenticlu.evaluation.records import Summary
from agenticlu.evaluation.run import run_evaluation

FIXTURES = Path(__file__).parent / "fixtures" / "helmet"
TOKENIZER = ApproximateTokenizer()


def lengthen(text: str, size: int) -> str:
    """Repeats a text; the stored documents are cut, since HELMET takes long ones only."""
    return (text + "\n") * math.ceil(size / (len(text) + 1))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HELMET's working folder: the fixtures, long documents lengthened again."""
    folder = tmp_path_factory.mktemp("helmet") / "data"
    shutil.copytree(FIXTURES, folder)
    long = ["allenai/multi_lexsum/validation", "narrativeqa/test"]
    long += [f"xinrongzhang2022/infinitebench/longbook_{kind}_eng" for kind in ("qa", "sum")]
    long += ["xinrongzhang2022/infinitebench/longbook_choice_eng"]
    for name in long:
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if "sources" in row:
                row["sources"] = [lengthen(text, 34000) for text in row["sources"]]
            elif "document" in row:
                row["document"]["text"] = lengthen(row["document"]["text"], 131500)
            else:
                row["context"] = lengthen(row["context"], 66000)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run_helmet(root: Path) -> Callable[..., Summary]:
    """Runs the method `helmet` on its files: `run_helmet(out, engine, tasks=..., ...)`."""

    def run(out: Path, engine: Engine, *, shots: int | None = 2, **changes: Any) -> Summary:
        base: dict[str, Any] = {
            "tasks": ("kilt_nq",),
            "methods": ("helmet",),
            "lengths": (8192,),
            "label": "scripted",
            "piece_tokens": 64,
            "options": {"helmet_data": str(root), "shots": shots},
        }
        config = EvaluationConfig.model_validate(base | changes)
        settings = RunSettings(config, load_profile(), TOKENIZER)
        return asyncio.run(run_evaluation(settings, engine, out))

    return run
