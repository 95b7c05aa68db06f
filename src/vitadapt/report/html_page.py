"""What all pages have in common: one file that asks for nothing, escaped names, pictures as markup, one script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from ..utils.errors import ConfigError
from .figure import MOST_PANELS, SERIES, Picture
from .inline_svg import inline_svg
from .plot import drawing

DASHES = ("", "5 2", "1.5 1.5", "7 2 1.5 2")


def render(template: str, styles: Sequence[str], scripts: Sequence[str], values: Mapping[str, Any]) -> str:
    """The page made of files beside this one; its script is allowed by its digest alone.

    Raises ConfigError when jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ConfigError('the report needs jinja2: pip install "vitadapt[report]"') from error
    script = "".join(map(_part, scripts))
    environment = Environment(
        loader=PackageLoader("vitadapt.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style="".join(map(_part, styles)),
        **values,
    )


def _part(name: str) -> str:
    return (resources.files("vitadapt.report") / "page" / name).read_text(encoding="utf-8")


def drawn(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Every picture that has something to show, its panels as markup. Raises ConfigError without matplotlib."""
    made = []
    with drawing():
        for picture in pictures:
            panels = [_markup(panel, f"{picture.name}{i}") for i, panel in enumerate(picture.panels[:MOST_PANELS])]
            if panels:
                made.append({**_words(picture), "panels": panels, "legend": _legend(picture)})
    return made


def _markup(panel: Any, key: str) -> dict[str, Any]:
    from markupsafe import Markup

    markup, width = inline_svg(panel, key)
    return {"svg": Markup(markup), "width": width, "about": panel.about}


def _words(picture: Picture) -> dict[str, Any]:
    left_out = len(picture.panels) - MOST_PANELS
    more = f" {left_out} further panels are left out; choose with --only." if left_out > 0 else ""
    return {"name": picture.name, "title": picture.title, "caption": picture.caption + more}


def _legend(picture: Picture) -> list[tuple[str, int, str]]:
    """(name, number of its colour, dashes) of every series."""
    count = len(SERIES)
    return [(name, i % count, DASHES[i // count % len(DASHES)]) for i, name in enumerate(picture.legend)]
