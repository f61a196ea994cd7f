from __future__ import annotations

import re

import pytest

from agenticlu.core import errors
from agenticlu.core.errors import AgenticluError, did_you_mean, missing_dependency


def classes(base: type[AgenticluError] = AgenticluError) -> list[type[AgenticluError]]:
    return [base, *(found for child in base.__subclasses__() for found in classes(child))]


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    drawn = {
        name: int(code)
        for name, code in re.findall(r"(\w+Error)\s+exit (\d+)", errors.__doc__ or "")
    }
    ours = [found for found in classes() if found.__module__ == errors.__name__]
    assert drawn == {found.__name__: found.exit_code for found in ours}
    assert len(ours) > 10


def test_exit_codes_are_documented_small_and_not_zero() -> None:
    for found in classes():
        assert 1 <= found.exit_code < 126
        assert found.__doc__


def test_message_and_hint() -> None:
    error = AgenticluError("What was given.", hint="What to type.")
    assert (error.message, error.hint, str(error)) == (
        "What was given.",
        "What to type.",
        "What was given.",
    )
    assert missing_dependency("ray", "ray").hint == "pip install 'agenticlu[ray]'"


@pytest.mark.parametrize(
    ("given", "hint"),
    [("exatc", "Did you mean exact?"), ("zzzz", None), ("", None)],
)
def test_did_you_mean(given: str, hint: str | None) -> None:
    assert did_you_mean(given, ["exact", "rouge"]) == hint
