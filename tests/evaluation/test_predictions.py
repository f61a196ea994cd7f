"""The file of predictions: nothing finished is lost, and a full disk is an error in words."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Prediction, Usage
from agenticlu.evaluation.predictions import PredictionWriter, read_predictions


def prediction(number: int, reply: str = "It is “red”.") -> Prediction:
    return Prediction(
        id=f"i{number}", task="world", method="direct", length=256, document_id="d",
        question_id=f"q{number}", question="?", gold=("red",), raw=reply,
        usage=Usage(requests=1),
    )  # fmt: skip


def written(path: Path, *numbers: int) -> bytes:
    with PredictionWriter(path) as writer:
        writer.append(*map(prediction, numbers))
    return path.read_bytes()


def test_wherever_the_last_line_was_cut_the_others_stay_and_what_is_whole_counts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "predictions.jsonl"
    whole = written(path, 1, 2)
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        before = read_predictions(path, warn=False).keys()
        written(path, 3)
        after = list(read_predictions(path))
        assert after == [*before, "i3"], "what was counted before is there after"
        assert ("i2" in after) == (end >= len(whole) - 1), "a line lacks nothing but its end"


@pytest.mark.parametrize("rest", [b"", b'": 3}\n', b'": 3}'])
@pytest.mark.parametrize("num_blank", [1, 4096])
def test_blank_pages_of_a_power_failure_cost_nothing_that_was_finished(
    num_blank: int, rest: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(written(path, 1, 2) + bytes(num_blank) + rest)
    assert list(read_predictions(path)) == ["i1", "i2"]
    assert "runs again" in capsys.readouterr().err
    written(path, 3)
    assert list(read_predictions(path)) == ["i1", "i2", "i3"]


@contextmanager
def small_disk(most_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("room", [0, 1, 200, 700])
def test_a_full_disk_is_said_and_what_fits_is_kept(room: int, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    size = len(written(path, 1))
    with small_disk(size + room):
        writer = PredictionWriter(path)
        with pytest.raises(StoreError, match="Cannot write") as caught:
            [writer.append(prediction(number)) for number in range(2, 9)]
        writer.close()  # raises nothing more
    assert "same command" in (caught.value.hint or "")
    kept = list(read_predictions(path, warn=False))
    assert kept == [f"i{n}" for n in range(1, len(kept) + 1)]
    assert list(read_predictions(path, warn=False)) == kept
    written(path, 9)
    assert list(read_predictions(path)) == [*kept, "i9"]
