"""Files of any bytes: rows are read, or refused in words; never anything else."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenticlu.cli.ask.questions import read_questions
from agenticlu.core.errors import AgenticluError, DocumentError, TrainingError
from agenticlu.core.files import load_rows
from agenticlu.data.corpus import LeftOut, load_corpus
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.rescore import score_file
from agenticlu.training.rows import find_rows, parse_conversations

ROWS = [
    {
        **{"context": "Ada built it.", "question": "Who?", "answers": ["Ada", "Ada L."]},
        **{"prediction": "Answer: Ada", "options": ["Ada", "Bo"], "id": str(number)},
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
    }
    for number in range(3)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CELLS = [[json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in ROWS]


def _csv() -> bytes:
    quoted = [",".join('"' + str(v).replace('"', '""') + '"' for v in row) for row in CELLS]
    return "\r\n".join([",".join(ROWS[0]), *quoted]).encode()


def _tables(folder: Path) -> dict[str, bytes]:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(ROWS)
    parquet.write_table(table, folder / "t.parquet")
    with arrow.ipc.new_file(folder / "t.arrow", table.schema) as file:
        file.write_table(table)
    return {f".{end}": (folder / f"t.{end}").read_bytes() for end in ("parquet", "arrow")}


GOOD: dict[str, bytes] = {
    ".jsonl": LINES,
    ".json": json.dumps(ROWS, indent=1).encode(),
    ".csv": _csv(),
    ".jsonl.gz": gzip.compress(LINES, mtime=0),
    ".jsonl.bz2": bz2.compress(LINES),
    ".jsonl.xz": lzma.compress(LINES),
}
ENDINGS = (*GOOD, ".jsonl.zst", ".parquet", ".arrow", ".tsv", ".txt", "")


def _read_corpus(path: Path) -> object:
    return list(load_corpus(str(path), left_out=LeftOut()))


def _read_training(path: Path) -> object:
    found = [row for file in find_rows(path, "sft", "train")
             for row in load_rows(file, error=TrainingError)]  # fmt: skip
    return [parse_conversations(row, "sft", str(number)) for number, row in enumerate(found)]


READERS: dict[str, Callable[[Path], object]] = {
    "corpus": _read_corpus,
    "training": _read_training,
    "scoring": score_file,
    "predictions": read_predictions,
    "questions": lambda path: read_questions(str(path)),
}
"""Each with what people give it."""


def read_all(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, read in READERS.items():
        try:
            found[name] = read(path)
        except AgenticluError as error:
            assert error.message.isprintable() or "\n" not in error.message  # noqa: PT017
            found[name] = error
    return found


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    zstd = pytest.importorskip("zstandard").compress(LINES)
    return {**GOOD, ".jsonl.zst": zstd, **_tables(tmp_path_factory.mktemp("tables"))}


def test_the_good_files_are_read(tmp_path: Path, good: dict[str, bytes]) -> None:
    """The guard: what is damaged below was whole."""
    for ending, data in good.items():
        path = tmp_path / f"rows{ending}"
        path.write_bytes(data)
        found = read_all(path)
        assert len(found["corpus"]) == 3, ending  # type: ignore[arg-type]
        assert found["scoring"].metrics["correct"].mean == 1.0  # type: ignore[attr-defined]
        if ending != ".csv":  # whose cells are texts
            assert len(found["training"]) == 3, ending  # type: ignore[arg-type]


PATCH = st.tuples(
    st.floats(0, 1),
    st.sampled_from(["insert", "replace", "cut", "repeat"]),
    st.binary(max_size=6)
    | st.sampled_from([b"\n", b"\r", b'"', b"{", b"[", b"]", b",", b"\0", b"\xff\xfe", b"NaN",
                       b"9" * 5000, b"[" * 5000, b"\xe2\x80\xa8", b'\\ud800', b"null", b"1e999",
                       b"\xef\xbb\xbf", b'"answers": 5,', b"-Infinity", b";", b"\t"]),
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(ENDINGS), st.sampled_from(ENDINGS), st.lists(PATCH, min_size=1, max_size=3))
def test_a_damaged_file_is_read_or_refused_in_words(
    tmp_path_factory, good: dict[str, bytes], content: str, ending: str, patches
) -> None:
    data = good.get(content, LINES)
    for where, how, piece in patches:
        at = int(where * len(data))
        after = {"insert": at, "replace": at + len(piece), "cut": len(data), "repeat": at // 2}
        data = data[:at] + piece + data[after[how] :]
    path = tmp_path_factory.getbasetemp() / f"rows{ending}"
    path.write_bytes(data)
    read_all(path)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ENDINGS), st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory, ending: str, data) -> None:
    path = tmp_path_factory.getbasetemp() / f"rows{ending}"
    path.write_bytes(data)
    read_all(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "value", "label"]) | st.text(max_size=2),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from(list(ROWS[0])), VALUES, max_size=4), st.booleans())
def test_any_json_is_read_or_refused_in_words(tmp_path_factory, changes, alone: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.write_text(json.dumps(changes if alone else {**ROWS[0], **changes}))
    read_all(path)


@pytest.mark.parametrize("depth", [500, 990, 3000, 100_000])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".txt"])
def test_deep_nesting_is_read_or_refused(tmp_path: Path, depth: int, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    for value in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        path.write_text(f'{{"context": "a", "question": "q", "answers": {value}}}\n')
        found = read_all(path)
        assert isinstance(found["corpus"], DocumentError)
        path.write_text(f'{{"context": "a", "question": "q", "answers": "a", "x": {value}}}\n')
        read_all(path)
        path.write_text(value)
        read_all(path)
