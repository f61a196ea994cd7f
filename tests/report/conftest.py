"""A page of a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_browser import Page, open_browser


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a real browser."""
    with open_browser() as opened:
        yield opened
