"""Chromium of the operating system, driven by playwright, which downloads none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def why_absent() -> str:
    """Return what is missing for tests with a browser; empty if nothing is."""
    try:
        import axe_playwright_python
        import playwright  # noqa: F401
    except ModuleNotFoundError as error:
        return f"{error.name} not found: make browser installs it"
    del axe_playwright_python
    return "" if CHROMIUM else "chromium not found: apt-get install chromium"


@contextmanager
def started(*arguments: str) -> Iterator[Any]:
    """Start the browser. Root needs --no-sandbox."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*options, *arguments])
        try:
            yield browser
        finally:
            browser.close()
