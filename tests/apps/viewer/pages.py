"""A page in a browser, and what went wrong in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@dataclasses.dataclass
class Opened:
    """A page."""

    page: Page
    errors: list[str]
    """What its console and its exceptions said, policy violations included."""
    foreign: list[str]
    """The addresses that it asked for, its own aside."""

    def close(self) -> None:
        """Closes the page and its context."""
        self.page.context.close()

    def count(self) -> str:
        """The words above the list."""
        return self.page.locator("#count").inner_text()

    def keys(self, *keys: str) -> None:
        """Presses keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def tip(self) -> dict[str, str]:
        """What the tip says of a token."""
        terms = self.page.locator("#tip dt").all_inner_texts()
        return dict(zip(terms, self.page.locator("#tip dd").all_inner_texts(), strict=True))


class Opener(Protocol):
    """Opens a page; see `open_page`."""

    def __call__(self, where: str | Path, **options: Any) -> Opened:
        """Opens it."""
        ...


def open_page(browser: Browser, where: str | Path, *, ready: str | None = "texts", **context: Any) -> Opened:
    """Opens a page in a context of its own.

    Args:
        browser: the browser.
        where: an address, or a file.
        ready: waits for the trace viewer to have come so far; None waits for the document alone.
        context: options of the context (viewport, color_scheme).
    """
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}).new_page()
    page.set_default_timeout(60_000)
    address = where if isinstance(where, str) else where.absolute().as_uri()
    opened = Opened(page, [], [])
    page.on("console", lambda message: opened.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    own = address if address.startswith("file:") else address.rstrip("/") + "/"
    page.on("request", lambda request: opened.foreign.append(request.url) if not request.url.startswith(own) else None)
    page.on("dialog", lambda dialog: (opened.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(address)
    if ready is not None:
        page.locator(f"body[data-ready={ready}]").wait_for(timeout=60_000)
    return opened
