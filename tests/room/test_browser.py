"""The reading room's page in a real browser, over a real room with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_harbour import (
    RULES,
    harbour_text,
    make_harbour_epub,
    make_harbour_folder,
    make_harbour_pdf,
)
from room_reader import ANSWERS, Enter, Reader, look
from scripted_room import room_process

from agenticlu.room.tour import TOUR_QUESTIONS

FEE, LAMP = RULES["fee"], RULES["lamp"]
SAID_FEE, SAID_LAMP = FEE.rstrip("."), LAMP.rstrip(".")
"""As answers say it: without the full stop."""
PDF: dict[str, Any] = {
    "name": "rules.pdf", "mimeType": "application/pdf", "buffer": make_harbour_pdf(),
}  # fmt: skip


def as_file(name: str, content: bytes | str) -> dict[str, Any]:
    data = content.encode() if isinstance(content, str) else content
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def reader(enter: Enter, room: str) -> Reader:
    """At a room, with the PDF open."""
    reader = enter(room)
    reader.choose(PDF)
    reader.opened("rules.pdf")
    return reader


# --- Documents, answers, places -------------------------------------------------------------------


def test_a_marker_leads_to_the_quoted_words_on_their_page(reader: Reader) -> None:
    reader.ask("What is the fee?")
    assert SAID_FEE in reader.text(f"{ANSWERS} .statement")
    assert "Supported by the document" in reader.text(f"{ANSWERS} .status")
    assert reader.page.locator(".page .mark").count() == 0
    reader.page.click(f"{ANSWERS} .marker")
    reader.wait(".page[data-page='7'] .mark.quote.on")
    assert reader.under_marks() == FEE
    assert reader.is_in_sight(".page .mark.on")
    assert reader.page.input_value("#page-number") == "7"
    # Where its picture is drawn, it is drawn by pixels of the page itself.
    reader.wait(".page[data-page='7'].drawn")
    assert reader.page.evaluate(
        "document.querySelector('.page[data-page=\"7\"] img').naturalWidth > 600"
    )
    assert reader.faults == []


def test_only_pages_in_sight_are_drawn_and_their_text_can_be_selected(reader: Reader) -> None:
    reader.wait(".page[data-page='1'] .words span")
    assert 2 <= reader.page.locator(".page").count() <= 4
    selected = reader.page.evaluate(
        """() => {
          const words = [...document.querySelectorAll('.page[data-page="1"] .words span')].slice(0, 4);
          getSelection().setBaseAndExtent(words[0].firstChild, 0, words[3].firstChild, words[3].textContent.length);
          return getSelection().toString();
        }"""  # noqa: E501
    )
    assert selected.split() == ["Rules", "of", "the", "harbour,"]
    reader.page.fill("#page-number", "12")
    reader.page.press("#page-number", "Enter")
    reader.wait(".page[data-page='12']")
    assert reader.page.locator(".page[data-page='1']").count() == 0


def test_the_trail_grows_and_its_steps_lead_to_the_pieces(reader: Reader) -> None:
    reader.ask("What is the fee?")
    reader.page.click(f"{ANSWERS} details.trail summary >> nth=-1")
    verbs = reader.page.locator(f"{ANSWERS} >> nth=-1 >> .step b").all_inner_texts()
    assert verbs == ["Asks itself", "Points to", "Finds", "Answers", "Checks itself"]
    place = reader.page.locator(f"{ANSWERS} .step.point .place").last
    assert place.inner_text() == "page 7"
    place.click()
    reader.wait(".page[data-page='7'] .mark.passage.on")
    assert FEE in reader.under_marks()
    assert len(reader.under_marks()) > len(FEE)


def test_text_of_a_book_and_of_a_folder_is_marked_where_it_is_quoted(
    enter: Enter, room: str, tmp_path: Path
) -> None:
    reader = enter(room)
    reader.choose(as_file("book.epub", make_harbour_epub()))
    reader.opened("book.epub")
    reader.ask("When is the lamp lit?")
    reader.page.click(f"{ANSWERS} .marker")
    reader.wait("mark.quote.on")
    assert squeezed(reader.text("mark.quote.on")) == LAMP
    folder = make_harbour_folder(tmp_path / "harbour")
    reader.page.click("[aria-label='Open documents']")
    with reader.page.expect_file_chooser() as chooser:
        reader.page.click("[role=menuitem]:has-text('Open a folder')")
    chooser.value.set_files(folder)
    reader.opened("harbour")
    reader.wait("select.part")
    assert reader.page.locator("select.part option").count() == 2
    reader.ask("When is the lamp lit?")
    # The rule stands in both files: each source names its own, and opens it.
    sources = reader.page.locator(f"{ANSWERS} .source-line")
    names = [one.locator(".where").inner_text() for one in sources.all()]
    assert {name.split(",")[0].split("/")[-1] for name in names} == {"lamps.txt", "rules.pdf"}
    for number, name in enumerate(names):
        sources.nth(number).click()
        if "lamps.txt" in name:
            reader.wait("mark.quote.on")
            assert squeezed(reader.text("mark.quote.on")) == LAMP
            assert reader.is_in_sight("mark.quote.on")
        else:
            reader.wait(".page[data-page='2'] .mark.quote.on")
            assert reader.under_marks() == LAMP


def test_a_file_that_cannot_be_read_hides_none_of_its_folder(
    reader: Reader, tmp_path: Path
) -> None:
    folder = make_harbour_folder(tmp_path / "quay")
    (folder / "a-broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    reader.page.click("[aria-label='Open documents']")
    with reader.page.expect_file_chooser() as chooser:
        reader.page.click("[role=menuitem]:has-text('Open a folder')")
    chooser.value.set_files(folder)
    reader.opened("quay")
    reader.wait(".page[data-page='1'] img")
    assert reader.page.locator("select.part option:checked").inner_text() == "rules.pdf"
    reader.page.select_option("select.part", label="a-broken.pdf")
    reader.wait(".source-empty")
    assert "a-broken.pdf" in reader.text(".source-empty")
    reader.page.select_option("select.part", label="rules.pdf")
    reader.wait(".page[data-page='1'] img")


def test_a_long_text_is_fetched_where_it_is_looked_at(enter: Enter, room: str) -> None:
    reader = enter(room)
    reader.choose(as_file("long.txt", harbour_text("fee", 5000)))
    reader.opened("long.txt")
    reader.ask("What is the fee?")
    reader.page.click(f"{ANSWERS} .marker")
    reader.wait("mark.quote.on")
    assert reader.text("mark.quote.on") == FEE
    assert reader.is_in_sight("mark.quote.on")
    filled, all_chunks = reader.page.evaluate(
        "[[...document.querySelectorAll('.chunk')].filter((one) => one.firstChild).length,"
        " document.querySelectorAll('.chunk').length]"
    )
    assert all_chunks > 40
    assert 0 < filled < 20


def test_what_no_passage_supports_is_said_to_be_so(reader: Reader) -> None:
    reader.ask("What colour is the moon?")
    status = reader.text(f"{ANSWERS} .status")
    assert status.startswith(("Not supported", "Not in the document"))
    assert reader.page.locator(f"{ANSWERS} >> nth=-1 >> .marker").count() == 0
    assert "unverified" in reader.text(f"{ANSWERS} .statement")


def test_a_place_that_cannot_be_found_marks_nothing_and_says_so(reader: Reader) -> None:
    reader.ask("What is the fee?")
    # As an answer of an earlier visit whose PDF has no places of words any more.
    reader.page.route("**/api/history/*", _without_rectangles)
    reader.page.reload()
    reader.wait(f"{ANSWERS} .marker")
    reader.page.click(f"{ANSWERS} .marker >> nth=-1")
    reader.wait(".source-note")
    assert "could not be located on page 7" in reader.text(".source-note")
    assert reader.page.locator(".page .mark").count() == 0
    reader.wait(".page[data-page='7']")
    # Nor does it say more than it knows: of no sentence were words quoted.
    assert reader.text(f"{ANSWERS} .status").startswith("Supported, says the model")


def test_what_is_known_of_a_document_is_shown(reader: Reader) -> None:
    reader.wait(".facts summary")
    reader.page.click(".facts summary")
    reader.wait(".facts li:has-text('tokens')")
    assert "12 pages" in reader.text(".facts")
    assert "The model reads all of it." in reader.text(".facts")


def _without_rectangles(route: Any) -> None:
    reply = route.fetch()
    entry = reply.json()
    for place in entry["places"]:
        place["rectangles"] = None
    for claim in entry["answer"]["claims"]:
        claim["verified"] = False
    route.fulfill(response=reply, body=json.dumps(entry))


# --- Asking ---------------------------------------------------------------------------------------


def test_the_answer_comes_word_by_word_and_stops_at_once(enter: Enter) -> None:
    with room_process(word_s=0.15) as address:
        reader = enter(address)
        reader.choose(PDF)
        reader.opened("rules.pdf")
        reader.page.evaluate(
            """() => { window.lengths = new Set();
              new MutationObserver(() => { const one = document.querySelector('.streaming');
                if (one && one.textContent) lengths.add(one.textContent); })
              .observe(document.body, { childList: true, subtree: true, characterData: true }); }"""
        )
        reader.page.fill("#question", "What is the fee?")
        reader.page.press("#question", "Enter")
        reader.wait(".running .step.clarify")
        assert reader.text("#ask") == "Stop"
        reader.wait(".streaming:has-text('northern')")
        reader.page.keyboard.press("Escape")
        reader.wait(ANSWERS)
        assert "stopped early" in reader.text(f"{ANSWERS} .status")
        assert reader.text(f"{ANSWERS} .statement").startswith("The fee of the northern")
        told = reader.page.evaluate("[...lengths]")
        assert len(told) >= 4
        assert all(FEE.startswith(text.strip()) for text in told)
        assert FEE not in told  # it was stopped before its end
        assert reader.text("#ask") == "Ask"


@pytest.fixture
def empty_room() -> Iterator[str]:
    with room_process() as address:
        yield address


def test_the_keyboard_alone_is_enough(enter: Enter, empty_room: str) -> None:
    reader = enter(empty_room)
    reader.choose(PDF, as_file("notes.txt", harbour_text()))
    reader.wait("dialog")
    reader.page.keyboard.press("Enter")  # the focus is on "Each by itself"
    reader.wait("[role=tab]:has-text('notes.txt')")
    reader.opened("rules.pdf")  # the first is looked at
    page = reader.page
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    reader.opened("notes.txt")
    page.keyboard.press("/")
    page.keyboard.type("What is the fee?")
    page.keyboard.press("Enter")
    reader.wait(ANSWERS)
    page.locator("#question").blur()
    page.keyboard.press("]")
    reader.wait("mark.quote.on")
    assert page.evaluate("document.activeElement.className").startswith("marker")
    # From the tabs, arrows lead to the other document, whose tab has the focus then.
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowLeft")
    reader.wait("[role=tab][aria-selected=true]:has-text('rules.pdf')")
    assert "rules.pdf" in page.evaluate("document.activeElement.textContent")
    reader.wait(".page")
    page.keyboard.press("h")
    reader.wait("dialog#history")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    reader.wait("dialog", state="detached")
    page.keyboard.press("?")
    reader.wait("dialog#help")
    page.keyboard.press("Escape")
    # Everything that can be reached with Tab has a name and shows that it has the focus.
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => { const one = document.activeElement; const style = getComputedStyle(one);
              const name = one.getAttribute('aria-label') || one.textContent.trim() || one.title;
              return [name || one.id, style.outlineStyle !== 'none'
                || getComputedStyle(one.parentElement).borderColor]; }"""
        )
        if name in seen and len(seen) > 8:
            break
        assert name, page.evaluate("document.activeElement.outerHTML")
        assert outline
        seen.append(name)
    assert any("Ask" in name for name in seen)
    assert any("Export" in name for name in seen)


