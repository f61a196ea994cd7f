"""`agenticlu dataset`: builds training rows from a run or published data, and uploads them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from agenticlu.cli.options import CONTEXT, operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import UsageError
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import JsonSettings, Settings, Spelling, select
from agenticlu.data.pairs import PairPolicy

if TYPE_CHECKING:
    from agenticlu.data.build import DatasetSummary
    from agenticlu.data.hub import Licence
    from agenticlu.data.overlap import EvaluationTexts


class UploadSettings(Settings):
    """Settings of an upload."""

    private: Annotated[bool, Spelling(flags=("--private/--public",))] = True
    """Visibility of a new repository."""


class OutputSettings(JsonSettings):
    """Settings shared by the commands that write a data set."""

    out: Annotated[Path, Spelling(metavar="FOLDER")]
    """Folder to write."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the documents to hold out."""
    decontaminate: tuple[Path, ...] = ()
    """Evaluation data whose documents and questions are left out."""
    decontaminate_report: bool = False
    """Only count what would be left out."""
    licence: Annotated[str | None, Spelling("license")] = None
    """Licence of the data set; never assumed."""
    license_name: str | None = None
    """Name of a licence for which the hub has no identifier."""
    license_link: str | None = None
    """Address of such a licence's text."""

    def parse_licence(self) -> Licence | None:
        """Returns the licence that was named."""
        from agenticlu.data.hub import parse_licence

        return parse_licence(self.licence, self.license_name, self.license_link)

    def load_evaluation(self) -> EvaluationTexts | None:
        """Reads the texts that rows are compared with."""
        from agenticlu.data.overlap import load_evaluation

        if self.decontaminate:
            return load_evaluation(self.decontaminate)
        if self.decontaminate_report:
            raise UsageError(
                "--decontaminate-report has nothing to compare with.",
                hint="Add --decontaminate PATH",
            )
        return None


class BuildSettings(OutputSettings, PairPolicy, UploadSettings):
    """Settings of `agenticlu dataset build`."""

    push_to_hub: Annotated[str | None, Spelling(metavar="OWNER/NAME")] = None
    """Upload to this repository of the hub when built."""


@click.group(context_settings=CONTEXT)
def command() -> None:
    """Turn trees into rows for SFT and DPO; import published data sets; upload either."""


@settings_command(BuildSettings, "dataset.build", group=command)
@operand("run", type=click.Path(path_type=Path))
def build(resolved: Resolved[BuildSettings], run: Path) -> None:
    """Write OUT/sft, self_check, preference and plain from the trees of RUN, with a card."""
    from agenticlu.data.build import build_dataset, collect_facts, load_meanings
    from agenticlu.data.card import write_card
    from agenticlu.data.dataset import check_out, staged
    from agenticlu.data.hub import check_push
    from agenticlu.search.store import Store

    settings = resolved.values
    policy = select(settings, PairPolicy)
    licence = settings.parse_licence()
    check_out(settings.out, run)
    if settings.push_to_hub is not None:
        check_push(settings.push_to_hub, licence)
    evaluation = settings.load_evaluation()
    with Store(run, writable=False) as store, store.snapshot(), staged(settings.out) as part:
        summary = build_dataset(
            store,
            part,
            policy,
            evaluation,
            drop_contaminated=not settings.decontaminate_report,
        )
        facts = collect_facts(store)
        write_card(part, summary, licence, run=facts, policy=policy.model_dump())
    _print_summary(summary, load_meanings("built"), settings)
    if settings.push_to_hub is not None:
        _push(settings.out, settings.push_to_hub, settings.private, settings.as_json)


class ImportSettings(OutputSettings):
    """Settings of `agenticlu dataset import`."""

    split: str = "train"
    """Split of a folder or hub data set."""


@settings_command(ImportSettings, "dataset.import", group=command)
@operand("source")
def import_(resolved: Resolved[ImportSettings], source: str) -> None:
    """Stream a preference data set in the published schema into OUT, split by document."""
    from agenticlu.data.build import load_meanings
    from agenticlu.data.card import write_card
    from agenticlu.data.dataset import check_out, staged
    from agenticlu.data.published import import_published

    settings = resolved.values
    licence = settings.parse_licence()
    check_out(settings.out, Path(source))
    evaluation = settings.load_evaluation()
    with staged(settings.out) as part:
        summary = import_published(
            source,
            part,
            split=settings.split,
            validation=settings.validation,
            evaluation=evaluation,
            drop_contaminated=not settings.decontaminate_report,
        )
        label = Path(source).name if Path(source).exists() else source
        imported = {
            "source": label,
            "split": settings.split,
            "read": summary.funnel.rows.total(),
            "not_better": summary.num_not_better,
            "neutralised": summary.num_neutralised,
        }
        write_card(part, summary, licence, imported=imported)
    _print_summary(summary, load_meanings("imported"), settings)


@settings_command(UploadSettings, "dataset.push", group=command)
@operand("folder", type=click.Path(path_type=Path))
@operand("hub_id", metavar="OWNER/NAME")
def push_(resolved: Resolved[UploadSettings], folder: Path, hub_id: str) -> None:
    """Upload the data set in FOLDER to the hub; resumes an interrupted upload."""
    from agenticlu.data.dataset import load_record
    from agenticlu.data.hub import Licence, check_push

    licence = load_record(folder).get("licence")
    check_push(hub_id, None if licence is None else Licence(**licence))
    _push(folder, hub_id, resolved.values.private, False)


def _push(folder: Path, hub_id: str, private: bool, quiet: bool) -> None:
    from agenticlu.data.hub import push

    address = push(folder, hub_id, private=private)
    echo(f"Uploaded to {address}", err=quiet)


def _print_summary(
    summary: DatasetSummary,
    meanings: Mapping[str, Mapping[str, str]],
    settings: OutputSettings,
) -> None:
    """Prints what was written, and warnings to standard error."""
    data: Mapping[str, Any] = summary.as_dict()
    for warning in summary.warnings(settings.validation):
        echo(f"Warning: {warning}", err=True)
    if settings.as_json:
        echo_json(data)
        return
    for kind, splits in summary.rows.items():
        counts = ", ".join(f"{number} {split}" for split, number in splits.items())
        echo(f"{kind}: {counts} rows")
    documents = data["documents"]
    echo(
        f"documents: {documents['train']} train, {documents['validation']} validation "
        f"({documents['repeated']} repeated, {documents['near_duplicates']} near-duplicates; "
        f"{documents['moved']} moved to the side of their copies)"
    )
    for name, counter in data["funnel"].items():
        if isinstance(counter, dict) and counter["total"]:
            reasons = ", ".join(f"{n} {why}" for why, n in counter.items() if why != "total")
            echo(f"  {counter['total']} {meanings[name]['total']}: {reasons}")
    if summary.contamination is not None:
        found = data["contamination"]
        fate = "left out" if found["dropped"] else "counted only"
        echo(
            f"  shared with evaluation, {fate}: {found['documents_found']} documents, "
            f"{found['questions_found']} questions"
        )
    given = shlex.quote(str(settings.out))
    start = f"sft {given} --model MODEL --out SFT"
    if not summary.rows["sft"]["train"]:
        start = f"dpo {given} --from MODEL --out DPO"
    echo(
        f"Written to {settings.out}; its README.md says what each reason means. "
        f"Next: agenticlu train {start}"
    )
