"""Exports: what was asked and found, offline, with nothing of a document as markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_entries import HOSTILE, LINES, draw_pages, make_entry, write_pdf
from markdown_it import MarkdownIt
from real_browser import Page, open_browser

from agenticlu.room.export import (
    PageImage,
    PageKey,
    cited_pages,
    export_html,
    export_json,
    export_markdown,
)


@pytest.fixture(scope="module")
def pdf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pdf(tmp_path_factory.mktemp("pdf") / "contract.pdf")


@pytest.fixture(scope="module")
def entry(pdf: Path) -> dict[str, Any]:
    return make_entry(pdf)


@pytest.fixture(scope="module")
def images(pdf: Path, entry: dict[str, Any]) -> dict[PageKey, PageImage]:
    return draw_pages(pdf, entry["document"])


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def opened(page: Page, entry: dict[str, Any], images: Any, tmp_path: Path) -> Page:
    (tmp_path / "export.html").write_text(export_html([entry], images), encoding="utf-8")
    requests: list[str] = []
    page.inner.on("request", lambda request: requests.append(request.url))
    page.resize(1000, 900)
    page.open((tmp_path / "export.html").as_uri())
    fetched = [url for url in requests if not url.startswith(("file:", "data:", "about:"))]
    assert fetched == []
    return page


def texts(page: Page, selector: str) -> list[str]:
    return page.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent)"
    )


def test_the_file_shows_answer_sources_trail_and_costs(opened: Page, entry: Any) -> None:
    assert texts(opened, "h1") == [entry["question"]]
    assert texts(opened, ".answer .marker") == ["[1]", "[1]", "[2]"]
    shown = texts(opened, ".answer")[0]
    assert re.sub(r"\[\d\]|unverified", "", shown) == entry["answer"]["statement"]
    assert texts(opened, ".unverified") == [entry["answer"]["claims"][1]["text"]]
    assert texts(opened, ".status") == ["Supported by the document"]
    assert texts(opened, "blockquote") == [LINES[0][1], LINES[1][0]]
    assert [" ".join(text.split()) for text in texts(opened, ".where")] == [
        f"[1] {entry['document_name']}, page 1 see page 1",
        f"[2] {entry['document_name']}, page 2 see page 2",
    ]
    assert texts(opened, "mark") == [LINES[0][1], LINES[1][0]]
    assert texts(opened, ".trail dt") == ["1 · asks itself", "1 · points to", "1 · answers"]
    assert texts(opened, ".facts") == ["tiny · 200 tokens read, 1,000 cached, 30 written · 1.2 s"]


def test_nothing_of_documents_models_or_questions_is_markup(opened: Page) -> None:
    assert opened.run("document.title").startswith("contract </style><script>")
    assert opened.run("document.querySelectorAll('script, img[src=x]').length") == 0
    assert opened.run("document.querySelectorAll('style').length") == 1
    assert opened.run("document.body.innerText").count(HOSTILE) >= 5


def test_rectangles_lie_on_the_words_of_the_page(opened: Page, entry: Any) -> None:
    sizes = opened.run(
        "[...document.querySelectorAll('.sheet')].map(sheet => {"
        " const image = sheet.querySelector('img').getBoundingClientRect();"
        " const boxes = [...sheet.querySelectorAll('rect')].map(r => r.getBoundingClientRect());"
        " return boxes.map(b => [(b.left - image.left) / image.width, (b.top - image.top) /"
        " image.height, (b.right - image.left) / image.width, (b.bottom - image.top) /"
        " image.height]); })"
    )
    assert len(sizes) == 2
    for boxes, citation in zip(sizes, entry["answer"]["citations"], strict=True):
        expected = citation["rectangles"]
        assert len(boxes) == len(expected)
        for box, one in zip(boxes, expected, strict=True):
            place = (one["left"] / 612, one["top"] / 792, one["right"] / 612, one["bottom"] / 792)
            assert box == pytest.approx(place, abs=0.004)
    # There is ink below the first, so that these are words and not the paper.
    assert 70 < entry["answer"]["citations"][0]["rectangles"][0]["left"] < 74


def test_links_lead_from_marker_to_source_to_page_and_back(opened: Page) -> None:
    opened.click(".marker[href='#s2']")
    assert opened.run("document.querySelector('.sources li:target').id") == "s2"
    opened.click("#s2 .where a")
    assert opened.run("document.querySelector('g:target rect') !== null")
    top = opened.run("document.querySelector('g:target').getBoundingClientRect().top")
    assert 0 <= top < 900, "the place is in view"
    opened.run("document.querySelector('g:target a').dispatchEvent(new MouseEvent('click'))")
    opened.frame()
    assert opened.run("location.hash") == "#s2"


@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_every_width(opened: Page, width: int) -> None:
    opened.resize(width, 800)
    assert opened.run("document.documentElement.scrollWidth") <= width


def test_dark_and_light_differ_and_all_is_printed(opened: Page) -> None:
    def colour() -> str:
        return opened.run("getComputedStyle(document.body).backgroundColor")

    light = colour()
    opened.inner.emulate_media(color_scheme="dark")
    assert colour() != light
    opened.inner.emulate_media(color_scheme="light", media="print")
    assert opened.run("document.querySelector('.passage').checkVisibility()")
    opened.inner.emulate_media(media="screen")


def test_several_questions_are_numbered_and_a_page_is_in_the_file_once(
    pdf: Path, images: Any
) -> None:
    entries = [make_entry(pdf, 1), make_entry(pdf, 2)]
    assert cited_pages(entries) == list(images)
    html = export_html(entries, images)
    assert html.count("data:image/png") == 2
    assert 'href="#s2-2"' in html
    assert "[2.2]" in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert "data:image" not in export_html(entries)


@pytest.mark.parametrize(
    "bare",
    [
        {"id": "x", "question": "Who?", "answer": {"answer": "Ada", "supported": False}},
        {"question": "Who?", "answer": {"answer": "", "citations": [{"text": "A passage."}]}},
        {},
    ],
    ids=["no claims", "no quote", "nothing"],
)
def test_older_and_sparse_entries_are_shown_as_far_as_they_go(bare: dict[str, Any]) -> None:
    assert bare.get("question", "") in export_html([bare])
    assert bare.get("question", "") in export_markdown([bare])
    assert "A passage." in export_html([bare]) or "citations" not in bare.get("answer", {})


def test_markdown_has_footnotes_and_shows_everything_as_it_is(entry: Any) -> None:
    text = export_markdown([entry])
    assert "signed first.[^1]" in text
    assert "[^1][^2] *(unverified)*" in text
    assert [line.partition(":")[0] for line in text.splitlines() if line.startswith("[^")] == [
        "[^1]", "[^2]",
    ]  # fmt: skip
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    assert set(re.findall(r"<(\w+)", html)) <= {"h2", "p", "em", "ul", "li"}
    plain = re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">")
    assert plain.replace("&amp;", "&").count(HOSTILE) >= 4


@pytest.mark.parametrize(
    "said",
    [
        "1. one\n2) two\n- three\n* four\n+ five",
        "# head\n> quoted\n| a | b |\n|---|---|\n===\n---",
        "    code\n\n\ttabbed\n```\nfence\n```",
        "[a](http://evil.example) ![b](c) <http://d> &amp; $x$ ~~no~~ a_b_c **d** `e`\\",
        "[^1]: a footnote\n[r]: /url",
    ],
)
def test_no_answer_becomes_markdown(said: str) -> None:
    text = export_markdown([{"question": "Q", "answer": {"statement": said}}])
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    assert set(re.findall(r"<(\w+)", html)) <= {"h2", "p", "em", "br"}
    shown = re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">")
    shown = shown.replace("&quot;", '"').replace("&amp;", "&").replace("\u2060", "")
    for line in filter(None, map(str.strip, said.splitlines())):
        assert line in shown


def test_json_is_whole_and_halves_of_characters_are_no_trouble(entry: Any) -> None:
    odd = {**entry, "question": "a\ud83d?"}
    found = json.loads(export_json([odd]))
    assert found["format"] == "agenticlu conversation"
    assert found["entries"] == [odd]
    for text in (export_json([odd]), export_html([odd]), export_markdown([odd])):
        text.encode()
