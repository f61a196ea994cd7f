"""The page in a real browser. Skipped only where no Chromium is installed; the gate installs it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from made_report import sample_report

from agenticlu.core.records import Node, Pair, Question, Tree, Turn
from agenticlu.report.figures import ReportData, TreeEntry, node_state, tree_entries
from agenticlu.report.page import build_report

Opener = Callable[[str], str]


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample_report(num_trees=16, num_questions=12)


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
        "Solved depth 1", "Solved never", "Tree too easy", "Nodes unscored", "Nodes failed",
        "Nodes judges disagree",
    ):  # fmt: skip
        assert re.search(rf'aria-label="{chip}, \d+ tree', dom), chip


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


def listed(page: Any) -> list[str]:
    """Ids of the trees that the list shows, after a check that it says how many."""
    shown: list[str] = page.run(
        "[...document.querySelectorAll('.list [data-tree]')].map((one) => one.dataset.tree)"
    )
    assert page.run("document.querySelector('.count').textContent").startswith(f"{len(shown)} ")
    return shown


def selected(page: Any) -> str:
    found: str = page.run("document.querySelector('.node[aria-selected=true]').dataset.node")
    return found


def test_filters_of_one_group_widen_and_those_of_several_groups_narrow(
    data: ReportData, address: str, page: Any
) -> None:
    entries = tree_entries(data.trees, data.pairs)

    def expect(*tests: Callable[[TreeEntry], bool]) -> list[str]:
        return [entry.id for entry in entries if all(test(entry) for test in tests)]

    def about_friends(entry: TreeEntry) -> bool:
        return "closest" in entry.question

    def solved_at(*depths: int | None) -> Callable[[TreeEntry], bool]:
        return lambda entry: entry.solved_depth in depths

    def disputed(entry: TreeEntry) -> bool:
        return entry.disagreements > 0

    page.resize(1440, 1000)
    page.open(address)
    steps = [listed(page)]
    assert steps[0] == expect()
    page.click("input[type=search]")
    page.type("CLOSEST town")
    steps.append(listed(page))
    assert steps[-1] == expect(about_friends)
    page.click('[data-filter="depth-1"]')
    steps.append(listed(page))
    assert steps[-1] == expect(about_friends, solved_at(1))
    page.click('[data-filter="unsolved"]')
    steps.append(listed(page))
    assert steps[-1] == expect(about_friends, solved_at(1, None))
    told = page.run("document.querySelector('[data-filter=disagree] span').textContent")
    page.click('[data-filter="disagree"]')
    steps.append(listed(page))
    assert steps[-1] == expect(about_friends, solved_at(1, None), disputed)
    assert int(told) == len(steps[-1])
    sizes = [len(step) for step in steps]
    assert sizes[0] > sizes[1] > sizes[2] > 0, "a step that changes nothing proves nothing"
    assert sizes[2] < sizes[3] > sizes[4] > 0
    place = "document.querySelector('.step span').textContent"
    assert page.run(place) == "not in the list"
    page.click(".step button[aria-label^=Next]")
    assert page.run("location.hash").startswith(f"#tree={steps[-1][0]}&")
    assert page.run(place) == f"1 of {sizes[4]}"
    # The address alone brings the same list back, and the chips and words behind it.
    page.wait("location.hash.includes('disagree')")
    sent = page.run("location.href")
    page.open(address)
    assert listed(page) == steps[0]
    page.open(sent)
    assert listed(page) == steps[-1]
    pressed = (
        "[...document.querySelectorAll('.chip[aria-pressed=true]')].map((c) => c.dataset.filter)"
    )
    assert page.run(pressed) == ["depth-1", "unsolved", "disagree"]
    assert page.run("document.querySelector('input[type=search]').value") == "CLOSEST town"
    page.click(".count-row button.plain")
    assert listed(page) == steps[0]


def test_the_list_can_be_ordered_by_cost(data: ReportData, address: str, page: Any) -> None:
    page.open(f"{address}#sort=tokens")
    entries = tree_entries(data.trees, data.pairs)
    by_cost = sorted(entries, key=lambda entry: -entry.computed_tokens)
    assert listed(page) == [entry.id for entry in by_cost] != [entry.id for entry in entries]


def test_keys_go_through_trees_nodes_and_the_list(
    data: ReportData, address: str, page: Any
) -> None:
    page.resize(1440, 1000)
    page.open(address)
    page.type("/")
    page.type("closest")
    found = listed(page)
    assert len(found) > 2
    page.press("Enter")
    assert page.run("location.hash").startswith(f"#tree={found[0]}")
    page.press("ArrowDown")
    assert page.run("document.activeElement.dataset.tree") == found[0]
    page.type("j")
    page.type("j")
    assert page.run("location.hash").startswith(f"#tree={found[2]}")
    page.type("k")
    assert page.run("document.querySelector('[aria-current=true]').dataset.tree") == found[1]
    tree = next(tree for tree in data.trees if tree.id == found[1])
    page.click(f'[data-node="{tree.nodes[0].id}"]')
    page.press("ArrowDown")
    assert selected(page) in {node.id for node in tree.children(tree.nodes[0].id)}
    assert page.run("document.activeElement.dataset.node") == selected(page)
    page.press("ArrowUp")
    assert selected(page) == tree.nodes[0].id
    page.type("/")
    page.press("Escape")
    assert listed(page) == [tree.id for tree in data.trees]


def test_with_a_filter_on_nodes_a_tree_opens_at_one_and_a_key_goes_to_the_next(
    data: ReportData, address: str, page: Any
) -> None:
    page.open(f"{address}#filter=unscored")
    tree = next(tree for tree in data.trees if tree.id == listed(page)[0])
    unscored = [node.id for node in tree.nodes if node_state(node) == "unscored"]
    following = next(
        tree for tree in data.trees
        if sum(node_state(node) == "unscored" for node in tree.nodes) > 1
    )  # fmt: skip
    assert selected(page) == unscored[0]
    page.open(f"{address}#tree={following.id}&filter=unscored")
    unscored = [node.id for node in following.nodes if node_state(node) == "unscored"]
    seen = [selected(page)]
    for _ in unscored:
        page.type("n")
        seen.append(selected(page))
    assert seen == [*unscored, unscored[0]]
    page.type("p")
    assert selected(page) == unscored[-1]


def test_counts_lead_to_their_trees_and_sections_leave_the_view_alone(
    data: ReportData, address: str, page: Any
) -> None:
    page.resize(1440, 1000)
    page.open(address)
    page.click('.facts a[href="#filter=unscored"]')
    unscored = [entry.id for entry in tree_entries(data.trees, data.pairs) if entry.unscored]
    assert listed(page) == unscored != [tree.id for tree in data.trees]
    page.click(f'.list [data-tree="{unscored[1]}"]')
    page.click('nav a[href="#details"]')
    current = "document.querySelector('.list [aria-current=true]').dataset.tree"
    assert page.run(current) == unscored[1]
    assert listed(page) == unscored
    page.run("history.go(-2)")
    page.wait(f"{current} === '{unscored[0]}'")
    assert listed(page) == unscored


def test_shift_and_a_click_compares_and_so_does_choosing_without_a_keyboard(
    data: ReportData, address: str, page: Any
) -> None:
    tree = data.trees[0]
    one, other = tree.nodes[1], tree.nodes[2]
    page.open(f"{address}#tree={tree.id}&node={one.id}")
    assert page.run("document.getElementById('comparison')") is None
    page.click(f'[data-node="{other.id}"]', shift=True)
    assert page.run("location.hash") == f"#tree={tree.id}&node={one.id}&against={other.id}"
    assert page.run("document.getElementById('comparison') !== null")
    page.press("Escape")
    assert page.run("document.getElementById('comparison')") is None
    page.click("button[aria-pressed=false].small")
    page.click(f'[data-node="{other.id}"]')
    assert page.run("location.hash") == f"#tree={tree.id}&node={one.id}&against={other.id}"


def forked(kind: str) -> ReportData:
    """A tree of two branches of two rounds, the end of one paired with the end of the other."""

    def grown(name: str, parent: str | None, depth: int) -> Node:
        turns = tuple(
            Turn(kind=turn, wording="w", request="?", reply=f"{turn} {name}")
            for turn in ("clarify", "answer")
        )
        return Node(id=name, parent=parent, depth=depth, ordinal=0, turns=turns, score=0.0)

    nodes = (
        grown("root", None, 0), grown("left", "root", 1), grown("right", "root", 1),
        grown("leftend", "left", 2), grown("rightend", "right", 2),
    )  # fmt: skip
    tree = Tree(
        id="t", document_id="d", question=Question(id="q", text="Who?"), system="", profile="p",
        nodes=nodes,
    )  # fmt: skip
    pair = Pair(
        id="p", tree_id="t", document_id="d", question_id="q", kind=kind, chosen="leftend",
        rejected="rightend", score_chosen=1.0, score_rejected=0.0,
    )  # fmt: skip
    return ReportData(trees=(tree,), pairs=(pair,))


@pytest.mark.parametrize(
    ("kind", "compared"), [("path", ["left", "right"]), ("step", ["leftend", "rightend"])]
)
def test_a_path_pair_is_compared_where_the_paths_part(
    kind: str, compared: list[str], page: Any, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(build_report(forked(kind)), encoding="utf-8")
    page.open(f"{path.as_uri()}#tree=t&node=leftend")
    page.type("c")
    assert page.run("location.hash") == "#tree=t&node=leftend&against=rightend"
    sides = (
        "[...document.querySelectorAll('#comparison > .sides > .side')].map((s) => s.textContent)"
    )
    assert page.run(sides) == [
        f"{turn} {name}" for turn in ("clarify", "answer") for name in compared
    ]
    assert f"Chosen and rejected ({kind} pair)" in page.run(
        "document.getElementById('comparison').textContent"
    )


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_is_wider_than_the_window(width: int, address: str, page: Any) -> None:
    page.resize(width, 900)
    page.open(address)
    assert page.run("document.scrollingElement.scrollWidth") == width
