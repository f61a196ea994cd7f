"""`agenticlu dataset`: rows for training out of a run or a published set, and their upload."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agenticlu.core.errors import UsageError

if TYPE_CHECKING:
    from agenticlu.data.build import DatasetSummary
    from agenticlu.data.overlap import EvaluationTexts

Function = TypeVar("Function", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number in a range; NaN, which no comparison refuses, is in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuses NaN, then what lies outside."""
        try:
            is_nan = math.isnan(float(value))
        except (TypeError, ValueError):
            is_nan = False
        if is_nan:
            self.fail(f"{value!r} is no number.", param, ctx)
        return float(super().convert(value, param, ctx))


def output_options(function: Function) -> Function:
    """Adds the options of whatever writes a data set."""
    for option in reversed(
        (
            click.option(
                "--out", required=True, type=click.Path(path_type=Path), help="Folder to write."
            ),
            click.option(
                "--validation",
                type=Number(0, 1, max_open=True),
                default=0.1,
                show_default=True,
                help="Share of the documents to hold out.",
            ),
            click.option(
                "--decontaminate",
                multiple=True,
                type=click.Path(path_type=Path),
                help="Evaluation data whose documents and questions are left out; may be repeated.",
            ),
            click.option(
                "--decontaminate-report", is_flag=True, help="Only count what would be left out."
            ),
            click.option("--license", "licence", help="Licence of the data set; never assumed."),
            click.option("--license-name", help="Name of a licence the hub has no identifier for."),
            click.option("--license-link", help="Address of such a licence's text."),
            click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
        )
    ):
        function = option(function)
    return function


