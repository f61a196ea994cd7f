"""Exports of answered questions: one offline HTML file, Markdown with footnotes, JSON.

Entries are those of the history (`agenticlu.room.history`). What documents and models wrote is
shown as text, never as markup; the HTML file runs no script and fetches nothing.

The JSON is `{"format": "agenticlu conversation", "version": 1, "entries": [...]}`; an entry has
`id`, `conversation`, `document`, `document_name`, `asked_at` (ISO 8601), `question`, `answer` (the
answer record, `agenticlu.Answer`), `places` (a place for each citation: `part`, `start`, `end`,
`page`, `page_name`, `rectangles` in points, `piece`) and `trail` (`round`, `kind`, `reply`,
`places` for each turn).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from agenticlu.core.printing import harmless
from agenticlu.core.records import LONE_SURROGATE, without_lone_surrogates

EXPORT_VERSION = 1
FORMAT = "agenticlu conversation"
STATUS = {
    "supported": "Supported by the document",
    "unsupported": "Not supported by the document",
    "not_in_document": "The document does not say",
}
STEPS = {
    "clarify": "asks itself",
    "point": "points to",
    "sub_answer": "finds",
    "answer": "answers",
    "check": "checks",
}
"""What people call the kinds of turns, in the order of a round."""
LABEL_POINTS = 14.0
"""Width of a citation's number on a page."""


class PageKey(NamedTuple):
    """A page of a part of a document."""

    document: str
    part: int
    """From 0."""
    page: int
    """From 1."""


class PageImage(NamedTuple):
    """A picture of a page."""

    png: bytes
    width: float
    """Of the page, in points."""
    height: float


@dataclass(frozen=True)
class Source:
    """A citation as it is shown."""

    number: str
    """In the whole export: '2', or '3.2' of several questions."""
    anchor: str
    where: str
    """Document and page, for people."""
    quote: str | None
    verified: bool
    passage: tuple[str, str, str]
    """The passage before its quote, the quote, and what follows."""
    pages: tuple[PageKey, ...]
    rectangles: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Asked:
    """An entry as it is shown."""

    entry: Mapping[str, Any]
    sentences: tuple[Sentence, ...]
    status: str
    sources: tuple[Source, ...]
    steps: tuple[tuple[int, str, str], ...]
    """Round, what was done, and what was said."""
    facts: tuple[str, ...]
    """What it cost, by whom."""

    @property
    def answer(self) -> Mapping[str, Any]:
        """The answer record."""
        return self.entry.get("answer") or {}


@dataclass(frozen=True)
class Sentence:
    """A stretch of an answer, and what carries it."""

    text: str
    is_claim: bool = False
    verified: bool = False
    sources: tuple[Source, ...] = ()


@dataclass
class ShownPage:
    """A page with the places that are marked on it."""

    key: PageKey
    anchor: str
    name: str
    image: str
    """As a data URL."""
    width: float
    height: float
    marks: list[tuple[Source, list[Mapping[str, Any]], float]] = field(default_factory=list)
    """What is cited, its rectangles, and where its number stands, from the left."""


def cited_pages(entries: Iterable[Mapping[str, Any]]) -> list[PageKey]:
    """Returns the pages with cited words, each once, in the order of the citations."""
    found = (page for asked in _arrange(entries) for one in asked.sources for page in one.pages)
    return list(dict.fromkeys(found))


def export_html(
    entries: Sequence[Mapping[str, Any]],
    page_images: Mapping[PageKey, PageImage] | None = None,
    *,
    title: str | None = None,
) -> str:
    """Returns one HTML file that shows questions, answers, passages, trail and cited pages.

    Args:
        entries: Of the history, in their order.
        page_images: Pictures of `cited_pages`; a page without one is but named.
        title: Of the file. Default: the documents' names.
    """
    asked = list(_arrange(entries))
    names = dict.fromkeys(str(one.entry.get("document_name") or "") for one in asked)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_asset("export.html.j2")).render(
        title=title or ", ".join(filter(None, names)) or "Questions",
        asked=asked,
        pages={one.key: one for one in _show_pages(asked, page_images or {})},
        css=Markup(_asset("export.css")),
    )
    return without_lone_surrogates(page)


