"""What all pages have in common: one file that asks for nothing, escaped names, pictures as SVG inside it, one script.

Colours of the pictures follow the page, drawn things tell what they are, and no two elements share a name.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any
from xml.etree import ElementTree

from ..utils.optional import package
from .figure import GRID, INK, MOST_PANELS, MUTED, PAPER, SERIES, Panel, Picture, dash
from .plot import draw_panel, drawing, new_figure

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(SERIES)}
COLOUR = re.compile("|".join(ROLES))
LONG = re.compile(r"(\d+\.\d\d)\d+")


def render(template: str, styles: Sequence[str], scripts: Sequence[str], values: Mapping[str, Any]) -> str:
    """The page made of files beside this one; its script is allowed by its digest alone.

    Raises MissingPackage without jinja2.
    """
    jinja2 = package("jinja2", "report")
    script = "".join(map(_part, scripts))
    loader = jinja2.PackageLoader("vitadapt.report", "page")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    text: str = environment.get_template(template).render(
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style="".join(map(_part, styles)),
        **values,
    )
    return text


def _part(name: str) -> str:
    return (resources.files("vitadapt.report") / "page" / name).read_text(encoding="utf-8")


def drawn(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Every picture that has something to show, its panels as markup. Raises MissingPackage without matplotlib."""
    made = []
    with drawing():
        for picture in pictures:
            panels = [_inline(panel, f"{picture.name}{i}") for i, panel in enumerate(picture.panels[:MOST_PANELS])]
            left_out = len(picture.panels) - MOST_PANELS
            more = f" {left_out} further panels are left out; choose with --only." if left_out > 0 else ""
            words = {"name": picture.name, "title": picture.title, "caption": picture.caption + more}
            if panels:
                made.append({**words, "panels": panels, "legend": _legend(picture)})
    return made


def _legend(picture: Picture) -> list[tuple[str, int, str]]:
    """(name, number of its colour, dashes as SVG has them) of every series."""
    dashes = ["" if dash(i) == "-" else " ".join(map(str, dash(i)[1])) for i in range(len(picture.legend))]
    return [(name, i % len(SERIES), dashes[i]) for i, name in enumerate(picture.legend)]


def _inline(panel: Panel, key: str) -> dict[str, Any]:
    """A panel as SVG, its width in CSS pixels, and what filters know; `key` is another one for each panel of a page."""
    from markupsafe import Markup
    from matplotlib import rc_context

    known: dict[str, tuple[str, dict[str, str]]] = {}  # by the id that the drawn thing gets
    buffer = io.BytesIO()

    def tag(artist: Any, tip: str, **about: str) -> None:
        artist.set_gid(f"t{len(known)}")
        known[artist.get_gid()] = tip, about

    with rc_context({"svg.hashsalt": key}):
        figure = new_figure(panel.size)
        draw_panel(panel, figure.subplots(), tag)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for child in [child for child in root if child.tag.endswith("metadata")]:
        root.remove(child)
    for element in root.iter():
        _rename(element, key, known)
    for name in ("width", "height"):  # its size is the page's affair
        root.attrib.pop(name, None)
    words = ". ".join(filter(None, [panel.title.replace("\n", ", "), panel.summary]))  # for those who do not see it
    root.attrib |= {"role": "img", "id": key, "aria-label": words or "chart"}
    markup = Markup(ElementTree.tostring(root, encoding="unicode"))
    return {"svg": markup, "width": round(panel.size[0] * 96), "about": panel.about}


def _rename(element: ElementTree.Element, key: str, known: Mapping[str, tuple[str, dict[str, str]]]) -> None:
    """Ids of this panel alone, colours by role, two decimals, and the text of a tag."""
    for name, value in list(element.attrib.items()):
        if name == "id":
            if value in known:
                _explain(element, *known[value])
            element.set(name, f"{key}-{value}")
        elif name == "d":
            element.set(name, LONG.sub(r"\1", value))
        elif name.endswith("}href"):
            element.set(name, f"#{key}-{value[1:]}" if value.startswith("#") else value)
        else:
            value = value.replace("url(#", f"url(#{key}-")
            element.set(name, COLOUR.sub(lambda match: f"var(--{ROLES[match.group()]})", value))


def _explain(element: ElementTree.Element, tip: str, about: Mapping[str, str]) -> None:
    for name, value in about.items():
        element.set(f"data-{name}", value)
    if tip:
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = tip
        element.insert(0, title)
