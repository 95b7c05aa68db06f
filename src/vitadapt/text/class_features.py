"""What a run needs of language: the text features of its classes, and what it should say about how they were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..data.checks.dataset import Finding, finding
from ..data.datasets import names_of, resolve
from ..nn.backbone import Backbone
from ..nn.class_texts import ClassTexts
from ..nn.head import TextStart
from ..nn.setting import Setting
from ..utils.errors import WeightsError
from . import Prompts, TextTower, class_texts, load_text_tower, overlong, prompts_of, text_matrix
from .prompts import prompt_sets
from .tokenisers import CONTEXT, any_tokeniser

SHOWN = 60  # characters of a text that a note repeats


def text_start(
    name: str, backbone: Backbone, texts: list[list[str]], cache: Path | None, setting: Setting
) -> tuple[TextStart, list[str]]:
    """The start of a head from the `sentences` about each class, and notes for the record.

    name: of `backbone`, whose text tower reads them. Raises NotApplicable when it has none, WeightsError when the
    tower cannot be had.
    """
    tower = cached_text_tower(name, setting.device, backbone)
    matrix = text_matrix(tower, texts, cache, setting.progress)
    every = [text for part in texts for text in part]
    read = ClassTexts(tower.network, tower.tokenise(every).to(setting.device), [len(part) for part in texts])
    return TextStart(matrix, tower.logit_scale, read), [*_same(texts), *_notes(tower, every)]


def sentences(spec: str, classes: Sequence[str], prompts: Prompts | None) -> list[list[str]]:
    """The sentences about each class of the dataset `spec`. Raises ConfigError when the prompts do not fit them."""
    return class_texts(_known_as(spec), classes, prompts, names_of(spec))


def _known_as(spec: str) -> str:
    """The name under which there are built-in prompts; empty for data of one's own."""
    row = resolve(spec)
    return next((name for name in (row.name, row.edition_of) if name in prompt_sets()), row.name) if row else ""


def prompt_findings(spec: str, classes: Sequence[str], prompts: Prompts | None = None) -> list[Finding]:
    """Findings about the sentences for `classes`: which are the same, and which are longer than a CLIP reads.

    Without a tokeniser that is a note. Raises ConfigError when the prompts do not fit the classes.
    """
    texts = sentences(spec, classes, prompts)
    same = [Finding("warning", "prompts", text) for text in _same(texts)]
    try:
        tokeniser = any_tokeniser()
    except WeightsError as error:
        return [*same, Finding("note", "prompts", f"the tokens of the prompts were not counted: {error}")]
    _, templates = prompts_of(_known_as(spec), classes, prompts)
    long = []
    for name, sentences_of_class in zip(classes, texts, strict=True):
        for i, length in enumerate(tokeniser.lengths(sentences_of_class)):
            if length > CONTEXT:
                template = templates[i % len(templates)]  # every item of knowledge meets every template
                long.append(f"{name!r} in {template[:SHOWN]!r} ({length} tokens)")
    what = f"{len(long)} of {sum(map(len, texts))} texts have more than {CONTEXT} tokens and will be cut"
    return same + ([finding("warning", "prompts", what, long)] if long else [])


@lru_cache(maxsize=1)
def cached_text_tower(name: str, device: str, backbone: Backbone) -> TextTower:
    """The text tower of a backbone; the last one is kept, and nothing ever writes into it."""
    return load_text_tower(name, backbone, device)


def _same(texts: list[list[str]]) -> list[str]:
    """A note about classes with the same sentences, if there are any."""
    counts = Counter(tuple(part) for part in texts)
    shared = [part for part, count in counts.items() if count > 1]
    if not shared:
        return []
    classes = sum(counts[part] for part in shared)
    return [f"{classes} classes share their texts with another, and no text tells them apart: {shared[0][0][:SHOWN]!r}"]


def _notes(tower: TextTower, texts: list[str]) -> list[str]:
    cut = overlong(tower, texts)
    if not cut:
        return []
    return [f"{len(cut)} of {len(texts)} texts have more than {tower.context} tokens and were cut: {cut[0][:SHOWN]!r}"]
