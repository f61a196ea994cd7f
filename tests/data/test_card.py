from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet
import pytest
import yaml
from made_trees import asked, load_trees, make_run, node, story, tree

from agenticlu.core.records import content_seed
from agenticlu.data.build import (
    Contaminated,
    Lengths,
    TreeLoss,
    build_dataset,
    collect_facts,
    load_meanings,
    without_paths,
)
from agenticlu.data.card import render_card, write_card
from agenticlu.data.corpus import build_item
from agenticlu.data.dataset import staged
from agenticlu.data.hub import Licence
from agenticlu.data.pairs import NodeFate, PairPolicy, RowFate, TraceFate
from agenticlu.data.published import NOT_BETTER, RowFlaw
from agenticlu.data.tree_view import Funnel
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search import SearchConfig
from agenticlu.search.run import run_search
from agenticlu.search.store import Store
from agenticlu.search.store.file import FILE_NAME


def write(run: Path, out: Path, licence: Licence | None = None, **policy: Any) -> dict[str, Any]:
    chosen = PairPolicy(**policy)
    with Store(run, writable=False) as store, staged(out) as part:
        summary = build_dataset(store, part, chosen)
        write_card(part, summary, licence, run=collect_facts(store), policy=chosen.model_dump())
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search in which answers are right, nearly right or wrong, by two judges."""
    items = [
        build_item(
            {
                "context": " ".join(
                    f"Fact {i} of book {book}: item{i} is dark shade{i} of tone{book}."
                    for i in range(10)
                ),
                "question": f"What is item{asked_for} of book {book}?",
                "answers": [f"dark shade{asked_for} of tone{book}"],
            },
            book,
            "made",
        )
        for book in range(10)
        for asked_for in range(2)
    ]

    def reply(request: Any) -> str | None:
        if "Answer:" not in request.last or "Answer: yes" in request.last:
            return None
        text = str(request.messages)
        gold = next(i.question.answers[0] for i in items if i.question.text in text)
        nearly = f"{gold} indeed so"
        return f"Answer: {(gold, nearly, 'grey', 'pink')[content_seed(request.key) % 4]}"

    config = SearchConfig(branching=3, depth=2, piece_tokens=40, judges=("exact", "rouge-l"))
    path = tmp_path_factory.mktemp("searched") / "run"
    with Store(path) as store:
        engine = ScriptedEngine(reply, lambda request: "yes")
        asyncio.run(run_search(items, engine, store, config, tokenizer=ApproximateTokenizer()))
    return path


def table_of(card: str, title: str) -> dict[str, list[str]]:
    """The rows of the first table after a title, by their first cell."""
    lines = card[card.index(title) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    rows = {}
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    return rows


def test_recall_and_agreement_are_those_of_the_trees(run: Path, tmp_path: Path):
    write(run, tmp_path)
    card = (tmp_path / "README.md").read_text()
    trees = load_trees(run)
    right: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
    both = differ = 0
    for grown in trees:
        for one in grown.nodes:
            values = {verdict.judge: verdict.value for verdict in one.verdicts}
            if values.get("exact") == 1.0:
                for depth in range(one.depth, 3):
                    right[depth].add(grown.id)
            if len(values) == 2:
                both += 1
                differ += (values["exact"] >= 0.5) != (values["rouge-l"] >= 0.5)
    assert 0 < len(right[0]) < len(right[1]) <= len(right[2]), "depths must differ"
    assert 0 < differ < both
    recall = table_of(card, "## Recall by depth")
    wanted = {
        name: [f"{len(right[depth]) / len(trees):.1%}"]
        for name, depth in (("direct", 0), ("1", 1), ("2", 2))
    }
    assert {**wanted, **recall} == wanted
    assert len(recall) >= 2
    assert f"Share of {len(trees)} scored questions" in card
    assert f"{differ} of {both} answers" in card
    rounds = sum(len(grown.nodes) - 1 for grown in trees)
    assert f"20 questions over 10 documents, {rounds} rounds; 20 questions are finished, 0" in card


def test_tokens_are_those_of_the_ledger(run: Path, tmp_path: Path):
    write(run, tmp_path)
    costs = table_of((tmp_path / "README.md").read_text(), "## Cost in tokens")
    columns = "requests, prompt_tokens - cached_tokens, cached_tokens, completion_tokens, "
    columns += "thinking_tokens"
    wanted: dict[str, list[int]] = {}
    with sqlite3.connect(run / FILE_NAME) as database:
        for name, *numbers in database.execute(f"SELECT phase, {columns} FROM call"):
            wanted[name] = [a + b for a, b in zip(wanted.get(name, [0] * 5), numbers, strict=True)]
        for numbers in database.execute(f"SELECT {columns} FROM grounding"):
            wanted["ground"] = [
                a + b for a, b in zip(wanted.get("ground", [0] * 5), numbers, strict=True)
            ]
    total = costs.pop("total")
    assert {name: list(map(int, cells)) for name, cells in costs.items()} == wanted
    assert list(map(int, total)) == [sum(column) for column in zip(*wanted.values(), strict=True)]
    assert len(wanted) > 4


def test_rows_lengths_and_losses_are_those_of_the_files(run: Path, tmp_path: Path):
    import statistics

    data = write(run, tmp_path, validation=0.3)
    card = (tmp_path / "README.md").read_text()
    counts = table_of(card, "# Traces")
    for kind in ("plain", "sft", "preference"):
        for place, split in enumerate(("train", "validation")):
            table = pyarrow.parquet.read_table(tmp_path / kind / f"{split}.parquet")
            assert int(counts[kind][place]) == table.num_rows > 0
    rows = [
        row
        for path in (tmp_path / "preference").glob("*.parquet")
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    lengths = table_of(card, "## Lengths")
    for name in ("chosen", "rejected"):
        found = [len(row[name][0]["content"]) for row in rows]
        quartiles = statistics.quantiles(found, n=4, method="inclusive")
        n, mean, _, p25, p50, p75, _ = map(float, lengths[name])
        assert n == len(found)
        assert mean == pytest.approx(statistics.fmean(found), abs=0.01)
        assert [p25, p50, p75] == pytest.approx(quartiles, abs=0.01)
    assert data["build"]["funnel"]["rows"]["written"] == len(rows)
    told = re.findall(r"^\| (nodes|rows|traces) \| (.+?) \| (\d+) \| .+ \|$", card, re.MULTILINE)
    assert [(name, why, int(number)) for name, why, number in told] == [
        (name, why, number)
        for name, counter in data["build"]["funnel"].items()
        if isinstance(counter, dict)
        for why, number in counter.items()
    ]


def test_a_mean_of_nothing_much_is_no_minus_nought():
    lengths = Lengths()
    for value in (-0.001, 0.0):
        lengths.add("ratio", value)
    assert str(lengths.as_dict()["ratio"]["mean"]) == "0.0"


def test_every_reason_has_a_meaning():
    whole = get_args(TreeLoss)
    assert {name: {*told} - {"total"} for name, told in load_meanings("built").items()} == {
        "nodes": {*get_args(NodeFate), *whole},
        "rows": {*get_args(RowFate)},
        "traces": {*get_args(TraceFate), *whole},
    }
    assert {name: {*told} - {"total"} for name, told in load_meanings("imported").items()} == {
        "rows": {"written", *get_args(RowFlaw), *get_args(Contaminated)},
        "traces": {"written", NOT_BETTER},
    }


def test_what_is_used_stands_before_the_losses_and_large_ones_before_small():
    funnel = Funnel(nodes=Counter({"all wrong": 1, "tie": 7, "rejected": 2, "chosen": 2}))
    assert list(funnel.as_dict()["nodes"]) == ["total", "chosen", "rejected", "tie", "all wrong"]


def header_of(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text()
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_header_names_the_files_that_there_are(run: Path, tmp_path: Path):
    write(
        run, tmp_path / "data", Licence("other", "mine", "https://example.org/#l"), validation=0.3
    )
    header = header_of(tmp_path / "data")
    assert header["license"] == "other"
    assert header["license_name"] == "mine"
    assert header["license_link"] == "https://example.org/#l"
    for config in header["configs"]:
        for file in config["data_files"]:
            assert (tmp_path / "data" / file["path"]).is_file()
    assert [config["config_name"] for config in header["configs"]] == [
        *("plain", "sft", "preference", "distill", "questions"),
    ]
    assert [c["config_name"] for c in header["configs"] if c.get("default")] == ["plain"]


def test_a_kind_without_rows_is_no_config(tmp_path: Path):
    both = tree(node("a", 1.0), node("b", 1.0, ordinal=1), question=asked(0), document=story(0))
    made = make_run(tmp_path / "run", [(story(0), both)])
    write(made, tmp_path / "data")
    plain, sft, distill = (
        {"config_name": kind, "data_files": [{"split": "train", "path": f"{kind}/train.parquet"}]}
        for kind in ("plain", "sft", "distill")
    )
    assert header_of(tmp_path / "data")["configs"] == [plain | {"default": True}, sft, distill]
    assert "license" not in header_of(tmp_path / "data")


def test_the_card_names_the_corpora(tmp_path: Path):
    mixed = (node("a", 1.0), node("b", 0.0, ordinal=1))
    documents = [
        story(i).model_copy(update={"source": source})
        for i, source in enumerate(("/home/ada/my books/a.jsonl#1", "ann/tales#2", "ann/tales#3"))
    ]
    trees = [(d, tree(*mixed, question=asked(i), document=d)) for i, d in enumerate(documents)]
    data = write(make_run(tmp_path / "run", trees), tmp_path / "data")
    assert data["run"]["sources"] == ["a.jsonl", "ann/tales"]
    assert (
        "\n- Documents and questions: a.jsonl, ann/tales\n"
        in (tmp_path / "data" / "README.md").read_text()
    )


def test_no_folder_of_this_machine_stands_in_what_is_published(tmp_path: Path):
    mixed = (node("a", 1.0), node("b", 0.0, ordinal=1))
    made = make_run(
        tmp_path / "run",
        [(story(0), tree(*mixed, question=asked(0), document=story(0)))],
        engine="/home/ada/models/tiny",
    )
    with Store(made) as store:
        store.put(
            bound={**store.get("bound"), "tokenizer": "/root/x/tok"},
            config={"profile": "~/words.toml"},
        )
    write(made, tmp_path / "data")
    for path in (tmp_path / "data").rglob("*"):
        if path.suffix in (".md", ".json"):
            text = path.read_text()
            assert not [s for s in ("/home", "/root", "~/", str(tmp_path)) if s in text], path
    rows = pyarrow.parquet.read_table(tmp_path / "data" / "sft" / "train.parquet").to_pylist()
    assert rows[0]["engine"] == "tiny"
    assert "tokenizer: tok" in (tmp_path / "data" / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/srv/models/tiny/", "tiny"),
        ("hf:/work/models/tiny", "hf:tiny"),
        ("~/a/b.toml", "b.toml"),
        (r"C:\models\tiny", "tiny"),
        ("owner/name", "owner/name"),
        ("http://10.0.0.1:8000/v1", "http://10.0.0.1:8000/v1"),
        ("one /a/b and /c/d", "one b and d"),
        ("1/2", "1/2"),
    ],
)
def test_paths_are_cut_to_their_last_name(text: str, kept: str):
    assert without_paths({"a": [text]}) == {"a": [kept]}


def test_an_unfinished_run_says_so(tmp_path: Path):
    mixed = (node("a", 1.0), node("b", 0.0, ordinal=1))
    made = make_run(
        tmp_path / "run",
        [(story(0), tree(*mixed, question=asked(0), document=story(0)))],
        growing=[(story(1), tree(mixed[1], question=asked(1), document=story(1)))],
        unstarted=[(story(1), asked(2))],
    )
    write(made, tmp_path / "data")
    card = (tmp_path / "data" / "README.md").read_text()
    assert "3 questions over 2 documents, 3 rounds; 1 questions are finished, 0 of them" in card
    assert "| traces | unfinished | 2 |" in card


def test_the_card_can_be_written_again_from_the_summary(run: Path, tmp_path: Path):
    data = write(run, tmp_path)
    assert render_card(data) == (tmp_path / "README.md").read_text()


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
    "list<element: list<element: int64>>": ("sc:Integer", True),
}


def test_every_file_and_column_is_described_as_it_is(data: Path):
    described = json.loads((data / "croissant.json").read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert described["@context"]["conformsTo"] == "dct:conformsTo"
    assert described["license"] == "mit"
    files = {file["@id"]: file for file in described["distribution"]}
    assert set(files) == {p.relative_to(data).as_posix() for p in data.rglob("*.parquet")}
    assert len(files) == 9
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
