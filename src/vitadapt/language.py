"""What a run needs of language: the text features of its classes, and what it should say about how they were made."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import nn

from .config import RunConfig
from .data import Dataset
from .data.catalog import names_of, resolve
from .errors import ConfigError
from .head import TextStart
from .text import Prompts, TextTower, class_texts, load_text_tower, overlong, text_matrix
from .train import Setting

SHOWN = 60  # characters of a text that a note repeats


def text_start(
    config: RunConfig, backbone: nn.Module, dataset: Dataset, cache: Path | None, setting: Setting
) -> tuple[TextStart, list[str]]:
    """The start of a head from the classes' names, and notes for the record.

    Raises NotApplicable when the backbone has no text tower, WeightsError when it cannot be had, ConfigError when the
    prompts do not fit the classes.
    """
    tower = cached_text_tower(config.backbone, setting.device, backbone)
    texts = sentences(config.dataset, dataset, config.prompts)
    matrix = text_matrix(tower, texts, cache, setting.progress)
    return TextStart(matrix, tower.logit_scale), _notes(tower, [text for part in texts for text in part])


def sentences(spec: str, dataset: Dataset, prompts: Prompts | None) -> list[list[str]]:
    """The sentences about each class of `dataset`, opened as `spec`. Raises ConfigError when the prompts do not fit."""
    row = resolve(spec)
    return class_texts(row.name if row else "", dataset.classes, prompts, names_of(spec))


@lru_cache(maxsize=1)
def cached_text_tower(name: str, device: str, backbone: nn.Module) -> TextTower:
    """The text tower of a backbone; the last one is kept, and nothing ever writes into it."""
    return load_text_tower(name, backbone, device)


def _notes(tower: TextTower, texts: list[str]) -> list[str]:
    cut = overlong(tower, texts)
    if not cut:
        return []
    return [f"{len(cut)} of {len(texts)} texts have more than {tower.context} tokens and were cut: {cut[0][:SHOWN]!r}"]


def check_prompts(configs: list[RunConfig]) -> None:
    """Raises ConfigError when prompts were given and no cell makes a head of them."""
    if configs and not any(config.head_spec.start == "text" for config in configs):
        raise ConfigError("class names, templates and knowledge are for heads made of text; add --head text")