def test_what_happens_is_told_to_screen_readers(reader: Reader) -> None:
    told = reader.page.evaluate_handle(
        """() => { const said = []; new MutationObserver(() => {
          const text = document.getElementById('live').textContent; if (text) said.push(text); })
          .observe(document.getElementById('live'), { childList: true }); return said; }"""
    )
    reader.ask("What is the fee?")
    reader.page.wait_for_timeout(100)
    said = told.json_value()
    assert any(text.startswith("Supported by the document") and SAID_FEE in text for text in said)
    reader.page.click(f"{ANSWERS} .marker >> nth=-1")
    reader.page.wait_for_timeout(100)
    assert any("page 7" in text for text in told.json_value())
    nameless = reader.page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, a, [role=tab]')]
          .filter((one) => one.checkVisibility() && !(one.getAttribute('aria-label')
            || one.textContent.trim() || one.closest('label'))).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert reader.page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map((one) => one.id)).size"
        " === document.querySelectorAll('[id]').length"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(
    enter: Enter, room: str, width: int, scheme: str
) -> None:
    reader = enter(room, color_scheme=scheme)
    page = reader.page
    page.set_viewport_size({"width": width, "height": 844})
    reader.choose(PDF)
    reader.opened("rules.pdf")
    reader.ask("Who is exempt?")
    is_narrow = width < 900
    assert page.is_visible("#switch") == is_narrow
    assert page.is_visible("#source-box") != is_narrow
    page.click(f"{ANSWERS} .marker >> nth=-1")
    reader.wait(".page[data-page='9'] .mark.on")
    assert page.is_visible("#source-box")
    assert page.is_visible("#question") != is_narrow
    assert "letter of the guild" in reader.under_marks()
    if is_narrow:
        page.click("#switch button:has-text('Answers')")
        assert page.is_visible("#question")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    faint = page.evaluate(CONTRASTS)
    assert faint == []
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(int(n) for n in before[4:-1].split(",")) < 200
    assert is_dark == (scheme == "dark")
    for _ in range(2 if scheme == "light" else 1):
        page.click("#theme")
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert after != before
    page.reload()
    reader.wait("html[data-ready]", state="attached")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after


