"""Formulas of MathML as a line of text: x^2, (a + b)/c, √(x), a_{ij}.

The TeX that a formula carries (`annotation`, `alttext`) is preferred.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from selectolax.lexbor import LexborNode

_MAX_DEPTH = 60
"""Deeper parts are their bare text: the reader recurses."""
_INVISIBLE = re.compile("[\u2061-\u2064\u200b\u00ad]")
_SPACED = frozenset("+-−=±∓×÷·<>≤≥≠≈≡∼∝→⇒⇔↦∈∉⊂⊆∪∩∧∨|")
_ACCENTS = {"¯": "\u0304", "‾": "\u0304", "_": "\u0304", "^": "\u0302", "ˆ": "\u0302"} | {
    **{"~": "\u0303", "˜": "\u0303", "→": "\u20d7", "⃗": "\u20d7", "˙": "\u0307", "¨": "\u0308"}
}
_ATOM = re.compile(r"[-−+]?\w+|[^\W\d_][\u0300-\u036f\u20d7]|\W")
_DISPLAY = re.compile(r"\{\\(?:display|text)style\s?(.*)\}", re.DOTALL)


def formula(math: LexborNode) -> str:
    """Returns the text of a `math` element, on one line."""
    annotation = math.css_first('annotation[encoding="application/x-tex"]')
    tex = annotation.text() if annotation else math.attributes.get("alttext") or ""
    if tex and (annotation or re.search(r"[\\^_=]", tex)):
        plain = _DISPLAY.fullmatch(tex.strip())
        return " ".join((plain[1] if plain else tex).split())
    return " ".join(_read(math, 0).split())


def _read(node: LexborNode, depth: int) -> str:
    if depth > _MAX_DEPTH:
        return node.text()
    tag = str(node.tag)
    if tag in {"annotation", "annotation-xml", "mphantom", "none", "mprescripts"}:
        return ""
    if tag in {"mi", "mn", "mo", "ms", "mtext"}:
        text = _INVISIBLE.sub("", " ".join(node.text().split()))
        # Names of functions and operators stand apart: sin x, a = b.
        apart = (tag == "mo" and text in _SPACED and node.prev) or (tag == "mi" and len(text) > 1)
        return f" {text} " if apart or tag == "mtext" else text
    whole = "".join(read := [_read(child, depth + 1) for child in node.iter()])
    parts = [one.strip() for one in read]
    if (shape := _SHAPES.get(tag)) and len(parts) == shape[0]:
        return shape[1](*parts)
    if tag == "msqrt":
        return f"√{_group(whole.strip())}"
    if tag == "mtr" or tag == "mlabeledtr":
        return ", ".join(parts)
    if tag == "mtable":
        return f"[{'; '.join(parts)}]"
    if tag == "mfenced":
        given = node.attributes
        between = (given.get("separators") or ",").strip()[:1]
        return f"{given.get('open') or '('}{f'{between} '.join(parts)}{given.get('close') or ')'}"
    return whole if read else node.text()


def _group(text: str, marks: str = "()") -> str:
    return text if _ATOM.fullmatch(text) else f"{marks[0]}{text}{marks[1]}"


def _script(text: str) -> str:
    return _group(text, "{}")


def _over(base: str, over: str) -> str:
    return base + _ACCENTS[over] if over in _ACCENTS else f"{base}^{_script(over)}"


_SHAPES: dict[str, tuple[int, Callable[..., str]]] = {
    "mfrac": (2, lambda above, below: f"{_group(above)}/{_group(below)}"),
    "msup": (2, lambda base, sup: f"{_group(base)}^{_script(sup)}"),
    "msub": (2, lambda base, sub: f"{_group(base)}_{_script(sub)}"),
    "msubsup": (3, lambda base, sub, sup: f"{_group(base)}_{_script(sub)}^{_script(sup)}"),
    "munder": (2, lambda base, under: f"{base}_{_script(under)} "),
    "mover": (2, _over),
    "munderover": (3, lambda base, low, high: f"{base}_{_script(low)}^{_script(high)} "),
    "mroot": (2, lambda base, index: f"√[{index}]{_group(base)}"),
}
"""Elements of a fixed number of parts: the number, and how they are written."""
