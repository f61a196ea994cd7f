"""Equations of Office files (OMML) as linear text: '(a+b)/42', 'x_1^2', '∑_(i=1)^n i'.

The notation is UnicodeMath, Word's own linear format (Unicode Technical Note 28), less its
invisible operators: it keeps numbers and letters in the order in which they are read, so that they
can be searched and quoted. Office Math Markup: ECMA-376, part 1, 22.1.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

_ATOM = re.compile(r"[\w.,]+|.|\([^()]*\)|[^\W\d_][\u0300-\u036f]", re.DOTALL)
"""What needs no brackets around it as a part of a larger expression."""
_STYLED_LETTERS = range(0x1D400, 0x1D800)
"""Mathematical letters such as 𝑥: the same letters in another shape."""
_PROPERTIES = re.compile(r".*Pr$|del$|moveFrom$")


def render_omml(node: Any) -> str:
    """Returns an element of Office Math Markup as one line of text; unknown elements keep theirs.

    Args:
        node: An lxml element, `m:oMathPara`, `m:oMath` or anything inside.
    """
    text = " ".join(_render(node).split())
    plain = (
        unicodedata.normalize("NFKC", one) if ord(one) in _STYLED_LETTERS else one for one in text
    )
    return "".join(plain)


def _render(node: Any) -> str:
    name = _name(node)
    if name == "t":
        return node.text or ""
    if _PROPERTIES.match(name):
        return ""
    if name in _RENDERERS:
        return _RENDERERS[name](node)
    return "".join(_render(child) for child in node)


def _name(node: Any) -> str:
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else "commentPr"


def _children(node: Any, name: str) -> list[Any]:
    return [child for child in node if _name(child) == name]


def _part(node: Any, name: str) -> str:
    return "".join(_render(child).strip() for child in _children(node, name))


def _argument(node: Any, name: str = "e") -> str:
    text = _part(node, name)
    return text if not text or _ATOM.fullmatch(text) else f"({text})"


def _property(node: Any, name: str, default: str) -> str:
    """Returns the value of a property: `default` where it is not given, '' where it is empty."""
    for properties in node:
        if _name(properties).endswith("Pr"):
            for child in _children(properties, name):
                values = [v for key, v in child.attrib.items() if key.rpartition("}")[2] == "val"]
                return str(values[0]) if values else ""
    return default


def _scripts(node: Any) -> str:
    below, above = _argument(node, "sub"), _argument(node, "sup")
    return (f"_{below}" if below else "") + (f"^{above}" if above else "")


def _fraction(node: Any) -> str:
    if _property(node, "type", "bar") == "noBar":
        return f"binom({_part(node, 'num')}, {_part(node, 'den')})"
    return f"{_argument(node, 'num')}/{_argument(node, 'den')}"


def _root(node: Any) -> str:
    degree = _part(node, "deg")
    return f"root({degree}, {_part(node, 'e')})" if degree else f"√{_argument(node)}"


def _nary(node: Any) -> str:
    return f"{_property(node, 'chr', '∫') or ''}{_scripts(node)} {_part(node, 'e')}"


def _delimited(node: Any) -> str:
    separator = _property(node, "sepChr", "|")
    inner = separator.join(_render(child).strip() for child in _children(node, "e"))
    opening, closing = _property(node, "begChr", "("), _property(node, "endChr", ")")
    if re.fullmatch(r"\[[^\[\]]*\]|binom\(.*\)", inner) and opening in "([":
        return inner  # a matrix or a binomial brings its brackets along
    return f"{opening}{inner}{closing}"


def _matrix(node: Any) -> str:
    rows = (", ".join(_render(e).strip() for e in _children(row, "e")) for row in node)
    return f"[{'; '.join(filter(None, rows))}]"


def _equations(node: Any) -> str:
    # An ampersand here aligns the lines.
    return "; ".join(_render(e).replace("&", "").strip() for e in _children(node, "e"))


def _accent(node: Any) -> str:
    return f"{_argument(node)}{_property(node, 'chr', chr(0x302))}"


def _bar(node: Any) -> str:
    return _argument(node) + (chr(0x305) if _property(node, "pos", "bot") == "top" else chr(0x332))


def _function(node: Any) -> str:
    name, argument = _part(node, "fName"), _part(node, "e")
    return f"{name}{'' if argument.startswith('(') else ' '}{argument}"


def _paragraph(node: Any) -> str:
    return "; ".join(filter(None, (_render(one).strip() for one in _children(node, "oMath"))))


_RENDERERS: dict[str, Callable[[Any], str]] = {
    "f": _fraction,
    "sSup": lambda node: _argument(node) + _scripts(node),
    "sSub": lambda node: _argument(node) + _scripts(node),
    "sSubSup": lambda node: _argument(node) + _scripts(node),
    "sPre": lambda node: f"({_scripts(node)}){_argument(node)}",
    "rad": _root,
    "nary": _nary,
    "d": _delimited,
    "m": _matrix,
    "eqArr": _equations,
    "acc": _accent,
    "bar": _bar,
    "limLow": lambda node: f"{_argument(node)}_{_argument(node, 'lim')}",
    "limUpp": lambda node: f"{_argument(node)}^{_argument(node, 'lim')}",
    "func": _function,
    "groupChr": lambda node: f"{_property(node, 'chr', '⏟')}{_argument(node)}",
    "oMathPara": _paragraph,
    "br": lambda node: "; ",
    "tab": lambda node: " ",
}
