from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
    "</container>"
)
XHTML = "application/xhtml+xml"
Files = dict[str, str | bytes]


def chapter(body: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml" '
        f'xmlns:epub="http://www.idpf.org/2007/ops"><head><title/></head><body>{body}</body></html>'
    )


def book(manifest: str, spine: str, files: Files) -> Files:
    """Files of an archive; `manifest` as 'id href [media type [properties]]' a line."""
    items = ""
    for line in filter(None, map(str.strip, manifest.split("\n"))):
        name, href, kind, *more = (
            [*line.split(), XHTML][:4] if line.count(" ") < 2 else line.split()
        )
        properties = f' properties="{more[0]}"' if more and more[0] != XHTML else ""
        items += f'<item id="{name}" href="{href}" media-type="{kind}"{properties}/>'
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The\n Mill</dc:title></metadata>'
        f"<manifest>{items}</manifest><spine toc='ncx'>{spine}</spine></package>"
    )
    return {"META-INF/container.xml": CONTAINER, "OPS/book.opf": package, **files}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Files], Document]:
    def loaded(files: Files) -> Document:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        (tmp_path / "a.epub").write_bytes(out.getvalue())
        return load_document(str(tmp_path / "a.epub"))

    return loaded


def refs(*names: str) -> str:
    return "".join(f'<itemref idref="{name}"/>' for name in names)


ONE, TWO = chapter("<h1>One</h1><p>first</p>"), chapter("<p>second</p>")
TWO_FILES: Files = {"OPS/a.xhtml": ONE, "OPS/b b.xhtml": TWO}
MANIFEST = "a a.xhtml\nb b%20b.xhtml"


def test_chapters_in_reading_order_are_pages(read) -> None:
    document = read(book(MANIFEST, refs("a", "b"), TWO_FILES))
    assert document.text == "# One\n\nfirst\n\nsecond\n"
    assert document.title == "The Mill"
    assert [page.name for page in document.pages] == ["One", "part 2"]
    spans = [document.text[page.start : page.end] for page in document.pages]
    assert "".join(spans) == document.text
    assert spans[1] == "second\n"
    assert document.left_out == {}


NCX = (
    '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap>'
    "<navPoint><navLabel><text>I. The Weir</text></navLabel><content src='a.xhtml#top'/>"
    "<navPoint><navLabel><text>Inside</text></navLabel><content src='a.xhtml#in'/></navPoint>"
    "</navPoint><navPoint><navLabel><text>II. The\n Wheel</text></navLabel>"
    "<content src='b%20b.xhtml'/></navPoint></navMap></ncx>"
)
NAV = chapter(
    "<nav epub:type='toc'><ol><li><a href='a.xhtml'>I. The Weir</a></li>"
    "<li><a href='b%20b.xhtml'>II. <i>The Wheel</i></a></li></ol></nav>"
)


@pytest.mark.parametrize(
    ("item", "name", "content"),
    [
        ("toc toc.ncx application/x-dtbncx+xml", "OPS/toc.ncx", NCX),
        (f"nav nav.xhtml {XHTML} nav", "OPS/nav.xhtml", NAV),
    ],
)
def test_pages_have_their_titles_in_the_contents(read, item: str, name: str, content: str) -> None:
    document = read(book(f"{MANIFEST}\n{item}", refs("a", "b"), {**TWO_FILES, name: content}))
    assert [page.name for page in document.pages] == ["I. The Weir", "II. The Wheel"]


def test_a_table_of_contents_in_the_order_is_counted(read) -> None:
    manifest = f"nav nav.xhtml {XHTML} nav\n{MANIFEST}"
    document = read(book(manifest, refs("nav", "a", "b"), {**TWO_FILES, "OPS/nav.xhtml": NAV}))
    assert document.text.startswith("# One")
    assert document.left_out == {"contents page": 1}


def test_auxiliary_chapters_are_read(read) -> None:
    spine = refs("a") + '<itemref idref="b" linear="no"/>'
    assert "second" in read(book(MANIFEST, spine, TWO_FILES)).text


