"""What mkdocs does beyond its plugins: the page of commands, formulas as MathML, and links out of docs/."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[1]))

from docsite.blocks import ROOT
from docsite.commands import page as commands_page

log = logging.getLogger("mkdocs.hooks.docsite")
_OUT = re.compile(r"\]\((?:\.\./)+(?!\.\.)([^)#]+)(#[^)]*)?\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: Any) -> Any:
    """A page that the table of contents does not name yet is found under "More", not lost."""
    docs = Path(config.docs_dir)
    named = set(_named(config.nav))
    more = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    if missing := [path for path in more if path not in named]:
        config.nav.append({"More": missing})
    return config


def _named(nav: Any) -> Iterator[str]:
    """Every file of a table of contents: a file, a title with one, or a title with more of the same."""
    for entry in nav:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [target] if isinstance(target, str) else _named(target)


def on_files(files: Files, config: Any) -> Files:
    """Pages that stand beside README are pages of the site, too."""
    for source, target in _ROOT_PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        text = re.sub(r"\]\(docs/", "](", text)
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The commands where they are asked for; a link out of docs/ leads to the page of the site, or to the source."""

    def link(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = (ROOT / "docs" / page.file.src_uri).parent / match[0][2:].split(")")[0].split("#")[0]
        if not target.exists():
            log.warning(f"{page.file.src_uri} links to {path}, which does not exist")
        elif (ROOT / "docs").resolve() in target.resolve().parents:
            return match[0]  # from one folder of docs/ to another
        if path in _ROOT_PAGES:
            up = "../" * page.file.src_uri.count("/")
            return f"]({up}{_ROOT_PAGES[path]}{anchor})"
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config.extra['repository']}/{kind}/main/{path}{anchor})"

    return _OUT.sub(link, markdown.replace("<!-- commands -->", commands_page() if "<!-- commands" in markdown else ""))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Formulas become MathML, which browsers draw by themselves: no script, no font, no network."""
    from html import unescape

    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return f'<{match[1]} class="formula">{convert(unescape(match[2]).strip(), display=display)}</{match[1]}>'

    return _FORMULA.sub(formula, html)
