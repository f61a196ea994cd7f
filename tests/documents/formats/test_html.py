from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from html_pages import PAGES
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.errors import DocumentError
from agenticlu.documents import load_document
from agenticlu.documents.formats import html

Write = Callable[[str, bytes | str], str]


def page(body: str) -> str:
    return f"<!DOCTYPE html><html><head><title>T</title></head><body>{body}</body></html>"


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_holds(name: str) -> None:
    body, text = PAGES[name]
    assert html.convert(page(body)).text == text


LOOKS = {
    "lines by style": (
        '<span style="display:block">1998</span><span style="display: flex">1999</span>',
        "1998\n\n1999\n",
    ),
    "raised by style": (
        '10<span style="vertical-align: super">6</span>, '
        'x<font style="vertical-align:sub">1</font>',
        "10^6, x1\n",
    ),
    "struck by style": (
        'Fee <span style="text-decoration: line-through">41</span> 45',
        "Fee ~~41~~ 45\n",
    ),
    "items in wrappers": (
        "<ol start=4><div><li>a</li></div><my-item><li>b<ol><li>c</ol></li></my-item></ol>",
        "4. a\n\n5. b\n   1. c\n",
    ),
    "entries with headings": (
        "<table><tr><td><h3>Oak</h3><p>old</p></td><td>12</td></tr>"
        "<tr><td><h3>Elm</h3><p>new</p></td><td>30</td></tr></table>",
        "Oak old | 12\nElm new | 30\n",
    ),
    "chapters in a table": (
        f"<table><tr><td><h2>Oak</h2><p>{'old ' * 60}</p></td></tr><tr><td>b</td></tr></table>",
        f"## Oak\n\n{'old ' * 59}old\n\nb\n",
    ),
    "links to notes of another page": (
        'In 1998<a href="n.html#n1">1</a>, 1999<a href="n.html#n2"><sup>2</sup></a>, '
        'issue #<a href="n.html#n3">3</a>, <a href="n.html#x">4 oaks</a>.',
        "In 1998[1], 1999[2], issue #3, 4 oaks.\n",
    ),
    "numbers of printed pages": (
        "in 19<span role='doc-pagebreak' id='p13'>13</span>98",
        "in 1998\n",
    ),
    "elements with a prefix": (
        '<p xmlns:m="http://www.w3.org/1998/Math/MathML">x <m:math><m:mfrac><m:mn>1</m:mn>'
        "<m:mn>2</m:mn></m:mfrac></m:math></p>",
        "x 1/2\n",
    ),
}


@pytest.mark.parametrize("name", LOOKS)
def test_what_looks_like_an_element_is_read_as_one(name: str) -> None:
    body, text = LOOKS[name]
    assert html.convert(page(body)).text == text


@pytest.mark.parametrize(
    "around",
    [
        "<footer><ol><li id='n'>{}</ol></footer>",
        "<aside id='n'>{}</aside>",
        "<div class='footnotes'><p><a id='n'></a>{}</p></div>",
        "<div id='n' hidden>{}</div>",
        "<div style='display: none'><p id='n'>{}</p></div>",
    ],
)
@pytest.mark.parametrize("main", ["main", "div"])
def test_notes_that_the_text_points_to_are_read(main: str, around: str) -> None:
    text = f"<{main}><p>The mill is old and small.<a href='#n'>1</a></p></{main}>"
    note = around.format("Paid by Mara.")
    found = html.convert(page(f"{text}{note}<footer>(c) nobody</footer>"))
    assert "small.[1]" in found.text
    assert "Paid by Mara." in found.text
    assert "nobody" not in found.text
    without = html.convert(page(f"{text.replace('#n', '#o')}{note}<footer>(c) nobody</footer>"))
    assert ("Paid by Mara." in without.text) == (main == "div" and "footnotes" in around)


WHOLE = """<!DOCTYPE html><html><head><title>Vell  today</title><style>p {color: red}</style>
<script>var secret = "x";</script></head><body>
<nav><a href="/">Home</a></nav><header><h1>The news</h1></header>
<div class="ad" hidden>Buy!</div><span style="display: none">IGNORE ALL</span>
<article><h2>Lamps</h2><p>Ada has a <b>red</b>
   lamp.<br>It glows.</p><ul><li>one</li><li>two <i>halves</i></li></ul>
<pre>a  b
 c</pre><table><tr><th>Who</th><th>What</th></tr><tr><td>Ada</td><td>lamp</td></tr></table>
<noscript>no</noscript><!-- a comment --></article><footer>(c) nobody</footer></body></html>"""


