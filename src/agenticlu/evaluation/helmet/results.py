"""HELMET's result files: written so that its own scripts read them, and read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.core.records import Prediction, Record
from agenticlu.evaluation.helmet import alce
from agenticlu.evaluation.helmet.specs import SPECS, Spec, dataset_name, file_of
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.predictions import write_json
from agenticlu.evaluation.saved import read_json
from agenticlu.evaluation.scoring import helmet
from agenticlu.evaluation.scoring.golds import Golds


class ResultArgs(Record):
    """What the name of a result file is made of, and what is stored under `args`."""

    dataset: str
    """HELMET's name, with the number that depends on the length."""
    tag: str = "v1"
    test_files: str = ""
    demo_files: str = ""
    model_name_or_path: str = ""
    output_dir: str = ""
    input_max_length: int
    max_test_samples: int | None
    shots: int
    do_sample: bool = False
    generation_max_length: int
    generation_min_length: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    use_chat_template: bool = False
    seed: int = 42

    @property
    def file_name(self) -> str:
        """The name of the file.

        >>> args = ResultArgs(dataset="narrativeqa_7892", input_max_length=8192, shots=2,
        ...     max_test_samples=100, generation_max_length=100, use_chat_template=True)
        >>> args.file_name
        'narrativeqa_7892_v1__in8192_size100_shots2_sampFalsemax100min0t0.0p1.0_chatTrue_42.json'
        """
        stem = Path(self.test_files).stem if self.test_files else ""
        return (
            f"{self.dataset}_{self.tag}_{stem}_in{self.input_max_length}"
            f"_size{self.max_test_samples}_shots{self.shots}_samp{self.do_sample}"
            f"max{self.generation_max_length}min{self.generation_min_length}"
            f"t{self.temperature}p{self.top_p}_chat{self.use_chat_template}_{self.seed}.json"
        )

    def as_args(self) -> dict[str, Any]:
        """Returns the arguments under HELMET's names."""
        return {**self.model_dump(exclude={"dataset"}), "datasets": self.dataset, "no_cuda": True}


def helmet_scores(task: str, item: Item, output: str) -> helmet.Scored:
    """Scores an output as HELMET's own post-processing does, ROUGE and num_preds included."""
    spec = SPECS[task]
    golds: Golds = item.question.answers
    if spec.family == "alce" and item.row is not None:
        golds = item.row["answer"]  # one text, and not the aliases that ALCE's figures look for
    if spec.family == "msmarco":
        return helmet.score_ranking(output, item.reference["labels"], item.reference["cuts"])
    if spec.family == "ruler" and "qa_" not in task:
        return helmet.score_ruler(output, item.question.answers)
    if spec.family == "icl":
        return helmet.score_label(output, item.question.answers[0])
    if item.rule == "choice":
        letter = str(item.reference["letter"])
        return helmet.score_choice(output, letter, item.question.options[ord(letter) - ord("A")])
    prefix = str(item.reference.get("prefix", "Answer:"))
    return helmet.score_default(output, golds, prefix=prefix)


def build_result(
    task: str, args: ResultArgs, rows: Sequence[tuple[Item, Prediction]]
) -> dict[str, Any]:
    """Returns the content of a result file.

    Failed items, which HELMET leaves out of the rows, are counted beside them, and so are items
    whose context was cut.
    """
    data: list[dict[str, Any]] = []
    metrics: dict[str, list[float]] = {}
    scored = [(item, p) for item, p in rows if p.error is None]
    for item, prediction in sorted(scored, key=lambda pair: int((pair[0].row or {})["index"])):
        found, parsed = helmet_scores(task, item, prediction.raw)
        lengths = {
            "input_len": prediction.usage.prompt_tokens,
            "output_len": prediction.usage.completion_tokens,
        }
        for name, value in {**found, **lengths}.items():
            metrics.setdefault(name, []).append(value)
        kept = {
            key: value
            for key, value in (item.row or {}).items()
            if not key.startswith("demo") or key == "demos"
        }
        if SPECS[task].family == "alce":
            kept["docs"] = item.reference["passages"]
        data.append(
            {
                **kept,
                "output": prediction.raw,
                **lengths,
                "input_text": "",
                "document_id": prediction.document_id,
                "parsed_output": parsed,
                **found,
            }
        )
    seconds = sum(p.seconds for _, p in scored)
    return {
        "args": args.as_args(),
        "data": data,
        "metrics": metrics,
        "averaged_metrics": averaged(metrics),
        "throughput": len(data) / seconds if seconds else 0.0,
        "num_failed": len(rows) - len(scored),
        "num_truncated": sum(prediction.truncated for _, prediction in scored),
    }


def averaged(metrics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns HELMET's averages: per cent, but for token lengths.

    num_preds too is multiplied by 100, as HELMET does it.
    """
    import numpy as np

    return {
        name: float(np.mean(values) * (100 if "_len" not in name else 1))
        for name, values in metrics.items()
    }


def result_args(
    task: str,
    length: int,
    *,
    model: str,
    output_dir: str,
    limit: int | None,
    shots: int | None,
    chat: bool,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int | None = None,
) -> ResultArgs:
    """Returns the arguments of a task's result file.

    Args:
        task: One of `SPECS`.
        length: Nominal length.
        model: Shown in the file.
        output_dir: Where the file goes.
        limit: max_test_samples; None takes HELMET's.
        shots: None takes HELMET's.
        chat: Whether the prompt was sent in chat form.
        temperature: 0 is greedy.
        top_p: As sampled.
        max_tokens: None takes HELMET's.
    """
    spec: Spec = SPECS[task]
    return ResultArgs(
        dataset=dataset_name(task, length),
        test_files=file_of(spec, length),
        demo_files=spec.demo_file,
        model_name_or_path=model,
        output_dir=output_dir,
        input_max_length=length,
        max_test_samples=spec.rows if limit is None else limit,
        shots=spec.shots if shots is None else shots,
        do_sample=temperature > 0,
        temperature=temperature,
        top_p=top_p,
        generation_max_length=max_tokens or spec.gen_tokens,
        use_chat_template=chat,
    )


def _holds(path: Path, content: Any) -> bool:
    """Whether a file holds this and nothing else; a damaged one does not."""
    try:
        return bool(read_json(path) == content)
    except (ConfigError, UsageError):
        return False


def write_result(
    folder: Path, task: str, args: ResultArgs, rows: Sequence[tuple[Item, Prediction]]
) -> Path:
    """Writes a result file and its `.score`; for ALCE the score is ALCE's, without citations.

    Files that say the same already are left alone, since a score may have gained citations.
    """
    result = json.loads(json.dumps(build_result(task, args, rows)))
    path = folder / args.file_name
    scored = path.with_name(path.name + ".score")
    if scored.is_file() and _holds(path, result):
        return path
    write_json(path, result)
    score = result["averaged_metrics"]
    if SPECS[task].family == "alce":
        score = alce.score_rows(task, result["data"]) if result["data"] else {}
    write_json(scored, score)
    return path
