"""The page in a real browser. Skipped only where no Chromium is installed; the gate installs it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agenticlu.records import Pair, Tree
from agenticlu.report.data import ReportData
from agenticlu.report.page import build_report
from agenticlu.report.sample import sample_report

Opener = Callable[[str], str]


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample_report(num_trees=8, num_questions=12)


@pytest.fixture(scope="module")
def address(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_report(data), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def open_page(address: str, page: Any) -> Opener:
    """Returns a function from a fragment to the page's DOM once its script has run."""

    @functools.cache
    def dump(fragment: str) -> str:
        page.resize(1440, 1200)
        page.open(address + fragment)
        dom: str = page.run("document.documentElement.outerHTML")
        return re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)

    return dump


def pair_of(data: ReportData) -> tuple[Tree, Pair]:
    trees = {tree.id: tree for tree in data.trees}
    pair = next(
        pair for pair in data.pairs if trees[pair.tree_id].document_id == data.documents[1].id
    )
    return trees[pair.tree_id], pair


def test_the_page_opens_with_plots_list_and_a_tree(data: ReportData, open_page: Opener) -> None:
    dom = open_page("")
    for title in (
        "Accuracy by length",
        "Recall by depth",
        "Cost by stage",
        "Cost against accuracy",
    ):
        assert f"<title>{title}</title>" in dom
    assert dom.count('class="plot"') == 10
    assert re.search(r'id="viewer"[^>]*data-open-ms', dom)
    assert dom.count("#tree=") >= len(data.trees)
    assert dom.count('role="treeitem"') == len(data.trees[0].nodes)
    assert "✓" not in dom  # verdicts are shapes, each with a label
    assert re.search(
        r'role="treeitem"[^>]*aria-label="Round 1, sample 1: (right|wrong|unscored)', dom
    )
    for chip in (
        "Solved at depth",
        "Unsolved",
        "Too easy",
        "Unscored",
        "Failed",
        "Judges disagree",
    ):
        assert chip in dom


def test_an_address_opens_a_node_with_its_turns_verdicts_and_document(
    data: ReportData, open_page: Opener
) -> None:
    tree, pair = pair_of(data)
    node = next(node for node in tree.nodes if node.id == pair.chosen)
    dom = open_page(f"#tree={quote(tree.id)}&node={quote(node.id)}&against={quote(pair.rejected)}")
    selected = re.findall(r'data-node="(\w+)"[^>]*aria-selected="true"', dom)
    selected += re.findall(r'aria-selected="true"[^>]*data-node="(\w+)"', dom)
    assert selected == [node.id]
    detail = dom[dom.index('id="node-detail"') : dom.index('aria-label="Document"')]
    for turn in node.turns:
        if turn.kind != "point":
            head = re.sub(r"<.*", "", turn.reply.split("Answer:")[0]).strip()
            assert head in detail, turn.kind
    for verdict in node.verdicts:
        assert verdict.reason in detail
    for kind in ("Clarification", "Points back", "Sub-answer", "Answer", "Self-check"):
        assert f"<h4>{kind}" in detail
    # the document: kept and gold passages by their class, the others plain
    classes = {
        int(index): set(css.split())
        for css, index in re.findall(r'<section class="(piece[^"]*)" data-piece="(\d+)"', dom)
    }
    assert len(classes) == len(data.pieces[tree.document_id])
    assert {i for i, css in classes.items() if "kept" in css} == set(node.kept)
    assert {i for i, css in classes.items() if "gold" in css} == set(
        tree.question.gold_pieces or ()
    )
    assert 0 < len(node.kept) < len(classes)
    assert data.documents[1].title in dom
    # the pair, side by side
    comparison = dom[dom.index('id="comparison"') : dom.index('id="node-detail"')]
    assert "Chosen and rejected (step pair)" in comparison
    rejected = next(one for one in tree.nodes if one.id == pair.rejected)
    assert re.search(rf"<del>[^<]*{rejected.answer}", comparison)
    assert re.search(rf"<ins>[^<]*{node.answer}", comparison)


def test_offsets_hold_behind_characters_outside_the_basic_plane(
    data: ReportData, open_page: Opener
) -> None:
    document = data.documents[0]
    assert "🦉" in document.text
    dom = open_page("")
    last = data.pieces[document.id][-1]
    body = dom[dom.index(f'data-piece="{last.index}"') :]
    shown = re.search(r'<div class="body">(.*?)</div>', body, re.DOTALL)
    assert shown is not None
    text = re.sub(r"<[^>]+>", "", shown.group(1))
    assert text.strip() == document.text[last.start : last.end].strip()