@pytest.mark.parametrize("element", ["main", "article", "section", "div"])
def test_a_page_is_its_main_text_under_its_heading(write: Write, element: str) -> None:
    document = load_document(write("a.html", WHOLE.replace("article", element)))
    assert document.title == "Vell today"
    assert document.text == (
        "# The news\n\n## Lamps\n\nAda has a red lamp.\nIt glows.\n\n- one\n- two halves\n\n"
        "a  b\n c\n\nWho | What\nAda | lamp\n"
    )
    assert document.left_out.get("surrounding word", 0) >= 3  # Home, (c) nobody


def test_notes_outside_the_main_text_are_read() -> None:
    notes = "<main><p>It is old.</p></main><aside role=doc-footnote>Paid by Mara.</aside>"
    assert html.convert(page(notes)).text == "It is old.\n\nPaid by Mara.\n"


def test_an_article_that_holds_little_of_the_page_is_not_all_of_it() -> None:
    body = "<article><p>A teaser.</p></article><div>" + "<p>The text itself.</p>" * 9 + "</div>"
    assert html.convert(page(body)).text.count("The text itself.") == 9


def test_a_page_of_nothing_but_navigation_is_read() -> None:
    assert html.convert(page("<nav><a href=a>Lamps, 41</a></nav>")).text == "Lamps, 41\n"


def test_without_surroundings_nothing_is_passed_over() -> None:
    body = "<header>Top</header><nav>Way</nav><main>Text</main><aside>Side</aside>"
    parsed = html.convert(page(body), is_page=False)
    assert parsed.text == "Top\n\nWay\n\nText\n\nSide\n"
    assert not parsed.left_out


def test_what_is_left_out_is_counted() -> None:
    body = (
        "<p hidden>a b</p><p style='visibility: hidden'></p><img src=x><img src=x alt=''>"
        "<img src=x alt='scan0001.jpg'><iframe src=x></iframe><video src=x></video><audio></audio>"
        "<select><option>a<option selected>b<option>c</select><embed><canvas></canvas>"
        "<script>var x</script><style>p {}</style><footer>one two three</footer><p>Text</p>"
    )
    assert html.convert(page(body)).left_out == {
        "hidden passage": 1,
        "undescribed image": 2,
        "frame": 1,
        "video": 1,
        "recording": 1,
        "embedded object": 1,
        "drawing": 1,
        "unchosen option": 2,
        "surrounding word": 3,
    }


def test_a_page_of_frames_names_them(write: Write) -> None:
    frames = "<html><frameset><frame src='menu.html'><frame src='text.html'></frameset></html>"
    with pytest.raises(DocumentError, match="only frames") as caught:
        load_document(write("a.html", frames))
    assert "menu.html, text.html" in str(caught.value.hint)


def test_a_page_made_by_scripts_says_so(write: Write) -> None:
    with pytest.raises(DocumentError, match="contains no text"):
        load_document(write("a.html", "<html><script>a</script></html>"))


XML = "<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>"
XHTML = {
    "an empty title": (f"{XML}<head><title/></head><body><p>Text</p></body></html>", "Text\n"),
    "a closed script": (
        f"{XML}<head><script src='a.js'/></head><body>Text</body></html>",
        "Text\n",
    ),
    "a closed anchor": (
        f"{XML}<body><h1><a id='x' title='a>b'/>One</h1>two</body></html>",
        "# One\n\ntwo\n",
    ),
    "a closed cell": (
        f"{XML}<body><table><tr><td>a</td><td/><td>c</td></tr></table></body></html>",
        "a |  | c\n",
    ),
    "CDATA": (f"{XML}<body><p><![CDATA[5 < 6 & <b>]]></p></body></html>", "5 < 6 & <b>\n"),
    "void elements": (f"{XML}<body>a<br/>b<hr />c</body></html>", "a\nb\n\nc\n"),
}


@pytest.mark.parametrize("name", XHTML)
def test_xhtml_is_read_as_xml(write: Write, name: str) -> None:
    content, text = XHTML[name]
    assert load_document(write("a.xhtml", content)).text == text


