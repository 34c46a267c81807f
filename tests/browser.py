"""An installed Chromium for tests of pages; they skip without one."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@contextmanager
def opened(path, width=1280, height=1600):
    """A page from disk, without a network, on which no script may fail."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": height}, offline=True)
        failures = []
        page.on("pageerror", lambda error: failures.append(error))
        page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
        page.goto(path.resolve().as_uri())
        yield page
        browser.close()
    assert not failures