CONTRASTS = """() => {
  const channels = (text) => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      const found = channels(color);
      if (found[3] === 255) return found;
    }
    return channels('white');
  };
  const faint = [];
  for (const one of document.querySelectorAll('.talk *, .top *')) {
    const text = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const isSeen = one.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!text || !isSeen) continue;
    if (one.closest(':disabled')) continue;
    const [a, b] = [light(channels(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const told = `${one.className} ${one.textContent.slice(0, 30)} ${ratio.toFixed(2)}`;
    if (ratio < 4.5) faint.push(told);
  }
  return faint;
}"""


def test_less_motion_where_less_is_wanted(enter: Enter, room: str) -> None:
    reader = enter(room, reduced_motion="reduce")
    reader.choose(PDF)
    reader.opened("rules.pdf")
    reader.ask("What is the fee?")
    reader.page.click(f"{ANSWERS} .marker >> nth=-1")
    reader.wait(".page .mark.on")
    assert reader.page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('.mark.on')).animationDuration)"
    ) < 0.001  # fmt: skip


# --- History and export ---------------------------------------------------------------------------


def test_what_was_asked_is_there_again_after_a_reload_and_can_be_deleted(
    enter: Enter, tmp_path: Path
) -> None:
    with room_process(history=tmp_path / "history.sqlite") as address:
        reader = enter(address)
        reader.choose(PDF)
        reader.opened("rules.pdf")
        reader.ask("What is the fee?")
        reader.ask("Who is exempt?")
        reader.page.reload()
        reader.wait(f"{ANSWERS} >> nth=1")
        asked = [one.inner_text() for one in reader.page.locator(f"{ANSWERS} .asked").all()]
        assert asked == ["What is the fee?", "Who is exempt?"]
        reader.page.click(f"{ANSWERS} >> nth=0 >> .marker")
        assert reader.under_marks() == FEE
        reader.page.click("text=New conversation")
        assert reader.page.locator(ANSWERS).count() == 0
        reader.page.click("#open-history")
        reader.wait(".history-line >> nth=1")
        reader.page.fill("dialog input[type=search]", "guild")
        reader.wait("dialog .quiet:has-text('1 question')")
        reader.page.click(".history-line")
        reader.wait(f"{ANSWERS} >> nth=1")
        reader.wait("dialog", state="detached")
        reader.page.click(f"{ANSWERS} >> nth=1 >> [aria-label='Delete this answer']")
        reader.page.click("#open-history")
        reader.wait("dialog .quiet:has-text('1 question')")
        # A document that is closed leaves its answers, which say that it is not open.
        reader.page.keyboard.press("Escape")
        reader.page.locator("[role=tab]").focus()
        reader.page.keyboard.press("Delete")
        reader.wait("#welcome")
        reader.page.click("#open-history")
        reader.page.click(".history-line")
        reader.wait("dialog .notice:has-text('rules.pdf is not open')")
        assert SAID_FEE in reader.text("dialog .statement")


