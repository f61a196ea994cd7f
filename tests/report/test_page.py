from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest
from made_report import sample_report

from agenticlu.core.records import Document, Node, Piece, Question, Tree, Turn
from agenticlu.report.figures import Curve, ReportData
from agenticlu.report.page import (
    VIEWER_PARTS,
    build_overview,
    build_report,
    choose_trees,
    summary_json,
)


class Blocks(HTMLParser):
    """Collects JSON script blocks, tags and the attributes that could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.blocks: dict[str, str] = {}
        self.links: list[str] = []
        self.scripts = 0
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values[name] or "" for name in ("src", "href", "srcset") if name in values]
        if tag == "script":
            self.scripts += 1
            self._open = values.get("id")

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.blocks[self._open] = self.blocks.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def json(self, name: str) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.blocks[name])
        return value


def hostile(text: str) -> ReportData:
    document = Document.of(f"{text} 🦉 end", source=text, title=text)
    turn = Turn(kind="direct", wording="w", request=text, reply=text)
    node = Node(
        id="n", parent=None, depth=0, ordinal=0, turns=(turn,), answer=text, failure=text,
        status="failed",
    )  # fmt: skip
    tree = Tree(
        id="t", document_id=document.id, question=Question(id="q", text=text, answers=(text,)),
        system=text, profile="p", nodes=(node,),
    )  # fmt: skip
    return ReportData(
        title=text, documents=(document,), trees=(tree,), errors=(text,), config={text: {"a": text}}
    )


def test_text_from_outside_cannot_leave_its_place() -> None:
    text = "</script><script>alert(1)</script><!--<script><img src=x onerror=alert(1)>{{ 7*7 }}"
    page = build_report(hostile(text))
    found = Blocks(page)
    assert found.scripts == 4  # the data, one tree, one document, the viewer
    assert found.json("tree-t")["question"] == text
    assert found.links.count("x") == 0
    assert "<img" not in page
    assert "{{ 7*7 }}" in page


def test_lone_surrogates_do_not_stop_the_page() -> None:
    page = build_report(hostile("torn \ud83e text"))
    page.encode("utf-8")
    assert Blocks(page).json("tree-t")["question"] == "torn \ud83e text"


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = build_report(sample_report(num_trees=4))
    for link in Blocks(page).links:
        assert link.startswith(("#", "data:,")), link
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|importScripts", page)


def test_the_policy_admits_exactly_the_script_that_is_there() -> None:
    import base64
    import hashlib

    page = build_report(sample_report(num_trees=2))
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_every_part_of_the_viewer_is_in_the_page() -> None:
    parts = resources.files("agenticlu.report") / "viewer"
    assert sorted(one.name for one in parts.iterdir()) == sorted(f"{n}.js" for n in VIEWER_PARTS)


def test_equal_data_gives_an_equal_page() -> None:
    assert build_report(sample_report(num_trees=5)) == build_report(sample_report(num_trees=5))


def test_documents_stand_once_and_trees_once() -> None:
    data = sample_report(num_trees=6)
    found = Blocks(build_report(data))
    names = list(found.blocks)
    assert sum(name.startswith("document-") for name in names) == len(data.documents) == 2
    assert sum(name.startswith("tree-") for name in names) == 6
    first = data.pieces[data.documents[0].id][0]
    text = data.documents[0].text[first.start : first.end].strip()
    assert len(text) > 200
    assert build_report(data).count(text) == 1


def test_a_tree_survives_the_way_into_the_page() -> None:
    data = sample_report(num_trees=3)
    tree = data.trees[2]
    block = Blocks(build_report(data)).json(f"tree-{tree.id}")
    nodes = block["nodes"]
    requests = block["requests"]
    assert isinstance(nodes, list)
    assert isinstance(requests, list)
    assert [node["id"] for node in nodes] == [node.id for node in tree.nodes]
    for node, original in zip(nodes, tree.nodes, strict=True):
        assert [turn[1] for turn in node["turns"]] == [turn.reply for turn in original.turns]
        assert [requests[turn[0]][2] for turn in node["turns"]] == [
            turn.request for turn in original.turns
        ]
        for turn, full in zip(node["turns"], original.turns, strict=True):
            spent = full.usage
            assert turn[2:5] == (
                [None] * 3
                if spent is None
                else [
                    spent.prompt_tokens - spent.cached_tokens,
                    spent.cached_tokens,
                    spent.completion_tokens,
                ]
            )
    assert len(requests) < sum(len(node.turns) for node in tree.nodes) / 2
    assert "token_ids" not in json.dumps(block)


def test_more_trees_than_wanted_are_cut_with_every_outcome_kept_and_said_so() -> None:
    data = sample_report(num_trees=16)
    chosen = choose_trees(data.trees, 5)
    assert {tree.outcome for tree in chosen} == {tree.outcome for tree in data.trees}
    page = build_report(data, max_trees=5)
    assert "This page holds 5 of 16 trees" in page
    assert sum(name.startswith("tree-") for name in Blocks(page).blocks) == 5
    assert build_overview(data, 5).counts == build_overview(data).counts
    assert "This page holds" not in build_report(data)


def test_an_empty_report_is_a_page() -> None:
    page = build_report(ReportData())
    assert "Nothing to show yet" in page
    assert 'id="viewer"' not in page


def test_secrets_are_neither_in_the_page_nor_in_the_summary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "sk-live-0123456789abcdefghij"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    data = sample_report(num_trees=1).model_copy(
        update={
            "config": {
                "run": {
                    "api_key": "hunter2-hunter2",
                    "note": f"used {secret}",
                    "base_url": "https://user:hunter2-hunter2@host/v1",
                    "api_key_env": "OPENAI_API_KEY",
                }
            },
            "errors": (f"401 wrong key {secret}",),
        }
    )
    for text in (build_report(data), summary_json(build_overview(data), data)):
        assert secret not in text
        assert "hunter2" not in text
        assert "OPENAI_API_KEY" in text


def test_failed_and_unscored_are_shown_as_such() -> None:
    data = sample_report(num_trees=16)
    overview = build_overview(data)
    page = build_report(data)
    assert overview.counts.failed_nodes > 0
    assert overview.counts.unscored_nodes > 0
    assert f'<a href="#filter=unscored">{overview.counts.unscored_nodes:,}</a>' in page
    assert "1 failed</em>" in page
    assert "no reply within 60 s" in page


def test_cells_that_were_not_run_or_not_scored_say_so() -> None:
    data = sample_report(num_trees=0, num_questions=4)
    rows = tuple(row for row in data.results if (row.method, row.length) != ("direct", 512))
    failed = rows[0].model_copy(update={"metrics": {}, "num_failed": 4})
    page = build_report(data.model_copy(update={"results": (failed, *rows[1:])}))
    assert page.count("not run") == 2
    assert "none scored<small>4 failed" in page


def test_summary_is_json_with_the_figures_and_with_the_records_on_request() -> None:
    data = sample_report(num_trees=4)
    overview = build_overview(data)
    short = json.loads(summary_json(overview))
    assert short["headline"] == overview.headline
    assert len(short["trees"]) == 4
    assert short["recall_by_depth"][0]["recall"]["n"] > 0
    assert "records" not in short
    whole = json.loads(summary_json(overview, data))
    assert Tree.model_validate(whole["records"]["trees"][1]) == data.trees[1]


def test_training_runs_share_a_chart_per_quantity() -> None:
    curves = (
        Curve(run="sft", quantity="loss", points=((1, 2.0), (2, 1.0))),
        Curve(run="sft", quantity="loss", points=((2, 1.5),), split="validation"),
        Curve(run="dpo", quantity="loss", points=((1, 0.7), (2, float("nan")))),
        Curve(run="dpo", quantity="learning_rate", points=((1, 0.1),)),
    )
    page = build_report(ReportData(curves=curves))
    assert page.count('class="plot"') == 1
    assert "sft, validation" in page
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page, flags=re.S)


def test_a_document_without_pieces_is_shown_whole() -> None:
    data = sample_report(num_trees=1)
    found = Blocks(build_report(data.model_copy(update={"pieces": {}})))
    assert found.json(f"document-{data.documents[0].id}")["pieces"] == []


def test_offsets_count_characters() -> None:
    document = Document.of("🦉🦉 owl", source="x")
    piece = Piece(index=0, start=0, end=6, num_tokens=3)
    tree = hostile("q").trees[0].model_copy(update={"document_id": document.id})
    data = ReportData(documents=(document,), pieces={document.id: (piece,)}, trees=(tree,))
    block = Blocks(build_report(data)).json(f"document-{document.id}")
    assert block["pieces"] == [[0, 0, 6, 3, None]]
    assert block["text"] == "🦉🦉 owl"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/someone/private/book.txt", "book.txt"),
        ("book.txt", "book.txt"),
        ("-", "-"),
        ("https://me:pw@host/a/b.html", "https://host/a/b.html"),
    ],
)
def test_folders_of_this_machine_are_not_shown(source: str, shown: str) -> None:
    document = Document.of("text", source=source)
    tree = hostile("q").trees[0].model_copy(update={"document_id": document.id})
    page = build_report(ReportData(documents=(document,), trees=(tree,)))
    assert Blocks(page).json(f"document-{document.id}")["source"] == shown
    assert "/home/someone" not in page
