"""Licences are named as the hub names them."""

from __future__ import annotations

import pytest

from agenticlu.core.errors import UsageError
from agenticlu.data.licences import IDENTIFIERS, Licence, parse_licence


@pytest.mark.parametrize("given", ["mit", "MIT", "Apache-2.0", "CC-BY-4.0", "odc-by", " mit "])
def test_known_ones_are_taken(given: str):
    found = parse_licence(given, None, None)
    assert found is not None
    assert found.identifier in IDENTIFIERS
    assert found.header() == [f"license: {given.strip().lower()}"]


def test_none_stays_none():
    assert parse_licence(None, None, None) is None


def test_another_one_has_a_name_and_perhaps_a_link():
    named = parse_licence("other", "my-licence-1.0", "https://example.org/l#2")
    assert named == Licence("other", "my-licence-1.0", "https://example.org/l#2")
    assert named.header() == [
        "license: other",
        "license_name: my-licence-1.0",
        'license_link: "https://example.org/l#2"',
    ]
    assert str(named) == "https://example.org/l#2"
    assert str(Licence("other", "mine")) == "mine"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("mitt", None, None), "knows no licence 'mitt'"),
        (("", None, None), "knows no licence"),
        (("mit\ntags: [x]", None, None), "knows no licence"),
        (("cc-by", None, None), "knows no licence"),
        (("other", None, None), "needs a name"),
        (("other", "My Licence", None), "needs a name"),
        (("other", "x: y", None), "needs a name"),
        (("other", "mine", "LICENSE"), "no address"),
        (("other", "mine", 'https://x"y'), "no address"),
        (("mit", "mine", None), "has a name"),
        (("mit", None, "https://example.org"), "has a name"),
        ((None, "mine", None), "but no licence"),
    ],
)
def test_others_are_refused(given, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_licence(*given)
    assert caught.value.hint


def test_a_slip_gets_a_suggestion():
    with pytest.raises(UsageError) as caught:
        parse_licence("apache2", None, None)
    assert "apache-2.0" in (caught.value.hint or "")
