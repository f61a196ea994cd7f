"""The Croissant description against the files, and through the format's own reader where it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from made_trees import asked, make_run, node, story, tree

from agenticlu.data.build import build_dataset
from agenticlu.data.card import write_card
from agenticlu.data.facts import collect_facts
from agenticlu.data.folder import staged
from agenticlu.data.licences import Licence
from agenticlu.data.pairs import PairPolicy
from agenticlu.search.store import Store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("croissant")
    mixed = (node("a", 1.0), node("b", 0.0, ordinal=1))
    run = make_run(
        root / "run",
        [(story(i), tree(*mixed, question=asked(i), document=story(i))) for i in range(4)],
    )
    with Store(run, writable=False) as store, staged(root / "data") as part:
        summary = build_dataset(store, part, PairPolicy(validation=0.4))
        write_card(part, summary, Licence("mit"), run=collect_facts(store))
    return root / "data"


TYPES = {
    "string": ("sc:Text", False),
    "double": ("sc:Float", False),
    "int64": ("sc:Integer", False),
    "bool": ("sc:Boolean", False),
    "list<element: string>": ("sc:Text", True),
    "list<element: int64>": ("sc:Integer", True),
}


def test_every_file_and_column_is_described_as_it_is(data: Path):
    described = json.loads((data / "croissant.json").read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert described["@context"]["conformsTo"] == "dct:conformsTo"
    assert described["license"] == "mit"
    files = {file["@id"]: file for file in described["distribution"]}
    assert set(files) == {p.relative_to(data).as_posix() for p in data.rglob("*.parquet")}
    assert len(files) == 4
    for name, file in files.items():
        content = (data / name).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["contentSize"] == f"{len(content)} B"
    for records in described["recordSet"]:
        name = records["field"][0]["source"]["fileObject"]["@id"]
        schema = pyarrow.parquet.read_schema(data / name)
        assert [field["name"] for field in records["field"]] == schema.names
        for field in records["field"]:
            assert field["source"]["extract"] == {"column": field["name"]}
            kind = str(schema.field(field["name"]).type)
            if kind in TYPES:
                assert (field["dataType"], field.get("repeated", False)) == TYPES[kind]
                continue
            assert kind == "list<element: struct<role: string, content: string>>"
            assert field["repeated"] is True
            assert [part["name"] for part in field["subField"]] == ["role", "content"]
    ids = [item["@id"] for item in described["distribution"] + described["recordSet"]]
    assert len(set(ids)) == len(ids)


def test_the_format_s_own_reader_yields_the_rows(data: Path):
    """Runs where mlcroissant is installed; it needs scipy, so nothing here requires it."""
    croissant = pytest.importorskip("mlcroissant")
    dataset = croissant.Dataset(jsonld=str(data / "croissant.json"))

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, dict):
            return {key.rsplit("/", 1)[-1]: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    for name in ("sft-train", "preference-train"):
        records = [plain(record) for record in dataset.records(name)]
        path = data / f"{name.replace('-', '/')}.parquet"
        assert records == pyarrow.parquet.read_table(path).to_pylist()
