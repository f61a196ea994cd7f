"""A page of a real browser: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page as BrowserPage
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Page:
    """A page as the tests use it."""

    def __init__(self, page: BrowserPage) -> None:
        self._page = page

    @property
    def inner(self) -> BrowserPage:
        """Playwright's own page, for what this one lacks."""
        return self._page

    def open(self, address: str) -> None:
        """Loads an address anew, even where only its fragment differs, and runs its script."""
        self._page.goto("about:blank")
        self._page.goto(address)

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression."""
        return self._page.evaluate(script)

    def wait(self, condition: str) -> None:
        """Returns once an expression is true; the page may take a few frames for it.

        Playwright's own waiting needs `eval`, which the policy of a report forbids.
        """
        deadline = time.monotonic() + 20
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            self._page.wait_for_timeout(20)

    def frame(self) -> None:
        """Returns once pending changes are drawn and events of the address are dispatched."""
        self.run("new Promise((done) => setTimeout(() => requestAnimationFrame(() => done())))")

    def click(self, selector: str, *, shift: bool = False) -> None:
        """Clicks in the middle of an element as a mouse does, wherever it has to scroll to."""
        self._page.locator(selector).first.click(modifiers=["Shift"] if shift else [])
        self.frame()

    def type(self, text: str) -> None:
        """Types text into the focused element."""
        self._page.keyboard.type(text)
        self.frame()

    def press(self, key: str) -> None:
        """Presses a key by its name, such as 'ArrowDown'."""
        self._page.keyboard.press(key)
        self.frame()

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window."""
        self._page.set_viewport_size({"width": width, "height": height})


@contextlib.contextmanager
def open_browser(**context: Any) -> Iterator[Page]:
    """Opens a page; skips only where no browser is installed: the gate installs one.

    Not for a whole session: while Playwright runs, its thread has a running event loop, and no
    other test could call `asyncio.run`.

    Args:
        context: Options of Playwright's `new_page`, such as `color_scheme`.
    """
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium (the gate does)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        )
        yield Page(browser.new_page(**context))
        browser.close()
