"""The site: builds without a warning, has every public name and every command, and asks nothing of the network."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vitadapt
from docsite.blocks import ROOT
from docsite.commands import commands, program

mkdocs = pytest.importorskip("mkdocs", reason="the extra docs is not installed")
SEEN = ["index", "tutorial", "methods", "reference/methods", "reference/commands"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a warning of any part is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.setattr(sys, "path", list(sys.path))
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    return folder


class Page(HTMLParser):
    """What a page loads, what it links to, the names of its places, and how many formulas it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.formulas = 0
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.formulas += tag == "math"
        self.places.add(attributes.get("id", ""))
        if tag in ("script", "img", "iframe", "source") and "src" in attributes:
            self.loads.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            self.loads.append(attributes["href"])
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    places = set().union(*(Page(path).places for path in (site / "reference").glob("*.html")))
    assert not [name for name in vitadapt.__all__ if f"vitadapt.{name}" not in places and name != "__version__"]


def test_every_command_with_every_option_is_on_its_page(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text("utf-8")
    for name, command in commands(program()):
        section = text.partition(f'id="{name.replace(" ", "-")}"')[2].partition("<h2")[0]
        assert section, name
        shown = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
        flags = [param.opts[0] for param in shown if param.param_type_name == "option"]
        assert all(f"<code>{flag}</code>" in section for flag in flags), name


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not [link for link in Page(path).loads if re.match(r"(https?:)?//", link)], path.name
    for path in (site / "assets").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text("utf-8")), path.name


def test_every_link_within_the_site_arrives(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        for link in page.links:
            file, _, place = link.partition("#")
            assert not re.search(r"/blob/main/[^/]*\.md$", link), f"{path.name} leads out of the site to {link}"
            if re.match(r"[a-z]+:", link) or link in (".", ".."):
                continue
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name} links to {link}"
            assert not place or place in pages[target].places, f"{path.name} links to {link}"


def test_formulas_are_drawn_by_the_browser_itself(site: Path) -> None:
    text = (ROOT / "docs" / "methods.md").read_text("utf-8")
    assert Page(site / "methods.html").formulas >= text.count("$$") // 2 >= 6
    for path in site.rglob("*.html"):
        assert not re.search(
            r'class="arithmatex"|\\mathrm|\\otimes', re.sub("<pre.*?</pre>", "", path.read_text("utf-8"))
        )


def test_in_a_browser_pages_fit_their_window_and_stay_at_home(site: Path, browser: Any) -> None:
    asked: list[str] = []
    for width, scheme in ((1280, "light"), (390, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: asked.append(request.url))
        for name in SEEN:
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (name, width)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.keyboard.press("f")
    page.keyboard.type("Kronecker")
    page.wait_for_selector(".md-search-result__item")  # the search works from a disk, too
    assert not [url for url in asked if not url.startswith(("file:", "data:", "about:", "blob:"))]


def test_a_page_without_a_place_is_found_under_more(tmp_path: Path) -> None:
    from docsite.hooks import on_config

    for name in ("index.md", "deep/one.md", "new.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    config = SimpleNamespace(docs_dir=str(tmp_path), nav=[{"Home": "index.md"}, {"Deep": [{"One": "deep/one.md"}]}])
    assert on_config(config).nav[2:] == [{"More": ["new.md"]}]
    assert on_config(config).nav[3:] == []


@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](#nowhere)", "[x](../nowhere.py)"])
def test_a_link_that_leads_nowhere_stops_the_build(link: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n{link}\n", "utf-8")
    settings = {"docs_dir": str(tmp_path / "docs"), "site_dir": str(tmp_path / "site"), "nav": ["index.md"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.setattr(sys, "path", list(sys.path))
        config = load_config(str(ROOT / "mkdocs.yml"), plugins=[], extra_css=[], **settings)
        with pytest.raises(Abort):
            build(config)
    assert [line for line in caplog.messages if "index.md" in line and "nowhere" in line]