def export_markdown(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns questions and answers as Markdown; the sources of its sentences are footnotes."""
    blocks: list[str] = []
    for asked in _arrange(entries):
        blocks.append(f"## {_plain(str(asked.entry.get('question') or ''))}")
        about = (_plain(str(asked.entry.get(name) or "")) for name in ("document_name", "asked_at"))
        blocks.append(f"*{' · '.join((*filter(None, about), asked.status))}*")
        said = "".join(
            _escape(one.text)
            + "".join(f"[^{source.number}]" for source in one.sources)
            + (" *(unverified)*" if one.is_claim and not one.verified else "")
            for one in asked.sentences
        )
        blocks.append(_break_lines(said))
        notes = [f"- {_plain(note)}" for note in asked.answer.get("notes") or ()]
        if notes:
            blocks.append("\n".join(notes))
        blocks.extend(_footnote(source) for source in asked.sources)
        if asked.facts:
            blocks.append(f"*{_plain(' · '.join(asked.facts))}*")
    return harmless("\n\n".join(filter(None, blocks)) + "\n")


def export_json(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns the entries as JSON, whole; see the module."""
    whole = {"format": FORMAT, "version": EXPORT_VERSION, "entries": list(entries)}
    text = json.dumps(whole, ensure_ascii=False, indent=2) + "\n"
    return LONE_SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


# --- Entries --------------------------------------------------------------------------------------


def _arrange(entries: Iterable[Mapping[str, Any]]) -> Iterator[Asked]:
    entries = list(entries)
    for number, entry in enumerate(entries, 1):
        answer = entry.get("answer") or {}
        prefix = f"{number}." if len(entries) > 1 else ""
        places = [*(entry.get("places") or ())]
        sources = tuple(
            _source(entry, citation, places[i] if i < len(places) else {}, f"{prefix}{i + 1}")
            for i, citation in enumerate(answer.get("citations") or ())
        )
        status = answer.get("status") or ("supported" if answer.get("supported") else "unsupported")
        yield Asked(
            entry,
            tuple(_sentences(answer, sources)),
            STATUS.get(status, str(status)),
            sources,
            tuple(_steps(entry)),
            tuple(_facts(answer)),
        )


def _sentences(answer: Mapping[str, Any], sources: Sequence[Source]) -> Iterator[Sentence]:
    """Yields the statement: its claims and what stands between them."""
    statement = str(answer.get("statement") or answer.get("answer") or "")
    at = 0
    for claim in answer.get("claims") or ():
        if claim["start"] > at:
            yield Sentence(statement[at : claim["start"]])
        cited = tuple(sources[i] for i in claim["citations"] if i < len(sources))
        text = statement[claim["start"] : claim["end"]]
        yield Sentence(text, True, bool(claim["verified"]), cited)
        at = claim["end"]
    if at < len(statement):
        # A record without claims rests on all of its citations.
        yield Sentence(statement[at:], sources=() if answer.get("claims") else tuple(sources))


def _source(
    entry: Mapping[str, Any], citation: Mapping[str, Any], place: Mapping[str, Any], number: str
) -> Source:
    place = {**citation, **place}
    part = place.get("part")
    if part is None:
        part = (citation.get("file") or {}).get("index", 0)
    rectangles = tuple(place.get("rectangles") or ())
    name = (citation.get("file") or {}).get("name") or entry.get("document_name") or ""
    where = [str(name), *filter(None, [_page_label(place)])]
    if not where[1:] and place.get("piece") is not None:
        where.append(f"paragraph {place['piece']}")
    document = str(entry.get("document") or "")
    pages = dict.fromkeys(PageKey(document, part, one["page"]) for one in rectangles)
    quote = citation.get("quote")
    return Source(
        number,
        f"s{number.replace('.', '-')}",
        ", ".join(where),
        quote,
        bool(citation.get("verified")),
        _cut(str(citation.get("text") or ""), quote),
        tuple(pages),
        rectangles,
    )


def _page_label(place: Mapping[str, Any]) -> str:
    if place.get("page_name"):
        return str(place["page_name"])
    return "" if place.get("page") is None else f"page {place['page']}"


def _cut(passage: str, quote: str | None) -> tuple[str, str, str]:
    before, found, after = passage.partition(quote) if quote else (passage, "", "")
    return before, found, after


def _steps(entry: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    for step in entry.get("trail") or ():
        if step.get("kind") in STEPS:
            said = " ".join(str(step.get("reply") or "").split())
            yield int(step.get("round") or 1), STEPS[step["kind"]], said or "–"


def _facts(answer: Mapping[str, Any]) -> Iterator[str]:
    if answer.get("stopped"):
        yield "stopped early"
    if answer.get("engine"):
        yield str(answer["engine"])
    if usage := answer.get("usage"):
        prompt, cached = usage.get("prompt_tokens", 0), usage.get("cached_tokens", 0)
        sampled = usage.get("completion_tokens", 0)
        yield f"{prompt - cached:,} tokens read, {cached:,} cached, {sampled:,} written"
    if answer.get("seconds"):
        yield f"{answer['seconds']:.1f} s"
    if answer.get("cost") is not None:
        yield f"price {answer['cost']:,.4g} {answer.get('currency') or ''}".strip()


def _show_pages(asked: Iterable[Asked], images: Mapping[PageKey, PageImage]) -> Iterator[ShownPage]:
    """Yields the pages there are pictures of, with their marks."""
    pages: dict[PageKey, ShownPage] = {}
    for one in asked:
        for source in one.sources:
            for key in source.pages:
                if key not in images:
                    continue
                if key not in pages:
                    image = images[key]
                    data = base64.b64encode(image.png).decode()
                    name = source.where.rpartition(", ")[0] or source.where
                    url = f"data:image/png;base64,{data}"
                    anchor, label = f"p{len(pages) + 1}", f"{name}, page {key.page}"
                    pages[key] = ShownPage(key, anchor, label, url, image.width, image.height)
                marked = [box for box in source.rectangles if box["page"] == key.page]
                marks = pages[key].marks
                # In the page's margin, for left of a quote stands text; several side by side.
                same = sum(boxes[:1] == marked[:1] for _, boxes, _ in marks)
                marks.append((source, marked, LABEL_POINTS * (2 + same)))
    yield from pages.values()


# --- Markdown -------------------------------------------------------------------------------------

_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~$&!^])")
_LINE_START = re.compile(r"^([ \t]*)([-+=:>]|\d{1,9}(?=[.)]))", re.MULTILINE)
_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)