BAD = {
    "names no item": ("a a.xhtml", refs("a", "gone"), {"OPS/a.xhtml": ONE}),
    "names no file": ("a a.xhtml\nb gone.xhtml", refs("a", "b"), {"OPS/a.xhtml": ONE}),
    "is binary": (
        "a a.xhtml\nb b.xhtml",
        refs("a", "b"),
        {"OPS/a.xhtml": ONE, "OPS/b.xhtml": b"\x00\x01\x02" * 100},
    ),
    "is a style sheet": (
        "a a.xhtml\nb b.css text/css",
        refs("b", "a"),
        {"OPS/a.xhtml": ONE, "OPS/b.css": "p {}"},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_chapter_is_a_note_and_not_the_end(read, name: str) -> None:
    document = read(book(*BAD[name]))
    assert document.text == "# One\n\nfirst\n"
    assert document.left_out == {"unreadable chapter": 1}


def test_a_damaged_chapter_is_a_note(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in book(MANIFEST, refs("a", "b"), TWO_FILES).items():
            archive.writestr(name, content)
    data = out.getvalue()
    assert data.count(b"<p>second</p>") == 1
    (tmp_path / "a.epub").write_bytes(data.replace(b"<p>second</p>", b"<p>sXcond</p>"))
    document = load_document(str(tmp_path / "a.epub"))  # its check sum is wrong
    assert document.text == "# One\n\nfirst\n"
    assert document.left_out == {"unreadable chapter": 1}


GOOD = {
    "a chapter twice in the order": (MANIFEST, refs("a", "b", "a"), TWO_FILES),
    "no order": (MANIFEST, "", TWO_FILES),
    "names in another case": (
        "a A.XHTML\nb b.xhtml",
        refs("a", "b"),
        {"OPS/a.xhtml": ONE, "OPS/B.xhtml": TWO},
    ),
    "types that are wrong": (
        "a a.xhtml text/xml\nb b.xhtml application/octet-stream",
        refs("a", "b"),
        {"OPS/a.xhtml": ONE, "OPS/b.xhtml": TWO},
    ),
    "an unescaped sign in the package": (
        MANIFEST.replace("a a.xhtml", "a a.xhtml\nx x&y.css text/css"),
        refs("a", "b"),
        TWO_FILES,
    ),
    "paths with dots": (
        "a ../a.xhtml\nb ./in/../b.xhtml",
        refs("a", "b"),
        {"a.xhtml": ONE, "OPS/b.xhtml": TWO},
    ),
    "UTF-16": (
        MANIFEST,
        refs("a", "b"),
        {**TWO_FILES, "OPS/a.xhtml": ONE.replace("utf-8", "utf-16").encode("utf-16")},
    ),
    "windows-1252": (
        MANIFEST,
        refs("a", "b"),
        {**TWO_FILES, "OPS/a.xhtml": ONE.replace("utf-8", "windows-1252").encode("cp1252")},
    ),
    "entities of HTML": (
        MANIFEST,
        refs("a", "b"),
        {**TWO_FILES, "OPS/a.xhtml": chapter("<h1>One</h1><p>&#102;irst&nbsp;</p>")},
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_books_as_people_have_them(read, name: str) -> None:
    assert read(book(*GOOD[name])).text == "# One\n\nfirst\n\nsecond\n"


def test_a_fallback_is_read(read) -> None:
    files = book("b b.xhtml", refs("s"), {"OPS/b.xhtml": TWO, "OPS/s.json": "{}"})
    item = '<item id="s" href="s.json" media-type="application/json" fallback="b"/></manifest>'
    files["OPS/book.opf"] = str(files["OPS/book.opf"]).replace("</manifest>", item)
    assert read(files).text == "second\n"


def test_a_package_that_the_container_does_not_name_is_found(read) -> None:
    files = book(MANIFEST, refs("a", "b"), TWO_FILES)
    files["META-INF/container.xml"] = CONTAINER.replace("book.opf", "gone.opf")
    assert read(files).title == "The Mill"
    del files["META-INF/container.xml"]
    assert read({"mimetype": "application/epub+zip", **files}).title == "The Mill"


def encryption(*parts: tuple[str, str]) -> str:
    return (
        '<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
        + "".join(
            f'<enc:EncryptedData><enc:EncryptionMethod Algorithm="{algorithm}"/><enc:CipherData>'
            f'<enc:CipherReference URI="{path}"/></enc:CipherData></enc:EncryptedData>'
            for algorithm, path in parts
        )
        + "</encryption>"
    )


AES = "http://www.w3.org/2001/04/xmlenc#aes256-cbc"


def test_a_locked_book_says_so(read) -> None:
    locked = encryption((AES, "OPS/a.xhtml"), (AES, "OPS/b%20b.xhtml"))
    files = {**TWO_FILES, "META-INF/encryption.xml": locked}
    with pytest.raises(DocumentError, match="DRM"):
        read(book(MANIFEST, refs("a", "b"), files))


def test_disguised_fonts_lock_no_book(read) -> None:
    fonts = encryption(
        ("http://www.idpf.org/2008/embedding", "OPS/f.otf"),
        ("http://ns.adobe.com/pdf/enc#RC", "OPS/g.otf"),
    )
    files = {**TWO_FILES, "META-INF/encryption.xml": fonts}
    document = read(book(MANIFEST, refs("a", "b"), files))
    assert document.text == "# One\n\nfirst\n\nsecond\n"
    assert document.left_out == {}


def test_one_locked_chapter_is_a_note(read) -> None:
    files = {**TWO_FILES, "META-INF/encryption.xml": encryption((AES, "OPS/a.xhtml"))}
    document = read(book(MANIFEST, refs("a", "b"), files))
    assert document.text == "second\n"
    assert document.left_out == {"unreadable chapter": 1}


def test_pages_that_are_images_are_counted(read) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><image href="p.jpg"/></svg>'
    files = {**TWO_FILES, "OPS/c.xhtml": chapter(svg), "OPS/d.svg": svg}
    manifest = f"{MANIFEST}\nc c.xhtml\nd d.svg image/svg+xml"
    document = read(book(manifest, refs("c", "d", "a", "b"), files))
    assert document.text == "# One\n\nfirst\n\nsecond\n"
    assert document.left_out == {"image": 1, "undescribed image": 1}
    with pytest.raises(DocumentError, match="pages are images"):
        read(book("c c.xhtml", refs("c"), {"OPS/c.xhtml": chapter(svg)}))


def test_notes_formulas_and_titles_in_headers_are_read(read) -> None:
    body = (
        "<section epub:type='chapter'><header><h2>The Weir</h2></header><p>It is old"
        "<a epub:type='noteref' href='#n'>1</a>, <math xmlns='m'><msup><mi>x</mi><mn>2</mn></msup>"
        "</math>.</p><aside epub:type='footnote' id='n'><p>Paid by Mara.</p></aside></section>"
    )
    document = read(book("a a.xhtml", refs("a"), {"OPS/a.xhtml": chapter(body)}))
    assert document.text == "## The Weir\n\nIt is old[1], x^2.\n\nPaid by Mara.\n"


def test_pages_that_only_links_name_come_last(read) -> None:
    files: Files = {
        "OPS/a.xhtml": chapter("<p>In 1998<a epub:type='noteref' href='n%201.xhtml#n'>1</a></p>"),
        "OPS/b.xhtml": TWO,
        "OPS/n 1.xhtml": chapter("<p id='n'>Paid. <a href='m.xhtml'>More</a></p>"),
        "OPS/m.xhtml": chapter("<p>More 41</p>"),
        "OPS/x.xhtml": chapter("<p>an old cover</p>"),
    }
    manifest = "a a.xhtml\nb b.xhtml\nn n%201.xhtml\nm m.xhtml\nx x.xhtml"
    document = read(book(manifest, refs("a", "b"), files))
    assert document.text == "In 1998[1]\n\nsecond\n\nPaid. More\n\nMore 41\n"


def test_notes_that_wait_for_a_tap_are_read(read) -> None:
    body = "<p>Old.</p><aside epub:type='footnote' hidden='hidden'><p>Paid.</p></aside>"
    document = read(book("a a.xhtml", refs("a"), {"OPS/a.xhtml": chapter(body)}))
    assert document.text == "Old.\n\nPaid.\n"
    assert document.left_out == {}


@pytest.mark.parametrize("damage", ["no package", "an empty package", "nothing in the order"])
def test_a_broken_book_says_so(read, damage: str) -> None:
    files = book("a a.xhtml", refs("gone"), {"OPS/a.xhtml": ONE})
    if damage == "no package":
        del files["OPS/book.opf"]
    elif damage == "an empty package":
        files["OPS/book.opf"] = ""
    else:
        files["OPS/book.opf"] = (
            str(files["OPS/book.opf"]).replace(XHTML, "text/css").replace("a.xhtml", "a.css")
        )
    with pytest.raises(DocumentError, match="broken"):
        read(files)
