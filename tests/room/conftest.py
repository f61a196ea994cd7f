"""The reading room in a real browser, with a scripted model in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from real_browser import open_browser
from room_reader import Enter, Reader, look
from scripted_room import room_process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser."""
    with open_browser() as opened:
        found = opened.inner.context.browser
        assert found is not None
        yield found


@pytest.fixture
def enter(browser: Browser) -> Iterator[Enter]:
    """Returns a function that opens a room's address as a new person would."""
    contexts = []

    def open_page(address: str, **options: Any) -> Reader:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
        contexts.append(context)
        return look(context.new_page(), address)

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a room with nothing open."""
    history: Path = tmp_path_factory.mktemp("room") / "history.sqlite"
    with room_process(history=history) as address:
        yield address
