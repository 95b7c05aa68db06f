"""Panels as SVG elements inside a page: colours follow the page, things tell what they are, names cannot collide."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from .figure import GRID, INK, MUTED, PAPER, SERIES, Panel
from .plot import draw_panel, new_figure

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(SERIES)}
COLOUR = re.compile("|".join(ROLES))
LONG = re.compile(r"(\d+\.\d\d)\d+")
POINTS_TO_PIXELS = 96 / 72


class Tags:
    """A `Tag` that remembers what it was told, by the id that the drawn thing gets."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, dict[str, str]]] = {}

    def __call__(self, artist: Any, tip: str, **about: str) -> None:
        name = f"t{len(self.known)}"
        artist.set_gid(name)
        self.known[name] = (tip, about)


def inline_svg(panel: Panel, key: str) -> tuple[str, int]:
    """(markup, width in CSS pixels) of a panel; `key` must be another one for each panel of a page.

    To be called within `drawing()`.
    """
    from matplotlib import rc_context

    tags, buffer = Tags(), io.BytesIO()
    with rc_context({"svg.hashsalt": key}):
        figure = new_figure(panel.size)
        draw_panel(panel, figure.subplots(), tags)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for child in [child for child in root if child.tag.endswith("metadata")]:
        root.remove(child)
    for element in root.iter():
        _rename(element, key, tags.known)
    _describe(root, panel, key)
    return ElementTree.tostring(root, encoding="unicode"), round(panel.size[0] * 72 * POINTS_TO_PIXELS)


def _rename(element: ElementTree.Element, key: str, known: Mapping[str, tuple[str, dict[str, str]]]) -> None:
    """Ids of this panel alone, colours by role, two decimals, and what a tag said."""
    for name, value in list(element.attrib.items()):
        if name == "id":
            _explain(element, known.get(value))
            element.set(name, f"{key}-{value}")
        elif name == "d":
            element.set(name, LONG.sub(r"\1", value))
        elif name.endswith("}href"):
            element.set(name, f"#{key}-{value[1:]}" if value.startswith("#") else value)
        else:
            element.set(name, COLOUR.sub(_variable, value.replace("url(#", f"url(#{key}-")))


def _variable(match: re.Match[str]) -> str:
    return f"var(--{ROLES[match.group()]})"


def _explain(element: ElementTree.Element, said: tuple[str, dict[str, str]] | None) -> None:
    if said is None:
        return
    tip, about = said
    for name, value in about.items():
        element.set(f"data-{name}", value)
    if tip:
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = tip
        element.insert(0, title)


def _describe(root: ElementTree.Element, panel: Panel, key: str) -> None:
    """A picture with a name for those who do not see it; its size is the page's affair."""
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    words = ". ".join(filter(None, [panel.title.replace("\n", ", "), panel.summary]))
    root.attrib |= {"role": "img", "id": key, "aria-label": words or "chart"}
