"""The loop as one command: search, data, training and evaluation, again from the trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from agenticlu.core.errors import TrainingError
from agenticlu.core.records import Prediction
from agenticlu.data.teaching import require_rows
from agenticlu.evaluation.predictions import FILE_NAME, read_predictions
from agenticlu.evaluation.records import load_summary
from agenticlu.evaluation.summary import compare
from agenticlu.evaluation.tables import percent, points, render_table
from agenticlu.loop.stages import Stage

BASE = "base"
Then = Literal["dpo", "distill", "none"]


@dataclass(frozen=True)
class LoopPlan:
    """What a loop runs."""

    corpus: str
    """Questions with known answers, as `agenticlu generate` reads them."""
    model: str
    """Folder or hub id of the model to teach."""
    out: Path
    rounds: int = 1
    """Times that the model is taught; each time it searches with what it has learnt."""
    held_out: str | None = None
    """Corpus to evaluate on; None: the documents that the data sets hold out."""
    keep_apart: bool = False
    """Leave what `held_out` has of documents and questions, near-copies too, out of the data."""
    lengths: tuple[int, ...] = ()
    """Tokens of a document in the evaluation; none: as they are."""
    then: Then = "dpo"
    """Stage after fine-tuning."""
    guide: bool = False
    """Guide the replies of the first search, and teach direct answers, too."""
    necessity: bool = True
    """Find the pieces that right rounds need before data is built."""
    search: tuple[str, ...] = ()
    """Further arguments of `agenticlu generate`."""
    train: tuple[str, ...] = ()
    """Further arguments of `agenticlu train`."""
    evaluate: tuple[str, ...] = ()
    """Further arguments of `agenticlu eval`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the evaluated models: the base, then each round's."""
        return (BASE, *(f"round {number}" for number in range(1, self.rounds + 1)))

    def evaluation(self, number: int) -> Path:
        """Returns the folder of results of a round's model; 0 is the base."""
        return self.out / ("eval-base" if number == 0 else f"eval-{number}")

    def folder(self, number: int) -> Path:
        """Returns the folder of a round, counted from 1."""
        return self.out / f"round-{number}"


def build_stages(plan: LoopPlan) -> list[Stage]:
    """Returns the stages of a loop, in order."""
    stages: list[Stage] = []
    for number in range(1, plan.rounds + 1):
        stages += _build_data_stages(plan, number)
        if number == 1:
            stages.append(_build_evaluation(plan, 0))
        stages += [*_build_training_stages(plan, number), _build_evaluation(plan, number)]
    return [*stages, _build_report(plan)]


def find_model(plan: LoopPlan, number: int) -> str:
    """Returns the model that a round has taught, the base for round 0.

    It is the result of the stage after fine-tuning, or of that where none follows.
    """
    if number == 0:
        return plan.model
    last = "sft" if plan.then == "none" else plan.then
    return str(plan.folder(number) / last / "export")


def _build_data_stages(plan: LoopPlan, number: int) -> list[Stage]:
    folder = plan.folder(number)
    search, data = str(folder / "search"), str(folder / "data")
    # What is taught can hold the dialogue: only the first search needs a guide. Its findings are
    # quotes, which tell what they need.
    guided = plan.guide and number == 1
    stages = [
        Stage(
            f"Round {number}: search",
            lambda: (
                *("generate", "run", plan.corpus, "--model", find_model(plan, number - 1)),
                *plan.search,
                *(("--guide",) if guided else ()),
                *("--seed", str(number - 1), "--out", search),
            ),
            f"{folder.name}/search/run.sqlite",
        )
    ]
    if plan.necessity and not guided:
        stages.append(
            Stage(
                f"Round {number}: needed pieces",
                lambda: (
                    *("generate", "necessity", search),
                    *("--model", find_model(plan, number - 1)),
                ),
                f"{folder.name}/search/run.sqlite",
            )
        )
    direct = ("--direct",) if plan.guide else ()
    apart = ("--decontaminate", str(plan.held_out)) if plan.keep_apart else ()
    stages.append(
        Stage(
            f"Round {number}: data",
            lambda: ("dataset", "build", search, *direct, *apart, "--out", data),
            f"{folder.name}/data/README.md",
            check=lambda: _require_lessons(plan, folder / "data"),
            reopens=tuple(stage.title for stage in stages),
            advice=_advise_again(plan, number),
        )
    )
    return stages


def _require_lessons(plan: LoopPlan, data: Path) -> None:
    """Refuses a data set that the rest of the loop could not use, before a model is trained.

    Raises:
        TrainingError: A stage of training has no rows, or no document is held out to evaluate on.
    """
    require_rows(data, "sft")
    if plan.then != "none":
        require_rows(data, plan.then)
    if plan.held_out is None and not (data / "questions" / "validation.parquet").is_file():
        raise TrainingError(
            f"{data} holds out no document, so there is nothing to evaluate on: there is one "
            "document, or all are near-copies of each other.",
            hint="Give a corpus to evaluate on (--held-out FILE), or search more documents.",
        )


