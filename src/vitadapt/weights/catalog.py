"""What backbones there are, as data: read without importing torch, so that listing them is instant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import util
from typing import TYPE_CHECKING, Any

from ..utils.files import shipped_table
from ..utils.registry import unknown

if TYPE_CHECKING:  # it would import torch
    from ..nn.backbone import Interpolation

PERMISSIVE = ("Apache-2.0", "MIT")
"""Licences that allow every use, commercial ones included."""


@dataclass(frozen=True)
class BackboneRow:
    """One row of backbones.toml; `parameters` in millions."""

    name: str
    sources: tuple[str, ...]
    image_size: int
    licence: str
    description: str
    parameters: float
    shorter_side: int = 0
    squash: bool = False
    interpolation: Interpolation = "bicubic"
    pooling: str | None = None
    gated: bool = False
    normalise: str = "imagenet"
    text: bool = False
    also: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where it comes from: the general name that is tried first."""
        return self.sources[0]

    @property
    def resize(self) -> float:
        """Pixels of the shorter side (`squash`: of both) before the crop, relative to the image size."""
        return (self.shorter_side or self.image_size) / self.image_size

    @property
    def permissive(self) -> bool:
        return self.licence.startswith(PERMISSIVE)

    def is_called(self, text: str) -> bool:
        """Is `text` its name here, or its whole name elsewhere, without what stands behind a dot or a slash?"""
        elsewhere = [source.partition(":")[2] for source in (*self.sources, *self.also)]
        stems = [stem for name in elsewhere for stem in (name, name.partition(".")[0], name.rpartition("/")[2])]
        return _plain(text) in map(_plain, (self.name, *stems))

    def is_like(self, text: str) -> bool:
        """Does a name of it, here or elsewhere, contain `text`? Hyphens, dots and underscores are all one."""
        return any(_plain(text) in _plain(name) for name in (self.name, *self.sources, *self.also))


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


GENERAL_FORMS = {
    "timm:NAME": "any timm model; a plain ViT becomes adaptable everywhere, other networks give features",
    "open_clip:ARCH/TAG": "the image tower of an open_clip model, e.g. open_clip:ViT-B-16/laion2b_s34b_b88k",
    "hf:REPO": "a Hugging Face repository (or folder) with a CLIP, ViT or DINOv2 model",
    "file:PATH": "a local checkpoint, or a folder with one; file:PATH?like=ARCH tells what its tensors do not, "
    "?weights=ema or raw which of two sets",
    "random:ARCH": "random weights, always the same: random:tiny, random:clip-vit-b32@7, random:timm/resnet18",
    "channels:K/NAME": "a ViT of this list for images of K channels (TIFF), e.g. channels:5/dinov2-s14-offline",
}
"""Names that are not rows, for help texts."""


def _table(file: str) -> dict[str, dict[str, Any]]:
    return shipped_table("vitadapt.weights", file)


@cache
def backbones() -> dict[str, BackboneRow]:
    """Name -> row, in the order of the file."""
    rows = {name: dict(row) for name, row in _table("backbones.toml").items()}
    return {name: BackboneRow(name=name, sources=tuple(row.pop("from")), **row) for name, row in rows.items()}


def list_backbones(
    like: str = "", max_params: float | None = None, licence: str = "", text: bool = False
) -> list[dict[str, str]]:
    """What is known of every named backbone, then, when nothing is asked for, of the general forms of a name.

    like: a part of its name here, in timm, open_clip or at the Hugging Face hub. max_params: millions. licence: a part
    of it, or "permissive". text: those with a text tower alone.
    """
    everything = list(backbones().values())
    rows = [row for row in everything if row.is_called(like)] or [row for row in everything if row.is_like(like)]
    if max_params is not None:
        rows = [row for row in rows if row.parameters <= max_params]
    if licence:
        rows = [row for row in rows if row.permissive or licence != "permissive"]
        rows = [row for row in rows if licence == "permissive" or licence.lower() in row.licence.lower()]
    named = [_listed(row) for row in rows if row.text or not text]
    if like or max_params is not None or licence or text:
        return named
    blank = dict.fromkeys(named[0], "")
    return named + [{**blank, "name": form, "description": what} for form, what in GENERAL_FORMS.items()]


def general_names(like: str) -> list[dict[str, str]]:
    """What timm and open_clip, where they are installed, have under names that contain `like`, as general names."""
    found = []
    if util.find_spec("timm") is not None:
        import timm

        found += [f"timm:{name}" for name in timm.list_pretrained() if _plain(like) in _plain(name)]
    if util.find_spec("open_clip") is not None:
        import open_clip

        pairs = open_clip.list_pretrained(as_str=False)
        found += [f"open_clip:{arch}/{tag}" for arch, tag in pairs if _plain(like) in _plain(f"{arch}/{tag}")]
    return [{"name": name, "description": "no named row; its model card tells the licence"} for name in found]


def _listed(row: BackboneRow) -> dict[str, str]:
    return {
        "name": row.name,
        "source": row.source,
        "licence": row.licence + (" (gated)" if row.gated else ""),
        "parameters": f"{row.parameters:g}M",
        "pixels": str(row.image_size),
        "resize": _way(row),
        "normalise": row.normalise,
        "text": "yes" if row.text else "",
        "description": row.description,
    }


def _way(row: BackboneRow) -> str:
    """How its images are resized, shortly: 256 to 224, squash bilinear."""
    side = f"{row.shorter_side} to {row.image_size}" if row.shorter_side else ""
    filter_ = row.interpolation if row.interpolation != "bicubic" else ""
    return " ".join(filter(None, ("squash" if row.squash else "", side, filter_)))


def names_elsewhere(name: str) -> list[str]:
    """The backbones that another library calls `name`: timm, open_clip or the Hugging Face hub."""
    return [row["name"] for row in list_backbones(name)] if len(_plain(name)) > 3 else []


def architectures() -> dict[str, dict[str, Any]]:
    """Name -> fields of the `ViTConfig` of every architecture that `random:` knows."""
    return _table("architectures.toml")


def architecture(name: str) -> dict[str, Any]:
    """The fields of one architecture. Raises UnknownName."""
    known = architectures()
    if name not in known:
        raise unknown("architecture", name, known, "or use random:timm/NAME")
    return known[name]
