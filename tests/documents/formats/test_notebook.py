from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Document]:
    def loaded(book: Any, name: str = "a.ipynb") -> Document:
        content = book if isinstance(book, str) else json.dumps(book)
        (tmp_path / name).write_text(content)
        return load_document(str(tmp_path / name))

    return loaded


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    meta = {"language_info": {"name": "julia"}}
    return {"cells": list(cells), "metadata": meta, "nbformat": 4, "nbformat_minor": 5}


def code(source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": {}}


def shown(**data: Any) -> dict[str, Any]:
    named = {name.replace("_", "/"): value for name, value in data.items()}
    return {"output_type": "display_data", "data": named, "metadata": {}}


PROSE = {"cell_type": "markdown", "source": ["# The *mill*\n", "\n", "It is old."], "metadata": {}}


def test_prose_code_and_output_are_pages(read) -> None:
    printed = {"output_type": "stream", "name": "stdout", "text": ["41\n", "42\n"]}
    document = read(notebook(PROSE, code(""), code("print(x)\n", printed)))
    assert document.text == (
        "# The *mill*\n\nIt is old.\n\n```julia\nprint(x)\n```\n\nOutput:\n41\n42\n"
    )
    assert document.title == "The *mill*"
    assert [page.name for page in document.pages] == ["cell 1", "cell 3"]
    spans = [document.text[page.start : page.end] for page in document.pages]
    assert "".join(spans) == document.text


TABLE = "<table><tr><th></th><th>age</th></tr><tr><th>0</th><td>41</td></tr></table>"
OUTPUTS = {
    "a value": (shown(text_plain="41"), "41", {}),
    "a table": (shown(text_html=TABLE, text_plain="   age\n0   41"), "| age\n0 | 41", {}),
    "a picture": (shown(image_png="iVBO", text_plain="<Figure size 6x4>"), "", {"image": 1}),
    "a picture and words": (shown(image_png="iVBO", text_plain="peak 41"), "peak 41", {"image": 1}),
    "markdown": (shown(text_markdown=["**41**"], text_plain="<obj>"), "**41**", {}),
    "a formula": (shown(text_latex="$x^2$", text_plain="x**2"), "$x^2$", {}),
    "HTML alone": (shown(text_html="<b>41</b> crowns"), "41 crowns", {}),
    "a widget": (
        {"output_type": "display_data", "data": {"application/vnd.x": {}}, "metadata": {}},
        "",
        {"widget": 1},
    ),
    "an error": (
        {
            "output_type": "error",
            "ename": "KeyError",
            "evalue": "'x'",
            "traceback": ["\x1b[0;31mKeyError\x1b[0m: 'x'", "  line 1"],
        },
        "KeyError: 'x'\n  line 1",
        {},
    ),
    "an error without its trace": (
        {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []},
        "KeyError: 'x'",
        {},
    ),
    "a bar of progress": (
        {"output_type": "stream", "text": " 1%\r50%\r\x1b[32m100%\x1b[0m\ndone\n"},
        "100%\ndone",
        {},
    ),
    "not an output": ("nonsense", "", {}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(read, name: str) -> None:
    output, text, left_out = OUTPUTS[name]
    document = read(notebook(code("x", output)))  # type: ignore[arg-type]
    expected = f"\n\nOutput:\n{text}" if text else ""
    assert document.text == f"```julia\nx\n```{expected}\n"
    assert document.left_out == left_out


def test_images_in_prose_are_counted(read) -> None:
    source = "See ![a mill](attachment:m.png), ![](data:image/png;base64,AA), ![x](m.png)."
    document = read(notebook({"cell_type": "markdown", "source": source}))
    assert document.text == "See [image: a mill], , ![x](m.png).\n"
    assert document.left_out == {"image": 2}


def test_format_3(read) -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Mills"]},
        {
            "cell_type": "code",
            "input": ["print(41)"],
            "outputs": [{"output_type": "pyout", "text": ["41"]}],
            "language": "python",
        },
    ]
    document = read({"worksheets": [{"cells": cells}], "metadata": {}, "nbformat": 3})
    assert document.text == "## Mills\n\n```python\nprint(41)\n```\n\nOutput:\n41\n"


def test_a_notebook_is_told_without_its_ending(read) -> None:
    assert read(notebook(PROSE), "a.txt").text.startswith("# The *mill*")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken notebook"),
        ("[" * 100_000, "broken notebook"),
        ("[]", "no notebook"),
        ('{"cells": 41}', "no notebook"),
        ('{"cells": []}', "contains no text"),
        ('{"cells": [1, null, {"cell_type": []}]}', "contains no text"),
    ],
)
def test_broken_notebooks_say_so(read, content: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        read(content)
