"""From the name of a backbone to the text tower that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..nn.backbone import Backbone
from ..nn.vit import Activation, ViT
from ..utils.errors import NotApplicable, WeightsError
from ..utils.files import shipped_table
from ..utils.optional import MissingPackage
from ..utils.registry import Registry
from ..weights.catalog import backbones
from ..weights.checkpoint_files import load_state_file, read_json
from ..weights.hint_query import Which, weights_of
from ..weights.hints import refuse_unknown
from ..weights.sources import hub_folder, open_clip_checkpoint, split_query, split_seed
from . import hugging_face_tower, open_clip_tower
from .tower import TextConfig, TextTower, check_pair

Source = Callable[[str, Backbone], TextTower]
TEXT_SOURCES: Registry[Source] = Registry("text tower source")
"""Scheme -> loader, given what stands behind the colon and the image tower."""


def load_text_tower(name: str, backbone: Backbone, device: str = "cpu") -> TextTower:
    """The text tower of the model that `backbone` (loaded under `name`) is the image tower of.

    Raises NotApplicable when that model has none, and WeightsError when it cannot be had or the two do not fit.
    """
    row = backbones().get(name)
    missing = []
    for source in row.sources if row else (name,):
        scheme, _, rest = source.partition(":")
        if scheme not in TEXT_SOURCES:
            raise no_text_tower(name)
        try:
            tower = TEXT_SOURCES[scheme](rest, backbone)
        except MissingPackage as error:  # the image tower came from the next source, too
            missing.append(str(error))
            continue
        check_pair(tower, backbone, name)
        return tower.to(device)
    raise WeightsError(f"{name}: {'; or '.join(missing)}")


def no_text_tower(name: str) -> NotApplicable:
    """The error for a backbone without language."""
    return NotApplicable(
        f"{name} has no text tower to make a head of class names from; choose a CLIP backbone (clip-vit-b32, "
        "open_clip:ARCH/TAG, hf:REPO, file:PATH), or a method that trains its head, with --head zero"
    )


@TEXT_SOURCES.register("open_clip")
def _open_clip(rest: str, backbone: Backbone) -> TextTower:
    model, _, path = open_clip_checkpoint(rest)
    return _of_open_clip(model, path, f"open_clip:{rest}")


@TEXT_SOURCES.register("hf")
def _hugging_face(repository: str, backbone: Backbone) -> TextTower:
    return _of_path(hub_folder(repository, *hugging_face_tower.TOKENISER_FILES), backbone, f"hf:{repository}")


@TEXT_SOURCES.register("file")
def _file(rest: str, backbone: Backbone) -> TextTower:
    path, query = split_query(rest)
    return _of_path(path, backbone, f"file:{rest}", weights_of(query))


@TEXT_SOURCES.register("random")
def _random(rest: str, backbone: Backbone) -> TextTower:
    """A random tower as wide as the image tower needs it; its weights depend on the seed alone."""
    name, seed = split_seed(rest)
    if name not in architectures():
        raise no_text_tower(f"random:{rest}")
    features, activation = backbone.features, _activation(backbone)
    config = TextConfig(**architectures()[name], features=features, activation=activation)
    return open_clip_tower.random_tower(config, seed)


def architectures() -> dict[str, dict[str, int]]:
    """Name of an image architecture -> the fields of `TextConfig` of the tower beside it."""
    return shipped_table("vitadapt.text", "architectures.toml")


def _of_path(path: Path, backbone: Backbone, where: str, which: Which | None = None) -> TextTower:
    """A file or folder in any of the known layouts."""
    folder = path if path.is_dir() else path.parent
    state = load_state_file(path, which)
    if hugging_face_tower.matches(state):
        if not (folder / "config.json").is_file():
            raise WeightsError(f"{where}: config.json and the tokeniser's files must lie beside the weights")
        return hugging_face_tower.from_folder(folder, read_json(folder / "config.json"), state)
    if not open_clip_tower.matches(state):
        raise no_text_tower(where)
    if path.is_dir() and (folder / "open_clip_config.json").is_file():
        return _of_open_clip(read_json(folder / "open_clip_config.json")["model_cfg"], path, where)
    return open_clip_tower.from_state(state, _activation(backbone), where)


def _of_open_clip(model: dict[str, Any], path: Path, where: str) -> TextTower:
    try:
        refuse_unknown(model["text_cfg"], "open_clip_text", "open_clip's text_cfg")
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}; or use --head zero") from error
    activation: Activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    return open_clip_tower.from_state(load_state_file(path), activation, where, model["text_cfg"].get("heads"))


def _activation(backbone: Backbone) -> Activation:
    """A bare file does not name the activation; the one that was given for the image tower counts for both towers."""
    if isinstance(backbone, ViT):
        return backbone.config.activation
    raise WeightsError("a text tower needs a vision transformer beside it, and this backbone is another network")