def test_an_export_shows_the_same_offline(
    reader: Reader, enter: Enter, tmp_path: Path, browser: Any
) -> None:
    reader.ask("What is the fee?")
    kept = {}
    for format_, label in (("html", "HTML"), ("md", "Markdown"), ("json", "JSON")):
        reader.page.click(f"{ANSWERS} .entry-tools button:has-text('Export') >> nth=-1")
        with reader.page.expect_download() as found:
            reader.page.click(f"[role=menuitem]:has-text('{label}') >> visible=true")
        kept[format_] = tmp_path / f"answer.{format_}"
        found.value.save_as(kept[format_])
    context = browser.new_context(offline=True)
    try:
        page = context.new_page()
        asked_for: list[str] = []
        page.on("request", lambda request: asked_for.append(request.url))
        page.goto(kept["html"].as_uri())
        text = squeezed(page.inner_text("body"))
        assert "What is the fee?" in text
        assert SAID_FEE in text
        assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")
        assert page.evaluate("document.images.length") >= 1
        assert not [one for one in asked_for if one.startswith("http")]
    finally:
        context.close()
    assert FEE in kept["md"].read_text(encoding="utf-8")
    assert FEE in json.dumps(json.loads(kept["json"].read_text(encoding="utf-8")))


def test_the_guided_tour_leads_to_the_words(enter: Enter, empty_room: str) -> None:
    reader = enter(empty_room)
    page = reader.page
    page.click("text=Take the guided tour")
    gold = {"What animal does Kaspar Oakes keep?": "goat", TOUR_QUESTIONS[2]: "Nadia Ellery"}
    for number, (question, answer) in enumerate(gold.items()):
        page.wait_for_selector(f".tour button:has-text('{question}'):enabled", timeout=120_000)
        page.click(f".tour button:has-text('{question}')")
        page.wait_for_selector(f"{ANSWERS} >> nth={number}", timeout=120_000)
        assert answer in reader.text(f"{ANSWERS} .statement")
        if number == 0:
            page.click(".tour button:has-text('Show me')")
            reader.wait("mark.quote.on")
            assert "Kaspar Oakes" in reader.text("mark.quote.on")
            page.click(".tour button:has-text('Open the trail')")
            reader.wait(f"{ANSWERS} .step.point .place")
    page.click(".tour button:has-text('Done')")
    assert page.locator(".tour").count() == 0
    assert "bundled" in page.inner_text("#model")
    assert reader.faults == []


