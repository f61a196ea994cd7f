from __future__ import annotations

import gzip
import json
import shlex
import subprocess
from pathlib import Path

import pytest

from agenticlu.core import files as rows_module
from agenticlu.core.errors import ConfigError, DocumentError
from agenticlu.core.files import load_numbered_rows, load_rows


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": NaN}\r\n\n{"b": 123456789012345678901234567890}')
    numbers, rows = zip(*load_numbered_rows(path), strict=True)
    assert numbers == (1, 3)
    assert rows[1] == {"b": 123456789012345678901234567890}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n\n{"a": \n', r"^Line 3 of .* is not JSON \("),
        (b'{"a": 1}\n"x"\n', "^Line 2 of .* is a string, not a JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "^Line 1 of .* is not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "^Line 1 of .* is not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "^Entry 1 of .* is not JSON"),
    ],
)
def test_a_bad_line_is_named_by_an_error_of_the_class_wanted(tmp_path: Path, content, words):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        list(load_rows(tmp_path / "rows.jsonl", error=ConfigError))
    assert "JSON object" in (caught.value.hint or "")


ROW = '{"a": "Caf\u00e9"}\n'


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(
    ("content", "words", "advice"),
    [
        (ROW.encode() + ROW.encode("latin1"), "not UTF-8: line 2 has the byte 0xe9", "latin1"),
        (f"[{ROW},\n{ROW}]".encode("cp1252"), "not UTF-8: line 1 has the byte 0xe9", "latin1"),
        ('{"a": "\u30c6"}'.encode("shift_jis"), "not UTF-8: line 1 has the byte 0x83", "iconv"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8: line 1 has the byte 0xed", "iconv"),
        (ROW.encode("utf-16"), "is UTF-16, not UTF-8 .line 1", "iconv -f UTF-16 "),
        (ROW.encode("utf-16-le"), "is UTF-16, not UTF-8", "iconv -f UTF-16LE "),
        (f"[{ROW}]".encode("utf-16-be"), "is UTF-16, not UTF-8", "iconv -f UTF-16BE "),
        (ROW.encode("utf-32"), "is UTF-32, not UTF-8", "iconv -f UTF-32 "),
        (ROW.encode() + bytes(40), "NUL bytes, in line 2", "tr -d"),
        (bytes(40) + b"\n" + ROW.encode(), "NUL bytes, in line 1", "tr -d"),
        (b'{"a": "x\0y"}', "NUL bytes, in line 1", "tr -d"),
        (gzip.compress(ROW.encode(), mtime=0), "compressed with gzip", "gunzip"),
        (b"PK\x03\x04", "a zip archive", "unzip"),
        (b"PAR1\x15\n", "a Parquet file under another name", ".parquet"),
    ],
)
def test_what_is_not_utf8_is_told_with_its_line_and_a_remedy(
    tmp_path: Path, content: bytes, words: str, advice: str, suffix: str
):
    path = tmp_path / f"my rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        list(load_rows(path, error=ConfigError))
    assert advice in (caught.value.hint or "")
    assert str(path) in caught.value.message
    assert shlex.quote(str(path)) in (caught.value.hint or "")


def test_the_remedy_for_another_encoding_works(tmp_path: Path):
    for encoding in ("latin1", "utf-16", "utf-16-le", "utf-32"):
        path = tmp_path / f"{encoding}.jsonl"
        path.write_bytes(ROW.encode(encoding))
        with pytest.raises(DocumentError) as caught:
            list(load_rows(path))
        command = (caught.value.hint or "").partition(": ")[2]
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        assert list(load_rows(tmp_path / "NEW.jsonl")) == [json.loads(ROW)]


def test_files_put_together_keep_their_byte_order_marks(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes((b"\xef\xbb\xbf" + ROW.encode()) * 2 + b"\xef\xbb\xbf\n")
    assert list(load_rows(path)) == [json.loads(ROW)] * 2


def test_an_absent_file_is_named(tmp_path: Path):
    for name in ("rows.jsonl", "rows.parquet"):
        with pytest.raises(DocumentError, match=r"Cannot read|No such file"):
            list(load_rows(tmp_path / name))


def test_torn_lines_are_skipped_with_a_warning_where_wanted(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    with pytest.warns(UserWarning, match="line 3 is torn"):
        assert [row["a"] for row in load_rows(path, skip_torn=True)] == [1, 2]


def test_a_json_file_may_hold_lines_or_one_object(tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert [row["a"] for row in load_rows(path)] == [1, 2]
    path.write_text(json.dumps({"a": {"b": [1]}}, indent=2))
    assert list(load_rows(path)) == [{"a": {"b": [1]}}]


def test_columns_of_a_table(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    arrow.parquet.write_table(arrow.table({"a": [1, 2], "b": ["x", None]}), path)
    assert list(load_rows(path)) == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert list(load_numbered_rows(path, columns=["b"])) == [(1, {"b": "x"}), (2, {"b": None})]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DocumentError, match="is not a readable Parquet file"):
        list(load_rows(path))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_json_arrays_are_read_entry_by_entry(tmp_path: Path, monkeypatch, size: int):
    """Whatever is read at a time, the entries are those that `json` finds."""
    monkeypatch.setattr(rows_module, "CHUNK_CHARACTERS", size)
    rows = [{"a": "x, ] } \\" + chr(233), "b": [1, {"c": None}]}, {}, {"long": "y" * 300}]
    path = tmp_path / "a.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=2) + "\n", "[]", " [ ]\n"):
        path.write_text(text, encoding="utf-8")
        assert list(load_rows(path)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "Entry 1 of .* is a number, not a JSON object"),
        ('[{"a": 1}, 12]', "Entry 2 of .* is a number"),
        ('[{"a": 1}', "Entry 1 of .* is not JSON"),
        ('[{"a": 1}, ]', "Entry 2 of .* is not JSON"),
        ('[{"a": 1} {"b": 2}]', "Entry 2 of .* is not JSON .expecting ','"),
        ('[{"a": 1}, {"b": ', "Entry 2 of .* is not JSON"),
        ('[{"a": 1}] {}', "extra data after the array"),
    ],
)
def test_a_bad_entry_of_an_array_is_named(tmp_path: Path, text: str, words: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DocumentError, match=words):
        list(load_rows(tmp_path / "a.json"))


def test_a_large_array_is_not_held_whole(tmp_path: Path):
    import tracemalloc

    path = tmp_path / "a.json"
    row = json.dumps({"context": "x" * 20_000, "question": "?"})
    path.write_text(f"[{', '.join([row] * 1000)}]")
    tracemalloc.start()
    count = sum(1 for _ in load_rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1000
    assert peak < path.stat().st_size / 2


def test_a_fault_early_in_a_large_array_is_found_early(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_CHARACTERS", 64)
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1} {"a": 2}, ' + '{"a": 3}, ' * 1000 + "]")
    with path.open() as file, pytest.raises(json.JSONDecodeError):
        list(rows_module._iterate_array(file))
    with path.open() as file:
        with pytest.raises(json.JSONDecodeError):
            list(rows_module._iterate_array(file))
        assert len(file.read()) > 9000


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_arrays_hold_all_that_python_writes(tmp_path: Path, monkeypatch, size: int):
    monkeypatch.setattr(rows_module, "CHUNK_CHARACTERS", size)
    rows = [{"a": 10**30, "b": 1e300, "c": "\ud800", "d": float("-inf")}, {"e": "\U0001f600"}]
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    assert list(load_rows(path)) == rows