def _advise_again(plan: LoopPlan, number: int) -> str:
    if number == 1:
        return "Run the loop again with such settings: --out may stay, what was searched is kept."
    return (
        f"Round {number - 1}'s model is in {find_model(plan, number - 1)}: the same command with "
        f"--rounds {number - 1} reports on it; for other settings, begin a loop with it as --model "
        "and another --out."
    )


def _build_training_stages(plan: LoopPlan, number: int) -> list[Stage]:
    folder = plan.folder(number)
    data, sft, out = (str(folder / name) for name in ("data", "sft", plan.then))

    first = Stage(
        f"Round {number}: fine-tuning",
        lambda: (
            *("train", "sft", data, "--model", find_model(plan, number - 1)),
            *(*plan.train, "--out", sft),
        ),
        f"{folder.name}/sft/export",
    )
    if plan.then == "none":
        return [first]
    start = ("--sft", sft) if plan.then == "dpo" else ("--model", sft)
    title = {"dpo": "preferences", "distill": "distillation"}[plan.then]
    second = Stage(
        f"Round {number}: {title}",
        lambda: ("train", plan.then, data, *start, *plan.train, "--out", out),
        f"{folder.name}/{plan.then}/export",
    )
    return [first, second]


def _build_evaluation(plan: LoopPlan, number: int) -> Stage:
    label = plan.labels[number]
    out = plan.evaluation(number)
    held_out = ("--corpus", str(plan.folder(1) / "data" / "questions"))
    corpus = ("--corpus", plan.held_out) if plan.held_out else held_out
    split = () if plan.held_out else ("--corpus-split", "validation")
    lengths = ("--lengths", ",".join(map(str, plan.lengths))) if plan.lengths else ()
    return Stage(
        f"Evaluation: {label}",
        lambda: (
            *("eval", "run", *corpus, *split, *lengths, "--model", find_model(plan, number)),
            *("--label", label, *plan.evaluate, "--out", str(out)),
        ),
        f"{out.name}/results.md",
    )


def _build_report(plan: LoopPlan) -> Stage:
    last = plan.folder(plan.rounds)

    def argv() -> tuple[str, ...]:
        trained = [
            (f"{stage.upper()} {number}", plan.folder(number) / stage)
            for number in range(1, plan.rounds + 1)
            for stage in ("sft", plan.then)
        ]
        return (
            *("report", "--title", f"The loop on {Path(plan.model).name}"),
            *("--run", str(last / "search"), "--data", str(last / "data")),
            *(w for name, run in trained if run.is_dir() for w in ("--train", f"{name}={run}")),
            *(
                word
                for number, label in enumerate(plan.labels)
                for word in ("--eval", f"{label}={plan.evaluation(number)}")
            ),
            *("--out", str(plan.out / "report.html")),
        )

    return Stage("Report", argv, "report.html")


def render_results(plan: LoopPlan) -> str:
    """Returns the table of a finished loop: every model and method, and what was gained."""
    summaries = [load_summary(plan.evaluation(number)) for number in range(plan.rounds + 1)]
    rows = []
    for label, summary in zip(plan.labels, summaries, strict=True):
        for cell in summary.cells:
            rows.append(
                [
                    *(str(cell.length), label, cell.method, percent(cell.score)),
                    *(percent(cell.point_precision), percent(cell.point_recall)),
                    *(str(cell.num_scored), str(cell.num_failed)),
                ]
            )
    rows.sort(key=lambda row: int(row[0]))  # stable: models and methods keep their order
    header = ["tokens", "model", "method", "right", "pointing", "recall", "n", "failed"]
    gains = [[str(length), *texts] for length, *texts in _find_gains(plan)]
    compared = ["tokens", "model", "method", "against base direct"]
    return (
        "Held-out documents, % with 95% intervals; pointing and recall are of cited pieces, where "
        f"gold is known.\n\n{render_table(header, rows)}\n\n"
        f"Paired by question, percentage points:\n\n{render_table(compared, gains)}"
    )


def _find_gains(plan: LoopPlan) -> list[tuple[int, str, str, str]]:
    """Returns length, model, method and gain over the base model's direct answers."""
    by_model = [
        list(read_predictions(plan.evaluation(number) / FILE_NAME, warn=False).values())
        for number in range(plan.rounds + 1)
    ]
    lengths = sorted({one.length for one in by_model[0]})
    methods = list(dict.fromkeys(one.method for one in by_model[0]))
    found = []
    for length, (number, label) in product(lengths, enumerate(plan.labels)):
        for method in methods:
            if (number, method) == (0, "direct"):
                continue
            gain = compare(
                _arm(by_model[0], "direct", length), _arm(by_model[number], method, length)
            )
            if gain is not None:
                found.append((length, label, method, points(gain.difference)))
    return found


def _arm(predictions: Sequence[Prediction], method: str, length: int) -> list[Prediction]:
    return [one for one in predictions if (one.method, one.length) == (method, length)]
