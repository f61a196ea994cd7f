from __future__ import annotations

import contextlib
import io
import json
import math
import os
import resource
from pathlib import Path

import pytest

from agenticlu.core.errors import MissingDependencyError, StoreError
from agenticlu.core.progress import (
    MetricsWriter,
    Progress,
    keep_metrics,
    open_mirrors,
    read_metrics,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_few_and_say_what_is_left() -> None:
    clock, out = Clock(), io.StringIO()
    with Progress("questions", 100, stream=out, clock=clock) as progress:
        for i in range(100):
            clock.now += 0.5
            progress.advance(note=f"{i} solved")
    lines = out.getvalue().splitlines()
    assert lines[0] == "questions: 0/100, 0 s"
    assert lines[1] == "questions: 20/100, 10 s, about 40 s left, 19 solved"
    assert lines[-1] == "questions: 100/100, 50 s, 99 solved, done"
    assert len(lines) == 7


def test_an_error_is_not_called_done() -> None:
    out = io.StringIO()
    with pytest.raises(KeyError), Progress("rows", stream=out):
        raise KeyError
    assert out.getvalue().splitlines()[-1].endswith("stopped")


def test_quiet_shows_warnings_alone() -> None:
    out = io.StringIO()
    with Progress("rows", 3, quiet=True, stream=out) as progress:
        progress.advance()
        progress.say("hello")
        progress.warn("429, waiting 12 s")
    assert out.getvalue() == "warning: 429, waiting 12 s\n"


def test_a_bar_where_there_is_a_terminal() -> None:
    out = Terminal()
    with Progress("rows", 3, stream=out) as progress:
        progress.update(2, total=4, note="[red]half[/red]")
        progress.say("a [bold]line[/bold]")
    shown = out.getvalue()
    assert "rows" in shown
    assert "2/4" in shown
    assert "[red]half[/red]" in shown, "markup of others is text"
    assert "a [bold]line[/bold]" in shown


def test_metrics_are_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(step=1, loss=0.5, elapsed_s=1.25, note="é\n", bad=math.nan, path=path)
        metrics.write(step=2, nested={"a": [math.inf, 1]}, odd="\ud800")
    with MetricsWriter(path) as metrics:
        metrics.write(step=3)
        metrics.close()
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    first, second, third = (json.loads(line) for line in lines)
    assert first == {
        "step": 1,
        "loss": 0.5,
        "elapsed_s": 1.25,
        "note": "é\n",
        "bad": None,
        "path": str(path),
    }
    assert second["nested"] == {"a": [None, 1]}
    assert third == {"step": 3}
    assert list(read_metrics(path)) == [first, second, third]


def test_a_torn_line_is_ended_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    with MetricsWriter(path) as metrics:
        metrics.write(step=3)
    with pytest.warns(UserWarning, match="line 2 is torn"):
        assert [row["step"] for row in read_metrics(path)] == [1, 3]


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk_is_said_even_if_it_takes_a_part_of_a_line(room: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsWriter(path) as metrics:
        metrics.write(event="step", step=1)
        metrics.sync()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
            with pytest.raises(StoreError, match="Cannot write metrics"):
                metrics.write(event="step", step=2, note="x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with MetricsWriter(path) as metrics:
        metrics.write(event="step", step=2)
    with contextlib.nullcontext() if room == 0 else pytest.warns(UserWarning, match="torn"):
        assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_a_metrics_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Cannot open"):
        MetricsWriter(tmp_path / "nowhere" / "metrics.jsonl")


def test_a_resumed_job_estimates_from_what_it_did_itself() -> None:
    clock, out = Clock(), io.StringIO()
    with Progress("steps", 100, done=80, stream=out, clock=clock) as progress:
        clock.now += 20
        progress.advance(10)
    assert out.getvalue().splitlines()[:2] == [
        "steps: 80/100, 0 s", "steps: 90/100, 20 s, about 20 s left",
    ]  # fmt: skip


def test_lines_after_a_resume_point_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    keep_metrics(path, lambda event: True)
    assert not path.exists()
    with MetricsWriter(path) as metrics:
        for step in range(4):
            metrics.write(event="step", step=step, note="é")
    keep_metrics(path, lambda event: event["step"] <= 1)
    assert [event["step"] for event in read_metrics(path)] == [0, 1]


def test_mirrors_receive_the_numbers_of_steps(tmp_path: Path) -> None:
    seen = []
    mirrors = [lambda values, step: seen.append((step, dict(values)))]
    with MetricsWriter(tmp_path / "metrics.jsonl", mirrors=mirrors) as metrics:
        metrics.write(event="step", step=3, loss=0.5, kernel="cpu")
        metrics.write(event="end", total_s=1.0)
    assert seen == [(3, {"step/loss": 0.5})]
    with pytest.raises(MissingDependencyError, match="no_such_tracker") as caught:
        open_mirrors(["no_such_tracker"], tmp_path, {})
    assert caught.value.hint == "pip install no_such_tracker"


def test_a_log_that_is_no_file_has_no_disk_to_wait_for() -> None:
    with MetricsWriter(os.devnull) as metrics:
        metrics.write(step=1)
        metrics.sync()
