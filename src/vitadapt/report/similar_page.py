"""A page of the images that are most similar to one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from ..data.examples import ImageRef
from .figure import clean
from .html_page import render
from .thumbnail import thumbnail


def similar_page(picture: ImageRef, found: Sequence[tuple[ImageRef, float, str]], network: str) -> str:
    """The page as text. found: (image, cosine, label) of each. Raises ConfigError when jinja2 is missing."""
    values = {
        "title": f"Similar to {clean(PurePath(picture.name).name, 60)}",
        "picture": _shot(picture, "", ""),
        "found": [_shot(ref, f"{similarity:.3f}", label) for ref, similarity, label in found],
        "network": clean(network, 200),
    }
    return render("similar.html", ["page.css", "model.css"], ["common.js"], values)


def _shot(ref: ImageRef, similarity: str, label: str) -> dict[str, str]:
    name = "/".join(PurePath(ref.name).parts[-2:])
    texts = {"file": clean(name, 40), "full": clean(name, 300), "label": clean(label, 60), "similarity": similarity}
    return {"source": thumbnail(ref), **texts}