def _escape(text: str) -> str:
    r"""Returns a text that Markdown shows as it is.

    >>> _escape("<b>1. *x*")
    '\\<b\\>1. \\*x\\*'
    """
    text = _SIGNS.sub(r"\\\1", text)
    text = _LINE_START.sub(lambda found: f"{found[1]}{_escape_start(found[2])}", text)
    return _LINK.sub(lambda found: f"\\{found[0]}", text)


def _escape_start(sign: str) -> str:
    """Returns the beginning of a line such that it begins no list, rule or heading."""
    # Only punctuation can be escaped; a zero-width joiner keeps a number from numbering an item.
    return f"{sign}\u2060" if sign.isdigit() else f"\\{sign}"


def _plain(text: str) -> str:
    """Returns a text on one line, as it is."""
    return _escape(" ".join(text.split()))


def _break_lines(text: str) -> str:
    """Returns a text whose lines stay lines; none is so far in that it would be code."""
    paragraphs = re.split(r"\n[ \t]*+\n", text.strip())
    return "\n\n".join(
        "\\\n".join(line.strip() for line in paragraph.splitlines() if line.strip())
        for paragraph in paragraphs
    )


def _footnote(source: Source) -> str:
    quote = source.quote or "".join(source.passage)
    said = "" if source.verified or source.quote is None else " (not quoted by the model)"
    return f"[^{source.number}]: {_plain(source.where)}: “{_plain(quote)}”{said}"
