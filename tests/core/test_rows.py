from __future__ import annotations

import bz2
import gzip
import json
import lzma
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
        (b'{"a": 1, "a": 2}', r"^Line 1 of .*\(the key 'a' occurs twice"),
        (b'[{"a": {"b": 1, "b": 1}}]', r"^Entry 1 of .*\(the key 'b' occurs twice"),
        (b'{"a": 1}\r{"a": 2}', "^Line 1 of .* is not JSON"),
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
        (b"PK\x03\x04", "a zip archive", "unzip"),
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


# --- Several objects, compressed files ---


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_objects_may_stand_over_several_lines(tmp_path: Path, name: str):
    path = tmp_path / name
    rows = [{"a": "x\u2028y\x85z"}, {"b": [1, {"c": None}]}]
    path.write_text("\n\n".join(json.dumps(row, indent=2) for row in rows), encoding="utf-8")
    assert list(load_numbered_rows(path)) == [(1, rows[0]), (5, rows[1])]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert list(load_rows(path)) == rows, "the ends of lines that JSON lets stand in texts"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(DocumentError, match=r"Line 1 of .* is not JSON"):
        list(load_rows(path))


def compress(kind: str, data: bytes) -> bytes:
    if kind == "zst":
        return pytest.importorskip("zstandard").compress(data)
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](data)


KINDS = ["gz", "bz2", "xz", "zst"]


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_files_are_read_as_they_are(tmp_path: Path, kind: str):
    rows = [{"a": "Caf\u00e9", "n": n, "pad": "x" * 700} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    half = lines.index(b"\n", len(lines) // 2) + 1
    members = compress(kind, lines[:half]) + compress(kind, lines[half:])
    csv = b"a,n\r\nCaf\xc3\xa9,1\r\n"
    for name, data, found in (
        (f"rows.jsonl.{kind}", compress(kind, lines), rows),
        ("rows.jsonl", compress(kind, lines), rows),
        (f"rows.jsonl.{kind}", members, rows),
        (f"rows.jsonl.{kind}", members + bytes(512), rows),
        (f"rows.json.{kind}", compress(kind, json.dumps(rows).encode()), rows),
        (f"rows.csv.{kind}", compress(kind, csv), [{"a": "Caf\u00e9", "n": "1"}]),
        (f"rows.jsonl.{kind}", compress(kind, b""), []),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        assert list(load_rows(path)) == found, name


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_compressed_files_are_refused(tmp_path: Path, kind: str):
    path = tmp_path / f"rows.jsonl.{kind}"
    lines = b"".join(b'{"a": "%d"}\n' % n**7 for n in range(2000))
    whole = compress(kind, lines)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DocumentError, match="cut off"):
        list(load_rows(path))
    middle = len(whole) // 2
    for data in (whole[:middle] + bytes(64) + whole[middle + 64 :], whole + b"garbage"):
        path.write_bytes(data)
        with pytest.raises(DocumentError, match=r"rows\.jsonl"):
            list(load_rows(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_costs_no_memory(tmp_path: Path, monkeypatch, kind: str):
    monkeypatch.setattr(rows_module, "MOST_ROW_BYTES", 1 << 20)
    path = tmp_path / f"rows.jsonl.{kind}"
    path.write_bytes(compress(kind, b" " * (24 << 20)))
    assert path.stat().st_size < 1 << 18
    with pytest.raises(DocumentError, match=r"Line 1 of .* is longer than 1 MiB"):
        list(load_rows(path))


def test_a_table_inside_a_compressed_file_is_named(tmp_path: Path):
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1 and so on"))
    with pytest.raises(DocumentError, match="a compressed table"):
        list(load_rows(path))


# --- Tables ---


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.csv", "q,n\nWho?,1\n", [(2, {"q": "Who?", "n": "1"})]),
        ("a.CSV", "\ufeffq;n\r\nWho, then?;1\r\n", [(2, {"q": "Who, then?", "n": "1"})]),
        ("a.tsv", "q\tn\nWho?\t1", [(2, {"q": "Who?", "n": "1"})]),
        ("a.csv", 'q,n\n"two\nlines, ""x""",1\nb,2\n',
         [(2, {"q": 'two\nlines, "x"', "n": "1"}), (4, {"q": "b", "n": "2"})]),
        ("a.csv", "\n\nq,n\n\na,1\n,\n", [(5, {"q": "a", "n": "1"})]),
        ("a.csv", ",q\n0,a\n", [(2, {"q": "a"})]),
        ("a.csv", 'q\n"[""x"", ""y""]"\n', [(2, {"q": '["x", "y"]'})]),
        ("a.csv", f"q\n{'x' * 300_000}\n", [(2, {"q": "x" * 300_000})]),
        ("a.csv", "q,n\n", []),
        ("a.csv", "", []),
        ("a.csv", '"q, the question";n\na;1\n', [(2, {"q, the question": "a", "n": "1"})]),
    ],
)  # fmt: skip
def test_csv_is_read_by_its_header(tmp_path: Path, name: str, content: str, rows):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert list(load_numbered_rows(path)) == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"q,n\na,1\nb\n", "Line 3 of .* has 1 cells for 2 columns"),
        (b"q,n\na,1,2\n", "Line 2 of .* has 3 cells for 2 columns"),
        (b'q,n\na,"1\n', "is not CSV"),
        (b'q,n\n"a"b,1\n', "Line 2 of .* is not CSV"),
        (b"q,q\na,1\n", "names two columns 'q'"),
        (b"q,n\na,\0\n", "NUL bytes, in line 2"),
        (b"q,n\nCaf\xe9,1\n", "not UTF-8: line 2 has the byte 0xe9"),
        ("q,n\na,1\n".encode("utf-16"), "UTF-16"),
        (b"q,n\ra,1\r", "is not CSV"),
    ],
)
def test_a_bad_line_of_a_table_is_named(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        list(load_rows(tmp_path / "a.csv", error=ConfigError))


def test_arrow_and_parquet_are_told_by_their_beginning(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    feather = pytest.importorskip("pyarrow.feather")
    rows = [{"q": f"q{n}", "a": {"text": [str(n), None]}, "d": None} for n in range(40)]
    table = arrow.Table.from_pylist(rows)
    large = table.set_column(0, "q", table["q"].cast(arrow.large_string()).dictionary_encode())
    parquet.write_table(large, tmp_path / "a.parquet", row_group_size=7)
    parquet.write_table(large, tmp_path / "b.data")
    feather.write_feather(large, tmp_path / "c.feather")
    with arrow.ipc.new_stream(tmp_path / "d.arrow", table.schema) as stream:
        stream.write_table(table)
    with arrow.ipc.new_file(tmp_path / "e.arrow", table.schema) as file:
        file.write_table(table)
    for path in sorted(tmp_path.iterdir()):
        assert list(load_rows(path)) == rows, path.name
        assert next(load_rows(path, columns=["q"])) == {"q": "q0"}
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DocumentError, match=f"{path.name} is not a readable"):
            list(load_rows(path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table([["a"], ["b"]], names=["q", "q"])
    with arrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    with pytest.raises(DocumentError, match="two columns have one name"):
        list(load_rows(tmp_path / "a.arrow"))
