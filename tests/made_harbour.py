"""A harbour's rules, as a PDF and as other files, and a model that knows where each rule stands."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

from made_documents import SAID
from made_pdf import column, make_pdf

from agenticlu.dialogue.steps import load_profile
from agenticlu.engines.scripted import ScriptedRequest

RULES = {
    "fee": "The fee of the northern quay is nine crowns a day.",
    "exempt": "Vessels with a letter of the guild pay no fee at all.",
    "lamp": "The keeper lights the lamp at the hour of dusk.",
    "mill": SAID,
}
"""By a word of the question: the sentence that answers it."""
ON_PAGE = {"fee": 7, "exempt": 9, "lamp": 2}
FILLER = (
    "Ropes are to be coiled with care before a master leaves his ship.",
    "Each cask that is rolled over the planks is counted by two clerks.",
    "No fire may be lit on deck while barley is taken from the hold.",
    "The bell is rung twice when fog comes in from the outer islands.",
)
UNKNOWN = "moon"
"""A question with this word is answered from nothing."""
_KINDS = ("direct", "clarify", "clarify_again", "point", "sub_answer", "answer", "check")
_TURNS = {
    wording.text: kind for kind in _KINDS for wording in getattr(load_profile("default"), kind)
}


def page_lines(page: int, on_page: Mapping[str, int] = ON_PAGE) -> list[str]:
    """The lines of a page, from 1."""
    lines = [f"Rules of the harbour, sheet {page}"]
    for number in range(24):
        lines.append(FILLER[(page + number) % len(FILLER)])
        lines += [RULES[word] for word, on in on_page.items() if on == page and number == 11]
    return lines


def make_harbour_pdf(pages: int = 12, on_page: Mapping[str, int] = ON_PAGE) -> bytes:
    """A PDF whose rules stand on the pages of `on_page`, in the middle."""
    return make_pdf(
        ["".join(column(72, 720, page_lines(page + 1, on_page))) for page in range(pages)]
    )


def harbour_text(rule: str = "fee", paragraphs: int = 400) -> str:
    """A long text that holds one rule, three quarters in; with a character beyond 16 bits."""
    lines = [f"{number}. {FILLER[number % len(FILLER)]}" for number in range(paragraphs)]
    lines[3 * paragraphs // 4] = f"An anchor 𝔸 is drawn here. {RULES[rule]}"
    return "\n\n".join(lines)


def make_harbour_epub() -> bytes:
    """A book of two chapters; the lamp is in the second."""
    chapter = "<html xmlns='http://www.w3.org/1999/xhtml'><body><h1>{}</h1>{}</body></html>"
    bodies = [
        chapter.format("On ropes", "".join(f"<p>{FILLER[n % 4]}</p>" for n in range(60))),
        chapter.format("On lamps", f"<p>{FILLER[3]}</p><p>{RULES['lamp']}</p>"),
    ]
    items = "".join(
        f"<item id='c{n}' href='c{n}.xhtml' media-type='application/xhtml+xml'/>" for n in (0, 1)
    )
    package = (
        "<package xmlns='http://www.idpf.org/2007/opf' version='3.0'><metadata/>"
        f"<manifest>{items}</manifest><spine><itemref idref='c0'/><itemref idref='c1'/></spine>"
        "</package>"
    )
    container = (
        "<container xmlns='urn:oasis:names:tc:opendocument:xmlns:container'><rootfiles>"
        "<rootfile full-path='p.opf'/></rootfiles></container>"
    )
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr("META-INF/container.xml", container)
        file.writestr("p.opf", package)
        for number, body in enumerate(bodies):
            file.writestr(f"c{number}.xhtml", body)
    return out.getvalue()


def make_harbour_folder(folder: Path) -> Path:
    """A folder of a text and a PDF."""
    (folder / "old").mkdir(parents=True)
    (folder / "old" / "lamps.txt").write_text(harbour_text("lamp", 60), encoding="utf-8")
    (folder / "rules.pdf").write_bytes(make_harbour_pdf())
    return folder


def reply_from(request: ScriptedRequest) -> str:
    """Plays the model that has read the rules."""
    said = "\n".join(message.content for message in request.messages)
    asked = said[max(said.rfind("Question:"), 0) :].partition("\n")[0]
    word = next((word for word in RULES if word in asked), None)
    kind = next((kind for text, kind in _TURNS.items() if text in request.last), "direct")
    if word is None or UNKNOWN in asked:
        return {"clarify": "Is the moon named anywhere?", "point": "none"}.get(
            kind, "I cannot say."
        )
    sentence = RULES[word]
    replies: dict[str, Callable[[], str]] = {
        "clarify": lambda: f"What do the rules say about the {word}?",
        "clarify_again": lambda: f"What else is said about the {word}?",
        "point": lambda: _markers(said, sentence),
        "sub_answer": lambda: f"The rules say: “{sentence}”",
        "check": lambda: "yes",
    }
    say = replies.get(kind, lambda: f"Answer: {sentence}")
    return say()


def _markers(said: str, sentence: str) -> str:
    """The markers of the paragraphs that hold a sentence, which may run over lines."""
    found = [
        number
        for number, text in re.findall(r"<para (\d+)>(.*?)</para \1>", said, re.DOTALL)
        if sentence in " ".join(text.split())
    ]
    return " ".join(f"<para {number}>" for number in found) or "none"
