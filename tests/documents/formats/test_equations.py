"""Equations of Office files as one line of text."""

from __future__ import annotations

import pytest
from lxml import etree

from agenticlu.documents.formats.equations import render_omml

SPACE = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'


def run_(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


def el(name: str, properties: str = "", **parts: str) -> str:
    inner = "".join(f"<m:{key}>{value}</m:{key}>" for key, value in parts.items())
    return f"<m:{name}><m:{name}Pr>{properties}</m:{name}Pr>{inner}</m:{name}>"


def val(name: str, value: str) -> str:
    return f'<m:{name} m:val="{value}"/>'


EQUATIONS = {
    "(a+b)/42": el("f", num=run_("a+b"), den=run_("42")),
    "binom(n, k)": f"<m:d><m:e>{el('f', val('type', 'noBar'), num=run_('n'), den=run_('k'))}"
    f"</m:e></m:d>",
    "x^2": el("sSup", e=run_("x"), sup=run_("2")),
    "10^(-6)": el("sSup", e=run_("10"), sup=run_("-6")),
    "x_1^2": el("sSubSup", e=run_("x"), sub=run_("1"), sup=run_("2")),
    "(_6^14)C": el("sPre", sub=run_("6"), sup=run_("14"), e=run_("C")),
    "√(x+1)": el("rad", deg="", e=run_("x+1")),
    "root(3, x)": el("rad", deg=run_("3"), e=run_("x")),
    "∫_0^1 x dx": el("nary", sub=run_("0"), sup=run_("1"), e=run_("x dx")),
    "∑_(i=1)^n i": el("nary", val("chr", "∑"), sub=run_("i=1"), sup=run_("n"), e=run_("i")),
    "[1, 2; 3, 4]": "<m:d><m:e><m:m><m:mr><m:e>{}</m:e><m:e>{}</m:e></m:mr><m:mr><m:e>{}</m:e>"
    "<m:e>{}"
    "</m:e></m:mr></m:m></m:e></m:d>".format(*map(run_, "1234")),
    "|x|": el("d", val("begChr", "|") + val("endChr", "|"), e=run_("x")),
    "{x=1; y=2": "<m:d><m:dPr><m:begChr m:val='{'/><m:endChr m:val=''/></m:dPr><m:e><m:eqArr>"
    f"<m:e>{run_('x&amp;=1')}</m:e><m:e>{run_('y&amp;=2')}</m:e></m:eqArr></m:e></m:d>",
    "v⃗": el("acc", val("chr", "⃗"), e=run_("v")),
    "lim_(x→0) f(x)": f"<m:func><m:fName>{el('limLow', e=run_('lim'), lim=run_('x→0'))}</m:fName>"
    f"<m:e>{run_('f(x)')}</m:e></m:func>",
    "E=mc": el("borderBox", e=run_("E=mc")),
    "x+y": run_("𝑥+𝑦"),
    "kept": f"<m:future><m:e>{run_('kept')}</m:e></m:future>",
}


@pytest.mark.parametrize("text", EQUATIONS)
def test_equations_in_linear_form(text: str) -> None:
    node = etree.fromstring(f"<m:oMath {SPACE}>{EQUATIONS[text]}</m:oMath>")
    assert render_omml(node) == text
    written = "".join(node.itertext()).replace("&", "")
    assert all(one in text for one in written if one.isdigit())  # no number is lost