# --- What may go wrong ----------------------------------------------------------------------------


def test_a_broken_pdf_and_a_huge_file_are_told_in_words(enter: Enter, room: str) -> None:
    reader = enter(room)
    reader.choose(as_file("broken.pdf", b"%PDF-1.7\nnot really"))
    reader.wait(".tab-state.wrong")
    assert "broken.pdf" in reader.text(".source-empty")
    assert "cannot be read" in reader.text(".source-empty")
    assert reader.page.is_disabled("#ask")
    reader.choose(as_file("huge.pdf", b"x" * (9 << 20)))
    reader.wait(".notice.wrong:has-text('huge.pdf')")
    told = reader.text(".notice.wrong:has-text('huge.pdf')")
    assert "at most 8 MB" in told
    assert "agenticlu read" in told
    reader.choose(as_file("empty.txt", b""))
    reader.wait(".tab-state.wrong >> nth=1")
    assert reader.page.evaluate("document.querySelectorAll('.notice').length") < 4


def test_a_model_that_vanishes_is_told_and_can_be_asked_again(reader: Reader) -> None:
    reader.page.fill("#question", "What fee would vanish?")
    reader.page.press("#question", "Enter")
    reader.wait(".failure")
    assert "closed the connection" in reader.text(".failure")
    assert "Is the server still running?" in reader.text(".failure")
    assert reader.page.locator(".entry .step").count() > 0  # what was found stays in sight
    assert reader.page.is_enabled("#ask")
    reader.ask("What is the fee?")
    assert SAID_FEE in reader.text(f"{ANSWERS} .statement")


