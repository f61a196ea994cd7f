"""What a run says while it runs: metrics.jsonl for machines, one line for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from agenticlu.core.errors import missing_dependency


class MetricsLog:
    """Appends one JSON object per event; mirrors numbers to loggers that were asked for."""

    def __init__(self, path: Path, *, keep_steps: int | None = None) -> None:
        """Opens the log.

        Args:
            path: metrics.jsonl.
            keep_steps: After a resume, lines of later steps are dropped; None starts afresh.
        """
        self.path = path
        kept: list[str] = []
        if keep_steps is not None and path.exists():
            for line in path.read_text(encoding="utf-8").split("\n"):
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a torn last line
                if event.get("step", 0) <= keep_steps and event.get("event") != "end":
                    kept.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        part.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._mirrors: list[Any] = []

    def mirror_to(self, names: tuple[str, ...], folder: Path, settings: Mapping[str, Any]) -> None:
        """Opens the loggers asked for by name.

        Raises:
            MissingDependencyError: One is not installed.
        """
        for name in names:
            try:
                if name == "tensorboard":
                    from torch.utils.tensorboard.writer import SummaryWriter

                    writer = SummaryWriter(str(folder / "tensorboard"))
                    self._mirrors.append(
                        lambda values, step, writer=writer: [
                            writer.add_scalar(key, value, step) for key, value in values.items()
                        ]
                    )
                else:
                    module = __import__(name)
                    module.init(project="agenticlu", dir=str(folder), config=dict(settings))
                    self._mirrors.append(
                        lambda values, step, module=module: module.log(values, step=step)
                    )
            except ModuleNotFoundError as error:
                raise missing_dependency(name, "train") from error

    def write(self, event: str, **values: Any) -> None:
        """Appends one event."""
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()
        step = values.get("step")
        if step is not None:
            numbers = {
                f"{event}/{key}": value
                for key, value in values.items()
                if isinstance(value, int | float) and key != "step"
            }
            for mirror in self._mirrors:
                mirror(numbers, step)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class ProgressLine:
    """One line on stderr, redrawn on a terminal, printed now and then elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 10.0) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.live = self.stream.isatty()
        self.every_s = every_s
        self._last = 0.0
        self._width = 0

    def show(self, text: str, *, last: bool = False) -> None:
        """Shows the line; skipped when it is too soon and nobody watches."""
        now = time.monotonic()
        if self.live:
            padded = text.ljust(self._width)
            self.stream.write(f"\r{padded}" + ("\n" if last else ""))
            self._width = 0 if last else len(text)
        elif last or now - self._last >= self.every_s:
            self.stream.write(text + "\n")
        else:
            return
        self._last = now
        self.stream.flush()

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        if self.live and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self.stream.write(text + "\n")
        self.stream.flush()


def short(number: float) -> str:
    """Returns a number in three digits with a unit.

    >>> short(950), short(12_340), short(7_300_000)
    ('950', '12.3K', '7.30M')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            value = number / limit
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{digits}f}{unit}"
    return f"{number:.0f}"


def clock(seconds: float) -> str:
    """Returns h:mm:ss, or m:ss below an hour.

    >>> clock(75), clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def step_line(stage: str, values: dict[str, Any], total: int, left_s: float) -> str:
    """Returns the progress line of a step."""
    parts = [
        f"{stage} step {values['step']}/{total}",
        f"loss {values['loss']:.4f}",
        f"lr {values['lr']:.1e}",
        f"{short(values['stored_tokens_per_s'])} tokens/s",
        f"{short(values['effective_tokens_per_s'])} effective",
    ]
    if stage == "dpo":
        parts.insert(2, f"ordered {values['pairs_ordered_share']:.0%}")
    if values.get("mfu_causal") is not None:
        parts.append(f"MFU {values['mfu_causal']:.0%}")
    if values.get("peak_device_bytes"):
        parts.append(f"{values['peak_device_bytes'] / 2**30:.1f} GiB")
    return "  ".join([*parts, f"ETA {clock(left_s)}"])


def describe(values: dict[str, Any]) -> str:
    """Returns an evaluation in words."""
    text = f"loss {values['loss']:.4f}"
    if "pair_accuracy" in values:
        text += f", pair accuracy {values['pair_accuracy']:.0%}"
    return f"{text} ({values['rows']} rows)"
