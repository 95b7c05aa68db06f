"""Pictures of pages that vitadapt makes, by headless Chromium.

A comment asks for one: `<!-- screen: my-model/report.html -> images/NAME -->` shows a file, and
`<!-- screen: serve my-model 8.png -> images/NAME -->` the page of the server with its answer for a picture.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCREEN = re.compile(r"<!-- screen: (.+?) -> (\S+) -->")
SIZE = {"width": 1000, "height": 760}


def take(page: Path, text: str, folder: Path) -> None:
    """Make the pictures that the `text` of `page` asks for from what lies in `folder`."""
    for words, target in SCREEN.findall(text):
        (page.parent / target).parent.mkdir(exist_ok=True)
        first, *rest = words.split()
        with _browser() as tab:
            if first == "serve":
                _server(tab, folder, *rest, page.parent / target)
            else:
                tab.goto((folder / first).as_uri())
                tab.screenshot(path=page.parent / target)


@contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from vitadapt.classifier.export.browser import chromium

    with sync_playwright() as program:
        browser = program.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser.new_page(viewport=SIZE)
        browser.close()


def _server(tab: Any, folder: Path, model: str, picture: str, target: Path) -> None:
    call = [sys.executable, "-m", "vitadapt", "serve", model, "--port", "0"]
    with subprocess.Popen(call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            said = iter(server.stdout or ())
            address = next(found[0] for line in said if (found := re.search(r"http://[\d.]+:\d+", line)))
            tab.goto(address)
            tab.wait_for_selector("#model option", state="attached")
            tab.set_input_files("#file", folder / picture)
            tab.wait_for_selector("#heat:visible")
            tab.wait_for_load_state("networkidle")
            tab.screenshot(path=target)
        finally:
            server.terminate()
