"""Pages of pictures with a line below each: similar to one, fitting a sentence, by suggested class, to label next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from ..data.examples import ImageRef
from .figure import clean
from .html_page import render
from .thumbnail import thumbnail

MOST = 24  # pictures of one class
Shot = tuple[ImageRef, str, str]  # a picture, its number, its label


def similar_page(picture: ImageRef, found: Sequence[Shot], network: str) -> str:
    """The page as text. found: (image, cosine, label) of each. Raises MissingPackage without jinja2."""
    caption = f"The number is the cosine of the features of both pictures, made by {clean(network, 200)}; 1 means the "
    title = f"Similar to {clean(PurePath(picture.name).name, 60)}"
    return _page("similar", title, [f"{caption}same direction."], [("The most similar pictures", found)], picture)


def search_page(sentence: str, found: Sequence[Shot], network: str) -> str:
    """The page as text. found: (image, cosine, label) of each. Raises MissingPackage without jinja2."""
    caption = "The number is the cosine between the features of the picture and those of the sentence, made by "
    caption += f"{clean(network, 200)}."
    return _page("search", clean(sentence, 200), [caption], [("The pictures that fit best", found)])


def labels_page(classes: Sequence[str], found: Sequence[Shot], captions: Sequence[str]) -> str:
    """The page as text: pictures by suggested class. found: (image, probability, class) of each, the surest first.

    Raises MissingPackage without jinja2.
    """
    own = {name: [shot for shot in found if shot[2] == name] for name in classes}
    more = {name: f", the {MOST} surest" if len(shots) > MOST else "" for name, shots in own.items()}
    sections = [(f"{clean(name, 60)} ({len(own[name])}{more[name]})", own[name][:MOST]) for name in classes]
    return _page("zero-shot", "Suggested labels", captions, sections)


def suggestion_page(found: Sequence[Shot], model: str, rule: str) -> str:
    """The page as text. found: (image, doubt, most probable class) of each. Raises MissingPackage without jinja2."""
    caption = (
        f"The most wanted first, by the rule {clean(rule, 20)}. Below each picture: what {clean(model, 100)} takes "
    )
    caption += "it for, and how unsure it is (0 to 1)."
    return _page("suggest", "What to label next", [caption], [(f"{len(found)} pictures", found)])


def _page(
    kind: str,
    title: str,
    captions: Sequence[str],
    sections: Sequence[tuple[str, Sequence[Shot]]],
    picture: ImageRef | None = None,
) -> str:
    values = {
        "kind": kind,
        "title": title,
        "captions": list(captions),
        "picture": picture and _shot(picture, "", ""),
        "sections": [{"title": heading, "shots": [_shot(*shot) for shot in shots]} for heading, shots in sections],
    }
    return render("gallery.html", ["page.css", "model.css"], ["common.js"], values)


def _shot(ref: ImageRef, number: str, label: str) -> dict[str, str]:
    name = "/".join(PurePath(ref.name).parts[-2:])
    texts = {"file": clean(name, 40), "full": clean(name, 300), "label": clean(label, 60), "number": number}
    return {"source": thumbnail(ref), **texts}