VISIBILITY = click.option(
    "--private/--public", default=True, show_default=True, help="Of a new repository."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Turn trees into rows for SFT and DPO; bring published sets in; upload either."""


@command.command("build")
@click.argument("run", type=click.Path(path_type=Path))
@output_options
@click.option(
    "--pairs",
    type=click.Choice(["step", "path"]),
    default="step",
    show_default=True,
    help="step: siblings; path: the best against the worst of a tree.",
)
@click.option(
    "--rejected",
    type=click.Choice(["mean-2sd", "min", "near-miss"]),
    default="mean-2sd",
    show_default=True,
    help="Which wrong answer: two standard deviations below the mean, the lowest, or one whose "
    "path kept the right pieces.",
)
@click.option(
    "--margin",
    type=Number(0, 1),
    default=0.25,
    show_default=True,
    help="Least difference of scores.",
)
@click.option(
    "--pairs-per-node",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Pairs of one expansion at most.",
)
@click.option(
    "--max-log-ratio",
    type=Number(min=0),
    default=1.5,
    show_default=True,
    help="Largest |log(length chosen / length rejected)|.",
)
@click.option(
    "--keep-leaks",
    is_flag=True,
    help="Keep paths with a clarification that holds the answer too early.",
)
@click.option(
    "--drop-closed-book",
    type=Number(0, 1),
    help="Drop questions answered blindly at least this often.",
)
@click.option(
    "--self-checks",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Rows of a question at most that teach the self-check alone: to doubt a wrong answer.",
)
@click.option("--push-to-hub", "hub_id", metavar="OWNER/NAME", help="Upload when built.")
@VISIBILITY
def build(
    *,
    run: Path,
    out: Path,
    decontaminate: tuple[Path, ...],
    decontaminate_report: bool,
    licence: str | None,
    license_name: str | None,
    license_link: str | None,
    hub_id: str | None,
    private: bool,
    keep_leaks: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write OUT/sft, OUT/self_check and OUT/preference from the trees of RUN, with a card."""
    from agenticlu.data.build import build_dataset, collect_facts, load_meanings
    from agenticlu.data.card import write_card
    from agenticlu.data.dataset import check_out, staged
    from agenticlu.data.hub import check_push, parse_licence
    from agenticlu.data.pairs import PairPolicy
    from agenticlu.search.store import Store

    policy = PairPolicy.model_validate({**options, "drop_leaks": not keep_leaks})
    named = parse_licence(licence, license_name, license_link)
    check_out(out, run)
    if hub_id is not None:
        check_push(hub_id, named)
    evaluation = _evaluation(decontaminate, decontaminate_report)
    with Store(run, writable=False) as store, store.snapshot(), staged(out) as part:
        summary = build_dataset(
            store, part, policy, evaluation, drop_contaminated=not decontaminate_report
        )
        facts = collect_facts(store)
        write_card(part, summary, named, run=facts, policy=policy.model_dump())
    _tell(summary, load_meanings("built"), out, policy.validation, as_json)
    if hub_id is not None:
        _push(out, hub_id, private, as_json)


@command.command("import")
@click.argument("source")
@output_options
@click.option("--split", default="train", show_default=True, help="Of a folder or hub data set.")
def import_(
    *,
    source: str,
    out: Path,
    split: str,
    validation: float,
    decontaminate: tuple[Path, ...],
    decontaminate_report: bool,
    licence: str | None,
    license_name: str | None,
    license_link: str | None,
    as_json: bool,
) -> None:
    """Stream a preference data set in the published schema into OUT, split by document."""
    from agenticlu.data.build import load_meanings
    from agenticlu.data.card import write_card
    from agenticlu.data.dataset import check_out, staged
    from agenticlu.data.hub import parse_licence
    from agenticlu.data.published import import_published

    named = parse_licence(licence, license_name, license_link)
    check_out(out, Path(source))
    evaluation = _evaluation(decontaminate, decontaminate_report)
    with staged(out) as part:
        summary = import_published(
            source,
            part,
            split=split,
            validation=validation,
            evaluation=evaluation,
            drop_contaminated=not decontaminate_report,
        )
        label = Path(source).name if Path(source).exists() else source
        imported = {
            "source": label,
            "split": split,
            "read": summary.funnel.rows.total(),
            "not_better": summary.num_not_better,
        }
        write_card(part, summary, named, imported=imported)
    _tell(summary, load_meanings("imported"), out, validation, as_json)


@command.command("push")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("hub_id", metavar="OWNER/NAME")
@VISIBILITY
def push_(*, folder: Path, hub_id: str, private: bool) -> None:
    """Upload the data set in FOLDER to the hub; goes on where an upload broke off."""
    from agenticlu.data.dataset import load_record
    from agenticlu.data.hub import Licence, check_push

    licence = load_record(folder).get("licence")
    check_push(hub_id, None if licence is None else Licence(**licence))
    _push(folder, hub_id, private, False)


def _push(folder: Path, hub_id: str, private: bool, quiet: bool) -> None:
    from agenticlu.data.hub import push

    address = push(folder, hub_id, private=private)
    click.echo(f"Uploaded to {address}", err=quiet)


def _evaluation(sources: tuple[Path, ...], only_report: bool) -> EvaluationTexts | None:
    from agenticlu.data.overlap import load_evaluation

    if not sources:
        if only_report:
            raise UsageError(
                "--decontaminate-report has nothing to compare with.",
                hint="Add --decontaminate PATH",
            )
        return None
    return load_evaluation(sources)


def _tell(
    summary: DatasetSummary,
    meanings: Mapping[str, Mapping[str, str]],
    out: Path,
    validation: float,
    as_json: bool,
) -> None:
    """Prints what was written, and to standard error what a person should know."""
    data = summary.as_dict()
    for warning in summary.warnings(validation):
        click.echo(f"Warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    for kind, splits in summary.rows.items():
        counts = ", ".join(f"{number} {split}" for split, number in splits.items())
        click.echo(f"{kind}: {counts} rows")
    documents = data["documents"]
    click.echo(
        f"documents: {documents['train']} train, {documents['validation']} validation "
        f"({documents['repeated']} repeated, {documents['near_duplicates']} near-duplicates)"
    )
    for name, counter in data["funnel"].items():
        if isinstance(counter, dict) and counter["total"]:
            told = ", ".join(f"{n} {why}" for why, n in counter.items() if why != "total")
            click.echo(f"  {counter['total']} {meanings[name]['total']}: {told}")
    if summary.contamination is not None:
        found = data["contamination"]
        fate = "left out" if found["dropped"] else "counted only"
        click.echo(
            f"  shared with evaluation, {fate}: {found['documents_found']} documents, "
            f"{found['questions_found']} questions"
        )
    given = shlex.quote(str(out))
    start = f"sft {given} --model MODEL --out SFT"
    if not summary.rows["sft"]["train"]:
        start = f"dpo {given} --from MODEL --out DPO"
    click.echo(
        f"Written to {out}; its README.md says what each reason means. "
        f"Next: agenticlu train {start}"
    )