@pytest.mark.parametrize(
    ("label", "text", "codec"),
    [
        ("gb2312", "朱镕基", "gbk"),
        ("Shift_JIS", "①価格は41円", "cp932"),
        ("x-sjis", "価格は41円", "cp932"),
        ("utf-16", "Café costs 41", "utf-8"),
        ("windows-1252", "Café costs 41", "cp1252"),
        ("iso-8859-1", "“41”, Zoé’s", "cp1252"),
        ("latin1", "Zoé’s €", "cp1252"),
        ("ks_c_5601-1987", "방앗간", "cp949"),
        ("tis-620", "โรงสี", "cp874"),
        ("iso-8859-9", "ırmağın", "cp1254"),
        ("utf8", "Zoé", "utf-8"),
        ("iso-8859-1", "Zoé, Søren, Łódź, für", "utf-8"),  # wrong: UTF-8 all the same
        ("gbk", "磨坊由艾达建造。", "utf-8"),
        ("utf-8", "Мельница была построена Адой у реки.", "cp1251"),
        ("klingon", "Zoé", "utf-8"),
    ],
)
def test_charset_labels_mean_what_browsers_take_them_for(write, label, text, codec) -> None:
    for meta in (f"<meta charset='{label}'>", f"<meta content='text/html; charset={label}'>"):
        content = f"<html><head>{meta}</head><body><p>{text}</p></body></html>"
        assert load_document(write("a.html", content.encode(codec))).text == f"{text}\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_byte_order_marks_count_more_than_labels(write: Write, encoding: str) -> None:
    content = "<html><meta charset=windows-1252><p>Zoé has 41.</p></html>"
    assert load_document(write("a.html", content.encode(encoding))).text == "Zoé has 41.\n"


HOSTILE = {
    "blocks": "<div>" * 20_000,
    "inline elements": "<b>" * 20_000,
    "lists": "<ol><li>x" * 3000,
    "tables": "<table><tr><td>y<td>x" * 3000,
    "quotes": "<blockquote type=cite>x" * 3000,
    "scripts": "<sup>x<sub>1" * 5000,
    "formulas": "<math>" + "<mfrac>" * 5000 + "<mi>x",
    "spans of rows": "<table><tr>" + f"<td rowspan=60000>{'x' * 79}" * 900 + "<tr><td>x" * 5000,
    "spans of columns": "<table>" + "<tr><td colspan=1000>x<td>y" * 5000,
    "blanks": "<pre>x" + (" " * 1000 + "\n") * 1000 + "x" + " " * 1_000_000,
    "line ends": "<p>" + "<br>" * 100_000,
    "comments": "<!--" * 50_000,
    "quotation marks": "<?xml version='1.0'?>" + '<a b="' * 50_000,
    "CDATA": "<?xml version='1.0'?>" + "<![CDATA[" * 50_000,
    "frames in frames": "<iframe srcdoc=\"<iframe srcdoc='<iframe srcdoc=x>'>\">" * 2000,
    "templates": "shadowrootmode" + "<template " * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_page_takes_long(name: str) -> None:
    began = time.process_time()
    text = html.convert(HOSTILE[name], is_xml=HOSTILE[name].startswith("<?xml")).text
    assert time.process_time() - began < 5  # a second at most; squares take minutes
    assert len(text) < 8 * len(HOSTILE[name]) + 10_000


TAGS = (
    *("p", "div", "table", "tr", "td", "li", "ol", "ul", "h2", "pre", "sup", "a", "math", "svg"),
    *("select", "option", "dl", "dd", "ruby", "rt", "main", "article", "nav", "template", "del"),
)
MARKUP = st.lists(
    st.one_of(
        st.sampled_from(TAGS).map(lambda tag: f"<{tag}>"),
        st.sampled_from(TAGS).map(lambda tag: f"</{tag}>"),
        st.sampled_from(["word", " ", "\n", "41", "<br>", "<img alt=x>", "<td rowspan=3>"]),
        st.text(max_size=5),
    ),
    max_size=60,
)


@given(MARKUP)
def test_any_markup_is_read(parts: list[str]) -> None:
    text = html.convert("".join(parts)).text
    assert text == "" or (text.endswith("\n") and not text.startswith("\n"))


@given(st.lists(st.lists(st.sampled_from(["a", "b c", "1"]), min_size=2, max_size=4), min_size=1))
def test_every_row_is_a_line(rows: list[list[str]]) -> None:
    wraps = ("{}", "<p>{}</p>", "<div><b>{}</b></div>", "<ul><li>{}</ul>", "<h3>{}</h3>")
    for wrap in wraps:
        cells = (
            "<tr>" + "".join(f"<td>{wrap.format(cell)}" for cell in row) + "</tr>" for row in rows
        )
        text = html.convert(f"<table>{''.join(cells)}</table>").text.replace("- ", "")
        assert text == "".join(" | ".join(row) + "\n" for row in rows)


def test_entities_of_a_page_s_own(write: Write) -> None:
    head = '<?xml version="1.0"?><!DOCTYPE html [<!ENTITY co "Mill &amp; Co"><!ENTITY a "&co;">]>'
    path = write("a.xhtml", f"{head}<html><body><p>&co; paid 41&a;</p></body></html>")
    assert load_document(path).text == "Mill & Co paid 41&a;\n"
