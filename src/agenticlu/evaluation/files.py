"""The files that tasks read, looked for before anything is asked."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenticlu.core.errors import UsageError, missing_dependency
from agenticlu.evaluation.config import EvaluationConfig
from agenticlu.evaluation.helmet.layout import load_templates
from agenticlu.evaluation.helmet.rows import ICL_SETS
from agenticlu.evaluation.helmet.sources import INFINITEBENCH, load_llama2, others_of
from agenticlu.evaluation.helmet.specs import SPECS, file_of, scale_of
from agenticlu.evaluation.tasks import find_task

HUB_SETS = {
    "narrativeqa": "narrativeqa",
    "infbench": INFINITEBENCH,
    "multi_lexsum": "allenai/multi_lexsum",
    "qasper": "tau/scrolls",
}
"""Family of HELMET's tasks to its data set on the hub."""
CUT_BY_LLAMA2 = frozenset(HUB_SETS)
"""Families whose documents are counted and cut by HELMET's tokenizer."""
MOST_LISTED = 8


def check_files(config: EvaluationConfig) -> None:
    """Raises the error that a missing file would end the run with, hours later.

    Raises:
        UsageError: A task's file is missing, or HELMET has none for a length.
        ConfigError: A file of wordings cannot be read.
        MissingDependencyError: A package is not there that scoring or a data set needs.
    """
    options = config.options
    load_templates(options.get("templates"))
    haystack = options.get("haystack")
    if haystack is not None and not Path(haystack).is_file():
        raise UsageError(f"There is no file {haystack!r}.", hint="Give a text file by --haystack.")
    of_helmet = any(find_task(task) == "helmet" for task in config.tasks)
    if (config.with_rouge or of_helmet) and importlib.util.find_spec("rouge_score") is None:
        raise missing_dependency("rouge-score", "evaluate")  # HELMET's result files hold ROUGE
    missing = list(dict.fromkeys(_missing_files(config)))
    if missing:
        listed = ", ".join(repr(str(path)) for path in missing[:MOST_LISTED])
        more = f", and {len(missing) - MOST_LISTED} more" if len(missing) > MOST_LISTED else ""
        others = "".join(dict.fromkeys(map(others_of, missing[:MOST_LISTED])))
        raise UsageError(
            f"{len(missing)} HELMET files are missing: {listed}{more}.{others}",
            hint="Give the folder that holds HELMET's data/ by --helmet-data FOLDER; see "
            "docs/evaluation.md for where to get it.",
        )
    for task in config.tasks:
        if find_task(task) == "helmet":
            _check_hub_set(task, options)


def _missing_files(config: EvaluationConfig) -> Iterator[Path]:
    options = config.options
    root = Path(options.get("helmet_data") or ".")
    for task in config.tasks:
        if find_task(task) != "helmet":
            continue
        spec = SPECS[task]
        shots = options.get("shots")
        wants_demos = bool(spec.shots if shots is None else shots)
        for length in config.lengths:
            if spec.scale:
                scale_of(spec, length)
            names = [file_of(spec, length)]
            if wants_demos and spec.demo_file.startswith("data/"):
                names.append(spec.demo_file)
            yield from (root / name for name in names if name and not (root / name).is_file())


def _check_hub_set(task: str, options: dict[str, Any]) -> None:
    """Looks for a hub data set's folder, or the package that fetches it, and for the tokenizer."""
    root = Path(options.get("helmet_data") or ".")
    family = SPECS[task].family
    name = ICL_SETS[task][0] if task in ICL_SETS else HUB_SETS.get(family)
    if name is None:
        return
    if not (root / name).is_dir() and importlib.util.find_spec("datasets") is None:
        raise missing_dependency("datasets", "hub")
    if family in CUT_BY_LLAMA2:
        load_llama2(root, options.get("helmet_tokenizer"))
