"""A person at the reading room's page, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page as BrowserPage

SHOWN = ".thread:not([hidden])"
ANSWERS = f"{SHOWN} .entry[data-entry]"


@dataclass
class Reader:
    """A person at the page."""

    page: BrowserPage
    faults: list[str] = field(default_factory=list)
    """Errors of scripts and refusals of the policy; tests that expect none check it."""

    def wait(self, selector: str, **options: Any) -> None:
        """Waits for an element to be seen."""
        self.page.wait_for_selector(selector, timeout=30_000, **options)

    def text(self, selector: str) -> str:
        """The text of the last such element."""
        return self.page.locator(selector).last.inner_text()

    def choose(self, *files: Any) -> None:
        """Opens files by the chooser."""
        chooser = "text=Choose files"
        if not self.page.is_visible(chooser):
            self.page.click("[aria-label='Open documents']")
            chooser = "[role=menuitem]:has-text('Open files')"
        with self.page.expect_file_chooser() as found:
            self.page.click(chooser)
        found.value.set_files(list(files))

    def opened(self, name: str) -> None:
        """Waits until a document is in sight and read."""
        self.wait(f"[role=tab][aria-selected=true]:has-text('{name}')")
        self.wait("#ask:not(:disabled)")
        self.wait(f"{SHOWN}[data-loaded]")

    def ask(self, question: str) -> None:
        """Asks, and waits for the answer."""
        number = self.page.locator(ANSWERS).count()
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")
        self.wait(f"{ANSWERS} >> nth={number}")

    def under_marks(self) -> str:
        """The words whose middle lies within a rectangle that is marked, in order."""
        self.wait(".page .mark.on")
        self.wait(".page:has(.mark.on) .words span")
        found: str = self.page.evaluate(
            """() => [...document.querySelectorAll('.page .mark.on')].map((mark) => {
              const box = mark.getBoundingClientRect();
              return [...mark.closest('.page').querySelectorAll('.words span')].filter((word) => {
                const at = word.getBoundingClientRect();
                const [x, y] = [(at.left + at.right) / 2, (at.top + at.bottom) / 2];
                return x > box.left && x < box.right && y > box.top && y < box.bottom;
              }).map((word) => word.textContent).join('');
            }).join(' ')"""
        )
        return " ".join(found.split())

    def is_in_sight(self, selector: str) -> bool:
        """Whether an element lies within the source's half of the window."""
        found: bool = self.page.evaluate(
            """(selector) => {
              const [one, box] = [selector, '#source-box'].map((name) =>
                document.querySelector(name).getBoundingClientRect());
              return one.top >= box.top && one.bottom <= box.bottom && one.left >= box.left;
            }""",
            selector,
        )
        return found


Enter = Callable[..., Reader]


def look(page: BrowserPage, address: str) -> Reader:
    """Opens an address in a page."""
    reader = Reader(page)
    page.on("pageerror", lambda error: reader.faults.append(str(error)))
    page.on(
        "console",
        lambda said: said.type == "error" and reader.faults.append(f"{said.text} {said.location}"),
    )
    page.goto(address)
    reader.wait("html[data-ready]", state="attached")
    return reader
