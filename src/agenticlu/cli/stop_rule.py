"""`agenticlu generate stop-rule`: when another round is worth it, learned from a recorded run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from agenticlu.cli.options import operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import JsonSettings, Spelling

if TYPE_CHECKING:
    from agenticlu.dialogue.stopping import StopRule


class StopRuleSettings(JsonSettings):
    """Settings of `agenticlu generate stop-rule`."""

    out: Annotated[Path | None, Spelling(metavar="FILE")] = None
    """JSON file to write the rule to, for --stop-rule."""
    into: Annotated[Path | None, Spelling(metavar="FOLDER")] = None
    """Model folder whose agenticlu.json is to hold the rule: it then stops by it by itself."""


@settings_command(StopRuleSettings, "generate.stop-rule", name="stop-rule")
@operand("run", type=click.Path(path_type=Path))
def command(resolved: Resolved[StopRuleSettings], run: Path) -> None:
    """Fit when to stop asking on the judged rounds of RUN, and show what it would have done there.

    The rule weighs the self-check against what is seen of a round: the paragraphs pointed to,
    whether what was said stands in them, whether the answer changed. Nothing is asked of a model.
    """
    from agenticlu.data.build import load_tree_views
    from agenticlu.data.stop_rule import SETTING, Examples, fit_stop_rule
    from agenticlu.search.settings import load_run
    from agenticlu.search.store import Store

    settings = resolved.values
    if settings.into is not None and not (settings.into / "config.json").is_file():
        raise UsageError(
            f"--into {str(settings.into)!r} is no model folder: it has no config.json.",
            hint="Give the folder that --model would name, or --out FILE.",
        )
    load_run(run)  # a folder without a run is an error before it is opened for writing
    with Store(run) as store:
        examples = Examples()
        for view, is_finished in load_tree_views(store):
            if is_finished:
                examples.add(view)
        rule, found = fit_stop_rule(examples)
        store.put(**{SETTING: {"rule": rule.model_dump(mode="json"), **found}})
    _write(rule, settings)
    if settings.as_json:
        echo_json({"rule": rule.model_dump(mode="json"), **found})
    else:
        echo(render_rule(rule, found))
        if settings.out is None and settings.into is None:
            echo(f"Next: agenticlu generate stop-rule {shlex.quote(str(run))} --into MODEL")


def _write(rule: StopRule, settings: StopRuleSettings) -> None:
    from agenticlu.core.files import write_atomically
    from agenticlu.dialogue.stopping import HINT

    if settings.out is not None:
        write_atomically(settings.out, rule.model_dump_json(indent=2) + "\n")
    if settings.into is None:
        return
    path = settings.into / "agenticlu.json"
    hints: Any = {}
    if path.is_file():
        try:
            hints = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{str(path)!r} is no JSON: {error}") from error
        if not isinstance(hints, dict):
            raise ConfigError(f"{str(path)!r} must hold one JSON object.")
    hints[HINT] = rule.model_dump(mode="json")
    write_atomically(path, json.dumps(hints, indent=2) + "\n")


def render_rule(rule: StopRule, found: Mapping[str, Any]) -> str:
    """Returns a rule and what it was measured to do, for people."""
    now, curve = found["self_check"], found["curve"]
    chosen = next(one for one in curve if one["threshold"] == rule.threshold)
    balanced = found["balanced_accuracy"]
    lines = [
        f"Fitted on {found['rounds']:,} judged rounds of {found['documents']} documents, "
        f"{found['right']:,} of them right.",
        f"Whether a round is right, balanced accuracy: self-check {balanced['self_check']:.1%}, "
        f"rule {balanced['rule']:.1%} (on documents that it was not fitted on).",
        "",
        f"{'stops by':<14}{'right':>8}{'95%':>17}{'rounds':>9}{'repaired':>10}{'spoiled':>9}",
        _line("self-check", now),
        *(_line(f"p >= {one['threshold']:.2f}", one) for one in curve[::2]),
        "",
        f"Stops from p >= {rule.threshold:.2f}: right {chosen['right']:.1%} against "
        f"{now['right']:.1%} by the self-check.",
    ]
    if not found["followed_right"]:
        lines.append(
            "No right round of this run was followed by another, so nothing is known of what a "
            "further round spoils: --growth full searches that."
        )
    weights = sorted(rule.weights.items(), key=lambda one: -abs(one[1]))
    lines.append("Weights: " + ", ".join(f"{name} {weight:+.2f}" for name, weight in weights))
    return "\n".join(lines)


def _line(name: str, one: Mapping[str, Any]) -> str:
    interval = "–"
    if one["interval"] is not None:
        low, high = one["interval"]
        interval = f"[{low:.1%}, {high:.1%}]"
    return (
        f"{name:<14}{one['right']:>8.1%}{interval:>17}{one['rounds']:>9.2f}"
        f"{one['repaired']:>10.1%}{one['spoiled']:>9.1%}"
    )
