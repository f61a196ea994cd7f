from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet
import pytest

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.data.dataset import PART, RowWriter, check_out, describe_files, load_record, staged

COLUMNS = {"prompt": "messages", "document_id": "text"}


def test_long_documents_are_stored_once_in_a_group_too(tmp_path: Path):
    """A dictionary of the usual size is full after the first of them, and the rest is repeated."""
    draw = random.Random(0)
    texts = ["".join(draw.choices("abcdefgh ", k=700_000)) for _ in range(4)]
    writer = RowWriter(tmp_path / "rows.parquet", COLUMNS)  # type: ignore[arg-type]
    for number, text in enumerate(texts):
        for _ in range(5):
            message = {"role": "user", "content": text}
            writer.write({"prompt": [message], "document_id": str(number)})
    writer.close()
    metadata = pyarrow.parquet.ParquetFile(tmp_path / "rows.parquet").metadata
    assert metadata.num_row_groups == 1
    column = metadata.row_group(0).column(1)
    assert column.path_in_schema.endswith("content")
    held = sum(map(len, texts))
    assert held < column.total_uncompressed_size < 1.1 * held


def write(part: Path, *names: str) -> None:
    for name in ("README.md", *names):
        (part / name).parent.mkdir(exist_ok=True)
        (part / name).write_text(f"{name} of {len(names)}")
    record = {"format": "agenticlu-dataset", "files": describe_files(part)}
    (part / "summary.json").write_text(json.dumps(record))


def write_and_stop(out: Path, *names: str) -> None:
    with staged(out) as part:
        write(part, *names)
        raise ValueError("stop")


def names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_files_take_their_place_together(tmp_path: Path):
    out = tmp_path / "a" / "data"
    with staged(out) as part:
        write(part, "sft/train.parquet")
        assert names_in(out) == {
            f"{PART}/{n}" for n in ("README.md", "summary.json", "sft/train.parquet")
        }
    assert names_in(out) == {"README.md", "summary.json", "sft/train.parquet"}
    assert set(load_record(out)["files"]) == {"README.md", "sft/train.parquet"}


def test_a_build_that_fails_leaves_nothing_and_takes_nothing(tmp_path: Path):
    out = tmp_path / "a" / "data"
    for _ in range(2):
        with pytest.raises(ValueError, match="stop"):
            write_and_stop(out, "sft/train.parquet")
        assert list(tmp_path.iterdir()) == []
    with staged(out) as part:
        write(part, "sft/train.parquet")
    with pytest.raises(ValueError, match="stop"):
        write_and_stop(out, "preference/train.parquet", "sft/train.parquet")
    assert names_in(out) == {"README.md", "summary.json", "sft/train.parquet"}
    assert (out / "sft" / "train.parquet").read_text() == "sft/train.parquet of 1"


def test_a_build_that_was_killed_is_begun_again(tmp_path: Path):
    (tmp_path / PART / "sft").mkdir(parents=True)
    (tmp_path / PART / "sft" / "old.parquet").write_text("torn")
    check_out(tmp_path)
    with staged(tmp_path) as part:
        write(part, "sft/train.parquet")
    assert names_in(tmp_path) == {"README.md", "summary.json", "sft/train.parquet"}


def test_a_new_data_set_replaces_ours_and_nothing_else(tmp_path: Path):
    with staged(tmp_path) as part:
        write(part, "sft/train.parquet", "preference/train.parquet")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sft" / "mine.txt").write_text("mine")
    check_out(tmp_path)
    with staged(tmp_path) as part:
        write(part, "sft/validation.parquet")
    assert names_in(tmp_path) == {
        *("README.md", "summary.json", "sft/validation.parquet", "notes.txt", "sft/mine.txt")
    }
    assert not (tmp_path / "preference").exists()


@pytest.mark.parametrize("name", ["README.md", ".env", "summary.json", "sft/train.parquet"])
def test_somebody_else_s_folder_is_refused(tmp_path: Path, name: str):
    out = tmp_path / "data"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"accuracy": 0.5}')
    with pytest.raises(UsageError, match="is neither empty nor a data set of agenticlu"):
        check_out(out)
    assert (out / name).read_text() == '{"accuracy": 0.5}'


def test_an_edited_card_is_not_overwritten(tmp_path: Path):
    with staged(tmp_path) as part:
        write(part)
    check_out(tmp_path)
    (tmp_path / "README.md").write_text("hours of work")
    with pytest.raises(UsageError, match="was edited"):
        check_out(tmp_path)
    (tmp_path / "README.md").unlink()
    check_out(tmp_path)


@pytest.mark.parametrize("out", ["run", "run/data", "run/a/b", ".", "link"])
def test_a_run_and_its_data_set_do_not_lie_in_one_another(tmp_path: Path, out: str, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="must not contain each other"):
        check_out(Path(out), Path("run"))
    check_out(Path("data"), Path("run"))


def test_a_file_and_a_folder_that_cannot_be_made_are_said(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        check_out(tmp_path / "file")
    check_out(tmp_path / "file" / "data")
    with pytest.raises(StoreError, match="Cannot write"), staged(tmp_path / "file" / "data"):
        pass