def test_a_room_that_is_closed_is_told(enter: Enter) -> None:
    with room_process() as address:
        reader = enter(address)
        reader.choose(PDF)
        reader.opened("rules.pdf")
    reader.page.fill("#question", "What is the fee?")
    reader.page.press("#question", "Enter")
    reader.wait(".failure")
    assert "does not answer" in reader.text(".failure")
    assert "agenticlu read" in reader.text(".failure")


def test_a_closed_tab_stops_its_question_and_leaves_another_alone(enter: Enter) -> None:
    with room_process(word_s=0.05) as address:
        first = enter(address)
        first.choose(PDF)
        first.opened("rules.pdf")
        second = look(first.page.context.new_page(), address)
        second.opened("rules.pdf")
        first.page.fill("#question", "Who is exempt?")
        first.page.press("#question", "Enter")
        first.wait(".running .step")
        first.page.close()
        # Asked later and just as long: when it is answered, the first would have been, too.
        second.ask("What is the fee?")
        second.page.click("#open-history")
        second.wait(".history-line")
        assert second.page.locator(".history-line b").all_inner_texts() == ["What is the fee?"]


def test_two_tabs_ask_about_one_document(enter: Enter, room: str) -> None:
    first = enter(room)
    first.choose(PDF)
    first.opened("rules.pdf")
    second = look(first.page.context.new_page(), room)
    second.page.click("[role=tab]:has-text('rules.pdf')")
    second.opened("rules.pdf")
    first.page.fill("#question", "What is the fee?")
    first.page.press("#question", "Enter")
    second.ask("When is the lamp lit?")
    first.wait(f"{ANSWERS}:has-text('{SAID_FEE}')")
    assert SAID_LAMP in second.text(f"{ANSWERS} .statement")


def test_nothing_of_a_document_or_of_its_name_is_executed(enter: Enter, room: str) -> None:
    reader = enter(room)
    script = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    name = "<img src=x onerror=hacked=3> & co.txt"
    reader.choose(as_file(name, f"{script}\n\n{FEE} {script}\n\n{harbour_text('lamp', 40)}"))
    reader.wait("[role=tab][aria-selected=true]:has-text('& co.txt')")
    reader.wait("#ask:not(:disabled)")
    reader.ask(f"What is the fee? {script}")
    reader.page.click(f"{ANSWERS} .marker")
    reader.wait("mark.on")
    reader.page.click("#open-history")
    reader.wait(".history-line")
    assert reader.page.evaluate("window.hacked") is None
    assert reader.page.evaluate("document.querySelectorAll('body script, body img').length") == 0
    assert "<script>window.hacked = 1</script>" in reader.text(".reading")
    assert "<img src=x onerror=hacked=3>" in reader.text("[role=tab][aria-selected=true]")
    assert "<script>" in reader.text(f"{ANSWERS} .asked")
    assert reader.faults == []  # nor had the policy anything to refuse


def test_strangers_and_other_origins_are_turned_away(
    reader: Reader, room: str, browser: Any
) -> None:
    base = room.partition("/?")[0]
    context = browser.new_context()
    try:
        page = context.new_page()
        reply = page.goto(base)
        assert reply.status == 401
        assert "agenticlu read" in page.inner_text("body")
        assert context.request.get(f"{base}/api/state").status == 401
    finally:
        context.close()
    mine = reader.page.context.request
    assert mine.get(f"{base}/api/state").status == 200
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
        reply = mine.post(f"{base}/api/tour", headers={"Origin": origin})
        assert reply.status == 403, origin
        assert reply.json()["error"]["message"]


def test_no_address_but_the_rooms_own_is_asked(enter: Enter, room: str, browser: Any) -> None:
    context = browser.new_context()
    try:
        page = context.new_page()
        asked: set[str] = set()
        page.on("request", lambda request: asked.add(request.url))
        reader = look(page, room)
        reader.choose(PDF)
        reader.opened("rules.pdf")
        reader.ask("What is the fee?")
        base = room.partition("/?")[0]
        assert len(asked) > 10
        assert [one for one in asked if not one.startswith((base, "blob:"))] == []
    finally:
        context.close()
